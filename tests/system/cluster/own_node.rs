//! The node that a gateway or a worker is connected to fails.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use harness::{Fixture, System, answer, eventually, tests};
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::{ANSWERS_AGAIN, GIVEN_UP, HEALS, Nodes, OnCluster, PARTITIONS, STALL};

tests!(
    the_nodes_of_a_gateway_and_of_a_worker_are_killed,
    the_node_of_a_gateway_stalls,
    the_node_of_a_worker_stalls,
    the_node_of_a_gateway_is_cut_off,
    the_node_of_a_worker_is_cut_off,
);

const ALL: Nodes<'static> = &[0, 1, 2];

/// What a gateway reports about RabbitMQ.
async fn seen_by_gateway(system: &System, gateway: usize) -> Result<Value> {
    let ready = answer(system.request_to(gateway, Method::GET, "/readyz")).await?;
    Ok(ready.body["rabbitmq"].clone())
}

/// What a worker reports about it.
async fn seen_by_worker(system: &System, worker: usize) -> Result<Value> {
    let address = system.workers[worker].admin_address().await?;
    let ready = answer(system.client.get(format!("http://{address}/readyz"))).await?;
    Ok(ready.body["rabbitmq"].clone())
}

/// Waits until a program reports that it uses another node, and why not this one.
async fn uses_another(lost: &str, report: impl AsyncFn() -> Result<Value>) -> Result<()> {
    eventually("another node is used", async || {
        let seen = report().await?;
        let mut not_used = seen["not_used"].as_array().into_iter().flatten();
        let is_named = not_used.any(|node| node["server"] == lost);
        Ok(seen["server"].is_string() && seen["server"] != lost && is_named)
    })
    .await
}

/// The address of the node that a program reports as used, and its index.
fn in_use(on: &OnCluster, seen: &Value) -> Result<(String, usize)> {
    let host = seen["server"].as_str().context("no node is in use")?;
    for index in 0..3 {
        if host == format!("127.0.0.1:{}", on.cluster.node(index)?.port()) {
            return Ok((host.to_owned(), index));
        }
    }
    anyhow::bail!("{host} is no node")
}

async fn the_nodes_of_a_gateway_and_of_a_worker_are_killed(fixture: Arc<Fixture>) -> Result<()> {
    let mut on = OnCluster::start(&fixture, &[ALL], &[ALL]).await?;
    on.load.trouble();
    let (used, node) = in_use(&on, &seen_by_gateway(&on.system, 0).await?)?;
    on.cluster.node(node)?.kill();
    uses_another(&used, async || seen_by_gateway(&on.system, 0).await).await?;
    on.load.burst().is_decided().await?;
    on.cluster.heal(node)?;

    let (used, node) = in_use(&on, &seen_by_worker(&on.system, 0).await?)?;
    let killed = Instant::now();
    on.cluster.node(node)?.kill();
    uses_another(&used, async || seen_by_worker(&on.system, 0).await).await?;
    on.load.burst().is_decided().await?;
    ensure!(killed.elapsed() < ANSWERS_AGAIN, "outcomes came after {:?}", killed.elapsed());
    on.cluster.heal(node)?;
    let after = on.load.elapsed() + ANSWERS_AGAIN;
    let OnCluster { system, load, .. } = on;
    load.finish(&system, after).await?.are_taken_after(0, after)?;
    system.finish().await
}

async fn the_node_of_a_gateway_stalls(fixture: Arc<Fixture>) -> Result<()> {
    let mut on = OnCluster::start(&fixture, &[ALL], &[ALL]).await?;
    on.load.trouble();
    let (used, node) = in_use(&on, &seen_by_gateway(&on.system, 0).await?)?;
    on.cluster.node(node)?.pause();
    uses_another(&used, async || seen_by_gateway(&on.system, 0).await).await?;
    let linked = on.load.elapsed();
    ensure!(linked < ANSWERS_AGAIN, "another node was used after {linked:?}");
    on.load.until(STALL).await;
    on.cluster.heal(node)?;
    let OnCluster { system, load, .. } = on;
    let answers = load.finish(&system, STALL + HEALS).await?;
    // Those of the queues that it led, too: the second connection had published to them before.
    answers.are_taken_after(0, ANSWERS_AGAIN)?;
    system.finish().await
}

async fn the_node_of_a_gateway_is_cut_off(fixture: Arc<Fixture>) -> Result<()> {
    let mut on = OnCluster::start(&fixture, &[ALL, ALL], &[ALL, ALL]).await?;
    let (used, node) = in_use(&on, &seen_by_gateway(&on.system, 0).await?)?;
    let (_, of_other) = in_use(&on, &seen_by_gateway(&on.system, 1).await?)?;
    on.load.trouble();
    on.cluster.cut_off(node)?;
    uses_another(&used, async || seen_by_gateway(&on.system, 0).await).await?;
    let linked = on.load.elapsed();
    ensure!(linked < ANSWERS_AGAIN, "another node was used after {linked:?}");
    let log = on.system.gateways[0].log()?;
    ensure!(log.contains("it took no updates"), "{log}");
    on.load.until(STALL).await;
    on.load.burst().is_decided().await?;
    on.cluster.heal(node)?;
    let OnCluster { system, load, .. } = on;
    let answers = load.finish(&system, STALL + HEALS).await?;
    for gateway in 0..2 {
        answers.are_taken_after(gateway, ANSWERS_AGAIN)?;
    }
    if of_other != node {
        answers.go_on(1, &led_by_others(node))?;
    }
    system.finish().await
}

async fn the_node_of_a_worker_is_cut_off(fixture: Arc<Fixture>) -> Result<()> {
    let mut on = OnCluster::start(&fixture, &[ALL], &[ALL]).await?;
    let (used, node) = in_use(&on, &seen_by_worker(&on.system, 0).await?)?;
    on.load.trouble();
    on.cluster.cut_off(node)?;
    uses_another(&used, async || seen_by_worker(&on.system, 0).await).await?;
    on.load.burst().is_decided().await?;
    let decided = on.load.elapsed();
    ensure!(decided < STALL, "updates were decided after {decided:?}");
    on.load.until(STALL).await;
    on.cluster.heal(node)?;
    let OnCluster { system, load, .. } = on;
    load.finish(&system, STALL + HEALS).await?.are_taken_after(0, ANSWERS_AGAIN)?;
    system.finish().await
}

/// The partitions that a node does not lead.
fn led_by_others(node: usize) -> Vec<u16> {
    (0..PARTITIONS).filter(|partition| usize::from(*partition) != node).collect()
}

async fn the_node_of_a_worker_stalls(fixture: Arc<Fixture>) -> Result<()> {
    let mut on = OnCluster::start(&fixture, &[ALL], &[ALL]).await?;
    on.load.trouble();
    let (used, node) = in_use(&on, &seen_by_worker(&on.system, 0).await?)?;
    on.cluster.node(node)?.pause();
    uses_another(&used, async || seen_by_worker(&on.system, 0).await).await?;
    on.load.burst().is_decided().await?;
    // RabbitMQ has given the other consumer up.
    let decided = on.load.elapsed();
    ensure!(decided < GIVEN_UP, "updates were decided after {decided:?}");
    on.load.until(STALL).await;
    on.cluster.heal(node)?;
    let OnCluster { system, load, .. } = on;
    load.finish(&system, STALL + HEALS).await?;
    system.finish().await
}
