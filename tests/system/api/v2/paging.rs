//! Pages that are read at once from two gateways while incidents change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

use super::EVENTS;
use harness::{Answer, Fixture, System, answer, eventually_within, tests};

tests!(pages_of_one_version_have_every_event_once, pages_that_do_not_fit_are_found);

/// Events on a page.
const SIZE: usize = 10;
/// Versions of which all pages were read.
const VERSIONS: usize = 25;
/// Incidents at the beginning.
const FIRST: i64 = 100;

/// An event, as far as changes are about it: id, title, impact and components.
type Event = (i64, String, i64, Vec<i64>);

/// All events after so many changes, in the order of the list: computed apart from the database.
fn after(changes: usize) -> Vec<Event> {
    let mut all: BTreeMap<i64, (i64, Event)> =
        (1..=FIRST).map(|id| (id, (id % 30, (id, "First".to_owned(), 1, Vec::new())))).collect();
    for number in 0..changes {
        let (moved, replaced) = places(number);
        for (_, event) in all.values_mut() {
            event.3.clear();
        }
        if let Some((start, event)) = all.get_mut(&moved) {
            *start += 72;
            *event = (moved, format!("Moved {number}"), 1 + number as i64 % 3, vec![1]);
        }
        all.remove(&replaced);
        if !number.is_multiple_of(3) {
            all.insert(replaced, (moved, (replaced, format!("New {number}"), 1, Vec::new())));
        }
    }
    let mut sorted: Vec<(i64, Event)> = all.into_values().collect();
    sorted.sort_by_key(|(start, event)| std::cmp::Reverse((*start, event.0)));
    sorted.into_iter().map(|(_, event)| event).collect()
}

/// The incident that a change moves, and the one that it replaces.
const fn places(number: usize) -> (i64, i64) {
    (number as i64 * 7 % 60 + 1, number as i64 % 40 + 61)
}

/// The pages of one version, and how many changes had been committed before the first of them was asked for.
#[derive(Default)]
struct Version {
    pages: BTreeMap<usize, Value>,
    at_least: usize,
    /// Whether all pages are there; unknown when a page was added since that was looked at.
    is_whole: Option<bool>,
}

/// The versions by their tags.
#[derive(Default)]
struct Versions(BTreeMap<String, Version>);

impl Versions {
    /// Adds a page; one that was read before must be the same.
    fn add(&mut self, page: &Answer, committed: usize) -> Result<()> {
        ensure!(page.status == 200, "{page:?}");
        let index = page.body["pagination"]["pageIndex"].as_u64().context("no index")?;
        let version = self.0.entry(page.header("etag").to_owned()).or_default();
        version.at_least = version.at_least.max(committed);
        version.is_whole = None;
        if let Some(other) = version.pages.insert(usize::try_from(index)?, page.body.clone()) {
            ensure!(other == page.body, "two contents have the tag {}", page.header("etag"));
        }
        Ok(())
    }

    /// Holds the pages that were added against what their versions must have; returns of how many versions all are
    /// there.
    fn fit(&mut self) -> Result<usize> {
        let mut complete = 0;
        for (tag, version) in &mut self.0 {
            let is_whole = match version.is_whole {
                Some(is_whole) => is_whole,
                None => version.fits().with_context(|| format!("version {tag}"))?,
            };
            version.is_whole = Some(is_whole);
            complete += usize::from(is_whole);
        }
        Ok(complete)
    }
}

impl Version {
    /// Whether all pages are there.
    fn fits(&self) -> Result<bool> {
        let mut totals = BTreeSet::new();
        let mut events = Vec::new();
        for (index, page) in &self.pages {
            let data = page["data"].as_array().context("no data")?;
            let pagination = &page["pagination"];
            let total = usize::try_from(pagination["totalRecords"].as_u64().context("no total")?)?;
            totals.insert(total);
            let pages = total.div_ceil(SIZE);
            ensure!(pagination["totalPages"] == pages, "{pagination}");
            let expected = total.saturating_sub((index - 1) * SIZE).min(SIZE);
            ensure!(data.len() == expected, "page {index} of {total} has {}", data.len());
            for event in data {
                // What one transaction wrote is there as a whole.
                let updates = event["updates"].as_array().context("no updates")?;
                let last = updates.last().context("no update")?;
                ensure!(last["text"] == event["title"], "half of a change: {event}");
                events.push(read_event(event)?);
            }
        }
        ensure!(totals.len() == 1, "one version has {totals:?} events");
        let ids: BTreeSet<i64> = events.iter().map(|event| event.0).collect();
        ensure!(ids.len() == events.len(), "one is there twice: {events:?}");
        let total = totals.first().copied().unwrap_or_default();
        if !(1..=total.div_ceil(SIZE)).all(|index| self.pages.contains_key(&index)) {
            return Ok(false);
        }
        // Each change has its number in a title, until a later one replaces it.
        let numbers =
            events.iter().filter_map(|event| event.1.strip_prefix("Moved ")?.parse().ok());
        let changes = numbers.max().map_or(0, |last: usize| last + 1);
        ensure!(changes >= self.at_least, "{changes} changes, older than {}", self.at_least);
        let expected = after(changes);
        for (found, expected) in events.iter().zip(&expected) {
            ensure!(found == expected, "after {changes} changes: {found:?}, not {expected:?}");
        }
        ensure!(events.len() == expected.len(), "{} of {} events", events.len(), expected.len());
        Ok(true)
    }
}

fn read_event(event: &Value) -> Result<Event> {
    let components = event["components"].as_array().context("no components")?;
    Ok((
        event["id"].as_i64().context("no id")?,
        event["title"].as_str().context("no title")?.to_owned(),
        event["impact"].as_i64().context("no impact")?,
        components.iter().filter_map(Value::as_i64).collect(),
    ))
}

/// Changes incidents in ways that move them between pages, until it is dropped. Three changes come while all pages are
/// read; the next reading is not disturbed, so that a version is read as a whole at any speed.
async fn change(uri: &str, committed: &AtomicUsize, begun: &AtomicUsize) -> Result<()> {
    let mut writer = PgConnection::connect(uri).await?;
    for number in 0.. {
        let (moved, replaced) = places(number);
        let statements = format!(
            "BEGIN;
            UPDATE incident SET start_date = start_date + interval '3 days', text = 'Moved {number}',
                impact = 1 + {number} % 3 WHERE id = {moved};
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                SELECT id, timestamp '2027-01-01' + interval '{number} seconds', text, 'observing'
                FROM incident WHERE id = {moved};
            DELETE FROM incident_component_relation;
            INSERT INTO incident_component_relation VALUES ({moved}, 1);
            DELETE FROM incident_status WHERE incident_id = {replaced};
            DELETE FROM incident WHERE id = {replaced};
            INSERT INTO incident (id, text, start_date, impact, system)
                SELECT {replaced}, 'New {number}', timestamp '2026-01-01' + interval '{moved} hours', 1, false
                WHERE {number} % 3 <> 0;
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                SELECT id, timestamp '2026-01-01', text, 'analyzing' FROM incident WHERE id = {replaced};
            COMMIT"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut writer).await?;
        committed.store(number + 1, Ordering::SeqCst);
        let reading = begun.load(Ordering::SeqCst);
        while number % 3 == 2 && begun.load(Ordering::SeqCst) < reading + 2 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}

async fn pages_of_one_version_have_every_event_once(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start_with(&fixture, &[("DNS", &[])]).await?;
    system.start_gateway(&[]).await?;
    system
        .sql(&format!(
            "INSERT INTO incident (id, text, start_date, impact, system)
            SELECT n, 'First', timestamp '2026-01-01' + make_interval(hours => n % 30), 1, false
            FROM generate_series(1, {FIRST}) n;
            INSERT INTO incident_status (incident_id, timestamp, text, status)
            SELECT n, '2026-01-01', 'First', 'analyzing' FROM generate_series(1, {FIRST}) n"
        ))
        .await?;
    let mut versions = Versions::default();
    let (committed, begun) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let limit = Duration::from_secs(120);
    let reading = eventually_within(limit, "many versions were read as a whole", async || {
        begun.fetch_add(1, Ordering::SeqCst);
        let before = committed.load(Ordering::SeqCst);
        let all = (1..=10).map(|page| {
            let path = format!("{EVENTS}?limit={SIZE}&page={page}");
            answer(system.request_to(page % 2, Method::GET, &path))
        });
        for page in try_join_all(all).await? {
            versions.add(&page, before)?;
        }
        Ok(versions.fit()? >= VERSIONS)
    });
    tokio::select! {
        read = reading => read?,
        changed = change(&system.database_uri, &committed, &begun) => changed?,
    }
    system.finish().await
}

/// The pages of a version as they must be.
fn pages(changes: usize) -> Vec<Value> {
    let events = after(changes);
    let (total, pages) = (events.len(), events.len().div_ceil(SIZE));
    let parts = events.chunks(SIZE).zip(1..);
    parts
        .map(|(part, index)| {
            let data: Vec<Value> = part
                .iter()
                .map(|(id, title, impact, components)| {
                    json!({ "id": id, "title": title, "impact": impact, "components": components,
                        "updates": [{ "text": title }] })
                })
                .collect();
            let pagination =
                json!({ "pageIndex": index, "totalRecords": total, "totalPages": pages });
            json!({ "data": data, "pagination": pagination })
        })
        .collect()
}

/// The check finds what it is for.
async fn pages_that_do_not_fit_are_found(_: Arc<Fixture>) -> Result<()> {
    let fit = |pages: Vec<Value>, at_least| {
        Version { pages: (1..).zip(pages).collect(), at_least, is_whole: None }.fits()
    };
    const CHANGES: usize = 50;
    for changes in [0, 1, CHANGES] {
        ensure!(fit(pages(changes), changes)?, "all are there");
        ensure!(!fit(pages(changes)[..5].to_vec(), changes)?, "pages are missing");
    }
    let other = pages(CHANGES - 1);
    type Plant = fn(&mut Vec<Value>, &[Value]);
    let plants: [(&str, Plant); 9] = [
        ("a page of the version before", |pages, other| pages[3] = other[3].clone()),
        ("the number of events is the one before", |pages, _| {
            for page in pages {
                page["pagination"]["totalRecords"] = json!(1_000);
            }
        }),
        ("the number of pages is another", |pages, _| {
            pages[2]["pagination"]["totalPages"] = json!(3);
        }),
        ("one is there twice", |pages, _| pages[4]["data"][0] = pages[3]["data"][9].clone()),
        ("two are in the wrong order", |pages, _| {
            let first = pages[1]["data"][0].take();
            pages[1]["data"][0] = pages[1]["data"][1].take();
            pages[1]["data"][1] = first;
        }),
        ("too few", |pages, _| drop(pages[0]["data"].as_array_mut().map(Vec::pop))),
        ("half of a change", |pages, _| pages[5]["data"][3]["title"] = json!("y")),
        ("another impact", |pages, _| pages[5]["data"][3]["impact"] = json!(0)),
        ("a component in the wrong incident", |pages, _| {
            pages[5]["data"][3]["components"] = json!([2]);
        }),
    ];
    for (what, plant) in plants {
        let mut pages = pages(CHANGES);
        plant(&mut pages, &other);
        ensure!(fit(pages, CHANGES).is_err(), "{what} is not found");
    }
    ensure!(fit(other, CHANGES).is_err(), "an old version is not found");
    Ok(())
}
