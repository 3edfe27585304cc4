//! The chaos run on several machines, for a moment.

use std::{
    fs::{self, File},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Result, ensure};
use harness::{Fixture, tests};
use tokio::process::Command;

tests!(a_chaos_run_on_several_machines_ends_well,);

async fn a_chaos_run_on_several_machines_ends_well(fixture: Arc<Fixture>) -> Result<()> {
    let log = fixture.folder.join("chaos.log");
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    chaos
        .args(["--machines", "--smoke"])
        .stdin(Stdio::null())
        .stdout(File::create(&log)?)
        .stderr(File::create(fixture.folder.join("chaos-errors.log"))?)
        .kill_on_drop(true);
    let status = chaos.status().await?;
    let said = fs::read_to_string(&log)?;
    ensure!(status.success(), "{status}: {said}");
    // Its second table has what it broke.
    for broken in [
        "one RabbitMQ node killed",
        "two RabbitMQ nodes killed",
        "primary killed, standby promoted",
        "standby killed",
    ] {
        ensure!(said.contains(&format!("\n| {broken} | 1 |")), "{broken}: {said}");
    }
    Ok(())
}
