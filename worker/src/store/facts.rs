//! The facts that a batch is decided from, read by one statement: from one snapshot, and because each
//! round trip makes every other worker wait.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Deserialize;
use shared::{
    domain::{
        component::{Component, ComponentId},
        incident::IncidentId,
        outcome::InboxOutcome,
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::Verdict,
};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{
    active_state::{self, manual_ctes, manual_table, system_ctes, system_tables},
    covering::active_manual,
    incidents::column,
    reports::{REPORT_COLUMNS, REPORT_TABLES, ReportsQuery, ReportsRead},
    state_lock::ScopeGuard,
    workers::MemberId,
};
use crate::domain::ActiveState;

/// What the facts are read for.
pub(crate) struct FactsQuery<'a> {
    pub(crate) member: MemberId,
    pub(crate) updates: Vec<UpdateId>,
    pub(crate) keys: Vec<&'a str>,
    pub(crate) components: &'a [ComponentId],
    /// The number of messages of the batch.
    pub(crate) batch: usize,
    /// The reports; none for a batch that only begins or renews some.
    pub(crate) reports: Option<ReportsQuery<'a>>,
}

/// The facts that a batch is decided from.
pub(crate) struct Facts {
    /// Whether the worker is still a member.
    pub(crate) is_member: bool,
    /// The position of the newest update in the inbox.
    pub(crate) position: i64,
    /// The time of the batch's first decision: the database's clock, or the microsecond after the
    /// newest decision if that is a little later.
    pub(crate) now: Timestamp,
    /// The time of the latest decision of the batch.
    pub(crate) until: Timestamp,
    /// How many seconds the newest decision is ahead of the clock, if the limit is exceeded and the clock
    /// is used.
    pub(crate) seconds_ahead: Option<f64>,
    /// The updates that were applied before. There is no verdict if a version with other rules decided:
    /// the outcome is in the receipt, but can't be sent as a reply.
    pub(crate) known: HashMap<UpdateId, Option<Verdict>>,
    /// Updates that were parked, and that an operator requeued.
    pub(crate) requeued: HashSet<UpdateId>,
    /// The idempotency keys that are in use.
    pub(crate) keys: HashMap<String, KeyUse>,
    /// The components as they are now, without deleted ones.
    pub(crate) components: HashMap<ComponentId, Component>,
    /// Those of the components that another session may have locked, or is deleting.
    pub(crate) may_be_held: HashSet<ComponentId>,
    /// The active state.
    pub(crate) active: ActiveState,
    /// The reports, if they were wanted.
    pub(crate) reports: Option<ReportsRead>,
}

/// The first use of an idempotency key, in an earlier transaction.
pub(crate) struct KeyUse {
    pub(crate) fingerprint: String,
    /// The source of that update's report, if it had one.
    pub(crate) source: Option<String>,
    /// The update that used it first.
    pub(crate) original: UpdateId,
    /// Its result; none if a version with other rules decided.
    pub(crate) verdict: Option<Verdict>,
}

#[derive(FromRow)]
struct FactsRow {
    is_member: bool,
    position: i64,
    now: Timestamp,
    until: Timestamp,
    seconds_ahead: Option<f64>,
    recorded: Json<Vec<InboxRecord>>,
    parked: Json<Vec<ParkedBefore>>,
    keys: Json<Vec<KeyInUse>>,
    components: Json<Vec<Component>>,
    may_be_held: Vec<ComponentId>,
}

/// A row of the inbox.
#[derive(Clone, Deserialize)]
struct InboxRecord {
    id: UpdateId,
    outcome: String,
    reason: String,
    /// For one whose idempotency key was used before.
    original: Option<UpdateId>,
    incident: Option<IncidentId>,
    /// Of its report, if it had one.
    source: Option<String>,
}

#[derive(Deserialize)]
struct ParkedBefore {
    id: UpdateId,
    was_requeued: bool,
}

#[derive(Deserialize)]
struct KeyInUse {
    key: String,
    fingerprint: String,
    original: UpdateId,
}

/// A row of the inbox `i` as JSON.
macro_rules! recorded {
    () => {
        "coalesce(json_agg(json_build_object('id', i.id, 'outcome', i.outcome,
            'reason', i.reason, 'original', i.original, 'incident', i.incident_id,
            'source', i.source)), '[]')"
    };
}

/// Reads the facts after the scope's lock is acquired, so that earlier batches are visible.
///
/// Decisions have strictly increasing times even if the clock is set back a little. But a clock that was
/// wrong for one batch must not affect all later ones: if the newest decision is more than 10 s ahead,
/// the clock is used. The order of decisions is defined by their position in any case.
pub(crate) async fn read(
    scope: &mut ScopeGuard<'_>,
    wanted: FactsQuery<'_>,
) -> Result<Facts, sqlx::Error> {
    let mut parts = Parts {
        keys: !wanted.keys.is_empty(),
        manual: EXPECTS_MANUAL.load(Ordering::Relaxed),
        reports: wanted.reports.is_some(),
    };
    let mut row = read_parts(scope, &wanted, parts).await?;
    let has_manual = row.try_get("has_manual")?;
    EXPECTS_MANUAL.store(has_manual, Ordering::Relaxed);
    if has_manual && !parts.manual {
        // As a whole: all facts are of one snapshot.
        parts.manual = true;
        row = read_parts(scope, &wanted, parts).await?;
    }
    let active = active_state::from_row(&row, parts.manual)?;
    let reports = parts.reports.then(|| ReportsRead::from_row(&row)).transpose()?;
    let row = FactsRow::from_row(&row)?;
    let originals = originals(scope.session(), &row).await?;
    Ok(Facts { reports, ..row.into_facts(active, &originals) })
}

/// Whether the last batch of this process met active manual incidents. It only decides which statement is tried
/// first.
static EXPECTS_MANUAL: AtomicBool = AtomicBool::new(false);

/// The parts of the statement that not every batch needs. PostgreSQL would set up their plan for each batch, which
/// costs more than running it.
#[derive(Clone, Copy)]
struct Parts {
    /// The idempotency keys.
    keys: bool,
    /// The manual incidents and maintenances. Without them it only reads whether any is active.
    manual: bool,
    /// The reports.
    reports: bool,
}

async fn read_parts(
    scope: &mut ScopeGuard<'_>,
    wanted: &FactsQuery<'_>,
    parts: Parts,
) -> Result<PgRow, sqlx::Error> {
    let query = sqlx::query(AssertSqlSafe(statement(&wanted.updates, parts)))
        .bind(wanted.components)
        .bind(wanted.member)
        .bind(&wanted.updates)
        .bind(&wanted.keys)
        .bind(wanted.batch as i64);
    let query = match &wanted.reports {
        Some(reports) => query
            .bind(column(&reports.named, |id| id.component))
            .bind(column(&reports.named, |id| id.source))
            .bind(column(&reports.named, |id| id.key))
            .bind(&reports.counted),
        None => query,
    };
    query.fetch_one(scope.session()).await
}

/// The statement that reads a [`FactsRow`].
fn statement(updates: &[UpdateId], parts: Parts) -> String {
    let (first, end) = days(updates);
    let (manual_ctes, manual_table, has_manual, states) = if parts.manual {
        (
            concat!(manual_ctes!(), ", "),
            concat!(", ", manual_table!()),
            "SELECT FROM active",
            "state_1.*, state_2.*, state_3.*",
        )
    } else {
        ("", "", active_manual!(), "state_1.*, state_2.*")
    };
    let keys = if parts.keys { KEYS } else { "'[]'::json" };
    let (report_columns, report_tables) =
        if parts.reports { (REPORT_COLUMNS, REPORT_TABLES) } else { ("", "") };
    // The bounds are literals, so that the plan includes only the inbox's partitions between them.
    // Scanning all partitions would cost more than the rest of the statement.
    format!(
        "WITH clock AS MATERIALIZED (
            SELECT *, now + $5 * interval '1 microsecond' AS until
            FROM (SELECT *, CASE WHEN is_ahead THEN time
                    ELSE greatest(time, decided_at + interval '1 microsecond') END AS now
                FROM (SELECT *, decided_at > time + interval '10 seconds' AS is_ahead
                    FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS time) AS wall, sdb_scope
                ) AS compared) AS next
        ), {manual_ctes}{system_ctes}
        SELECT EXISTS (SELECT FROM sdb_living_worker WHERE id = $2) AS is_member,
            clock.position, clock.now, clock.until,
            CASE WHEN clock.is_ahead THEN
                extract(epoch FROM clock.decided_at - clock.time)::double precision
            END AS seconds_ahead,
            EXISTS ({has_manual}) AS has_manual,
            (SELECT {recorded} FROM sdb_inbox i
                WHERE i.id = ANY($3) AND i.id >= '{first}' AND i.id <= '{end}') AS recorded,
            (SELECT coalesce(json_agg(json_build_object(
                    'id', update_id, 'was_requeued', put_back_at IS NOT NULL)), '[]')
                FROM sdb_parked WHERE update_id = ANY($3)) AS parked,
            {keys} AS keys,
            state_0.*, {states}{report_columns}
        FROM clock, {COMPONENTS}, {system_tables}{manual_table}{report_tables}",
        system_ctes = system_ctes!(),
        recorded = recorded!(),
        system_tables = system_tables!(),
    )
}

/// The idempotency keys that are in use.
const KEYS: &str = "(SELECT coalesce(json_agg(json_build_object(
                    'key', key, 'fingerprint', fingerprint, 'original', update_id)), '[]')
                FROM sdb_idempotency_key
                WHERE key = ANY($4) AND used_at > clock.now - interval '24 hours')";

/// A table in a FROM, one row: the components as they are now, and those of them that another session may hold.
/// The transaction of a row's `xmax` locks it or deletes it, and has ended if it is older than all that run.
const COMPONENTS: &str =
    "(SELECT coalesce(json_agg(json_build_object('id', c.id, 'name', sdb_readable(c.name),
                    'attributes', coalesce(
                        (SELECT json_agg(json_build_object(
                                'name', sdb_readable(a.name), 'value', sdb_readable(a.value))
                            ORDER BY a.id)
                        FROM component_attribute a WHERE a.component_id = c.id), '[]'))), '[]')
                    AS components,
                coalesce(array_agg(c.id) FILTER (WHERE age(c.xmax) <=
                    (SELECT age(pg_snapshot_xmin(pg_current_snapshot())::xid))), '{}') AS may_be_held
            FROM component c WHERE c.id = ANY($1)) AS state_0";

impl FactsRow {
    fn into_facts(self, active: ActiveState, originals: &HashMap<UpdateId, InboxRecord>) -> Facts {
        let mut found = Facts {
            is_member: self.is_member,
            position: self.position,
            now: self.now,
            until: self.until,
            seconds_ahead: self.seconds_ahead,
            known: HashMap::new(),
            requeued: HashSet::new(),
            keys: HashMap::new(),
            components: self.components.0.into_iter().map(|c| (c.id, c)).collect(),
            may_be_held: self.may_be_held.into_iter().collect(),
            active,
            reports: None,
        };
        for recorded in self.recorded.0 {
            // A repetition refers to its original, which is kept as long as the key.
            let original = recorded.repeats().and_then(|id| originals.get(&id));
            let stands_for = original.unwrap_or(&recorded);
            found.known.insert(recorded.id, stands_for.verdict());
        }
        for ParkedBefore { id, was_requeued } in self.parked.0 {
            if was_requeued {
                found.requeued.insert(id);
            } else {
                found.known.insert(id, Some(Verdict::Parked));
            }
        }
        for KeyInUse { key, fingerprint, original } in self.keys.0 {
            if let Some(recorded) = originals.get(&original) {
                let (verdict, source) = (recorded.verdict(), recorded.source.clone());
                found.keys.insert(key, KeyUse { fingerprint, source, original, verdict });
            }
        }
        found
    }
}

/// The originals of repeated updates, from any partition of the inbox.
async fn originals(
    database: &mut PgConnection,
    row: &FactsRow,
) -> Result<HashMap<UpdateId, InboxRecord>, sqlx::Error> {
    let repeated = row.recorded.iter().filter_map(InboxRecord::repeats);
    let ids: Vec<UpdateId> = repeated.chain(row.keys.iter().map(|key| key.original)).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let statement = concat!("SELECT ", recorded!(), " FROM sdb_inbox i WHERE i.id = ANY($1)");
    let Json(originals): Json<Vec<InboxRecord>> =
        sqlx::query_scalar(statement).bind(ids).fetch_one(database).await?;
    Ok(originals.into_iter().map(|recorded| (recorded.id, recorded)).collect())
}

impl InboxRecord {
    /// The update that this one repeats, by its idempotency key.
    fn repeats(&self) -> Option<UpdateId> {
        self.original.filter(|_| self.outcome == InboxOutcome::REPEATED)
    }

    /// The verdict for a repetition; none if a version with other rules decided.
    fn verdict(&self) -> Option<Verdict> {
        match InboxOutcome::of_row(&self.outcome, &self.reason)? {
            InboxOutcome::Decided(reason) => {
                Some(Verdict::Repeated { original: self.id, reason, incident: self.incident })
            }
            InboxOutcome::Rejected(reason) => Some(Verdict::Rejected { reason }),
            // Its original is gone.
            InboxOutcome::Repeated => None,
        }
    }
}

/// The first and the last id of the days in which these were created. Whole days, so that the same
/// prepared statement is used all day.
fn days(ids: &[UpdateId]) -> (Uuid, Uuid) {
    /// A UUIDv7 begins with its millisecond; this many of its 128 bits follow.
    const BITS_AFTER: u32 = 80;
    const DAY: u128 = (24 * 60 * 60 * 1000) << BITS_AFTER;
    let (mut first, mut last) = (u128::MAX, 0);
    for UpdateId(id) in ids {
        first = first.min(id.as_u128());
        last = last.max(id.as_u128());
    }
    let end = (last / DAY + 1).checked_mul(DAY).map_or(u128::MAX, |next_day| next_day - 1);
    (Uuid::from_u128(first / DAY * DAY), Uuid::from_u128(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_hold_every_id() {
        let id = |text: &str| UpdateId(text.parse().expect("a UUID"));
        let ids = [
            // 2025-10-20 05:03 and 2025-10-21 18:20.
            id("019a0000-0000-7000-8000-000000000000"),
            id("019a07ff-ffff-7fff-bfff-ffffffffffff"),
        ];
        let (first, last) = days(&ids);
        assert!(first <= ids[0].0 && ids[1].0 <= last);
        let same_day = days(&ids[..1]);
        assert_eq!(same_day.0, first);
        assert!(same_day.1 < last);
        let (nil, max) = (UpdateId(Uuid::nil()), UpdateId(Uuid::max()));
        assert_eq!(days(&[max, nil]), (nil.0, max.0));
        assert!(days(&[]).0 > days(&[]).1, "without ids there are no days");
    }
}
