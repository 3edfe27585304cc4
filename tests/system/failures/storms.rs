//! More than the system takes at once: it refuses at the edge, keeps what it took, and holds no more
//! in memory than it should.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use futures_util::future::{join_all, try_join_all};
use harness::{
    Answer, Fixture, System, answer,
    burst::{add_components, update},
    eventually, replay, tests,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};

use super::{LISTS, is_shown};

/// Long enough for the system to try to connect several times.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

tests!(
    clients_that_connect_all_at_once_are_let_in,
    updates_beyond_the_bound_in_flight_are_shed_at_once,
    a_storm_fills_the_queue_and_drains,
);

async fn clients_that_connect_all_at_once_are_let_in(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    let address = system.addresses[0].trim_start_matches("http://").to_owned();
    // Stopped, it accepts none: all of them wait to be.
    system.gateways[0].signal(Signal::SIGSTOP)?;
    let all = (0..300).map(|_| timeout(CONNECT_LIMIT, TcpStream::connect(&address)));
    let connected = join_all(all).await;
    system.gateways[0].signal(Signal::SIGCONT)?;
    let let_in = connected.iter().filter(|one| matches!(one, Ok(Ok(_)))).count();
    ensure!(let_in == 300, "{let_in} of 300 were let in");
    drop(connected);
    system.finish().await
}

async fn updates_beyond_the_bound_in_flight_are_shed_at_once(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[("SDB_MAX_IN_FLIGHT", "4")]).await?;
    system.components(&[("DNS", &[])]).await?;
    let dns = json!({ "name": "DNS", "impact": 1 });
    let in_flight: Vec<_> = (0..4)
        .map(|_| tokio::spawn(answer(system.update(&dns).header("Prefer", "wait=30"))))
        .collect();
    eventually("four are in flight", async || {
        let metrics = system.get("/metrics").await?.body.to_string();
        Ok(metrics.contains("sdb_updates_in_flight 4"))
    })
    .await?;

    for _ in 0..20 {
        let shed = system.post_with_default_wait(&dns).await?;
        let sentence = shed.body["message"].as_str().unwrap_or_default();
        ensure!(
            sentence.contains("Too many updates are in flight; nothing was queued"),
            "{shed:?}"
        );
        ensure!(shed.status == 503 && shed.header("retry-after") == "1", "{shed:?}");
    }
    ensure!(in_flight.iter().all(|update| !update.is_finished()), "they were to be in flight");
    // Everything else goes on.
    for path in LISTS {
        is_shown(&system, 0, path).await?;
    }

    system.start_worker(&[]).await?;
    let mut statuses = Vec::new();
    for update in in_flight {
        statuses.push(update.await??.status);
    }
    statuses.sort_unstable();
    ensure!(statuses == [200, 200, 200, 201], "{statuses:?}");
    ensure!(system.post(&dns).await?.status == 200);
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 5);
    system.finish().await
}

/// Clients of the storm, and what each of them sends.
const CLIENTS: usize = 64;
const UPDATES: usize = 100;
/// The most memory that a process may have had: programs that are not optimized.
const MAX_MEMORY: u64 = 100 << 20;

/// What the clients of the storm were answered.
#[derive(Default)]
struct Heard {
    taken: BTreeSet<String>,
    /// Those that may have been queued or not: RabbitMQ was too slow to confirm them.
    unknown: BTreeSet<String>,
    /// How often a queue was said to be full. A slow RabbitMQ does not tell that in time.
    full: usize,
    /// How many were refused in all.
    refused: usize,
}

impl Heard {
    fn add(&mut self, answer: &Answer) -> Result<()> {
        let id = answer.header("update-id").to_owned();
        let sentence = answer.body["message"].as_str().unwrap_or_default();
        match answer.status {
            202 => {
                self.taken.insert(id);
            }
            503 if sentence.contains("may have been queued or not") => {
                self.unknown.insert(id);
            }
            503 if sentence.contains("nothing was queued") => {
                ensure!(answer.header("retry-after") == "1", "{answer:?}");
                self.full += usize::from(sentence.contains("the queue is full"));
                self.refused += 1;
            }
            _ => anyhow::bail!("{answer:?}"),
        }
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        self.taken.extend(other.taken);
        self.unknown.extend(other.unknown);
        self.full += other.full;
        self.refused += other.refused;
    }
}

async fn a_storm_fills_the_queue_and_drains(fixture: Arc<Fixture>) -> Result<()> {
    // Both count messages, which have several updates each.
    let settings = [("SDB_QUEUE_LIMIT", "5"), ("SDB_PREFETCH", "5"), ("SDB_PARTITIONS", "4")];
    let mut system = System::prepared_with(&fixture, &settings).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    add_components(&system).await?;
    // Someone holds what every decision needs.
    let scope = system.hold_scope().await?;

    let client = async |client: usize| -> Result<Heard> {
        let mut heard = Heard::default();
        for number in 0..UPDATES {
            let update = system.update(&update(number * CLIENTS + client));
            heard.add(&answer(update.header("Prefer", "respond-async")).await?)?;
        }
        Ok(heard)
    };
    let reader = async |path: &'static str| -> Result<()> {
        for _ in 0..UPDATES {
            is_shown(&system, 0, path).await?;
        }
        Ok(())
    };
    let (clients, readers) =
        tokio::join!(try_join_all((0..CLIENTS).map(client)), try_join_all(LISTS.map(reader)));
    readers?;
    let mut heard = Heard::default();
    for client in clients? {
        heard.merge(client);
    }
    let Heard { taken, unknown, full, refused } = heard;
    ensure!(full > 0, "no queue was said to be full, in {refused} refusals");
    // Four queues, and what the worker holds of them.
    ensure!(taken.len() >= 4 * 5 && refused > taken.len(), "{} and {refused}", taken.len());
    ensure!(system.count("SELECT count(*) FROM sdb_inbox").await? == 0);

    scope.rollback().await?;
    system.drained().await?;
    let inbox: Vec<String> =
        sqlx::query_scalar("SELECT id::text FROM sdb_inbox").fetch_all(&system.database).await?;
    let rows = inbox.len();
    let inbox: BTreeSet<String> = inbox.into_iter().collect();
    ensure!(inbox.len() == rows, "an update is there twice");
    ensure!(inbox.is_superset(&taken), "the inbox lacks some of {} updates", taken.len());
    let others: Vec<&String> = inbox.difference(&taken).collect();
    ensure!(others.iter().all(|id| unknown.contains(*id)), "the inbox has others: {others:?}");
    replay::agrees(&system.database).await?;
    replay::holds_one_active_incident(&system.database).await?;
    ensure!(system.post(&update(0)).await?.status == 200);

    for process in system.gateways.iter().chain(&system.workers) {
        let peak = process.peak_memory()?;
        ensure!(peak < MAX_MEMORY, "a process had {} MiB", peak >> 20);
    }
    system.finish().await
}
