//! Incidents and maintenances for pages, feeds and the formats of others.

use std::collections::HashMap;

use shared::domain::{component::ComponentId, timestamp::Timestamp};
use sqlx::{AssertSqlSafe, FromRow};

use super::{
    events::{COMPONENTS, Event, STATUS},
    incidents::{COLUMNS, UPDATE_ARRAYS},
    snapshot::Snapshot,
};

/// An incident or a maintenance with its newest updates.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct PageEvent {
    #[sqlx(flatten)]
    pub(crate) event: Event,
    /// The number of all its updates; 0 if none are asked for.
    pub(crate) updates: i64,
    /// The ids of the updates that it has here.
    pub(crate) update_ids: Vec<i32>,
}

/// Which of them. The order is newest start first, where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// Those that are active now, incidents before maintenances.
    Active,
    /// Incidents that are active now.
    ActiveIncidents,
    /// Maintenances that are active now.
    ActiveMaintenances,
    /// Maintenances to come, the next one first.
    Coming,
    /// Maintenances that are active now, and those to come, earliest start first.
    OpenMaintenances,
    /// All maintenances that were not cancelled.
    AllMaintenances,
    /// Maintenances that end after that time, or have no end.
    Maintenances(Timestamp),
    /// All incidents that have started.
    Incidents,
    /// All that have started.
    Newest,
    /// Those that started between two times and not after now.
    Started(Timestamp, Timestamp),
    /// Those that a component is or was in.
    Of(ComponentId),
    /// The one with this id.
    One(i32),
}

/// How many of them, and of each how many updates. With no updates, they are for single lines, and have no components
/// either.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    pub(crate) events: u32,
    /// How many are passed over.
    pub(crate) after: u32,
    pub(crate) updates: u32,
}

/// The condition that `incident i` is active at $1.
const ACTIVE: &str = "i.start_date <= $1 AND (i.end_date IS NULL OR i.end_date > $1)";
/// The condition that `incident i` is to come after $1, and was not cancelled.
const COMING: &str = "i.start_date > $1 AND (i.end_date IS NULL OR i.end_date > i.start_date)";
/// The condition that a component with the id $4 is or was in `incident i`.
const OF: &str = "i.start_date <= $1 AND i.id IN (
        SELECT r.incident_id FROM incident_component_relation r WHERE r.component_id = $4
        UNION SELECT a.incident_id FROM sdb_affected_interval a
            WHERE a.component_id = $4 AND a.ended IS DISTINCT FROM a.began)";

/// The condition that one of the components $5 is in `incident i`.
const HAS: &str = "EXISTS (SELECT FROM incident_component_relation r
        WHERE r.incident_id = i.id AND r.component_id = ANY($5))";
/// The condition that one of the components $5 was in `incident i`. By `OFFSET`, only those incidents are looked up that
/// the list comes to: otherwise PostgreSQL might read what all incidents ever affected.
const HAD: &str = "EXISTS (SELECT FROM sdb_affected_interval a
        WHERE a.incident_id = i.id AND a.component_id = ANY($5) AND a.ended IS DISTINCT FROM a.began
        OFFSET 0)";

impl Which {
    /// The condition on `incident i`, with now as $1, two times as $2 and $3, and an id as $4.
    fn condition(self) -> String {
        match self {
            Self::Active => ACTIVE.to_owned(),
            Self::ActiveIncidents => format!("i.impact <> 0 AND {ACTIVE}"),
            Self::ActiveMaintenances => format!("i.impact = 0 AND {ACTIVE}"),
            Self::Coming => format!("i.impact = 0 AND {COMING}"),
            Self::OpenMaintenances => format!("i.impact = 0 AND ({ACTIVE} OR {COMING})"),
            Self::AllMaintenances => {
                "i.impact = 0 AND (i.end_date IS NULL OR i.end_date > i.start_date)".to_owned()
            }
            Self::Maintenances(_) => {
                "i.impact = 0 AND (i.end_date IS NULL OR i.end_date > $2 OR i.start_date > $2)"
                    .to_owned()
            }
            Self::Incidents => "i.impact <> 0 AND i.start_date <= $1".to_owned(),
            Self::Newest => "i.start_date <= $1".to_owned(),
            Self::Started(..) => {
                "i.start_date >= $2 AND i.start_date < $3 AND i.start_date <= $1".to_owned()
            }
            Self::Of(_) => OF.to_owned(),
            Self::One(_) => "i.id = $4".to_owned(),
        }
    }

    const fn order(self) -> &'static str {
        if matches!(self, Self::Active) {
            "i.impact = 0, i.start_date DESC, i.id DESC"
        } else if matches!(self, Self::Coming | Self::OpenMaintenances) {
            "i.start_date, i.id"
        } else {
            "i.start_date DESC, i.id DESC"
        }
    }

    /// The values of $2 to $4.
    const fn values(self) -> (Option<Timestamp>, Option<Timestamp>, Option<i32>) {
        match self {
            Self::Started(from, to) => (Some(from), Some(to), None),
            Self::Maintenances(since) => (Some(since), None, None),
            Self::Of(id) => (None, None, Some(id.0)),
            Self::One(id) => (None, None, Some(id)),
            Self::Active
            | Self::ActiveIncidents
            | Self::ActiveMaintenances
            | Self::Coming
            | Self::OpenMaintenances
            | Self::AllMaintenances
            | Self::Incidents
            | Self::Newest => (None, None, None),
        }
    }
}

/// Incidents and maintenances, of some components if they are given. Those that have started are also of the components
/// that have left them.
///
/// # Errors
/// When the database fails.
pub(crate) async fn read(
    state: &mut Snapshot<'_>,
    which: Which,
    most: Most,
    components: Option<&[ComponentId]>,
) -> Result<Vec<PageEvent>, sqlx::Error> {
    let (condition, order) = (which.condition(), which.order());
    let of_components = match components {
        Some(_) if matches!(which, Which::Started(..) | Which::Newest) => {
            format!("({HAS} OR {HAD})")
        }
        Some(_) => HAS.to_owned(),
        None => "true".to_owned(),
    };
    let (of_event, count) = if most.updates == 0 {
        ("'{}'::integer[] AS components", "0::bigint")
    } else {
        (COMPONENTS, "(SELECT count(*) FROM incident_status s WHERE s.incident_id = i.id)")
    };
    let statement = format!(
        "SELECT {COLUMNS}, i.system, {of_event}, {STATUS} AS status,
            {count} AS updates, u.update_ids
        FROM (
            -- Every value is named, because PostgreSQL has to know the type of each that is bound.
            SELECT * FROM incident i WHERE ({condition}) AND {of_components}
                AND ($1::timestamp, $2::timestamp, $3::timestamp, $4::integer, $5::integer[])
                    IS NOT DISTINCT FROM ($1, $2, $3, $4, $5)
            ORDER BY {order} LIMIT $6 OFFSET $7
        ) AS i LEFT JOIN LATERAL (
            SELECT {UPDATE_ARRAYS},
                coalesce(array_agg(id ORDER BY \"timestamp\" DESC, id DESC), '{{}}') AS update_ids
            FROM (SELECT * FROM incident_status s WHERE s.incident_id = i.id
                ORDER BY s.\"timestamp\" DESC, s.id DESC LIMIT $8) AS newest
        ) AS u ON true
        ORDER BY {order}"
    );
    let (from, to, id) = which.values();
    sqlx::query_as(AssertSqlSafe(statement))
        .bind(state.now)
        .bind(from)
        .bind(to)
        .bind(id)
        .bind(components)
        .bind(i64::from(most.events))
        .bind(i64::from(most.after))
        .bind(i64::from(most.updates))
        .fetch_all(&mut *state.database)
        .await
}

/// The time of the first update of an incident; none if it has none.
///
/// # Errors
/// When the database fails.
pub(crate) async fn first_update(
    state: &mut Snapshot<'_>,
    id: i32,
) -> Result<Option<Timestamp>, sqlx::Error> {
    sqlx::query_scalar("SELECT min(\"timestamp\") FROM incident_status WHERE incident_id = $1")
        .bind(id)
        .fetch_one(&mut *state.database)
        .await
}

/// The newest start before this time.
///
/// # Errors
/// When the database fails.
pub(crate) async fn last_start_before(
    state: &mut Snapshot<'_>,
    time: Timestamp,
) -> Result<Option<Timestamp>, sqlx::Error> {
    sqlx::query_scalar("SELECT max(start_date) FROM incident WHERE start_date < $1")
        .bind(time)
        .fetch_one(&mut *state.database)
        .await
}

/// The worst impact of what is active now, of each component that has one.
///
/// # Errors
/// When the database fails.
pub(crate) async fn impacts(
    state: &mut Snapshot<'_>,
) -> Result<HashMap<ComponentId, i16>, sqlx::Error> {
    let statement = format!(
        "SELECT r.component_id, max(i.impact)
        FROM incident i JOIN incident_component_relation r ON r.incident_id = i.id
        WHERE {ACTIVE} GROUP BY r.component_id"
    );
    let rows: Vec<(ComponentId, i16)> = sqlx::query_as(AssertSqlSafe(statement))
        .bind(state.now)
        .fetch_all(&mut *state.database)
        .await?;
    Ok(rows.into_iter().collect())
}

/// The worst impact of what is active now; none if nothing is.
///
/// # Errors
/// When the database fails.
pub(crate) async fn worst(state: &mut Snapshot<'_>) -> Result<Option<i16>, sqlx::Error> {
    let statement = format!("SELECT max(i.impact) FROM incident i WHERE {ACTIVE}");
    sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(state.now)
        .fetch_one(&mut *state.database)
        .await
}
