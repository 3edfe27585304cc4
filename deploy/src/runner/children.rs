//! The gateways and workers while they run.

use std::{
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result};
use deploy::process::{self, describe};
use nix::sys::signal::Signal;

use super::reports::Reports;

/// Time limit for all gateways, and then all workers, to stop.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// The gateways and workers; stopped when this is dropped.
#[derive(Default)]
pub(super) struct Children {
    gateways: Vec<Named>,
    workers: Vec<Named>,
}

struct Named {
    name: String,
    child: Child,
    /// What it reports, if it is asked to.
    reports: Option<Reports>,
}

impl Children {
    pub(super) fn start_gateway(&mut self, number: u16, command: Command) -> Result<()> {
        self.gateways.push(Named::start(format!("gateway {number}"), command, None)?);
        Ok(())
    }

    pub(super) fn start_worker(&mut self, number: u16, mut command: Command) -> Result<()> {
        let name = format!("worker {number}");
        // One that can't be asked runs all the same, and nobody waits for it.
        let reports = Reports::of(&name, &mut command).ok();
        self.workers.push(Named::start(name, command, reports)?);
        Ok(())
    }

    /// Whether every worker has been ready; if not, which one has not, and what it waits for.
    pub(super) fn workers_are_ready(&mut self) -> Result<(), String> {
        for Named { name, reports, .. } in &mut self.workers {
            if let Some(Err(status)) = reports.as_mut().map(Reports::readiness) {
                return Err(format!("{name} does not say that it is ready: {status}"));
            }
        }
        Ok(())
    }

    /// Which one has ended, and how: none should by itself.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.gateways.iter_mut().chain(&mut self.workers).find_map(|each| {
            let status = each.child.try_wait().ok()??;
            Some(format!("{} ended with {}", each.name, describe(status)))
        })
    }
}

impl Named {
    fn start(name: String, command: Command, reports: Option<Reports>) -> Result<Self> {
        let child = process::spawn(command).with_context(|| format!("{name} can't be started"))?;
        Ok(Self { name, child, reports })
    }
}

impl Drop for Children {
    /// Gateways first, so that workers can still answer the updates that they have taken.
    fn drop(&mut self) {
        stop(&mut self.gateways);
        stop(&mut self.workers);
    }
}

fn stop(all: &mut [Named]) {
    for each in all.iter_mut() {
        process::signal(&mut each.child, Signal::SIGTERM);
    }
    for each in all {
        if !matches!(process::wait(&mut each.child, STOP_LIMIT), Ok(Some(_))) {
            deploy::say(&format!("{} did not stop and is killed", each.name));
            process::signal(&mut each.child, Signal::SIGKILL);
            // It was killed: there is nothing to learn from how it ended.
            drop(each.child.wait());
        }
    }
}
