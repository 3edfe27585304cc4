//! The reporter: what it sends, and what becomes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{COMPONENTS, EVENTS, events, is_refused, read, report, reported};
use harness::{Fixture, System, answer, eventually, tests};

tests!(
    a_reporter_works_unchanged_in_a_burst_on_two_gateways,
    answers_and_incidents_that_are_wrong_are_found,
    a_report_of_several_components_has_a_result_for_each,
    a_report_that_is_refused_changes_nothing,
    an_idempotency_key_counts_for_each_component,
    ids_of_components_are_not_given_again,
);

/// Reporters at once, each of which sends one report after the other.
const REPORTERS: usize = 6;
/// Components of each of them.
const EACH: usize = 8;
/// Components of other monitoring.
const OTHERS: usize = 400;
/// Updates in each of its requests.
const AT_ONCE: usize = 50;

/// What other monitoring waits for after each answer. The limits of the reporters are not to measure the CPU.
const PACE: Duration = Duration::from_millis(200);

/// Other monitoring, which posts many updates at once to a gateway, without end.
async fn burst(system: &System, gateway: usize) -> Result<()> {
    for request in 0.. {
        let updates: Vec<Value> = (0..AT_ONCE)
            .map(|place| format!("Other {}", (request * AT_ONCE + place) % OTHERS))
            .map(|name| json!({ "name": name, "impact": 1 }))
            .collect();
        let many = system.request_to(gateway, Method::POST, "/api/v1/updates");
        let many = many.bearer_auth(&system.token).json(&json!({ "updates": updates }));
        let answer = answer(many).await?;
        ensure!(answer.status == 200, "{answer:?}");
        sleep(PACE).await;
    }
    Ok(())
}

/// The impacts that a reporter reports of its component at this place, one after the other.
const fn impacts(place: usize) -> &'static [u8] {
    if place.is_multiple_of(2) { &[1, 1, 2, 3, 3] } else { &[1, 1, 2, 2] }
}

/// A report and its answer.
struct Reported {
    component: i64,
    impact: i64,
    result: Value,
}

/// As the reporter does: it posts one report after the other within 2 s each, and looks only at whether the status is
/// 2xx. Returns what else was answered.
async fn report_as_it_does(
    program: &Client,
    system: &System,
    components: &[i64],
) -> Result<Vec<Reported>> {
    let mut all = Vec::new();
    for round in 0..impacts(0).len() {
        for (place, component) in components.iter().enumerate() {
            let Some(impact) = impacts(place).get(round) else { continue };
            let address = &system.addresses[(round + place) % 2];
            let response = program
                .post(format!("http://{address}{EVENTS}"))
                .bearer_auth(&system.token)
                .json(&report(&[i32::try_from(*component)?], *impact))
                .send()
                .await?
                .error_for_status()?;
            let said: Value = response.json().await?;
            let result = said["result"][0].clone();
            all.push(Reported { component: *component, impact: i64::from(*impact), result });
        }
    }
    Ok(all)
}

/// What became of a component's updates: impact, incident and id, in the order in which they were applied.
type Applied = BTreeMap<i64, Vec<(i64, i64, String)>>;

/// Holds each answer against what became of its update.
fn is_answered(reported: &[Reported], applied: &Applied) -> Result<()> {
    let mut places: BTreeMap<i64, usize> = BTreeMap::new();
    for Reported { component, impact, result } in reported {
        let place = places.entry(*component).or_default();
        let update = applied.get(component).and_then(|updates| updates.get(*place));
        *place += 1;
        let (of, incident, id) = update.with_context(|| format!("{component} has too few"))?;
        ensure!(result["component_id"] == *component && of == impact, "{result}: {update:?}");
        // One that is queued has a receipt instead of an incident.
        let is_right = match result.get("incident_id") {
            Some(given) => *given == *incident && result.get("id").is_none(),
            None => result["id"] == id.as_str(),
        };
        ensure!(is_right, "{result}: {update:?}");
    }
    let count = |updates: &Vec<_>| updates.len();
    ensure!(
        applied.values().map(count).sum::<usize>() == reported.len(),
        "some were applied twice"
    );
    Ok(())
}

/// Holds the active incidents against what each component was reported last.
fn are_in_their_incidents(active: &[Value], expected: &BTreeMap<i64, BTreeSet<i64>>) -> Result<()> {
    ensure!(active.len() == expected.len(), "{active:?}");
    for event in active {
        let of = event["impact"].as_i64().context("no impact")?;
        let components: Vec<i64> = event["components"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_i64)
            .collect();
        let expected: Vec<i64> = expected.get(&of).into_iter().flatten().copied().collect();
        ensure!(components == expected, "impact {of}: {components:?}, not {expected:?}");
        ensure!(event["system"] == true && event["status"] == "detected", "{event}");
    }
    Ok(())
}

async fn a_reporter_works_unchanged_in_a_burst_on_two_gateways(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_gateway(&[]).await?;
    let names: Vec<String> =
        (0..REPORTERS * EACH).map(|number| format!("Service {number}")).collect();
    let others: Vec<String> = (0..OTHERS).map(|number| format!("Other {number}")).collect();
    let components: Vec<_> =
        names.iter().chain(&others).map(|name| (name.as_str(), &[][..])).collect();
    system.components(&components).await?;
    let program = Client::builder().timeout(Duration::from_secs(2)).no_proxy().build()?;
    let listed = program.get(format!("http://{}{COMPONENTS}", system.addresses[0]));
    let listed: Value = listed.send().await?.json().await?;
    let ids: BTreeMap<&str, i64> = listed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|component| Some((component["name"].as_str()?, component["id"].as_i64()?)))
        .collect();
    ensure!(ids.len() == names.len() + others.len(), "{listed}");
    let of = |names: &[String]| names.iter().map(|name| ids[name.as_str()]).collect::<Vec<i64>>();
    let (own, others) = (of(&names), of(&others));

    let reporters = own.chunks(EACH).map(|each| report_as_it_does(&program, &system, each));
    let reported = tokio::select! {
        reported = try_join_all(reporters) => reported?.into_iter().flatten().collect::<Vec<_>>(),
        refused = try_join_all((0..2).map(|gateway| burst(&system, gateway))) => {
            anyhow::bail!("{refused:?}")
        }
    };
    system.drained().await?;
    is_answered(&reported, &applied(&system, &own).await?)?;
    let burst = applied(&system, &others).await?;
    let mut expected = BTreeMap::from([(1, burst.into_keys().collect::<BTreeSet<i64>>())]);
    for each in own.chunks(EACH) {
        for (place, component) in each.iter().enumerate() {
            let last = impacts(place).last().copied().map(i64::from).context("no impact")?;
            expected.entry(last).or_default().insert(*component);
        }
    }
    are_in_their_incidents(&events(&system, "?active=true&type=incident").await?, &expected)?;
    system.finish().await
}

/// What became of the updates of these components.
async fn applied(system: &System, components: &[i64]) -> Result<Applied> {
    let rows: Vec<(i64, i64, i64, String)> = sqlx::query_as(
        "SELECT component_id::bigint, impact::bigint, incident_id::bigint, id::text FROM sdb_inbox
        WHERE component_id = ANY($1::bigint[]) ORDER BY position",
    )
    .bind(components)
    .fetch_all(&system.database)
    .await?;
    let mut applied = Applied::new();
    for (component, impact, incident, id) in rows {
        applied.entry(component).or_default().push((impact, incident, id));
    }
    Ok(applied)
}

async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    System::start_with(fixture, &[("DNS", &[]), ("CDN", &[]), ("Mail", &[])]).await
}

async fn a_report_of_several_components_has_a_result_for_each(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    system
        .sql(&format!(
            "INSERT INTO incident (id, text, start_date, impact, system)
            VALUES (70, 'Maintenance', {}, 0, false);
            INSERT INTO incident_component_relation VALUES (70, 3)",
            harness::NOW
        ))
        .await?;
    let patient = |body: &Value| reported(&system, 0, body).header("Prefer", "wait=20");
    let done = answer(patient(&report(&[3, 1, 2], 2))).await?;
    ensure!(done.status == 200, "{done:?}");
    let incident = done.body["result"][1]["incident_id"].clone();
    let expected = json!({ "result": [
        { "component_id": 3, "incident_id": 70 },
        { "component_id": 1, "incident_id": incident },
        { "component_id": 2, "incident_id": incident },
    ] });
    ensure!(done.body == expected, "{done:?}");
    ensure!(done.header("preference-applied") == "wait=20", "{done:?}");
    let one = read(&system, &format!("{EVENTS}/{incident}")).await?;
    ensure!(one.body["components"] == json!([1, 2]) && one.body["impact"] == 2, "{one:?}");

    // One that is listed twice is one update.
    let updates = "SELECT count(*) FROM sdb_inbox";
    let before = system.count(updates).await?;
    let twice = answer(patient(&report(&[2, 1, 2], 2))).await?;
    let ids = [2, 1, 2].map(|id| json!({ "component_id": id, "incident_id": incident }));
    ensure!(twice.status == 200 && twice.body == json!({ "result": ids }), "{twice:?}");
    ensure!(system.count(updates).await? == before + 2);

    let queued = reported(&system, 0, &report(&[1, 2], 3)).header("Prefer", "respond-async");
    let queued = answer(queued).await?;
    ensure!(queued.status == 202 && queued.header("retry-after") == "1", "{queued:?}");
    for (place, component) in [1, 2].into_iter().enumerate() {
        let result = &queued.body["result"][place];
        ensure!(result["component_id"] == component, "{queued:?}");
        ensure!(result.get("incident_id").is_none(), "{queued:?}");
        let receipt = system.applied(result["id"].as_str().context("no id")?).await?;
        ensure!(receipt["impact"] == 3, "{receipt}");
    }
    system.finish().await
}

async fn a_report_that_is_refused_changes_nothing(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let with = |field: &str, value: Value| {
        let mut body = report(&[1], 1);
        body[field] = value;
        body
    };
    for (body, status, message) in [
        (report(&[1, 99], 1), 400, "component does not exist, component_id: 99"),
        (report(&[], 1), 400, "components"),
        (report(&[1], 0), 400, "impact"),
        (report(&[1], 4), 400, "impact"),
        (with("title", json!("")), 400, "title"),
        (with("start_date", json!("now")), 400, "start_date"),
        (with("start_date", json!("2999-01-01T00:00:00Z")), 400, "future"),
        (with("end_date", json!("2026-02-03T15:17:26Z")), 400, "end_date"),
        (with("updates", json!([])), 400, "updates"),
        (with("type", json!("maintenance")), 400, "type"),
        (with("system", json!(false)), 403, "worker incident open"),
    ] {
        let refused = answer(reported(&system, 0, &body).header("Prefer", "wait=20")).await?;
        is_refused(&refused, status, message)?;
    }
    let nobody = system.request_to(0, Method::POST, EVENTS).json(&report(&[1], 1));
    is_refused(&answer(nobody).await?, 401, "")?;
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 0);
    // One that was added since the gateway read the catalogue last is found.
    system.sql("INSERT INTO component (id, name) VALUES (99, 'New')").await?;
    let found = answer(reported(&system, 0, &report(&[99], 1)).header("Prefer", "wait=20")).await?;
    ensure!(found.status == 200, "{found:?}");
    system.finish().await
}

async fn an_idempotency_key_counts_for_each_component(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let keyed = async |components: &[i32], impact| {
        let request = reported(&system, 0, &report(components, impact));
        answer(request.header("Idempotency-Key", "k").header("Prefer", "wait=20")).await
    };
    let first = keyed(&[1, 2], 1).await?;
    ensure!(first.status == 200, "{first:?}");
    let again = keyed(&[2, 1, 3], 1).await?;
    ensure!(again.status == 200, "{again:?}");
    let outcomes = system.texts("SELECT outcome FROM sdb_inbox ORDER BY outcome").await?;
    let expected = ["joined", "joined", "opened", "repeated", "repeated"];
    ensure!(outcomes == expected, "{outcomes:?}");
    is_refused(&keyed(&[1], 2).await?, 422, "Idempotency-Key")?;
    system.finish().await
}

/// The reporter keeps ids for as long as it runs.
async fn ids_of_components_are_not_given_again(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    system.sql("DELETE FROM component WHERE id = 3").await?;
    system.worker_succeeds(&["migrate"]).await?;
    system.sql("INSERT INTO component (name) VALUES ('Another one')").await?;
    eventually("it is listed", async || {
        let listed = read(&system, COMPONENTS).await?;
        Ok(listed.body[2] == json!({ "id": 4, "name": "Another one", "attributes": [] }))
    })
    .await?;
    system.catalogue_seen().await?;
    is_refused(
        &answer(reported(&system, 0, &report(&[3], 1)).header("Prefer", "wait=20")).await?,
        400,
        "component does not exist, component_id: 3",
    )?;
    system.finish().await
}

/// The checks find what they are for.
async fn answers_and_incidents_that_are_wrong_are_found(_: Arc<Fixture>) -> Result<()> {
    let reported = |result: Value| [Reported { component: 7, impact: 2, result }];
    let row = |impact, incident| (impact, incident, "u".to_owned());
    let updates = |rows: Vec<_>| Applied::from([(7, rows)]);
    let right = || json!({ "component_id": 7, "incident_id": 5 });
    is_answered(&reported(right()), &updates(vec![row(2, 5)]))?;
    is_answered(&reported(json!({ "component_id": 7, "id": "u" })), &updates(vec![row(2, 5)]))?;
    for (what, result, rows) in [
        ("another incident", right(), vec![row(2, 6)]),
        ("another component", json!({ "component_id": 8, "incident_id": 5 }), vec![row(2, 5)]),
        ("another receipt", json!({ "component_id": 7, "id": "x" }), vec![row(2, 5)]),
        ("another impact", right(), vec![row(1, 5)]),
        ("lost", right(), vec![]),
        ("applied twice", right(), vec![row(2, 5), row(2, 5)]),
    ] {
        ensure!(is_answered(&reported(result), &updates(rows)).is_err(), "{what} is not found");
    }
    let event = |impact, components: &[i64]| {
        json!({ "impact": impact, "components": components,
        "system": true, "status": "detected" })
    };
    let expected = BTreeMap::from([(2, BTreeSet::from([7, 8])), (3, BTreeSet::from([9]))]);
    are_in_their_incidents(&[event(3, &[9]), event(2, &[7, 8])], &expected)?;
    for wrong in [
        vec![event(3, &[8]), event(2, &[7, 9])],
        vec![event(3, &[9]), event(2, &[7])],
        vec![event(1, &[9]), event(2, &[7, 8])],
        vec![event(2, &[7, 8])],
    ] {
        ensure!(are_in_their_incidents(&wrong, &expected).is_err(), "{wrong:?} is not found");
    }
    Ok(())
}
