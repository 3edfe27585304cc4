//! Which events a list has, and in which order.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{EVENTS, events, is_refused, read};
use harness::{Fixture, System, tests};

tests!(filters_and_pages_select_events, a_bad_parameter_is_refused,);

const DATA: &str = "
    INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
        (1, 'Old', '2025-01-01', '2025-01-02', 1, true),
        (2, 'Same start', '2025-01-01', '2025-01-03', 2, false),
        (3, 'Outage', '2025-06-01', NULL, 3, true),
        (4, 'Maintenance', '2025-07-01', '2999-01-01', 0, false),
        (5, 'Planned', '2999-01-01', '2999-01-02', 0, false);
    INSERT INTO incident_component_relation VALUES (1, 1), (2, 2), (3, 1), (3, 2), (4, 3);";

async fn filters_and_pages_select_events(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, &[("DNS", &[]), ("CDN", &[]), ("Mail", &[])]).await?;
    system.sql(DATA).await?;
    for (query, expected) in [
        ("", &[5, 4, 3, 2, 1][..]),
        ("?type=incident", &[3, 2, 1]),
        ("?type=maintenance", &[5, 4]),
        ("?type=info", &[]),
        ("?type=info,incident,maintenance", &[5, 4, 3, 2, 1]),
        ("?active=true", &[4, 3]),
        ("?active=false", &[5, 4, 3, 2, 1]),
        ("?status=resolved", &[2, 1]),
        ("?start_date=2025-06-01T00:00:00Z", &[5, 4, 3]),
        ("?start_date=2025-06-01T02:00:00%2B01:00", &[5, 4]),
        ("?end_date=2025-01-02T00:00:00Z", &[1]),
        ("?impact=3", &[3]),
        ("?impact=0", &[5, 4]),
        ("?system=true", &[3, 1]),
        ("?system=false&type=incident", &[2]),
        ("?components=2", &[3, 2]),
        ("?components=3,1", &[4, 3, 1]),
        ("?components=99", &[]),
        ("?limit=10&page=1&unknown=1", &[5, 4, 3, 2, 1]),
        ("?limit=10&page=2", &[]),
    ] {
        let found = events(&system, query).await?;
        let ids: Vec<i64> = found.iter().filter_map(|event| event["id"].as_i64()).collect();
        ensure!(ids == expected, "{query}: {ids:?}, not {expected:?}");
    }
    // The tag is the version's, whatever the filter.
    let (all, some) =
        (read(&system, EVENTS).await?, read(&system, &format!("{EVENTS}?impact=3")).await?);
    ensure!(all.header("etag") == some.header("etag"), "{all:?} {some:?}");
    system.finish().await
}

async fn a_bad_parameter_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    for bad in [
        "page=0",
        "page=x",
        "limit=5",
        "limit=100",
        "type=other",
        "type=",
        "active=1",
        "status=open",
        "start_date=2025-06-01",
        "end_date=x",
        "impact=4",
        "system=yes",
        "components=a",
        "components=%00",
    ] {
        let refused = read(&system, &format!("{EVENTS}?{bad}")).await?;
        is_refused(&refused, 400, "filter query parameter has an invalid format or value")?;
        ensure!(refused.body != Value::Null, "{refused:?}");
    }
    system.finish().await
}
