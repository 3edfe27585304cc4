//! What the runs of one load had for results.

use anyhow::{Context, Result};
use harness::System;
use hdrhistogram::Histogram;

use crate::{load, usage::Usage};

/// One run of a load.
#[derive(Clone, Default)]
pub(crate) struct LoadRun {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Without an answer, and with one of 400 and more.
    pub(crate) failed: u64,
    /// In µs, of those that did not fail.
    pub(crate) latencies: Option<Histogram<u64>>,
}

impl LoadRun {
    pub(crate) fn with_latencies() -> Result<Self> {
        Ok(Self { latencies: Some(load::latencies()?), ..Self::default() })
    }

    /// Good answers in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests.saturating_sub(self.failed) as f64 / self.seconds.max(1e-9)
    }
}

/// All runs of one load.
#[derive(Clone, Default)]
pub(crate) struct Runs {
    runs: Vec<LoadRun>,
    /// The CPU time of all of them.
    pub(crate) usage: Usage,
    /// What its updates did, if it had any.
    pub(crate) changes: Changes,
}

impl Runs {
    pub(crate) fn add(&mut self, run: LoadRun) {
        self.runs.push(run);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.runs.iter().map(|run| run.requests).sum()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.runs.iter().map(|run| run.failed).sum()
    }

    /// The median of the runs' rates.
    ///
    /// # Errors
    /// When nothing was run.
    pub(crate) fn rate(&self) -> Result<f64> {
        median(self.runs.iter().map(LoadRun::rate).collect()).context("nothing was run")
    }

    /// The least and the highest of the runs' rates.
    pub(crate) fn rates(&self) -> (f64, f64) {
        spread(self.runs.iter().map(LoadRun::rate))
    }

    /// A latency of all requests of all runs, in ms: 0.99 for p99, 1 for the longest.
    pub(crate) fn latency(&self, quantile: f64) -> Option<f64> {
        let mut all = load::latencies().ok()?;
        for latencies in self.runs.iter().filter_map(|run| run.latencies.as_ref()) {
            all.add(latencies).ok()?;
        }
        (!all.is_empty()).then(|| all.value_at_quantile(quantile) as f64 / 1e3)
    }

    /// The least and the highest of a latency of single runs, in ms.
    pub(crate) fn latencies(&self, quantile: f64) -> (f64, f64) {
        let latencies = self.runs.iter().filter_map(|run| run.latencies.as_ref());
        spread(latencies.map(|latencies| latencies.value_at_quantile(quantile) as f64 / 1e3))
    }
}

/// The least and the highest.
pub(crate) fn spread(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    figures
        .fold((f64::INFINITY, 0.0), |(least, most), figure| (least.min(figure), most.max(figure)))
}

pub(crate) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

/// How many updates were applied, and how many of them changed something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) changed: u64,
    pub(crate) applied: u64,
}

impl Changes {
    /// Where the inbox ends.
    pub(crate) async fn position(system: &System) -> Result<i64> {
        system.count("SELECT position FROM sdb_scope").await
    }

    /// Of the updates that were applied after that.
    pub(crate) async fn since(system: &System, position: i64) -> Result<Self> {
        if Self::position(system).await? == position {
            return Ok(Self::default());
        }
        let applied = format!("SELECT count(*) FROM sdb_inbox WHERE position > {position}");
        let changed = format!("{applied} AND outcome NOT IN ('unchanged', 'suppressed')");
        Ok(Self {
            changed: system.count(&changed).await?.unsigned_abs(),
            applied: system.count(&applied).await?.unsigned_abs(),
        })
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { changed: self.changed + other.changed, applied: self.applied + other.applied }
    }

    /// The share that changed something; none where no updates were.
    pub(crate) fn share(self) -> Option<f64> {
        (self.applied > 0).then(|| self.changed as f64 / self.applied as f64)
    }
}
