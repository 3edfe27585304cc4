//! The version of the lists.

use std::{fmt::Write, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shared::{
    database::{ConnectOptions, Database},
    domain::timestamp::Timestamp,
    process::supervise,
    telemetry::chain,
    throttled,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time::{Instant, timeout},
};

/// Maximum number of requests that share one reading.
const MAX_AT_ONCE: usize = 1_024;
/// Age up to which a version is good enough for pages.
const RECENT: Duration = Duration::from_secs(1);
/// Time for one reading.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// A version of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// When the database server was started, in microseconds since 1970: another server, or one that
    /// was restored, may have lost what this one had, and count the same numbers again.
    server: i64,
    /// Incremented by every transaction that changes the lists.
    lists: i64,
    /// Incremented by every transaction that changes components or their attributes.
    catalogue: i64,
    /// The newest start and end of an incident that have passed, in microseconds since 1970: which
    /// incidents are active changes without a write, too.
    windows: Option<(i64, i64)>,
    /// Minutes since 1970, by the clock of the database.
    minute: Option<i64>,
}

/// When a list changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DependsOn {
    /// When a row changes.
    Rows,
    /// Also when an incident starts or ends without a write.
    Windows,
    /// When anything changes, and every minute. The version may be a second old, so that a crowd costs nothing.
    Page,
    /// When a row changes, or an incident starts or ends without a write. The version may be a second old.
    Recent,
    /// When a component changes, and every minute. It reads too much to be read again for each incident of a storm.
    Minutes,
}

impl DependsOn {
    /// Whether the version may be a second old.
    pub(crate) const fn may_be_old(self) -> bool {
        matches!(self, Self::Page | Self::Recent)
    }
}

/// The columns of a [`Version`], for one row. As the conditions on times in other parts of the same statement, it
/// uses the time of the statement.
pub(crate) const VERSION: &str = "SELECT
    pg_postmaster_start_time() AT TIME ZONE 'UTC' AS version_server, lists AS version_lists,
    catalogue AS version_catalogue, statement_timestamp() AT TIME ZONE 'UTC' AS version_now,
    (SELECT max(start_date) FROM incident
        WHERE start_date <= statement_timestamp() AT TIME ZONE 'UTC') AS version_start,
    (SELECT max(end_date) FROM incident
        WHERE end_date <= statement_timestamp() AT TIME ZONE 'UTC') AS version_end
    FROM sdb_version";

impl FromRow<'_, PgRow> for Version {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let micros = |column| -> Result<i64, sqlx::Error> {
            Ok(row.try_get::<Option<Timestamp>, _>(column)?.map_or(0, Timestamp::as_micros))
        };
        Ok(Self {
            server: micros("version_server")?,
            lists: row.try_get("version_lists")?,
            catalogue: row.try_get("version_catalogue")?,
            windows: Some((micros("version_start")?, micros("version_end")?)),
            minute: Some(micros("version_now")?.div_euclid(60_000_000)),
        })
    }
}

impl Version {
    /// Of some server, with these lists.
    #[cfg(test)]
    pub(crate) const fn of(lists: i64) -> Self {
        Self { server: 7, lists, catalogue: 1, windows: None, minute: None }
    }

    /// What of it matters to a list.
    pub(crate) const fn of_list(self, depends_on: DependsOn) -> Self {
        match depends_on {
            DependsOn::Rows => Self { windows: None, minute: None, ..self },
            DependsOn::Windows | DependsOn::Recent => Self { minute: None, ..self },
            DependsOn::Page => self,
            DependsOn::Minutes => Self { lists: self.catalogue, windows: None, ..self },
        }
    }

    /// The number of changes of the lists.
    pub(crate) const fn changes(self) -> i64 {
        self.lists
    }

    /// Whether data read at this version or later is not older than `other`.
    pub(crate) fn reaches(self, other: Self) -> bool {
        self.server == other.server
            && (self.lists, self.windows, self.minute) >= (other.lists, other.windows, other.minute)
    }

    /// Whether data read at this version is of the same server, and of the same minute as `other` or the one before.
    pub(crate) fn is_of_this_minute_or_the_last(self, other: Self) -> bool {
        let minutes = self.minute.zip(other.minute);
        self.server == other.server && minutes.is_some_and(|(of, now)| of + 1 >= now)
    }

    /// Logs that the database has lost what it had at this version before: an asynchronous standby was
    /// promoted, or a backup was restored.
    fn report_loss_since(self, last: Self) {
        if self.server != last.server && self.lists < last.lists {
            let (was, is) = (last.lists, self.lists);
            tracing::error!(
                was,
                is,
                "PostgreSQL has lost changes: the version of the lists went back. A standby that lagged \
                behind was promoted, or a backup was restored"
            );
        }
    }

    /// Its form in an entity tag. Another release may use another form.
    pub(crate) fn text(self) -> String {
        let Self { server, lists, catalogue: _, windows, minute } = self;
        let release = env!("CARGO_PKG_VERSION");
        let mut text = format!("{release}-{server:x}-{lists}");
        // Writing to a string can't fail.
        if let Some((start, end)) = windows {
            write!(text, "-{start:x}-{end:x}").ok();
        }
        if let Some(minute) = minute {
            write!(text, "-{minute:x}").ok();
        }
        text
    }
}

/// Reads the version for concurrent requests. Those that arrive during a reading get the next one, which
/// includes everything committed before they arrived.
#[derive(Clone)]
pub(crate) struct Versions {
    asking: mpsc::UnboundedSender<Question>,
    recent: Arc<Recent>,
}

/// The last version that was read with its windows, and when that began.
type Recent = Mutex<Option<(Instant, Version)>>;

/// A request that waits for the version.
struct Question {
    /// Whether it needs the windows, which cost more than the rest of the reading.
    windows: bool,
    answer: oneshot::Sender<Version>,
}

/// The version of the lists can't be read now.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the version of the lists can't be read")]
pub(crate) struct VersionUnreadable;

impl Versions {
    /// Starts the reader, a task that ends when the last clone is dropped.
    pub(crate) fn new(database: ConnectOptions) -> Self {
        let (asking, asked) = mpsc::unbounded_channel();
        let recent = Arc::new(Recent::default());
        let answering = answer(Database::new(database), asked, recent.clone());
        supervise::spawn("list versions", answering);
        Self { asking, recent }
    }

    /// The version as it is now, as far as it matters to such a list.
    ///
    /// # Errors
    /// When the database does not answer; the reason is logged once for all requests that wait.
    pub(crate) async fn now(&self, depends_on: DependsOn) -> Result<Version, VersionUnreadable> {
        let has_windows = depends_on.may_be_old() || depends_on == DependsOn::Windows;
        if depends_on.may_be_old()
            && let Some((at, version)) = *self.recent.lock()
            && at.elapsed() < RECENT
        {
            return Ok(version.of_list(depends_on));
        }
        Ok(self.ask(has_windows).await?.of_list(depends_on))
    }

    async fn ask(&self, windows: bool) -> Result<Version, VersionUnreadable> {
        let (answer, version) = oneshot::channel();
        self.asking.send(Question { windows, answer }).map_err(|_| VersionUnreadable)?;
        version.await.map_err(|_| VersionUnreadable)
    }
}

async fn answer(
    mut database: Database,
    mut asked: mpsc::UnboundedReceiver<Question>,
    recent: Arc<Recent>,
) {
    let mut waiting = Vec::new();
    let mut last: Option<Version> = None;
    while asked.recv_many(&mut waiting, MAX_AT_ONCE).await > 0 {
        // Lets requests that have already arrived join: under load one reading serves more of them.
        yield_now().await;
        while waiting.len() < MAX_AT_ONCE
            && let Ok(question) = asked.try_recv()
        {
            waiting.push(question);
        }
        let windows = waiting.iter().any(|question| question.windows);
        let began = Instant::now();
        let version = match timeout(READ_LIMIT, read_twice(&mut database, windows)).await {
            Ok(Ok(version)) => version,
            Ok(Err(error)) => {
                let reason = chain(&error);
                throttled!(warn, &reason, reason, "the version of the lists can't be read");
                waiting.clear();
                continue;
            }
            Err(_) => {
                throttled!(
                    warn,
                    "",
                    "the version of the lists can't be read: the database is silent"
                );
                waiting.clear();
                continue;
            }
        };
        if let Some(last) = last.replace(version) {
            version.report_loss_since(last);
        }
        if windows {
            *recent.lock() = Some((began, version));
        }
        for question in waiting.drain(..) {
            // A request that was dropped meanwhile needs no answer.
            question.answer.send(version).ok();
        }
    }
}

/// A connection may have been lost since it was used last: then a new one is tried at once.
async fn read_twice(database: &mut Database, windows: bool) -> Result<Version, sqlx::Error> {
    let read = async |connection: &mut PgConnection| {
        if windows { read(connection).await } else { read_without_windows(connection).await }
    };
    match database.with(read).await {
        Ok(version) => Ok(version),
        Err(_) => database.with(read).await,
    }
}

async fn read(database: &mut PgConnection) -> Result<Version, sqlx::Error> {
    sqlx::query_as(VERSION).fetch_one(database).await
}

async fn read_without_windows(database: &mut PgConnection) -> Result<Version, sqlx::Error> {
    sqlx::query_as(
        "SELECT pg_postmaster_start_time() AT TIME ZONE 'UTC' AS version_server, lists AS version_lists,
            catalogue AS version_catalogue, statement_timestamp() AT TIME ZONE 'UTC' AS version_now,
            NULL::timestamp AS version_start, NULL::timestamp AS version_end
        FROM sdb_version",
    )
    .fetch_one(database)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reaches_what_is_no_later_on_the_same_server() {
        let of = |server, lists| Version { server, windows: Some((1, 1)), ..Version::of(lists) };
        assert!(of(7, 5).reaches(of(7, 5)) && of(7, 6).reaches(of(7, 5)));
        assert!(!of(7, 5).reaches(of(7, 6)));
        assert!(!of(8, 5).reaches(of(7, 5)) && !of(7, 5).reaches(of(8, 5)));
        assert_ne!(of(7, 5).text(), of(8, 5).text());
        let later = Version { windows: Some((1, 2)), ..of(7, 5) };
        assert!(later.reaches(of(7, 5)) && !of(7, 5).reaches(later));
    }

    #[test]
    fn what_is_of_a_minute_changes_with_it_and_with_the_components() {
        let of = |lists, catalogue, minute| {
            let version = Version { catalogue, minute: Some(minute), ..Version::of(lists) };
            version.of_list(DependsOn::Minutes)
        };
        assert_eq!(of(5, 2, 9), of(6, 2, 9));
        for other in [of(5, 3, 9), of(5, 2, 10)] {
            assert!(other.reaches(of(5, 2, 9)) && !of(5, 2, 9).reaches(other));
        }
    }
}
