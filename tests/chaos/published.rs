//! How many messages the gateways published, and how many updates went with them.

use std::time::Duration;

use tokio::time::sleep;

use crate::load::Load;

const READ_EVERY: Duration = Duration::from_millis(500);

/// What RabbitMQ confirmed to the gateways, by their metrics: without what a process published after they
/// were read last, before it was killed.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) messages: u64,
    pub(crate) updates: u64,
    /// By gateway, as its process had them last.
    last: Vec<Counters>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    messages: u64,
    updates: u64,
}

impl Published {
    /// Counts until it is dropped.
    pub(crate) async fn count(&mut self, load: &Load) {
        loop {
            self.count_now(load).await;
            sleep(READ_EVERY).await;
        }
    }

    /// Counts what was published since.
    pub(crate) async fn count_now(&mut self, load: &Load) {
        self.last.resize(load.addresses.len(), Counters::default());
        for (gateway, last) in self.last.iter_mut().enumerate() {
            // One that is away now is read later.
            let Some(now) = read(load, gateway).await else { continue };
            // Another process has begun to count.
            let is_same = now.messages >= last.messages && now.updates >= last.updates;
            let before = if is_same { *last } else { Counters::default() };
            self.messages += now.messages - before.messages;
            self.updates += now.updates - before.updates;
            *last = now;
        }
    }

    pub(crate) fn updates_per_message(&self) -> f64 {
        self.updates as f64 / self.messages.max(1) as f64
    }
}

async fn read(load: &Load, gateway: usize) -> Option<Counters> {
    let request = load.client.get(load.url(gateway, "/metrics")).timeout(READ_EVERY);
    let metrics = request.send().await.ok()?.text().await.ok()?;
    let value = |name: &str| {
        let mut lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
        lines.find_map(|rest| rest.trim().parse().ok())
    };
    Some(Counters {
        messages: value("sdb_messages_published_total ")?,
        updates: value("sdb_updates_accepted_total ")?,
    })
}
