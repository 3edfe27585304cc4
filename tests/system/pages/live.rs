//! Events of changes.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use reqwest::{Method, Response};
use tokio::time::timeout;

use super::page;
use harness::{Component, Fixture, System, eventually, status_update, tests};

tests!(
    every_reader_learns_of_a_change,
    readers_are_few_enough_for_updates,
    events_end_with_the_gateway,
);

const CATALOGUE: &[Component<'_>] = &[("DNS", &[]), ("CDN", &[])];
const LIVE: &str = "/api/v1/live";
/// Time for an event, by far more than one takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A reader of events.
pub(super) struct Reader {
    response: Response,
    text: String,
}

impl Reader {
    pub(super) async fn new(system: &System) -> Result<Self> {
        let response = system.request_to(0, Method::GET, LIVE).send().await?;
        ensure!(response.status() == 200, "{response:?}");
        let content_type = response.headers()["content-type"].to_str()?;
        ensure!(content_type == "text/event-stream", "{content_type}");
        Ok(Self { response, text: String::new() })
    }

    /// The id of the next event; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let id = event.lines().find_map(|line| line.strip_prefix("id: "));
                let (id, rest) = (id.map(str::to_owned), rest.to_owned());
                self.text = rest;
                if id.is_some() {
                    return Ok(id);
                }
                continue;
            }
            match timeout(LIMIT, self.response.chunk()).await.context("no event comes")?? {
                Some(chunk) => self.text.push_str(std::str::from_utf8(&chunk)?),
                None => return Ok(None),
            }
        }
    }
}

async fn every_reader_learns_of_a_change(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start_with(&fixture, CATALOGUE).await?;
    let (mut one, mut two) = (Reader::new(&system).await?, Reader::new(&system).await?);
    let (first, same) = (one.next().await?, two.next().await?);
    ensure!(first.is_some() && first == same, "{first:?}, {same:?}");
    let shown = page(&system, "/").await?;
    let version = first.clone().unwrap_or_default();
    ensure!(shown.has(&format!("data-version=\"{version}\"")), "the page is of another version");
    ensure!(system.post(&status_update("DNS", 3)).await?.status == 201);
    let (next, also) = (one.next().await?, two.next().await?);
    ensure!(next.is_some() && next == also && next != first, "{first:?}, {next:?}, {also:?}");
    // A client that received the event finds the change on the page at once.
    let shown = page(&system, "/").await?;
    ensure!(shown.has("Outage of 1 component"), "{}", shown.text);
    ensure!(shown.has(&format!("data-version=\"{}\"", next.unwrap_or_default())), "its version");
    // An update that changes nothing is no news; one that does is.
    ensure!(system.post(&status_update("DNS", 3)).await?.status == 200);
    ensure!(system.post(&status_update("CDN", 3)).await?.status == 201);
    ensure!(one.next().await?.is_some());
    // Nor does an incident need to be written to begin. On a machine that stalls, one event tells of both.
    eventually("an incident that begins is news", async || {
        system
            .sql(
                "INSERT INTO incident (text, start_date, impact, system)
                VALUES ('Soon', now() AT TIME ZONE 'UTC' + interval '3 s', 0, false)",
            )
            .await?;
        let written = one.next().await?;
        let Ok(begun) = timeout(Duration::from_secs(8), one.next()).await else { return Ok(false) };
        let begun = begun?;
        ensure!(written.is_some() && begun.is_some() && written != begun, "{written:?}, {begun:?}");
        Ok(true)
    })
    .await?;
    drop((one, two));
    system.finish().await
}

async fn readers_are_few_enough_for_updates(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_CONNECTIONS", "8")]).await?;
    system.components(CATALOGUE).await?;
    let (one, two) = (Reader::new(&system).await?, Reader::new(&system).await?);
    let refused = page(&system, LIVE).await?;
    ensure!(refused.status == 503 && !refused.header("retry-after").is_empty(), "{refused:?}");
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    drop(one);
    eventually("there is a place again", async || Ok(Reader::new(&system).await.is_ok())).await?;
    drop(two);
    system.finish().await
}

async fn events_end_with_the_gateway(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start_with(&fixture, CATALOGUE).await?;
    let mut reader = Reader::new(&system).await?;
    ensure!(reader.next().await?.is_some());
    system.gateways[0].signal(Signal::SIGTERM)?;
    ensure!(reader.next().await?.is_none(), "the events go on");
    ensure!(system.gateways[0].ended().await?.success(), "the gateway fails");
    system.finish().await
}
