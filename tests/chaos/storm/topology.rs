//! Changes of the topology, as an operator makes them: the number of partitions and the version of messages.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result};
use tokio::{process::Command, time::timeout};

use super::{Storm, Tally};

/// Time for a change of the topology, which ends by itself sooner.
const CHANGE_LIMIT: Duration = Duration::from_secs(90);

impl Storm {
    /// Changes the number of partitions.
    pub(super) async fn repartition(
        &self,
        partitions: u16,
        killed_after: Option<Duration>,
    ) -> Result<()> {
        let change = ["--partitions", &partitions.to_string()];
        self.change(change, killed_after, |tally| &mut tally.repartitions).await
    }

    /// Changes the newest version of messages that gateways write.
    pub(super) async fn rewire(&self, version: u16, killed_after: Option<Duration>) -> Result<()> {
        let change = ["--wire", &version.to_string()];
        self.change(change, killed_after, |tally| &mut tally.rewires).await
    }

    /// `count` has the number of such changes.
    async fn change(
        &self,
        change: [&str; 2],
        killed_after: Option<Duration>,
        count: impl FnOnce(&mut Tally) -> &mut usize,
    ) -> Result<()> {
        let named = change.join(" ");
        let how = match killed_after {
            Some(time) => format!(", the command killed after {time:.1?}"),
            None => String::new(),
        };
        self.diary.note(format!("topology: {named}{how}"));
        let limit = killed_after.unwrap_or(CHANGE_LIMIT);
        match (self.change_topology(change, limit).await?, killed_after) {
            (None, Some(_)) => self.tally().changes_killed += 1,
            (None, None) => self.see_wrong("`worker topology change` hangs".to_owned()),
            (Some((true, said)), _) if said.contains("That is the topology already") => {
                self.diary.note(format!("topology: {named} already"));
            }
            (Some((true, _)), _) => {
                *count(&mut self.tally()) += 1;
                self.diary.note(format!("topology: {named} now"));
            }
            (Some((false, said)), _) => {
                self.tally().changes_given_up += 1;
                self.diary.note(format!("topology: not changed: {said}"));
            }
        }
        Ok(())
    }

    /// Whether it succeeded, and what it said; none when it was killed, after the limit.
    async fn change_topology(
        &self,
        change: [&str; 2],
        limit: Duration,
    ) -> Result<Option<(bool, String)>> {
        let mut command = Command::new(&self.system.context.binaries.worker);
        command
            .args(["topology", "change"])
            .args(change)
            .env_clear()
            .env("SDB_DATABASE_URI", &self.system.database_uri)
            .env("SDB_AMQP_URI", &self.system.amqp_uri)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let Ok(output) = timeout(limit, command.output()).await else { return Ok(None) };
        let output = output.context("the worker can't be run")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Ok(Some((output.status.success(), said.trim().to_owned())))
    }

    /// What a change that was killed left closed, an operator opens by running it again.
    pub(super) async fn reopen(&self) -> Result<()> {
        for _ in 0..10 {
            let recorded: (String, i32) =
                sqlx::query_as("SELECT phase, partitions FROM sdb_topology")
                    .fetch_one(&self.system.database)
                    .await?;
            let (phase, partitions) = recorded;
            if phase == "open" {
                return Ok(());
            }
            self.diary.note(format!("topology: left {phase}, the change is run again"));
            let change = ["--partitions", &partitions.to_string()];
            let again = self.change_topology(change, CHANGE_LIMIT).await?;
            self.diary.note(format!("topology: {again:?}"));
        }
        self.see_wrong("the topology can't be opened again".to_owned());
        Ok(())
    }
}
