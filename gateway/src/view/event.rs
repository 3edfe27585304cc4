//! An incident or a maintenance as pages show it.

use std::collections::HashMap;

use shared::domain::{
    component::{Component, ComponentId},
    incident::SYSTEM_STATUS,
    timestamp::Timestamp,
};

use super::{
    catalogue::{label, region},
    html::{Icon, Text, Time, contained, duration},
    level::Level,
};
use crate::store::page_events::PageEvent;

/// Components that an incident names before it says how many more there are.
const MOST_NAMED: usize = 12;

/// Components by their ids.
pub(crate) type Names<'a> = HashMap<ComponentId, &'a Component>;

/// An incident or a maintenance.
pub(crate) struct EventView {
    pub(crate) id: i32,
    pub(crate) title: String,
    pub(crate) level: Level,
    pub(crate) icon: Icon,
    /// Who says so.
    pub(crate) origin: &'static str,
    /// How far it has come; empty if nothing is known beyond that it was detected.
    pub(crate) phase: &'static str,
    pub(crate) is_maintenance: bool,
    pub(crate) is_running: bool,
    pub(crate) has_begun: bool,
    pub(crate) has_ended: bool,
    /// A maintenance that was given an end before its start.
    pub(crate) is_cancelled: bool,
    pub(crate) start: Time,
    pub(crate) end: Option<Time>,
    /// How long it took, or has taken until now.
    pub(crate) duration: String,
    pub(crate) components: Vec<Named>,
    /// The number of components beyond those that are named.
    pub(crate) more_components: usize,
    pub(crate) updates: Vec<UpdateView>,
    /// The number of updates beyond those that are shown.
    pub(crate) more_updates: i64,
}

/// A component with its page.
pub(crate) struct Named {
    pub(crate) id: ComponentId,
    pub(crate) label: String,
}

/// An update.
pub(crate) struct UpdateView {
    pub(crate) time: Time,
    /// Empty for what this service did.
    pub(crate) status: String,
    pub(crate) text: Text,
}

impl EventView {
    /// With its components and updates.
    pub(crate) fn new(event: &PageEvent, names: &Names<'_>, base: &str, now: Timestamp) -> Self {
        let (components, more_components) = named(&event.event.components, names, MOST_NAMED);
        let updates: Vec<UpdateView> = event
            .event
            .incident
            .updates()
            .map(|(status, text, time)| UpdateView {
                time: Time(time),
                status: if status == SYSTEM_STATUS { String::new() } else { contained(status) },
                text: Text::new(text, base),
            })
            .collect();
        Self {
            components,
            more_components,
            more_updates: (event.updates - updates.len() as i64).max(0),
            updates,
            ..Self::line(event, now)
        }
    }

    /// Without components and updates, for one line.
    pub(crate) fn line(event: &PageEvent, now: Timestamp) -> Self {
        let event = &event.event;
        let incident = &event.incident;
        let level = Level::of(incident.impact);
        let is_cancelled = event.is_cancelled();
        let until = incident.end_date.filter(|end| *end <= now || incident.start_date > now);
        Self {
            id: incident.id.0,
            title: title(&incident.text),
            level,
            icon: Icon(level),
            origin: if event.system { "detected by monitoring" } else { "confirmed" },
            phase: if is_cancelled { "cancelled" } else { phase(&event.status) },
            is_maintenance: level == Level::Maintenance,
            has_begun: incident.start_date <= now,
            has_ended: incident.end_date.is_some_and(|end| end <= now),
            is_cancelled,
            is_running: event.is_running(now),
            start: Time(incident.start_date),
            end: incident.end_date.map(Time),
            duration: duration(incident.start_date, until.unwrap_or(now)),
            components: Vec::new(),
            more_components: 0,
            updates: Vec::new(),
            more_updates: 0,
        }
    }
}

/// A title that can be followed as a link, also if nobody wrote one.
pub(crate) fn title(text: &str) -> String {
    Some(contained(text))
        .filter(|text| !text.trim().is_empty())
        .unwrap_or_else(|| "Untitled".to_owned())
}

/// The first components with these ids, by name and region, and how many there are beyond. Those that are deleted are
/// left out. An incident may have all of a large catalogue: only what is shown is sorted and written.
pub(crate) fn named(ids: &[ComponentId], names: &Names<'_>, most: usize) -> (Vec<Named>, usize) {
    let by_name = |a: &&Component, b: &&Component| {
        (&a.name, region(a), a.id).cmp(&(&b.name, region(b), b.id))
    };
    let mut components: Vec<&Component> =
        ids.iter().filter_map(|id| names.get(id).copied()).collect();
    let more = components.len().saturating_sub(most);
    if more > 0 {
        components.select_nth_unstable_by(most, by_name);
        components.truncate(most);
    }
    components.sort_unstable_by(by_name);
    let named = |component: &Component| Named { id: component.id, label: label(component) };
    (components.into_iter().map(named).collect(), more)
}

/// A status of an event in words.
fn phase(status: &str) -> &'static str {
    match status {
        "analysing" => "being analysed",
        "fixing" => "being fixed",
        "observing" => "being observed",
        "reopened" => "reopened",
        "resolved" => "resolved",
        "planned" => "planned",
        "in_progress" | "modified" => "in progress",
        "completed" => "completed",
        _ => "",
    }
}

/// By id.
pub(crate) fn names(components: &[Component]) -> Names<'_> {
    components.iter().map(|component| (component.id, component)).collect()
}
