//! Faults that are planted into a run that was good: as if the worker, or the database, had done it.

mod affected;
mod alerts;
mod timeline;

use shared::{
    domain::{impact::Impact, incident::IncidentId, update_id::UpdateId},
    wire::message::Verdict,
};

use self::affected::{
    an_interval_begins_earlier, an_interval_ends_later, an_interval_has_another_impact,
    an_interval_is_missing,
};
use self::alerts::{an_alert_begins_otherwise, an_alert_is_doubled, an_alert_is_lost};
use self::timeline::{
    an_entry_goes_later, an_entry_is_altered, an_entry_is_doubled, an_entry_is_in_another_name,
    an_entry_is_missing, two_entries_are_swapped,
};
use harness::verdict::{Change, InboxRow, Kind, ParkedChange, ParkedRow, Row, Run, Transaction};

/// A fault, and as what it must be found.
pub(super) struct Plant {
    pub(super) name: &'static str,
    /// None when the run has nothing that it could be planted into.
    pub(super) fault: fn(&mut Run) -> Option<()>,
    pub(super) kind: Kind,
}

macro_rules! plants {
    ($($kind:ident: $($fault:ident),+;)+) => {
        pub(super) const PLANTS: &[Plant] = &[$($(
            Plant { name: stringify!($fault), fault: $fault, kind: Kind::$kind },
        )+)+];
    };
}

plants!(
    Lost: one_is_lost, a_parked_one_is_lost, an_alert_is_lost;
    Doubled: one_is_doubled, one_is_parked_and_applied, an_alert_is_doubled;
    OutOfOrder: two_are_swapped, time_stands_still;
    DecidedOtherwise: another_reason, another_outcome, another_incident, a_key_is_forgotten;
    Timeline: an_entry_is_missing, an_entry_is_doubled, an_entry_is_altered, two_entries_are_swapped,
        an_entry_goes_later, an_entry_is_in_another_name;
    ForeignEditUndone: a_takeover_goes_later, a_takeover_is_written_back, an_operators_word_is_gone,
        a_confirmed_edit_is_gone, an_operators_incident_is_gone;
    State: a_relation_is_missing, a_start_is_another_one, a_report_is_gone, an_end_is_forgotten;
    ParkedUnasked: one_is_parked_unasked, one_is_parked_for_another_reason;
    NotParked: one_that_must_be_parked_is_applied, one_is_not_parked_any_more;
    AnsweredOtherwise: a_report_is_another_one, an_answer_is_another_one, an_alert_begins_otherwise;
    Affected: an_interval_is_missing, an_interval_begins_earlier, an_interval_ends_later,
        an_interval_has_another_impact;
    Unexplained: somebody_else_writes;
);

/// The batches with at least one update, by place.
fn batches(run: &Run) -> Vec<usize> {
    let has = |(_, t): &(usize, &Transaction)| !t.decided.is_empty();
    run.transactions.iter().enumerate().filter(has).map(|(place, _)| place).collect()
}

fn first_decided(run: &mut Run) -> Option<&mut InboxRow> {
    run.inbox.iter_mut().find(|row| row.original.is_none())
}

fn a_report_is_gone(run: &mut Run) -> Option<()> {
    let id = run.end_reports.iter().find(|(_, report)| report.stands)?.0.clone();
    run.end_reports.remove(&id);
    Some(())
}

fn an_end_is_forgotten(run: &mut Run) -> Option<()> {
    run.end_reports.values_mut().find(|report| report.end.is_some())?.end = None;
    Some(())
}

fn forget(run: &mut Run, id: UpdateId) {
    run.inbox.retain(|row| row.id != id);
    run.transactions.iter_mut().for_each(|batch| batch.decided.retain(|each| *each != id));
}

fn one_is_lost(run: &mut Run) -> Option<()> {
    let id = run.inbox.last()?.id;
    forget(run, id);
    Some(())
}

fn a_parked_one_is_lost(run: &mut Run) -> Option<()> {
    let parked = run.parked.iter().filter(|row| !row.is_put_back).find_map(|row| row.update)?;
    run.parked.retain(|row| row.update != Some(parked));
    for transaction in &mut run.transactions {
        let is_it =
            |row: &Option<ParkedRow>| row.as_ref().is_some_and(|row| row.update == Some(parked));
        transaction.parked.retain(|change| !is_it(&change.old) && !is_it(&change.new));
    }
    Some(())
}

fn one_is_doubled(run: &mut Run) -> Option<()> {
    let last = run.inbox.last()?.clone();
    let place = batches(run).last().copied()?;
    let id = UpdateId(uuid::Uuid::from_u128(last.id.0.as_u128() + 1));
    let again = InboxRow {
        id,
        position: last.position + 1,
        decided_at: last.decided_at.plus_micros(1),
        ..last
    };
    run.inbox.push(again);
    run.transactions.get_mut(place)?.decided.push(id);
    Some(())
}

fn one_is_parked_and_applied(run: &mut Run) -> Option<()> {
    let id = run.inbox.first()?.id;
    park(run, id, "dead-lettered by RabbitMQ: for no reason")
}

/// Parks an update in the last batch.
fn park(run: &mut Run, update: UpdateId, reason: &str) -> Option<()> {
    let row = ParkedRow {
        id: 1_000_000,
        update: Some(update),
        reason: reason.to_owned(),
        parked_at: "now".to_owned(),
        is_put_back: false,
        payload: Vec::new(),
    };
    let place = batches(run).last().copied()?;
    let change = ParkedChange { old: None, new: Some(row.clone()) };
    run.transactions.get_mut(place)?.parked.push(change);
    run.parked.push(row);
    Some(())
}

/// Two updates of a component that were not requeued swap their positions with everything that belongs to
/// them.
fn two_are_swapped(run: &mut Run) -> Option<()> {
    let put_back: Vec<UpdateId> = run
        .transactions
        .iter()
        .flat_map(|transaction| &transaction.parked)
        .filter_map(|change| change.new.as_ref()?.update)
        .collect();
    let is_own = |row: &&InboxRow| !put_back.contains(&row.id) && row.original.is_none();
    let (first, second) = run.inbox.iter().enumerate().find_map(|(place, row)| {
        let later = run.inbox.iter().enumerate().skip(place + 1);
        let mut later = later.filter(|(_, other)| other.component_id == row.component_id);
        let (other_place, _) = later.find(|(_, other)| is_own(other))?;
        is_own(&row).then_some((place, other_place))
    })?;
    let (one, other) = (run.inbox.get(first)?.clone(), run.inbox.get(second)?.clone());
    let swapped = |of: &InboxRow, at: &InboxRow| InboxRow {
        position: at.position,
        decided_at: at.decided_at,
        ..of.clone()
    };
    *run.inbox.get_mut(first)? = swapped(&other, &one);
    *run.inbox.get_mut(second)? = swapped(&one, &other);
    // They were written like that from the beginning.
    for transaction in &mut run.transactions {
        for id in &mut transaction.decided {
            if *id == one.id {
                *id = other.id;
            } else if *id == other.id {
                *id = one.id;
            }
        }
    }
    Some(())
}

fn time_stands_still(run: &mut Run) -> Option<()> {
    let before = run.inbox.get(run.inbox.len().checked_sub(2)?)?.decided_at;
    run.inbox.last_mut()?.decided_at = before;
    Some(())
}

fn another_reason(run: &mut Run) -> Option<()> {
    let row = first_decided(run)?;
    let other = if row.reason == "covered_by_system_incident" {
        "covered_by_manual_incident"
    } else {
        "covered_by_system_incident"
    };
    other.clone_into(&mut row.reason);
    Some(())
}

fn another_outcome(run: &mut Run) -> Option<()> {
    let row = first_decided(run)?;
    let other = if row.outcome == "joined" { "moved" } else { "joined" };
    other.clone_into(&mut row.outcome);
    Some(())
}

fn another_incident(run: &mut Run) -> Option<()> {
    let row = run.inbox.iter_mut().find(|row| row.outcome == "unchanged")?;
    row.incident_id = Some(IncidentId(row.incident_id?.0 + 1));
    Some(())
}

fn a_key_is_forgotten(run: &mut Run) -> Option<()> {
    let row = run.inbox.iter_mut().find(|row| row.outcome == "repeated")?;
    row.original = None;
    "unchanged".clone_into(&mut row.outcome);
    "covered_by_system_incident".clone_into(&mut row.reason);
    Some(())
}

/// An incident that an operator took over and that stands.
fn taken_over(run: &Run) -> Option<(usize, IncidentId)> {
    run.transactions.iter().enumerate().find_map(|(place, edit)| {
        edit.changes.iter().find_map(|change| match (&change.old, &change.new) {
            (Some(Row::Incident(id, old)), Some(Row::Incident(_, new)))
                if old.system && !new.system && run.end.incidents.contains_key(id) =>
            {
                Some((place, *id))
            }
            _ => None,
        })
    })
}

fn a_takeover_goes_later(run: &mut Run) -> Option<()> {
    let (_, id) = taken_over(run)?;
    run.end.incidents.get_mut(&id)?.system = true;
    Some(())
}

fn a_takeover_is_written_back(run: &mut Run) -> Option<()> {
    let (edit, id) = taken_over(run)?;
    let after = run.end.incidents.get(&id)?.clone();
    let place = batches(run).into_iter().rfind(|place| *place > edit + 1)?;
    let batch = run.transactions.get(place)?;
    let (seq, at) = (batch.seq, batch.changes.last()?.at);
    let mut back = after.clone();
    back.system = true;
    let change = Change {
        seq,
        at,
        old: Some(Row::Incident(id, after)),
        new: Some(Row::Incident(id, back.clone())),
    };
    run.transactions.get_mut(place)?.changes.push(change);
    run.end.incidents.insert(id, back);
    Some(())
}

fn an_operators_word_is_gone(run: &mut Run) -> Option<()> {
    let key = *run.end.statuses.iter().find(|(_, row)| row.status != "SYSTEM")?.0;
    run.end.statuses.remove(&key).map(drop)
}

fn a_confirmed_edit_is_gone(run: &mut Run) -> Option<()> {
    run.confirmed.push((u64::MAX, "an edit".to_owned()));
    Some(())
}

fn an_operators_incident_is_gone(run: &mut Run) -> Option<()> {
    let id = *run.end.incidents.iter().find(|(_, row)| row.text == "operators' <own>")?.0;
    run.end.incidents.remove(&id);
    run.end.relations.retain(|(incident, _)| *incident != id);
    run.end.statuses.retain(|(incident, _), _| *incident != id);
    Some(())
}

fn a_relation_is_missing(run: &mut Run) -> Option<()> {
    for place in batches(run) {
        let batch = run.transactions.get_mut(place)?;
        let is_relation = |change: &Change| match &change.new {
            Some(Row::Relation(incident, component)) => {
                run.end.relations.contains(&(*incident, *component))
            }
            _ => false,
        };
        if let Some(number) = batch.changes.iter().position(is_relation) {
            if let Some(Row::Relation(incident, component)) = batch.changes.remove(number).new {
                run.end.relations.remove(&(incident, component));
            }
            return Some(());
        }
    }
    None
}

fn a_start_is_another_one(run: &mut Run) -> Option<()> {
    let row = run.end.incidents.values_mut().find(|row| row.system)?;
    row.start = row.start.plus_micros(1);
    Some(())
}

fn one_is_parked_unasked(run: &mut Run) -> Option<()> {
    let is_plain = |row: &&InboxRow| {
        run.messages.get(&row.id).is_some_and(|message| message.delivered_as.len() == 1)
    };
    let id = run.inbox.iter().find(is_plain)?.id;
    forget(run, id);
    park(run, id, "dead-lettered by RabbitMQ: for no reason")
}

/// A parked row that a batch wrote, wherever it stands.
fn parked_rows(run: &mut Run) -> impl Iterator<Item = &mut ParkedRow> {
    let changes = run.transactions.iter_mut().flat_map(|transaction| &mut transaction.parked);
    changes.filter(|change| change.old.is_none()).filter_map(|change| change.new.as_mut())
}

fn one_is_parked_for_another_reason(run: &mut Run) -> Option<()> {
    let row = parked_rows(run).next()?;
    "because I say so".clone_into(&mut row.reason);
    Some(())
}

fn one_that_must_be_parked_is_applied(run: &mut Run) -> Option<()> {
    let (place, id) = run.transactions.iter().enumerate().find_map(|(place, batch)| {
        let parked = batch.parked.iter().filter(|change| change.old.is_none());
        let mut parked = parked.filter_map(|change| change.new.as_ref());
        let gone = parked.find(|row| row.reason.ends_with(", is gone"))?;
        let id = gone.update?;
        let is_plain = run.messages.get(&id)?.delivered_as.len() == 1;
        is_plain.then_some((place, id))
    })?;
    a_parked_one_is_lost_of(run, id);
    let last = run.inbox.last()?.clone();
    let component = run.attempts.iter().find(|attempt| attempt.answer.taken() == Some(id))?;
    let row = InboxRow {
        id,
        component_id: component.component,
        impact: Some(i16::from(Impact::Minor)),
        source: None,
        key: None,
        ttl: None,
        starts_at: None,
        ends_at: None,
        outcome: "suppressed".to_owned(),
        reason: "in_running_maintenance".to_owned(),
        original: None,
        incident_id: Some(IncidentId(1)),
        ..last
    };
    run.inbox.push(row);
    run.transactions.get_mut(place)?.decided.push(id);
    Some(())
}

fn a_parked_one_is_lost_of(run: &mut Run, id: UpdateId) {
    run.parked.retain(|row| row.update != Some(id));
    for transaction in &mut run.transactions {
        transaction.parked.retain(|change| {
            let of = change.new.as_ref().or(change.old.as_ref());
            of.is_none_or(|row| row.update != Some(id))
        });
    }
}

fn one_is_not_parked_any_more(run: &mut Run) -> Option<()> {
    run.parked.pop().map(drop)
}

fn a_report_is_another_one(run: &mut Run) -> Option<()> {
    run.results.iter_mut().find_map(|result| match &mut result.verdict {
        Verdict::Decided { incident: Some(incident), .. } => {
            incident.last_update_at = Some(incident.start_date.plus_micros(-1));
            Some(())
        }
        Verdict::Decided { incident: None, .. }
        | Verdict::Repeated { .. }
        | Verdict::Rejected { .. }
        | Verdict::Parked => None,
    })
}

fn an_answer_is_another_one(run: &mut Run) -> Option<()> {
    use harness::verdict::Answered;
    let row = first_decided(run)?.clone();
    let attempt = run.attempts.iter_mut().find(|attempt| attempt.answer.taken() == Some(row.id))?;
    let changed = matches!(row.outcome.as_str(), "unchanged" | "suppressed");
    let incident = row.incident_id.map(|id| i64::from(id.0));
    attempt.answer = Answered::Outcome { id: row.id, changed, incident };
    Some(())
}

fn somebody_else_writes(run: &mut Run) -> Option<()> {
    let edit = run.transactions.iter_mut().find(|edit| edit.application == "operator")?;
    "somebody".clone_into(&mut edit.application);
    Some(())
}
