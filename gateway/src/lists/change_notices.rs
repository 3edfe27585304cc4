//! Tells readers when the lists have changed. One task reads the version for all of them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::sleep,
};

use super::DependsOn;
use crate::store::version::{Version, Versions};

/// Time between two readings of the version.
const EVERY: Duration = Duration::from_millis(500);
/// Readers may take this part of the connections, so that the rest stays for updates and lists.
const PART_OF_CONNECTIONS: usize = 4;

/// The version of the lists, for readers that wait for the next one.
pub(crate) struct Live {
    versions: Versions,
    places: Arc<Semaphore>,
    /// None while nobody waits.
    last: watch::Sender<Option<Version>>,
    joined: Notify,
}

/// A reader that waits for changes.
pub(crate) struct LiveReader {
    versions: watch::Receiver<Option<Version>>,
    _place: OwnedSemaphorePermit,
}

impl Live {
    pub(crate) fn new(versions: Versions, connections: usize) -> Self {
        let places = Arc::new(Semaphore::new((connections / PART_OF_CONNECTIONS).max(1)));
        Self { versions, places, last: watch::Sender::default(), joined: Notify::new() }
    }

    /// A reader; none if there are too many.
    pub(crate) fn join(&self) -> Option<LiveReader> {
        let _place = self.places.clone().try_acquire_owned().ok()?;
        let mut versions = self.last.subscribe();
        // The present version is news to it.
        versions.mark_changed();
        self.joined.notify_one();
        Some(LiveReader { versions, _place })
    }

    /// Reads the version while somebody waits for it.
    pub(crate) async fn watch(&self) {
        loop {
            if self.last.receiver_count() == 0 {
                // A version from before would be old news for the next reader.
                self.last.send_replace(None);
                self.joined.notified().await;
                continue;
            }
            // While the database does not answer, there is no news. Its failure is logged by the reading.
            if let Ok(version) = self.versions.now(DependsOn::Windows).await {
                let version = Some(version);
                self.last.send_if_modified(|last| {
                    let is_news = *last != version;
                    *last = version;
                    is_news
                });
            }
            sleep(EVERY).await;
        }
    }
}

impl LiveReader {
    /// The version as soon as it is known, and then the next one; only the newest if several were missed. None at the
    /// end of the gateway.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            self.versions.changed().await.ok()?;
            if let Some(version) = *self.versions.borrow_and_update() {
                return Some(version.text());
            }
        }
    }
}
