//! Statistics of the database, for metrics.

use sqlx::{FromRow, PgConnection};

/// A reading.
#[derive(FromRow)]
pub(crate) struct Statistics {
    /// Live workers.
    pub(crate) live_workers: i64,
    /// Parked updates, 10,000 at most.
    pub(crate) parked: i64,
    /// Live reports; from 10,000 on as PostgreSQL estimates them.
    pub(crate) live_reports: i64,
    /// Rows of the inbox, as PostgreSQL estimates them.
    pub(crate) inbox_rows: i64,
    /// The beginning of the inbox's oldest partition, in seconds since 1970; 0 without any.
    pub(crate) oldest_partition: i64,
}

/// Never counts the rows of large tables.
pub(crate) async fn read(database: &mut PgConnection) -> Result<Statistics, sqlx::Error> {
    sqlx::query_as(concat!(
        "SELECT (SELECT count(*) FROM sdb_living_worker) AS live_workers,
            (SELECT count(*) FROM (SELECT FROM sdb_parked WHERE ",
        shared::is_parked!(),
        " LIMIT 10000) AS parked) AS parked,
            (SELECT CASE WHEN live.count < 10000 THEN live.count
                    ELSE greatest(live.count, pg_class.reltuples::bigint) END
                FROM (SELECT count(*) FROM (SELECT FROM sdb_report WHERE is_live LIMIT 10000) AS first) AS live,
                    pg_class WHERE pg_class.oid = 'sdb_report_live'::regclass) AS live_reports,
            coalesce(sum(greatest(part.reltuples, 0))::bigint, 0) AS inbox_rows,
            coalesce(min(extract(epoch FROM to_date(right(part.relname, 8), 'YYYYMMDD')))::bigint, 0)
                AS oldest_partition
        FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid
        WHERE inhparent = 'sdb_inbox'::regclass",
    ))
    .fetch_one(database)
    .await
}
