//! The limit of open files: what strangers may take of it, and what is kept for the servers.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use harness::{Fixture, Process, System, eventually, http, tests};

tests!(
    the_limit_of_open_files_is_raised_for_the_connections_that_are_set,
    a_low_limit_of_open_files_leaves_room_for_the_servers,
    a_limit_of_open_files_that_leaves_no_room_stops_the_start,
);

/// Starts a gateway whose shell first limits how many files it may open.
fn limited(system: &System, ulimit: &str, variables: &[(&str, &str)]) -> Result<Process> {
    let gateway = system.context.binaries.gateway.display();
    let script = format!("{ulimit} && exec '{gateway}' run");
    let log = system.context.folder.join("limited-gateway.log");
    Process::start(Path::new("/bin/sh"), &["-c", &script], &system.variables(variables), log)
}

fn request(system: &System, first: &str, body: &str) -> String {
    format!(
        "{first} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
        Content-Length: {}\r\n\r\n{body}",
        system.token,
        body.len()
    )
}

/// Has strangers take all connections of a gateway that has used none of its servers yet, and sees that
/// it serves one client still; returns how many of them it has accepted, which are at least so many.
async fn holds_out(system: &mut System, strangers: usize, least: usize) -> Result<usize> {
    system.components(&[("DNS", &[])]).await?;
    let address = &system.addresses[0];
    let mut own = TcpStream::connect(address).await?;
    let probe = request(system, "GET /healthz", "");
    ensure!(http::ask(&mut own, &probe).await?.status == 200);
    let open = |process: &Process| process.open_files();
    let before = open(&system.gateways[0])?;
    let mut held = Vec::new();
    for _ in 0..strangers {
        let mut stranger = TcpStream::connect(address).await?;
        stranger.write_all(b"GET /").await?;
        held.push(stranger);
    }
    eventually("enough are accepted", async || Ok(open(&system.gateways[0])? >= before + least))
        .await?;
    // It accepts until it has as many as it may: the number stands still then.
    let (mut last, mut still) = (0, 0);
    eventually("no more are accepted", async || {
        let now = open(&system.gateways[0])?;
        still = if now == last { still + 1 } else { 0 };
        last = now;
        Ok(still > 20)
    })
    .await?;
    let accepted = last - before;

    for round in 0..3 {
        let update = json!({ "name": "DNS", "impact": 1 + round }).to_string();
        let update = request(system, "POST /api/v1/component_status", &update);
        let mut posted = http::Raw::default();
        // Outcomes can't be answered while connections to the database are being re-established.
        eventually("an update is answered with its outcome", async || {
            posted = http::ask(&mut own, &update).await?;
            Ok([200, 201].contains(&posted.status))
        })
        .await
        .with_context(|| format!("{posted:?}"))?;
        let receipt = format!("GET /api/v1/updates/{}", posted.header("update-id"));
        for path in [
            receipt.as_str(),
            "GET /api/v1/incidents",
            "GET /api/v1/component_status?active=true",
            "GET /readyz",
        ] {
            let got = http::ask(&mut own, &request(system, path, "")).await?;
            ensure!(got.status == 200, "{path}: {got:?}");
        }
        // Connections of its own are made again while strangers hold the rest.
        system
            .sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'gateway'",
            )
            .await?;
        eventually("the database is read again", async || {
            let list = request(system, &format!("GET /api/v1/incidents?limit={}", round + 1), "");
            Ok(http::ask(&mut own, &list).await?.status == 200)
        })
        .await?;
    }
    let log = system.gateways[0].log()?;
    ensure!(!log.contains("no connection can be accepted"), "{log}");
    drop(held);
    Ok(accepted)
}

/// The warning of the start, if there is one.
fn warning(system: &System) -> Result<Option<Value>> {
    let log = system.gateways[0].log()?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.into_iter().find(|line| {
        line["message"].as_str().is_some_and(|message| message.contains("limit of open files"))
    }))
}

async fn the_limit_of_open_files_is_raised_for_the_connections_that_are_set(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    let gateway = limited(&system, "ulimit -S -n 160", &[("SDB_MAX_CONNECTIONS", "300")])?;
    system.adopt_gateway(gateway).await?;
    let accepted = holds_out(&mut system, 400, 290).await?;
    // All that are set, with that of the test.
    ensure!((290..=300).contains(&accepted), "{accepted} were accepted");
    let warning = warning(&system)?;
    ensure!(warning.is_none(), "{warning:?}");
    system.finish().await
}

async fn a_low_limit_of_open_files_leaves_room_for_the_servers(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    let gateway = limited(&system, "ulimit -n 200", &[("SDB_MAX_CONNECTIONS", "300")])?;
    system.adopt_gateway(gateway).await?;
    let warning = warning(&system)?.context("no warning")?;
    ensure!(warning["level"] == "WARN" && warning["limit"] == 200, "{warning}");
    let room: usize = warning["connections"].as_u64().context("no number")?.try_into()?;
    ensure!((10..190).contains(&room), "{warning}");
    let message = warning["message"].as_str().unwrap_or_default();
    for part in
        ["SDB_MAX_CONNECTIONS", "ulimit -n", "LimitNOFILE=", &(300 + 200 - room).to_string()]
    {
        ensure!(message.contains(part), "{part}: {warning}");
    }
    let accepted = holds_out(&mut system, 250, room.saturating_sub(11)).await?;
    ensure!(accepted <= room && accepted + 12 > room, "{accepted} of {room} were accepted");
    ensure!(system.gateways[0].open_files()? <= 200);
    system.finish().await
}

async fn a_limit_of_open_files_that_leaves_no_room_stops_the_start(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let mut gateway = limited(&system, "ulimit -n 100", &[])?;
    let status = gateway.ended().await?;
    let log = gateway.log()?;
    ensure!(!status.success() && !log.contains("panicked"), "{status}: {log}");
    for part in ["the limit of open files is 100", "LimitNOFILE=", "ulimit -n"] {
        ensure!(log.contains(part), "{part}: {log}");
    }
    system.finish().await
}
