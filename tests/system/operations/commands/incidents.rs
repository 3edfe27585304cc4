//! Commands on incidents.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{
    components, has_updates, json_of, minutes_from_now, opened, post, shown, updates,
    with_components,
};
use harness::{Fixture, replay, tests};

tests!(
    a_manual_incident_is_opened_changed_and_closed,
    components_leave_other_incidents_for_a_manual_one,
    a_system_incident_becomes_a_manual_one_by_an_edit,
    a_component_is_taken_out_of_an_incident,
    an_update_of_an_operator_sorts_after_those_that_are_there,
    of_several_operators_that_close_an_incident_one_succeeds,
    what_another_writer_does_meanwhile_counts,
);

async fn a_manual_incident_is_opened_changed_and_closed(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let start = minutes_from_now(&system, -90).await?;
    let open = ["incident", "open", "--title", "Slow <DNS>", "--impact", "minor"];
    let dns = ["--component", "DNS (region=R1)", "--component", "1", "--start", &start];
    let id = opened(&system, &[&open[..], &dns].concat()).await?;
    let key = json!(id);
    let listed = shown(&system, &key).await?;
    let expected = json!({
        "id": listed["id"], "text": "Slow <DNS>", "impact": 1, "start_date": start,
        "end_date": null, "updates": [],
    });
    ensure!(listed == expected, "{listed}");
    ensure!(components(&system, &id).await? == [1]);
    // Rule 2: it covers its component up to its impact.
    ensure!(post(&system, "DNS", 1, 200).await?["id"] == listed["id"]);

    let comment = ["incident", "comment", &id, "--status", "analyzing", "See <a href='/'>us</a>"];
    system.worker_succeeds(&comment).await?;
    let change = ["incident", "change", &id, "--title", "Slow names", "--impact", "2"];
    let add = ["--add-component", "CDN", "--add-component", "R&D <lab>"];
    system.worker_succeeds(&[&change[..], &add].concat()).await?;
    ensure!(components(&system, &id).await? == [1, 3, 4]);
    ensure!(post(&system, "DNS", 2, 200).await?["id"] == listed["id"]);
    let listed = shown(&system, &key).await?;
    ensure!(listed["text"] == "Slow names" && listed["impact"] == 2, "{listed}");
    let history = [
        ("changed", "R&amp;D &lt;lab&gt; () added to Slow names"),
        ("changed", "CDN () added to Slow names"),
        ("impact changed", "impact changed from minor to major"),
        ("changed", "title changed from Slow &lt;DNS&gt; to Slow names"),
        ("analyzing", "See <a href='/'>us</a>"),
    ];
    has_updates(&system, &key, &history).await?;

    let list = system.worker_succeeds(&["incident", "list"]).await?;
    let line = list.lines().find(|line| line.contains("Slow names")).context("not listed")?;
    for part in [&id, "major", "active", &start, "manual", "DNS (R1, dns)", "CDN ()"] {
        ensure!(line.contains(part), "{part} is not in {list}");
    }
    let all = json_of(&system, &["incident", "list"]).await?;
    ensure!(all.as_array().map(Vec::len) == Some(1), "{all}");
    ensure!(all[0]["state"] == "active" && all[0]["components"][1]["name"] == "CDN", "{all}");

    let end = minutes_from_now(&system, -30).await?;
    system
        .worker_succeeds(&["incident", "close", &id, "--at", &end, "--text", "All is well"])
        .await?;
    ensure!(shown(&system, &key).await?["end_date"] == end.as_str());
    has_updates(&system, &key, &[&[("resolved", "All is well")][..], &history].concat()).await?;
    let none = system.worker_succeeds(&["incident", "list"]).await?;
    ensure!(none.trim() == "Nothing is active or scheduled.", "{none}");
    let closed = system.worker_succeeds(&["incident", "show", &id]).await?;
    ensure!(closed.contains("state:      closed") && closed.contains("All is well"), "{closed}");
    // What it covered is free again.
    post(&system, "DNS", 1, 201).await?;
    system.finish().await
}

async fn components_leave_other_incidents_for_a_manual_one(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    // A minor one with two components, and an outage with one.
    let minor = post(&system, "CDN", 1, 201).await?["id"].clone();
    post(&system, "DNS", 1, 201).await?;
    let outage = post(&system, "R&D <lab>", 3, 201).await?["id"].clone();
    let open = ["incident", "open", "--title", "By <hand>", "--impact", "2", "--component", "4"];
    let id = opened(&system, &[&open[..], &["--component", "CDN"]].concat()).await?;
    ensure!(components(&system, &id).await? == [3, 4]);
    ensure!(components(&system, &minor.to_string()).await? == [1]);
    // The one that would have none left is closed, and keeps what it had.
    ensure!(components(&system, &outage.to_string()).await? == [4]);
    ensure!(!shown(&system, &outage).await?["end_date"].is_null());
    ensure!(shown(&system, &minor).await?["end_date"].is_null());
    let there = format!("<a href='/incidents/{id}'>By &lt;hand&gt;</a>");
    let moved = format!("CDN () moved to {there}");
    let joined = ("SYSTEM", "DNS (R1, dns) added to CDN 1");
    has_updates(&system, &minor, &[("SYSTEM", &moved), joined]).await?;
    let moved = format!("R&amp;D &lt;lab&gt; () moved to {there}");
    has_updates(&system, &outage, &[("SYSTEM", "CLOSED BY SYSTEM"), ("SYSTEM", &moved)]).await?;
    let title = "R&amp;D &lt;lab&gt; 3";
    let from_outage =
        format!("R&amp;D &lt;lab&gt; () moved from <a href='/incidents/{outage}'>{title}</a>");
    let from_minor = format!("CDN () moved from <a href='/incidents/{minor}'>CDN 1</a>");
    let history = [("SYSTEM", from_outage.as_str()), ("SYSTEM", &from_minor)];
    has_updates(&system, &json!(id), &history).await?;

    // Covered up to its impact; above it, the rules go on beside it.
    ensure!(post(&system, "CDN", 2, 200).await?["id"].to_string() == id);
    let beside = post(&system, "CDN", 3, 201).await?["id"].clone();
    ensure!(beside != json!(id.parse::<i64>()?) && beside != outage);
    // The system's minor one is raised, since what else it had has left.
    ensure!(post(&system, "DNS", 2, 201).await?["id"] == minor);
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}

async fn a_system_incident_becomes_a_manual_one_by_an_edit(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let minor = post(&system, "DNS", 1, 201).await?["id"].clone();
    let major = post(&system, "CDN", 2, 201).await?["id"].clone();
    // To the impact of another active one of the system: it is none of the system's any more.
    let id = minor.to_string();
    let edited = json_of(&system, &["incident", "change", &id, "--impact", "2"]).await?;
    ensure!(edited["system"] == false && edited["impact"] == 2, "{edited}");
    ensure!(post(&system, "DNS", 2, 200).await?["id"] == minor);
    // No update changes it: a higher one goes beside it.
    let beside = post(&system, "DNS", 3, 201).await?["id"].clone();
    ensure!(beside != minor && shown(&system, &minor).await?["impact"] == 2);

    let comment = ["incident", "comment", &major.to_string(), "--status", "fixing", "We are at it"];
    ensure!(json_of(&system, &comment).await?["system"] == false);
    // So another one is opened for those that join.
    let next = post(&system, "R&D <lab>", 2, 201).await?["id"].clone();
    ensure!(next != major);
    system.worker_succeeds(&["incident", "close", &next.to_string()]).await?;
    has_updates(&system, &next, &[("resolved", "Incident resolved")]).await?;
    ensure!(post(&system, "R&D <lab>", 2, 201).await?["id"] != next);
    replay::holds_one_active_incident(&system.database).await?;
    system.finish().await
}

async fn a_component_is_taken_out_of_an_incident(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 1, 201).await?["id"].clone();
    post(&system, "DNS", 1, 201).await?;
    let id = incident.to_string();
    let remove = ["incident", "remove-component", &id, "DNS (region=R1)"];
    let left = json_of(&system, &remove).await?;
    ensure!(left["system"] == true && left["components"][0]["name"] == "CDN", "{left}");
    ensure!(components(&system, &id).await? == [3]);
    let history = [
        ("changed", "DNS (R1, dns) removed from CDN 1"),
        ("SYSTEM", "DNS (R1, dns) added to CDN 1"),
    ];
    has_updates(&system, &incident, &history).await?;
    // It is still the system's: alone, it is raised; and the component may come back.
    ensure!(post(&system, "CDN", 2, 201).await?["id"] == incident);
    ensure!(post(&system, "DNS", 2, 201).await?["id"] == incident);
    system.finish().await
}

async fn an_update_of_an_operator_sorts_after_those_that_are_there(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 1, 201).await?["id"].clone();
    system
        .sql(&format!(
            "INSERT INTO incident_status (incident_id, timestamp, text, status) VALUES
                ({incident}, clock_timestamp() AT TIME ZONE 'UTC' + interval '3 hours', 'Ahead', 'fixing')"
        ))
        .await?;
    for text in ["One", "Two"] {
        let comment = ["incident", "comment", &incident.to_string(), "--status", "observing", text];
        system.worker_succeeds(&comment).await?;
    }
    let history = [("observing", "Two"), ("observing", "One"), ("fixing", "Ahead")];
    has_updates(&system, &incident, &history).await?;
    system.finish().await
}

async fn of_several_operators_that_close_an_incident_one_succeeds(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let id = post(&system, "CDN", 1, 201).await?["id"].to_string();
    let close = ["incident", "close", &id];
    let said = try_join_all((0..4).map(|_| system.worker_command(&close))).await?;
    let (done, refused): (Vec<_>, Vec<_>) = said.iter().partition(|(done, _)| *done);
    ensure!(done.len() == 1, "{said:?}");
    let closed = format!("incident {id} was closed at");
    ensure!(refused.iter().all(|(_, said)| said.contains(&closed)), "{said:?}");
    has_updates(&system, &json!(id), &[("resolved", "Incident resolved")]).await?;
    system.finish().await
}

async fn what_another_writer_does_meanwhile_counts(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let first = post(&system, "CDN", 1, 201).await?["id"].to_string();
    let second = post(&system, "DNS", 3, 201).await?["id"].to_string();
    // The Python dashboard closes the first, and takes its time to commit.
    let mut foreign = system.database.begin().await?;
    let close = format!(
        "UPDATE incident SET end_date = clock_timestamp() AT TIME ZONE 'UTC' WHERE id = {first}"
    );
    sqlx::raw_sql(AssertSqlSafe(close)).execute(&mut *foreign).await?;
    let open = ["incident", "open", "--title", "Seen", "--impact", "2", "--component", "3"];
    let open = [&open[..], &["--component", "1", "--json"]].concat();
    let command = system.worker_command(&open);
    let commit = async {
        system.waits_for_a_lock().await?;
        foreign.commit().await?;
        anyhow::Ok(())
    };
    let (command, commit) = tokio::join!(command, commit);
    commit?;
    let (done, said) = command?;
    ensure!(done, "{said}");
    // Only the other one had something to leave.
    ensure!(updates(&system, &json!(first)).await?.is_empty());
    ensure!(components(&system, &first).await? == [3]);
    let opened: Value = serde_json::from_str(&said)?;
    let opened = updates(&system, &opened["id"]).await?;
    ensure!(opened.len() == 1 && opened[0].1.contains(&format!("/incidents/{second}'")));
    system.finish().await
}
