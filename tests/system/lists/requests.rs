//! How lists are asked for, and how they are sent.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::Value;

use super::{CATALOGUE, ask, get, ids, tag, windows};
use harness::{COMPONENT_STATUS, Fixture, INCIDENTS, System, answer, same, tests};

tests!(
    parameters_that_cannot_be_used_are_named,
    lists_are_public,
    lists_are_compressed_where_the_client_accepts_it,
    head_has_the_headers_and_no_body,
    what_has_no_content_reads_none,
);

async fn parameters_that_cannot_be_used_are_named(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    for (path, query, fields) in [
        (COMPONENT_STATUS, "attribute_name=region", &["attribute_value"][..]),
        (COMPONENT_STATUS, "attribute_value=R1", &["attribute_name"]),
        (COMPONENT_STATUS, "name=DNS&attribute_name=region", &["attribute_value"]),
        (COMPONENT_STATUS, "name=DNS&attribute_value=R1", &["attribute_name"]),
        (COMPONENT_STATUS, "active=maybe", &["active"]),
        (COMPONENT_STATUS, "active=2&attribute_value=R1", &["active", "attribute_name"]),
        (COMPONENT_STATUS, "name=%00", &["name"]),
        (COMPONENT_STATUS, "attribute_name=%00&attribute_value=a", &["attribute_name"]),
        (INCIDENTS, "active=maybe", &["active"]),
        (INCIDENTS, "impact=4", &["impact"]),
        (INCIDENTS, "impact=-1", &["impact"]),
        (INCIDENTS, "impact=bad", &["impact"]),
        (INCIDENTS, "impact=", &["impact"]),
        (INCIDENTS, "impact=1.5", &["impact"]),
        (INCIDENTS, "impact=1.0", &["impact"]),
        (INCIDENTS, "impact=1e0", &["impact"]),
        (INCIDENTS, "impact=01", &["impact"]),
        (INCIDENTS, "impact=%2B1", &["impact"]),
        (INCIDENTS, "impact=+1", &["impact"]),
        (INCIDENTS, "impact=1%20", &["impact"]),
        (INCIDENTS, "impact=Minor", &["impact"]),
        (INCIDENTS, "limit=0", &["limit"]),
        (INCIDENTS, "limit=-1", &["limit"]),
        (INCIDENTS, "limit=1001", &["limit"]),
        (INCIDENTS, "limit=many", &["limit"]),
        (INCIDENTS, "limit=", &["limit"]),
        (INCIDENTS, "limit=99999999999999999999", &["limit"]),
        (INCIDENTS, "limit=5&cursor=", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=next", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=1.99999999999", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=9224318016000000000.1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=99999999999999999999999999999999999999999.1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=Infinity.1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=-9223372036854775808.1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=%ff", &["cursor"]),
        (INCIDENTS, "cursor=%00", &["cursor"]),
        (
            INCIDENTS,
            "active=maybe&impact=9&limit=0&cursor=x",
            &["active", "cursor", "impact", "limit"],
        ),
    ] {
        let refused = answer(system.request_to(0, Method::GET, &format!("{path}?{query}"))).await?;
        ensure!(refused.status == 422 && refused.body["code"] == 422, "{query}: {refused:?}");
        ensure!(refused.body["status"] == "Unprocessable Entity", "{query}: {refused:?}");
        let errors = refused.body["errors"]["query"].as_object().context("no errors.query")?;
        let mut named: Vec<&str> = errors.keys().map(String::as_str).collect();
        named.sort_unstable();
        ensure!(named == fields, "{query}: {refused:?}");
        ensure!(errors.values().all(|problems| problems[0].is_string()), "{query}: {refused:?}");
    }
    // The edges of the calendar are places in the list, too.
    for (cursor, expected) in [
        ("253402300799999999.1", 8),
        ("-62135596800000000.1", 0),
        ("9224318015999999999.1", 8),
        ("-210866803200000000.1", 0),
        ("infinity.1", 8),
        ("-infinity.1", 0),
    ] {
        let path = format!("{INCIDENTS}?limit=10&cursor={cursor}");
        let page = system.get(&path).await?;
        ensure!(page.status == 200 && ids(&page.body).len() == expected, "{cursor}: {page:?}");
    }
    system.finish().await
}

async fn lists_are_public(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    for path in [INCIDENTS, COMPONENT_STATUS, "/api/v1/incidents?limit=2"] {
        let with_token = system.get(path).await?;
        ensure!(with_token.status == 200, "{with_token:?}");
        for authorization in
            [None, Some("Bearer garbage"), Some("Basic eDp5"), Some("Bearer"), Some("")]
        {
            let mut request = system.request_to(0, Method::GET, path);
            if let Some(value) = authorization {
                request = request.header("Authorization", value);
            }
            let public = answer(request).await?;
            ensure!(public.status == 200, "{authorization:?}: {public:?}");
            same(&public.body, &with_token.body)?;
        }
    }
    system.finish().await
}

async fn lists_are_compressed_where_the_client_accepts_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    system.sql("INSERT INTO incident_component_relation SELECT id, 1 FROM incident").await?;
    let one = "/api/v1/component_status?name=DNS&attribute_name=region&attribute_value=R1";
    for path in [INCIDENTS, COMPONENT_STATUS, one, "/api/v1/incidents?limit=3"] {
        let plain = get(&system, path, &[]).await?;
        ensure!(plain.header("content-encoding").is_empty(), "{:?}", plain.headers);
        let value: Value = serde_json::from_slice(&plain.bytes)?;
        for (accepted, gzip) in [
            ("gzip", true),
            ("GZIP", true),
            ("x-gzip", true),
            ("gzip, deflate, br", true),
            ("br;q=1.0, gzip;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;Q=0", false),
            ("gzip ;\tQ=0.0, *;q=1", false),
            ("identity, gzip;q=0.5", false),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("br", false),
            ("deflate, br, zstd", false),
            ("", false),
        ] {
            let list = get(&system, path, &[("Accept-Encoding", accepted)]).await?;
            ensure!(list.status == 200 && list.header("vary") == "Accept-Encoding", "{accepted}");
            let coding = list.header("content-encoding");
            ensure!(coding == if gzip { "gzip" } else { "" }, "{accepted:?} gives {coding:?}");
            ensure!(list.header("content-type") == "application/json", "{:?}", list.headers);
            ensure!(list.header("link") == plain.header("link"), "{:?}", list.headers);
            ensure!(serde_json::from_slice::<Value>(&list.decoded()?)? == value, "{accepted}");
        }
    }
    // Errors are readable, too.
    let refused = get(&system, "/api/v1/incidents?limit=0", &[("Accept-Encoding", "gzip")]).await?;
    let refused: Value = serde_json::from_slice(&refused.decoded()?)?;
    ensure!(refused["code"] == 422, "{refused}");
    system.finish().await
}

async fn head_has_the_headers_and_no_body(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    for path in
        [INCIDENTS, COMPONENT_STATUS, "/api/v1/incidents?limit=3", "/api/v1/incidents?active=true"]
    {
        for coding in ["identity", "gzip"] {
            let accept = [("Accept-Encoding", coding)];
            let list = get(&system, path, &accept).await?;
            let head = ask(&system, Method::HEAD, path, &accept).await?;
            ensure!(head.status == 200 && head.bytes.is_empty(), "{path}: {}", head.status);
            for name in
                ["etag", "vary", "content-type", "content-encoding", "link", "content-length"]
            {
                ensure!(
                    head.header(name) == list.header(name),
                    "{path}, {name}: {:?} is not {:?}",
                    head.headers,
                    list.headers
                );
            }
            let known = [accept[0], ("If-None-Match", list.header("etag"))];
            let unchanged = ask(&system, Method::HEAD, path, &known).await?;
            ensure!(unchanged.status == 304, "{path}: {}", unchanged.status);
            // 0 would be wrong: the length is that of the list (RFC 9110, 8.6).
            let length = unchanged.header("content-length");
            ensure!(length.is_empty(), "{path}: {:?}", unchanged.headers);
        }
    }
    let refused = ask(&system, Method::HEAD, "/api/v1/incidents?limit=0", &[]).await?;
    ensure!(refused.status == 422 && refused.bytes.is_empty());
    system.finish().await
}

async fn what_has_no_content_reads_none(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    let whole = [INCIDENTS, COMPONENT_STATUS, "/api/v1/incidents?active=true"];
    let one = "/api/v1/component_status?name=DNS&attribute_name=region&attribute_value=R1";
    let page = "/api/v1/incidents?limit=3";
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
    for coding in ["identity", "gzip"] {
        for (path, method, headers, status) in whole
            .iter()
            .map(|path| (*path, Method::HEAD, vec![], 200))
            .chain(whole.iter().map(|path| (*path, Method::GET, vec![("If-None-Match", "*")], 304)))
            .chain(
                whole.iter().map(|path| (*path, Method::HEAD, vec![("If-None-Match", "*")], 304)),
            )
            .chain(
                [Method::GET, Method::HEAD].map(|m| (page, m, vec![("If-None-Match", "*")], 304)),
            )
        {
            let headers = [headers, vec![("Accept-Encoding", coding)]].concat();
            // One that reads the list waits for the lock until PostgreSQL ends it, and is answered 503.
            let got = ask(&system, method.clone(), path, &headers).await?;
            ensure!(got.status == status, "{method} {path}: {} {:?}", got.status, got.headers);
            ensure!(got.bytes.is_empty() && !got.header("etag").is_empty(), "{:?}", got.headers);
            // What it would be is not known, and 0 would be wrong.
            ensure!(got.header("content-length").is_empty(), "{:?}", got.headers);
            let coded = if status == 200 && coding == "gzip" { "gzip" } else { "" };
            ensure!(got.header("content-encoding") == coded, "{path}: {:?}", got.headers);
        }
    }
    held.rollback().await?;
    // The tag is that of the list.
    let head = ask(&system, Method::HEAD, INCIDENTS, &[]).await?;
    ensure!(head.header("etag") == tag(&system, INCIDENTS).await?, "{:?}", head.headers);
    // Where the next page is, and whether there is such a component, only the content tells.
    system.sql("UPDATE incident SET text = 'Changed' WHERE id = 1").await?;
    let head = ask(&system, Method::HEAD, page, &[]).await?;
    ensure!(head.status == 200 && head.header("link").contains("cursor="), "{:?}", head.headers);
    for (value, status) in [("R1", 200), ("R9", 404)] {
        let path = one.replace("R1", value);
        ensure!(ask(&system, Method::HEAD, &path, &[]).await?.status == status, "{path}");
        let any = [("If-None-Match", "*")];
        let expected = if status == 200 { 304 } else { 404 };
        ensure!(get(&system, &path, &any).await?.status == expected, "{path}");
    }
    system.finish().await
}
