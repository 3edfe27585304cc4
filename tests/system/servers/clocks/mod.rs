//! Machines whose clock is wrong, or is set while their process runs: it has no effect on updates and
//! answers.

mod commands;
mod gateway;
mod gateways;
mod workers;

use std::{fs, sync::Arc};

use anyhow::{Result, ensure};
use harness::{Clock, Fixture, System, answer, eventually, tests_of};
use reqwest::Method;
use serde_json::Value;

tests_of!(commands, gateway, gateways, workers);

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Clocks that are ahead by so many seconds each.
async fn clocks(fixture: &Arc<Fixture>, seconds: &[i64]) -> Result<Vec<Clock>> {
    let mut clocks = Vec::new();
    for (number, seconds) in seconds.iter().enumerate() {
        let folder = fixture.folder.join(format!("clock-{number}"));
        fs::create_dir(&folder)?;
        clocks.push(Clock::ahead(&folder, *seconds).await?);
    }
    Ok(clocks)
}

/// Waits until a gateway takes updates: nothing is wrong but the clock, if that.
async fn serves(system: &System, gateway: usize) -> Result<()> {
    let is_of_clock = |reason: &Value| {
        reason.as_str().is_some_and(|reason| reason.starts_with("the clock of this machine"))
    };
    eventually("the gateway serves", async || {
        let ready = answer(system.request_to(gateway, Method::GET, "/readyz")).await?;
        let mut reasons = ready.body["reasons"].as_array().into_iter().flatten();
        Ok(ready.status == 200 && reasons.all(is_of_clock))
    })
    .await
}

/// Every update has an id and times by the database's clock.
async fn are_stamped_right(system: &System) -> Result<()> {
    let wrong = "SELECT count(*) FROM sdb_inbox,
            (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) AS clock
        WHERE decided_at NOT BETWEEN now - interval '5 min' AND now
            OR received_at NOT BETWEEN decided_at - interval '1 min' AND decided_at
            OR id NOT BETWEEN sdb_first_id(received_at - interval '1 s')
                AND sdb_first_id(received_at + interval '1 s')";
    let wrong = system.count(wrong).await?;
    ensure!(wrong == 0, "{wrong} updates are not stamped by the database's clock");
    Ok(())
}

/// The partitions of the inbox, one for each week.
async fn inbox_partitions(system: &System) -> Result<Vec<String>> {
    let partitions = "SELECT inhrelid::regclass::text FROM pg_inherits
        WHERE inhparent = 'sdb_inbox'::regclass ORDER BY 1";
    system.texts(partitions).await
}
