//! Receipts: what became of an update, by its id.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use jsonwebtoken::get_current_timestamp;
use reqwest::Method;
use serde_json::json;

use super::{RECEIPT_KEYS, incident, is_error, is_precise, keys};
use harness::{Fixture, System, answer, same, status_update, tests};

tests!(
    the_receipt_reports_every_state_with_every_key,
    an_id_without_a_record_is_pending_only_while_it_may_come,
    an_id_that_is_not_even_text_is_unknown_like_any_other,
);

async fn the_receipt_reports_every_state_with_every_key(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[("region", "R1")])]).await?;
    let accepted =
        answer(system.update(&status_update("DNS", 2)).header("Prefer", "respond-async")).await?;
    let path = accepted.header("location");
    let id = accepted.header("update-id");
    let pending = system.get(path).await?;
    ensure!(pending.status == 200, "{pending:?}");
    let blank = json!({
        "id": id, "state": "pending", "outcome": null, "reason": null, "component": null,
        "impact": null, "received_at": null, "processed_at": null, "incident": null,
    });
    same(&pending.body, &blank)?;

    system.start_worker(&[]).await?;
    system.drained().await?;
    let component =
        json!({ "id": 1, "name": "DNS", "attributes": [{ "name": "region", "value": "R1" }] });
    let done = async |id: &str, outcome: &str, reason: &str, impact: u8| -> Result<()> {
        let receipt = system.get(&format!("/api/v1/updates/{id}")).await?;
        ensure!(receipt.status == 200 && keys(&receipt.body) == RECEIPT_KEYS, "{receipt:?}");
        let body = &receipt.body;
        ensure!(body["id"] == id && body["state"] == "done", "{receipt:?}");
        ensure!(body["outcome"] == outcome && body["reason"] == reason, "{receipt:?}");
        ensure!(body["impact"] == impact, "{receipt:?}");
        same(&body["component"], &component)?;
        let holder = i32::try_from(body["incident"]["id"].as_i64().context("no incident")?)?;
        same(&body["incident"], &incident(&system, holder).await?)?;
        is_precise(&body["received_at"])?;
        is_precise(&body["processed_at"])?;
        ensure!(body["received_at"].as_str() <= body["processed_at"].as_str(), "{receipt:?}");
        Ok(())
    };
    done(id, "opened", "no_incident_of_impact", 2).await?;
    let covered = system.post(&status_update("DNS", 1)).await?;
    done(covered.header("update-id"), "unchanged", "covered_by_system_incident", 1).await?;
    let raised = system.post(&status_update("DNS", 3)).await?;
    done(raised.header("update-id"), "raised", "raised_as_only_component", 3).await?;
    // The incident is shown as it is now.
    done(id, "opened", "no_incident_of_impact", 2).await?;
    system
        .sql(
            "INSERT INTO incident (text, impact, start_date, system)
                VALUES ('Upgrade', 0, now() AT TIME ZONE 'UTC' - interval '1 h', false);
            INSERT INTO incident_component_relation VALUES (2, 1);",
        )
        .await?;
    let suppressed = system.post(&status_update("DNS", 3)).await?;
    done(suppressed.header("update-id"), "suppressed", "in_running_maintenance", 3).await?;

    let without_token = answer(system.request_to(0, Method::GET, path)).await?;
    is_error(&without_token, 401)?;
    ensure!(without_token.header("www-authenticate") == "Bearer", "{without_token:?}");
    system.finish().await
}

async fn an_id_without_a_record_is_pending_only_while_it_may_come(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &[]).await?;
    let now = get_current_timestamp();
    let id_of = |seconds: u64, version: u8| {
        let millis = seconds * 1_000;
        let (high, low) = (millis >> 16, millis & 0xffff);
        format!("{high:08x}-{low:04x}-{version}abc-8abc-0123456789ab")
    };
    let day = 86_400;
    // Another gateway's clock, or another database server's, may be some minutes ahead.
    for seconds in [now, now - 60, now - 29 * day, now + 120, now + 270] {
        let id = id_of(seconds, 7);
        let receipt = system.get(&format!("/api/v1/updates/{id}")).await?;
        ensure!(receipt.status == 200 && keys(&receipt.body) == RECEIPT_KEYS, "{receipt:?}");
        ensure!(receipt.body["id"] == id && receipt.body["state"] == "pending", "{receipt:?}");
    }
    for (what, id) in [
        ("older than the retention", id_of(now - 31 * day, 7)),
        ("of 1970", id_of(0, 7)),
        ("of the future", id_of(now + 360, 7)),
        ("of a far future", id_of(now + 3_650 * day, 7)),
        ("beyond the calendar", "ffffffff-ffff-7fff-bfff-ffffffffffff".to_owned()),
        ("version 4", id_of(now, 4)),
        ("version 1", id_of(now, 1)),
        ("nil", "00000000-0000-0000-0000-000000000000".to_owned()),
        ("no UUID", "none".to_owned()),
        ("a number", "1".to_owned()),
        ("too short", id_of(now, 7)[..35].to_owned()),
        ("an injection", "'%20OR%201=1--".to_owned()),
        ("NUL", "%00".to_owned()),
        ("very long", "x".repeat(10_000)),
    ] {
        let path = format!("/api/v1/updates/{id}");
        let unknown = system.get(&path).await.context(what)?;
        is_error(&unknown, 404).context(what)?;
        let without_token = answer(system.request_to(0, Method::GET, &path)).await.context(what)?;
        is_error(&without_token, 401).context(what)?;
    }
    system.finish().await
}

async fn an_id_that_is_not_even_text_is_unknown_like_any_other(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &[]).await?;
    let path = "/api/v1/updates/%ff%fe";
    let without_token = answer(system.request_to(0, Method::GET, path)).await;
    is_error(&without_token.context("the body is not JSON")?, 401)?;
    is_error(&system.get(path).await?, 404)?;
    system.finish().await
}
