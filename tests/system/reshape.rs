//! The number of partitions is changed while all runs.

use std::sync::Arc;

use anyhow::{Result, ensure};
use lapin::{Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use harness::{
    Fixture, System,
    burst::{Burst, took_effect_once},
    eventually, tests,
};

tests!(
    the_number_of_partitions_changes_in_a_burst_and_nothing_is_lost_or_overtaken,
    a_worker_that_is_killed_while_the_queues_are_emptied_loses_nothing,
    a_change_that_can_not_be_finished_leaves_all_as_it_was,
    a_change_that_was_killed_is_taken_back_by_the_next,
    a_change_to_what_is_there_changes_nothing,
);

fn dns(impact: u8) -> Value {
    json!({ "name": "DNS", "impact": impact })
}

async fn change(system: &System, partitions: &str) -> Result<(bool, String)> {
    system.worker_command(&["topology", "change", "--partitions", partitions]).await
}

async fn shown(system: &System) -> Result<Value> {
    let (done, said) = system.worker_command(&["topology", "show", "--json"]).await?;
    ensure!(done, "{said}");
    Ok(serde_json::from_str(&said)?)
}

async fn the_number_of_partitions_changes_in_a_burst_and_nothing_is_lost_or_overtaken(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    let burst = Burst::start(&system).await?;
    for partitions in ["3", "16", "1"] {
        let (done, said) = change(&system, partitions).await?;
        ensure!(done, "{said}");
        burst.is_decided().await?;
        ensure!(shown(&system).await?["partitions"].to_string() == partitions);
    }
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    system.finish().await
}

async fn a_worker_that_is_killed_while_the_queues_are_emptied_loses_nothing(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_worker(&[]).await?;
    let burst = Burst::start(&system).await?;
    // What the workers hold stays unsettled until one of them is dead.
    let mut held = system.database.begin().await?;
    sqlx::query("SELECT 1 FROM sdb_scope FOR UPDATE").execute(&mut *held).await?;
    burst.is_accepted().await?;
    let killed = async {
        burst.is_refused_by(0, "the number of partitions is being changed").await?;
        system.workers[0].signal(Signal::SIGKILL)?;
        Ok(held.rollback().await?)
    };
    let (changed, killed): (_, Result<()>) = tokio::join!(change(&system, "5"), killed);
    killed?;
    let (done, said) = changed?;
    ensure!(done, "{said}");
    burst.is_decided().await?;
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    system.finish().await
}

async fn a_change_that_can_not_be_finished_leaves_all_as_it_was(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    ensure!(system.post(&dns(1)).await?.status == 201);
    // Nobody empties the queues.
    drop(system.workers.remove(0));
    ensure!(system.post(&dns(2)).await?.status == 202);
    let (changed, refused) = tokio::join!(
        change(&system, "16"),
        eventually("updates are refused meanwhile", async || {
            let answer = system.post(&dns(2)).await?;
            let message = answer.body["message"].as_str().unwrap_or_default();
            let ready = system.get("/readyz").await?;
            Ok(answer.status == 503
                && message.contains("the number of partitions is being changed")
                && ready.body["status"] == "degraded")
        })
    );
    refused?;
    let (done, said) = changed?;
    ensure!(!done && said.contains("nothing was changed, and updates are taken again"), "{said}");
    ensure!(said.contains("do workers run?"), "{said}");
    let shape = shown(&system).await?;
    ensure!(shape["partitions"] == 8 && shape["version"] == 1 && shape["phase"] == "open");
    eventually("updates are taken again", async || Ok(system.post(&dns(2)).await?.status == 202))
        .await?;
    system.start_worker(&[]).await?;
    system.finish().await
}

async fn a_change_that_was_killed_is_taken_back_by_the_next(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    for phase in ["draining", "closed"] {
        system.sql(&format!("UPDATE sdb_topology SET phase = '{phase}'")).await?;
        eventually("updates are refused", async || Ok(system.post(&dns(1)).await?.status == 503))
            .await?;
        let (done, said) = change(&system, "8").await?;
        ensure!(done && said.contains("open again, as they were"), "{said}");
        eventually("updates are decided", async || {
            Ok([200, 201].contains(&system.post(&dns(1)).await?.status))
        })
        .await?;
    }
    // Or finished.
    system.sql("UPDATE sdb_topology SET phase = 'closed'").await?;
    let (done, said) = change(&system, "3").await?;
    ensure!(done, "{said}");
    eventually("updates are decided", async || {
        Ok([200, 201].contains(&system.post(&dns(1)).await?.status))
    })
    .await?;
    system.finish().await
}

async fn a_change_to_what_is_there_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    let (done, said) = change(&system, "8").await?;
    ensure!(done && said.trim() == "That is the shape already.", "{said}");
    let (done, said) = change(&system, "0").await?;
    ensure!(!done && said.contains("0 is not in 1..=1024"), "{said}");

    // All three at once; and nothing of the old stays behind.
    let before = system.topology().await?;
    let arguments = ["topology", "change", "--partitions", "2", "--queue-limit", "70"];
    let (done, said) =
        system.worker_command(&[&arguments[..], &["--prefetch", "5"]].concat()).await?;
    ensure!(done && said.contains("Updates take 2 partitions of at most 70 updates"), "{said}");
    let after = system.topology().await?;
    ensure!((after.partitions, after.queue_limit, after.prefetch) == (2, 70, 5), "{after:?}");
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    for queue in [before.queue(0), before.queue(7), before.dead_letter_queue()] {
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let there = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
        ensure!(there.await.is_err(), "{queue} stays behind");
    }
    connection.close(200, "done".into()).await?;
    // A process whose settings say otherwise does not start.
    let mut worker = system.launch("worker", &[("SDB_PARTITIONS", "8")])?;
    ensure!(!worker.ended().await?.success());
    ensure!(worker.log()?.contains("leave SDB_PARTITIONS unset, or set it to 2"));
    system.workers[0].signal(Signal::SIGTERM)?;
    ensure!(system.workers[0].ended().await?.success());
    system.finish().await
}
