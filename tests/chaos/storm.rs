//! Injects faults, removes them, and measures how long the system takes to recover.

mod machines;
mod topology;
mod upgrade;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use harness::System;
use sqlx::PgPool;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use crate::{
    diary::Diary,
    interruption::Broken,
    load::Load,
    machines::Machines,
    member::Member,
    plan::{Cut, Fault, Plan, Server},
};

/// Time for the system to recover: much, for a machine that is busy with other things.
const RECOVERY_LIMIT: Duration = Duration::from_secs(120);
/// All must be well for so long, for the system to count as recovered.
const WELL_FOR: Duration = Duration::from_millis(1_500);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) episodes: usize,
    /// What was broken, in the order of the beginnings.
    pub(crate) broken: Vec<Broken>,
    /// Changes of the topology.
    pub(crate) changes_killed: usize,
    pub(crate) changes_given_up: usize,
    /// Until every gateway answered with an outcome and all accepted before was settled.
    pub(crate) longest_recovery: Duration,
    /// Until the last answer that was not an outcome though its client waited for one.
    pub(crate) longest_unease: Duration,
    /// The newest incident before it was recorded when components are affected, which earlier releases do not.
    pub(crate) unrecorded_until: Option<i32>,
    /// What processes or the system as a whole did that must not be.
    pub(crate) wrong: Vec<String>,
}

impl Tally {
    /// Something is broken from now on.
    pub(crate) fn breaks(&mut self, kind: &'static str) {
        self.broken.push(Broken { kind, begin: Instant::now(), end: None });
    }

    /// All is well again.
    fn heals(&mut self) {
        let now = Instant::now();
        let is_alone = self.broken.iter().filter(|broken| broken.end.is_none()).count() == 1;
        for broken in self.broken.iter_mut().filter(|broken| broken.end.is_none()) {
            broken.end = Some((now, is_alone));
        }
    }
}

/// The system and those who break it.
pub(crate) struct Storm {
    pub(crate) system: System,
    pub(crate) members: Vec<Arc<Member>>,
    pub(crate) load: Arc<Load>,
    pub(crate) diary: Arc<Diary>,
    /// Set when the storm is to end early.
    pub(crate) ended: Arc<AtomicBool>,
    pub(crate) tally: Mutex<Tally>,
    /// The machines, where there are several that do the same.
    pub(crate) machines: Option<Arc<Machines>>,
}

impl Storm {
    /// Breaks things until the time is over, or the plan is; returns when all is well again.
    pub(crate) async fn rage(&self, mut plan: Plan, time: Duration) -> Result<()> {
        let begin = Instant::now();
        self.recover(begin).await?;
        while begin.elapsed() < time && !self.ended.load(Ordering::Relaxed) {
            let Some(episode) = plan.next() else { break };
            self.tally().episodes += 1;
            let breaking = episode.faults.iter().map(async |(begin, fault)| {
                sleep(*begin).await;
                self.tally().breaks(fault.kind());
                self.suffer(fault).await
            });
            for done in join_all(breaking).await {
                done?;
            }
            let healed = Instant::now();
            self.reopen().await?;
            self.recover(healed).await?;
            sleep(episode.quiet).await;
        }
        Ok(())
    }

    /// One fault, from its beginning to its end.
    async fn suffer(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill { member, away } => {
                let member = self.member(*member)?;
                self.diary.note(format!("{}: killed, away for {away:.1?}", member.name));
                member.kill()?;
                sleep(*away).await;
                member.start()?;
                self.diary.note(format!("{}: started", member.name));
            }
            Fault::Stall { member, time } => {
                let member = self.member(*member)?;
                self.diary.note(format!("{}: stalled for {time:.1?}", member.name));
                member.freeze();
                sleep(*time).await;
                member.thaw();
                self.diary.note(format!("{}: goes on", member.name));
            }
            Fault::Roll { member } => {
                let member = self.member(*member)?.clone();
                self.diary.note(format!("{}: told to stop", member.name));
                let (begin, stopping) = (Instant::now(), member.clone());
                if let Err(error) = spawn_blocking(move || stopping.stop()).await? {
                    self.see_wrong(format!("{error:#}"));
                }
                member.start()?;
                let took = begin.elapsed();
                self.diary.note(format!("{}: stopped in {took:.1?}, started", member.name));
            }
            Fault::Restart { server, away } => {
                self.diary.note(format!("{server}: stopped, away for {away:.1?}"));
                self.on_server(*server, |server| server.stop()).await?;
                sleep(*away).await;
                self.start_server(*server).await?;
            }
            Fault::KillServer { server, away } => {
                self.diary.note(format!("{server}: killed, away for {away:.1?}"));
                self.on_server(*server, |server| server.kill()).await?;
                sleep(*away).await;
                self.start_server(*server).await?;
            }
            Fault::StallServer { server, time } => {
                self.diary.note(format!("{server}: stalled for {time:.1?}"));
                self.on_server(*server, |server| server.pause()).await?;
                sleep(*time).await;
                self.on_server(*server, |server| server.resume()).await?;
                self.diary.note(format!("{server}: goes on"));
            }
            Fault::Cut { members, server, cut, time } => {
                self.cut(members, *server, *cut, *time).await?;
            }
            Fault::Alarm { time } => self.alarm(*time).await?,
            Fault::Reshape { partitions, killed_after } => {
                self.repartition(*partitions, *killed_after).await?;
            }
            Fault::Rewire { version, killed_after } => {
                self.rewire(*version, *killed_after).await?;
            }
            Fault::Machine(fault) => self.suffer_on_machines(fault).await?,
        }
        Ok(())
    }

    async fn cut(&self, members: &[usize], server: Server, cut: Cut, time: Duration) -> Result<()> {
        let members: Vec<&Arc<Member>> =
            members.iter().map(|member| self.member(*member)).collect::<Result<_>>()?;
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let names = names.join(", ");
        self.diary.note(format!("{names} to {server}: {cut:?} for {time:.1?}"));
        let wires = || {
            members.iter().map(|member| match server {
                Server::PostgreSql => &member.database,
                Server::RabbitMq => &member.broker,
            })
        };
        for wire in wires() {
            match cut {
                Cut::Reset => wire.reset(),
                Cut::Refuse => wire.cut(),
                Cut::Silence => wire.silence(),
                Cut::Delay(time) => wire.delay(time),
            }
        }
        sleep(time).await;
        wires().for_each(harness::proxy::Proxy::pass);
        self.diary.note(format!("{names} to {server}: connected"));
        Ok(())
    }

    async fn alarm(&self, time: Duration) -> Result<()> {
        self.diary.note(format!("RabbitMQ: short of memory for {time:.1?}"));
        self.watermark(&["0"]).await?;
        sleep(time).await;
        self.watermark(&["absolute", "1GiB"]).await?;
        self.diary.note("RabbitMQ: has memory again");
        Ok(())
    }

    async fn watermark(&self, value: &'static [&str]) -> Result<()> {
        let servers = self.system.context.clone();
        let arguments = [&["set_vm_memory_high_watermark"], value].concat();
        spawn_blocking(move || servers.rabbitmq().ctl(&arguments)).await??;
        Ok(())
    }

    async fn start_server(&self, server: Server) -> Result<()> {
        self.on_server(server, |server| server.start()).await??;
        self.diary.note(format!("{server}: started"));
        Ok(())
    }

    async fn on_server<T: Send + 'static>(
        &self,
        server: Server,
        act: impl FnOnce(&dyn Acts) -> T + Send + 'static,
    ) -> Result<T> {
        let servers = self.system.context.clone();
        Ok(spawn_blocking(move || match server {
            Server::PostgreSql => act(servers.postgres()),
            Server::RabbitMq => act(servers.rabbitmq()),
        })
        .await?)
    }

    /// Waits until every gateway answers with outcomes and all that was accepted before is settled,
    /// and then until all answers are outcomes again.
    async fn recover(&self, healed: Instant) -> Result<()> {
        let database = &self.system.database;
        let mut recovered = None;
        loop {
            let now = Instant::now();
            let decided = self.load.record.all_decide_since(healed);
            let waiting = match unsettled(&self.load, database, healed).await {
                Ok(0) => None,
                Ok(count) => Some(format!("{count} updates")),
                Err(error) => Some(format!("{error:#}")),
            };
            if decided && waiting.is_none() {
                recovered.get_or_insert_with(|| healed.elapsed());
            }
            let worse = self.load.record.worse_since(healed);
            let is_well = now.duration_since(worse.unwrap_or(healed)) >= WELL_FOR;
            if let (Some(recovered), true) = (recovered, is_well) {
                let unease = worse.map_or(Duration::ZERO, |worse| worse.duration_since(healed));
                self.diary.note(format!(
                    "recovered in {recovered:.2?}; all answers are outcomes since {unease:.2?}"
                ));
                let mut tally = self.tally();
                tally.heals();
                tally.longest_recovery = tally.longest_recovery.max(recovered);
                tally.longest_unease = tally.longest_unease.max(unease);
                return Ok(());
            }
            ensure!(
                healed.elapsed() < RECOVERY_LIMIT,
                "the system did not recover within {} s: all gateways decide: {decided}; not \
                settled: {waiting:?}; the last answer without an outcome: {:?} ago",
                RECOVERY_LIMIT.as_secs(),
                worse.map(|worse| worse.elapsed())
            );
            sleep(LOOK_EVERY).await;
        }
    }

    /// Where the database is, whichever server has it.
    pub(crate) fn database_uri(&self) -> &str {
        let machines = self.machines.as_ref();
        machines.map_or(&self.system.database_uri, |machines| machines.database_uri())
    }

    /// Looks at the processes for as long as it is polled: none may end by itself.
    pub(crate) async fn watch(&self) -> Result<()> {
        loop {
            for member in &self.members {
                if let Some(ended) = member.look() {
                    self.see_wrong(ended);
                    member.start()?;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    pub(crate) fn see_wrong(&self, what: String) {
        self.diary.note(format!("WRONG: {what}"));
        self.tally().wrong.push(what);
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member(&self, number: usize) -> Result<&Arc<Member>> {
        self.members.get(number).context("there is no such process")
    }
}

/// How many updates that were answered 202 before this are not settled.
async fn unsettled(load: &Load, database: &PgPool, before: Instant) -> Result<usize> {
    let waiting = load.record.unsettled_before(before);
    if waiting.is_empty() {
        return Ok(0);
    }
    let asking = sqlx::query_scalar(
        "SELECT id FROM sdb_inbox WHERE id = ANY($1)
        UNION ALL SELECT update_id FROM sdb_parked WHERE update_id = ANY($1)",
    )
    .bind(&waiting)
    .fetch_all(database);
    let settled: Vec<Uuid> = timeout(Duration::from_secs(5), asking).await.context("silence")??;
    load.record.settled(&settled);
    Ok(waiting.len().saturating_sub(settled.len()))
}

/// What both servers can be made to do.
trait Acts {
    fn start(&self) -> Result<()>;
    fn stop(&self);
    fn kill(&self);
    fn pause(&self);
    fn resume(&self);
}

macro_rules! acts {
    ($($server:ty),*) => {
        $(impl Acts for $server {
            fn start(&self) -> Result<()> {
                self.start()
            }
            fn stop(&self) {
                self.stop();
            }
            fn kill(&self) {
                self.kill();
            }
            fn pause(&self) {
                self.pause();
            }
            fn resume(&self) {
                self.resume();
            }
        })*
    };
}

acts!(deploy::servers::Postgres, deploy::servers::RabbitMq);
