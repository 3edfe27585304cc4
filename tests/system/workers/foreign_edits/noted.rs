//! When components were affected, where batches have noted it only: those who change the same incidents, or read, find
//! it as if it were recorded.

use std::sync::Arc;

use anyhow::{Result, ensure};
use sqlx::{Postgres, Transaction};

use super::{COMPONENTS, affected::are, begin, run, with_components};
use crate::workers::decided;
use harness::{Fixture, NOW, System, eventually, tests};

tests!(
    workers_apply_what_they_have_noted,
    an_edit_comes_after_what_is_noted,
    what_is_noted_is_applied_in_order,
    what_cannot_be_applied_is_not_kept_from_others,
    an_end_counts_for_what_left_after_it,
    an_end_counts_for_what_left_before_the_clock_was_set_back,
    what_begins_again_at_the_same_time_is_one_interval,
    an_edit_that_does_not_see_what_is_noted_fails,
    what_is_noted_of_a_deleted_incident_goes_with_it,
    workers_of_earlier_releases_apply_what_is_left,
);

/// Without a worker, which would apply what is noted.
pub(super) async fn without_workers(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system = System::prepared(fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(COMPONENTS).await?;
    Ok(system)
}

/// A transaction that notes, as a batch does.
pub(super) async fn noting(
    system: &System,
    statements: &str,
) -> Result<Transaction<'static, Postgres>> {
    begin(system, &format!("SET LOCAL sdb.affected_later = 'on'; {statements}")).await
}

pub(super) async fn note(system: &System, statements: &str) -> Result<()> {
    Ok(noting(system, statements).await?.commit().await?)
}

pub(super) async fn noted(system: &System) -> Result<i64> {
    system.count("SELECT count(*) FROM sdb_affected_change").await
}

async fn recorded(system: &System) -> Result<i64> {
    system.count("SELECT count(*) FROM sdb_affected").await
}

/// Applies what is noted of one incident, if nobody is in the way.
async fn applies(system: &System) -> Result<bool> {
    let apply = "SELECT sdb_affected_apply_some('0', '0')";
    Ok(sqlx::query_scalar(apply).fetch_one(&system.database).await?)
}

/// An incident of the components 1 and 2, from hour 10, of which all is noted only.
fn opened(id: i64) -> String {
    format!(
        "INSERT INTO incident (id, text, start_date, impact, system)
        VALUES ({id}, 'By hand', '2026-01-01 10:00', 2, false);
        INSERT INTO incident_component_relation VALUES ({id}, 1), ({id}, 2)"
    )
}

async fn workers_apply_what_they_have_noted(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    decided(&system, "CDN", 1, 201).await?;
    let major = decided(&system, "DNS", 2, 201).await?;
    for are_applied in [false, true] {
        if are_applied {
            eventually("all is applied", async || Ok(noted(&system).await? == 0)).await?;
            ensure!(recorded(&system).await? == 3);
        }
        are(&system, minor, &["1 1 now now", "2 1 now open"]).await?;
        are(&system, major, &["1 2 now open"]).await?;
    }
    // The last one leaves: its incident ends.
    decided(&system, "CDN", 2, 201).await?;
    for are_applied in [false, true] {
        if are_applied {
            eventually("all is applied", async || Ok(noted(&system).await? == 0)).await?;
        }
        are(&system, minor, &["1 1 now now", "2 1 now now"]).await?;
        are(&system, major, &["1 2 now open", "2 2 now open"]).await?;
    }
    system.finish().await
}

async fn an_edit_comes_after_what_is_noted(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    note(&system, &opened(70)).await?;
    ensure!(noted(&system).await? == 1 && recorded(&system).await? == 0);
    are(&system, 70, &["1 2 10 open", "2 2 10 open"]).await?;
    system.sql("UPDATE incident SET impact = 3").await?;
    ensure!(noted(&system).await? == 0 && recorded(&system).await? == 4);
    are(&system, 70, &["1 2 10 now", "1 3 now open", "2 2 10 now", "2 3 now open"]).await?;
    // It leaves, and is added again by hand; another one joins, and is removed by hand.
    note(&system, "DELETE FROM incident_component_relation WHERE component_id = 1").await?;
    are(&system, 70, &["1 2 10 now", "1 3 now now", "2 2 10 now", "2 3 now open"]).await?;
    system.sql("INSERT INTO incident_component_relation VALUES (70, 1)").await?;
    note(&system, "INSERT INTO incident_component_relation VALUES (70, 3)").await?;
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 3").await?;
    let before = ["1 2 10 now", "1 3 now now"];
    let (goes_on, ends) = (["1 3 now open"], ["1 3 now now"]);
    let third = ["3 3 now now"];
    let second = ["2 2 10 now", "2 3 now open"];
    are(&system, 70, &[&before[..], &goes_on, &second, &third].concat()).await?;
    // The end is noted, and moved by hand.
    note(&system, "UPDATE incident SET end_date = clock_timestamp() AT TIME ZONE 'UTC'").await?;
    let second = ["2 2 10 now", "2 3 now now"];
    let all = [&before[..], &ends, &second, &third].concat();
    are(&system, 70, &all).await?;
    system.sql("UPDATE incident SET end_date = '9999-01-01'").await?;
    system.sql("UPDATE incident SET end_date = NULL").await?;
    are(&system, 70, &[&before[..], &goes_on, &["2 2 10 now", "2 3 now open"], &third].concat())
        .await?;
    ensure!(noted(&system).await? == 0);
    system.finish().await
}

async fn what_is_noted_is_applied_in_order(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    note(&system, &opened(70)).await?;
    // An edit has applied the first change, and is not committed: the second one has to wait.
    let edit =
        begin(&system, "DELETE FROM incident_component_relation WHERE component_id = 2").await?;
    note(&system, "DELETE FROM incident_component_relation WHERE component_id = 1").await?;
    ensure!(!applies(&system).await? && noted(&system).await? == 2, "it does not wait");
    // What is noted of another incident has not.
    note(&system, &opened(71)).await?;
    ensure!(applies(&system).await? && !applies(&system).await?, "the other one waits");
    edit.commit().await?;
    are(&system, 70, &["1 2 10 now", "2 2 10 now"]).await?;
    ensure!(applies(&system).await? && noted(&system).await? == 0);
    are(&system, 70, &["1 2 10 now", "2 2 10 now"]).await?;

    // An edit holds intervals: what applies a change gives up, and goes on with another incident.
    let edit = begin(
        &system,
        "DELETE FROM incident_component_relation WHERE incident_id = 71 AND component_id = 2",
    )
    .await?;
    note(&system, "UPDATE incident SET end_date = '2026-01-01 12:00' WHERE id = 71").await?;
    note(&system, &opened(72)).await?;
    ensure!(applies(&system).await? && !applies(&system).await? && noted(&system).await? == 1);
    edit.commit().await?;
    ensure!(applies(&system).await? && noted(&system).await? == 0);
    are(&system, 71, &["1 2 10 12", "2 2 10 12"]).await?;
    are(&system, 72, &["1 2 10 open", "2 2 10 open"]).await?;

    // An edit waits for what is being applied.
    let leaves =
        "DELETE FROM incident_component_relation WHERE incident_id = 72 AND component_id = 1";
    note(&system, leaves).await?;
    let mut applying = system.database.begin().await?;
    sqlx::query("SELECT sdb_affected_apply_some('0', '0')").execute(&mut *applying).await?;
    let edited = system.sql("UPDATE incident SET impact = 3 WHERE id = 72");
    let (edited, applied) = tokio::join!(edited, async {
        system.waits_for_a_lock().await?;
        anyhow::Ok(applying.commit().await?)
    });
    edited?;
    applied?;
    are(&system, 72, &["1 2 10 now", "2 2 10 now", "2 3 now open"]).await?;
    system.finish().await
}

async fn what_cannot_be_applied_is_not_kept_from_others(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    system.sql(&opened(70)).await?;
    let leave = "DELETE FROM incident_component_relation WHERE component_id = 2";
    let mut edit = begin(&system, leave).await?;
    system.sql("UPDATE incident SET end_date = '2026-01-01 12:00' WHERE id = 70").await?;
    // The edit holds an interval that ends. It may have to apply what is noted itself, and must not wait then.
    let mut applying = system.database.begin().await?;
    run(&mut applying, "SELECT sdb_affected_apply_some('0', '0')").await?;
    run(&mut edit, "SELECT FROM sdb_affected_change FOR UPDATE NOWAIT").await?;
    applying.commit().await?;
    edit.commit().await?;
    ensure!(noted(&system).await? == 1);
    all_are_applied(&system).await?;
    are(&system, 70, &["1 2 10 12", "2 2 10 12"]).await?;
    system.finish().await
}

async fn all_are_applied(system: &System) -> Result<()> {
    while applies(system).await? {}
    ensure!(noted(system).await? == 0);
    Ok(())
}

async fn an_end_counts_for_what_left_after_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    let (leave, end) = (
        "DELETE FROM incident_component_relation WHERE component_id = 1",
        "UPDATE incident SET end_date = '2026-01-01 12:00' WHERE end_date IS NULL",
    );
    // One after the other.
    system.sql(&opened(70)).await?;
    system.sql(leave).await?;
    system.sql(end).await?;
    // At the same time: neither sees the other.
    system.sql(&opened(71)).await?;
    let leaving = begin(&system, leave).await?;
    system.sql(end).await?;
    leaving.commit().await?;
    system.sql(&opened(72)).await?;
    let ending = begin(&system, end).await?;
    system.sql(leave).await?;
    ending.commit().await?;
    // Nothing left.
    system.sql(&opened(73)).await?;
    system.sql(end).await?;
    ensure!(noted(&system).await? == 4);
    for is_applied in [false, true] {
        if is_applied {
            all_are_applied(&system).await?;
        }
        for id in 70..=73 {
            are(&system, id, &["1 2 10 12", "2 2 10 12"]).await?;
        }
    }
    system.finish().await
}

async fn an_end_counts_for_what_left_before_the_clock_was_set_back(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = without_workers(&fixture).await?;
    system.sql(&opened(70)).await?;
    let leave = "DELETE FROM incident_component_relation WHERE component_id = 1";
    system.sql(leave).await?;
    system.sql("UPDATE sdb_affected SET ended = ended + interval '1 day'").await?;
    note(&system, "INSERT INTO incident_component_relation VALUES (70, 1)").await?;
    note(&system, leave).await?;
    for is_applied in [false, true] {
        if is_applied {
            all_are_applied(&system).await?;
        }
        let later = format!("SELECT count(*) FROM sdb_affected_interval WHERE ended > {NOW}");
        ensure!(system.count(&later).await? == 0, "applied: {is_applied}");
        are(&system, 70, &["1 2 10 now", "1 2 now now", "2 2 10 open"]).await?;
    }
    // A time of the record was changed.
    system.finish_without_replay().await
}

async fn what_begins_again_at_the_same_time_is_one_interval(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    for (id, is_applied) in [(70, false), (71, true)] {
        note(&system, &opened(id).replace("2026-01-01 10:00", "2999-01-01 10:00")).await?;
        let of = format!("WHERE incident_id = {id} AND component_id = 1");
        note(&system, &format!("DELETE FROM incident_component_relation {of}")).await?;
        are(&system, id, &["1 2 now now", "2 2 now open"]).await?;
        if is_applied {
            all_are_applied(&system).await?;
        }
        note(&system, &format!("INSERT INTO incident_component_relation VALUES ({id}, 1)")).await?;
        are(&system, id, &["1 2 now open", "2 2 now open"]).await?;
        all_are_applied(&system).await?;
        are(&system, id, &["1 2 now open", "2 2 now open"]).await?;
    }
    system.finish().await
}

/// Another program may read with a snapshot of its own: then it must not change what it does not see.
async fn an_edit_that_does_not_see_what_is_noted_fails(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    for (id, is_applied, edit) in [
        (70, false, "UPDATE incident SET impact = 3"),
        (71, false, "UPDATE incident SET start_date = '2026-01-01 11:00'"),
        (72, false, "DELETE FROM incident_component_relation WHERE component_id = 2"),
        (73, false, "INSERT INTO incident_component_relation VALUES (73, 3)"),
        (74, true, "UPDATE incident SET impact = 3"),
        (75, true, "DELETE FROM incident_component_relation WHERE component_id = 2"),
    ] {
        note(&system, &opened(id)).await?;
        let mut editing =
            system.database.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        run(&mut editing, "SELECT FROM incident").await?;
        if is_applied {
            all_are_applied(&system).await?;
        } else {
            note(&system, "DELETE FROM incident_component_relation WHERE component_id = 1").await?;
        }
        let edited = match run(&mut editing, edit).await {
            Ok(()) => editing.commit().await,
            failed => failed,
        };
        let code = edited.err().and_then(|e| Some(e.as_database_error()?.code()?.into_owned()));
        ensure!(code.as_deref() == Some("40001"), "{edit}: {code:?}");
        system.sql("DELETE FROM incident_component_relation; DELETE FROM incident").await?;
    }
    system.finish().await
}

async fn what_is_noted_of_a_deleted_incident_goes_with_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    note(&system, &opened(70)).await?;
    note(&system, &opened(71)).await?;
    // Nothing is left of a batch that is rolled back.
    noting(&system, &opened(72)).await?.rollback().await?;
    system
        .sql(
            "DELETE FROM incident_component_relation WHERE incident_id = 70;
            DELETE FROM incident WHERE id = 70",
        )
        .await?;
    ensure!(noted(&system).await? == 1 && recorded(&system).await? == 0);
    are(&system, 71, &["1 2 10 open", "2 2 10 open"]).await?;
    system.sql("TRUNCATE incident_component_relation").await?;
    ensure!(noted(&system).await? == 0);
    are(&system, 71, &[]).await?;
    system.finish().await
}

/// They only call what compares the rest, and their readers read the table.
async fn workers_of_earlier_releases_apply_what_is_left(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    let left = "UPDATE sdb_affected_change SET recorded_at = recorded_at - interval '2 minutes'";
    let ended = "SELECT count(*) FROM sdb_affected WHERE ended IS NOT NULL";
    system.sql(&opened(70)).await?;
    system.sql("UPDATE incident SET end_date = '2026-01-01 12:00'").await?;
    for (is_left, are_ended) in [(false, 0), (true, 2)] {
        if is_left {
            system.sql(left).await?;
        }
        system.sql("SELECT sdb_affected_compare_rest()").await?;
        ensure!(system.count(ended).await? == are_ended, "left: {is_left}");
        are(&system, 70, &["1 2 10 12", "2 2 10 12"]).await?;
    }
    ensure!(noted(&system).await? == 0);
    system.finish().await
}
