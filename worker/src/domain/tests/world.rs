//! The reads and writes of a batch's transaction, without the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{Answer, Incident, Post, World};
use shared::{
    component::ComponentId, impact::Impact, incident::IncidentId, outcome::Reason,
    timestamp::Timestamp,
};

use super::apply;
use crate::domain::{
    ActiveState, IncidentRef, ManualIncident, SystemIncident, Update,
    timeline::{self, Names, TimelineEntry},
};

/// The state for the decisions of a batch, as `store/active_state.rs` reads it.
fn active_state(world: &World, posts: &[Post]) -> ActiveState {
    let batch: BTreeSet<ComponentId> = posts.iter().map(|post| post.component).collect();
    let from = posts.iter().map(|post| post.at).min();
    let until = posts.iter().map(|post| post.at).max();
    let mut system = BTreeMap::new();
    let mut manual: HashMap<ComponentId, Vec<ManualIncident>> = HashMap::new();
    for (id, incident) in &world.incidents {
        let Incident { text, impact, start, end, .. } = incident.clone();
        let last_update_at = incident.updates.last().map(|(at, _)| *at);
        let known: BTreeSet<ComponentId> =
            incident.components.intersection(&batch).copied().collect();
        if incident.is_active_system_incident() {
            let incident = SystemIncident {
                text,
                impact,
                start_date: start,
                end_date: None,
                has_others: known.len() < incident.components.len(),
                components: known,
                last_update_at,
            };
            system.insert(IncidentRef::Existing(*id), incident);
        } else if (!incident.system || impact == Impact::Maintenance)
            && Some(start) <= until
            && (end.is_none() || end > from)
        {
            for component in known {
                manual.entry(component).or_default().push(ManualIncident {
                    id: *id,
                    text: text.clone(),
                    impact,
                    start_date: start,
                    end_date: end,
                    last_update_at,
                });
            }
        }
    }
    ActiveState::new(system, manual)
}

/// Decides a batch and writes its changes, as `batch/apply.rs` and `store/incidents.rs` do.
pub(super) fn apply_batch(world: &mut World, posts: &[Post]) -> Vec<Answer> {
    let before = active_state(world, posts);
    let mut after = before.clone();
    let mut snapshots = Vec::new();
    let mut entries: Vec<TimelineEntry> = Vec::new();
    for post in posts {
        let Post { component, impact, text, at, .. } = post;
        let update = Update { component: *component, impact: *impact, text, at: *at };
        let (reason, holder) = apply(&mut after, update, &mut entries);
        snapshots.push(snapshot(world, &after, *component, reason, holder));
    }
    assert_eq!(after.manual, before.manual, "a batch never changes manual incidents");
    write(world, &before, &after, &entries);

    // Timelines are read after the commit, when the rest of the batch has added entries.
    for (answer, last_update_at) in &mut snapshots {
        let updates = &world.incidents[&answer.id].updates;
        let known = updates.iter().filter(|(at, _)| Some(*at) <= *last_update_at);
        answer.updates = known.cloned().collect();
    }
    snapshots.into_iter().map(|(answer, _)| answer).collect()
}

/// The answer without its timeline, and the time of its last entry.
fn snapshot(
    world: &World,
    state: &ActiveState,
    component: ComponentId,
    reason: Reason,
    holder: IncidentRef,
) -> (Answer, Option<Timestamp>) {
    let id = id_of(world, holder);
    let (text, impact, start, end, last) = match state.any_incident(holder) {
        Some(i) => (&i.text, i.impact, i.start_date, i.end_date, i.last_update_at),
        None => {
            let i = state.manual_incident(component, holder).unwrap();
            (&i.text, i.impact, i.start_date, i.end_date, i.last_update_at)
        }
    };
    let text = text.clone();
    (Answer { reason, id, text, impact, start, end, updates: Vec::new() }, last)
}

fn write(world: &mut World, before: &ActiveState, after: &ActiveState, entries: &[TimelineEntry]) {
    let words: Vec<(IncidentId, Timestamp, String)> = entries
        .iter()
        .map(|entry| {
            let names = BatchNames { world, state: after, labels: labels(world) };
            let words = timeline::words(&entry.event, entry.incident, &names);
            (id_of(world, entry.incident), entry.at, words)
        })
        .collect();
    let changed: Vec<(IncidentRef, IncidentId, &SystemIncident)> = after
        .system
        .iter()
        .chain(&after.closed)
        .map(|(id, incident)| (*id, id_of(world, *id), incident))
        .collect();
    for (name, id, incident) in changed {
        let row = world.incidents.entry(id).or_insert_with(|| Incident {
            text: incident.text.clone(),
            impact: incident.impact,
            start: incident.start_date,
            end: None,
            system: true,
            components: BTreeSet::new(),
            updates: Vec::new(),
        });
        assert_eq!((&row.text, row.start), (&incident.text, incident.start_date));
        row.impact = incident.impact;
        row.end = incident.end_date;
        if let Some(before) = before.system.get(&name) {
            row.components.retain(|component| !before.components.contains(component));
        }
        row.components.extend(&incident.components);
    }
    for (id, at, words) in words {
        world.incidents.get_mut(&id).unwrap().updates.push((at, words));
    }
}

/// The id of an incident of a batch that is not yet written.
fn id_of(world: &World, id: IncidentRef) -> IncidentId {
    match id {
        IncidentRef::Existing(id) => id,
        IncidentRef::New(place) => IncidentId(world.next_id().0 + place as i32),
    }
}

fn labels(world: &World) -> HashMap<ComponentId, String> {
    world.catalogue.iter().map(|(id, component)| (*id, component.label())).collect()
}

struct BatchNames<'a> {
    world: &'a World,
    state: &'a ActiveState,
    labels: HashMap<ComponentId, String>,
}

impl Names for BatchNames<'_> {
    fn component(&self, id: ComponentId) -> &str {
        &self.labels[&id]
    }

    fn incident(&self, id: IncidentRef) -> (IncidentId, &str) {
        (id_of(self.world, id), &self.state.any_incident(id).unwrap().text)
    }
}
