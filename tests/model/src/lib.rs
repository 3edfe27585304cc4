//! The rules of the contract a second time, for tests: from its text and without a look at the
//! decision, update by update on all incidents there are, each rule as it is written, and the words
//! spelt out. [`delivery`] says the same of messages: which must be parked, and what an idempotency
//! key makes of an update. [`affected`] tells when components were affected.

#![expect(clippy::unwrap_used, reason = "a model that meets an incident it does not have is wrong")]

pub mod affected;
pub mod delivery;
mod reports;

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    domain::{
        component::{Component, ComponentId},
        condition::Condition,
        impact::Impact,
        incident::IncidentId,
        outcome::Reason,
        timestamp::Timestamp,
    },
    wire::message::Report,
};

pub use self::reports::{Standing, is_one_report_too_many};

/// An incident with everything that an update may look at or change.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// Its title.
    pub text: String,
    /// `Maintenance` makes it a maintenance.
    pub impact: Impact,
    /// Its start, possibly to come.
    pub start: Timestamp,
    /// Its end, possibly to come.
    pub end: Option<Timestamp>,
    /// Whether the system opened it and no person took it over since.
    pub system: bool,
    /// The components that it affects.
    pub components: BTreeSet<ComponentId>,
    /// Times and texts, oldest first.
    pub updates: Vec<(Timestamp, String)>,
}

impl Incident {
    /// Whether updates may change it.
    #[must_use]
    pub fn is_active_system_incident(&self) -> bool {
        self.system && self.end.is_none() && self.impact != Impact::Maintenance
    }
}

/// A status update and the time at which it is decided.
#[derive(Clone, Debug)]
pub struct Post {
    /// The component that shows it.
    pub component: ComponentId,
    /// The impact, never `Maintenance`; or `ok`.
    pub condition: Condition,
    /// Whose report it is.
    pub report: Option<Report>,
    /// The title of an incident that it opens.
    pub text: String,
    /// When it is decided.
    pub at: Timestamp,
}

/// The answer for the client: the rule, and the incident as it was right after the update.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The rule.
    pub reason: Reason,
    /// The incident that holds or covers the component, or that it left.
    pub incident: Option<Shown>,
}

/// An incident in an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Its id.
    pub id: IncidentId,
    /// Its title.
    pub text: String,
    /// Its impact.
    pub impact: Impact,
    /// Its start.
    pub start: Timestamp,
    /// Its end.
    pub end: Option<Timestamp>,
    /// Times and texts, oldest first.
    pub updates: Vec<(Timestamp, String)>,
}

/// All that a database has of incidents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// The components.
    pub catalogue: BTreeMap<ComponentId, Component>,
    /// The incidents and maintenances.
    pub incidents: BTreeMap<IncidentId, Incident>,
    /// What is known of reports: by component, source and key.
    pub reports: BTreeMap<(ComponentId, String, String), Standing>,
}

impl World {
    /// The id that the next incident gets: ids are given once and in order.
    #[must_use]
    pub fn next_id(&self) -> IncidentId {
        IncidentId(self.incidents.keys().next_back().map_or(1, |last| last.0 + 1))
    }

    /// Adds an incident under the next id.
    pub fn add(&mut self, incident: Incident) -> IncidentId {
        let id = self.next_id();
        self.incidents.insert(id, incident);
        id
    }
}

/// Applies one update; returns the answer for its client.
pub fn apply(world: &mut World, post: &Post) -> Answer {
    let next = world.next_id();
    apply_opening(world, post, next)
}

/// The same, where an incident that the update opens gets this id: PostgreSQL's sequences leave ids
/// out when a transaction is rolled back.
pub fn apply_opening(world: &mut World, post: &Post, opens: IncidentId) -> Answer {
    let was_over = reports::is_over(world, post);
    let (reason, holder) = match (reports::take_note(world, post), post.condition) {
        (Some(late), _) => (late, covering(world, post)),
        (None, Condition::Impact(impact)) => {
            let (reason, holder) = follow_the_rules(world, post, impact, opens);
            (reason, Some(holder))
        }
        (None, Condition::Ok) => recover(world, post, was_over),
    };
    let incident = holder.map(|id| {
        let Incident { text, impact, start, end, updates, .. } = world.incidents[&id].clone();
        Shown { id, text, impact, start, end, updates }
    });
    Answer { reason, incident }
}

/// An `ok`, after its report has ended; `was_over` if it had ended before.
fn recover(world: &mut World, post: &Post, was_over: bool) -> (Reason, Option<IncidentId>) {
    let (component, now) = (post.component, post.at);
    if reports::any_stands(world, component) {
        return (Reason::AnotherReportStands, covering(world, post));
    }
    let Some(worst) = own_incident(world, component) else {
        return (Reason::InNoSystemIncident, covering(world, post));
    };
    if was_over {
        return (Reason::ReportHadEnded, covering(world, post));
    }
    let is_alone = |world: &World, id: IncidentId| world.incidents[&id].components.len() == 1;
    let reason = if is_alone(world, worst) {
        Reason::RecoveredAsOnlyComponent
    } else {
        Reason::RecoveredAmongOthers
    };
    while let Some(id) = own_incident(world, component) {
        let words = format!("{} recovered", label(world, component));
        write(world, id, now, words);
        if is_alone(world, id) {
            close(world, id, now);
        } else {
            world.incidents.get_mut(&id).unwrap().components.remove(&component);
        }
    }
    (reason, Some(worst))
}

/// What covers a component, whatever was reported: a maintenance, then a manual incident, then a system one.
fn covering(world: &World, post: &Post) -> Option<IncidentId> {
    let (component, now) = (post.component, post.at);
    let has =
        |incident: &Incident| incident.components.contains(&component) && incident.start <= now;
    let maintenance = world.incidents.iter().find(|(_, incident)| {
        incident.impact == Impact::Maintenance
            && has(incident)
            && incident.end.is_none_or(|end| end > now)
    });
    let manual = world.incidents.iter().find(|(_, incident)| {
        !incident.system
            && incident.impact != Impact::Maintenance
            && has(incident)
            && incident.end.is_none()
    });
    let outside = maintenance.or(manual).map(|(id, _)| *id);
    outside.or_else(|| own_incident(world, component))
}

/// Of several active system incidents of a component, which the rules themselves never make, the worst and
/// then the oldest.
fn own_incident(world: &World, component: ComponentId) -> Option<IncidentId> {
    let mut own: Option<IncidentId> = None;
    for (id, incident) in &world.incidents {
        if incident.is_active_system_incident() && incident.components.contains(&component) {
            let worse = own.is_none_or(|best| incident.impact > world.incidents[&best].impact);
            if worse {
                own = Some(*id);
            }
        }
    }
    own
}

fn follow_the_rules(
    world: &mut World,
    post: &Post,
    impact: Impact,
    opens: IncidentId,
) -> (Reason, IncidentId) {
    let (component, now) = (post.component, post.at);

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

    let own = own_incident(world, component);
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
            None => (Reason::NoIncidentOfImpact, open(world, post, impact, opens)),
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
                close(world, own, now);
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
            let target = open(world, post, impact, opens);
            tell_of_move(world, component, own, target, now);
            (Reason::MovedToNewIncident, target)
        }
    }
}

fn close(world: &mut World, id: IncidentId, now: Timestamp) {
    write(world, id, now, "CLOSED BY SYSTEM".to_owned());
    // The clock may have been set back: no incident ends before it started.
    let incident = world.incidents.get_mut(&id).unwrap();
    incident.end = Some(now.max(incident.start));
}

fn open(world: &mut World, post: &Post, impact: Impact, id: IncidentId) -> IncidentId {
    let incident = Incident {
        text: post.text.clone(),
        impact,
        start: post.at,
        end: None,
        system: true,
        components: BTreeSet::from([post.component]),
        updates: Vec::new(),
    };
    world.incidents.insert(id, incident);
    id
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
