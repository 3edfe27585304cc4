//! `Idempotency-Key`: an update that is sent again takes effect once.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use harness::{Answer, Fixture, System, answer, eventually, tests};

tests!(
    the_same_update_under_one_key_happens_once,
    the_same_meaning_in_other_words_happens_once,
    an_update_that_was_covered_stays_so_under_its_key,
    another_update_under_a_used_key_is_refused,
    a_key_holds_across_gateways,
    many_at_once_under_one_key_have_one_effect,
    many_different_ones_at_once_under_one_key_have_one_effect,
    the_receipt_of_a_repetition_shows_the_first,
    the_receipt_of_another_update_under_a_used_key_is_rejected,
    a_refused_update_leaves_its_key_unused,
    a_key_is_at_most_255_printable_characters,
    a_key_may_be_used_anew_after_a_day,
);

const COMPONENTS: [(&str, &[(&str, &str)]); 2] =
    [("DNS", &[("region", "R1"), ("type", "dns")]), ("CDN", &[])];

async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    System::start_with(fixture, &COMPONENTS).await
}

fn dns(impact: u8) -> Value {
    json!({ "name": "DNS", "impact": impact, "text": "Down" })
}

async fn post(system: &System, gateway: usize, key: &str, update: &Value) -> Result<Answer> {
    let request = system.update_to(gateway, update).header("Idempotency-Key", key);
    answer(request.header("Prefer", "wait=30")).await
}

async fn post_and_leave(system: &System, key: &str, update: &Value) -> Result<Answer> {
    let request = system.update(update).header("Idempotency-Key", key);
    let accepted = answer(request.header("Prefer", "respond-async")).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    Ok(accepted)
}

/// The receipt once there is an outcome.
async fn receipt(system: &System, accepted: &Answer) -> Result<Value> {
    let mut receipt = Value::Null;
    eventually("the receipt has an outcome", async || {
        receipt = system.get(accepted.header("location")).await?.body;
        Ok(receipt["state"] != "pending")
    })
    .await?;
    Ok(receipt)
}

/// All that updates could change.
async fn state(system: &System) -> Result<Vec<Value>> {
    let (incidents, components) = (
        system.get("/api/v1/incidents").await?.body,
        system.get("/api/v1/component_status").await?.body,
    );
    Ok(vec![incidents, components])
}

/// How many updates took effect.
async fn effects(system: &System) -> Result<i64> {
    system
        .count(
            "SELECT count(*) FROM sdb_inbox
            WHERE outcome IN ('opened', 'joined', 'raised', 'moved')",
        )
        .await
}

fn is_rejected(answer: &Answer) -> Result<()> {
    ensure!(answer.status == 422, "{answer:?}");
    let body = &answer.body;
    ensure!(body["code"] == 422 && body["status"] == "Unprocessable Entity", "{answer:?}");
    ensure!(body["message"].as_str().is_some_and(|text| text.contains("Idempotency-Key")));
    Ok(())
}

async fn the_same_update_under_one_key_happens_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let first = post(&system, 0, "k", &dns(1)).await?;
    ensure!(first.status == 201, "{first:?}");
    let before = state(&system).await?;
    let again = post(&system, 0, "k", &dns(1)).await?;
    ensure!(again.status == 201, "{again:?}");
    for name in ["update-id", "link"] {
        ensure!(again.header(name) == first.header(name), "{name}: {again:?}");
    }
    ensure!(again.body == first.body, "{again:?}");
    ensure!(state(&system).await? == before, "something happened again");

    // Meanwhile the incident goes on, and another update does what it would have done.
    ensure!(system.post(&dns(3)).await?.body["impact"] == 3);
    let now = state(&system).await?;
    let later = post(&system, 0, "k", &dns(1)).await?;
    ensure!(later.status == 201, "{later:?}");
    ensure!(later.header("update-id") == first.header("update-id"), "{later:?}");
    ensure!(later.body == now[0][0] && later.body["impact"] == 3, "{later:?}");
    // Closed by a person: still the first one's incident, and no new one.
    system.sql("UPDATE incident SET end_date = now() AT TIME ZONE 'UTC'").await?;
    let closed = post(&system, 0, "k", &dns(1)).await?;
    ensure!(closed.status == 201 && closed.body["id"] == first.body["id"], "{closed:?}");
    ensure!(closed.body["end_date"].is_string(), "{closed:?}");
    ensure!(effects(&system).await? == 2);
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1);
    // Another key, or none, is another update.
    ensure!(post(&system, 0, "K", &dns(1)).await?.body["id"] == 2);
    system.finish().await
}

async fn the_same_meaning_in_other_words_happens_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let region = json!({ "name": "region", "value": "R1" });
    let kind = json!({ "name": "type", "value": "dns" });
    let other = json!({ "name": "region", "value": "elsewhere" });
    let update = |impact: Value, attributes: &[&Value]| -> Value {
        json!({ "name": "DNS", "impact": impact, "attributes": attributes })
    };
    let first = post(&system, 0, "k", &update(json!("major"), &[&region, &kind])).await?;
    ensure!(first.status == 201, "{first:?}");
    for same in [
        update(json!("major"), &[&kind, &region]),
        update(json!(2), &[&region, &kind]),
        update(json!("2"), &[&region, &kind]),
        // Fewer attributes that mean the same component, a repeated one, and none.
        update(json!(2), &[&kind]),
        update(json!(2), &[&other, &kind, &region]),
        json!({ "impact": 2, "name": "DNS" }),
        // The default, said.
        json!({ "text": "Incident", "impact": 2, "name": "DNS" }),
    ] {
        let again = post(&system, 0, "k", &same).await?;
        ensure!(again.status == 201, "{same}: {again:?}");
        ensure!(again.header("update-id") == first.header("update-id"), "{same}: {again:?}");
        ensure!(again.body == first.body, "{same}: {again:?}");
    }
    ensure!(effects(&system).await? == 1);
    system.finish().await
}

async fn an_update_that_was_covered_stays_so_under_its_key(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let opened = system.post(&dns(2)).await?;
    let covered = post(&system, 0, "k", &dns(1)).await?;
    ensure!(covered.status == 200, "{covered:?}");
    system.sql("UPDATE incident SET end_date = now() AT TIME ZONE 'UTC'").await?;
    // It would open one now.
    let again = post(&system, 0, "k", &dns(1)).await?;
    ensure!(again.status == 200 && again.body["id"] == opened.body["id"], "{again:?}");
    ensure!(again.header("update-id") == covered.header("update-id"), "{again:?}");
    ensure!(again.body["end_date"].is_string(), "{again:?}");
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1);
    system.finish().await
}

async fn another_update_under_a_used_key_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let first = post(&system, 0, "k", &dns(1)).await?;
    ensure!(first.status == 201, "{first:?}");
    let before = state(&system).await?;
    for other in [
        dns(2),
        json!({ "name": "DNS", "impact": 1 }),
        json!({ "name": "DNS", "impact": 1, "text": "down" }),
        json!({ "name": "CDN", "impact": 1, "text": "Down" }),
    ] {
        let refused = post(&system, 0, "k", &other).await?;
        is_rejected(&refused).with_context(|| other.to_string())?;
        // Refused for good.
        is_rejected(&post(&system, 0, "k", &other).await?)?;
    }
    ensure!(state(&system).await? == before, "a refused update changed something");
    ensure!(effects(&system).await? == 1);
    // The key still stands for the first.
    let again = post(&system, 0, "k", &dns(1)).await?;
    ensure!(again.header("update-id") == first.header("update-id"), "{again:?}");
    system.finish().await
}

async fn a_key_holds_across_gateways(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    system.start_gateway(&[]).await?;
    let first = post(&system, 0, "k", &dns(1)).await?;
    let again = post(&system, 1, "k", &dns(1)).await?;
    ensure!(first.status == 201 && again.status == 201, "{first:?}, {again:?}");
    ensure!(again.header("update-id") == first.header("update-id"), "{again:?}");
    ensure!(again.body == first.body, "{again:?}");
    is_rejected(&post(&system, 1, "k", &dns(2)).await?)?;
    ensure!(effects(&system).await? == 1);
    system.finish().await
}

async fn many_at_once_under_one_key_have_one_effect(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    system.start_gateway(&[]).await?;
    // Waiting long: all of them are to have the outcome.
    let requests = (0..60).map(|number| {
        let request = system.update_to(number % 2, &dns(1)).header("Idempotency-Key", "k");
        answer(request.header("Prefer", "wait=30"))
    });
    let answers = try_join_all(requests).await?;
    let ids: BTreeSet<&str> = answers.iter().map(|answer| answer.header("update-id")).collect();
    ensure!(ids.len() == 1, "{ids:?}");
    for answer in &answers {
        ensure!(answer.status == 201 && answer.body == answers[0].body, "{answer:?}");
    }
    ensure!(effects(&system).await? == 1);
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 60);
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1);
    system.finish().await
}

async fn many_different_ones_at_once_under_one_key_have_one_effect(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture).await?;
    system.start_gateway(&[]).await?;
    let updates = [dns(1), dns(2), dns(3), json!({ "name": "CDN", "impact": 1 })];
    let requests = (0..40).map(|number| {
        let update = &updates[number % updates.len()];
        let request = system.update_to(number % 2, update).header("Idempotency-Key", "k");
        answer(request.header("Prefer", "wait=30"))
    });
    let answers = try_join_all(requests).await?;
    let (taken, refused): (Vec<_>, Vec<_>) =
        answers.iter().enumerate().partition(|(_, answer)| answer.status == 201);
    ensure!(taken.len() == 10 && refused.len() == 30, "{answers:?}");
    for (_, answer) in refused {
        is_rejected(answer)?;
    }
    // All that were taken are the same one.
    let which: BTreeSet<usize> = taken.iter().map(|(number, _)| number % updates.len()).collect();
    let ids: BTreeSet<&str> = taken.iter().map(|(_, answer)| answer.header("update-id")).collect();
    ensure!(which.len() == 1 && ids.len() == 1, "{which:?} {ids:?}");
    ensure!(effects(&system).await? == 1);
    system.finish().await
}

async fn the_receipt_of_a_repetition_shows_the_first(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let first = post(&system, 0, "k", &dns(1)).await?;
    let repetition = post_and_leave(&system, "k", &dns(1)).await?;
    ensure!(repetition.header("update-id") != first.header("update-id"), "{repetition:?}");
    let shown = receipt(&system, &repetition).await?;
    ensure!(shown["state"] == "done" && shown["outcome"] == "opened", "{shown}");
    ensure!(shown["id"] == first.header("update-id"), "{shown}");
    ensure!(shown["incident"] == first.body, "{shown}");
    let first = system.get(&format!("/api/v1/updates/{}", first.header("update-id"))).await?;
    ensure!(shown == first.body, "{shown} is not {first:?}");
    system.finish().await
}

async fn the_receipt_of_another_update_under_a_used_key_is_rejected(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with_components(&fixture).await?;
    let first = post_and_leave(&system, "k", &dns(1)).await?;
    ensure!(receipt(&system, &first).await?["state"] == "done");
    let before = state(&system).await?;
    let other = post_and_leave(&system, "k", &dns(3)).await?;
    let shown = receipt(&system, &other).await?;
    ensure!(shown["state"] == "rejected" && shown["id"] == other.header("update-id"), "{shown}");
    ensure!(shown["outcome"].is_null() && shown["incident"].is_null(), "{shown}");
    ensure!(shown["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{shown}");
    ensure!(shown["component"]["name"] == "DNS" && shown["impact"] == 3, "{shown}");
    ensure!(shown["received_at"].is_string() && shown["processed_at"].is_string(), "{shown}");
    ensure!(shown.as_object().is_some_and(|shown| shown.len() == 9), "{shown}");
    ensure!(state(&system).await? == before, "a refused update changed something");
    system.finish().await
}

async fn a_refused_update_leaves_its_key_unused(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    for bad in [json!({ "name": "Nobody", "impact": 1 }), json!({ "name": "DNS" }), dns(0)] {
        let refused = post(&system, 0, "k", &bad).await?;
        ensure!([400, 422].contains(&refused.status), "{refused:?}");
    }
    let first = post(&system, 0, "k", &dns(1)).await?;
    ensure!(first.status == 201, "{first:?}");
    system.finish().await
}

async fn a_key_is_at_most_255_printable_characters(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let longest = "x".repeat(255);
    let first = post(&system, 0, &longest, &dns(1)).await?;
    let again = post(&system, 0, &longest, &dns(1)).await?;
    ensure!(first.status == 201 && again.status == 201, "{first:?}, {again:?}");
    ensure!(again.header("update-id") == first.header("update-id"), "{again:?}");
    // Another one that begins alike.
    let shorter = post(&system, 0, &longest[1..], &dns(1)).await?;
    ensure!(shorter.status == 200, "{shorter:?}");
    let quoted =
        post(&system, 0, "\"8e03978e-40d5-43dd-bc93-6894a57f9324\" ; ' --", &dns(1)).await?;
    ensure!(quoted.status == 200, "{quoted:?}");

    for key in [&b""[..], b"   ", &[b'x'; 256], &[b'x'; 4_000], b"a\tb", "ß".as_bytes(), b"\xff"] {
        let value = HeaderValue::from_bytes(key)?;
        let refused = answer(system.update(&dns(3)).header("Idempotency-Key", value)).await?;
        ensure!(refused.status == 400 && refused.body["code"] == 400, "{key:?}: {refused:?}");
        ensure!(refused.body["status"] == "Bad Request", "{key:?}: {refused:?}");
    }
    let request = system.update(&dns(3)).header("Idempotency-Key", "a");
    let twice = answer(request.header("Idempotency-Key", "b")).await?;
    ensure!(twice.status == 400, "{twice:?}");
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 4, "a refused one was queued");
    system.finish().await
}

async fn a_key_may_be_used_anew_after_a_day(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    let first = post(&system, 0, "k", &dns(1)).await?;
    let aged = async |interval: &str| {
        system
            .sql(&format!(
                "UPDATE sdb_idempotency_key
                SET used_at = now() AT TIME ZONE 'UTC' - interval '{interval}'"
            ))
            .await
    };
    aged("23 hours 59 minutes").await?;
    is_rejected(&post(&system, 0, "k", &dns(2)).await?)?;
    let again = post(&system, 0, "k", &dns(1)).await?;
    ensure!(again.header("update-id") == first.header("update-id"), "{again:?}");

    aged("24 hours 1 minute").await?;
    let anew = post(&system, 0, "k", &dns(2)).await?;
    ensure!(anew.status == 201 && anew.body["impact"] == 2, "{anew:?}");
    ensure!(anew.header("update-id") != first.header("update-id"), "{anew:?}");
    // From now on it stands for that one.
    let again = post(&system, 0, "k", &dns(2)).await?;
    ensure!(again.status == 201, "{again:?}");
    ensure!(again.header("update-id") == anew.header("update-id"), "{again:?}");
    is_rejected(&post(&system, 0, "k", &dns(1)).await?)?;
    system.finish().await
}
