//! All incidents of a database, as a batch finds and leaves them: what a transaction reads for a
//! batch and what it writes after it, without the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{
    component::{Component, ComponentId},
    impact::Impact,
    incident::IncidentId,
    outcome::Reason,
    timestamp::Timestamp,
};

use crate::{
    decision::{ActiveState, HistoryEntry, Holder, IncidentRef, ManualIncident, SystemIncident},
    history::{self, Names},
};

/// An incident with everything that an update may look at or change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Incident {
    pub(super) text: String,
    pub(super) impact: Impact,
    pub(super) start: Timestamp,
    pub(super) end: Option<Timestamp>,
    /// Whether the system opened it and no person took it over since.
    pub(super) system: bool,
    pub(super) components: BTreeSet<ComponentId>,
    /// Oldest first.
    pub(super) updates: Vec<(Timestamp, String)>,
}

impl Incident {
    pub(super) fn is_active_system_incident(&self) -> bool {
        self.system && self.end.is_none() && self.impact != Impact::Maintenance
    }
}

/// A status update and the time at which it is decided.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub(super) component: ComponentId,
    pub(super) impact: Impact,
    pub(super) text: String,
    pub(super) at: Timestamp,
}

/// What the client is told: the rule, and the incident as it stood right after the update.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) reason: Reason,
    pub(super) id: IncidentId,
    pub(super) text: String,
    pub(super) impact: Impact,
    pub(super) start: Timestamp,
    pub(super) end: Option<Timestamp>,
    /// Oldest first.
    pub(super) updates: Vec<(Timestamp, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct World {
    pub(super) catalogue: BTreeMap<ComponentId, Component>,
    pub(super) incidents: BTreeMap<IncidentId, Incident>,
}

impl World {
    /// The id that the next incident gets: ids are given once and in order.
    pub(super) fn next_id(&self) -> IncidentId {
        IncidentId(self.incidents.keys().next_back().map_or(1, |last| last.0 + 1))
    }

    pub(super) fn add(&mut self, incident: Incident) -> IncidentId {
        let id = self.next_id();
        self.incidents.insert(id, incident);
        id
    }

    /// What the decisions of a batch get to see, like the queries of `state.rs`.
    fn active_state(&self, posts: &[Post]) -> ActiveState {
        let batch: BTreeSet<ComponentId> = posts.iter().map(|post| post.component).collect();
        let from = posts.iter().map(|post| post.at).min();
        let until = posts.iter().map(|post| post.at).max();
        let mut system = BTreeMap::new();
        let mut manual: HashMap<ComponentId, Vec<ManualIncident>> = HashMap::new();
        for (id, incident) in &self.incidents {
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
                system.insert(IncidentRef::Standing(*id), incident);
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

    /// Decides a batch and writes what it changed, like `step.rs` and `write.rs`.
    pub(super) fn apply_batch(&mut self, posts: &[Post]) -> Vec<Answer> {
        let before = self.active_state(posts);
        let mut after = before.clone();
        let mut snapshots = Vec::new();
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for post in posts {
            let effect = after.apply(post.component, post.impact, &post.text, post.at);
            snapshots.push(self.snapshot(&after, post.component, effect.reason, effect.holder));
            entries.extend(effect.history);
        }
        assert_eq!(after.manual, before.manual, "a batch never changes manual incidents");
        self.write(&before, &after, &entries);

        // The updates are read after the commit, when the rest of the batch has added to them.
        for (answer, last_update_at) in &mut snapshots {
            let updates = &self.incidents[&answer.id].updates;
            let known = updates.iter().filter(|(at, _)| Some(*at) <= *last_update_at);
            answer.updates = known.cloned().collect();
        }
        snapshots.into_iter().map(|(answer, _)| answer).collect()
    }

    /// The answer without its updates, and the time of the last of these.
    fn snapshot(
        &self,
        state: &ActiveState,
        component: ComponentId,
        reason: Reason,
        holder: Holder,
    ) -> (Answer, Option<Timestamp>) {
        let (id, text, impact, start, end, last) = match holder {
            Holder::System(id) => {
                let i = state.any_incident(id).unwrap();
                (self.id_of(id), &i.text, i.impact, i.start_date, i.end_date, i.last_update_at)
            }
            Holder::Manual(place) => {
                let i = &state.manual[&component][place];
                (i.id, &i.text, i.impact, i.start_date, i.end_date, i.last_update_at)
            }
        };
        let text = text.clone();
        (Answer { reason, id, text, impact, start, end, updates: Vec::new() }, last)
    }

    fn write(&mut self, before: &ActiveState, after: &ActiveState, entries: &[HistoryEntry]) {
        let words: Vec<(IncidentId, Timestamp, String)> = entries
            .iter()
            .map(|entry| {
                let names = BatchNames { world: self, state: after, labels: self.labels() };
                let words = history::words(&entry.event, entry.incident, &names);
                (self.id_of(entry.incident), entry.at, words)
            })
            .collect();
        let changed: Vec<(IncidentRef, IncidentId, &SystemIncident)> = after
            .system
            .iter()
            .chain(&after.closed)
            .map(|(id, incident)| (*id, self.id_of(*id), incident))
            .collect();
        for (name, id, incident) in changed {
            let row = self.incidents.entry(id).or_insert_with(|| Incident {
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
            self.incidents.get_mut(&id).unwrap().updates.push((at, words));
        }
    }

    /// The id of an incident of a batch that is decided and not yet written.
    fn id_of(&self, id: IncidentRef) -> IncidentId {
        match id {
            IncidentRef::Standing(id) => id,
            IncidentRef::New(place) => IncidentId(self.next_id().0 + place as i32),
        }
    }

    fn labels(&self) -> HashMap<ComponentId, String> {
        self.catalogue.iter().map(|(id, component)| (*id, component.label())).collect()
    }
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
        (self.world.id_of(id), &self.state.any_incident(id).unwrap().text)
    }
}
