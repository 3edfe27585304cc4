//! Commands on maintenances.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    components, has_updates, json_of, minutes_from_now, opened, post, shown, updates,
    with_components,
};
use harness::{Fixture, tests};

tests!(a_maintenance_is_scheduled_changed_and_ended,);

async fn a_maintenance_is_scheduled_changed_and_ended(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 1, 201).await?["id"].clone();
    let (start, end) =
        (minutes_from_now(&system, 60).await?, minutes_from_now(&system, 120).await?);
    // With an offset: the same instant.
    let rfc3339 = format!("{}+00:00", end.replace(' ', "T") + ":00");
    let schedule = ["maintenance", "schedule", "--title", "New racks", "--component", "CDN"];
    let window = ["--start", &start, "--end", &rfc3339, "--description", "Racks & <cables>"];
    let id = opened(&system, &[&schedule[..], &window].concat()).await?;
    let key = json!(id);
    let listed = shown(&system, &key).await?;
    ensure!(listed["impact"] == 0 && listed["start_date"] == start.as_str(), "{listed}");
    ensure!(listed["end_date"] == end.as_str(), "{listed}");
    has_updates(&system, &key, &[("description", "Racks & <cables>")]).await?;
    // It takes nothing away, and covers nothing before its start.
    ensure!(components(&system, &incident.to_string()).await? == [3]);
    post(&system, "CDN", 2, 201).await?;
    let list = json_of(&system, &["incident", "list"]).await?;
    ensure!(list[0]["state"] == "scheduled" && list[0]["id"] == listed["id"], "{list}");
    let active = system.get("/api/v1/incidents?active=true").await?;
    ensure!(active.body.as_array().map(Vec::len) == Some(1), "{active:?}");

    let (sooner, later) =
        (minutes_from_now(&system, -1).await?, minutes_from_now(&system, 180).await?);
    let change = ["maintenance", "change", &id, "--start", &sooner, "--end", &later];
    let more = ["--title", "New shelves", "--add-component", "4"];
    system.worker_succeeds(&[&change[..], &more].concat()).await?;
    let began = format!("start changed from {start} to {sooner} UTC");
    let ends = format!("end changed from {end} to {later} UTC");
    let history = [
        ("modified", "R&amp;D &lt;lab&gt; () added to New shelves"),
        ("modified", &ends),
        ("modified", &began),
        ("modified", "title changed from New racks to New shelves"),
        ("description", "Racks & <cables>"),
    ];
    has_updates(&system, &key, &history).await?;
    // Rule 1.
    for name in ["CDN", "R&D <lab>"] {
        ensure!(post(&system, name, 3, 200).await?["id"] == listed["id"]);
    }
    system
        .worker_succeeds(&["incident", "comment", &id, "--status", "in progress", "Half way"])
        .await?;
    system.worker_succeeds(&["maintenance", "end", &id]).await?;
    let ended = updates(&system, &key).await?;
    let newest = ("completed".to_owned(), "Maintenance completed".to_owned());
    ensure!(ended[0] == newest && ended[1].0 == "in progress", "{ended:?}");
    ensure!(post(&system, "R&D <lab>", 3, 201).await?["id"] != listed["id"]);
    system.finish().await
}
