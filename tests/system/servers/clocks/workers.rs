//! Several workers whose clocks differ.

use std::sync::Arc;

use anyhow::{Context, Result};
use harness::{
    ADMIN, Fixture, Process, System, answer,
    burst::{Burst, took_effect_once},
    eventually, tests,
};
use nix::sys::signal::Signal;

use super::{DAY, HOUR, are_stamped_right, clocks, inbox_partitions};

tests!(workers_share_the_partitions_and_apply_updates_whatever_their_clocks);

/// Waits until these workers have all partitions, and each has some.
async fn share(system: &System, workers: &[Process]) -> Result<()> {
    eventually("the workers share the partitions", async || {
        let mut shares = Vec::new();
        for worker in workers {
            let url = format!("http://{}/metrics", worker.admin_address().await?);
            let metrics = answer(system.client.get(url)).await?.body;
            let mut lines = metrics.as_str().context("no metrics")?.lines();
            let share = lines.find_map(|line| line.strip_prefix("sdb_partitions_owned "));
            shares.push(share.context("no share")?.parse::<u16>()?);
        }
        Ok(shares.iter().sum::<u16>() == 8 && shares.iter().all(|share| *share > 0))
    })
    .await
}

async fn workers_share_the_partitions_and_apply_updates_whatever_their_clocks(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let clocks = clocks(&fixture, &[21 * DAY, -21 * DAY, 3 * HOUR]).await?;
    let mut system = System::prepared(&fixture).await?;
    let partitions = inbox_partitions(&system).await?;
    for clock in &clocks {
        let [library, offset] = clock.variables()?;
        system.start_worker(&[library, offset, ADMIN]).await?;
    }
    system.start_gateway(&[]).await?;
    let burst = Burst::start(&system).await?;
    share(&system, &system.workers).await?;
    // While they run, too.
    for offsets in [[-21 * DAY, 21 * DAY, -3 * HOUR], [0, 3 * HOUR, 21 * DAY]] {
        for (clock, seconds) in clocks.iter().zip(offsets) {
            clock.set(seconds)?;
        }
        burst.is_decided().await.with_context(|| format!("{offsets:?}"))?;
        share(&system, &system.workers).await.with_context(|| format!("{offsets:?}"))?;
    }
    // The membership of one that is gone expires.
    system.workers[0].signal(Signal::SIGKILL)?;
    share(&system, &system.workers[1..]).await?;
    burst.is_decided().await?;
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    are_stamped_right(&system).await?;
    anyhow::ensure!(inbox_partitions(&system).await? == partitions);
    system.finish().await
}
