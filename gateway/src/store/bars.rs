//! When components were affected, and a copy of what that makes of the last 90 days.

use std::{collections::HashMap, sync::Arc};

use futures_util::TryStreamExt;
use shared::{component::ComponentId, timestamp::Timestamp};
use sqlx::{FromRow, PgConnection};
use tokio::sync::Mutex;

use super::{
    snapshot::Snapshot,
    version::{DependsOn, Version},
};
use crate::uptime::{Bar, Days, Interval};

/// The days of a bar.
pub(crate) const DAYS: usize = 90;

/// The bars of components that were affected.
pub(crate) struct Affected {
    bars: HashMap<ComponentId, Bar>,
    unaffected: Bar,
}

impl Affected {
    /// The bar of a component.
    pub(crate) fn bar(&self, id: ComponentId) -> &Bar {
        self.bars.get(&id).unwrap_or(&self.unaffected)
    }
}

/// The bars of the last minute: they are made of far more rows than the rest of a page.
pub(crate) struct Bars {
    /// The lowest impact that reduces the uptime.
    impact: i16,
    last: Mutex<Option<(Version, Arc<Affected>)>>,
}

impl Bars {
    pub(crate) fn new(impact: i16) -> Self {
        Self { impact, last: Mutex::default() }
    }

    /// The lowest impact that reduces the uptime.
    pub(crate) const fn impact(&self) -> i16 {
        self.impact
    }

    /// The bars at this time. Pages that are made at once share one reading.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn of(&self, state: &mut Snapshot<'_>) -> Result<Arc<Affected>, sqlx::Error> {
        let version = state.version.of_list(DependsOn::Minutes);
        let mut last = self.last.lock().await;
        if let Some((of, affected)) = &*last
            && of.reaches(version)
        {
            return Ok(affected.clone());
        }
        let affected = Arc::new(self.read(state).await?);
        *last = Some((version, affected.clone()));
        Ok(affected)
    }

    async fn read(&self, state: &mut Snapshot<'_>) -> Result<Affected, sqlx::Error> {
        let days = Days::until(state.now, DAYS);
        let from = days.begin().unwrap_or(state.now);
        let bar = |intervals: &[Interval]| days.bar(intervals, self.impact);
        let (mut bars, mut of, mut intervals) = (HashMap::new(), None, Vec::new());
        let mut rows = sqlx::query_as::<_, (ComponentId, i16, Timestamp, Timestamp)>(
            "SELECT component_id, impact, greatest(began, $1), least(coalesce(ended, $2), $2)
            FROM sdb_affected_interval WHERE began < $2 AND (ended IS NULL OR ended > $1)
            ORDER BY component_id, began, ended",
        )
        .bind(from)
        .bind(state.now)
        .fetch(&mut *state.database);
        while let Some((id, impact, began, ended)) = rows.try_next().await? {
            if let Some(of) = of.replace(id).filter(|of| *of != id) {
                bars.insert(of, bar(&intervals));
                intervals.clear();
            }
            intervals.push(Interval { impact, began, ended });
        }
        if let Some(of) = of {
            bars.insert(of, bar(&intervals));
        }
        Ok(Affected { bars, unaffected: bar(&[]) })
    }
}

/// When a component was affected since then, in the order of the begins. What goes on ends now.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_component(
    database: &mut PgConnection,
    id: ComponentId,
    (from, now): (Timestamp, Timestamp),
) -> Result<Vec<Interval>, sqlx::Error> {
    sqlx::query_as(
        "SELECT impact, greatest(began, $2) AS began, least(coalesce(ended, $3), $3) AS ended
        FROM sdb_affected_interval
        WHERE component_id = $1 AND began < $3 AND (ended IS NULL OR ended > $2)
        ORDER BY began, ended",
    )
    .bind(id)
    .bind(from)
    .bind(now)
    .fetch_all(database)
    .await
}

/// A component in an incident.
#[derive(FromRow)]
pub(crate) struct Part {
    pub(crate) component_id: ComponentId,
    pub(crate) began: Timestamp,
    /// None while it goes on.
    pub(crate) ended: Option<Timestamp>,
}

/// The components of an incident, also those that have left it, each with its time in it.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_incident(
    database: &mut PgConnection,
    id: i32,
) -> Result<Vec<Part>, sqlx::Error> {
    sqlx::query_as(
        "SELECT component_id, min(began) AS began,
            CASE WHEN bool_and(ended IS NOT NULL) THEN max(ended) END AS ended
        FROM sdb_affected_interval WHERE incident_id = $1
        GROUP BY component_id ORDER BY min(began), component_id",
    )
    .bind(id)
    .fetch_all(database)
    .await
}
