//! The played queues and workers. What became of all is judged at the end.

mod delivery;
mod edit;
mod members;
mod queue;
mod record;
mod worker;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use ::worker::{
    batch::{ApplyError, MessageResult},
    store::workers::MemberId,
};
use anyhow::{Context, Result, bail, ensure};
use shared::{
    domain::{
        component::{Attribute, Component, ComponentId},
        update_id::UpdateId,
    },
    wire::message::UpdateResult,
};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio::sync::watch;

pub use self::worker::Broken;
use self::{
    delivery::{Batch, Delivery, Posted},
    edit::{insert_component, make},
    queue::Again,
    record::apply_noted_beside,
    worker::{apply_batch, is_tried_again},
};
use super::{
    connect,
    history::{COMPONENTS, Edit, End, Hold, Pick, Step},
};
use crate::{
    replay,
    verdict::{self, Attempt, Expected},
};

const PARTITIONS: u16 = 3;
/// Tries of one batch.
const TRIES: usize = 5;
/// Steps until what batches have noted is applied to the record of affected components.
const APPLIES_EVERY: usize = 3;
/// Batches until all queues are empty.
const ROUNDS: usize = 200;

/// Who writes in the database of a simulation, by the name of the connection.
const WORKER: &str = "worker";
const OPERATOR: &str = "operator";
const RIG: &str = "simulation";

/// What is left when a history is through.
#[derive(Debug, Default)]
pub struct Played {
    /// Everything that a verdict needs.
    pub run: verdict::Run,
    /// Workers that were killed or missed, and messages that came again.
    pub broken: usize,
    /// Updates that waited for rows that others held.
    pub deferred: usize,
    /// Updates that were posted in envelopes of several.
    pub together: usize,
    /// Batches that ended inside an envelope.
    pub cut: usize,
    /// Settled updates that came again with their envelopes.
    pub settled_again: usize,
}

pub(super) struct Rig {
    uri: String,
    database: PgConnection,
    operator: PgConnection,
    /// Connections of workers, idle.
    idle: Vec<PgConnection>,
    queues: Vec<VecDeque<Delivery>>,
    live_workers: Vec<MemberId>,
    /// Those that the others missed, with what they have in their hands.
    stalled: Vec<(MemberId, Batch)>,
    catalogue: BTreeMap<ComponentId, Component>,
    /// Components that are gone for now.
    gone: HashMap<ComponentId, Component>,
    posted: HashMap<UpdateId, Posted>,
    /// All messages, in the order of their posting.
    deliveries: Vec<Delivery>,
    messages: HashMap<UpdateId, verdict::Message>,
    attempts: Vec<Attempt>,
    results: Vec<UpdateResult>,
    renamed: usize,
    /// Transactions that were begun for a batch.
    tries: usize,
    steps: usize,
    played: Played,
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
            live_workers: Vec::new(),
            stalled: Vec::new(),
            catalogue: BTreeMap::new(),
            gone: HashMap::new(),
            posted: HashMap::new(),
            deliveries: Vec::new(),
            messages: HashMap::new(),
            attempts: Vec::new(),
            results: Vec::new(),
            renamed: 0,
            tries: 0,
            steps: 0,
            played: Played::default(),
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
        self.steps += 1;
        if self.steps.is_multiple_of(APPLIES_EVERY) {
            self.apply_some_noted().await?;
        }
        match step {
            Step::Post(update) => self.post(update),
            Step::PostMany(updates, flaw) => self.post_many(updates, *flaw),
            Step::Redeliver(index) => self.redeliver(*index, Again::FromQueue),
            Step::GiveUp(index) => self.redeliver(*index, Again::GivenUp),
            Step::Refuse(index) => self.redeliver(*index, Again::Refused),
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
            for place in 0..self.live_workers.len() {
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
        Ok(Played { run, ..self.played })
    }

    async fn work(&mut self, worker: Pick, batch: usize, end: End) -> Result<()> {
        match self.busy(worker) {
            Some(place) => self.work_at(place, batch, end).await,
            None => Ok(()),
        }
    }

    async fn work_at(&mut self, place: usize, most: usize, end: End) -> Result<()> {
        let batch = self.batch(place, most);
        let Some(member) = self.live_workers.get(place).copied() else { return Ok(()) };
        if batch.is_empty() {
            return Ok(());
        }
        self.send_heartbeats().await?;
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
            let applying =
                apply_batch(&mut connection, member, batch.incoming(self.fault), self.fault);
            polled(pin!(applying), polls).await
        };
        // If its membership has expired, it has done nothing.
        if let Some(Err(error @ (ApplyError::TooLong(_) | ApplyError::Database(_)))) = applied {
            bail!("the batch was refused: {error}");
        }
        drop(connection);
        self.has_noticed(backend).await?;
        // Nobody says that it is gone; after a while it is missed, and its partitions move.
        self.miss(place).await
    }

    /// A batch as a worker settles it: tried again when others were in its way.
    async fn settled(&mut self, member: MemberId, batch: &Batch) -> Result<Vec<MessageResult>> {
        let mut connection = self.connection().await?;
        for _ in 0..TRIES {
            self.tries += 1;
            match apply_batch(&mut connection, member, batch.incoming(self.fault), self.fault).await
            {
                Ok(applied) => {
                    self.idle.push(connection);
                    return Ok(applied);
                }
                Err(error) if is_tried_again(&error) => {}
                // Since its heartbeat, a slow machine took longer than a membership lasts.
                Err(ApplyError::Expired) => self.send_heartbeats().await?,
                Err(error) => return Err(error).context("the batch was refused"),
            }
        }
        bail!("the batch was refused again and again")
    }

    /// What a live worker knows about a batch, and reports.
    fn heard(&mut self, batch: &Batch, applied: &[MessageResult]) -> Result<()> {
        let batch = batch.incoming(self.fault);
        ensure!(batch.len() == applied.len(), "{} of {}", applied.len(), batch.len());
        for (incoming, applied) in batch.iter().zip(applied) {
            match applied {
                MessageResult::Settled(verdict) => {
                    let id = incoming.update_id().context("a message without an id")?;
                    let verdict = verdict.clone().context("no verdict")?;
                    self.results.push(UpdateResult { id, verdict });
                }
                MessageResult::Deferred(_) => self.played.deferred += 1,
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
        let Some(member) = self.live_workers.get(place).copied() else { return Ok(()) };
        self.send_heartbeats().await?;
        let mut connection = self.connection().await?;
        let (through, done) = watch::channel(false);
        self.tries += 1;
        let (applied, made) = {
            let mut applying =
                pin!(apply_batch(&mut connection, member, batch.incoming(self.fault), self.fault));
            let early = polled(applying.as_mut(), polls).await;
            let finish = async {
                let applied = match early {
                    Some(applied) => applied,
                    None => applying.await,
                };
                through.send_replace(true);
                applied
            };
            let beside = apply_noted_beside(&mut self.database, done.clone());
            let (applied, made, noted) =
                tokio::join!(finish, make(&mut self.operator, &plan, hold, done), beside);
            noted?;
            (applied, made)
        };
        if made? {
            self.was_made(plan);
        }
        let applied = match applied {
            Ok(applied) => {
                self.idle.push(connection);
                applied
            }
            Err(error) if is_tried_again(&error) || matches!(error, ApplyError::Expired) => {
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
        self.send_heartbeats().await?;
        let [a, b] = [self.batch(one, most), self.batch(other, most)];
        let members =
            [self.live_workers.get(one), self.live_workers.get(other)].map(Option::<&_>::copied);
        let [Some(first), Some(second)] = members else { return Ok(()) };
        let (mut left, mut right) = (self.connection().await?, self.connection().await?);
        self.tries += 2;
        let (of_a, of_b) = tokio::join!(
            apply_batch(&mut left, first, a.incoming(self.fault), self.fault),
            apply_batch(&mut right, second, b.incoming(self.fault), self.fault)
        );
        self.idle.extend([left, right]);
        for (place, member, batch, applied) in [(one, first, a, of_a), (other, second, b, of_b)] {
            let applied = match applied {
                Err(ApplyError::Expired) => self.settled(member, &batch).await?,
                applied => applied?,
            };
            self.heard(&batch, &applied)?;
            self.acknowledge(place, &applied);
        }
        Ok(())
    }
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
