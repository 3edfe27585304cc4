//! Resolves what a client sent to the message for the worker.

use serde_json::json;
use sha2::{Digest, Sha256};
use shared::{
    component::{Component, NoComponent},
    database,
    message::{Idempotency, UpdateMessage},
    metrics::{GATEWAY, Refused},
    timestamp::Timestamp,
    update_id::UpdateId,
};
use tokio::time::{Instant, timeout_at};

use super::{Intake, StatusUpdate};
use crate::{http::error::ApiError, store::catalogue};

/// Why an update has no message.
#[derive(Debug)]
pub(crate) enum Unresolved {
    /// There is no such component.
    NotFound,
    /// There are several: the first few of them.
    Ambiguous(String),
    /// The database's encoding, which has this name, lacks a character of the text.
    Text(String),
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
            Unresolved::Text(encoding) => {
                let problem = format!(
                    "Has a character that the database's encoding, {encoding}, does not have."
                );
                Self::unprocessable("json", json!({ "text": [problem] }))
            }
            Unresolved::Refused(error) => error,
        }
    }
}

impl Intake<'_> {
    /// The message for the worker: here an update gets its id and its time of arrival, both by the
    /// database's clock.
    pub(super) async fn message(
        &self,
        update: StatusUpdate,
        deadline: Instant,
    ) -> Result<UpdateMessage, Unresolved> {
        let component = self.find_component(&update, deadline).await?;
        self.check_text(&update.text, deadline).await?;
        let now = self.now()?;
        let StatusUpdate { impact, text, idempotency_key, .. } = update;
        let idempotency = idempotency_key.map(|key| {
            let meaning = json!([component.id, impact, text]).to_string();
            let digest = Sha256::digest(meaning.as_bytes());
            let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            Idempotency { key, fingerprint }
        });
        let id = UpdateId::at(now);
        Ok(UpdateMessage { id, component, impact, text, received_at: now, idempotency })
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
        update: &StatusUpdate,
        deadline: Instant,
    ) -> Result<Component, Unresolved> {
        for tried_again in [false, true] {
            let catalogue = self.catalogue.get().ok_or_else(|| {
                GATEWAY.refused.of(Refused::Catalogue).inc();
                ApiError::unavailable(
                    "The catalogue was not read yet; nothing was queued, try again",
                )
            })?;
            match catalogue.find(&update.name, &update.attributes) {
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
        Err(Unresolved::NotFound)
    }

    /// Refuses a text that the database can't store. If the database is unavailable, the update is
    /// accepted; it is parked if it turns out that its text can't be stored.
    async fn check_text(&self, text: &str, deadline: Instant) -> Result<(), Unresolved> {
        let catalogue = self.catalogue.get();
        let encoding = catalogue.as_ref().and_then(|c| c.narrow_encoding.as_ref());
        let Some(encoding) = encoding.filter(|_| !text.is_ascii()) else { return Ok(()) };
        match timeout_at(deadline, catalogue::hold(self.database, text)).await {
            Ok(Err(error)) if database::lacks_characters(&error) => {
                Err(Unresolved::Text(encoding.clone()))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
