//! How many updates one token may send.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Maximum number of tokens with a limit of their own. Only the holder of our key can create more than
/// are in use.
const KEPT: usize = 10_000;
/// The burst of an idle token, as the time that its updates take up.
const BURST: Duration = Duration::from_secs(1);

/// A limit for each token, kept by this gateway alone.
pub(crate) struct RateLimit {
    /// The time that one update takes up.
    interval: Duration,
    /// The time up to which each token has used its rate, by digest.
    taken: Mutex<HashMap<[u8; 32], Instant>>,
}

impl RateLimit {
    pub(crate) fn new(per_second: NonZeroU32) -> Self {
        Self { interval: BURST / per_second.get(), taken: Mutex::default() }
    }

    /// Counts one update of this token, unless the limit is reached; the token can send the next one
    /// within a second then.
    pub(crate) fn take(&self, token: &str, now: Instant) -> bool {
        self.take_together(token, 1, now).is_ok()
    }

    /// Counts updates that must be taken together, unless the limit is reached. If they are more than a second's
    /// worth, the token can send the next one when their time has passed: otherwise they could never be taken.
    ///
    /// # Errors
    /// If the limit is reached: when the token can send again.
    pub(crate) fn take_together(
        &self,
        token: &str,
        count: u32,
        now: Instant,
    ) -> Result<(), Instant> {
        let key = Sha256::digest(token.as_bytes()).into();
        let mut taken = self.taken.lock();
        if taken.len() >= KEPT && !taken.contains_key(&key) {
            // Use of a time that has passed no longer counts.
            taken.retain(|_, until| *until > now);
            if taken.len() >= KEPT {
                taken.clear();
            }
        }
        let until = taken.entry(key).or_insert(now);
        let begin = (*until).max(now);
        if begin + self.interval > now + BURST {
            return Err(begin + self.interval - BURST);
        }
        *until = begin + self.interval * count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: u32) -> RateLimit {
        RateLimit::new(NonZeroU32::new(per_second).expect("not 0"))
    }

    #[test]
    fn a_token_may_send_a_seconds_worth_at_once_and_then_one_for_each_interval() {
        let (limit, begin) = (limit(4), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        let sent = (0..10).filter(|_| limit.take("a", begin)).count();
        assert_eq!(sent, 4);
        for (millis, may) in [(249, false), (250, true), (250, false), (499, false), (500, true)] {
            assert_eq!(limit.take("a", at(millis)), may, "{millis}");
        }
        // However long it was idle, it may send the updates of one second at once.
        assert_eq!((0..10).filter(|_| limit.take("a", at(60_000))).count(), 4);
    }

    #[test]
    fn what_is_more_than_a_seconds_worth_is_taken_together_and_paid_off() {
        let (limit, begin) = (limit(10), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        assert_eq!(limit.take_together("a", 25, begin), Ok(()));
        let then = Err(at(1_600));
        for (millis, taken) in [(0, then), (1_599, then), (1_600, Ok(())), (1_600, Err(at(1_700)))]
        {
            assert_eq!(limit.take_together("a", 1, at(millis)), taken, "{millis}");
        }
        // One that may still be sent is enough for the next ones.
        assert_eq!([9, 9].map(|count| limit.take_together("b", count, begin)), [Ok(()); 2]);
        assert!(!limit.take("b", begin));
        assert_eq!(limit.take_together("c", 0, begin), Ok(()));
    }

    #[test]
    fn tokens_do_not_share() {
        let (limit, now) = (limit(1), Instant::now());
        assert!(limit.take("a", now) && !limit.take("a", now));
        assert!(limit.take("b", now) && !limit.take("b", now));
    }

    #[test]
    fn so_many_tokens_are_kept_and_no_more() {
        let (limit, now) = (limit(1), Instant::now());
        let kept = || limit.taken.lock().len();
        for number in 0..KEPT {
            assert!(limit.take(&number.to_string(), now));
        }
        assert_eq!(kept(), KEPT);
        // A known token needs no space.
        assert!(!limit.take("0", now));
        assert_eq!(kept(), KEPT);
        // Idle tokens are removed first.
        assert!(limit.take("0", now + BURST));
        assert!(limit.take("more", now + BURST));
        assert_eq!(kept(), 2);
    }
}
