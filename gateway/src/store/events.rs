//! Events: incidents and maintenances as API v2 reads them.

use shared::domain::{component::ComponentId, timestamp::Timestamp};
use sqlx::{AssertSqlSafe, FromRow, Postgres, postgres::PgArguments, query::Query};

use super::{
    incidents::{ACTIVE_NOW, COLUMNS, Incident, UPDATES},
    version::VERSION,
};

/// An incident or a maintenance with what API v2 derives from its rows.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Event {
    #[sqlx(flatten)]
    pub(crate) incident: Incident,
    pub(crate) system: bool,
    pub(crate) status: String,
    pub(crate) components: Vec<ComponentId>,
}

impl Event {
    /// Whether it has started and has not ended.
    pub(crate) fn is_running(&self, now: Timestamp) -> bool {
        let Incident { start_date, end_date, .. } = &self.incident;
        *start_date <= now && end_date.is_none_or(|end| end > now)
    }

    /// Whether it is a maintenance that was given an end before its start.
    pub(crate) fn is_cancelled(&self) -> bool {
        let Incident { impact, start_date, end_date, .. } = &self.incident;
        *impact == 0 && end_date.is_some_and(|end| end <= *start_date)
    }
}

/// Which events a list has, newest start first. Empty lists mean no condition.
#[derive(Debug, Default)]
pub(crate) struct EventFilter {
    /// Whether incidents are wanted, and whether maintenances are.
    pub(crate) types: (bool, bool),
    /// Only those that are active now.
    pub(crate) active: bool,
    pub(crate) status: Option<&'static str>,
    /// Only those that start then or later.
    pub(crate) start_date: Option<Timestamp>,
    /// Only those that end then or earlier.
    pub(crate) end_date: Option<Timestamp>,
    pub(crate) impact: Option<i16>,
    pub(crate) system: Option<bool>,
    /// Only those with one of these components.
    pub(crate) components: Vec<ComponentId>,
}

/// A part of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// From 1.
    pub(crate) index: u32,
    pub(crate) size: u32,
}

/// The statuses of an event, as [`STATUS`] derives them.
pub(crate) const STATUSES: [&str; 11] = [
    "detected",
    "analysing",
    "fixing",
    "impact changed",
    "observing",
    "reopened",
    "resolved",
    "planned",
    "in_progress",
    "modified",
    "completed",
];

/// The status of `incident i`. `analyzing` is how the Python dashboard writes `analysing`.
pub(super) const STATUS: &str = "CASE
        WHEN i.impact = 0 AND i.start_date > statement_timestamp() AT TIME ZONE 'UTC' THEN 'planned'
        WHEN i.end_date <= statement_timestamp() AT TIME ZONE 'UTC'
            THEN CASE i.impact WHEN 0 THEN 'completed' ELSE 'resolved' END
        WHEN i.impact = 0 THEN coalesce((SELECT 'modified' FROM incident_status s
            WHERE s.incident_id = i.id AND s.status = 'modified' LIMIT 1), 'in_progress')
        ELSE coalesce((SELECT replace(s.status, 'analyzing', 'analysing') FROM incident_status s
            WHERE s.incident_id = i.id AND s.status IN ('detected', 'analyzing', 'analysing', 'fixing',
                'impact changed', 'observing', 'reopened')
            ORDER BY s.\"timestamp\" DESC, s.id DESC LIMIT 1), 'detected') END";

/// The components of `incident i`.
pub(super) const COMPONENTS: &str = "ARRAY(SELECT r.component_id
        FROM incident_component_relation r
        WHERE r.incident_id = i.id ORDER BY r.component_id) AS components";

/// What an event with this status has at least: conditions for which no update has to be read.
fn phase(status: &str) -> &'static str {
    match status {
        "planned" => "i.impact = 0 AND i.start_date > statement_timestamp() AT TIME ZONE 'UTC'",
        "completed" => "i.impact = 0 AND i.end_date <= statement_timestamp() AT TIME ZONE 'UTC'",
        "resolved" => "i.impact <> 0 AND i.end_date <= statement_timestamp() AT TIME ZONE 'UTC'",
        "in_progress" | "modified" => {
            "i.impact = 0 AND (i.end_date IS NULL
                OR i.end_date > statement_timestamp() AT TIME ZONE 'UTC')"
        }
        _ => {
            "i.impact <> 0 AND (i.end_date IS NULL
                OR i.end_date > statement_timestamp() AT TIME ZONE 'UTC')"
        }
    }
}

impl EventFilter {
    /// The conditions on `incident i`, with the values that are bound as $3 to $8.
    fn conditions(&self) -> String {
        let mut conditions = vec![
            match self.types {
                (true, true) => "true",
                (true, false) => "i.impact <> 0",
                (false, true) => "i.impact = 0",
                (false, false) => "false",
            }
            .to_owned(),
        ];
        conditions.extend(self.active.then(|| ACTIVE_NOW.to_owned()));
        conditions.extend(
            [
                self.status.map(|status| format!("{} AND {STATUS} = $3", phase(status))),
                self.start_date.map(|_| "i.start_date >= $4".to_owned()),
                self.end_date.map(|_| "i.end_date <= $5".to_owned()),
                self.impact.map(|_| "i.impact = $6".to_owned()),
                self.system.map(|_| "i.system = $7".to_owned()),
                (!self.components.is_empty()).then(|| {
                    "EXISTS (SELECT FROM incident_component_relation r
                        WHERE r.incident_id = i.id AND r.component_id = ANY($8))"
                        .to_owned()
                }),
            ]
            .into_iter()
            .flatten(),
        );
        conditions.join(" AND ")
    }

    /// The events of a page, newest start first, each row with the version of the lists and, if they are to be
    /// counted, the number of all events that match: one statement, and so one moment. A page without events has
    /// one row, without an id.
    pub(crate) fn page(&self, page: Page, count: bool) -> Query<'static, Postgres, PgArguments> {
        let conditions = self.conditions();
        let total = if count {
            format!("SELECT count(*) AS total FROM incident i WHERE {conditions}")
        } else {
            "SELECT NULL::bigint AS total".to_owned()
        };
        let statement = format!(
            "SELECT version.*, matching.total, event.*
            FROM ({VERSION}) AS version,
                ({total}) AS matching
            LEFT JOIN LATERAL (
                SELECT {COLUMNS}, i.system, {COMPONENTS}, {STATUS} AS status FROM (
                    SELECT * FROM incident i WHERE {conditions}
                    ORDER BY i.start_date DESC, i.id DESC LIMIT $1 OFFSET $2
                ) AS i {UPDATES}
            ) AS event ON true
            WHERE ($3::text, $4::timestamp, $5::timestamp, $6::smallint, $7::boolean, $8::integer[])
                IS NOT DISTINCT FROM ($3, $4, $5, $6, $7, $8)
            ORDER BY event.start_date DESC, event.id DESC"
        );
        sqlx::query(AssertSqlSafe(statement))
            .bind(i64::from(page.size))
            .bind(i64::from(page.index - 1) * i64::from(page.size))
            .bind(self.status)
            .bind(self.start_date)
            .bind(self.end_date)
            .bind(self.impact)
            .bind(self.system)
            .bind(self.components.clone())
    }
}

/// One event, with the version of the lists.
pub(crate) fn one(id: i32) -> Query<'static, Postgres, PgArguments> {
    let statement = format!(
        "SELECT version.*, {COLUMNS}, i.system, {COMPONENTS}, {STATUS} AS status
        FROM ({VERSION}) AS version, incident i {UPDATES} WHERE i.id = $1"
    );
    sqlx::query(AssertSqlSafe(statement)).bind(id)
}
