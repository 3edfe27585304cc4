//! The node that a gateway or a worker is connected to fails.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use harness::{Fixture, Process, System, answer, eventually, tests};
use reqwest::Method;
use serde_json::Value;

use super::{GIVEN_UP, Nodes, OnCluster, PARTITIONS};
use crate::telemetry::Scrape;

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

/// Waits until a gateway has one, on another node.
async fn has_a_second_connection(gateway: &Process) -> Result<()> {
    eventually("the second connection is ready", async || {
        Ok(gateway.log()?.contains("the second connection to RabbitMQ is ready"))
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
    on.load.is_taken_again().await?;
    on.load.burst().is_decided().await?;
    on.cluster.heal(node)?;

    let (used, node) = in_use(&on, &seen_by_worker(&on.system, 0).await?)?;
    on.cluster.node(node)?.kill();
    uses_another(&used, async || seen_by_worker(&on.system, 0).await).await?;
    let address = on.system.workers[0].admin_address().await?;
    eventually("the worker counts the node", async || {
        let scrape = Scrape::of(&on.system, &address).await?;
        Ok(scrape.sum("sdb_rabbitmq_nodes_unreachable", &[]) >= 1.0)
    })
    .await?;
    on.load.burst().is_decided().await?;
    let again = on.load.is_taken_again().await?;
    on.cluster.heal(node)?;
    let OnCluster { system, load, .. } = on;
    load.finish(&system).await?.are_taken_since(again)?;
    system.finish().await
}

async fn the_node_of_a_gateway_stalls(fixture: Arc<Fixture>) -> Result<()> {
    let mut on = OnCluster::start(&fixture, &[ALL], &[ALL]).await?;
    has_a_second_connection(&on.system.gateways[0]).await?;
    // RabbitMQ does nothing about it for longer than the test waits.
    on.cluster.give_up_after(120)?;
    on.load.trouble();
    let (used, node) = in_use(&on, &seen_by_gateway(&on.system, 0).await?)?;
    on.cluster.node(node)?.pause();
    uses_another(&used, async || seen_by_gateway(&on.system, 0).await).await?;
    // Those of the queues that it led, too: the second connection had published to them before.
    let again = on.load.is_taken_again().await?;
    on.cluster.heal(node)?;
    on.load.burst().is_decided().await?;
    let OnCluster { system, load, .. } = on;
    load.finish(&system).await?.are_taken_since(again)?;
    system.finish().await
}

async fn the_node_of_a_gateway_is_cut_off(fixture: Arc<Fixture>) -> Result<()> {
    let mut on = OnCluster::start(&fixture, &[ALL, ALL], &[ALL, ALL]).await?;
    has_a_second_connection(&on.system.gateways[0]).await?;
    let (used, node) = in_use(&on, &seen_by_gateway(&on.system, 0).await?)?;
    let (_, of_other) = in_use(&on, &seen_by_gateway(&on.system, 1).await?)?;
    on.load.trouble();
    on.cluster.cut_off(node)?;
    uses_another(&used, async || seen_by_gateway(&on.system, 0).await).await?;
    let log = on.system.gateways[0].log()?;
    ensure!(log.contains("it took no updates, and another node did"), "{log}");
    let again = on.load.is_taken_again().await?;
    on.load.burst().is_decided().await?;
    on.load.until(GIVEN_UP).await;
    on.cluster.heal(node)?;
    let OnCluster { system, load, .. } = on;
    let answers = load.finish(&system).await?;
    answers.are_taken_since(again)?;
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
    let again = on.load.is_taken_again().await?;
    on.load.burst().is_decided().await?;
    on.cluster.heal(node)?;
    let OnCluster { system, load, .. } = on;
    load.finish(&system).await?.are_taken_since(again)?;
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
    // Once RabbitMQ has given the other consumer up.
    on.load.burst().is_decided().await?;
    on.load.until(GIVEN_UP).await;
    on.cluster.heal(node)?;
    let OnCluster { system, load, .. } = on;
    load.finish(&system).await?;
    system.finish().await
}
