//! The table of all settings. `docs/reference.md` has the same one; a test compares them.

/// One setting: an environment variable.
#[derive(Debug)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// Its value if it is not set, if it has one.
    pub default: Option<&'static str>,
    /// The program that reads it, or `both`.
    pub reader: &'static str,
    /// Its meaning, with the unit.
    pub meaning: &'static str,
    /// Whether a file may have its value ([`super::file_variable`]).
    pub is_secret: bool,
}

const fn setting(
    name: &'static str,
    default: Option<&'static str>,
    reader: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting { name, default, reader, meaning, is_secret: false }
}

/// A password, a key, or an address that has one.
const fn secret(name: &'static str, reader: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default: None, reader, meaning, is_secret: true }
}

/// All settings of gateways and workers.
pub const SETTINGS: &[Setting] = &[
    secret(
        "SDB_DATABASE_URI",
        "both",
        "PostgreSQL itself, not a pooler: `postgresql://user:password@host:port/name?sslmode=…`, or `…@/name?host=/folder` for a socket; several servers as `…@host1:port1,host2:port2/name`, of which the primary is used; `postgresql+psycopg2://` is accepted. Either this setting or the next is required",
    ),
    secret(
        "SDB_SQLALCHEMY_DATABASE_URI",
        "both",
        "The Python dashboard's other name for the same setting; `SDB_DATABASE_URI` takes precedence",
    ),
    secret(
        "SDB_AMQP_URI",
        "both",
        "RabbitMQ: `amqp://user:password@host:port/vhost`, or `amqps://`; the nodes of a cluster separated by commas, `…@host1:port1,host2:port2/vhost`. Required",
    ),
    secret(
        "SDB_SECRET_KEY",
        "gateway",
        "The key that signs clients' tokens (HS256), at least 32 bytes. Required",
    ),
    secret(
        "SDB_SECRET_KEY_PREVIOUS",
        "gateway",
        "A second key that is accepted while clients change to a new one",
    ),
    setting("SDB_API_PAYLOAD_KEY", Some("stackmon"), "gateway", "The claim that a token must have"),
    setting("SDB_BIND", Some("127.0.0.1:8080"), "gateway", "Address and port to listen on"),
    setting(
        "SDB_V1_CONFLICT",
        Some("false"),
        "gateway",
        "`true`: an update that changes nothing is answered as by the Python dashboard, 409 if an incident covers it and 201 if a maintenance does, instead of 200",
    ),
    setting(
        "SDB_PAGE",
        Some("on"),
        "gateway",
        "`off`: no pages for people are served, because the deployment has others; `/` redirects to the API document. Feeds, badges and the calendar stay",
    ),
    setting(
        "SDB_PAGE_TITLE",
        Some("Status Dashboard"),
        "gateway",
        "The title of the pages, feeds and the calendar",
    ),
    setting(
        "SDB_PAGE_URL",
        None,
        "gateway",
        "Address of the service, such as `https://status.example.org`: for links in feeds, and its path for links in pages. Without it, links in feeds have the `Host` and `X-Forwarded-Proto` of the request, and feeds are kept for each of them",
    ),
    setting(
        "SDB_UPTIME_IMPACT",
        Some("3"),
        "gateway",
        "The lowest impact that reduces the uptime on the pages: `1` minor, `2` major, `3` outage",
    ),
    setting(
        "SDB_MAX_CONNECTIONS",
        Some("4096"),
        "gateway",
        "Maximum number of HTTP connections; further ones wait to be accepted. A lower limit of open files reduces it",
    ),
    setting(
        "SDB_KEEP_ALIVE_SECONDS",
        Some("75"),
        "gateway",
        "Seconds that an idle HTTP connection is kept open, at most 3600; set it higher than the idle time-out of the proxy or load balancer in front",
    ),
    setting(
        "SDB_MAX_IN_FLIGHT",
        Some("2048"),
        "gateway",
        "Maximum number of updates that a gateway handles at a time, each from its arrival to its answer. Further ones get 503, alerts after up to 8 s",
    ),
    setting(
        "SDB_RATE_LIMIT",
        Some("0"),
        "gateway",
        "Maximum number of updates per second that each gateway accepts from one token; a burst may have as many at once. Further ones get 429. A request with alerts is accepted as a whole, and all of its alerts count, also against the seconds that follow; the token's next alerts wait for up to 8 s and then get 503. `0`: no limit",
    ),
    setting(
        "SDB_DATABASE_CONNECTIONS",
        Some("8"),
        "gateway",
        "Number of database connections for answers; lists have another pool of the same size",
    ),
    setting(
        "SDB_MAX_LISTS",
        Some("4"),
        "gateway",
        "Maximum number of lists over 4 MiB that are streamed at the same time; further ones get 503",
    ),
    setting(
        "SDB_ALERT_MAPPING",
        None,
        "gateway",
        "File (YAML) that maps alerts to components; SIGHUP has a gateway read it again. If it is not set, the default rule applies: see [mapping of alerts](reference/alert-mapping.md)",
    ),
    setting(
        "SDB_ADMIN_ADDRESS",
        None,
        "both",
        "Separate address and port for `/healthz`, `/readyz` and `/metrics` of each process, such as `127.0.0.1:9090`. If it is not set, a gateway serves them at `SDB_BIND`, and a worker does not serve them",
    ),
    setting("SDB_BATCH", Some("512"), "worker", "Maximum number of updates in one transaction"),
    setting(
        "SDB_PARTITIONS",
        Some("1"),
        "both",
        "Number of queues over which the components are distributed, and so the maximum number of workers that have work. Recorded by `worker migrate`, changed by `worker topology change`; a process with another value does not start",
    ),
    setting(
        "SDB_QUEUE_LIMIT",
        Some("100000"),
        "both",
        "Maximum number of messages in one queue; further ones get 503. A message has one update, or up to 128 that arrived at once. Recorded likewise",
    ),
    setting(
        "SDB_PREFETCH",
        Some("1024"),
        "both",
        "Maximum number of unacknowledged messages of one queue that a worker holds. Recorded likewise",
    ),
    setting(
        "SDB_INBOX_DAYS",
        Some("30"),
        "both",
        "Days for which the record of each update is kept",
    ),
    setting(
        "SDB_LOG",
        Some("info"),
        "both",
        "Log level: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,worker=debug`",
    ),
    setting("SDB_LOG_FORMAT", Some("text"), "both", "`text` or `json`"),
];

#[expect(
    clippy::expect_used,
    reason = "names are literals of this program, and tests read all of them"
)]
pub(super) fn described(name: &'static str) -> &'static Setting {
    SETTINGS.iter().find(|s| s.name == name).expect("every setting that is read is in SETTINGS")
}
