//! What applies to all updates of a request, and whether the database can store their texts.

use std::collections::{BTreeSet, HashMap};

use futures_util::future::join_all;
use parking_lot::Mutex;
use shared::database;
use tokio::time::{Instant, timeout_at};

use crate::store::{catalogue, pools::Pool};

/// Until when what precedes publishing may be looked up: a third of the time that is left. The rest is for
/// publishing, and for the outcome.
pub(super) fn lookup_end(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 3
}

/// What applies to all updates of a request.
pub(crate) struct Terms<'a> {
    /// That of the token, or empty: the source of updates that name none.
    pub(super) subject: &'a str,
    pub(crate) deadline: Instant,
    /// Nothing is sent: whatever version of messages is recorded will do.
    pub(crate) is_dry_run: bool,
    /// Titles that could not be checked are refused, since there are others to send instead. Otherwise they are
    /// accepted; such an update is parked if it turns out that its title can't be stored.
    pub(super) refuses_unchecked: bool,
    /// Each text is asked for once, however many updates have it.
    checks: Mutex<HashMap<String, Checked>>,
}

/// Whether the database can store a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    Storable,
    /// Its encoding lacks a character.
    Lacking,
    /// It does not answer.
    Unknown,
}

impl<'a> Terms<'a> {
    /// Those of updates as clients send them.
    pub(crate) fn of_updates(subject: &'a str, deadline: Instant) -> Self {
        Self {
            subject,
            deadline,
            is_dry_run: false,
            refuses_unchecked: false,
            checks: Mutex::default(),
        }
    }

    /// Those of updates that are made of alerts.
    pub(crate) fn of_alerts(subject: &'a str, deadline: Instant, is_dry_run: bool) -> Self {
        let terms = Self::of_updates(subject, deadline);
        Self { is_dry_run, refuses_unchecked: true, ..terms }
    }

    /// Asks the database which texts it can store, at once for all that it was not asked before.
    pub(super) async fn check<'t>(
        &self,
        database: &Pool,
        texts: impl IntoIterator<Item = &'t str>,
    ) {
        let new: BTreeSet<&str> = {
            let checks = self.checks.lock();
            let new = |text: &&str| !text.is_ascii() && !checks.contains_key(*text);
            texts.into_iter().filter(new).collect()
        };
        let by = lookup_end(self.deadline);
        let checked = join_all(new.into_iter().map(async |text| {
            let checked = match timeout_at(by, catalogue::hold(database, text)).await {
                Ok(Ok(())) => Checked::Storable,
                Ok(Err(error)) if database::lacks_characters(&error) => Checked::Lacking,
                Ok(Err(_)) | Err(_) => Checked::Unknown,
            };
            (text.to_owned(), checked)
        }));
        let checked = checked.await;
        self.checks.lock().extend(checked);
    }

    /// Whether the database can store a text that it was asked for.
    pub(super) fn checked(&self, text: &str) -> Checked {
        // Every encoding has these.
        if text.is_ascii() {
            return Checked::Storable;
        }
        self.checks.lock().get(text).copied().unwrap_or(Checked::Unknown)
    }
}
