//! Traces: one from a request through the broker to the transaction and the reply.
//!
//! The names of spans and attributes stand here, after the semantic conventions of OpenTelemetry; what
//! begins with `sdb.` is our own. Without the standard `OTEL_` variables [`get`] has nothing, and
//! nothing is made, sent or put on a message.

mod export;

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
    time::Duration,
};

use lapin::{
    message::Delivery,
    types::{AMQPValue, FieldTable},
};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{
        Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt, TraceId, TraceState,
        Tracer, TracerProvider,
    },
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider, Span},
};

pub use self::export::ExportError;
use crate::{
    broker::Broker, database, envelope::TraceContext, message::Verdict, settings::Settings,
    update_id::UpdateId,
};

/// Time for the last spans when the program ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a client's `tracestate` that are passed on: what W3C asks for.
const LARGEST_STATE: usize = 512;
/// What updates are published to, whatever the number of the topology.
const UPDATES: &str = "sdb.updates";
/// The gateways' queues for replies, whatever RabbitMQ named them.
const REPLIES: &str = "sdb.replies";
const TRANSACTION: &str = "transaction";

static TRACES: OnceLock<Traces> = OnceLock::new();

/// Makes spans.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    /// Where RabbitMQ is.
    broker: [KeyValue; 2],
    /// Which database it is, and where.
    database: [KeyValue; 3],
    /// Characters of the text of an attribute, at most.
    longest_text: usize,
}

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Somebody with a valid token: the request belongs to the client's trace, where it names one, and is
    /// recorded if that is.
    Known,
    /// Anybody: the request has a trace of its own, which is linked to the client's.
    Stranger,
}

/// Starts to make and export spans, provided that the `OTEL_` variables ask for it.
///
/// # Errors
/// When they have values that can't be used.
pub fn start(service: &'static str, settings: &Settings) -> Result<(), ExportError> {
    if !export::is_wanted()? {
        return Ok(());
    }
    let (host, port) = Broker::from_settings(settings)?.address();
    let database = database::connect_options(settings, service)?;
    let provider = export::start(service)?;
    let traces = Traces {
        tracer: provider.tracer("status-dashboard"),
        provider,
        propagator: TraceContextPropagator::new(),
        longest_text: export::longest_text()?,
        broker: address(host, port),
        database: {
            let (host, port, name) = database.address();
            let [host, port] = address(host, port);
            [KeyValue::new("db.namespace", name), host, port]
        },
    };
    if TRACES.set(traces).is_ok() {
        tracing::info!("traces are exported");
    }
    Ok(())
}

fn address(host: String, port: u16) -> [KeyValue; 2] {
    [KeyValue::new("server.address", host), KeyValue::new("server.port", i64::from(port))]
}

/// What makes spans; nothing when nobody wants them.
pub fn get() -> Option<&'static Traces> {
    TRACES.get()
}

/// Exports what there is still, when the program ends. A collector that does not take it in time is
/// not waited for.
pub async fn flush() {
    let Some(traces) = get() else { return };
    // On a thread of its own, so that a second signal is still heard.
    let flushing =
        tokio::task::spawn_blocking(|| traces.provider.shutdown_with_timeout(FLUSH_LIMIT));
    if !matches!(flushing.await, Ok(Ok(()))) {
        tracing::warn!("the last spans were not exported");
    }
}

/// The id of the trace that the code which runs now belongs to, for the log.
pub fn current_id() -> Option<TraceId> {
    get()?;
    id(&Context::current())
}

fn id(context: &Context) -> Option<TraceId> {
    Some(context.span().span_context().trace_id()).filter(|id| *id != TraceId::INVALID)
}

impl Traces {
    /// A request that is served, in its client's trace or linked to it, where the headers name one. The
    /// context is to be the current one while it is.
    pub fn serve(
        &self,
        name: String,
        headers: &dyn Extractor,
        client: Client,
        attributes: Vec<KeyValue>,
    ) -> Context {
        let named = self.remote(headers);
        let (parent, links) = match client {
            Client::Known => (named, Vec::new()),
            Client::Stranger => {
                let link = Some(named.span().span_context().clone()).filter(SpanContext::is_valid);
                (Context::new(), link.into_iter().collect())
            }
        };
        let span = self.span(name, SpanKind::Server, attributes, links, &parent);
        parent.with_span(span)
    }

    /// An update that is published, in the trace of its request.
    pub fn publish(&self, exchange: &str, routing_key: &str, update: UpdateId) -> Publishing {
        let mut attributes = self.messaging("publish", "send", UPDATES);
        attributes.extend([
            KeyValue::new("messaging.destination.name", format!("{exchange}:{routing_key}")),
            KeyValue::new("messaging.rabbitmq.destination.routing_key", routing_key.to_owned()),
            KeyValue::new("messaging.message.id", update.to_string()),
        ]);
        let (name, request) = (format!("publish {UPDATES}"), Context::current());
        let span = self.span(name, SpanKind::Producer, attributes, Vec::new(), &request);
        Publishing(request.with_span(span))
    }

    /// The time from an update's confirmation to its outcome, in the trace of its request.
    pub fn wait(&self) -> Waiting {
        let request = Context::current();
        let name = "wait for the outcome";
        Waiting(self.span(name, SpanKind::Internal, Vec::new(), Vec::new(), &request))
    }

    /// An update that a worker has received from a queue, in the trace that its entry in an envelope names,
    /// or else the headers of its message.
    pub fn process(
        &self,
        queue: &str,
        delivery: &Delivery,
        message_id: Option<&str>,
        entry: Option<&TraceContext>,
    ) -> Arc<Processing> {
        let key = delivery.routing_key.as_str();
        // Queues are named after the number of their topology.
        let kind = queue.rsplit_once(".v").map_or(queue, |(kind, _)| kind);
        let mut attributes = self.messaging("process", "process", kind);
        attributes.extend([
            KeyValue::new("messaging.destination.name", destination(queue, key)),
            KeyValue::new("messaging.rabbitmq.destination.routing_key", key.to_owned()),
            KeyValue::new(
                "messaging.rabbitmq.message.delivery_tag",
                i64::try_from(delivery.delivery_tag).unwrap_or(i64::MAX),
            ),
        ]);
        if let Some(id) = message_id {
            attributes.push(KeyValue::new("messaging.message.id", id.to_owned()));
        }
        if delivery.redelivered {
            attributes.push(KeyValue::new("sdb.redelivered", true));
        }
        let published = match (entry, delivery.properties.headers()) {
            (Some(entry), _) => self.remote(entry),
            (None, Some(headers)) => self.remote(&Headers(headers)),
            (None, None) => Context::new(),
        };
        let creation = published.span().span_context().clone();
        let links = if creation.is_valid() { vec![creation.clone()] } else { Vec::new() };
        let name = format!("process {kind}");
        let span = self.span(name, SpanKind::Consumer, attributes, links, &published);
        Arc::new(Processing { context: published.with_span(span), creation })
    }

    /// A transaction that applies these messages, of so many; nothing when no trace of theirs is
    /// recorded.
    pub fn transaction<'a>(
        &self,
        messages: usize,
        traced: impl Iterator<Item = &'a Arc<Processing>>,
    ) -> Option<Transaction<'_>> {
        let mut traced = traced.filter(|processing| processing.is_recorded());
        let first = traced.next()?;
        let others: Vec<Arc<Processing>> = traced.cloned().collect();
        let links = std::iter::once(first).chain(&others).map(|p| p.creation()).collect();
        let mut attributes = vec![
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new("db.operation.name", TRANSACTION),
            KeyValue::new("db.query.summary", TRANSACTION),
            count(messages),
        ];
        attributes.extend(self.database.clone());
        let span = self.span(TRANSACTION, SpanKind::Client, attributes, links, &first.context);
        Some(Transaction { traces: self, began: opentelemetry::time::now(), span, others })
    }

    /// A reply with so many results, in the trace of the first of them.
    pub fn reply(&self, first: &Processing, queue: &str, results: usize) -> Option<Replying> {
        if !first.is_recorded() {
            return None;
        }
        let mut attributes = self.messaging("publish", "send", REPLIES);
        attributes.extend([
            KeyValue::new("messaging.destination.name", queue.to_owned()),
            KeyValue::new("messaging.rabbitmq.destination.routing_key", queue.to_owned()),
            KeyValue::new("messaging.destination.temporary", true),
            KeyValue::new("messaging.destination.anonymous", true),
            count(results),
        ]);
        let name = format!("publish {REPLIES}");
        let span = self.span(name, SpanKind::Producer, attributes, Vec::new(), &first.context);
        Some(Replying(span))
    }

    fn messaging(
        &self,
        operation: &'static str,
        kind: &'static str,
        destination: &str,
    ) -> Vec<KeyValue> {
        let [host, port] = self.broker.clone();
        vec![
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.operation.type", kind),
            KeyValue::new("messaging.destination.template", destination.to_owned()),
            host,
            port,
        ]
    }

    fn span(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        mut attributes: Vec<KeyValue>,
        links: Vec<SpanContext>,
        parent: &Context,
    ) -> Span {
        // The SDK does not: what others sent could be as long as they like.
        for attribute in &mut attributes {
            truncate(&mut attribute.value, self.longest_text);
        }
        let links = links.into_iter().map(Link::with_context).collect();
        self.tracer
            .span_builder(name)
            .with_kind(kind)
            .with_attributes(attributes)
            .with_links(links)
            .start_with_context(&self.tracer, parent)
    }

    /// The context that headers name.
    fn remote(&self, headers: &dyn Extractor) -> Context {
        let named = self.propagator.extract_with_context(&Context::new(), headers);
        let span = named.span();
        let context = span.span_context();
        if context.trace_state().header().len() <= LARGEST_STATE {
            return named;
        }
        // Whoever sends more of it would have every message carry it.
        let context = SpanContext::new(
            context.trace_id(),
            context.span_id(),
            context.trace_flags(),
            true,
            TraceState::NONE,
        );
        Context::new().with_remote_span_context(context)
    }
}

/// Where a message was consumed from. The exchange is not that of the delivery, which is a gateway's
/// link's, one of many, but the one after which the queue is named.
fn destination(queue: &str, key: &str) -> String {
    match queue.strip_suffix(key).and_then(|exchange| exchange.strip_suffix('.')) {
        Some(exchange) => format!("{exchange}:{key}:{queue}"),
        None if key.is_empty() => queue.to_owned(),
        None => format!("{key}:{queue}"),
    }
}

/// Cuts a text that is longer than so many characters.
fn truncate(value: &mut opentelemetry::Value, longest: usize) {
    if let opentelemetry::Value::String(text) = value
        && let Some((end, _)) = text.as_str().char_indices().nth(longest)
    {
        *value = text.as_str().get(..end).unwrap_or_default().to_owned().into();
    }
}

fn count(messages: usize) -> KeyValue {
    let count = i64::try_from(messages).unwrap_or(i64::MAX);
    KeyValue::new("messaging.batch.message_count", count)
}

/// An update that is being published.
pub struct Publishing(Context);

impl Publishing {
    /// Its place in the trace, to go with its message.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        let mut injected = Injected::default();
        TraceContextPropagator::new().inject_context(&self.0, &mut injected);
        let Injected { traceparent, tracestate } = injected;
        Some(TraceContext { traceparent: traceparent?, tracestate })
    }

    /// RabbitMQ confirmed it, or why not.
    pub fn end(self, error: Option<String>) {
        let span = self.0.span();
        if let Some(error) = error {
            span.set_attribute(KeyValue::new("error.type", error));
            span.set_status(Status::error("not confirmed"));
        }
        span.end();
    }
}

/// An update whose outcome is waited for; without one, the wait was over before.
pub struct Waiting(Span);

impl Waiting {
    /// The outcome is there.
    pub fn end(mut self, verdict: &Verdict) {
        self.0.set_attributes(told(verdict));
        self.0.end();
    }
}

/// A message that is being processed: from its receipt to its acknowledgement.
#[derive(Debug)]
pub struct Processing {
    context: Context,
    /// What the message's headers name; invalid when they name nothing.
    creation: SpanContext,
}

impl Processing {
    /// Its trace, for the log.
    #[must_use]
    pub fn id(&self) -> Option<TraceId> {
        id(&self.context)
    }

    /// What became of it.
    pub fn decided(&self, verdict: &Verdict) {
        self.context.span().set_attributes(told(verdict));
    }

    /// RabbitMQ has its acknowledgement.
    pub fn acknowledged(&self) {
        self.context.span().end();
    }

    fn is_recorded(&self) -> bool {
        self.context.span().span_context().is_sampled()
    }

    /// What a batch is linked to.
    fn creation(&self) -> SpanContext {
        if self.creation.is_valid() {
            self.creation.clone()
        } else {
            self.context.span().span_context().clone()
        }
    }
}

impl Drop for Processing {
    fn drop(&mut self) {
        // Nothing happens to a span that has ended.
        let span = self.context.span();
        span.set_status(Status::error("not acknowledged: RabbitMQ delivers it again"));
        span.end();
    }
}

/// A transaction under way. It is a span of the first of its traces; each other one gets a span that
/// stands for it when it is committed, since the database has seen it once.
pub struct Transaction<'a> {
    traces: &'a Traces,
    began: std::time::SystemTime,
    span: Span,
    others: Vec<Arc<Processing>>,
}

impl Transaction<'_> {
    /// It is committed.
    pub fn committed(mut self) {
        self.span.end();
        for other in self.others {
            let link = Link::with_context(self.span.span_context().clone());
            let tracer = &self.traces.tracer;
            let mut span = tracer
                .span_builder(TRANSACTION)
                .with_kind(SpanKind::Internal)
                .with_start_time(self.began)
                .with_links(vec![link])
                .start_with_context(tracer, &other.context);
            span.end();
        }
    }

    /// It failed: with this SQLSTATE, where the database has answered.
    pub fn failed(mut self, sqlstate: Option<String>) {
        let kind = sqlstate.clone().unwrap_or_else(|| "_OTHER".to_owned());
        self.span.set_attribute(KeyValue::new("error.type", kind));
        if let Some(code) = sqlstate {
            self.span.set_attribute(KeyValue::new("db.response.status_code", code));
        }
        self.span.set_status(Status::error("rolled back"));
        self.span.end();
    }
}

/// A reply that is being sent.
pub struct Replying(Span);

impl Replying {
    /// RabbitMQ did not take it.
    pub fn failed(mut self) {
        self.0.set_attribute(KeyValue::new("error.type", "_OTHER"));
        self.0.set_status(Status::error("not sent"));
    }
}

/// What a verdict says of an update.
fn told(verdict: &Verdict) -> Vec<KeyValue> {
    let (outcome, reason, incident) = match verdict {
        Verdict::Decided { reason, incident } => {
            (reason.outcome().word(), Some(*reason), Some(incident.id))
        }
        Verdict::Repeated { reason, incident, .. } => ("repeated", Some(*reason), Some(*incident)),
        Verdict::Rejected => ("rejected", None, None),
        Verdict::Parked => ("parked", None, None),
    };
    let reason = reason.map(|reason| KeyValue::new("sdb.reason", reason.word()));
    let incident = incident.map(|id| KeyValue::new("sdb.incident.id", i64::from(id.0)));
    [Some(KeyValue::new("sdb.outcome", outcome)), reason, incident].into_iter().flatten().collect()
}

/// A message's headers, to read.
struct Headers<'a>(&'a FieldTable);

impl Extractor for Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.inner().get(name)?;
        let text = value.as_long_string().and_then(|text| str::from_utf8(text.as_bytes()).ok());
        text.or_else(|| Some(value.as_short_string()?.as_str()))
    }

    fn keys(&self) -> Vec<&str> {
        self.0.inner().keys().map(|name| name.as_str()).collect()
    }
}

impl Extractor for TraceContext {
    fn get(&self, name: &str) -> Option<&str> {
        match name {
            TRACEPARENT => Some(&self.traceparent),
            TRACESTATE => self.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// A place in a trace, to write.
#[derive(Default)]
struct Injected {
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Injector for Injected {
    fn set(&mut self, name: &str, value: String) {
        match name {
            TRACEPARENT => self.traceparent = Some(value),
            // An empty state says nothing.
            TRACESTATE if !value.is_empty() => self.tracestate = Some(value),
            _ => {}
        }
    }
}

/// The headers of a message of one update.
#[must_use]
pub fn headers(context: TraceContext) -> FieldTable {
    let mut headers = FieldTable::default();
    let TraceContext { traceparent, tracestate } = context;
    headers.insert(TRACEPARENT.into(), AMQPValue::LongString(traceparent.into()));
    if let Some(tracestate) = tracestate {
        headers.insert(TRACESTATE.into(), AMQPValue::LongString(tracestate.into()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces() -> Traces {
        let provider = SdkTracerProvider::builder().build();
        Traces {
            tracer: provider.tracer("test"),
            provider,
            propagator: TraceContextPropagator::new(),
            longest_text: 5,
            broker: address("rabbitmq".to_owned(), 5672),
            database: ["db.namespace", "server.address", "server.port"]
                .map(|name| KeyValue::new(name, "")),
        }
    }

    fn headers(values: &[(&str, AMQPValue)]) -> FieldTable {
        let mut headers = FieldTable::default();
        for (name, value) in values {
            headers.insert((*name).into(), value.clone());
        }
        headers
    }

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn headers_of_any_publisher_are_read_and_nonsense_is_passed_over() {
        let long = |text: &str| AMQPValue::LongString(text.into());
        for (value, valid) in [
            (long(PARENT), true),
            (AMQPValue::ShortString(PARENT.into()), true),
            (long(PARENT.trim_end_matches("-01")), false),
            (long("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), false),
            (AMQPValue::LongString(vec![0xff, 0xfe].into()), false),
            (AMQPValue::LongInt(7), false),
        ] {
            let table = headers(&[("traceparent", value.clone())]);
            let context = traces().remote(&Headers(&table));
            assert_eq!(context.span().span_context().is_valid(), valid, "{value:?}");
        }
    }

    #[test]
    fn what_is_put_on_a_message_is_read_from_it_without_a_state_that_is_too_long() {
        for (bytes, kept) in [(512, true), (513, false)] {
            // One member has at most 256.
            let state = format!("a={},b={}", "x".repeat(256), "x".repeat(bytes - 261));
            let table = headers(&[
                ("traceparent", AMQPValue::LongString(PARENT.into())),
                ("tracestate", AMQPValue::LongString(state.as_str().into())),
            ]);
            let traces = traces();
            let context = traces.remote(&Headers(&table));
            let entry = Publishing(context).context().expect("valid");
            let in_an_envelope = traces.remote(&entry);
            let published = super::headers(entry);
            let read = traces.remote(&Headers(&published));
            assert_eq!(read.span().span_context(), in_an_envelope.span().span_context());
            let span = read.span();
            assert_eq!(span.span_context().trace_id().to_string(), &PARENT[3..35]);
            assert_eq!(span.span_context().trace_state().header() == state, kept, "{bytes}");
            assert_eq!(published.contains_key("tracestate"), kept);
        }
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let limit = traces().longest_text;
        for (text, expected) in [
            ("", ""),
            ("abcde", "abcde"),
            ("abcdef", "abcde"),
            ("äöüßé", "äöüßé"),
            ("äöüßéx", "äöüßé"),
        ] {
            let mut value = text.into();
            truncate(&mut value, limit);
            assert_eq!(value, expected.into());
        }
        let mut number = opentelemetry::Value::I64(1_234_567);
        truncate(&mut number, limit);
        assert_eq!(number, 1_234_567.into());
    }

    #[test]
    fn destinations_are_named_by_what_is_the_same_for_all_gateways() {
        for (queue, key, name) in [
            ("sdb.updates.v2.p11", "p11", "sdb.updates.v2:p11:sdb.updates.v2.p11"),
            ("sdb.dead.v2", "p11", "p11:sdb.dead.v2"),
            ("sdb.dead.v2", "", "sdb.dead.v2"),
        ] {
            assert_eq!(destination(queue, key), name);
        }
    }
}
