//! What the endpoints share. It does not depend on any endpoint.

use std::sync::Arc;

use shared::{
    broker::Broker,
    database::{BY_INDEX, ConnectOptions, Servers},
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    alert_mapping::LoadedMapping,
    auth::{Auth, rate_limit::RateLimit},
    config::{AuthConfig, Limits},
    http::body::BodyMemory,
    ingest::{pending::PendingRequests, publisher::Publisher, submit::Intake},
    lists::Lists,
    stop::Stop,
    store::{
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
    /// Address of the service for links, with a slash at its end; none to take that of the request.
    pub(crate) page_url: Option<String>,
    pub(crate) stop: Stop,
}

impl App {
    pub(crate) fn new(
        auth: AuthConfig,
        database: &ConnectOptions,
        broker: Broker,
        limits: Limits,
        conflict: bool,
        inbox_days: u32,
        stop: CancellationToken,
    ) -> Self {
        let answers = pools::answers(database, limits.database_connections);
        let versions = Versions::new(database.clone().with(BY_INDEX));
        let pending = Arc::new(PendingRequests::new(answers.clone(), versions.clone()));
        let clock = Arc::new(DatabaseClock::new());
        Self {
            auth: Auth::new(auth).by(clock.clone()),
            catalogue: CatalogueCopy::new(answers.clone(), clock.clone()),
            clock,
            publisher: Arc::new(Publisher::new(broker, pending.clone())),
            pending,
            answers,
            in_flight: Semaphore::new(limits.in_flight),
            most_in_flight: limits.in_flight,
            rate_limit: limits.updates_per_second.map(RateLimit::new),
            mapping: LoadedMapping::default(),
            bodies: BodyMemory::new(),
            servers: database.servers().clone(),
            lists: Lists::new(
                pools::lists(database, limits.database_connections),
                versions.clone(),
                limits.streamed_lists,
            ),
            event_counts: Arc::default(),
            versions,
            conflict,
            inbox_days,
            page_url: None,
            stop: Stop::new(stop),
        }
    }

    /// With this mapping of alerts instead of the default one.
    pub(crate) fn mapping_by(self, mapping: LoadedMapping) -> Self {
        Self { mapping, ..self }
    }

    /// With the address of the service for links.
    pub(crate) fn with_page_url(self, page_url: Option<String>) -> Self {
        Self { page_url, ..self }
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
