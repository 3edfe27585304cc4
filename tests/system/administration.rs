//! An operator without the Python dashboard's pages: commands on incidents, maintenances and the
//! catalogue, beside gateways and workers that run.

use std::{collections::BTreeSet, fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use shared::{
    component::ComponentId, impact::Impact, incident::IncidentId, outcome::Reason,
    timestamp::Timestamp,
};
use sqlx::AssertSqlSafe;
use worker::domain::{ActiveState, Holder, IncidentRef, ManualIncident};

use harness::{
    Fixture, System,
    burst::{Burst, took_effect_beside_commands},
    eventually, replay, tests,
};

tests!(
    an_incident_of_a_person_is_opened_changed_and_closed,
    components_leave_other_incidents_for_one_that_a_person_opens,
    an_incident_of_the_system_becomes_a_persons_by_an_edit,
    a_component_is_taken_out_of_an_incident,
    a_maintenance_is_scheduled_changed_and_ended,
    an_update_of_an_operator_sorts_after_those_that_are_there,
    what_makes_no_sense_is_refused_and_changes_nothing,
    of_several_operators_who_close_an_incident_one_does,
    what_another_writer_does_meanwhile_counts,
    decisions_beside_an_operators_commands_are_right,
    a_catalogue_is_planned_and_pruned,
    every_command_explains_itself,
);

/// The components' ids are 1 to 4.
async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    let system = System::start(fixture).await?;
    let r1 = &[("region", "R1"), ("type", "dns")][..];
    let r2 = &[("region", "R2"), ("type", "dns")][..];
    system.components(&[("DNS", r1), ("DNS", r2), ("CDN", &[]), ("R&D <lab>", &[])]).await?;
    Ok(system)
}

async fn run(system: &System, arguments: &[&str]) -> Result<String> {
    let (done, said) = system.worker_command(arguments).await?;
    ensure!(done, "worker {arguments:?}: {said}");
    Ok(said)
}

/// Runs a command with `--json`, and reads what it prints.
async fn json_of(system: &System, arguments: &[&str]) -> Result<Value> {
    let said = run(system, &[arguments, &["--json"]].concat()).await?;
    serde_json::from_str(&said).with_context(|| format!("{arguments:?}: {said}"))
}

/// Runs a command that opens or schedules, and returns the number.
async fn opened(system: &System, arguments: &[&str]) -> Result<String> {
    let number = json_of(system, arguments).await?["id"].as_i64().context("no id")?;
    Ok(number.to_string())
}

/// Posts an update about a component, expects this status, and returns the incident.
async fn post(system: &System, name: &str, impact: u8, status: u16) -> Result<Value> {
    let body = match name {
        "DNS" => json!({ "name": name, "impact": impact, "text": format!("{name} {impact}"),
            "attributes": [{ "name": "region", "value": "R1" }] }),
        _ => json!({ "name": name, "impact": impact, "text": format!("{name} {impact}") }),
    };
    let answer = system.post(&body).await?;
    ensure!(answer.status == status, "{name} {impact}: {answer:?}, not {status}");
    Ok(answer.body)
}

/// An incident as the list shows it now.
async fn shown(system: &System, id: &Value) -> Result<Value> {
    let list = system.get("/api/v1/incidents").await?;
    let incidents = list.body.as_array().context("no list")?;
    let id = id.as_str().map_or_else(|| id.clone(), |text| json!(text.parse::<i64>().ok()));
    incidents.iter().find(|incident| incident["id"] == id).cloned().context("it is not listed")
}

/// Statuses and texts of an incident as the list shows them now, newest first.
async fn updates(system: &System, id: &Value) -> Result<Vec<(String, String)>> {
    let incident = shown(system, id).await?;
    let updates = incident["updates"].as_array().context("no updates")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(updates.iter().map(|update| (text(&update["status"]), text(&update["text"]))).collect())
}

async fn has_updates(system: &System, id: &Value, expected: &[(&str, &str)]) -> Result<()> {
    let updates = updates(system, id).await?;
    let updates: Vec<_> = updates.iter().map(|(s, t)| (s.as_str(), t.as_str())).collect();
    ensure!(updates == expected, "{id}: {updates:#?}, not {expected:#?}");
    Ok(())
}

/// The ids of the components that an incident has.
async fn components(system: &System, id: &str) -> Result<Vec<i64>> {
    let query = format!(
        "SELECT component_id::bigint FROM incident_component_relation
        WHERE incident_id = {id} ORDER BY 1"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&system.database).await?)
}

/// `YYYY-MM-DD HH:MM`, so many minutes from now.
async fn minutes_from_now(system: &System, minutes: i64) -> Result<String> {
    let query = format!(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '{minutes} minutes',
            'YYYY-MM-DD HH24:MI')"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&system.database).await?)
}

/// Every row that an operator's commands may change.
async fn contents(system: &System) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for table in [
        "component",
        "component_attribute",
        "incident",
        "incident_component_relation",
        "incident_status",
        "sdb_version",
    ] {
        let query = format!("SELECT '{table} ' || t::text FROM {table} t ORDER BY 1");
        rows.extend(
            sqlx::query_scalar::<_, String>(AssertSqlSafe(query))
                .fetch_all(&system.database)
                .await?,
        );
    }
    Ok(rows)
}

async fn an_incident_of_a_person_is_opened_changed_and_closed(fixture: Arc<Fixture>) -> Result<()> {
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
    run(&system, &comment).await?;
    let change = ["incident", "change", &id, "--title", "Slow names", "--impact", "2"];
    let add = ["--add-component", "CDN", "--add-component", "R&D <lab>"];
    run(&system, &[&change[..], &add].concat()).await?;
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

    let list = run(&system, &["incident", "list"]).await?;
    let line = list.lines().find(|line| line.contains("Slow names")).context("not listed")?;
    for part in [&id, "major", "active", &start, "manual", "DNS (R1, dns)", "CDN ()"] {
        ensure!(line.contains(part), "{part} is not in {list}");
    }
    let all = json_of(&system, &["incident", "list"]).await?;
    ensure!(all.as_array().map(Vec::len) == Some(1), "{all}");
    ensure!(all[0]["state"] == "active" && all[0]["components"][1]["name"] == "CDN", "{all}");

    let end = minutes_from_now(&system, -30).await?;
    run(&system, &["incident", "close", &id, "--at", &end, "--text", "All is well"]).await?;
    ensure!(shown(&system, &key).await?["end_date"] == end.as_str());
    has_updates(&system, &key, &[&[("resolved", "All is well")][..], &history].concat()).await?;
    let none = run(&system, &["incident", "list"]).await?;
    ensure!(none.trim() == "Nothing is active or scheduled.", "{none}");
    let closed = run(&system, &["incident", "show", &id]).await?;
    ensure!(closed.contains("state:      closed") && closed.contains("All is well"), "{closed}");
    // What it covered is free again.
    post(&system, "DNS", 1, 201).await?;
    system.finish().await
}

async fn components_leave_other_incidents_for_one_that_a_person_opens(
    fixture: Arc<Fixture>,
) -> Result<()> {
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

async fn an_incident_of_the_system_becomes_a_persons_by_an_edit(
    fixture: Arc<Fixture>,
) -> Result<()> {
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
    run(&system, &["incident", "close", &next.to_string()]).await?;
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
    run(&system, &[&change[..], &more].concat()).await?;
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
    run(&system, &["incident", "comment", &id, "--status", "in progress", "Half way"]).await?;
    run(&system, &["maintenance", "end", &id]).await?;
    let ended = updates(&system, &key).await?;
    let newest = ("completed".to_owned(), "Maintenance completed".to_owned());
    ensure!(ended[0] == newest && ended[1].0 == "in progress", "{ended:?}");
    ensure!(post(&system, "R&D <lab>", 3, 201).await?["id"] != listed["id"]);
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
        run(&system, &comment).await?;
    }
    let history = [("observing", "Two"), ("observing", "One"), ("fixing", "Ahead")];
    has_updates(&system, &incident, &history).await?;
    system.finish().await
}

async fn what_makes_no_sense_is_refused_and_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 1, 201).await?["id"].to_string();
    let closed = post(&system, "DNS", 3, 201).await?["id"].to_string();
    run(&system, &["incident", "close", &closed]).await?;
    let (past, sooner) =
        (minutes_from_now(&system, -60).await?, minutes_from_now(&system, 60).await?);
    let later = minutes_from_now(&system, 90).await?;
    let schedule = |start: &str, end: &str| -> Vec<String> {
        ["maintenance", "schedule", "--title", "Racks", "--component", "CDN"]
            .iter()
            .chain(&["--start", start, "--end", end])
            .map(ToString::to_string)
            .collect()
    };
    let maintenance = schedule(&sooner, &later);
    let maintenance: Vec<&str> = maintenance.iter().map(String::as_str).collect();
    let maintenance = opened(&system, &maintenance).await?;
    // As the Python dashboard's pages can make them: one that begins later, and an impact that nobody
    // knows.
    for (id, start, impact) in [(80, sooner.as_str(), 1), (81, past.as_str(), 9)] {
        let insert = format!(
            "INSERT INTO incident (id, text, start_date, impact, system)
                VALUES ({id}, 'Of a page', '{start}', {impact}, false);
            INSERT INTO incident_component_relation VALUES ({id}, 1)"
        );
        system.sql(&insert).await?;
    }
    let listed = run(&system, &["incident", "list"]).await?;
    ensure!(listed.contains("CDN 1") && listed.contains("Racks"), "{listed}");
    let before = contents(&system).await?;

    let open = |more: &[&str]| -> Vec<String> {
        ["incident", "open", "--title", "T"].iter().chain(more).map(ToString::to_string).collect()
    };
    let of = |parts: &[&str]| -> Vec<String> { parts.iter().map(ToString::to_string).collect() };
    for (arguments, says) in [
        (open(&["--impact", "0", "--component", "1"]), "0 is a maintenance"),
        (open(&["--impact", "4", "--component", "1"]), "write 1 (minor), 2 (major) or 3 (outage)"),
        (open(&["--impact", "1"]), "--component"),
        (open(&["--impact", "1", "--component", "99"]), "there is no component 99"),
        (open(&["--impact", "1", "--component", "Mail"]), "there is no component Mail"),
        (
            open(&["--impact", "1", "--component", "DNS (region=R3)"]),
            "there is no component DNS with these attributes",
        ),
        (
            open(&["--impact", "1", "--component", "DNS"]),
            "several components are DNS, take an id: 1 is DNS (R1, dns); 2 is DNS (R2, dns)",
        ),
        (
            open(&["--impact", "1", "--component", "1", "--start", &sooner]),
            "an incident can't begin in the future",
        ),
        (
            open(&["--impact", "1", "--component", "1", "--start", "noon"]),
            "write UTC as `YYYY-MM-DD HH:MM`, or RFC 3339",
        ),
        (
            of(&["incident", "open", "--title", " ", "--impact", "1", "--component", "1"]),
            "it is empty",
        ),
        (of(&["incident", "show", "99"]), "there is no incident 99: `worker incident list`"),
        (
            of(&["incident", "comment", &incident, "--status", "resolved", "Done"]),
            "write `analyzing` or `fixing` or `observing`",
        ),
        (
            of(&["incident", "comment", &maintenance, "--status", "fixing", "Done"]),
            "write `scheduled` or `in progress`",
        ),
        (of(&["incident", "comment", &closed, "--status", "fixing", "x"]), "was closed at"),
        (of(&["incident", "change", &incident]), "--title"),
        (of(&["incident", "change", &incident, "--title", "CDN 1"]), "has this title already"),
        (of(&["incident", "change", &incident, "--impact", "1"]), "is minor already"),
        (
            of(&["incident", "change", &incident, "--title", "New", "--add-component", "3"]),
            "CDN () is in incident 1 already",
        ),
        (
            of(&["incident", "change", "80", "--add-component", "3"]),
            "incident 80 is not active at this moment, so that it can't take components over",
        ),
        (of(&["incident", "change", &closed, "--title", "New"]), "was closed at"),
        (
            of(&["incident", "change", &maintenance, "--title", "New"]),
            "is no incident: see `worker maintenance`",
        ),
        (of(&["incident", "close", &closed]), "incident 2 was closed at"),
        (of(&["incident", "close", &maintenance]), "is no incident: see `worker maintenance`"),
        (of(&["incident", "close", &incident, "--at", &past]), "it begins at"),
        (of(&["incident", "close", &incident, "--at", &sooner]), "can't end in the future"),
        (of(&["incident", "remove-component", &incident, "1"]), "is not in incident 1"),
        (
            of(&["incident", "remove-component", &incident, "CDN"]),
            "CDN () is the only component of incident 1: `worker incident close` closes it",
        ),
        (of(&["incident", "remove-component", &closed, "1"]), "was closed at"),
        (schedule(&later, &sooner), "is not after the start"),
        (schedule(&sooner, &sooner), "is not after the start"),
        (schedule("2020-01-01 10:00", "2020-01-01 11:00"), "is not in the future"),
        (of(&["maintenance", "change", &maintenance, "--end", &past]), "is not after the start"),
        (of(&["maintenance", "change", &maintenance, "--start", &later]), "is not after the start"),
        (
            of(&["maintenance", "change", &incident, "--title", "New"]),
            "incident 1 is no maintenance: see `worker incident`",
        ),
        (of(&["maintenance", "end", &maintenance]), "it begins at"),
        (of(&["maintenance", "end", &incident]), "is no maintenance: see `worker incident`"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (done, said) = system.worker_command(&arguments).await?;
        ensure!(!done && said.contains(says), "{arguments:?}: {said:?} does not say {says:?}");
        ensure!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
    ensure!(contents(&system).await? == before, "something was changed");
    system.finish().await
}

async fn of_several_operators_who_close_an_incident_one_does(fixture: Arc<Fixture>) -> Result<()> {
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
        eventually("the command waits", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
            Ok(system.count(waiting).await? > 0)
        })
        .await?;
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

/// A command and when it took place.
struct Command {
    at: Timestamp,
    incident: IncidentId,
    does: Does,
}

enum Does {
    /// Opened a person's outage of these.
    Open(BTreeSet<ComponentId>),
    /// Closed one of the system's.
    Close,
}

async fn decisions_beside_an_operators_commands_are_right(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_worker(&[]).await?;
    let burst = Burst::start(&system).await?;
    let mut commands: Vec<Command> = Vec::new();
    for round in 1..=5_i32 {
        burst.is_decided().await?;
        let (one, two) = (round * 7, round * 7 + 1);
        let (first, second) = (one.to_string(), two.to_string());
        let open = ["incident", "open", "--title", "Seen", "--impact", "3", "--component", &first];
        let opened = json_of(&system, &[&open[..], &["--component", &second]].concat()).await?;
        let components = BTreeSet::from([ComponentId(one), ComponentId(two)]);
        commands.push(command(&system, &opened, "start_date", Does::Open(components)).await?);

        burst.is_decided().await?;
        let list = json_of(&system, &["incident", "list"]).await?;
        let all = list.as_array().context("no list")?;
        let of_the_system = all.iter().find(|incident| incident["system"] == true);
        let id = of_the_system.context("the system has none")?["id"].to_string();
        let (done, said) = system.worker_command(&["incident", "close", &id, "--json"]).await?;
        // A decision may have been first.
        ensure!(done || said.contains("was closed at"), "{said}");
        if done {
            let closed = serde_json::from_str(&said)?;
            commands.push(command(&system, &closed, "end_date", Does::Close).await?);
        }
    }
    burst.is_decided().await?;
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_beside_commands(&system, &sent).await?;
    replay::holds_one_active_incident(&system.database).await?;
    replayed(&system, commands).await?;
    system.finish().await
}

async fn command(system: &System, incident: &Value, time: &str, does: Does) -> Result<Command> {
    let id = incident["id"].as_i64().context("no id")?;
    let query = format!("SELECT {time} FROM incident WHERE id = {id}");
    let at = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&system.database).await?;
    Ok(Command { at, incident: IncidentId(i32::try_from(id)?), does })
}

/// Every decision follows from those before it and the commands between them.
async fn replayed(system: &System, commands: Vec<Command>) -> Result<()> {
    type Row = (ComponentId, i16, String, Timestamp, String, IncidentId);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT component_id, impact, text, decided_at, reason, incident_id FROM sdb_inbox
        WHERE incident_id IS NOT NULL ORDER BY position",
    )
    .fetch_all(&system.database)
    .await?;
    let mut state = ActiveState::default();
    let mut ids: Vec<IncidentId> = Vec::new();
    let (mut commands, mut covered) = (commands.into_iter().peekable(), 0);
    for (component, impact, text, decided_at, reason, incident) in rows {
        while let Some(command) = commands.next_if(|command| command.at < decided_at) {
            took_place(&mut state, &ids, command)?;
        }
        let effect = state.apply(component, Impact::try_from(impact)?, &text, decided_at);
        ensure!(effect.reason == Reason::from_word(&reason)?, "{} was {reason}", effect.reason);
        let holder = match effect.holder {
            Holder::Manual(place) => {
                covered += 1;
                let manual = state.manual.get(&component).and_then(|all| all.get(place));
                manual.context("no manual incident")?.id
            }
            Holder::System(IncidentRef::Existing(id)) => id,
            Holder::System(IncidentRef::New(index)) => {
                if index == ids.len() {
                    ids.push(incident);
                }
                *ids.get(index).context("no incident")?
            }
        };
        ensure!(holder == incident, "{holder} was {incident}");
    }
    ensure!(commands.next().is_none(), "a command came after the burst");
    ensure!(covered > 0, "no update met an incident of a person");
    // What the system has in the end is what the replay has.
    let number = |id: &IncidentRef| match id {
        IncidentRef::Existing(id) => Some(*id),
        IncidentRef::New(index) => ids.get(*index).copied(),
    };
    let mut replayed: Vec<_> = state.system.iter().map(|(id, i)| (number(id), i.impact)).collect();
    replayed.sort();
    let stored: Vec<(IncidentId, i16)> = sqlx::query_as(
        "SELECT id, impact FROM incident WHERE system AND end_date IS NULL ORDER BY id",
    )
    .fetch_all(&system.database)
    .await?;
    let replayed: Vec<_> = replayed.into_iter().map(|(id, i)| (id, i16::from(i))).collect();
    let stored: Vec<_> = stored.into_iter().map(|(id, impact)| (Some(id), impact)).collect();
    ensure!(replayed == stored, "the replay has {replayed:?}, the database {stored:?}");
    Ok(())
}

fn took_place(state: &mut ActiveState, ids: &[IncidentId], command: Command) -> Result<()> {
    match command.does {
        Does::Close => {
            let index = ids.iter().position(|id| *id == command.incident);
            let id = IncidentRef::New(index.context("closed before it was opened")?);
            state.system.remove(&id).context("closed twice")?;
        }
        Does::Open(components) => {
            state.system.retain(|_, incident| {
                let left = incident.components.iter().any(|id| !components.contains(id));
                if left {
                    incident.components.retain(|id| !components.contains(id));
                }
                left
            });
            for component in components {
                state.manual.entry(component).or_default().push(ManualIncident {
                    id: command.incident,
                    text: "Seen".to_owned(),
                    impact: Impact::Outage,
                    start_date: command.at,
                    end_date: None,
                    last_update_at: None,
                });
            }
        }
    }
    Ok(())
}

async fn a_catalogue_is_planned_and_pruned(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let incident = post(&system, "CDN", 1, 201).await?["id"].to_string();
    let path = fixture.folder.join("catalogue.yaml");
    let path_text = path.to_str().context("the path is no text")?;
    let apply = |more: &[&'static str]| [&["catalogue", "apply", path_text], more].concat();
    let dns = "components:
  - name: DNS
    attributes: {region: R1, type: names}
    renamed-from: {attributes: {region: R1}}
  - name: Mail
";
    fs::write(&path, dns)?;
    let before = contents(&system).await?;
    let plan = run(&system, &apply(&["--dry-run"])).await?;
    for line in [
        "added    Mail ()",
        "renamed  DNS (R1, dns) to DNS (R1, names)",
        "stays    CDN (), which the file does not have",
        "1 added, 0 changed, 1 renamed, 0 as they were, 3 not in the file",
        "A dry run: nothing was changed.",
    ] {
        ensure!(plan.contains(line), "{line:?} is not in {plan}");
    }
    let refusal = format!(
        "catalogue.yaml: these can't be removed, since incidents have them: CDN () in {incident}; \
        nothing was applied"
    );
    for arguments in [&["--prune"][..], &["--prune", "--dry-run"]] {
        let (done, said) = system.worker_command(&apply(arguments)).await?;
        ensure!(!done && said.contains(&refusal), "{said} does not say {refusal}");
    }
    // Also by one that is closed.
    run(&system, &["incident", "close", &incident]).await?;
    let (done, said) = system.worker_command(&apply(&["--prune"])).await?;
    ensure!(!done && said.contains(&refusal), "{said}");
    let kept = contents(&system).await?;
    let of_components = |rows: &[String]| -> Vec<String> {
        rows.iter().filter(|row| row.starts_with("component")).cloned().collect()
    };
    ensure!(of_components(&kept) == of_components(&before), "something was applied");

    fs::write(&path, format!("{dns}  - name: CDN\n"))?;
    let plan = json_of(&system, &apply(&["--prune", "--dry-run"])).await?;
    ensure!(contents(&system).await? == kept, "the dry run changed something");
    let removed = plan["remove"].as_array().context("no list")?;
    let removed: Vec<_> = removed.iter().map(|component| component["id"].clone()).collect();
    ensure!(removed == [2, 4] && plan["same"] == 1 && plan["stay"] == json!([]), "{plan}");
    ensure!(plan["add"][0]["name"] == "Mail", "{plan}");
    let rename = &plan["rename"][0];
    ensure!(rename["before"]["id"] == 1 && plan["change"] == json!([]), "{plan}");
    ensure!(rename["after"]["attributes"][1]["value"] == "names", "{plan}");
    ensure!(json_of(&system, &apply(&["--prune"])).await? == plan);
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM component ORDER BY id")
        .fetch_all(&system.database)
        .await?;
    ensure!(names == ["DNS", "CDN", "Mail"], "{names:?}");
    let orphans = "SELECT count(*) FROM component_attribute WHERE component_id IN (2, 4)";
    ensure!(system.count(orphans).await? == 0);
    // The gateways know at once what is gone.
    system.catalogue_seen().await?;
    post(&system, "Mail", 1, 201).await?;
    post(&system, "R&D <lab>", 1, 400).await?;
    system.finish().await
}

async fn every_command_explains_itself(fixture: Arc<Fixture>) -> Result<()> {
    let worker = &fixture.binaries.worker;
    for (command, takes_a_time) in [
        (&["incident", "list"][..], false),
        (&["incident", "show"], false),
        (&["incident", "open"], true),
        (&["incident", "comment"], false),
        (&["incident", "change"], false),
        (&["incident", "close"], true),
        (&["incident", "remove-component"], false),
        (&["maintenance", "schedule"], true),
        (&["maintenance", "change"], true),
        (&["maintenance", "end"], false),
        (&["catalogue", "apply"], false),
    ] {
        let arguments = [command, &["--help"]].concat();
        let (done, said) = fixture.command(worker, &arguments, &[]).await?;
        ensure!(done && said.contains("--json"), "{command:?}: {said}");
        let says_utc = said.contains("UTC as") && said.contains("RFC 3339");
        ensure!(!takes_a_time || says_utc, "{command:?}: {said}");
    }
    Ok(())
}
