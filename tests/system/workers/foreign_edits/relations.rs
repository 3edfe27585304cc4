//! Relations of components and incidents that others write.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{begin, incidents_of, rows_of, run, shown, updates_wait, with_components};
use crate::workers::{accepted, decided, update};
use harness::{Fixture, NOW, tests};

tests!(
    a_component_whose_relation_was_deleted_joins_again,
    a_component_that_others_left_is_alone_and_raises_its_incident,
    a_component_that_an_operator_separates_stays_in_its_manual_incident,
    a_separation_under_way_counts_as_a_whole_from_its_commit_on,
    a_relation_that_an_operator_wrote_first_counts,
    a_relation_that_both_write_at_once_is_there_once,
);

async fn a_component_whose_relation_was_deleted_joins_again(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = decided(&system, "CDN", 2, 201).await?;
    ensure!(decided(&system, "DNS", 2, 201).await? == incident);
    ensure!(decided(&system, "DNS", 2, 200).await? == incident);
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
    let incident = decided(&system, "CDN", 1, 201).await?;
    decided(&system, "DNS", 1, 201).await?;
    system.sql("DELETE FROM incident_component_relation WHERE component_id = 2").await?;
    ensure!(decided(&system, "DNS", 2, 201).await? == incident, "it was to be raised");
    // And one that an operator adds makes it two: the component moves out.
    system.sql(&format!("INSERT INTO incident_component_relation VALUES ({incident}, 3)")).await?;
    ensure!(decided(&system, "DNS", 3, 201).await? != incident);
    ensure!(incidents_of(&system, 3).await? == [incident]);
    ensure!(shown(&system, incident).await?["impact"] == 2);
    system.finish().await
}

async fn a_component_that_an_operator_separates_stays_in_its_manual_incident(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = decided(&system, "CDN", 2, 201).await?;
    decided(&system, "DNS", 2, 201).await?;
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
    ensure!(decided(&system, "DNS", 2, 200).await? == 70);
    ensure!(decided(&system, "DNS", 1, 200).await? == 70);
    ensure!(decided(&system, "CDN", 2, 200).await? == incident);
    // The one that stayed is alone now.
    ensure!(decided(&system, "CDN", 3, 201).await? == incident);
    ensure!(decided(&system, "DNS", 3, 201).await? == incident);
    ensure!(rows_of(&system, 70).await? == stored, "it was changed");
    system.finish().await
}

/// Covered in the snapshot, an update comes before what others commit later; all of that counts for the
/// next one.
async fn a_separation_under_way_counts_as_a_whole_from_its_commit_on(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = decided(&system, "CDN", 2, 201).await?;
    decided(&system, "DNS", 2, 201).await?;
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
        ensure!(decided(&system, "DNS", 2, 200).await? == from, "it waited for the separation");
        separation.commit().await?;
        ensure!(decided(&system, "DNS", 2, 200).await? == to);
        ensure!(incidents_of(&system, 1).await? == [to], "it is in others, too");
    }
    system.finish().await
}

async fn a_relation_that_an_operator_wrote_first_counts(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = decided(&system, "CDN", 2, 201).await?;
    system.sql(&format!("INSERT INTO incident_component_relation VALUES ({incident}, 1)")).await?;
    ensure!(incidents_of(&system, 1).await? == [incident]);
    ensure!(decided(&system, "DNS", 2, 200).await? == incident);
    // A row that stands in the incident that the component moves to.
    let minor = decided(&system, "Mail", 1, 201).await?;
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

async fn a_relation_that_both_write_at_once_is_there_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = decided(&system, "CDN", 2, 201).await?;
    let foreign =
        begin(&system, &format!("INSERT INTO incident_component_relation VALUES ({incident}, 1)"))
            .await?;
    let receipt = accepted(&system, "DNS", 2).await?;
    updates_wait(&system).await?;
    foreign.commit().await?;
    let receipt = system.applied(&receipt).await?;
    ensure!(receipt["incident"]["id"] == incident, "{receipt}");
    let rows = "SELECT count(*) FROM incident_component_relation WHERE component_id = 1";
    ensure!(system.count(rows).await? == 1);
    system.finish().await
}
