//! The pages for people.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::{hostile, page, page_with, plant, rendered, shows};
use harness::{Component, Fixture, System, answer, eventually, tests};

tests!(
    the_page_says_what_is_wrong_and_since_when,
    a_region_has_its_own_page,
    texts_of_others_are_shown_and_never_run,
    pages_follow_what_others_write,
    a_long_history_is_paged,
    uptime_leaves_maintenances_out,
    what_is_not_there_is_a_page_too,
    what_a_component_has_left_is_not_now,
    maintenances_are_planned_or_cancelled,
    a_crowd_is_answered_from_memory,
    without_the_database_the_page_says_so,
    pages_can_be_off,
);

const CATALOGUE: &[Component<'_>] = &[
    ("DNS", &[("region", "R1"), ("category", "Network"), ("type", "dns")]),
    ("DNS", &[("region", "R2"), ("category", "Network"), ("type", "dns")]),
    ("Storage", &[("region", "R1"), ("category", "Storage")]),
    ("Portal", &[]),
];

async fn the_page_says_what_is_wrong_and_since_when(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    let first = page(&system, "/").await?;
    ensure!(first.status == 200 && first.has("All components are operational"), "{first:?}");
    ensure!(first.header("content-type") == "text/html; charset=utf-8", "{first:?}");
    let policy = first.header("content-security-policy");
    ensure!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for (name, value) in [("x-frame-options", "DENY"), ("x-content-type-options", "nosniff")] {
        ensure!(first.header(name) == value, "{name}: {first:?}");
    }
    ensure!(first.header("set-cookie").is_empty(), "{first:?}");

    let update = json!({ "name": "DNS", "impact": 3, "text": "No answers",
        "attributes": [{ "name": "region", "value": "R1" }] });
    ensure!(system.post(&update).await?.status == 201);
    let now = shows(&system, "/", "Outage of 1 component").await?;
    for text in
        ["No answers", "detected by monitoring", "3 of 4 components are operational", "DNS (R1)"]
    {
        ensure!(now.has(text), "{text}: {}", now.text);
    }
    // The bars are of before. Midnight may have passed since.
    let bars = ["1 day", "2 days"].map(|days| format!("The last 90 days: Outage on {days}"));
    ensure!(bars.iter().any(|bar| now.has(bar)), "{}", now.text);
    let incident = page(&system, "/incidents/1").await?;
    ensure!(incident.status == 200 && incident.has("No answers") && incident.has("not known yet"));
    let component = page(&system, "/components/1").await?;
    ensure!(component.status == 200 && component.has("Outage") && component.has("No answers"));
    ensure!(page(&system, "/components/2").await?.has("Operational"));
    ensure!(page(&system, "/history").await?.has("No answers"));

    system.worker_succeeds(&["incident", "comment", "1", "--status", "fixing", "Soon"]).await?;
    let fixing = shows(&system, "/", "being fixed").await?;
    ensure!(fixing.has("confirmed") && fixing.has("Soon"), "{}", fixing.text);
    system.worker_succeeds(&["incident", "close", "1"]).await?;
    let ended = shows(&system, "/", "All components are operational").await?;
    ensure!(ended.has("No answers"), "it is one of the last days: {}", ended.text);
    ensure!(!page(&system, "/incidents/1").await?.has("not known yet"));
    system.finish().await
}

async fn a_region_has_its_own_page(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    let update = json!({ "name": "DNS", "impact": 2, "text": "Slow",
        "attributes": [{ "name": "region", "value": "R2" }] });
    ensure!(system.post(&update).await?.status == 201);
    shows(&system, "/", "Major problem with 1 component").await?;
    let other = page(&system, "/?region=R1").await?;
    ensure!(other.has("All components are operational") && !other.has("Slow"), "{}", other.text);
    let own = page(&system, "/?region=R2").await?;
    ensure!(own.has("Major problem with 1 component") && own.has("Slow"), "{}", own.text);
    ensure!(!own.has("Portal") && own.has("0 of 1 components"), "{}", own.text);
    for path in ["/history?region=R2", "/feed.atom?region=R2"] {
        ensure!(page(&system, path).await?.has("Slow"), "{path}");
    }
    for path in ["/history?region=R1", "/feed.atom?region=R1"] {
        ensure!(!page(&system, path).await?.has("Slow"), "{path}");
    }
    for path in ["/?region=R3", "/history?region=R3", "/feed.atom?region=R3"] {
        ensure!(page(&system, path).await?.status == 404, "{path}");
    }
    system.finish().await
}

async fn texts_of_others_are_shown_and_never_run(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    for text in hostile() {
        plant(&system, &text.replace('\u{8}', "")).await?;
    }
    let long = "W".repeat(255);
    plant(&system, &long).await?;
    let link =
        "<a href='/incidents/1' onclick='alert(1)'>one</a> <a href=\"javascript:alert(1)\">two</a>";
    plant(&system, link).await?;
    shows(&system, "/", &long).await?;
    for path in ["/", "/incidents/1", "/incidents/3", "/components/1", "/history"] {
        let page = page(&system, path).await?;
        ensure!(page.status == 200, "{path}: {}", page.status);
        let markup = page.text.replace("page.js\" defer></script>", "");
        for bad in [
            "<script>",
            "</script>",
            "<img",
            "<svg onload",
            "onclick='",
            "onclick=\"",
            "href=\"javascript:",
        ] {
            ensure!(!markup.contains(bad), "{path} has {bad}: {markup}");
        }
        ensure!(!page.has("\u{202e}") && !page.has("\u{2066}"), "{path} turns what follows");
        let mains = page.text.matches("</main>").count();
        ensure!(mains == 1, "{path} has {mains} ends of the main part");
    }
    let of_link = page(&system, "/").await?;
    ensure!(of_link.has("<a href=\"/incidents/1\" rel=\"nofollow noopener noreferrer\">one</a>"));
    system.finish().await
}

async fn pages_follow_what_others_write(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    page(&system, "/").await?;
    system
        .sql(
            "INSERT INTO incident (text, start_date, end_date, impact, system) VALUES
                ('Written by others', now() AT TIME ZONE 'UTC' - interval '1 h', NULL, 1, false),
                ('Soon to begin', now() AT TIME ZONE 'UTC' + interval '4 s', NULL, 0, false)",
        )
        .await?;
    let now = shows(&system, "/", "Written by others").await?;
    ensure!(now.has("There is a minor problem") && now.has("confirmed"), "{}", now.text);
    let tag = now.header("etag").to_owned();
    ensure!(tag.starts_with("W/"), "{tag}");
    // Nothing is written when it begins.
    eventually("the maintenance is in progress", async || {
        Ok(page(&system, "/incidents/2").await?.has("in progress"))
    })
    .await?;
    // On a machine that stalls, it may have begun before the first look.
    let seen_before = !now.has("in progress");
    let again = page_with(&system, "/", &[("If-None-Match", &tag)]).await?;
    ensure!(!seen_before || again.status == 200, "the tag misses that it begins");
    system.finish().await
}

async fn a_long_history_is_paged(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    system
        .sql(
            "WITH old AS (
                INSERT INTO incident (text, start_date, end_date, impact, system)
                SELECT 'Incident ' || n, date '2026-02-10' - n * interval '1 hour',
                    date '2026-02-10' - n * interval '1 hour' + interval '20 min', 1 + n % 3, true
                FROM generate_series(1, 1000) AS n RETURNING id
            )
            INSERT INTO incident_component_relation SELECT id, 1 FROM old",
        )
        .await?;
    let mut path = "/history/2026-02".to_owned();
    let (mut pages, mut found) = (0, 0);
    shows(&system, &path, "Incident 1<").await?;
    while !path.is_empty() {
        let page = page(&system, &path).await?;
        ensure!(page.status == 200, "{path}: {}", page.status);
        pages += 1;
        found += page.text.matches("<article").count();
        let next = page.text.split_once("rel=\"next\" href=\"").map(|(_, rest)| rest);
        path =
            next.and_then(|rest| rest.split('"').next()).unwrap_or_default().replace("&amp;", "&");
    }
    ensure!((pages, found) == (5, 216), "{found} on {pages} pages");
    let january = page(&system, "/history/2026-01").await?;
    ensure!(january.has("/history/2025-12") && january.has("/history/2026-02"), "{}", january.text);
    let first = page(&system, "/history/2025-12").await?;
    ensure!(!first.has("/history/2025-11"), "nothing is before it: {}", first.text);
    for gone in ["/history/2199-01", "/history/2026-13", "/history/now", "/history/2026-01?page=0"]
    {
        ensure!(page(&system, gone).await?.status == 404, "{gone}");
    }
    system.finish().await
}

async fn uptime_leaves_maintenances_out(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    // Ten days of outage, of which one was a maintenance; and a lesser problem.
    system
        .sql(
            "WITH old AS (
                INSERT INTO incident (text, impact, system, start_date, end_date)
                SELECT 'Old', impact, false, today - first * interval '1 day', today - last * interval '1 day'
                FROM (VALUES (3, 40, 30), (0, 35, 34), (2, 20, 10)) AS times (impact, first, last),
                    date_trunc('day', now() AT TIME ZONE 'UTC') AS today
                RETURNING id
            )
            INSERT INTO incident_component_relation SELECT id, 1 FROM old",
        )
        .await?;
    let page = shows(&system, "/", "Outage on 10 days").await?;
    ensure!(page.has("Major problem on 10 days"), "{}", page.text);
    // 9 of 89 to 90 days.
    let (_, rest) = page.text.split_once("class=\"uptime\">").context("no uptime")?;
    let uptime: f64 = rest.split(' ').next().context("no number")?.parse()?;
    ensure!((89.88..=90.0).contains(&uptime), "the uptime is {uptime} %");
    ensure!(page.has("class=\"uptime\">100 %<"), "{}", page.text);
    system.finish().await
}

async fn what_a_component_has_left_is_not_now(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    let update = json!({ "name": "DNS", "impact": 3, "text": "No answers",
        "attributes": [{ "name": "region", "value": "R2" }] });
    ensure!(system.post(&update).await?.status == 201);
    shows(&system, "/components/2", "<h2 id=\"active\">Now</h2>").await?;
    system
        .sql(
            "DELETE FROM incident_component_relation;
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                VALUES (1, '2026-01-02 03:04', 'The first', 'analyzing');
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                SELECT 1, now() AT TIME ZONE 'UTC' + n * interval '1 ms', 'Still', 'fixing'
                FROM generate_series(1, 1001) AS n",
        )
        .await?;
    let left = shows(&system, "/components/2", "Operational</p>").await?;
    ensure!(!left.has("<h2 id=\"active\">") && left.has("No answers"), "{}", left.text);
    // Its region still has it in what has started, and not in what is active.
    for path in ["/?region=R2", "/history?region=R2", "/feed.atom?region=R2"] {
        ensure!(page(&system, path).await?.has("No answers"), "{path}");
    }
    ensure!(page(&system, "/?region=R2").await?.has("All components are operational"));
    ensure!(page(&system, "/").await?.has("There is an outage"));
    let incident = page(&system, "/incidents/1").await?;
    let first = "<dt>First update</dt><dd><time datetime=\"2026-01-02T03:04Z\">";
    ensure!(incident.has(first) && !incident.has("The first"), "{}", incident.text);
    system.finish().await
}

async fn maintenances_are_planned_or_cancelled(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    system
        .sql(
            "INSERT INTO incident (text, start_date, end_date, impact, system) VALUES
                ('Runs', '2026-01-01', '2098-01-01', 0, false),
                ('Called off', '2098-01-01', '2026-01-01', 0, false)",
        )
        .await?;
    let runs = shows(&system, "/incidents/1", "Planned end").await?;
    ensure!(runs.has("in progress") && !runs.has("Ended"), "{}", runs.text);
    let off = page(&system, "/incidents/2").await?;
    ensure!(off.has("Planned start") && off.has("<dt>Cancelled</dt>"), "{}", off.text);
    ensure!(!off.has("Ended") && !off.has("Duration"), "{}", off.text);
    let all = page(&system, "/api/v2/scheduled-maintenances.json").await?;
    ensure!(all.has("Runs") && !all.has("Called off"), "{}", all.text);
    system.finish().await
}

async fn what_is_not_there_is_a_page_too(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    for path in [
        "/incidents/1",
        "/incidents/x",
        "/incidents/99999999999",
        "/components/99",
        "/components/a",
    ] {
        let gone = page(&system, path).await?;
        ensure!(gone.status == 404, "{path}: {}", gone.status);
        ensure!(gone.has("<h1>There is no such page</h1>"), "{path}: {}", gone.text);
        ensure!(gone.header("content-type").starts_with("text/html"), "{path}: {gone:?}");
        ensure!(gone.header("content-security-policy").contains("style-src 'self'"), "{gone:?}");
    }
    let html = [("Accept", "text/html,*/*")];
    for path in ["/history/", "/nothing"] {
        let gone = page_with(&system, path, &html).await?;
        ensure!(gone.status == 404 && gone.has("<h1>There is no such page</h1>"), "{gone:?}");
    }
    let gone = page_with(&system, "/api/nothing", &html).await?;
    ensure!(gone.header("content-type") == "application/json", "{gone:?}");
    let refused = answer(system.request_to(0, Method::POST, "/")).await?;
    ensure!(refused.status == 405, "{refused:?}");
    for (path, kind) in [
        ("/assets/page.css", "text/css"),
        ("/assets/page.js", "text/javascript"),
        ("/assets/icon.svg", "image/svg+xml"),
    ] {
        let asset = page(&system, path).await?;
        ensure!(asset.status == 200 && asset.header("content-type").starts_with(kind), "{asset:?}");
        let tag = asset.header("etag");
        ensure!(page_with(&system, path, &[("If-None-Match", tag)]).await?.status == 304, "{path}");
    }
    system.finish().await
}

async fn a_crowd_is_answered_from_memory(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    let first = page(&system, "/").await?;
    let tag = first.header("etag").to_owned();
    let before = rendered(&system).await?;
    ensure!(before >= 1.0, "the first page is not counted");
    for _ in 0..5 {
        let crowd = join_all((0..100).map(|_| page(&system, "/"))).await;
        for page in crowd {
            ensure!(page?.status == 200);
        }
    }
    // The minute may have ended meanwhile.
    let made = rendered(&system).await? - before;
    ensure!(made <= 3.0, "500 readers had {made} pages made");
    let known = page_with(&system, "/", &[("If-None-Match", &tag)]).await?;
    ensure!(known.status == 304 || known.header("etag") != tag, "{known:?}");
    let head = system.request_to(0, Method::HEAD, "/").send().await?;
    ensure!(head.status() == 200 && head.headers().contains_key("etag"), "{head:?}");
    system.finish().await
}

async fn without_the_database_the_page_says_so(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let nowhere = ("SDB_DATABASE_URI", "postgresql://x:y@127.0.0.1:1/z");
    system.start_gateway_unready(&[nowhere]).await?;
    let page = page(&system, "/").await?;
    ensure!(page.status == 503 && !page.header("retry-after").is_empty(), "{page:?}");
    ensure!(page.has("This says nothing about the components"), "{}", page.text);
    system.finish().await
}

async fn pages_can_be_off(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[("SDB_PAGE", "off")]).await?;
    let root = page(&system, "/").await?;
    ensure!(root.status == 200 && root.has("api-docs"), "it leads to the API: {root:?}");
    for path in ["/history", "/incidents/1", "/components/1", "/assets/page.css"] {
        let gone = page(&system, path).await?;
        ensure!(
            gone.status == 404 && gone.header("content-type") == "application/json",
            "{gone:?}"
        );
    }
    for path in ["/feed.atom", "/maintenance.ics", "/badge.svg", "/api/v2/summary.json"] {
        ensure!(page(&system, path).await?.status == 200, "{path}");
    }
    system.finish().await
}
