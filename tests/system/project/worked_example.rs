//! The worked example of `docs/concepts.md`, row by row, against the running system.

use std::{collections::BTreeMap, fs, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use harness::{Fixture, System, tests};

tests!(the_worked_example_of_the_concepts_is_what_happens);

/// What people do between the two tables of the example, as the Python dashboard's pages do it.
const PEOPLE: &str = "
    INSERT INTO incident (id, text, impact, start_date, end_date, system) VALUES
        (100, 'New racks', 0, now() AT TIME ZONE 'UTC' - interval '1 hour',
            now() AT TIME ZONE 'UTC' + interval '1 hour', false),
        (101, 'Investigated', 2, now() AT TIME ZONE 'UTC' - interval '1 hour', NULL, false);
    INSERT INTO incident_component_relation (incident_id, component_id)
        SELECT 100, id FROM component WHERE name = 'A'
        UNION ALL SELECT 101, id FROM component WHERE name = 'B';
    DELETE FROM incident_component_relation USING component
        WHERE incident_id = 3 AND component_id = component.id AND name = 'B'";

/// One row of the example.
struct Row {
    number: usize,
    component: String,
    impact: String,
    source: Option<String>,
    outcome: String,
    rule: String,
    status: u16,
    /// The active system incidents afterwards, where the row says so.
    incidents: Option<String>,
}

impl Row {
    /// A line of a table of the example; none for any other line.
    fn read(line: &str) -> Result<Option<Self>> {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [number, update, outcome, rule, status, incidents @ ..] = cells.as_slice() else {
            return Ok(None);
        };
        let Ok(number) = number.parse() else { return Ok(None) };
        let (component, impact) = update.split_once(' ').context("an update is two words")?;
        let (impact, source) = match impact.split_once(" from ") {
            Some((impact, source)) => (impact, Some(source.to_owned())),
            None => (impact, None),
        };
        Ok(Some(Self {
            number,
            component: component.to_owned(),
            impact: impact.to_owned(),
            source,
            outcome: outcome.trim_matches('`').to_owned(),
            rule: (*rule).to_owned(),
            status: status.parse()?,
            incidents: incidents.first().map(|&incidents| incidents.to_owned()),
        }))
    }
}

async fn the_worked_example_of_the_concepts_is_what_happens(fixture: Arc<Fixture>) -> Result<()> {
    let path = deploy::checkout().join("docs/concepts.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut rows = Vec::new();
    for line in text.lines() {
        rows.extend(Row::read(line)?);
    }
    let numbers: Vec<usize> = rows.iter().map(|row| row.number).collect();
    ensure!(numbers == (1..=21).collect::<Vec<_>>(), "the rows of the example are {numbers:?}");

    let system = System::start(&fixture).await?;
    system.components(&[("A", &[]), ("B", &[]), ("C", &[]), ("D", &[])]).await?;
    let mut people_acted = false;
    for row in rows {
        if row.incidents.is_none() && !people_acted {
            system.sql(PEOPLE).await?;
            people_acted = true;
        }
        play(&system, &row).await.with_context(|| format!("row {}", row.number))?;
    }
    ensure!(people_acted, "the example has no rows after what people do");
    system.finish().await
}

async fn play(system: &System, row: &Row) -> Result<()> {
    let mut body = json!({ "name": row.component, "impact": row.impact });
    if let Some(source) = &row.source {
        body["source"] = json!(source);
    }
    let answer = system.post(&body).await?;
    ensure!(answer.status == row.status, "{answer:?}");
    let receipt = system.get(&format!("/api/v1/updates/{}", answer.header("update-id"))).await?;
    ensure!(receipt.body["outcome"] == *row.outcome, "{receipt:?}");
    let rule = rule(receipt.body["reason"].as_str().context("no reason")?)?;
    ensure!(row.rule == rule, "the rule was {rule}");
    if let Some(expected) = &row.incidents {
        let incidents = active_system_incidents(system).await?;
        ensure!(*expected == incidents, "the incidents are {incidents}");
    }
    Ok(())
}

/// The number of the rule that a receipt's reason stands for.
fn rule(reason: &str) -> Result<&'static str> {
    Ok(match reason {
        "in_running_maintenance" => "1",
        "covered_by_manual_incident" => "2",
        "covered_by_system_incident" => "3",
        "joined_incident_of_impact" | "no_incident_of_impact" => "4",
        "moved_to_incident_of_impact"
        | "moved_as_only_component"
        | "raised_as_only_component"
        | "moved_to_new_incident" => "5",
        "recovered_among_others"
        | "recovered_as_only_component"
        | "another_report_stands"
        | "in_no_system_incident"
        | "report_had_ended" => "recovery",
        unknown => bail!("no rule has the reason {unknown}"),
    })
}

/// As the example writes them: `1 minor: A B; 2 major: C`.
async fn active_system_incidents(system: &System) -> Result<String> {
    let shown = system.get("/api/v1/component_status?active=true").await?;
    let mut incidents: BTreeMap<(i64, &str), Vec<&str>> = BTreeMap::new();
    for component in shown.body.as_array().context("no list")? {
        for incident in component["incidents"].as_array().context("no incidents")? {
            let impact = match incident["impact"].as_i64() {
                Some(1) => "minor",
                Some(2) => "major",
                Some(3) => "outage",
                impact => bail!("impact {impact:?}"),
            };
            let id = incident["id"].as_i64().context("no id")?;
            let name = component["name"].as_str().context("no name")?;
            incidents.entry((id, impact)).or_default().push(name);
        }
    }
    let incidents: Vec<String> = incidents
        .iter()
        .map(|((id, impact), components)| format!("{id} {impact}: {}", components.join(" ")))
        .collect();
    Ok(incidents.join("; "))
}
