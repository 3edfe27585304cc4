//! What an update is answered, by what became of it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shared::domain::component::ComponentId;

use super::{RECEIPT_KEYS, incident, is_error, is_precise, keys, post_bytes, texts};
use harness::{Answer, Fixture, System, answer, eventually, same, status_update, tests};

tests!(
    an_update_that_opens_or_changes_an_incident_gets_201_and_the_incident,
    an_impact_may_be_a_number_or_a_word,
    an_update_that_is_covered_gets_200_and_what_covers_it,
    an_update_that_is_covered_gets_409_where_that_is_configured,
    repeats_are_answered_as_configured,
    a_client_may_leave_without_the_outcome_or_wait_longer,
    an_update_that_cannot_be_applied_is_answered_with_202_and_parked,
);

/// Every 2xx names the update and where its receipt is.
fn has_receipt(answer: &Answer) -> Result<()> {
    let id = answer.header("update-id");
    let version = id.parse().map(|id: uuid::Uuid| id.get_version_num());
    ensure!(version.is_ok_and(|version| version == 7), "{answer:?}");
    let link = format!("</api/v1/updates/{id}>; rel=\"monitor\"");
    ensure!(answer.header("link") == link, "{answer:?}");
    Ok(())
}

async fn an_update_that_opens_or_changes_an_incident_gets_201_and_the_incident(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system =
        System::start_with(&fixture, &[("DNS", &[("region", "R1")]), ("CDN", &[]), ("VPN", &[])])
            .await?;
    let update = json!({
        "name": "DNS",
        "impact": "minor",
        "text": "High latency",
        "attributes": [{ "name": "region", "value": "R1" }],
    });
    let opened = system.post(&update).await?;
    ensure!(opened.status == 201, "{opened:?}");
    ensure!(opened.header("content-type") == "application/json", "{opened:?}");
    has_receipt(&opened)?;
    let start = &incident(&system, 1).await?["start_date"];
    let expected = json!({
        "id": 1, "text": "High latency", "impact": 1, "start_date": start, "end_date": null,
        "updates": [],
    });
    same(&opened.body, &expected)?;

    let joined = system.post(&json!({ "name": "CDN", "impact": 1, "text": "Other" })).await?;
    ensure!(joined.status == 201, "{joined:?}");
    has_receipt(&joined)?;
    same(&joined.body, &incident(&system, 1).await?)?;
    ensure!(texts(&joined.body) == ["CDN () added to High latency"], "{joined:?}");
    same(&joined.body["updates"][0]["status"], &json!("SYSTEM"))?;

    // Without a title.
    let moved = system.post(&json!({ "name": "CDN", "impact": 2 })).await?;
    ensure!(moved.status == 201 && moved.body["text"] == "Incident", "{moved:?}");
    has_receipt(&moved)?;
    same(&moved.body, &incident(&system, 2).await?)?;
    ensure!(
        texts(&moved.body) == ["CDN () moved from <a href='/incidents/1'>High latency</a>"],
        "{moved:?}"
    );

    let raised = system.post(&json!({ "name": "CDN", "impact": 3, "text": "New" })).await?;
    ensure!(raised.status == 201 && raised.body["impact"] == 3, "{raised:?}");
    has_receipt(&raised)?;
    same(&raised.body, &incident(&system, 2).await?)?;
    ensure!(texts(&raised.body)[0] == "impact changed from major to outage", "{raised:?}");

    // The only component moves: what it leaves is closed and keeps it.
    let last = system.post(&json!({ "name": "DNS", "impact": 3 })).await?;
    ensure!(last.status == 201 && last.body["id"] == 2, "{last:?}");
    let left = incident(&system, 1).await?;
    ensure!(
        texts(&left)[..2]
            == ["CLOSED BY SYSTEM", "DNS (R1) moved to <a href='/incidents/2'>Incident</a>"],
        "{left}"
    );
    let shown = system.get("/api/v1/component_status?name=DNS").await?;
    let ids: Vec<i64> =
        (0..2).filter_map(|at| shown.body[0]["incidents"][at]["id"].as_i64()).collect();
    ensure!(ids == [2, 1], "{shown:?}");
    system.finish().await
}

async fn an_impact_may_be_a_number_or_a_word(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    for (impact, expected, status) in [
        (json!("minor"), 1, 201),
        (json!(1), 1, 200),
        (json!("1"), 1, 200),
        (json!("2"), 2, 201),
        (json!("major"), 2, 200),
        (json!(2), 2, 200),
        (json!(3), 3, 201),
        (json!("3"), 3, 200),
        (json!("outage"), 3, 200),
    ] {
        let answer = system.post(&json!({ "name": "DNS", "impact": impact })).await?;
        ensure!(
            answer.status == status && answer.body["impact"] == expected,
            "{impact}: {answer:?}"
        );
    }
    for impact in
        [json!(0), json!("0"), json!("maintenance"), json!(4), json!("4"), json!(-1), json!(1e20)]
    {
        let answer = system.post(&json!({ "name": "DNS", "impact": impact })).await?;
        is_error(&answer, 400).with_context(|| impact.to_string())?;
        same(&answer.body["message"], &json!("Incident impact is not allowed by configuration"))?;
    }
    // Each impact is written in one way as a number, and in one as a text.
    for impact in [
        "1.0",
        "1e0",
        "10e-1",
        "0.1e1",
        "\"+1\"",
        "\"01\"",
        "\"1e0\"",
        "\"1.0\"",
        "\" 1\"",
        "\"1 \"",
        "\"1\\n\"",
        "\"0x1\"",
        "\"\"",
        "\"Minor\"",
        "\"minor \"",
        "\"\\uff11\"",
        "true",
        "[1]",
    ] {
        let body = format!("{{\"name\": \"DNS\", \"impact\": {impact}}}");
        let answer = post_bytes(&system, Some("application/json"), body).await?;
        is_error(&answer, 422).with_context(|| impact.to_owned())?;
        ensure!(answer.body["errors"]["json"]["impact"][0].is_string(), "{impact}: {answer:?}");
    }
    system.finish().await
}

/// A maintenance of DNS beside one that is over, a manual incident of CDN, a system one of VPN.
async fn covered(system: &System) -> Result<()> {
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date, end_date)
            SELECT text, impact, false,
                now() AT TIME ZONE 'UTC' + make_interval(hours => first),
                now() AT TIME ZONE 'UTC' + make_interval(hours => last)
            FROM (VALUES ('Was', 0, -3, -1), ('Upgrade', 0, -1, 1), ('Cable <cut>', 2, -2, NULL))
                AS incidents (text, impact, first, last);
            INSERT INTO incident_component_relation VALUES (1, 1), (2, 1), (3, 2);
            INSERT INTO incident_status (incident_id, \"timestamp\", text, status) VALUES
                (3, now() AT TIME ZONE 'UTC' - interval '1 h', 'First', 'analyzing'),
                (3, now() AT TIME ZONE 'UTC', 'Second', 'fixing');",
        )
        .await?;
    let opened = system.post(&json!({ "name": "VPN", "impact": 2, "text": "Down" })).await?;
    ensure!(opened.status == 201 && opened.body["id"] == 4, "{opened:?}");
    Ok(())
}

const COVERED: [(&str, &[(&str, &str)]); 3] =
    [("DNS", &[]), ("CDN", &[("region", "R1"), ("type", "cdn")]), ("VPN", &[])];

async fn an_update_that_is_covered_gets_200_and_what_covers_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &COVERED).await?;
    covered(&system).await?;
    for (name, impact, by) in
        [("DNS", 3, 2), ("CDN", 2, 3), ("CDN", 1, 3), ("VPN", 2, 4), ("VPN", 1, 4)]
    {
        let before = incident(&system, by).await?;
        let answer = system.post(&json!({ "name": name, "impact": impact })).await?;
        ensure!(answer.status == 200, "{name}: {answer:?}");
        has_receipt(&answer)?;
        same(&answer.body, &before)?;
        same(&incident(&system, by).await?, &before)?;
    }
    // A manual incident of less does not cover it, and stays as it is.
    let manual = incident(&system, 3).await?;
    let beside = system.post(&json!({ "name": "CDN", "impact": 3 })).await?;
    ensure!(beside.status == 201 && beside.body["id"] == 5, "{beside:?}");
    same(&incident(&system, 3).await?, &manual)?;
    system.finish().await
}

async fn an_update_that_is_covered_gets_409_where_that_is_configured(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_V1_CONFLICT", "true")]).await?;
    system.components(&COVERED).await?;
    covered(&system).await?;
    for (name, label, id, title) in
        [("CDN", "CDN (R1, cdn)", 3, "Cable <cut>"), ("VPN", "VPN ()", 4, "Down")]
    {
        let answer = system.post(&json!({ "name": name, "impact": 2 })).await?;
        ensure!(answer.status == 409, "{answer:?}");
        let expected = json!({
            "message": "Incident with this the component already exists",
            "targetComponent": label,
            "existingIncidentId": id,
            "existingIncidentTitle": title,
            "details": "Check your request parameters",
        });
        same(&answer.body, &expected)?;
    }
    let suppressed = system.post(&status_update("DNS", 3)).await?;
    ensure!(suppressed.status == 201, "{suppressed:?}");
    same(&suppressed.body, &incident(&system, 2).await?)?;
    has_receipt(&suppressed)?;
    system.finish().await
}

async fn repeats_are_answered_as_configured(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_V1_CONFLICT", "true")]).await?;
    system.components(&COVERED).await?;
    covered(&system).await?;
    for (name, status, reason) in [
        ("DNS", 201, "in_running_maintenance"),
        ("CDN", 409, "covered_by_manual_incident"),
        ("VPN", 409, "covered_by_system_incident"),
    ] {
        let body = json!({ "name": name, "impact": 2 });
        let post = || {
            let request = system.update(&body).header("Idempotency-Key", name);
            answer(request.header("Prefer", "wait=30"))
        };
        let (first, again) = (post().await?, post().await?);
        ensure!(first.status == status && again.status == status, "{first:?}, {again:?}");
        same(&first.body, &again.body)?;
        ensure!(first.header("update-id") == again.header("update-id"), "{again:?}");
        // A client that leaves without the outcome finds it in the receipt, which has no statuses.
        let request = system.update(&body).header("Prefer", "respond-async");
        let left = answer(request.header("Idempotency-Key", name)).await?;
        ensure!(left.status == 202, "{left:?}");
        eventually("the receipt is done", async || {
            let receipt = system.get(left.header("location")).await?.body;
            Ok(receipt["state"] == "done" && receipt["reason"] == reason)
        })
        .await?;
    }
    system.finish().await
}

async fn a_client_may_leave_without_the_outcome_or_wait_longer(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let accepted =
        answer(system.update(&status_update("DNS", 1)).header("Prefer", "respond-async")).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    has_receipt(&accepted)?;
    let id = accepted.header("update-id");
    same(&accepted.body, &json!({ "id": id, "state": "pending" }))?;
    ensure!(accepted.header("location") == format!("/api/v1/updates/{id}"), "{accepted:?}");
    ensure!(accepted.header("retry-after").parse::<u32>().is_ok(), "{accepted:?}");
    ensure!(accepted.header("preference-applied") == "respond-async", "{accepted:?}");
    eventually("the receipt is done", async || {
        let receipt = system.get(accepted.header("location")).await?;
        ensure!(receipt.status == 200 && receipt.body["id"] == id, "{receipt:?}");
        Ok(receipt.body["state"] == "done" && receipt.body["outcome"] == "opened")
    })
    .await?;

    for (prefer, applied) in
        [("wait=20", "wait=20"), ("wait=600", "wait=30"), ("WAIT=\"25\"", "wait=25")]
    {
        let covered =
            answer(system.update(&status_update("DNS", 1)).header("Prefer", prefer)).await?;
        ensure!(covered.status == 200, "{prefer}: {covered:?}");
        ensure!(covered.header("preference-applied") == applied, "{prefer}: {covered:?}");
    }
    // Others get the outcome, too, if it comes within the default wait.
    let update = status_update("DNS", 1);
    let is_decided = |answer: &Answer| -> Result<bool> {
        ensure!([200, 202].contains(&answer.status), "{answer:?}");
        ensure!(answer.header("preference-applied").is_empty(), "{answer:?}");
        Ok(answer.status == 200)
    };
    eventually("one with another preference is decided in time", async || {
        is_decided(&answer(system.update(&update).header("Prefer", "handling=lenient")).await?)
    })
    .await?;
    eventually("one without a preference is decided in time", async || {
        is_decided(&system.post_with_default_wait(&update).await?)
    })
    .await?;
    system.finish().await
}

async fn an_update_that_cannot_be_applied_is_answered_with_202_and_parked(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let request =
        tokio::spawn(answer(system.update(&status_update("DNS", 1)).header("Prefer", "wait=30")));
    system.is_queued(ComponentId(1)).await?;
    system.sql("DELETE FROM component").await?;
    system.start_worker(&[]).await?;

    let parked = request.await??;
    ensure!(parked.status == 202, "{parked:?}");
    has_receipt(&parked)?;
    let id = parked.header("update-id");
    same(&parked.body, &json!({ "id": id, "state": "parked" }))?;
    ensure!(parked.header("location") == format!("/api/v1/updates/{id}"), "{parked:?}");
    ensure!(parked.header("retry-after").parse::<u32>().is_ok(), "{parked:?}");

    let receipt = system.get(parked.header("location")).await?;
    ensure!(receipt.status == 200, "{receipt:?}");
    ensure!(keys(&receipt.body) == RECEIPT_KEYS, "{receipt:?}");
    ensure!(receipt.body["state"] == "parked" && receipt.body["id"] == id, "{receipt:?}");
    let reason = receipt.body["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("DNS ()"), "{receipt:?}");
    is_precise(&receipt.body["processed_at"])?;
    ensure!(receipt.body["outcome"].is_null() && receipt.body["incident"].is_null(), "{receipt:?}");
    system.finish_with_parked()
}
