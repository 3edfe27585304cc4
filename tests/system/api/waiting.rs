//! Updates whose outcome does not come: nobody waits for it in vain for long, and everybody does again
//! once outcomes come.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{Answer, Fixture, System, answer, eventually, tests};
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

tests!(
    without_a_worker_updates_are_soon_answered_at_once,
    a_gateway_that_was_idle_waits_for_the_outcome,
    a_late_outcome_ends_the_silence,
    a_partition_without_a_worker_holds_up_no_other,
    a_reconnected_gateway_waits_for_outcomes_again,
);

const COMPONENTS: usize = 24;
/// How long a gateway waits for the outcome unless its client says something else.
const DEFAULT_WAIT: Duration = Duration::from_millis(1_500);

fn update(component: usize) -> Value {
    json!({ "name": format!("Service {component}"), "impact": 1 })
}

/// A gateway that knows the components 1 to 24, of which each eighth is in one partition.
async fn start(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system = System::prepared(fixture).await?;
    system.start_gateway(&[]).await?;
    let names: Vec<String> = (1..=COMPONENTS).map(|number| format!("Service {number}")).collect();
    let components: Vec<(&str, &[(&str, &str)])> =
        names.iter().map(|name| (name.as_str(), &[][..])).collect();
    system.components(&components).await?;
    Ok(system)
}

fn is_decided(answer: &Answer) -> bool {
    [200, 201].contains(&answer.status)
}

fn is_pending(answer: &Answer) -> Result<()> {
    ensure!(answer.status == 202 && answer.body["state"] == "pending", "{answer:?}");
    Ok(())
}

/// Updates that were answered at once since no outcomes came.
async fn not_awaited(system: &System) -> Result<u64> {
    let metrics = answer(system.request_to(0, Method::GET, "/metrics")).await?.body;
    let mut lines = metrics.as_str().unwrap_or_default().lines();
    let value = lines.find_map(|line| line.strip_prefix("sdb_updates_not_awaited_total "));
    Ok(value.context("the metric is not there")?.parse()?)
}

/// The outcome of an update is waited for, and comes. A 202 after the default wait says nothing: the outcome was
/// waited for and is late. Then the next one is tried, once outcomes have come.
async fn is_waited_for(system: &System, component: usize) -> Result<()> {
    eventually("the outcome comes in time", async || {
        let began = Instant::now();
        let answer = system.post_with_default_wait(&update(component)).await?;
        if is_decided(&answer) {
            return Ok(true);
        }
        is_pending(&answer)?;
        let took = began.elapsed();
        ensure!(took >= DEFAULT_WAIT, "{component} is answered after {took:?}: {answer:?}");
        let patient = system.post(&update(component)).await?;
        ensure!(is_decided(&patient), "{patient:?}");
        Ok(false)
    })
    .await
}

/// Each component gets outcomes, at first now and then, and then always.
async fn outcomes_come(system: &System) -> Result<()> {
    for component in 1..=COMPONENTS {
        eventually("the outcome is waited for", async || {
            let answer = system.post_with_default_wait(&update(component)).await?;
            ensure!(answer.status < 300, "{answer:?}");
            Ok(is_decided(&answer))
        })
        .await?;
    }
    let before = not_awaited(system).await?;
    for component in 1..=COMPONENTS {
        is_waited_for(system, component).await?;
    }
    ensure!(not_awaited(system).await? == before);
    Ok(())
}

async fn without_a_worker_updates_are_soon_answered_at_once(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = start(&fixture).await?;
    // Two or three wait for 1.5 s each.
    for number in 0..40 {
        let update = update(number % COMPONENTS + 1);
        is_pending(&system.post_with_default_wait(&update).await?)?;
    }
    let at_once = not_awaited(&system).await?;
    ensure!((35..40).contains(&at_once), "{at_once} were answered at once");

    // One that says how long it waits does so, and one that does not wait does not.
    let began = Instant::now();
    let waited = answer(system.update(&update(1)).header("Prefer", "wait=3")).await?;
    is_pending(&waited)?;
    ensure!(waited.header("preference-applied") == "wait=3", "{waited:?}");
    ensure!(began.elapsed() > Duration::from_millis(2_900), "it took {:?}", began.elapsed());
    is_pending(&answer(system.update(&update(1)).header("Prefer", "respond-async")).await?)?;
    ensure!(not_awaited(&system).await? == at_once);

    system.start_worker(&[]).await?;
    outcomes_come(&system).await?;
    system.drained().await?;
    system.finish().await
}

async fn a_gateway_that_was_idle_waits_for_the_outcome(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = start(&fixture).await?;
    sleep(Duration::from_secs(3)).await;
    system.start_worker(&[]).await?;
    for component in 1..=COMPONENTS {
        is_waited_for(&system, component).await?;
    }
    // Nor do outcomes that nobody asked for make it stop.
    for _ in 0..3 {
        let left = answer(system.update(&update(1)).header("Prefer", "respond-async")).await?;
        is_pending(&left)?;
        sleep(Duration::from_secs(1)).await;
        is_waited_for(&system, 1).await?;
    }
    ensure!(not_awaited(&system).await? == 0);
    system.finish().await
}

async fn a_late_outcome_ends_the_silence(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = start(&fixture).await?;
    is_pending(&system.post_with_default_wait(&update(1)).await?)?;
    system.start_worker(&[]).await?;
    system.drained().await?;
    // Its client left long ago. The reply comes before that to a later update, which is of another partition: it
    // does not end the silence of this one.
    let later = system.post(&update(2)).await?;
    ensure!(is_decided(&later), "{later:?}");
    is_waited_for(&system, 1).await?;
    ensure!(not_awaited(&system).await? == 0);
    system.finish().await
}

async fn a_partition_without_a_worker_holds_up_no_other(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = start(&fixture).await?;
    // Consumed by somebody who does nothing with it, as by a worker that hangs.
    let queue = system.topology().await?.queue(1);
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let _hanging = channel.basic_consume(queue.into(), "hanging".into(), options, none).await?;
    system.start_worker(&[]).await?;

    // One component of it, then two, then a third: no other partition is taken for silent.
    for silent in [1, 9, 17] {
        let before = not_awaited(&system).await?;
        for _ in 0..10 {
            is_pending(&system.post_with_default_wait(&update(silent)).await?)?;
            for component in [2, 3, 8, 16] {
                let awaited = is_waited_for(&system, component).await;
                awaited.with_context(|| format!("beside {silent}"))?;
            }
        }
        let at_once = not_awaited(&system).await? - before;
        ensure!(at_once >= 5, "of 10 updates of {silent}, {at_once} were answered at once");
    }
    connection.close(200, "done".into()).await?;
    outcomes_come(&system).await?;
    system.drained().await?;
    system.finish().await
}

async fn a_reconnected_gateway_waits_for_outcomes_again(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_servers()?;
    let mut system = start(&own).await?;
    eventually("no outcome is waited for any more", async || {
        let before = not_awaited(&system).await?;
        for component in [1, 2] {
            is_pending(&system.post_with_default_wait(&update(component)).await?)?;
        }
        Ok(not_awaited(&system).await? == before + 2)
    })
    .await?;
    let before = not_awaited(&system).await?;
    // What the replies to those were to go to is gone.
    own.rabbitmq().stop();
    own.rabbitmq().start()?;
    eventually("RabbitMQ is there again", async || {
        let ready = answer(system.request_to(0, Method::GET, "/readyz")).await?;
        Ok(ready.body["status"] == "ready")
    })
    .await?;
    system.start_worker(&[]).await?;
    system.drained().await?;
    for component in 1..=COMPONENTS {
        is_waited_for(&system, component).await?;
    }
    ensure!(not_awaited(&system).await? == before);
    system.finish().await
}
