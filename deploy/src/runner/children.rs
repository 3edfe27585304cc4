//! The gateways and workers while they run.

use std::{
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result};
use deploy::process::{self, describe};
use nix::sys::signal::Signal;

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
}

impl Children {
    pub(super) fn start_gateway(&mut self, number: u16, command: Command) -> Result<()> {
        self.gateways.push(Named::start(format!("gateway {number}"), command)?);
        Ok(())
    }

    pub(super) fn start_worker(&mut self, number: u16, command: Command) -> Result<()> {
        self.workers.push(Named::start(format!("worker {number}"), command)?);
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
    fn start(name: String, command: Command) -> Result<Self> {
        let child = process::spawn(command).with_context(|| format!("{name} can't be started"))?;
        Ok(Self { name, child })
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
