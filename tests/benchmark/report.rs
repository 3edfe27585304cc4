//! What was measured, and the tables that show it.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::runs::Runs;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    Milliseconds,
    Mebibytes,
}

impl Unit {
    /// A figure in as many digits as it is worth.
    fn text(self, figure: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", thousands(figure)),
            Self::Milliseconds => format!("{figure:.2} ms"),
            Self::Mebibytes => format!("{figure:.1} MiB"),
        }
    }

    /// The same without the unit.
    fn digits(self, figure: f64) -> String {
        match self {
            Self::PerSecond => thousands(figure),
            Self::Milliseconds => format!("{figure:.2}"),
            Self::Mebibytes => format!("{figure:.1}"),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
        }
    }
}

/// What a figure, or its ratio to the baseline, is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Below(f64),
    RatioAtLeast(f64),
    RatioAtMost(f64),
}

/// A load that was run for a row.
pub(crate) struct Load {
    pub(crate) what: String,
    pub(crate) runs: Runs,
}

/// A figure, and the least and the highest of the single runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) spread: Option<(f64, f64)>,
}

impl Figure {
    pub(crate) fn rate(runs: &Runs) -> Result<Self> {
        Ok(Self { value: runs.rate()?, spread: Some(runs.rates()) })
    }

    pub(crate) fn latency(runs: &Runs, quantile: f64) -> Result<Self> {
        let value = runs.latency(quantile).context("nothing was answered")?;
        Ok(Self { value, spread: Some(runs.latencies(quantile)) })
    }

    pub(crate) const fn alone(value: f64) -> Self {
        Self { value, spread: None }
    }

    fn text(self, unit: Unit) -> String {
        let text = unit.text(self.value);
        match self.spread {
            Some((least, most)) if least < most => {
                format!("{text} ({}–{})", unit.digits(least), unit.digits(most))
            }
            Some(_) | None => text,
        }
    }

    fn json(self, unit: Unit) -> Value {
        let (least, most) = self.spread.unwrap_or((self.value, self.value));
        json!({ "figure": self.value, "least": least, "most": most, "unit": unit.word() })
    }
}

/// A figure with its baseline.
pub(crate) struct Row {
    what: String,
    figure: Figure,
    unit: Unit,
    /// What it is compared with, and the figure of that.
    baseline: Option<(String, Figure)>,
    target: Option<Target>,
    /// The share of its updates that changed something.
    changed: Option<f64>,
    /// Requests that failed, of how many.
    failed: Option<(u64, u64)>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, figure: Figure, unit: Unit) -> Self {
        Self {
            what: what.into(),
            figure,
            unit,
            baseline: None,
            target: None,
            changed: None,
            failed: None,
        }
    }

    /// The rate of a load.
    pub(crate) fn rate(what: impl Into<String>, runs: &Runs) -> Result<Self> {
        Ok(Self::new(what, Figure::rate(runs)?, Unit::PerSecond).of(runs))
    }

    /// A latency of a load, over all requests of all runs.
    pub(crate) fn latency(what: impl Into<String>, runs: &Runs, quantile: f64) -> Result<Self> {
        Ok(Self::new(what, Figure::latency(runs, quantile)?, Unit::Milliseconds).of(runs))
    }

    fn of(mut self, runs: &Runs) -> Self {
        self.changed = runs.changes.share();
        self.failed = Some((runs.failed(), runs.requests()));
        self
    }

    /// Compared with a figure of the same unit.
    pub(crate) fn beside(mut self, what: impl Into<String>, figure: Figure) -> Self {
        self.baseline = Some((what.into(), figure));
        self
    }

    pub(crate) fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// The figure over the baseline's.
    fn ratio(&self) -> Option<f64> {
        let (_, baseline) = self.baseline.as_ref()?;
        (baseline.value > 0.0).then(|| self.figure.value / baseline.value)
    }

    fn met(&self) -> Option<bool> {
        Some(match self.target? {
            Target::Below(limit) => self.figure.value < limit,
            Target::RatioAtLeast(least) => self.ratio().is_some_and(|ratio| ratio >= least),
            Target::RatioAtMost(most) => self.ratio().is_some_and(|ratio| ratio <= most),
        })
    }

    fn target_text(&self) -> String {
        match self.target {
            None => String::new(),
            Some(Target::Below(limit)) => format!("< {}", self.unit.text(limit)),
            Some(Target::RatioAtLeast(least)) => format!("≥ {}", percent(least)),
            Some(Target::RatioAtMost(most)) => format!("≤ {}", percent(most)),
        }
    }

    fn line(&self) -> String {
        let baseline = self.baseline.as_ref();
        let baseline = baseline.map(|(what, figure)| format!("{}, {what}", figure.text(self.unit)));
        let met = self.met().map(|met| if met { "yes" } else { "**no**" });
        let failed = self.failed.map(|(failed, _)| failed.to_string());
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.what,
            self.figure.text(self.unit),
            self.changed.map(percent).unwrap_or_default(),
            failed.unwrap_or_default(),
            baseline.unwrap_or_default(),
            self.ratio().map(percent).unwrap_or_default(),
            self.target_text(),
            met.unwrap_or_default()
        )
    }

    fn json(&self) -> Value {
        let baseline = self.baseline.as_ref();
        let baseline =
            baseline.map(|(what, figure)| json!({ "what": what, "is": figure.json(self.unit) }));
        json!({
            "what": self.what,
            "is": self.figure.json(self.unit),
            "changed": self.changed,
            "failed": self.failed.map(|(failed, _)| failed),
            "requests": self.failed.map(|(_, requests)| requests),
            "baseline": baseline,
            "ratio": self.ratio(),
            "target": self.target.map(|_| self.target_text()),
            "met": self.met(),
        })
    }
}

/// All that was measured.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) loads: Vec<Load>,
    /// Notes for readers of the table.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// The rows that miss their targets.
    pub(crate) fn missed(&self) -> Vec<&str> {
        let missed = self.rows.iter().filter(|row| row.met() == Some(false));
        missed.map(|row| row.what.as_str()).collect()
    }

    /// The requests that failed, of all loads.
    pub(crate) fn failed(&self) -> u64 {
        self.loads.iter().map(|load| load.runs.failed()).sum()
    }

    pub(crate) fn markdown(&self, circumstances: &[(&str, String)]) -> String {
        let mut text = String::from(
            "| what | figure | changed | failed | baseline | ratio | target | met |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            text.push_str(&row.line());
            text.push('\n');
        }
        if !self.loads.is_empty() {
            text.push_str(
                "\nThe loads of these rows, with the CPU time that each program took for one \
                 request, in µs:\n\n\
                 | load | rate | p50 | p99 | max | failed | gateway | worker | PostgreSQL | \
                 RabbitMQ | client |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
            );
        }
        for Load { what, runs } in &self.loads {
            let millis =
                |time: Option<f64>| time.map(|ms| format!("{ms:.2} ms")).unwrap_or_default();
            let requests = runs.requests();
            let cpu: Vec<String> =
                runs.usage.micros_for(requests).map(|(_, micros)| format!("{micros:.0}")).into();
            text.push_str(&format!(
                "| {what} | {} | {} | {} | {} | {} | {} |\n",
                Unit::PerSecond.text(runs.rate().unwrap_or_default()),
                millis(runs.latency(0.5)),
                millis(runs.latency(0.99)),
                millis(runs.latency(1.0)),
                runs.failed(),
                cpu.join(" | ")
            ));
        }
        text.push('\n');
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        for (name, value) in circumstances {
            text.push_str(&format!("- {name}: {value}\n"));
        }
        text
    }

    pub(crate) fn json(&self, circumstances: &[(&str, String)]) -> Value {
        let loads: Vec<Value> = self
            .loads
            .iter()
            .map(|Load { what, runs }| {
                let cpu = runs.usage.micros_for(runs.requests());
                let cpu: serde_json::Map<String, Value> =
                    cpu.iter().map(|(name, micros)| ((*name).to_owned(), json!(micros))).collect();
                json!({
                    "load": what, "rate": runs.rate().ok(), "requests": runs.requests(),
                    "p50_ms": runs.latency(0.5), "p99_ms": runs.latency(0.99),
                    "max_ms": runs.latency(1.0), "failed": runs.failed(),
                    "changed": runs.changes.share(), "cpu_us_per_request": cpu,
                })
            })
            .collect();
        let circumstances: serde_json::Map<String, Value> =
            circumstances.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "loads": loads,
            "notes": self.notes,
            "circumstances": circumstances,
        })
    }
}

/// Multiples as such: nobody reads 4357%.
fn percent(ratio: f64) -> String {
    if ratio < 10.0 { format!("{:.0}%", ratio * 100.0) } else { format!("{ratio:.0}×") }
}

/// A whole number with its thousands set apart.
fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
