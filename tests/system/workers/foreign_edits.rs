//! Other writers to the tables, above all the Python dashboard and its operators: updates honour
//! what they wrote, lists show it at once, and neither stops the other.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};
use tokio::time::sleep;

use harness::{Answer, Fixture, System, answer, eventually, replay, tests};

tests!(
    every_foreign_write_is_shown_by_the_next_get,
    a_maintenance_of_an_operator_suppresses_until_it_ends,
    a_planned_maintenance_suppresses_nothing,
    what_covers_a_component_is_found_among_many,
    an_incident_that_an_operator_closes_is_followed_by_another,
    an_incident_that_an_operator_takes_over_is_never_changed_again,
    above_a_manual_incident_the_component_goes_its_way_beside_it,
    a_component_whose_relation_was_deleted_joins_again,
    a_component_that_others_left_is_alone_and_raises_its_incident,
    a_component_that_an_operator_separates_stays_in_its_manual_incident,
    a_separation_under_way_counts_as_a_whole_from_its_commit_on,
    updates_sort_after_an_operators_update_from_the_future,
    a_relation_that_an_operator_wrote_first_counts,
    a_relation_that_both_write_at_once_stands_once,
    a_lock_on_an_incident_delays_updates_and_its_edit_counts,
    an_edit_that_is_rolled_back_does_not_count,
    foreign_writers_in_another_order_meet_no_deadlock,
);

const NOW: &str = "(clock_timestamp() AT TIME ZONE 'UTC')";

/// The components' ids are 1, 2 and 3.
async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    let system = System::start(fixture).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("Mail", &[])]).await?;
    Ok(system)
}

fn update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact, "text": format!("{name} reports {impact}") })
}

/// Posts an update, expects this status, and returns the incident's id.
async fn post(system: &System, name: &str, impact: u8, status: u16) -> Result<i64> {
    let answer = system.post(&update(name, impact)).await?;
    ensure!(answer.status == status, "{name} {impact}: {answer:?}, not {status}");
    answer.body["id"].as_i64().context("the answer has no incident")
}

/// Posts an update without waiting for its outcome, and returns the address of its receipt.
async fn post_async(system: &System, name: &str, impact: u8) -> Result<String> {
    let accepted =
        answer(system.update(&update(name, impact)).header("Prefer", "respond-async")).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    Ok(accepted.header("location").to_owned())
}

/// Waits until the update is done, and returns its receipt.
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

/// An incident as the list shows it now.
async fn shown(system: &System, id: i64) -> Result<Value> {
    let list = system.get("/api/v1/incidents").await?;
    let incidents = list.body.as_array().context("no list")?;
    incidents.iter().find(|incident| incident["id"] == id).cloned().context("it is not listed")
}

/// The ids of the incidents that the list shows for a component now.
async fn incidents_of(system: &System, component: usize) -> Result<Vec<i64>> {
    let list = system.get("/api/v1/component_status").await?;
    let incidents = list.body[component - 1]["incidents"].as_array().context("no incidents")?;
    let mut ids: Vec<i64> =
        incidents.iter().filter_map(|incident| incident["id"].as_i64()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// All that the tables have about an incident.
async fn rows_of(system: &System, id: i64) -> Result<String> {
    let query = format!(
        "SELECT json_build_array(
            (SELECT row_to_json(i) FROM incident i WHERE id = {id}),
            (SELECT json_agg(r ORDER BY component_id) FROM incident_component_relation r
                WHERE incident_id = {id}),
            (SELECT json_agg(s ORDER BY id) FROM incident_status s WHERE incident_id = {id}))::text"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&system.database).await?)
}

/// Writes an incident of a person with its components, as the Python dashboard does.
async fn insert_manual(
    system: &System,
    impact: u8,
    start: &str,
    end: &str,
    components: &[usize],
) -> Result<i64> {
    let id = system
        .count(&format!(
            "INSERT INTO incident (text, start_date, end_date, impact, system)
            VALUES ('Of an operator', {NOW} + {start}, {end}, {impact}, false)
            RETURNING id::bigint"
        ))
        .await?;
    for component in components {
        system
            .sql(&format!("INSERT INTO incident_component_relation VALUES ({id}, {component})"))
            .await?;
    }
    Ok(id)
}

async fn begin(system: &System, statements: &str) -> Result<Transaction<'static, Postgres>> {
    let mut transaction = system.database.begin().await?;
    run(&mut transaction, statements).await?;
    Ok(transaction)
}

async fn run(connection: &mut PgConnection, statements: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(connection).await?;
    Ok(())
}

/// Waits until the worker's log says that updates wait for rows that another session holds.
async fn updates_wait(system: &System) -> Result<()> {
    eventually("updates wait", async || {
        Ok(system.workers[0].log()?.contains("updates wait: another session holds rows"))
    })
    .await
}

async fn every_foreign_write_is_shown_by_the_next_get(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let conditional = async |path: &str, etag: &str| -> Result<Answer> {
        let request = system.request_to(0, Method::GET, path).header("If-None-Match", etag);
        answer(request).await
    };
    let future = format!("{NOW} + interval '1 hour'");
    for (statement, list, component_list) in [
        (
            format!(
                "INSERT INTO incident (id, text, start_date, impact, system)
                VALUES (50, 'Inserted by hand', {NOW}, 1, false)"
            ),
            "Inserted by hand",
            "[]",
        ),
        (
            "INSERT INTO incident_component_relation VALUES (50, 2)".to_owned(),
            "Inserted by hand",
            "Inserted by hand",
        ),
        (
            format!(
                "INSERT INTO incident_status (incident_id, timestamp, text, status)
                VALUES (50, {NOW}, 'We look at it', 'analyzing')"
            ),
            "We look at it",
            "We look at it",
        ),
        (
            "UPDATE incident_status SET text = 'We know it' WHERE incident_id = 50".to_owned(),
            "We know it",
            "We know it",
        ),
        (
            "UPDATE incident SET text = 'Renamed', impact = 2 WHERE id = 50".to_owned(),
            "\"impact\":2",
            "Renamed",
        ),
        (
            format!("UPDATE incident SET end_date = {future} WHERE id = 50"),
            "Renamed",
            "\"end_date\":\"",
        ),
        ("UPDATE component SET name = 'Cache' WHERE id = 2".to_owned(), "Renamed", "Cache"),
        (
            "INSERT INTO component_attribute (component_id, name, value) VALUES (2, 'region', 'R9')"
                .to_owned(),
            "Renamed",
            "R9",
        ),
        (
            "DELETE FROM incident_component_relation WHERE incident_id = 50".to_owned(),
            "Renamed",
            "\"incidents\":[]",
        ),
    ] {
        let [incidents, components] = ["/api/v1/incidents", "/api/v1/component_status"];
        let before = [system.get(incidents).await?, system.get(components).await?];
        let etags = before.each_ref().map(|answer| answer.header("etag").to_owned());
        for (path, etag) in [incidents, components].into_iter().zip(&etags) {
            let unchanged = conditional(path, etag).await?;
            ensure!(unchanged.status == 304, "{path} before {statement}: {unchanged:?}");
        }
        system.sql(&statement).await?;
        for (path, etag, says) in
            [(incidents, &etags[0], list), (components, &etags[1], component_list)]
        {
            let after = conditional(path, etag).await?;
            // The catalogue is no part of the list of incidents, whose ETag may stay.
            if after.status == 304 && path == incidents {
                ensure!(statement.contains(" component"), "{path} is stale after {statement}");
                continue;
            }
            ensure!(after.status == 200, "{path} after {statement}: {after:?}");
            ensure!(after.body.to_string().contains(says), "{path} after {statement}: {after:?}");
        }
    }
    system.finish().await
}

async fn a_maintenance_of_an_operator_suppresses_until_it_ends(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let active = post(&system, "DNS", 1, 201).await?;
    let end = format!("{NOW} + interval '1 hour'");
    let maintenance = insert_manual(&system, 0, "interval '-1 minute'", &end, &[1]).await?;
    ensure!(shown(&system, maintenance).await?["impact"] == 0);
    let suppressed = system.post(&update("DNS", 3)).await?;
    ensure!(suppressed.status == 200 && suppressed.body["id"] == maintenance, "{suppressed:?}");
    let receipt = format!("/api/v1/updates/{}", suppressed.header("update-id"));
    ensure!(done(&system, &receipt).await?["outcome"] == "suppressed");
    ensure!(shown(&system, active).await?["impact"] == 1);
    // Others are not in it.
    post(&system, "CDN", 2, 201).await?;

    system.sql(&format!("UPDATE incident SET end_date = {NOW} WHERE id = {maintenance}")).await?;
    let (stored, ended) =
        (rows_of(&system, maintenance).await?, shown(&system, maintenance).await?);
    ensure!(!ended["end_date"].is_null(), "{ended}");
    ensure!(post(&system, "DNS", 3, 201).await? == active, "it was to be raised");
    ensure!(shown(&system, active).await?["impact"] == 3);

    // One without an end runs, too, and one that the system is said to have opened.
    let endless = insert_manual(&system, 0, "interval '-1 minute'", "NULL", &[2]).await?;
    ensure!(post(&system, "CDN", 3, 200).await? == endless);
    system.sql(&format!("UPDATE incident SET system = true WHERE id = {endless}")).await?;
    ensure!(post(&system, "CDN", 3, 200).await? == endless);
    ensure!(rows_of(&system, maintenance).await? == stored, "the ended maintenance was changed");
    system.finish().await
}

async fn a_planned_maintenance_suppresses_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let end = format!("{NOW} + interval '2 hours'");
    let planned = insert_manual(&system, 0, "interval '1 hour'", &end, &[1]).await?;
    let opened = post(&system, "DNS", 1, 201).await?;
    ensure!(opened != planned);
    let manual = insert_manual(&system, 3, "interval '1 hour'", "NULL", &[2]).await?;
    ensure!(post(&system, "CDN", 1, 201).await? == opened, "{manual} has not started");
    // An operator puts the start forward.
    system.sql(&format!("UPDATE incident SET start_date = {NOW} WHERE id = {planned}")).await?;
    ensure!(post(&system, "DNS", 2, 200).await? == planned);
    system.finish().await
}

/// More stand than are each looked at.
async fn what_covers_a_component_is_found_among_many(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let maintenance = insert_manual(
        &system,
        0,
        "interval '-1 hour'",
        &format!("{NOW} + interval '1 hour'"),
        &[2],
    )
    .await?;
    let dns = insert_manual(&system, 2, "interval '-1 hour'", "NULL", &[1]).await?;
    let many = format!(
        "WITH made AS (
            INSERT INTO incident (text, start_date, end_date, impact, system)
            SELECT 'Other', {NOW} - interval '1 hour',
                CASE n % 3 WHEN 0 THEN {NOW} + interval '1 hour' END, 3, false
            FROM generate_series(1, 300) n RETURNING id
        ) INSERT INTO incident_component_relation SELECT id, 3 FROM made"
    );
    system.sql(&many).await?;
    ensure!(post(&system, "DNS", 2, 200).await? == dns);
    ensure!(post(&system, "CDN", 3, 200).await? == maintenance);
    // The oldest of them covers Mail.
    ensure!(post(&system, "Mail", 1, 200).await? == dns + 1);
    // Once they are closed nothing covers Mail, and the others are found as before.
    let close = format!("UPDATE incident SET end_date = {NOW} WHERE text = 'Other'");
    system.sql(&close).await?;
    let mail = post(&system, "Mail", 1, 201).await?;
    ensure!(mail > dns + 300);
    ensure!(post(&system, "DNS", 2, 200).await? == dns);
    ensure!(post(&system, "CDN", 3, 200).await? == maintenance);
    system.finish().await
}

async fn an_incident_that_an_operator_closes_is_followed_by_another(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let first = post(&system, "DNS", 2, 201).await?;
    post(&system, "CDN", 2, 201).await?;
    system
        .sql(&format!(
            "UPDATE incident SET end_date = {NOW} WHERE id = {first};
            INSERT INTO incident_status (incident_id, timestamp, text, status)
            VALUES ({first}, {NOW}, 'Done', 'resolved');"
        ))
        .await?;
    let closed = rows_of(&system, first).await?;
    ensure!(!shown(&system, first).await?["end_date"].is_null());
    let active = system.get("/api/v1/incidents?active=true").await?;
    ensure!(active.body == json!([]), "{active:?}");

    let second = post(&system, "DNS", 2, 201).await?;
    ensure!(second != first);
    ensure!(post(&system, "CDN", 2, 201).await? == second);
    ensure!(rows_of(&system, first).await? == closed, "the closed incident was changed");
    ensure!(incidents_of(&system, 1).await? == [first, second]);

    // An operator who opens the first one again makes it a manual one.
    system
        .sql(&format!("UPDATE incident SET end_date = NULL, system = false WHERE id = {first}"))
        .await?;
    ensure!(post(&system, "DNS", 2, 200).await? == first);
    system.finish().await
}

async fn an_incident_that_an_operator_takes_over_is_never_changed_again(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let taken = post(&system, "DNS", 2, 201).await?;
    system
        .sql(&format!(
            "UPDATE incident SET system = false, text = 'Ours now' WHERE id = {taken};
            INSERT INTO incident_status (incident_id, timestamp, text, status)
            VALUES ({taken}, {NOW}, 'We look at it', 'analyzing');"
        ))
        .await?;
    let stored = rows_of(&system, taken).await?;
    ensure!(shown(&system, taken).await?["text"] == "Ours now");
    for impact in [2, 1] {
        let covered = system.post(&update("DNS", impact)).await?;
        ensure!(covered.status == 200 && covered.body["id"] == taken, "{covered:?}");
        ensure!(covered.body["text"] == "Ours now", "{covered:?}");
    }
    // It is not the active system incident of its impact any more.
    let other = post(&system, "CDN", 2, 201).await?;
    ensure!(other != taken);
    let above = post(&system, "DNS", 3, 201).await?;
    ensure!(above != taken && above != other);
    ensure!(rows_of(&system, taken).await? == stored, "it was changed");
    system.finish().await
}

async fn above_a_manual_incident_the_component_goes_its_way_beside_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let manual = insert_manual(&system, 1, "interval '-1 minute'", "NULL", &[1]).await?;
    let stored = rows_of(&system, manual).await?;
    ensure!(post(&system, "DNS", 1, 200).await? == manual);
    let major = post(&system, "CDN", 2, 201).await?;
    // Rule 4 beside it, then rule 5 beside it.
    ensure!(post(&system, "DNS", 2, 201).await? == major);
    let outage = post(&system, "DNS", 3, 201).await?;
    ensure!(outage != major && outage != manual);
    ensure!(incidents_of(&system, 1).await? == [manual, outage]);
    ensure!(rows_of(&system, manual).await? == stored, "it was changed");
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}

async fn a_component_whose_relation_was_deleted_joins_again(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 2, 201).await?;
    ensure!(post(&system, "DNS", 2, 201).await? == incident);
    ensure!(post(&system, "DNS", 2, 200).await? == incident);
    let delete = "DELETE FROM incident_component_relation WHERE component_id = 1";
    system.sql(delete).await?;
    ensure!(incidents_of(&system, 1).await?.is_empty(), "the list is stale");

    let again = system.post(&update("DNS", 2)).await?;
    ensure!(again.status == 201 && again.body["id"] == incident, "{again:?}");
    ensure!(again.body["updates"].as_array().map_or(0, Vec::len) == 2, "{again:?}");
    ensure!(again.body["updates"][0]["text"] == "DNS () added to CDN reports 2", "{again:?}");
    ensure!(incidents_of(&system, 1).await? == [incident]);
    system.finish().await
}

async fn a_component_that_others_left_is_alone_and_raises_its_incident(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 1, 201).await?;
    post(&system, "DNS", 1, 201).await?;
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 2").await?;
    ensure!(post(&system, "DNS", 2, 201).await? == incident, "it was to be raised");
    // And one that an operator adds makes it two: the component moves out.
    system.sql(&format!("INSERT INTO incident_component_relation VALUES ({incident}, 3)")).await?;
    ensure!(post(&system, "DNS", 3, 201).await? != incident);
    ensure!(incidents_of(&system, 3).await? == [incident]);
    ensure!(shown(&system, incident).await?["impact"] == 2);
    system.finish().await
}

async fn a_component_that_an_operator_separates_stays_in_its_manual_incident(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 2, 201).await?;
    post(&system, "DNS", 2, 201).await?;
    let mut separation = begin(
        &system,
        &format!(
            "DELETE FROM incident_component_relation
                WHERE incident_id = {incident} AND component_id = 1;
            INSERT INTO incident (id, text, start_date, impact, system)
                VALUES (70, 'DNS alone', {NOW}, 2, false);
            INSERT INTO incident_component_relation VALUES (70, 1);"
        ),
    )
    .await?;
    let notes = format!(
        "INSERT INTO incident_status (incident_id, timestamp, text, status) VALUES
            ({incident}, {NOW}, 'DNS moved to DNS alone', 'SYSTEM'),
            (70, {NOW}, 'DNS moved from CDN reports 2', 'SYSTEM')"
    );
    run(&mut separation, &notes).await?;
    // Nobody sees half of it.
    ensure!(incidents_of(&system, 1).await? == [incident]);
    separation.commit().await?;
    ensure!(incidents_of(&system, 1).await? == [70]);

    let stored = rows_of(&system, 70).await?;
    ensure!(post(&system, "DNS", 2, 200).await? == 70);
    ensure!(post(&system, "DNS", 1, 200).await? == 70);
    ensure!(post(&system, "CDN", 2, 200).await? == incident);
    // The one that stayed is alone now.
    ensure!(post(&system, "CDN", 3, 201).await? == incident);
    ensure!(post(&system, "DNS", 3, 201).await? == incident);
    ensure!(rows_of(&system, 70).await? == stored, "it was changed");
    system.finish().await
}

/// Covered in the snapshot, an update comes before what others commit later; all of that counts for the
/// next one.
async fn a_separation_under_way_counts_as_a_whole_from_its_commit_on(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 2, 201).await?;
    post(&system, "DNS", 2, 201).await?;
    // Out of one of the system, then out of one of a person.
    for (from, to) in [(incident, 70), (70, 71)] {
        let separation = begin(
            &system,
            &format!(
                "DELETE FROM incident_component_relation
                    WHERE incident_id = {from} AND component_id = 1;
                INSERT INTO incident (id, text, start_date, impact, system)
                    VALUES ({to}, 'DNS alone', {NOW}, 2, false);
                INSERT INTO incident_component_relation VALUES ({to}, 1);"
            ),
        )
        .await?;
        ensure!(post(&system, "DNS", 2, 200).await? == from, "it waited for the separation");
        separation.commit().await?;
        ensure!(post(&system, "DNS", 2, 200).await? == to);
        ensure!(incidents_of(&system, 1).await? == [to], "it is in others, too");
    }
    system.finish().await
}

async fn updates_sort_after_an_operators_update_from_the_future(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "DNS", 1, 201).await?;
    system
        .sql(&format!(
            "INSERT INTO incident_status (incident_id, timestamp, text, status)
            VALUES ({incident}, {NOW} + interval '3 hours', 'Ahead', 'analyzing')"
        ))
        .await?;
    post(&system, "DNS", 2, 201).await?;
    post(&system, "CDN", 2, 201).await?;
    let last = system.post(&update("Mail", 2)).await?;
    let texts = json!([
        "Mail () added to DNS reports 1",
        "CDN () added to DNS reports 1",
        "impact changed from minor to major",
        "Ahead"
    ]);
    let of = |incident: &Value| -> Value {
        let updates = incident["updates"].as_array().map_or(&[][..], Vec::as_slice);
        updates.iter().map(|update| update["text"].clone()).collect()
    };
    ensure!(last.status == 201 && of(&last.body) == texts, "{last:?}");
    let listed = shown(&system, incident).await?;
    ensure!(of(&listed) == texts, "{listed}");
    // As the Python dashboard sorts: by the timestamp alone.
    let not_later = system
        .count(
            "SELECT count(*) FROM (SELECT timestamp - lag(timestamp) OVER (ORDER BY id) AS step
                FROM incident_status) AS steps WHERE step <= interval '0'",
        )
        .await?;
    ensure!(not_later == 0, "{not_later} updates are not later than the one before");
    system.finish().await
}

async fn a_relation_that_an_operator_wrote_first_counts(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 2, 201).await?;
    system.sql(&format!("INSERT INTO incident_component_relation VALUES ({incident}, 1)")).await?;
    ensure!(incidents_of(&system, 1).await? == [incident]);
    ensure!(post(&system, "DNS", 2, 200).await? == incident);
    // A row that stands in the incident that the component moves to.
    let minor = post(&system, "Mail", 1, 201).await?;
    system
        .sql(&format!(
            "INSERT INTO incident_component_relation VALUES ({incident}, 3) ON CONFLICT DO NOTHING"
        ))
        .await?;
    let moved = system.post(&update("Mail", 2)).await?;
    ensure!([200, 201].contains(&moved.status) && moved.body["id"] == incident, "{moved:?}");
    let held = incidents_of(&system, 3).await?;
    ensure!(held.contains(&incident), "{minor} or {incident}: {held:?}");
    system.finish().await
}

async fn a_relation_that_both_write_at_once_stands_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 2, 201).await?;
    let foreign =
        begin(&system, &format!("INSERT INTO incident_component_relation VALUES ({incident}, 1)"))
            .await?;
    let receipt = post_async(&system, "DNS", 2).await?;
    updates_wait(&system).await?;
    foreign.commit().await?;
    let receipt = done(&system, &receipt).await?;
    ensure!(receipt["incident"]["id"] == incident, "{receipt}");
    let rows = "SELECT count(*) FROM incident_component_relation WHERE component_id = 1";
    ensure!(system.count(rows).await? == 1);
    system.finish().await
}

async fn a_lock_on_an_incident_delays_updates_and_its_edit_counts(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "DNS", 1, 201).await?;
    let edit = begin(
        &system,
        &format!("UPDATE incident SET system = false, impact = 2 WHERE id = {incident}"),
    )
    .await?;
    let late = system.post(&update("DNS", 2)).await?;
    ensure!(late.status == 202 && late.body["state"] == "pending", "{late:?}");
    let other = post_async(&system, "CDN", 1).await?;
    // It is tried again and again.
    sleep(Duration::from_secs(6)).await;
    ensure!(system.get(late.header("location")).await?.body["state"] == "pending");
    edit.commit().await?;

    let receipt = done(&system, late.header("location")).await?;
    ensure!(receipt["outcome"] == "unchanged", "{receipt}");
    ensure!(receipt["reason"] == "covered_by_manual_incident", "{receipt}");
    ensure!(receipt["incident"]["id"] == incident, "{receipt}");
    let receipt = done(&system, &other).await?;
    ensure!(receipt["outcome"] == "opened", "{receipt}");
    system.finish().await
}

async fn an_edit_that_is_rolled_back_does_not_count(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "DNS", 1, 201).await?;
    let edit = begin(
        &system,
        &format!(
            "UPDATE incident SET end_date = {NOW} WHERE id = {incident};
            INSERT INTO incident_status (incident_id, timestamp, text, status)
            VALUES ({incident}, {NOW}, 'Never mind', 'resolved');"
        ),
    )
    .await?;
    let receipt = post_async(&system, "DNS", 2).await?;
    updates_wait(&system).await?;
    let before = system.get("/api/v1/incidents").await?;
    ensure!(before.body[0]["end_date"].is_null(), "{before:?}");
    edit.rollback().await?;
    let receipt = done(&system, &receipt).await?;
    ensure!(receipt["outcome"] == "raised" && receipt["incident"]["id"] == incident, "{receipt}");
    ensure!(!system.get("/api/v1/incidents").await?.body.to_string().contains("Never mind"));
    replay::agrees(&system.database).await?;
    system.finish().await
}

/// Foreign transactions that take rows in another order than the worker: it waits for no incident, and
/// only shortly for a component.
async fn foreign_writers_in_another_order_meet_no_deadlock(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let low = post(&system, "DNS", 1, 201).await?;
    let high = post(&system, "CDN", 2, 201).await?;
    ensure!(low < high);
    for round in 0..4 {
        let mut foreign = begin(
            &system,
            &format!(
                "UPDATE incident SET text = 'round {round}' WHERE id = {high};
                SELECT FROM component WHERE id = 3 FOR UPDATE;"
            ),
        )
        .await?;
        let mut receipts = Vec::new();
        for (name, impact) in [("Mail", 1), ("DNS", 1), ("CDN", 2), ("Mail", 2), ("DNS", 3)] {
            receipts.push(post_async(&system, name, impact).await?);
        }
        // While the worker tries to have the lower incident and the component.
        sleep(Duration::from_millis(300)).await;
        run(&mut foreign, &format!("UPDATE incident SET text = 'round {round}' WHERE id = {low}"))
            .await?;
        foreign.commit().await?;
        for receipt in receipts {
            done(&system, &receipt).await?;
        }
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    ensure!(system.count(deadlocks).await? == 0, "a deadlock");
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 2 + 4 * 5);
    let edited = "SELECT count(*) FROM incident WHERE text = 'round 3'";
    ensure!(system.count(edited).await? == 2, "an edit is gone");
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}
