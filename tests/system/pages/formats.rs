//! Feeds, the calendar, badges, and Statuspage's JSON.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{hostile, page, page_with, plant, shows};
use harness::{Component, Fixture, System, status_update, tests};

tests!(
    a_feed_has_what_has_started,
    a_calendar_has_the_maintenances,
    statuspage_has_the_same_state,
    badges_have_a_word,
    texts_of_others_break_no_format,
    links_have_the_address_of_the_service,
);

const CATALOGUE: &[Component<'_>] = &[
    ("DNS", &[("region", "R1"), ("category", "Network")]),
    ("CDN", &[("region", "R2"), ("category", "Network")]),
];

/// An entry of a feed, a component of a calendar: what is between these words.
fn parts<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    text.split(begin).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}

async fn a_feed_has_what_has_started(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    let empty = page(&system, "/feed.atom").await?;
    ensure!(empty.status == 200 && parts(&empty.text, "<entry>", "</entry>").is_empty());
    ensure!(empty.header("content-type") == "application/atom+xml", "{empty:?}");
    ensure!(empty.header("access-control-allow-origin") == "*", "{empty:?}");
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    let feed = shows(&system, "/feed.atom", "<entry>").await?;
    ensure!(parts(&feed.text, "<entry>", "</entry>").len() == 1, "{}", feed.text);
    let id = "<id>tag:status-dashboard,2026:incidents/1</id>";
    ensure!(feed.has(id) && feed.has("category term=\"minor\""), "{}", feed.text);
    ensure!(page(&system, "/feed.atom?component=1").await?.has("<entry>"));
    ensure!(!page(&system, "/feed.atom?component=2").await?.has("<entry>"));
    ensure!(page(&system, "/feed.atom?component=9").await?.status == 404);
    ensure!(page(&system, "/feed.atom?component=x").await?.status == 422);
    let tag = feed.header("etag");
    let known = page_with(&system, "/feed.atom", &[("If-None-Match", tag)]).await?;
    ensure!(known.status == 304 || known.header("etag") != tag, "{known:?}");
    system.finish().await
}

async fn a_calendar_has_the_maintenances(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    system
        .sql(
            "INSERT INTO incident (text, start_date, end_date, impact, system) VALUES
                ('New switches', '2098-01-01 10:00', '2098-01-01 12:00', 0, false),
                ('Called off', '2098-02-01 10:00', '2098-02-01 10:00', 0, false),
                ('Without an end', '2098-03-01 10:00', NULL, 0, false),
                ('Long over', '2020-01-01', '2020-01-02', 0, false),
                ('No maintenance', '2026-01-01', NULL, 1, false);
            INSERT INTO incident_component_relation VALUES (1, 1);
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                VALUES (1, '2097-01-01', 'We replace <b>all</b> of them', 'scheduled')",
        )
        .await?;
    let calendar = shows(&system, "/maintenance.ics", "New switches").await?;
    ensure!(calendar.header("content-type") == "text/calendar; charset=utf-8", "{calendar:?}");
    let events = parts(&calendar.text, "BEGIN:VEVENT\r\n", "END:VEVENT");
    ensure!(events.len() == 3, "{}", calendar.text);
    let event = |title: &str| {
        let line = format!("SUMMARY:{title}\r\n");
        events.iter().find(|event| event.contains(&line)).copied().context(line)
    };
    let switches = event("New switches")?;
    for line in [
        "UID:maintenance-1@status-dashboard\r\n",
        "DTSTART:20980101T100000Z\r\n",
        "DTEND:20980101T120000Z\r\n",
        "\r\nSEQUENCE:",
        "STATUS:CONFIRMED\r\n",
        "DNS (R1)\\nWe replace all of them",
    ] {
        ensure!(switches.contains(line), "{line}: {switches}");
    }
    ensure!(event("Called off")?.contains("STATUS:CANCELLED"), "{}", calendar.text);
    ensure!(!event("Without an end")?.contains("DTEND"), "{}", calendar.text);
    let other = page(&system, "/maintenance.ics?region=R2").await?;
    ensure!(other.status == 200 && !other.has("BEGIN:VEVENT"), "{}", other.text);
    ensure!(page(&system, "/maintenance.ics?region=R3").await?.status == 404);
    system.finish().await
}

async fn json_of(system: &System, path: &str) -> Result<Value> {
    let found = page(system, path).await?;
    ensure!(found.status == 200, "{path}: {found:?}");
    ensure!(found.header("access-control-allow-origin") == "*", "{path}: {found:?}");
    Ok(serde_json::from_str(&found.text)?)
}

async fn statuspage_has_the_same_state(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    let well = json_of(&system, "/api/v2/status.json").await?;
    ensure!(
        well["status"] == json!({ "indicator": "none", "description": "All Systems Operational" })
    );
    ensure!(system.post(&status_update("DNS", 3)).await?.status == 201);
    system
        .sql(
            "INSERT INTO incident (text, start_date, end_date, impact, system) VALUES
                ('Later', '2098-01-01 10:00', '2098-01-01 12:00', 0, false),
                ('Over', '2026-01-01 10:00', '2026-01-01 12:00', 1, true)",
        )
        .await?;
    shows(&system, "/api/v2/summary.json", "Later").await?;
    let summary = json_of(&system, "/api/v2/summary.json").await?;
    ensure!(summary["status"]["indicator"] == "critical", "{summary:#}");
    let components = summary["components"].as_array().context("no components")?;
    let state = |id: &str| components.iter().find(|c| c["id"] == id).map(|c| c["status"].clone());
    ensure!(state("1") == Some(json!("major_outage")), "{summary:#}");
    ensure!(state("2") == Some(json!("operational")), "{summary:#}");
    ensure!(state("group-Network") == Some(json!("major_outage")), "{summary:#}");
    let incident = &summary["incidents"][0];
    ensure!(incident["id"] == "1" && incident["impact"] == "critical", "{incident:#}");
    ensure!(incident["status"] == "investigating" && incident["resolved_at"].is_null());
    ensure!(incident["components"][0]["id"] == "1", "{incident:#}");
    let later = &summary["scheduled_maintenances"][0];
    ensure!(later["status"] == "scheduled" && later["name"] == "Later", "{later:#}");
    ensure!(later["scheduled_until"] == "2098-01-01T12:00:00.000Z", "{later:#}");
    let all = json_of(&system, "/api/v2/incidents.json").await?;
    let statuses: Vec<&Value> =
        all["incidents"].as_array().into_iter().flatten().map(|i| &i["status"]).collect();
    ensure!(statuses == ["investigating", "resolved"], "{all:#}");
    for (path, key, count) in [
        ("incidents/unresolved.json", "incidents", 1),
        ("scheduled-maintenances.json", "scheduled_maintenances", 1),
        ("scheduled-maintenances/upcoming.json", "scheduled_maintenances", 1),
        ("scheduled-maintenances/active.json", "scheduled_maintenances", 0),
        ("components.json", "components", 3),
    ] {
        let found = json_of(&system, &format!("/api/v2/{path}")).await?;
        ensure!(found[key].as_array().map(Vec::len) == Some(count), "{path}: {found:#}");
    }
    for path in ["/api/v2/other.json", "/api/v2/incidents/other.json"] {
        ensure!(page(&system, path).await?.status == 404, "{path}");
    }
    system.finish().await
}

async fn badges_have_a_word(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    let well = page(&system, "/badge.svg").await?;
    ensure!(
        well.header("content-type") == "image/svg+xml" && well.has(">Operational<"),
        "{well:?}"
    );
    ensure!(system.post(&status_update("DNS", 2)).await?.status == 201);
    shows(&system, "/badge.svg", ">Major problem<").await?;
    ensure!(page(&system, "/badge/components/1.svg").await?.has("DNS (R1): Major problem"));
    ensure!(page(&system, "/badge/components/2.svg").await?.has("CDN (R2): Operational"));
    for gone in ["/badge/components/3.svg", "/badge/components/1.png", "/badge/components/x.svg"] {
        ensure!(page(&system, gone).await?.status == 404, "{gone}");
    }
    system.finish().await
}

async fn texts_of_others_break_no_format(fixture: Arc<Fixture>) -> Result<()> {
    let hostile = hostile();
    let components: Vec<Component<'_>> =
        hostile.iter().map(|text| (text.as_str(), &[][..])).collect();
    let system = System::start_with(&fixture, &components).await?;
    for text in &hostile {
        plant(&system, text).await?;
    }
    shows(&system, "/feed.atom", "WWW").await?;
    let badges = (1..=hostile.len()).map(|id| format!("/badge/components/{id}.svg"));
    for path in ["/feed.atom".to_owned(), "/rss/".to_owned()].into_iter().chain(badges) {
        let feed = page(&system, &path).await?;
        ensure!(feed.status == 200, "{path}: {feed:?}");
        let feed = feed.text;
        // It ends where a name is cut, too.
        ensure!(["</feed>", "</rss>", "</svg>"].iter().any(|end| feed.trim_end().ends_with(end)));
        ensure!(!path.ends_with(".svg") || feed.len() < 1_500, "{path} is wide: {feed}");
        for bad in ["<script", "<img", "onload=alert(1)>", "\u{8}", "\u{fffe}"] {
            ensure!(!feed.contains(bad), "{path} has {bad:?}: {feed}");
        }
    }
    let calendar = page(&system, "/maintenance.ics").await?.text;
    ensure!(parts(&calendar, "BEGIN:VEVENT", "END:VEVENT").len() == hostile.len(), "{calendar}");
    for line in calendar.split("\r\n") {
        ensure!(line.len() <= 75 && !line.contains(['\n', '\u{202e}', '\u{8}']), "{line:?}");
    }
    let incidents = json_of(&system, "/api/v2/incidents.json").await?;
    let names: Vec<&str> = incidents["incidents"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|i| i["name"].as_str())
        .collect();
    for text in &hostile {
        let shown = text.replace(['\u{202e}', '\u{2066}'], "");
        ensure!(names.contains(&shown.as_str()), "{shown:?} is not among {names:?}");
    }
    system.finish().await
}

async fn links_have_the_address_of_the_service(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    let title = ("SDB_PAGE_TITLE", "Our cloud");
    system.start_gateway(&[("SDB_PAGE_URL", "https://status.example.org/state"), title]).await?;
    system.components(CATALOGUE).await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    let feed = shows(&system, "/feed.atom", "<entry>").await?;
    ensure!(feed.has("<id>https://status.example.org/state/incidents/1</id>"), "{}", feed.text);
    ensure!(feed.has("<title>Our cloud</title>") && feed.header("vary") == "Accept-Encoding");
    let html = page(&system, "/").await?;
    for text in
        ["href=\"/state/assets/page.css\"", "href=\"/state/incidents/1\"", "Our cloud</title>"]
    {
        ensure!(html.has(text), "{text}: {}", html.text);
    }
    let summary = json_of(&system, "/api/v2/summary.json").await?;
    ensure!(summary["page"]["url"] == "https://status.example.org/state/", "{summary:#}");
    system.finish().await
}
