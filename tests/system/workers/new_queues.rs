//! The queues of the next topology are declared and have leaders before anything is changed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use harness::{Fixture, Process, System, eventually, status_update, tests};
use lapin::{BasicProperties, Connection, ConnectionProperties, options::BasicPublishOptions};
use nix::sys::signal::Signal;
use shared::amqp::topology::Topology;
use tokio::time::sleep;

tests!(
    what_a_killed_change_left_behind_does_not_hinder_the_next,
    a_new_queue_without_a_leader_changes_nothing,
    a_change_that_is_stopped_while_it_declares_leaves_nothing_behind,
    queues_that_may_hold_updates_are_not_deleted,
);

async fn change(system: &System, arguments: &[&str]) -> Result<(bool, String)> {
    system.worker_command(&[&["topology", "change"][..], arguments].concat()).await
}

/// A change that continues in the background, and declares for seconds.
fn launch_change(system: &System) -> Result<Process> {
    let arguments = ["topology", "change", "--partitions", "300"];
    let log = system.context.folder.join("change.log");
    Process::start(&system.context.binaries.worker, &arguments, &system.variables(&[]), log)
}

/// The queues and exchanges of a version.
fn declared(fixture: &Fixture, system: &System, version: i32) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for list in ["list_queues", "list_exchanges"] {
        let listed = fixture.rabbitmq().ctl(&[list, "-p", &system.vhost, "name"])?;
        let of_version = |name: &&str| {
            let mut parts = name.split('.');
            parts.next() == Some("sdb") && parts.nth(1) == Some(&format!("v{version}"))
        };
        names.extend(listed.lines().filter(of_version).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

async fn is_unchanged(system: &System) -> Result<()> {
    let query = "SELECT count(*) FROM sdb_topology WHERE version = 1 AND phase = 'open'";
    ensure!(system.count(query).await? == 1, "the record was changed");
    Ok(())
}

/// The name of a queue's member.
fn member(system: &System, queue: &str) -> String {
    format!("'{}_{queue}'", system.vhost)
}

async fn is_declared(fixture: &Fixture, system: &System, queue: &str) -> Result<()> {
    let query = format!("whereis({}) =/= undefined.", member(system, queue));
    eventually("the queue is declared", async || Ok(fixture.rabbitmq().eval(&query)? == "true"))
        .await
}

async fn what_a_killed_change_left_behind_does_not_hinder_the_next(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let next = Topology { version: 2, ..system.topology().await? };
    let mut command = launch_change(&system)?;
    is_declared(&fixture, &system, &next.queue(9)).await?;
    command.signal(Signal::SIGKILL)?;
    command.ended().await?;
    is_unchanged(&system).await?;
    // One that RabbitMQ does not run, as if a node had died.
    let lose = format!(
        "ra:force_delete_server(quorum_queues, {{{}, node()}}).",
        member(&system, &next.queue(2))
    );
    ensure!(fixture.rabbitmq().eval(&lose)? == "ok");
    ensure!(declared(&fixture, &system, 2)?.len() > 10, "it left nothing behind");
    system.is_decided(&status_update("DNS", 1)).await?;

    // With other arguments, and fewer queues.
    let (done, said) = change(&system, &["--partitions", "2", "--queue-limit", "70"]).await?;
    ensure!(done && said.contains("Updates take 2 partitions of at most 70 messages"), "{said}");
    ensure!(!said.contains("remain"), "{said}");
    system.is_decided(&status_update("DNS", 1)).await?;
    let there = declared(&fixture, &system, 2)?;
    let expected = [
        &next.dead_letter_queue(),
        &next.dead_letter_queue(),
        &next.publish_exchange(),
        &next.exchange(),
        &next.queue(0),
        &next.queue(1),
    ];
    ensure!(there.iter().eq(expected), "{there:?}");
    system.finish().await
}

async fn a_new_queue_without_a_leader_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let next = Topology { version: 2, ..system.topology().await? };
    let (first, second) = (member(&system, &next.queue(0)), member(&system, &next.queue(1)));
    for (action, reason) in [
        // RabbitMQ ends the connection, or never answers.
        (
            format!("ra:force_delete_server(quorum_queues, {{{first}, node()}})"),
            "a new queue can't be consumed",
        ),
        (format!("sys:suspend({first})"), "sdb.updates.v2.p0 has no leader"),
    ] {
        // Once it and the next one are declared, while the others are being declared.
        let plant = format!(
            "spawn(fun() -> Wait = fun Wait(0) -> never; Wait(N) -> case whereis({second}) of \
                undefined -> timer:sleep(2), Wait(N - 1); _ -> {action} end end, Wait(20000) end), ok."
        );
        ensure!(fixture.rabbitmq().eval(&plant)? == "ok");
        let has_ended = AtomicBool::new(false);
        let changing = async {
            let changed = change(&system, &["--partitions", "60"]).await;
            has_ended.store(true, Ordering::Relaxed);
            changed
        };
        let posting = async {
            while !has_ended.load(Ordering::Relaxed) {
                let answer = system.post(&status_update("DNS", 1)).await?;
                ensure!([200, 201].contains(&answer.status), "{answer:?}");
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        let (changed, taken): (_, Result<()>) = tokio::join!(changing, posting);
        let (done, said) = changed?;
        ensure!(!done && said.contains(&format!("nothing was changed: {reason}")), "{said}");
        ensure!(!said.contains("remain"), "{said}");
        taken?;
        is_unchanged(&system).await?;
        let left = declared(&fixture, &system, 2)?;
        ensure!(left.is_empty(), "{left:?} are left behind");
    }
    let (done, said) = change(&system, &["--partitions", "60"]).await?;
    ensure!(done, "{said}");
    system.is_decided(&status_update("DNS", 1)).await?;
    system.finish().await
}

async fn a_change_that_is_stopped_while_it_declares_leaves_nothing_behind(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    let next = Topology { version: 2, ..system.topology().await? };
    let mut command = launch_change(&system)?;
    is_declared(&fixture, &system, &next.queue(9)).await?;
    command.signal(Signal::SIGTERM)?;
    ensure!(!command.ended().await?.success(), "it was not stopped");
    let said = command.log()?;
    ensure!(said.contains("nothing was changed: stopped by a signal"), "{said}");
    is_unchanged(&system).await?;
    let left = declared(&fixture, &system, 2)?;
    ensure!(left.is_empty(), "{left:?} are left behind");
    system.finish().await
}

/// As after the database was restored: the next version is in use already.
async fn queues_that_may_hold_updates_are_not_deleted(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "1")]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    ensure!(system.post_with_default_wait(&status_update("DNS", 1)).await?.status == 202);
    let next = Topology { version: 2, partitions: 2, ..system.topology().await? };
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    next.declare_queues(&channel).await?;
    let properties = BasicProperties::default()
        .with_type("topology-marker".into())
        .with_message_id(uuid::Uuid::max().to_string().into());
    let (queue, options) = (next.queue(0), BasicPublishOptions::default());
    channel.basic_publish("".into(), queue.into(), options, b"{}", properties).await?;
    connection.close(200, "done".into()).await?;

    // RabbitMQ refuses the declaration, or no worker empties the old queues.
    for (arguments, reason) in [
        (["--queue-limit", "70"], "PRECONDITION_FAILED"),
        (["--partitions", "2"], "do workers run?"),
    ] {
        let (done, said) = change(&system, &arguments).await?;
        ensure!(!done && said.contains("nothing was changed"), "{said}");
        ensure!(said.contains(reason), "{said}");
        is_unchanged(&system).await?;
        ensure!(system.waiting(&next.queue(0)).await? == 1, "{arguments:?} deleted a message");
    }
    system.start_worker(&[]).await?;
    let (done, said) = change(&system, &["--partitions", "2"]).await?;
    ensure!(done, "{said}");
    eventually("what waited is taken", async || Ok(system.waiting(&next.queue(0)).await? == 0))
        .await?;
    system.is_decided(&status_update("DNS", 1)).await?;
    system.finish().await
}
