//! The reports: those that a batch reads and writes, and those that an operator lists.

use std::collections::HashMap;

use serde::Serialize;
use shared::domain::{component::ComponentId, timestamp::Timestamp, update_id::UpdateId};
use sqlx::{
    FromRow, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::incidents::column;
use crate::domain::{MAX_LIVE_REPORTS, ReportId, ReportState, Reports};

/// What a batch reads of the reports.
#[derive(Clone, Debug)]
pub(crate) struct ReportsQuery<'a> {
    /// Those that its updates name.
    pub(crate) named: Vec<ReportId<'a>>,
    /// The components whose live reports are counted.
    pub(crate) counted: Vec<ComponentId>,
}

/// Tables in a FROM, one row each, with the columns of a [`ReportsRow`]: the reports `$6` to `$8`, as far as they
/// exist, and the numbers of live reports of the components `$9`.
pub(super) const REPORT_TABLES: &str = ", (SELECT coalesce(array_agg(r.component_id), '{}') AS report_components,
                coalesce(array_agg(r.source), '{}') AS report_sources,
                coalesce(array_agg(r.key), '{}') AS report_keys,
                coalesce(array_agg(r.is_live), '{}') AS report_is_live,
                coalesce(array_agg(r.first_at), '{}') AS report_firsts,
                coalesce(array_agg(r.last_at), '{}') AS report_lasts,
                coalesce(array_agg(r.ttl), '{}') AS report_ttls,
                coalesce(array_agg(r.update_id), '{}') AS report_updates,
                coalesce(array_agg(r.starts_at), '{}') AS report_starts,
                coalesce(array_agg(r.ended_at), '{}') AS report_ended,
                coalesce(array_agg(r.ends_at), '{}') AS report_ends
            FROM unnest($6::integer[], $7::varchar[], $8::varchar[]) AS named (component_id, source, key),
                LATERAL (
                    SELECT * FROM sdb_report
                    WHERE component_id = named.component_id AND source = named.source
                        AND key = named.key OFFSET 0
                ) AS r
        ) AS state_4,
        (SELECT coalesce(array_agg(id), '{}') AS counted_components,
                coalesce(array_agg((SELECT count(*) FROM sdb_report
                    WHERE component_id = counted.id AND is_live)), '{}') AS counts
            FROM unnest($9::integer[]) AS counted (id)) AS state_5";

/// Those columns, in a SELECT list.
pub(super) const REPORT_COLUMNS: &str = ", state_4.*, state_5.*";

/// The reports of a batch as one row: columns with the same prefix are arrays of the same length.
#[derive(Debug, FromRow)]
struct ReportsRow {
    report_components: Vec<ComponentId>,
    report_sources: Vec<String>,
    report_keys: Vec<String>,
    report_is_live: Vec<bool>,
    report_firsts: Vec<Timestamp>,
    report_lasts: Vec<Timestamp>,
    report_ttls: Vec<Option<i64>>,
    report_updates: Vec<UpdateId>,
    report_starts: Vec<Option<Timestamp>>,
    report_ended: Vec<Option<Timestamp>>,
    report_ends: Vec<Option<Timestamp>>,
    counted_components: Vec<ComponentId>,
    counts: Vec<i64>,
}

/// The reports that a batch read.
#[derive(Debug)]
pub(crate) struct ReportsRead {
    named: Vec<(ComponentId, String, String, ReportState)>,
    /// The numbers of live reports of the components that are counted.
    pub(crate) live: HashMap<ComponentId, usize>,
}

impl ReportsRead {
    pub(super) fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let row = ReportsRow::from_row(row)?;
        let ids = row.report_components.into_iter().zip(row.report_sources).zip(row.report_keys);
        let states = row.report_is_live.into_iter().zip(row.report_firsts).zip(row.report_lasts);
        let said = row.report_ttls.into_iter().zip(row.report_updates);
        let times = row.report_starts.into_iter().zip(row.report_ended).zip(row.report_ends);
        let named = ids
            .zip(states)
            .zip(said.zip(times))
            .map(
                |((((component, source), key), ((is_live, first_at), last_at)), said_and_times)| {
                    let ((ttl, update), ((starts_at, ended_at), ends_at)) = said_and_times;
                    let state = ReportState {
                        is_live,
                        first_at,
                        last_at,
                        ttl,
                        update,
                        starts_at,
                        ended_at,
                        ends_at,
                    };
                    (component, source, key, state)
                },
            )
            .collect();
        let counts = row.counts.into_iter().map(|count| usize::try_from(count).unwrap_or_default());
        Ok(Self { named, live: row.counted_components.into_iter().zip(counts).collect() })
    }

    /// The state on which the batch is decided.
    pub(crate) fn state(&self) -> Reports<'_> {
        let id = |component, source, key| ReportId { component, source, key };
        let named = self.named.iter().map(|(c, source, key, state)| (id(*c, source, key), *state));
        Reports::new(named.collect(), self.live.clone())
    }
}

/// The reports that a batch writes.
#[derive(Default)]
pub(crate) struct ReportsToWrite<'a> {
    rows: Vec<(ReportId<'a>, ReportState)>,
    /// Whether they were read before. If not, the batch only renews them, or begins new ones.
    were_read: bool,
    /// The time of the batch's first decision.
    since: Option<Timestamp>,
}

impl<'a> ReportsToWrite<'a> {
    pub(crate) fn new(reports: &Reports<'a>, were_read: bool, since: Timestamp) -> Self {
        Self { rows: reports.changed().into_iter().collect(), were_read, since: Some(since) }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Ends a `WITH` that has the CTE `inbox`: writes the reports. Those that begin, or whose row has no older version,
    /// prevent that their components are deleted until the transaction ends: a deletion that is not committed has
    /// not seen them. Selects how many of these components are gone or about to be, and which ones may have too many
    /// reports: they are counted in the snapshot before the statement, and those that begin are added.
    pub(super) fn statement(&self) -> String {
        let written = if self.were_read { OVERWRITE } else { RENEW };
        format!(
            "reports AS (
                INSERT INTO sdb_report (component_id, source, key, is_live, first_at, last_at, ttl,
                    update_id, starts_at, ended_at, ends_at)
                SELECT unnest($23::integer[]), unnest($24::varchar[]), unnest($25::varchar[]),
                    unnest($26::boolean[]), unnest($27::timestamp[]), unnest($28::timestamp[]),
                    unnest($29::bigint[]), unnest($30::uuid[]), unnest($31::timestamp[]),
                    unnest($32::timestamp[]), unnest($33::timestamp[])
                ON CONFLICT (component_id, source, key) DO UPDATE SET {written}
                RETURNING component_id, is_live, xmax = 0 OR first_at >= $34 AS has_begun
            ), begun AS MATERIALIZED (
                SELECT component_id, count(*) FILTER (WHERE is_live) AS live
                FROM reports WHERE has_begun GROUP BY component_id
            )
            SELECT CASE WHEN EXISTS (SELECT FROM begun) THEN
                    (SELECT count(*) FROM begun) - (SELECT count(*)
                        FROM sdb_keep_components(ARRAY(SELECT component_id FROM begun)))
                ELSE 0 END AS gone,
                ARRAY(SELECT component_id FROM begun WHERE live + (
                    SELECT count(*) FROM sdb_report r
                    WHERE r.component_id = begun.component_id AND r.is_live
                ) > {MAX_LIVE_REPORTS}) AS crowded"
        )
    }

    pub(super) fn bind<'q>(
        &'q self,
        query: Query<'q, Postgres, PgArguments>,
    ) -> Query<'q, Postgres, PgArguments> {
        let rows = &self.rows;
        query
            .bind(column(rows, |(id, _)| id.component))
            .bind(column(rows, |(id, _)| id.source))
            .bind(column(rows, |(id, _)| id.key))
            .bind(column(rows, |(_, report)| report.is_live))
            .bind(column(rows, |(_, report)| report.first_at))
            .bind(column(rows, |(_, report)| report.last_at))
            .bind(column(rows, |(_, report)| report.ttl))
            .bind(column(rows, |(_, report)| report.update))
            .bind(column(rows, |(_, report)| report.starts_at))
            .bind(column(rows, |(_, report)| report.ended_at))
            .bind(column(rows, |(_, report)| report.ends_at))
            .bind(self.since)
    }
}

/// For reports that were read: the batch knows all of what they are then.
const OVERWRITE: &str = "is_live = excluded.is_live, first_at = excluded.first_at,
    last_at = excluded.last_at, ttl = excluded.ttl, update_id = excluded.update_id,
    starts_at = excluded.starts_at, ended_at = excluded.ended_at, ends_at = excluded.ends_at";

/// For reports that were not read, as [`Reports`] renews one.
const RENEW: &str = "is_live = true,
    first_at = CASE WHEN sdb_report.is_live THEN sdb_report.first_at ELSE excluded.first_at END,
    last_at = excluded.last_at, ttl = excluded.ttl, update_id = excluded.update_id,
    starts_at = CASE WHEN sdb_report.is_live
            OR sdb_report.ended_at + interval '24 hours' > excluded.first_at
        THEN sdb_report.starts_at END,
    ended_at = CASE WHEN sdb_report.ended_at + interval '24 hours' > excluded.last_at
        THEN sdb_report.ended_at END,
    ends_at = CASE WHEN sdb_report.ended_at + interval '24 hours' > excluded.last_at
        THEN sdb_report.ends_at END";

/// What the statement of [`ReportsToWrite`] found.
#[derive(Debug, Default, FromRow)]
pub(crate) struct ReportsWritten {
    /// The number of components that were deleted, or locked by others, since the batch was read.
    gone: i64,
    /// Components that may have too many live reports.
    pub(crate) crowded: Vec<ComponentId>,
}

impl ReportsWritten {
    /// Whether the batch must be read and decided again. It has counted the reports of some components.
    pub(crate) fn is_outdated(&self, counted: &HashMap<ComponentId, usize>) -> bool {
        self.gone > 0 || self.crowded.iter().any(|component| !counted.contains_key(component))
    }
}

/// Deletes reports whose end no longer counts, an hour later, and those of components that a transaction deleted
/// which could not see them: in small steps, and without those that others hold.
pub(crate) async fn delete_expired(database: &mut PgConnection) -> Result<(), sqlx::Error> {
    for expired in [
        "DELETE FROM sdb_report WHERE (component_id, source, key) IN (
            SELECT component_id, source, key FROM sdb_report r
            WHERE NOT EXISTS (SELECT FROM component WHERE id = r.component_id)
            LIMIT 10000 FOR UPDATE SKIP LOCKED)",
        "DELETE FROM sdb_report WHERE (component_id, source, key) IN (
            SELECT component_id, source, key FROM sdb_report
            WHERE NOT is_live AND ended_at <
                (SELECT (clock_timestamp() AT TIME ZONE 'UTC') - interval '25 hours')
            LIMIT 10000 FOR UPDATE SKIP LOCKED)",
    ] {
        while sqlx::query(expired).execute(&mut *database).await?.rows_affected() > 0 {}
    }
    Ok(())
}

/// A live report, for an operator.
#[derive(Debug, FromRow, Serialize)]
pub(crate) struct LiveReport {
    /// Its component.
    pub(crate) component_id: ComponentId,
    /// Who speaks; empty if unknown.
    pub(crate) source: String,
    /// What of several matters of the component the source speaks about; empty if it has one.
    pub(crate) key: String,
    /// The time of its first update since it last ended.
    pub(crate) first_at: Timestamp,
    /// The time of its last update.
    pub(crate) last_at: Timestamp,
    /// The seconds for which its source says that it is valid.
    pub(crate) ttl: Option<i64>,
    /// Its last update.
    pub(crate) update_id: UpdateId,
}

/// Whether a report stands.
pub(crate) async fn is_live(
    database: &mut PgConnection,
    component: ComponentId,
    source: &str,
    key: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM sdb_report
            WHERE component_id = $1 AND source = $2 AND key = $3 AND is_live)",
    )
    .bind(component)
    .bind(source)
    .bind(key)
    .fetch_one(database)
    .await
}

/// The live reports of a component, or all; by component, the oldest first.
pub(crate) async fn list(
    database: &mut PgConnection,
    component: Option<ComponentId>,
) -> Result<Vec<LiveReport>, sqlx::Error> {
    sqlx::query_as(
        "SELECT component_id, source, key, first_at, last_at, ttl, update_id FROM sdb_report
        WHERE is_live AND ($1::integer IS NULL OR component_id = $1)
        ORDER BY component_id, first_at, source, key",
    )
    .bind(component)
    .fetch_all(database)
    .await
}
