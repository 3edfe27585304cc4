//! Traces: what a collector receives of real processes, and that nothing is sent or slowed without
//! one.

mod exporter;
mod strangers;
mod updates;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    trace::v1::{self as otlp, span::SpanKind, status::StatusCode as Code},
};
use prost::Message;
use reqwest::RequestBuilder;
use tokio::net::TcpListener;

use harness::{eventually, tests_of};

tests_of!(exporter, strangers, updates);

/// A span as it was received.
#[derive(Clone, Debug)]
struct Span {
    service: String,
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: SpanKind,
    start: u64,
    end: u64,
    attributes: BTreeMap<String, String>,
    /// The traces and spans that it is linked to.
    links: Vec<(String, String)>,
    failed: bool,
}

impl Span {
    fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// A collector that keeps what it receives.
#[derive(Clone, Default)]
struct Collector {
    address: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let collector = Self { address, spans: Arc::default() };
        let service =
            Router::new().route("/v1/traces", post(Self::receive)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, service).await });
        Ok(collector)
    }

    async fn receive(State(collector): State<Self>, body: Bytes) -> StatusCode {
        let Ok(request) = ExportTraceServiceRequest::decode(body) else {
            return StatusCode::BAD_REQUEST;
        };
        let mut spans = collector.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for group in request.resource_spans {
            let resource = texts(group.resource.map(|r| r.attributes).unwrap_or_default());
            let service = resource.get("service.name").cloned().unwrap_or_default();
            let received = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(received.map(|span| received_from(&service, span)));
        }
        StatusCode::OK
    }

    /// The variables of a process that exports here, soon after a span ends.
    fn variables(&self) -> [(&str, &str); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &self.address), ("OTEL_BSP_SCHEDULE_DELAY", "100")]
    }

    /// What was received of a trace, in the order of its start.
    fn trace(&self, trace: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans: Vec<Span> =
            spans.iter().filter(|span| span.trace == trace).cloned().collect();
        spans.sort_by_key(|span| span.start);
        spans
    }

    /// Waits until a trace has a span of each of these names, and returns all of it.
    async fn wait_for(&self, trace: &str, names: &[&str]) -> Result<Vec<Span>> {
        eventually(&format!("trace {trace} has {names:?}"), async || {
            let spans = self.trace(trace);
            Ok(names.iter().all(|name| spans.iter().any(|span| span.name == *name)))
        })
        .await
        .with_context(|| format!("{:#?}", self.trace(trace)))?;
        Ok(self.trace(trace))
    }
}

fn received_from(service: &str, span: otlp::Span) -> Span {
    Span {
        service: service.to_owned(),
        kind: span.kind(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        attributes: texts(span.attributes),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        failed: span.status.is_some_and(|status| status.code() == Code::Error),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        Some(Any::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|one| (one.key, text(one.value))).collect()
}

const REQUEST: &str = "POST /api/v1/component_status";

const PROCESS: &str = "process sdb.updates";
const PUBLISH: &str = "publish sdb.updates";

/// The span of the client, which the collector does not get.
const CLIENT: &str = "00f067aa0ba902b7";

/// A trace id that differs from number to number.
fn trace_id(number: u8) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}")
}

/// A request in a trace of its client's.
fn within(request: RequestBuilder, trace: &str) -> RequestBuilder {
    request.header("traceparent", format!("00-{trace}-{CLIENT}-01"))
}
