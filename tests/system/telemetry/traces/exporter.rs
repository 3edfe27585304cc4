//! Processes with a collector that takes nothing, and without one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use shared::wire::message::REPORTS;
use tokio::{net::TcpListener, time::Instant};

use super::{Collector, PUBLISH, REQUEST, trace_id, within};
use harness::{Fixture, System, answer, eventually, proxy::Proxy, status_update, tests};

tests!(
    without_the_variables_no_header_is_put_on_a_message,
    a_collector_that_takes_nothing_harms_nothing,
    variables_that_cannot_be_used_stop_the_start,
);

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
        let request = within(system.update_to(gateway, &status_update("DNS", 1)), &trace)
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
    ensure!(bodies.iter().all(|body| *body == bodies[0] && body["v"] == REPORTS), "{bodies:?}");
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
        let posted = system.post(&status_update("DNS", 1)).await?;
        ensure!(posted.status == if number == 0 { 201 } else { 200 }, "{posted:?}");
    }
    let lost = "spans are lost: the collector does not take them";
    eventually("the loss is logged", async || Ok(system.gateways[0].log()?.contains(lost))).await?;

    // What the log says of an update has its trace.
    let trace = trace_id(0);
    proxy.cut();
    eventually("an update is not taken", async || {
        Ok(answer(within(system.update(&status_update("DNS", 1)), &trace)).await?.status == 503)
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
