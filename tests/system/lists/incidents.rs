//! The list of incidents: its order, its filters, its pages.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ids, windows};
use harness::{Answer, Fixture, INCIDENTS, System, same, tests};

tests!(
    incidents_are_listed_with_the_newest_start_first,
    incidents_are_filtered_by_whether_they_are_active_and_by_impact,
    pages_show_every_incident_once,
);

async fn incidents_are_listed_with_the_newest_start_first(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    same(&system.get(INCIDENTS).await?.body, &json!([]))?;
    windows(&system).await?;
    let list = system.get(INCIDENTS).await?;
    ensure!(list.status == 200 && list.header("content-type") == "application/json", "{list:?}");
    ensure!(ids(&list.body) == [6, 7, 4, 3, 8, 1, 2, 5], "{:?}", ids(&list.body));
    let stored: Value = sqlx::query_scalar(
        r#"SELECT json_agg(json_build_object('id', id, 'text', text, 'impact', impact,
            'start_date', to_char(start_date, 'YYYY-MM-DD HH24:MI'),
            'end_date', to_char(end_date, 'YYYY-MM-DD HH24:MI'),
            'updates', (SELECT coalesce(json_agg(json_build_object('status', status, 'text', text,
                'timestamp', to_char("timestamp", 'YYYY-MM-DD HH24:MI'))
                ORDER BY "timestamp" DESC), '[]')
                FROM incident_status WHERE incident_id = incident.id))
            ORDER BY start_date DESC) FROM incident"#,
    )
    .fetch_one(&system.database)
    .await?;
    same(&list.body, &stored)?;
    let updates = json!([
        { "status": "fixing", "text": "third", "timestamp": "2024-01-01 12:00" },
        { "status": "SYSTEM", "text": "second", "timestamp": "2024-01-01 11:59" },
        { "status": "analyzing", "text": "first", "timestamp": "2024-01-01 10:00" },
    ]);
    same(&list.body[5]["updates"], &updates)?;
    system.finish().await
}

async fn incidents_are_filtered_by_whether_they_are_active_and_by_impact(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    windows(&system).await?;
    for (query, expected) in [
        ("", &[6, 7, 4, 3, 8, 1, 2, 5][..]),
        ("active=true", &[4, 3, 8, 1]),
        ("active=false", &[6, 7, 4, 3, 8, 1, 2, 5]),
        ("impact=0", &[6, 4, 5]),
        ("impact=maintenance", &[6, 4, 5]),
        ("impact=1", &[7, 1]),
        ("impact=minor", &[7, 1]),
        ("impact=2", &[8, 2]),
        ("impact=major", &[8, 2]),
        ("impact=3", &[3]),
        ("impact=outage", &[3]),
        ("impact=2&active=true", &[8]),
        ("active=true&impact=0", &[4]),
        ("limit=3", &[6, 7, 4]),
        ("limit=1000", &[6, 7, 4, 3, 8, 1, 2, 5]),
        ("active=true&limit=2", &[4, 3]),
        ("unknown=1&start=2", &[6, 7, 4, 3, 8, 1, 2, 5]),
    ] {
        let list = system.get(&format!("{INCIDENTS}?{query}")).await?;
        ensure!(list.status == 200 && ids(&list.body) == expected, "{query}: {list:?}");
    }
    system.finish().await
}

/// The address in a `Link` header to the next page, if there is one.
fn next(page: &Answer) -> Result<Option<String>> {
    let link = page.header("link");
    if link.is_empty() {
        return Ok(None);
    }
    let address = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Ok(Some(address.with_context(|| format!("not a link: {link}"))?.to_owned()))
}

async fn pages_show_every_incident_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    // Many start together, and some differ by a microsecond alone.
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            SELECT 'Incident ' || n, n % 4, false,
                timestamp '2024-05-01 12:00' - make_interval(hours => n / 9)
                    + n % 2 * interval '1 microsecond'
            FROM generate_series(1, 50) AS n",
        )
        .await?;
    for filter in ["", "impact=2", "active=true", "active=true&impact=minor"] {
        let whole = system.get(&format!("{INCIDENTS}?{filter}")).await?.body;
        let whole = whole.as_array().context("no list")?;
        ensure!(whole.len() >= 12, "{filter}: {}", whole.len());
        for limit in [1, 2, 4, 12, 13, 50, 51, 1_000] {
            let mut shown: Vec<Value> = Vec::new();
            let mut address = Some(format!("{INCIDENTS}?limit={limit}&{filter}"));
            while let Some(path) = address {
                let page = system.get(&path).await?;
                ensure!(page.status == 200, "{path}: {page:?}");
                let incidents = page.body.as_array().context("no list")?;
                ensure!(incidents.len() <= limit, "{path} shows {}", incidents.len());
                shown.extend_from_slice(incidents);
                ensure!(shown.len() <= whole.len(), "{path} goes on and on");
                address = next(&page)?;
                ensure!(address.is_none() || incidents.len() == limit, "{path} is not full");
            }
            ensure!(&shown == whole, "{filter} by {limit}: {:?}", ids(&json!(shown)));
        }
    }
    // What comes in meanwhile is newer, and shifts nothing.
    let first = system.get(&format!("{INCIDENTS}?limit=20")).await?;
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            SELECT 'New', 1, false, '2024-06-01' FROM generate_series(1, 7)",
        )
        .await?;
    let second = system.get(&next(&first)?.context("no second page")?).await?;
    let third = system.get(&next(&second)?.context("no third page")?).await?;
    ensure!(next(&third)?.is_none(), "{third:?}");
    let shown: Vec<i64> = [&first, &second, &third].iter().flat_map(|p| ids(&p.body)).collect();
    let whole = ids(&system.get(INCIDENTS).await?.body);
    ensure!(shown == whole[7..], "{shown:?}");
    // Without a limit there are no pages.
    ensure!(system.get(INCIDENTS).await?.header("link").is_empty());
    system.finish().await
}
