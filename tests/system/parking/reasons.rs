//! What can't be applied for a reason of its own is parked with it; what fails for a passing reason
//! is tried again; and neither takes anything out of order.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Value, json};
use shared::{
    component::{Attribute, Component, ComponentId},
    impact::Impact,
    message::UpdateMessage,
    timestamp::Timestamp,
    topology::Topology,
    update_id::UpdateId,
};
use sqlx::AssertSqlSafe;
use tokio::time::sleep;
use uuid::Uuid;

use harness::{Answer, Fixture, System, answer, eventually, replay, tests};

tests!(
    a_message_that_is_no_update_is_parked_once_and_its_queue_goes_on,
    an_update_whose_component_is_gone_is_parked,
    an_update_whose_component_id_was_reused_is_parked,
    an_incident_that_the_database_refuses_parks_its_update_only,
    a_record_that_the_database_refuses_parks_its_update_only,
    a_text_that_postgresql_cannot_hold_is_parked,
    an_id_outside_the_inboxs_parts_is_parked,
    a_client_that_waits_for_a_parked_update_is_told,
    a_redelivered_update_takes_effect_once,
    a_lock_that_is_held_for_long_parks_nothing,
    what_passes_is_tried_again_and_never_parked,
    one_clients_updates_of_a_component_keep_their_order,
);

/// A foreign publisher, which can send what a gateway never would.
pub(crate) struct Publisher {
    _connection: Connection,
    channel: Channel,
    topology: Topology,
}

impl Publisher {
    pub(crate) async fn connect(system: &System) -> Result<Self> {
        let connection =
            Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { _connection: connection, channel, topology: system.topology().await? })
    }

    fn queue_of(&self, component: i32) -> String {
        self.topology.queue(ComponentId(component).partition(self.topology.partitions))
    }

    /// Sends bytes to the partition of a component and waits for the confirmation.
    async fn send(&self, component: i32, payload: &[u8], message_id: Option<&str>) -> Result<()> {
        let partition = ComponentId(component).partition(self.topology.partitions);
        let mut properties = BasicProperties::default().with_delivery_mode(2);
        if let Some(id) = message_id {
            properties = properties.with_message_id(id.into());
        }
        let confirmation = self
            .channel
            .basic_publish(
                self.topology.exchange().into(),
                self.topology.routing_key(partition).into(),
                BasicPublishOptions::default(),
                payload,
                properties,
            )
            .await?
            .await?;
        ensure!(confirmation.is_ack(), "{confirmation:?}");
        Ok(())
    }

    /// Sends an update as a gateway does.
    pub(crate) async fn send_update(&self, update: &UpdateMessage) -> Result<()> {
        let id = update.id.to_string();
        self.send(update.component.id.0, &update.encode(), Some(&id)).await
    }
}

/// An update for a component, with an id made now by the database's clock.
pub(crate) async fn message(system: &System, id: i32, name: &str) -> Result<UpdateMessage> {
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let micros = system.count(now).await?;
    Ok(UpdateMessage {
        id: UpdateId::at(Timestamp::from_micros(micros)?),
        component: Component { id: ComponentId(id), name: name.to_owned(), attributes: Vec::new() },
        impact: Impact::Minor,
        text: "Incident".to_owned(),
        received_at: Timestamp::from_micros(micros)?,
        idempotency: None,
    })
}

#[derive(Debug, sqlx::FromRow)]
struct ParkedRow {
    delivery_key: String,
    update_id: Option<Uuid>,
    queue: String,
    reason: String,
    payload: Vec<u8>,
}

/// Waits until this many messages are parked, and returns them in order.
async fn parked(system: &System, count: i64) -> Result<Vec<ParkedRow>> {
    eventually("the messages are parked", async || {
        Ok(system.count("SELECT count(*) FROM sdb_parked").await? >= count)
    })
    .await?;
    stands_parked(system, count).await
}

async fn stands_parked(system: &System, count: i64) -> Result<Vec<ParkedRow>> {
    let rows: Vec<ParkedRow> = sqlx::query_as(
        "SELECT delivery_key, update_id, queue, reason, payload FROM sdb_parked ORDER BY id",
    )
    .fetch_all(&system.database)
    .await?;
    ensure!(i64::try_from(rows.len())? == count, "parked are, instead of {count}: {rows:#?}");
    Ok(rows)
}

fn update(name: &str, impact: u8, text: &str) -> Value {
    json!({ "name": name, "impact": impact, "text": text })
}

/// Posts an update without waiting for its outcome, and returns its id.
async fn post_async(system: &System, gateway: usize, body: &Value) -> Result<String> {
    let request = system.update_to(gateway, body).header("Prefer", "respond-async");
    let accepted = answer(request).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    Ok(accepted.header("update-id").to_owned())
}

async fn receipt(system: &System, id: &str) -> Result<Value> {
    let receipt = system.get(&format!("/api/v1/updates/{id}")).await?;
    ensure!(receipt.status == 200, "{receipt:?}");
    Ok(receipt.body)
}

async fn done(system: &System, id: &str) -> Result<Value> {
    let mut body = Value::Null;
    eventually("the update is done", async || {
        body = receipt(system, id).await?;
        Ok(body["state"] != "pending")
    })
    .await?;
    ensure!(body["state"] == "done", "{body}");
    Ok(body)
}

/// The component's updates in the inbox, in the order in which they took effect.
async fn in_order(system: &System, component: i32) -> Result<Vec<String>> {
    let query = "SELECT id::text FROM sdb_inbox WHERE component_id = $1 ORDER BY position";
    Ok(sqlx::query_scalar(query).bind(component).fetch_all(&system.database).await?)
}

async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    let system = System::start(fixture).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("Mail", &[])]).await?;
    Ok(system)
}

async fn a_message_that_is_no_update_is_parked_once_and_its_queue_goes_on(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let publisher = Publisher::connect(&system).await?;
    let dns = message(&system, 1, "DNS").await?;
    let newer = String::from_utf8(dns.encode())?.replacen("\"v\":1", "\"v\":2", 1).into_bytes();
    let maintenance = UpdateMessage { impact: Impact::Maintenance, ..dns.clone() }.encode();
    let form = "not of the form of version 1";
    let messages: [(&[u8], &str); 7] = [
        (b"\xff\x00 garbage {", form),
        (b"", form),
        (b"null", form),
        (br#"{"v": 1, "hello": "world"}"#, form),
        (br#"["an update", "of another form \u0000"]"#, form),
        (&newer, "version 2"),
        (&maintenance, "impact 0"),
    ];
    // Each with an id and without one, and both again.
    for _ in 0..2 {
        for (number, (payload, _)) in messages.iter().enumerate() {
            publisher.send(1, payload, Some(&format!("message-{number}"))).await?;
            publisher.send(1, payload, None).await?;
        }
        // What stands behind them is applied.
        let behind = settled(&system, &update("DNS", 1, "behind")).await?;
        ensure!([200, 201].contains(&behind.status), "{behind:?}");
    }
    let rows = stands_parked(&system, 14).await?;
    let expected = messages.iter().enumerate().flat_map(|pair| [pair, pair]);
    for (place, (row, (number, (payload, says)))) in rows.iter().zip(expected).enumerate() {
        ensure!(row.payload == *payload, "{place}: {row:?}");
        ensure!(row.reason.contains(says), "{place}: {row:?} does not say {says}");
        ensure!(row.queue == publisher.queue_of(1) && row.update_id.is_none(), "{row:?}");
        let with_id = place % 2 == 0;
        ensure!(row.delivery_key.starts_with(&format!("message-{number} ")) == with_id, "{row:?}");
    }
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 2);
    system.drained().await?;
    system.finish_with_parked()
}

async fn an_update_whose_component_is_gone_is_parked(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let publisher = Publisher::connect(&system).await?;
    let ghost = message(&system, 99, "Ghost").await?;
    publisher.send_update(&ghost).await?;
    publisher.send_update(&ghost).await?;
    parked(&system, 1).await?;
    publisher.send_update(&ghost).await?;
    // 3 and 99 share a partition.
    ensure!(publisher.queue_of(3) == publisher.queue_of(99));
    ensure!(settled(&system, &update("Mail", 2, "behind")).await?.status == 201);
    let rows = stands_parked(&system, 1).await?;
    ensure!(rows[0].update_id == Some(ghost.id.0), "{rows:?}");
    ensure!(rows[0].reason.contains("component 99, Ghost (), is gone"), "{rows:?}");
    ensure!(UpdateMessage::decode(&rows[0].payload)? == ghost, "{rows:?}");

    let receipt = receipt(&system, &ghost.id.to_string()).await?;
    ensure!(receipt["state"] == "parked" && receipt["outcome"].is_null(), "{receipt}");
    ensure!(receipt["reason"] == rows[0].reason.as_str(), "{receipt}");
    ensure!(!receipt["processed_at"].is_null(), "{receipt}");
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 1);
    system.finish_with_parked()
}

async fn an_update_whose_component_id_was_reused_is_parked(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[("region", "R1")]), ("CDN", &[])]).await?;
    // Accepted while it was the DNS of region R1, and decided when that id names another one.
    let dns = json!({ "name": "DNS", "impact": 2 });
    let (first, second) =
        (post_async(&system, 0, &dns).await?, post_async(&system, 0, &dns).await?);
    system
        .sql(
            "UPDATE component_attribute SET value = 'R2' WHERE component_id = 1;
            INSERT INTO component_attribute (component_id, name, value) VALUES (2, 'region', 'R1')",
        )
        .await?;
    system.catalogue_seen().await?;
    // An attribute that came since makes it no other component.
    system.start_worker(&[]).await?;
    let publisher = Publisher::connect(&system).await?;
    let mut now_another = message(&system, 1, "Storage").await?;
    now_another.component.attributes =
        vec![Attribute { name: "region".to_owned(), value: "R2".to_owned() }];
    publisher.send_update(&now_another).await?;
    let behind = system.post(&dns).await?;
    ensure!(behind.status == 201, "{behind:?}");
    let grown = message(&system, 2, "CDN").await?;
    publisher.send_update(&grown).await?;
    ensure!(done(&system, &grown.id.to_string()).await?["outcome"] == "opened");

    let rows = stands_parked(&system, 3).await?;
    for (row, (id, label)) in rows.iter().zip([
        (first, "DNS (R1)"),
        (second, "DNS (R1)"),
        (now_another.id.to_string(), "Storage (R2)"),
    ]) {
        ensure!(row.update_id == Some(id.parse()?), "{row:?}");
        let reason = format!("component 1, {label}, now names another one");
        ensure!(row.reason.contains(&reason), "{row:?}");
        ensure!(receipt(&system, &id).await?["state"] == "parked");
    }
    system.finish_with_parked()
}

/// A trigger before inserts into a table that refuses rows with a text, as a database whose owner
/// has rules of their own.
async fn refuse(system: &System, table: &str, text: &str, how: &str) -> Result<()> {
    system
        .sql(&format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.text = '{text}' THEN RAISE EXCEPTION 'we take no %', NEW.text {how}; END IF;
                RETURN NEW;
            END $$;
            CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON {table}
                FOR EACH ROW EXECUTE FUNCTION refuse();"
        ))
        .await
}

/// Posts updates so that the worker has all of them but the first in one batch.
async fn in_one_batch(system: &System, updates: &[Value]) -> Result<Vec<String>> {
    let mut scope = system.database.begin().await?;
    sqlx::query("SELECT 1 FROM sdb_scope FOR UPDATE").execute(&mut *scope).await?;
    let mut ids = Vec::new();
    for update in updates {
        ids.push(post_async(system, 0, update).await?);
    }
    let topology = system.topology().await?;
    for queue in (0..topology.partitions).map(|partition| topology.queue(partition)) {
        eventually("the worker has all", async || Ok(system.waiting(&queue).await? == 0)).await?;
    }
    scope.commit().await?;
    Ok(ids)
}

async fn an_incident_that_the_database_refuses_parks_its_update_only(
    fixture: Arc<Fixture>,
) -> Result<()> {
    refused_among_others(&fixture, "incident").await
}

async fn a_record_that_the_database_refuses_parks_its_update_only(
    fixture: Arc<Fixture>,
) -> Result<()> {
    refused_among_others(&fixture, "sdb_inbox").await
}

/// One update in the middle of many is refused by a trigger on `table`.
async fn refused_among_others(fixture: &Arc<Fixture>, table: &str) -> Result<()> {
    let system = with_components(fixture).await?;
    refuse(&system, table, "poison", "").await?;
    let mut updates = Vec::new();
    for _ in 0..20 {
        updates.extend([("DNS", 1, "fine"), ("CDN", 2, "fine"), ("Mail", 1, "fine")]);
    }
    // The only one that would open an outage.
    updates.insert(31, ("DNS", 3, "poison"));
    let bodies: Vec<Value> = updates.iter().map(|u| update(u.0, u.1, u.2)).collect();
    let ids = in_one_batch(&system, &bodies).await?;
    let mut expected: [Vec<String>; 3] = [const { Vec::new() }; 3];
    for (id, (name, _, text)) in ids.iter().zip(&updates) {
        if *text == "poison" {
            continue;
        }
        done(&system, id).await?;
        let place = ["DNS", "CDN", "Mail"].iter().position(|n| n == name).context("unknown")?;
        expected[place].push(id.clone());
    }

    let rows = parked(&system, 1).await?;
    ensure!(rows[0].update_id == Some(ids[31].parse()?), "{rows:?}");
    ensure!(rows[0].delivery_key == ids[31], "{rows:?}");
    ensure!(rows[0].reason.contains("the database refuses it"), "{rows:?}");
    ensure!(rows[0].reason.contains("we take no poison"), "{rows:?}");
    ensure!(UpdateMessage::decode(&rows[0].payload)?.text == "poison", "{rows:?}");
    let shown = receipt(&system, &ids[31]).await?;
    ensure!(shown["state"] == "parked", "{shown}");
    ensure!(shown["reason"].as_str() == Some(&rows[0].reason), "{shown}");
    for (component, expected) in (1..).zip(&expected) {
        ensure!(in_order(&system, component).await? == *expected, "{component} is out of order");
    }
    ensure!(system.workers[0].log()?.contains("halving it"), "it was in a batch of its own");
    replay::agrees(&system.database).await?;
    replay::holds_one_active_incident(&system.database).await?;
    // The same update again is parked still, and once.
    let publisher = Publisher::connect(&system).await?;
    publisher.send(1, &rows[0].payload, Some(&ids[31])).await?;
    ensure!(settled(&system, &update("DNS", 1, "fine")).await?.status == 200);
    stands_parked(&system, 1).await?;
    system.finish_with_parked()
}

async fn a_text_that_postgresql_cannot_hold_is_parked(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let publisher = Publisher::connect(&system).await?;
    let with_nul =
        UpdateMessage { text: "no\0text".to_owned(), ..message(&system, 1, "DNS").await? };
    publisher.send_update(&with_nul).await?;
    let named_with_nul = message(&system, 1, "D\0NS").await?;
    publisher.send_update(&named_with_nul).await?;
    ensure!(settled(&system, &update("DNS", 1, "behind")).await?.status == 201);
    let rows = stands_parked(&system, 2).await?;
    ensure!(rows[0].reason.contains("the database refuses it"), "{rows:?}");
    ensure!(rows[1].reason.contains("now names another one"), "{rows:?}");
    for (row, update) in rows.iter().zip([with_nul, named_with_nul]) {
        ensure!(row.payload == update.encode(), "{row:?}");
        ensure!(receipt(&system, &update.id.to_string()).await?["state"] == "parked");
    }
    system.finish_with_parked()
}

async fn an_id_outside_the_inboxs_parts_is_parked(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let publisher = Publisher::connect(&system).await?;
    let good = message(&system, 1, "DNS").await?;
    // Of 2001 and of 2100, and no UUIDv7 at all.
    let made_at = |micros| Timestamp::from_micros(micros).map(UpdateId::at);
    let ids =
        [made_at(1_000_000_000_000_000)?, made_at(4_102_444_800_000_000)?, UpdateId(Uuid::nil())];
    for id in ids {
        publisher.send_update(&UpdateMessage { id, ..good.clone() }).await?;
    }
    ensure!(settled(&system, &update("DNS", 1, "behind")).await?.status == 201);
    let rows = stands_parked(&system, 3).await?;
    for (row, id) in rows.iter().zip(ids) {
        ensure!(row.update_id == Some(id.0), "{row:?}");
        ensure!(row.reason.contains("the inbox has no part for"), "{row:?}");
    }
    for id in &ids[..2] {
        ensure!(receipt(&system, &id.to_string()).await?["state"] == "parked");
    }
    system.finish_with_parked()
}

/// Posts an update and waits for its outcome, however slow the machine is.
async fn settled(system: &System, update: &Value) -> Result<Answer> {
    answer(system.update(update).header("Prefer", "wait=30")).await
}

async fn a_client_that_waits_for_a_parked_update_is_told(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    refuse(&system, "sdb_inbox", "poison", "").await?;
    let told = settled(&system, &update("DNS", 1, "poison")).await?;
    let id = told.header("update-id").to_owned();
    ensure!(told.status == 202 && told.body == json!({ "id": id, "state": "parked" }), "{told:?}");
    ensure!(told.header("location") == format!("/api/v1/updates/{id}"), "{told:?}");
    ensure!(!told.header("retry-after").is_empty(), "{told:?}");
    let shown = receipt(&system, &id).await?;
    ensure!(shown["state"] == "parked", "{shown}");
    let reason = shown["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("we take no poison"), "{shown}");
    ensure!(settled(&system, &update("DNS", 1, "fine")).await?.status == 201);
    stands_parked(&system, 1).await?;
    system.finish_with_parked()
}

async fn a_redelivered_update_takes_effect_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let publisher = Publisher::connect(&system).await?;
    ensure!(settled(&system, &update("CDN", 1, "first")).await?.status == 201);
    let joins = message(&system, 1, "DNS").await?;
    let bytes = joins.encode();
    for message_id in [Some(joins.id.to_string()), None, Some("another".to_owned())] {
        publisher.send(1, &bytes, message_id.as_deref()).await?;
    }
    ensure!(done(&system, &joins.id.to_string()).await?["outcome"] == "joined");
    let record = "SELECT json_agg(i ORDER BY position)::text FROM sdb_inbox i";
    let inbox = async || -> Result<String> {
        Ok(sqlx::query_scalar(AssertSqlSafe(record)).fetch_one(&system.database).await?)
    };
    let before = inbox().await?;
    // After its commit, to another partition, and after it has left the incident.
    publisher.send(1, &bytes, None).await?;
    publisher.send(2, &bytes, None).await?;
    ensure!(settled(&system, &update("CDN", 1, "behind")).await?.status == 200);
    ensure!(settled(&system, &update("DNS", 2, "moves")).await?.status == 201);
    publisher.send_update(&joins).await?;
    ensure!(settled(&system, &update("DNS", 2, "behind")).await?.status == 200);
    ensure!(inbox().await?.starts_with(before.trim_end_matches(']')), "its record was changed");
    ensure!(in_order(&system, 1).await?.len() == 3);
    let notes = "SELECT count(*) FROM incident_status WHERE text LIKE 'DNS%added%'";
    ensure!(system.count(notes).await? == 1);
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn a_lock_that_is_held_for_long_parks_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let mut scope = system.database.begin().await?;
    sqlx::query("SELECT 1 FROM sdb_scope FOR UPDATE").execute(&mut *scope).await?;
    let mut ids = Vec::new();
    for impact in [1, 2, 3] {
        ids.push(post_async(&system, 0, &update("DNS", impact, "held")).await?);
    }
    // Longer than the worker waits for a lock.
    sleep(Duration::from_secs(7)).await;
    ensure!(receipt(&system, &ids[0]).await?["state"] == "pending");
    ensure!(system.workers[0].log()?.contains("trying again"), "the worker did not give up once");
    scope.commit().await?;
    for (id, outcome) in ids.iter().zip(["opened", "raised", "raised"]) {
        ensure!(done(&system, id).await?["outcome"] == outcome);
    }
    ensure!(in_order(&system, 1).await? == ids);
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn what_passes_is_tried_again_and_never_parked(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    // Serialization, deadlock, disk full, memory, connections, cancelled, shutdown, lock, I/O, a
    // missing right, read-only, an internal error.
    for code in [
        "40001", "40P01", "53100", "53200", "53300", "57014", "57P01", "55P03", "58030", "42501",
        "25006", "XX000",
    ] {
        refuse(&system, "sdb_inbox", "unlucky", &format!("USING ERRCODE = '{code}'")).await?;
        let tried =
            || -> Result<usize> { Ok(system.workers[0].log()?.matches("trying again").count()) };
        let before = tried()?;
        let id = post_async(&system, 0, &update("DNS", 1, "unlucky")).await?;
        eventually("the worker has tried twice", async || Ok(tried()? >= before + 2)).await?;
        ensure!(receipt(&system, &id).await?["state"] == "pending", "after {code}");
        system.sql("DROP TRIGGER refuse ON sdb_inbox").await?;
        done(&system, &id).await?;
    }
    // Its connection is ended in the middle of a batch.
    let mut scope = system.database.begin().await?;
    sqlx::query("SELECT 1 FROM sdb_scope FOR UPDATE").execute(&mut *scope).await?;
    let id = post_async(&system, 0, &update("CDN", 1, "cut")).await?;
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'worker'
            AND wait_event_type = 'Lock'";
    eventually("the worker waits and is cut", async || Ok(system.count(cut).await? > 0)).await?;
    scope.commit().await?;
    done(&system, &id).await?;
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn one_clients_updates_of_a_component_keep_their_order(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.start_worker(&[("SDB_BATCH", "7")]).await?;
    let mut ids = Vec::new();
    for number in 0..300 {
        let body = update("DNS", 1 + u8::from(number >= 150), &format!("update {number}"));
        ids.push(post_async(&system, number % 2, &body).await?);
        if number == 100 {
            // The others go on with another worker, in other batches.
            system.workers[0].signal(nix::sys::signal::Signal::SIGTERM)?;
        }
    }
    done(&system, &ids[299]).await?;
    ensure!(in_order(&system, 1).await? == ids, "the inbox has another order");
    let (first, raised) = (receipt(&system, &ids[0]).await?, receipt(&system, &ids[150]).await?);
    ensure!(first["outcome"] == "opened" && raised["outcome"] == "raised", "{first} {raised}");
    let not_later = "SELECT count(*) FROM (SELECT decided_at - lag(decided_at)
        OVER (ORDER BY position) AS step FROM sdb_inbox) AS s WHERE step <= interval '0'";
    ensure!(system.count(not_later).await? == 0, "decisions are not later than those before");
    replay::agrees(&system.database).await?;
    system.finish().await
}
