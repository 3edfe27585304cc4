//! A session with RabbitMQ: consumes messages in batches, and sends acknowledgements and replies after each commit.
//! [`crate::batch`] applies the batches.

use std::{
    collections::{BTreeSet, HashMap},
    iter::from_fn,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, stream::select_all};
use lapin::Connection;
use shared::{
    amqp::topology::Phase,
    database::ConnectOptions,
    telemetry::{chain, metrics::WORKER, traces},
    wire::message::{UpdateResult, Verdict},
};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    acknowledgements::Acknowledgements,
    consume_error::ConsumeError,
    consumer::Consumer,
    deliveries::{DeliveryError, QueueKind, Received},
    node_trial::{self, TrialError},
    nodes,
    redeclare::redeclare,
    replies::Reply,
    start_deliveries::Starting,
};
use crate::{
    batch::{DeferredQueue, Expired, Incoming, MessageResult, apply_with_retries, within},
    membership::{Member, MembershipError, Share},
    observe::{readiness::PURPOSE, sampling},
    store::{incident_row_locks::LockableRow, workers::MemberId},
};

/// Time for RabbitMQ to declare the queues and start every delivery.
const SETUP_LIMIT: Duration = Duration::from_secs(30);
/// How often a connection is checked.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Time for RabbitMQ to end a connection.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// The same for one that was stopped before it consumed everything of its share.
const STOPPED_LIMIT: Duration = Duration::from_secs(1);
/// Time limit of a batch, including retries: RabbitMQ closes channels that hold messages for much longer,
/// and versions 4.3.0 to 4.3.5 may never redeliver them then.
const BATCH_LIMIT: Duration = Duration::from_secs(300);
/// The same while commits wait for a synchronous standby.
const MAX_BATCH_TIME: Duration = Duration::from_secs(20 * 60);

impl Consumer {
    /// One session with the broker. It ends after a committed and acknowledged batch when this worker's
    /// share changes or the worker must stop; or at once when something fails.
    ///
    /// Unacknowledged messages are redelivered then, perhaps to another worker. The inbox recognizes
    /// those that were committed.
    pub(super) async fn session(
        &self,
        connection: Connection,
        member: &Member,
    ) -> Result<(), ConsumeError> {
        let share = member.share()?;
        let mut deliveries = Starting::default();
        let left_out = self.left_out(&share);
        let starting = self.start(&connection, &share, member.id, &left_out, &mut deliveries);
        let started = tokio::select! {
            started = timeout(SETUP_LIMIT, starting) => Some(started),
            () = self.stop.cancelled() => None,
        };
        let close_limit = if started.is_none() { STOPPED_LIMIT } else { CLOSE_LIMIT };
        // Messages that are ready form one batch, from all queues; order within each queue is kept.
        let mut batches = select_all(deliveries.into_deliveries()).ready_chunks(self.batch);
        WORKER.held.set(0);
        let mut failing =
            pin!(node_trial::fails(&connection, &self.broker, &share, &self.broken, &self.stop));
        let ended = match started {
            Some(Ok(Ok(()))) => {
                let failing = failing.as_mut();
                self.consume(&connection, &share, member, left_out, &mut batches, failing).await
            }
            Some(Ok(Err(error))) => Err(error),
            Some(Err(_)) => Err(ConsumeError::Silent),
            None => Ok(()),
        };
        // However it ended, the connection is closed while all its consumers exist: RabbitMQ then requeues all
        // unacknowledged messages at once. One that was dropped would be cancelled, and others get later ones first.
        let closed = timeout(close_limit, connection.close(200, "the session ends".into())).await;
        drop(batches);
        ended?;
        if close_limit == CLOSE_LIMIT {
            closed.map_err(|_| ConsumeError::Silent)??;
        }
        Ok(())
    }

    /// Consumes until the session must end, and sends the last acknowledgements.
    async fn consume(
        &self,
        connection: &Connection,
        share: &Share,
        member: &Member,
        left_out: Vec<String>,
        batches: &mut (impl Stream<Item = Vec<Result<Received, DeliveryError>>> + Unpin),
        failing: Pin<&mut impl Future<Output = TrialError>>,
    ) -> Result<(), ConsumeError> {
        let declared_by = ConnectOptions::clone(self.database.lock().await.options());
        let mut acknowledgements = Acknowledgements::new(share.topology().prefetch);
        self.readiness.consuming(member.id, share.clone(), left_out.clone());
        let ended = tokio::select! {
            ended = self.work_through(batches, share, member, &mut acknowledgements) => ended,
            () = lost(connection) => Err(DeliveryError::Ended.into()),
            () = sampling::queues(connection, share), if self.is_measured => Ok(()),
            () = redeclare(connection, share, declared_by) => Ok(()),
            () = nodes::watch(&self.broker, share) => Ok(()),
            () = self.broken.fixed(&self.broker, share.topology(), &left_out) => Ok(()),
            failure = failing => Err(failure.into()),
        };
        let rest = self.acknowledge_rest(&mut acknowledgements, connection).await;
        let ended = ended.map_err(|error| with_cause(error, batches)).and(rest);
        match &ended {
            Ok(()) => self.readiness.waiting_for("the partitions are being shared anew"),
            Err(error) => self.readiness.unavailable(chain(error)),
        }
        ended
    }

    /// Sends the acknowledgements that still wait at the end of a session: of committed updates, whatever
    /// ended it.
    async fn acknowledge_rest(
        &self,
        acknowledgements: &mut Acknowledgements,
        connection: &Connection,
    ) -> Result<(), ConsumeError> {
        tokio::select! {
            sent = acknowledgements.send_all() => Ok(sent?),
            () = lost(connection) => Err(DeliveryError::Ended.into()),
            () = sleep(CLOSE_LIMIT) => Err(ConsumeError::Silent),
        }
    }

    /// Declares the queues and starts consuming those of the share that are not left out.
    async fn start(
        &self,
        connection: &Connection,
        share: &Share,
        member: MemberId,
        left_out: &[String],
        deliveries: &mut Starting,
    ) -> Result<(), ConsumeError> {
        // While the queues are being drained they exist, and must not be created again.
        if share.recorded.phase == Phase::Open {
            let channel = connection.create_channel().await?;
            let mut database = self.database.lock().await;
            let declare = async |database: &mut PgConnection| {
                share.topology().declare(&channel, database).await
            };
            database.with(declare).await?;
            channel.close(200, "declared".into()).await?;
        }
        let mut queues = queues(share);
        queues.retain(|(queue, _)| !left_out.contains(queue));
        deliveries.consume_all(connection, share, member, queues).await?;
        tracing::info!(
            host = self.broker.report(PURPOSE).server,
            partitions = ?share.partitions,
            of = share.topology().partitions,
            topology = share.topology().version,
            left_out = (!left_out.is_empty()).then(|| left_out.join(", ")),
            "consuming"
        );
        Ok(())
    }

    /// The queues of the share that can't be consumed.
    fn left_out(&self, share: &Share) -> Vec<String> {
        let queues = queues(share).into_iter().map(|(queue, _)| queue);
        queues.filter(|queue| self.broken.contains(queue)).collect()
    }

    async fn work_through(
        &self,
        batches: &mut (impl Stream<Item = Vec<Result<Received, DeliveryError>>> + Unpin),
        share: &Share,
        member: &Member,
        acknowledgements: &mut Acknowledgements,
    ) -> Result<(), ConsumeError> {
        let mut another_share = pin!(member.share_other_than(share));
        // It belongs to the session: when that ends, deferred messages are redelivered.
        let mut held: DeferredQueue<Received> = DeferredQueue::new();
        loop {
            let batch = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                () = &mut another_share => return Ok(()),
                () = sleep_until(held.due()), if !held.is_empty() => Vec::new(),
                () = acknowledgements.are_due() => Vec::new(),
                // None when the share is empty.
                Some(batch) = batches.next() => batch,
            };
            let batch: Vec<Received> = batch.into_iter().collect::<Result<_, _>>()?;
            tokio::select! {
                done = self.work(member.id, batch, &mut held, acknowledgements) => done?,
                () = self.abandon.cancelled() => return Err(ConsumeError::Abandoned),
                () = member.expired() => return Err(MembershipError::Expired.into()),
            }
        }
    }

    /// Retries deferred messages that are due, and then applies a batch, without the updates that must
    /// wait for deferred ones.
    async fn work(
        &self,
        member: MemberId,
        batch: Vec<Received>,
        held: &mut DeferredQueue<Received>,
        acknowledgements: &mut Acknowledgements,
    ) -> Result<(), ConsumeError> {
        if !held.is_empty() && held.due() <= Instant::now() {
            let again = held.take(self.batch);
            let tried = again.len();
            let deferred = self.apply(member, again, held, acknowledgements).await?;
            held.defer_again(deferred, tried);
        }
        let batch = held.keep_blocked(batch);
        if !batch.is_empty() {
            let deferred = self.apply(member, batch, held, acknowledgements).await?;
            held.add(deferred);
        }
        acknowledgements.send_due().await?;
        WORKER.held.set(held.len() as i64);
        Ok(())
    }

    /// Applies a batch; returns the deferred messages, in order. `held` are those deferred before.
    ///
    /// The order is commit, reply, acknowledge. Replies precede acknowledgements because clients wait for
    /// them.
    async fn apply(
        &self,
        member: MemberId,
        batch: Vec<Received>,
        held: &DeferredQueue<Received>,
        acknowledgements: &mut Acknowledgements,
    ) -> Result<Vec<Received>, ConsumeError> {
        let CommittedBatch { settled, deferred, blocked_by } = self.commit(member, batch).await?;
        if !blocked_by.is_empty() {
            self.blockers.report(held.len() + deferred.len(), blocked_by);
        }
        trace_decisions(&settled);
        let mut first_unsettled: HashMap<Arc<str>, u64> = HashMap::new();
        for received in held.iter().chain(&deferred) {
            let tag = received.unsettled.tag;
            let first = first_unsettled.entry(received.incoming.queue.clone()).or_insert(tag);
            *first = (*first).min(tag);
        }
        let replies = settled.iter().filter_map(|(received, verdict)| -> Option<Reply> {
            let (id, verdict) = (received.incoming.update_id()?, verdict.clone()?);
            let trace = received.incoming.trace.clone();
            Some((received.reply_to.clone()?, UpdateResult { id, verdict }, trace))
        });
        self.replies.send(replies);
        for (received, _) in &settled {
            if let Some(delivery) = received.settle() {
                acknowledgements.add(delivery, &first_unsettled);
            }
            if let Some(trace) = &received.incoming.trace {
                trace.settled();
            }
        }
        Ok(deferred)
    }

    /// Applies a batch, however often it must be retried, and sorts its messages by the result.
    async fn commit(
        &self,
        member: MemberId,
        batch: Vec<Received>,
    ) -> Result<CommittedBatch, ConsumeError> {
        let (incoming, origins): (Vec<Incoming>, Vec<_>) =
            batch.into_iter().map(|r| (r.incoming, (r.arrived, r.unsettled, r.reply_to))).unzip();
        let mut database = self.database.lock().await;
        let options = database.options().clone();
        let applying = apply_with_retries(&mut database, member, &incoming, self.inbox_days);
        let results = within(BATCH_LIMIT, MAX_BATCH_TIME, applying, &options)
            .await
            .ok_or(ConsumeError::Unsettled)?
            .map_err(|Expired| MembershipError::Expired)?;
        drop(database);
        sampling::count_applied(&incoming, &results);

        let mut committed = CommittedBatch::default();
        for ((incoming, (arrived, unsettled, reply_to)), applied) in
            incoming.into_iter().zip(origins).zip(results)
        {
            let received = Received { arrived, unsettled, reply_to, incoming };
            match applied {
                MessageResult::Settled(verdict) => committed.settled.push((received, verdict)),
                MessageResult::Deferred(held) => {
                    committed.blocked_by.extend(held);
                    committed.deferred.push(received);
                }
            }
        }
        Ok(committed)
    }
}

/// The queues of a share.
fn queues(share: &Share) -> Vec<(String, QueueKind)> {
    let partitions = share.partitions.iter().map(|partition| share.topology().queue(*partition));
    let mut queues: Vec<_> = partitions.map(|queue| (queue, QueueKind::Partition)).collect();
    if share.dead_letters {
        queues.push((share.topology().dead_letter_queue(), QueueKind::DeadLetters));
    }
    queues
}

/// The messages of a committed batch, in order.
#[derive(Default)]
struct CommittedBatch {
    /// Applied, parked or ignored as duplicates, each with its verdict ([`MessageResult::Settled`]).
    settled: Vec<(Received, Option<Verdict>)>,
    deferred: Vec<Received>,
    /// The rows that another session has locked.
    blocked_by: BTreeSet<LockableRow>,
}

/// Adds the verdicts to the spans of the messages.
fn trace_decisions(settled: &[(Received, Option<Verdict>)]) {
    if traces::get().is_none() {
        return;
    }
    for (received, verdict) in settled {
        if let (Some(trace), Some(verdict)) = (&received.incoming.trace, verdict) {
            trace.decided(verdict);
        }
    }
}

/// The same error, or why the connection ended, which the deliveries know.
fn with_cause(
    error: ConsumeError,
    batches: &mut (impl Stream<Item = Vec<Result<Received, DeliveryError>>> + Unpin),
) -> ConsumeError {
    if !matches!(error, ConsumeError::Delivery(DeliveryError::Ended)) {
        return error;
    }
    let received = from_fn(|| batches.next().now_or_never().flatten()).flatten();
    received.filter_map(Result::err).next().map_or(error, ConsumeError::from)
}

/// Waits until a connection is lost: neither waiting for deliveries nor applying a batch notices it.
async fn lost(connection: &Connection) {
    while connection.status().connected() {
        sleep(LOOK_EVERY).await;
    }
}
