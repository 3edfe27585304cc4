//! The played queues and workers. What became of all is judged at the end.

mod edit;
mod worker;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use ::worker::{
    membership::MemberId,
    step::{ApplyError, Incoming, Unusable},
};
use anyhow::{Context, Result, bail, ensure};
use model::delivery::Content;
use shared::{
    component::{Attribute, Component, ComponentId},
    impact::Impact,
    message::{Idempotency, UpdateMessage, UpdateResult},
    timestamp::Timestamp,
    update::UpdateId,
};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio::sync::watch;
use uuid::Uuid;

pub use self::worker::Broken;
use self::{
    edit::{insert_component, make},
    worker::{Applied, apply_batch, is_tried_again},
};
use super::{
    connect,
    history::{COMPONENTS, Edit, End, Flaw, Hold, Pick, Step},
};
use crate::{
    eventually, replay,
    verdict::{self, Answered, Attempt, Expected},
};

const PARTITIONS: u16 = 3;
/// Tries of one batch.
const TRIES: usize = 5;
/// Batches until all queues are empty.
const ROUNDS: usize = 200;

/// Who writes in the database of a simulation, by the name of the connection.
const WORKER: &str = "worker";
const OPERATOR: &str = "operator";
const RIG: &str = "simulation";

/// A message in a queue.
#[derive(Clone, Debug)]
struct Message {
    id: UpdateId,
    component: ComponentId,
    payload: Vec<u8>,
    delivered: Delivered,
}

/// How a message comes.
#[derive(Clone, Copy, Debug)]
enum Delivered {
    FromQueue,
    GivenUp,
    Refused,
}

impl Message {
    fn incoming(&self) -> Incoming {
        let content = match self.delivered {
            Delivered::FromQueue => {
                UpdateMessage::decode(&self.payload).map_err(Unusable::Unreadable)
            }
            Delivered::GivenUp => Err(Unusable::GivenUp("played".to_owned())),
            Delivered::Refused => Err(Unusable::Refused("played".to_owned())),
        };
        Incoming {
            queue: format!("p{}", self.component.partition(PARTITIONS)),
            message_id: Some(self.id.to_string()),
            payload: self.payload.clone(),
            content,
            trace: None,
        }
    }
}

/// What is left when a history is through.
#[derive(Debug, Default)]
pub struct Played {
    /// Everything that a verdict needs.
    pub run: verdict::Run,
    /// Workers that were killed or missed, and messages that came again.
    pub broken: usize,
    /// Messages that waited for rows that others held.
    pub deferred: usize,
}

pub(super) struct Rig {
    uri: String,
    database: PgConnection,
    operator: PgConnection,
    /// Connections of workers, idle.
    idle: Vec<PgConnection>,
    queues: Vec<VecDeque<Message>>,
    living: Vec<MemberId>,
    /// Those that the others missed, with what they have in their hands.
    stalled: Vec<(MemberId, Vec<Message>)>,
    catalogue: BTreeMap<ComponentId, Component>,
    /// Components that are gone for now.
    gone: HashMap<ComponentId, Component>,
    posted: HashMap<UpdateId, Message>,
    /// In the order of their posting.
    ids: Vec<UpdateId>,
    messages: HashMap<UpdateId, verdict::Message>,
    attempts: Vec<Attempt>,
    results: Vec<UpdateResult>,
    renamed: usize,
    /// Transactions that were begun for a batch.
    tries: usize,
    broken: usize,
    deferred: usize,
    fault: Option<Broken>,
}

impl Rig {
    pub(super) async fn new(uri: &str, fault: Option<Broken>) -> Result<Self> {
        let mut database = connect(uri, RIG).await?;
        sqlx::raw_sql(
            "DELETE FROM incident_status; DELETE FROM incident_component_relation;
            DELETE FROM incident; DELETE FROM component_attribute; DELETE FROM component;
            DELETE FROM sdb_inbox; DELETE FROM sdb_parked; DELETE FROM sdb_idempotency_key;
            DELETE FROM sdb_worker;",
        )
        .execute(&mut database)
        .await?;
        let mut rig = Self {
            uri: uri.to_owned(),
            database,
            operator: connect(uri, OPERATOR).await?,
            idle: Vec::new(),
            queues: vec![VecDeque::new(); usize::from(PARTITIONS)],
            living: Vec::new(),
            stalled: Vec::new(),
            catalogue: BTreeMap::new(),
            gone: HashMap::new(),
            posted: HashMap::new(),
            ids: Vec::new(),
            messages: HashMap::new(),
            attempts: Vec::new(),
            results: Vec::new(),
            renamed: 0,
            tries: 0,
            broken: 0,
            deferred: 0,
            fault,
        };
        for id in 1..=COMPONENTS {
            let all = [("region", "EU-DE"), ("category", "A&B")];
            let attributes = all.iter().take(id as usize % 3).map(|(name, value)| Attribute {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            });
            let name = format!("Service <{id}>");
            let component =
                Component { id: ComponentId(id), name, attributes: attributes.collect() };
            let statements = AssertSqlSafe(insert_component(&component));
            sqlx::raw_sql(statements).execute(&mut rig.database).await?;
            rig.catalogue.insert(component.id, component);
        }
        verdict::begin(&mut rig.database).await?;
        rig.join().await?;
        Ok(rig)
    }

    pub(super) async fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Post { component, impact, title, key, flaw } => {
                self.post(ComponentId(*component), *impact, title, *key, *flaw);
            }
            Step::Redeliver(index) => self.redeliver(*index, Delivered::FromQueue),
            Step::GiveUp(index) => self.redeliver(*index, Delivered::GivenUp),
            Step::Refuse(index) => self.redeliver(*index, Delivered::Refused),
            Step::Beside(worker, batch, edit, polls, hold) => {
                self.beside(*worker, *batch, edit, *polls, *hold).await?;
            }
            Step::Work(worker, batch, end) => self.work(*worker, *batch, *end).await?,
            Step::Together(one, other, batch) => self.together(*one, *other, *batch).await?,
            Step::Join => self.join().await?,
            Step::Leave(worker) => {
                if let Some(place) = self.pick(*worker) {
                    self.leave(place).await?;
                }
            }
            Step::Stall(worker, batch) => self.stall(*worker, *batch).await?,
            Step::Wake => self.wake().await?,
            Step::Edit(edit) => self.edit(edit).await?,
            Step::PutBack => self.put_back().await?,
        }
        Ok(())
    }

    /// Everything is worked off; returns what is left.
    pub(super) async fn end(mut self) -> Result<Played> {
        self.wake().await?;
        self.join().await?;
        let mut rounds = 0;
        while self.queues.iter().any(|queue| !queue.is_empty()) {
            for place in 0..self.living.len() {
                self.work_at(place, usize::MAX, End::Done).await?;
            }
            rounds += 1;
            ensure!(rounds < ROUNDS, "the queues do not get empty");
        }
        let mut run = verdict::read(&mut self.database).await?;
        let batches = run.transactions.iter().filter(|each| !each.decided.is_empty()).count();
        ensure!(batches <= self.tries, "a batch was committed in pieces");
        if self.fault.is_none() {
            let pool = PgPool::connect(&self.uri).await?;
            let holds = replay::holds_one_active_incident(&pool).await;
            pool.close().await;
            holds?;
        }
        run.messages = self.messages;
        run.attempts = self.attempts;
        run.results = self.results;
        run.expected = Expected {
            operators: vec![OPERATOR.to_owned(), RIG.to_owned()],
            ..Expected::default()
        };
        Ok(Played { run, broken: self.broken, deferred: self.deferred })
    }

    #[expect(clippy::disallowed_methods, reason = "the rig makes ids as gateways do")]
    fn post(
        &mut self,
        component: ComponentId,
        impact: Impact,
        title: &str,
        key: Option<u8>,
        flaw: Option<Flaw>,
    ) {
        // A gateway queues nothing for a component that it does not know.
        let Some(known) = self.catalogue.get(&component) else { return };
        let id = UpdateId(Uuid::now_v7());
        let update = UpdateMessage {
            id,
            component: known.clone(),
            impact,
            text: title.to_owned(),
            received_at: epoch(),
            idempotency: key.map(|key| Idempotency {
                key: key.to_string(),
                fingerprint: format!("{component} {impact} {title}"),
            }),
        };
        let mut payload = update.encode();
        match flaw {
            None | Some(Flaw::GivenUp) => {}
            Some(Flaw::Unreadable) => payload.truncate(payload.len() / 2),
            Some(Flaw::Version) => {
                let text = String::from_utf8_lossy(&payload).replacen("\"v\":1", "\"v\":7", 1);
                payload = text.into_bytes();
            }
        }
        let content = match flaw {
            None => Content::Update(known.clone()),
            Some(Flaw::Unreadable) => Content::Unreadable,
            Some(Flaw::Version) => Content::OtherVersion,
            Some(Flaw::GivenUp) => Content::GivenUp,
        };
        let delivered = match flaw {
            Some(Flaw::GivenUp) => Delivered::GivenUp,
            None | Some(Flaw::Unreadable | Flaw::Version) => Delivered::FromQueue,
        };
        // Nobody knows the key of a message that can't be read.
        let is_readable = matches!(flaw, None | Some(Flaw::GivenUp));
        let idempotency = update.idempotency.filter(|_| is_readable);
        let message = verdict::Message { delivered_as: vec![content], idempotency };
        self.messages.insert(id, message);
        let number = self.ids.len() as u64;
        self.attempts.push(Attempt {
            update: format!("update {number}"),
            component,
            impact: Some(i16::from(impact)),
            sent: 2 * number,
            answered: 2 * number + 1,
            answer: Answered::Accepted(id),
        });
        let message = Message { id, component, payload, delivered: Delivered::FromQueue };
        self.queue(Message { delivered, ..message.clone() });
        self.ids.push(id);
        self.posted.insert(id, message);
    }

    /// Queues a message that was posted once more.
    fn deliver(&mut self, message: Message, delivered: Delivered) {
        if let Some(known) = self.messages.get_mut(&message.id) {
            match (delivered, UpdateMessage::decode(&message.payload)) {
                (Delivered::GivenUp, _) => known.delivered_as.push(Content::GivenUp),
                (Delivered::Refused, _) => known.delivered_as.push(Content::Refused),
                // The first time was from the dead-letter queue.
                (Delivered::FromQueue, Ok(update))
                    if matches!(known.delivered_as.first(), Some(Content::GivenUp)) =>
                {
                    known.delivered_as.push(Content::Update(update.component));
                }
                (Delivered::FromQueue, _) => {}
            }
        }
        self.queue(Message { delivered, ..message });
    }

    fn redeliver(&mut self, index: Pick, delivered: Delivered) {
        if self.ids.is_empty() {
            return;
        }
        let Some(id) = self.ids.get(index.of(self.ids.len())) else { return };
        let Some(message) = self.posted.get(id).cloned() else { return };
        self.broken += 1;
        self.deliver(message, delivered);
    }

    fn queue(&mut self, message: Message) {
        let partition = usize::from(message.component.partition(PARTITIONS));
        if let Some(queue) = self.queues.get_mut(partition) {
            queue.push_back(message);
        }
    }

    fn pick(&self, worker: Pick) -> Option<usize> {
        (!self.living.is_empty()).then(|| worker.of(self.living.len()))
    }

    /// This worker, or the next one that has something to do.
    fn busy(&self, worker: Pick) -> Option<usize> {
        let (first, count) = (self.pick(worker)?, self.living.len());
        (first..first + count).map(|place| place % count).find(|place| {
            self.queues.iter().skip(*place).step_by(count).any(|queue| !queue.is_empty())
        })
    }

    /// The first messages of the queues of the worker at this place.
    fn batch(&self, place: usize, most: usize) -> Vec<Message> {
        let own = self.queues.iter().skip(place).step_by(self.living.len().max(1));
        own.flatten().take(most).cloned().collect()
    }

    /// Takes the settled messages of a batch off the queues. Acknowledgements of a partition stop before
    /// a message that waits; it heads the next batch.
    fn acknowledge(&mut self, place: usize, applied: &[Applied]) {
        let living = self.living.len().max(1);
        let mut applied = applied;
        for queue in self.queues.iter_mut().skip(place).step_by(living) {
            let (own, others) = applied.split_at(applied.len().min(queue.len()));
            applied = others;
            let settled = own.iter().take_while(|one| matches!(one, Applied::Settled(_)));
            queue.drain(..settled.count());
        }
    }

    async fn work(&mut self, worker: Pick, batch: usize, end: End) -> Result<()> {
        match self.busy(worker) {
            Some(place) => self.work_at(place, batch, end).await,
            None => Ok(()),
        }
    }

    async fn work_at(&mut self, place: usize, most: usize, end: End) -> Result<()> {
        let batch = self.batch(place, most);
        let Some(member) = self.living.get(place).copied() else { return Ok(()) };
        if batch.is_empty() {
            return Ok(());
        }
        self.beat().await?;
        let polls = match end {
            End::Done => {
                let applied = self.settled(member, &batch).await?;
                self.heard(&batch, &applied)?;
                self.acknowledge(place, &applied);
                return Ok(());
            }
            End::KilledIn(polls) => polls,
            End::KilledAfterCommit => usize::MAX,
        };
        let mut connection = self.connection().await?;
        let backend: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        self.tries += 1;
        let applied = {
            let applying = apply_batch(&mut connection, member, incoming(&batch), self.fault);
            polled(pin!(applying), polls).await
        };
        if let Some(Err(error)) = applied {
            bail!("the batch was refused: {error}");
        }
        drop(connection);
        self.has_noticed(backend).await?;
        // Nobody says that it is gone; after a while it is missed, and its partitions move.
        self.miss(place).await
    }

    /// A batch as a worker settles it: tried again when others were in its way.
    async fn settled(&mut self, member: MemberId, batch: &[Message]) -> Result<Vec<Applied>> {
        let mut connection = self.connection().await?;
        for _ in 0..TRIES {
            self.tries += 1;
            match apply_batch(&mut connection, member, incoming(batch), self.fault).await {
                Ok(applied) => {
                    self.idle.push(connection);
                    return Ok(applied);
                }
                Err(error) if is_tried_again(&error) => {}
                Err(error) => return Err(error).context("the batch was refused"),
            }
        }
        bail!("the batch was refused again and again")
    }

    /// What a worker that lives knows of a batch, and reports.
    fn heard(&mut self, batch: &[Message], applied: &[Applied]) -> Result<()> {
        ensure!(batch.len() == applied.len(), "{} of {}", applied.len(), batch.len());
        for (message, applied) in batch.iter().zip(applied) {
            match applied {
                Applied::Settled(result) => {
                    let result = result.clone().context("a result without an id")?;
                    ensure!(result.id == message.id, "{result:?} for {}", message.id);
                    self.results.push(result);
                }
                Applied::Deferred => self.deferred += 1,
            }
        }
        Ok(())
    }

    /// A batch, and an edit that is begun in the middle of its transaction.
    async fn beside(
        &mut self,
        worker: Pick,
        most: usize,
        edit: &Edit,
        polls: usize,
        hold: Hold,
    ) -> Result<()> {
        let Some(place) = self.busy(worker) else { return self.edit(edit).await };
        let Some(plan) = self.plan(edit).await? else { return Ok(()) };
        let batch = self.batch(place, most);
        let Some(member) = self.living.get(place).copied() else { return Ok(()) };
        self.beat().await?;
        let mut connection = self.connection().await?;
        let (through, done) = watch::channel(false);
        self.tries += 1;
        let (applied, made) = {
            let mut applying =
                pin!(apply_batch(&mut connection, member, incoming(&batch), self.fault));
            let early = polled(applying.as_mut(), polls).await;
            let finish = async {
                let applied = match early {
                    Some(applied) => applied,
                    None => applying.await,
                };
                through.send_replace(true);
                applied
            };
            tokio::join!(finish, make(&mut self.operator, &plan, hold, done))
        };
        if made? {
            self.was_made(plan);
        }
        let applied = match applied {
            Ok(applied) => {
                self.idle.push(connection);
                applied
            }
            Err(error) if is_tried_again(&error) => {
                drop(connection);
                self.settled(member, &batch).await?
            }
            Err(error) => return Err(error).context("the batch was refused"),
        };
        self.heard(&batch, &applied)?;
        self.acknowledge(place, &applied);
        Ok(())
    }

    async fn edit(&mut self, edit: &Edit) -> Result<()> {
        let Some(plan) = self.plan(edit).await? else { return Ok(()) };
        let (_through, done) = watch::channel(true);
        if make(&mut self.operator, &plan, Hold::Commit, done).await? {
            self.was_made(plan);
        }
        Ok(())
    }

    async fn together(&mut self, one: Pick, other: Pick, most: usize) -> Result<()> {
        let (Some(one), Some(other)) = (self.pick(one), self.pick(other)) else { return Ok(()) };
        if one == other {
            return Ok(());
        }
        self.beat().await?;
        let [a, b] = [self.batch(one, most), self.batch(other, most)];
        let members = [self.living.get(one), self.living.get(other)].map(Option::<&_>::copied);
        let [Some(first), Some(second)] = members else { return Ok(()) };
        let (mut left, mut right) = (self.connection().await?, self.connection().await?);
        self.tries += 2;
        let (of_a, of_b) = tokio::join!(
            apply_batch(&mut left, first, incoming(&a), self.fault),
            apply_batch(&mut right, second, incoming(&b), self.fault)
        );
        self.idle.extend([left, right]);
        let (of_a, of_b) = (of_a?, of_b?);
        self.heard(&a, &of_a)?;
        self.heard(&b, &of_b)?;
        self.acknowledge(one, &of_a);
        self.acknowledge(other, &of_b);
        Ok(())
    }

    async fn join(&mut self) -> Result<()> {
        let id = sqlx::query_scalar(
            "INSERT INTO sdb_worker (seen_at) VALUES (clock_timestamp() AT TIME ZONE 'UTC')
            RETURNING id",
        )
        .fetch_one(&mut self.database)
        .await?;
        self.living.push(id);
        Ok(())
    }

    async fn leave(&mut self, place: usize) -> Result<()> {
        let id = self.living.remove(place);
        sqlx::query("DELETE FROM sdb_worker WHERE id = $1")
            .bind(id)
            .execute(&mut self.database)
            .await?;
        Ok(())
    }

    /// The others have missed the worker at this place.
    async fn miss(&mut self, place: usize) -> Result<()> {
        self.broken += 1;
        let id = self.living.remove(place);
        sqlx::query(
            "UPDATE sdb_worker SET seen_at = seen_at - interval '10 seconds' WHERE id = $1",
        )
        .bind(id)
        .execute(&mut self.database)
        .await?;
        Ok(())
    }

    async fn stall(&mut self, worker: Pick, most: usize) -> Result<()> {
        let Some(place) = self.pick(worker) else { return Ok(()) };
        let batch = self.batch(place, most);
        if let Some(member) = self.living.get(place) {
            self.stalled.push((*member, batch));
        }
        self.miss(place).await
    }

    /// What a worker does that was missed must count for nothing; it joins anew.
    async fn wake(&mut self) -> Result<()> {
        for (member, batch) in std::mem::take(&mut self.stalled) {
            self.beat().await?;
            let mut connection = self.connection().await?;
            match apply_batch(&mut connection, member, incoming(&batch), self.fault).await {
                Err(ApplyError::Lapsed) => {}
                other => bail!("a worker that was missed committed: {other:?}"),
            }
            self.idle.push(connection);
            self.join().await?;
        }
        Ok(())
    }

    /// All that live say so. Whatever was committed by now is seen by what begins next.
    async fn beat(&mut self) -> Result<()> {
        sqlx::query(
            "UPDATE sdb_worker SET seen_at = clock_timestamp() AT TIME ZONE 'UTC'
            WHERE id = ANY($1)",
        )
        .bind(&self.living)
        .execute(&mut self.database)
        .await?;
        verdict::mark(&mut self.database).await?;
        Ok(())
    }

    async fn put_back(&mut self) -> Result<()> {
        let parked: Vec<Option<UpdateId>> = sqlx::query_scalar(
            "UPDATE sdb_parked SET put_back_at = clock_timestamp() AT TIME ZONE 'UTC'
            WHERE put_back_at IS NULL RETURNING update_id",
        )
        .fetch_all(&mut self.database)
        .await?;
        for id in parked {
            let id = id.context("a parked message without an id")?;
            let message = self.posted.get(&id).context("a parked message that nobody sent")?;
            self.deliver(message.clone(), Delivered::FromQueue);
        }
        Ok(())
    }

    async fn connection(&mut self) -> Result<PgConnection> {
        match self.idle.pop() {
            Some(connection) => Ok(connection),
            None => connect(&self.uri, WORKER).await,
        }
    }

    /// Waits until the server has noticed that a connection was dropped in the middle of something.
    async fn has_noticed(&mut self, backend: i32) -> Result<()> {
        eventually("the server notices that a worker is gone", async || {
            let there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
            let there: bool =
                sqlx::query_scalar(there).bind(backend).fetch_one(&mut self.database).await?;
            Ok(!there)
        })
        .await
    }
}

fn incoming(batch: &[Message]) -> Vec<Incoming> {
    batch.iter().map(Message::incoming).collect()
}

/// What a future gives when it was polled so often at most.
async fn polled<F: Future>(mut future: Pin<&mut F>, mut polls: usize) -> Option<F::Output> {
    poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[expect(clippy::expect_used, reason = "1970 is in range")]
fn epoch() -> Timestamp {
    Timestamp::from_micros(0).expect("in range")
}
