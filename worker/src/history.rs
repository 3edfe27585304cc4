//! The words in the updates of incidents. Dashboards show them as HTML.

use html_escape::encode_quoted_attribute as escaped;
use shared::{component::ComponentId, impact::Impact, incident::IncidentId};

use crate::decision::{HistoryEvent, IncidentRef};

/// The status of every update that the system writes.
pub const STATUS: &str = "SYSTEM";

/// Finds the names that the words need.
pub trait Names {
    /// The label of a component of the batch.
    fn component(&self, id: ComponentId) -> &str;
    /// The id and title of an incident of the batch.
    fn incident(&self, id: IncidentRef) -> (IncidentId, &str);
}

/// The words for an event in the updates of `incident`, HTML with every name escaped.
#[must_use]
pub fn words(event: &HistoryEvent, incident: IncidentRef, names: &impl Names) -> String {
    match event {
        HistoryEvent::Added(id) => added(names.component(*id), names.incident(incident).1),
        HistoryEvent::MovedTo(id, to) => moved_to(names.component(*id), names.incident(*to)),
        HistoryEvent::MovedFrom(id, from) => {
            moved_from(names.component(*id), names.incident(*from))
        }
        HistoryEvent::Raised(from, to) => impact_changed(*from, *to),
        HistoryEvent::Closed => CLOSED.to_owned(),
    }
}

/// The words when the system closes an incident.
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
            (HistoryEvent::Added(c), format!("{dns} added to {down}")),
            (
                HistoryEvent::MovedTo(c, i),
                format!("{dns} moved to <a href='/incidents/7'>{down}</a>"),
            ),
            (
                HistoryEvent::MovedFrom(c, i),
                format!("{dns} moved from <a href='/incidents/7'>{down}</a>"),
            ),
        ] {
            assert_eq!(words(&event, i, &Hostile), expected);
        }
    }
}
