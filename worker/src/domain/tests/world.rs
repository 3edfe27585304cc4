//! The reads and writes of a batch's transaction, without the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::{Answer, Incident, Post, Shown, Standing, World};
use shared::{
    domain::{
        component::{Component, ComponentId},
        condition::Condition,
        impact::Impact,
        incident::IncidentId,
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::UpdateMessage,
};
use uuid::Uuid;

use crate::domain::{
    ActiveState, IncidentRef, ManualIncident, ReportId, ReportState, Reports, SystemIncident,
    Update, UpdateDecision, decide_update,
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

/// Decides a batch and writes its changes, as `batch/apply.rs` and `store/` do.
pub(super) fn apply_batch(world: &mut World, posts: &[Post]) -> Vec<Answer> {
    let messages: Vec<UpdateMessage> = posts.iter().map(message).collect();
    let depends = |post: &Post| {
        post.condition == Condition::Ok
            || post.report.as_ref().is_some_and(|report| report.starts_at.is_some())
    };
    let are_read = posts.iter().any(depends);
    let before = active_state(world, posts);
    let known = world.reports.clone();
    let mut reports = if are_read { reports_of(&known, &messages) } else { Reports::default() };
    let mut after = before.clone();
    let mut answers = Vec::new();
    let mut entries: Vec<TimelineEntry> = Vec::new();
    for (post, message) in posts.iter().zip(&messages) {
        let Ok(UpdateDecision { decision, report }) =
            decide_update(&after, &reports, message, post.at)
        else {
            panic!("no history has so many reports");
        };
        if let Some((id, state)) = report {
            reports.carry_out(id, state);
        }
        let reason = decision.reason();
        let update = Update { component: post.component, text: &post.text, at: post.at };
        let holder = after.carry_out(&decision, update, &mut entries);
        let shown = holder.map(|holder| snapshot(world, &after, post.component, holder));
        answers.push((reason, shown));
    }
    assert_eq!(after.manual, before.manual, "a batch never changes manual incidents");
    write(world, &before, &after, &entries);
    write_reports(world, &reports, are_read);

    // Timelines are read after the commit, when the rest of the batch has added entries.
    let with_updates = |(mut shown, last_update_at): (Shown, Option<Timestamp>)| {
        let updates = &world.incidents[&shown.id].updates;
        let known = updates.iter().filter(|(at, _)| Some(*at) <= last_update_at);
        shown.updates = known.cloned().collect();
        shown
    };
    answers
        .into_iter()
        .map(|(reason, shown)| Answer { reason, incident: shown.map(with_updates) })
        .collect()
}

fn message(post: &Post) -> UpdateMessage {
    UpdateMessage {
        id: UpdateId(Uuid::nil()),
        component: Component { id: post.component, name: String::new(), attributes: Vec::new() },
        condition: post.condition,
        text: post.text.clone(),
        received_at: post.at,
        idempotency: None,
        report: post.report.clone(),
    }
}

/// The reports that a batch reads.
fn reports_of<'a>(
    known: &'a BTreeMap<(ComponentId, String, String), Standing>,
    messages: &'a [UpdateMessage],
) -> Reports<'a> {
    let named: BTreeSet<ReportId<'_>> = messages.iter().filter_map(ReportId::of).collect();
    let counted: BTreeSet<ComponentId> = messages
        .iter()
        .filter(|message| message.condition == Condition::Ok)
        .map(|message| message.component.id)
        .collect();
    let mut read = HashMap::new();
    let mut live: HashMap<ComponentId, usize> = counted.iter().map(|id| (*id, 0)).collect();
    for ((component, source, key), report) in known {
        if let Some(count) = live.get_mut(component) {
            *count += usize::from(report.stands);
        }
        let id = ReportId { component: *component, source, key };
        if named.contains(&id) {
            let state = ReportState {
                is_live: report.stands,
                first_at: report.first,
                last_at: report.last,
                ttl: report.ttl,
                update: UpdateId(Uuid::nil()),
                starts_at: report.start,
                ended_at: report.ended,
                ends_at: report.end,
            };
            read.insert(id, state);
        }
    }
    Reports::new(read, live)
}

/// Writes the reports, as the two statements of `store/reports.rs` do.
fn write_reports(world: &mut World, reports: &Reports<'_>, were_read: bool) {
    for (id, state) in reports.changed() {
        let mut written = Standing {
            stands: state.is_live,
            first: state.first_at,
            last: state.last_at,
            ttl: state.ttl,
            start: state.starts_at,
            ended: state.ended_at,
            end: state.ends_at,
        };
        let id = (id.component, id.source.to_owned(), id.key.to_owned());
        if let Some(before) = world.reports.get(&id).filter(|_| !were_read) {
            let counts = before.clone().remembered(written.first);
            written.start = counts.and_then(|report| report.start);
            if let Some(later) = before.clone().remembered(written.last) {
                (written.ended, written.end) = (later.ended, later.end);
            }
            if before.stands {
                written.first = before.first;
            }
        }
        world.reports.insert(id, written);
    }
}

/// The incident of an answer without its timeline, and the time of its last entry.
fn snapshot(
    world: &World,
    state: &ActiveState,
    component: ComponentId,
    holder: IncidentRef,
) -> (Shown, Option<Timestamp>) {
    let id = id_of(world, holder);
    let (text, impact, start, end, last) = match state.any_incident(holder) {
        Some(i) => (&i.text, i.impact, i.start_date, i.end_date, i.last_update_at),
        None => {
            let i = state.manual_incident(component, holder).unwrap();
            (&i.text, i.impact, i.start_date, i.end_date, i.last_update_at)
        }
    };
    let text = text.clone();
    (Shown { id, text, impact, start, end, updates: Vec::new() }, last)
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
