//! What operators do: prepare and adopt databases, apply catalogues, set and mis-set settings.

use std::{
    fmt::Write,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use harness::{Fixture, Process, SECRET, System, answer, eventually, replay, tests};

tests!(
    an_empty_database_is_prepared_and_then_up_to_date,
    several_that_prepare_a_database_at_once_all_succeed,
    a_database_of_alembic_is_adopted_and_used_by_both,
    a_database_of_the_orm_is_adopted_and_used_by_both,
    sequences_that_are_ahead_stay_ahead,
    an_older_alembic_head_is_refused_and_nothing_changes,
    a_table_without_a_column_is_refused_and_nothing_changes,
    a_table_with_a_column_of_another_type_is_refused,
    several_active_incidents_of_an_impact_are_adopted_without_the_constraint,
    a_second_active_incident_of_an_impact_is_refused_at_commit,
    one_batch_raises_an_incident_to_the_impact_that_another_leaves,
    detaching_takes_all_of_ours_off_alembics_tables,
    detaching_takes_all_of_ours_off_the_orms_tables,
    a_process_that_disagrees_about_the_queues_does_not_start,
    an_unprepared_database_stops_both_programs,
    an_unreachable_database_is_named_without_its_password,
    a_setting_that_cannot_be_used_stops_the_gateway,
    a_setting_that_cannot_be_used_stops_the_worker,
    foreign_settings_are_passed_over_and_unknown_ones_warned_of,
    a_short_key_is_warned_of,
    an_address_that_is_taken_is_named,
    a_token_of_the_gateway_is_accepted,
    the_sample_catalogue_is_applied_once,
    a_changed_attribute_is_changed_in_place,
    a_catalogue_that_makes_no_sense_is_refused,
    a_value_longer_than_its_column_is_refused,
    catalogues_applied_at_once_add_each_component_once,
);

const ALEMBIC: &str = include_str!("../data/python-alembic.sql");
const ORM: &str = include_str!("../data/python-orm.sql");
const ALEMBIC_HEAD: &str = "14621c95e3ee";
const TABLES: [&str; 5] = [
    "component",
    "component_attribute",
    "incident",
    "incident_component_relation",
    "incident_status",
];
const NOW: &str = "(clock_timestamp() AT TIME ZONE 'UTC')";

/// What a Python dashboard has written, with explicit ids, which its sequences know nothing of.
/// 4 is closed, 10 an active one of the system, 11 a manual one, 15 a running maintenance and 16 a
/// planned one.
const DATA: &str = "
INSERT INTO component (id, name) VALUES (3, 'DNS'), (7, 'CDN'), (12, 'Mail'), (13, 'Mail');
INSERT INTO component_attribute (id, component_id, name, value) VALUES
    (6, 3, 'region', 'R1'), (5, 3, 'category', 'Net'), (9, 7, 'region', 'R1'),
    (19, 12, 'region', 'R1'), (20, 13, 'region', 'R2');
INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
    (4, 'Closed <long> ago', '2024-01-01 10:00:00.123456', '2024-01-01 12:00', 3, true),
    (10, 'Of the system', now_utc - interval '1 hour', NULL, 2, true),
    (11, 'Of an operator', now_utc - interval '2 hours', NULL, 1, false),
    (15, 'Maintenance', now_utc - interval '30 minutes', now_utc + interval '1 hour', 0, false),
    (16, 'Planned', now_utc + interval '1 day', now_utc + interval '2 days', 0, false);
INSERT INTO incident_component_relation VALUES (4, 3), (4, 7), (10, 3), (11, 7), (15, 12), (16, 3);
INSERT INTO incident_status (id, incident_id, timestamp, text, status) VALUES
    (8, 4, '2024-01-01 12:00', 'It''s <b>done</b>', 'resolved'),
    (9, 11, '2024-01-02', 'We look', 'analyzing'), (31, NULL, '2024-01-02', 'Of nothing', 'SYSTEM');
";

/// A database as the Python dashboard leaves it, data and all.
async fn python_database(fixture: &Arc<Fixture>, form: &str) -> Result<System> {
    let system = System::bare(fixture).await?;
    system.sql(form).await?;
    if form == ALEMBIC {
        system.sql(&format!("INSERT INTO alembic_version VALUES ('{ALEMBIC_HEAD}')")).await?;
    }
    system.sql(&DATA.replace("now_utc", NOW)).await?;
    Ok(system)
}

async fn texts(system: &System, query: &str) -> Result<Vec<String>> {
    let query = AssertSqlSafe(query.to_owned());
    Ok(sqlx::query_scalar(query).fetch_all(&system.database).await?)
}

/// Every row of the five tables.
async fn contents(system: &System) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for table in TABLES {
        let query = format!("SELECT '{table} ' || t::text FROM {table} t ORDER BY 1");
        rows.extend(texts(system, &query).await?);
    }
    Ok(rows)
}

/// Everything that stands in the database: relations and their columns, functions, types.
async fn everything(system: &System) -> Result<Vec<String>> {
    texts(
        system,
        "SELECT 'relation ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
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

/// What hangs on the five tables: columns, indexes, triggers and constraints.
async fn attachments(system: &System) -> Result<Vec<String>> {
    let tables = TABLES.map(|table| format!("'{table}'::regclass")).join(", ");
    texts(
        system,
        &format!(
            "SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN ({tables})
            UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger
                WHERE tgrelid IN ({tables}) AND NOT tgisinternal
            UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' '
                    || pg_get_constraintdef(oid)
                FROM pg_constraint WHERE conrelid IN ({tables})
            UNION ALL SELECT 'column ' || attrelid::regclass || ' ' || attname || ' '
                    || format_type(atttypid, atttypmod) || ' ' || attnotnull
                    || coalesce(pg_get_expr(adbin, adrelid), '')
                FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
                WHERE attrelid IN ({tables}) AND attnum > 0
            ORDER BY 1"
        ),
    )
    .await
}

async fn migrate(system: &System) -> Result<String> {
    let (done, said) = system.worker_command(&["migrate"]).await?;
    ensure!(done, "{said}");
    Ok(said)
}

/// Starts gateway and worker on a database that is prepared.
async fn run(system: &mut System) -> Result<()> {
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await
}

fn update(name: &str, region: &str, impact: u8) -> Value {
    json!({
        "name": name,
        "impact": impact,
        "attributes": [{ "name": "region", "value": region }],
    })
}

/// Posts an update and expects this status and incident.
async fn post(system: &System, body: &Value, status: u16, incident: i64) -> Result<()> {
    let answer = system.post(body).await?;
    ensure!(answer.status == status, "{body}: {answer:?}");
    ensure!(answer.body["id"] == incident, "{body}: {answer:?}, not {incident}");
    Ok(())
}

async fn listed(system: &System) -> Result<Vec<i64>> {
    let list = system.get("/api/v1/incidents").await?;
    let incidents = list.body.as_array().context("no list")?;
    Ok(incidents.iter().filter_map(|incident| incident["id"].as_i64()).collect())
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

async fn a_database_of_alembic_is_adopted_and_used_by_both(fixture: Arc<Fixture>) -> Result<()> {
    let system = python_database(&fixture, ALEMBIC).await?;
    let system = adopted_and_used_by_both(system).await?;
    let heads = texts(&system, "SELECT version_num FROM alembic_version").await?;
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

const CONSTRAINT: &str = "SELECT count(*) FROM pg_constraint
    WHERE conname = 'sdb_one_active_system_incident_per_impact'";

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

    // The operator does as told.
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

    let mut scope = system.database.begin().await?;
    sqlx::query("SELECT 1 FROM sdb_scope FOR UPDATE").execute(&mut *scope).await?;
    // The first is taken alone; the others wait for its end.
    for body in [update("DNS", "R1", 1), update("CDN", "R1", 3), update("DNS", "R1", 2)] {
        let request = system.update(&body).header("Prefer", "respond-async");
        ensure!(answer(request).await?.status == 202);
    }
    let queue = system.topology().await?.queue(0);
    eventually("the worker has all", async || Ok(system.waiting(&queue).await? == 0)).await?;
    scope.commit().await?;
    eventually("all are decided", async || {
        Ok(system.count("SELECT count(*) FROM sdb_inbox").await? == 5)
    })
    .await?;
    let last = texts(
        &system,
        "SELECT outcome || ' ' || incident_id FROM sdb_inbox WHERE position > 3 ORDER BY position",
    )
    .await?;
    ensure!(last == ["raised 2", "raised 1"], "{last:?}");
    let apart = "SELECT (extract(epoch FROM max(decided_at) - min(decided_at)) * 1000000)::bigint
        FROM sdb_inbox WHERE position > 3";
    ensure!(system.count(apart).await? == 1, "they were not in one batch");
    replay::agrees(&system.database).await?;
    system.finish().await
}

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
        let (done, said) = system.worker_command(&["detach"]).await?;
        ensure!(done && said.contains("worker migrate"), "{said}");
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

/// Starts a program that does not go on, and returns its log.
async fn refused(system: &mut System, program: &str, variables: &[(&str, &str)]) -> Result<String> {
    let mut process: Process = system.launch(program, variables)?;
    let status = process.ended().await?;
    let log = process.log()?;
    ensure!(!status.success(), "{program} {variables:?}: {log}");
    ensure!(!log.contains("panicked") && !log.contains(SECRET), "{program}: {log}");
    Ok(log)
}

async fn a_process_that_disagrees_about_the_queues_does_not_start(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    for program in ["gateway", "worker"] {
        for (name, value, recorded) in [
            ("SDB_PARTITIONS", "4", "8"),
            ("SDB_QUEUE_LIMIT", "5", "100000"),
            ("SDB_PREFETCH", "1", "256"),
        ] {
            let log = refused(&mut system, program, &[(name, value)]).await?;
            let says = format!(
                "{program}: {name} is {value}, but the database records {recorded}: leave {name} \
                unset, or set it to {recorded}"
            );
            ensure!(log.contains(&says), "{log:?} does not say {says:?}");
        }
    }
    let variables = [("SDB_DATABASE_URI", system.database_uri.as_str()), ("SDB_PARTITIONS", "4")];
    let (done, said) = fixture.command(&fixture.binaries.worker, &["migrate"], &variables).await?;
    ensure!(!done && said.contains("the database records 8"), "{said}");
    let agreeing = [("SDB_PARTITIONS", "8")];
    system.start_worker(&agreeing).await?;
    system.start_gateway(&agreeing).await?;
    system.finish().await
}

async fn an_unprepared_database_stops_both_programs(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = python_database(&fixture, ALEMBIC).await?;
    for program in ["gateway", "worker"] {
        let log = refused(&mut system, program, &[]).await?;
        let says = format!("{program}: the database is not prepared: run `worker migrate`");
        ensure!(log.contains(&says), "{log}");
    }
    let catalogue = file(&fixture, "any.yaml", "components:\n  - name: DNS\n")?;
    let (done, said) = apply(&system, &catalogue).await?;
    ensure!(!done && said.contains("the database is not prepared: run `worker migrate`"), "{said}");
    let (done, said) = system.worker_command(&["detach"]).await?;
    ensure!(done, "there is nothing to take off: {said}");
    system.finish_with_parked()
}

async fn an_unreachable_database_is_named_without_its_password(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::bare(&fixture).await?;
    let wrong = PgConnectOptions::from_str(&system.database_uri)?;
    let wrong = format!(
        "postgresql://sd:hush@{}:{}/{}",
        wrong.get_host(),
        wrong.get_port(),
        wrong.get_database().unwrap_or_default()
    );
    for uri in ["postgresql://sd:hush@127.0.0.1:1/none", &wrong, "mysql://sd:hush@127.0.0.1/none"] {
        for arguments in [&["migrate"][..], &["detach"]] {
            let variables = [("SDB_DATABASE_URI", uri)];
            let (done, said) =
                fixture.command(&fixture.binaries.worker, arguments, &variables).await?;
            ensure!(!done && said.contains("database"), "{uri}: {said}");
            ensure!(said.lines().count() == 1 && !said.contains("hush"), "{uri}: {said}");
        }
    }
    system.finish_with_parked()
}

const NUMBER: &str = "a whole number from";

/// Settings that both programs read: name, value, what the refusal says.
const WRONG_FOR_BOTH: &[(&str, &str, &str)] = &[
    ("SDB_DATABASE_URI", "", "SDB_DATABASE_URI is not set"),
    ("SDB_DATABASE_URI", "mysql://u:hush@db/sd", "`postgresql://user:password@host:port/database`"),
    ("SDB_DATABASE_URI", "u:hush@db/sd", "`postgresql://user:password@host:port/database`"),
    ("SDB_DATABASE_URI", "postgresql://u:hush@db:x/sd", "`postgresql://"),
    ("SDB_DATABASE_URI", "postgresql://u:hush@db/sd?sslmode=maybe", "`postgresql://"),
    ("SDB_DATABASE_URI", "postgresql://u:hush@a:5432,b:5432/sd", "several hosts"),
    ("SDB_DATABASE_URI", "postgresql://u:hush@::1/sd", "in brackets"),
    ("SDB_DATABASE_URI", "postgresql://u@db/sd?password=hush&sslpassword=hush", "`sslpassword` is"),
    ("SDB_DATABASE_URI", "postgresql://u:hush@db/sd?hush=hush", "parameter 1 after the `?`"),
    ("SDB_AMQP_URI", "", "SDB_AMQP_URI is not set"),
    ("SDB_AMQP_URI", "amqp://u:hush@a:5672,b:5672/v", "several hosts"),
    ("SDB_AMQP_URI", "amqp://u:hush@/v", "names no host"),
    ("SDB_AMQP_URI", "http://u:hush@host", "`amqp://user:password@host:port/vhost`"),
    ("SDB_AMQP_URI", "amqp://u:hush@host:port/v", "`amqp://user:password@host:port/vhost`"),
    ("SDB_AMQP_URI", "hush", "`amqp://user:password@host:port/vhost`"),
    ("SDB_LOG", "nonsense", "a level such as `info`"),
    ("SDB_LOG", "info,worker=loud", "a level such as `info`"),
    ("SDB_LOG_FORMAT", "xml", "`text` or `json`"),
    ("SDB_INBOX_DAYS", "0", NUMBER),
    ("SDB_INBOX_DAYS", "1000000", NUMBER),
    ("SDB_PARTITIONS", "0", NUMBER),
    ("SDB_PARTITIONS", "1025", NUMBER),
    ("SDB_QUEUE_LIMIT", "lots", NUMBER),
    ("SDB_PREFETCH", "-1", NUMBER),
];

async fn a_setting_that_cannot_be_used_stops_the_gateway(fixture: Arc<Fixture>) -> Result<()> {
    let wrong = [
        ("SDB_BIND", "8080", "an address and port such as `0.0.0.0:8080`"),
        ("SDB_BIND", "localhost", "an address and port such as `0.0.0.0:8080`"),
        ("SDB_BIND", "127.0.0.1:99999", "an address and port such as `0.0.0.0:8080`"),
        ("SDB_V1_CONFLICT", "maybe", "`true` or `false`"),
        ("SDB_SECRET_KEY", "", "SDB_SECRET_KEY is not set: The key that signs"),
        ("SDB_SECRET_KEY", "   ", "SDB_SECRET_KEY is not set: The key that signs"),
        ("SDB_API_PAYLOAD_KEY", "exp", "a claim of your own"),
        ("SDB_MAX_CONNECTIONS", "0", NUMBER),
        ("SDB_MAX_IN_FLIGHT", "many", NUMBER),
        ("SDB_AMQP_CHANNELS", "65", NUMBER),
        ("SDB_DATABASE_CONNECTIONS", "1.5", NUMBER),
        ("SDB_MAX_LISTS", "0", NUMBER),
        ("SDB_ADMIN_ADDRESS", "9090", "an address and port such as `127.0.0.1:9090`"),
    ];
    settings_are_refused(&fixture, "gateway", &wrong).await
}

async fn a_setting_that_cannot_be_used_stops_the_worker(fixture: Arc<Fixture>) -> Result<()> {
    const ADDRESS: &str = "an address and port such as `127.0.0.1:9090`";
    let wrong = [
        ("SDB_ADMIN_ADDRESS", "9090", ADDRESS),
        ("SDB_ADMIN_ADDRESS", "localhost:9090", ADDRESS),
        ("SDB_BATCH", "0", NUMBER),
        ("SDB_BATCH", "10001", NUMBER),
        ("SDB_BATCH", "1e3", NUMBER),
    ];
    settings_are_refused(&fixture, "worker", &wrong).await
}

async fn settings_are_refused(
    fixture: &Arc<Fixture>,
    program: &str,
    wrong: &[(&str, &str, &str)],
) -> Result<()> {
    let mut system = System::prepared(fixture).await?;
    for (name, value, says) in wrong.iter().chain(WRONG_FOR_BOTH) {
        let log = refused(&mut system, program, &[(name, value)]).await?;
        let sentence = log.lines().last().unwrap_or_default();
        ensure!(sentence.starts_with(&format!("{program}: {name} is ")), "{name}={value}: {log}");
        ensure!(sentence.contains(says), "{name}={value}: {sentence:?} does not say {says:?}");
        ensure!(!log.contains("hush"), "{name}: the log shows a password: {log}");
    }
    system.finish_with_parked()
}

/// The lines of a JSON log.
fn lines(log: &str) -> Vec<Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn foreign_settings_are_passed_over_and_unknown_ones_warned_of(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let uri = system.database_uri.clone();
    let variables = [
        ("SDB_GITHUB_CLIENT_SECRET", "hush"),
        ("SDB_SESSION_COOKIE_NAME", "cookie-hush"),
        ("SDB_SQLALCHEMY_ECHO", "true"),
        ("SDB_BACTH", "value-hush"),
        ("SDB_SECRET_KYE", "key-hush"),
        // Set as well as ours, to the same database.
        ("SDB_SQLALCHEMY_DATABASE_URI", &uri),
        // Empty is as good as not set.
        ("SDB_BATCH", ""),
        ("SDB_V1_CONFLICT", " "),
    ];
    system.start_worker(&variables).await?;
    system.start_gateway(&variables).await?;
    for process in [&system.workers[0], &system.gateways[0]] {
        let log = process.log()?;
        let python: Vec<Value> = lines(&log)
            .into_iter()
            .filter(|line| line["message"].as_str().is_some_and(|m| m.contains("Python dashboard")))
            .collect();
        ensure!(python.len() == 1 && python[0]["level"] == "INFO", "{python:?}");
        let names = "SDB_GITHUB_CLIENT_SECRET, SDB_SESSION_COOKIE_NAME, SDB_SQLALCHEMY_ECHO";
        ensure!(python[0]["names"] == names, "{python:?}");
        let warnings: Vec<Value> =
            lines(&log).into_iter().filter(|line| line["level"] == "WARN").collect();
        let unknown: Vec<&Value> = warnings.iter().map(|warning| &warning["name"]).collect();
        ensure!(unknown == ["SDB_BACTH", "SDB_SECRET_KYE"], "{warnings:?}");
        ensure!(!log.contains("hush"), "a value is shown: {log}");
    }
    system.finish().await
}

async fn a_short_key_is_warned_of(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let short = "0123456789-0123456789-012345678";
    for variables in [
        &[("SDB_SECRET_KEY", short)][..],
        &[("SDB_SECRET_KEY_PREVIOUS", short)],
        &[("SDB_SECRET_KEY", "0123456789-0123456789-0123456789")],
    ] {
        system.start_gateway(variables).await?;
    }
    for (gateway, warned) in system.gateways.iter().zip([true, true, false]) {
        let log = gateway.log()?;
        ensure!(log.contains("shorter than 32 bytes") == warned, "{log}");
        ensure!(!log.contains("0123456789"), "the key is shown: {log}");
    }
    system.finish().await
}

async fn an_address_that_is_taken_is_named(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    for (program, name) in
        [("gateway", "SDB_BIND"), ("gateway", "SDB_ADMIN_ADDRESS"), ("worker", "SDB_ADMIN_ADDRESS")]
    {
        let log = refused(&mut system, program, &[(name, &address)]).await?;
        let sentence = log.lines().last().unwrap_or_default();
        ensure!(sentence.contains(&format!("{name}: {address} can't be served")), "{log}");
        ensure!(sentence.contains("in use"), "{log}");
    }
    // Who does not serve does not mind.
    let variables = [
        ("SDB_DATABASE_URI", system.database_uri.as_str()),
        ("SDB_ADMIN_ADDRESS", address.as_str()),
    ];
    let worker = &fixture.binaries.worker;
    let (done, said) = fixture.command(worker, &["topology", "show"], &variables).await?;
    ensure!(done, "{said}");
    system.finish().await
}

async fn a_token_of_the_gateway_is_accepted(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    run(&mut system).await?;
    let previous = "another-key-that-is-long-enough-too";
    system
        .start_gateway(&[("SDB_API_PAYLOAD_KEY", "mine"), ("SDB_SECRET_KEY_PREVIOUS", previous)])
        .await?;
    system.components(&[("DNS", &[])]).await?;
    let gateway = &fixture.binaries.gateway;
    let mine = ("SDB_API_PAYLOAD_KEY", "mine");
    for (arguments, variables, accepted) in [
        (&["token"][..], &[("SDB_SECRET_KEY", SECRET)][..], [true, false]),
        (&["token", "--client", "a monitor"], &[("SDB_SECRET_KEY", SECRET)], [true, false]),
        (&["token", "--days", "1"], &[("SDB_SECRET_KEY", SECRET), mine], [false, true]),
        (&["token", "--days", "0"], &[("SDB_SECRET_KEY", SECRET)], [true, false]),
        (&["token"], &[("SDB_SECRET_KEY", previous), mine], [false, true]),
        (&["token"], &[("SDB_SECRET_KEY", "a-key-that-nobody-has-ever-heard-of")], [false, false]),
    ] {
        let (done, said) = fixture.command(gateway, arguments, variables).await?;
        let token = said.trim();
        ensure!(done && token.split('.').count() == 3 && !token.contains(' '), "{said}");
        for (number, accepted) in accepted.into_iter().enumerate() {
            let request = system
                .request_to(number, reqwest::Method::POST, "/api/v1/component_status")
                .bearer_auth(token)
                .json(&json!({ "name": "DNS", "impact": 1 }));
            let answer = answer(request).await?;
            ensure!((answer.status != 401) == accepted, "{arguments:?} at {number}: {answer:?}");
        }
    }
    let (done, said) = fixture.command(gateway, &["token"], &[]).await?;
    ensure!(!done && said.contains("SDB_SECRET_KEY is not set"), "{said}");
    // No gateway accepts a claim that is empty, so no token with one is made.
    let (done, said) =
        fixture.command(gateway, &["token", "--client", ""], &[("SDB_SECRET_KEY", SECRET)]).await?;
    ensure!(!done && said.contains("client"), "a token that nobody accepts: {said}");
    system.finish().await
}

/// A catalogue file of the test's own.
fn file(fixture: &Fixture, name: &str, yaml: &str) -> Result<PathBuf> {
    let path = fixture.folder.join(name);
    fs::write(&path, yaml)?;
    Ok(path)
}

async fn apply(system: &System, path: &Path) -> Result<(bool, String)> {
    let path = path.to_str().context("the path is no text")?;
    system.worker_command(&["catalogue", "apply", path]).await
}

async fn apply_well(system: &System, path: &Path, says: &str) -> Result<String> {
    let (done, said) = apply(system, path).await?;
    ensure!(done && said.contains(says), "{said:?} does not say {says:?}");
    Ok(said)
}

async fn the_sample_catalogue_is_applied_once(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    run(&mut system).await?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sample-catalogue.yaml");
    let components = fs::read_to_string(&path)?.matches("- name:").count();
    let said = apply_well(&system, &path, &format!("{components} added, 0 changed")).await?;
    ensure!(said.contains("added    Object Storage (Region 1, Storage, obs)"), "{said}");
    let (rows, version) = (contents(&system).await?, "SELECT lists + catalogue FROM sdb_version");
    let before = system.count(version).await?;
    let again = format!("0 added, 0 changed, {components} as they were, 0 not in the file");
    apply_well(&system, &path, &again).await?;
    ensure!(system.count(version).await? == before, "the version moved");
    ensure!(contents(&system).await? == rows);

    // The gateways see it without a restart.
    system.catalogue_seen().await?;
    let storage = json!({
        "name": "Object Storage",
        "impact": 1,
        "attributes": [{ "name": "region", "value": "Region 2" }],
    });
    post(&system, &storage, 201, 1).await?;
    let list = system.get("/api/v1/component_status").await?;
    ensure!(list.body.as_array().map(Vec::len) == Some(components), "{list:?}");
    system.finish().await
}

async fn a_changed_attribute_is_changed_in_place(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    run(&mut system).await?;
    let first = "components:
  - name: DNS
    attributes: {region: R1, category: Net}
  - name: DNS
    attributes: {region: R2, category: Net}
  - name: Bare
";
    apply_well(&system, &file(&fixture, "first.yaml", first)?, "3 added").await?;
    system.catalogue_seen().await?;
    post(&system, &update("DNS", "R2", 2), 201, 1).await?;
    let id_of = |region: &str| {
        format!("SELECT component_id::bigint FROM component_attribute WHERE value = '{region}'")
    };
    let (one, two) = (system.count(&id_of("R1")).await?, system.count(&id_of("R2")).await?);

    let second = first.replace("region: R2, category: Net", "category: Network, region: R2");
    let said = apply_well(
        &system,
        &file(&fixture, "second.yaml", &second)?,
        "0 added, 1 changed, 2 as they were, 0 not in the file",
    )
    .await?;
    ensure!(said.contains("changed  DNS (R2, Net) to DNS (Network, R2)"), "{said}");
    ensure!(system.count(&id_of("R1")).await? == one && system.count(&id_of("R2")).await? == two);
    ensure!(system.count(&id_of("Network")).await? == two);
    ensure!(system.count("SELECT count(*) FROM component").await? == 3);
    system.catalogue_seen().await?;
    post(&system, &update("DNS", "R2", 2), 200, 1).await?;
    let list = system.get("/api/v1/component_status").await?;
    let changed = list.body.as_array().and_then(|all| all.iter().find(|each| each["id"] == two));
    let attributes =
        json!([{ "name": "category", "value": "Network" }, { "name": "region", "value": "R2" }]);
    let changed = changed.context("it is not listed")?;
    ensure!(changed["attributes"] == attributes && changed["incidents"][0]["id"] == 1, "{changed}");

    // What the file does not have stays, and is said.
    let third = "components:\n  - name: Bare\n";
    let said = apply_well(
        &system,
        &file(&fixture, "third.yaml", third)?,
        "0 added, 0 changed, 1 as they were, 2 not in the file",
    )
    .await?;
    ensure!(said.contains("stays    DNS (R1, Net)"), "{said}");
    system.finish().await
}

async fn a_catalogue_that_makes_no_sense_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let good = file(&fixture, "good.yaml", "components:\n  - name: DNS\n")?;
    apply_well(&system, &good, "1 added").await?;
    let before = (contents(&system).await?, system.count("SELECT lists FROM sdb_version").await?);
    for (yaml, says) in [
        ("", "components"),
        ("just words", "line 1"),
        ("components:\n  - name: New\n  - title: CDN\n", "line 3"),
        ("components:\n  - name: New\n  - name: CDN\n    attributes: [region]\n", "line 4"),
        ("components:\n  - name: New\n  - name: CDN\n    attributes: {region: }\n", "region"),
        ("components:\n  - name: New\n  - name: ''\n", "line 3: the name of a component is empty"),
        (
            "components:\n  - name: New\n    renamed-from: A\n  - name: New\n    renamed-from: B\n",
            "line 4: New () is also in line 2, with another `renamed-from`",
        ),
        ("components:\n  - name: New\n    attributes: {a: b, a: c}\n", "line 3"),
        ("components:\n  - name: \"a\\u0000b\"\n", "line 2: the name of a component has a control"),
        ("components: [\n", "line"),
    ] {
        let (done, said) = apply(&system, &file(&fixture, "nonsense.yaml", yaml)?).await?;
        ensure!(!done, "{yaml:?}: {said}");
        ensure!(said.contains("nonsense.yaml") && said.contains(says), "{yaml:?}: {said}");
        ensure!(!said.contains("panicked"), "{yaml:?}: {said}");
    }
    let (done, said) = apply(&system, &fixture.folder.join("missing.yaml")).await?;
    ensure!(!done && said.contains("missing.yaml can't be read"), "{said}");
    let after = (contents(&system).await?, system.count("SELECT lists FROM sdb_version").await?);
    ensure!(after == before, "something was changed");
    system.finish().await
}

async fn a_value_longer_than_its_column_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let orm = python_database(&fixture, ORM).await?;
    migrate(&orm).await?;
    let entry = |name: &str, key: &str, value: &str| {
        format!("  - name: {name}\n    attributes: {{{key}: {value}}}\n")
    };
    let (fits, long) = ("ü".repeat(50), "ü".repeat(51));
    let (key_fits, long_key) = ("k".repeat(30), "k".repeat(31));
    let before = contents(&orm).await?;
    for (bad, limit) in
        [(entry("Long", "region", &long), "50"), (entry("Key", &long_key, "R"), "30")]
    {
        let yaml = format!("components:\n{}{bad}", entry("Fits", &key_fits, &fits));
        let (done, said) = apply(&orm, &file(&fixture, "long.yaml", &yaml)?).await?;
        ensure!(!done && said.contains("line 4") && said.contains(limit), "{said}");
    }
    ensure!(contents(&orm).await? == before, "something was added");
    let yaml = format!("components:\n{}", entry("Fits", &key_fits, &fits));
    apply_well(&orm, &file(&fixture, "fits.yaml", &yaml)?, "1 added").await?;

    // The Alembic form has no such limit.
    let name = format!("{}_a", orm.vhost);
    let servers = fixture.servers.clone();
    let uri = tokio::task::spawn_blocking(move || servers.postgres().create_database(&name));
    let uri = uri.await??;
    let mut alembic = PgConnection::connect(&uri).await?;
    sqlx::raw_sql(ALEMBIC).execute(&mut alembic).await?;
    sqlx::query("INSERT INTO alembic_version VALUES ($1)")
        .bind(ALEMBIC_HEAD)
        .execute(&mut alembic)
        .await?;
    let yaml = format!("components:\n{}", entry("Long", &long_key, &long));
    let path = file(&fixture, "longer.yaml", &yaml)?;
    let path = path.to_str().context("the path is no text")?;
    for (arguments, says) in
        [(&["migrate"][..], "Applied"), (&["catalogue", "apply", path], "1 added")]
    {
        let variables = [("SDB_DATABASE_URI", uri.as_str())];
        let (done, said) = fixture.command(&fixture.binaries.worker, arguments, &variables).await?;
        ensure!(done && said.contains(says), "{said}");
    }
    orm.finish().await
}

async fn catalogues_applied_at_once_add_each_component_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let mut yaml = "components:\n".to_owned();
    for number in 0..100 {
        write!(yaml, "  - name: Service {number}\n    attributes: {{region: R{}}}\n", number % 2)?;
    }
    let path = file(&fixture, "hundred.yaml", &yaml)?;
    let said = try_join_all((0..4).map(|_| apply(&system, &path))).await?;
    ensure!(said.iter().all(|(done, _)| *done), "{said:?}");
    let adding = said.iter().filter(|(_, said)| said.contains("100 added, 0 changed")).count();
    let same = said.iter().filter(|(_, said)| said.contains("100 as they were")).count();
    ensure!((adding, same) == (1, 3), "{said:?}");
    ensure!(system.count("SELECT count(*) FROM component").await? == 100);
    ensure!(system.count("SELECT count(*) FROM component_attribute").await? == 100);
    system.finish().await
}
