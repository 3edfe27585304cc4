//! When components were affected, as other writers' edits leave it. The rules are also held by the telling with
//! which every test ends.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::{begin, run, with_components};
use crate::workers::decided;
use harness::{Fixture, System, tests};

tests!(
    components_are_affected_from_their_joining_until_their_leaving,
    intervals_follow_the_start_and_the_end_of_their_incident,
    an_impact_that_changes_divides_open_intervals_only,
    a_start_that_moves_keeps_how_intervals_end,
    what_left_does_not_follow_the_end,
    what_is_deleted_leaves_no_intervals,
    temporary_tables_do_not_take_the_place_of_ours,
    a_component_that_comes_while_its_incident_ends_is_not_affected_for_ever,
    a_component_that_comes_back_at_the_same_time_goes_on,
);

/// The intervals of an incident: component, impact, and begin and end as hours after 2026-01-01 00:00, or `now` for
/// a time of this test, in the order of components and begins.
async fn intervals(system: &System, incident: i64) -> Result<Vec<String>> {
    let hour = |column: &str| {
        format!(
            "CASE WHEN {column} > '2026-06-01' THEN 'now'
                ELSE (extract(epoch FROM {column} - timestamp '2026-01-01') / 3600)::integer::text END"
        )
    };
    system
        .texts(&format!(
            "SELECT component_id || ' ' || impact || ' ' || {} || ' ' || coalesce({}, 'open')
            FROM sdb_affected_interval WHERE incident_id = {incident} ORDER BY component_id, began",
            hour("began"),
            hour("ended")
        ))
        .await
}

pub(super) async fn are(system: &System, incident: i64, expected: &[&str]) -> Result<()> {
    let found = intervals(system, incident).await?;
    ensure!(found == expected, "{found:?}, not {expected:?}");
    Ok(())
}

/// A manual incident of the first two components, from hour 10 to this end.
async fn manual_incident(system: &System, id: i64, end: &str) -> Result<()> {
    system
        .sql(&format!(
            "BEGIN;
            INSERT INTO incident (id, text, start_date, end_date, impact, system)
            VALUES ({id}, 'By hand', '2026-01-01 10:00', {end}, 2, false);
            INSERT INTO incident_component_relation VALUES ({id}, 1), ({id}, 2);
            COMMIT"
        ))
        .await
}

async fn components_are_affected_from_their_joining_until_their_leaving(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = decided(&system, "DNS", 1, 201).await?;
    are(&system, minor, &["1 1 now open"]).await?;
    decided(&system, "CDN", 1, 201).await?;
    let major = decided(&system, "DNS", 2, 201).await?;
    are(&system, minor, &["1 1 now now", "2 1 now open"]).await?;
    are(&system, major, &["1 2 now open"]).await?;
    // It is alone: its incident is raised.
    ensure!(decided(&system, "DNS", 3, 201).await? == major);
    are(&system, major, &["1 2 now now", "1 3 now open"]).await?;
    // The last one moves away, and is kept by its incident, which ends.
    decided(&system, "CDN", 3, 201).await?;
    are(&system, minor, &["1 1 now now", "2 1 now now"]).await?;
    are(&system, major, &["1 2 now now", "1 3 now open", "2 3 now open"]).await?;

    manual_incident(&system, 70, "NULL").await?;
    are(&system, 70, &["1 2 10 open", "2 2 10 open"]).await?;
    system.sql("INSERT INTO incident_component_relation VALUES (70, 3)").await?;
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 1").await?;
    are(&system, 70, &["1 2 10 now", "2 2 10 open", "3 2 now open"]).await?;
    system
        .sql("UPDATE incident_component_relation SET component_id = 1 WHERE component_id = 3")
        .await?;
    let expected = ["1 2 10 now", "1 2 now open", "2 2 10 open", "3 2 now now"];
    are(&system, 70, &expected).await?;
    system.finish().await
}

async fn intervals_follow_the_start_and_the_end_of_their_incident(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    manual_incident(&system, 70, "NULL").await?;
    let set =
        async |what: &str| system.sql(&format!("UPDATE incident SET {what} WHERE id = 70")).await;
    set("end_date = '2026-01-01 20:00'").await?;
    are(&system, 70, &["1 2 10 20", "2 2 10 20"]).await?;
    // A component that is added afterwards was not affected.
    system.sql("INSERT INTO incident_component_relation VALUES (70, 3)").await?;
    are(&system, 70, &["1 2 10 20", "2 2 10 20", "3 2 20 20"]).await?;
    set("end_date = '2026-01-01 18:00'").await?;
    are(&system, 70, &["1 2 10 18", "2 2 10 18", "3 2 20 20"]).await?;
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 3").await?;
    set("start_date = '2026-01-01 12:00'").await?;
    are(&system, 70, &["1 2 12 18", "2 2 12 18", "3 2 20 20"]).await?;
    set("start_date = '2026-01-01 19:00'").await?;
    are(&system, 70, &["1 2 19 19", "2 2 19 19", "3 2 20 20"]).await?;
    set("start_date = '2026-01-01 08:00', end_date = '2026-01-01 18:00', text = 'Moved'").await?;
    set("end_date = NULL").await?;
    are(&system, 70, &["1 2 8 18", "1 2 now open", "2 2 8 18", "2 2 now open", "3 2 20 20"])
        .await?;
    // A planned end that moves, or is taken away, opens nothing again.
    set("end_date = '9999-01-01'").await?;
    set("end_date = NULL").await?;
    set("end_date = clock_timestamp() AT TIME ZONE 'UTC'").await?;
    are(&system, 70, &["1 2 8 18", "1 2 now now", "2 2 8 18", "2 2 now now", "3 2 20 20"]).await?;
    system.finish().await
}

async fn an_impact_that_changes_divides_open_intervals_only(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    for (id, end) in [(70, "NULL"), (71, "'9999-01-01'"), (72, "'2026-01-01 20:00'")] {
        manual_incident(&system, id, end).await?;
    }
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 2").await?;
    system.sql("UPDATE incident SET impact = 3").await?;
    are(&system, 70, &["1 2 10 now", "1 3 now open", "2 2 10 now"]).await?;
    are(&system, 71, &["1 2 10 now", "1 3 now now", "2 2 10 now"]).await?;
    are(&system, 72, &["1 3 10 20", "2 3 10 20"]).await?;
    // Ended and raised at once: what it had before stays, and the last interval has the new impact.
    system
        .sql("UPDATE incident SET impact = 1, end_date = '2026-01-01 20:00' WHERE id = 71")
        .await?;
    let at_once = intervals(&system, 71).await?;
    manual_incident(&system, 73, "NULL").await?;
    system
        .sql("UPDATE incident SET impact = 3, end_date = '2026-01-01 20:00' WHERE id = 73")
        .await?;
    let divided = ["1 2 10 20", "1 3 20 20", "2 2 10 20", "2 3 20 20"];
    are(&system, 73, &divided).await?;
    system.sql("SELECT sdb_affected_compare('{71,73}')").await?;
    are(&system, 73, &divided).await?;
    ensure!(intervals(&system, 71).await? == at_once, "{at_once:?}");
    system.sql("UPDATE incident SET end_date = '2026-01-01 22:00' WHERE id = 73").await?;
    are(&system, 73, &["1 2 10 20", "1 3 20 22", "2 2 10 20", "2 3 20 22"]).await?;
    // At the end nothing is divided; one that goes on again has its new impact from then on.
    system
        .sql("UPDATE incident SET impact = 1, end_date = '2026-01-01 22:00' WHERE id = 72")
        .await?;
    are(&system, 72, &["1 1 10 22", "2 1 10 20"]).await?;
    system.sql("UPDATE incident SET impact = 2, end_date = NULL WHERE id = 72").await?;
    are(&system, 72, &["1 1 10 22", "1 2 now open", "2 1 10 20"]).await?;
    system.finish().await
}

async fn a_start_that_moves_keeps_how_intervals_end(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    // A maintenance to come is brought forward, its end first; one component has left it before its start.
    manual_incident(&system, 70, "'2026-01-01 22:00'").await?;
    system
        .sql("UPDATE incident SET start_date = '2999-01-01 20:00', end_date = '2999-01-01 22:00' WHERE id = 70")
        .await?;
    let forward =
        async |set: &str| system.sql(&format!("UPDATE incident SET {set} WHERE id = 70")).await;
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 2").await?;
    forward("end_date = '2026-01-01 12:00'").await?;
    forward("start_date = '2026-01-01 10:00'").await?;
    are(&system, 70, &["1 2 10 12", "2 2 10 10"]).await?;
    // An end before the start, by mistake.
    manual_incident(&system, 71, "NULL").await?;
    system
        .sql(
            "UPDATE incident SET end_date = '2026-01-01 09:00' WHERE id = 71;
            UPDATE incident SET start_date = '2026-01-01 08:00' WHERE id = 71",
        )
        .await?;
    are(&system, 71, &["1 2 8 9", "2 2 8 9"]).await?;
    system.finish().await
}

async fn what_left_does_not_follow_the_end(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let ends = async |end: &str| {
        system.sql(&format!("UPDATE incident SET end_date = '{end}' WHERE id = 70")).await
    };
    // It left after the end.
    manual_incident(&system, 70, "'2026-01-01 20:00'").await?;
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 2").await?;
    ends("2026-01-01 22:00").await?;
    are(&system, 70, &["1 2 10 22", "2 2 10 20"]).await?;
    ends("9999-01-01").await?;
    are(&system, 70, &["1 2 10 now", "2 2 10 20"]).await?;
    // It left at a time of its own, and the end is moved before that.
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 1").await?;
    ends("2026-01-01 19:00").await?;
    are(&system, 70, &["1 2 10 19", "2 2 10 19"]).await?;
    ends("2026-01-01 09:00").await?;
    are(&system, 70, &["1 2 10 10", "2 2 10 10"]).await?;
    system.finish().await
}

/// The functions run with their owner's rights.
async fn temporary_tables_do_not_take_the_place_of_ours(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    system
        .sql(
            "CREATE TEMP TABLE sdb_affected (LIKE public.sdb_affected INCLUDING ALL);
            CREATE TEMP TABLE sdb_touched (LIKE public.sdb_touched);
            CREATE TEMP TABLE sdb_version (LIKE public.sdb_version);
            BEGIN;
            INSERT INTO public.incident (id, text, start_date, impact, system)
            VALUES (70, 'By hand', '2026-01-01 10:00', 2, false);
            INSERT INTO public.incident_component_relation VALUES (70, 1);
            COMMIT;
            DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM pg_temp.sdb_affected)
                AND NOT EXISTS (SELECT FROM pg_temp.sdb_touched); END $$;
            DISCARD TEMP",
        )
        .await?;
    are(&system, 70, &["1 2 10 open"]).await?;
    let ours = "SELECT count(*) FROM pg_proc WHERE prosecdef AND proname LIKE 'sdb\\_%'";
    let safe = format!("{ours} AND proconfig::text LIKE '%, pg_temp%'");
    ensure!(system.count(ours).await? == system.count(&safe).await?, "one looks among them first");
    // Nor can others call them from triggers on their own tables.
    let open = "SELECT count(*) FROM pg_proc WHERE prosecdef AND proname LIKE 'sdb\\_affected\\_%'
        AND prorettype = 'trigger'::regtype AND has_function_privilege('public', oid, 'EXECUTE')";
    ensure!(system.count(open).await? == 0, "anybody can call one");
    system.finish().await
}

async fn what_is_deleted_leaves_no_intervals(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    for id in [70, 71] {
        manual_incident(&system, id, "NULL").await?;
    }
    system
        .sql(
            "DELETE FROM incident_component_relation WHERE incident_id = 70;
            DELETE FROM incident WHERE id = 70",
        )
        .await?;
    are(&system, 70, &[]).await?;
    are(&system, 71, &["1 2 10 open", "2 2 10 open"]).await?;
    system
        .sql(
            "DELETE FROM incident_component_relation WHERE component_id = 2;
            DELETE FROM component WHERE id = 2",
        )
        .await?;
    // It goes with its incident.
    are(&system, 71, &["1 2 10 open", "2 2 10 now"]).await?;
    system
        .sql(
            "INSERT INTO incident (id, text, start_date, impact, system)
            VALUES (2147483647, 'The last id', '2026-01-01', 2, false);
            INSERT INTO incident_component_relation VALUES (2147483647, 1)",
        )
        .await?;
    // The id of an incident without components can be changed.
    system
        .sql(
            "DELETE FROM incident_component_relation WHERE incident_id = 2147483647;
            UPDATE incident SET id = 80 WHERE id = 2147483647",
        )
        .await?;
    let others = "SELECT count(*) FROM sdb_affected WHERE incident_id <> 71";
    ensure!(system.count(others).await? == 0);
    system.sql("TRUNCATE incident_component_relation").await?;
    ensure!(system.count("SELECT count(*) FROM sdb_affected").await? == 0);
    system.finish().await
}

/// The foreign key's lock does not wait for an end that is being written.
async fn a_component_that_comes_while_its_incident_ends_is_not_affected_for_ever(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    manual_incident(&system, 70, "NULL").await?;
    let ends =
        begin(&system, "UPDATE incident SET end_date = '2026-01-01 20:00' WHERE id = 70").await?;
    let mut adds = system.database.acquire().await?;
    let (added, ended) = tokio::join!(
        run(&mut adds, "INSERT INTO incident_component_relation VALUES (70, 3)"),
        async {
            system.waits_for_a_lock().await?;
            ends.commit().await.context("the end")
        }
    );
    added?;
    ended?;
    are(&system, 70, &["1 2 10 20", "2 2 10 20", "3 2 20 20"]).await?;
    drop(adds);
    system.finish().await
}

async fn a_component_that_comes_back_at_the_same_time_goes_on(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    manual_incident(&system, 70, "NULL").await?;
    // All statements of a text have one time.
    let again = "DELETE FROM incident_component_relation WHERE component_id = 1;
        INSERT INTO incident_component_relation VALUES (70, 1);";
    system.sql(&format!("{again}{again}")).await?;
    are(&system, 70, &["1 2 10 now", "1 2 now open", "2 2 10 open"]).await?;
    let expected = "SELECT count(DISTINCT time) FROM sdb_affected, LATERAL (VALUES (began), (ended)) AS times (time)
        WHERE component_id = 1 AND time > '2026-06-01'";
    ensure!(system.count(expected).await? == 1, "there is a gap");
    system.finish().await
}
