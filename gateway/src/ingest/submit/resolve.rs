//! Resolves what a client sent to the message for the worker.

use std::fmt::Display;

use serde_json::json;
use sha2::{Digest, Sha256};
use shared::{
    domain::{
        component::{Component, NoComponent},
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    telemetry::metrics::{GATEWAY, Refused},
    wire::message::{self, Idempotency, Report, UpdateMessage},
};
use tokio::time::{Instant, timeout_at};

use super::{
    ComponentRef, Intake, StatusUpdate,
    terms::{Checked, Terms},
};
use crate::http::error::ApiError;

/// Why an update has no message.
#[derive(Debug)]
pub(crate) enum Unresolved {
    /// There is no such component.
    NotFound,
    /// There are several: the first few of them.
    Ambiguous(String),
    /// The database's encoding lacks a character of a text, or may lack one.
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
    /// database's clock. `wire` is the version of messages that is recorded, if it is known and matters.
    pub(super) async fn message(
        &self,
        update: StatusUpdate,
        terms: &Terms<'_>,
        wire: Option<u16>,
        deadline: Instant,
    ) -> Result<UpdateMessage, Unresolved> {
        let older = wire.filter(|wire| *wire < message::REPORTS);
        if let Some(wire) = older.filter(|_| update.needs_report()) {
            return Err(needs_reports(wire).into());
        }
        let component = self.find_component(&update.component, deadline).await?;
        self.check_text("text", &update.text, terms).await?;
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
            None => Some(self.with_source(report, terms).await?),
        };
        let (id, received_at) = (UpdateId::at(now), now);
        Ok(UpdateMessage { id, component, condition, text, received_at, idempotency, report })
    }

    /// A report with its source: the given one, or else the subject of the token.
    async fn with_source(&self, report: Report, terms: &Terms<'_>) -> Result<Report, Unresolved> {
        let source =
            if report.source.is_empty() { terms.subject.to_owned() } else { report.source };
        self.check_text("source", &source, terms).await?;
        self.check_text("key", &report.key, terms).await?;
        Ok(Report { source, ..report })
    }

    /// Checks that the subject can be the source of updates.
    ///
    /// # Errors
    /// 422 when the database's encoding lacks a character of it.
    pub(crate) async fn check_subject(&self, terms: &Terms<'_>) -> Result<(), ApiError> {
        Ok(self.check_text("source", terms.subject, terms).await?)
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

    /// Refuses a text that the database can't store.
    async fn check_text(
        &self,
        field: &'static str,
        text: &str,
        terms: &Terms<'_>,
    ) -> Result<(), Unresolved> {
        let catalogue = self.catalogue.get();
        let encoding = catalogue.as_ref().and_then(|c| c.narrow_encoding.as_ref());
        let Some(encoding) = encoding.filter(|_| !text.is_ascii()) else { return Ok(()) };
        let is_refused = match terms.check(self.database, text).await {
            Checked::Storable => false,
            Checked::Lacking => true,
            Checked::Unknown => terms.refuses_unchecked && field == "text",
        };
        if is_refused {
            return Err(Unresolved::Text { field, encoding: encoding.clone() });
        }
        Ok(())
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
