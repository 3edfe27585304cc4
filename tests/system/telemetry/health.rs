//! Health and readiness, by HTTP and by command.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{Scrape, ready, watched};
use harness::{ADMIN, Fixture, System, answer, eventually, tests, token};

tests!(
    a_worker_answers_while_it_waits_for_the_servers,
    health_commands_report_whether_the_process_is_healthy,
    a_gateway_is_watched_whatever_its_clients_do,
);

async fn a_worker_answers_while_it_waits_for_the_servers(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let nobody = "127.0.0.1:1";
    for (name, uri, reason) in [
        ("SDB_DATABASE_URI", format!("postgresql://u:hush@{nobody}/sd"), "PostgreSQL"),
        ("SDB_AMQP_URI", format!("amqp://u:hush@{nobody}/sd"), "RabbitMQ can't be reached"),
    ] {
        let worker = system.launch("worker", &[ADMIN, (name, &uri)])?;
        let address = worker.admin_address().await?;
        let alive = answer(system.client.get(format!("http://{address}/healthz"))).await?;
        ensure!(alive.status == 200 && alive.body["status"] == "ok", "{alive:?}");
        let mut said = ready(&system, &address).await?;
        eventually("it says what is missing", async || {
            said = ready(&system, &address).await?;
            let body = &said.body;
            Ok(body["reasons"][0].as_str().is_some_and(|first| first.contains(reason)))
        })
        .await?;
        ensure!(said.status == 503 && said.body["status"] == "not ready", "{said:?}");
        ensure!(!said.body.to_string().contains("hush"), "{said:?}");
        ensure!(said.body["share"].is_null(), "{said:?}");
        Scrape::of(&system, &address).await?.is("sdb_ready", &[], 0)?;
    }
    system.finish().await
}

async fn health_commands_report_whether_the_process_is_healthy(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let (system, workers) = watched(&fixture, 1).await?;
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let (gateway, worker) = (&fixture.binaries.gateway, &fixture.binaries.worker);
    for (program, name, process, port) in [
        (gateway, "SDB_BIND", &system.gateways[0], port(&system.addresses[0])),
        (worker, "SDB_ADMIN_ADDRESS", &system.workers[0], port(&workers[0])),
    ] {
        // Also where it is served on every address.
        for address in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")] {
            let variables = [(name, address.as_str())];
            // The command waits for 2 s, which a busy process may need.
            for (arguments, says) in [(&["health"][..], "ok"), (&["health", "--ready"], "ready")] {
                eventually(&format!("it is {says}"), async || {
                    let (well, said) = fixture.command(program, arguments, &variables).await?;
                    Ok(well && said.contains(says))
                })
                .await?;
            }
        }
        let address = format!("0.0.0.0:{port}");
        let variables = [(name, address.as_str())];
        process.signal(Signal::SIGSTOP)?;
        let (well, said) = fixture.command(program, &["health"], &variables).await?;
        process.signal(Signal::SIGCONT)?;
        ensure!(!well && said.contains("does not answer within"), "{said}");
        let nobody = [(name, "127.0.0.1:1")];
        let (well, said) = fixture.command(program, &["health"], &nobody).await?;
        ensure!(!well && said.contains("127.0.0.1:1 does not answer"), "{said}");
    }
    let (well, said) = fixture.command(worker, &["health"], &[]).await?;
    ensure!(!well && said.contains("SDB_ADMIN_ADDRESS is not set"), "{said}");
    system.finish().await
}

/// With an address of its own for those who watch, a gateway answers them while strangers hold all its
/// connections.
async fn a_gateway_is_watched_whatever_its_clients_do(fixture: Arc<Fixture>) -> Result<()> {
    const CONNECTIONS: usize = 4;
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[ADMIN, ("SDB_MAX_CONNECTIONS", "4")]).await?;
    let address = system.gateways[0].admin_address().await?;
    ensure!(address != system.addresses[0], "{address} is the clients' address");
    // What balances requests asks where it sends them; the metrics are not for clients.
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 404)] {
        let got = system.get(path).await?;
        ensure!(got.status == status, "{path}: {got:?}");
    }
    // And clients' paths are not for those who watch.
    let list = answer(system.client.get(format!("http://{address}/api/v1/incidents"))).await?;
    ensure!(list.status == 404, "{list:?}");

    let strangers: Vec<TcpStream> = (0..2 * CONNECTIONS)
        .map(|_| TcpStream::connect(&system.addresses[0]))
        .collect::<Result<_, _>>()?;
    let asked = async |address: &str, path: &str| {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request = client.get(format!("http://{address}{path}"));
        anyhow::Ok(answer(request.timeout(Duration::from_secs(2))).await)
    };
    eventually("strangers hold all connections", async || {
        Ok(asked(&system.addresses[0], "/healthz").await?.is_err())
    })
    .await?;
    for path in ["/healthz", "/readyz", "/metrics"] {
        eventually(&format!("{path} is answered"), async || {
            Ok(asked(&address, path).await?.is_ok_and(|got| got.status == 200))
        })
        .await?;
    }
    let variables = [("SDB_ADMIN_ADDRESS", address.as_str()), ("SDB_BIND", "127.0.0.1:1")];
    for arguments in [&["health"][..], &["health", "--ready"]] {
        eventually(&format!("{arguments:?} succeeds"), async || {
            Ok(fixture.command(&fixture.binaries.gateway, arguments, &variables).await?.0)
        })
        .await?;
    }
    drop(strangers);
    eventually("clients are served again", async || {
        Ok(asked(&system.addresses[0], "/healthz").await?.is_ok())
    })
    .await?;

    // It says that it stops, and is there until it has.
    let slow = begin_request(&system.addresses[0])?;
    system.gateways[0].signal(Signal::SIGTERM)?;
    eventually("it says that it stops", async || {
        let Ok(ready) = asked(&address, "/readyz").await? else { return Ok(false) };
        let stopping = json!("the gateway is stopping");
        Ok(ready.status == 503 && ready.body["reasons"][0] == stopping)
    })
    .await?;
    drop(slow);
    ensure!(system.gateways[0].ended().await?.success());
    ensure!(asked(&address, "/healthz").await?.is_err());
    system.finish_with_parked()
}

/// A request whose body the gateway waits for, so that it is under way.
fn begin_request(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let token = token(harness::SECRET, &json!({ "stackmon": "dummy" }));
    write!(
        stream,
        "POST /api/v1/component_status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
        Content-Type: application/json\r\nContent-Length: 100\r\n\
        Expect: 100-continue\r\n\r\n"
    )?;
    // It asks for the body once it reads it.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut said = String::new();
    BufReader::new(&stream).read_line(&mut said)?;
    ensure!(said.starts_with("HTTP/1.1 100"), "{said}");
    Ok(stream)
}
