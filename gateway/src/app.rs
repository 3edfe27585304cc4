//! What the endpoints share, and which path is whose.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::FutureExt;
use shared::{
    database::{BY_INDEX, ConnectOptions},
    metrics::GATEWAY,
    seldom,
    telemetry::chain,
    traces,
};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Auth,
    broker::Publisher,
    catalogue::CatalogueCopy,
    clock::DatabaseClock,
    config::AuthConfig,
    config::Limits,
    error::ApiError,
    headers::protect,
    list::{Budget, Cache, Versions},
    rate::RateLimit,
    routes::{component_status, docs, health, incidents, metrics, receipt, update},
    traced::traced,
    waiters::Waiters,
};

/// Time after `stop` in which outcomes are waited for, and in which any answer is: less than the server
/// gives its connections.
const LAST_OUTCOME: Duration = Duration::from_secs(8);
const LAST_ANSWER: Duration = Duration::from_secs(9);
/// Time that a request waits for a database connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);
/// Time for which a connection that was used is taken to be good: beyond it is asked first.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Bytes of lists that are being written, held for readers, slow ones among them, or read ahead for them.
const LIST_BYTES: usize = 256 * 1024 * 1024;
/// For the statements of lists. The first ends one whose gateway has given it up and that has not noticed
/// yet; the gateway gives up sooner.
const LIST_LIMITS: [(&str, &str); 2] = [
    ("statement_timeout", "90s"),
    // Longer than a list may wait for its reader: PostgreSQL would take its gateway for gone.
    ("tcp_user_timeout", "15s"),
];
/// Time from a request to the beginning of its answer: longer than any wait that is asked for.
const REQUEST_LIMIT: Duration = Duration::from_secs(40);

/// What the endpoints share.
pub(crate) struct App {
    pub(crate) auth: Auth,
    pub(crate) catalogue: CatalogueCopy,
    /// What updates are stamped by.
    pub(crate) clock: Arc<DatabaseClock>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) publisher: Arc<Publisher>,
    /// For what is small and quick: receipts, versions, the incidents of answers.
    pub(crate) answers: PgPool,
    /// For lists, so that they can hold up nothing else.
    pub(crate) lists: PgPool,
    /// One permit for each update between arrival and answer.
    pub(crate) in_flight: Semaphore,
    /// How many there are.
    pub(crate) most_in_flight: usize,
    /// How many updates a token may send; none when that is not limited.
    pub(crate) rate_limit: Option<RateLimit>,
    /// One permit for each list that is too large to hold.
    pub(crate) streamed_lists: Arc<Semaphore>,
    /// The memory for lists.
    pub(crate) list_memory: Budget,
    /// The lists that were written lately.
    pub(crate) written_lists: Cache,
    /// Tells whether they are what the database has.
    pub(crate) versions: Versions,
    pub(crate) conflict: bool,
    pub(crate) inbox_days: u32,
    pub(crate) stop: CancellationToken,
    /// When that was seen.
    stopped_at: OnceLock<Instant>,
}

impl App {
    pub(crate) fn new(
        auth: AuthConfig,
        database: &ConnectOptions,
        limits: Limits,
        conflict: bool,
        inbox_days: u32,
        stop: CancellationToken,
    ) -> Self {
        let pool = |database: ConnectOptions| {
            let unchecked = database.unchecked();
            let database = Arc::new(database);
            PgPoolOptions::new()
                .max_connections(limits.database_connections)
                .acquire_timeout(ACQUIRE_LIMIT)
                .test_before_acquire(false)
                .before_acquire(|connection, idle| {
                    Box::pin(async move {
                        if idle.idle_for > TRUSTED_FOR {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .after_connect(move |connection, _| {
                    let database = database.clone();
                    Box::pin(async move { checked(&database, connection).await })
                })
                .connect_lazy_with(unchecked)
        };
        let answers = pool(database.clone().with(BY_INDEX));
        let lists = pool(database.clone().with(LIST_LIMITS));
        let versions = Versions::new(database.clone().with(BY_INDEX));
        let waiters = Arc::new(Waiters::new(answers.clone(), versions.clone()));
        let clock = Arc::new(DatabaseClock::new());
        Self {
            auth: Auth::new(auth),
            catalogue: CatalogueCopy::new(answers.clone(), clock.clone()),
            clock,
            publisher: Arc::new(Publisher::new(waiters.clone(), limits.channels)),
            waiters,
            lists,
            answers,
            in_flight: Semaphore::new(limits.in_flight),
            most_in_flight: limits.in_flight,
            rate_limit: limits.updates_per_second.map(RateLimit::new),
            streamed_lists: Arc::new(Semaphore::new(limits.streamed_lists)),
            list_memory: Budget::new(LIST_BYTES, limits.streamed_lists),
            written_lists: Cache::default(),
            versions,
            conflict,
            inbox_days,
            stop,
            stopped_at: OnceLock::new(),
        }
    }

    /// Waits until the gateway is to stop.
    pub(crate) async fn stops(&self) -> Instant {
        self.stop.cancelled().await;
        *self.stopped_at.get_or_init(Instant::now)
    }

    /// Waits until the gateway is to stop, and then for as long as an outcome may still be waited for.
    pub(crate) async fn ends(&self) {
        sleep_until(self.stops().await + LAST_OUTCOME).await;
    }
}

/// Checks a new session of a pool. The pool keeps the reason of a refusal to itself.
async fn checked(
    database: &ConnectOptions,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let checked = database.check(connection).await;
    if let Err(error) = &checked {
        let reason = chain(error);
        seldom!(warn, &reason, reason, "a session of the database is refused");
    }
    checked
}

/// Where those who watch the gateway ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// At the address for clients.
    Here,
    /// At an address of their own. Health stays at that for clients, too: what balances requests asks
    /// where it sends them. The metrics are not for clients.
    Apart,
}

/// The paths for those who watch, at an address of their own.
pub(crate) fn admin_router(app: Arc<App>) -> Router {
    health_router().route("/metrics", get(metrics::get)).with_state(app)
}

fn health_router() -> Router<Arc<App>> {
    Router::new().route("/healthz", get(health::healthz)).route("/readyz", get(health::readyz))
}

/// The paths for clients.
pub(crate) fn router(app: Arc<App>, watched: Watched) -> Router {
    let router = match watched {
        Watched::Here => health_router().route("/metrics", get(metrics::get)),
        Watched::Apart => health_router(),
    };
    let router = router
        .route("/api/v1/component_status", get(component_status::get).post(update::post))
        .route("/api/v1/incidents", get(incidents::get))
        .route("/api/v1/updates/{id}", get(receipt::get))
        .merge(docs::router())
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "This path does not take that method")
        })
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "There is nothing at this path"))
        .layer(middleware::from_fn_with_state(app.clone(), limited))
        .layer(middleware::from_fn(measured));
    let router = match traces::get() {
        Some(traces) => {
            let traced = move |State(app): State<Arc<App>>, request: Request, next: Next| async move {
                traced(traces, &app.auth, request, next).await
            };
            router.layer(middleware::from_fn_with_state(app.clone(), traced))
        }
        None => router,
    };
    router.with_state(app)
}

/// Ends a request that waits for something that never comes, such as a server that is silent, or longer
/// than the gateway runs, or whose endpoint panics, and protects every answer.
async fn limited(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // What requests share is behind locks that bear a panic.
    let answering = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = tokio::select! {
        biased;
        answered = timeout(REQUEST_LIMIT, answering) => match answered {
            Ok(answered) => answered.unwrap_or_else(|_| broken()),
            Err(_) => ApiError::unavailable("A server does not answer; try again").into_response(),
        },
        () = async { sleep_until(app.stops().await + LAST_ANSWER).await } => {
            ApiError::unavailable("The gateway is stopping; try again").into_response()
        }
    };
    protect(response.headers_mut());
    response
}

/// The answer to a request whose endpoint panicked, which is in the log.
fn broken() -> Response {
    let message = "This request met an error of the gateway, which has logged it";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
}

/// Counts and measures what is answered.
async fn measured(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let (route, method) = (route.to_owned(), word(request.method()));
    let response = next.run(request).await;
    GATEWAY.request(route, method, response.status().as_u16(), began.elapsed());
    response
}

/// The method's name; clients may make up others.
fn word(method: &Method) -> &'static str {
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    NAMES.into_iter().find(|name| method == *name).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use shared::settings::Settings;

    use super::*;
    use crate::config::Config;

    /// With servers that are not there.
    fn app() -> Arc<App> {
        let settings = [
            ("SDB_DATABASE_URI", "postgresql://x:y@127.0.0.1:1/z"),
            ("SDB_AMQP_URI", "amqp://127.0.0.1:1"),
            ("SDB_SECRET_KEY", "a-secret"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_settings(&Settings::new(settings)).unwrap();
        let Config { auth, database, limits, .. } = config;
        Arc::new(App::new(auth, &database, limits, false, 30, CancellationToken::new()))
    }

    async fn breaks() -> Response {
        panic!("provoked by a test")
    }

    #[tokio::test]
    async fn a_panic_ends_its_request_alone() {
        let router = Router::new()
            .route("/breaks", get(breaks))
            .route("/works", get(async || "well"))
            .layer(middleware::from_fn_with_state(app(), limited));
        let service = TowerToHyperService::new(router);
        let asked = async |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let response = service.call(request).await.unwrap();
            let status = response.status().as_u16();
            (status, to_bytes(response.into_body(), 1024).await.unwrap())
        };
        let (status, body) = asked("/breaks").await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(status == 500 && body["code"] == 500 && body["message"].is_string(), "{body}");
        assert!(!body.to_string().contains("provoked"), "{body}");
        assert_eq!(asked("/works").await, (200, "well".into()));
    }
}
