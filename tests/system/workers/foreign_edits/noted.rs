//! When components were affected, where batches have noted it only: those who change the same incidents, or read, find
//! it as if it were recorded.

use std::sync::Arc;

use anyhow::{Result, ensure};
use sqlx::{Postgres, Transaction};

use super::{COMPONENTS, affected::are, begin, with_components};
use crate::workers::decided;
use harness::{Fixture, System, eventually, tests};

tests!(
    workers_apply_what_they_have_noted,
    an_edit_comes_after_what_is_noted,
    what_is_noted_is_applied_in_order,
    an_end_by_hand_is_noted_if_nothing_left_after_it,
    what_is_noted_of_a_deleted_incident_goes_with_it,
);

/// Without a worker, which would apply what is noted.
async fn without_workers(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system = System::prepared(fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(COMPONENTS).await?;
    Ok(system)
}

/// A transaction that notes, as a batch does.
async fn noting(system: &System, statements: &str) -> Result<Transaction<'static, Postgres>> {
    begin(system, &format!("SET LOCAL sdb.affected_later = 'on'; {statements}")).await
}

async fn note(system: &System, statements: &str) -> Result<()> {
    Ok(noting(system, statements).await?.commit().await?)
}

async fn noted(system: &System) -> Result<i64> {
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

async fn an_end_by_hand_is_noted_if_nothing_left_after_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    let leave = "DELETE FROM incident_component_relation WHERE component_id = 1";
    // One that ends now, and one that ended before its component left: readers take what has left from the table alone.
    for (id, end, is_noted) in
        [(70, "clock_timestamp() AT TIME ZONE 'UTC'", 1), (71, "'2026-01-01 12:00'", 0)]
    {
        system.sql(&opened(id)).await?;
        system.sql(leave).await?;
        let before = noted(&system).await?;
        system.sql(&format!("UPDATE incident SET end_date = {end} WHERE id = {id}")).await?;
        ensure!(noted(&system).await? - before == is_noted, "{id}");
    }
    are(&system, 70, &["1 2 10 now", "2 2 10 now"]).await?;
    are(&system, 71, &["1 2 10 12", "2 2 10 12"]).await?;
    // Nothing has left it.
    system.sql(&opened(72)).await?;
    system.sql("UPDATE incident SET end_date = '2026-01-01 12:00' WHERE id = 72").await?;
    for is_applied in [false, true] {
        ensure!(noted(&system).await? == if is_applied { 0 } else { 2 });
        are(&system, 72, &["1 2 10 12", "2 2 10 12"]).await?;
        while !is_applied && applies(&system).await? {}
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
