//! Compares what the clients were told with what the database has.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Result;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::record::{Attempt, Told};

/// A row of the inbox.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Row {
    id: Uuid,
    component_id: i32,
    impact: i16,
    text: String,
    position: i64,
    outcome: String,
    incident_id: Option<i32>,
    original: Option<Uuid>,
}

impl Row {
    /// Whether it had an effect, or could have had one.
    const fn is_decided(&self) -> bool {
        self.original.is_none()
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Answered 2xx, and not there.
    pub(crate) lost: Vec<String>,
    /// Decided more than once, or there though nobody sent it.
    pub(crate) doubled: Vec<String>,
    /// Sent after the 2xx to an earlier one of its component, and placed before it.
    pub(crate) out_of_order: Vec<String>,
    /// Told otherwise than it was decided.
    pub(crate) told_wrong: Vec<String>,
    /// Updates that are parked.
    pub(crate) parked: Vec<String>,
    /// Rows of the inbox.
    pub(crate) rows: usize,
}

/// Reads the inbox.
pub(crate) async fn inbox(database: &PgPool) -> Result<Vec<Row>> {
    Ok(sqlx::query_as(
        "SELECT id, component_id, impact, text, position, outcome, incident_id, original
        FROM sdb_inbox ORDER BY position",
    )
    .fetch_all(database)
    .await?)
}

/// Writes the inbox as JSON lines.
pub(crate) fn write(rows: &[Row], path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for row in rows {
        let line = json!({
            "position": row.position,
            "update": row.text,
            "id": row.id,
            "component": row.component_id,
            "impact": row.impact,
            "outcome": row.outcome,
            "incident": row.incident_id,
            "original": row.original,
        });
        writeln!(file, "{line}")?;
    }
    Ok(file.flush()?)
}

/// Compares all attempts, in the order of their answers, with the inbox and with what is parked.
pub(crate) fn compare(attempts: &[Attempt], rows: &[Row], parked: &HashSet<Uuid>) -> Verdict {
    let mut verdict = Verdict { rows: rows.len(), ..Verdict::default() };
    verdict.parked = parked.iter().map(ToString::to_string).collect();
    let by_id: HashMap<Uuid, &Row> = rows.iter().map(|row| (row.id, row)).collect();
    let mut by_update: HashMap<&str, Vec<&Row>> = HashMap::new();
    for row in rows {
        by_update.entry(&row.text).or_default().push(row);
    }
    let mut sent: HashMap<&str, Vec<&Attempt>> = HashMap::new();
    for attempt in attempts {
        sent.entry(&attempt.update).or_default().push(attempt);
        told(attempt, &by_id, parked, &mut verdict);
    }
    for (update, rows) in &by_update {
        counts(update, rows, sent.get(update).map_or(&[], Vec::as_slice), &mut verdict);
    }
    order(attempts, &by_update, &mut verdict);
    verdict
}

/// One answer, and what became of the update.
fn told(
    attempt: &Attempt,
    by_id: &HashMap<Uuid, &Row>,
    parked: &HashSet<Uuid>,
    verdict: &mut Verdict,
) {
    let row = |id: &Uuid| by_id.get(id).copied();
    match &attempt.told {
        Told::Outcome { changed, id, incident } => match row(id) {
            None => verdict.lost.push(format!("{attempt:?}")),
            Some(row) => {
                let changes = !matches!(row.outcome.as_str(), "unchanged" | "suppressed");
                let same = row.incident_id.map(i64::from) == Some(*incident);
                if !same || changes != *changed || !row.is_decided() {
                    verdict.told_wrong.push(format!("{attempt:?}, but {row:?}"));
                }
            }
        },
        Told::Accepted(id) if row(id).is_none() && !parked.contains(id) => {
            verdict.lost.push(format!("{attempt:?}"));
        }
        Told::Refused(Some(id), _) => {
            if let Some(row) = row(id) {
                verdict.told_wrong.push(format!("{attempt:?}, but {row:?}"));
            }
        }
        Told::Accepted(_)
        | Told::Refused(None, _)
        | Told::Unknown(..)
        | Told::Nothing(_)
        | Told::Wrong(_) => {}
    }
}

/// How often an update is in the inbox.
fn counts(update: &str, rows: &[&Row], sent: &[&Attempt], verdict: &mut Verdict) {
    let decided = rows.iter().filter(|row| row.is_decided()).count();
    // What is sent again with its key may be there again, as a repetition without effect.
    if decided != 1 || rows.len() > sent.len() {
        verdict.doubled.push(format!("{update}: sent as {sent:?}, and there as {rows:?}"));
    }
    let is_sent = |row: &&&Row| {
        sent.iter().any(|attempt| {
            attempt.component == row.component_id && attempt.impact == i64::from(row.impact)
        })
    };
    let is_right = |row: &&&Row| is_sent(row) && row.outcome != "rejected";
    if let Some(row) = rows.iter().find(|row| !is_right(row)) {
        verdict.told_wrong.push(format!("{update}: {row:?} is not what was sent"));
    }
}

/// Each component is one client's, which sends one update after the other.
fn order(attempts: &[Attempt], by_update: &HashMap<&str, Vec<&Row>>, verdict: &mut Verdict) {
    let mut in_order: Vec<&Attempt> = attempts.iter().collect();
    in_order.sort_by_key(|attempt| attempt.sent);
    // By component: the last place of those that were answered 2xx so far.
    let mut last: HashMap<i32, (i64, &str)> = HashMap::new();
    for attempt in in_order {
        let update = attempt.update.as_str();
        let rows = by_update.get(update).map_or(&[][..], Vec::as_slice);
        let Some(decided) = rows.iter().find(|row| row.is_decided()) else { continue };
        if let Some((position, earlier)) = last.get(&attempt.component)
            && decided.position < *position
            && *earlier != update
        {
            verdict.out_of_order.push(format!(
                "{earlier} of component {} was answered before {update} was sent, but has place \
                {position}, after {}: {attempt:?}",
                attempt.component, decided.position
            ));
        }
        if attempt.told.taken().is_some() {
            let last = last.entry(attempt.component).or_insert((decided.position, update));
            if decided.position > last.0 {
                *last = (decided.position, update);
            }
        }
    }
}
