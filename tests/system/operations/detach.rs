//! All that was added to the Python dashboard's tables is taken off again.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{ALEMBIC, ORM, attachments, contents, migrate, python_database, refused};
use harness::{Fixture, tests};

tests!(
    detaching_takes_all_of_ours_off_alembics_tables,
    detaching_takes_all_of_ours_off_the_orms_tables,
);

async fn detaching_takes_all_of_ours_off_alembics_tables(fixture: Arc<Fixture>) -> Result<()> {
    detaching_takes_all_of_ours_off(&fixture, ALEMBIC).await
}

async fn detaching_takes_all_of_ours_off_the_orms_tables(fixture: Arc<Fixture>) -> Result<()> {
    detaching_takes_all_of_ours_off(&fixture, ORM).await
}

async fn detaching_takes_all_of_ours_off(fixture: &Arc<Fixture>, form: &str) -> Result<()> {
    let mut system = python_database(fixture, form).await?;
    let (rows, before) = (contents(&system).await?, attachments(&system).await?);
    migrate(&system).await?;
    let adopted = attachments(&system).await?;
    ensure!(adopted != before);
    let version = system.count("SELECT lists FROM sdb_version").await?;
    for _ in 0..2 {
        let said = system.worker_succeeds(&["detach"]).await?;
        ensure!(said.contains("worker migrate"), "{said}");
        let detached = attachments(&system).await?;
        ensure!(detached == before, "{detached:#?} instead of {before:#?}");
    }
    ensure!(contents(&system).await? == rows);
    for program in ["gateway", "worker"] {
        let log = refused(&mut system, program, &[]).await?;
        ensure!(log.contains("the database was detached: run `worker migrate`"), "{log}");
    }
    migrate(&system).await?;
    ensure!(attachments(&system).await? == adopted);
    ensure!(contents(&system).await? == rows);
    // Nobody's copy from before counts any more, whatever was changed meanwhile.
    ensure!(system.count("SELECT lists FROM sdb_version").await? > version);

    system.start_worker(&[]).await?;
    let (done, said) = system.worker_command(&["detach"]).await?;
    ensure!(
        !done && said.contains("gateways or workers are connected: stop all of them"),
        "{said}"
    );
    ensure!(attachments(&system).await? == adopted);
    system.finish().await
}
