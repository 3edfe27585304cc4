//! The number of partitions is changed while all runs.

use std::sync::Arc;

use anyhow::{Result, ensure};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::topology_is_changed;
use harness::{
    Fixture, Process, System, answer,
    burst::{Burst, took_effect_once},
    eventually, status_update, tests,
};

tests!(
    the_number_of_partitions_changes_in_a_burst_and_nothing_is_lost_or_overtaken,
    a_worker_that_is_killed_while_the_queues_are_emptied_loses_nothing,
    a_change_that_can_not_be_finished_leaves_all_as_it_was,
    a_change_that_was_killed_is_taken_back_by_the_next,
    a_change_that_is_killed_is_taken_back_by_a_worker,
    a_change_that_stalls_is_taken_back_by_a_worker,
    a_queue_without_a_leader_is_not_deleted,
    a_marker_that_was_left_behind_is_passed_over,
    a_change_to_what_is_there_changes_nothing,
);

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
        topology_is_changed(&system, &["--partitions", partitions]).await?;
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
    let held = system.hold_scope().await?;
    burst.is_accepted().await?;
    let killed = async {
        burst.is_refused_by(0, "the number of partitions is being changed").await?;
        system.workers[0].signal(Signal::SIGKILL)?;
        Ok(held.rollback().await?)
    };
    let changing = topology_is_changed(&system, &["--partitions", "5"]);
    let (changed, killed): (_, Result<()>) = tokio::join!(changing, killed);
    killed?;
    changed?;
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
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    // Nobody empties the queues.
    drop(system.workers.remove(0));
    ensure!(system.post_with_default_wait(&status_update("DNS", 2)).await?.status == 202);
    let (changed, refused) = tokio::join!(
        change(&system, "16"),
        eventually("updates are refused meanwhile", async || {
            let answer = system.post_with_default_wait(&status_update("DNS", 2)).await?;
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
    eventually("updates are taken again", async || {
        Ok(system.post_with_default_wait(&status_update("DNS", 2)).await?.status == 202)
    })
    .await?;
    system.start_worker(&[]).await?;
    system.finish().await
}

async fn a_change_that_was_killed_is_taken_back_by_the_next(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    for phase in ["draining", "closed"] {
        // No worker is there to take it back, nor to empty the queues.
        system.drained().await?;
        drop(system.workers.remove(0));
        system.sql(&format!("UPDATE sdb_topology SET phase = '{phase}'")).await?;
        eventually("updates are refused", async || {
            Ok(system.post_with_default_wait(&status_update("DNS", 1)).await?.status == 503)
        })
        .await?;
        let (done, said) = change(&system, "8").await?;
        ensure!(done && said.contains("open again, as they were"), "{said}");
        system.start_worker(&[]).await?;
        system.is_decided(&status_update("DNS", 1)).await?;
    }
    // Or finished.
    system.drained().await?;
    drop(system.workers.remove(0));
    system.sql("UPDATE sdb_topology SET phase = 'closed'").await?;
    let (done, said) = change(&system, "3").await?;
    ensure!(done, "{said}");
    system.start_worker(&[]).await?;
    system.is_decided(&status_update("DNS", 1)).await?;
    system.finish().await
}

async fn is_recorded(system: &System, condition: &str) -> Result<()> {
    let query = format!("SELECT count(*) FROM sdb_topology WHERE {condition}");
    eventually(
        &format!("the record has {condition}"),
        async || Ok(system.count(&query).await? == 1),
    )
    .await
}

/// A change that continues in the background.
fn launch_change(system: &System, name: &str, partitions: &str) -> Result<Process> {
    let arguments = ["topology", "change", "--partitions", partitions];
    let log = system.context.folder.join(format!("{name}.log"));
    Process::start(&system.context.binaries.worker, &arguments, &system.variables(&[]), log)
}

async fn a_change_that_is_killed_is_taken_back_by_a_worker(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    let burst = Burst::start(&system).await?;
    burst.is_decided().await?;
    // While the queues are emptied: what the worker holds stays unsettled.
    let held = system.hold_scope().await?;
    let command = launch_change(&system, "killed-1", "3")?;
    is_recorded(&system, "phase = 'draining'").await?;
    burst.is_refused_by(0, "the number of partitions is being changed").await?;
    command.signal(Signal::SIGKILL)?;
    held.rollback().await?;
    is_recorded(&system, "phase = 'open' AND version = 1").await?;
    burst.is_decided().await?;

    // While the queues are closed: another consumer keeps them from being proved empty.
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let queue = system.topology().await?.queue(0);
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let _consumer =
        channel.basic_consume(queue.as_str().into(), "other".into(), options, none).await?;
    let command = launch_change(&system, "killed-2", "3")?;
    is_recorded(&system, "phase = 'closed'").await?;
    command.signal(Signal::SIGKILL)?;
    connection.close(200, "done".into()).await?;
    is_recorded(&system, "phase = 'open' AND version = 1").await?;
    burst.is_decided().await?;

    // Once the new ones are recorded: it is done, but for old queues, which are empty.
    let command = launch_change(&system, "killed-3", "3")?;
    is_recorded(&system, "version = 2").await?;
    command.signal(Signal::SIGKILL)?;
    burst.is_decided().await?;
    topology_is_changed(&system, &["--partitions", "5"]).await?;
    burst.is_decided().await?;
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    for process in &mut system.workers {
        ensure!(process.is_running()?, "the worker ended");
    }
    system.finish().await
}

async fn a_change_that_stalls_is_taken_back_by_a_worker(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    let burst = Burst::start(&system).await?;
    let held = system.hold_scope().await?;
    let mut command = launch_change(&system, "stalled", "3")?;
    burst.is_refused_by(0, "the number of partitions is being changed").await?;
    command.signal(Signal::SIGSTOP)?;
    held.rollback().await?;
    is_recorded(&system, "phase = 'open' AND version = 1").await?;
    burst.is_decided().await?;
    // It goes on, and can't do any harm.
    command.signal(Signal::SIGCONT)?;
    ensure!(!command.ended().await?.success(), "it changed something");
    burst.is_decided().await?;
    is_recorded(&system, "phase = 'open' AND version = 1").await?;
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    system.finish().await
}

async fn a_queue_without_a_leader_is_not_deleted(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "1")]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    for _ in 0..7 {
        let accepted =
            answer(system.update(&status_update("DNS", 1)).header("Prefer", "respond-async"))
                .await?;
        ensure!(accepted.status == 202, "{accepted:?}");
    }
    let queue = system.topology().await?.queue(0);
    let leader = |action: &str| -> Result<()> {
        let query = format!(
            "begin {{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{}\">>, queue, <<\"{queue}\">>)),
                ra:{action}_server(quorum_queues, amqqueue:get_pid(Q)) end.",
            system.vhost
        );
        fixture.rabbitmq().eval_to_ok(&query)
    };
    leader("stop")?;
    ensure!(system.waiting(&queue).await? == 0, "it counts, so this shows nothing");
    let (done, said) = change(&system, "3").await?;
    leader("restart")?;
    ensure!(!done && said.contains("nothing was changed, and updates are taken again"), "{said}");
    system.start_worker(&[]).await?;
    eventually("the updates are decided", async || {
        Ok(system.count("SELECT count(*) FROM sdb_inbox").await? == 7)
    })
    .await?;
    // Now that it has one, it can be changed.
    let (done, said) = change(&system, "3").await?;
    ensure!(done, "{said}");
    system.is_decided(&status_update("DNS", 1)).await?;
    system.finish().await
}

async fn a_marker_that_was_left_behind_is_passed_over(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let topology = system.topology().await?;
    for queue in [topology.queue(1), topology.dead_letter_queue()] {
        let properties = BasicProperties::default()
            .with_type("topology-marker".into())
            .with_message_id(uuid::Uuid::max().to_string().into());
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), queue.into(), options, b"{}", properties).await?;
    }
    connection.close(200, "done".into()).await?;
    system.is_decided(&status_update("DNS", 1)).await?;
    // Nothing is parked.
    system.finish().await
}

async fn a_change_to_what_is_there_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    let (done, said) = change(&system, "8").await?;
    ensure!(done && said.trim() == "That is the topology already.", "{said}");
    let (done, said) = change(&system, "0").await?;
    ensure!(!done && said.contains("0 is not in 1..=1024"), "{said}");

    // All three at once; and nothing of the old stays behind.
    let before = system.topology().await?;
    let arguments = ["topology", "change", "--partitions", "2", "--queue-limit", "70"];
    let (done, said) =
        system.worker_command(&[&arguments[..], &["--prefetch", "5"]].concat()).await?;
    ensure!(done && said.contains("Updates take 2 partitions of at most 70 messages"), "{said}");
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
