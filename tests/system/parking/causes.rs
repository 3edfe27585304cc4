//! What can't be applied for a reason of its own is parked with it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::{
    domain::{component::Attribute, impact::Impact, timestamp::Timestamp, update_id::UpdateId},
    wire::message::UpdateMessage,
};
use uuid::Uuid;

use super::{Publisher, in_order, message, refuse, settled, update, with_components};
use harness::{Fixture, System, eventually, replay, tests};

tests!(
    a_message_that_is_no_update_is_parked_once_and_its_queue_goes_on,
    an_update_whose_component_is_gone_is_parked,
    an_update_whose_component_id_was_reused_is_parked,
    an_incident_that_the_database_refuses_parks_its_update_only,
    a_record_that_the_database_refuses_parks_its_update_only,
    a_text_that_postgresql_cannot_hold_is_parked,
    an_id_outside_the_inboxs_partitions_is_parked,
    a_client_that_waits_for_a_parked_update_is_answered,
);

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

async fn a_message_that_is_no_update_is_parked_once_and_its_queue_goes_on(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let publisher = Publisher::connect(&system).await?;
    let dns = message(&system, 1, "DNS").await?;
    let newer = String::from_utf8(dns.encode())?.replacen("\"v\":1", "\"v\":9", 1).into_bytes();
    let maintenance =
        UpdateMessage { condition: Impact::Maintenance.into(), ..dns.clone() }.encode();
    let form = "not of the form of a version from 1 to 3";
    let messages: [(&[u8], &str); 7] = [
        (b"\xff\x00 garbage {", form),
        (b"", form),
        (b"null", form),
        (br#"{"v": 1, "hello": "world"}"#, form),
        (br#"["an update", "of another form \u0000"]"#, form),
        (&newer, "version 9"),
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

    let receipt = system.receipt(&ghost.id.to_string()).await?;
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
    let (first, second) = (system.post_async(0, &dns).await?, system.post_async(0, &dns).await?);
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
    let behind = settled(&system, &dns).await?;
    ensure!(behind.status == 201, "{behind:?}");
    let grown = message(&system, 2, "CDN").await?;
    publisher.send_update(&grown).await?;
    ensure!(system.applied(&grown.id.to_string()).await?["outcome"] == "opened");

    let rows = stands_parked(&system, 3).await?;
    for (row, (id, label)) in rows.iter().zip([
        (first, "DNS (R1)"),
        (second, "DNS (R1)"),
        (now_another.id.to_string(), "Storage (R2)"),
    ]) {
        ensure!(row.update_id == Some(id.parse()?), "{row:?}");
        let reason = format!("component 1, {label}, now names another one");
        ensure!(row.reason.contains(&reason), "{row:?}");
        ensure!(system.receipt(&id).await?["state"] == "parked");
    }
    system.finish_with_parked()
}

/// Posts updates so that the worker has all of them but the first in one batch.
async fn in_one_batch(system: &System, updates: &[Value]) -> Result<Vec<String>> {
    let scope = system.hold_scope().await?;
    let mut ids = Vec::new();
    for update in updates {
        ids.push(system.post_async(0, update).await?);
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
        system.applied(id).await?;
        let place = ["DNS", "CDN", "Mail"].iter().position(|n| n == name).context("unknown")?;
        expected[place].push(id.clone());
    }

    let rows = parked(&system, 1).await?;
    ensure!(rows[0].update_id == Some(ids[31].parse()?), "{rows:?}");
    ensure!(rows[0].delivery_key == ids[31], "{rows:?}");
    ensure!(rows[0].reason.contains("the database refuses it"), "{rows:?}");
    ensure!(rows[0].reason.contains("we take no poison"), "{rows:?}");
    ensure!(UpdateMessage::decode(&rows[0].payload)?.text == "poison", "{rows:?}");
    let shown = system.receipt(&ids[31]).await?;
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
        ensure!(system.receipt(&update.id.to_string()).await?["state"] == "parked");
    }
    system.finish_with_parked()
}

async fn an_id_outside_the_inboxs_partitions_is_parked(fixture: Arc<Fixture>) -> Result<()> {
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
        ensure!(row.reason.contains("the inbox has no partition for"), "{row:?}");
    }
    for id in &ids[..2] {
        ensure!(system.receipt(&id.to_string()).await?["state"] == "parked");
    }
    system.finish_with_parked()
}

async fn a_client_that_waits_for_a_parked_update_is_answered(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    refuse(&system, "sdb_inbox", "poison", "").await?;
    let told = settled(&system, &update("DNS", 1, "poison")).await?;
    let id = told.header("update-id").to_owned();
    ensure!(told.status == 202 && told.body == json!({ "id": id, "state": "parked" }), "{told:?}");
    ensure!(told.header("location") == format!("/api/v1/updates/{id}"), "{told:?}");
    ensure!(!told.header("retry-after").is_empty(), "{told:?}");
    let shown = system.receipt(&id).await?;
    ensure!(shown["state"] == "parked", "{shown}");
    let reason = shown["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("we take no poison"), "{shown}");
    ensure!(settled(&system, &update("DNS", 1, "fine")).await?.status == 201);
    stands_parked(&system, 1).await?;
    system.finish_with_parked()
}
