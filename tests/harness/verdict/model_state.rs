//! What the model expects of the shared tables, and which of it other writers wrote last.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{Incident, World};
use shared::domain::{
    component::ComponentId, impact::Impact, incident::IncidentId, timestamp::Timestamp,
};

use super::{
    Kind, Violation,
    run::Reports,
    tables::{Change, IncidentRow, Row, Tables},
};

/// A part of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Itself,
    Title,
    Start,
    End,
    Impact,
    System,
    Component(ComponentId),
    Entry(Timestamp, String),
}

const THERE: &str = "there";
const ABSENT: &str = "absent";

/// What the model expects.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelState {
    pub(super) world: World,
    /// The catalogue as rows.
    catalogue: Tables,
    /// What others wrote, as long as nobody wrote something else: to tell a lost edit from others.
    foreign: HashMap<(IncidentId, Part), String>,
}

impl ModelState {
    /// From what the tables and the reports have.
    pub(super) fn new(tables: &Tables, reports: &Reports) -> Self {
        let catalogue = Tables {
            components: tables.components.clone(),
            attributes: tables.attributes.clone(),
            ..Tables::default()
        };
        let mut state = Self { catalogue, ..Self::default() };
        state.world.reports = reports.clone();
        for id in tables.components.keys() {
            state.read_component(*id);
        }
        for id in tables.incidents.keys() {
            state.take_over(*id, tables);
        }
        state
    }

    /// Has an incident as the tables have it.
    pub(super) fn take_over(&mut self, id: IncidentId, tables: &Tables) {
        match tables.incident(id) {
            Some(incident) => self.world.incidents.insert(id, incident),
            None => self.world.incidents.remove(&id),
        };
    }

    fn read_component(&mut self, id: ComponentId) {
        match self.catalogue.component(id) {
            Some(component) => self.world.catalogue.insert(id, component),
            None => self.world.catalogue.remove(&id),
        };
    }

    /// What another writer changed.
    pub(super) fn change(&mut self, change: &Change) {
        match change.old.as_ref().or(change.new.as_ref()) {
            Some(Row::Component(id, _) | Row::Attribute(id, _, _)) => {
                self.catalogue.change(change);
                self.read_component(*id);
                if !self.world.catalogue.contains_key(id) {
                    self.world.reports.retain(|(component, ..), _| component != id);
                }
            }
            Some(Row::Incident(..)) => self.change_incident(change),
            Some(Row::Relation(..) | Row::Status(..)) => {
                if let Some(old) = &change.old {
                    self.change_part(old, false);
                }
                if let Some(new) = &change.new {
                    self.change_part(new, true);
                }
            }
            None => {}
        }
    }

    /// Where the reports are otherwise than it is expected, as far as they still matter.
    pub(super) fn report_differences(
        &self,
        reports: &Reports,
        now: Timestamp,
        found: &mut Vec<Violation>,
    ) {
        let remembered = |reports: &Reports| -> Reports {
            let all = reports.iter();
            all.filter_map(|(id, known)| Some((id.clone(), known.clone().remembered(now)?)))
                .collect()
        };
        let (expected, actual) = (remembered(&self.world.reports), remembered(reports));
        let all: BTreeSet<_> = expected.keys().chain(actual.keys()).collect();
        for id in all {
            let (wanted, is) = (expected.get(id), actual.get(id));
            if wanted != is {
                let what = format!("report {id:?} is {is:?}, not {wanted:?}");
                found.push(Violation { kind: Kind::State, what });
            }
        }
    }

    fn change_incident(&mut self, change: &Change) {
        let row = |row: &Option<Row>| match row {
            Some(Row::Incident(id, row)) => Some((*id, row.clone())),
            _ => None,
        };
        let (old, new) = (row(&change.old), row(&change.new));
        if let (Some((before, _)), Some((after, _))) = (&old, &new)
            && before != after
        {
            // It has another id, and so it is another one.
            self.change_incident(&Change { new: None, ..change.clone() });
            self.change_incident(&Change { old: None, ..change.clone() });
            return;
        }
        let Some((id, new)) = new else {
            if let Some((id, _)) = old {
                self.world.incidents.remove(&id);
                self.foreign.retain(|(of, _), _| *of != id);
                self.foreign.insert((id, Part::Itself), ABSENT.to_owned());
            }
            return;
        };
        // One with an impact that is none of ours is no incident to us.
        let Ok(impact) = Impact::try_from(new.impact) else {
            self.world.incidents.remove(&id);
            return;
        };
        let IncidentRow { text, start, end, impact: _, system } = new;
        let Some((_, old)) = old else {
            let (components, updates) = (BTreeSet::new(), Vec::new());
            let incident = Incident { text, impact, start, end, system, components, updates };
            self.world.incidents.insert(id, incident);
            self.foreign.insert((id, Part::Itself), THERE.to_owned());
            return;
        };
        let Some(incident) = self.world.incidents.get_mut(&id) else { return };
        let mut note = |part, value: String| self.foreign.insert((id, part), value);
        if old.text != text {
            note(Part::Title, format!("{text:?}"));
            incident.text = text;
        }
        if old.start != start {
            note(Part::Start, format!("{start:?}"));
            incident.start = start;
        }
        if old.end != end {
            note(Part::End, format!("{end:?}"));
            incident.end = end;
        }
        if old.impact != i16::from(impact) {
            note(Part::Impact, format!("{impact:?}"));
            incident.impact = impact;
        }
        if old.system != system {
            note(Part::System, format!("{system:?}"));
            incident.system = system;
        }
    }

    fn change_part(&mut self, row: &Row, is_there: bool) {
        let Some(incident) = row.incident().and_then(|id| self.world.incidents.get_mut(&id)) else {
            return;
        };
        let (id, part) = match row {
            Row::Relation(id, component) if is_there => {
                incident.components.insert(*component);
                (*id, Part::Component(*component))
            }
            Row::Relation(id, component) => {
                incident.components.remove(component);
                (*id, Part::Component(*component))
            }
            Row::Status(id, _, status) if is_there => {
                incident.updates.push((status.at, status.text.clone()));
                incident.updates.sort_by_key(|(at, _)| *at);
                (*id, Part::Entry(status.at, status.text.clone()))
            }
            Row::Status(id, _, status) => {
                let found = incident
                    .updates
                    .iter()
                    .position(|(at, text)| *at == status.at && *text == status.text);
                if let Some(place) = found {
                    incident.updates.remove(place);
                }
                (*id, Part::Entry(status.at, status.text.clone()))
            }
            Row::Incident(..) | Row::Component(..) | Row::Attribute(..) => return,
        };
        let value = if is_there { THERE } else { ABSENT };
        self.foreign.insert((id, part), value.to_owned());
    }

    /// Where the tables have an incident otherwise than it is expected.
    pub(super) fn differences(&self, id: IncidentId, tables: &Tables, found: &mut Vec<Violation>) {
        let (expected, actual) = (self.world.incidents.get(&id), tables.incident(id));
        if expected == actual.as_ref() {
            return;
        }
        let (expected, actual) = (parts(expected), parts(actual.as_ref()));
        let all: BTreeSet<&(Part, usize)> = expected.keys().chain(actual.keys()).collect();
        // One that is missing altogether is said once.
        let itself = (Part::Itself, 0);
        let is_whole = expected.contains_key(&itself) && actual.contains_key(&itself);
        for key in all {
            let value = |parts: &BTreeMap<(Part, usize), String>| {
                parts.get(key).cloned().unwrap_or_else(|| ABSENT.to_owned())
            };
            let (wanted, is) = (value(&expected), value(&actual));
            if wanted == is || (!is_whole && key.0 != Part::Itself) {
                continue;
            }
            let kind = match &key.0 {
                part if self.foreign.get(&(id, part.clone())) == Some(&wanted) => {
                    Kind::ForeignEditUndone
                }
                Part::Entry(..) => Kind::Timeline,
                Part::Itself
                | Part::Title
                | Part::Start
                | Part::End
                | Part::Impact
                | Part::System
                | Part::Component(_) => Kind::State,
            };
            let what = format!("incident {id}: {:?} is {is}, not {wanted}", key.0);
            found.push(Violation { kind, what });
        }
    }
}

/// The parts of an incident; equal entries are distinguished by a number.
fn parts(incident: Option<&Incident>) -> BTreeMap<(Part, usize), String> {
    let mut parts = BTreeMap::new();
    let Some(incident) = incident else { return parts };
    let Incident { text, impact, start, end, system, components, updates } = incident;
    let mut set = |part: Part, value: String| {
        let same = (0..).find(|number| !parts.contains_key(&(part.clone(), *number)));
        parts.insert((part, same.unwrap_or_default()), value);
    };
    set(Part::Itself, THERE.to_owned());
    set(Part::Title, format!("{text:?}"));
    set(Part::Start, format!("{start:?}"));
    set(Part::End, format!("{end:?}"));
    set(Part::Impact, format!("{impact:?}"));
    set(Part::System, format!("{system:?}"));
    for component in components {
        set(Part::Component(*component), THERE.to_owned());
    }
    for (at, text) in updates {
        set(Part::Entry(*at, text.clone()), THERE.to_owned());
    }
    parts
}
