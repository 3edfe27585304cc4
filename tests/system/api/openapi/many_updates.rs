//! Answers to many updates at once.

use anyhow::{Context, Result, ensure};
use futures_util::future::select_all;
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Document,
    answers::{later, patient, rest, update, without_its_body},
};
use harness::{System, answer, eventually};

const MANY: &str = "/api/v1/updates";

/// Many updates at once, with every field that a result can have.
pub(super) async fn many_updates(system: &System, document: &mut Document) -> Result<()> {
    let (conflict, limited) = (system.addresses.len() - 2, system.addresses.len() - 1);
    let mut keyed = update("VPN", 1);
    keyed["idempotency_key"] = json!("DNS1201");
    let updates = [update("DNS", 1), update("Nobody", 1), json!({}), keyed];
    let many = |gateway: usize| {
        let request = system.request_to(gateway, Method::POST, MANY).bearer_auth(&system.token);
        request.json(&json!({ "updates": updates }))
    };
    type Preference = fn(RequestBuilder) -> RequestBuilder;
    let rows: [(Preference, usize, [u16; 4]); 3] = [
        (patient, 0, [200, 400, 422, 422]),
        (later, 0, [202, 400, 422, 202]),
        (patient, conflict, [409, 400, 422, 422]),
    ];
    for (preference, gateway, statuses) in rows {
        eventually("it is known in time what is no component", async || {
            let done = answer(preference(many(gateway))).await?;
            let done = document.check("POST", MANY, done)?;
            let results = done.body["results"].as_array().context("no results")?;
            if results[1]["status"] == 503 {
                return Ok(false);
            }
            ensure!(results.iter().map(|result| &result["status"]).eq(&statuses), "{done:?}");
            Ok(true)
        })
        .await?;
    }
    let too_much = document.check("POST", MANY, answer(many(limited)).await?)?;
    ensure!(too_much.body["results"][3]["status"] == 429, "{too_much:?}");

    let post = || system.request_to(0, Method::POST, MANY).bearer_auth(&system.token);
    let json = |body: &str| post().header("Content-Type", "application/json").body(body.to_owned());
    for (request, status) in [
        (json("{"), 400),
        (json("{}"), 422),
        (json("{}").header("Idempotency-Key", "k"), 400),
        (json(&" ".repeat(1025 * 1024)), 413),
        (post().body("{}"), 415),
        (json("{}").header("Content-Encoding", "gzip"), 415),
        (system.request_to(0, Method::POST, MANY).body("{}"), 401),
    ] {
        let refused = document.check("POST", MANY, answer(request).await?)?;
        ensure!(refused.status == status, "not {status}: {refused:?}");
    }
    document.check("POST", MANY, without_its_body(system, MANY).await?)?;

    // One body more than there is memory for: it is refused, and the others wait.
    let length = 1024 * 1024;
    let head = format!(
        "POST {MANY} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
        Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        system.token
    );
    let body = " ".repeat(length - 1);
    let mut slow = Vec::new();
    for _ in 0..17 {
        let mut stream = TcpStream::connect(&system.addresses[0]).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        slow.push(Box::pin(async move { rest(&mut stream).await }));
    }
    let refused = document.check("POST", MANY, select_all(slow).await.0?)?;
    ensure!(refused.status == 503, "{refused:?}");
    // The gateway takes a moment to notice that the others left.
    let large = " ".repeat(length);
    eventually("there is memory for bodies again", async || {
        Ok(document.check("POST", MANY, answer(json(&large)).await?)?.status == 400)
    })
    .await
}
