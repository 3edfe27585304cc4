//! The API as clients meet it: who may post, what is refused, what each answer says.

mod components;
mod conformance;
mod headers;
mod idempotency;
mod limits;
mod openapi;
mod paths;
mod post;
mod python_api;
mod python_reporter;
mod receipts;
mod recovery;
mod refusals;
mod reports;
mod request_limits;
mod rss;
mod security_headers;
mod tokens;
mod updates;
mod v2;
mod waiting;

use anyhow::{Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey};
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;

use harness::{Answer, COMPONENT_STATUS, System, answer, status_update, tests_of};

tests_of!(
    components,
    conformance,
    headers,
    idempotency,
    limits,
    openapi,
    paths,
    post,
    python_api,
    python_reporter,
    receipts,
    recovery,
    refusals,
    reports,
    request_limits,
    rss,
    security_headers,
    tokens,
    updates,
    v2,
    waiting
);

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
    let request = system.request_to(0, Method::POST, COMPONENT_STATUS).bearer_auth(&system.token);
    let mut request = request.header("Connection", "close").header("Prefer", "wait=30");
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    answer(request.body(body)).await
}

/// Nothing of what was refused was queued: the one update that is posted now is the only one.
async fn nothing_was_queued(system: System) -> Result<()> {
    let answer = system.post(&status_update("DNS", 1)).await?;
    ensure!(answer.status == 201 && answer.body["id"] == 1, "{answer:?}");
    system.drained().await?;
    let updates = system.count("SELECT count(*) FROM sdb_inbox").await?;
    ensure!(updates == 1, "{updates} updates were queued");
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
