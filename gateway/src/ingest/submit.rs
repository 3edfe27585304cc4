//! The only path of updates into the queues: each is resolved to its component and published, and its
//! outcome is awaited, all by one deadline. A request has one or many updates, and each gets the result
//! that it would get alone.

mod resolve;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use shared::{
    component::{Attribute, Component},
    impact::Impact,
    incident::IncidentSnapshot,
    message::{UpdateMessage, Verdict},
    metrics::{AnsweredLabel, GATEWAY, Refused, ResultLabel},
    outcome::Reason,
    throttled,
    traces::{self, Traces, Waiting},
    update_id::UpdateId,
};
use sqlx::PgPool;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::{
    pending::{PendingRequest, PendingRequests, Registration, UpdateOutcome},
    publisher::{PublishError, Publisher},
};
use crate::{
    auth::rate_limit::RateLimit,
    http::{error::ApiError, request::Preference},
    stop::Stop,
    store::{catalogue::CatalogueCopy, clock::DatabaseClock, incidents::Shown},
};

/// Time for queries needed by one of several updates: an unknown component, or a text that some encodings
/// lack. Less than half of the default wait.
const RESOLVE_LIMIT: Duration = Duration::from_millis(400);

/// An update as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusUpdate {
    pub(crate) name: String,
    /// Never `Maintenance`.
    pub(crate) impact: Impact,
    /// The title of an incident that it opens.
    pub(crate) text: String,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) idempotency_key: Option<String>,
}

/// The result of an update at the end of its request.
pub(crate) enum Submitted {
    /// It is invalid, or can't be accepted now. Nothing was queued.
    Refused(ApiError),
    /// RabbitMQ did not accept it, or that is unknown.
    Unpublished { id: UpdateId, error: PublishError },
    /// It is safe. Its receipt will have the outcome.
    Pending(UpdateId),
    /// It can't be applied, and is parked.
    Parked(UpdateId),
    /// Its idempotency key was used for another update.
    Rejected(UpdateId),
    /// It was decided, now or when its idempotency key was used first.
    Decided(Decided),
}

/// An update's outcome.
pub(crate) struct Decided {
    pub(crate) id: UpdateId,
    pub(crate) component: Component,
    pub(crate) reason: Reason,
    /// The incident that holds or covers the component, as it was read after the update.
    pub(crate) incident: Arc<Shown>,
    /// As it stood right after the update; none when the update was decided before.
    pub(crate) snapshot: Option<IncidentSnapshot>,
}

/// Accepts updates.
#[derive(Clone, Copy)]
pub(crate) struct Intake<'a> {
    pub(crate) rate_limit: Option<&'a RateLimit>,
    /// One permit for each update between arrival and answer.
    pub(crate) places: &'a Semaphore,
    pub(crate) catalogue: &'a CatalogueCopy,
    pub(crate) clock: &'a DatabaseClock,
    /// For texts that some encodings lack.
    pub(crate) database: &'a PgPool,
    pub(crate) pending: &'a PendingRequests,
    pub(crate) publisher: &'a Publisher,
    pub(crate) stop: &'a Stop,
}

impl<'a> Intake<'a> {
    /// Counts one update of this token.
    ///
    /// # Errors
    /// 429 if the token has reached its rate limit.
    pub(crate) fn count(&self, token: &str, now: Instant) -> Result<(), ApiError> {
        if self.rate_limit.is_none_or(|limit| limit.take(token, now)) {
            return Ok(());
        }
        Err(ApiError::too_many(
            "This token sends more updates than it may; nothing was queued, try again",
        ))
    }

    /// A place for one update among those in flight.
    ///
    /// # Errors
    /// 503 when none is free.
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'a>, ApiError> {
        self.places.try_acquire().map_err(|_| {
            GATEWAY.refused.of(Refused::InFlight).inc();
            ApiError::unavailable("Too many updates are in flight; nothing was queued, try again")
        })
    }

    /// Takes one update, and waits for its outcome.
    pub(crate) async fn submit_one(
        &self,
        update: StatusUpdate,
        preference: &Preference,
        deadline: Instant,
    ) -> Submitted {
        let submitted = self.submit(vec![Ok(update)], preference, deadline).await.pop();
        #[expect(clippy::expect_used, reason = "each update has its result")]
        submitted.expect("the result of the one update")
    }

    /// Takes updates, in order, and waits for their outcomes. Those of one component take effect in their
    /// order. Returns the result of each, in the same order; an error among `updates` is returned as it
    /// is.
    pub(crate) async fn submit(
        &self,
        updates: Vec<Result<StatusUpdate, ApiError>>,
        preference: &Preference,
        deadline: Instant,
    ) -> Vec<Submitted> {
        let (mut messages, mut refused) = (Vec::new(), Vec::new());
        for resolved in self.resolve(updates, deadline).await {
            refused.push(match resolved {
                Ok(message) => {
                    messages.push((message, false));
                    None
                }
                Err(error) => Some(error),
            });
        }
        let mut taken = self.deliver(messages, preference, deadline).await.into_iter();
        let of_each = |refused: Option<ApiError>| match refused {
            Some(error) => Some(Submitted::Refused(error)),
            None => taken.next(),
        };
        refused.into_iter().filter_map(of_each).collect()
    }

    /// The message of each update, or why there is none.
    async fn resolve(
        &self,
        updates: Vec<Result<StatusUpdate, ApiError>>,
        deadline: Instant,
    ) -> Vec<Result<UpdateMessage, ApiError>> {
        let count = updates.len();
        // Updates of one component keep their order, so all wait until the last one is resolved. The
        // limit leaves time to publish them.
        let by = if count > 1 { deadline.min(Instant::now() + RESOLVE_LIMIT) } else { deadline };
        // Concurrently: updates with unknown components share one reading of the catalogue.
        let message = async |update| match update {
            Ok(update) => self.message(update, by).await,
            Err(error) => Err(error),
        };
        let resolving = join_all(updates.into_iter().map(message));
        tokio::select! {
            biased;
            resolved = resolving => resolved,
            () = self.stop.ends() => {
                let message = "The gateway is stopping; nothing was queued, try again";
                (0..count).map(|_| Err(ApiError::unavailable(message))).collect()
            }
        }
    }

    /// Publishes messages, waits for their outcomes, and returns the result of each.
    async fn deliver(
        &self,
        mut messages: Vec<(UpdateMessage, bool)>,
        preference: &Preference,
        deadline: Instant,
    ) -> Vec<Submitted> {
        let mut registrations = Vec::with_capacity(messages.len());
        for (message, wants_reply) in &mut messages {
            let registration = self.register(message, preference);
            *wants_reply = !matches!(registration, Registration::None);
            registrations.push(registration);
        }
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
            None => Submitted::Pending(message.id),
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

fn decided(message: UpdateMessage, outcome: UpdateOutcome) -> Submitted {
    let UpdateOutcome { verdict, incident } = outcome;
    let (id, reason, snapshot) = match verdict {
        Verdict::Decided { reason, incident } => (message.id, reason, Some(incident)),
        Verdict::Repeated { original, reason, .. } => (original, reason, None),
        Verdict::Parked => return Submitted::Parked(message.id),
        Verdict::Rejected => return Submitted::Rejected(message.id),
    };
    // Without its incident it can't be shown.
    let Some(incident) = incident else { return Submitted::Pending(id) };
    let component = message.component;
    Submitted::Decided(Decided { id, component, reason, incident, snapshot })
}

/// The label of the answer.
fn answered_label(outcome: &UpdateOutcome) -> AnsweredLabel {
    AnsweredLabel::Result(match (&outcome.verdict, &outcome.incident) {
        (Verdict::Parked, _) => ResultLabel::Parked,
        (Verdict::Rejected, _) => ResultLabel::Rejected,
        // Without its incident it can't be shown.
        (_, None) => return AnsweredLabel::Pending,
        (Verdict::Decided { reason, .. }, Some(_)) => ResultLabel::Decided(reason.outcome()),
        (Verdict::Repeated { .. }, Some(_)) => ResultLabel::Repeated,
    })
}

fn unpublished(id: UpdateId, error: PublishError) -> Submitted {
    let refused = match error {
        PublishError::Absent => Refused::Absent,
        PublishError::Blocked => Refused::Blocked,
        PublishError::Late => Refused::Late,
        PublishError::Full => Refused::Full,
        PublishError::Unavailable => Refused::Unavailable,
        PublishError::Changing => Refused::Changing,
        PublishError::NoQueue => Refused::NoQueue,
        PublishError::Unconfirmed => Refused::Unconfirmed,
    };
    GATEWAY.refused.of(refused).inc();
    let trace_id = traces::current_id().map(tracing::field::display);
    tracing::debug!(update = %id, trace_id, reason = %error, "update not taken");
    Submitted::Unpublished { id, error }
}
