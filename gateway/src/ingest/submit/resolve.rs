//! Resolves what a client sent to the message for the worker.

use std::fmt::Display;

use serde_json::json;
use sha2::{Digest, Sha256};
use shared::{
    component::{Component, NoComponent},
    database,
    message::{self, Idempotency, Report, UpdateMessage},
    metrics::{GATEWAY, Refused},
    timestamp::Timestamp,
    update_id::UpdateId,
};
use tokio::time::{Instant, timeout_at};

use super::{ComponentRef, Intake, StatusUpdate};
use crate::{http::error::ApiError, store::catalogue};

/// Why an update has no message.
#[derive(Debug)]
pub(crate) enum Unresolved {
    /// There is no such component.
    NotFound,
    /// There are several: the first few of them.
    Ambiguous(String),
    /// The database's encoding lacks a character of a text.
    Text {
        /// The field of a status update that has the text.
        field: &'static str,
        /// The name of the encoding.
        encoding: String,
    },
    /// It was refused before, or can't be resolved now.
    Refused(ApiError),
}

impl From<ApiError> for Unresolved {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<Unresolved> for ApiError {
    fn from(reason: Unresolved) -> Self {
        match reason {
            Unresolved::NotFound => Self::bad_request("Component not found"),
            Unresolved::Ambiguous(candidates) => Self::bad_request(format!(
                "Several components have this name and these attributes; add attributes to name one \
                of: {candidates}"
            )),
            Unresolved::Text { field, encoding } => {
                let problem = format!(
                    "Has a character that the database's encoding, {encoding}, does not have."
                );
                Self::unprocessable("json", json!({ field: [problem] }))
            }
            Unresolved::Refused(error) => error,
        }
    }
}

/// The error for an id that no component has.
pub(crate) fn unknown_id(id: impl Display) -> ApiError {
    ApiError::bad_request(format!("component does not exist, component_id: {id}"))
}

impl Intake<'_> {
    /// The message for the worker: here an update gets its id and its time of arrival, both by the
    /// database's clock. `wire` is the version of messages that is recorded, if it is known.
    pub(super) async fn message(
        &self,
        update: StatusUpdate,
        subject: &str,
        wire: Option<u16>,
        deadline: Instant,
    ) -> Result<UpdateMessage, Unresolved> {
        let older = wire.filter(|wire| *wire < message::REPORTS);
        if let Some(wire) = older.filter(|_| update.needs_report()) {
            return Err(needs_reports(wire).into());
        }
        let component = self.find_component(&update.component, deadline).await?;
        self.check_text("text", &update.text, deadline).await?;
        let now = self.now()?;
        let StatusUpdate { condition, text, idempotency_key, report, .. } = update;
        let idempotency = idempotency_key.map(|key| {
            // As it was before there were reports, for an update that says nothing of its own.
            let meaning = if report == Report::default() {
                json!([component.id, condition, text])
            } else {
                json!([component.id, condition, text, report])
            };
            let digest = Sha256::digest(meaning.to_string().as_bytes());
            let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            Idempotency { key, fingerprint }
        });
        let report = match older {
            Some(_) => None,
            None => Some(self.with_source(report, subject, deadline).await?),
        };
        let (id, received_at) = (UpdateId::at(now), now);
        Ok(UpdateMessage { id, component, condition, text, received_at, idempotency, report })
    }

    /// A report with its source: the given one, or else the subject of the token.
    async fn with_source(
        &self,
        report: Report,
        subject: &str,
        deadline: Instant,
    ) -> Result<Report, Unresolved> {
        let source = if report.source.is_empty() { subject.to_owned() } else { report.source };
        self.check_text("source", &source, deadline).await?;
        self.check_text("key", &report.key, deadline).await?;
        Ok(Report { source, ..report })
    }

    /// The present, by the database's clock.
    ///
    /// # Errors
    /// 503 until it was read for the first time.
    pub(crate) fn now(&self) -> Result<Timestamp, ApiError> {
        self.clock.now().ok_or_else(|| {
            GATEWAY.refused.of(Refused::Catalogue).inc();
            ApiError::unavailable(
                "PostgreSQL's clock was not read yet; nothing was queued, try again",
            )
        })
    }

    async fn find_component(
        &self,
        wanted: &ComponentRef,
        deadline: Instant,
    ) -> Result<Component, Unresolved> {
        for tried_again in [false, true] {
            let catalogue = self.catalogue.get().ok_or_else(|| {
                GATEWAY.refused.of(Refused::Catalogue).inc();
                ApiError::unavailable(
                    "The catalogue was not read yet; nothing was queued, try again",
                )
            })?;
            let found = match wanted {
                ComponentRef::Named { name, attributes } => catalogue.find(name, attributes),
                ComponentRef::Id(id) => catalogue.with_id(*id).ok_or(NoComponent::NotFound),
            };
            match found {
                Ok(component) => return Ok(component.clone()),
                Err(NoComponent::NotFound) if !tried_again => {
                    let asked = timeout_at(deadline, self.catalogue.refresh_for_miss()).await;
                    if !asked.unwrap_or(false) {
                        GATEWAY.refused.of(Refused::Catalogue).inc();
                        let error = ApiError::unavailable(
                            "The component is unknown, and the database can't be asked whether it \
                            is new; nothing was queued, try again",
                        );
                        return Err(error.into());
                    }
                }
                Err(NoComponent::NotFound) => {}
                Err(NoComponent::Ambiguous(candidates)) => {
                    let candidates = candidates.list(Component::short_label);
                    return Err(Unresolved::Ambiguous(candidates));
                }
            }
        }
        Err(match wanted {
            ComponentRef::Named { .. } => Unresolved::NotFound,
            ComponentRef::Id(id) => unknown_id(id).into(),
        })
    }

    /// Refuses a text that the database can't store. If the database is unavailable, the update is
    /// accepted; it is parked if it turns out that its text can't be stored.
    async fn check_text(
        &self,
        field: &'static str,
        text: &str,
        deadline: Instant,
    ) -> Result<(), Unresolved> {
        let catalogue = self.catalogue.get();
        let encoding = catalogue.as_ref().and_then(|c| c.narrow_encoding.as_ref());
        let Some(encoding) = encoding.filter(|_| !text.is_ascii()) else { return Ok(()) };
        match timeout_at(deadline, catalogue::hold(self.database, text)).await {
            Ok(Err(error)) if database::lacks_characters(&error) => {
                Err(Unresolved::Text { field, encoding: encoding.clone() })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// 503: messages of the recorded version have no reports.
fn needs_reports(wire: u16) -> ApiError {
    GATEWAY.refused.of(Refused::Wire).inc();
    ApiError::unavailable(format!(
        "`ok`, `source` and alerts need version {needed} of messages, and the database records version \
        {wire}: once all workers and all gateways are of this release, run `worker topology change --wire \
        {needed}`; nothing was queued",
        needed = message::REPORTS
    ))
}
