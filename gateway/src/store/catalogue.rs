//! The gateway's copy of the catalogue, kept up to date without a restart.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use shared::{
    database::{components, sqlstate},
    domain::{
        component::{Attribute, ByName, Component, ComponentId, NoComponent},
        timestamp::Timestamp,
    },
    telemetry::{
        chain,
        metrics::{COMMON, Server},
    },
};
use sqlx::PgConnection;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{clock::DatabaseClock, pools::Pool};

/// How often its version is compared with the database's.
const REFRESH_EVERY: Duration = Duration::from_millis(500);
/// Minimum time between two readings for requests whose component was not found.
const MISS_PAUSE: Duration = Duration::from_millis(100);
/// Time for one reading.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The components of one version of the catalogue.
pub(crate) struct Catalogue {
    pub(crate) version: i64,
    /// When its database server was started: another one may count the same versions again.
    server: Timestamp,
    /// The encoding of the database, if it lacks characters that an update may have.
    pub(crate) narrow_encoding: Option<String>,
    components: ByName,
}

impl Catalogue {
    pub(crate) fn len(&self) -> usize {
        self.components.len()
    }

    /// The components, ordered by id.
    pub(crate) fn all(&self) -> &[Component] {
        self.components.all()
    }

    /// The component with this id.
    pub(crate) fn with_id(&self, id: ComponentId) -> Option<&Component> {
        self.components.with_id(id)
    }

    /// The component with this name and exactly these attributes, the lowest id of several;
    /// failing that, the only one whose attributes contain these.
    pub(crate) fn find(
        &self,
        name: &str,
        attributes: &[Attribute],
    ) -> Result<&Component, NoComponent<'_>> {
        self.components.find(name, attributes)
    }
}

/// The copy, and what keeps it up to date.
pub(crate) struct CatalogueCopy {
    database: Pool,
    current: ArcSwapOption<Catalogue>,
    clock: Arc<DatabaseClock>,
    last_refresh: Mutex<Option<Instant>>,
}

impl CatalogueCopy {
    pub(crate) fn new(database: Pool, clock: Arc<DatabaseClock>) -> Self {
        let (current, last_refresh) = (ArcSwapOption::empty(), Mutex::new(None));
        Self { database, current, clock, last_refresh }
    }

    /// The copy; none until the database has answered for the first time.
    pub(crate) fn get(&self) -> Option<Arc<Catalogue>> {
        self.current.load_full()
    }

    /// Whether it is known that there is no component with this id.
    pub(crate) fn lacks(&self, id: ComponentId) -> bool {
        self.current.load().as_ref().is_some_and(|current| current.with_id(id).is_none())
    }

    /// Compares the version periodically, and reads the catalogue again after a change. While the
    /// database is unavailable, the last copy is used.
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

    /// Brings the copy up to date for a request whose component was not found. Concurrent requests share one
    /// reading, and unknown names can't make the gateway read more often than [`MISS_PAUSE`] permits.
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
        timeout(READ_LIMIT, self.compare_and_read()).await.map_err(|_| sqlstate::timed_out())??;
        *last_refresh = Some(begin);
        Ok(())
    }

    async fn compare_and_read(&self) -> Result<(), sqlx::Error> {
        // The version is read before the components: if they change between, the next comparison
        // sees it.
        let mut connection = self.database.acquire().await?;
        let sent = Instant::now();
        let (version, now, server): (i64, Timestamp, Timestamp) = sqlx::query_as(
            "SELECT catalogue, clock_timestamp() AT TIME ZONE 'UTC',
                pg_postmaster_start_time() AT TIME ZONE 'UTC'
            FROM sdb_version",
        )
        .fetch_one(&mut *connection)
        .await?;
        // Before the catalogue is there, so that every update which finds its component has a clock.
        self.clock.observe(sent, Instant::now(), now);
        if self
            .current
            .load()
            .as_ref()
            .is_some_and(|current| (current.version, current.server) == (version, server))
        {
            return Ok(());
        }
        let components = read(&mut connection).await?;
        let encoding: String = sqlx::query_scalar("SELECT getdatabaseencoding()::text")
            .fetch_one(&mut *connection)
            .await?;
        // In SQL_ASCII any bytes are a text.
        let is_wide = ["UTF8", "SQL_ASCII"].contains(&encoding.as_str());
        let narrow_encoding = (!is_wide).then_some(encoding);
        let catalogue = Catalogue { version, server, narrow_encoding, components };
        tracing::info!(components = catalogue.len(), version, "catalogue read");
        self.current.store(Some(Arc::new(catalogue)));
        Ok(())
    }
}

/// Reads the components once.
pub(crate) async fn read(database: &mut PgConnection) -> Result<ByName, sqlx::Error> {
    Ok(ByName::new(components::read_all(database).await?))
}

/// Whether it could not be read since the database is not prepared.
pub(crate) fn is_unprepared(error: &sqlx::Error) -> bool {
    let missing = [sqlstate::UNDEFINED_TABLE, sqlstate::UNDEFINED_FUNCTION];
    missing.into_iter().any(|code| sqlstate::is(error, code))
}

/// Sends a text to the database to check that it can be stored.
///
/// # Errors
/// When its encoding lacks a character of it (`database::lacks_characters`), or it fails.
pub(crate) async fn hold(database: &Pool, text: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT $1::text").bind(text).execute(&database.now().await).await?;
    Ok(())
}
