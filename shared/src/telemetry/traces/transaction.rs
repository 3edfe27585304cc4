//! The spans of a batch's transaction.

use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    trace::{Link, Span as _, SpanKind, Status, Tracer},
};
use opentelemetry_sdk::trace::Span;

use super::{
    Traces,
    messages::{Processing, count},
};

const TRANSACTION: &str = "transaction";

impl Traces {
    /// The transaction of a batch of this many messages, of which these are traced; none if none of their traces
    /// is recorded.
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
}

/// A transaction in progress. Its span is in the first of the traces. Each other trace gets a span that stands for
/// it when it is committed, because the database ran it once.
pub struct Transaction<'a> {
    traces: &'a Traces,
    began: std::time::SystemTime,
    span: Span,
    others: Vec<Arc<Processing>>,
}

impl Transaction<'_> {
    /// Ends the spans: it is committed.
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

    /// Ends the span: it failed, with this SQLSTATE if the database answered.
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
