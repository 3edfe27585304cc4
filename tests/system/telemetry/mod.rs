//! What both programs report of themselves: metrics, health, logs and traces.

mod figures;
mod health;
mod logs;
mod service_manager;
mod traces;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};

use harness::{ADMIN, Answer, Fixture, System, answer, tests_of};

tests_of!(figures, health, logs, service_manager, traces);

/// What a program answers to `/metrics`.
pub(crate) struct Scrape {
    /// The kind of each metric.
    kinds: BTreeMap<String, String>,
    /// Name, labels as they stand, value.
    samples: Vec<(String, String, f64)>,
}

impl Scrape {
    pub(crate) async fn of(system: &System, address: &str) -> Result<Self> {
        let response = system.client.get(format!("http://{address}/metrics")).send().await?;
        ensure!(response.status() == 200, "{response:?}");
        let content_type = response.headers()["content-type"].to_str()?.to_owned();
        ensure!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
        Self::read(&response.text().await?)
    }

    fn read(text: &str) -> Result<Self> {
        let (mut kinds, mut samples) = (BTreeMap::new(), Vec::new());
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').context("no kind")?;
                kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').context("no value")?;
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let value = value.parse().with_context(|| line.to_owned())?;
                samples.push((name.to_owned(), labels.trim_end_matches('}').to_owned(), value));
            }
        }
        Ok(Self { kinds, samples })
    }

    /// The sum of a metric over the series that have these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let all = self.samples.iter().filter(|(n, l, _)| n == name && has(l, labels));
        all.map(|(_, _, value)| value).sum()
    }

    /// How many series of a metric there are.
    fn series(&self, name: &str) -> usize {
        self.samples.iter().filter(|(n, _, _)| n == name).count()
    }

    pub(crate) fn is(&self, name: &str, labels: &[&str], expected: usize) -> Result<()> {
        let value = self.sum(name, labels);
        ensure!(value == expected as f64, "{name} {labels:?} is {value}, not {expected}");
        Ok(())
    }
}

fn has(labels: &str, wanted: &[&str]) -> bool {
    wanted.iter().all(|label| labels.split(',').any(|part| part == *label))
}

/// One gateway, and workers that tell about themselves, with their addresses.
async fn watched(fixture: &Arc<Fixture>, workers: usize) -> Result<(System, Vec<String>)> {
    let mut system = System::prepared(fixture).await?;
    let mut addresses = Vec::new();
    for _ in 0..workers {
        system.start_worker(&[ADMIN]).await?;
        addresses.push(system.workers.last().context("no worker")?.admin_address().await?);
    }
    system.start_gateway(&[]).await?;
    Ok((system, addresses))
}

pub(crate) async fn ready(system: &System, address: &str) -> Result<Answer> {
    answer(system.client.get(format!("http://{address}/readyz"))).await
}
