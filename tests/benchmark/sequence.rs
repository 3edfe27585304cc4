//! Which updates a load sends: such that mostly repeat what is known, and such that each change
//! something.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::{System, burst};
use serde_json::{Value, json};
use shared::{
    database::components,
    domain::{component::Component, condition::Condition, impact::Impact},
    wire::message::Report,
};
use tokio::time::sleep;

use crate::load::Bodies;

/// Updates before they repeat: each component with each impact as often as a burst has it.
const REPEATING: usize = 5_000;
/// Components of which each is reported minor, then major, then an outage.
const CHANGING: usize = 70_000;
/// So many that a backlog has each of them with each impact.
pub(crate) const WORSENING: usize = 17_000;
/// Components of a storm.
pub(crate) const STORMING: usize = 10_000;
/// The source of all reports.
const SOURCE: &str = "monitor";
/// How long an incident stands while updates change something and clients wait for the answers: each
/// answer has all updates of its incident, and some hundred components fail together, not 70,000.
const STORM: Duration = Duration::from_millis(50);

/// Which updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequence {
    /// Those of a burst: monitors that repeat themselves. Hardly any changes something.
    Repeating,
    /// All components minor, then all of them major, then all an outage: each changes something, for as
    /// long as this is not over.
    Changing,
    /// The same of fewer components, so that most updates of a backlog move a component to another incident.
    Worsening,
    /// Those of a burst, each a report.
    Reported,
    /// A storm: all components minor, each a report, and then `ok`, again and again. Each changes something.
    Storm,
}

impl Sequence {
    /// For the name of a row.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Repeating => "repeating updates",
            Self::Changing => "updates that each change something",
            Self::Worsening => "updates that each change something, two of three by a move",
            Self::Reported => "repeating updates with reports",
            Self::Storm => "updates of a storm",
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Repeating => "repeating",
            Self::Changing => "changing",
            Self::Worsening => "worsening",
            Self::Reported => "reported",
            Self::Storm => "storm",
        }
    }

    /// Its updates as clients post them.
    pub(crate) fn bodies(self) -> Bodies {
        Bodies::new(self.updates().map(|update| update.to_string()))
    }

    /// The same, so many in each body.
    pub(crate) fn bodies_of_many(self, each: usize) -> Bodies {
        let updates: Vec<Value> = self.updates().collect();
        Bodies::new(updates.chunks(each).map(|updates| json!({ "updates": updates }).to_string()))
    }

    fn updates(self) -> Box<dyn Iterator<Item = Value>> {
        match self {
            Self::Repeating => Box::new((0..REPEATING).map(burst::update)),
            Self::Changing | Self::Worsening => {
                let components = self.own_components();
                Box::new((0..components * 3).map(move |number| {
                    let (component, impact) = changing(number, components);
                    json!({ "name": name(component), "impact": impact })
                }))
            }
            Self::Reported => Box::new((0..REPEATING).map(|number| {
                let mut update = burst::update(number);
                update["source"] = SOURCE.into();
                update
            })),
            Self::Storm => Box::new((0..STORMING * 2).map(|number| {
                let (component, condition) = storming(number);
                json!({ "name": name(component), "impact": condition, "source": SOURCE })
            })),
        }
    }

    /// The number of components that it has alone; those of a burst are in every system.
    const fn own_components(self) -> usize {
        match self {
            Self::Repeating | Self::Reported => 0,
            Self::Changing => CHANGING,
            Self::Worsening => WORSENING,
            Self::Storm => STORMING,
        }
    }

    /// Adds its components.
    pub(crate) async fn prepare(self, system: &System) -> Result<()> {
        let count = self.own_components();
        if count == 0 {
            return Ok(());
        }
        let named = name("' || n || '");
        let statement = format!(
            "INSERT INTO component (name) SELECT '{named}' FROM generate_series(0, {count} - 1) n;
            ANALYZE component"
        );
        system.sql(&statement).await?;
        system.catalogue_seen().await
    }

    /// Its components, in the order in which updates are about them.
    pub(crate) fn components(self, all: Vec<Component>) -> Vec<Component> {
        let own = name("");
        let has_own = self.own_components() > 0;
        let of_it = |component: &Component| component.name.starts_with(&own) == has_own;
        all.into_iter().filter(of_it).collect()
    }

    /// The component, of [`Self::components`], of its n-th update, what that says of it, and its report.
    pub(crate) fn update(
        self,
        number: usize,
        components: &[Component],
    ) -> Result<(Component, Condition, Option<Report>)> {
        let (found, condition) = match self {
            Self::Repeating | Self::Reported => {
                let body = burst::update(number);
                let region = body["attributes"][0]["value"].as_str().unwrap_or_default();
                let found = components.iter().find(|component| {
                    body["name"] == component.name.as_str()
                        && component.attributes.iter().any(|attribute| attribute.value == region)
                });
                (found, impact(body["impact"].as_i64().unwrap_or_default())?)
            }
            Self::Changing | Self::Worsening => {
                let (component, number) = changing(number, self.own_components());
                (components.get(component), impact(number)?)
            }
            Self::Storm => {
                let (component, condition) = storming(number);
                (components.get(component), condition)
            }
        };
        let component = found.context("the catalogue has not the components of the load")?;
        let report = match self {
            Self::Repeating | Self::Changing | Self::Worsening => None,
            Self::Reported | Self::Storm => {
                Some(Report { source: SOURCE.to_owned(), ..Report::default() })
            }
        };
        Ok((component.clone(), condition, report))
    }
}

fn impact(number: i64) -> Result<Condition> {
    Ok(Impact::try_from(i16::try_from(number)?)?.into())
}

/// The component, of so many, and the impact of an update of which each changes something.
const fn changing(number: usize, components: usize) -> (usize, i64) {
    (number % components, (number / components % 3) as i64 + 1)
}

/// The component of an update of a storm, and what it says.
const fn storming(number: usize) -> (usize, Condition) {
    let is_over = number / STORMING % 2 == 1;
    let condition = if is_over { Condition::Ok } else { Condition::Impact(Impact::Minor) };
    (number % STORMING, condition)
}

fn name(component: impl std::fmt::Display) -> String {
    format!("Changing {component}")
}

/// Reads the catalogue.
pub(crate) async fn catalogue(system: &System) -> Result<Vec<Component>> {
    let mut database = system.database.acquire().await?;
    Ok(components::read_all(&mut database).await?)
}

/// Closes all incidents, as a person does, so that each update changes something again.
pub(crate) async fn close_all(system: &System) -> Result<()> {
    sqlx::query(
        "UPDATE incident SET end_date = clock_timestamp() AT TIME ZONE 'UTC'
        WHERE system AND end_date IS NULL",
    )
    .execute(&system.database)
    .await?;
    Ok(())
}

/// Does so again and again; ends with an error only.
pub(crate) async fn keep_closing(system: &System) -> Result<()> {
    loop {
        sleep(STORM).await;
        close_all(system).await?;
    }
}
