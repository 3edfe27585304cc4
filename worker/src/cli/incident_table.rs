//! Incidents and maintenances as tables.

use shared::domain::{component::Component, timestamp::Timestamp};

use crate::operator::{Incident, IncidentUpdate};

/// A table of incidents, a line for each.
pub(super) fn table(incidents: &[Incident]) -> String {
    if incidents.is_empty() {
        return "Nothing is active or scheduled.".to_owned();
    }
    let head = "    id  impact       state      from (UTC)        to (UTC)          kind    title"
        .to_owned();
    let lines = incidents.iter().map(|incident| {
        format!(
            "{:>6}  {:<11}  {:<9}  {:<16}  {:<16}  {:<6}  {}: {}",
            incident.id.0,
            incident.impact.word(),
            incident.state.word(),
            incident.start_date.to_the_minute(),
            minute(incident.end_date),
            kind(incident.system),
            incident.text,
            labels(&incident.components),
        )
    });
    [head].into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

/// All there is about one.
pub(super) fn everything(incident: &Incident) -> String {
    let mut lines = vec![
        format!("id:         {}", incident.id),
        format!("title:      {}", incident.text),
        format!("impact:     {}", incident.impact),
        format!("state:      {}", incident.state.word()),
        format!("from:       {} UTC", incident.start_date.to_the_minute()),
        match incident.end_date {
            Some(end) => format!("to:         {} UTC", end.to_the_minute()),
            None => "to:         -".to_owned(),
        },
        format!("kind:       {}", kind(incident.system)),
    ];
    let components = incident.components.iter().map(|c| format!(" {} = {};", c.id, c.label()));
    lines.push(format!("components:{}", components.collect::<String>()));
    lines.push("updates:".to_owned());
    lines.extend(incident.updates.iter().map(|IncidentUpdate { timestamp, status, text }| {
        format!("  {}  {status}: {text}", timestamp.to_the_minute())
    }));
    lines.join("\n")
}

fn minute(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), Timestamp::to_the_minute)
}

fn kind(system: bool) -> &'static str {
    if system { "system" } else { "manual" }
}

fn labels(components: &[Component]) -> String {
    components.iter().map(Component::label).collect::<Vec<_>>().join("; ")
}
