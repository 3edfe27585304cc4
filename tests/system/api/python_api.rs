//! What the tests of the Python dashboard's API expect, from a gateway that answers as it does: one row
//! for each of them.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use harness::{Answer, COMPONENT_STATUS, Fixture, NOW, System, answer, tests};

tests!(every_row_of_the_python_dashboards_contract_holds);
/// What stands before the updates, beside an incident of cmp1 that is over, which is incident 1.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    /// A maintenance of cmp1 without an end, incident 2.
    Maintenance,
    /// A system incident of cmp1 with impact 1, incident 2.
    SystemIncident,
}

/// An update of a component, with its impact and its title.
type Update = (&'static str, u8, Option<&'static str>);

struct Row {
    about: &'static str,
    before: Before,
    /// Each with the incident that the answer, a 201, is about.
    updates: &'static [(Update, i64)],
    /// The active system incidents afterwards, with their impacts.
    active: &'static [(i64, i64)],
    /// The maintenance that runs afterwards.
    maintenance: Option<i64>,
}

const ROWS: [Row; 7] = [
    Row {
        about: "no incident is active: one is opened",
        before: Before::Nothing,
        updates: &[(("cmp1", 1, None), 2)],
        active: &[(2, 1)],
        maintenance: None,
    },
    Row {
        about: "a maintenance of the component: nothing changes",
        before: Before::Maintenance,
        updates: &[(("cmp1", 1, None), 2)],
        active: &[],
        maintenance: Some(2),
    },
    Row {
        about: "a maintenance of another component: an incident is opened beside it",
        before: Before::Maintenance,
        updates: &[(("cmp2", 1, None), 3)],
        active: &[(3, 1)],
        maintenance: Some(2),
    },
    Row {
        about: "an incident of another component with this impact: it is joined",
        before: Before::SystemIncident,
        updates: &[(("cmp2", 1, None), 2)],
        active: &[(2, 1)],
        maintenance: None,
    },
    Row {
        about: "an incident of this component alone with less impact: it is raised",
        before: Before::SystemIncident,
        updates: &[(("cmp1", 2, None), 2)],
        active: &[(2, 2)],
        maintenance: None,
    },
    Row {
        about: "two impacts: two incidents",
        before: Before::Nothing,
        updates: &[(("cmp1", 1, None), 2), (("cmp2", 2, None), 3)],
        active: &[(2, 1), (3, 2)],
        maintenance: None,
    },
    Row {
        about: "the only component of an incident gets worse: it moves, and the incident is closed",
        before: Before::Nothing,
        updates: &[
            (("cmp1", 1, Some("API INCIDENT 1")), 2),
            (("cmp2", 2, Some("API INCIDENT 2")), 3),
            (("cmp1", 2, None), 3),
        ],
        active: &[(3, 2)],
        maintenance: None,
    },
];

async fn every_row_of_the_python_dashboards_contract_holds(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_V1_CONFLICT", "true")]).await?;
    for row in &ROWS {
        set_up(&system, row.before).await?;
        check(&system, row).await.context(row.about)?;
    }

    set_up(&system, Before::Nothing).await?;
    let list =
        answer(system.request_to(0, Method::GET, COMPONENT_STATUS)).await.context("the list")?;
    ensure!(list.status == 200 && list.body.as_array().is_some_and(|all| all.len() == 2));
    let body = update(("cmp1", 1, None));
    let without_token = system.request_to(0, Method::POST, COMPONENT_STATUS).json(&body);
    let refused = answer(without_token).await?;
    ensure!(refused.status == 401, "{refused:?}");
    ensure!(active(&system).await?.is_empty(), "an update without a token took effect");
    system.finish().await
}

async fn set_up(system: &System, before: Before) -> Result<()> {
    let more = match before {
        Before::Nothing => String::new(),
        Before::Maintenance => format!(
            "INSERT INTO incident (text, impact, start_date) VALUES ('maint', 0, {NOW});
            INSERT INTO incident_component_relation VALUES (2, 1);"
        ),
        Before::SystemIncident => format!(
            "INSERT INTO incident (text, impact, start_date, system) VALUES ('inc', 1, {NOW}, true);
            INSERT INTO incident_component_relation VALUES (2, 1);"
        ),
    };
    // It ended before it began: so it stands in the tables that those tests make.
    system
        .sql(&format!(
            "TRUNCATE component, component_attribute, incident, incident_component_relation,
                incident_status RESTART IDENTITY;
            INSERT INTO component (name) VALUES ('cmp1'), ('cmp2');
            INSERT INTO component_attribute (component_id, name, value)
                VALUES (1, 'a1', 'v1'), (1, 'a2', 'v2'), (2, 'a1', 'v1');
            INSERT INTO incident (text, impact, start_date, end_date)
                VALUES ('inc', 1, {NOW}, {NOW} - interval '1 day');
            INSERT INTO incident_component_relation VALUES (1, 1);
            {more}"
        ))
        .await?;
    system.catalogue_seen().await
}

async fn check(system: &System, row: &Row) -> Result<()> {
    let mut last: Option<Answer> = None;
    for (posted, incident) in row.updates {
        let answer = system.post(&update(*posted)).await?;
        ensure!(answer.status == 201, "{posted:?}: {answer:?}");
        ensure!(answer.body["id"] == *incident, "{posted:?}: {answer:?}");
        last = Some(answer);
    }
    let last = last.context("no update")?.body;
    let now = active(system).await?;
    ensure!(now == row.active, "active are {now:?}, not {:?}", row.active);
    if let Some((_, impact)) = row.active.iter().find(|(id, _)| last["id"] == *id) {
        ensure!(last["impact"] == *impact, "{last}");
    }
    let running = system.get("/api/v1/incidents?active=true&impact=0").await?.body;
    let running: Vec<i64> =
        running.as_array().into_iter().flatten().filter_map(|one| one["id"].as_i64()).collect();
    ensure!(running == row.maintenance.into_iter().collect::<Vec<_>>(), "running are {running:?}");
    if row.updates.len() == 3 {
        let texts = last["updates"].as_array().context("no updates")?;
        let names_it = |update: &Value| update["text"].as_str().is_some_and(|t| t.contains("cmp1"));
        ensure!(texts.iter().any(names_it), "cmp1 is not in {texts:?}");
        let old = system.get(COMPONENT_STATUS).await?.body;
        let old = &old[0]["incidents"].as_array().context("no incidents")?.clone();
        let closed = old.iter().find(|one| one["id"] == 2).context("incident 2 lost cmp1")?;
        ensure!(closed["end_date"].is_string(), "{closed}");
    }
    Ok(())
}

fn update((name, impact, text): Update) -> Value {
    let mut body = json!({
        "name": name, "impact": impact, "attributes": [{ "name": "a1", "value": "v1" }],
    });
    if let Some(text) = text {
        body["text"] = text.into();
    }
    body
}

/// The active system incidents with their impacts.
async fn active(system: &System) -> Result<Vec<(i64, i64)>> {
    Ok(sqlx::query_as(
        "SELECT id::bigint, impact::bigint FROM incident
        WHERE system AND end_date IS NULL AND impact <> 0 ORDER BY id",
    )
    .fetch_all(&system.database)
    .await?)
}
