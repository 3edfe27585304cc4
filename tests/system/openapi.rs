//! The document of the API says what is true: every answer is held against it.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use futures_util::future::select_all;
use reqwest::{
    Method, RequestBuilder,
    header::{HeaderMap, HeaderValue},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use harness::{Answer, Fixture, System, answer, eventually, tests};

tests!(
    every_answer_stands_in_the_document,
    an_answer_that_is_not_in_the_document_is_found,
    the_page_of_the_document_needs_nothing_else,
);

const UPDATES: &str = "/api/v1/component_status";
const MANY: &str = "/api/v1/updates";
const INCIDENTS: &str = "/api/v1/incidents";
const RECEIPT: &str = "/api/v1/updates/{id}";
/// Where nobody listens.
const NOWHERE: [(&str, &str); 2] = [
    ("SDB_DATABASE_URI", "postgresql://x:y@127.0.0.1:1/z"),
    ("SDB_AMQP_URI", "amqp://127.0.0.1:1"),
];
/// Headers that HTTP has everywhere.
const EVERYWHERE: [&str; 5] =
    ["connection", "content-length", "content-type", "date", "transfer-encoding"];
/// What every answer has, and how it begins.
const PROTECTION: [(&str, &str); 5] = [
    ("cache-control", "no-"),
    ("content-security-policy", "default-src 'none'; "),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

/// The document, and what of it was met.
struct Document {
    spec: Value,
    met: BTreeSet<String>,
}

impl Document {
    async fn read(system: &System) -> Result<Self> {
        let mut spec = answer(system.request_to(0, Method::GET, "/api-spec.json")).await?.body;
        ensure!(spec["openapi"] == "3.1.0", "{spec}");
        // A field that the document does not name is a difference, too.
        let schemas = spec["components"]["schemas"].as_object_mut().context("no schemas")?;
        for schema in schemas.values_mut().filter(|schema| schema["properties"].is_object()) {
            schema["additionalProperties"] = json!(false);
        }
        Ok(Self { spec, met: BTreeSet::new() })
    }

    /// Holds a value against a schema of the document.
    fn fits(&self, schema: &Value, value: &Value) -> Result<()> {
        let root = json!({ "components": self.spec["components"], "allOf": [schema] });
        let validator = jsonschema::options().should_validate_formats(true).build(&root)?;
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        ensure!(errors.is_empty(), "{value} does not fit: {}", errors.join("; "));
        Ok(())
    }

    /// Holds an answer against the document; returns it.
    fn check(&mut self, method: &str, path: &str, answer: Answer) -> Result<Answer> {
        let name = format!("{method} {path} {}", answer.status);
        self.compare(&name, method, path, &answer)
            .with_context(|| format!("{name}: {answer:?}"))?;
        Ok(answer)
    }

    fn compare(&mut self, name: &str, method: &str, path: &str, answer: &Answer) -> Result<()> {
        let described = match method {
            "HEAD" => &self.spec["paths"][path]["get"],
            method => &self.spec["paths"][path][method.to_ascii_lowercase()],
        };
        let described = &described["responses"][answer.status.to_string()];
        ensure!(described.is_object(), "the document does not have it");
        match (answer.header("content-type"), described["content"].as_object()) {
            ("", None) => ensure!(answer.body.is_null(), "a body without a type"),
            (media_type, content) => {
                let content = content.and_then(|content| content.get(media_type));
                let schema = &content.context("another content type")?["schema"];
                if method != "HEAD" {
                    self.fits(schema, &answer.body)?;
                }
            }
        }
        for (header, value) in PROTECTION {
            ensure!(answer.header(header).starts_with(value), "{header}");
        }
        let documented = described["headers"].as_object().into_iter().flatten();
        let documented: Vec<String> = documented.map(|(header, _)| header.clone()).collect();
        for (header, value) in &answer.headers {
            let known = documented.iter().find(|known| known.eq_ignore_ascii_case(header.as_str()));
            if let Some(known) = known {
                let schema = &described["headers"][known]["schema"];
                let text = value.to_str()?;
                let value = match schema["type"].as_str() {
                    Some("integer") => json!(text.parse::<i64>()?),
                    _ => json!(text),
                };
                self.fits(schema, &value)?;
                self.met.insert(format!("{name} {known}").replace("HEAD", "GET"));
            } else {
                let common = PROTECTION.map(|(name, _)| name);
                let mut known = EVERYWHERE.iter().chain(&common);
                ensure!(known.any(|known| header == known), "the header {header}");
            }
        }
        self.met.insert(name.replace("HEAD", "GET"));
        Ok(())
    }

    /// Every status, and every header of one, that the document has.
    fn promised(&self) -> Vec<String> {
        let mut promised = Vec::new();
        for (path, methods) in self.spec["paths"].as_object().into_iter().flatten() {
            for (method, described) in methods.as_object().into_iter().flatten() {
                let method = method.to_ascii_uppercase();
                for (status, response) in described["responses"].as_object().into_iter().flatten() {
                    promised.push(format!("{method} {path} {status}"));
                    for (header, _) in response["headers"].as_object().into_iter().flatten() {
                        promised.push(format!("{method} {path} {status} {header}"));
                    }
                }
            }
        }
        promised
    }

    /// Holds every example of the document against its own schema; returns how many there are.
    fn examples(&self) -> Result<usize> {
        let mut pairs = Vec::new();
        for (name, schema) in self.spec["components"]["schemas"].as_object().into_iter().flatten() {
            pairs.extend(schema.get("example").map(|example| (name, schema, example)));
        }
        for (name, methods) in self.spec["paths"].as_object().into_iter().flatten() {
            for (_, described) in methods.as_object().into_iter().flatten() {
                let responses = described["responses"].as_object().into_iter().flatten();
                let bodies = responses.map(|(_, response)| response);
                for body in bodies.chain(described.get("requestBody")) {
                    for (_, content) in body["content"].as_object().into_iter().flatten() {
                        let example = content.get("example");
                        pairs.extend(example.map(|example| (name, &content["schema"], example)));
                    }
                }
            }
        }
        for (name, schema, example) in &pairs {
            self.fits(schema, example).with_context(|| format!("an example of {name}"))?;
        }
        Ok(pairs.len())
    }
}

fn update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact, "text": "Slow" })
}

fn keyed(request: RequestBuilder, key: &str) -> RequestBuilder {
    request.header("Idempotency-Key", key)
}

fn later(request: RequestBuilder) -> RequestBuilder {
    request.header("Prefer", "respond-async")
}

fn patient(request: RequestBuilder) -> RequestBuilder {
    request.header("Prefer", "wait=20")
}

/// The answer to a request whose body never comes.
async fn without_its_body(system: &System, path: &str) -> Result<Answer> {
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
async fn rest(stream: &mut TcpStream) -> Result<Answer> {
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

/// A system with an update that waits, and is parked when the worker comes.
async fn prepared(fixture: &Arc<Fixture>) -> Result<System> {
    let mut system = System::prepared(fixture).await?;
    system.start_gateway(&[]).await?;
    system
        .components(&[("DNS", &[("region", "R1")]), ("CDN", &[]), ("VPN", &[]), ("Gone", &[])])
        .await?;
    Ok(system)
}

async fn every_answer_stands_in_the_document(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = prepared(&fixture).await?;
    let mut document = Document::read(&system).await?;
    let examples = document.examples()?;
    ensure!(examples > 4, "only {examples} examples");

    updates(&mut system, &mut document).await?;
    many_updates(&system, &mut document).await?;
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
    let gone = document.check("POST", UPDATES, gone)?;
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
        let done = document.check("POST", UPDATES, answer(request).await?)?;
        ensure!(done.status == status, "{done:?}");
        let receipt = format!("/api/v1/updates/{}", done.header("update-id"));
        let receipt = document.check("GET", RECEIPT, system.get(&receipt).await?)?;
        ensure!(receipt.body["state"] == "done", "{receipt:?}");
    }
    let other = || keyed(system.update(&update("VPN", 1)), "DNS1201");
    let rejected = document.check("POST", UPDATES, answer(patient(other())).await?)?;
    ensure!(rejected.status == 422, "{rejected:?}");
    let receipt = format!("/api/v1/updates/{}", rejected.header("update-id"));
    let receipt = document.check("GET", RECEIPT, system.get(&receipt).await?)?;
    ensure!(receipt.body["state"] == "rejected", "{receipt:?}");

    let post = || system.request_to(0, Method::POST, UPDATES).bearer_auth(&system.token);
    let json = |body: &str| post().header("Content-Type", "application/json").body(body.to_owned());
    for (request, status) in [
        (json(r#"{"name": 1, "attributes": [2], "more": 3}"#), 422),
        (json("{"), 400),
        (json(r#"{"name": "Nobody", "impact": 1}"#), 400),
        (json(r#"{"name": "DNS", "impact": 0}"#), 400),
        (keyed(json("{}"), ""), 400),
        (json(&" ".repeat(65 * 1024)), 413),
        (post().body("{}"), 415),
        (json("{}").header("Content-Encoding", "gzip"), 415),
        (system.request_to(0, Method::POST, UPDATES).body("{}"), 401),
    ] {
        let refused = document.check("POST", UPDATES, answer(request).await?)?;
        ensure!(refused.status == status, "not {status}: {refused:?}");
    }
    document.check("POST", UPDATES, without_its_body(system, UPDATES).await?)?;

    let unknown = "/api/v1/updates/00000000-0000-7000-8000-000000000000";
    let unknown = document.check("GET", RECEIPT, system.get(unknown).await?)?;
    ensure!(unknown.status == 404, "{unknown:?}");
    let nobody = system.request_to(0, Method::GET, gone.header("location"));
    document.check("GET", RECEIPT, answer(nobody).await?)?;

    system.start_gateway(&[("SDB_V1_CONFLICT", "true")]).await?;
    let last = system.addresses.len() - 1;
    let conflict = patient(system.update_to(last, &update("DNS", 1)));
    let conflict = document.check("POST", UPDATES, answer(conflict).await?)?;
    ensure!(conflict.status == 409, "{conflict:?}");

    system.start_gateway(&[("SDB_RATE_LIMIT", "1")]).await?;
    let last = system.addresses.len() - 1;
    eventually("the token has sent too much", async || {
        let sent = answer(patient(system.update_to(last, &update("DNS", 1)))).await?;
        Ok(document.check("POST", UPDATES, sent)?.status == 429)
    })
    .await?;
    Ok(())
}

/// Many updates at once, with every field that a result can have.
async fn many_updates(system: &System, document: &mut Document) -> Result<()> {
    let (conflict, limited) = (system.addresses.len() - 2, system.addresses.len() - 1);
    let mut keyed = update("VPN", 1);
    keyed["idempotency_key"] = json!("DNS1201");
    let updates = [update("DNS", 1), update("Nobody", 1), json!({}), keyed];
    let many = |gateway: usize| {
        let request = system.request_to(gateway, Method::POST, MANY).bearer_auth(&system.token);
        request.json(&json!({ "updates": updates }))
    };
    for (request, statuses) in [
        (patient(many(0)), [200, 400, 422, 422]),
        (later(many(0)), [202, 400, 422, 202]),
        (patient(many(conflict)), [409, 400, 422, 422]),
    ] {
        let done = document.check("POST", MANY, answer(request).await?)?;
        let results = done.body["results"].as_array().context("no results")?;
        ensure!(results.iter().map(|result| &result["status"]).eq(&statuses), "{done:?}");
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
    Ok(())
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
        (UPDATES, "", 200),
        (UPDATES, "?name=D&active=true", 200),
        (UPDATES, "?name=DNS&attribute_name=region&attribute_value=R1", 200),
        (UPDATES, "?name=DNS&attribute_name=region&attribute_value=R2", 404),
        (UPDATES, "?attribute_name=region", 422),
        (INCIDENTS, "", 200),
        (INCIDENTS, "?limit=1&active=1&impact=minor", 200),
        (INCIDENTS, "?limit=1", 200),
        (INCIDENTS, "?limit=0&cursor=x&impact=9&active=perhaps", 422),
    ] {
        let shown = document.check("GET", list, system.get(&format!("{list}{query}")).await?)?;
        ensure!(shown.status == status, "not {status}: {shown:?}");
    }
    for list in [UPDATES, INCIDENTS] {
        let compressed = system.request_to(0, Method::HEAD, list).header("Accept-Encoding", "gzip");
        let compressed = document.check("HEAD", list, answer(compressed).await?)?;
        let again = system.request_to(0, Method::GET, list).header("Accept-Encoding", "gzip");
        let again = again.header("If-None-Match", compressed.header("etag"));
        let unchanged = document.check("GET", list, answer(again).await?)?;
        ensure!(unchanged.status == 304, "{unchanged:?}");
    }
    for probe in ["/healthz", "/readyz", "/metrics"] {
        let healthy = document.check("GET", probe, system.get(probe).await?)?;
        ensure!(healthy.status == 200, "{healthy:?}");
    }
    Ok(())
}

/// What is answered while a server is away.
async fn without_servers(system: &mut System, document: &mut Document) -> Result<()> {
    system.start_gateway_unready(&NOWHERE).await?;
    let last = system.addresses.len() - 1;
    for (path, asked) in [
        (UPDATES, UPDATES),
        (INCIDENTS, INCIDENTS),
        (RECEIPT, "/api/v1/updates/019ce2a4-7c00-7000-8000-000000000000"),
        ("/readyz", "/readyz"),
    ] {
        let request = system.request_to(last, Method::GET, asked).bearer_auth(&system.token);
        let unavailable = document.check("GET", path, answer(request).await?)?;
        ensure!(unavailable.status == 503, "{unavailable:?}");
    }
    let unavailable = answer(system.update_to(last, &update("DNS", 1))).await?;
    let unavailable = document.check("POST", UPDATES, unavailable)?;
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
    let unavailable = document.check("POST", UPDATES, unavailable)?;
    ensure!(unavailable.status == 503, "{unavailable:?}");
    Ok(())
}

/// The check sees what differs.
async fn an_answer_that_is_not_in_the_document_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    let mut document = Document::read(&system).await?;
    let good = || answer(system.request_to(0, Method::GET, "/healthz"));
    document.check("GET", "/healthz", good().await?)?;
    let with = |change: fn(&mut Answer), mut answer: Answer| {
        change(&mut answer);
        answer
    };
    for change in [
        (|answer| answer.status = 418) as fn(&mut Answer),
        |answer| answer.body = json!({}),
        |answer| answer.body = json!({ "status": 1 }),
        |answer| answer.body["more"] = json!(1),
        |answer| drop(answer.headers.insert("content-type", HeaderValue::from_static("text/html"))),
        |answer| drop(answer.headers.remove("content-type")),
        |answer| drop(answer.headers.insert("x-more", HeaderValue::from_static("1"))),
    ] {
        let found = document.check("GET", "/healthz", with(change, good().await?));
        ensure!(found.is_err(), "it is not found: {found:?}");
    }
    ensure!(document.check("GET", "/elsewhere", good().await?).is_err());
    system.finish().await
}

async fn the_page_of_the_document_needs_nothing_else(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    for (path, media_type) in [
        ("/api-docs", "text/html; charset=utf-8"),
        ("/api-docs/page.js", "text/javascript; charset=utf-8"),
        ("/api-docs/page.css", "text/css; charset=utf-8"),
    ] {
        let file = system.request_to(0, Method::GET, path).send().await?;
        ensure!(file.status() == 200, "{path}: {file:?}");
        ensure!(file.headers()["content-type"] == media_type, "{path}: {file:?}");
        if path == "/api-docs" {
            let policy = file.headers()["content-security-policy"].to_str()?;
            ensure!(policy.starts_with("default-src 'none'"), "{policy}");
            ensure!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
            ensure!(policy.ends_with("frame-ancestors 'none'"), "{policy}");
        }
        let text = file.text().await?;
        ensure!(!text.contains("://"), "{path} names another address");
    }
    system.finish().await
}
