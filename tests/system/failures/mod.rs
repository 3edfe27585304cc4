//! Servers and networks that fail in the middle of a burst of updates. Whatever it is, all that was
//! answered 2xx takes effect once and in order, and no process needs a restart.

mod burst;
mod hosts;
mod missing_queues;
mod network;
mod partition;
mod postgres;
mod rabbitmq;
mod recovery;
mod storms;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use harness::{
    Fixture, System, answer,
    burst::{Burst, took_effect_once, update},
    eventually, tests_of,
};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::Value;

tests_of!(burst, hosts, missing_queues, network, partition, postgres, rabbitmq, recovery, storms);

pub(crate) const LISTS: [&str; 2] = ["/api/v1/incidents?active=true", "/api/v1/component_status"];

/// Two gateways and two workers, and a burst that is under way. The first gateway and the first
/// worker, which has the partitions at first, get variables of their own.
pub(crate) async fn start(
    mut system: System,
    first_gateway: &[(&str, &str)],
    first_worker: &[(&str, &str)],
) -> Result<(System, Burst)> {
    system.start_worker(first_worker).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(first_gateway).await?;
    system.start_gateway(&[]).await?;
    let burst = Burst::start(&system).await?;
    Ok((system, burst))
}

/// The same on a database and a virtual host of this fixture's servers.
async fn start_on(fixture: &Arc<Fixture>) -> Result<(System, Burst)> {
    start(System::prepared(fixture).await?, &[], &[]).await
}

/// What a gateway reports about itself.
pub(crate) async fn readiness(system: &System, gateway: usize) -> Result<Value> {
    Ok(answer(system.request_to(gateway, Method::GET, "/readyz")).await?.body)
}

/// Waits until a gateway says that it is degraded, with a reason that begins like this.
pub(crate) async fn is_degraded(system: &System, gateway: usize, reason: &str) -> Result<()> {
    eventually(&format!("gateway {gateway} is degraded: {reason}"), async || {
        let ready = readiness(system, gateway).await?;
        let mut reasons = ready["reasons"].as_array().into_iter().flatten();
        let named = reasons.any(|each| each.as_str().is_some_and(|each| each.starts_with(reason)));
        Ok(ready["status"] == "degraded" && named)
    })
    .await
}

/// Every gateway shows its lists. One that takes too long to read, as on a slow machine, is asked for again.
pub(crate) async fn lists_go_on(system: &System) -> Result<()> {
    for gateway in 0..system.gateways.len() {
        for path in LISTS {
            is_shown(system, gateway, path).await?;
        }
    }
    Ok(())
}

/// Waits until a gateway shows a list.
pub(crate) async fn is_shown(system: &System, gateway: usize, path: &str) -> Result<()> {
    eventually(&format!("gateway {gateway} shows {path}"), async || {
        let list = answer(system.request_to(gateway, Method::GET, path)).await?;
        ensure!([200, 503].contains(&list.status), "gateway {gateway}, {path}: {list:?}");
        Ok(list.status == 200)
    })
    .await
}

/// The failure is over: everything comes back by itself, and nothing was lost, doubled or taken out
/// of order.
pub(crate) async fn survived(mut system: System, burst: Burst) -> Result<()> {
    burst.is_decided().await?;
    for gateway in 0..system.gateways.len() {
        eventually(&format!("gateway {gateway} is ready"), async || {
            Ok(readiness(&system, gateway).await?["status"] == "ready")
        })
        .await?;
    }
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    lists_go_on(&system).await?;
    for process in system.gateways.iter_mut().chain(&mut system.workers) {
        ensure!(process.is_running()?, "a process ended: {}", process.log()?);
    }

    // The first worker is whole: it can do the work alone.
    let mut other = system.workers.pop().context("no second worker")?;
    other.signal(Signal::SIGTERM)?;
    let status = other.ended().await?;
    ensure!(status.success(), "{status}: {}", other.log()?);
    for component in 0..harness::burst::COMPONENTS {
        eventually("the first worker decides", async || {
            // Not the longest: the way of an answer may be lost with a connection.
            let answer = system.post_and_wait(10, &update(component)).await?;
            ensure!(answer.status < 300, "{answer:?}");
            Ok(answer.status < 202)
        })
        .await?;
    }
    system.finish().await
}
