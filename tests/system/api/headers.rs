//! What requests say in their headers, as the standards have it.

use std::{io::Write, sync::Arc};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::json;

use harness::{Fixture, System, answer, eventually, tests};

tests!(
    a_compressed_body_is_refused_with_what_is_accepted,
    preferences_are_distinguished_from_quoted_text,
);

async fn a_compressed_body_is_refused_with_what_is_accepted(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let plain = json!({ "name": "DNS", "impact": 1 }).to_string();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(plain.as_bytes())?;
    let gzip = gzip.finish()?;
    let post = |codings: &[&'static str], body: &[u8]| {
        let mut request = system
            .request_to(0, Method::POST, "/api/v1/component_status")
            .bearer_auth(&system.token)
            .header("Content-Type", "application/json")
            .header("Prefer", "wait=20")
            .body(body.to_vec());
        for coding in codings {
            request = request.header("Content-Encoding", *coding);
        }
        request
    };
    for codings in [
        &["gzip"][..],
        &["GZIP"],
        &["x-gzip"],
        &["deflate"],
        &["br"],
        &["identity, gzip"],
        &["identity", "gzip"],
        &["nonsense"],
    ] {
        for body in [gzip.as_slice(), plain.as_bytes()] {
            let refused = answer(post(codings, body)).await?;
            ensure!(refused.status == 415, "{codings:?}: {refused:?}");
            ensure!(refused.header("accept-encoding") == "identity", "{codings:?}: {refused:?}");
            let message = refused.body["message"].as_str().unwrap_or_default();
            ensure!(message.contains("Content-Encoding"), "{codings:?}: {refused:?}");
        }
    }
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 0);
    for (codings, status) in [(&["identity"][..], 201), (&["Identity, identity"], 200)] {
        let taken = answer(post(codings, plain.as_bytes())).await?;
        ensure!(taken.status == status, "{codings:?}: {taken:?}");
        ensure!(taken.header("accept-encoding").is_empty(), "{taken:?}");
    }
    // Another type is refused as before, and a coding is not what is wrong with it.
    let other = system.request_to(0, Method::POST, "/api/v1/component_status");
    let other = answer(other.bearer_auth(&system.token).body("x")).await?;
    ensure!(other.status == 415 && other.header("accept-encoding").is_empty(), "{other:?}");
    system.finish().await
}

async fn preferences_are_distinguished_from_quoted_text(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    for (preferences, applied) in [
        (&["wait=20"][..], "wait=20"),
        (&["WAIT = 20 ; x"], "wait=20"),
        (&["foo=\"a, wait=7\", wait=20"], "wait=20"),
        (&["foo=\"\\\", respond-async\"; bar=\", respond-async\"", "wait=\"20\""], "wait=20"),
        (&["wait=20, wait=7", "wait=8"], "wait=20"),
        (&["wait=99999999999999999999"], "wait=30"),
        (&["foo=\"respond-async\""], ""),
        (&["foo;respond-async;wait=3"], ""),
        (&["wait=+3"], ""),
        (&["wait=soon, wait=3"], ""),
        (&["handling=lenient", "respond-async"], "respond-async"),
    ] {
        eventually(&format!("an answer to {preferences:?}"), async || {
            let mut request = system.update(&json!({ "name": "DNS", "impact": 1 }));
            for preference in preferences {
                request = request.header("Prefer", *preference);
            }
            let answered = answer(request).await.with_context(|| format!("{preferences:?}"))?;
            let says = answered.header("preference-applied");
            ensure!(says == applied, "{preferences:?}: {answered:?}");
            let is_async = applied == "respond-async";
            // The default wait may be over before the update is decided.
            if applied.is_empty() && answered.status == 202 {
                return Ok(false);
            }
            ensure!((answered.status == 202) == is_async, "{preferences:?}: {answered:?}");
            Ok(true)
        })
        .await?;
    }
    system.finish().await
}
