//! Rows that others have locked, and rows that they are about to add.

use std::sync::Arc;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use super::with_components;
use crate::workers::{accepted, decided, update};
use harness::{Fixture, NOW, System, answer, eventually, replay, tests};

tests!(
    an_open_edit_holds_up_only_the_updates_that_need_its_incident,
    what_is_settled_in_another_order_than_it_came_leaves_no_message_behind,
    more_repeats_than_a_worker_may_hold_go_on_beside_an_open_edit,
    what_is_held_takes_effect_in_order_when_its_worker_is_killed,
    an_open_separation_holds_up_only_what_rests_on_its_relation,
    an_idempotency_key_waits_for_the_update_that_used_it_first,
    a_component_that_others_lock_holds_up_its_own_updates_only,
    an_incident_that_others_are_about_to_add_holds_up_its_impact_only,
    an_update_that_always_takes_too_long_is_deferred_alone,
    a_component_that_is_being_deleted_keeps_no_report,
);

async fn is_pending(system: &System, receipt: &str) -> Result<()> {
    let body = system.receipt(receipt).await?;
    ensure!(body["state"] == "pending", "{body}");
    Ok(())
}

/// A transaction that is left open, and the id of its session.
async fn open(system: &System, statements: &str) -> Result<(Transaction<'static, Postgres>, i32)> {
    let mut transaction = system.database.begin().await?;
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *transaction).await?;
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut *transaction).await?;
    Ok((transaction, pid))
}

/// While it has the scope's lock, a worker waits for no row that it can see to be held.
fn never_waited(system: &System) -> Result<()> {
    let log = system.workers[0].log()?;
    ensure!(!log.contains("lock timeout"), "{log}");
    Ok(())
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

    ensure!(system.applied(&joins).await?["outcome"] == "joined");
    let moved = system.applied(&raises).await?;
    ensure!(moved["outcome"] == "moved" && moved["incident"]["id"] == major, "{moved}");
    let covered = system.applied(&repeats).await?;
    ensure!(covered["outcome"] == "unchanged" && covered["incident"]["id"] == major, "{covered}");
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn what_is_settled_in_another_order_than_it_came_leaves_no_message_behind(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    decided(&system, "CDN", 2, 201).await?;
    let lock = format!("SELECT FROM incident WHERE id = {minor} FOR UPDATE");
    let (edit, pid) = open(&system, &lock).await?;
    let held = accepted(&system, "DNS", 2).await?;
    is_named(&system, 0, pid).await?;
    // One batch has an update that must wait for that one, behind one that needs the same incident.
    let (pause, _) = open(&system, "SELECT FROM sdb_scope FOR UPDATE").await?;
    let repeats = accepted(&system, "CDN", 2).await?;
    system.waits_for_a_lock().await?;
    let joins = accepted(&system, "VPN", 1).await?;
    let behind = accepted(&system, "DNS", 1).await?;
    let queue = system.topology().await?.queue(0);
    eventually("the worker has them", async || Ok(system.waiting(&queue).await? == 0)).await?;
    pause.rollback().await?;
    ensure!(system.applied(&repeats).await?["outcome"] == "unchanged");
    is_pending(&system, &joins).await?;
    edit.commit().await?;
    for receipt in [&held, &joins, &behind] {
        system.applied(receipt).await?;
    }
    // No later message of the queue acknowledges them: this waits until each is.
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
    ensure!(system.applied(&held).await?["outcome"] == "raised");
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
        outcomes.push(system.applied(receipt).await?["outcome"].clone());
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
    let joined = system.applied(&held).await?;
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
        receipts.push(answer.header("update-id").to_owned());
    }
    is_named(&system, 0, pid).await?;
    // Without the key, and of another component, it is free to go.
    ensure!(decided(&system, "Mail", 3, 201).await? != minor);
    edit.commit().await?;
    ensure!(system.applied(&receipts[0]).await?["outcome"] == "raised");
    eventually("the second is refused", async || {
        Ok(system.receipt(&receipts[1]).await?["state"] == "rejected")
    })
    .await?;
    ensure!(system.applied(&receipts[2]).await?["incident"]["id"] == minor);
    system.finish().await
}

async fn a_component_that_others_lock_holds_up_its_own_updates_only(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let major = decided(&system, "CDN", 2, 201).await?;
    let (edit, pid) = open(&system, "SELECT FROM component WHERE id = 1 FOR UPDATE").await?;
    let held = [accepted(&system, "DNS", 2).await?, accepted(&system, "DNS", 3).await?];
    is_named(&system, 0, pid).await?;
    for _ in 0..10 {
        let receipt = accepted(&system, "Mail", 2).await?;
        ensure!(system.applied(&receipt).await?["incident"]["id"] == major);
    }
    for receipt in &held {
        is_pending(&system, receipt).await?;
    }
    edit.rollback().await?;
    ensure!(system.applied(&held[0]).await?["outcome"] == "joined");
    ensure!(system.applied(&held[1]).await?["outcome"] == "moved");
    never_waited(&system)?;
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
        ensure!(system.applied(&receipt).await?["incident"]["id"] == major);
    }
    is_pending(&system, &held).await?;
    edit.commit().await?;
    ensure!(system.applied(&held).await?["outcome"] == "joined");
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
        system.applied(receipt).await?;
    }
    // Behind the first of its component.
    for receipt in [&receipts[1], &receipts[3]] {
        is_pending(&system, receipt).await?;
    }
    ensure!(decided(&system, "CDN", 3, 201).await? > 0);
    system.sql("DROP TRIGGER too_long ON incident; DROP FUNCTION too_long").await?;
    ensure!(system.applied(&receipts[1]).await?["outcome"] == "opened");
    ensure!(system.applied(&receipts[3]).await?["outcome"] == "moved");
    replay::agrees(&system.database).await?;
    system.finish().await
}

async fn a_component_that_is_being_deleted_keeps_no_report(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    // Covered by others' incident, so that an update needs no row but its report.
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            VALUES ('Fire', 3, false, '2020-01-01');
            INSERT INTO incident_component_relation SELECT 1, id FROM component",
        )
        .await?;
    decided(&system, "DNS", 1, 200).await?;
    let delete =
        "DELETE FROM incident_component_relation; DELETE FROM component WHERE id IN (1, 2)";
    let (edit, pid) = open(&system, delete).await?;
    // A renewal, and a first report.
    let (known, new) = (accepted(&system, "DNS", 1).await?, accepted(&system, "CDN", 1).await?);
    is_named(&system, 0, pid).await?;
    // Others go on, between the attempts to apply these.
    let other = system.post(&update("VPN", 1)).await?;
    ensure!(other.status == 200, "{other:?}");
    is_pending(&system, &known).await?;
    is_pending(&system, &new).await?;
    edit.commit().await?;
    for receipt in [&known, &new] {
        eventually("the update is parked", async || {
            Ok(system.receipt(receipt).await?["state"] == "parked")
        })
        .await?;
    }
    let of_gone = "SELECT count(*) FROM sdb_report WHERE component_id IN (1, 2)";
    ensure!(system.count(of_gone).await? == 0, "a report of a component that is gone");
    never_waited(&system)?;
    system.finish_with_parked()
}
