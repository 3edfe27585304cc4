//! What stops the start of a program, and what only warns.

use std::{net::TcpListener, str::FromStr, sync::Arc};

use anyhow::{Result, ensure};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;

use super::{ALEMBIC, apply, file, python_database, refused};
use harness::{Fixture, System, log_lines, tests};

tests!(
    a_process_that_disagrees_about_the_queues_does_not_start,
    an_unprepared_database_stops_both_programs,
    an_unreachable_database_is_named_without_its_password,
    a_setting_that_cannot_be_used_stops_the_gateway,
    a_setting_that_cannot_be_used_stops_the_worker,
    foreign_settings_are_passed_over_and_unknown_ones_warned_of,
    a_short_key_is_warned_of,
    an_address_that_is_taken_is_named,
);

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
    // There is nothing to take off.
    system.worker_succeeds(&["detach"]).await?;
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
    ("SDB_DATABASE_URI", "postgresql://u:hush@::1/sd", "in brackets"),
    ("SDB_DATABASE_URI", "postgresql://u@db/sd?password=hush&sslpassword=hush", "`sslpassword` is"),
    ("SDB_DATABASE_URI", "postgresql://u:hush@db/sd?hush=hush", "parameter 1 after the `?`"),
    ("SDB_AMQP_URI", "", "SDB_AMQP_URI is not set"),
    ("SDB_AMQP_URI", "amqp://u:hush@a:5672,:5672/v", "names no host"),
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
        let python: Vec<Value> = log_lines(&log)
            .into_iter()
            .filter(|line| line["message"].as_str().is_some_and(|m| m.contains("Python dashboard")))
            .collect();
        ensure!(python.len() == 1 && python[0]["level"] == "INFO", "{python:?}");
        let names = "SDB_GITHUB_CLIENT_SECRET, SDB_SESSION_COOKIE_NAME, SDB_SQLALCHEMY_ECHO";
        ensure!(python[0]["names"] == names, "{python:?}");
        // Others may warn of a machine that is slow.
        let warnings: Vec<Value> = log_lines(&log)
            .into_iter()
            .filter(|line| line["level"] == "WARN" && line["name"].is_string())
            .collect();
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
