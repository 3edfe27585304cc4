//! The reports themselves: how many there may be, how long they live, and what it costs to have them.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use super::recovery::{SOURCE, bad, live, ok, post, with_components};
use harness::{CLAIM, COMPONENT_STATUS, Fixture, SECRET, System, answer, eventually, tests, token};

tests!(
    a_component_has_a_thousand_reports_at_most,
    a_crowded_component_costs_no_second_transaction,
    the_reports_of_a_component_go_with_it,
    no_report_outlives_its_component,
    what_ended_longer_than_a_day_ago_is_deleted,
    a_renewal_writes_no_index,
    an_ok_that_changes_nothing_costs_the_gateway_no_query,
    an_end_that_is_repeated_ends_no_incident_of_an_older_gateway,
    an_idempotency_key_belongs_to_one_source,
);

/// Reports of DNS from the sources 0 to 999.
async fn a_thousand(system: &System) -> Result<()> {
    for half in 0..2 {
        let updates: Vec<Value> =
            (0..500).map(|number| bad("DNS", 1, &format!("{}", half * 500 + number))).collect();
        let request = system
            .request_to(0, Method::POST, "/api/v1/updates")
            .bearer_auth(&system.token)
            .header("Prefer", "wait=30")
            .json(&json!({ "updates": updates }));
        ensure!(answer(request).await?.status == 200);
    }
    eventually("a thousand reports stand", async || Ok(live(system, "true").await? == 1_000)).await
}

async fn a_component_has_a_thousand_reports_at_most(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    a_thousand(&system).await?;
    let keyed = async || {
        let request = system.update(&bad("DNS", 1, "one more")).header("Idempotency-Key", "k");
        answer(request.header("Prefer", "wait=20")).await
    };
    let refused = keyed().await?;
    let text = refused.body["message"].as_str().unwrap_or_default();
    ensure!(refused.status == 422 && text.contains("1,000"), "{refused:?}");
    let receipt = system.receipt(refused.header("update-id")).await?;
    ensure!(receipt["state"] == "rejected" && receipt["reason"] == "too_many_reports", "{receipt}");
    post(&system, &bad("DNS", 1, "7"), 200).await?;
    post(&system, &ok("DNS", "7"), 200).await?;
    // Its idempotency key is not used.
    ensure!(keyed().await?.status == 200);
    post(&system, &bad("DNS", 1, "7"), 422).await?;
    post(&system, &bad("CDN", 1, "7"), 201).await?;
    ensure!(live(&system, "true").await? == 1_001);
    system.finish().await
}

async fn the_reports_of_a_component_go_with_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    for (name, statement) in [
        (
            "CDN",
            "DELETE FROM incident_component_relation; DELETE FROM component WHERE name = 'CDN'",
        ),
        ("DNS", "TRUNCATE component CASCADE"),
    ] {
        post(&system, &bad(name, 1, SOURCE), 201).await?;
        system.sql(statement).await?;
        ensure!(live(&system, "true").await? == 0, "{name}");
    }
    // Its id comes again, and is another component.
    system.sql("INSERT INTO component (id, name) VALUES (1, 'VPN')").await?;
    eventually("the gateway knows the component", async || {
        Ok([200, 201].contains(&system.post(&bad("VPN", 2, "b")).await?.status))
    })
    .await?;
    post(&system, &ok("VPN", "b"), 201).await?;
    system.finish().await
}

async fn a_renewal_writes_no_index(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    for (name, impact) in [("DNS", 1), ("CDN", 2)] {
        post(&system, &bad(name, impact, SOURCE), 201).await?;
    }
    let version = system.count("SELECT lists FROM sdb_version").await?;
    for _ in 0..19 {
        for (name, impact) in [("DNS", 1), ("CDN", 2)] {
            post(&system, &bad(name, impact, SOURCE), 200).await?;
        }
    }
    let after = system.count("SELECT lists FROM sdb_version").await?;
    ensure!(after == version, "renewals moved the lists' version from {version} to {after}");
    let updates = "n_tup_upd FROM pg_stat_user_tables WHERE relname = 'sdb_report'";
    eventually("PostgreSQL has counted the renewals", async || {
        // It counts transactions that were rolled back, too.
        Ok(system.count(&format!("SELECT {updates}")).await? >= 38)
    })
    .await?;
    let cold = system.count(&format!("SELECT n_tup_upd - n_tup_hot_upd, {updates}")).await?;
    ensure!(cold == 0, "{cold} renewals wrote an index");
    system.finish().await
}

async fn a_crowded_component_costs_no_second_transaction(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    a_thousand(&system).await?;
    let rolled_back = async |system: &mut System| -> Result<i64> {
        // PostgreSQL counts a session's transactions when it ends.
        if let Some(mut worker) = system.workers.pop() {
            worker.signal(Signal::SIGTERM)?;
            worker.ended().await?;
        }
        let sessions = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'worker'";
        eventually("it is gone", async || Ok(system.count(sessions).await? == 0)).await?;
        let count = "SELECT pg_stat_get_db_xact_rollback(oid) FROM pg_database
            WHERE datname = current_database()";
        system.count(count).await
    };
    let before = rolled_back(&mut system).await?;
    system.start_worker(&[]).await?;
    for number in 0..12 {
        post(&system, &bad("DNS", 1, &format!("one more, {number}")), 422).await?;
    }
    let rolled_back = rolled_back(&mut system).await? - before;
    ensure!(rolled_back < 6, "{rolled_back} transactions were rolled back for 12 updates");
    // One that ended makes room at once.
    system.start_worker(&[]).await?;
    post(&system, &ok("DNS", "7"), 200).await?;
    post(&system, &bad("DNS", 1, "another"), 200).await?;
    post(&system, &bad("DNS", 1, "one more"), 422).await?;
    system.finish().await
}

/// Deletes a component by a transaction that does not see its report, which is newer than its snapshot.
async fn delete_unseen(system: &System, name: &str) -> Result<i32> {
    let by_name = "SELECT id FROM component WHERE name = $1";
    let component: i32 = sqlx::query_scalar(by_name).bind(name).fetch_one(&system.database).await?;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
    let mut deleting = system.database.begin_with(begin).await?;
    sqlx::query("SELECT FROM component").execute(&mut *deleting).await?;
    post(system, &bad(name, 1, SOURCE), 200).await?;
    for delete in [
        "DELETE FROM incident_component_relation WHERE component_id = $1",
        "DELETE FROM component_attribute WHERE component_id = $1",
        "DELETE FROM component WHERE id = $1",
    ] {
        sqlx::query(delete).bind(component).execute(&mut *deleting).await?;
    }
    deleting.commit().await?;
    ensure!(live(system, "true").await? == 1, "the deletion has seen it");
    Ok(component)
}

async fn no_report_outlives_its_component(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            VALUES ('Fire', 3, false, '2020-01-01');
            INSERT INTO incident_component_relation SELECT 1, id FROM component",
        )
        .await?;
    // Another component gets its id.
    let component = delete_unseen(&system, "CDN").await?;
    system.sql(&format!("INSERT INTO component (id, name) VALUES ({component}, 'VPN')")).await?;
    ensure!(live(&system, "true").await? == 0, "another component has its report");
    // Nobody gets its id.
    delete_unseen(&system, "DNS").await?;
    // A batch may hold its row, which nobody waits for.
    let mut batch = system.database.begin().await?;
    sqlx::query("SELECT FROM sdb_report FOR UPDATE").execute(&mut *batch).await?;
    system.worker_succeeds(&["migrate"]).await?;
    ensure!(live(&system, "true").await? == 1, "a row that is held was deleted");
    batch.rollback().await?;
    system.worker_succeeds(&["migrate"]).await?;
    ensure!(live(&system, "true").await? == 0, "nobody's report stands");
    system.finish().await
}

async fn what_ended_longer_than_a_day_ago_is_deleted(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    for (name, source) in [("DNS", "stands"), ("DNS", "ended"), ("CDN", "ended long ago")] {
        post(&system, &bad(name, 1, source), if source == "ended" { 200 } else { 201 }).await?;
    }
    for (name, source, status) in [("DNS", "ended", 200), ("CDN", "ended long ago", 201)] {
        post(&system, &ok(name, source), status).await?;
    }
    system
        .sql(
            "UPDATE sdb_report SET ended_at = ended_at - interval '26 hours'
            WHERE source = 'ended long ago'",
        )
        .await?;
    system.worker_succeeds(&["migrate"]).await?;
    let left: BTreeSet<String> =
        system.texts("SELECT source FROM sdb_report").await?.into_iter().collect();
    ensure!(left == ["ended", "stands"].map(str::to_owned).into(), "{left:?}");
    system.finish_without_replay().await
}

async fn an_ok_that_changes_nothing_costs_the_gateway_no_query(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(post(&system, &ok("DNS", SOURCE), 200).await?);
    }
    // The newest statement of each session.
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND query LIKE '%FROM sdb_inbox asked%'";
    ensure!(system.count(asked).await? == 0, "a gateway has read a receipt");
    for answer in &answers {
        let receipt = system.receipt(answer.header("update-id")).await?;
        ensure!(answer.body == receipt, "{answer:?}, {receipt}");
        ensure!(receipt["reason"] == "in_no_system_incident", "{receipt}");
    }
    // The session may soon read something else, since others share it.
    eventually("what reads a receipt is seen", async || {
        system.receipt(answers[0].header("update-id")).await?;
        Ok(system.count(asked).await? > 0)
    })
    .await?;
    system.finish().await
}

async fn an_end_that_is_repeated_ends_no_incident_of_an_older_gateway(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    post(&system, &bad("DNS", 1, SOURCE), 201).await?;
    post(&system, &ok("DNS", SOURCE), 201).await?;
    // What such a gateway takes has no report.
    system.worker_succeeds(&["topology", "change", "--wire", "2"]).await?;
    let mut opened = Value::Null;
    eventually("an incident is opened", async || {
        let request = system.update(&json!({ "name": "DNS", "impact": 2 }));
        let answer = answer(request.header("Prefer", "wait=20")).await?;
        opened = answer.body;
        Ok(answer.status == 201)
    })
    .await?;
    let said = system.worker_succeeds(&["topology", "change", "--wire", "3"]).await?;
    ensure!(said.contains("Gateways of earlier releases must not run any more"), "{said}");
    eventually("the end is repeated", async || {
        let answer = answer(system.update(&ok("DNS", SOURCE)).header("Prefer", "wait=20")).await?;
        if answer.status == 503 {
            return Ok(false);
        }
        ensure!(answer.status == 200 && answer.body["id"] == opened["id"], "{answer:?}");
        let receipt = system.receipt(answer.header("update-id")).await?;
        ensure!(receipt["reason"] == "report_had_ended", "{receipt}");
        Ok(true)
    })
    .await?;
    // One that never had a report ends it.
    post(&system, &ok("DNS", "somebody"), 201).await?;
    system.finish().await
}

async fn an_idempotency_key_belongs_to_one_source(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let of = async |subject: &str, name: &str, key: &str, preference: &str| {
        let request = system
            .request_to(0, Method::POST, COMPONENT_STATUS)
            .bearer_auth(token(SECRET, &json!({ CLAIM: "x", "sub": subject })))
            .header("Prefer", preference)
            .header("Idempotency-Key", key)
            .json(&json!({ "name": name, "impact": 1 }));
        answer(request).await
    };
    for (subject, status) in [("a", 201), ("a", 201), ("b", 422), ("a", 201)] {
        let answer = of(subject, "DNS", "one after the other", "wait=20").await?;
        ensure!(answer.status == status, "{subject}: {answer:?}");
    }
    // In one batch: a worker waits until all are there.
    let pause = system.hold_scope().await?;
    of("a", "CDN", "of the first batch", "respond-async").await?;
    system.waits_for_a_lock().await?;
    let mut ids = Vec::new();
    for subject in ["a", "b", "a"] {
        let answer = of(subject, "CDN", "of the second batch", "respond-async").await?;
        ids.push(answer.header("update-id").to_owned());
    }
    pause.rollback().await?;
    let mut states = Vec::new();
    for id in ids {
        eventually("it is decided", async || Ok(system.receipt(&id).await?["state"] != "pending"))
            .await?;
        states.push(system.receipt(&id).await?["state"].clone());
    }
    ensure!(states == ["done", "rejected", "done"], "{states:?}");
    ensure!(live(&system, "source = 'b'").await? == 0);
    system.finish().await
}
