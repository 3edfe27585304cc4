//! The gateway's copy of the catalogue, kept up to date without a restart.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use shared::{
    component::{self, Attribute, Component, NoComponent},
    metrics::{COMMON, Server},
    telemetry::chain,
    timestamp::Timestamp,
};
use sqlx::PgPool;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::clock::DatabaseClock;

/// How often its version is compared with the database's.
const REFRESH_EVERY: Duration = Duration::from_millis(500);
/// The least time between two readings for requests that missed a component.
const MISS_PAUSE: Duration = Duration::from_millis(100);
/// Time for one reading.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The components by name, in order of their ids.
pub(crate) struct Catalogue {
    pub(crate) version: i64,
    by_name: HashMap<String, Vec<Component>>,
}

impl Catalogue {
    fn new(version: i64, components: Vec<Component>) -> Self {
        let mut by_name: HashMap<String, Vec<Component>> = HashMap::new();
        for component in components {
            by_name.entry(component.name.clone()).or_default().push(component);
        }
        Self { version, by_name }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.values().map(Vec::len).sum()
    }

    /// The component with this name and exactly these attributes, the lowest id of several;
    /// failing that, the only one whose attributes contain these.
    pub(crate) fn find(
        &self,
        name: &str,
        attributes: &[Attribute],
    ) -> Result<&Component, NoComponent<'_>> {
        component::find(self.by_name.get(name).into_iter().flatten(), attributes)
    }
}

/// The copy and what keeps it.
pub(crate) struct CatalogueCopy {
    database: PgPool,
    current: ArcSwapOption<Catalogue>,
    clock: Arc<DatabaseClock>,
    last_refresh: Mutex<Option<Instant>>,
}

impl CatalogueCopy {
    pub(crate) fn new(database: PgPool, clock: Arc<DatabaseClock>) -> Self {
        let (current, last_refresh) = (ArcSwapOption::empty(), Mutex::new(None));
        Self { database, current, clock, last_refresh }
    }

    /// The copy; none before the database answered for the first time.
    pub(crate) fn get(&self) -> Option<Arc<Catalogue>> {
        self.current.load_full()
    }

    /// Compares and reads it again for as long as the gateway runs. While the database is away, the
    /// last copy serves.
    pub(crate) async fn keep_fresh(&self) {
        let mut failing = false;
        loop {
            match self.refresh().await {
                Ok(()) if failing => {
                    failing = false;
                    COMMON.reconnects.of(Server::Postgresql).inc();
                }
                Ok(()) => {}
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(
                        reason = chain(&error),
                        "the catalogue can't be read: trying again"
                    );
                }
                Err(_) => {}
            }
            sleep(REFRESH_EVERY).await;
        }
    }

    /// Brings the copy up to date for a request that missed a component. Requests that miss
    /// together read once, and unknown names can't make the gateway read more than so often.
    ///
    /// Returns whether the database could be asked.
    pub(crate) async fn refresh_for_miss(&self) -> bool {
        let missed = Instant::now();
        let mut last_refresh = self.last_refresh.lock().await;
        if let Some(last) = *last_refresh {
            if last > missed {
                return true;
            }
            sleep_until(last + MISS_PAUSE).await;
        }
        match self.read_if_changed(&mut last_refresh).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(reason = chain(&error), "the catalogue can't be read for a miss");
                false
            }
        }
    }

    async fn refresh(&self) -> Result<(), sqlx::Error> {
        let mut last_refresh = self.last_refresh.lock().await;
        self.read_if_changed(&mut last_refresh).await
    }

    async fn read_if_changed(&self, last_refresh: &mut Option<Instant>) -> Result<(), sqlx::Error> {
        let begin = Instant::now();
        let silent = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        timeout(READ_LIMIT, self.compare_and_read()).await.map_err(|_| silent())??;
        *last_refresh = Some(begin);
        Ok(())
    }

    async fn compare_and_read(&self) -> Result<(), sqlx::Error> {
        // The version is read before the components: if they change between, the next comparison
        // sees it.
        let mut connection = self.database.acquire().await?;
        let sent = Instant::now();
        let (version, now): (i64, Timestamp) = sqlx::query_as(
            "SELECT catalogue, clock_timestamp() AT TIME ZONE 'UTC' FROM sdb_version",
        )
        .fetch_one(&mut *connection)
        .await?;
        // Before the catalogue is there, so that every update which finds its component has a clock.
        self.clock.observe(sent, Instant::now(), now);
        if self.current.load().as_ref().is_some_and(|current| current.version == version) {
            return Ok(());
        }
        let catalogue = Catalogue::new(version, component::read_all(&mut connection).await?);
        tracing::info!(components = catalogue.len(), version, "catalogue read");
        self.current.store(Some(Arc::new(catalogue)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shared::component::ComponentId;

    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Vec<Attribute> {
        pairs
            .iter()
            .map(|(name, value)| Attribute { name: (*name).into(), value: (*value).into() })
            .collect()
    }

    fn catalogue(components: &[(&str, &[(&str, &str)])]) -> Catalogue {
        let components = (1..)
            .zip(components)
            .map(|(id, (name, pairs))| Component {
                id: ComponentId(id),
                name: (*name).into(),
                attributes: attributes(pairs),
            })
            .collect();
        Catalogue::new(1, components)
    }

    /// Name, attributes, the id found or those of the candidates.
    #[test]
    fn exact_matches_win_and_larger_ones_must_be_unambiguous() {
        let catalogue = catalogue(&[
            ("DNS", &[("region", "R1"), ("type", "dns")]),
            ("DNS", &[("region", "R2"), ("type", "dns")]),
            ("DNS", &[("region", "R1")]),
            ("DNS", &[("region", "R1")]),
            ("CDN", &[("region", "R1"), ("type", "cdn")]),
        ]);
        let several = |ids: &[i32]| Err(Some(ids.to_vec()));
        for (name, wanted, expected) in [
            // All of its attributes, in another order.
            ("DNS", &[("type", "dns"), ("region", "R1")][..], Ok(1)),
            // Exact before larger, and of two exact ones the lowest id.
            ("DNS", &[("region", "R1")], Ok(3)),
            // One larger one.
            ("DNS", &[("region", "R2")], Ok(2)),
            ("CDN", &[], Ok(5)),
            // Several larger ones.
            ("DNS", &[("type", "dns")], several(&[1, 2])),
            // None.
            ("DNS", &[("region", "R3")], Err(None)),
            ("DN", &[], Err(None)),
            ("CDN", &[("region", "R1"), ("type", "cdn"), ("more", "x")], Err(None)),
        ] {
            let found = catalogue.find(name, &attributes(wanted));
            let found = found.map(|component| component.id.0).map_err(|none| match none {
                NoComponent::NotFound => None,
                NoComponent::Ambiguous(several) => Some(several.iter().map(|c| c.id.0).collect()),
            });
            assert_eq!(found, expected, "{name} {wanted:?}");
        }
    }
}
