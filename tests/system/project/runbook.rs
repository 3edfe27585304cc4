//! The commands of the pages for operators (alerts, procedures) run as they are written, in a shell, on real
//! servers.

mod shell;

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use lapin::{
    Connection, ConnectionProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable, ShortString},
};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::task::spawn_blocking;

use harness::{Fixture, Process, System, answer, eventually, tests};

use self::shell::{Shell, commands, expect, text};

tests!(
    a_python_database_is_taken_over_and_given_back_and_taken_over_again,
    a_backup_is_restored,
    an_upgrade_follows_the_procedure,
    every_other_command_works,
    each_deployment_has_its_commands,
);

/// What `pg_dump` says of the schema, without what differs each time.
async fn schema(shell: &Shell) -> Result<String> {
    let dump = shell.run("pg_dump --schema-only \"$DB\"").await?;
    let lines = dump.lines().filter(|line| {
        !line.is_empty()
            && !["--", "\\restrict", "\\unrestrict"].iter().any(|p| line.starts_with(p))
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// The part of a schema that is the Python dashboard's.
async fn python_schema(shell: &Shell) -> Result<String> {
    let tables =
        "component component_attribute incident incident_component_relation incident_status
        alembic_version";
    let tables: String =
        tables.split_whitespace().map(|table| format!(" --table={table}")).collect();
    let dump = shell.run(&format!("pg_dump --schema-only{tables} \"$DB\"")).await?;
    let lines = dump.lines().filter(|line| {
        !line.is_empty()
            && !["--", "\\restrict", "\\unrestrict"].iter().any(|p| line.starts_with(p))
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// What the Python dashboard's tables have.
async fn rows(system: &System, database: Option<&str>) -> Result<String> {
    let query = "SELECT coalesce(string_agg(row, E'\\n' ORDER BY row), '') FROM (
        SELECT 'c ' || t::text FROM component t UNION ALL SELECT 'a ' || t::text FROM component_attribute t
        UNION ALL SELECT 'i ' || t::text FROM incident t
        UNION ALL SELECT 'r ' || t::text FROM incident_component_relation t
        UNION ALL SELECT 's ' || t::text FROM incident_status t) AS rows (row)";
    let Some(database) = database else {
        return Ok(sqlx::query_scalar(query).fetch_one(&system.database).await?);
    };
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(database).await?;
    Ok(sqlx::query_scalar(query).fetch_one(&mut connection).await?)
}

async fn stopped(processes: &mut Vec<Process>) -> Result<()> {
    for mut process in processes.drain(..) {
        process.signal(Signal::SIGTERM)?;
        ensure!(process.ended().await?.success(), "it did not end well");
    }
    Ok(())
}

async fn stop(system: &mut System) -> Result<()> {
    stopped(&mut system.gateways).await?;
    stopped(&mut system.workers).await?;
    system.addresses.clear();
    Ok(())
}

const ALEMBIC: &str = include_str!("../../data/python-alembic.sql");
const PYTHON_DATA: &str = "
    INSERT INTO alembic_version VALUES ('14621c95e3ee');
    INSERT INTO component (id, name) VALUES (3, 'DNS'), (7, 'CDN');
    INSERT INTO component_attribute (id, component_id, name, value) VALUES (6, 3, 'region', 'R1');
    INSERT INTO incident (id, text, start_date, end_date, impact, system) VALUES
        (4, 'Closed', '2024-01-01 10:00', '2024-01-01 12:00', 3, true),
        (10, 'Of the system', '2024-01-02', NULL, 2, true);
    INSERT INTO incident_component_relation VALUES (4, 3), (10, 7);
    INSERT INTO incident_status (id, incident_id, timestamp, text, status) VALUES
        (8, 4, '2024-01-01 12:00', 'Done', 'resolved');";

/// Takes the database over, by the procedure, and posts.
async fn take_over(system: &mut System, status: u16) -> Result<()> {
    let [dump, migrate, dry_run, readyz, lists] = &expect(
        "Take over from the Python dashboard",
        &["pg_dump ", "worker migrate", "worker catalogue apply --dry-run ", "curl ", "curl "],
    )?[..] else {
        unreachable!("there are as many as are expected")
    };
    let shell = Shell::new(system, "unused")?;
    let before = rows(system, None).await?;
    shell.run(dump).await?;
    shell.run(migrate).await?;
    let said = shell.run(dry_run).await?;
    ensure!(said.contains("A dry run: nothing was changed."), "{said}");
    ensure!(rows(system, None).await? == before, "rows were changed");
    shell.run(&dry_run.replace("--dry-run ", "")).await?;

    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    let shell = Shell::new(system, &format!("http://{}", system.addresses[0]))?;
    let ready = shell.run(readyz).await?;
    ensure!(ready.contains(r#""status":"ready""#), "{ready}");
    let list = shell.run(lists).await?;
    ensure!(list.contains(r#""text":"Of the system""#), "{list}");
    let posted = system.post(&json!({ "name": "CDN", "impact": 2 })).await?;
    ensure!(posted.status == status, "{posted:?}");

    // The backup has all of it.
    let restored = format!("{}_b", system.vhost);
    let servers = system.context.clone();
    let uri = spawn_blocking(move || -> Result<String> {
        servers.postgres().drop_database(&restored)?;
        servers.postgres().create_database(&restored)
    })
    .await??;
    shell.at(&uri).run("pg_restore --dbname=\"$DB\" before.dump").await?;
    ensure!(rows(system, Some(&uri)).await? == before, "the backup is not whole");
    Ok(())
}

async fn a_python_database_is_taken_over_and_given_back_and_taken_over_again(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::bare(&fixture).await?;
    system.sql(ALEMBIC).await?;
    system.sql(PYTHON_DATA).await?;
    let shell = Shell::new(&system, "unused")?;
    let (all, python) = (schema(&shell).await?, python_schema(&shell).await?);
    take_over(&mut system, 200).await?;

    let [queues, parked, detach, drop_ours] = &expect(
        "Go back to the Python dashboard",
        &["rabbitmqctl list_queues ", "worker parked list", "worker detach", "psql "],
    )?[..] else {
        unreachable!("there are as many as are expected")
    };
    let queues = queues.replace("VHOST", &system.vhost);
    eventually("the queues are empty", async || {
        let listed = shell.run(&queues).await?;
        let mut ours = listed.lines().filter(|line| line.starts_with("sdb.updates.")).peekable();
        Ok(ours.peek().is_some() && ours.all(|line| line.ends_with("\t0")))
    })
    .await?;
    system.drained().await?;
    let list = shell.run(parked).await?;
    ensure!(list.contains("Nothing is parked") || list.trim().is_empty(), "{list}");
    // Not before they have stopped.
    ensure!(shell.run(detach).await.is_err(), "it detached under gateways and workers");
    stop(&mut system).await?;
    shell.run(detach).await?;
    ensure!(python_schema(&shell).await? == python, "the Python tables are not as they were");
    shell.run(drop_ours).await?;
    let left = schema(&shell).await?;
    ensure!(left == all, "something of ours is left:\n{left}");
    let kept = rows(&system, None).await?;

    // And again: the incident of before is still honoured.
    take_over(&mut system, 200).await?;
    stop(&mut system).await?;
    shell.run(detach).await?;
    ensure!(python_schema(&shell).await? == python, "the Python tables are not as they were");
    ensure!(rows(&system, None).await? == kept, "rows were changed");
    system.finish_with_logs()
}

async fn a_backup_is_restored(fixture: Arc<Fixture>) -> Result<()> {
    let [dump, restore, migrate, queues] = &expect(
        "Back up and restore",
        &["pg_dump ", "pg_restore ", "worker migrate", "rabbitmqctl list_queues "],
    )?[..] else {
        unreachable!("there are as many as are expected")
    };
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[("region", "R1")]), ("CDN", &[])]).await?;
    let opened = system.post(&json!({ "name": "DNS", "impact": 2 })).await?;
    ensure!(opened.status == 201, "{opened:?}");
    let shell = Shell::new(&system, "unused")?;
    // While all runs.
    shell.run(dump).await?;
    let at_backup = rows(&system, None).await?;
    stopped(&mut system.workers).await?;
    let waiting = system.update(&json!({ "name": "CDN", "impact": 3 }));
    let waiting = answer(waiting.header("Prefer", "respond-async")).await?;
    ensure!(waiting.status == 202, "{waiting:?}");
    stop(&mut system).await?;
    // Its numbers are some seconds old.
    let queues = queues.replace("VHOST", &system.vhost);
    eventually("the update that waits is listed, without a consumer", async || {
        let listed = shell.run(&queues).await?;
        Ok(listed.lines().any(|row| row.starts_with("sdb.updates.") && row.ends_with("\t1\t0")))
    })
    .await?;

    let (servers, name) = (fixture.clone(), format!("{}_n", system.vhost));
    let uri = spawn_blocking(move || servers.postgres().create_database(&name)).await??;
    let shell = shell.at(&uri);
    shell.run(restore).await?;
    ensure!(rows(&system, Some(&uri)).await? == at_backup, "rows differ from those of the backup");
    let said = shell.run(migrate).await?;
    ensure!(said.contains("up to date"), "{said}");
    let database = [("SDB_DATABASE_URI", uri.as_str())];
    system.start_worker(&database).await?;
    system.start_gateway(&database).await?;
    for (id, outcome) in [(opened, "opened"), (waiting, "opened")] {
        let receipt = format!("/api/v1/updates/{}", id.header("update-id"));
        eventually("its outcome is known", async || {
            Ok(system.get(&receipt).await?.body["outcome"] == outcome)
        })
        .await?;
    }
    let again = system.post(&json!({ "name": "DNS", "impact": 2 })).await?;
    ensure!(again.status == 200, "{again:?}");
    system.finish_with_logs()
}

async fn an_upgrade_follows_the_procedure(fixture: Arc<Fixture>) -> Result<()> {
    let commands = [
        "worker migrate",
        "worker topology change --wire 3",
        "worker topology change --arguments 3",
        "worker topology change --wire 1 --arguments 1",
    ];
    let [migrate, raise, replace, lower] = &expect("Upgrade without downtime", &commands)?[..]
    else {
        unreachable!("there are as many as are expected")
    };
    let mut system = System::start(&fixture).await?;
    system.start_worker(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let shell = Shell::new(&system, "unused")?;
    shell.run(migrate).await?;
    // An upgraded database has the version of the earlier release.
    shell.run(lower).await?;
    let taken = async |system: &System| {
        let taken = "updates are taken again";
        let update = json!({ "name": "DNS", "impact": 1 });
        eventually(taken, async || Ok(system.post(&update).await?.status < 202)).await
    };
    taken(&system).await?;
    for _ in 0..2 {
        let mut old = system.workers.remove(0);
        old.signal(Signal::SIGTERM)?;
        ensure!(old.ended().await?.success());
        let answer = system.post(&json!({ "name": "DNS", "impact": 1 })).await?;
        ensure!([200, 201, 202].contains(&answer.status), "{answer:?}");
        system.start_worker(&[]).await?;
    }
    system.start_gateway(&[]).await?;
    let mut old = system.gateways.remove(0);
    old.signal(Signal::SIGTERM)?;
    ensure!(old.ended().await?.success());
    system.addresses.remove(0);
    ensure!(system.post(&json!({ "name": "DNS", "impact": 2 })).await?.status == 201);
    for (command, wire, arguments) in [(raise, 3, 1), (replace, 3, 3), (lower, 1, 1)] {
        shell.run(command).await?;
        let topology = system.topology().await?;
        ensure!(
            (topology.wire, topology.arguments) == (wire, arguments),
            "{command}: {topology:?}"
        );
        taken(&system).await?;
    }
    system.finish().await
}

/// The first number of a query.
async fn number(system: &System, query: &str) -> Result<String> {
    let query = AssertSqlSafe(query.to_owned());
    let number: i64 = sqlx::query_scalar(query).fetch_one(&system.database).await?;
    Ok(number.to_string())
}

async fn every_other_command_works(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.components(&[("DNS", &[])]).await?;
    let shell = Shell::new(&system, &format!("http://{}", system.addresses[0]))?;
    let text = text()?;
    let tested = [
        "Take over from the Python dashboard",
        "Go back to the Python dashboard",
        "Back up and restore",
        "Upgrade without downtime",
    ];
    let titles = text.lines().filter_map(|line| line.strip_prefix("## "));
    let mut count = 0;
    for title in titles.filter(|title| !tested.contains(title)) {
        for command in commands(title)? {
            let said = prepared(&system, &shell, &command)
                .await
                .with_context(|| format!("{title}: {command}"))?;
            ensure!(!said.contains("does not exist"), "{title}: {command}: {said}");
            count += 1;
        }
    }
    ensure!(count > 15, "only {count} commands were found: the test looks at nothing");
    // What the conversion to UTF-8 has made.
    shell.run("psql \"$DB\" -c 'DROP DATABASE status_utf8'").await?;
    // The page's own example of a catalogue is one.
    let (_, yaml) = text.split_once("```yaml\n").context("no example of a catalogue")?;
    let (yaml, _) = yaml.split_once("```").context("it does not end")?;
    fs::write(shell.folder.join("catalogue.yaml"), yaml)?;
    let said = shell.run("worker catalogue apply --dry-run catalogue.yaml").await?;
    ensure!(said.contains("Direct Connect"), "{said}");
    // The last step of a change of partitions.
    let ready = answer(system.request_to(0, Method::GET, "/readyz")).await?;
    ensure!(ready.body["topology"]["partitions"] == 16 || ready.status == 200, "{ready:?}");
    stop(&mut system).await?;
    system.finish_with_logs()
}

/// Runs a command for what stands in the place of its examples.
async fn prepared(system: &System, shell: &Shell, command: &str) -> Result<String> {
    // Numbers first: names and addresses may have the same digits.
    let mut command = command.to_owned();
    if command.contains("17") {
        let update = "INSERT INTO sdb_parked (delivery_key, queue, reason, parked_at, payload)
            VALUES (gen_random_uuid(), 'sdb.updates.v1.p0', 'for a test', now(), '{}') RETURNING id";
        command = command.replace("17", &number(system, update).await?);
    }
    let session = if command.contains("1234") {
        let options: sqlx::postgres::PgConnectOptions = system.database_uri.parse()?;
        let mut session = <sqlx::PgConnection as sqlx::Connection>::connect_with(&options).await?;
        let pid: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut session).await?;
        command = command.replace("1234", &pid.to_string());
        Some(session)
    } else {
        None
    };
    command = command.replace("VHOST", &system.vhost);
    // The admin address of a process: that of a gateway of this test, which is one, too.
    let address = &system.addresses[0];
    command = command.replace("127.0.0.1:9091", &address.to_string());
    if command == "worker health --ready" {
        command = format!("SDB_ADMIN_ADDRESS={address} {command}");
    }
    if command.contains("delete_queue") {
        // One that a command left behind that was killed at its end.
        command = command.replace("vN.pM", "v0.p3");
        let connection =
            Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut quorum = FieldTable::default();
        quorum.insert(ShortString::from("x-queue-type"), AMQPValue::LongString("quorum".into()));
        channel.queue_declare("sdb.updates.v0.p3".into(), durable, quorum).await?;
        connection.close(200, "done".into()).await?;
    }
    let said = shell.run(&command).await?;
    drop(session);
    Ok(said)
}

/// Where one deployment has a command, the others have theirs, and the names in them exist.
async fn each_deployment_has_its_commands(_: Arc<Fixture>) -> Result<()> {
    let deployments = ["- systemd: ", "- compose: ", "- Kubernetes: "];
    let text = text()?;
    let of = |deployment: &str| -> Vec<&str> {
        text.lines().filter_map(|line| line.trim_start().strip_prefix(deployment)).collect()
    };
    let [systemd, compose, kubernetes] = deployments.map(of);
    ensure!(systemd.len() > 15, "only {systemd:?} were found: the check looks at nothing");
    let counts = [compose.len(), kubernetes.len()];
    ensure!(counts == [systemd.len(); 2], "{} of systemd, {counts:?} of others", systemd.len());
    let manifests = ["gateway", "worker"].map(|name| format!("deploy/kubernetes/{name}.yaml"));
    for (name, manifest) in ["gateway", "worker"].into_iter().zip(manifests) {
        let read = |path: &str| fs::read_to_string(deploy::checkout().join(path));
        let object = format!("  name: status-dashboard-{name}\n");
        let label = format!("app.kubernetes.io/component: {name}\n");
        let manifest = read(&manifest)?;
        ensure!(manifest.contains(&object) && manifest.contains(&label), "{name} is not deployed");
        let service = format!("\n  {name}:\n");
        ensure!(read("deploy/container/compose.yaml")?.contains(&service), "no service {name}");
    }
    for line in systemd {
        for unit in line.split("status-dashboard-").skip(1) {
            let unit = unit.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
            ensure!(["worker", "gateway", ""].contains(&unit), "there is no unit {unit}");
        }
    }
    Ok(())
}
