//! `ok`, and whose reports keep a component from recovering.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use harness::{Answer, CLAIM, COMPONENT_STATUS, Fixture, SECRET, System, answer, tests, token};

tests!(
    the_only_component_closes_its_incident,
    one_of_several_components_leaves_its_incident,
    the_last_report_of_a_component_counts,
    the_token_s_subject_is_the_source_of_updates_that_name_none,
    manual_incidents_and_maintenances_are_never_touched,
    an_ok_is_never_a_conflict,
    a_key_belongs_to_what_was_said,
    many_updates_may_say_ok,
);

pub(super) const SOURCE: &str = "a monitor";

pub(super) fn bad(name: &str, impact: u8, source: &str) -> Value {
    json!({ "name": name, "impact": impact, "text": "Slow", "source": source })
}

pub(super) fn ok(name: &str, source: &str) -> Value {
    json!({ "name": name, "impact": "ok", "source": source })
}

/// Posts an update that must be answered so.
pub(super) async fn post(system: &System, body: &Value, status: u16) -> Result<Answer> {
    let answer = answer(system.update(body).header("Prefer", "wait=20")).await?;
    ensure!(answer.status == status, "{body} is not {status}: {answer:?}");
    Ok(answer)
}

/// The outcome and the reason in the receipt of an answer, and its incident.
async fn receipt(system: &System, answer: &Answer) -> Result<Value> {
    let receipt = system.receipt(answer.header("update-id")).await?;
    ensure!(receipt["state"] == "done", "{receipt}");
    Ok(json!([receipt["outcome"], receipt["reason"], receipt["incident"]["id"]]))
}

async fn said(system: &System, body: &Value, status: u16, expected: Value) -> Result<Answer> {
    let answer = post(system, body, status).await?;
    let found = receipt(system, &answer).await?;
    ensure!(found == expected, "{body}: {found}, not {expected}");
    Ok(answer)
}

fn texts(incident: &Value) -> Vec<&str> {
    let updates = incident["updates"].as_array().into_iter().flatten();
    updates.filter_map(|update| update["text"].as_str()).collect()
}

pub(super) async fn live(system: &System, such: &str) -> Result<i64> {
    system.count(&format!("SELECT count(*) FROM sdb_report WHERE is_live AND {such}")).await
}

pub(super) async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    System::start_with(fixture, &[("DNS", &[("region", "R1")]), ("CDN", &[])]).await
}

async fn the_only_component_closes_its_incident(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let opened = post(&system, &bad("DNS", 1, SOURCE), 201).await?.body;
    let id = &opened["id"];
    let closed = said(
        &system,
        &ok("DNS", SOURCE),
        201,
        json!(["closed", "recovered_as_only_component", id]),
    )
    .await?
    .body;
    ensure!(closed["id"] == *id && !closed["end_date"].is_null(), "{closed}");
    ensure!(texts(&closed) == ["CLOSED BY SYSTEM", "DNS (R1) recovered"], "{closed}");
    // It is its history.
    let components = system.get("/api/v1/component_status?name=DNS").await?.body;
    ensure!(components[0]["incidents"][0]["id"] == *id, "{components}");

    let again =
        said(&system, &ok("DNS", SOURCE), 200, json!(["unchanged", "in_no_system_incident", null]))
            .await?;
    ensure!(again.body["state"] == "done" && again.body["impact"].is_null(), "{again:?}");
    ensure!(again.body == system.receipt(again.header("update-id")).await?, "{again:?}");
    ensure!(again.header("link").contains("monitor"), "{again:?}");
    // What comes next opens another one.
    let next = post(&system, &bad("DNS", 1, SOURCE), 201).await?.body;
    ensure!(next["id"] != *id, "{next}");
    system.finish().await
}

async fn one_of_several_components_leaves_its_incident(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let id = post(&system, &bad("DNS", 1, SOURCE), 201).await?.body["id"].clone();
    post(&system, &bad("CDN", 1, SOURCE), 201).await?;
    let left =
        said(&system, &ok("DNS", SOURCE), 201, json!(["left", "recovered_among_others", id]))
            .await?
            .body;
    ensure!(left["end_date"].is_null() && texts(&left)[0] == "DNS (R1) recovered", "{left}");
    let of = "SELECT count(*) FROM incident_component_relation";
    ensure!(system.count(of).await? == 1);
    said(&system, &ok("CDN", SOURCE), 201, json!(["closed", "recovered_as_only_component", id]))
        .await?;
    system.finish().await
}

async fn the_last_report_of_a_component_counts(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let id = post(&system, &bad("DNS", 3, "a"), 201).await?.body["id"].clone();
    post(&system, &bad("DNS", 1, "b"), 200).await?;
    post(&system, &bad("DNS", 1, "b"), 200).await?;
    for source in ["a", "a", "c"] {
        let stands = json!(["unchanged", "another_report_stands", id]);
        let shown = said(&system, &ok("DNS", source), 200, stands).await?.body;
        ensure!(shown["id"] == id && shown["impact"] == 3, "{shown}");
    }
    let closed = json!(["closed", "recovered_as_only_component", id]);
    said(&system, &ok("DNS", "b"), 201, closed).await?;
    ensure!(live(&system, "true").await? == 0);
    // An incident of before: anybody's `ok` ends it.
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            VALUES ('Old', 2, true, '2020-01-01');
            INSERT INTO incident_component_relation
            SELECT i.id, c.id FROM incident i, component c WHERE i.text = 'Old' AND c.name = 'CDN'",
        )
        .await?;
    let old = post(&system, &ok("CDN", "c"), 201).await?.body;
    ensure!(old["text"] == "Old" && !old["end_date"].is_null(), "{old}");
    system.finish().await
}

async fn the_token_s_subject_is_the_source_of_updates_that_name_none(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let of = |subject: &str| token(SECRET, &json!({ CLAIM: "x", "sub": subject }));
    let as_subject = async |subject: &str, impact: Value, status: u16| -> Result<()> {
        let request = system
            .request_to(0, Method::POST, COMPONENT_STATUS)
            .bearer_auth(of(subject))
            .header("Prefer", "wait=20")
            .json(&json!({ "name": "DNS", "impact": impact }));
        let answer = answer(request).await?;
        ensure!(answer.status == status, "{subject}: {answer:?}");
        Ok(())
    };
    as_subject("prometheus-a", json!(2), 201).await?;
    as_subject("prometheus-b", json!(2), 200).await?;
    as_subject("prometheus-a", json!("ok"), 200).await?;
    ensure!(live(&system, "source = 'prometheus-b' AND key = ''").await? == 1);
    // The body's source counts before the token's.
    post(&system, &json!({ "name": "DNS", "impact": "ok" }), 200).await?;
    post(&system, &ok("DNS", "prometheus-b"), 201).await?;

    // A token of the gateway's own has its client for a subject.
    let gateway = &fixture.binaries.gateway;
    let arguments = ["token", "--client", "its own"];
    let (done, made) = fixture.command(gateway, &arguments, &[("SDB_SECRET_KEY", SECRET)]).await?;
    ensure!(done, "{made}");
    let request = system
        .request_to(0, Method::POST, COMPONENT_STATUS)
        .bearer_auth(made.trim())
        .header("Prefer", "wait=20")
        .json(&json!({ "name": "DNS", "impact": 1 }));
    ensure!(answer(request).await?.status == 201);
    ensure!(live(&system, "source = 'its own'").await? == 1);
    system.finish().await
}

async fn manual_incidents_and_maintenances_are_never_touched(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            VALUES ('Move', 0, false, '2020-01-01'), ('Fire', 1, false, '2020-01-01');
            INSERT INTO incident_component_relation
            SELECT i.id, c.id FROM incident i, component c
            WHERE (i.text, c.name) IN (('Move', 'DNS'), ('Fire', 'CDN'))",
        )
        .await?;
    let others = async || -> Result<String> {
        let query =
            "SELECT coalesce(string_agg(i::text || r::text || s::text, ' ' ORDER BY i.id), '')
            FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id
            LEFT JOIN incident_status s ON s.incident_id = i.id WHERE NOT system";
        Ok(sqlx::query_scalar(query).fetch_one(&system.database).await?)
    };
    let before = others().await?;
    for (name, text) in [("DNS", "Move"), ("CDN", "Fire")] {
        post(&system, &bad(name, 1, SOURCE), 200).await?;
        let shown = post(&system, &ok(name, SOURCE), 200).await?.body;
        ensure!(shown["text"] == text, "{shown}");
    }
    // A worse one stands beside the manual incident, and ends alone.
    let opened = post(&system, &bad("CDN", 3, SOURCE), 201).await?.body;
    let closed = post(&system, &ok("CDN", SOURCE), 201).await?.body;
    ensure!(closed["id"] == opened["id"], "{closed}");
    ensure!(others().await? == before);
    system.finish().await
}

async fn an_ok_is_never_a_conflict(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    system.start_gateway(&[("SDB_V1_CONFLICT", "true")]).await?;
    let to =
        async |body: &Value| answer(system.update_to(1, body).header("Prefer", "wait=20")).await;
    ensure!(to(&bad("DNS", 1, "a")).await?.status == 201);
    ensure!(to(&bad("DNS", 1, "b")).await?.status == 409);
    for (body, status) in [(ok("DNS", "a"), 200), (ok("DNS", "b"), 201), (ok("DNS", "b"), 200)] {
        let answer = to(&body).await?;
        ensure!(answer.status == status, "{body}: {answer:?}");
    }
    system.finish().await
}

async fn a_key_belongs_to_what_was_said(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let keyed = async |body: &Value| {
        let request = system.update(body).header("Idempotency-Key", "k");
        answer(request.header("Prefer", "wait=20")).await
    };
    post(&system, &bad("DNS", 1, SOURCE), 201).await?;
    let first = keyed(&ok("DNS", SOURCE)).await?;
    ensure!(first.status == 201, "{first:?}");
    let again = keyed(&ok("DNS", SOURCE)).await?;
    ensure!(again.status == 201 && again.body == first.body, "{again:?}");
    ensure!(again.header("update-id") == first.header("update-id"), "{again:?}");
    for body in
        [ok("DNS", "another"), json!({ "name": "DNS", "impact": "ok" }), bad("DNS", 1, SOURCE)]
    {
        ensure!(keyed(&body).await?.status == 422, "{body}");
    }
    // A repetition of what no incident covers has no incident either.
    let none = async || {
        let request = system.update(&ok("CDN", SOURCE)).header("Idempotency-Key", "none");
        answer(request.header("Prefer", "wait=20")).await
    };
    let (first, again) = (none().await?, none().await?);
    ensure!(first.status == 200 && again.status == 200, "{first:?} {again:?}");
    ensure!(first.body == again.body, "{first:?} {again:?}");
    system.finish().await
}

async fn many_updates_may_say_ok(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let updates = [
        bad("DNS", 1, SOURCE),
        ok("DNS", SOURCE),
        ok("CDN", SOURCE),
        json!({ "name": "CDN", "impact": "well" }),
        json!({ "name": "CDN", "impact": "ok", "source": "" }),
        json!({ "name": "CDN", "impact": "ok", "source": "x".repeat(256) }),
    ];
    let request = system
        .request_to(0, Method::POST, "/api/v1/updates")
        .bearer_auth(&system.token)
        .header("Prefer", "wait=20")
        .json(&json!({ "updates": updates }));
    let answer = answer(request).await?;
    let results = answer.body["results"].as_array().context("no results")?;
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_i64()).collect();
    ensure!(statuses == [201, 201, 200, 422, 422, 422].map(Some), "{answer:?}");
    let id = &results[0]["incident"];
    ensure!(id.is_i64() && results[1]["incident"] == *id, "{answer:?}");
    ensure!(results[2]["incident"].is_null() && results[2]["id"].is_string(), "{answer:?}");
    ensure!(answer.body["incidents"].as_array().is_some_and(|all| all.len() == 1), "{answer:?}");
    system.finish().await
}
