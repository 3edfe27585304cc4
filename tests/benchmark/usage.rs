//! The CPU time that each program takes while something runs.

use std::{collections::HashMap, fs};

use anyhow::{Context, Result};
use harness::System;
use nix::unistd::{SysconfVar, sysconf};

/// The programs, in the order of the table's columns.
const PROGRAMS: [&str; 5] = ["gateway", "worker", "PostgreSQL", "RabbitMQ", "client"];

/// CPU seconds of each program.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage([f64; PROGRAMS.len()]);

impl Usage {
    /// What each program took for one of so many requests, in µs.
    pub(crate) fn micros_for(&self, requests: u64) -> [(&'static str, f64); PROGRAMS.len()] {
        let mut named = PROGRAMS.map(|name| (name, 0.0));
        for ((_, micros), seconds) in named.iter_mut().zip(self.0) {
            *micros = seconds * 1e6 / requests.max(1) as f64;
        }
        named
    }

    /// Seconds of all programs but the clients.
    pub(crate) fn of_system(&self) -> f64 {
        self.0.iter().take(PROGRAMS.len() - 1).sum()
    }

    pub(crate) fn plus(mut self, other: Self) -> Self {
        for (mine, its) in self.0.iter_mut().zip(other.0) {
            *mine += its;
        }
        self
    }

    fn minus(mut self, other: Self) -> Self {
        for (mine, its) in self.0.iter_mut().zip(other.0) {
            // A worker that was replaced meanwhile took its time with it.
            *mine = (*mine - its).max(0.0);
        }
        self
    }
}

/// Watches the programs of a system.
pub(crate) struct Meter {
    gateways: Vec<u32>,
    workers: Vec<u32>,
    postgres: Vec<u32>,
    rabbitmq: Vec<u32>,
    begin: Usage,
}

impl Meter {
    pub(crate) fn start(system: &System) -> Result<Self> {
        let pids = |processes: &[harness::Process]| -> Result<Vec<u32>> {
            processes.iter().map(harness::Process::pid).collect()
        };
        let mut meter = Self {
            gateways: pids(&system.gateways)?,
            workers: pids(&system.workers)?,
            postgres: system.context.postgres().pid().into_iter().collect(),
            rabbitmq: system.context.rabbitmq().pid().into_iter().collect(),
            begin: Usage::default(),
        };
        meter.begin = meter.now()?;
        Ok(meter)
    }

    /// What the programs took since the start.
    pub(crate) fn stop(&self) -> Result<Usage> {
        Ok(self.now()?.minus(self.begin))
    }

    fn now(&self) -> Result<Usage> {
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("the system has no clock ticks")? as f64;
        let all = processes()?;
        let seconds = |roots: &[u32]| family(&all, roots) as f64 / ticks;
        let me = all.get(&std::process::id()).context("/proc does not show this process")?;
        let clients = (me.own + me.ended_children) as f64 / ticks;
        Ok(Usage([
            seconds(&self.gateways),
            seconds(&self.workers),
            seconds(&self.postgres),
            seconds(&self.rabbitmq),
            clients,
        ]))
    }
}

/// A process's clock ticks.
struct Ticks {
    parent: u32,
    own: u64,
    /// Of the children that it has waited for: of this program, the load generator.
    ended_children: u64,
}

fn processes() -> Result<HashMap<u32, Ticks>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since it was listed.
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
            && let Some(ticks) = ticks(&stat)
        {
            all.insert(pid, ticks);
        }
    }
    Ok(all)
}

fn ticks(stat: &str) -> Option<Ticks> {
    // The name before may have any characters. The third field, the state, is the first here.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(Ticks {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        ended_children: number(13)? + number(14)?,
    })
}

/// The ticks of some processes and all that descend from them, the ended ones included.
fn family(all: &HashMap<u32, Ticks>, roots: &[u32]) -> u64 {
    let mut sum = 0;
    let mut generation: Vec<u32> = roots.to_vec();
    while !generation.is_empty() {
        for ticks in generation.iter().filter_map(|pid| all.get(pid)) {
            sum += ticks.own + ticks.ended_children;
        }
        let children = all.iter().filter(|(_, ticks)| generation.contains(&ticks.parent));
        generation = children.map(|(pid, _)| *pid).collect();
    }
    sum
}
