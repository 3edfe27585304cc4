//! The spans of messages: published, waited for, processed, replied to.

use std::sync::Arc;

use lapin::message::Delivery;
use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt, TraceId},
};
use opentelemetry_sdk::trace::Span;

use super::{
    Traces,
    headers::{self, Headers},
};
use crate::{
    domain::update_id::UpdateId,
    telemetry::metrics::ResultLabel,
    wire::{envelope::TraceContext, message::Verdict},
};

/// The name for what updates are published to: without the version of the topology, which changes.
const UPDATES: &str = "sdb.updates";
/// The name for the reply queues of gateways, whose real names RabbitMQ makes up.
const REPLIES: &str = "sdb.replies";

impl Traces {
    /// The publishing of an update, in the trace of its request.
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

    /// The sending of a reply with this many results, in the trace of the first of them; none if that is not
    /// recorded.
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
        let mut attributes = vec![
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.operation.type", kind),
            KeyValue::new("messaging.destination.template", destination.to_owned()),
        ];
        attributes.extend(self.broker.iter().cloned());
        attributes
    }
}

/// The name of the source of a message. Its exchange is not that of the delivery, which belongs to one link of a
/// gateway, but the one after which the queue is named.
fn destination(queue: &str, key: &str) -> String {
    match queue.strip_suffix(key).and_then(|exchange| exchange.strip_suffix('.')) {
        Some(exchange) => format!("{exchange}:{key}:{queue}"),
        None if key.is_empty() => queue.to_owned(),
        None => format!("{key}:{queue}"),
    }
}

pub(super) fn count(messages: usize) -> KeyValue {
    let count = i64::try_from(messages).unwrap_or(i64::MAX);
    KeyValue::new("messaging.batch.message_count", count)
}

/// An update that is being published.
pub struct Publishing(Context);

impl Publishing {
    /// Its trace context, to be sent with the message.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        headers::written(&self.0)
    }

    /// Ends the span: RabbitMQ has confirmed the update, or `error` says why not.
    pub fn end(self, error: Option<String>) {
        let span = self.0.span();
        if let Some(error) = error {
            span.set_attribute(KeyValue::new("error.type", error));
            span.set_status(Status::error("not confirmed"));
        }
        span.end();
    }
}

/// The wait for an outcome. If it is dropped, none arrived in time.
pub struct Waiting(Span);

impl Waiting {
    /// Ends the span: the outcome has arrived.
    pub fn end(mut self, verdict: &Verdict) {
        self.0.set_attributes(answer_attributes(verdict));
        self.0.end();
    }
}

/// A message that is being processed: from its receipt to its acknowledgement.
#[derive(Debug)]
pub struct Processing {
    pub(super) context: Context,
    /// The context that the message came with; invalid if there was none.
    creation: SpanContext,
}

impl Processing {
    /// Its trace, for the log.
    #[must_use]
    pub fn id(&self) -> Option<TraceId> {
        super::id(&self.context)
    }

    /// Adds what became of the update.
    pub fn decided(&self, verdict: &Verdict) {
        self.context.span().set_attributes(answer_attributes(verdict));
    }

    /// Ends the span: the update is committed, and its reply is on its way. The acknowledgement follows.
    pub fn settled(&self) {
        self.context.span().end();
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.context.span().span_context().is_sampled()
    }

    /// The context that the span of the transaction links to.
    pub(super) fn creation(&self) -> SpanContext {
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

/// A reply that is being sent.
pub struct Replying(Span);

impl Replying {
    /// Ends the span: RabbitMQ did not accept the reply.
    pub fn failed(mut self) {
        self.0.set_attribute(KeyValue::new("error.type", "_OTHER"));
        self.0.set_status(Status::error("not sent"));
    }
}

/// The attributes of a verdict.
fn answer_attributes(verdict: &Verdict) -> Vec<KeyValue> {
    let outcome = ResultLabel::from(verdict).word();
    let reason = match verdict {
        Verdict::Decided { reason, .. } | Verdict::Repeated { reason, .. } => {
            Some(KeyValue::new("sdb.reason", reason.word()))
        }
        Verdict::Rejected { .. } | Verdict::Parked => None,
    };
    let incident = verdict.incident().map(|id| KeyValue::new("sdb.incident.id", i64::from(id.0)));
    [Some(KeyValue::new("sdb.outcome", outcome)), reason, incident].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
