//! Ten minutes at half load, with checkpoints and vacuum in them.

use anyhow::{Context, Result};
use tokio::time::sleep;

use crate::{
    bench::{Bench, address, closed, say},
    load,
    report::{Figure, Row, Target, Unit},
    runs::{Changes, Runs, median},
    sequence::Sequence,
    updates::{CONNECTIONS, post_all},
};

pub(crate) async fn endure(bench: &mut Bench) -> Result<()> {
    let sequence = Sequence::Changing;
    let system = bench.system("endurance").await?;
    sequence.prepare(&system).await?;
    let bodies = sequence.bodies();
    let request = load::Request::post(&bodies, &bench.token)?;
    say("what all of the load is");
    let full = closed(&system, &request, CONNECTIONS, bench.scale.time);
    let full = post_all(&system, sequence, full).await?;
    let rate = (full.rate() / 2.0).max(1.0) as u32;

    let (minute, minutes) = (bench.scale.minute, bench.scale.minutes);
    let what =
        format!("POST at a steady {rate}/s for {:.0} s", (minute * minutes as u32).as_secs_f64());
    say(&what);
    let (mut all, mut of_minutes) = (Runs::default(), Vec::new());
    let position = Changes::position(&system).await?;
    let meter = crate::usage::Meter::start(&system)?;
    for _ in 0..minutes {
        bodies.rewind();
        let load = async {
            let (load, upkeep) =
                tokio::join!(load::steady(address(&system)?, &request, rate, minute), async {
                    // As autovacuum and the checkpointer do, but in each of the minutes.
                    sleep(minute / 2).await;
                    sqlx::query("CHECKPOINT").execute(&system.database).await?;
                    sqlx::query("VACUUM (ANALYZE)").execute(&system.database).await
                });
            upkeep?;
            load
        };
        let run = post_all(&system, sequence, load).await?;
        let mut of_minute = Runs::default();
        of_minute.add(run.clone());
        of_minutes.push(of_minute.latency(0.99).context("nothing was answered")?);
        all.add(run);
    }
    all.usage = meter.stop()?;
    all.changes = Changes::since(&system, position).await?;
    bench.note(&what, &all);
    let worst = of_minutes.iter().copied().fold(0.0, f64::max);
    let middle = median(of_minutes).context("no minute")?;
    bench.add(Row::latency(format!("{what}, p99"), &all, 0.99)?);
    bench.add(
        Row::new(
            format!("{what}, p99 of the worst of {minutes} minutes"),
            Figure::alone(worst),
            Unit::Milliseconds,
        )
        .beside("of the median minute", Figure::alone(middle))
        .target(Target::RatioAtMost(2.0)),
    );
    Ok(())
}
