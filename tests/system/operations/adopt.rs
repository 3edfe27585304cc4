//! A database of the Python dashboard is adopted, and used by both.

use std::{str::FromStr, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use super::{
    ALEMBIC, ALEMBIC_HEAD, CONSTRAINT, ORM, TABLES, attachments, contents, migrate, post,
    python_database, run, update,
};
use harness::{Fixture, NOW, System, eventually, replay, tests};

tests!(
    a_database_of_alembic_is_adopted_and_used_by_both,
    a_database_of_the_orm_is_adopted_and_used_by_both,
    sequences_that_are_ahead_stay_ahead,
    several_active_incidents_of_an_impact_are_adopted_without_the_constraint,
    a_database_of_the_go_backend_is_refused,
    a_second_active_incident_of_an_impact_is_refused_at_commit,
    one_batch_raises_an_incident_to_the_impact_that_another_leaves,
);

async fn listed(system: &System) -> Result<Vec<i64>> {
    let list = system.get("/api/v1/incidents").await?;
    let incidents = list.body.as_array().context("no list")?;
    Ok(incidents.iter().filter_map(|incident| incident["id"].as_i64()).collect())
}

async fn a_database_of_alembic_is_adopted_and_used_by_both(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ALEMBIC).await?;
    let system = adopted_and_used_by_both(system).await?;
    let heads = system.texts("SELECT version_num FROM alembic_version").await?;
    ensure!(heads == [ALEMBIC_HEAD], "{heads:?}");
    system.finish().await
}

async fn a_database_of_the_orm_is_adopted_and_used_by_both(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ORM).await?;
    adopted_and_used_by_both(system).await?.finish().await
}

async fn adopted_and_used_by_both(mut system: System) -> Result<System> {
    let (before, stood) = (contents(&system).await?, attachments(&system).await?);
    let said = migrate(&system).await?;
    ensure!(said.contains("Applied") && !said.contains("left off"), "{said}");
    ensure!(contents(&system).await? == before, "rows were changed");
    let attached = attachments(&system).await?;
    ensure!(stood.iter().all(|each| attached.contains(each)), "{stood:#?} became {attached:#?}");
    for (sequence, highest) in [
        ("component_id_seq", 13),
        ("component_attribute_id_seq", 20),
        ("incident_id_seq", 16),
        ("incident_status_id_seq", 31),
    ] {
        let last = format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}");
        ensure!(system.count(&last).await? == highest, "{sequence}");
    }
    ensure!(migrate(&system).await?.contains("up to date"));
    ensure!(contents(&system).await? == before, "rows were changed by the second time");

    run(&mut system).await?;
    shows_the_old_data(&system).await?;
    post(&system, &update("DNS", "R1", 2), 200, 10).await?;
    post(&system, &update("Mail", "R2", 2), 201, 10).await?;
    post(&system, &update("CDN", "R1", 1), 200, 11).await?;
    post(&system, &update("CDN", "R1", 2), 201, 10).await?;
    post(&system, &update("Mail", "R1", 3), 200, 15).await?;
    post(&system, &update("DNS", "R1", 3), 201, 17).await?;
    let kept = contents(&system).await?;
    // What was moved out is all that is gone.
    let gone: Vec<_> = before.iter().filter(|row| !kept.contains(row)).collect();
    ensure!(gone == ["incident_component_relation (10,3)"], "{gone:?}");
    replay::holds_one_active_incident(&system.database).await?;
    python_dashboard_writes(&system).await?;
    system.drained().await?;
    Ok(system)
}

async fn shows_the_old_data(system: &System) -> Result<()> {
    ensure!(listed(system).await? == [16, 15, 10, 11, 4], "{:?}", listed(system).await?);
    let list = system.get("/api/v1/incidents").await?;
    let closed = json!({
        "id": 4,
        "text": "Closed <long> ago",
        "impact": 3,
        "start_date": "2024-01-01 10:00",
        "end_date": "2024-01-01 12:00",
        "updates": [
            { "status": "resolved", "text": "It's <b>done</b>", "timestamp": "2024-01-01 12:00" },
        ],
    });
    ensure!(list.body[4] == closed, "{list:?}");
    let components = system.get("/api/v1/component_status").await?;
    let dns = &components.body[0];
    ensure!(dns["id"] == 3 && dns["name"] == "DNS", "{components:?}");
    let attributes =
        json!([{ "name": "category", "value": "Net" }, { "name": "region", "value": "R1" }]);
    ensure!(dns["attributes"] == attributes, "{components:?}");
    let mut incidents: Vec<_> = dns["incidents"]
        .as_array()
        .context("no incidents")?
        .iter()
        .filter_map(|incident| incident["id"].as_i64())
        .collect();
    incidents.sort_unstable();
    ensure!(incidents == [4, 10, 16], "{components:?}");
    Ok(())
}

/// Writes as the Python dashboard does, by a role that may touch its five tables and nothing else.
async fn python_dashboard_writes(system: &System) -> Result<()> {
    let role = format!("{}_py", system.vhost);
    let name = &system.vhost;
    system
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'python';
            GRANT CONNECT ON DATABASE {name} TO {role};
            GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {role};
            GRANT USAGE ON SEQUENCE component_id_seq, component_attribute_id_seq, incident_id_seq,
                incident_status_id_seq TO {role};",
            TABLES.join(", ")
        ))
        .await?;
    let options =
        PgConnectOptions::from_str(&system.database_uri)?.username(&role).password("python");
    let mut python = PgConnection::connect_with(&options).await?;
    let denied = sqlx::query("SELECT FROM sdb_inbox").execute(&mut python).await;
    let code = denied.err().and_then(|e| Some(e.as_database_error()?.code()?.into_owned()));
    ensure!(code.as_deref() == Some("42501"), "the role may read our tables: {code:?}");

    let versions = async || -> Result<(i64, i64)> {
        Ok(sqlx::query_as("SELECT lists, catalogue FROM sdb_version")
            .fetch_one(&system.database)
            .await?)
    };
    for (does, statements, catalogue) in [
        (
            "opens an incident",
            "INSERT INTO incident (text, start_date, end_date, impact, system)
                VALUES ('By hand', now_utc, NULL, 1, false);
            INSERT INTO incident_component_relation
                SELECT max(id), 13 FROM incident;
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                SELECT max(id), now_utc, 'Seen', 'analyzing' FROM incident",
            false,
        ),
        (
            "edits an incident",
            "UPDATE incident SET system = false, impact = 3, text = 'Edited' WHERE id = 10;
            INSERT INTO incident_status (incident_id, timestamp, text, status)
                VALUES (10, now_utc, 'impact changed', 'SYSTEM')",
            false,
        ),
        ("closes an incident", "UPDATE incident SET end_date = now_utc WHERE id = 11", false),
        (
            "separates a component",
            "DELETE FROM incident_component_relation WHERE incident_id = 10 AND component_id = 7",
            false,
        ),
        (
            "provisions",
            "INSERT INTO component (name) VALUES ('Provisioned');
            INSERT INTO component_attribute (component_id, name, value)
                SELECT max(id), 'region', 'R3' FROM component",
            true,
        ),
        (
            "purges",
            "DELETE FROM incident_component_relation WHERE component_id = 12;
            DELETE FROM component_attribute WHERE component_id = 12;
            DELETE FROM component WHERE id = 12",
            true,
        ),
    ] {
        let before = versions().await?;
        let mut transaction = python.begin().await?;
        sqlx::raw_sql(AssertSqlSafe(statements.replace("now_utc", NOW)))
            .execute(&mut *transaction)
            .await
            .with_context(|| format!("the Python dashboard {does}"))?;
        transaction.commit().await.with_context(|| format!("the Python dashboard {does}"))?;
        let after = versions().await?;
        ensure!(after.0 > before.0, "the lists' version stays when it {does}");
        ensure!((after.1 > before.1) == catalogue, "{before:?}, {after:?} when it {does}");
    }
    ensure!(listed(system).await?.contains(&18));
    system.catalogue_seen().await?;
    post(system, &update("Provisioned", "R3", 3), 201, 17).await?;
    post(system, &update("Mail", "R2", 3), 200, 10).await?;
    let gone = system.post(&update("Mail", "R1", 1)).await?;
    ensure!(gone.status == 400, "{gone:?}");
    Ok(())
}

async fn sequences_that_are_ahead_stay_ahead(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ORM).await?;
    // Rows that were deleted had these ids; links in updates still name them.
    system.sql("SELECT setval('incident_id_seq', 500), setval('component_id_seq', 13)").await?;
    migrate(&system).await?;
    ensure!(system.count("SELECT nextval('incident_id_seq')").await? == 501);
    ensure!(system.count("SELECT nextval('component_id_seq')").await? == 14);
    system.finish_with_parked()
}

async fn several_active_incidents_of_an_impact_are_adopted_without_the_constraint(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = python_database(&fixture, ALEMBIC).await?;
    system
        .sql(&format!(
            "INSERT INTO incident (id, text, start_date, impact, system)
            VALUES (9, 'The oldest', {NOW}, 2, true), (30, 'The newest', {NOW}, 2, true)"
        ))
        .await?;
    let before = contents(&system).await?;
    for _ in 0..2 {
        let said = migrate(&system).await?;
        ensure!(said.contains("the constraint against that is left off"), "{said}");
    }
    ensure!(contents(&system).await? == before);
    ensure!(system.count(CONSTRAINT).await? == 0);

    run(&mut system).await?;
    post(&system, &update("Mail", "R2", 2), 201, 9).await?;
    // 10 holds it, and covers it as well as the oldest would.
    post(&system, &update("DNS", "R1", 2), 200, 10).await?;
    // Nobody else is in 10, and no outage is active.
    post(&system, &update("DNS", "R1", 3), 201, 10).await?;
    post(&system, &update("CDN", "R1", 2), 201, 9).await?;

    // The operator follows the message.
    system.sql(&format!("UPDATE incident SET end_date = {NOW} WHERE id = 30")).await?;
    let said = migrate(&system).await?;
    ensure!(!said.contains("left off"), "{said}");
    ensure!(system.count(CONSTRAINT).await? == 1);
    post(&system, &update("CDN", "R1", 3), 201, 10).await?;
    system.finish().await
}

async fn a_second_active_incident_of_an_impact_is_refused_at_commit(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = python_database(&fixture, ORM).await?;
    migrate(&system).await?;
    let insert = |impact: u8, end: &str, of_system: bool| {
        format!(
            "INSERT INTO incident (text, start_date, end_date, impact, system)
            VALUES ('By hand', {NOW}, {end}, {impact}, {of_system})"
        )
    };
    // What the rule does not speak of.
    for harmless in [
        insert(1, "NULL", true),
        insert(2, "NULL", false),
        insert(2, NOW, true),
        insert(0, "NULL", true),
        insert(0, "NULL", true),
    ] {
        system.sql(&harmless).await?;
    }
    let mut transaction = system.database.begin().await?;
    sqlx::raw_sql(AssertSqlSafe(insert(2, "NULL", true))).execute(&mut *transaction).await?;
    let error = transaction.commit().await.err().context("a second one was taken")?;
    let code = error.as_database_error().and_then(|error| error.code());
    ensure!(code.as_deref() == Some("23P01"), "{error}");
    system.finish().await
}

async fn a_database_of_the_go_backend_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ORM).await?;
    // What its migrations add to the tables, as far as it matters.
    system
        .sql(
            "ALTER TABLE incident ADD COLUMN description varchar, ADD COLUMN type varchar(20),
                ADD COLUMN status varchar, ADD COLUMN version integer NOT NULL DEFAULT 1;
            UPDATE incident SET type = 'incident', status = 'resolved';
            ALTER TABLE incident ALTER COLUMN type SET NOT NULL",
        )
        .await?;
    let before = contents(&system).await?;
    let (done, said) = system.worker_command(&["migrate"]).await?;
    ensure!(!done && said.contains("the dashboard's Go backend"), "{said}");
    ensure!(contents(&system).await? == before);
    ensure!(system.count("SELECT count(*) FROM pg_class WHERE relname LIKE 'sdb%'").await? == 0);
    system.finish_with_parked()
}

async fn one_batch_raises_an_incident_to_the_impact_that_another_leaves(
    fixture: Arc<Fixture>,
) -> Result<()> {
    // One queue keeps the order of the two.
    let mut system = System::prepared_with(&fixture, &[("SDB_PARTITIONS", "1")]).await?;
    ensure!(system.count(CONSTRAINT).await? == 1);
    run(&mut system).await?;
    system.components(&[("DNS", &[("region", "R1")]), ("CDN", &[("region", "R1")])]).await?;
    post(&system, &update("DNS", "R1", 1), 201, 1).await?;
    post(&system, &update("CDN", "R1", 2), 201, 2).await?;

    let scope = system.hold_scope().await?;
    // The first is taken alone; the others wait for its end.
    system.post_async(0, &update("DNS", "R1", 1)).await?;
    system.waits_for_a_lock().await?;
    for body in [update("CDN", "R1", 3), update("DNS", "R1", 2)] {
        system.post_async(0, &body).await?;
    }
    let queue = system.topology().await?.queue(0);
    eventually("the worker has all", async || Ok(system.waiting(&queue).await? == 0)).await?;
    scope.commit().await?;
    eventually("all are decided", async || {
        Ok(system.count("SELECT count(*) FROM sdb_inbox").await? == 5)
    })
    .await?;
    let last = system.texts("SELECT outcome || ' ' || incident_id FROM sdb_inbox WHERE position > 3 ORDER BY position",
    )
    .await?;
    ensure!(last == ["raised 2", "raised 1"], "{last:?}");
    let apart = "SELECT (extract(epoch FROM max(decided_at) - min(decided_at)) * 1000000)::bigint
        FROM sdb_inbox WHERE position > 3";
    ensure!(system.count(apart).await? == 1, "they were not in one batch");
    replay::agrees(&system.database).await?;
    system.finish().await
}
