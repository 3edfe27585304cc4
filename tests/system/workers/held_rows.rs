//! Rows that others hold: an open transaction of the Python dashboard, an operator or a person with psql
//! holds up the updates that need its rows, and nothing else.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use tokio::time::Instant;

use harness::{Fixture, System, answer, eventually, replay, tests};

tests!(
    an_open_edit_holds_up_only_the_updates_that_need_its_incident,
    more_repeats_than_a_worker_may_hold_go_on_beside_an_open_edit,
    what_is_held_takes_effect_in_order_when_its_worker_is_killed,
    an_open_separation_holds_up_only_what_rests_on_its_relation,
    an_idempotency_key_waits_for_the_update_that_used_it_first,
    a_component_that_others_lock_holds_up_its_own_updates_only,
    an_incident_that_others_are_about_to_add_holds_up_its_impact_only,
    an_update_that_always_takes_too_long_is_deferred_alone,
    of_several_that_cover_a_component_the_lowest_id_is_named,
    a_clock_that_was_an_hour_ahead_leads_no_later_decision,
    a_clock_that_went_back_a_little_keeps_decisions_in_order,
);

const NOW: &str = "(clock_timestamp() AT TIME ZONE 'UTC')";

/// One queue, of which a worker holds few messages; the components' ids are 1, 2, 3 and 4.
async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system =
        System::prepared_with(fixture, &[("SDB_PARTITIONS", "1"), ("SDB_PREFETCH", "8")]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("Mail", &[]), ("VPN", &[])]).await?;
    Ok(system)
}

fn update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact, "text": format!("{name} reports {impact}") })
}

/// Posts an update that is decided within its deadline; returns the incident's id.
async fn decided(system: &System, name: &str, impact: u8, status: u16) -> Result<i64> {
    let answer = system.post(&update(name, impact)).await?;
    ensure!(answer.status == status, "{name} {impact}: {answer:?}, not {status}");
    answer.body["id"].as_i64().context("the answer has no incident")
}

/// Posts an update without waiting for it; returns the address of its receipt.
async fn accepted(system: &System, name: &str, impact: u8) -> Result<String> {
    let request = system.update(&update(name, impact)).header("Prefer", "respond-async");
    let accepted = answer(request).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    Ok(accepted.header("location").to_owned())
}

async fn is_pending(system: &System, receipt: &str) -> Result<()> {
    let body = system.get(receipt).await?.body;
    ensure!(body["state"] == "pending", "{body}");
    Ok(())
}

/// Waits until an update is done; returns its receipt.
async fn done(system: &System, receipt: &str) -> Result<Value> {
    let mut body = Value::Null;
    eventually("the update is done", async || {
        body = system.get(receipt).await?.body;
        Ok(body["state"] != "pending")
    })
    .await?;
    ensure!(body["state"] == "done", "{body}");
    Ok(body)
}

/// A transaction that is left open, and the id of its session.
async fn open(system: &System, statements: &str) -> Result<(Transaction<'static, Postgres>, i32)> {
    let mut transaction = system.database.begin().await?;
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *transaction).await?;
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut *transaction).await?;
    Ok((transaction, pid))
}

/// Waits until a worker's log names the session that it waits for.
async fn is_named(system: &System, worker: usize, pid: i32) -> Result<()> {
    let name = format!("pid {pid}, user ");
    eventually("the log names the session", async || {
        let log = system.workers[worker].log()?;
        Ok(log.lines().any(|line| line.contains("another session holds") && line.contains(&name)))
    })
    .await
}

async fn an_open_edit_holds_up_only_the_updates_that_need_its_incident(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    let major = decided(&system, "CDN", 2, 201).await?;
    let touch = format!("UPDATE incident SET text = text WHERE id = {minor}");
    let (edit, pid) = open(&system, &touch).await?;

    // Repeats, of the held incident's component, too; and changes of others.
    ensure!(decided(&system, "DNS", 1, 200).await? == minor);
    ensure!(decided(&system, "CDN", 2, 200).await? == major);
    ensure!(decided(&system, "Mail", 2, 201).await? == major);
    let outage = decided(&system, "Mail", 3, 201).await?;
    ensure!(outage != major);

    // The first needs the incident, to join it; the second to raise it, the third waits behind.
    let joins = accepted(&system, "VPN", 1).await?;
    let raises = accepted(&system, "DNS", 2).await?;
    let repeats = accepted(&system, "DNS", 1).await?;
    is_named(&system, 0, pid).await?;
    ensure!(decided(&system, "CDN", 2, 200).await? == major);
    ensure!(decided(&system, "Mail", 3, 200).await? == outage);
    for receipt in [&joins, &raises, &repeats] {
        is_pending(&system, receipt).await?;
    }
    edit.commit().await?;

    ensure!(done(&system, &joins).await?["outcome"] == "joined");
    let moved = done(&system, &raises).await?;
    ensure!(moved["outcome"] == "moved" && moved["incident"]["id"] == major, "{moved}");
    let covered = done(&system, &repeats).await?;
    ensure!(covered["outcome"] == "unchanged" && covered["incident"]["id"] == major, "{covered}");
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn more_repeats_than_a_worker_may_hold_go_on_beside_an_open_edit(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    let major = decided(&system, "CDN", 2, 201).await?;
    let lock = format!("SELECT FROM incident WHERE id = {minor} FOR UPDATE");
    let (edit, pid) = open(&system, &lock).await?;
    let held = accepted(&system, "DNS", 3).await?;
    is_named(&system, 0, pid).await?;
    // Several times as many as the worker's prefetch.
    for _ in 0..40 {
        ensure!(decided(&system, "CDN", 2, 200).await? == major);
    }
    is_pending(&system, &held).await?;
    edit.rollback().await?;
    ensure!(done(&system, &held).await?["outcome"] == "raised");
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn what_is_held_takes_effect_in_order_when_its_worker_is_killed(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    decided(&system, "CDN", 2, 201).await?;
    let touch = format!("UPDATE incident SET text = text WHERE id = {minor}");
    let (edit, pid) = open(&system, &touch).await?;
    let mut receipts = Vec::new();
    for impact in [2, 3, 1] {
        receipts.push(accepted(&system, "DNS", impact).await?);
        decided(&system, "CDN", 1, 200).await?;
    }
    is_named(&system, 0, pid).await?;
    system.workers[0].signal(Signal::SIGKILL)?;
    system.start_worker(&[]).await?;
    is_named(&system, 1, pid).await?;
    edit.commit().await?;
    let mut outcomes = Vec::new();
    for receipt in &receipts {
        outcomes.push(done(&system, receipt).await?["outcome"].clone());
    }
    ensure!(outcomes == ["moved", "moved", "unchanged"], "{outcomes:?}");
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 2 + 2 * 3);
    replay::agrees(&system.database).await?;
    system.finish().await
}

/// A separation touches no row of the old incident itself.
async fn an_open_separation_holds_up_only_what_rests_on_its_relation(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let major = decided(&system, "CDN", 2, 201).await?;
    for name in ["DNS", "Mail"] {
        decided(&system, name, 2, 201).await?;
    }
    let separate = format!(
        "DELETE FROM incident_component_relation WHERE incident_id = {major} AND component_id = 1;
        INSERT INTO incident (id, text, start_date, impact, system)
            VALUES (70, 'DNS alone', {NOW}, 2, false);
        INSERT INTO incident_component_relation VALUES (70, 1);"
    );
    let (separation, pid) = open(&system, &separate).await?;
    // In the snapshot it is covered: so it comes before the separation.
    ensure!(decided(&system, "DNS", 2, 200).await? == major);
    // Others join, and leave while one of them stays.
    ensure!(decided(&system, "VPN", 2, 201).await? == major);
    let outage = decided(&system, "Mail", 3, 201).await?;
    let held = accepted(&system, "DNS", 3).await?;
    is_named(&system, 0, pid).await?;
    is_pending(&system, &held).await?;
    separation.commit().await?;
    // It left the incident, and so joins that of its impact; its manual one is of lower impact.
    let joined = done(&system, &held).await?;
    ensure!(joined["outcome"] == "joined" && joined["incident"]["id"] == outage, "{joined}");
    let stays = "SELECT count(*) FROM incident_component_relation WHERE component_id = 1";
    ensure!(system.count(stays).await? == 2, "it is in the manual incident and in the outage");
    system.finish().await
}

async fn an_idempotency_key_waits_for_the_update_that_used_it_first(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    let touch = format!("UPDATE incident SET text = text WHERE id = {minor}");
    let (edit, pid) = open(&system, &touch).await?;
    let mut receipts = Vec::new();
    for (name, impact) in [("DNS", 2), ("CDN", 3), ("DNS", 2)] {
        let request = system.update(&update(name, impact));
        let request = request.header("Idempotency-Key", "same").header("Prefer", "respond-async");
        let answer = answer(request).await?;
        ensure!(answer.status == 202, "{answer:?}");
        receipts.push(answer.header("location").to_owned());
    }
    is_named(&system, 0, pid).await?;
    // Without the key, and of another component, it is free to go.
    ensure!(decided(&system, "Mail", 3, 201).await? != minor);
    edit.commit().await?;
    ensure!(done(&system, &receipts[0]).await?["outcome"] == "raised");
    eventually("the second is refused", async || {
        Ok(system.get(&receipts[1]).await?.body["state"] == "rejected")
    })
    .await?;
    ensure!(done(&system, &receipts[2]).await?["incident"]["id"] == minor);
    system.finish().await
}

async fn a_component_that_others_lock_holds_up_its_own_updates_only(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let major = decided(&system, "CDN", 2, 201).await?;
    let (edit, _) = open(&system, "SELECT FROM component WHERE id = 1 FOR UPDATE").await?;
    let held = [accepted(&system, "DNS", 2).await?, accepted(&system, "DNS", 3).await?];
    eventually("it is deferred", async || {
        Ok(system.workers[0].log()?.contains("canceling statement due to lock timeout"))
    })
    .await?;
    for _ in 0..10 {
        let receipt = accepted(&system, "Mail", 2).await?;
        ensure!(done(&system, &receipt).await?["incident"]["id"] == major);
    }
    for receipt in &held {
        is_pending(&system, receipt).await?;
    }
    edit.rollback().await?;
    ensure!(done(&system, &held[0]).await?["outcome"] == "joined");
    ensure!(done(&system, &held[1]).await?["outcome"] == "moved");
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn an_incident_that_others_are_about_to_add_holds_up_its_impact_only(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let major = decided(&system, "CDN", 2, 201).await?;
    let add = format!(
        "INSERT INTO incident (text, start_date, impact, system) VALUES ('By hand', {NOW}, 3, true)"
    );
    let (edit, _) = open(&system, &add).await?;
    // It would be the second active outage, if that commits.
    let held = accepted(&system, "DNS", 3).await?;
    eventually("it is deferred", async || {
        Ok(system.workers[0].log()?.contains("canceling statement due to lock timeout"))
    })
    .await?;
    for _ in 0..10 {
        let receipt = accepted(&system, "Mail", 2).await?;
        ensure!(done(&system, &receipt).await?["incident"]["id"] == major);
    }
    is_pending(&system, &held).await?;
    edit.commit().await?;
    ensure!(done(&system, &held).await?["outcome"] == "joined");
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}

/// As when a statement takes longer than PostgreSQL lets it: the same error, without the wait.
async fn an_update_that_always_takes_too_long_is_deferred_alone(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    system
        .sql(
            "CREATE FUNCTION too_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'canceling statement due to statement timeout'
                    USING ERRCODE = '57014';
            END $$;
            CREATE TRIGGER too_long BEFORE INSERT ON incident FOR EACH ROW
                WHEN (NEW.text = 'DNS reports 1') EXECUTE FUNCTION too_long();",
        )
        .await?;
    // All in one batch.
    system.workers[0].signal(Signal::SIGKILL)?;
    system.workers[0].ended().await?;
    let mut receipts = Vec::new();
    for (name, impact) in [("CDN", 2), ("DNS", 1), ("Mail", 2), ("DNS", 2), ("VPN", 2)] {
        receipts.push(accepted(&system, name, impact).await?);
    }
    system.start_worker(&[]).await?;
    for receipt in [&receipts[0], &receipts[2], &receipts[4]] {
        done(&system, receipt).await?;
    }
    // Behind the first of its component.
    for receipt in [&receipts[1], &receipts[3]] {
        is_pending(&system, receipt).await?;
    }
    ensure!(decided(&system, "CDN", 3, 201).await? > 0);
    system.sql("DROP TRIGGER too_long ON incident; DROP FUNCTION too_long").await?;
    ensure!(done(&system, &receipts[1]).await?["outcome"] == "opened");
    ensure!(done(&system, &receipts[3]).await?["outcome"] == "moved");
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn of_several_that_cover_a_component_the_lowest_id_is_named(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let hour_ago = format!("{NOW} - interval '1 hour'");
    let in_an_hour = format!("{NOW} + interval '1 hour'");
    // Ids, ends and components: with an end before those without one, and the other way round.
    for (id, impact, end, component) in [
        (5, 0, in_an_hour.as_str(), 1),
        (10, 0, "NULL", 1),
        (6, 0, "NULL", 2),
        (11, 0, &in_an_hour, 2),
        (8, 3, "NULL", 3),
        (7, 2, "NULL", 3),
        (12, 0, "NULL", 4),
        (9, 0, &in_an_hour, 4),
        (4, 3, "NULL", 4),
    ] {
        system
            .sql(&format!(
                "INSERT INTO incident (id, text, start_date, end_date, impact, system)
                VALUES ({id}, 'No. {id}', {hour_ago}, {end}, {impact}, false);
                INSERT INTO incident_component_relation VALUES ({id}, {component});"
            ))
            .await?;
    }
    for (name, impact, expected, reason) in [
        ("DNS", 3, 5, "in_running_maintenance"),
        ("CDN", 3, 6, "in_running_maintenance"),
        ("Mail", 1, 7, "covered_by_manual_incident"),
        ("Mail", 3, 8, "covered_by_manual_incident"),
        // Rule 1 comes before rule 2.
        ("VPN", 1, 9, "in_running_maintenance"),
    ] {
        let answer = system.post(&update(name, impact)).await?;
        ensure!(answer.status == 200 && answer.body["id"] == expected, "{name}: {answer:?}");
        let receipt = format!("/api/v1/updates/{}", answer.header("update-id"));
        let receipt = system.get(&receipt).await?.body;
        ensure!(receipt["reason"] == reason, "{receipt}");
        ensure!(receipt["incident"]["id"] == expected, "{receipt}");
    }
    system.finish().await
}

async fn a_clock_that_was_an_hour_ahead_leads_no_later_decision(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    // As if that had been decided while the clock was wrong.
    system
        .sql(&format!(
            "UPDATE sdb_scope SET decided_at = {NOW} + interval '1 hour';
            UPDATE incident SET start_date = {NOW} + interval '1 hour' WHERE id = {minor};"
        ))
        .await?;
    let major = decided(&system, "CDN", 2, 201).await?;
    let active = system.get("/api/v1/incidents?active=true").await?;
    let ids: Vec<&Value> =
        active.body.as_array().context("no list")?.iter().map(|i| &i["id"]).collect();
    ensure!(ids == [major], "{active:?}");
    ensure!(system.workers[0].log()?.contains("ahead of the database's clock"));
    // The order is the position, which goes on.
    let out_of_order = "SELECT count(*) FROM sdb_inbox WHERE position NOT IN (1, 2)";
    ensure!(system.count(out_of_order).await? == 0);
    // What began in the future ends no earlier.
    ensure!(decided(&system, "DNS", 2, 201).await? == major);
    let reversed = "SELECT count(*) FROM incident WHERE end_date < start_date";
    ensure!(system.count(reversed).await? == 0, "an incident ends before it begins");

    // So it is for what an operator's command decides.
    system.sql(&format!("UPDATE sdb_scope SET decided_at = {NOW} + interval '1 hour'")).await?;
    let (closed, said) = system.worker_command(&["incident", "close", &major.to_string()]).await?;
    ensure!(closed, "{said}");
    let late = format!("SELECT count(*) FROM incident WHERE id = {major} AND end_date > {NOW}");
    ensure!(system.count(&late).await? == 0, "it ends in the future");
    system.finish().await
}

async fn a_clock_that_went_back_a_little_keeps_decisions_in_order(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    system.sql(&format!("UPDATE sdb_scope SET decided_at = {NOW} + interval '5 seconds'")).await?;
    let began = Instant::now();
    decided(&system, "DNS", 1, 201).await?;
    decided(&system, "DNS", 1, 200).await?;
    if began.elapsed() < Duration::from_secs(4) {
        let ahead = format!("SELECT count(*) FROM sdb_inbox WHERE decided_at > {NOW}");
        ensure!(system.count(&ahead).await? == 2, "the decisions are not after the newest one");
    }
    let steps = "SELECT count(*) FROM (SELECT decided_at - lag(decided_at) OVER (ORDER BY position)
        AS step FROM sdb_inbox) AS steps WHERE step <= interval '0'";
    ensure!(system.count(steps).await? == 0, "time stands still");
    ensure!(!system.workers[0].log()?.contains("ahead of the database's clock"));
    system.finish().await
}
