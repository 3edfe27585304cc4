//! The two bodies that bring alerts: Alertmanager's API v2 has a list of them, its webhook an object.

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::domain::{shorten::shorten, timestamp::Timestamp};

use super::alert::{Alert, BadAlert, JudgedBy};
use crate::http::list::BoundedList;

/// Maximum number of alerts in one body. 4 MiB have room for about 10,000 real ones.
pub(crate) const MAX_ALERTS: usize = 20_000;
// The OpenAPI document and the error message repeat the number literally.
const _: () = assert!(MAX_ALERTS == 20_000);
/// The version of the webhook's body that is read: there is no other since Alertmanager 0.4.
const VERSION: &str = "4";
/// Maximum length of a version in an error message.
const QUOTED: usize = 20;

/// The alerts of a body, not read yet: each may be bad without making the others so.
pub(crate) struct Alerts<'a> {
    alerts: Vec<&'a RawValue>,
    judged_by: JudgedBy,
    /// Alerts that the webhook's sender has left out, by its setting `max_alerts`.
    pub(crate) truncated: u64,
}

/// Why a body is none that brings alerts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAlerts {
    /// It is not JSON, or not of the form that it must have.
    #[error("the body is not a list of alerts: {0}")]
    List(serde_json::Error),
    /// It is not JSON, or not of the form that it must have.
    #[error("the body is not that of Alertmanager's webhook: {0}")]
    Webhook(serde_json::Error),
    /// There are more alerts than a body may have.
    #[error("the body has more than 20000 alerts")]
    TooMany,
    /// Its version is another one.
    #[error("the webhook's version is `{0}`, and only `4` is known")]
    Version(String),
}

/// The fields of the webhook's body that count. What is said of the group is not needed: each alert has all
/// of its labels, and a state of its own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook<'a> {
    version: String,
    #[serde(borrow)]
    alerts: BoundedList<'a, MAX_ALERTS>,
    #[serde(default)]
    truncated_alerts: u64,
}

impl<'a> Alerts<'a> {
    /// The body of `POST /api/v2/alerts`: a list.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn of_list(body: &'a [u8]) -> Result<Self, NoAlerts> {
        let alerts = serde_json::from_slice(body).map_err(NoAlerts::List)?;
        Self::of(alerts, JudgedBy::End, 0)
    }

    /// The body of Alertmanager's webhook, version 4.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub(crate) fn of_webhook(body: &'a [u8]) -> Result<Self, NoAlerts> {
        let Webhook { version, alerts, truncated_alerts: truncated } =
            serde_json::from_slice(body).map_err(NoAlerts::Webhook)?;
        if version != VERSION {
            return Err(NoAlerts::Version(shorten(&version, QUOTED).into_owned()));
        }
        Self::of(alerts, JudgedBy::Status, truncated)
    }

    fn of(
        BoundedList(alerts): BoundedList<'a, MAX_ALERTS>,
        judged_by: JudgedBy,
        truncated: u64,
    ) -> Result<Self, NoAlerts> {
        if alerts.len() > MAX_ALERTS {
            return Err(NoAlerts::TooMany);
        }
        Ok(Self { alerts, judged_by, truncated })
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.alerts.len()
    }

    /// Reads each alert; `now` is the present.
    pub(crate) fn read(&self, now: Timestamp) -> impl Iterator<Item = Result<Alert, BadAlert>> {
        self.alerts.iter().map(move |alert| Alert::read(alert.get(), self.judged_by, now))
    }
}

#[cfg(test)]
mod tests;
