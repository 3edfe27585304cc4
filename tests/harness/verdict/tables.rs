//! The tables that others write, too, as rows; and one row's change.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use model::Incident;
use serde_json::Value;
use shared::domain::{
    component::{Attribute, Component, ComponentId},
    impact::Impact,
    incident::IncidentId,
    timestamp::Timestamp,
};

/// A row of `incident`, without its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncidentRow {
    /// Its title.
    pub text: String,
    /// Its start.
    pub start: Timestamp,
    /// Its end.
    pub end: Option<Timestamp>,
    /// Its impact; others may have written any number.
    pub impact: i16,
    /// Whether it is the system's.
    pub system: bool,
}

/// A row of `incident_status`, without its id and its incident's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusRow {
    /// Its time.
    pub at: Timestamp,
    /// Its text.
    pub text: String,
    /// Its status: `SYSTEM` for the worker's.
    pub status: String,
}

/// The five tables that the Python dashboard made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `incident`.
    pub incidents: BTreeMap<IncidentId, IncidentRow>,
    /// `incident_component_relation`.
    pub relations: BTreeSet<(IncidentId, ComponentId)>,
    /// `incident_status`, by incident and id.
    pub statuses: BTreeMap<(IncidentId, i32), StatusRow>,
    /// `component`.
    pub components: BTreeMap<ComponentId, String>,
    /// `component_attribute`, by component and id.
    pub attributes: BTreeMap<(ComponentId, i32), Attribute>,
}

/// A row of one of the tables, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Of `incident`.
    Incident(IncidentId, IncidentRow),
    /// Of `incident_component_relation`.
    Relation(IncidentId, ComponentId),
    /// Of `incident_status`.
    Status(IncidentId, i32, StatusRow),
    /// Of `component`.
    Component(ComponentId, String),
    /// Of `component_attribute`.
    Attribute(ComponentId, i32, Attribute),
}

/// What became of one row: inserted without `old`, deleted without `new`. Without both: a table was emptied whose
/// rows components are affected by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place among all changes.
    pub seq: i64,
    /// When its statement began.
    pub at: Timestamp,
    /// The row before.
    pub old: Option<Row>,
    /// The row after.
    pub new: Option<Row>,
}

impl Row {
    /// Reads one as `to_jsonb` writes it.
    pub(super) fn read(table: &str, row: &Value) -> Result<Self> {
        let number = |name: &str| -> Result<i32> {
            let number = row[name].as_i64().with_context(|| format!("{name} in {row}"))?;
            Ok(i32::try_from(number)?)
        };
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        Ok(match table {
            "incident" => Self::Incident(
                IncidentId(number("id")?),
                IncidentRow {
                    text: text("text"),
                    start: time(&text("start_date"))?,
                    end: row["end_date"].as_str().map(time).transpose()?,
                    impact: i16::try_from(number("impact")?)?,
                    system: row["system"].as_bool().context("system")?,
                },
            ),
            "incident_component_relation" => Self::Relation(
                IncidentId(number("incident_id")?),
                ComponentId(number("component_id")?),
            ),
            "incident_status" => Self::Status(
                IncidentId(number("incident_id")?),
                number("id")?,
                StatusRow {
                    at: time(&text("timestamp"))?,
                    text: text("text"),
                    status: text("status"),
                },
            ),
            "component" => Self::Component(ComponentId(number("id")?), text("name")),
            "component_attribute" => Self::Attribute(
                ComponentId(number("component_id")?),
                number("id")?,
                Attribute { name: text("name"), value: text("value") },
            ),
            other => bail!("{other} is no table of the journal"),
        })
    }

    /// The incident that it belongs to.
    pub(super) const fn incident(&self) -> Option<IncidentId> {
        match self {
            Self::Incident(id, _) | Self::Relation(id, _) | Self::Status(id, _, _) => Some(*id),
            Self::Component(..) | Self::Attribute(..) => None,
        }
    }
}

/// A timestamp as `to_jsonb` writes it; what lies beyond the calendar is its end.
pub(super) fn time(text: &str) -> Result<Timestamp> {
    // PostgreSQL has years before 0 and after 9999, and two infinities.
    const FIRST: i64 = -377_705_116_800_000_000;
    const LAST: i64 = 253_402_300_799_999_999;
    let written = format!("{text}Z");
    Ok(match written.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) if text.starts_with('-') || text.ends_with("BC") => Timestamp::from_micros(FIRST)?,
        Err(_) => Timestamp::from_micros(LAST)?,
    })
}

impl Tables {
    /// Adds a row.
    pub fn insert(&mut self, row: Row) {
        match row {
            Row::Incident(id, row) => {
                self.incidents.insert(id, row);
            }
            Row::Relation(incident, component) => {
                self.relations.insert((incident, component));
            }
            Row::Status(incident, id, row) => {
                self.statuses.insert((incident, id), row);
            }
            Row::Component(id, name) => {
                self.components.insert(id, name);
            }
            Row::Attribute(component, id, attribute) => {
                self.attributes.insert((component, id), attribute);
            }
        }
    }

    /// Takes a row away.
    pub fn remove(&mut self, row: &Row) {
        match row {
            Row::Incident(id, _) => {
                self.incidents.remove(id);
            }
            Row::Relation(incident, component) => {
                self.relations.remove(&(*incident, *component));
            }
            Row::Status(incident, id, _) => {
                self.statuses.remove(&(*incident, *id));
            }
            Row::Component(id, _) => {
                self.components.remove(id);
            }
            Row::Attribute(component, id, _) => {
                self.attributes.remove(&(*component, *id));
            }
        }
    }

    /// Makes a change.
    pub fn change(&mut self, change: &Change) {
        if let Some(old) = &change.old {
            self.remove(old);
        }
        if let Some(new) = &change.new {
            self.insert(new.clone());
        }
    }

    /// The updates of an incident, in the order of their times.
    pub(super) fn timeline(&self, id: IncidentId) -> Vec<&StatusRow> {
        let mut rows: Vec<&StatusRow> =
            self.statuses.range((id, i32::MIN)..=(id, i32::MAX)).map(|(_, row)| row).collect();
        rows.sort_by_key(|row| row.at);
        rows
    }

    /// An incident as the model has it; none for one with an impact that is none of ours, which
    /// updates leave alone.
    pub(super) fn incident(&self, id: IncidentId) -> Option<Incident> {
        let row = self.incidents.get(&id)?;
        let all = (id, ComponentId(i32::MIN))..=(id, ComponentId(i32::MAX));
        Some(Incident {
            text: row.text.clone(),
            impact: Impact::try_from(row.impact).ok()?,
            start: row.start,
            end: row.end,
            system: row.system,
            components: self.relations.range(all).map(|(_, component)| *component).collect(),
            updates: self.timeline(id).iter().map(|row| (row.at, row.text.clone())).collect(),
        })
    }

    /// A component as the model has it.
    pub(super) fn component(&self, id: ComponentId) -> Option<Component> {
        let name = self.components.get(&id)?.clone();
        let all = (id, i32::MIN)..=(id, i32::MAX);
        let attributes = self.attributes.range(all).map(|(_, attribute)| attribute.clone());
        Some(Component { id, name, attributes: attributes.collect() })
    }
}
