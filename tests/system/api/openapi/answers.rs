//! Every answer is held against the document.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Document,
    alerts::alerts_and_webhook,
    formats::{self, formats},
    many_updates::many_updates,
    v2::{self, v2, v2_without_rabbitmq},
};
use harness::{Answer, COMPONENT_STATUS, Fixture, INCIDENTS, System, answer, eventually, tests};

tests!(every_answer_is_in_the_document,);

/// A system with an update that waits, and is parked when the worker comes.
async fn prepared(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system = System::prepared(fixture).await?;
    system.start_gateway(&[]).await?;
    system
        .components(&[("DNS", &[("region", "R1")]), ("CDN", &[]), ("VPN", &[]), ("Gone", &[])])
        .await?;
    Ok(system)
}

const RECEIPT: &str = "/api/v1/updates/{id}";

/// Where nobody listens.
const NOWHERE: [(&str, &str); 2] = [
    ("SDB_DATABASE_URI", "postgresql://x:y@127.0.0.1:1/z"),
    ("SDB_AMQP_URI", "amqp://127.0.0.1:1"),
];

pub(super) fn update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact, "text": "Slow" })
}

fn keyed(request: RequestBuilder, key: &str) -> RequestBuilder {
    request.header("Idempotency-Key", key)
}

pub(super) fn later(request: RequestBuilder) -> RequestBuilder {
    request.header("Prefer", "respond-async")
}

pub(super) fn patient(request: RequestBuilder) -> RequestBuilder {
    request.header("Prefer", "wait=20")
}

/// The answer to a request whose body never comes.
pub(super) async fn without_its_body(system: &System, path: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(&system.addresses[0]).await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
        Content-Type: application/json\r\nContent-Length: 10\r\n\r\n",
        system.token
    );
    stream.write_all(head.as_bytes()).await?;
    rest(&mut stream).await
}

/// An answer after which its connection ends.
pub(super) async fn rest(stream: &mut TcpStream) -> Result<Answer> {
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    let (head, body) = said.split_once("\r\n\r\n").context("no head")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?;
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.insert(reqwest::header::HeaderName::try_from(name)?, value.parse()?);
    }
    Ok(Answer { status: status.parse()?, headers, body: serde_json::from_str(body)? })
}

async fn every_answer_is_in_the_document(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    let mut document = Document::read(&system).await?;
    let examples = document.examples()?;
    ensure!(examples > 4, "only {examples} examples");

    updates(&mut system, &mut document).await?;
    many_updates(&system, &mut document).await?;
    alerts_and_webhook(&system, &mut document).await?;
    v2(&system, &mut document).await?;
    formats(&system, &mut document, system.addresses.len() - 1).await?;
    lists(&system, &mut document).await?;
    without_servers(&mut system, &mut document).await?;

    let missed: Vec<String> = document
        .promised()
        .into_iter()
        .filter(|promised| !document.met.contains(promised))
        .collect();
    ensure!(missed.is_empty(), "promised and never met: {}", missed.join(", "));
    system.finish_with_parked()
}

/// Updates and their receipts.
async fn updates(system: &mut System, document: &mut Document) -> Result<()> {
    let gone = answer(later(system.update(&update("Gone", 1)))).await?;
    let gone = document.check("POST", COMPONENT_STATUS, gone)?;
    let waiting = document.check("GET", RECEIPT, system.get(gone.header("location")).await?)?;
    ensure!(waiting.body["state"] == "pending", "{waiting:?}");
    system.sql("DELETE FROM component WHERE name = 'Gone'").await?;
    system.start_worker(&[]).await?;
    eventually("the update is parked", async || {
        let receipt = document.check("GET", RECEIPT, system.get(gone.header("location")).await?)?;
        Ok(receipt.body["state"] == "parked")
    })
    .await?;

    for (name, impact, status) in
        [("DNS", 1, 201), ("DNS", 1, 200), ("CDN", 1, 201), ("CDN", 2, 201), ("CDN", 3, 201)]
    {
        let request = patient(keyed(
            system.update(&update(name, impact)),
            &format!("{name}{impact}{status}"),
        ));
        let done = document.check("POST", COMPONENT_STATUS, answer(request).await?)?;
        ensure!(done.status == status, "{done:?}");
        let receipt = format!("/api/v1/updates/{}", done.header("update-id"));
        let receipt = document.check("GET", RECEIPT, system.get(&receipt).await?)?;
        ensure!(receipt.body["state"] == "done", "{receipt:?}");
    }
    for (name, status) in [("CDN", 201), ("VPN", 200)] {
        let ok = json!({ "name": name, "impact": "ok" });
        let done = answer(patient(system.update(&ok))).await?;
        let done = document.check("POST", COMPONENT_STATUS, done)?;
        ensure!(done.status == status, "{done:?}");
    }
    let other = || keyed(system.update(&update("VPN", 1)), "DNS1201");
    let rejected = document.check("POST", COMPONENT_STATUS, answer(patient(other())).await?)?;
    ensure!(rejected.status == 422, "{rejected:?}");
    let receipt = format!("/api/v1/updates/{}", rejected.header("update-id"));
    let receipt = document.check("GET", RECEIPT, system.get(&receipt).await?)?;
    ensure!(receipt.body["state"] == "rejected", "{receipt:?}");

    let post = || system.request_to(0, Method::POST, COMPONENT_STATUS).bearer_auth(&system.token);
    let json = |body: &str| post().header("Content-Type", "application/json").body(body.to_owned());
    for (request, status) in [
        (json(r#"{"name": 1, "attributes": [2], "more": 3}"#), 422),
        (json("{"), 400),
        (patient(json(r#"{"name": "Nobody", "impact": 1}"#)), 400),
        (json(r#"{"name": "DNS", "impact": 0}"#), 400),
        (keyed(json("{}"), ""), 400),
        (json(&" ".repeat(65 * 1024)), 413),
        (post().body("{}"), 415),
        (json("{}").header("Content-Encoding", "gzip"), 415),
        (system.request_to(0, Method::POST, COMPONENT_STATUS).body("{}"), 401),
    ] {
        let refused = document.check("POST", COMPONENT_STATUS, answer(request).await?)?;
        ensure!(refused.status == status, "not {status}: {refused:?}");
    }
    document.check("POST", COMPONENT_STATUS, without_its_body(system, COMPONENT_STATUS).await?)?;

    let unknown = "/api/v1/updates/00000000-0000-7000-8000-000000000000";
    let unknown = document.check("GET", RECEIPT, system.get(unknown).await?)?;
    ensure!(unknown.status == 404, "{unknown:?}");
    let nobody = system.request_to(0, Method::GET, gone.header("location"));
    document.check("GET", RECEIPT, answer(nobody).await?)?;

    system.start_gateway(&[("SDB_V1_CONFLICT", "true")]).await?;
    let last = system.addresses.len() - 1;
    let conflict = patient(system.update_to(last, &update("DNS", 1)));
    let conflict = document.check("POST", COMPONENT_STATUS, answer(conflict).await?)?;
    ensure!(conflict.status == 409, "{conflict:?}");

    system.start_gateway(&[("SDB_RATE_LIMIT", "1"), ("SDB_MAX_CONNECTIONS", "40")]).await?;
    let last = system.addresses.len() - 1;
    let send = || later(system.update_to(last, &update("DNS", 1)));
    sends_too_much(document, COMPONENT_STATUS, send).await
}

/// Sends updates until one is refused since there are too many. Several at a time: one after the other they may be
/// slower than the rate.
pub(super) async fn sends_too_much(
    document: &mut Document,
    path: &str,
    send: impl Fn() -> RequestBuilder,
) -> Result<()> {
    eventually("the token has sent too much", async || {
        let mut refused = false;
        for sent in try_join_all((0..4).map(|_| answer(send()))).await? {
            refused |= document.check("POST", path, sent)?.status == 429;
        }
        Ok(refused)
    })
    .await
}

/// Both lists, and the probes.
async fn lists(system: &System, document: &mut Document) -> Result<()> {
    // An operator's incident, with a start that only PostgreSQL's calendar has.
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date, end_date)
            VALUES ('Move', 0, false, '4000-01-01 BC', 'infinity');
            INSERT INTO incident_component_relation SELECT max(id), 1 FROM incident;",
        )
        .await?;
    for (list, query, status) in [
        (COMPONENT_STATUS, "", 200),
        (COMPONENT_STATUS, "?name=D&active=true", 200),
        (COMPONENT_STATUS, "?name=DNS&attribute_name=region&attribute_value=R1", 200),
        (COMPONENT_STATUS, "?name=DNS&attribute_name=region&attribute_value=R2", 404),
        (COMPONENT_STATUS, "?attribute_name=region", 422),
        (INCIDENTS, "", 200),
        (INCIDENTS, "?limit=1&active=1&impact=minor", 200),
        (INCIDENTS, "?limit=1", 200),
        (INCIDENTS, "?limit=0&cursor=x&impact=9&active=perhaps", 422),
    ] {
        let shown = document.check("GET", list, system.get(&format!("{list}{query}")).await?)?;
        ensure!(shown.status == status, "not {status}: {shown:?}");
    }
    for list in [COMPONENT_STATUS, INCIDENTS] {
        let compressed = system.request_to(0, Method::HEAD, list).header("Accept-Encoding", "gzip");
        let compressed = document.check("HEAD", list, answer(compressed).await?)?;
        let again = system.request_to(0, Method::GET, list).header("Accept-Encoding", "gzip");
        let again = again.header("If-None-Match", compressed.header("etag"));
        let unchanged = document.check("GET", list, answer(again).await?)?;
        ensure!(unchanged.status == 304, "{unchanged:?}");
    }
    for probe in ["/healthz", "/metrics"] {
        let healthy = document.check("GET", probe, system.get(probe).await?)?;
        ensure!(healthy.status == 200, "{healthy:?}");
    }
    // For a moment the database may not answer in its time.
    eventually("the gateway is ready", async || {
        Ok(document.check("GET", "/readyz", system.get("/readyz").await?)?.status == 200)
    })
    .await
}

/// What is answered while a server is away.
async fn without_servers(system: &mut System, document: &mut Document) -> Result<()> {
    system.start_gateway_unready(&NOWHERE).await?;
    let last = system.addresses.len() - 1;
    let of_v1 = [
        (COMPONENT_STATUS, COMPONENT_STATUS),
        (INCIDENTS, INCIDENTS),
        (RECEIPT, "/api/v1/updates/019ce2a4-7c00-7000-8000-000000000000"),
        ("/readyz", "/readyz"),
    ];
    for (path, asked) in of_v1.into_iter().chain(v2::ASKED).chain(formats::ASKED) {
        let request = system.request_to(last, Method::GET, asked).bearer_auth(&system.token);
        let unavailable = document.check("GET", path, answer(request).await?)?;
        ensure!(unavailable.status == 503, "{unavailable:?}");
    }
    let unavailable = answer(system.update_to(last, &update("DNS", 1))).await?;
    let unavailable = document.check("POST", COMPONENT_STATUS, unavailable)?;
    ensure!(unavailable.status == 503, "{unavailable:?}");

    let [_, no_broker] = NOWHERE;
    system.start_gateway_unready(&[no_broker]).await?;
    let last = system.addresses.len() - 1;
    eventually("the gateway has the catalogue", async || {
        let readiness = answer(system.request_to(last, Method::GET, "/readyz")).await?;
        let readiness = document.check("GET", "/readyz", readiness)?;
        Ok(readiness.body["status"] == "degraded")
    })
    .await?;
    let unavailable = answer(patient(system.update_to(last, &update("DNS", 1)))).await?;
    let unavailable = document.check("POST", COMPONENT_STATUS, unavailable)?;
    ensure!(unavailable.status == 503, "{unavailable:?}");
    v2_without_rabbitmq(system, document, last).await
}
