//! The words in the updates of incidents. Dashboards show them as HTML.

use html_escape::encode_quoted_attribute as escaped;
use shared::{component::ComponentId, incident::IncidentId};

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
    let link = |id| {
        let (id, text) = names.incident(id);
        format!("<a href='/incidents/{id}'>{}</a>", escaped(text))
    };
    let component = |id| escaped(names.component(id));
    match event {
        HistoryEvent::Added(id) => {
            format!("{} added to {}", component(*id), escaped(names.incident(incident).1))
        }
        HistoryEvent::MovedTo(id, to) => format!("{} moved to {}", component(*id), link(*to)),
        HistoryEvent::MovedFrom(id, from) => {
            format!("{} moved from {}", component(*id), link(*from))
        }
        HistoryEvent::Raised(from, to) => format!("impact changed from {from} to {to}"),
        HistoryEvent::Closed => "CLOSED BY SYSTEM".to_owned(),
    }
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
