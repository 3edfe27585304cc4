//! Faults in the timelines of incidents.

use shared::domain::incident::IncidentId;

use super::batches;
use harness::verdict::{Change, Row, Run, StatusRow};

/// Where a worker wrote an entry, and which.
fn entries(run: &Run) -> Vec<(usize, usize, (IncidentId, i32), StatusRow)> {
    let mut found = Vec::new();
    for place in batches(run) {
        let Some(batch) = run.transactions.get(place) else { continue };
        for (number, change) in batch.changes.iter().enumerate() {
            if let (None, Some(Row::Status(incident, id, row))) = (&change.old, &change.new)
                && run.end.statuses.contains_key(&(*incident, *id))
            {
                found.push((place, number, (*incident, *id), row.clone()));
            }
        }
    }
    found
}

/// An entry is another one from the beginning.
fn rewrite(run: &mut Run, new: impl Fn(StatusRow) -> StatusRow) -> Option<()> {
    let (place, number, key, row) = entries(run).pop()?;
    let row = new(row);
    let change = run.transactions.get_mut(place)?.changes.get_mut(number)?;
    change.new = Some(Row::Status(key.0, key.1, row.clone()));
    run.end.statuses.insert(key, row);
    Some(())
}

pub(super) fn an_entry_is_missing(run: &mut Run) -> Option<()> {
    let (place, number, key, _) = entries(run).pop()?;
    run.transactions.get_mut(place)?.changes.remove(number);
    run.end.statuses.remove(&key);
    Some(())
}

pub(super) fn an_entry_is_doubled(run: &mut Run) -> Option<()> {
    let (place, number, (incident, _), row) = entries(run).pop()?;
    let batch = run.transactions.get_mut(place)?;
    let (seq, at) = batch.changes.get(number).map(|change| (change.seq, change.at))?;
    let new = Some(Row::Status(incident, 1_000_000, row.clone()));
    batch.changes.push(Change { seq, at, old: None, new });
    run.end.statuses.insert((incident, 1_000_000), row);
    Some(())
}

pub(super) fn an_entry_is_altered(run: &mut Run) -> Option<()> {
    rewrite(run, |row| StatusRow { text: row.text + "!", ..row })
}

pub(super) fn an_entry_is_in_another_name(run: &mut Run) -> Option<()> {
    rewrite(run, |row| StatusRow { status: "analyzing".to_owned(), ..row })
}

pub(super) fn two_entries_are_swapped(run: &mut Run) -> Option<()> {
    let all = entries(run);
    let (first, second) = all.iter().enumerate().find_map(|(number, first)| {
        let second = all.iter().skip(number + 1).find(|second| {
            let ((incident, _), row) = (&second.2, &second.3);
            *incident == first.2.0 && row.text != first.3.text
        })?;
        Some((first.clone(), second.clone()))
    })?;
    for (to, from) in [(&first, &second), (&second, &first)] {
        let row = StatusRow { text: from.3.text.clone(), ..to.3.clone() };
        let change = run.transactions.get_mut(to.0)?.changes.get_mut(to.1)?;
        change.new = Some(Row::Status(to.2.0, to.2.1, row.clone()));
        run.end.statuses.insert(to.2, row);
    }
    Some(())
}

pub(super) fn an_entry_goes_later(run: &mut Run) -> Option<()> {
    let (_, _, key, _) = entries(run).pop()?;
    run.end.statuses.remove(&key).map(drop)
}
