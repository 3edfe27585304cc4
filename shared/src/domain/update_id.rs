//! The ids of status updates.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::{NoContext, Uuid};

use crate::domain::timestamp::Timestamp;

/// The id of a status update, a UUIDv7 that its gateway assigned.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct UpdateId(pub Uuid);

impl UpdateId {
    /// A new id with this instant.
    ///
    /// Ids of the same millisecond are unordered. A generator that orders them never goes back: after one
    /// reading of a clock that was weeks ahead, all of its later ids would be ahead, too.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the only place that creates ids; the time is an argument"
    )]
    pub fn at(instant: Timestamp) -> Self {
        let micros = u64::try_from(instant.as_micros()).unwrap_or_default();
        let nanos = (micros % 1_000_000) as u32 * 1_000;
        Self(Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, micros / 1_000_000, nanos)))
    }

    /// The millisecond in which the id was created; none if it is not a UUIDv7.
    #[must_use]
    pub fn made_at(self) -> Option<Timestamp> {
        if self.0.get_version_num() != 7 {
            return None;
        }
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
        Timestamp::from_micros(micros + i64::from(nanos / 1_000)).ok()
    }
}

impl fmt::Display for UpdateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_millisecond_whatever_came_before() {
        let at = |micros| Timestamp::from_micros(micros).expect("in range");
        for micros in [1_900_000_000_123_456, 1_700_000_000_000_999, 0] {
            let made = UpdateId::at(at(micros));
            assert_eq!(made.made_at(), Some(at(micros / 1_000 * 1_000)));
            assert_ne!(made, UpdateId::at(at(micros)));
        }
        assert_eq!(UpdateId::at(at(-1)).made_at(), Some(at(0)));
    }
}
