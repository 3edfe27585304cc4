//! Incidents as RSS.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::Method;

use harness::{Answer, Fixture, System, answer, tests};

tests!(a_feed_has_the_incidents_of_a_region_or_a_component, links_have_the_address_that_is_set,);

async fn feed(system: &System, query: &str) -> Result<Answer> {
    let request = system.request_to(0, Method::GET, &format!("/rss/{query}"));
    answer(request.header("Host", "status.example.org").header("X-Forwarded-Proto", "https")).await
}

async fn a_feed_has_the_incidents_of_a_region_or_a_component(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(
        &fixture,
        &[
            ("DNS", &[("region", "R1")]),
            ("CDN", &[("region", "R1")]),
            ("DNS", &[("region", "R&2")]),
        ],
    )
    .await?;
    system
        .sql(
            "INSERT INTO incident (id, text, start_date, end_date, impact, system)
            SELECT n, 'Incident <' || n || '>', timestamp '2026-01-01' + make_interval(hours => n),
                CASE WHEN n < 3 THEN '2026-02-01'::timestamp END, n % 4, false
            FROM generate_series(1, 14) n;
            INSERT INTO incident_component_relation SELECT n, 2 - n % 2 FROM generate_series(1, 14) n;
            INSERT INTO incident_component_relation VALUES (1, 3);
            INSERT INTO incident_status (incident_id, timestamp, text, status) VALUES
                (1, '2026-01-01 02:00', 'We <b>look</b>', 'analyzing'),
                (1, '2026-01-01 03:00', 'Do' || chr(7) || 'ne', 'resolved')",
        )
        .await?;
    for (query, ids) in [
        ("", (5..=14).rev().collect::<Vec<i32>>()),
        ("?mt=R1", (5..=14).rev().collect()),
        ("?mt=R1&srv=DNS", (1..=13).rev().step_by(2).collect()),
        ("?mt=R%262", vec![1]),
        ("?mt=R%262&srv=DNS", vec![1]),
    ] {
        let shown = feed(&system, query).await?;
        ensure!(shown.status == 200, "{query}: {shown:?}");
        ensure!(shown.header("content-type") == "application/rss+xml", "{shown:?}");
        let text = shown.body.as_str().unwrap_or_default();
        let guids: Vec<i32> = text
            .split("<guid isPermaLink=\"false\">status-dashboard-incident-")
            .skip(1)
            .filter_map(|rest| rest.split_once('<')?.0.parse().ok())
            .collect();
        ensure!(guids == ids, "{query}: {guids:?}, not {ids:?}");
    }
    let one = feed(&system, "?mt=R%262&srv=DNS").await?;
    let text = one.body.as_str().unwrap_or_default();
    for part in [
        "<title>DNS (R&amp;2) - Incidents | Status Dashboard</title>",
        "<link>https://status.example.org/rss/?mt=R%262&amp;srv=DNS</link>",
        "<title>Incident &lt;1&gt;</title><link>https://status.example.org/incidents/1</link>",
        "&lt;small&gt;2026-01-01 03:00 UTC&lt;/small&gt;&lt;br&gt;&lt;strong&gt;resolved - &lt;/strong&gt;Done",
        "&lt;/strong&gt;We look&lt;br&gt;",
        "Incident impact: minor&lt;br&gt;Incident has started on: 2026-01-01 01:00 UTC",
        "Incident end date: 2026-02-01 00:00 UTC",
        "<pubDate>Thu, 01 Jan 2026 02:00:00 +0000</pubDate>",
    ] {
        ensure!(text.contains(part), "there is no {part} in {text}");
    }
    for (query, status) in [("?srv=DNS", 404), ("?mt=R9", 404), ("?mt=R1&srv=Mail", 404)] {
        let refused = feed(&system, query).await?;
        ensure!(refused.status == status, "{query}: {refused:?}");
    }
    ensure!(one.header("vary").contains("X-Forwarded-Proto"), "{one:?}");
    system.finish().await
}

/// No header changes the feed then.
async fn links_have_the_address_that_is_set(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start_with(&fixture, &[("DNS", &[("region", "R1")])]).await?;
    system
        .sql(
            "INSERT INTO incident (id, text, start_date, impact, system)
            VALUES (7, 'By hand', '2026-01-01', 2, false)",
        )
        .await?;
    system.start_gateway(&[("SDB_PAGE_URL", "https://pages.example.org/status")]).await?;
    for host in ["status.example.org", "other.example.org"] {
        let shown = answer(system.request_to(1, Method::GET, "/rss/").header("Host", host)).await?;
        let text = shown.body.as_str().unwrap_or_default();
        let link = "<link>https://pages.example.org/status/incidents/7</link>";
        ensure!(text.contains(link) && !text.contains(host), "{text}");
        ensure!(shown.header("vary") == "Accept-Encoding", "{shown:?}");
    }
    system.finish().await
}
