//! Incidents with their updates.

use std::collections::HashMap;

use shared::domain::{impact::Impact, incident::IncidentId, timestamp::Timestamp};
use sqlx::{AssertSqlSafe, FromRow};

use super::pools::Pool;

/// An incident with its updates, newest first.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Incident {
    pub(crate) id: IncidentId,
    pub(crate) text: String,
    pub(crate) impact: i16,
    pub(crate) start_date: Timestamp,
    pub(crate) end_date: Option<Timestamp>,
    pub(crate) update_statuses: Vec<String>,
    pub(crate) update_texts: Vec<String>,
    pub(crate) update_times: Vec<Timestamp>,
}

/// The condition that `incident i` is active now: it has started, and has no end or one in the future.
///
/// The statement's time stays the same throughout it, so that an index can be used.
pub(crate) const ACTIVE_NOW: &str = "i.start_date <= statement_timestamp() AT TIME ZONE 'UTC'
    AND (i.end_date IS NULL OR i.end_date > statement_timestamp() AT TIME ZONE 'UTC')";

/// Which incidents a list has, newest start first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IncidentSelection {
    /// Only those that are active now.
    pub(crate) active: bool,
    pub(crate) impact: Option<Impact>,
    /// Only those after this one, by start and id.
    pub(crate) after: Option<(Timestamp, i32)>,
    /// At most this many; none for all.
    pub(crate) limit: Option<u32>,
}

impl IncidentSelection {
    /// The statement. It has only the conditions that are asked for, so that the plan can use their index. `limit`
    /// is bound as $1, impact as $2, the last incident of the page before as $3 and $4.
    fn statement(&self) -> String {
        let mut conditions = vec!["$2::smallint IS NULL OR i.impact = $2"];
        conditions.extend(self.active.then_some(ACTIVE_NOW));
        conditions.push(match self.after {
            Some(_) => "(i.start_date, i.id) < ($3::timestamp, $4::integer)",
            None => "$3::timestamp IS NULL AND $4::integer IS NULL",
        });
        let conditions = conditions.join(") AND (");
        format!(
            "SELECT {COLUMNS} FROM (
                SELECT * FROM incident i WHERE ({conditions})
                ORDER BY i.start_date DESC, i.id DESC LIMIT $1
            ) AS i {UPDATES} ORDER BY i.start_date DESC, i.id DESC"
        )
    }

    /// The statement with its values.
    pub(crate) fn rows(&self) -> Rows {
        sqlx::query_as(AssertSqlSafe(self.statement()))
            .bind(self.limit.map(i64::from))
            .bind(self.impact.map(i16::from))
            .bind(self.after.map(|(start_date, _)| start_date))
            .bind(self.after.map(|(_, id)| id))
    }
}

pub(crate) type Rows = sqlx::query::QueryAs<
    'static,
    sqlx::Postgres,
    Incident,
    <sqlx::Postgres as sqlx::Database>::Arguments,
>;

/// The columns of [`Incident`] for `incident i`, joined with its updates as `u`.
pub(crate) const COLUMNS: &str =
    "i.id, sdb_readable(i.text) AS text, i.impact, i.start_date, i.end_date,
    u.update_statuses, u.update_texts, u.update_times";

/// The updates of an incident as the arrays of [`Incident`], newest first.
macro_rules! update_arrays {
    () => {
        "coalesce(array_agg(sdb_readable(status) ORDER BY \"timestamp\" DESC, id DESC), '{}')
                AS update_statuses,
            coalesce(array_agg(sdb_readable(text) ORDER BY \"timestamp\" DESC, id DESC), '{}')
                AS update_texts,
            coalesce(array_agg(\"timestamp\" ORDER BY \"timestamp\" DESC, id DESC), '{}') AS update_times"
    };
}

pub(super) const UPDATE_ARRAYS: &str = update_arrays!();

/// The updates of `incident i`, newest first.
pub(crate) const UPDATES: &str = concat!(
    "LEFT JOIN LATERAL (
        SELECT ",
    update_arrays!(),
    " FROM incident_status WHERE incident_id = i.id
    ) AS u ON true"
);

impl Incident {
    /// Status, text and time of each update, newest first.
    pub(crate) fn updates(&self) -> impl DoubleEndedIterator<Item = (&str, &str, Timestamp)> {
        let updates = self.update_statuses.iter().zip(&self.update_texts).zip(&self.update_times);
        updates.map(|((status, text), time)| (status.as_str(), text.as_str(), *time))
    }
}

/// The incidents with these ids, as they are now; one that is gone is absent.
pub(crate) async fn read(
    database: &Pool,
    ids: &[IncidentId],
) -> Result<HashMap<IncidentId, Incident>, sqlx::Error> {
    let query = format!("SELECT {COLUMNS} FROM incident i {UPDATES} WHERE i.id = ANY($1)");
    let incidents: Vec<Incident> = sqlx::query_as(sqlx::AssertSqlSafe(query))
        .bind(ids)
        .fetch_all(&database.now().await)
        .await?;
    Ok(incidents.into_iter().map(|incident| (incident.id, incident)).collect())
}
