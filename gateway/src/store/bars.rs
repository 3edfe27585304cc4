//! When components were affected, and a copy of what that makes of the last 90 days.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use shared::{
    database::{ConnectOptions, Database},
    domain::{component::ComponentId, timestamp::Timestamp},
    process::supervise,
    telemetry::chain,
    throttled,
};
use sqlx::{FromRow, PgConnection};
use tokio::sync::{Mutex, watch};

use super::{
    pools::LIST_LIMITS,
    snapshot::Snapshot,
    version::{DependsOn, Version},
};
use crate::uptime::{Bar, Days, Interval};

/// The days of a bar.
pub(crate) const DAYS: usize = 90;
/// Time for reading the bars of all components: a little more than PostgreSQL gives a list.
const READ_LIMIT: Duration = Duration::from_secs(95);

/// The bars of components that were affected.
pub(crate) struct Affected {
    days: Days,
    bars: HashMap<ComponentId, Bar>,
    unaffected: Bar,
}

impl Affected {
    /// The bar of a component.
    pub(crate) fn bar(&self, id: ComponentId) -> &Bar {
        self.bars.get(&id).unwrap_or(&self.unaffected)
    }

    /// Whether its last day is today.
    pub(crate) fn is_of_today(&self, now: Timestamp) -> bool {
        self.days.begin() == Days::until(now, DAYS).begin()
    }
}

/// The bars, which are made of far more rows than the rest of a page. Readers of a page wait for the first ones only:
/// when a minute has passed, they have those of the minute before until the next ones are there.
pub(crate) struct Bars(Arc<Shared>);

struct Shared {
    /// The lowest impact that reduces the uptime.
    impact: i16,
    /// A connection of its own, so that a long reading holds up nothing else. Locked while they are read.
    database: Arc<Mutex<Database>>,
    latest: watch::Sender<Latest>,
}

/// The last bars, and how often reading them has ended.
#[derive(Default)]
struct Latest {
    bars: Option<(Version, Arc<Affected>)>,
    readings: u64,
}

impl Latest {
    /// The bars, unless they are older than the minute before this version.
    fn good(&self, version: Version) -> Option<Arc<Affected>> {
        let (of, affected) = self.bars.as_ref()?;
        of.is_of_this_minute_or_the_last(version).then(|| affected.clone())
    }

    /// Whether they are good, and none are to be read for this version.
    fn is_new(&self, version: Version) -> bool {
        let wanted = version.of_list(DependsOn::Minutes);
        self.good(version).is_some() && self.bars.as_ref().is_some_and(|(of, _)| of.reaches(wanted))
    }
}

impl Bars {
    pub(crate) fn new(database: ConnectOptions, impact: i16) -> Self {
        let database = Arc::new(Mutex::new(Database::new(database.with(LIST_LIMITS))));
        Self(Arc::new(Shared { impact, database, latest: watch::Sender::default() }))
    }

    /// The lowest impact that reduces the uptime.
    pub(crate) fn impact(&self) -> i16 {
        self.0.impact
    }

    /// The bars for a page of this version; none when the database fails, and none read before are recent enough.
    pub(crate) async fn of(&self, version: Version) -> Option<Arc<Affected>> {
        let mut latest = self.0.latest.subscribe();
        let (is_new, readings) = {
            let latest = latest.borrow();
            (latest.is_new(version), latest.readings)
        };
        if !is_new {
            self.read_next();
        }
        let ended = |latest: &Latest| latest.good(version).is_some() || latest.readings > readings;
        // It fails only without the sender, which `self` has.
        latest.wait_for(ended).await.ok().and_then(|latest| latest.good(version))
    }

    /// Begins to read them, unless they are being read.
    fn read_next(&self) {
        let Ok(mut database) = self.0.database.clone().try_lock_owned() else { return };
        let shared = self.0.clone();
        supervise::spawn("bars", async move {
            let reading = async |connection: &mut PgConnection| shared.read(connection).await;
            let read = database.with_within(READ_LIMIT, reading).await;
            if let Err(error) = &read {
                let reason = chain(error);
                throttled!(warn, &reason, reason, "the bars of the pages can't be read");
            }
            shared.latest.send_modify(|latest| {
                latest.readings += 1;
                latest.bars = read.ok().or_else(|| latest.bars.take());
                // Before others see that it has ended: one of them may be the next to read.
                drop(database);
            });
        });
    }
}

impl Shared {
    async fn read(
        &self,
        database: &mut PgConnection,
    ) -> Result<(Version, Arc<Affected>), sqlx::Error> {
        let mut state = Snapshot::begin(database).await?;
        let affected = self.read_all(&mut state).await?;
        let version = state.version.of_list(DependsOn::Minutes);
        state.end().await?;
        Ok((version, Arc::new(affected)))
    }

    async fn read_all(&self, state: &mut Snapshot<'_>) -> Result<Affected, sqlx::Error> {
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
        Ok(Affected { days, unaffected: bar(&[]), bars })
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
