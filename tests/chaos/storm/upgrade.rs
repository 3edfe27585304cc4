//! A rolling upgrade from an earlier release as the runbook has it, the way back, and an upgrade in the
//! other order, under load.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use deploy::binaries::Binaries;
use harness::eventually_within;
use serde_json::Value;
use shared::wire::message;
use tokio::{task::spawn_blocking, time::Instant};

use super::{RECOVERY_LIMIT, Storm};
use crate::{GATEWAYS, member::Member};

/// In the middle of a change of the topology.
const KILLED_AFTER: Duration = Duration::from_millis(800);

/// How a process of one release ends before that of another one starts.
#[derive(Clone, Copy, Debug)]
enum End {
    /// As the runbook says, by SIGTERM.
    Stopped,
    /// By SIGKILL.
    Killed,
}

impl Storm {
    /// Ends with the newer programs, which this checkout has.
    pub(crate) async fn upgrade_and_back(&self, earlier: &Binaries) -> Result<()> {
        let newer = self.system.context.binaries.clone();
        self.recover(Instant::now()).await?;
        self.diary.note("all processes are of the earlier release");
        let database = &self.system.database;
        let is_recorded: bool =
            sqlx::query_scalar("SELECT to_regclass('sdb_affected') IS NOT NULL")
                .fetch_one(database)
                .await?;
        self.migrate(&newer).await?;
        if !is_recorded {
            let newest =
                sqlx::query_scalar("SELECT max(id) FROM incident").fetch_one(database).await?;
            self.tally().unrecorded_until = newest;
        }
        let recorded = self.recorded("wire").await?;

        let (gateways, workers) = self.members.split_at(GATEWAYS);
        self.replace_all(workers, &newer, "newer").await?;
        self.replace_all(gateways, &newer, "newer").await?;
        self.set_wire(message::NEWEST.into()).await?;
        self.kill_one_of_each().await?;

        if recorded < message::NEWEST.into() {
            self.cannot_join(earlier, recorded).await?;
        }
        self.set_wire(recorded).await?;
        self.replace_all(gateways, earlier, "earlier").await?;
        self.replace_all(workers, earlier, "earlier").await?;
        self.kill_one_of_each().await?;
        self.migrate_back(earlier).await?;

        self.migrate(&newer).await?;
        self.replace_all(gateways, &newer, "newer").await?;
        self.replace_all(workers, &newer, "newer").await?;
        self.set_wire(message::NEWEST.into()).await
    }

    /// Prepares the database for these programs while others run.
    async fn migrate(&self, programs: &Binaries) -> Result<()> {
        ensure!(self.run_migrate(programs).await?, "worker migrate failed");
        self.recover(Instant::now()).await
    }

    /// Runs the command of the earlier release, as deployments do before they start its programs. A
    /// release that does not know how to leave a newer database alone refuses it; either is harmless.
    async fn migrate_back(&self, earlier: &Binaries) -> Result<()> {
        self.run_migrate(earlier).await?;
        self.recover(Instant::now()).await
    }

    /// Whether it succeeded.
    async fn run_migrate(&self, programs: &Binaries) -> Result<bool> {
        let variables = [("SDB_DATABASE_URI", self.system.database_uri.as_str())];
        let migrated = self.system.context.command(&programs.worker, &["migrate"], &variables);
        let (done, said) = migrated.await?;
        let said = said.trim().replace('\n', " ");
        self.diary.note(format!("worker migrate: {said}"));
        Ok(done)
    }

    /// Replaces processes one after the other. In the middle, while both releases run, the number of
    /// partitions is changed.
    async fn replace_all(
        &self,
        members: &[Arc<Member>],
        programs: &Binaries,
        release: &str,
    ) -> Result<()> {
        for (place, member) in members.iter().enumerate() {
            let end = if place % 2 == 0 { End::Stopped } else { End::Killed };
            self.replace(member, programs, release, end).await?;
            if place == 0 {
                self.change_partitions().await?;
            }
        }
        Ok(())
    }

    async fn replace(
        &self,
        member: &Arc<Member>,
        programs: &Binaries,
        release: &str,
        end: End,
    ) -> Result<()> {
        self.diary.note(format!("{}: {end:?}, the {release} release follows", member.name));
        match end {
            End::Stopped => {
                self.tally().breaks("process restarted");
                let stopping = member.clone();
                spawn_blocking(move || stopping.stop()).await??;
            }
            End::Killed => {
                self.tally().breaks("process killed");
                member.kill()?;
            }
        }
        member.take_program(programs);
        self.start(member).await
    }

    /// Starts a process, and waits until it is ready and all is well.
    async fn start(&self, member: &Member) -> Result<()> {
        member.start()?;
        let what = format!("{} is ready", member.name);
        eventually_within(RECOVERY_LIMIT, &what, async || Ok(self.is_ready(member).await)).await?;
        self.recover(Instant::now()).await
    }

    async fn is_ready(&self, member: &Member) -> bool {
        let url = format!("http://{}/readyz", member.address);
        let answer = self.load.client.get(url).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// A gateway and a worker are killed, and started again.
    async fn kill_one_of_each(&self) -> Result<()> {
        for member in [self.members.first(), self.members.last()] {
            let member = member.context("there is no process")?;
            self.diary.note(format!("{}: killed", member.name));
            self.tally().breaks("process killed");
            member.kill()?;
            self.start(member).await?;
        }
        Ok(())
    }

    /// Changes the number of partitions by the newest command, whichever release the processes are of. A
    /// first one is killed: workers of either release take back what it left.
    async fn change_partitions(&self) -> Result<()> {
        let partitions = if self.recorded("partitions").await? == 8 { 6 } else { 8 };
        self.repartition(partitions.try_into()?, Some(KILLED_AFTER)).await?;
        self.recover(Instant::now()).await?;
        self.repartition(partitions.try_into()?, None).await?;
        let recorded = self.recorded("partitions").await?;
        ensure!(recorded == partitions, "{recorded} partitions instead of {partitions}");
        self.recover(Instant::now()).await
    }

    /// Changes the version of messages that gateways write.
    async fn set_wire(&self, version: i64) -> Result<()> {
        if self.recorded("wire").await? == version {
            return Ok(());
        }
        self.rewire(version.try_into()?, None).await?;
        let recorded = self.recorded("wire").await?;
        ensure!(recorded == version, "version {recorded} of messages instead of {version}");
        self.recover(Instant::now()).await
    }

    /// A value of the recorded topology, as the command shows it.
    async fn recorded(&self, what: &str) -> Result<i64> {
        let shown = self.system.worker_succeeds(&["topology", "show", "--json"]).await?;
        let shown: Value = serde_json::from_str(&shown)?;
        shown[what].as_i64().with_context(|| format!("the topology has no {what}: {shown}"))
    }

    /// A worker of the earlier release takes no part while gateways write what it can't read.
    async fn cannot_join(&self, earlier: &Binaries, reads: i64) -> Result<()> {
        let member = Member::new(&self.system, earlier, "worker", self.members.len()).await?;
        member.start()?;
        self.diary.note(format!("{}: of the earlier release, must not join", member.name));
        // By the database, or by its own check.
        let refusals = [
            format!("this worker reads messages up to version {reads}"),
            format!("this program knows versions up to {reads}"),
        ];
        let is_refused = async || {
            let log = member.log()?;
            Ok(refusals.iter().any(|refusal| log.contains(refusal)))
        };
        eventually_within(RECOVERY_LIMIT, "it is refused", is_refused).await?;
        ensure!(!self.is_ready(&member).await, "{} is ready", member.name);
        member.kill()?;
        self.recover(Instant::now()).await
    }
}
