//! How many documents are written at once.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::writer::ListError;

/// The turns to write documents. The rest of the connections stays for lists; and some turns stay for documents that
/// all readers have in common, whatever others ask for.
pub(super) struct Turns {
    all: Semaphore,
    of_many: Semaphore,
}

impl Turns {
    /// With so many connections for lists and documents.
    pub(super) fn new(connections: u32) -> Self {
        let half = |count: usize| (count / 2).max(1);
        let all = half(connections as usize);
        Self { all: Semaphore::new(all), of_many: Semaphore::new(half(all)) }
    }

    /// Waits for a turn. `is_one_of_many`: clients can ask for any number of such documents.
    pub(super) async fn next(
        &self,
        is_one_of_many: bool,
    ) -> Result<(Option<SemaphorePermit<'_>>, SemaphorePermit<'_>), ListError> {
        // They are never closed.
        let closed = |_| ListError::Unfinished;
        let of_many =
            if is_one_of_many { Some(self.of_many.acquire().await.map_err(closed)?) } else { None };
        Ok((of_many, self.all.acquire().await.map_err(closed)?))
    }
}
