//! The memory budget of all lists.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::cache::Cache;
use crate::http::error::ApiError;

/// Maximum read-ahead of one streamed list.
const MAX_AHEAD_BYTES: usize = 32 * 1024 * 1024;
/// Time that a list waits for memory.
const LIMIT: Duration = Duration::from_secs(2);

/// Reserved memory; released when dropped.
pub(super) type Reservation = OwnedSemaphorePermit;

/// The memory for lists, including those being written and those being read.
pub(crate) struct Budget {
    /// One permit for each KiB.
    kib: Arc<Semaphore>,
    /// Read-ahead of one streamed list, in bytes.
    ahead: usize,
}

impl Budget {
    /// A budget of this many bytes. Lists streamed at once take at most half of it.
    pub(crate) fn new(bytes: usize, streamed: usize) -> Self {
        let ahead = (bytes / 2 / streamed.max(1)).min(MAX_AHEAD_BYTES);
        Self { kib: Arc::new(Semaphore::new(bytes / 1024)), ahead }
    }

    /// Read-ahead of one streamed list, in bytes.
    pub(super) const fn ahead(&self) -> usize {
        self.ahead
    }

    /// Reserves memory. If needed, lists that `cache` keeps are evicted first.
    pub(super) async fn reserve(
        &self,
        bytes: usize,
        cache: &Cache,
    ) -> Result<Reservation, ApiError> {
        let kib = u32::try_from(kib(bytes)).unwrap_or(u32::MAX);
        loop {
            if let Ok(share) = self.kib.clone().try_acquire_many_owned(kib) {
                return Ok(share);
            }
            if !cache.forget_one() {
                break;
            }
        }
        let share = timeout(LIMIT, self.kib.clone().acquire_many_owned(kib)).await;
        share
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| ApiError::unavailable("Too many lists are being read; try again"))
    }
}

/// Releases memory beyond this many bytes.
pub(super) fn keep(share: &mut Reservation, bytes: usize) {
    drop(share.split(share.num_permits().saturating_sub(kib(bytes))));
}

const fn kib(bytes: usize) -> usize {
    bytes / 1024 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[tokio::test]
    async fn no_more_is_set_aside_than_there_is() {
        let (budget, cache) = (Budget::new(10 * MIB, 1), Cache::default());
        let mut first = budget.reserve(8 * MIB, &cache).await.unwrap();
        budget.reserve(8 * MIB, &cache).await.unwrap_err();
        keep(&mut first, MIB);
        let second = budget.reserve(8 * MIB, &cache).await.unwrap();
        budget.reserve(8 * MIB, &cache).await.unwrap_err();
        drop((first, second));
        assert_eq!(budget.kib.available_permits(), 10 * 1024);
    }

    #[test]
    fn streamed_lists_take_no_more_than_half() {
        for (streamed, ahead) in [(1, 32 * MIB), (4, 32 * MIB), (8, 16 * MIB), (128, MIB)] {
            assert_eq!(Budget::new(256 * MIB, streamed).ahead(), ahead, "{streamed}");
        }
    }
}
