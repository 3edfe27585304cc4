//! The two lists: what they show, in which order, and how they are sent.

mod components;
mod freshness;
mod incidents;
mod large;
mod requests;
mod shared_reads;

use std::io::Read;

use anyhow::{Result, ensure};
use flate2::read::GzDecoder;
use reqwest::{Method, header::HeaderMap};
use serde_json::Value;

use harness::{System, tests_of};

tests_of!(components, freshness, incidents, large, requests, shared_reads);

fn ids(list: &Value) -> Vec<i64> {
    list.as_array().into_iter().flatten().filter_map(|item| item["id"].as_i64()).collect()
}

/// What a list is without its reading: the bytes as they come.
struct Got {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as the client sees it.
    fn decoded(&self) -> Result<Vec<u8>> {
        match self.header("content-encoding") {
            "" => Ok(self.bytes.clone()),
            "gzip" => {
                let mut plain = Vec::new();
                GzDecoder::new(self.bytes.as_slice()).read_to_end(&mut plain)?;
                Ok(plain)
            }
            other => anyhow::bail!("coded as {other}"),
        }
    }
}

/// Asks for a list with these headers and without a token.
async fn ask(system: &System, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<Got> {
    let request = system.request_to(0, method, path);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Got { status, headers, bytes: response.bytes().await?.into() })
}

async fn get(system: &System, path: &str, headers: &[(&str, &str)]) -> Result<Got> {
    ask(system, Method::GET, path, headers).await
}

/// The tag of a list as it is now.
async fn tag(system: &System, path: &str) -> Result<String> {
    let list = get(system, path, &[]).await?;
    ensure!(list.status == 200 && list.header("etag").starts_with("W/\""), "{:?}", list.headers);
    Ok(list.header("etag").to_owned())
}

/// Incidents 1 to 8, starting that many hours from now or ending so, of impacts 0 to 3.
async fn windows(system: &System) -> Result<()> {
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date, end_date)
            SELECT text, impact, system,
                now() AT TIME ZONE 'UTC' + make_interval(hours => first),
                now() AT TIME ZONE 'UTC' + make_interval(hours => last)
            FROM (VALUES
                ('open, by a person', 1, false, -5, NULL),
                ('over', 2, true, -8, -7),
                ('open, by the system', 3, true, -2, NULL),
                ('running maintenance', 0, false, -1, 2),
                ('maintenance that is over', 0, false, -9, -1),
                ('maintenance to come', 0, false, 3, 4),
                ('to come, without an end', 1, false, 1, NULL),
                ('known to end', 2, false, -4, 1)
            ) AS incidents (text, impact, system, first, last);
            INSERT INTO incident_status (incident_id, \"timestamp\", text, status) VALUES
                (1, '2024-01-01 10:00:00', 'first', 'analyzing'),
                (1, '2024-01-01 12:00:00', 'third', 'fixing'),
                (1, '2024-01-01 11:59:59.999', 'second', 'SYSTEM');",
        )
        .await
}

/// Names, attributes.
type Catalogue = [(&'static str, &'static [(&'static str, &'static str)])];

const CATALOGUE: &Catalogue = &[
    ("DNS", &[("region", "R1"), ("category", "Network")]),
    ("DNS", &[("region", "R2"), ("category", "Network")]),
    ("DNS server", &[("region", "R1")]),
    ("CDN", &[("zone", "R1")]),
    ("DNS", &[("region", "R1")]),
    ("50% off", &[]),
    ("50 percent", &[]),
    ("a_b", &[]),
    ("axb", &[]),
    ("a\\b", &[]),
    ("Größe & <b>", &[("region", "R 1&2")]),
];
