//! Several updates in one message: each of them is applied, parked, answered and delivered again as if it
//! had come alone.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use nix::sys::signal::Signal;
use serde_json::json;
use shared::{
    domain::{
        component::{Component, ComponentId},
        impact::Impact,
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::{
        envelope::{self, Entry},
        message::UpdateMessage,
    },
};

use harness::{Fixture, System, answer, eventually, proxy::Proxy, tests};

tests!(
    updates_that_come_at_once_share_messages_and_each_gets_its_outcome,
    what_cannot_be_applied_is_parked_alone_and_applied_when_it_is_requeued,
    an_envelope_that_cannot_be_read_is_parked_under_the_id_of_each_update,
    an_envelope_that_rabbitmq_gave_up_is_parked_update_by_update,
    a_worker_that_is_killed_within_envelopes_applies_each_update_once_and_in_order,
    an_update_that_waits_for_a_row_does_not_hold_up_the_rest_of_its_envelope,
);

/// Publishes what no gateway would.
struct Publisher {
    connection: Connection,
    channel: Channel,
    exchange: String,
    partitions: u16,
    now: Timestamp,
}

impl Publisher {
    async fn new(system: &System) -> Result<Self> {
        let connection =
            Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let topology = system.topology().await?;
        let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let now = Timestamp::from_micros(system.count(now).await?)?;
        let exchange = topology.publish_exchange();
        Ok(Self { connection, channel, exchange, partitions: topology.partitions, now })
    }

    fn update(&self, component: i32, name: &str, impact: Impact) -> UpdateMessage {
        UpdateMessage {
            id: UpdateId::at(self.now),
            component: Component {
                id: ComponentId(component),
                name: name.to_owned(),
                attributes: Vec::new(),
            },
            condition: impact.into(),
            text: format!("{name} reports {impact}"),
            received_at: self.now,
            idempotency: None,
            report: None,
        }
    }

    async fn send(
        &self,
        exchange: &str,
        component: i32,
        body: &[u8],
        ids: &[UpdateId],
    ) -> Result<()> {
        let all: Vec<String> = ids.iter().map(UpdateId::to_string).collect();
        let mut headers = FieldTable::default();
        let value = AMQPValue::LongString(all.join(",").into());
        headers.insert(envelope::IDS_HEADER.into(), value);
        let properties = BasicProperties::default()
            .with_message_id(all[0].as_str().into())
            .with_headers(headers);
        let key = format!("p{}", ComponentId(component).partition(self.partitions));
        let options = BasicPublishOptions::default();
        let publish =
            self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
        ensure!(publish.await?.await?.is_ack(), "RabbitMQ did not take it");
        Ok(())
    }

    /// An envelope of updates, all of the partition of the first one's component.
    async fn envelope(&self, updates: &[UpdateMessage]) -> Result<()> {
        let (body, ids) = envelope(updates);
        self.send(&self.exchange, updates[0].component.id.0, &body, &ids).await
    }

    async fn close(self) -> Result<()> {
        Ok(self.connection.close(200, "done".into()).await?)
    }
}

fn envelope(updates: &[UpdateMessage]) -> (Vec<u8>, Vec<UpdateId>) {
    let entry = |update: &UpdateMessage| Entry {
        message: update.encode(),
        wants_reply: false,
        trace: None,
    };
    let entries: Vec<Entry> = updates.iter().map(entry).collect();
    (envelope::encode(&entries), updates.iter().map(|update| update.id).collect())
}

/// The components' ids are 1, 2, 3 and 4.
pub(crate) async fn with_components(fixture: &Arc<Fixture>, partitions: &str) -> Result<System> {
    let system = System::prepared_with(fixture, &[("SDB_PARTITIONS", partitions)]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("Mail", &[]), ("VPN", &[])]).await?;
    Ok(system)
}

async fn applied(system: &System, id: UpdateId) -> Result<bool> {
    Ok(system.count(&format!("SELECT count(*) FROM sdb_inbox WHERE id = '{id}'")).await? == 1)
}

async fn parked(system: &System) -> Result<Vec<(Option<uuid::Uuid>, String, Vec<u8>)>> {
    let query = "SELECT update_id, reason, payload FROM sdb_parked ORDER BY id";
    Ok(sqlx::query_as(query).fetch_all(&system.database).await?)
}

async fn updates_that_come_at_once_share_messages_and_each_gets_its_outcome(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture, "1").await?;
    system.start_worker(&[]).await?;
    // Confirmations take their time, so that updates gather.
    let proxy = Proxy::before(&system.amqp_uri).await?;
    system.start_gateway(&[("SDB_AMQP_URI", proxy.uri())]).await?;
    system.catalogue_seen().await?;
    proxy.delay(Duration::from_millis(50));
    let names = ["DNS", "CDN", "Mail", "VPN"];
    let posts = (0..120).map(|n| {
        let body = json!({ "name": names[n % 4], "impact": 1 + n % 3, "text": n.to_string() });
        let prefer = if n % 5 == 0 { "respond-async" } else { "wait=30" };
        answer(system.update(&body).header("Prefer", prefer))
    });
    for (n, answered) in futures_util::future::join_all(posts).await.into_iter().enumerate() {
        let answered = answered?;
        let expected: &[u16] = if n % 5 == 0 { &[202] } else { &[200, 201] };
        ensure!(expected.contains(&answered.status), "{n}: {answered:?}");
    }
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 120);
    let metrics = system.get("/metrics").await?.body.to_string();
    let messages = metrics.split("\\n");
    let messages: u64 = messages
        .filter_map(|line| line.strip_prefix("sdb_messages_published_total "))
        .next()
        .context("no such metric")?
        .parse()?;
    ensure!((1..60).contains(&messages), "120 updates in {messages} messages");
    system.finish().await
}

async fn what_cannot_be_applied_is_parked_alone_and_applied_when_it_is_requeued(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture, "1").await?;
    // A batch ends within the envelope.
    system.start_worker(&[("SDB_BATCH", "2")]).await?;
    let publisher = Publisher::new(&system).await?;
    let updates = [
        publisher.update(1, "DNS", Impact::Minor),
        publisher.update(77, "Gone", Impact::Minor),
        publisher.update(2, "Renamed", Impact::Minor),
        publisher.update(3, "Mail", Impact::Minor),
        publisher.update(4, "VPN", Impact::Minor),
    ];
    let (body, ids) = envelope(&updates);
    // One that can't be read: a maintenance is no impact.
    let body = String::from_utf8(body)?;
    let place = body.find("\"Mail\"").context("no Mail")?;
    let (head, tail) = body.split_at(place);
    let body = format!("{head}{}", tail.replacen("\"impact\":1", "\"impact\":0", 1));
    publisher.send(&publisher.exchange, 1, body.as_bytes(), &ids).await?;
    system.drained().await?;

    for (update, is_applied) in updates.iter().zip([true, false, false, false, true]) {
        ensure!(applied(&system, update.id).await? == is_applied, "{update:?}");
    }
    let rows = parked(&system).await?;
    ensure!(rows.len() == 3, "{rows:?}");
    for ((id, reason, payload), (update, expected)) in rows.iter().zip([
        (&updates[1], "is gone"),
        (&updates[2], "now names another one"),
        (&updates[3], "impact 0"),
    ]) {
        ensure!(*id == Some(update.id.0) && reason.contains(expected), "{rows:?}");
        let alone = String::from_utf8(update.encode())?;
        let found = String::from_utf8(payload.clone())?;
        let alone = alone.replace(
            "\"impact\":1",
            if expected == "impact 0" { "\"impact\":0" } else { "\"impact\":1" },
        );
        ensure!(found == alone, "not in the form of a single message: {found}");
    }
    // The catalogue is put right, and what is requeued goes alone.
    system.sql("UPDATE component SET name = 'Renamed' WHERE id = 2").await?;
    let (done, said) = system.worker_command(&["parked", "requeue", "--all"]).await?;
    ensure!(done, "{said}");
    system.drained().await?;
    ensure!(applied(&system, updates[2].id).await?);
    ensure!(parked(&system).await?.len() == 2);
    publisher.close().await?;
    system.finish_with_logs()
}

async fn an_envelope_that_cannot_be_read_is_parked_under_the_id_of_each_update(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture, "1").await?;
    system.start_worker(&[]).await?;
    let publisher = Publisher::new(&system).await?;
    let updates = [1, 2].map(|id| publisher.update(id, "DNS", Impact::Minor));
    let (body, ids) = envelope(&updates);
    for broken in [body[..body.len() - 1].to_vec(), br#"{"v":99,"entries":[]}"#.to_vec()] {
        publisher.send(&publisher.exchange, 1, &broken, &ids).await?;
        // Twice: a redelivery parks nothing more.
        publisher.send(&publisher.exchange, 1, &broken, &ids).await?;
    }
    system.drained().await?;
    let rows = parked(&system).await?;
    let found: Vec<_> = rows.iter().map(|(id, ..)| *id).collect();
    let [first, second] = updates.map(|update| Some(update.id.0));
    ensure!(found == [first, second, first, second], "{rows:?}");
    ensure!(rows[0].1.contains("not of the form") && rows[2].1.contains("has version 99"));
    publisher.close().await?;
    system.finish_with_logs()
}

async fn an_envelope_that_rabbitmq_gave_up_is_parked_update_by_update(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture, "1").await?;
    system.start_worker(&[]).await?;
    let publisher = Publisher::new(&system).await?;
    let updates = [(1, "DNS"), (2, "CDN"), (3, "Mail")]
        .map(|(id, name)| publisher.update(id, name, Impact::Minor));
    // It was applied, and only its acknowledgement was lost.
    publisher.envelope(&updates[..1]).await?;
    eventually("one is applied", async || applied(&system, updates[0].id).await).await?;
    let (body, ids) = envelope(&updates);
    let dead = system.topology().await?.dead_letter_queue();
    publisher.send(&dead, 1, &body, &ids).await?;
    system.drained().await?;
    let rows = parked(&system).await?;
    ensure!(rows.len() == 2, "{rows:?}");
    for ((id, reason, payload), update) in rows.iter().zip(&updates[1..]) {
        ensure!(
            *id == Some(update.id.0) && reason.contains("dead-lettered by RabbitMQ"),
            "{rows:?}"
        );
        ensure!(*payload == update.encode(), "{rows:?}");
    }
    let (done, said) = system.worker_command(&["parked", "requeue", "--all"]).await?;
    ensure!(done, "{said}");
    system.drained().await?;
    for update in &updates {
        ensure!(applied(&system, update.id).await?);
    }
    publisher.close().await?;
    system.finish_with_logs()
}

async fn a_worker_that_is_killed_within_envelopes_applies_each_update_once_and_in_order(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture, "1").await?;
    system.start_worker(&[("SDB_BATCH", "7")]).await?;
    let publisher = Publisher::new(&system).await?;
    let mut sent = Vec::new();
    for round in 0..40 {
        let updates: Vec<UpdateMessage> = (0..30)
            .map(|n| {
                let impact = [Impact::Minor, Impact::Major, Impact::Outage][(round + n) % 3];
                let (id, name) = [(1, "DNS"), (2, "CDN"), (3, "Mail"), (4, "VPN")][n % 4];
                publisher.update(id, name, impact)
            })
            .collect();
        publisher.envelope(&updates).await?;
        sent.extend(updates.iter().map(|update| update.id));
        if round % 10 == 5 {
            // Some of what was sent is applied, and most is not acknowledged.
            system.workers[round / 10].signal(Signal::SIGKILL)?;
            system.workers[round / 10].ended().await?;
            system.start_worker(&[("SDB_BATCH", "7")]).await?;
        }
    }
    system.drained().await?;
    let order: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM sdb_inbox ORDER BY position")
        .fetch_all(&system.database)
        .await?;
    ensure!(order == sent.iter().map(|id| id.0).collect::<Vec<_>>(), "not in their order");
    publisher.close().await?;
    system.finish_with_logs()
}

async fn an_update_that_waits_for_a_row_does_not_hold_up_the_rest_of_its_envelope(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture, "1").await?;
    system.start_worker(&[]).await?;
    let publisher = Publisher::new(&system).await?;
    publisher.envelope(&[publisher.update(1, "DNS", Impact::Minor)]).await?;
    system.drained().await?;
    let mut other = system.database.begin().await?;
    sqlx::query("SELECT id FROM incident FOR UPDATE").fetch_all(&mut *other).await?;

    let updates = [
        publisher.update(2, "CDN", Impact::Outage),
        publisher.update(1, "DNS", Impact::Major),
        publisher.update(1, "DNS", Impact::Outage),
        publisher.update(3, "Mail", Impact::Outage),
    ];
    publisher.envelope(&updates).await?;
    let later = publisher.update(4, "VPN", Impact::Outage);
    publisher.envelope(std::slice::from_ref(&later)).await?;
    for free in [&updates[0], &updates[3], &later] {
        eventually("it is applied", async || applied(&system, free.id).await).await?;
    }
    for waits in &updates[1..3] {
        ensure!(!applied(&system, waits.id).await?, "{waits:?} was not held");
    }
    // Killed now: the envelope is redelivered, and its applied updates are ignored.
    system.workers[0].signal(Signal::SIGKILL)?;
    system.workers[0].ended().await?;
    system.start_worker(&[]).await?;
    other.rollback().await?;
    system.drained().await?;
    let order: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT id FROM sdb_inbox WHERE component_id = 1 ORDER BY position")
            .fetch_all(&system.database)
            .await?;
    ensure!(order[1..] == [updates[1].id.0, updates[2].id.0], "{order:?}");
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 6);
    publisher.close().await?;
    system.finish_with_logs()
}
