//! Requests that are refused, and how the error names what is wrong.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{is_error, keys, nothing_was_queued, post_bytes};
use harness::{COMPONENT_STATUS, Fixture, System, answer, status_update, tests};

tests!(
    a_body_that_is_not_an_update_is_refused,
    every_field_at_fault_is_named,
    other_paths_and_methods_are_refused_in_the_error_format,
);

async fn a_body_that_is_not_an_update_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let good = status_update("DNS", 1).to_string();
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
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
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

async fn other_paths_and_methods_are_refused_in_the_error_format(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    for path in [
        "/api",
        "/api/v1",
        "/api/v1/component_status/",
        "/api/v1/nothing",
        "/api/v1/updates/",
        "/api/v1/updates/a/b",
        "/api/v3/incidents",
        "/API/v1/incidents",
        "/%ff",
        "/../etc/passwd",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = answer(system.request_to(0, method.clone(), path)).await?;
            is_error(&answer, 404).with_context(|| format!("{method} {path}"))?;
        }
    }
    for (method, path, allowed) in [
        (Method::PUT, COMPONENT_STATUS, "GET"),
        (Method::DELETE, COMPONENT_STATUS, "GET"),
        (Method::PATCH, COMPONENT_STATUS, "GET"),
        (Method::POST, "/api/v1/incidents", "GET"),
        (Method::DELETE, "/api/v1/incidents", "GET"),
        (Method::GET, "/api/v1/updates", "POST"),
        (Method::POST, "/api/v1/updates/none", "GET"),
        (Method::POST, "/healthz", "GET"),
        (Method::DELETE, "/readyz", "GET"),
    ] {
        let request = system.request_to(0, method.clone(), path).bearer_auth(&system.token);
        let answer = answer(request.json(&status_update("DNS", 1))).await?;
        is_error(&answer, 405).with_context(|| format!("{method} {path}"))?;
        // RFC 9110, 15.5.6.
        ensure!(answer.header("allow").contains(allowed), "{method} {path}: {answer:?}");
    }
    // Unknown parameters are ignored.
    let path = format!("{COMPONENT_STATUS}?unknown=1&name=x");
    let request = system.request_to(0, Method::POST, &path).bearer_auth(&system.token);
    ensure!(answer(request.json(&status_update("DNS", 9))).await?.status == 400);
    nothing_was_queued(system).await
}
