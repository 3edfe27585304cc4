//! Whether RabbitMQ accepts updates: while it blocks publishers, is unreachable or changes its topology, they
//! are answered 503 at once.

/// The state of the broker for publishers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerState {
    Ready,
    /// A queue is missing; the others accept updates.
    Incomplete,
    Blocked,
    /// Nothing is confirmed; updates are taken, in case that this changes within their deadlines.
    Silent,
    /// The topology is being changed.
    Changing,
    Absent,
}

/// Why an update was not accepted, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    /// There is no connection: it was not sent.
    #[error("RabbitMQ can't be reached")]
    Absent,
    /// RabbitMQ is short of memory or disk and blocks publishers: it was not sent.
    #[error("RabbitMQ takes no updates now: it is short of memory or disk")]
    Blocked,
    /// The client's deadline passed before its turn: it was not sent.
    #[error("there was no time left to send it")]
    Late,
    /// It was refused, and the queue is known to be full.
    #[error("RabbitMQ refused it: the queue is full")]
    Full,
    /// It was refused, and the queue is not known to be full: it has no available leader, or RabbitMQ does
    /// not know the leader yet.
    #[error("RabbitMQ refused it: the queue is not available")]
    Unavailable,
    /// The topology is being changed: it was not sent.
    #[error("the number of partitions is being changed")]
    Changing,
    /// It was unroutable, and was returned.
    #[error("a queue is missing and is being declared again")]
    NoQueue,
    /// It was sent, but not confirmed in time, or the connection broke before: it may have been
    /// accepted or not.
    #[error("RabbitMQ did not confirm in time")]
    Unconfirmed,
}
