//! The chaos run on several machines, for a moment: whatever it breaks, it ends well.

use std::{fs::File, process::Stdio, sync::Arc};

use anyhow::{Result, ensure};
use tokio::process::Command;

use harness::{Fixture, tests};

tests!(a_chaos_run_on_several_machines_ends_well,);

async fn a_chaos_run_on_several_machines_ends_well(fixture: Arc<Fixture>) -> Result<()> {
    let log = fixture.folder.join("chaos.log");
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    chaos
        .args(["--machines", "--minutes", "0.5", "--seed", "1"])
        .stdin(Stdio::null())
        .stdout(File::create(&log)?)
        .stderr(File::create(fixture.folder.join("chaos-errors.log"))?)
        .kill_on_drop(true);
    let status = chaos.status().await?;
    let said = std::fs::read_to_string(&log)?;
    let table: Vec<&str> = said.lines().filter(|line| line.starts_with('|')).collect();
    ensure!(status.success(), "{status}: {table:#?}");
    // It has a table of what it broke, with how long that was felt.
    let of_machines = ["RabbitMQ node", "standby", "primary"];
    let broken = table.iter().filter(|row| of_machines.iter().any(|words| row.contains(words)));
    ensure!(broken.count() > 0, "nothing of several machines was broken: {table:#?}");
    Ok(())
}
