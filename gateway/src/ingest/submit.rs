//! The only path of updates into the queues: each is resolved to its component and published, and its
//! outcome is awaited, all by one deadline. A request has one or many updates, and each gets the result
//! that it would get alone.

mod limits;
mod resolve;
mod status_update;
mod terms;

pub(crate) use self::{
    resolve::{Unresolved, unknown_id},
    status_update::{ComponentRef, StatusUpdate},
    terms::Terms,
};

use std::sync::Arc;

use axum::http::StatusCode;
use shared::{
    domain::{
        component::Component,
        condition::Condition,
        incident::IncidentSnapshot,
        outcome::{Reason, Rejection},
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    telemetry::{
        metrics::{AnsweredLabel, GATEWAY, Refused},
        traces::{self, Traces, Waiting},
    },
    throttled,
    wire::message::{UpdateMessage, Verdict},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    pending::{ArrivedVerdict, PendingRequest, PendingRequests, Registration},
    publisher::{PublishError, Publisher},
};
use crate::{
    auth::rate_limit::RateLimit,
    http::{error::ApiError, prefer::Preference, receipt},
    shutdown_stages::Stop,
    store::{catalogue::CatalogueCopy, clock::DatabaseClock, pools::Pool},
    view::{incident_json::ShownIncident, update_state::UpdateState},
};

/// What became of an update by the end of its request, as far as its answer goes: the same for every endpoint.
///
/// Unlike a [`Verdict`] it also says what came of an update that no worker has decided yet, or that was never
/// queued.
pub(crate) enum Submitted {
    /// It was decided, now or when its idempotency key was used first.
    Decided(Decided),
    /// It is safe, and its receipt has the rest: it is pending or parked.
    Accepted(UpdateId, UpdateState),
    /// It changed nothing, or that is unknown, which the error says; with its id, if it was assigned one.
    Refused(Option<UpdateId>, ApiError),
}

/// The decision on an update, and its incident.
pub(crate) struct Decided {
    /// The update; the first one with its idempotency key, if that was used before.
    pub(crate) id: UpdateId,
    pub(crate) component: Component,
    pub(crate) condition: Condition,
    pub(crate) reason: Reason,
    /// The incident that holds or covers the component, or that it left, as it was read after the update.
    pub(crate) incident: Option<Arc<ShownIncident>>,
    /// As it stood right after the update; none when the update was decided before.
    pub(crate) snapshot: Option<IncidentSnapshot>,
    pub(crate) received_at: Timestamp,
    /// When, if it was decided now, has no incident, and the worker says when.
    pub(crate) decided_at: Option<Timestamp>,
}

/// Accepts updates: what that needs of the gateway.
#[derive(Clone, Copy)]
pub(crate) struct Intake<'a> {
    pub(crate) rate_limit: Option<&'a RateLimit>,
    /// One permit for each update between arrival and answer.
    pub(crate) places: &'a Semaphore,
    pub(crate) catalogue: &'a CatalogueCopy,
    pub(crate) clock: &'a DatabaseClock,
    /// To check texts that the database's encoding may lack.
    pub(crate) database: &'a Pool,
    pub(crate) pending: &'a PendingRequests,
    pub(crate) publisher: &'a Publisher,
    pub(crate) stop: &'a Stop,
}

impl<'a> Intake<'a> {
    /// Takes one update, and waits for its outcome. As [`Self::submit`].
    pub(crate) async fn submit_one(
        &self,
        update: StatusUpdate,
        subject: &str,
        preference: &Preference,
        deadline: Instant,
    ) -> Submitted {
        let submitted = self.submit(vec![Ok(update)], subject, preference, deadline).await.pop();
        #[expect(clippy::expect_used, reason = "each update has its result")]
        submitted.expect("the result of the one update")
    }

    /// Takes updates, in order, and waits for their outcomes. Those of one component take effect in their
    /// order. Returns the result of each, in the same order; an error among `updates` is returned as it
    /// is. `subject` is that of the token, or empty.
    pub(crate) async fn submit(
        &self,
        updates: Vec<Result<StatusUpdate, ApiError>>,
        subject: &str,
        preference: &Preference,
        deadline: Instant,
    ) -> Vec<Submitted> {
        let (mut messages, mut refused) = (Vec::new(), Vec::new());
        for resolved in self.resolve(updates, &Terms::of_updates(subject, deadline)).await {
            refused.push(match resolved {
                Ok(message) => {
                    messages.push(message);
                    None
                }
                Err(reason) => Some(reason),
            });
        }
        let mut taken = self.deliver(messages, preference, deadline).await.into_iter();
        let of_each = |refused: Option<Unresolved>| match refused {
            Some(reason) => Some(Submitted::Refused(None, reason.into())),
            None => taken.next(),
        };
        refused.into_iter().filter_map(of_each).collect()
    }

    /// The same, but all or none of them are taken.
    ///
    /// # Errors
    /// Why the first one of those is refused that can't be taken; then nothing was queued.
    pub(crate) async fn submit_all(
        &self,
        updates: Vec<StatusUpdate>,
        subject: &str,
        preference: &Preference,
        deadline: Instant,
    ) -> Result<Vec<Submitted>, ApiError> {
        let updates = updates.into_iter().map(Ok).collect();
        let resolved = self.resolve(updates, &Terms::of_updates(subject, deadline)).await;
        let messages = resolved.into_iter().collect::<Result<_, _>>()?;
        Ok(self.deliver(messages, preference, deadline).await)
    }

    /// The message of each update, or why there is none.
    pub(crate) async fn resolve(
        &self,
        updates: Vec<Result<StatusUpdate, ApiError>>,
        terms: &Terms<'_>,
    ) -> Vec<Result<UpdateMessage, Unresolved>> {
        let (count, deadline) = (updates.len(), terms.deadline);
        // Once for all: the publisher takes none of them if it is lowered meanwhile.
        let wire = if terms.is_dry_run { None } else { self.publisher.wire() };
        // Updates of one component keep their order, so all wait until the last one is resolved. The
        // limit leaves time to publish them.
        let by = if count > 1 { terms::lookup_end(deadline) } else { deadline };
        tokio::select! {
            biased;
            resolved = self.messages(updates, terms, wire, by) => resolved,
            () = self.stop.ends() => {
                (0..count).map(|_| Err(ApiError::stopping().into())).collect()
            }
        }
    }

    /// Publishes messages, waits for their outcomes, and returns the result of each.
    pub(crate) async fn deliver(
        &self,
        messages: Vec<UpdateMessage>,
        preference: &Preference,
        deadline: Instant,
    ) -> Vec<Submitted> {
        let mut registrations = Vec::with_capacity(messages.len());
        let with_registration = |message: UpdateMessage| {
            let registration = self.register(&message, preference);
            let wants_reply = !matches!(registration, Registration::None);
            registrations.push(registration);
            (message, wants_reply)
        };
        let messages: Vec<_> = messages.into_iter().map(with_registration).collect();
        let published = tokio::select! {
            biased;
            published = self.publisher.publish(&messages, deadline) => published,
            // What was sent may still be confirmed.
            () = self.stop.ends() => {
                messages.iter().map(|_| Err(PublishError::Unconfirmed)).collect()
            }
        };
        // All of them before waiting for the outcome of any: the circuit breaker measures from here on.
        let awaited: Vec<_> = registrations
            .into_iter()
            .zip(published)
            .map(|(registration, published)| {
                published.map(|()| Awaited::new(registration, preference))
            })
            .collect();
        let mut submitted = Vec::with_capacity(messages.len());
        for ((message, _), awaited) in messages.into_iter().zip(awaited) {
            submitted.push(match awaited {
                Ok(awaited) => self.outcome(message, awaited, deadline).await,
                Err(error) => unpublished(message.id, error),
            });
        }
        submitted
    }

    fn register(&self, message: &UpdateMessage, preference: &Preference) -> Registration<'a> {
        if preference.respond_async {
            return Registration::None;
        }
        let component = message.component.id;
        let partition = self.publisher.partition(component);
        self.pending.register(message.id, partition, component, preference.wait_asked)
    }

    /// The outcome of an accepted update, if it arrives in time.
    async fn outcome(
        &self,
        message: UpdateMessage,
        awaited: Awaited<'_>,
        deadline: Instant,
    ) -> Submitted {
        let outcome = match awaited.request {
            // After the deadline, or when the gateway stops, the outcome is available from the receipt.
            Some(mut request) => tokio::select! {
                biased;
                outcome = timeout_at(deadline, &mut request.outcome) => outcome.ok().and_then(Result::ok),
                () = self.stop.ends() => None,
            },
            None => None,
        };
        GATEWAY.answered.of(outcome.as_ref().map_or(AnsweredLabel::Pending, answered_label)).inc();
        match outcome {
            Some(outcome) => {
                if let Some(waiting) = awaited.waiting {
                    waiting.end(&outcome.verdict);
                }
                decided(message, outcome)
            }
            None => Submitted::Accepted(message.id, UpdateState::Pending),
        }
    }
}

/// An update that RabbitMQ has confirmed.
struct Awaited<'a> {
    /// None when its outcome is not waited for.
    request: Option<PendingRequest<'a>>,
    waiting: Option<Waiting>,
}

impl<'a> Awaited<'a> {
    fn new(registration: Registration<'a>, preference: &Preference) -> Self {
        GATEWAY.accepted.inc();
        match registration {
            Registration::Outcome(mut request) => {
                request.accepted();
                Self { request: Some(request), waiting: traces::get().map(Traces::wait) }
            }
            Registration::Probe | Registration::None => {
                if !preference.respond_async {
                    GATEWAY.not_awaited.inc();
                    throttled!(warn, "", "no outcomes arrive: updates are answered 202 at once");
                }
                Self { request: None, waiting: None }
            }
        }
    }
}

fn decided(message: UpdateMessage, arrived: ArrivedVerdict) -> Submitted {
    let ArrivedVerdict { verdict, incident } = arrived;
    let is_unread = verdict.incident().is_some() && incident.is_none();
    let (id, reason, snapshot, decided_at) = match verdict {
        Verdict::Decided { reason, incident, decided_at } => {
            (message.id, reason, incident, decided_at)
        }
        Verdict::Repeated { original, reason, .. } => (original, reason, None, None),
        Verdict::Parked => return Submitted::Accepted(message.id, UpdateState::Parked),
        Verdict::Rejected { reason } => {
            let text = match reason {
                Rejection::KeyOfAnotherBody => {
                    "This Idempotency-Key was used for another update; nothing was changed"
                }
                Rejection::TooManyReports => {
                    "The component has 1,000 reports, which is the maximum; nothing was changed"
                }
            };
            let error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text);
            return Submitted::Refused(Some(message.id), error);
        }
    };
    // Without its incident it can't be shown.
    if is_unread {
        return Submitted::Accepted(id, UpdateState::Pending);
    }
    let UpdateMessage { component, condition, received_at, .. } = message;
    Submitted::Decided(Decided {
        id,
        component,
        condition,
        reason,
        incident,
        snapshot,
        received_at,
        decided_at,
    })
}

/// The label of the answer.
fn answered_label(arrived: &ArrivedVerdict) -> AnsweredLabel {
    let ArrivedVerdict { verdict, incident } = arrived;
    match (verdict.incident(), incident) {
        (Some(_), None) => AnsweredLabel::Pending,
        (Some(_), Some(_)) | (None, _) => AnsweredLabel::Result(verdict.into()),
    }
}

/// 503: it was not accepted, or that is unknown.
fn unpublished(id: UpdateId, error: PublishError) -> Submitted {
    let label = match error {
        PublishError::Absent => Refused::Absent,
        PublishError::Blocked => Refused::Blocked,
        PublishError::Late => Refused::Late,
        PublishError::Full => Refused::Full,
        PublishError::Unavailable => Refused::Unavailable,
        PublishError::Changing => Refused::Changing,
        PublishError::NoQueue => Refused::NoQueue,
        PublishError::Unconfirmed => Refused::Unconfirmed,
    };
    GATEWAY.refused.of(label).inc();
    let trace_id = traces::current_id().map(tracing::field::display);
    tracing::debug!(update = %id, trace_id, reason = %error, "update not taken");
    let text = match error {
        PublishError::Unconfirmed => format!(
            "{error}: the update may have been queued or not. Send it again with the same \
            Idempotency-Key, or look at {}",
            receipt::path(id)
        ),
        PublishError::Absent
        | PublishError::Blocked
        | PublishError::Late
        | PublishError::Full
        | PublishError::Unavailable
        | PublishError::Changing
        | PublishError::NoQueue => format!("{error}; nothing was queued, try again"),
    };
    Submitted::Refused(Some(id), ApiError::unavailable(text))
}
