//! Operators' commands on a machine whose clock is wrong.

use std::sync::Arc;

use anyhow::{Result, ensure};
use harness::{Clock, Fixture, NOW, System, eventually, status_update, tests};

use super::{DAY, HOUR, are_stamped_right, inbox_partitions};

tests!(commands_take_the_databases_clock);

/// Runs a command of the worker with this clock.
async fn succeeds(system: &System, clock: &Clock, arguments: &[&str]) -> Result<()> {
    let variables = system.variables(&clock.variables()?);
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let worker = &system.context.binaries.worker;
    let (done, said) = system.context.command(worker, arguments, &variables).await?;
    ensure!(done, "worker {arguments:?}: {said}");
    Ok(())
}

async fn commands_take_the_databases_clock(fixture: Arc<Fixture>) -> Result<()> {
    let clock = Clock::ahead(&fixture.folder, 21 * DAY).await?;
    let mut system = System::bare(&fixture).await?;
    succeeds(&system, &clock, &["migrate"]).await?;
    let partitions = inbox_partitions(&system).await?;
    for seconds in [-21 * DAY, 3 * HOUR, 0] {
        clock.set(seconds)?;
        succeeds(&system, &clock, &["migrate"]).await?;
        let now = inbox_partitions(&system).await?;
        ensure!(now == partitions, "{seconds} s: {now:?}, not {partitions:?}");
    }
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    for (seconds, count) in [(21 * DAY, "2"), (-21 * DAY, "3"), (-3 * HOUR, "4")] {
        clock.set(seconds)?;
        let open = ["incident", "open", "--title", "T", "--impact", "minor", "--component", "DNS"];
        succeeds(&system, &clock, &open).await?;
        succeeds(&system, &clock, &["topology", "change", "--partitions", count]).await?;
        eventually("the update is decided", async || {
            Ok([200, 201].contains(&system.post(&status_update("DNS", 1)).await?.status))
        })
        .await?;
    }
    let right = format!(
        "SELECT count(*) FROM incident
        WHERE start_date BETWEEN {NOW} - interval '2 min' AND {NOW}"
    );
    ensure!(system.count(&right).await? == 3, "incidents have not the database's time");
    are_stamped_right(&system).await?;
    system.finish().await
}
