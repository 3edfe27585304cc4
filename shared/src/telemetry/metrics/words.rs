//! The label values of metrics.

use std::fmt;

use crate::{
    domain::outcome::{InboxOutcome, Outcome},
    wire::message::Verdict,
};

/// A closed set of label values.
pub trait Words: Copy + fmt::Debug + Send + Sync + 'static {
    /// The label's name.
    const LABEL: &'static str;

    /// All of them: each has a series from the start, so that the first event is an increase.
    fn all() -> Vec<Self>;

    /// The label's value.
    fn word(self) -> &'static str;
}

macro_rules! words {
    ($(#[$doc:meta])* $kind:ident, $label:literal { $($(#[$what:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind { $($(#[$what])* $word,)* }

        impl Words for $kind {
            const LABEL: &'static str = $label;

            fn all() -> Vec<Self> {
                vec![$(Self::$word,)*]
            }

            fn word(self) -> &'static str {
                match self { $(Self::$word => $text,)* }
            }
        }
    };
}

words! {
    /// A server that a program is connected to.
    Server, "server" {
        /// PostgreSQL.
        Postgresql = "postgresql",
        /// RabbitMQ.
        Rabbitmq = "rabbitmq",
    }
}

words! {
    /// Why a valid update was answered 503.
    Refused, "reason" {
        /// The maximum number of updates is in flight.
        InFlight = "too_many_in_flight",
        /// The catalogue was not read yet, or can't be read for an unknown component.
        Catalogue = "no_catalogue",
        /// There is no connection to RabbitMQ.
        Absent = "rabbitmq_absent",
        /// RabbitMQ is short of memory or disk.
        Blocked = "rabbitmq_blocked",
        /// The client's deadline passed before it could be sent.
        Late = "no_time_left",
        /// The queue is full.
        Full = "queue_full",
        /// The queue has no leader, or RabbitMQ does not know it yet.
        Unavailable = "queue_unavailable",
        /// It needs a newer version of messages than the recorded one.
        Wire = "wire_version",
        /// The number of partitions is being changed.
        Changing = "partitions_changing",
        /// Its queue or the queue's binding is missing.
        NoQueue = "no_queue",
        /// No confirmation: it may have been queued or not.
        Unconfirmed = "unconfirmed",
        /// The token of alerts has reached its rate limit. Other updates get 429.
        RateLimit = "rate_limit",
    }
}

words! {
    /// What became of an alert that is mapped.
    AlertResult, "result" {
        /// RabbitMQ confirmed its update.
        Accepted = "accepted",
        /// The mapping passes it over.
        PassedOver = "passed_over",
    }
}

words! {
    /// Why an alert is not mapped to a component.
    UnmappedAlert, "reason" {
        /// It is malformed.
        Malformed = "malformed",
        /// No rule of the mapping matches it.
        NoRule = "no_rule",
        /// It lacks the label that names the component.
        NoName = "no_name",
        /// What names the component is longer than any component's.
        TooLong = "too_long",
        /// The catalogue does not have the component.
        NotFound = "component_not_found",
        /// Several components have this name and these attributes.
        Ambiguous = "component_ambiguous",
    }
}

words! {
    /// Why a token was refused.
    TokenRefusal, "reason" {
        /// There is no `Authorization` header.
        NoHeader = "no_header",
        /// It is not of the scheme Bearer.
        NotBearer = "not_bearer",
        /// It is no JWT of our algorithm.
        Malformed = "malformed",
        /// No key of ours signed it.
        Signature = "wrong_signature",
        /// It has expired.
        Expired = "expired",
        /// It is not valid yet.
        Early = "not_valid_yet",
        /// It does not have the claim, or an empty one.
        Claim = "no_claim",
    }
}

words! {
    /// Where a list came from.
    ListSource, "source" {
        /// The client has it already: 304.
        Client = "client",
        /// It was in memory.
        Memory = "memory",
        /// It was read from the database.
        Rendered = "rendered",
        /// It was read from the database and too large to hold.
        Streamed = "streamed",
    }
}

words! {
    /// How a transaction of a batch ended.
    Ended, "result" {
        /// It was committed.
        Committed = "committed",
        /// It was not: the batch is retried, halved or given up.
        Failed = "failed",
    }
}

/// What became of an update, as metrics count it and spans name it: a [`Verdict`] without its details. It is no set of label
/// values itself, but a part of [`AnsweredLabel`] and [`AppliedLabel`]: gateways and workers count one case
/// more each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultLabel {
    /// It was decided.
    Decided(Outcome),
    /// Another update with its idempotency key was decided before.
    Repeated,
    /// It was rejected.
    Rejected,
    /// It can't be applied because of its content.
    Parked,
}

impl From<&Verdict> for ResultLabel {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Decided { reason, .. } => Self::Decided(reason.outcome()),
            Verdict::Repeated { .. } => Self::Repeated,
            Verdict::Rejected { .. } => Self::Rejected,
            Verdict::Parked => Self::Parked,
        }
    }
}

impl ResultLabel {
    fn all() -> Vec<Self> {
        let decided = Outcome::ALL.into_iter().map(Self::Decided);
        decided.chain([Self::Repeated, Self::Rejected, Self::Parked]).collect()
    }

    /// Its word, also of the inbox's column `outcome`, in which nothing is parked.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Decided(outcome) => outcome.word(),
            Self::Repeated => InboxOutcome::REPEATED,
            Self::Rejected => InboxOutcome::REJECTED,
            Self::Parked => "parked",
        }
    }
}

/// What became of an accepted update, as its gateway counts the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredLabel {
    /// Its result.
    Result(ResultLabel),
    /// 202: its outcome was not awaited, or did not arrive in time.
    Pending,
}

impl Words for AnsweredLabel {
    const LABEL: &'static str = "answer";

    fn all() -> Vec<Self> {
        ResultLabel::all().into_iter().map(Self::Result).chain([Self::Pending]).collect()
    }

    fn word(self) -> &'static str {
        match self {
            Self::Result(result) => result.word(),
            Self::Pending => "pending",
        }
    }
}

/// What became of the update of a message, as its worker counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppliedLabel {
    /// Its result.
    Result(ResultLabel),
    /// A duplicate: its update was already applied.
    Redelivered,
}

impl Words for AppliedLabel {
    const LABEL: &'static str = "outcome";

    fn all() -> Vec<Self> {
        ResultLabel::all().into_iter().map(Self::Result).chain([Self::Redelivered]).collect()
    }

    fn word(self) -> &'static str {
        match self {
            Self::Result(result) => result.word(),
            Self::Redelivered => "redelivered",
        }
    }
}
