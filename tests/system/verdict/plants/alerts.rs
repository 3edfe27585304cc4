//! Faults with alerts, whose answers do not name their updates.

use shared::domain::update_id::UpdateId;

use harness::verdict::{Answered, Attempt, InboxRow, Run};

/// An alert that was queued, known by its text.
fn queued(run: &mut Run, text: &str, row: &InboxRow) -> Option<()> {
    let first = run.attempts.first()?.clone();
    run.attempts.push(Attempt {
        update: text.to_owned(),
        component: row.component_id,
        condition: None,
        report: None,
        is_alert: true,
        answer: Answered::Queued,
        ..first
    });
    Some(())
}

pub(super) fn an_alert_is_lost(run: &mut Run) -> Option<()> {
    let row = run.inbox.first()?.clone();
    queued(run, "an alert that is in no row", &row)
}

/// One was sent once, and is there twice.
pub(super) fn an_alert_is_doubled(run: &mut Run) -> Option<()> {
    let own = || run.inbox.iter().filter(|row| row.original.is_none());
    let is_same = |one: &InboxRow, other: &InboxRow| {
        (one.component_id, &one.text) == (other.component_id, &other.text) && one.id != other.id
    };
    let (one, other) =
        own().find_map(|one| Some((one.clone(), own().find(|other| is_same(one, other))?.id)))?;
    let is_of_them = |id: UpdateId| id == one.id || id == other;
    run.attempts.retain(|attempt| !attempt.answer.taken().is_some_and(is_of_them));
    queued(run, &one.text, &one)
}

pub(super) fn an_alert_begins_otherwise(run: &mut Run) -> Option<()> {
    let begun = run.inbox.iter().filter(|row| row.starts_at.is_some());
    let begun: Vec<UpdateId> = begun.map(|row| row.id).collect();
    let attempts = run.attempts.iter_mut();
    let mut sent = attempts.filter(|a| a.answer.taken().is_some_and(|id| begun.contains(&id)));
    let starts_at = sent.find_map(|attempt| attempt.report.as_mut()?.starts_at.as_mut())?;
    *starts_at = starts_at.plus_micros(1);
    Some(())
}
