//! Somebody deletes or unbinds what updates pass through. No update that no queue takes is answered
//! 2xx, and all is declared again by itself.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{ExchangeDeleteOptions, QueueDeleteOptions},
    types::FieldTable,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use shared::amqp::topology::Topology;
use tokio::time::sleep;
use uuid::Uuid;

use harness::{
    Fixture, System, answer,
    burst::{Burst, took_effect_once},
    eventually, tests,
    verdict::Answered,
};

tests!(
    no_update_is_taken_that_no_queue_takes,
    what_is_unbound_is_bound_again_while_nothing_is_sent,
    no_update_of_a_burst_is_lost_when_its_queue_is_unbound,
    an_update_requeued_without_a_queue_stays_parked,
);

/// Something that somebody does to RabbitMQ.
#[derive(Clone, Copy, Debug)]
enum Damage {
    AllQueuesDeleted,
    PartitionDeleted,
    PartitionUnbound,
    PublishExchangeDeleted,
    UpdatesExchangeDeleted,
    AllExchangesDeleted,
}

async fn delete_queue(channel: &Channel, queue: String) -> Result<()> {
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    Ok(())
}

async fn delete_exchange(channel: &Channel, exchange: String) -> Result<()> {
    Ok(channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?)
}

async fn unbind(channel: &Channel, queue: String, exchange: String, key: &str) -> Result<()> {
    let none = FieldTable::default();
    Ok(channel.queue_unbind(queue.into(), exchange.into(), key.into(), none).await?)
}

impl Damage {
    async fn done_to(self, channel: &Channel, topology: &Topology) -> Result<()> {
        match self {
            Self::AllQueuesDeleted => {
                for partition in 0..topology.partitions {
                    delete_queue(channel, topology.queue(partition)).await?;
                }
                delete_queue(channel, topology.dead_letter_queue()).await
            }
            Self::PartitionDeleted => delete_queue(channel, topology.queue(0)).await,
            Self::PartitionUnbound => {
                let (queue, key) = (topology.queue(0), topology.routing_key(0));
                unbind(channel, queue, topology.publish_exchange(), &key).await
            }
            Self::PublishExchangeDeleted => {
                delete_exchange(channel, topology.publish_exchange()).await
            }
            Self::UpdatesExchangeDeleted => delete_exchange(channel, topology.exchange()).await,
            Self::AllExchangesDeleted => {
                delete_exchange(channel, topology.publish_exchange()).await?;
                delete_exchange(channel, topology.exchange()).await?;
                delete_exchange(channel, topology.dead_letter_queue()).await
            }
        }
    }

    /// Whether it takes the updates along that wait.
    const fn loses_what_waits(self) -> bool {
        matches!(self, Self::AllQueuesDeleted | Self::PartitionDeleted)
    }

    const fn concerns_updates(self) -> bool {
        !matches!(self, Self::UpdatesExchangeDeleted)
    }
}

fn dns(text: &str) -> Value {
    json!({ "name": "DNS", "impact": 1, "text": text })
}

async fn no_update_is_taken_that_no_queue_takes(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "1")]).await?;
    system.components(&[("DNS", &[])]).await?;
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let topology = system.topology().await?;
    let mut taken: Vec<Uuid> = Vec::new();
    for damage in [
        Damage::PartitionDeleted,
        Damage::AllQueuesDeleted,
        Damage::PartitionUnbound,
        Damage::PublishExchangeDeleted,
        Damage::UpdatesExchangeDeleted,
        Damage::AllExchangesDeleted,
    ] {
        if damage.loses_what_waits() {
            taken.clear();
        }
        // A declaration that the damage before has led to must not repair this one before an update is sent.
        if let Some(before) = system.gateways.last_mut() {
            before.signal(Signal::SIGKILL)?;
            before.ended().await?;
        }
        system.start_gateway(&[]).await?;
        let gateway = system.gateways.len() - 1;
        damage.done_to(&channel, &topology).await?;
        let mut refused = 0;
        eventually(&format!("updates are taken after {damage:?}"), async || {
            let request = system.update_to(gateway, &dns("text"));
            let request = request.header("Prefer", "respond-async");
            let answer = answer(request).await?;
            match answer.status {
                202 => taken.push(answer.header("update-id").parse()?),
                503 => refused += 1,
                _ => anyhow::bail!("{damage:?}: {answer:?}"),
            }
            Ok(answer.status == 202)
        })
        .await?;
        ensure!((refused > 0) == damage.concerns_updates(), "{damage:?}: {refused} were refused");
        let waiting = system.waiting(&topology.queue(0)).await?;
        ensure!(waiting as usize == taken.len(), "{damage:?}: {waiting} of {} wait", taken.len());
    }
    connection.close(200, "done".into()).await?;
    system.start_worker(&[]).await?;
    system.drained().await?;
    let decided: i64 = sqlx::query_scalar("SELECT count(*) FROM sdb_inbox WHERE id = ANY($1)")
        .bind(&taken)
        .fetch_one(&system.database)
        .await?;
    ensure!(decided as usize == taken.len(), "{decided} of {} were decided", taken.len());
    system.finish().await
}

async fn what_is_unbound_is_bound_again_while_nothing_is_sent(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "2")]).await?;
    system.start_worker(&[]).await?;
    let topology = system.topology().await?;
    let bindings = || -> Result<Vec<String>> {
        let columns = ["source_name", "destination_name", "routing_key"];
        let arguments = [&["list_bindings", "-p", &system.vhost][..], &columns].concat();
        let listed = fixture.rabbitmq().ctl(&arguments)?;
        let mut bindings: Vec<String> = listed.lines().map(str::to_owned).collect();
        bindings.sort();
        Ok(bindings)
    };
    let before = bindings()?;
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let dead = topology.dead_letter_queue();
    // It would bind them again before they are listed.
    system.workers[0].signal(Signal::SIGSTOP)?;
    unbind(&channel, dead.clone(), dead, "").await?;
    for exchange in [topology.exchange(), topology.publish_exchange()] {
        unbind(&channel, topology.queue(1), exchange, &topology.routing_key(1)).await?;
    }
    let damaged = bindings()?;
    ensure!(damaged.len() == before.len() - 3, "{before:?}, then {damaged:?}");
    system.workers[0].signal(Signal::SIGCONT)?;
    eventually("they are bound again", async || Ok(bindings()? == before)).await?;
    connection.close(200, "done".into()).await?;
    system.finish().await
}

/// What a gateway says of an update that no queue takes.
const MISSING: &str = "a queue is missing";
/// How often a queue is unbound until an update is returned.
const ROUNDS: u16 = 13;

/// Unbinds a queue again and again: one that is bound again at once, by the declaration for the one before, returns
/// nothing.
async fn keep_unbound(channel: &Channel, topology: &Topology, partition: u16) -> Result<()> {
    loop {
        let (queue, key) = (topology.queue(partition), topology.routing_key(partition));
        unbind(channel, queue, topology.publish_exchange(), &key).await?;
        sleep(Duration::from_millis(300)).await;
    }
}

async fn no_update_of_a_burst_is_lost_when_its_queue_is_unbound(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "4")]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    let burst = Burst::start(&system).await?;
    let topology = system.topology().await?;
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for round in 0..ROUNDS {
        burst.is_decided().await?;
        let partition = round % topology.partitions;
        tokio::select! {
            heard = burst.is_refused_by(0, MISSING) => heard?,
            failed = keep_unbound(&channel, &topology, partition) => failed?,
        }
    }
    burst.is_decided().await?;
    connection.close(200, "done".into()).await?;
    let sent = burst.stop().await?;
    let returned = sent.iter().filter(
        |update| matches!(&update.answer, Answered::Refused(_, text) if text.contains(MISSING)),
    );
    ensure!(returned.count() >= usize::from(ROUNDS), "hardly any update was returned");
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    system.finish().await
}

async fn an_update_requeued_without_a_queue_stays_parked(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "1")]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    drop(system.workers.remove(0));
    ensure!(system.post_with_default_wait(&dns("early")).await?.status == 202);
    system.sql("UPDATE component SET name = 'Other'").await?;
    system.start_worker(&[]).await?;
    let parked = "SELECT count(*) FROM sdb_parked WHERE put_back_at IS NULL";
    eventually("it is parked", async || Ok(system.count(parked).await? == 1)).await?;
    drop(system.workers.remove(0));
    system.sql("UPDATE component SET name = 'DNS'").await?;

    let topology = system.topology().await?;
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    delete_queue(&channel, topology.queue(0)).await?;
    connection.close(200, "done".into()).await?;
    let arguments = ["parked", "requeue", "--all"];
    let (done, said) = system.worker_command(&arguments).await?;
    ensure!(!done && said.contains("was not requeued, since its queue is missing"), "{said}");
    ensure!(system.count(parked).await? == 1);
    system.start_worker(&[]).await?;
    eventually("it is requeued", async || Ok(system.worker_command(&arguments).await?.0)).await?;
    eventually("it is applied", async || {
        Ok(system.count("SELECT count(*) FROM sdb_inbox").await? == 1)
    })
    .await?;
    system.finish().await
}
