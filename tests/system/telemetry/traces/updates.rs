//! The trace of an update, from the request to the reply.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::Method;
use serde_json::json;

use super::{CLIENT, Collector, PROCESS, PUBLISH, REQUEST, Span, trace_id, within};
use harness::{Fixture, System, answer, eventually, proxy::Proxy, status_update, tests};

tests!(
    one_trace_leads_from_the_request_to_the_reply,
    an_alert_has_a_trace,
    a_batch_is_linked_to_the_messages_of_all_its_traces,
    a_redelivered_update_stays_in_its_trace,
    an_update_that_is_parked_is_logged_with_its_trace,
);

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

const WAIT: &str = "wait for the outcome";

const TRANSACTION: &str = "transaction";

const REPLY: &str = "publish sdb.replies";

async fn an_alert_has_a_trace(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&collector.variables()).await?;
    system.start_gateway(&collector.variables()).await?;
    system.components(&[("DNS", &[])]).await?;
    let alert = json!({ "status": "firing", "labels": { "component": "DNS" } });
    let bodies = [
        ("/alertmanager/api/v2/alerts", json!([alert])),
        ("/alertmanager/webhook", json!({ "version": "4", "alerts": [alert] })),
    ];
    for (number, (path, body)) in (0..).zip(bodies) {
        let trace = trace_id(number);
        let posted = system.request_to(0, Method::POST, path).bearer_auth(&system.token);
        ensure!(answer(within(posted.json(&body), &trace)).await?.status == 200);
        let request = format!("POST {path}");
        let spans = collector.wait_for(&trace, &[&request, PUBLISH, PROCESS]).await?;
        ensure!(named(&spans, &request)?.parent == CLIENT, "{spans:#?}");
        ensure!(named(&spans, PUBLISH)?.parent == named(&spans, &request)?.id, "{spans:#?}");
    }
    system.finish().await
}

async fn one_trace_leads_from_the_request_to_the_reply(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&collector.variables()).await?;
    system.start_gateway(&collector.variables()).await?;
    system.components(&[("DNS", &[])]).await?;
    // Connections that are opened for the first request would show in the times.
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);

    let trace = trace_id(0);
    let posted =
        within(system.update(&status_update("DNS", 2)), &trace).header("tracestate", "vendor=1");
    let posted = answer(posted.header("Prefer", "wait=30")).await?;
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
    let posted = system.update(&status_update("DNS", 2)).header("traceparent", header);
    ensure!(answer(posted.header("Prefer", "wait=30")).await?.status == 200);
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

/// The spans of the processing of an update that was acknowledged, and of its transaction. Before them there may be
/// others that failed: a slow machine may let a lock be waited for too long, or a membership expire.
fn committed(spans: &[Span]) -> Option<(&Span, &Span)> {
    let process = spans.iter().find(|span| span.name == PROCESS && !span.failed)?;
    let is_of_it = |span: &&Span| span.name == TRANSACTION && span.parent == process.id;
    let transaction = spans.iter().filter(is_of_it).find(|span| !span.failed)?;
    Some((process, transaction))
}

async fn a_batch_is_linked_to_the_messages_of_all_its_traces(fixture: Arc<Fixture>) -> Result<()> {
    let collector = Collector::start().await?;
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&collector.variables()).await?;
    system.start_gateway(&collector.variables()).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let scope = system.hold_scope().await?;
    // The first is in a transaction that waits, and the others come together after it.
    let traces: Vec<String> = (0..200).map(trace_id).collect();
    for (number, trace) in traces.iter().enumerate() {
        let update = json!({ "name": if number % 2 == 0 { "DNS" } else { "CDN" }, "impact": 1 });
        let request = within(system.update(&update), trace).header("Prefer", "respond-async");
        ensure!(answer(request).await?.status == 202);
        if number == 0 {
            system.waits_for_a_lock().await?;
        }
    }
    scope.rollback().await?;

    let (mut published, mut transactions, mut standing) = (Vec::new(), Vec::new(), Vec::new());
    for trace in &traces {
        collector.wait_for(trace, &[PUBLISH, PROCESS, TRANSACTION]).await?;
        eventually(&format!("trace {trace} has what was committed"), async || {
            Ok(committed(&collector.trace(trace)).is_some())
        })
        .await?;
        let spans = collector.trace(trace);
        let (process, transaction) = committed(&spans).context("it was there")?;
        let publish = named(&spans, PUBLISH)?;
        ensure!(process.parent == publish.id, "{spans:#?}");
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
    // The span of the one that is killed never leaves it, however late the kill comes.
    let no_export = ("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    system.start_worker(&[endpoint, no_export, ("SDB_AMQP_URI", proxy.uri())]).await?;
    system.start_gateway(&[endpoint, delay]).await?;
    system.components(&[("DNS", &[])]).await?;

    let scope = system.hold_scope().await?;
    let trace = trace_id(0);
    let request =
        within(system.update(&status_update("DNS", 1)), &trace).header("Prefer", "respond-async");
    let accepted = answer(request).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    system.waits_for_a_lock().await?;
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
    let scope = system.hold_scope().await?;
    let trace = trace_id(0);
    let request =
        within(system.update(&status_update("DNS", 1)), &trace).header("Prefer", "respond-async");
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
