//! When components were affected: what the triggers recorded is compared with a second telling of the journal.

use std::collections::BTreeSet;

use model::affected::{Event, Intervals, Span, Telling};
use shared::domain::incident::IncidentId;

use super::{
    Kind, RunVerdict,
    run::Run,
    tables::{Change, IncidentRow, Row},
};

/// Tells the journal once more, and notes where `sdb_affected` is otherwise.
pub(super) fn compare(run: &Run, verdict: &mut RunVerdict) {
    let incidents = run.start.incidents.iter().map(|(id, row)| (*id, span(row))).collect();
    let mut telling =
        Telling::new(incidents, run.start.relations.clone(), run.start_affected.clone());
    let mut changes: Vec<(&Change, u64)> = run
        .transactions
        .iter()
        .flat_map(|transaction| transaction.changes.iter().map(|c| (c, transaction.xid)))
        .collect();
    changes.sort_by_key(|(change, _)| change.seq);
    for (change, transaction) in changes {
        for event in events(change) {
            telling.tell(event, change.at, transaction);
        }
    }
    let recorded = |incident: IncidentId| Some(incident.0) > run.expected.unrecorded_until;
    note_differences(telling.intervals(), &run.affected, recorded, verdict);
    verdict.compared.intervals += run.affected.len();
}

const fn span(row: &IncidentRow) -> Span {
    Span { start: row.start, end: row.end, impact: row.impact }
}

fn events(change: &Change) -> Vec<Event> {
    match (&change.old, &change.new) {
        (None, None) => vec![Event::Emptied],
        (None, Some(Row::Incident(id, row))) => vec![Event::Inserted(*id, span(row))],
        // Its id can be changed while it has no components.
        (Some(Row::Incident(before, _)), Some(Row::Incident(id, row))) if before != id => {
            vec![Event::Deleted(*before), Event::Updated(*id, span(row))]
        }
        (Some(_), Some(Row::Incident(id, row))) => vec![Event::Updated(*id, span(row))],
        (Some(Row::Incident(id, _)), None) => vec![Event::Deleted(*id)],
        (old, new) => {
            let relation = |row: &Option<Row>| match row {
                Some(Row::Relation(incident, component)) => Some((*incident, *component)),
                _ => None,
            };
            let left = relation(old).map(|(incident, component)| Event::Left(incident, component));
            let joined = relation(new).map(|(i, component)| Event::Joined(i, component));
            left.into_iter().chain(joined).collect()
        }
    }
}

fn note_differences(
    told: &Intervals,
    found: &Intervals,
    recorded: impl Fn(IncidentId) -> bool,
    verdict: &mut RunVerdict,
) {
    let keys: BTreeSet<_> = told.keys().chain(found.keys()).collect();
    for key in keys.into_iter().filter(|(incident, ..)| recorded(*incident)) {
        let (told, found) = (told.get(key), found.get(key));
        if told != found {
            let (incident, component, began) = key;
            let what = format!(
                "component {component} in incident {incident} from {began:?}: impact and end are \
                {found:?}, not {told:?}"
            );
            verdict.add(Kind::Affected, what);
        }
    }
}
