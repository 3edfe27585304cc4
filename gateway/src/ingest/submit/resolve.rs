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
use crate::{http::error::ApiError, store::catalogue::Catalogue};

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
    /// The message of each update for the worker, or why there is none. The database is asked only for what
    /// the gateway does not know, once for all updates and until `by`. `wire` is the version of messages that is
    /// recorded, if it is known and matters.
    pub(super) async fn messages(
        &self,
        updates: Vec<Result<StatusUpdate, ApiError>>,
        terms: &Terms<'_>,
        wire: Option<u16>,
        by: Instant,
    ) -> Vec<Result<UpdateMessage, Unresolved>> {
        let older = wire.filter(|wire| *wire < message::REPORTS);
        let expressible = |update: Result<StatusUpdate, ApiError>| match (older, update?) {
            (Some(wire), update) if update.needs_report() => Err(needs_reports(wire).into()),
            (_, update) => Ok(update),
        };
        let updates: Vec<Result<StatusUpdate, Unresolved>> =
            updates.into_iter().map(expressible).collect();
        let has_reports = older.is_none();
        let Some(mut catalogue) = self.catalogue.get() else {
            let refused = |update: Result<_, _>| update.and_then(|_| Err(unread_catalogue()));
            return updates.into_iter().map(refused).collect();
        };
        let mut components = find_all(updates.iter().flatten(), &catalogue);
        let mut is_current = true;
        if components.iter().any(Option::is_none) {
            let asked = timeout_at(by, self.catalogue.refresh_for_miss()).await;
            is_current = asked.unwrap_or(false);
            catalogue = self.catalogue.get().unwrap_or(catalogue);
            components = find_all(updates.iter().flatten(), &catalogue);
        }
        let encoding = catalogue.narrow_encoding.as_deref();
        if encoding.is_some() {
            let texts =
                updates.iter().flatten().flat_map(|update| texts(update, terms, has_reports));
            terms.check(self.database, texts.map(|(_, text)| text)).await;
        }
        let mut components = components.into_iter();
        let message = |update: Result<StatusUpdate, Unresolved>| {
            let update = update?;
            let component = match components.next().flatten() {
                Some(found) => found?,
                None if is_current => return Err(not_found(&update.component)),
                None => return Err(unasked_catalogue()),
            };
            if let Some(encoding) = encoding {
                check_texts(&update, terms, has_reports, encoding)?;
            }
            self.message(update, component, terms, has_reports)
        };
        updates.into_iter().map(message).collect()
    }

    /// The message of an update: here it gets its id and its time of arrival, both by the database's clock.
    fn message(
        &self,
        update: StatusUpdate,
        component: Component,
        terms: &Terms<'_>,
        has_report: bool,
    ) -> Result<UpdateMessage, Unresolved> {
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
        let report = has_report.then(|| {
            let source = source(&report, terms).to_owned();
            Report { source, ..report }
        });
        let (id, received_at) = (UpdateId::at(now), now);
        Ok(UpdateMessage { id, component, condition, text, received_at, idempotency, report })
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

    /// Checks that the subject can be the source of updates.
    ///
    /// # Errors
    /// 422 when the database's encoding lacks a character of it.
    pub(crate) async fn check_subject(&self, terms: &Terms<'_>) -> Result<(), ApiError> {
        let catalogue = self.catalogue.get();
        let encoding =
            catalogue.as_ref().and_then(|catalogue| catalogue.narrow_encoding.as_deref());
        let Some(encoding) = encoding else { return Ok(()) };
        terms.check(self.database, [terms.subject]).await;
        Ok(check_text("source", terms.subject, terms, encoding)?)
    }
}

/// The component of each update, or why it names several; none where the catalogue has no such component.
fn find_all<'a>(
    updates: impl Iterator<Item = &'a StatusUpdate>,
    catalogue: &Catalogue,
) -> Vec<Option<Result<Component, Unresolved>>> {
    let find = |update: &StatusUpdate| match update.component.find(catalogue) {
        Ok(component) => Some(Ok(component.clone())),
        Err(NoComponent::NotFound) => None,
        Err(NoComponent::Ambiguous(candidates)) => {
            Some(Err(Unresolved::Ambiguous(candidates.list(Component::short_label))))
        }
    };
    updates.map(find).collect()
}

/// The source of a report: the given one, or else the subject of the token.
fn source<'a>(report: &'a Report, terms: &'a Terms<'_>) -> &'a str {
    if report.source.is_empty() { terms.subject } else { &report.source }
}

/// What the database has to store of an update, each with its field.
fn texts<'a>(
    update: &'a StatusUpdate,
    terms: &'a Terms<'_>,
    has_reports: bool,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    let report = &update.report;
    let of_report = [("source", source(report, terms)), ("key", report.key.as_str())];
    let of_report = of_report.into_iter().filter(move |_| has_reports);
    std::iter::once(("text", update.text.as_str())).chain(of_report)
}

/// Refuses an update with a text that the database can't store.
fn check_texts(
    update: &StatusUpdate,
    terms: &Terms<'_>,
    has_reports: bool,
    encoding: &str,
) -> Result<(), Unresolved> {
    texts(update, terms, has_reports)
        .try_for_each(|(field, text)| check_text(field, text, terms, encoding))
}

/// `terms` has what the database said of the text.
fn check_text(
    field: &'static str,
    text: &str,
    terms: &Terms<'_>,
    encoding: &str,
) -> Result<(), Unresolved> {
    let is_refused = match terms.checked(text) {
        Checked::Storable => false,
        Checked::Lacking => true,
        Checked::Unknown => terms.refuses_unchecked && field == "text",
    };
    if is_refused {
        return Err(Unresolved::Text { field, encoding: encoding.to_owned() });
    }
    Ok(())
}

fn not_found(component: &ComponentRef) -> Unresolved {
    match component {
        ComponentRef::Named { .. } => Unresolved::NotFound,
        ComponentRef::Id(id) => unknown_id(id).into(),
    }
}

/// 503: the catalogue was not read yet.
fn unread_catalogue() -> Unresolved {
    GATEWAY.refused.of(Refused::Catalogue).inc();
    ApiError::unavailable("The catalogue was not read yet; nothing was queued, try again").into()
}

/// 503: the component may be newer than the gateway's copy of the catalogue.
fn unasked_catalogue() -> Unresolved {
    GATEWAY.refused.of(Refused::Catalogue).inc();
    ApiError::unavailable(
        "The component is unknown, and the database can't be asked whether it is new; nothing was \
        queued, try again",
    )
    .into()
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
