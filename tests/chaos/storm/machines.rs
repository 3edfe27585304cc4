//! Faults of several machines: nodes of RabbitMQ, and PostgreSQL's primary and standby.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use harness::eventually_within;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{RECOVERY_LIMIT, Storm};
use crate::{
    machines::{Loss, Machines, bring_back, lose},
    plan::MachineFault,
};

impl Storm {
    /// One fault, from its beginning to its end.
    pub(super) async fn suffer_on_machines(&self, fault: &MachineFault) -> Result<()> {
        match fault {
            MachineFault::KillNodes { nodes, away } => self.kill_nodes(nodes, *away).await,
            MachineFault::StallNode { node, time } => {
                let node = *node;
                self.diary.note(format!("RabbitMQ: node {node} stalled for {time:.1?}"));
                self.on_machines(move |m| m.cluster.node(node).map(|node| node.pause())).await?;
                sleep(*time).await;
                self.heal_nodes(&[node]).await
            }
            MachineFault::CutOffNode { node, time } => {
                let node = *node;
                self.diary.note(format!("RabbitMQ: node {node} cut off for {time:.1?}"));
                self.on_machines(move |m| m.cluster.cut_off(node)).await?;
                sleep(*time).await;
                self.heal_nodes(&[node]).await
            }
            MachineFault::RestartNodes { nodes, away } => self.restart_nodes(nodes, *away).await,
            MachineFault::FailOver { loss, away, beside } => {
                self.fail_over(*loss, *away, *beside).await
            }
            MachineFault::RestartPrimary { away } => {
                self.diary.note(format!("PostgreSQL: primary killed, away for {away:.1?}"));
                self.on_machines(|m| {
                    m.primary().kill();
                    Ok(())
                })
                .await?;
                sleep(*away).await;
                self.on_machines(|m| m.primary().start()).await?;
                self.diary.note("PostgreSQL: primary started");
                Ok(())
            }
            MachineFault::LoseStandby { loss, time } => self.lose_standby(*loss, *time).await,
        }
    }

    async fn kill_nodes(&self, nodes: &[usize], away: Duration) -> Result<()> {
        self.diary.note(format!("RabbitMQ: nodes {nodes:?} killed, away for {away:.1?}"));
        for node in nodes.iter().copied() {
            self.on_machines(move |m| m.cluster.node(node).map(|node| node.kill())).await?;
        }
        sleep(away).await;
        if let [first, _, ..] = nodes[..] {
            self.on_machines(move |m| m.cluster.node(first)?.start()).await?;
            self.diary.note(format!("RabbitMQ: node {first} started, which makes two"));
            self.decides().await?;
        }
        self.heal_nodes(nodes).await
    }

    async fn restart_nodes(&self, nodes: &[usize], away: Duration) -> Result<()> {
        for node in nodes.iter().copied() {
            self.diary.note(format!("RabbitMQ: node {node} stopped for {away:.1?}"));
            self.on_machines(move |m| m.cluster.node(node).map(|node| node.stop())).await?;
            sleep(away).await;
            self.heal_nodes(&[node]).await?;
            self.decides().await?;
        }
        Ok(())
    }

    async fn lose_standby(&self, loss: Loss, time: Duration) -> Result<()> {
        self.diary.note(format!("PostgreSQL: standby {loss:?} for {time:.1?}"));
        self.on_machines(move |m| {
            lose(m.standby(), loss);
            Ok(())
        })
        .await?;
        sleep(time).await;
        self.on_machines(move |m| bring_back(m.standby(), loss)).await?;
        self.diary.note("PostgreSQL: standby is back");
        Ok(())
    }

    /// The primary is lost, and its standby promoted. The old primary comes back, runs beside the new one
    /// for a while, and follows it then.
    async fn fail_over(&self, loss: Loss, away: Duration, beside: Duration) -> Result<()> {
        self.diary.note(format!("PostgreSQL: primary {loss:?}, promotion after {away:.1?}"));
        self.on_machines(move |m| {
            lose(m.primary(), loss);
            Ok(())
        })
        .await?;
        sleep(away).await;
        self.on_machines(Machines::promote).await?;
        self.diary.note("PostgreSQL: standby promoted");
        self.on_machines(move |m| bring_back(m.standby(), loss)).await?;
        self.diary.note(format!("PostgreSQL: old primary runs, too, for {beside:.1?}"));
        sleep(beside).await;
        self.on_machines(Machines::follow).await?;
        self.diary.note("PostgreSQL: old primary is the standby");
        Ok(())
    }

    async fn heal_nodes(&self, nodes: &[usize]) -> Result<()> {
        let begin = Instant::now();
        // One of several that were lost is whole only when the others are back.
        for node in nodes.iter().rev().copied() {
            self.on_machines(move |m| m.cluster.heal(node)).await?;
        }
        let took = begin.elapsed();
        self.diary.note(format!("RabbitMQ: nodes {nodes:?} are back after another {took:.1?}"));
        Ok(())
    }

    /// Waits until every gateway gives outcomes.
    async fn decides(&self) -> Result<()> {
        let now = Instant::now();
        eventually_within(RECOVERY_LIMIT, "every gateway gives outcomes", async || {
            Ok(self.load.record.all_decide_since(now))
        })
        .await
    }

    async fn on_machines<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Machines) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let machines: Arc<Machines> = self.machines.clone().context("there is one machine only")?;
        spawn_blocking(move || act(&machines)).await?
    }
}
