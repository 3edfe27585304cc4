//! How the programs reach their servers: the address that is written and no other, sessions of the
//! database that are what they must be, and no pooler that shares them.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use deploy::servers::{PgBouncer, has_ipv6};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, raw_sql};
use tokio::task::spawn_blocking;

use harness::{Fixture, System, eventually, log_lines, tests};

tests!(
    both_servers_are_reached_over_ipv6,
    a_database_is_reached_by_its_socket_or_by_a_host_in_a_parameter,
    a_server_that_takes_no_writes_is_refused_where_that_is_asked_for,
    a_pooler_that_drops_the_sessions_options_is_refused,
    a_pooler_that_refuses_the_sessions_options_is_named,
    a_pooler_that_shares_sessions_is_refused,
    defaults_of_a_role_change_neither_transactions_nor_durability,
    sessions_without_triggers_are_refused_until_they_are_reset,
);

fn dns(impact: u8) -> Value {
    json!({ "name": "DNS", "impact": impact, "text": "Slow" })
}

/// Where the programs' connections to the database come from; none of a socket.
async fn clients(system: &System) -> Result<Vec<Option<String>>> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT host(client_addr) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name IN ('gateway', 'worker')",
    )
    .fetch_all(&system.database)
    .await?)
}

async fn both_servers_are_reached_over_ipv6(fixture: Arc<Fixture>) -> Result<()> {
    if !has_ipv6() {
        eprintln!(
            "NOT TESTED: this machine has no IPv6, so no server was reached by it; only the reading of \
             addresses is tested"
        );
        return Ok(());
    }
    let mut system = System::prepared(&fixture).await?;
    let database = system.database_uri.replace("127.0.0.1", "[::1]");
    let broker = system.amqp_uri.replace("127.0.0.1", "[::1]");
    let variables = [("SDB_DATABASE_URI", &*database), ("SDB_AMQP_URI", &*broker)];
    system.start_worker(&variables).await?;
    system.start_gateway(&variables).await?;
    system.components(&[("DNS", &[])]).await?;
    let answer = system.post(&dns(1)).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let clients = clients(&system).await?;
    ensure!(clients == [Some("::1".to_owned())], "{clients:?}");
    let servers = fixture.clone();
    let list = ["list_connections", "vhost", "peer_host"];
    let connections = spawn_blocking(move || servers.rabbitmq().ctl(&list)).await??;
    let peers: Vec<&str> = connections
        .lines()
        .filter_map(|line| line.strip_prefix(&system.vhost)?.strip_prefix('\t'))
        .collect();
    ensure!(!peers.is_empty() && peers.iter().all(|peer| *peer == "::1"), "{connections}");
    for process in system.gateways.iter().chain(&system.workers) {
        let log = process.log()?;
        // A statement takes longer than a second on a machine that stalls.
        let warns = |line: &Value| line["level"] == "WARN" && line["target"] != "sqlx::query";
        ensure!(!log_lines(&log).iter().any(warns), "{log}");
    }
    system.finish().await
}

async fn a_database_is_reached_by_its_socket_or_by_a_host_in_a_parameter(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let port = fixture.servers.postgres().port();
    let user = system.database_uri.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    let (user, name) = (user.context("no user")?.0.to_owned(), system.vhost.clone());
    for place in [
        format!("localhost:{port}/{name}?connect_timeout=2"),
        format!("/{name}?host=localhost&port={port}&application_name=python"),
        format!(":{port}/{name}?host=127.0.0.1"),
        format!("/?host=localhost:{port}&dbname={name}&sslmode=prefer"),
    ] {
        let uri = format!("postgresql+psycopg2://{user}@{place}");
        let (done, said) = show(&fixture, &uri).await?;
        ensure!(done, "{place}: {said}");
    }
    let folder = fixture.servers.postgres().socket().context("the path is too long")?.display();
    let uri = format!("postgresql://{user}@/{name}?host={folder}&port={port}&sslmode=require");
    system.start_worker(&[("SDB_DATABASE_URI", &uri)]).await?;
    system.start_gateway(&[("SDB_DATABASE_URI", &uri)]).await?;
    system.components(&[("DNS", &[])]).await?;
    let answer = system.post(&dns(1)).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let clients = clients(&system).await?;
    ensure!(clients == [None], "{clients:?}");
    system.finish().await
}

/// Runs a command that needs nothing but the database.
async fn show(fixture: &Fixture, uri: &str) -> Result<(bool, String)> {
    let variables = [("SDB_DATABASE_URI", uri)];
    fixture.command(&fixture.binaries.worker, &["topology", "show"], &variables).await
}

async fn a_server_that_takes_no_writes_is_refused_where_that_is_asked_for(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let (name, uri) = (&system.vhost, &system.database_uri);
    system.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await?;
    for (attribute, takes) in [("any", true), ("primary", true), ("read-write", false)] {
        let (done, said) =
            show(&fixture, &format!("{uri}?target_session_attrs={attribute}")).await?;
        ensure!(done == takes, "{attribute}: {said}");
        ensure!(takes || said.contains("the database accepts no writes"), "{attribute}: {said}");
    }
    system.finish_with_parked()
}

/// A PgBouncer before the system's database, and that database's address through it.
async fn pgbouncer(
    system: &System,
    name: &str,
    settings: &'static str,
) -> Result<(PgBouncer, String)> {
    let (servers, name) = (system.context.servers.clone(), format!("{}-{name}", system.vhost));
    let pooler = spawn_blocking(move || servers.start_pgbouncer(&name, settings)).await??;
    let (own, its) = (system.context.servers.postgres().port(), pooler.port());
    let uri = system.database_uri.replace(&format!(":{own}/"), &format!(":{its}/"));
    Ok((pooler, uri))
}

/// Sees that every program and command refuses the address.
async fn all_refuse(system: &mut System, uri: &str, says: &str) -> Result<()> {
    let fixture = system.context.clone();
    for program in ["gateway", "worker"] {
        let mut process = system.launch(program, &[("SDB_DATABASE_URI", uri)])?;
        let status = process.ended().await.with_context(|| process.log().unwrap_or_default())?;
        let log = process.log()?;
        ensure!(!status.success() && log.contains(says), "{program}: {log}");
        ensure!(!log.contains("panicked"), "{program}: {log}");
    }
    let catalogue = fixture.folder.join("catalogue.yaml");
    std::fs::write(&catalogue, "components: []\n")?;
    let catalogue = catalogue.to_string_lossy();
    for arguments in [
        &["migrate"][..],
        &["detach"],
        &["catalogue", "apply", &catalogue],
        &["incident", "list"],
        &["parked", "list"],
        &["parked", "requeue", "--all"],
        &["topology", "show"],
        &["topology", "change", "--partitions", "2"],
    ] {
        let variables = [("SDB_DATABASE_URI", uri), ("SDB_AMQP_URI", &system.amqp_uri)];
        let (done, said) = fixture.command(&fixture.binaries.worker, arguments, &variables).await?;
        ensure!(!done && said.contains(says), "{arguments:?}: {said}");
        ensure!(said.lines().count() == 1, "{arguments:?}: {said}");
    }
    Ok(())
}

async fn a_pooler_that_drops_the_sessions_options_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    for (name, settings) in [
        (
            "transaction",
            "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options",
        ),
        ("session", "pool_mode = session\nignore_startup_parameters = extra_float_digits,options"),
    ] {
        let (_pooler, uri) = pgbouncer(&system, name, settings).await?;
        let says = "a connection pooler in between drops the session's options";
        all_refuse(&mut system, &uri, says).await?;
    }
    system.finish_with_parked()
}

async fn a_pooler_that_refuses_the_sessions_options_is_named(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let (_pooler, uri) = pgbouncer(&system, "strict", "").await?;
    all_refuse(&mut system, &uri, "a connection pooler refuses the session's options").await?;
    system.finish_with_parked()
}

async fn a_pooler_that_shares_sessions_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    const IGNORED: &str = "ignore_startup_parameters = extra_float_digits,options\n";
    let system = System::prepared(&fixture).await?;
    // So that the options hold, of a command's session, though the pooler drops them.
    for (name, value) in [
        ("idle_in_transaction_session_timeout", "0"),
        ("lock_timeout", "'1min'"),
        ("statement_timeout", "0"),
    ] {
        system.sql(&format!("ALTER DATABASE {} SET {name} = {value}", system.vhost)).await?;
    }
    let (_pooler, uri) = pgbouncer(&system, "session", IGNORED).await?;
    for _ in 0..3 {
        let (done, said) = show(&fixture, &uri).await?;
        ensure!(done, "in session mode nothing is shared: {said}");
    }
    for (name, settings) in [
        ("last", "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options"),
        (
            "turns",
            "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options\n\
             server_round_robin = 1",
        ),
        (
            "statement",
            "pool_mode = statement\nignore_startup_parameters = extra_float_digits,options",
        ),
    ] {
        // With one server process, then with two that nobody has marked.
        for processes in 1..=2 {
            let name = format!("{name}-{processes}");
            let (_pooler, uri) = pgbouncer(&system, &name, settings).await?;
            let opening = (0..processes).map(|_| async {
                let mut client = PgConnection::connect(&uri).await?;
                raw_sql("SELECT pg_sleep(0.5)").execute(&mut client).await?;
                client.close().await
            });
            try_join_all(opening).await?;
            let (done, said) = show(&fixture, &uri).await?;
            ensure!(!done && said.contains("is shared with other clients"), "{name}: {said}");
        }
    }
    system.finish_with_parked()
}

async fn defaults_of_a_role_change_neither_transactions_nor_durability(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system
        .sql(
            "CREATE TABLE seen (name text, isolation text, durability text);
            CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO seen VALUES (TG_TABLE_NAME, current_setting('transaction_isolation'),
                    current_setting('synchronous_commit'));
                RETURN NULL;
            END $$;
            CREATE TRIGGER see AFTER INSERT ON sdb_inbox FOR EACH STATEMENT EXECUTE FUNCTION see();
            CREATE TRIGGER see AFTER UPDATE ON sdb_worker FOR EACH STATEMENT EXECUTE FUNCTION see()",
        )
        .await?;
    let role = format!("ALTER ROLE CURRENT_USER IN DATABASE {}", system.vhost);
    for (name, value) in [
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("synchronous_commit", "off"),
        ("standard_conforming_strings", "off"),
        ("idle_in_transaction_session_timeout", "'20ms'"),
        ("lock_timeout", "'20ms'"),
        ("TimeZone", "'Asia/Tokyo'"),
        ("DateStyle", "'SQL, DMY'"),
        ("IntervalStyle", "sql_standard"),
        ("bytea_output", "escape"),
        ("client_min_messages", "error"),
        ("enable_indexscan", "off"),
    ] {
        system.sql(&format!("{role} SET {name} = {value}")).await?;
    }
    system.start_worker(&[]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[]), ("Mail", &[])]).await?;
    let posts = (0..60).map(|number| {
        let name = ["DNS", "CDN", "Mail"][number % 3];
        let body = json!({ "name": name, "impact": 1 + number % 3, "text": "Slow" });
        let system = &system;
        async move { system.post(&body).await }
    });
    for answer in try_join_all(posts).await? {
        ensure!([200, 201].contains(&answer.status), "{answer:?}");
    }
    let lists = system.get("/api/v1/incidents").await?;
    ensure!(lists.status == 200, "{lists:?}");
    let seen = async |system: &System, name: &str| -> Result<Vec<(String, String)>> {
        let query = "SELECT DISTINCT isolation, durability FROM seen WHERE name = $1";
        Ok(sqlx::query_as(query).bind(name).fetch_all(&system.database).await?)
    };
    let pair = |one: &str, other: &str| vec![(one.to_owned(), other.to_owned())];
    let inbox = seen(&system, "sdb_inbox").await?;
    ensure!(inbox == pair("read committed", "on"), "{inbox:?}");
    // Heartbeats may be lost.
    let heartbeats = seen(&system, "sdb_worker").await?;
    ensure!(heartbeats == pair("read committed", "off"), "{heartbeats:?}");

    // What is stricter is left as it is.
    system.sql(&format!("{role} SET synchronous_commit = remote_apply")).await?;
    system.workers.clear();
    system.start_worker(&[]).await?;
    system.sql("TRUNCATE seen").await?;
    // The workers that were killed have their partitions until they are missed.
    eventually("updates are applied", async || Ok(system.post(&dns(1)).await?.status == 200))
        .await?;
    let inbox = seen(&system, "sdb_inbox").await?;
    ensure!(inbox == pair("read committed", "remote_apply"), "{inbox:?}");
    system.finish().await
}

async fn sessions_without_triggers_are_refused_until_they_are_reset(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    ensure!(system.post(&dns(1)).await?.status == 201);
    let database = format!("ALTER DATABASE {}", system.vhost);
    // Of sessions that are made from now on.
    system.sql(&format!("{database} SET session_replication_role = replica")).await?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name IN ('gateway', 'worker')";
    system.sql(end).await?;
    let says = "session_replication_role = replica";
    for process in [&system.gateways[0], &system.workers[0]] {
        eventually("the session is refused", async || Ok(process.log()?.contains(says))).await?;
    }
    ensure!(system.get("/api/v1/incidents").await?.status == 503);
    ensure!(system.post_with_default_wait(&dns(2)).await?.status == 202);
    let mut another = system.launch("worker", &[])?;
    ensure!(!another.ended().await?.success() && another.log()?.contains(says));

    system.sql(&format!("{database} RESET session_replication_role")).await?;
    eventually("lists are shown again", async || {
        Ok(system.get("/api/v1/incidents").await?.status == 200)
    })
    .await?;
    eventually("updates are applied again", async || Ok(system.post(&dns(2)).await?.status == 200))
        .await?;
    system.finish().await
}
