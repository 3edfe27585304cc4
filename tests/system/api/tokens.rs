//! Tokens: which are accepted, and what others are answered.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

use super::{base64url, is_error, nothing_was_queued, token_by_hand};
use harness::{
    Answer, CLAIM, COMPONENT_STATUS, Fixture, SECRET, System, answer, eventually, same, tests,
    token,
};

tests!(
    tokens_are_checked_and_refusals_give_no_reason,
    a_rotated_key_and_another_claim_can_be_configured,
);

/// Asks with this header for what needs a token; returns the answers. Neither request is a good
/// one, so that an accepted token shows as 400 and 404.
async fn ask(
    system: &System,
    gateway: usize,
    authorization: Option<&HeaderValue>,
) -> Result<[Answer; 2]> {
    let post = system.request_to(gateway, Method::POST, COMPONENT_STATUS).body("{ no JSON");
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

async fn tokens_are_checked_and_refusals_give_no_reason(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let claims = json!({ CLAIM: "dummy" });
    let good = token(SECRET, &claims);

    // Clocks may differ by 5 s; these are made when they are used, and again if that took long.
    eventually("a token that has just expired is accepted", async || {
        let now = get_current_timestamp();
        let expired = token(SECRET, &json!({ CLAIM: 1, "exp": now - 1 }));
        let accepted = is_accepted(&system, 0, &format!("Bearer {expired}")).await;
        if get_current_timestamp() > now + 3 {
            return Ok(accepted.is_ok());
        }
        accepted.map(|()| true)
    })
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
    let mut system = System::start_with(&fixture, &[("DNS", &[])]).await?;
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
