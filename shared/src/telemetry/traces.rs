//! Traces: one from a request through the broker to the transaction and the reply.
//!
//! The names of spans and attributes are here and in the folder of the same name, according to the
//! semantic conventions of OpenTelemetry; those with the prefix `sdb.` are our own. Without the standard
//! `OTEL_` variables [`get`] returns none, and nothing is created, exported or added to messages.

mod export;
mod headers;
mod messages;
mod transaction;

use std::{borrow::Cow, sync::OnceLock, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    propagation::Extractor,
    trace::{Link, SpanContext, SpanKind, TraceContextExt, TraceId, Tracer, TracerProvider},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider, Span},
};

pub use self::{
    export::ExportError,
    headers::headers,
    messages::{Processing, Publishing, Replying, Waiting},
    transaction::Transaction,
};

/// Time limit for exporting the last spans at exit.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

static TRACES: OnceLock<Traces> = OnceLock::new();

/// Creates spans.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    /// The address of RabbitMQ; empty if it has several hosts, of which any may be in use.
    broker: Vec<KeyValue>,
    /// The name and address of the database.
    database: [KeyValue; 3],
    /// Maximum length of the text of an attribute.
    longest_text: usize,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A client with a valid token: the request belongs to the client's trace, if it names one, and is
    /// sampled if that is.
    Known,
    /// Anyone: the request has its own trace, which is linked to the client's.
    Stranger,
}

/// Starts to create and export spans, if the `OTEL_` variables enable it. The spans name RabbitMQ by its host and
/// port, and the database by those of PostgreSQL and its name.
///
/// # Errors
/// When the variables have invalid values.
pub fn start(
    service: &'static str,
    broker: Option<(String, u16)>,
    database: (String, u16, String),
) -> Result<(), ExportError> {
    if !export::is_wanted()? {
        return Ok(());
    }
    let provider = export::start(service)?;
    let traces = Traces {
        tracer: provider.tracer("status-dashboard"),
        provider,
        propagator: TraceContextPropagator::new(),
        longest_text: export::longest_text()?,
        broker: broker.into_iter().flat_map(|(host, port)| address(host, port)).collect(),
        database: {
            let (host, port, name) = database;
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

/// The tracer; none if traces are disabled.
pub fn get() -> Option<&'static Traces> {
    TRACES.get()
}

/// Exports the remaining spans at exit, within the time limit.
pub async fn flush() {
    let Some(traces) = get() else { return };
    // On a separate thread, so that a second signal is still handled.
    let flushing =
        tokio::task::spawn_blocking(|| traces.provider.shutdown_with_timeout(FLUSH_LIMIT));
    if !matches!(flushing.await, Ok(Ok(()))) {
        tracing::warn!("the last spans were not exported");
    }
}

/// The id of the current trace, for the log.
pub fn current_id() -> Option<TraceId> {
    get()?;
    id(&Context::current())
}

fn id(context: &Context) -> Option<TraceId> {
    Some(context.span().span_context().trace_id()).filter(|id| *id != TraceId::INVALID)
}

impl Traces {
    /// The span of a request, in its client's trace or linked to it, if the headers name one. Its context
    /// must be current while the request is served.
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

    fn span(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        mut attributes: Vec<KeyValue>,
        links: Vec<SpanContext>,
        parent: &Context,
    ) -> Span {
        // The SDK does not limit it, and text sent by others could be of any length.
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
}

/// Truncates a text to a number of characters.
fn truncate(value: &mut opentelemetry::Value, longest: usize) {
    if let opentelemetry::Value::String(text) = value
        && let Some((end, _)) = text.as_str().char_indices().nth(longest)
    {
        *value = text.as_str().get(..end).unwrap_or_default().to_owned().into();
    }
}

/// Creates spans that are discarded.
#[cfg(test)]
fn nowhere() -> Traces {
    let provider = SdkTracerProvider::builder().build();
    Traces {
        tracer: provider.tracer("test"),
        provider,
        propagator: TraceContextPropagator::new(),
        longest_text: 5,
        broker: address("rabbitmq".to_owned(), 5672).into(),
        database: ["db.namespace", "server.address", "server.port"]
            .map(|name| KeyValue::new(name, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character() {
        let limit = nowhere().longest_text;
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
}
