//! Trace context in the headers of requests and messages.

use lapin::types::{AMQPValue, FieldTable};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{SpanContext, TraceContextExt, TraceState},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use super::Traces;
use crate::wire::envelope::TraceContext;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Maximum length in bytes of a client's `tracestate` that is passed on: W3C asks for at least this much.
const MAX_STATE_BYTES: usize = 512;

impl Traces {
    /// The context that headers name.
    pub(super) fn remote(&self, headers: &dyn Extractor) -> Context {
        let named = self.propagator.extract_with_context(&Context::new(), headers);
        let span = named.span();
        let context = span.span_context();
        if context.trace_state().header().len() <= MAX_STATE_BYTES {
            return named;
        }
        // A longer one would go into every message.
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

/// A context in the form in which messages have it.
pub(super) fn written(context: &Context) -> Option<TraceContext> {
    let mut injected = Injected::default();
    TraceContextPropagator::new().inject_context(context, &mut injected);
    let Injected { traceparent, tracestate } = injected;
    Some(TraceContext { traceparent: traceparent?, tracestate })
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

/// A message's headers, to read.
pub(super) struct Headers<'a>(pub(super) &'a FieldTable);

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

/// Receives the headers of a context.
#[derive(Default)]
struct Injected {
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Injector for Injected {
    fn set(&mut self, name: &str, value: String) {
        match name {
            TRACEPARENT => self.traceparent = Some(value),
            // An empty state is left out.
            TRACESTATE if !value.is_empty() => self.tracestate = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::nowhere, *};

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
            let context = nowhere().remote(&Headers(&table));
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
            let traces = nowhere();
            let context = traces.remote(&Headers(&table));
            let entry = written(&context).expect("valid");
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
}
