//! What clients meet: who may post, what is refused, and what each answer says.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use reqwest::{
    Client, Method, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use harness::{Answer, CLAIM, Fixture, SECRET, System, answer, eventually, tests, token};

tests!(
    an_update_that_opens_or_changes_an_incident_gets_201_and_the_incident,
    an_impact_may_be_a_number_or_a_word,
    an_update_that_is_covered_gets_200_and_what_covers_it,
    an_update_that_is_covered_gets_409_where_that_is_configured,
    repeats_are_answered_as_configured,
    a_client_may_leave_without_the_outcome_or_wait_longer,
    an_update_that_cannot_be_applied_is_answered_with_202_and_parked,
    hostile_names_are_escaped_in_the_updates_alone,
    a_component_is_named_with_its_attributes_in_catalogue_order,
    a_component_is_found_by_its_name_and_attributes,
    attributes_are_limited_and_refusals_stay_short,
    a_component_that_is_added_to_the_catalogue_is_known_without_a_restart,
    tokens_are_checked_and_refusals_do_not_tell_why,
    a_rotated_key_and_another_claim_can_be_configured,
    a_body_that_is_not_an_update_is_refused,
    every_field_at_fault_is_named,
    a_request_that_is_too_large_is_refused,
    a_connection_that_ends_with_a_refusal_is_said_to_end,
    other_paths_and_methods_are_refused_in_the_error_format,
    a_program_written_for_the_python_dashboard_works_unchanged,
    the_receipt_tells_every_state_with_every_key,
    an_id_without_a_record_is_pending_only_while_it_may_come,
    an_id_that_is_not_even_text_is_unknown_like_any_other,
    every_answer_is_protected_from_browsers_and_caches,
    a_token_that_sends_too_much_gets_429,
);

const UPDATES: &str = "/api/v1/component_status";

fn dns(impact: u8) -> Value {
    json!({ "name": "DNS", "impact": impact })
}

async fn with(fixture: &Arc<Fixture>, components: &[(&str, &[(&str, &str)])]) -> Result<System> {
    let system = System::start(fixture).await?;
    system.components(components).await?;
    Ok(system)
}

fn same(found: &Value, expected: &Value) -> Result<()> {
    ensure!(found == expected, "found {found:#}, not {expected:#}");
    Ok(())
}

/// The keys of an object, sorted.
fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        object.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// The incident with this id as the database has it, in the form of the API.
async fn incident(system: &System, id: i32) -> Result<Value> {
    let incident: Value = sqlx::query_scalar(
        r#"SELECT json_build_object('id', id, 'text', text, 'impact', impact,
            'start_date', to_char(start_date, 'YYYY-MM-DD HH24:MI'),
            'end_date', to_char(end_date, 'YYYY-MM-DD HH24:MI'),
            'updates', (SELECT coalesce(json_agg(json_build_object('status', status, 'text', text,
                'timestamp', to_char("timestamp", 'YYYY-MM-DD HH24:MI'))
                ORDER BY "timestamp" DESC, id DESC), '[]')
                FROM incident_status WHERE incident_id = incident.id))
        FROM incident WHERE id = $1"#,
    )
    .bind(id)
    .fetch_one(&system.database)
    .await?;
    Ok(incident)
}

/// The texts of an incident's updates.
fn texts(incident: &Value) -> Vec<&str> {
    let updates = incident["updates"].as_array();
    updates.into_iter().flatten().filter_map(|update| update["text"].as_str()).collect()
}

/// Every 2xx names the update and where its receipt is.
fn has_receipt(answer: &Answer) -> Result<()> {
    let id = answer.header("update-id");
    let version = id.parse().map(|id: uuid::Uuid| id.get_version_num());
    ensure!(version.is_ok_and(|version| version == 7), "{answer:?}");
    let link = format!("</api/v1/updates/{id}>; rel=\"monitor\"");
    ensure!(answer.header("link") == link, "{answer:?}");
    Ok(())
}

/// The error format of the API.
fn is_error(answer: &Answer, status: u16) -> Result<()> {
    ensure!(answer.status == status, "not {status}: {answer:?}");
    let body = &answer.body;
    ensure!(
        ["code,message,status", "code,errors,message,status"].contains(&&*keys(body).join(","))
    );
    let reason = StatusCode::from_u16(status)?.canonical_reason();
    ensure!(body["code"] == status && body["status"].as_str() == reason, "{answer:?}");
    ensure!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    ensure!(answer.header("content-type") == "application/json", "{answer:?}");
    Ok(())
}

/// Posts bytes as they are, on a connection of their own.
async fn post_bytes(
    system: &System,
    content_type: Option<&str>,
    body: impl Into<reqwest::Body>,
) -> Result<Answer> {
    let request = system.request_to(0, Method::POST, UPDATES).bearer_auth(&system.token);
    let mut request = request.header("Connection", "close");
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    answer(request.body(body)).await
}

/// Nothing of what was refused was queued: the one update that is posted now is the only one.
async fn nothing_was_queued(system: System) -> Result<()> {
    let answer = system.post(&dns(1)).await?;
    ensure!(answer.status == 201 && answer.body["id"] == 1, "{answer:?}");
    system.drained().await?;
    let updates = system.count("SELECT count(*) FROM sdb_inbox").await?;
    ensure!(updates == 1, "{updates} updates were queued");
    system.finish().await
}

async fn an_update_that_opens_or_changes_an_incident_gets_201_and_the_incident(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system =
        with(&fixture, &[("DNS", &[("region", "R1")]), ("CDN", &[]), ("VPN", &[])]).await?;
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
    let system = with(&fixture, &[("DNS", &[])]).await?;
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
    let system = with(&fixture, &COVERED).await?;
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
    let suppressed = system.post(&dns(3)).await?;
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
        let post = || answer(system.update(&body).header("Idempotency-Key", name));
        let (first, again) = (post().await?, post().await?);
        ensure!(first.status == status && again.status == status, "{first:?}, {again:?}");
        same(&first.body, &again.body)?;
        ensure!(first.header("update-id") == again.header("update-id"), "{again:?}");
        // Whoever leaves without the outcome finds it in the receipt, which has no statuses.
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
    let system = with(&fixture, &[("DNS", &[])]).await?;
    let accepted = answer(system.update(&dns(1)).header("Prefer", "respond-async")).await?;
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

    for (prefer, applied) in [
        ("wait=5", "wait=5"),
        ("wait=600", "wait=30"),
        ("WAIT=\"7\"", "wait=7"),
        ("handling=lenient", ""),
    ] {
        let covered = answer(system.update(&dns(1)).header("Prefer", prefer)).await?;
        ensure!(covered.status == 200, "{prefer}: {covered:?}");
        ensure!(covered.header("preference-applied") == applied, "{prefer}: {covered:?}");
    }
    ensure!(system.post(&dns(1)).await?.header("preference-applied").is_empty());
    system.finish().await
}

async fn an_update_that_cannot_be_applied_is_answered_with_202_and_parked(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let request = tokio::spawn(answer(system.update(&dns(1)).header("Prefer", "wait=30")));
    eventually("the update is queued", async || {
        let topology = system.topology().await?;
        let dns = shared::component::ComponentId(1);
        let queue = topology.queue(dns.partition(topology.partitions));
        Ok(system.waiting(&queue).await? == 1)
    })
    .await?;
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

async fn hostile_names_are_escaped_in_the_updates_alone(fixture: Arc<Fixture>) -> Result<()> {
    let name = "<b>DNS</b> & \"co\"";
    let value = "R'1</a><script>";
    let title = "<img src=x onerror='alert(1)'> & \"more\"";
    let other = "</a><i>Other</i>";
    let escaped_label =
        "&lt;b&gt;DNS&lt;/b&gt; &amp; &quot;co&quot; (R&#x27;1&lt;/a&gt;&lt;script&gt;)";
    let escaped_title = "&lt;img src=x onerror=&#x27;alert(1)&#x27;&gt; &amp; &quot;more&quot;";
    let escaped_other = "&lt;/a&gt;&lt;i&gt;Other&lt;/i&gt;";
    let system =
        with(&fixture, &[(name, &[("region", value)]), ("First", &[]), ("Second", &[])]).await?;
    let post = async |name: &str, impact: u8, text: &str| {
        system.post(&json!({ "name": name, "impact": impact, "text": text })).await
    };
    let opened = post("First", 1, title).await?;
    ensure!(opened.status == 201 && opened.body["text"] == title, "{opened:?}");
    let joined = post(name, 1, "x").await?;
    ensure!(joined.body["text"] == title, "{joined:?}");
    ensure!(
        texts(&joined.body) == [format!("{escaped_label} added to {escaped_title}")],
        "{joined:?}"
    );

    let opened = post("Second", 2, other).await?;
    ensure!(opened.status == 201 && opened.body["text"] == other, "{opened:?}");
    let moved = post(name, 2, "x").await?;
    ensure!(
        texts(&moved.body)
            == [format!("{escaped_label} moved from <a href='/incidents/1'>{escaped_title}</a>")],
        "{moved:?}"
    );
    let left = system.get("/api/v1/incidents").await?;
    let left = &left.body.as_array().context("no list")?[1];
    ensure!(left["text"] == title, "{left}");
    ensure!(
        texts(left)[0]
            == format!("{escaped_label} moved to <a href='/incidents/2'>{escaped_other}</a>"),
        "{left}"
    );

    let shown = system.get("/api/v1/component_status").await?;
    same(&shown.body[0]["name"], &json!(name))?;
    same(&shown.body[0]["attributes"], &json!([{ "name": "region", "value": value }]))?;
    system.finish().await
}

async fn a_component_is_named_with_its_attributes_in_catalogue_order(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let attributes: &[(&str, &str)] = &[("type", "z"), ("region", "m"), ("category", "a")];
    let system = with(&fixture, &[("DNS", &[]), ("CDN", attributes)]).await?;
    ensure!(system.post(&json!({ "name": "DNS", "impact": 1, "text": "T" })).await?.status == 201);
    let sent = json!([
        { "name": "category", "value": "a" },
        { "name": "type", "value": "z" },
        { "name": "region", "value": "m" },
    ]);
    let update = json!({ "name": "CDN", "impact": 1, "attributes": sent });
    let joined = system.post(&update).await?;
    ensure!(texts(&joined.body) == ["CDN (z, m, a) added to T"], "{joined:?}");
    let expected = json!([
        { "name": "type", "value": "z" },
        { "name": "region", "value": "m" },
        { "name": "category", "value": "a" },
    ]);
    same(&system.get("/api/v1/component_status").await?.body[1]["attributes"], &expected)?;
    let receipt = system.get(&format!("/api/v1/updates/{}", joined.header("update-id"))).await?;
    let expected = json!({ "id": 2, "name": "CDN", "attributes": expected });
    same(&receipt.body["component"], &expected)?;
    system.finish().await
}

async fn a_component_is_found_by_its_name_and_attributes(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(
        &fixture,
        &[
            ("DNS", &[("region", "R1"), ("type", "dns")]),
            ("DNS", &[("region", "R2"), ("type", "dns")]),
            ("DNS", &[("region", "R1")]),
            ("DNS", &[("region", "R1")]),
            ("CDN", &[("region", "R1"), ("type", "cdn")]),
            ("VPN", &[("region", "R1")]),
            ("VPN", &[]),
        ],
    )
    .await?;
    let post = async |name: &str, attributes: &[(&str, &str)]| {
        let attributes: Vec<Value> = attributes
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        system.post(&json!({ "name": name, "impact": 1, "attributes": attributes })).await
    };
    for (name, attributes, id) in [
        ("DNS", &[("type", "dns"), ("region", "R1")][..], 1),
        // Exact before larger, and of two exact ones the lowest id.
        ("DNS", &[("region", "R1")], 3),
        ("DNS", &[("region", "R2")], 2),
        ("CDN", &[], 5),
        ("VPN", &[], 7),
        ("VPN", &[("region", "R1")], 6),
        // Of a repeated name the last value.
        ("DNS", &[("region", "R1"), ("type", "dns"), ("region", "R2")], 2),
    ] {
        let answer = post(name, attributes).await?;
        ensure!([200, 201].contains(&answer.status), "{name} {attributes:?}: {answer:?}");
        let id_of_update = answer.header("update-id");
        let receipt = system.get(&format!("/api/v1/updates/{id_of_update}")).await?;
        ensure!(receipt.body["component"]["id"] == id, "{name} {attributes:?}: {receipt:?}");
    }
    for (name, attributes) in [
        ("Nobody", &[][..]),
        ("DN", &[]),
        ("dns", &[("region", "R1")]),
        ("DNS", &[("region", "R3")]),
        ("CDN", &[("region", "R1"), ("type", "cdn"), ("more", "x")]),
        ("CDN", &[("type", "R1")]),
    ] {
        let answer = post(name, attributes).await?;
        is_error(&answer, 400).with_context(|| format!("{name} {attributes:?}"))?;
        same(&answer.body["message"], &json!("Component not found"))?;
    }
    let ambiguous = post("DNS", &[("type", "dns")]).await?;
    is_error(&ambiguous, 400)?;
    let message = ambiguous.body["message"].as_str().unwrap_or_default();
    ensure!(message.contains("DNS (R1, dns)") && message.contains("DNS (R2, dns)"), "{message}");
    ensure!(!message.contains("DNS (R1);"), "{message}");
    system.finish().await
}

/// Whatever is sent, and however many components have a name.
async fn attributes_are_limited_and_refusals_stay_short(fixture: Arc<Fixture>) -> Result<()> {
    let longest = "ü".repeat(50);
    let system = with(&fixture, &[("CDN", &[("region", &longest), ("type", "cdn")])]).await?;
    system
        .sql(
            "INSERT INTO component (id, name) SELECT n, 'Node' FROM generate_series(1001, 6000) n;
            INSERT INTO component_attribute (component_id, name, value)
                SELECT n, 'region', 'R1' FROM generate_series(1001, 6000) n;
            INSERT INTO component_attribute (component_id, name, value)
                SELECT n, 'node', 'Node ' || n FROM generate_series(1001, 6000) n",
        )
        .await?;
    system.catalogue_seen().await?;
    let attribute = |name: &str, value: &str| json!({ "name": name, "value": value });
    let post = async |name: &str, attributes: Vec<Value>| {
        system.post(&json!({ "name": name, "impact": 1, "attributes": attributes })).await
    };
    // One of thousands is found, and of thousands that may be meant a few are named.
    let found =
        post("Node", vec![attribute("region", "R1"), attribute("node", "Node 4711")]).await?;
    ensure!(found.status == 201, "{found:?}");
    let ambiguous = post("Node", vec![attribute("region", "R1")]).await?;
    is_error(&ambiguous, 400)?;
    let message = ambiguous.body["message"].as_str().unwrap_or_default();
    ensure!(message.contains("Node (R1, Node 1001); Node (R1, Node 1002)"), "{message}");
    ensure!(message.ends_with("and 4990 more") && message.len() < 1_000, "{message}");

    let region = attribute("region", &longest);
    ensure!(post("CDN", vec![region.clone(); 32]).await?.status == 201);
    let many = post("CDN", vec![region; 33]).await?;
    let expected = |problem: Value| json!({ "json": { "attributes": problem } });
    same(&many.body["errors"], &expected(json!(["Longer than maximum length 32."])))?;
    let long = "x".repeat(256);
    for (attributes, problem) in [
        (attribute(&long, "R1"), json!({ "name": ["Longer than maximum length 255."] })),
        (attribute("region", &long), json!({ "value": ["Longer than maximum length 255."] })),
    ] {
        let refused = post("CDN", vec![attributes]).await?;
        is_error(&refused, 422)?;
        same(&refused.body["errors"], &expected(json!({ "0": problem })))?;
    }
    // Bodies of 60 KiB with all wrong that they can hold.
    let body =
        |attributes: &str| format!(r#"{{"name":"CDN","impact":1,"attributes":[{attributes}]}}"#);
    let fields: Vec<String> = (0..6_000).map(|n| format!("\"{n:x}\":1")).collect();
    let wrong = [
        body(&vec!["1"; 30_000].join(",")),
        body(&vec!["{}"; 20_000].join(",")),
        body(&format!("{{{}}}", fields.join(","))),
        format!("{{{}}}", fields.join(",")),
    ];
    for body in wrong {
        let request = system.request_to(0, Method::POST, UPDATES).bearer_auth(&system.token);
        let request = request.header("Content-Type", "application/json").body(body);
        let refused = answer(request).await?;
        is_error(&refused, 422)?;
        let length = refused.body.to_string().len();
        ensure!(length < 2_000, "{length} bytes: {refused:?}");
    }
    for (query, parameter) in [
        (format!("attribute_name={long}&attribute_value=R1"), "attribute_name"),
        (format!("attribute_name=region&attribute_value={long}"), "attribute_value"),
    ] {
        let refused = system.get(&format!("{UPDATES}?{query}")).await?;
        is_error(&refused, 422)?;
        let problem = json!({ "query": { parameter: ["Longer than maximum length 255."] } });
        same(&refused.body["errors"], &problem)?;
    }
    system.finish().await
}

async fn a_component_that_is_added_to_the_catalogue_is_known_without_a_restart(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[("region", "R1")])]).await?;
    // Each is asked for at once: the catalogue is read again on a miss.
    for number in 0..3 {
        system
            .sql(&format!(
                "WITH new AS (INSERT INTO component (name) VALUES ('New {number}') RETURNING id)
                INSERT INTO component_attribute (component_id, name, value)
                SELECT id, 'region', 'R1' FROM new"
            ))
            .await?;
        let attributes = json!([{ "name": "region", "value": "R1" }]);
        let update =
            json!({ "name": format!("New {number}"), "impact": 1, "attributes": attributes });
        let answer = system.post(&update).await?;
        ensure!(answer.status == 201, "{number}: {answer:?}");
    }
    // Nobody misses this one: it makes a match that was clear ambiguous.
    system
        .sql(
            "INSERT INTO component (id, name) VALUES (100, 'DNS');
            INSERT INTO component_attribute (component_id, name, value)
            VALUES (100, 'region', 'R2');",
        )
        .await?;
    let begin = Instant::now();
    system.catalogue_seen().await?;
    // About one second, and more where the machine is busy.
    ensure!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    is_error(&system.post(&dns(1)).await?, 400)?;
    // And one that is gone is gone.
    system
        .sql(
            "DELETE FROM component_attribute WHERE component_id = 100;
            DELETE FROM component WHERE id = 100;",
        )
        .await?;
    system.catalogue_seen().await?;
    ensure!(system.post(&dns(1)).await?.status == 201);
    system.finish().await
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*chunk.get(at).unwrap_or(&0)));
        for sextet in 0..=chunk.len() {
            text.push(char::from(ALPHABET[bits >> (18 - 6 * sextet) & 63]));
        }
    }
    text
}

/// A token with any header, signed with HS256 whatever the header says.
fn token_by_hand(header: &str, claims: &Value, secret: &str) -> Result<String> {
    let signed =
        format!("{}.{}", base64url(header.as_bytes()), base64url(claims.to_string().as_bytes()));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256)?;
    Ok(format!("{signed}.{signature}"))
}

/// Asks with this header for what needs a token; returns the answers. Neither request is a good
/// one, so that an accepted token shows as 400 and 404.
async fn ask(
    system: &System,
    gateway: usize,
    authorization: Option<&HeaderValue>,
) -> Result<[Answer; 2]> {
    let post = system.request_to(gateway, Method::POST, UPDATES).body("{ no JSON");
    let post = match authorization {
        // What is refused is refused before the body is looked at.
        None => post,
        Some(value) => post.header("Authorization", value).header(CONTENT_TYPE, "application/json"),
    };
    let get = system.request_to(gateway, Method::GET, "/api/v1/updates/none");
    let get = match authorization {
        None => get,
        Some(value) => get.header("Authorization", value),
    };
    Ok([answer(post).await?, answer(get).await?])
}

async fn is_accepted(system: &System, gateway: usize, authorization: &str) -> Result<()> {
    let value = HeaderValue::from_str(authorization)?;
    let [post, get] = ask(system, gateway, Some(&value)).await?;
    is_error(&post, 400).with_context(|| format!("POST with {authorization}"))?;
    is_error(&get, 404).with_context(|| format!("GET with {authorization}"))
}

async fn is_refused(
    system: &System,
    gateway: usize,
    authorization: Option<&HeaderValue>,
) -> Result<()> {
    let fixed = json!({
        "code": 401,
        "status": "Unauthorized",
        "message": "A valid token is needed: `Authorization: Bearer <JWT>`",
    });
    let refusals = |log: &str| -> Vec<String> {
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["message"] == "token refused")
            .map(|line| line["reason"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let before = refusals(&system.gateways[gateway].log()?).len();
    for answer in ask(system, gateway, authorization).await? {
        is_error(&answer, 401)?;
        ensure!(answer.header("www-authenticate") == "Bearer", "{answer:?}");
        // Always the same, whatever was wrong.
        same(&answer.body, &fixed)?;
    }
    let log = system.gateways[gateway].log()?;
    let reasons = refusals(&log);
    ensure!(reasons.len() == before + 2, "refusals are not logged");
    ensure!(reasons.iter().all(|reason| !reason.is_empty()), "a refusal is logged without reason");
    if let Some(token) = authorization
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(' ').nth(1))
    {
        ensure!(token.len() < 10 || !log.contains(token), "the log shows a token");
        let signature = token.rsplit('.').next().unwrap_or_default();
        ensure!(signature.len() < 10 || !log.contains(signature), "the log shows a signature");
    }
    Ok(())
}

async fn tokens_are_checked_and_refusals_do_not_tell_why(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[])]).await?;
    let claims = json!({ CLAIM: "dummy" });
    let good = token(SECRET, &claims);

    // Clocks may differ by 5 s; these are made when they are used.
    let now = get_current_timestamp();
    is_accepted(
        &system,
        0,
        &format!("Bearer {}", token(SECRET, &json!({ CLAIM: 1, "exp": now - 1 }))),
    )
    .await?;
    let now = get_current_timestamp();
    is_accepted(
        &system,
        0,
        &format!("Bearer {}", token(SECRET, &json!({ CLAIM: 1, "nbf": now + 4 }))),
    )
    .await?;

    let now = get_current_timestamp();
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        is_accepted(&system, 0, &format!("{scheme} {good}")).await?;
    }
    for claims in [
        json!({ CLAIM: "dummy", "exp": now + 600, "nbf": now - 600 }),
        json!({ CLAIM: "dummy", "exp": 1e30, "nbf": -1 }),
        json!({ CLAIM: "dummy", "exp": u64::MAX, "nbf": -1.5e9 }),
        json!({ CLAIM: "dummy", "iat": now + 86_400 }),
        json!({ CLAIM: "dummy", "iat": "never" }),
        json!({ CLAIM: "dummy", "aud": "somebody else" }),
        json!({ CLAIM: "dummy", "aud": ["a", "b"] }),
        json!({ CLAIM: "dummy", "sub": "x", "iss": "y", "other": { "a": [1] } }),
        json!({ CLAIM: true }),
        json!({ CLAIM: 1 }),
        json!({ CLAIM: -0.5 }),
        json!({ CLAIM: [0] }),
        json!({ CLAIM: { "a": null } }),
        json!({ CLAIM: "0" }),
    ] {
        is_accepted(&system, 0, &format!("Bearer {}", token(SECRET, &claims))).await?;
    }
    for header in
        [r#"{"alg":"HS256"}"#, r#"{"typ":"JWT","alg":"HS256"}"#, r#"{"alg":"HS256","kid":"1"}"#]
    {
        is_accepted(&system, 0, &format!("Bearer {}", token_by_hand(header, &claims, SECRET)?))
            .await?;
    }

    is_refused(&system, 0, None).await.context("no header")?;
    let mut refused: Vec<(&str, String)> = vec![
        ("empty", String::new()),
        ("another scheme", "Basic dXNlcjpwYXNzd29yZA==".to_owned()),
        ("another scheme with a good token", format!("Token {good}")),
        ("no scheme", good.clone()),
        ("no token", "Bearer".to_owned()),
        ("blank token", "Bearer  ".to_owned()),
        ("garbage", "Bearer garbage-garbage-garbage".to_owned()),
        ("garbage in three parts", "Bearer gar.ba.ge".to_owned()),
        ("two tokens", format!("Bearer {good} {good}")),
        ("truncated", format!("Bearer {}", &good[..good.len() - 1])),
        (
            "without its signature",
            format!("Bearer {}", &good[..good.rfind('.').context("no token")?]),
        ),
        (
            "with an empty signature",
            format!("Bearer {}", &good[..=good.rfind('.').context("no token")?]),
        ),
        (
            "wrong key",
            format!("Bearer {}", token("another-secret-that-is-long-enough-too", &claims)),
        ),
        ("empty key", format!("Bearer {}", token("", &claims))),
    ];
    for alg in ["none", "None", "NONE", "RS256", "ES256", "HS384", "HS512", "hs256", ""] {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        let token = token_by_hand(&header, &claims, SECRET)?;
        let unsigned = &token[..=token.rfind('.').context("no token")?];
        refused.push(("another algorithm, unsigned", format!("Bearer {unsigned}")));
        refused.push(("another algorithm, signed", format!("Bearer {token}")));
    }
    for crit in [r#"["exp"]"#, r#"["b64"]"#, r#"["unknown"]"#, "[]", r#""exp""#] {
        let header = format!(r#"{{"alg":"HS256","crit":{crit},"unknown":1}}"#);
        let token = token_by_hand(&header, &claims, SECRET)?;
        refused.push(("an extension that must be understood", format!("Bearer {token}")));
    }
    refused.push(("no algorithm", format!("Bearer {}", token_by_hand("{}", &claims, SECRET)?)));
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &key)?;
        refused.push(("truly of another algorithm", format!("Bearer {token}")));
    }
    let (header, rest) = good.split_once('.').context("no token")?;
    let signature = rest.rsplit('.').next().unwrap_or_default();
    let changed = base64url(json!({ CLAIM: "admin" }).to_string().as_bytes());
    refused.push(("changed claims", format!("Bearer {header}.{changed}.{signature}")));
    for claims in [
        json!({ CLAIM: "dummy", "exp": now - 60 }),
        json!({ CLAIM: "dummy", "exp": 0 }),
        json!({ CLAIM: "dummy", "exp": "tomorrow" }),
        json!({ CLAIM: "dummy", "nbf": now + 600 }),
        json!({ CLAIM: "dummy", "nbf": "tomorrow" }),
        json!({}),
        json!({ "Stackmon": "dummy" }),
        json!({ CLAIM: null }),
        json!({ CLAIM: false }),
        json!({ CLAIM: 0 }),
        json!({ CLAIM: 0.0 }),
        json!({ CLAIM: "" }),
        json!({ CLAIM: [] }),
        json!({ CLAIM: {} }),
        json!([CLAIM]),
        json!(CLAIM),
    ] {
        refused.push(("claims", format!("Bearer {}", token(SECRET, &claims))));
    }
    for (what, authorization) in &refused {
        let value = HeaderValue::from_str(authorization)?;
        is_refused(&system, 0, Some(&value))
            .await
            .with_context(|| format!("{what}: {authorization}"))?;
    }
    let not_text = HeaderValue::from_bytes(b"Bearer \xff\xfe")?;
    is_refused(&system, 0, Some(&not_text)).await.context("no text")?;

    nothing_was_queued(system).await
}

async fn a_rotated_key_and_another_claim_can_be_configured(fixture: Arc<Fixture>) -> Result<()> {
    let previous = "short-previous-key";
    let mut system = with(&fixture, &[("DNS", &[])]).await?;
    let variables = [("SDB_SECRET_KEY_PREVIOUS", previous), ("SDB_API_PAYLOAD_KEY", "role")];
    system.start_gateway(&variables).await?;
    let bearer =
        |secret: &str, claim: &str| format!("Bearer {}", token(secret, &json!({ claim: "x" })));
    is_accepted(&system, 0, &bearer(SECRET, CLAIM)).await?;
    is_accepted(&system, 1, &bearer(SECRET, "role")).await?;
    is_accepted(&system, 1, &bearer(previous, "role")).await?;
    for (gateway, authorization) in [
        (0, bearer(SECRET, "role")),
        (0, bearer(previous, CLAIM)),
        (1, bearer(SECRET, CLAIM)),
        (1, bearer(previous, CLAIM)),
        (1, bearer("neither-of-the-two-keys-of-the-gateway", "role")),
    ] {
        let value = HeaderValue::from_str(&authorization)?;
        is_refused(&system, gateway, Some(&value)).await?;
    }
    // An expired token of the previous key is no better.
    let expired = token(previous, &json!({ "role": "x", "exp": get_current_timestamp() - 60 }));
    is_refused(&system, 1, Some(&HeaderValue::from_str(&format!("Bearer {expired}"))?)).await?;

    let warned = |log: &str| log.contains("shorter than 32 bytes");
    ensure!(!warned(&system.gateways[0].log()?), "a long key is warned of");
    let log = system.gateways[1].log()?;
    ensure!(warned(&log), "a short key is not warned of");
    ensure!(!log.contains(previous), "the log shows a key");
    system.finish().await
}

async fn a_body_that_is_not_an_update_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[])]).await?;
    let good = dns(1).to_string();
    for content_type in [
        None,
        Some(""),
        Some("text/plain"),
        Some("text/json"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonp"),
        Some("multipart/form-data; boundary=x"),
    ] {
        let answer = post_bytes(&system, content_type, good.clone()).await?;
        is_error(&answer, 415).with_context(|| format!("{content_type:?}"))?;
    }
    let json = Some("application/json");
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let deep_field = format!(r#"{{"name":"DNS","impact":1,"text":{deep}}}"#);
    for body in [
        &b""[..],
        b" ",
        b"{",
        b"nonsense",
        b"{'name':'DNS'}",
        br#"{"name":"DNS","impact":1} extra"#,
        br#"{"name":"DNS","impact":1,}"#,
        br#"{"name":"DNS","impact":NaN}"#,
        br#"{"name":"DNS","impact":1e999}"#,
        br#"{"name":"DNS\ud800","impact":1}"#,
        b"{\"name\":\"D\xff\",\"impact\":1}",
        b"\xff\xfe{\0}\0",
        b"\0",
        deep.as_bytes(),
        deep_field.as_bytes(),
    ] {
        let answer = post_bytes(&system, json, body.to_vec()).await?;
        let shown = String::from_utf8_lossy(body).chars().take(40).collect::<String>();
        is_error(&answer, 400).context(shown)?;
    }
    // No component has NUL in its name or attributes; PostgreSQL's text can't.
    for update in [
        json!({ "name": "DNS\0", "impact": 1 }),
        json!({ "name": "\0", "impact": 1 }),
        json!({ "name": "DNS", "impact": 1, "attributes": [{ "name": "a\0", "value": "b" }] }),
        json!({ "name": "DNS", "impact": 1, "attributes": [{ "name": "a", "value": "\0" }] }),
        json!({ "name": "x".repeat(60_000), "impact": 1 }),
    ] {
        let answer = system.post(&update).await?;
        ensure!([400, 422].contains(&answer.status), "{answer:?}");
        is_error(&answer, answer.status)?;
    }
    nothing_was_queued(system).await
}

async fn every_field_at_fault_is_named(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[])]).await?;
    let with_text = |text: &str| json!({ "name": "DNS", "impact": 1, "text": text });
    let with_attributes =
        |attributes: Value| json!({ "name": "DNS", "impact": 1, "attributes": attributes });
    for (update, fields) in [
        (json!({}), &["impact", "name"][..]),
        (json!({ "name": "DNS" }), &["impact"]),
        (json!({ "impact": 1 }), &["name"]),
        (json!({ "name": null, "impact": null }), &["impact", "name"]),
        (json!({ "name": 5, "impact": 1 }), &["name"]),
        (json!({ "name": ["DNS"], "impact": {} }), &["impact", "name"]),
        (json!({ "name": "DNS", "impact": true }), &["impact"]),
        (json!({ "name": "DNS", "impact": [1] }), &["impact"]),
        (json!({ "name": "DNS", "impact": "bad" }), &["impact"]),
        (json!({ "name": "DNS", "impact": "" }), &["impact"]),
        (json!({ "name": "DNS", "impact": "NaN" }), &["impact"]),
        (json!({ "name": "DNS", "impact": 1, "text": null }), &["text"]),
        (json!({ "name": "DNS", "impact": 1, "text": 7 }), &["text"]),
        (with_text(&"x".repeat(256)), &["text"]),
        (with_text(&"ß".repeat(256)), &["text"]),
        (with_text("a\0b"), &["text"]),
        (with_text("a\nb"), &["text"]),
        (with_text("a\u{7f}"), &["text"]),
        (with_text("\u{85}"), &["text"]),
        (with_text("\u{1b}[31m"), &["text"]),
        (json!({ "name": "DNS", "impact": 1, "extra": 1 }), &["extra"]),
        (json!({ "name": "DNS", "impact": 0, "Text": "x", "text\0": 1 }), &["Text", "text\0"]),
        (
            json!({ "name": "DNS", "impact": "bad", "text": 1, "attributes": 1, "id": 1 }),
            &["attributes", "id", "impact", "text"],
        ),
        (with_attributes(json!(null)), &["attributes"]),
        (with_attributes(json!({ "region": "R1" })), &["attributes"]),
        (with_attributes(json!("region")), &["attributes"]),
        (with_attributes(json!([5])), &["attributes"]),
        (with_attributes(json!([null])), &["attributes"]),
        (with_attributes(json!([{ "name": "a" }])), &["attributes"]),
        (with_attributes(json!([{ "value": "a" }])), &["attributes"]),
        (with_attributes(json!([{ "name": "a", "value": 1 }])), &["attributes"]),
        (with_attributes(json!([{ "name": null, "value": "b" }])), &["attributes"]),
        (with_attributes(json!([{ "name": "a", "value": "b", "c": 1 }])), &["attributes"]),
    ] {
        let answer = system.post(&update).await?;
        is_error(&answer, 422).with_context(|| update.to_string())?;
        let errors = &answer.body["errors"]["json"];
        ensure!(keys(errors) == fields, "{update}: {answer:?}");
        ensure!(errors.as_object().is_some_and(|e| e.values().all(|v| !v.is_null())), "{answer:?}");
        if fields != ["attributes"] && fields.len() == 1 {
            ensure!(errors[fields[0]][0].is_string(), "{answer:?}");
        }
    }
    for update in [json!([]), json!(null), json!("DNS"), json!(1)] {
        is_error(&system.post(&update).await?, 422).with_context(|| update.to_string())?;
    }
    nothing_was_queued(system).await
}

/// Sends bytes and returns all that comes back until the connection ends.
async fn raw(system: &System, request: Vec<u8>) -> Result<String> {
    let address = system.addresses[0].clone();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // The gateway may close before it has read all; what it said until then counts.
        let sent = stream.write_all(&request);
        let mut said = Vec::new();
        let received = stream.read_to_end(&mut said);
        ensure!(
            !said.is_empty() || sent.is_err() || received.is_ok(),
            "neither an answer nor an end: {sent:?}, {received:?}"
        );
        Ok(String::from_utf8_lossy(&said).into_owned())
    })
    .await?
}

async fn a_request_that_is_too_large_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[])]).await?;
    let json = Some("application/json");
    let padded = |length: usize| {
        let update = dns(1).to_string();
        let padding = " ".repeat(length - update.len());
        update + &padding
    };
    for length in [64 * 1024 + 1, 128 * 1024, 1024 * 1024] {
        let answer = post_bytes(&system, json, padded(length)).await?;
        is_error(&answer, 413).with_context(|| format!("{length} bytes"))?;
    }
    let head = |more: &str| {
        format!(
            "POST {UPDATES} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
            Content-Type: application/json\r\nConnection: close\r\n{more}\r\n",
            system.token
        )
    };
    // In chunks, without a length.
    let body = padded(64 * 1024 + 1);
    let mut chunked = head("Transfer-Encoding: chunked\r\n");
    for chunk in body.as_bytes().chunks(10_000) {
        chunked.push_str(&format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk)?));
    }
    chunked.push_str("0\r\n\r\n");
    let said = raw(&system, chunked.into_bytes()).await?;
    ensure!(said.starts_with("HTTP/1.1 413 ") && said.contains("\"code\":413"), "{said}");
    // It need not arrive whole.
    let begun = head("Content-Length: 99999999999\r\n") + &body;
    let said = raw(&system, begun.into_bytes()).await?;
    ensure!(said.starts_with("HTTP/1.1 413 "), "{said}");

    // Heads: one long header, many headers, a long address.
    let long = head(&format!("X-Long: {}\r\nContent-Length: 0\r\n", "x".repeat(100_000)));
    let many: String = (0..200).map(|number| format!("X-{number}: x\r\n")).collect();
    let many = head(&format!("{many}Content-Length: 0\r\n"));
    let address = format!(
        "GET /api/v1/incidents?{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "x".repeat(100_000)
    );
    for request in [long, many, address] {
        let said = raw(&system, request.into_bytes()).await?;
        let refused =
            ["HTTP/1.1 431 ", "HTTP/1.1 414 "].iter().any(|status| said.starts_with(status));
        ensure!(refused || said.is_empty(), "{said}");
    }
    for nonsense in
        ["nonsense\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\0\0\0\0\r\n\r\n"]
    {
        let said = raw(&system, nonsense.as_bytes().to_vec()).await?;
        ensure!(said.starts_with("HTTP/1.1 4") || said.is_empty(), "{nonsense:?}: {said}");
    }
    // A body that ends early is no update.
    drop(raw_and_leave(&system, head("Content-Length: 500\r\n") + &dns(1).to_string()).await?);

    // Exactly 64 KiB is not too large.
    let answer = post_bytes(&system, json, padded(64 * 1024)).await?;
    ensure!(answer.status == 201 && answer.body["id"] == 1, "{answer:?}");
    system.drained().await?;
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 1);
    system.finish().await
}

/// Who keeps connections would otherwise send the next update on one that is about to end, and
/// never learn what became of it (RFC 9112, 9.6).
async fn a_connection_that_ends_with_a_refusal_is_said_to_end(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[])]).await?;
    let length = 1024 * 1024;
    for (token, status) in [(system.token.as_str(), 413), ("garbage", 401)] {
        let update = format!(
            "POST {UPDATES} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
            Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        let next = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let said = raw(&system, (update + &" ".repeat(length) + next).into_bytes()).await?;
        ensure!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        let head = said.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        let goes_on = said.contains("{\"status\":\"ok\"}");
        ensure!(goes_on || head.contains("connection: close"), "it just ends after {said}");
    }
    system.finish().await
}

/// Sends bytes and says no more.
async fn raw_and_leave(system: &System, request: String) -> Result<String> {
    let address = system.addresses[0].clone();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        ensure!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{said}");
        Ok(said)
    })
    .await?
}

async fn other_paths_and_methods_are_refused_in_the_error_format(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[])]).await?;
    for path in [
        "/api",
        "/api/v1",
        "/api/v1/component_status/",
        "/api/v1/nothing",
        "/api/v1/updates",
        "/api/v1/updates/",
        "/api/v1/updates/a/b",
        "/api/v2/incidents",
        "/API/v1/incidents",
        "/%ff",
        "/../etc/passwd",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = answer(system.request_to(0, method.clone(), path)).await?;
            is_error(&answer, 404).with_context(|| format!("{method} {path}"))?;
        }
    }
    for (method, path) in [
        (Method::PUT, UPDATES),
        (Method::DELETE, UPDATES),
        (Method::PATCH, UPDATES),
        (Method::POST, "/api/v1/incidents"),
        (Method::DELETE, "/api/v1/incidents"),
        (Method::POST, "/api/v1/updates/none"),
        (Method::POST, "/healthz"),
        (Method::DELETE, "/readyz"),
    ] {
        let request = system.request_to(0, method.clone(), path).bearer_auth(&system.token);
        let answer = answer(request.json(&dns(1))).await?;
        is_error(&answer, 405).with_context(|| format!("{method} {path}"))?;
        // RFC 9110, 15.5.6.
        ensure!(answer.header("allow").contains("GET"), "{method} {path}: {answer:?}");
    }
    // Unknown parameters are passed over.
    let path = format!("{UPDATES}?unknown=1&name=x");
    let request = system.request_to(0, Method::POST, &path).bearer_auth(&system.token);
    ensure!(answer(request.json(&dns(9))).await?.status == 400);
    nothing_was_queued(system).await
}

/// As the reporter of the reference does: it reads the components, posts each with its attributes,
/// looks only at whether the answer is an error, and gives up after 2 s.
async fn a_program_written_for_the_python_dashboard_works_unchanged(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with(
        &fixture,
        &[
            ("Component 1", &[("region", "Reg1"), ("category", "Cat"), ("type", "t1")]),
            ("Component 1", &[("region", "Reg2"), ("category", "Cat"), ("type", "t1")]),
            ("Component 2", &[("region", "Reg1")]),
        ],
    )
    .await?;
    let base = format!("http://{}/api", system.addresses[0]);
    let token = token_by_hand(r#"{"alg":"HS256"}"#, &json!({ "stackmon": "dummy" }), SECRET)?;
    let program = Client::builder().timeout(Duration::from_secs(2)).no_proxy().build()?;
    let read = async |path: &str| -> Result<Value> {
        let response = program.get(format!("{base}{path}")).send().await?.error_for_status()?;
        Ok(response.json().await?)
    };
    let components = read("/v1/component_status").await?;
    ensure!(components.as_array().map(Vec::len) == Some(3), "{components}");
    for impact in [1, 2, 3, 3] {
        for component in components.as_array().into_iter().flatten() {
            let response = program
                .post(format!("{base}/v1/component_status"))
                .header("Authorization", format!("Bearer {token}"))
                .json(&json!({
                    "name": component["name"],
                    "impact": impact,
                    "attributes": component["attributes"],
                }))
                .send()
                .await?
                .error_for_status()?;
            let incident: Value = response.json().await?;
            ensure!(incident["impact"] == impact && incident["text"] == "Incident", "{incident}");
        }
    }
    let active = read("/v1/incidents?active=true").await?;
    ensure!(active.as_array().map(Vec::len) == Some(1) && active[0]["impact"] == 3, "{active}");
    let one = "/v1/component_status?name=Component%201&attribute_name=region&attribute_value=Reg2";
    let one = read(one).await?;
    ensure!(one["id"] == 2 && one["incidents"][0]["id"] == active[0]["id"], "{one}");
    for component in read("/v1/component_status").await?.as_array().into_iter().flatten() {
        ensure!(component["incidents"][0]["id"] == active[0]["id"], "{component}");
    }
    system.finish().await
}

const RECEIPT_KEYS: [&str; 9] = [
    "component",
    "id",
    "impact",
    "incident",
    "outcome",
    "processed_at",
    "reason",
    "received_at",
    "state",
];

/// RFC 3339 with microseconds, such as `2023-11-14T22:13:20.123456Z`.
fn is_precise(time: &Value) -> Result<()> {
    let text = time.as_str().unwrap_or_default();
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    ensure!(shape == "0000-00-00T00:00:00.000000Z", "{time}");
    Ok(())
}

async fn the_receipt_tells_every_state_with_every_key(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[("region", "R1")])]).await?;
    let accepted = answer(system.update(&dns(2)).header("Prefer", "respond-async")).await?;
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
    let covered = system.post(&dns(1)).await?;
    done(covered.header("update-id"), "unchanged", "covered_by_system_incident", 1).await?;
    let raised = system.post(&dns(3)).await?;
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
    let suppressed = system.post(&dns(3)).await?;
    done(suppressed.header("update-id"), "suppressed", "in_running_maintenance", 3).await?;

    let without_token = answer(system.request_to(0, Method::GET, path)).await?;
    is_error(&without_token, 401)?;
    ensure!(without_token.header("www-authenticate") == "Bearer", "{without_token:?}");
    system.finish().await
}

async fn an_id_without_a_record_is_pending_only_while_it_may_come(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with(&fixture, &[]).await?;
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
    let system = with(&fixture, &[]).await?;
    let path = "/api/v1/updates/%ff%fe";
    let without_token = answer(system.request_to(0, Method::GET, path)).await;
    is_error(&without_token.context("the body is not JSON")?, 401)?;
    is_error(&system.get(path).await?, 404)?;
    system.finish().await
}

async fn every_answer_is_protected_from_browsers_and_caches(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[])]).await?;
    let posted = system.update(&dns(1)).send().await?;
    let receipt = format!("/api/v1/updates/{}", posted.headers()["update-id"].to_str()?);
    let mut answers = vec![("an update", posted, "no-store")];
    for (method, path, cache) in [
        (Method::GET, receipt.as_str(), "no-store"),
        (Method::POST, UPDATES, "no-store"),
        (Method::DELETE, UPDATES, "no-store"),
        (Method::GET, "/elsewhere", "no-store"),
        (Method::GET, "/healthz", "no-store"),
        (Method::GET, "/readyz", "no-store"),
        (Method::GET, UPDATES, "no-cache"),
        (Method::HEAD, "/api/v1/incidents", "no-cache"),
        (Method::GET, "/api/v1/incidents?limit=x", "no-store"),
        (Method::GET, "/api-spec.json", "no-cache"),
        (Method::GET, "/api-docs", "no-cache"),
    ] {
        let request = system.request_to(0, method, path).bearer_auth(&system.token);
        answers.push((path, request.send().await?, cache));
    }
    for (what, answer, cache) in answers {
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", cache),
        ] {
            ensure!(header(name) == Some(value), "{what}: {answer:?}");
        }
        let policy = header("content-security-policy").unwrap_or_default();
        ensure!(policy.starts_with("default-src 'none'; "), "{what}: {answer:?}");
        ensure!(policy.ends_with("frame-ancestors 'none'"), "{what}: {answer:?}");
        ensure!(header("server").is_none(), "{what}: {answer:?}");
    }
    system.finish().await
}

async fn a_token_that_sends_too_much_gets_429(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_RATE_LIMIT", "2")]).await?;
    system.components(&[("DNS", &[])]).await?;
    let other = token(SECRET, &json!({ CLAIM: "another" }));
    let post = |token: &str| {
        let request = system.request_to(0, Method::POST, UPDATES).bearer_auth(token);
        answer(request.header("Prefer", "wait=20").json(&dns(1)))
    };
    let mut taken = 0;
    let refused = loop {
        let answer = post(&system.token).await?;
        if answer.status == 429 {
            break answer;
        }
        ensure!([200, 201].contains(&answer.status), "{answer:?}");
        taken += 1;
        ensure!(taken < 1_000, "nothing is refused");
    };
    ensure!(taken >= 2, "only {taken} were taken");
    is_error(&refused, 429)?;
    ensure!(refused.header("retry-after") == "1", "{refused:?}");
    // Neither another token nor a reader meets the limit.
    let answer = post(&other).await?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(system.get("/api/v1/incidents").await?.status == 200);
    // It may send again soon, and what was refused was not queued.
    eventually("the token may send again", async || {
        let answer = post(&system.token).await?;
        taken += i64::from(answer.status == 200);
        Ok(answer.status == 200)
    })
    .await?;
    system.drained().await?;
    let queued = system.count("SELECT count(*) FROM sdb_inbox").await?;
    ensure!(queued == taken + 1, "{queued} were queued, {taken} and one taken");
    system.finish().await
}
