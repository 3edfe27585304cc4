//! What the programs take to start, and to be there.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::{
    bench::{Bench, say, start_gateway, start_worker},
    report::{Figure, Row, Target, Unit},
    runs::{median, spread},
};

pub(crate) async fn start(bench: &mut Bench) -> Result<()> {
    say("starting and resting");
    let mut system = bench.prepared("start").await?;
    let mut figures: [Vec<f64>; 4] = Default::default();
    for _ in 0..bench.scale.runs.max(3) {
        let worker_took = start_worker(&mut system).await?;
        let gateway_took = start_gateway(&mut system).await?;
        // What they do once at their start is done.
        sleep(Duration::from_millis(500)).await;
        let mut gateway = system.gateways.pop().context("there is no gateway")?;
        let mut worker = system.workers.pop().context("there is no worker")?;
        system.addresses.clear();
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let measured = [
            gateway_took.as_secs_f64() * 1e3,
            worker_took.as_secs_f64() * 1e3,
            mebibytes(gateway.memory()?),
            mebibytes(worker.memory()?),
        ];
        for (all, figure) in figures.iter_mut().zip(measured) {
            all.push(figure);
        }
        for process in [&mut gateway, &mut worker] {
            process.signal(Signal::SIGTERM)?;
            process.ended().await?;
        }
    }
    let names = [
        ("gateway, start to ready", Unit::Milliseconds, 1_000.0),
        ("worker, start to consuming", Unit::Milliseconds, 1_000.0),
        ("gateway, memory at rest", Unit::Mebibytes, 30.0),
        ("worker, memory at rest", Unit::Mebibytes, 30.0),
    ];
    for ((name, unit, limit), all) in names.into_iter().zip(figures) {
        let spread = Some(spread(all.iter().copied()));
        let figure = Figure { value: median(all).context("nothing was started")?, spread };
        bench.add(Row::new(name, figure, unit).target(Target::Below(limit)));
    }
    Ok(())
}
