//! Alerts and the components that they are about: the commands on the mapping, and its reference.

mod check;
mod reference;
mod try_out;

use std::{fs, path::Path, sync::Arc};

use anyhow::Result;

use harness::{Fixture, tests_of};

tests_of!(check, reference, try_out);

/// Writes a mapping file into the test's folder; returns its path.
fn written(fixture: &Fixture, name: &str, yaml: &str) -> Result<String> {
    let path = fixture.folder.join(name);
    fs::write(&path, yaml)?;
    Ok(path.display().to_string())
}

/// Runs `gateway mapping`; returns whether it succeeded and what it printed.
async fn mapping(
    fixture: &Arc<Fixture>,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<(bool, String)> {
    let gateway: &Path = &fixture.binaries.gateway;
    fixture.command(gateway, &[&["mapping"], arguments].concat(), variables).await
}
