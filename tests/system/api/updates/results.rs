//! The result of each update.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    PATH, keyed, many, many_to, numbers, results, results_and_incidents, statuses, update,
};
use harness::{Answer, Fixture, System, answer, eventually, tests};

tests!(
    each_update_has_the_result_that_it_would_have_had_alone,
    what_concerns_the_whole_refuses_all_of_it,
    updates_of_one_component_take_effect_in_their_order,
    five_hundred_updates_have_five_hundred_results,
    a_key_holds_within_a_request_and_across_endpoints,
    results_are_those_of_the_python_dashboard_where_that_is_asked_for,
    what_is_not_waited_for_is_accepted,
    an_update_that_is_parked_says_so,
);

async fn each_update_has_the_result_that_it_would_have_had_alone(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    system
        .components(&[
            ("DNS", &[]),
            ("CDN", &[("region", "R1")]),
            ("CDN", &[("region", "R2")]),
            ("VPN", &[]),
            ("Manual", &[]),
        ])
        .await?;
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            VALUES ('Move', 0, false, '2020-01-01'), ('Fire', 3, false, '2020-01-01');
            INSERT INTO incident_component_relation
            SELECT i.id, c.id FROM incident i, component c
            WHERE (i.text, c.name) IN (('Move', 'VPN'), ('Fire', 'Manual'));",
        )
        .await?;
    let bad = [
        json!(null),
        json!(5),
        json!([]),
        json!({}),
        json!({ "name": "DNS" }),
        update("DNS", 0),
        update("DNS", 4),
        update("Nobody", 1),
        update("CDN", 1),
        json!({ "name": "DNS", "impact": 1, "text": "x".repeat(256) }),
        json!({ "name": "DNS", "impact": 1, "text": "a\u{0}b" }),
        json!({ "name": "DNS", "impact": 1, "more": 1 }),
        json!({ "name": 1, "impact": true, "attributes": [5, { "name": "a" }] }),
    ];
    let mut alone = Vec::new();
    for bad in &bad {
        let refused = system.post(bad).await?;
        let mut result = json!({ "status": refused.status, "error": refused.body["message"] });
        if !refused.body["errors"].is_null() {
            result["errors"] = refused.body["errors"].clone();
        }
        alone.push(result);
    }
    ensure!(statuses(&alone).iter().all(|status| [400, 422].contains(status)), "{alone:?}");

    // Among them some that are in order.
    let mut updates = bad.to_vec();
    updates.insert(3, update("DNS", 2));
    updates.insert(7, update("VPN", 1));
    updates.insert(9, update("Manual", 2));
    updates.push(update("DNS", 1));
    let (mut results, incidents) =
        results_and_incidents(many(&system, &updates).header("Prefer", "wait=20")).await?;
    let covered = results.pop().context("a result")?;
    let (manual, vpn, dns) = (results.remove(9), results.remove(7), results.remove(3));
    ensure!(results == alone, "{results:#?} are not {alone:#?}");
    for (result, status, impact) in
        [(&dns, 201, 2), (&vpn, 200, 0), (&manual, 200, 3), (&covered, 200, 2)]
    {
        ensure!(result["status"] == status, "{result}");
        let incident = incidents.iter().find(|i| i["id"] == result["incident"]).context("none")?;
        ensure!(incident["impact"] == impact, "{result}: {incident}");
        ensure!(result.as_object().is_some_and(|fields| fields.len() == 3), "{result}");
        let id = result["id"].as_str().context("no id")?;
        let receipt = system.get(&format!("{PATH}/{id}")).await?;
        ensure!(receipt.body["state"] == "done", "{receipt:?}");
        ensure!(receipt.body["incident"] == *incident, "{receipt:?} and {incident}");
    }
    ensure!(dns["incident"] == covered["incident"], "{dns} {covered}");
    // Each incident as the list has it.
    let list = system.get("/api/v1/incidents").await?;
    for incident in &incidents {
        ensure!(list.body.as_array().is_some_and(|all| all.contains(incident)), "{incident}");
    }
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 4);
    ensure!(results_and_incidents(many(&system, &[])).await? == (vec![], vec![]));
    system.finish().await
}

async fn what_concerns_the_whole_refuses_all_of_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let one = update("DNS", 1);
    let post = || system.request_to(0, Method::POST, PATH).bearer_auth(&system.token);
    let json = |body: &str| post().header("Content-Type", "application/json").body(body.to_owned());
    let good = json!({ "updates": [one] }).to_string();
    let padded = |bytes: usize| format!("{good}{}", " ".repeat(bytes - good.len()));
    let too_many = json!({ "updates": vec![one.clone(); 501] });
    let mib = 1024 * 1024;
    for (request, status, said) in [
        (system.request_to(0, Method::POST, PATH).json(&too_many), 401, "token"),
        (post().body(good.clone()), 415, "application/json"),
        (json(&good).header("Content-Encoding", "gzip"), 415, "Content-Encoding"),
        (json(&good).header("Idempotency-Key", "k"), 400, "`idempotency_key`"),
        (json(""), 400, "empty"),
        (json(&good[..good.len() - 1]), 400, "JSON"),
        (json(&format!("{good},")), 400, "JSON"),
        (json(r#"{"updates": [{"name": "DNS", "impact": 1}, {"name": "\ud800"}]}"#), 400, "JSON"),
        (json("[]"), 422, "`errors`"),
        (json("{}"), 422, "`errors`"),
        (json(r#"{"updates": null}"#), 422, "`errors`"),
        (json(r#"{"updates": {}}"#), 422, "`errors`"),
        (json(r#"{"updates": [], "more": 1}"#), 422, "`errors`"),
        (json(&too_many.to_string()), 422, "`errors`"),
        (json(&padded(mib + 1)), 413, "1 MiB"),
    ] {
        let refused = answer(request).await?;
        ensure!(refused.status == status && refused.body["code"] == status, "{refused:?}");
        ensure!(refused.body["message"].as_str().is_some_and(|m| m.contains(said)), "{refused:?}");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let refused = answer(system.request_to(0, method, PATH).bearer_auth(&system.token)).await?;
        ensure!(refused.status == 405 && refused.header("allow") == "POST", "{refused:?}");
    }
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 0, "one was queued");
    let most = json(&padded(mib)).header("Prefer", "wait=20");
    ensure!(statuses(&results(most).await?) == [201], "a MiB is refused");
    system.finish().await
}

async fn updates_of_one_component_take_effect_in_their_order(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_worker(&[]).await?;
    let names: Vec<String> = (0..20).map(|number| format!("Component {number}")).collect();
    let components: Vec<(&str, &[(&str, &str)])> =
        names.iter().map(|name| (name.as_str(), &[][..])).collect();
    system.components(&components).await?;
    // In turns, each from minor to outage and back.
    let impacts = [1, 2, 3, 2, 1];
    let updates: Vec<Value> = impacts
        .into_iter()
        .flat_map(|impact| names.iter().map(move |name| update(name, impact)))
        .collect();
    let request = many(&system, &updates).header("Prefer", "wait=20");
    let (results, incidents) = results_and_incidents(request).await?;
    let expected: Vec<i64> =
        [201, 201, 201, 200, 200].into_iter().flat_map(|status| [status; 20]).collect();
    ensure!(statuses(&results) == expected, "{results:?}");
    // The inbox has each component's in their order, by the ids of the results.
    for component in 0..names.len() {
        let ids: Vec<String> = results
            .iter()
            .skip(component)
            .step_by(names.len())
            .filter_map(|result| result["id"].as_str().map(str::to_owned))
            .collect();
        let decided: Vec<String> = sqlx::query_scalar(
            "SELECT id::text FROM sdb_inbox WHERE component_id = $1 ORDER BY position",
        )
        .bind(component as i32 + 1)
        .fetch_all(&system.database)
        .await?;
        ensure!(ids == decided, "{component}: {ids:?} and {decided:?}");
    }
    // Each incident as it is now, whichever update was the last to change it.
    let list = system.get("/api/v1/incidents").await?;
    for incident in &incidents {
        ensure!(list.body.as_array().is_some_and(|all| all.contains(incident)), "{incident}");
    }
    system.finish().await
}

async fn five_hundred_updates_have_five_hundred_results(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system
        .sql("INSERT INTO component (name) SELECT 'Component ' || n FROM generate_series(1, 500) n")
        .await?;
    system.catalogue_seen().await?;
    let updates = |impact: u8| -> Vec<Value> {
        (1..=500).map(|number| update(&format!("Component {number}"), impact)).collect()
    };
    for (impact, status) in [(1, 201), (2, 201), (2, 200)] {
        let request = many(&system, &updates(impact)).header("Prefer", "wait=25");
        let (results, incidents) = results_and_incidents(request).await?;
        ensure!(statuses(&results) == vec![status; 500], "{results:?}");
        ensure!(incidents.len() == 1 && incidents[0]["impact"] == impact, "{incidents:?}");
        let ids: BTreeSet<&str> = results.iter().filter_map(|r| r["id"].as_str()).collect();
        ensure!(ids.len() == 500, "{} ids", ids.len());
    }
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 1_500);
    system.finish().await
}

async fn a_key_holds_within_a_request_and_across_endpoints(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let alone = async |gateway: usize, update: Value, key: &str| -> Result<Answer> {
        let request = system.update_to(gateway, &update).header("Idempotency-Key", key);
        answer(request.header("Prefer", "wait=20")).await
    };
    let first = alone(0, update("DNS", 1), "one").await?;
    ensure!(first.status == 201, "{first:?}");
    let updates = [
        keyed(update("DNS", 1), "one"),
        keyed(update("CDN", 1), "two"),
        keyed(update("CDN", 1), "two"),
        keyed(update("CDN", 2), "two"),
        keyed(update("DNS", 2), "one"),
        keyed(update("DNS", 3), "a key"),
        keyed(update("DNS", 3), " a key"),
        keyed(update("DNS", 3), &"x".repeat(256)),
        json!({ "name": "DNS", "impact": 3, "idempotency_key": null }),
    ];
    for gateway in [1, 0] {
        let request = many_to(&system, gateway, &updates).header("Prefer", "wait=20");
        let results = results(request).await?;
        let expected = [201, 201, 201, 422, 422, 201, 422, 422, 422];
        ensure!(statuses(&results) == expected, "{results:?}");
        ensure!(results[0]["id"] == first.header("update-id"), "{results:?}");
        ensure!(results[1]["id"] == results[2]["id"], "{results:?}");
        for rejected in [3, 4] {
            let result = &results[rejected];
            ensure!(result["id"].is_string() && result["errors"].is_null(), "{result}");
            ensure!(result["error"].as_str().is_some_and(|e| e.contains("another")), "{result}");
        }
        for refused in 6..9 {
            let errors = &results[refused]["errors"]["json"]["idempotency_key"];
            ensure!(errors.is_array() && results[refused]["id"].is_null(), "{results:?}");
        }
        let again = alone(gateway, update("CDN", 1), "two").await?;
        ensure!(again.header("update-id") == results[1]["id"], "{again:?}");
        let again = alone(gateway, update("DNS", 3), "a key").await?;
        ensure!(again.header("update-id") == results[5]["id"], "{again:?}");
    }
    let effects = "SELECT count(*) FROM sdb_inbox
        WHERE outcome IN ('opened', 'joined', 'raised', 'moved')";
    ensure!(system.count(effects).await? == 3);
    system.finish().await
}

async fn results_are_those_of_the_python_dashboard_where_that_is_asked_for(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_gateway(&[("SDB_V1_CONFLICT", "true")]).await?;
    system.components(&[("DNS", &[]), ("VPN", &[])]).await?;
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            VALUES ('Move', 0, false, '2020-01-01');
            INSERT INTO incident_component_relation
            SELECT i.id, c.id FROM incident i, component c WHERE c.name = 'VPN'",
        )
        .await?;
    let updates = [update("DNS", 2), update("DNS", 1), update("VPN", 1)];
    let request = many_to(&system, 1, &updates).header("Prefer", "wait=20");
    let python = results(request).await?;
    ensure!(statuses(&python) == [201, 409, 201], "{python:?}");
    ensure!(python[1]["incident"] == python[0]["incident"], "{python:?}");
    let alone = answer(system.update_to(1, &updates[1]).header("Prefer", "wait=20")).await?;
    ensure!(alone.status == 409 && alone.body["message"] == python[1]["error"], "{alone:?}");
    let ours = results(many(&system, &updates).header("Prefer", "wait=20")).await?;
    ensure!(statuses(&ours) == [200, 200, 200], "{ours:?}");
    ensure!(numbers(&ours, "incident") == numbers(&python, "incident"), "{ours:?} {python:?}");
    system.finish().await
}

async fn what_is_not_waited_for_is_accepted(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let updates = [update("DNS", 1), update("Nobody", 1), update("CDN", 1), update("DNS", 2)];
    let mut accepted = Vec::new();
    // There is no worker yet.
    for prefer in ["respond-async", "wait=5"] {
        let answer = answer(many(&system, &updates).header("Prefer", prefer)).await?;
        ensure!(answer.header("preference-applied") == prefer, "{answer:?}");
        let (mut results, mut incidents) = (Vec::new(), Vec::new());
        eventually("it is known in time what is no component", async || {
            let request = many(&system, &updates).header("Prefer", prefer);
            (results, incidents) = results_and_incidents(request).await?;
            Ok(results.iter().all(|result| result["status"] != 503))
        })
        .await?;
        ensure!(statuses(&results) == [202, 400, 202, 202], "{results:?}");
        ensure!(incidents.is_empty(), "{incidents:?}");
        for result in results.iter().filter(|result| result["status"] == 202) {
            ensure!(result["state"] == "pending", "{result}");
            ensure!(result.as_object().is_some_and(|fields| fields.len() == 3), "{result}");
            accepted.push(result["id"].as_str().context("no id")?.to_owned());
        }
    }
    ensure!(results(many(&system, &updates)).await?.len() == 4, "the time of its own");
    system.start_worker(&[]).await?;
    for id in accepted {
        eventually("the update is applied", async || {
            Ok(system.get(&format!("{PATH}/{id}")).await?.body["state"] == "done")
        })
        .await?;
    }
    system.finish().await
}

async fn an_update_that_is_parked_says_so(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("Gone", &[])]).await?;
    let updates = [update("Gone", 1), update("DNS", 1)];
    let request = many(&system, &updates).header("Prefer", "wait=25");
    let waiting = tokio::spawn(results(request));
    eventually("both are queued", async || {
        let topology = system.topology().await?;
        let mut waiting = 0;
        for partition in 0..topology.partitions {
            waiting += system.waiting(&topology.queue(partition)).await?;
        }
        Ok(waiting == 2)
    })
    .await?;
    system.sql("DELETE FROM component WHERE name = 'Gone'").await?;
    system.start_worker(&[]).await?;
    let results = waiting.await??;
    ensure!(statuses(&results) == [202, 201], "{results:?}");
    ensure!(results[0]["state"] == "parked" && results[0]["id"].is_string(), "{results:?}");
    system.finish_with_parked()
}
