//! Incidents and maintenances that others write.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::json;

use super::{incidents_of, rows_of, shown, with_components};
use crate::workers::{decided, update};
use harness::{Answer, Fixture, NOW, System, answer, replay, tests};

tests!(
    every_foreign_write_is_shown_by_the_next_get,
    a_maintenance_of_an_operator_suppresses_until_it_ends,
    a_planned_maintenance_suppresses_nothing,
    what_covers_a_component_is_found_among_many,
    an_incident_that_an_operator_closes_is_followed_by_another,
    an_incident_that_an_operator_takes_over_is_never_changed_again,
    above_a_manual_incident_the_component_goes_its_way_beside_it,
);

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
    let active = decided(&system, "DNS", 1, 201).await?;
    let end = format!("{NOW} + interval '1 hour'");
    let maintenance = insert_manual(&system, 0, "interval '-1 minute'", &end, &[1]).await?;
    ensure!(shown(&system, maintenance).await?["impact"] == 0);
    let suppressed = system.post(&update("DNS", 3)).await?;
    ensure!(suppressed.status == 200 && suppressed.body["id"] == maintenance, "{suppressed:?}");
    ensure!(system.applied(suppressed.header("update-id")).await?["outcome"] == "suppressed");
    ensure!(shown(&system, active).await?["impact"] == 1);
    // Others are not in it.
    decided(&system, "CDN", 2, 201).await?;

    system.sql(&format!("UPDATE incident SET end_date = {NOW} WHERE id = {maintenance}")).await?;
    let (stored, ended) =
        (rows_of(&system, maintenance).await?, shown(&system, maintenance).await?);
    ensure!(!ended["end_date"].is_null(), "{ended}");
    ensure!(decided(&system, "DNS", 3, 201).await? == active, "it was to be raised");
    ensure!(shown(&system, active).await?["impact"] == 3);

    // One without an end runs, too, and one that the system is said to have opened.
    let endless = insert_manual(&system, 0, "interval '-1 minute'", "NULL", &[2]).await?;
    ensure!(decided(&system, "CDN", 3, 200).await? == endless);
    system.sql(&format!("UPDATE incident SET system = true WHERE id = {endless}")).await?;
    ensure!(decided(&system, "CDN", 3, 200).await? == endless);
    ensure!(rows_of(&system, maintenance).await? == stored, "the ended maintenance was changed");
    system.finish().await
}

async fn a_planned_maintenance_suppresses_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let end = format!("{NOW} + interval '2 hours'");
    let planned = insert_manual(&system, 0, "interval '1 hour'", &end, &[1]).await?;
    let opened = decided(&system, "DNS", 1, 201).await?;
    ensure!(opened != planned);
    let manual = insert_manual(&system, 3, "interval '1 hour'", "NULL", &[2]).await?;
    ensure!(decided(&system, "CDN", 1, 201).await? == opened, "{manual} has not started");
    // An operator puts the start forward.
    system.sql(&format!("UPDATE incident SET start_date = {NOW} WHERE id = {planned}")).await?;
    ensure!(decided(&system, "DNS", 2, 200).await? == planned);
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
    ensure!(decided(&system, "DNS", 2, 200).await? == dns);
    ensure!(decided(&system, "CDN", 3, 200).await? == maintenance);
    // The oldest of them covers Mail.
    ensure!(decided(&system, "Mail", 1, 200).await? == dns + 1);
    // Once they are closed nothing covers Mail, and the others are found as before.
    let close = format!("UPDATE incident SET end_date = {NOW} WHERE text = 'Other'");
    system.sql(&close).await?;
    let mail = decided(&system, "Mail", 1, 201).await?;
    ensure!(mail > dns + 300);
    ensure!(decided(&system, "DNS", 2, 200).await? == dns);
    ensure!(decided(&system, "CDN", 3, 200).await? == maintenance);
    system.finish().await
}

async fn an_incident_that_an_operator_closes_is_followed_by_another(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let first = decided(&system, "DNS", 2, 201).await?;
    decided(&system, "CDN", 2, 201).await?;
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

    let second = decided(&system, "DNS", 2, 201).await?;
    ensure!(second != first);
    ensure!(decided(&system, "CDN", 2, 201).await? == second);
    ensure!(rows_of(&system, first).await? == closed, "the closed incident was changed");
    ensure!(incidents_of(&system, 1).await? == [first, second]);

    // An operator who opens the first one again makes it a manual one.
    system
        .sql(&format!("UPDATE incident SET end_date = NULL, system = false WHERE id = {first}"))
        .await?;
    ensure!(decided(&system, "DNS", 2, 200).await? == first);
    system.finish().await
}

async fn an_incident_that_an_operator_takes_over_is_never_changed_again(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let taken = decided(&system, "DNS", 2, 201).await?;
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
    let other = decided(&system, "CDN", 2, 201).await?;
    ensure!(other != taken);
    let above = decided(&system, "DNS", 3, 201).await?;
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
    ensure!(decided(&system, "DNS", 1, 200).await? == manual);
    let major = decided(&system, "CDN", 2, 201).await?;
    // Rule 4 beside it, then rule 5 beside it.
    ensure!(decided(&system, "DNS", 2, 201).await? == major);
    let outage = decided(&system, "DNS", 3, 201).await?;
    ensure!(outage != major && outage != manual);
    ensure!(incidents_of(&system, 1).await? == [manual, outage]);
    ensure!(rows_of(&system, manual).await? == stored, "it was changed");
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}
