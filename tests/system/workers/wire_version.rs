//! The version of messages that gateways may write, as the database records it: two releases side by side.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::topology_is_changed;
use harness::{
    Fixture, System,
    burst::{Burst, took_effect_once},
    eventually, tests,
};

tests!(
    the_version_changes_both_ways_in_a_burst_and_nothing_is_lost_or_overtaken,
    it_is_not_raised_while_a_worker_lives_that_cannot_read_it,
    a_worker_that_cannot_read_it_cannot_join,
    a_database_of_an_earlier_release_keeps_its_version,
    a_program_that_does_not_know_it_does_not_start,
);

async fn change(system: &System, wire: &str) -> Result<(bool, String)> {
    system.worker_command(&["topology", "change", "--wire", wire]).await
}

async fn recorded(system: &System) -> Result<i64> {
    let (done, said) = system.worker_command(&["topology", "show", "--json"]).await?;
    ensure!(done, "{said}");
    let shown: Value = serde_json::from_str(&said)?;
    shown["wire"].as_i64().context("no wire version")
}

async fn the_version_changes_both_ways_in_a_burst_and_nothing_is_lost_or_overtaken(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "2")]).await?;
    system.start_worker(&[]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    ensure!(recorded(&system).await? == 3, "a new database has not the newest version");
    let burst = Burst::start(&system).await?;
    for wire in ["1", "3", "2", "1"] {
        let said = topology_is_changed(&system, &["--wire", wire]).await?;
        ensure!(said.contains(&format!("version {wire} of messages")), "{said}");
        burst.is_decided().await?;
        ensure!(recorded(&system).await?.to_string() == wire);
    }
    let (done, said) = change(&system, "1").await?;
    ensure!(done && said.contains("That is the topology already"), "{said}");
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    system.finish().await
}

/// A worker says again and again that it lives.
async fn takes_part(system: &System, worker: i64) -> Result<()> {
    // Two of three seconds ahead: a pause of this process must not look like its end.
    let lives = "UPDATE sdb_worker
        SET seen_at = (clock_timestamp() AT TIME ZONE 'UTC') + interval '2 seconds' WHERE id = $1";
    loop {
        sqlx::query(lives).bind(worker).execute(&system.database).await?;
        sleep(Duration::from_millis(200)).await;
    }
}

async fn it_is_not_raised_while_a_worker_lives_that_cannot_read_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    let (done, said) = change(&system, "1").await?;
    ensure!(done, "{said}");
    // As a worker of the earlier release joins, which takes part for three seconds. Until the command has looked, it
    // goes on taking part.
    let old: i64 = sqlx::query_scalar(
        "INSERT INTO sdb_worker (seen_at) VALUES (clock_timestamp() AT TIME ZONE 'UTC') RETURNING id",
    )
    .fetch_one(&system.database)
    .await?;
    let (done, said) = tokio::select! {
        changed = change(&system, "2") => changed?,
        failed = takes_part(&system, old) => bail!("{failed:?}"),
    };
    let expected = format!("these live workers can't read version 2 of messages: {old};");
    ensure!(!done && said.contains(&expected), "{said}");
    ensure!(recorded(&system).await? == 1);
    let (done, said) = change(&system, "4").await?;
    ensure!(!done && said.contains("4 is not in 1..=3"), "{said}");
    eventually("the earlier release is gone", async || Ok(change(&system, "2").await?.0)).await?;
    ensure!(recorded(&system).await? == 2);
    system.finish().await
}

async fn a_worker_that_cannot_read_it_cannot_join(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let join = "INSERT INTO sdb_worker (seen_at) VALUES (clock_timestamp() AT TIME ZONE 'UTC')";
    let refused = sqlx::query(join).execute(&system.database).await;
    let refused = refused.err().context("it joined")?;
    let refused = refused.as_database_error().context("no answer of the database")?;
    let expected = "this worker reads messages up to version 1, and gateways write version 3";
    ensure!(refused.message() == expected, "{refused}");

    // A change that is under way decides for those that join meanwhile.
    let mut change = system.database.begin().await?;
    sqlx::query("UPDATE sdb_topology SET wire = 1").execute(&mut *change).await?;
    let joining = tokio::spawn({
        let database = system.database.clone();
        async move { sqlx::query(join).execute(&database).await }
    });
    system.waits_for_a_lock().await?;
    change.commit().await?;
    joining.await??;
    system.finish().await
}

async fn a_database_of_an_earlier_release_keeps_its_version(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    // As the earlier release left it.
    system
        .sql(
            "DROP TRIGGER sdb_check_wire ON sdb_worker;
            DROP FUNCTION sdb_check_wire;
            DROP VIEW sdb_living_worker;
            ALTER TABLE sdb_worker DROP COLUMN reads;
            ALTER TABLE sdb_topology DROP COLUMN wire;
            CREATE VIEW sdb_living_worker AS SELECT id, seen_at FROM sdb_worker
                WHERE seen_at BETWEEN (clock_timestamp() AT TIME ZONE 'UTC') - interval '3 seconds'
                    AND (clock_timestamp() AT TIME ZONE 'UTC') + interval '3 seconds';
            DELETE FROM _sqlx_migrations WHERE version = 6;",
        )
        .await?;
    let (done, said) = system.worker_command(&["topology", "show"]).await?;
    ensure!(!done && said.contains("run `worker migrate`"), "{said}");
    let (done, said) = system.worker_command(&["migrate"]).await?;
    ensure!(done, "{said}");
    ensure!(recorded(&system).await? == 1);
    system.finish().await
}

async fn a_program_that_does_not_know_it_does_not_start(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.sql("UPDATE sdb_topology SET wire = 4").await?;
    for program in ["worker", "gateway"] {
        let mut process = system.launch(program, &[])?;
        ensure!(!process.ended().await?.success(), "the {program} started");
        let log = process.log()?;
        ensure!(
            log.contains("version 4 of messages, and this program knows versions up to 3"),
            "{log}"
        );
    }
    system.sql("UPDATE sdb_topology SET wire = 3").await?;
    system.finish_with_logs()
}
