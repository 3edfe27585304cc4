//! What was measured, and the tables that show it.

use serde_json::{Value, json};

use crate::{load::Outcome, usage::Usage};

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

    const fn word(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
        }
    }
}

/// What a figure, or its ratio to the yardstick, is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    Below(f64),
    RatioAtLeast(f64),
    /// One of both: the figure or the ratio.
    EitherAtLeast {
        figure: f64,
        ratio: f64,
    },
}

/// A load that was run for a row.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) what: String,
    pub(crate) outcome: Outcome,
    pub(crate) usage: Usage,
}

/// A figure with its yardstick.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) figure: f64,
    pub(crate) unit: Unit,
    /// What it is compared with, and the figure of that.
    pub(crate) yardstick: Option<(String, f64, Unit)>,
    pub(crate) target: Option<Target>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, figure: f64, unit: Unit) -> Self {
        Self { what: what.into(), figure, unit, yardstick: None, target: None }
    }

    pub(crate) fn beside(mut self, what: impl Into<String>, figure: f64, unit: Unit) -> Self {
        self.yardstick = Some((what.into(), figure, unit));
        self
    }

    pub(crate) fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// The figure over the yardstick's; none between different units.
    fn ratio(&self) -> Option<f64> {
        let (_, figure, unit) = self.yardstick.as_ref()?;
        (*unit == self.unit && *figure > 0.0).then(|| self.figure / figure)
    }

    fn met(&self) -> Option<bool> {
        let ratio_reaches = |least| self.ratio().is_some_and(|ratio| ratio >= least);
        Some(match self.target? {
            Target::AtLeast(least) => self.figure >= least,
            Target::Below(limit) => self.figure < limit,
            Target::RatioAtLeast(least) => ratio_reaches(least),
            Target::EitherAtLeast { figure, ratio } => {
                self.figure >= figure || ratio_reaches(ratio)
            }
        })
    }

    fn target_text(&self) -> String {
        match self.target {
            None => String::new(),
            Some(Target::AtLeast(least)) => format!("≥ {}", self.unit.text(least)),
            Some(Target::Below(limit)) => format!("< {}", self.unit.text(limit)),
            Some(Target::RatioAtLeast(least)) => format!("ratio ≥ {}", percent(least)),
            Some(Target::EitherAtLeast { figure, ratio }) => {
                format!("≥ {} or ratio ≥ {}", self.unit.text(figure), percent(ratio))
            }
        }
    }

    fn line(&self) -> String {
        let yardstick = self.yardstick.as_ref();
        let yardstick =
            yardstick.map(|(what, figure, unit)| format!("{}, {what}", unit.text(*figure)));
        let met = self.met().map(|met| if met { "yes" } else { "**no**" });
        format!(
            "| {} | {} | {} | {} | {} | {} |",
            self.what,
            self.unit.text(self.figure),
            yardstick.unwrap_or_default(),
            self.ratio().map(percent).unwrap_or_default(),
            self.target_text(),
            met.unwrap_or_default()
        )
    }

    fn json(&self) -> Value {
        let yardstick = self.yardstick.as_ref().map(
            |(what, figure, unit)| json!({ "what": what, "figure": figure, "unit": unit.word() }),
        );
        json!({
            "what": self.what,
            "figure": self.figure,
            "unit": self.unit.word(),
            "yardstick": yardstick,
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
    /// What whoever reads the table should know.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn markdown(&self, machine: &str) -> String {
        let mut text = String::from(
            "| what | figure | yardstick | ratio | target | met |\n|---|---|---|---|---|---|\n",
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
        for Load { what, outcome, usage } in &self.loads {
            let millis =
                |time: Option<f64>| time.map(|ms| format!("{ms:.2} ms")).unwrap_or_default();
            let cpu: Vec<String> =
                usage.micros_for(outcome.requests).map(|(_, micros)| format!("{micros:.0}")).into();
            text.push_str(&format!(
                "| {what} | {} | {} | {} | {} | {} | {} |\n",
                Unit::PerSecond.text(outcome.rate()),
                millis(outcome.p50),
                millis(outcome.p99),
                millis(outcome.max),
                outcome.failed,
                cpu.join(" | ")
            ));
        }
        text.push('\n');
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text.push_str(machine);
        text
    }

    pub(crate) fn json(&self, machine: &str) -> Value {
        let loads: Vec<Value> = self
            .loads
            .iter()
            .map(|Load { what, outcome, usage }| {
                let cpu = usage.micros_for(outcome.requests);
                let cpu: serde_json::Map<String, Value> =
                    cpu.iter().map(|(name, micros)| ((*name).to_owned(), json!(micros))).collect();
                json!({
                    "load": what, "rate": outcome.rate(), "requests": outcome.requests,
                    "p50_ms": outcome.p50, "p99_ms": outcome.p99, "max_ms": outcome.max,
                    "failed": outcome.failed, "cpu_us_per_request": cpu,
                })
            })
            .collect();
        json!({
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "loads": loads,
            "notes": self.notes,
            "machine": machine,
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
