//! A burst, and what its answers say about the time of trouble.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{
    System,
    burst::{Burst, Sent, took_effect_once},
    verdict::Answered,
};
use tokio::time::{Instant, sleep, sleep_until};

use super::PARTITIONS;

/// How long the answers are observed after all is whole again.
const OBSERVED: Duration = Duration::from_secs(4);

/// A burst, and when its trouble began.
pub(super) struct Load {
    burst: Burst,
    began: Instant,
}

/// The answers of a burst.
pub(super) struct Answers {
    sent: Vec<Sent>,
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

    /// Waits until every gateway takes updates of each partition; returns when that was.
    pub(super) async fn is_taken_again(&self) -> Result<Instant> {
        self.burst.is_taken_everywhere(PARTITIONS).await?;
        Ok(Instant::now())
    }

    /// Goes on until this time after the beginning of the trouble.
    pub(super) async fn until(&self, time: Duration) {
        sleep_until(self.began + time).await;
    }

    /// Stops the burst a while after all is whole again. All that was taken took effect once and in order.
    pub(super) async fn finish(self, system: &System) -> Result<Answers> {
        sleep(OBSERVED).await;
        let sent = self.burst.stop().await?;
        system.drained().await?;
        took_effect_once(system, &sent).await?;
        let answers = Answers { sent, began: self.began };
        answers.print_interruptions(system);
        Ok(answers)
    }
}

impl Answers {
    /// Prints for how long each gateway took nothing at most, and nothing of each partition: the figures of
    /// `docs/setup/high-availability.md`.
    fn print_interruptions(&self, system: &System) {
        for gateway in 0..system.gateways.len() {
            let by_partition: Vec<Duration> = (0..PARTITIONS)
                .map(|partition| {
                    self.longest_interruption(|sent| {
                        sent.gateway == gateway
                            && sent.component().partition(PARTITIONS) == partition
                    })
                })
                .collect();
            let of_all = self.longest_interruption(|sent| sent.gateway == gateway);
            let test = &system.vhost;
            eprintln!(
                "{test}: gateway {gateway} took nothing for {of_all:.1?}, of partitions {by_partition:.1?}"
            );
        }
    }

    /// The longest time without such an update that was taken, from the beginning of the trouble.
    fn longest_interruption(&self, such: impl Fn(&Sent) -> bool) -> Duration {
        let mut taken: Vec<Instant> = self
            .sent
            .iter()
            .filter(|sent| sent.answered > self.began && sent.is_taken() && such(sent))
            .map(|sent| sent.answered)
            .collect();
        taken.sort_unstable();
        let before = [self.began].into_iter().chain(taken.iter().copied());
        before.zip(&taken).map(|(one, next)| *next - one).max().unwrap_or_default()
    }

    /// Whatever was sent from then on was taken.
    pub(super) fn are_taken_since(&self, then: Instant) -> Result<()> {
        self.are_taken(then, |_| true)
    }

    /// The updates of these partitions were taken by a gateway all the time, as if nothing was wrong.
    pub(super) fn go_on(&self, gateway: usize, partitions: &[u16]) -> Result<()> {
        self.are_taken(self.began, |sent| {
            sent.gateway == gateway && partitions.contains(&sent.component().partition(PARTITIONS))
        })
    }

    /// None was refused, and all that waited were taken. Of one that did not wait, a gateway on a slow machine may
    /// say too early that it does not know.
    fn are_taken(&self, since: Instant, such: impl Fn(&Sent) -> bool) -> Result<()> {
        let such: Vec<&Sent> =
            self.sent.iter().filter(|sent| sent.at >= since && such(sent)).collect();
        ensure!(such.len() > 20, "only {} updates were sent", such.len());
        let refused: Vec<String> = such
            .iter()
            .filter(|sent| !sent.is_taken())
            .filter(|sent| sent.waited || !matches!(sent.answer, Answered::Unknown(_)))
            .map(|sent| format!("{:?} after the trouble began: {sent:?}", sent.at - self.began))
            .collect();
        ensure!(refused.is_empty(), "not taken: {refused:#?}");
        Ok(())
    }
}
