//! How many updates one token may send.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Tokens that are told apart. Only who has our key can make more than are in use.
const KEPT: usize = 10_000;
/// What a token that was quiet may send at once, as time.
const BURST: Duration = Duration::from_secs(1);

/// A limit for each token, kept by this gateway alone.
pub(crate) struct RateLimit {
    /// The time that one update takes up.
    interval: Duration,
    /// Up to when each token has taken its time up, by its digest.
    taken: Mutex<HashMap<[u8; 32], Instant>>,
}

impl RateLimit {
    pub(crate) fn new(per_second: NonZeroU32) -> Self {
        Self { interval: BURST / per_second.get(), taken: Mutex::default() }
    }

    /// Takes one update of this token, unless it has sent as many as it may; then it may send the
    /// next within a second.
    pub(crate) fn take(&self, token: &str, now: Instant) -> bool {
        let key = Sha256::digest(token.as_bytes()).into();
        let mut taken = self.taken.lock();
        if taken.len() >= KEPT && !taken.contains_key(&key) {
            // What has passed is as good as never taken.
            taken.retain(|_, until| *until > now);
            if taken.len() >= KEPT {
                taken.clear();
            }
        }
        let until = taken.entry(key).or_insert(now);
        let next = (*until).max(now) + self.interval;
        let may = next <= now + BURST;
        if may {
            *until = next;
        }
        may
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
        // Quiet for longer, it has no more than a second's worth.
        assert_eq!((0..10).filter(|_| limit.take("a", at(60_000))).count(), 4);
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
        // One that is known needs no room.
        assert!(!limit.take("0", now));
        assert_eq!(kept(), KEPT);
        // Those that were quiet make room first.
        assert!(limit.take("0", now + BURST));
        assert!(limit.take("more", now + BURST));
        assert_eq!(kept(), 2);
    }
}
