//! An operator lists parked updates, looks at them, fixes what kept them from being applied, and requeues them.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeleteOptions},
};
use serde_json::{Value, json};
use shared::{
    domain::{
        component::{Component, ComponentId},
        impact::Impact,
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::UpdateMessage,
};

use harness::{Fixture, System, answer, eventually, tests};

tests!(
    a_parked_update_is_listed_shown_and_requeued_at_the_end,
    what_can_not_be_applied_again_is_parked_again,
    an_update_of_an_older_gateway_without_a_queue_is_parked_and_requeued,
    a_message_that_rabbitmq_gave_up_is_parked,
    what_a_full_queue_refuses_stays_parked,
    an_invalid_command_names_what_is_expected,
);

fn dns(impact: u8, text: &str) -> Value {
    json!({ "name": "DNS", "impact": impact, "text": text })
}

/// What `worker parked list --json` shows.
async fn listed(system: &System) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&system.worker_succeeds(&["parked", "list", "--json"]).await?)?)
}

/// Waits until so many are parked, and returns them.
async fn parked(system: &System, count: usize) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    eventually("the updates are parked", async || {
        all = listed(system).await?;
        Ok(all.len() == count && all.iter().all(|parked| parked["put_back_at"].is_null()))
    })
    .await?;
    Ok(all)
}

/// Waits until an update's receipt has this state, and returns it.
async fn receipt(system: &System, id: &str, state: &str) -> Result<Value> {
    let mut body = Value::Null;
    eventually(&format!("the update is {state}"), async || {
        body = system.get(&format!("/api/v1/updates/{id}")).await?.body;
        Ok(body["state"] == state)
    })
    .await?;
    Ok(body)
}

/// A system whose updates about DNS are parked, since the id of that component names another one.
async fn with_another_component(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system = System::prepared(fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    Ok(system)
}

async fn rename(system: &System, name: &str) -> Result<()> {
    system.sql(&format!("UPDATE component SET name = '{name}' WHERE id = 1")).await?;
    system.catalogue_seen().await
}

async fn a_parked_update_is_listed_shown_and_requeued_at_the_end(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_another_component(&fixture).await?;
    ensure!(system.worker_succeeds(&["parked", "list"]).await?.trim() == "Nothing is parked.");
    let first = system.post_async(0, &dns(1, "first")).await?;
    let second = system.post_async(0, &dns(2, "second")).await?;
    rename(&system, "Other").await?;
    system.start_worker(&[]).await?;
    let all = parked(&system, 2).await?;
    ensure!(all[0]["update_id"] == first && all[1]["update_id"] == second, "{all:?}");
    let reason = "component 1, DNS (), now names another one";
    ensure!(all[0]["reason"] == reason, "{all:?}");
    let message = all[0]["message"].as_str().context("no message")?;
    ensure!(message.contains("\"first\""), "{message}");

    let lines = system.worker_succeeds(&["parked", "list"]).await?;
    ensure!(lines.lines().count() == 2 && lines.contains("DNS ()") && lines.contains(reason));
    let number = all[0]["id"].to_string();
    let shown = system.worker_succeeds(&["parked", "show", &number]).await?;
    ensure!(shown.contains(&first) && shown.contains(reason) && shown.contains("\"first\""));
    ensure!(!shown.contains(&second), "{shown}");

    // Fixed; an update that arrives before it is requeued is applied first.
    rename(&system, "DNS").await?;
    let third = system.post(&dns(1, "third")).await?;
    ensure!(third.status == 201, "{third:?}");
    system.worker_succeeds(&["parked", "requeue", &number]).await?;
    let applied = receipt(&system, &first, "done").await?;
    ensure!(applied["outcome"] == "unchanged" && applied["incident"]["text"] == "third");
    // Requeued again by mistake: it is not parked any more.
    let (done, said) = system.worker_command(&["parked", "requeue", &number]).await?;
    ensure!(!done && said.contains(&format!("nothing is parked under {number}")), "{said}");
    // Its name in earlier releases.
    let said = system.worker_succeeds(&["parked", "put-back", "--all"]).await?;
    ensure!(said.contains("Requeued: 1."), "{said}");
    let applied = receipt(&system, &second, "done").await?;
    ensure!(applied["outcome"] == "raised", "{applied}");
    let order: Vec<String> = sqlx::query_scalar("SELECT text FROM sdb_inbox ORDER BY position")
        .fetch_all(&system.database)
        .await?;
    ensure!(order == ["third", "first", "second"], "{order:?}");
    system.finish().await
}

async fn what_can_not_be_applied_again_is_parked_again(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_another_component(&fixture).await?;
    let update = system.post_async(0, &dns(1, "early")).await?;
    rename(&system, "Other").await?;
    system.start_worker(&[]).await?;
    let before = parked(&system, 1).await?;
    // Requeued while no worker runs: it waits, and its receipt says so.
    drop(system.workers.remove(0));
    system.worker_succeeds(&["parked", "requeue", "--all"]).await?;
    let all = listed(&system).await?;
    ensure!(all.len() == 1 && !all[0]["put_back_at"].is_null(), "{all:?}");
    ensure!(
        system.worker_succeeds(&["parked", "list"]).await?.contains("requeued, not applied yet")
    );
    receipt(&system, &update, "pending").await?;
    // And again, as after a command that was killed.
    system.worker_succeeds(&["parked", "requeue", "--all"]).await?;
    system.start_worker(&[]).await?;
    let after = parked(&system, 1).await?;
    ensure!(after[0]["id"] == before[0]["id"] && after[0]["parked_at"] != before[0]["parked_at"]);
    receipt(&system, &update, "parked").await?;

    rename(&system, "DNS").await?;
    system.worker_succeeds(&["parked", "requeue", "--all"]).await?;
    // To do it twice does no harm.
    system.worker_succeeds(&["parked", "requeue", "--all"]).await?;
    ensure!(receipt(&system, &update, "done").await?["outcome"] == "opened");
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 1);
    system.finish().await
}

async fn an_update_of_an_older_gateway_without_a_queue_is_parked_and_requeued(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_another_component(&fixture).await?;
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    // Someone deletes the queue behind its back.
    let topology = system.topology().await?;
    channel.queue_delete(topology.queue(1).as_str().into(), QueueDeleteOptions::default()).await?;
    #[expect(clippy::disallowed_methods, reason = "the test is a gateway here")]
    let id = UpdateId(uuid::Uuid::now_v7());
    let message = UpdateMessage {
        id,
        component: Component { id: ComponentId(1), name: "DNS".into(), attributes: Vec::new() },
        condition: Impact::Minor.into(),
        text: "lost?".into(),
        received_at: Timestamp::from_micros(1_700_000_000_000_000)?,
        idempotency: None,
        report: None,
    };
    let update = message.id.to_string();
    // It publishes through the exchange that puts what has no queue into the dead-letter queue.
    let properties = BasicProperties::default().with_message_id(update.as_str().into());
    let (exchange, key) = (topology.exchange(), topology.routing_key(1));
    let options = BasicPublishOptions::default();
    let body = message.encode();
    let publish = channel.basic_publish(exchange.into(), key.into(), options, &body, properties);
    ensure!(publish.await?.await?.is_ack());
    system.start_worker(&[]).await?;
    let all = parked(&system, 1).await?;
    ensure!(all[0]["update_id"] == update, "{all:?}");
    let reason = all[0]["reason"].as_str().unwrap_or_default();
    ensure!(reason == "dead-lettered by RabbitMQ: there was no queue for p1", "{reason}");
    // The worker has made the queue anew.
    system.worker_succeeds(&["parked", "requeue", "--all"]).await?;
    ensure!(receipt(&system, &update, "done").await?["outcome"] == "opened");
    connection.close(200, "done".into()).await?;
    system.finish().await
}

async fn a_message_that_rabbitmq_gave_up_is_parked(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let settled = system.post(&dns(1, "settled")).await?;
    ensure!(settled.status == 201, "{settled:?}");
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    // One that was settled before, one that never was, and one that nobody can read.
    let dead = system.topology().await?.dead_letter_queue();
    let unknown = uuid::Uuid::max().to_string();
    for id in [settled.header("update-id"), &unknown, "nonsense"] {
        let properties = BasicProperties::default().with_message_id(id.into());
        let options = BasicPublishOptions::default();
        let publish =
            channel.basic_publish("".into(), dead.as_str().into(), options, b"{}", properties);
        ensure!(publish.await?.await?.is_ack());
    }
    let all = parked(&system, 2).await?;
    ensure!(all[0]["update_id"] == unknown.as_str() && all[1]["update_id"].is_null(), "{all:?}");
    receipt(&system, settled.header("update-id"), "done").await?;
    system.drained().await?;
    connection.close(200, "done".into()).await?;
    // Requeued, they are known again by what they have for an id.
    system.worker_succeeds(&["parked", "requeue", "--all"]).await?;
    let again = parked(&system, 2).await?;
    for (before, after) in all.iter().zip(&again) {
        ensure!(
            before["id"] == after["id"] && before["parked_at"] != after["parked_at"],
            "{again:?}"
        );
    }
    system.finish_with_parked()
}

async fn what_a_full_queue_refuses_stays_parked(fixture: Arc<Fixture>) -> Result<()> {
    let settings = [("SDB_QUEUE_LIMIT", "5"), ("SDB_PARTITIONS", "1")];
    let mut system = System::prepared_with(&fixture, &settings).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let update = system.post_async(0, &dns(1, "early")).await?;
    rename(&system, "Other").await?;
    system.start_worker(&[]).await?;
    parked(&system, 1).await?;
    drop(system.workers.remove(0));
    rename(&system, "DNS").await?;
    // A quorum queue may take a few more than its limit. A slow RabbitMQ does not tell in time that it is full.
    eventually("the queue is full", async || {
        let request = system.update(&dns(1, "later")).header("Prefer", "respond-async");
        let answer = answer(request).await?;
        ensure!([202, 503].contains(&answer.status), "{answer:?}");
        Ok(answer.body.to_string().contains("the queue is full; nothing was queued"))
    })
    .await?;
    let (done, said) = system.worker_command(&["parked", "requeue", "--all"]).await?;
    ensure!(!done && said.contains("was not requeued, since its queue is full"), "{said}");
    parked(&system, 1).await?;
    receipt(&system, &update, "parked").await?;

    // A command that was killed before it sent anything leaves this behind; it counts after a while.
    let killed = "UPDATE sdb_parked SET put_back_at = (now() AT TIME ZONE 'UTC') - interval";
    system.sql(&format!("{killed} '1 minute'")).await?;
    receipt(&system, &update, "pending").await?;
    system.sql(&format!("{killed} '11 minutes'")).await?;
    receipt(&system, &update, "parked").await?;

    system.start_worker(&[]).await?;
    system.drained().await?;
    system.worker_succeeds(&["parked", "requeue", "--all"]).await?;
    receipt(&system, &update, "done").await?;
    system.finish().await
}

async fn an_invalid_command_names_what_is_expected(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    for (arguments, says) in [
        (["parked", "show", "7"], "nothing is parked under 7: `worker parked list` shows what is"),
        (["parked", "requeue", "--all"], "there are no queues yet: start a worker first"),
        (["parked", "requeue", "x"], "invalid value 'x'"),
    ] {
        let (done, said) = system.worker_command(&arguments).await?;
        ensure!(!done && said.contains(says), "{arguments:?}: {said}");
    }
    system.finish_with_parked()
}
