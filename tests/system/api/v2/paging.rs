//! Pages that are read at once from two gateways while incidents change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::EVENTS;
use harness::{Answer, Fixture, System, answer, eventually, tests};

tests!(pages_of_one_version_have_every_event_once, pages_that_do_not_fit_are_found);

/// Events on a page.
const SIZE: usize = 10;
/// Versions of which all pages were read.
const VERSIONS: usize = 25;

/// The pages of each version, by their tag.
#[derive(Default)]
struct Pages(BTreeMap<String, BTreeMap<u64, Value>>);

impl Pages {
    /// Adds a page; one that was read before must be the same.
    fn add(&mut self, page: &Answer) -> Result<()> {
        ensure!(page.status == 200, "{page:?}");
        let index = page.body["pagination"]["pageIndex"].as_u64().context("no index")?;
        let pages = self.0.entry(page.header("etag").to_owned()).or_default();
        if let Some(other) = pages.insert(index, page.body.clone()) {
            ensure!(other == page.body, "two contents have the tag {}", page.header("etag"));
        }
        Ok(())
    }

    /// Holds the pages of each version against each other; returns of how many versions all are there.
    fn fit(&self) -> Result<usize> {
        let mut complete = 0;
        for pages in self.0.values() {
            let mut ids = BTreeSet::new();
            let mut totals = BTreeSet::new();
            for (index, page) in pages {
                let data = page["data"].as_array().context("no data")?;
                let total = page["pagination"]["totalRecords"].as_u64().context("no total")?;
                totals.insert(total);
                let before = usize::try_from(index - 1)? * SIZE;
                let expected = usize::try_from(total)?.saturating_sub(before).min(SIZE);
                ensure!(data.len() == expected, "page {index} of {total} has {}", data.len());
                for event in data {
                    ensure!(ids.insert(event["id"].as_i64()), "{event} is there twice");
                    // What one transaction wrote is there as a whole.
                    let updates = event["updates"].as_array().context("no updates")?;
                    let last = updates.last().context("no update")?;
                    ensure!(last["text"] == event["title"], "half of a change: {event}");
                }
            }
            ensure!(totals.len() == 1, "one version has {totals:?} events");
            let total = totals.first().copied().unwrap_or_default();
            if (1..=total.div_ceil(SIZE as u64)).all(|index| pages.contains_key(&index)) {
                ensure!(ids.len() as u64 == total, "{} of {total} events", ids.len());
                complete += 1;
            }
        }
        Ok(complete)
    }
}

/// Changes incidents in ways that move them between pages, until it is dropped.
async fn change(uri: &str) -> Result<()> {
    let mut writer = PgConnection::connect(uri).await?;
    for number in 0.. {
        let statements = format!(
            "BEGIN;
            UPDATE incident SET start_date = start_date + interval '3 days', text = 'Moved {number}'
                WHERE id = {0};
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                SELECT id, timestamp '2027-01-01' + interval '{number} seconds', text, 'observing'
                FROM incident WHERE id = {0};
            DELETE FROM incident_status WHERE incident_id = {1};
            DELETE FROM incident WHERE id = {1};
            INSERT INTO incident (id, text, start_date, impact, system)
                SELECT {1}, 'New {number}', timestamp '2026-01-01' + interval '{0} hours', 1, false
                WHERE {number} % 3 <> 0;
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                SELECT id, timestamp '2026-01-01', text, 'analyzing' FROM incident WHERE id = {1};
            COMMIT",
            number * 7 % 60 + 1,
            number % 40 + 61,
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut writer).await?;
    }
    Ok(())
}

async fn pages_of_one_version_have_every_event_once(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_gateway(&[]).await?;
    system
        .sql(
            "INSERT INTO incident (id, text, start_date, impact, system)
            SELECT n, 'First', timestamp '2026-01-01' + make_interval(hours => n % 30), 1, false
            FROM generate_series(1, 100) n;
            INSERT INTO incident_status (incident_id, timestamp, text, status)
            SELECT n, '2026-01-01', 'First', 'analyzing' FROM generate_series(1, 100) n",
        )
        .await?;
    let mut pages = Pages::default();
    let reading = eventually("many versions were read as a whole", async || {
        let all = (1..=10).map(|page| {
            let path = format!("{EVENTS}?limit={SIZE}&page={page}");
            answer(system.request_to(page % 2, Method::GET, &path))
        });
        for page in try_join_all(all).await? {
            pages.add(&page)?;
        }
        Ok(pages.fit()? >= VERSIONS)
    });
    tokio::select! {
        read = reading => read?,
        changed = change(&system.database_uri) => changed?,
    }
    system.finish().await
}

/// The check finds what it is for.
async fn pages_that_do_not_fit_are_found(_: Arc<Fixture>) -> Result<()> {
    let event = |id: usize| json!({ "id": id, "title": "x", "updates": [{ "text": "x" }] });
    let page = |index: usize, ids: std::ops::Range<usize>, total: usize| {
        let data: Vec<Value> = ids.map(event).collect();
        json!({ "data": data, "pagination": { "pageIndex": index, "totalRecords": total } })
    };
    let fit = |pages: &[Value]| {
        let by_index = pages.iter().zip(1..).map(|(page, index)| (index, page.clone()));
        Pages(BTreeMap::from([("tag".to_owned(), by_index.collect())])).fit()
    };
    ensure!(fit(&[page(1, 0..10, 15), page(2, 10..15, 15)])? == 1);
    ensure!(fit(&[page(1, 0..10, 15)])? == 0, "a page is missing");
    ensure!(fit(&[page(1, 0..10, 10), page(2, 10..10, 10)])? == 1, "the last page is empty");
    for (what, pages) in [
        ("twice", vec![page(1, 0..10, 15), page(2, 9..14, 15)]),
        ("missing", vec![page(1, 0..10, 15), page(2, 11..15, 15)]),
        ("another total", vec![page(1, 0..10, 15), page(2, 10..16, 16)]),
        ("too few", vec![page(1, 0..9, 15)]),
    ] {
        ensure!(fit(&pages).is_err(), "{what} is not found");
    }
    let mut half = page(1, 0..10, 10);
    half["data"][3]["title"] = json!("y");
    ensure!(fit(&[half]).is_err(), "half of a change is not found");
    Ok(())
}
