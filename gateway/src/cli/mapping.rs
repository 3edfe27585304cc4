//! `gateway mapping`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Subcommand;
use shared::{
    database::{self, ConnectError},
    domain::{component::ByName, timestamp::Timestamp},
    process::output,
    settings::Settings,
};

use crate::{
    alertmanager::{
        alert::{Alert, AlertState, BadAlert, Labels},
        alert_bodies::Alerts,
        alert_to_update::{Mapped, Mapping, PassedOver, named},
        matcher,
        reachable_components::{self, Unreached, Useless},
    },
    config::Config,
    loaded_mapping,
    store::catalogue,
};

/// Commands on the mapping of alerts to components.
#[derive(Subcommand)]
pub enum MappingCommand {
    /// Show what becomes of an alert: the rule that matches it, and the component, the impact and the
    /// text of its update. Nothing is sent, and no server is needed.
    Test {
        /// The labels of an alert that fires, such as `alertname=Slow,cluster=otc-eu`; a value with a
        /// comma in double quotes.
        #[arg(long, required_unless_present = "alerts")]
        labels: Vec<String>,
        /// Its annotations, such as `summary="Uploads are slow"`.
        #[arg(long, conflicts_with = "alerts")]
        annotations: Vec<String>,
        /// What must become of it, or the command exits with 1: an update as in
        /// `Object Storage (region=eu)=major`, or `ignored`, `none` or `unmapped`.
        #[arg(long, conflicts_with = "alerts")]
        expect: Option<String>,
        /// A file with alerts instead: the body of a request to Alertmanager's API v2, or of its
        /// webhook.
        #[arg(long, conflicts_with = "labels")]
        alerts: Option<PathBuf>,
        /// The time at which these are firing or resolved, in RFC 3339; without this, now.
        #[arg(long, requires = "alerts")]
        at: Option<Timestamp>,
        /// The mapping file; without this, that of SDB_ALERT_MAPPING.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Compare the mapping with the catalogue in the database: show the components that no rule can
    /// reach, and the rules that reach none. Exit with 1 when the file can't be used.
    Check {
        /// The mapping file; without this, that of SDB_ALERT_MAPPING.
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

/// Runs a command; returns what to print.
///
/// # Errors
/// When the mapping file can't be used, when the input is invalid, or when an alert is not mapped as
/// expected.
pub async fn run(command: MappingCommand, settings: &Settings) -> Result<String> {
    match command {
        MappingCommand::Test { labels, annotations, expect, alerts, at, file } => {
            let mapping = read(file, settings)?;
            match alerts {
                Some(alerts) => of_body(&mapping, &alerts, at),
                None => of_labels(&mapping, &labels, &annotations, expect.as_deref()),
            }
        }
        MappingCommand::Check { file } => {
            let mapping = read(file, settings)?;
            let catalogue = read_catalogue(settings).await?;
            Ok(compared(&mapping, &catalogue))
        }
    }
}

/// The mapping of a file, or the default one where none is named.
fn read(file: Option<PathBuf>, settings: &Settings) -> Result<Mapping> {
    let file = file.or_else(|| Config::alert_mapping(settings));
    Ok(loaded_mapping::read(file.as_deref())?)
}

fn content(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))
}

async fn read_catalogue(settings: &Settings) -> Result<ByName> {
    let options = database::connect_options(settings, "gateway")?;
    let mut connection = options.connect_directly().await.map_err(ConnectError::from)?;
    catalogue::read(&mut connection).await.map_err(|error| {
        if catalogue::is_unprepared(&error) {
            anyhow!("the database is not prepared: run `worker migrate`")
        } else {
            anyhow::Error::new(error).context("the database failed")
        }
    })
}

/// What becomes of one alert that fires.
fn of_labels(
    mapping: &Mapping,
    labels: &[String],
    annotations: &[String],
    expected: Option<&str>,
) -> Result<String> {
    let alert = Alert::firing(pairs("--labels", labels)?, pairs("--annotations", annotations)?);
    let mapped = mapping.map(&alert);
    let shown = described(&mapped);
    if let Some(expected) = expected {
        let outcome = outcome(&mapped);
        if outcome != expected.trim() {
            output::line(shown)?;
            bail!("the alert is mapped to `{outcome}`, not to `{expected}`");
        }
    }
    Ok(shown)
}

/// Labels or annotations of the command line, in the syntax of matchers.
fn pairs(option: &str, written: &[String]) -> Result<Labels> {
    let mut pairs = Labels::new();
    for written in written {
        let matchers = matcher::parse(written).map_err(|problem| anyhow!("{option}: {problem}"))?;
        for matcher in matchers {
            let value = matcher.value().with_context(|| {
                format!("{option}: `{matcher}` is no value: write `{}=\"…\"`", matcher.label())
            })?;
            pairs.insert(matcher.label().to_owned(), value.to_owned());
        }
    }
    pairs.retain(|_, value| !value.is_empty());
    ensure!(option == "--annotations" || !pairs.is_empty(), "{option}: an alert has a label");
    Ok(pairs)
}

/// What becomes of each alert of a body.
fn of_body(mapping: &Mapping, path: &Path, at: Option<Timestamp>) -> Result<String> {
    let body = content(path)?;
    let named = || path.display().to_string();
    let is_list = body.trim_start().starts_with('[');
    let read = if is_list { Alerts::of_list } else { Alerts::of_webhook };
    let alerts = read(body.as_bytes()).with_context(named)?;
    let now = match at {
        Some(at) => at,
        None => now()?,
    };
    let mut blocks: Vec<String> = alerts.read(now).map(|alert| one(mapping, alert)).collect();
    if alerts.truncated > 0 {
        blocks.push(format!("Alertmanager has left out {} more (max_alerts).", alerts.truncated));
    }
    Ok(if blocks.is_empty() { "There are no alerts.".to_owned() } else { blocks.join("\n\n") })
}

fn one(mapping: &Mapping, alert: Result<Alert, BadAlert>) -> String {
    match alert {
        Ok(alert) => {
            let mapped = described(&mapping.map(&alert));
            format!("alert      {}, {}\n{mapped}", alert.fingerprint, state(&alert))
        }
        Err(reason) => format!("unmapped   {reason}"),
    }
}

fn state(alert: &Alert) -> String {
    let shown = |word: &str, time: Option<Timestamp>| {
        time.map(|time| format!(" {word} {}", time.to_the_microsecond())).unwrap_or_default()
    };
    let since = shown("since", alert.starts_at);
    match alert.state {
        AlertState::Firing { ttl: Some(ttl) } => format!("firing{since}, for {} s", ttl.as_secs()),
        AlertState::Firing { ttl: None } => format!("firing{since}"),
        AlertState::Resolved { ended_at } => {
            format!("resolved{}, had been firing{since}", shown("at", ended_at))
        }
    }
}

fn described(mapped: &Mapped<'_>) -> String {
    match mapped {
        Mapped::Update(rule, update) => format!(
            "matched    by {rule}\ncomponent  {}\nimpact     {}\ntext       {}",
            named(&update.name, &update.attributes),
            update.condition,
            update.text
        ),
        Mapped::PassedOver(rule, PassedOver::Ignored) => format!("ignored    by {rule}"),
        Mapped::PassedOver(rule, PassedOver::NoImpact) => {
            format!("matched    by {rule}\nimpact     none, the alert is ignored")
        }
        Mapped::Unmapped(Some(rule), reason) => {
            format!("matched    by {rule}\nunmapped   {reason}")
        }
        Mapped::Unmapped(None, reason) => format!("unmapped   {reason}"),
    }
}

/// As `--expect` writes it.
fn outcome(mapped: &Mapped<'_>) -> String {
    match mapped {
        Mapped::Update(_, update) => update.to_string(),
        Mapped::PassedOver(_, PassedOver::Ignored) => "ignored".to_owned(),
        Mapped::PassedOver(_, PassedOver::NoImpact) => "none".to_owned(),
        Mapped::Unmapped(..) => "unmapped".to_owned(),
    }
}

fn compared(mapping: &Mapping, catalogue: &ByName) -> String {
    let Unreached { components, rules } = reachable_components::unreached(mapping, catalogue);
    let mut lines = Vec::new();
    if !components.is_empty() {
        lines.push("No rule can reach these components:".to_owned());
        lines.extend(components.iter().map(|c| format!("  {}", named(&c.name, &c.attributes))));
    }
    if !rules.is_empty() {
        lines.push("These rules reach no component:".to_owned());
        lines.extend(rules.iter().map(|useless| match useless {
            Useless::WithoutComponent(rule) => format!("  {rule}"),
            Useless::Shadowed { rule, by } => format!("  {rule}: {by} matches all of its alerts"),
        }));
    }
    lines.push(format!(
        "Rules: {}, of which {} reach no component. Components: {}, of which {} can't be reached.",
        mapping.rules.len(),
        rules.len(),
        catalogue.len(),
        components.len()
    ));
    lines.join("\n")
}

/// The present, by the machine's clock.
#[expect(clippy::disallowed_methods, reason = "an operator's command judges by the present")]
fn now() -> Result<Timestamp> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(Timestamp::from_micros(i64::try_from(now.as_micros())?)?)
}
