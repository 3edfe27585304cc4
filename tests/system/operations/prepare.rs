//! A database is prepared, or refused and left as it is.

use std::sync::Arc;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;

use super::{
    ALEMBIC, ALEMBIC_HEAD, CONSTRAINT, attachments, contents, migrate, post, python_database, run,
    update,
};
use harness::{Fixture, System, tests};

tests!(
    an_empty_database_is_prepared_and_then_up_to_date,
    several_that_prepare_a_database_at_once_all_succeed,
    a_database_of_a_newer_release_is_left_as_it_is,
    an_older_alembic_head_is_refused_and_nothing_changes,
    a_table_without_a_column_is_refused_and_nothing_changes,
    a_table_with_a_column_of_another_type_is_refused,
);

/// Everything that stands in the database: relations and their columns, functions, types.
async fn everything(system: &System) -> Result<Vec<String>> {
    system.texts("SELECT 'relation ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname || ' ' || atttypid::regtype
            FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
            WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT 'function ' || proname FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'type ' || typname FROM pg_type
            WHERE typnamespace = 'public'::regnamespace
        ORDER BY 1",
    )
    .await
}

async fn an_empty_database_is_prepared_and_then_up_to_date(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::bare(&fixture).await?;
    let first = migrate(&system).await?;
    ensure!(first.contains("Applied"), "{first}");
    let (stands, attached) = (everything(&system).await?, attachments(&system).await?);
    let second = migrate(&system).await?;
    ensure!(second.contains("up to date"), "{second}");
    ensure!(everything(&system).await? == stands && attachments(&system).await? == attached);
    run(&mut system).await?;
    // And while the system runs.
    system.components(&[("DNS", &[("region", "R1")])]).await?;
    post(&system, &update("DNS", "R1", 1), 201, 1).await?;
    migrate(&system).await?;
    post(&system, &update("DNS", "R1", 2), 201, 1).await?;
    system.finish().await
}

async fn several_that_prepare_a_database_at_once_all_succeed(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ALEMBIC).await?;
    let before = contents(&system).await?;
    // As replicas do that prepare the database before they start.
    let said = try_join_all((0..4).map(|_| system.worker_command(&["migrate"]))).await?;
    ensure!(said.iter().all(|(done, _)| *done), "{said:?}");
    ensure!(contents(&system).await? == before);
    ensure!(system.count(CONSTRAINT).await? == 1);
    system.finish().await
}

async fn a_database_of_a_newer_release_is_left_as_it_is(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    // As a newer release leaves it, which does without the constraint, say.
    system
        .sql(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
            VALUES (9999, 'of a newer release', true, '', 0);
            ALTER TABLE incident DROP CONSTRAINT sdb_one_active_system_incident_per_impact",
        )
        .await?;
    let (before, attached) = (everything(&system).await?, attachments(&system).await?);
    let said = migrate(&system).await?;
    ensure!(said.contains("A newer release has prepared this database"), "{said}");
    ensure!(everything(&system).await? == before && attachments(&system).await? == attached);
    run(&mut system).await?;
    system.components(&[("DNS", &[("region", "R1")])]).await?;
    post(&system, &update("DNS", "R1", 1), 201, 1).await?;
    system.finish().await
}

async fn an_older_alembic_head_is_refused_and_nothing_changes(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ALEMBIC).await?;
    system.sql("UPDATE alembic_version SET version_num = '0ld5head'").await?;
    let before = (everything(&system).await?, contents(&system).await?);
    let (done, said) = system.worker_command(&["migrate"]).await?;
    ensure!(!done, "{said}");
    for part in ["0ld5head", ALEMBIC_HEAD, "flask db upgrade"] {
        ensure!(said.contains(part), "{said:?} does not say {part}");
    }
    ensure!((everything(&system).await?, contents(&system).await?) == before);
    // It follows the sentence.
    system.sql(&format!("UPDATE alembic_version SET version_num = '{ALEMBIC_HEAD}'")).await?;
    migrate(&system).await?;
    system.finish().await
}

async fn a_table_without_a_column_is_refused_and_nothing_changes(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::bare(&fixture).await?;
    for (table, definition, missing) in [
        ("incident", "id serial PRIMARY KEY, title varchar", "text"),
        ("component", "name varchar", "id"),
        ("incident_status", "id serial, incident_id integer, text varchar", "timestamp"),
    ] {
        system.sql(&format!("CREATE TABLE {table} ({definition})")).await?;
        let before = everything(&system).await?;
        let (done, said) = system.worker_command(&["migrate"]).await?;
        ensure!(!done, "{said}");
        let sentence = format!("table {table} exists already, but without the column {missing}");
        ensure!(said.contains(&sentence) && said.contains("flask db upgrade"), "{said}");
        ensure!(everything(&system).await? == before, "something was made");
        system.sql(&format!("DROP TABLE {table}")).await?;
    }
    migrate(&system).await?;
    system.finish().await
}

async fn a_table_with_a_column_of_another_type_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::bare(&fixture).await?;
    // As the Python dashboard's own earlier revisions had it.
    system.sql(&ALEMBIC.replace("impact smallint", "impact public.incidentimpactenum")).await?;
    let before = everything(&system).await?;
    let (done, said) = system.worker_command(&["migrate"]).await?;
    ensure!(!done, "{said}");
    ensure!(said.contains("incident") && said.contains("impact"), "{said}");
    ensure!(everything(&system).await? == before, "something was made, and said was: {said}");
    system.finish_with_parked()
}
