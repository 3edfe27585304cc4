//! The network between a process and a server fails, and the server is well.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use harness::{Fixture, Process, System, answer, burst::Burst, eventually, proxy::Proxy, tests};
use nix::sys::signal::Signal;
use reqwest::Method;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, timeout},
};

use super::{LISTS, is_degraded, lists_go_on, start, survived};

tests!(
    a_gateway_is_cut_off_from_rabbitmq,
    a_gateway_hears_nothing_from_rabbitmq,
    a_gateway_is_far_from_rabbitmq,
    a_gateways_connections_to_rabbitmq_are_reset,
    a_worker_is_cut_off_from_rabbitmq,
    a_worker_hears_nothing_from_rabbitmq,
    a_worker_is_far_from_rabbitmq,
    a_workers_connections_to_rabbitmq_are_reset,
    a_worker_hears_nothing_from_postgres,
    a_gateway_hears_nothing_from_postgres,
    a_worker_that_is_being_set_up_hears_a_stop,
    a_gateway_that_is_being_set_up_hears_a_stop,
);

/// A burst with a proxy between the first gateway and RabbitMQ.
async fn gateway_behind_proxy(fixture: &Arc<Fixture>) -> Result<(System, Burst, Proxy)> {
    let system = System::prepared(fixture).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    let (system, burst) = start(system, &[("SDB_AMQP_URI", proxy.uri())], &[]).await?;
    Ok((system, burst, proxy))
}

/// A burst with a proxy between the first worker and RabbitMQ.
async fn worker_behind_proxy(fixture: &Arc<Fixture>) -> Result<(System, Burst, Proxy)> {
    let system = System::prepared(fixture).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    let (system, burst) = start(system, &[], &[("SDB_AMQP_URI", proxy.uri())]).await?;
    Ok((system, burst, proxy))
}

/// The first gateway refuses updates and says why; the other one goes on.
async fn first_gateway_refuses(system: &System, burst: &Burst) -> Result<()> {
    burst.is_refused_by(0, "RabbitMQ can't be reached").await?;
    is_degraded(system, 0, "RabbitMQ can't be reached").await?;
    lists_go_on(system).await?;
    burst.is_decided_by(1).await
}

async fn a_gateway_is_cut_off_from_rabbitmq(fixture: Arc<Fixture>) -> Result<()> {
    let (system, burst, proxy) = gateway_behind_proxy(&fixture).await?;
    proxy.cut();
    first_gateway_refuses(&system, &burst).await?;
    proxy.pass();
    survived(system, burst).await
}

async fn a_gateway_hears_nothing_from_rabbitmq(fixture: Arc<Fixture>) -> Result<()> {
    let (system, burst, proxy) = gateway_behind_proxy(&fixture).await?;
    proxy.silence();
    // At first nobody knows, then the heartbeats are missed.
    burst.is_unknown_to(0).await?;
    first_gateway_refuses(&system, &burst).await?;
    proxy.pass();
    survived(system, burst).await
}

async fn a_gateway_is_far_from_rabbitmq(fixture: Arc<Fixture>) -> Result<()> {
    let (system, burst, proxy) = gateway_behind_proxy(&fixture).await?;
    proxy.delay(Duration::from_millis(100));
    burst.is_decided().await?;
    // So far that no confirm comes in time.
    proxy.delay(Duration::from_secs(2));
    burst.is_unknown_to(0).await?;
    burst.is_decided_by(1).await?;
    proxy.pass();
    survived(system, burst).await
}

async fn a_gateways_connections_to_rabbitmq_are_reset(fixture: Arc<Fixture>) -> Result<()> {
    let (system, burst, proxy) = gateway_behind_proxy(&fixture).await?;
    for times in 1..=3 {
        proxy.reset();
        eventually("the gateway notices", async || {
            Ok(system.gateways[0].log()?.matches("to RabbitMQ is given up").count() >= times)
        })
        .await?;
        burst.is_decided().await?;
    }
    survived(system, burst).await
}

async fn a_worker_is_cut_off_from_rabbitmq(fixture: Arc<Fixture>) -> Result<()> {
    let (system, burst, proxy) = worker_behind_proxy(&fixture).await?;
    proxy.cut();
    consumes_no_more(&system, 1).await?;
    burst.is_decided().await?;
    proxy.pass();
    consumes_again(&system).await?;
    survived(system, burst).await
}

async fn a_worker_hears_nothing_from_rabbitmq(fixture: Arc<Fixture>) -> Result<()> {
    let (system, burst, proxy) = worker_behind_proxy(&fixture).await?;
    proxy.silence();
    burst.is_accepted().await?;
    // RabbitMQ misses the heartbeats and gives the partitions to the other worker.
    burst.is_decided().await?;
    consumes_no_more(&system, 1).await?;
    proxy.pass();
    consumes_again(&system).await?;
    survived(system, burst).await
}

async fn a_worker_is_far_from_rabbitmq(fixture: Arc<Fixture>) -> Result<()> {
    let (system, burst, proxy) = worker_behind_proxy(&fixture).await?;
    proxy.delay(Duration::from_millis(100));
    burst.is_decided().await?;
    proxy.delay(Duration::from_secs(2));
    burst.is_accepted().await?;
    proxy.pass();
    survived(system, burst).await
}

async fn a_workers_connections_to_rabbitmq_are_reset(fixture: Arc<Fixture>) -> Result<()> {
    let (system, burst, proxy) = worker_behind_proxy(&fixture).await?;
    for times in 1..=3 {
        proxy.reset();
        consumes_no_more(&system, times).await?;
        burst.is_decided().await?;
        consumes_again(&system).await?;
    }
    survived(system, burst).await
}

/// Waits until the first worker's sessions have ended so often.
async fn consumes_no_more(system: &System, times: usize) -> Result<()> {
    eventually("the worker notices", async || {
        Ok(system.workers[0].log()?.matches("consuming stopped; unacknowledged messages").count()
            >= times)
    })
    .await
}

/// Waits until the first worker's last session, too, consumes.
async fn consumes_again(system: &System) -> Result<()> {
    eventually("the worker consumes again", async || {
        let log = system.workers[0].log()?;
        let last =
            log.rsplit("consuming stopped; unacknowledged messages").next().unwrap_or_default();
        Ok(last.contains("\"consuming\""))
    })
    .await
}

async fn a_worker_hears_nothing_from_postgres(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let proxy = Proxy::before(&system.database_uri).await?;
    let (system, burst) = start(system, &[], &[("SDB_DATABASE_URI", proxy.uri())]).await?;
    proxy.silence();
    burst.is_accepted().await?;
    // The other worker gets the partitions.
    burst.is_decided().await?;
    proxy.pass();
    survived(system, burst).await
}

async fn a_gateway_hears_nothing_from_postgres(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let proxy = Proxy::before(&system.database_uri).await?;
    let (system, burst) = start(system, &[("SDB_DATABASE_URI", proxy.uri())], &[]).await?;
    proxy.silence();
    burst.is_accepted_by(0).await?;
    is_degraded(&system, 0, "PostgreSQL can't be reached").await?;
    for path in LISTS {
        let list = answer(system.request_to(0, Method::GET, path)).await?;
        ensure!(list.status == 503 && list.header("retry-after") == "1", "{path}: {list:?}");
    }
    burst.is_decided_by(1).await?;
    proxy.pass();
    survived(system, burst).await
}

/// How often a process is stopped while it is set up. One that hears it ends soon, but for the pauses of a slow
/// machine; one that does not is late each time.
const STOPS: usize = 3;

/// Sends SIGTERM to a process that is not set up yet. Returns whether it ends soon: in less time than it takes to miss
/// heartbeats, which would end the set-up, too.
async fn ends_soon(mut process: Process, set_up: &str) -> Result<bool> {
    // One that is set up already shows nothing.
    let shows = !process.log()?.contains(set_up);
    let began = Instant::now();
    process.signal(Signal::SIGTERM)?;
    ensure!(process.ended().await?.success(), "{}", process.log()?);
    Ok(shows && began.elapsed() < Duration::from_secs(3))
}

/// Starts a program whose RabbitMQ never says anything; returns whether it ends soon while it connects.
async fn ends_soon_while_it_connects(system: &mut System, program: &str) -> Result<bool> {
    let good = format!("127.0.0.1:{}", system.context.rabbitmq().port());
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let uri = system.amqp_uri.replace(&good, &silent.local_addr()?.to_string());
    let process = system.launch(program, &[("SDB_AMQP_URI", &uri)])?;
    // It hears signals before it connects.
    let _connection = timeout(Duration::from_secs(30), silent.accept()).await??;
    ends_soon(process, CONNECTED).await
}

/// What a gateway and a worker log when they are set up.
const CONNECTED: &str = "connected to RabbitMQ";
const CONSUMING: &str = "\"consuming\"";

/// One of several tries shows it.
async fn one_of_several(mut try_once: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..STOPS {
        if try_once().await? {
            return Ok(());
        }
    }
    anyhow::bail!("it never ended soon while it was set up")
}

async fn a_worker_that_is_being_set_up_hears_a_stop(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    one_of_several(async || ends_soon_while_it_connects(&mut system, "worker").await).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    one_of_several(async || {
        // While it declares the queues.
        proxy.delay(Duration::from_millis(50));
        let worker = system.launch("worker", &[("SDB_AMQP_URI", proxy.uri())])?;
        eventually("it has joined", async || Ok(worker.log()?.contains("\"joined\""))).await?;
        proxy.silence();
        ends_soon(worker, CONSUMING).await
    })
    .await?;
    system.finish().await
}

async fn a_gateway_that_is_being_set_up_hears_a_stop(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    one_of_several(async || ends_soon_while_it_connects(&mut system, "gateway").await).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    one_of_several(async || {
        proxy.delay(Duration::from_millis(50));
        system.start_gateway_unready(&[("SDB_AMQP_URI", proxy.uri())]).await?;
        // In the middle: each answer of RabbitMQ takes 100 ms.
        sleep(Duration::from_millis(400)).await;
        proxy.silence();
        system.addresses.clear();
        ends_soon(system.gateways.remove(0), CONNECTED).await
    })
    .await?;
    system.finish().await
}
