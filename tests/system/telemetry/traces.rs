//! Traces: what a collector receives of real processes, and that nothing is sent or slowed without
//! one.

pub(super) mod strangers;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    trace::v1::{self as otlp, span::SpanKind, status::StatusCode as Code},
};
use prost::Message;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

use harness::{Fixture, System, answer, eventually, proxy::Proxy, tests};

tests!(
    one_trace_leads_from_the_request_to_the_reply,
    a_batch_is_linked_to_the_messages_of_all_its_traces,
    a_redelivered_update_stays_in_its_trace,
    an_update_that_is_parked_is_logged_with_its_trace,
    without_the_variables_no_header_is_put_on_a_message,
    a_collector_that_takes_nothing_harms_nothing,
    variables_that_cannot_be_used_stop_the_start,
);

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

/// A trace as a tree: kind, name and service of each span, below its parent.
fn tree(spans: &[Span], parent: &str, depth: usize) -> String {
    spans
        .iter()
        .filter(|span| span.parent == parent)
        .map(|span| {
            let Span { name, service, kind, .. } = span;
            let kind = kind.as_str_name().trim_start_matches("SPAN_KIND_").to_lowercase();
            let service = service.trim_start_matches("status-dashboard-");
            let below = tree(spans, &span.id, depth + 1);
            format!("{}{name} ({kind}, {service})\n{below}", "  ".repeat(depth))
        })
        .collect()
}

/// The same with times, for a reader: from the start of the trace, and how long each took.
fn timed_tree(spans: &[Span], parent: &str, depth: usize) -> String {
    let begin = spans.first().map_or(0, |span| span.start);
    let millis = |nanos: u64| format!("{:>5.1}", nanos as f64 / 1e6);
    spans
        .iter()
        .filter(|span| span.parent == parent)
        .map(|span| {
            let (from, took) = (millis(span.start - begin), millis(span.end - span.start));
            let below = timed_tree(spans, &span.id, depth + 1);
            let name = format!("{}{}", "  ".repeat(depth), span.name);
            format!("{name:<40} {from} {took}  {}\n{below}", span.service)
        })
        .collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span> {
    spans.iter().find(|span| span.name == name).with_context(|| format!("{name}: {spans:#?}"))
}

const REQUEST: &str = "POST /api/v1/component_status";
const PUBLISH: &str = "publish sdb.updates";
const WAIT: &str = "wait for the outcome";
const PROCESS: &str = "process sdb.updates";
const TRANSACTION: &str = "transaction";
const REPLY: &str = "publish sdb.replies";
/// The span of the client, which the collector does not get.
const CLIENT: &str = "00f067aa0ba902b7";

/// A trace id that differs from number to number.
fn trace_id(number: u8) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}")
}

fn dns(impact: u8) -> Value {
    json!({ "name": "DNS", "impact": impact })
}

/// A request in a trace of its client's.
fn within(request: RequestBuilder, trace: &str) -> RequestBuilder {
    request.header("traceparent", format!("00-{trace}-{CLIENT}-01"))
}

async fn one_trace_leads_from_the_request_to_the_reply(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&collector.variables()).await?;
    system.start_gateway(&collector.variables()).await?;
    system.components(&[("DNS", &[])]).await?;
    // Connections that are opened for the first request would show in the times.
    ensure!(answer(system.update(&dns(1))).await?.status == 201);

    let trace = trace_id(0);
    let posted = within(system.update(&dns(2)), &trace).header("tracestate", "vendor=1");
    let posted = answer(posted).await?;
    ensure!(posted.status == 201, "{posted:?}");
    let update = posted.header("update-id");
    let all = [REQUEST, PUBLISH, WAIT, PROCESS, TRANSACTION, REPLY];
    let spans = collector.wait_for(&trace, &all).await?;

    let expected = "\
POST /api/v1/component_status (server, gateway)
  publish sdb.updates (producer, gateway)
    process sdb.updates (consumer, worker)
      transaction (client, worker)
      publish sdb.replies (producer, worker)
  wait for the outcome (internal, gateway)
";
    // The worker may have the message before the gateway has its confirmation, or after.
    ensure!(tree(&spans, CLIENT, 0) == expected, "{}", tree(&spans, CLIENT, 0));
    println!("{}", timed_tree(&spans, CLIENT, 0));
    ensure!(spans.len() == all.len() && spans.iter().all(|span| !span.failed), "{spans:#?}");

    let (host, amqp_port) = address_of(&system.amqp_uri)?;
    let (_, database_port) = address_of(&system.database_uri)?;
    let (host, amqp_port, database_port) =
        (host.as_str(), amqp_port.as_str(), database_port.as_str());
    for (span, attributes) in [
        (
            REQUEST,
            &[
                ("http.request.method", "POST"),
                ("http.route", "/api/v1/component_status"),
                ("http.response.status_code", "201"),
                ("url.path", "/api/v1/component_status"),
                ("url.scheme", "http"),
                ("network.protocol.version", "1.1"),
                ("server.address", "127.0.0.1"),
            ][..],
        ),
        (
            PUBLISH,
            &[
                ("messaging.system", "rabbitmq"),
                ("messaging.operation.name", "publish"),
                ("messaging.operation.type", "send"),
                ("messaging.destination.name", "sdb.updates.v1:p1"),
                ("messaging.destination.template", "sdb.updates"),
                ("messaging.rabbitmq.destination.routing_key", "p1"),
                ("messaging.message.id", update),
                ("server.address", host),
                ("server.port", amqp_port),
            ],
        ),
        (
            PROCESS,
            &[
                ("messaging.system", "rabbitmq"),
                ("messaging.operation.name", "process"),
                ("messaging.operation.type", "process"),
                ("messaging.destination.name", "sdb.updates.v1:p1:sdb.updates.v1.p1"),
                ("messaging.rabbitmq.message.delivery_tag", "2"),
                ("messaging.message.id", update),
                ("sdb.outcome", "raised"),
                ("sdb.reason", "raised_as_only_component"),
            ],
        ),
        (
            TRANSACTION,
            &[
                ("db.system.name", "postgresql"),
                ("db.namespace", &system.vhost),
                ("db.operation.name", "transaction"),
                ("db.query.summary", "transaction"),
                ("messaging.batch.message_count", "1"),
                ("server.address", host),
                ("server.port", database_port),
            ],
        ),
        (
            REPLY,
            &[
                ("messaging.system", "rabbitmq"),
                ("messaging.operation.name", "publish"),
                ("messaging.destination.template", "sdb.replies"),
                ("messaging.destination.anonymous", "true"),
                ("messaging.batch.message_count", "1"),
            ],
        ),
        (WAIT, &[("sdb.outcome", "raised")]),
    ] {
        let span = named(&spans, span)?;
        for (name, value) in attributes {
            ensure!(span.attribute(name) == *value, "{name} is not {value}: {span:#?}");
        }
    }
    let publish = named(&spans, PUBLISH)?;
    let link = [(trace.clone(), publish.id.clone())];
    for linked in [PROCESS, TRANSACTION] {
        ensure!(named(&spans, linked)?.links == link, "{spans:#?}");
    }

    // A client that wants no span of its trace gets none, and lists have spans, too.
    let unsampled = trace_id(1);
    let header = format!("00-{unsampled}-{CLIENT}-00");
    ensure!(answer(system.update(&dns(2)).header("traceparent", header)).await?.status == 200);
    let list = trace_id(2);
    let request = system.request_to(0, Method::GET, "/api/v1/incidents?active=true");
    let request = request.bearer_auth(&system.token);
    ensure!(answer(within(request, &list)).await?.status == 200);
    let spans = collector.wait_for(&list, &["GET /api/v1/incidents"]).await?;
    ensure!(named(&spans, "GET /api/v1/incidents")?.attribute("url.query") == "active=true");
    // Those who watch the processes leave none.
    ensure!(
        answer(within(system.request_to(0, Method::GET, "/healthz"), &list)).await?.status == 200
    );
    ensure!(collector.trace(&unsampled).is_empty() && collector.trace(&list).len() == 1);
    system.finish().await
}

/// Host and port of a URI.
fn address_of(uri: &str) -> Result<(String, String)> {
    let rest = uri.split_once('@').context("a URI without a user")?.1;
    let address = rest.split_once('/').context("a URI without a name")?.0;
    let (host, port) = address.split_once(':').context("an address without a port")?;
    Ok((host.to_owned(), port.to_owned()))
}

const WAITING_FOR_A_LOCK: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

async fn a_batch_is_linked_to_the_messages_of_all_its_traces(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&collector.variables()).await?;
    system.start_gateway(&collector.variables()).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let mut scope = system.database.begin().await?;
    sqlx::query("SELECT 1 FROM sdb_scope FOR UPDATE").execute(&mut *scope).await?;
    // The first is in a transaction that waits, and the others come together after it.
    let traces: Vec<String> = (0..200).map(trace_id).collect();
    for (number, trace) in traces.iter().enumerate() {
        let update = json!({ "name": if number % 2 == 0 { "DNS" } else { "CDN" }, "impact": 1 });
        let request = within(system.update(&update), trace).header("Prefer", "respond-async");
        ensure!(answer(request).await?.status == 202);
        if number == 0 {
            let waits = async || Ok(system.count(WAITING_FOR_A_LOCK).await? > 0);
            eventually("the worker waits", waits).await?;
        }
    }
    scope.rollback().await?;

    let (mut published, mut transactions, mut standing) = (Vec::new(), Vec::new(), Vec::new());
    for trace in &traces {
        let spans = collector.wait_for(trace, &[PUBLISH, PROCESS, TRANSACTION]).await?;
        let (publish, process) = (named(&spans, PUBLISH)?, named(&spans, PROCESS)?);
        let transaction = named(&spans, TRANSACTION)?;
        ensure!(process.parent == publish.id && transaction.parent == process.id, "{spans:#?}");
        published.push((trace.clone(), publish.id.clone()));
        let is_one = transaction.kind == SpanKind::Client;
        if is_one { &mut transactions } else { &mut standing }.push(transaction.clone());
    }
    // Each transaction is there once, linked to all its messages; the spans that stand for it in
    // other traces are linked to it.
    ensure!(transactions.len() < traces.len() && !standing.is_empty(), "there was no batch");
    for transaction in &transactions {
        let count = transaction.attribute("messaging.batch.message_count");
        ensure!(count == transaction.links.len().to_string(), "{transaction:#?}");
    }
    let mut links: Vec<_> = transactions.iter().flat_map(|one| one.links.clone()).collect();
    links.sort();
    published.sort();
    ensure!(links == published, "{transactions:#?}");
    for one in &standing {
        let to = transactions.iter().map(|to| (to.trace.clone(), to.id.clone()));
        ensure!(one.kind == SpanKind::Internal && one.links.len() == 1, "{one:#?}");
        ensure!(to.into_iter().any(|to| to == one.links[0]), "{one:#?}");
        ensure!(one.attribute("db.system.name").is_empty(), "{one:#?}");
    }
    system.finish().await
}

async fn a_redelivered_update_stays_in_its_trace(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    let [endpoint, delay] = collector.variables();
    system.start_worker(&[endpoint, delay, ("SDB_AMQP_URI", proxy.uri())]).await?;
    system.start_gateway(&[endpoint, delay]).await?;
    system.components(&[("DNS", &[])]).await?;

    let mut scope = system.database.begin().await?;
    sqlx::query("SELECT 1 FROM sdb_scope FOR UPDATE").execute(&mut *scope).await?;
    let trace = trace_id(0);
    let request = within(system.update(&dns(1)), &trace).header("Prefer", "respond-async");
    let accepted = answer(request).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    let waits = async || Ok(system.count(WAITING_FOR_A_LOCK).await? > 0);
    eventually("the worker waits", waits).await?;
    // It commits, and is killed before RabbitMQ has its acknowledgement.
    proxy.silence();
    scope.rollback().await?;
    let committed = async || Ok(system.count("SELECT count(*) FROM sdb_inbox").await? == 1);
    eventually("the update is committed", committed).await?;
    system.workers.remove(0).signal(Signal::SIGKILL)?;
    proxy.cut();

    system.start_worker(&[endpoint, delay]).await?;
    system.drained().await?;
    let spans = collector.wait_for(&trace, &[REQUEST, PUBLISH, PROCESS]).await?;
    let (request, publish) = (named(&spans, REQUEST)?, named(&spans, PUBLISH)?);
    ensure!(request.parent == CLIENT && publish.parent == request.id, "{spans:#?}");
    let process = named(&spans, PROCESS)?;
    ensure!(process.parent == publish.id && !process.failed, "{process:#?}");
    for (name, value) in [
        ("sdb.redelivered", "true"),
        ("sdb.outcome", "repeated"),
        ("sdb.reason", "no_incident_of_impact"),
    ] {
        ensure!(process.attribute(name) == value, "{name} is not {value}: {process:#?}");
    }
    let receipt = system.get(accepted.header("location")).await?;
    ensure!(receipt.body["outcome"] == "opened", "{receipt:?}");
    system.finish().await
}

async fn an_update_that_is_parked_is_logged_with_its_trace(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&collector.variables()).await?;
    system.start_gateway(&collector.variables()).await?;
    system.components(&[("DNS", &[])]).await?;
    let mut scope = system.database.begin().await?;
    sqlx::query("SELECT 1 FROM sdb_scope FOR UPDATE").execute(&mut *scope).await?;
    let trace = trace_id(0);
    let request = within(system.update(&dns(1)), &trace).header("Prefer", "respond-async");
    ensure!(answer(request).await?.status == 202);
    system.sql("DELETE FROM component").await?;
    scope.rollback().await?;

    let spans = collector.wait_for(&trace, &[PROCESS]).await?;
    ensure!(named(&spans, PROCESS)?.attribute("sdb.outcome") == "parked", "{spans:#?}");
    let log = system.workers[0].log()?;
    let line = log.lines().find(|line| line.contains("\"message\":\"parked\""));
    ensure!(line.is_some_and(|line| line.contains(&format!("\"trace_id\":\"{trace}\""))), "{log}");
    system.finish_with_parked()
}

async fn without_the_variables_no_header_is_put_on_a_message(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    let [endpoint, delay] = collector.variables();
    system.start_gateway(&[endpoint, delay, ("OTEL_SDK_DISABLED", "true")]).await?;
    let name = ("OTEL_SERVICE_NAME", "front door");
    system.start_gateway(&[endpoint, delay, name]).await?;
    system.components(&[("DNS", &[])]).await?;
    let (trace, topology) = (trace_id(0), system.topology().await?);
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    // A queue that gets what the partition gets.
    let own = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?;
    let (exchange, key) = (topology.publish_exchange(), topology.routing_key(1));
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.name().clone(), exchange.into(), key.into(), options, none).await?;
    let mut bodies = Vec::new();
    for gateway in 0..3 {
        let request = within(system.update_to(gateway, &dns(1)), &trace)
            .header("tracestate", "vendor=1")
            .header("Prefer", "respond-async");
        ensure!(answer(request).await?.status == 202);
        let options = BasicGetOptions { no_ack: true };
        let message = channel.basic_get(queue.name().clone(), options).await?;
        let message = message.context("there is no message")?;
        let headers: BTreeMap<String, String> = message
            .properties
            .headers()
            .iter()
            .flat_map(|headers| headers.inner())
            .map(|(name, value)| {
                let text = value.as_long_string().map(ToString::to_string);
                (name.to_string(), text.unwrap_or_default())
            })
            .collect();
        if gateway < 2 {
            ensure!(message.properties.headers().is_none(), "{headers:?}");
        } else {
            let names: Vec<&String> = headers.keys().collect();
            ensure!(names == ["traceparent", "tracestate"], "{headers:?}");
            ensure!(headers["traceparent"].starts_with(&format!("00-{trace}-")), "{headers:?}");
            ensure!(headers["tracestate"] == "vendor=1", "{headers:?}");
        }
        let mut body: Value = serde_json::from_slice(&message.data)?;
        let own = body.as_object_mut().context("no object")?;
        ensure!(own.remove("id").is_some() && own.remove("received_at").is_some());
        bodies.push(body);
    }
    // The message itself is the same.
    ensure!(bodies.iter().all(|body| *body == bodies[0] && body["v"] == 1), "{bodies:?}");
    connection.close(200, "done".into()).await?;

    // A worker that makes no spans takes them all, and nothing comes of it but its answer.
    system.start_worker(&[]).await?;
    system.drained().await?;
    let spans = collector.wait_for(&trace, &[REQUEST, PUBLISH]).await?;
    ensure!(spans.iter().all(|span| span.service == name.1), "{spans:#?}");
    for process in [&system.gateways[0], &system.gateways[1], &system.workers[0]] {
        ensure!(!process.log()?.contains("trace"), "{}", process.log()?);
    }
    system.finish().await
}

async fn a_collector_that_takes_nothing_harms_nothing(fixture: Arc<Fixture>) -> Result<()> {
    // Connections to it are opened, and nobody ever reads what comes.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}/v1/traces", silent.local_addr()?);
    let silent = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hush"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8"),
    ];
    // Nobody listens at port 9.
    let mut absent = silent;
    absent[0].1 = "http://127.0.0.1:9/v1/traces";
    let mut system = System::prepared(&fixture).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    let mut gateway = absent.to_vec();
    gateway.push(("SDB_AMQP_URI", proxy.uri()));
    system.start_worker(&silent).await?;
    system.start_gateway(&gateway).await?;
    system.components(&[("DNS", &[])]).await?;
    for number in 0..100 {
        let posted = answer(system.update(&dns(1))).await?;
        ensure!(posted.status == if number == 0 { 201 } else { 200 }, "{posted:?}");
    }
    let lost = "spans are lost: the collector does not take them";
    eventually("the loss is logged", async || Ok(system.gateways[0].log()?.contains(lost))).await?;

    // What the log says of an update has its trace.
    let trace = trace_id(0);
    proxy.cut();
    eventually("an update is not taken", async || {
        Ok(answer(within(system.update(&dns(1)), &trace)).await?.status == 503)
    })
    .await?;
    let log = system.gateways[0].log()?;
    let line = log.lines().find(|line| line.contains(&format!("\"trace_id\":\"{trace}\"")));
    ensure!(line.is_some_and(|line| line.contains("\"update\":")), "{log}");
    ensure!(log.matches(lost).count() == 1 && log.contains("Connection refused"), "{log}");
    proxy.pass();

    for mut process in system.workers.drain(..).chain(system.gateways.drain(..)) {
        let begin = Instant::now();
        process.signal(Signal::SIGTERM)?;
        ensure!(process.ended().await?.success());
        ensure!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
        ensure!(!process.log()?.contains("hush"), "{}", process.log()?);
    }
    system.start_worker(&[]).await?;
    system.finish().await
}

async fn variables_that_cannot_be_used_stop_the_start(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    for (name, value, says) in [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`, but must be `http/protobuf`",
        ),
        (
            "OTEL_TRACES_EXPORTER",
            "zipkin",
            "OTEL_TRACES_EXPORTER is `zipkin`, but must be `otlp` or `none`",
        ),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "the OTEL_ variables can't be used: "),
    ] {
        for program in ["gateway", "worker"] {
            let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
            let mut process = system.launch(program, &[endpoint, (name, value)])?;
            ensure!(process.ended().await?.code() == Some(1), "{program}: {name}={value}");
            ensure!(process.log()?.contains(says), "{}", process.log()?);
        }
    }
    system.finish_with_parked()
}
