//! The rules a second time, from the contract and without a look at the decision: update by update
//! on all incidents there are, each rule as it is written, and the words spelt out.

use std::collections::BTreeSet;

use shared::{
    component::{Component, ComponentId},
    impact::Impact,
    incident::IncidentId,
    outcome::Reason,
    timestamp::Timestamp,
};

use super::world::{Answer, Incident, Post, World};

/// Applies one update; says what its client is told.
pub(super) fn apply(world: &mut World, post: &Post) -> Answer {
    let (reason, holder) = follow_the_rules(world, post);
    let Incident { text, impact, start, end, updates, .. } = world.incidents[&holder].clone();
    Answer { reason, id: holder, text, impact, start, end, updates }
}

fn follow_the_rules(world: &mut World, post: &Post) -> (Reason, IncidentId) {
    let (component, impact, now) = (post.component, post.impact, post.at);

    // Rule 1
    for (id, incident) in &world.incidents {
        let started = incident.start <= now;
        let over = incident.end.is_some_and(|end| end <= now);
        if incident.impact == Impact::Maintenance
            && incident.components.contains(&component)
            && started
            && !over
        {
            return (Reason::InRunningMaintenance, *id);
        }
    }

    // Rule 2
    for (id, incident) in &world.incidents {
        if !incident.system
            && incident.impact != Impact::Maintenance
            && incident.components.contains(&component)
            && incident.start <= now
            && incident.end.is_none()
            && incident.impact >= impact
        {
            return (Reason::CoveredByManualIncident, *id);
        }
    }

    // Of several incidents, which the rules themselves never make, the worst and then the oldest.
    let mut own: Option<IncidentId> = None;
    for (id, incident) in &world.incidents {
        if incident.is_active_system_incident() && incident.components.contains(&component) {
            let worse = own.is_none_or(|best| incident.impact > world.incidents[&best].impact);
            if worse {
                own = Some(*id);
            }
        }
    }
    let mut of_impact: Option<IncidentId> = None;
    for (id, incident) in world.incidents.iter().rev() {
        if incident.is_active_system_incident() && incident.impact == impact {
            of_impact = Some(*id);
        }
    }

    let Some(own) = own else {
        // Rule 4
        return match of_impact {
            Some(joined) => {
                let text = html(&world.incidents[&joined].text);
                world.incidents.get_mut(&joined).unwrap().components.insert(component);
                write(world, joined, now, format!("{} added to {text}", label(world, component)));
                (Reason::JoinedIncidentOfImpact, joined)
            }
            None => (Reason::NoIncidentOfImpact, open(world, post)),
        };
    };

    // Rule 3
    let old = world.incidents[&own].clone();
    if old.impact >= impact {
        return (Reason::CoveredBySystemIncident, own);
    }

    // Rule 5
    let alone = old.components.len() == 1;
    match of_impact {
        Some(target) => {
            world.incidents.get_mut(&target).unwrap().components.insert(component);
            tell_of_move(world, component, own, target, now);
            if alone {
                write(world, own, now, "CLOSED BY SYSTEM".to_owned());
                world.incidents.get_mut(&own).unwrap().end = Some(now);
                (Reason::MovedAsOnlyComponent, target)
            } else {
                world.incidents.get_mut(&own).unwrap().components.remove(&component);
                (Reason::MovedToIncidentOfImpact, target)
            }
        }
        None if alone => {
            world.incidents.get_mut(&own).unwrap().impact = impact;
            let words = format!("impact changed from {} to {}", word(old.impact), word(impact));
            write(world, own, now, words);
            (Reason::RaisedAsOnlyComponent, own)
        }
        None => {
            world.incidents.get_mut(&own).unwrap().components.remove(&component);
            let target = open(world, post);
            tell_of_move(world, component, own, target, now);
            (Reason::MovedToNewIncident, target)
        }
    }
}

fn open(world: &mut World, post: &Post) -> IncidentId {
    world.add(Incident {
        text: post.text.clone(),
        impact: post.impact,
        start: post.at,
        end: None,
        system: true,
        components: BTreeSet::from([post.component]),
        updates: Vec::new(),
    })
}

fn tell_of_move(
    world: &mut World,
    component: ComponentId,
    from: IncidentId,
    to: IncidentId,
    now: Timestamp,
) {
    let label = label(world, component);
    let link = |id: IncidentId| {
        format!("<a href='/incidents/{}'>{}</a>", id.0, html(&world.incidents[&id].text))
    };
    let (away, here) =
        (format!("{label} moved to {}", link(to)), format!("{label} moved from {}", link(from)));
    write(world, from, now, away);
    write(world, to, now, here);
}

/// Adds an update to an incident, at the first microsecond from now on that is after all others.
fn write(world: &mut World, incident: IncidentId, now: Timestamp, words: String) {
    let updates = &mut world.incidents.get_mut(&incident).unwrap().updates;
    let mut at = now;
    if let Some((last, _)) = updates.last()
        && *last >= now
    {
        at = last.plus_micros(1);
    }
    updates.push((at, words));
}

fn label(world: &World, component: ComponentId) -> String {
    let Component { name, attributes, .. } = &world.catalogue[&component];
    let mut values = String::new();
    for (place, attribute) in attributes.iter().enumerate() {
        if place > 0 {
            values.push_str(", ");
        }
        values.push_str(&attribute.value);
    }
    html(&format!("{name} ({values})"))
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#x27;")
}

fn word(impact: Impact) -> &'static str {
    ["maintenance", "minor", "major", "outage"][i16::from(impact) as usize]
}
