//! A burst, and what its answers say about the time of trouble.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use harness::{
    System,
    burst::{Burst, Sent, took_effect_once},
};
use tokio::time::{Instant, sleep_until};

use super::PARTITIONS;

/// Time in which an update of a partition that has its leader is answered, the load of a busy machine
/// included.
const UNDISTURBED: Duration = Duration::from_secs(3);
/// How long the answers are observed after the time in which all must be well again.
const OBSERVED: Duration = Duration::from_secs(4);

/// A burst, and when its trouble began.
pub(super) struct Load {
    burst: Burst,
    began: Instant,
}

/// The answers of a burst.
pub(super) struct Answers {
    pub(super) sent: Vec<Sent>,
    /// When the trouble began.
    began: Instant,
}

impl Load {
    pub(super) async fn start(system: &System) -> Result<Self> {
        Ok(Self { burst: Burst::start_light(system).await?, began: Instant::now() })
    }

    /// The burst.
    pub(super) fn burst(&self) -> &Burst {
        &self.burst
    }

    /// The trouble begins.
    pub(super) fn trouble(&mut self) {
        self.began = Instant::now();
    }

    /// The time since the trouble began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Goes on until this time after the beginning of the trouble.
    pub(super) async fn until(&self, time: Duration) {
        sleep_until(self.began + time).await;
    }

    /// Stops the burst once all must be well again for a while. All that was taken took effect once and in
    /// order.
    pub(super) async fn finish(self, system: &System, well_after: Duration) -> Result<Answers> {
        self.until(well_after + OBSERVED).await;
        let sent = self.burst.stop().await?;
        system.drained().await?;
        took_effect_once(system, &sent).await?;
        Ok(Answers { sent, began: self.began })
    }
}

impl Answers {
    /// Whatever was sent to a gateway from so long after the beginning of the trouble on was taken.
    pub(super) fn are_taken_after(&self, gateway: usize, time: Duration) -> Result<()> {
        let is_late = |sent: &&Sent| sent.gateway == gateway && sent.at >= self.began + time;
        let late: Vec<&Sent> = self.sent.iter().filter(is_late).collect();
        ensure!(late.len() > 20, "only {} updates were sent later", late.len());
        let refused: Vec<String> = late
            .iter()
            .filter(|sent| !sent.is_taken())
            .map(|sent| format!("after {:?}: {:?}", sent.at - self.began, sent.answer))
            .collect();
        ensure!(refused.is_empty(), "gateway {gateway} does not take updates again: {refused:#?}");
        Ok(())
    }

    /// No gateway and partition takes no updates for longer than this.
    pub(super) fn are_interrupted_at_most(&self, limit: Duration) -> Result<()> {
        let mut since: BTreeMap<(usize, u16), Instant> = BTreeMap::new();
        for sent in &self.sent {
            let way = (sent.gateway, sent.component().partition(PARTITIONS));
            if sent.is_taken() {
                since.remove(&way);
                continue;
            }
            let began = *since.entry(way).or_insert(sent.at);
            let interrupted = sent.answered - began;
            ensure!(
                interrupted < limit,
                "{way:?} took nothing for {interrupted:?}: {:?}",
                sent.answer
            );
        }
        Ok(())
    }

    /// The updates of these partitions were taken by a gateway all the time, as if nothing was wrong.
    pub(super) fn go_on(&self, gateway: usize, partitions: &[u16]) -> Result<()> {
        let (mut count, mut slowest) = (0, Duration::ZERO);
        for sent in self.sent.iter().filter(|sent| sent.gateway == gateway) {
            if sent.at < self.began || !partitions.contains(&sent.component().partition(PARTITIONS))
            {
                continue;
            }
            ensure!(
                sent.is_taken(),
                "gateway {gateway} refused {:?} after {:?}: {:?}",
                sent.component(),
                sent.at - self.began,
                sent.answer
            );
            count += 1;
            slowest = slowest.max(sent.answered - sent.at);
        }
        ensure!(count > 20, "only {count} updates of partitions {partitions:?}");
        ensure!(slowest < UNDISTURBED, "an update of partitions {partitions:?} took {slowest:?}");
        Ok(())
    }
}
