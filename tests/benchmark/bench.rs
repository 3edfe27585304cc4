//! What all measurements share: servers, systems, generator and the report.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use deploy::{binaries::Binaries, servers::Servers};
use harness::{Fixture, SharedCluster, System, burst::add_components};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    load::{self, Request},
    report::{Load, Report, Row},
    runs::{Changes, LoadRun, Runs},
    sequence::Sequence,
    usage::Meter,
};

/// Default settings, and the log as it is in production.
const SETTINGS: [(&str, &str); 1] = [("SDB_LOG", "info")];
/// How often a start is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long a system that is at rest is looked at, and what it may use of a core meanwhile.
const REST: Duration = Duration::from_millis(200);
const RESTING_SHARE: f64 = 0.15;
/// Longer than what a load leaves behind takes.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// Longer than any start takes.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// A run of a rate.
    pub(crate) time: Duration,
    /// Runs, of which the median counts.
    pub(crate) runs: usize,
    /// Updates in a backlog.
    pub(crate) backlog: u64,
    /// What a queue holds, if a backlog may be more than the default.
    pub(crate) queue_limit: Option<u32>,
    /// Closed incidents of a grown database.
    pub(crate) incidents: u32,
    /// Rows of its inbox.
    pub(crate) inbox: u64,
    /// A minute of the long run.
    pub(crate) minute: Duration,
    /// Minutes of it.
    pub(crate) minutes: usize,
}

/// What is measured with.
pub(crate) struct Bench {
    pub(crate) scale: Scale,
    pub(crate) folder: PathBuf,
    /// For updates.
    pub(crate) token: String,
    pub(crate) report: Report,
    pub(crate) servers: Arc<Servers>,
    /// Partitions of each system, if not the default number.
    partitions: Option<u16>,
    /// What is measured.
    programs: Arc<Binaries>,
    /// Those of this checkout, which prepare what baselines need.
    own: Arc<Binaries>,
    /// Systems that were made.
    names: BTreeSet<String>,
}

impl Bench {
    pub(crate) fn new(
        scale: Scale,
        folder: &Path,
        token: String,
        servers: Servers,
        [programs, own]: [Binaries; 2],
        partitions: Option<u16>,
    ) -> Self {
        Self {
            scale,
            folder: folder.to_owned(),
            token,
            report: Report::default(),
            servers: Arc::new(servers),
            partitions,
            programs: Arc::new(programs),
            own: Arc::new(own),
            names: BTreeSet::new(),
        }
    }

    /// A database and a virtual host with the catalogue, and no process yet.
    pub(crate) async fn prepared(&mut self, name: &str) -> Result<System> {
        self.prepared_by(name, self.programs.clone()).await
    }

    /// The same for a baseline.
    pub(crate) async fn prepared_bare(&mut self, name: &str) -> Result<System> {
        self.prepared_by(name, self.own.clone()).await
    }

    async fn prepared_by(&mut self, name: &str, binaries: Arc<Binaries>) -> Result<System> {
        ensure!(self.names.insert(name.to_owned()), "two systems are called {name}");
        let folder = self.folder.join(name);
        std::fs::create_dir(&folder)?;
        let fixture = Arc::new(Fixture {
            servers: self.servers.clone(),
            own_postgres: None,
            cluster: None,
            shared_cluster: SharedCluster::new(self.folder.join("cluster")),
            binaries,
            name: format!("benchmark_{name}"),
            folder,
            has_journal: false,
        });
        let partitions = self.partitions.map(|number| number.to_string());
        let queue_limit = self.scale.queue_limit.map(|number| number.to_string());
        let settings = [
            ("SDB_PARTITIONS", partitions.as_deref()),
            ("SDB_QUEUE_LIMIT", queue_limit.as_deref()),
        ];
        let settings: Vec<_> =
            settings.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let system = System::prepared_with(&fixture, &settings).await?;
        add_components(&system).await?;
        Ok(system)
    }

    /// The same with a worker and a gateway.
    pub(crate) async fn system(&mut self, name: &str) -> Result<System> {
        let mut system = self.prepared(name).await?;
        start_worker(&mut system).await?;
        start_gateway(&mut system).await?;
        Ok(system)
    }

    /// Updates with their outcomes.
    pub(crate) fn updates(&self, sequence: Sequence) -> Result<Request> {
        Request::post(&sequence.bodies(), &self.token)
    }

    /// Runs a load several times, each time with something else right after it, so that both see
    /// the same machine; returns the runs of both.
    pub(crate) async fn alternate(
        &mut self,
        what: &str,
        system: &System,
        mut load: impl AsyncFnMut(Duration) -> Result<LoadRun>,
        mut other: impl AsyncFnMut(Duration) -> Result<Option<LoadRun>>,
    ) -> Result<(Runs, Runs)> {
        say(what);
        // Connections are made, code is loaded, caches fill.
        load(self.scale.time.min(Duration::from_secs(1))).await?;
        let (mut runs, mut others) = (Runs::default(), Runs::default());
        for _ in 0..self.scale.runs {
            at_rest(system).await?;
            let position = Changes::position(system).await?;
            let meter = Meter::start(system)?;
            runs.add(load(self.scale.time).await?);
            runs.usage = runs.usage.plus(meter.stop()?);
            at_rest(system).await?;
            runs.changes = runs.changes.plus(Changes::since(system, position).await?);
            if let Some(run) = other(self.scale.time).await? {
                others.add(run);
            }
        }
        self.note(what, &runs);
        Ok((runs, others))
    }

    /// Adds a load to the report.
    pub(crate) fn note(&mut self, what: &str, runs: &Runs) {
        self.report.loads.push(Load { what: what.to_owned(), runs: runs.clone() });
    }

    /// Runs a load several times.
    pub(crate) async fn repeat(
        &mut self,
        what: &str,
        system: &System,
        load: impl AsyncFnMut(Duration) -> Result<LoadRun>,
    ) -> Result<Runs> {
        Ok(self.alternate(what, system, load, async |_| Ok(None)).await?.0)
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.report.rows.push(row);
    }
}

/// As many requests as so many connections get answered by the first gateway of a system.
pub(crate) async fn closed(
    system: &System,
    request: &Request,
    connections: usize,
    time: Duration,
) -> Result<LoadRun> {
    load::closed(address(system)?, request, connections, time).await
}

/// The first gateway's address.
pub(crate) fn address(system: &System) -> Result<&str> {
    Ok(system.addresses.first().context("there is no gateway")?)
}

/// Starts a worker, and returns how long it took to consume.
pub(crate) async fn start_worker(system: &mut System) -> Result<Duration> {
    let begin = Instant::now();
    let worker = system.launch("worker", &SETTINGS)?;
    while !worker.log()?.contains("\"consuming\"") {
        ensure!(begin.elapsed() < START_LIMIT, "the worker does not consume: {}", worker.log()?);
        sleep(LOOK_EVERY).await;
    }
    let took = begin.elapsed();
    system.workers.push(worker);
    Ok(took)
}

/// Starts a gateway, and returns how long it took to be ready.
pub(crate) async fn start_gateway(system: &mut System) -> Result<Duration> {
    let begin = Instant::now();
    let gateway = system.launch("gateway", &SETTINGS)?;
    let address = loop {
        let log = gateway.log()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let address = lines.filter_map(|line| line["address"].as_str().map(str::to_owned)).next();
        if let Some(address) = address {
            break address;
        }
        ensure!(begin.elapsed() < START_LIMIT, "the gateway has no address: {log}");
        sleep(LOOK_EVERY).await;
    };
    let url = format!("http://{address}/readyz");
    loop {
        let answer = system.client.get(&url).send().await?;
        if answer.status() == 200 && answer.json::<Value>().await?["status"] == "ready" {
            break;
        }
        ensure!(begin.elapsed() < START_LIMIT, "the gateway is not ready: {}", gateway.log()?);
        sleep(LOOK_EVERY).await;
    }
    let took = begin.elapsed();
    system.addresses.push(address);
    system.gateways.push(gateway);
    Ok(took)
}

/// Waits until the system does nothing any more: what a load left behind must not run beside what
/// comes next.
pub(crate) async fn at_rest(system: &System) -> Result<()> {
    let begin = Instant::now();
    loop {
        let meter = Meter::start(system)?;
        sleep(REST).await;
        if meter.stop()?.of_system() < REST.as_secs_f64() * RESTING_SHARE {
            return Ok(());
        }
        ensure!(begin.elapsed() < REST_LIMIT, "the system does not come to rest");
    }
}

pub(crate) fn say(what: &str) {
    eprintln!("benchmark: {what}");
}
