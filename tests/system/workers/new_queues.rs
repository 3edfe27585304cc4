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

/// A change of many queues that gets a signal once some of them are declared; returns what it printed.
async fn signal_while_it_declares(
    fixture: &Fixture,
    system: &System,
    next: &Topology,
    signal: Signal,
) -> Result<String> {
    // All channels of the system pause meanwhile, so that it can't have declared the others before the signal comes.
    // Those of other tests may end while they are asked.
    let (vhost, rabbitmq) = (&system.vhost, fixture.rabbitmq());
    let pause = format!(
        "Channels = [P || P <- rabbit_channel:list(), \
            (catch rabbit_channel:info(P, [vhost])) == [{{vhost, <<\"{vhost}\">>}}]], \
        [catch sys:suspend(P) || P <- Channels], register('pause_{vhost}', self()), \
        receive go_on -> [catch sys:resume(P) || P <- Channels] end"
    );
    once_declared(fixture, &member(system, &next.queue(9)), &pause)?;
    let arguments = ["topology", "change", "--partitions", "300"];
    let log = system.context.folder.join(format!("{vhost}-change.log"));
    let mut command =
        Process::start(&system.context.binaries.worker, &arguments, &system.variables(&[]), log)?;
    let is_paused = format!("whereis('pause_{vhost}') =/= undefined.");
    eventually("it declares", async || Ok(rabbitmq.eval(&is_paused)? == "true")).await?;
    command.signal(signal)?;
    rabbitmq.eval(&format!("'pause_{vhost}' ! go_on."))?;
    ensure!(!command.ended().await?.success(), "it was not stopped");
    command.log()
}

/// Has RabbitMQ do something in the moment in which it starts a queue's member.
fn once_declared(fixture: &Fixture, member: &str, action: &str) -> Result<()> {
    let plant = format!(
        "spawn(fun() -> Wait = fun Wait(0) -> never; Wait(N) -> case whereis({member}) of \
            undefined -> timer:sleep(2), Wait(N - 1); _ -> {action} end end, Wait(60000) end), ok."
    );
    fixture.rabbitmq().eval_to_ok(&plant)
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

async fn what_a_killed_change_left_behind_does_not_hinder_the_next(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let left = Topology { version: 2, ..system.topology().await? };
    let next = Topology { version: 3, ..left };
    signal_while_it_declares(&fixture, &system, &left, Signal::SIGKILL).await?;
    is_unchanged(&system).await?;
    // One that RabbitMQ does not run, as if a node had died.
    fixture.rabbitmq().lose_member(&system.vhost, &left.queue(2))?;
    ensure!(declared(&fixture, &system, 2)?.len() > 10, "it left nothing behind");
    system.is_decided(&status_update("DNS", 1)).await?;

    // With other arguments, and fewer queues.
    let (done, said) = change(&system, &["--partitions", "2", "--queue-limit", "70"]).await?;
    ensure!(done && said.contains("Updates take 2 partitions of at most 70 messages"), "{said}");
    ensure!(!said.contains("remain"), "{said}");
    system.is_decided(&status_update("DNS", 1)).await?;
    let left = declared(&fixture, &system, 2)?;
    ensure!(left.is_empty(), "{left:?} were not deleted");
    let there = declared(&fixture, &system, 3)?;
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
        once_declared(&fixture, &second, &action)?;
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
    let said = signal_while_it_declares(&fixture, &system, &next, Signal::SIGTERM).await?;
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

    // No worker empties the old queues.
    let (done, said) = change(&system, &["--partitions", "2"]).await?;
    ensure!(!done && said.contains("nothing was changed"), "{said}");
    ensure!(said.contains("do workers run?"), "{said}");
    is_unchanged(&system).await?;
    system.start_worker(&[]).await?;
    let (done, said) = change(&system, &["--partitions", "2"]).await?;
    ensure!(done, "{said}");
    ensure!(system.topology().await?.version == 3);
    ensure!(system.waiting(&next.queue(0)).await? == 1, "the message was deleted or consumed");
    fixture.rabbitmq().ctl(&["delete_queue", "-p", &system.vhost, &next.queue(0)])?;
    system.is_decided(&status_update("DNS", 1)).await?;
    system.finish().await
}
