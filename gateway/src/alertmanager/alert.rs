//! One alert: read from its JSON, with its fingerprint, and firing or resolved.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Deserialize;
use shared::domain::{
    shorten::{MAX_QUOTED_CHARS, shorten},
    timestamp::Timestamp,
};

/// Labels or annotations: names with values that are not empty.
pub(crate) type Labels = BTreeMap<String, String>;

/// An alert, as an alerting pipeline sent it at one time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    /// What identifies it while its annotations and its times change.
    pub(crate) fingerprint: Fingerprint,
    /// Its labels, at least one.
    pub(crate) labels: Labels,
    /// What it says to people.
    pub(crate) annotations: Labels,
    /// Since when it fires.
    pub(crate) starts_at: Option<Timestamp>,
    /// Whether it still fires.
    pub(crate) state: AlertState,
}

/// Whether an alert fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlertState {
    /// It does.
    Firing {
        /// The time for which it is to be taken as firing unless it is sent again, if the sender says so.
        ttl: Option<Duration>,
    },
    /// It does no longer.
    Resolved {
        /// Since when, if the sender says so.
        ended_at: Option<Timestamp>,
    },
}

/// Why an alert can't be used. Others of the same body can.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAlert {
    /// Its JSON has another structure.
    #[error("it is not an alert: {0}")]
    Form(String),
    /// It has nothing to be recognized by.
    #[error("it has no labels")]
    NoLabels,
    /// A webhook's alert is neither firing nor resolved.
    #[error("its status is `{0}`, not `firing` or `resolved`")]
    Status(String),
    /// It is to be judged by its end, which is malformed.
    #[error("its endsAt is `{0}`, which is no time in RFC 3339")]
    End(String),
}

/// By what an alert is judged to be firing or resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JudgedBy {
    /// `endsAt` and the present, as Alertmanager's API v2 judges.
    End,
    /// Its own `status`, as in a webhook's body.
    Status,
}

/// The fields of an alert that count; others are ignored, since senders have more of their own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PostedAlert {
    status: Option<String>,
    labels: Option<Labels>,
    annotations: Option<Labels>,
    starts_at: Option<String>,
    ends_at: Option<String>,
    fingerprint: Option<String>,
}

impl Alert {
    /// Reads an alert from its JSON; `now` is the present.
    ///
    /// # Errors
    /// When it can't be used.
    pub(super) fn read(json: &str, judged_by: JudgedBy, now: Timestamp) -> Result<Self, BadAlert> {
        let posted: PostedAlert = serde_json::from_str(json).map_err(|error| {
            BadAlert::Form(shorten(&error.to_string(), 2 * MAX_QUOTED_CHARS).into_owned())
        })?;
        let given = posted.fingerprint.as_deref().and_then(Fingerprint::parse);
        // A time that can't be read is one that is not given, where the alert has a meaning without it.
        let starts_at = time(posted.starts_at.as_deref()).unwrap_or_default();
        let ends_at = time(posted.ends_at.as_deref());
        let state = match judged_by {
            JudgedBy::End => AlertState::by_end(ends_at?, now),
            JudgedBy::Status => {
                AlertState::by_status(posted.status, ends_at.unwrap_or_default(), now)?
            }
        };
        let labels = without_empty(posted.labels);
        if labels.is_empty() {
            return Err(BadAlert::NoLabels);
        }
        let fingerprint = given.unwrap_or_else(|| Fingerprint::of(&labels));
        let annotations = without_empty(posted.annotations);
        Ok(Self { fingerprint, labels, annotations, starts_at, state })
    }

    /// An alert that fires, with these labels and annotations.
    pub(crate) fn firing(labels: Labels, annotations: Labels) -> Self {
        let state = AlertState::Firing { ttl: None };
        let fingerprint = Fingerprint::of(&labels);
        Self { fingerprint, labels, annotations, starts_at: None, state }
    }
}

impl AlertState {
    fn by_end(ends_at: Option<Timestamp>, now: Timestamp) -> Self {
        match ends_at {
            Some(end) if end <= now => Self::Resolved { ended_at: ends_at },
            _ => Self::Firing { ttl: remaining(ends_at, now) },
        }
    }

    fn by_status(
        status: Option<String>,
        ends_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, BadAlert> {
        match status.as_deref() {
            Some("firing") => Ok(Self::Firing { ttl: remaining(ends_at, now) }),
            Some("resolved") => Ok(Self::Resolved { ended_at: ends_at }),
            other => Err(BadAlert::Status(
                shorten(other.unwrap_or_default(), MAX_QUOTED_CHARS).into_owned(),
            )),
        }
    }
}

/// The time from now to an end that is to come.
fn remaining(ends_at: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let micros = ends_at?.as_micros().checked_sub(now.as_micros())?;
    u64::try_from(micros).ok().filter(|micros| *micros > 0).map(Duration::from_micros)
}

/// A time; none where it is empty or Go's zero, which senders write for "not known".
fn time(written: Option<&str>) -> Result<Option<Timestamp>, BadAlert> {
    /// 0001-01-01T00:00:00Z in microseconds.
    const ZERO: i64 = -62_135_596_800_000_000;
    let Some(written) = written.filter(|written| !written.is_empty()) else { return Ok(None) };
    match written.parse::<Timestamp>() {
        Ok(time) => Ok(Some(time).filter(|time| time.as_micros() != ZERO)),
        Err(_) => Err(BadAlert::End(shorten(written, MAX_QUOTED_CHARS).into_owned())),
    }
}

/// A label with an empty value is the same as none, as in Alertmanager.
fn without_empty(labels: Option<Labels>) -> Labels {
    let mut labels = labels.unwrap_or_default();
    labels.retain(|_, value| !value.is_empty());
    labels
}

/// Identifies an alert: a hash of its labels, as Prometheus and Alertmanager make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    /// FNV-1a with 64 bits over names and values, each followed by a byte that no text in UTF-8 has.
    pub(crate) fn of(labels: &Labels) -> Self {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        const SEPARATOR: u8 = 0xff;
        // Sorted by name, as the map is.
        let texts = labels.iter().flat_map(|(name, value)| [name, value]);
        let bytes = texts.flat_map(|text| text.bytes().chain([SEPARATOR]));
        Self(bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
    }

    /// From its 16 hexadecimal digits; none for any other text.
    fn parse(text: &str) -> Option<Self> {
        let is_hexadecimal = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        is_hexadecimal.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
