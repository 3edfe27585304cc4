//! A list is never older than what was committed, and is not sent again unchanged.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::RequestBuilder;
use serde_json::json;

use super::{CATALOGUE, get, tag, windows};
use harness::{COMPONENT_STATUS, Fixture, INCIDENTS, System, answer, eventually, same, tests};

tests!(
    a_list_that_the_client_has_is_not_sent_again,
    every_foreign_write_shows_at_once,
    a_transaction_shows_when_it_commits,
    what_changes_nothing_leaves_the_tag,
    active_lists_change_when_a_window_opens_or_closes,
);

async fn a_list_that_the_client_has_is_not_sent_again(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    let one = "/api/v1/component_status?name=DNS&attribute_name=region&attribute_value=R1";
    for path in [
        INCIDENTS,
        COMPONENT_STATUS,
        "/api/v1/incidents?active=true",
        "/api/v1/component_status?active=true",
        "/api/v1/incidents?limit=3",
        one,
    ] {
        let plain = get(&system, path, &[]).await?;
        let gzip = get(&system, path, &[("Accept-Encoding", "gzip")]).await?;
        let tags = [plain.header("etag").to_owned(), gzip.header("etag").to_owned()];
        ensure!(tags[0] != tags[1], "{path}: one tag for both codings: {tags:?}");
        for (list, other, coding) in [(&plain, &tags[1], "identity"), (&gzip, &tags[0], "gzip")] {
            ensure!(list.status == 200 && list.header("vary") == "Accept-Encoding", "{path}");
            let tag = list.header("etag");
            // A list that is read while it changes has the tag of the state before.
            ensure!(tag.starts_with("W/\"") && tag.ends_with('"'), "{path} is strong: {tag}");
            let opaque = tag.trim_start_matches("W/");
            let asked = async |condition: &str| {
                let headers = [("Accept-Encoding", coding), ("If-None-Match", condition)];
                get(&system, path, &headers).await
            };
            for condition in [
                tag.to_owned(),
                // As a gateway of the release before would have it.
                opaque.to_owned(),
                format!("\"other\", {tag}"),
                format!("\"other\",W/\"another\" ,  {opaque}"),
                format!("\"a,b\",\t{tag}"),
                "*".to_owned(),
            ] {
                let unchanged = asked(&condition).await?;
                ensure!(unchanged.status == 304, "{path}, {condition}: {}", unchanged.status);
                ensure!(unchanged.bytes.is_empty(), "{path}: a body with 304");
                ensure!(unchanged.header("etag") == tag, "{path}: {:?}", unchanged.headers);
                ensure!(unchanged.header("vary") == "Accept-Encoding", "{:?}", unchanged.headers);
            }
            let without_quotes = opaque.trim_matches('"').to_owned();
            for condition in ["\"other\"", "W/\"other\"", &without_quotes, other, ""] {
                let sent = asked(condition).await?;
                ensure!(sent.status == 200, "{path}, {condition}: {}", sent.status);
                ensure!(sent.bytes == list.bytes, "{path}, {condition}: another list");
            }
        }
    }
    // What can't be found or used is so whatever the client has.
    let any = [("If-None-Match", "*")];
    ensure!(get(&system, &one.replace("R1", "R9"), &any).await?.status == 404);
    ensure!(get(&system, "/api/v1/incidents?limit=0", &any).await?.status == 422);
    system.finish().await
}

async fn every_foreign_write_shows_at_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    system.sql("INSERT INTO incident_component_relation VALUES (1, 1), (3, 2)").await?;
    let now = "now() AT TIME ZONE 'UTC'";
    let insert_incident = format!(
        "INSERT INTO incident (id, text, impact, start_date) VALUES (100, 'New', 1, {now})"
    );
    let insert_update = format!(
        "INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
        VALUES (3, {now}, 'New', 'fixing')"
    );
    let close = format!("UPDATE incident SET end_date = {now} WHERE id = 100");
    // Each statement, and the lists that it is seen in.
    let both = &[INCIDENTS, COMPONENT_STATUS][..];
    let components = &[COMPONENT_STATUS][..];
    let incidents = &[INCIDENTS][..];
    for (statement, seen_in) in [
        ("INSERT INTO component (id, name) VALUES (100, 'New')", components),
        ("UPDATE component SET name = 'Newer' WHERE id = 100", components),
        (
            "INSERT INTO component_attribute (id, component_id, name, value)
            VALUES (100, 100, 'region', 'R1')",
            components,
        ),
        ("UPDATE component_attribute SET value = 'R2' WHERE id = 100", components),
        (&insert_incident, incidents),
        ("UPDATE incident SET text = 'Newer' WHERE id = 100", incidents),
        ("INSERT INTO incident_component_relation VALUES (100, 100)", components),
        (
            "UPDATE incident_component_relation SET component_id = 1
            WHERE incident_id = 100",
            components,
        ),
        (&insert_update, both),
        ("UPDATE incident_status SET text = 'Newer' WHERE incident_id = 3", both),
        (&close, both),
        ("DELETE FROM incident_status WHERE incident_id = 3", both),
        ("DELETE FROM incident_component_relation WHERE incident_id = 100", components),
        ("DELETE FROM incident WHERE id = 100", incidents),
        ("DELETE FROM component_attribute WHERE id = 100", components),
        ("DELETE FROM component WHERE id = 100", components),
        ("COPY component (id, name) FROM PROGRAM 'echo 101,Copied' (FORMAT csv)", components),
        ("TRUNCATE incident_status", both),
        ("TRUNCATE incident_component_relation", components),
        ("TRUNCATE component_attribute", components),
        ("TRUNCATE component CASCADE", components),
        ("TRUNCATE incident CASCADE", incidents),
    ] {
        let mut before = Vec::new();
        for path in both {
            before.push((*path, tag(&system, path).await?, get(&system, path, &[]).await?.bytes));
        }
        let active = ["/api/v1/incidents?active=true", "/api/v1/component_status?active=true"];
        let mut active_before = Vec::new();
        for path in active {
            active_before.push((
                path,
                tag(&system, path).await?,
                get(&system, path, &[]).await?.bytes,
            ));
        }
        system.sql(statement).await.with_context(|| statement.to_owned())?;
        for (path, old_tag, old) in before.iter().chain(&active_before) {
            let now = get(&system, path, &[("If-None-Match", old_tag)]).await?;
            let must_show = seen_in.contains(path);
            ensure!(!must_show || now.status == 200, "{path} is stale after {statement}");
            // Never an old list for a new tag, nor an old tag for a new list.
            let fresh = get(&system, path, &[]).await?;
            ensure!(!must_show || &fresh.bytes != old, "{statement} does not show in {path}");
            ensure!(
                &fresh.bytes == old || (fresh.header("etag") != old_tag && now.status == 200),
                "{path} changed after {statement}, its tag did not"
            );
        }
    }
    same(&system.get(INCIDENTS).await?.body, &json!([]))?;
    same(&system.get(COMPONENT_STATUS).await?.body, &json!([]))?;
    system.finish().await
}

async fn a_transaction_shows_when_it_commits(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    for (commit, statement) in [
        (true, "UPDATE incident SET text = 'Changed' WHERE id = 1"),
        (false, "UPDATE incident SET text = 'Changed back' WHERE id = 1"),
        (true, "UPDATE component SET name = 'Changed' WHERE id = 1"),
        (false, "DELETE FROM component_attribute"),
        (true, "TRUNCATE component_attribute"),
    ] {
        let mut before = Vec::new();
        for path in [INCIDENTS, COMPONENT_STATUS] {
            before.push((path, tag(&system, path).await?));
        }
        let mut transaction = system.database.begin().await?;
        sqlx::raw_sql(statement).execute(&mut *transaction).await?;
        if !statement.starts_with("TRUNCATE") {
            // Until then readers neither see it nor wait for it.
            for (path, old) in &before {
                let open = get(&system, path, &[("If-None-Match", old)]).await?;
                ensure!(open.status == 304, "{statement} shows in {path} before its commit");
            }
        }
        if commit {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        let mut changed = false;
        for (path, old) in &before {
            let status = get(&system, path, &[("If-None-Match", old)]).await?.status;
            ensure!(commit || status == 304, "{path} changed after a rollback of {statement}");
            changed |= status == 200;
        }
        ensure!(changed == commit, "{statement} does not show");
    }
    system.finish().await
}

async fn what_changes_nothing_leaves_the_tag(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[]), ("CDN", &[])]).await?;
    let dns = json!({ "name": "DNS", "impact": 2 });
    let before = tag(&system, INCIDENTS).await?;
    let decided = async |update: RequestBuilder| answer(update.header("Prefer", "wait=30")).await;
    let opened = decided(system.update(&dns).header("Idempotency-Key", "k")).await?;
    ensure!(opened.status == 201, "{opened:?}");
    let after = tag(&system, INCIDENTS).await?;
    ensure!(after != before, "an update does not show");
    system
        .sql(
            "INSERT INTO incident (text, impact, start_date) VALUES ('M', 0, '2024-01-01');
            INSERT INTO incident_component_relation VALUES (2, 2);",
        )
        .await?;

    let paths = [
        INCIDENTS,
        COMPONENT_STATUS,
        "/api/v1/incidents?active=true",
        "/api/v1/component_status?active=true",
    ];
    let mut tags = Vec::new();
    for path in paths {
        tags.push((path, tag(&system, path).await?));
    }
    let cdn = json!({ "name": "CDN", "impact": 3 });
    for (what, request, status) in [
        ("covered", system.update(&dns), 200),
        ("covered by more", system.update(&json!({ "name": "DNS", "impact": 1 })), 200),
        ("in a maintenance", system.update(&cdn), 200),
        ("repeated", system.update(&dns).header("Idempotency-Key", "k"), 201),
        ("rejected", system.update(&cdn).header("Idempotency-Key", "k"), 422),
        ("refused", system.update(&json!({ "name": "Nobody", "impact": 1 })), 400),
    ] {
        let answer = decided(request).await?;
        ensure!(answer.status == status, "{what}: {answer:?}");
        for (path, tag) in &tags {
            let list = get(&system, path, &[("If-None-Match", tag)]).await?;
            ensure!(list.status == 304, "{path} has another tag after an update that was {what}");
        }
    }
    ensure!(system.post(&json!({ "name": "DNS", "impact": 3 })).await?.status == 201);
    for (path, tag) in &tags {
        let list = get(&system, path, &[("If-None-Match", tag)]).await?;
        ensure!(list.status == 200, "{path} is stale");
    }
    system.finish().await
}

async fn active_lists_change_when_a_window_opens_or_closes(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    let soon = "now() AT TIME ZONE 'UTC' + interval '1 s'";
    let paths = ["/api/v1/incidents?active=true", "/api/v1/component_status?active=true"];
    for (write, stands) in [
        // A window opens among others that stay as they are.
        (
            format!(
                "INSERT INTO incident (text, impact, start_date, end_date) VALUES
                    ('Past', 0, '2024-01-01', '2024-01-02'), ('Far', 0, '2100-01-01', '2100-01-02'),
                    ('Upgrade', 0, {soon}, '2100-01-01');
                INSERT INTO incident_component_relation SELECT id, 1 FROM incident;"
            ),
            true,
        ),
        // The same one closes.
        (format!("UPDATE incident SET end_date = {soon} WHERE text = 'Upgrade'"), false),
    ] {
        system.sql(&write).await?;
        let mut before = Vec::new();
        for path in paths {
            before.push((path, get(&system, path, &[]).await?));
        }
        for (path, old) in before {
            eventually("the window has passed", async || {
                let list = get(&system, path, &[]).await?;
                let shows = String::from_utf8(list.bytes)?.contains("Upgrade");
                Ok(shows == stands)
            })
            .await?;
            let now = get(&system, path, &[("If-None-Match", old.header("etag"))]).await?;
            // On a machine that stalls the window may have passed before the first look.
            let seen_before = String::from_utf8_lossy(&old.bytes).contains("Upgrade") != stands;
            ensure!(!seen_before || now.status == 200, "{path}: the tag misses the window");
            ensure!(
                !seen_before || now.header("etag") != old.header("etag"),
                "{path}: the old tag"
            );
        }
    }
    system.finish().await
}
