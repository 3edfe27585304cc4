//! The objects of Statuspage's API.

use std::collections::HashMap;

use serde::Serialize;
use shared::domain::{
    component::{Component, ComponentId},
    timestamp::Timestamp,
};

use crate::{
    store::page_events::PageEvent,
    view::{
        catalogue::{attribute, label},
        event::title,
        html::without_markup,
        level::Level,
    },
};

/// The page. Its id is the same everywhere: there is one page at an address.
pub(super) const PAGE_ID: &str = "status-dashboard";

#[derive(Serialize)]
pub(super) struct PageJson<'a> {
    pub(super) id: &'static str,
    pub(super) name: &'a str,
    pub(super) url: &'a str,
    pub(super) time_zone: &'static str,
    pub(super) updated_at: String,
}

#[derive(Serialize)]
pub(super) struct StatusJson {
    indicator: &'static str,
    description: &'static str,
}

impl From<Level> for StatusJson {
    fn from(level: Level) -> Self {
        let (indicator, description) = match level {
            Level::Operational => ("none", "All Systems Operational"),
            Level::Maintenance => ("maintenance", "Service Under Maintenance"),
            Level::Minor => ("minor", "Minor Service Outage"),
            Level::Major => ("major", "Partial System Outage"),
            Level::Outage => ("critical", "Major Service Outage"),
        };
        Self { indicator, description }
    }
}

#[derive(Serialize)]
pub(super) struct ComponentJson {
    pub(super) id: String,
    name: String,
    status: &'static str,
    created_at: Option<String>,
    updated_at: Option<String>,
    position: usize,
    description: Option<String>,
    showcase: bool,
    start_date: Option<String>,
    group_id: Option<String>,
    page_id: &'static str,
    group: bool,
    only_show_if_degraded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    components: Option<Vec<String>>,
}

impl ComponentJson {
    pub(super) fn new(component: &Component, position: usize, level: Level) -> Self {
        Self {
            id: component.id.to_string(),
            name: label(component),
            status: component_status(level),
            group_id: category(component).map(group_id),
            position,
            ..Self::empty()
        }
    }

    /// A category with its components.
    pub(super) fn group(
        name: &str,
        components: &[ComponentId],
        position: usize,
        level: Level,
    ) -> Self {
        Self {
            id: group_id(name),
            name: name.to_owned(),
            status: component_status(level),
            position,
            group: true,
            components: Some(components.iter().map(ToString::to_string).collect()),
            ..Self::empty()
        }
    }

    const fn empty() -> Self {
        Self {
            id: String::new(),
            name: String::new(),
            status: "",
            created_at: None,
            updated_at: None,
            position: 0,
            description: None,
            showcase: false,
            start_date: None,
            group_id: None,
            page_id: PAGE_ID,
            group: false,
            only_show_if_degraded: false,
            components: None,
        }
    }
}

/// The category of a component, which is its group.
pub(super) fn category(component: &Component) -> Option<&str> {
    attribute(component, "category")
}

/// Components have numbers, so that no group has the id of a component.
fn group_id(category: &str) -> String {
    format!("group-{category}")
}

const fn component_status(level: Level) -> &'static str {
    match level {
        Level::Operational => "operational",
        Level::Maintenance => "under_maintenance",
        Level::Minor => "degraded_performance",
        Level::Major => "partial_outage",
        Level::Outage => "major_outage",
    }
}

#[derive(Serialize)]
pub(super) struct IncidentJson<'a> {
    id: String,
    name: String,
    status: &'static str,
    created_at: String,
    updated_at: String,
    monitoring_at: Option<String>,
    resolved_at: Option<String>,
    impact: &'static str,
    shortlink: String,
    started_at: String,
    page_id: &'static str,
    incident_updates: Vec<UpdateJson>,
    components: Vec<&'a ComponentJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_for: Option<String>,
    /// Null while the end of a maintenance is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_until: Option<Option<String>>,
}

#[derive(Serialize)]
struct UpdateJson {
    id: String,
    status: &'static str,
    body: String,
    incident_id: String,
    created_at: String,
    updated_at: String,
    display_at: String,
    affected_components: Option<Vec<String>>,
}

impl<'a> IncidentJson<'a> {
    pub(super) fn new(
        event: &PageEvent,
        components: &HashMap<ComponentId, &'a ComponentJson>,
        root: &str,
        now: Timestamp,
    ) -> Self {
        let updates = updates(event);
        let PageEvent { event, .. } = event;
        let incident = &event.incident;
        let level = Level::of(incident.impact);
        let is_maintenance = level == Level::Maintenance;
        let ended = incident.end_date.filter(|end| *end <= now);
        let newest = incident.update_times.first().copied().unwrap_or(incident.start_date);
        let monitoring = updates.iter().find(|update| update.status == "monitoring");
        Self {
            id: incident.id.to_string(),
            name: title(&incident.text),
            status: event_status(&event.status),
            created_at: time(incident.start_date),
            updated_at: time(ended.map_or(newest, |ended| ended.max(newest))),
            monitoring_at: monitoring.map(|update| update.created_at.clone()),
            resolved_at: ended.map(time),
            impact: impact(level),
            shortlink: format!("{root}incidents/{}", incident.id),
            started_at: time(incident.start_date),
            page_id: PAGE_ID,
            incident_updates: updates,
            components: event
                .components
                .iter()
                .filter_map(|id| components.get(id).copied())
                .collect(),
            scheduled_for: is_maintenance.then(|| time(incident.start_date)),
            scheduled_until: is_maintenance.then(|| incident.end_date.map(time)),
        }
    }
}

/// Newest first.
fn updates(event: &PageEvent) -> Vec<UpdateJson> {
    let PageEvent { event, update_ids, .. } = event;
    let incident = &event.incident;
    // What a status means that Statuspage does not have.
    let of_others = |at: Timestamp| match (incident.impact, at < incident.start_date) {
        (0, true) => "scheduled",
        (0, false) => "in_progress",
        _ => "investigating",
    };
    incident
        .updates()
        .zip(update_ids)
        .map(|((status, text, at), id)| UpdateJson {
            id: id.to_string(),
            status: update_status(status, of_others(at)),
            body: without_markup(text),
            incident_id: incident.id.to_string(),
            created_at: time(at),
            updated_at: time(at),
            display_at: time(at),
            affected_components: None,
        })
        .collect()
}

/// The status of an incident or a maintenance, from that of an event of API v2.
fn event_status(status: &str) -> &'static str {
    match status {
        "fixing" => "identified",
        "observing" => "monitoring",
        "resolved" => "resolved",
        "planned" => "scheduled",
        "in_progress" | "modified" => "in_progress",
        "completed" => "completed",
        _ => "investigating",
    }
}

/// The status of an update, from the word in the tables.
fn update_status(status: &str, of_others: &'static str) -> &'static str {
    match status {
        "fixing" => "identified",
        "observing" => "monitoring",
        "resolved" => "resolved",
        "scheduled" | "planned" => "scheduled",
        "in progress" | "in_progress" => "in_progress",
        "completed" => "completed",
        _ => of_others,
    }
}

const fn impact(level: Level) -> &'static str {
    match level {
        Level::Operational => "none",
        Level::Maintenance => "maintenance",
        Level::Minor => "minor",
        Level::Major => "major",
        Level::Outage => "critical",
    }
}

/// A time as Statuspage has it: RFC 3339 with milliseconds.
pub(super) fn time(time: Timestamp) -> String {
    let text = time.to_the_microsecond();
    text.strip_suffix("Z")
        .and_then(|text| text.get(..text.len() - 3))
        .map_or_else(|| text.clone(), |text| format!("{text}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds() {
        let at: Timestamp = "2026-11-27T09:50:01.234567Z".parse().unwrap();
        assert_eq!(time(at), "2026-11-27T09:50:01.234Z");
    }
}
