//! What the endpoints share. It does not depend on any endpoint.

use std::sync::Arc;

use shared::database::{BY_INDEX, Servers};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{Auth, rate_limit::RateLimit},
    config::{Config, PageConfig},
    http::body::BodyMemory,
    ingest::{pending::PendingRequests, publisher::Publisher, submit::Intake},
    lists::{Lists, change_notices::Live},
    loaded_mapping::LoadedMapping,
    shutdown_stages::Stop,
    store::{
        bars::Bars,
        catalogue::CatalogueCopy,
        clock::DatabaseClock,
        event_counts::EventCounts,
        pools::{self, Pool},
        version::Versions,
    },
};

/// What the endpoints share.
pub(crate) struct App {
    pub(crate) auth: Auth,
    pub(crate) catalogue: CatalogueCopy,
    /// The clock that stamps updates, and by which tokens expire.
    pub(crate) clock: Arc<DatabaseClock>,
    pub(crate) pending: Arc<PendingRequests>,
    pub(crate) publisher: Arc<Publisher>,
    /// The pool for small and quick queries: receipts, the catalogue, the incidents of answers.
    pub(crate) answers: Pool,
    /// One permit for each update between arrival and answer.
    pub(crate) in_flight: Semaphore,
    /// The total number of these permits.
    pub(crate) most_in_flight: usize,
    /// The rate limit of tokens; none without a limit.
    pub(crate) rate_limit: Option<RateLimit>,
    /// The mapping of alerts to components.
    pub(crate) mapping: LoadedMapping,
    /// The memory for the bodies of requests with many updates or with alerts.
    pub(crate) bodies: BodyMemory,
    /// The PostgreSQL servers that `SDB_DATABASE_URI` names.
    pub(crate) servers: Servers,
    pub(crate) lists: Lists,
    /// How many events match each filter of `GET /v2/events`.
    pub(crate) event_counts: Arc<EventCounts>,
    /// Reads the version of the lists from the database.
    pub(crate) versions: Versions,
    /// Whether an update that an incident already covers is answered 409.
    pub(crate) conflict: bool,
    /// Days that the record of each update is kept.
    pub(crate) inbox_days: u32,
    /// The settings of pages and feeds.
    pub(crate) pages: PageConfig,
    /// The last 90 days of each component.
    pub(crate) bars: Bars,
    /// Tells readers when the lists change.
    pub(crate) live: Live,
    pub(crate) stop: Stop,
}

impl App {
    pub(crate) fn new(config: Config, mapping: LoadedMapping, stop: CancellationToken) -> Self {
        let Config { database, broker, limits, pages, .. } = config;
        let answers = pools::answers(&database, limits.database_connections);
        let versions = Versions::new(database.clone().with(BY_INDEX));
        let pending = Arc::new(PendingRequests::new(answers.clone(), versions.clone()));
        let clock = Arc::new(DatabaseClock::new());
        Self {
            auth: Auth::new(config.auth).by(clock.clone()),
            catalogue: CatalogueCopy::new(answers.clone(), clock.clone()),
            clock,
            publisher: Arc::new(Publisher::new(broker, pending.clone())),
            pending,
            answers,
            in_flight: Semaphore::new(limits.in_flight),
            most_in_flight: limits.in_flight,
            rate_limit: limits.updates_per_second.map(RateLimit::new),
            mapping,
            bodies: BodyMemory::new(),
            servers: database.servers().clone(),
            lists: Lists::new(
                pools::lists(&database, limits.database_connections),
                versions.clone(),
                limits.streamed_lists,
            ),
            event_counts: Arc::default(),
            bars: Bars::new(database, pages.uptime_impact),
            live: Live::new(versions.clone(), limits.connections),
            versions,
            conflict: config.conflict,
            inbox_days: config.inbox_days,
            pages,
            stop: Stop::new(stop),
        }
    }

    /// Waits until the gateway is stopping.
    pub(crate) async fn stops(&self) -> Instant {
        self.stop.stops().await
    }

    /// The way of updates into the queues.
    pub(crate) fn intake(&self) -> Intake<'_> {
        Intake {
            rate_limit: self.rate_limit.as_ref(),
            places: &self.in_flight,
            catalogue: &self.catalogue,
            clock: &self.clock,
            database: &self.answers,
            pending: &self.pending,
            publisher: &self.publisher,
            stop: &self.stop,
        }
    }
}
