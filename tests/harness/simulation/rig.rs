//! The played queues and workers, and the model that the database is compared with.

mod check;
mod edit;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use anyhow::{Context, Result, bail};
use model::{Answer, World};
use shared::{
    component::{Attribute, Component, ComponentId},
    impact::Impact,
    message::{Idempotency, UpdateMessage, UpdateResult},
    timestamp::Timestamp,
    update::UpdateId,
};
use sqlx::PgConnection;
use uuid::Uuid;
use worker::{
    membership::MemberId,
    step::{self, Applied, ApplyError, Incoming, Unusable},
};

use crate::eventually;

use super::{
    connect,
    history::{COMPONENTS, End, Flaw, Pick, Step},
};

const PARTITIONS: u16 = 3;

/// Applies a batch, of which nothing can be deferred: nobody holds rows meanwhile.
async fn apply(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
) -> Result<Vec<Option<UpdateResult>>, ApplyError> {
    let applied = step::apply(database, member, batch).await?;
    let settled = applied.into_iter().map(|applied| match applied {
        Applied::Settled(result) => result,
        Applied::Deferred(_) => None,
    });
    Ok(settled.collect())
}

/// A message in a queue.
#[derive(Clone, Debug)]
struct Message {
    id: UpdateId,
    component: ComponentId,
    payload: Vec<u8>,
    /// Whether it comes from the dead-letter queue.
    given_up: bool,
}

impl Message {
    fn incoming(&self) -> Incoming {
        let content = if self.given_up {
            Err(Unusable::GivenUp("played".to_owned()))
        } else {
            UpdateMessage::decode(&self.payload).map_err(Unusable::Unreadable)
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

/// What is known of an update that was posted.
struct Posted {
    update: UpdateMessage,
    message: Message,
    /// Its place among all.
    number: usize,
    /// Nobody holds an update that was put back to its order.
    put_back: bool,
    /// What the model made of it, once it was decided.
    answer: Option<Answer>,
}

/// What the first use of an idempotency key was for.
struct FirstUse {
    fingerprint: String,
    update: UpdateId,
}

pub(super) struct Rig {
    uri: String,
    database: PgConnection,
    /// Connections of workers, idle.
    idle: Vec<PgConnection>,
    queues: Vec<VecDeque<Message>>,
    living: Vec<MemberId>,
    /// Those that the others missed, with what they have in their hands.
    stalled: Vec<(MemberId, Vec<Message>)>,
    world: World,
    /// Components that are gone for now.
    gone: HashMap<ComponentId, Component>,
    posted: HashMap<UpdateId, Posted>,
    /// In the order of their posting.
    ids: Vec<UpdateId>,
    keys: HashMap<u8, FirstUse>,
    key_of: HashMap<UpdateId, u8>,
    /// Those in the inbox.
    settled: HashSet<UpdateId>,
    /// Those that stand parked and were not put back.
    parked: HashSet<UpdateId>,
    /// The newest place in the inbox, and its time.
    position: i64,
    decided_at: Option<Timestamp>,
    /// By component, the number of the newest update that took effect in its order.
    newest: HashMap<ComponentId, usize>,
    renamed: usize,
}

impl Rig {
    pub(super) async fn new(uri: &str) -> Result<Self> {
        let mut database = connect(uri).await?;
        sqlx::raw_sql(
            "DELETE FROM incident_status; DELETE FROM incident_component_relation;
            DELETE FROM incident; DELETE FROM component_attribute; DELETE FROM component;
            DELETE FROM sdb_inbox; DELETE FROM sdb_parked; DELETE FROM sdb_idempotency_key;
            DELETE FROM sdb_worker;",
        )
        .execute(&mut database)
        .await?;
        let position =
            sqlx::query_scalar("SELECT position FROM sdb_scope").fetch_one(&mut database).await?;
        let mut rig = Self {
            uri: uri.to_owned(),
            database,
            idle: Vec::new(),
            queues: vec![VecDeque::new(); usize::from(PARTITIONS)],
            living: Vec::new(),
            stalled: Vec::new(),
            world: World::default(),
            gone: HashMap::new(),
            posted: HashMap::new(),
            ids: Vec::new(),
            keys: HashMap::new(),
            key_of: HashMap::new(),
            settled: HashSet::new(),
            parked: HashSet::new(),
            position,
            decided_at: None,
            newest: HashMap::new(),
            renamed: 0,
        };
        for id in 1..=COMPONENTS {
            let all = [("region", "EU-DE"), ("category", "A&B")];
            let attributes = all.iter().take(id as usize % 3).map(|(name, value)| Attribute {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            });
            let name = format!("Service <{id}>");
            let attributes = attributes.collect();
            rig.insert_component(Component { id: ComponentId(id), name, attributes }).await?;
        }
        rig.join().await?;
        Ok(rig)
    }

    pub(super) async fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Post { component, impact, title, key, flaw } => {
                self.post(ComponentId(*component), *impact, title, *key, *flaw);
            }
            Step::Redeliver(index) => self.redeliver(*index, false),
            Step::GiveUp(index) => self.redeliver(*index, true),
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

    /// Everything is worked off, and all that was posted must be accounted for.
    pub(super) async fn end(&mut self) -> Result<()> {
        self.wake().await?;
        self.join().await?;
        while self.queues.iter().any(|queue| !queue.is_empty()) {
            for place in 0..self.living.len() {
                self.work_at(place, usize::MAX, End::Done).await?;
            }
        }
        self.all_is_accounted_for().await
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
        let Some(known) = self.world.catalogue.get(&component) else { return };
        let id = UpdateId(Uuid::now_v7());
        let update = UpdateMessage {
            id,
            component: known.clone(),
            impact,
            text: title.to_owned(),
            received_at: self.decided_at.unwrap_or_else(epoch),
            idempotency: key.map(|key| Idempotency {
                key: key.to_string(),
                fingerprint: format!("{component} {impact} {title}"),
            }),
        };
        let mut payload = update.encode();
        match flaw {
            None => {}
            Some(Flaw::Unreadable) => payload.truncate(payload.len() / 2),
            Some(Flaw::Version) => {
                let text = String::from_utf8_lossy(&payload).replacen("\"v\":1", "\"v\":7", 1);
                payload = text.into_bytes();
            }
        }
        let message = Message { id, component, payload, given_up: false };
        self.queue(message.clone());
        if let (Some(key), None) = (key, flaw) {
            self.key_of.insert(id, key);
        }
        let number = self.ids.len();
        self.ids.push(id);
        let posted = Posted { update, message, number, put_back: false, answer: None };
        self.posted.insert(id, posted);
    }

    fn redeliver(&mut self, index: Pick, given_up: bool) {
        if self.ids.is_empty() {
            return;
        }
        let id = self.ids.get(index.of(self.ids.len()));
        let posted = id.and_then(|id| self.posted.get(id));
        if let Some(message) = posted.map(|posted| posted.message.clone()) {
            self.queue(Message { given_up, ..message });
        }
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

    /// The first messages of the queues of the worker at this place.
    fn batch(&self, place: usize, most: usize) -> Vec<Message> {
        let own = self.queues.iter().skip(place).step_by(self.living.len().max(1));
        own.flatten().take(most).cloned().collect()
    }

    fn acknowledge(&mut self, place: usize, mut count: usize) {
        let living = self.living.len().max(1);
        for queue in self.queues.iter_mut().skip(place).step_by(living) {
            let from_here = count.min(queue.len());
            queue.drain(..from_here);
            count -= from_here;
        }
    }

    async fn work(&mut self, worker: Pick, batch: usize, end: End) -> Result<()> {
        match self.pick(worker) {
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
        let mut connection = self.connection().await?;
        let backend: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        let incoming: Vec<Incoming> = batch.iter().map(Message::incoming).collect();
        let polls = match end {
            End::KilledIn(polls) => polls,
            End::Done | End::KilledAfterCommit => usize::MAX,
        };
        let applied = {
            let applying = apply(&mut connection, member, &incoming);
            polled(applying, polls).await
        };
        match applied {
            Some(Ok(results)) => {
                self.idle.push(connection);
                self.compare(&[(&batch, Some(&results))]).await?;
            }
            Some(Err(error)) => bail!("the batch was refused: {error}"),
            None => {
                drop(connection);
                self.has_noticed(backend).await?;
                self.compare(&[(&batch, None)]).await?;
            }
        }
        match end {
            End::Done => self.acknowledge(place, batch.len()),
            // Nobody says that it is gone; after a while it is missed, and its partitions move.
            End::KilledAfterCommit | End::KilledIn(_) => self.miss(place).await?,
        }
        Ok(())
    }

    async fn together(&mut self, one: Pick, other: Pick, most: usize) -> Result<()> {
        let (Some(one), Some(other)) = (self.pick(one), self.pick(other)) else { return Ok(()) };
        if one == other {
            return Ok(());
        }
        self.beat().await?;
        let batches = [self.batch(one, most), self.batch(other, most)];
        let incoming = batches.each_ref().map(|b| b.iter().map(Message::incoming).collect());
        let [of_one, of_other]: [Vec<Incoming>; 2] = incoming;
        let members = [self.living.get(one), self.living.get(other)].map(Option::<&_>::copied);
        let [Some(first), Some(second)] = members else { return Ok(()) };
        let (mut left, mut right) = (self.connection().await?, self.connection().await?);
        let (left_done, right_done) =
            tokio::join!(apply(&mut left, first, &of_one), apply(&mut right, second, &of_other));
        self.idle.extend([left, right]);
        let results = [left_done?, right_done?];
        let [a, b] = &batches;
        let [of_a, of_b] = &results;
        self.compare(&[(a, Some(of_a)), (b, Some(of_b))]).await?;
        self.acknowledge(one, a.len());
        self.acknowledge(other, b.len());
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
            let incoming: Vec<Incoming> = batch.iter().map(Message::incoming).collect();
            match apply(&mut connection, member, &incoming).await {
                Err(ApplyError::Lapsed) => {}
                other => bail!("a worker that was missed committed: {other:?}"),
            }
            self.idle.push(connection);
            self.join().await?;
        }
        Ok(())
    }

    /// All that live say so, and the next incident gets the next id: those that a killed worker took
    /// are lost to PostgreSQL, and the model does not know of them.
    async fn beat(&mut self) -> Result<()> {
        sqlx::query(
            "UPDATE sdb_worker SET seen_at = clock_timestamp() AT TIME ZONE 'UTC'
            WHERE id = ANY($1)",
        )
        .bind(&self.living)
        .execute(&mut self.database)
        .await?;
        sqlx::query(
            "SELECT setval(pg_get_serial_sequence('incident', 'id'), coalesce(max(id), 0) + 1, false)
            FROM incident",
        )
        .execute(&mut self.database)
        .await?;
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
            let posted = self.posted.get_mut(&id).context("a parked message that nobody sent")?;
            posted.put_back = true;
            self.parked.remove(&id);
            let message = posted.message.clone();
            self.queue(message);
        }
        Ok(())
    }

    async fn connection(&mut self) -> Result<PgConnection> {
        match self.idle.pop() {
            Some(connection) => Ok(connection),
            None => connect(&self.uri).await,
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

/// What a future gives when it was polled so often at most.
async fn polled<T>(future: impl Future<Output = T>, mut polls: usize) -> Option<T> {
    let mut future = pin!(future);
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

/// A batch, and what the worker was told of it if it lived.
type Batch<'a> = (&'a Vec<Message>, Option<&'a Vec<Option<UpdateResult>>>);
