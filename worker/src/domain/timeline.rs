//! The entries of timelines, and their texts, which dashboards show as HTML.

use html_escape::encode_quoted_attribute as escaped;
use shared::domain::{
    component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp,
};

use super::incident_ref::IncidentRef;

/// An entry of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineEntry {
    /// The incident.
    pub incident: IncidentRef,
    /// The time; the times of an incident's entries strictly increase.
    pub at: Timestamp,
    /// What happened.
    pub event: TimelineEvent,
}

/// What happened to an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimelineEvent {
    /// The component joined it.
    Added(ComponentId),
    /// The component moved to another incident.
    MovedTo(ComponentId, IncidentRef),
    /// The component moved here from another incident.
    MovedFrom(ComponentId, IncidentRef),
    /// Its impact was raised.
    Raised(Impact, Impact),
    /// The component recovered.
    Recovered(ComponentId),
    /// The system closed it.
    Closed,
}

/// Provides the names for the texts.
pub trait Names {
    /// The label of a component of the batch.
    fn component(&self, id: ComponentId) -> &str;
    /// The id and title of an incident of the batch.
    fn incident(&self, id: IncidentRef) -> (IncidentId, &str);
}

/// The text for an event in the timeline of `incident`: HTML with every name escaped.
#[must_use]
pub fn words(event: &TimelineEvent, incident: IncidentRef, names: &impl Names) -> String {
    match event {
        TimelineEvent::Added(id) => added(names.component(*id), names.incident(incident).1),
        TimelineEvent::MovedTo(id, to) => moved_to(names.component(*id), names.incident(*to)),
        TimelineEvent::MovedFrom(id, from) => {
            moved_from(names.component(*id), names.incident(*from))
        }
        TimelineEvent::Raised(from, to) => impact_changed(*from, *to),
        TimelineEvent::Recovered(id) => recovered(names.component(*id)),
        TimelineEvent::Closed => CLOSED.to_owned(),
    }
}

/// The text when the system closes an incident.
pub(crate) const CLOSED: &str = "CLOSED BY SYSTEM";

pub(crate) fn added(component: &str, title: &str) -> String {
    format!("{} added to {}", escaped(component), escaped(title))
}

pub(crate) fn removed(component: &str, title: &str) -> String {
    format!("{} removed from {}", escaped(component), escaped(title))
}

pub(crate) fn moved_to(component: &str, to: (IncidentId, &str)) -> String {
    format!("{} moved to {}", escaped(component), link(to))
}

pub(crate) fn moved_from(component: &str, from: (IncidentId, &str)) -> String {
    format!("{} moved from {}", escaped(component), link(from))
}

fn recovered(component: &str) -> String {
    format!("{} recovered", escaped(component))
}

pub(crate) fn impact_changed(from: Impact, to: Impact) -> String {
    format!("impact changed from {from} to {to}")
}

pub(crate) fn title_changed(from: &str, to: &str) -> String {
    format!("title changed from {} to {}", escaped(from), escaped(to))
}

fn link((id, title): (IncidentId, &str)) -> String {
    format!("<a href='/incidents/{id}'>{}</a>", escaped(title))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hostile;

    impl Names for Hostile {
        fn component(&self, _: ComponentId) -> &str {
            "<b>DNS</b> (\"R&D\")"
        }

        fn incident(&self, _: IncidentRef) -> (IncidentId, &str) {
            (IncidentId(7), "it's <down>")
        }
    }

    #[test]
    fn every_name_is_escaped() {
        let (c, i) = (ComponentId(1), IncidentRef::New(0));
        let dns = "&lt;b&gt;DNS&lt;/b&gt; (&quot;R&amp;D&quot;)";
        let down = "it&#x27;s &lt;down&gt;";
        for (event, expected) in [
            (TimelineEvent::Added(c), format!("{dns} added to {down}")),
            (TimelineEvent::Recovered(c), format!("{dns} recovered")),
            (
                TimelineEvent::MovedTo(c, i),
                format!("{dns} moved to <a href='/incidents/7'>{down}</a>"),
            ),
            (
                TimelineEvent::MovedFrom(c, i),
                format!("{dns} moved from <a href='/incidents/7'>{down}</a>"),
            ),
        ] {
            assert_eq!(words(&event, i, &Hostile), expected);
        }
    }
}
