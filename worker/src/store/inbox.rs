//! The inbox: the record of every update, with the idempotency keys.

use shared::{
    domain::{
        incident::IncidentId, outcome::InboxOutcome, timestamp::Timestamp, update_id::UpdateId,
    },
    wire::message::UpdateMessage,
};

use sqlx::{AssertSqlSafe, FromRow};

use super::{
    incidents::column,
    reports::{ReportsToWrite, ReportsWritten},
    state_lock::ScopeGuard,
};
use crate::domain::IncidentRef;

/// A row of the inbox, before the incidents that its batch opens have ids.
pub(crate) struct PendingRow<'a> {
    pub(crate) update: &'a UpdateMessage,
    pub(crate) position: i64,
    pub(crate) decided_at: Timestamp,
    pub(crate) outcome: InboxOutcome,
    /// The incident that holds or covers the component, or that it left, if a rule decided it.
    pub(crate) incident: Option<IncidentRef>,
    /// The update that used the idempotency key first, where that is another one.
    pub(crate) original: Option<UpdateId>,
}

/// Writes the batch's rows, the idempotency keys used for the first time, the reports, and the position and time
/// of the newest row.
pub(crate) async fn write(
    scope: &mut ScopeGuard<'_>,
    rows: &[PendingRow<'_>],
    new_ids: &[IncidentId],
    reports: &ReportsToWrite<'_>,
) -> Result<ReportsWritten, sqlx::Error> {
    let Some(last) = rows.last() else { return Ok(ReportsWritten::default()) };
    let first_uses: Vec<_> = rows
        .iter()
        .filter(|row| matches!(row.outcome, InboxOutcome::Decided(_)))
        .filter_map(|row| Some((row.update.idempotency.as_ref()?, row)))
        .collect();
    let has_reports = rows.iter().any(|row| row.update.report.is_some());
    let statement = statement(!first_uses.is_empty(), has_reports, reports);
    let query = sqlx::query(AssertSqlSafe(statement))
        .bind(column(rows, |row| row.update.id))
        .bind(column(rows, |row| row.update.component.id))
        .bind(column(rows, |row| row.update.condition.impact().map(i16::from)))
        .bind(column(rows, |row| row.update.text.as_str()))
        .bind(column(rows, |row| row.update.received_at))
        .bind(column(rows, |row| row.decided_at))
        .bind(column(rows, |row| row.position))
        .bind(column(rows, |row| row.outcome.outcome()))
        .bind(column(rows, |row| row.outcome.reason()))
        .bind(column(rows, |row| row.incident.map(|incident| incident.id(new_ids))))
        .bind(column(rows, |row| row.original))
        .bind(last.position)
        .bind(last.decided_at)
        .bind(column(&first_uses, |(key, _)| key.key.as_str()))
        .bind(column(&first_uses, |(key, _)| key.fingerprint.as_str()))
        .bind(column(&first_uses, |(_, row)| row.update.id))
        .bind(column(&first_uses, |(_, row)| row.decided_at));
    let query = if has_reports {
        let given = column(rows, |row| row.update.report.as_ref());
        query
            .bind(column(&given, |report| report.map(|report| report.source.as_str())))
            .bind(column(&given, |report| report.map(|report| report.key.as_str())))
            .bind(column(&given, |report| report.and_then(|report| report.ttl).map(i64::from)))
            .bind(column(&given, |report| report.and_then(|report| report.starts_at)))
            .bind(column(&given, |report| report.and_then(|report| report.ends_at)))
    } else {
        query
    };
    if reports.is_empty() {
        query.execute(scope.session()).await?;
        return Ok(ReportsWritten::default());
    }
    ReportsWritten::from_row(&reports.bind(query).fetch_one(scope.session()).await?)
}

/// The statement that writes them, with a CTE for the keys and one for the reports if there are any. Functions that
/// return sets stand in the SELECT list: in FROM, PostgreSQL would store each one's set first.
fn statement(has_keys: bool, has_reports: bool, reports: &ReportsToWrite<'_>) -> String {
    // An existing key is older than its 24 hours, or this would not be its first use.
    let keys = if has_keys {
        ", keys AS (
            INSERT INTO sdb_idempotency_key (key, fingerprint, update_id, used_at)
            SELECT unnest($14::varchar[]), unnest($15::varchar[]), unnest($16::uuid[]),
                unnest($17::timestamp[])
            ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint,
                update_id = excluded.update_id, used_at = excluded.used_at)"
    } else {
        ""
    };
    let (report_columns, report_values) = if has_reports {
        (
            ", source, key, ttl, starts_at, ends_at",
            ", unnest($18::varchar[]), unnest($19::varchar[]), unnest($20::bigint[]),
                unnest($21::timestamp[]), unnest($22::timestamp[])",
        )
    } else {
        ("", "")
    };
    let insert = format!(
        "INSERT INTO sdb_inbox (id, component_id, impact, text, received_at, decided_at, position,
            outcome, reason, incident_id, original{report_columns})
        SELECT unnest($1::uuid[]), unnest($2::integer[]), unnest($3::smallint[]),
            unnest($4::varchar[]), unnest($5::timestamp[]), unnest($6::timestamp[]),
            unnest($7::bigint[]), unnest($8::varchar[]), unnest($9::varchar[]),
            unnest($10::integer[]), unnest($11::uuid[]){report_values}"
    );
    let scope = "WITH scope AS (UPDATE sdb_scope SET position = $12, decided_at = $13)";
    if reports.is_empty() {
        format!("{scope}{keys} {insert}")
    } else {
        // All CTEs that write are executed, whether they are read or not.
        format!("{scope}{keys}, inbox AS ({insert}), {write}", write = reports.statement())
    }
}
