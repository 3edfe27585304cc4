//! Pages for people, events of changes, feeds, and the formats of others.

mod crowds;
mod formats;
mod html;
mod live;
mod python;

use anyhow::Result;
use reqwest::{Method, header::HeaderMap};

use crate::telemetry::Scrape;
use harness::{System, eventually, tests_of};

tests_of!(crowds, formats, html, live, python);

/// An answer whose body is text.
#[derive(Debug)]
struct Page {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn has(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

/// How many lists, pages among them, the gateway has made.
async fn rendered(system: &System) -> Result<f64> {
    let metrics = Scrape::of(system, &system.addresses[0]).await?;
    Ok(metrics.sum("sdb_lists_served_total", &["source=\"rendered\""]))
}

/// Asks without a token, as a browser does.
async fn page(system: &System, path: &str) -> Result<Page> {
    page_with(system, path, &[]).await
}

async fn page_with(system: &System, path: &str, headers: &[(&str, &str)]) -> Result<Page> {
    let request = system.request_to(0, Method::GET, path);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Page { status, headers, text: response.text().await? })
}

/// Waits until a page has this text: it may be a second old.
async fn shows(system: &System, path: &str, text: &str) -> Result<Page> {
    let mut found = None;
    eventually(&format!("{path} has {text:?}"), async || {
        found = Some(page(system, path).await?).filter(|page| page.has(text));
        Ok(found.is_some())
    })
    .await?;
    found.ok_or_else(|| anyhow::anyhow!("it was there"))
}

/// Texts that would run, turn what follows them, or be too wide, if they were taken as they are.
fn hostile() -> Vec<String> {
    let long: String = ["W".repeat(120), "ä漢🔥 &<".repeat(30)].concat();
    let mut texts: Vec<String> = [
        "<script>alert(1)</script><img src=x onerror=alert(1)>",
        "\"'><svg onload=alert(1)></bdi></main></body><!-- ]]> &amp; &lt;b&gt;",
        "\u{202e}txet desrever \u{2066} شبكة\u{200f}",
        "{{ 7 * 7 }} ${x} %00 \\ \u{fffe}\u{8}",
    ]
    .map(str::to_owned)
    .into();
    texts.push(long.chars().take(255).collect());
    texts
}

/// An active manual incident of component 1 and a maintenance to come, both with this title, and an update.
async fn plant(system: &System, text: &str) -> Result<()> {
    sqlx::query(
        "WITH opened AS (
            INSERT INTO incident (text, start_date, impact, system)
            VALUES ($1, now() AT TIME ZONE 'UTC' - interval '1 minute', 2, false) RETURNING id
        ), related AS (
            INSERT INTO incident_component_relation SELECT id, 1 FROM opened
        ), planned AS (
            INSERT INTO incident (text, start_date, end_date, impact, system)
            VALUES ($1, '2098-01-01', '2098-01-02', 0, false)
        )
        INSERT INTO incident_status (incident_id, timestamp, text, status)
        SELECT id, now() AT TIME ZONE 'UTC', $1, $1 FROM opened",
    )
    .bind(text)
    .execute(&system.database)
    .await?;
    Ok(())
}
