//! The metrics of both programs. Every name is here, according to the conventions of Prometheus;
//! `deploy/monitoring/README.md` describes each and how to react to it.
//!
//! The number of series does not depend on the catalogue or on clients: the values of all labels except
//! the partition and the route, of which there are few, are the words of a type.

mod per_word;
mod words;

use std::{
    sync::{LazyLock, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry},
};

use self::per_word::Word;
pub use self::{
    per_word::PerWord,
    words::{
        AlertResult, AnsweredLabel, AppliedLabel, Ended, ListSource, Refused, ResultLabel, Server,
        TokenRefusal, UnmappedAlert, Words,
    },
};
use crate::domain::timestamp::Timestamp;

/// The content type of [`GatewayMetrics::text`] and of [`WorkerMetrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds in seconds, from a quick answer to a backlog.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// The labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's template, or `none`.
    pub route: String,
    /// The method, or `other`.
    pub method: &'static str,
}

/// The labels of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabels {
    /// The route's template, or `none`.
    pub route: String,
    /// The method, or `other`.
    pub method: &'static str,
    /// The status.
    pub status: u16,
}

/// A partition: at most 1024.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
    /// Its number.
    pub partition: u16,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn build_info() -> Family<Word, Gauge> {
    let info = Family::<Word, Gauge>::default();
    info.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
    info
}

/// Registers a metric by its full name; the library adds the suffix of counters itself.
fn register(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    registry.register(name.trim_end_matches("_total"), help, metric);
}

macro_rules! metrics {
    ($(#[$doc:meta])* $kind:ident {
        $($name:literal $field:ident: $type:ty = $metric:expr, $help:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $kind {
            $(#[doc = $help] pub $field: $type,)*
        }

        impl $kind {
            fn new() -> Self {
                Self { $($field: $metric,)* }
            }

            fn register(&self, registry: &mut Registry) {
                $(register(registry, $name, $help, self.$field.clone());)*
            }
        }
    };
}

metrics! {
    /// Metrics of both programs.
    CommonMetrics {
        "sdb_build_info" build_info: Family<Word, Gauge> = build_info(),
            "Always 1, with the version of the program";
        "sdb_ready" ready: Gauge = Gauge::default(),
            "1 if /readyz answers 200, otherwise 0";
        "sdb_reconnects_total" reconnects: PerWord<Server, Counter> = PerWord::default(),
            "Connections re-established after a loss";
    }
}

metrics! {
    /// Metrics of a gateway.
    GatewayMetrics {
        "sdb_http_requests_total" requests: Family<AnswerLabels, Counter> = Family::default(),
            "Answered requests";
        "sdb_http_request_duration_seconds"
            request_duration: Family<RequestLabels, Histogram, fn() -> Histogram>
            = Family::new_with_constructor(seconds),
            "Time from a request to the start of its answer";
        "sdb_updates_accepted_total" accepted: Counter = Counter::default(),
            "Updates that RabbitMQ confirmed";
        "sdb_messages_published_total" messages: Counter = Counter::default(),
            "Messages that RabbitMQ confirmed, each with one update or several";
        "sdb_updates_answered_total" answered: PerWord<AnsweredLabel, Counter> = PerWord::default(),
            "Accepted updates by answer";
        "sdb_updates_not_awaited_total" not_awaited: Counter = Counter::default(),
            "Accepted updates answered 202 at once because no outcomes arrived";
        "sdb_updates_refused_total" refused: PerWord<Refused, Counter> = PerWord::default(),
            "Valid updates answered 503, by reason";
        "sdb_updates_in_flight" in_flight: Gauge = Gauge::default(),
            "Updates currently between arrival and answer";
        "sdb_updates_in_flight_limit" in_flight_limit: Gauge = Gauge::default(),
            "Maximum number of updates in flight";
        "sdb_tokens_refused_total" tokens_refused: PerWord<TokenRefusal, Counter> = PerWord::default(),
            "Refused tokens, by reason";
        "sdb_alerts_total" alerts: PerWord<AlertResult, Counter> = PerWord::default(),
            "Mapped alerts by result";
        "sdb_alerts_unmapped_total" alerts_unmapped: PerWord<UnmappedAlert, Counter> = PerWord::default(),
            "Alerts without a component, by reason";
        "sdb_alerts_truncated_total" alerts_truncated: Counter = Counter::default(),
            "Alerts that Alertmanager left out of its webhook's requests (max_alerts)";
        "sdb_alert_mapping_loaded" alert_mapping_loaded: Gauge = Gauge::default(),
            "1 if the alert mapping is as its file was at the last SIGHUP, otherwise 0";
        "sdb_lists_served_total" lists: PerWord<ListSource, Counter> = PerWord::default(),
            "Lists by source";
        "sdb_server_reachable" reachable: PerWord<Server, Gauge> = PerWord::default(),
            "1 if the server is usable, otherwise 0";
        "sdb_clock_ahead_seconds" clock_ahead: Gauge<f64, AtomicU64> = Gauge::default(),
            "Seconds by which the machine's clock is ahead of PostgreSQL's; negative if it is behind";
    }
}

metrics! {
    /// Metrics of a worker.
    WorkerMetrics {
        "sdb_updates_applied_total" applied: PerWord<AppliedLabel, Counter> = PerWord::default(),
            "Updates of committed batches by outcome";
        "sdb_update_apply_duration_seconds" apply_duration: Histogram = seconds(),
            "Time from an update's arrival at a gateway to the commit of its outcome";
        "sdb_batch_updates" batch: Histogram = Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            "Updates in a batch";
        "sdb_transaction_duration_seconds" transaction_duration: PerWord<Ended, Histogram>
            = PerWord::new(seconds),
            "Duration of a batch's transaction";
        "sdb_queue_messages" queue: Family<PartitionLabel, Gauge> = Family::default(),
            "Messages waiting in the queue of a partition, each of up to 128 updates, without those that the worker holds";
        "sdb_rabbitmq_nodes_unreachable" unreachable_nodes: Gauge = Gauge::default(),
            "Nodes in the address of RabbitMQ that this worker can't connect to; 0 unless it is the one that tries them";
        "sdb_partitions_owned" owned: Gauge = Gauge::default(),
            "Partitions that this worker consumes";
        "sdb_partitions" partitions: Gauge = Gauge::default(),
            "Total number of partitions";
        "sdb_workers_living" living: Gauge = Gauge::default(),
            "Live workers according to the database";
        "sdb_parked_updates" parked: Gauge = Gauge::default(),
            "Parked updates; 10000 means as many or more";
        "sdb_reports_live" live_reports: Gauge = Gauge::default(),
            "Reports that stand, all in all; from 10000 on as PostgreSQL estimates them";
        "sdb_held_updates" held: Gauge = Gauge::default(),
            "Updates that this worker holds because another session has locked rows that they need";
        "sdb_commits_waiting_for_standby" waiting_commits: Gauge = Gauge::default(),
            "Commits that have waited for a synchronous standby of PostgreSQL for more than a second";
        "sdb_inbox_rows" inbox_rows: Gauge = Gauge::default(),
            "Rows of the inbox, as estimated by PostgreSQL";
        "sdb_inbox_oldest_part_timestamp_seconds" oldest_part: Gauge = Gauge::default(),
            "Start of the week of the inbox's oldest partition, in seconds since 1970";
        "sdb_inbox_retention_seconds" retention: Gauge = Gauge::default(),
            "Retention of the inbox's rows (SDB_INBOX_DAYS), in seconds";
        "sdb_replies_dropped_total" replies_dropped: Counter = Counter::default(),
            "Outcomes that could not be sent to a gateway";
    }
}

/// The metrics of both programs.
pub static COMMON: LazyLock<CommonMetrics> = LazyLock::new(CommonMetrics::new);
/// The metrics of a gateway, one instance per process.
pub static GATEWAY: LazyLock<GatewayMetrics> = LazyLock::new(GatewayMetrics::new);
/// The metrics of a worker, one instance per process.
pub static WORKER: LazyLock<WorkerMetrics> = LazyLock::new(WorkerMetrics::new);

impl GatewayMetrics {
    /// Counts an answered request.
    pub fn request(&self, route: String, method: &'static str, status: u16, duration: Duration) {
        let labels = RequestLabels { route, method };
        self.request_duration.get_or_create(&labels).observe(duration.as_secs_f64());
        let labels = AnswerLabels { route: labels.route, method, status };
        self.requests.get_or_create(&labels).inc();
    }

    /// All metrics, in the text format of Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        text(|registry| self.register(registry))
    }
}

impl WorkerMetrics {
    /// Measures the time from an update's arrival to now, when its outcome is committed.
    #[expect(clippy::disallowed_methods, reason = "a measurement: nothing is decided by it")]
    pub fn applied_now(&self, received_at: Timestamp) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let micros = now.unwrap_or_default().as_micros() as i64 - received_at.as_micros();
        // PostgreSQL's clock, as the gateway knew it, may be ahead of this machine's.
        self.apply_duration.observe(micros.max(0) as f64 / 1e6);
    }

    /// All metrics, in the text format of Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        text(|registry| self.register(registry))
    }
}

fn text(own: impl FnOnce(&mut Registry)) -> String {
    let mut registry = Registry::default();
    COMMON.register(&mut registry);
    own(&mut registry);
    let mut text = String::new();
    // Writing to a `String` can't fail.
    prometheus_text::encode(&mut text, &registry).unwrap_or_default();
    text
}
