//! What both programs tell about themselves: metrics, health, readiness, and the log in a storm.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use harness::{Answer, Fixture, Process, System, answer, burst, eventually, tests, token};

tests!(
    the_metrics_of_a_burst_add_up,
    a_killed_worker_shows_in_metrics_readiness_and_logs,
    updates_that_wait_and_transactions_that_fail_show,
    lost_connections_show,
    a_gateway_without_rabbitmq_shows_what_it_refuses,
    a_worker_answers_while_it_waits_for_the_servers,
    health_commands_tell_whether_the_process_is_well,
    a_gateway_is_watched_whatever_its_clients_do,
    refused_tokens_do_not_flood_the_log,
    parked_updates_do_not_flood_the_log,
    what_is_said_of_metrics_is_true,
);

/// Updates of a burst.
const UPDATES: usize = 300;
/// Those at once.
const CLIENTS: usize = 16;
const ADMIN: (&str, &str) = ("SDB_ADMIN_ADDRESS", "127.0.0.1:0");

/// What a program answers to `/metrics`.
struct Scrape {
    /// The kind of each metric.
    kinds: BTreeMap<String, String>,
    /// Name, labels as they stand, value.
    samples: Vec<(String, String, f64)>,
}

impl Scrape {
    async fn of(system: &System, address: &str) -> Result<Self> {
        let response = system.client.get(format!("http://{address}/metrics")).send().await?;
        ensure!(response.status() == 200, "{response:?}");
        let content_type = response.headers()["content-type"].to_str()?.to_owned();
        ensure!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
        Self::read(&response.text().await?)
    }

    fn read(text: &str) -> Result<Self> {
        let (mut kinds, mut samples) = (BTreeMap::new(), Vec::new());
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').context("no kind")?;
                kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').context("no value")?;
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let value = value.parse().with_context(|| line.to_owned())?;
                samples.push((name.to_owned(), labels.trim_end_matches('}').to_owned(), value));
            }
        }
        Ok(Self { kinds, samples })
    }

    /// The sum of a metric over the series that have these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let all = self.samples.iter().filter(|(n, l, _)| n == name && has(l, labels));
        all.map(|(_, _, value)| value).sum()
    }

    /// How many series of a metric there are.
    fn series(&self, name: &str) -> usize {
        self.samples.iter().filter(|(n, _, _)| n == name).count()
    }

    fn is(&self, name: &str, labels: &[&str], expected: usize) -> Result<()> {
        let value = self.sum(name, labels);
        ensure!(value == expected as f64, "{name} {labels:?} is {value}, not {expected}");
        Ok(())
    }
}

fn has(labels: &str, wanted: &[&str]) -> bool {
    wanted.iter().all(|label| labels.split(',').any(|part| part == *label))
}

/// Where a worker serves what it tells.
async fn admin_address(worker: &Process) -> Result<String> {
    let mut address = None;
    eventually("the worker has its address", async || {
        address = lines(&worker.log()?)
            .find(|line| line["message"] == "serving health and metrics")
            .and_then(|line| line["address"].as_str().map(str::to_owned));
        Ok(address.is_some())
    })
    .await?;
    address.context("the worker has no address")
}

fn lines(log: &str) -> impl Iterator<Item = Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// One gateway, and workers that tell about themselves, with their addresses.
async fn watched(fixture: &Arc<Fixture>, workers: usize) -> Result<(System, Vec<String>)> {
    let mut system = System::prepared(fixture).await?;
    let mut addresses = Vec::new();
    for _ in 0..workers {
        system.start_worker(&[ADMIN]).await?;
        addresses.push(admin_address(system.workers.last().context("no worker")?).await?);
    }
    system.start_gateway(&[]).await?;
    Ok((system, addresses))
}

async fn ready(system: &System, address: &str) -> Result<Answer> {
    answer(system.client.get(format!("http://{address}/readyz"))).await
}

async fn the_metrics_of_a_burst_add_up(fixture: Arc<Fixture>) -> Result<()> {
    let (system, workers) = watched(&fixture, 1).await?;
    let (gateway, worker) = (&system.addresses[0], &workers[0]);
    burst::add_components(&system).await?;
    let posts = stream::iter(0..UPDATES).map(|number| {
        let update = system.update(&burst::update(number));
        let waits = number.is_multiple_of(3);
        answer(if waits { update } else { update.header("Prefer", "respond-async") })
    });
    let answers: Vec<Answer> = posts.buffer_unordered(CLIENTS).try_collect().await?;
    ensure!(answers.iter().all(|answer| [200, 201, 202].contains(&answer.status)), "{answers:?}");
    let unknown = system.post(&json!({ "name": "Unknown", "impact": 1 })).await?;
    ensure!(unknown.status == 400, "{unknown:?}");
    let path = "/api/v1/incidents";
    let list = system.get(path).await?;
    system.get(path).await?;
    let again =
        system.request_to(0, Method::GET, path).header("If-None-Match", list.header("etag"));
    ensure!(answer(again).await?.status == 304);
    ensure!(system.get("/nowhere/at/all").await?.status == 404);
    system.drained().await?;

    let told = Scrape::of(&system, gateway).await?;
    told.is("sdb_updates_accepted_total", &[], UPDATES)?;
    told.is("sdb_updates_answered_total", &[], UPDATES)?;
    told.is("sdb_updates_refused_total", &[], 0)?;
    let pending = answers.iter().filter(|answer| answer.status == 202).count();
    told.is("sdb_updates_answered_total", &["answer=\"pending\""], pending)?;
    let route = "route=\"/api/v1/component_status\"";
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::from([(400, 1)]);
    for answer in &answers {
        *statuses.entry(answer.status).or_default() += 1;
    }
    for (status, count) in &statuses {
        let labels = [route, "method=\"POST\"", &format!("status=\"{status}\"")];
        told.is("sdb_http_requests_total", &labels, *count)?;
    }
    told.is("sdb_http_requests_total", &[route, "method=\"POST\""], UPDATES + 1)?;
    let labels = [route, "method=\"POST\""];
    told.is("sdb_http_request_duration_seconds_count", &labels, UPDATES + 1)?;
    // Paths that nobody serves have one series.
    told.is("sdb_http_requests_total", &["route=\"none\"", "status=\"404\""], 1)?;
    for source in ["rendered", "memory", "client"] {
        told.is("sdb_lists_served_total", &[&format!("source=\"{source}\"")], 1)?;
    }
    told.is("sdb_updates_in_flight", &[], 0)?;
    told.is("sdb_updates_in_flight_limit", &[], 2048)?;
    told.is("sdb_server_reachable", &[], 2)?;
    told.is("sdb_ready", &[], 1)?;
    told.is("sdb_reconnects_total", &[], 0)?;

    let mut applied = Scrape::of(&system, worker).await?;
    eventually("the worker has measured the servers", async || {
        applied = Scrape::of(&system, worker).await?;
        Ok(applied.series("sdb_queue_messages") == 8
            && applied.sum("sdb_workers_living", &[]) > 0.0)
    })
    .await?;
    applied.is("sdb_updates_applied_total", &[], UPDATES)?;
    let outcomes: Vec<(String, i64)> =
        sqlx::query_as("SELECT outcome, count(*) FROM sdb_inbox GROUP BY outcome")
            .fetch_all(&system.database)
            .await?;
    for (outcome, count) in &outcomes {
        let label = format!("outcome=\"{outcome}\"");
        applied.is("sdb_updates_applied_total", &[&label], usize::try_from(*count)?)?;
    }
    applied.is("sdb_update_apply_duration_seconds_count", &[], UPDATES)?;
    ensure!(applied.sum("sdb_update_apply_duration_seconds_sum", &[]) > 0.0);
    applied.is("sdb_batch_updates_sum", &[], UPDATES)?;
    let batches = applied.sum("sdb_batch_updates_count", &[]) as usize;
    let committed = ["result=\"committed\""];
    applied.is("sdb_transaction_duration_seconds_count", &committed, batches)?;
    applied.is("sdb_transaction_duration_seconds_count", &[], batches)?;
    applied.is("sdb_partitions_owned", &[], 8)?;
    applied.is("sdb_partitions", &[], 8)?;
    applied.is("sdb_queue_messages", &[], 0)?;
    applied.is("sdb_workers_living", &[], 1)?;
    applied.is("sdb_parked_updates", &[], 0)?;
    applied.is("sdb_inbox_retention_seconds", &[], 30 * 86_400)?;
    let oldest: i64 = system
        .count(
            "SELECT extract(epoch FROM date_trunc('week', (now() AT TIME ZONE 'UTC')
                - interval '30 days'))::bigint",
        )
        .await?;
    applied.is("sdb_inbox_oldest_part_timestamp_seconds", &[], usize::try_from(oldest)?)?;
    applied.is("sdb_replies_dropped_total", &[], 0)?;
    applied.is("sdb_ready", &[], 1)?;
    system.sql("ANALYZE sdb_inbox").await?;
    eventually("the inbox is estimated", async || {
        let rows = Scrape::of(&system, worker).await?.sum("sdb_inbox_rows", &[]);
        Ok(rows == UPDATES as f64)
    })
    .await?;
    system.finish().await
}

async fn a_killed_worker_shows_in_metrics_readiness_and_logs(fixture: Arc<Fixture>) -> Result<()> {
    let (system, addresses) = watched(&fixture, 2).await?;
    let [stays, goes] = addresses.as_slice() else { anyhow::bail!("not two workers") };
    let owned = async |address: &str| -> Result<f64> {
        Ok(Scrape::of(&system, address).await?.sum("sdb_partitions_owned", &[]))
    };
    eventually("both have a share and know each other", async || {
        let both = owned(stays).await? == 4.0 && owned(goes).await? == 4.0;
        let living = Scrape::of(&system, stays).await?.sum("sdb_workers_living", &[]);
        Ok(both && living == 2.0 && ready(&system, stays).await?.status == 200)
    })
    .await?;
    let share = ready(&system, goes).await?;
    ensure!(share.body["status"] == "ready" && share.body["reasons"] == json!([]), "{share:?}");
    ensure!(share.body["share"]["of"] == 8, "{share:?}");
    ensure!(share.body["share"]["partitions"].as_array().map(Vec::len) == Some(4), "{share:?}");

    let killed = Instant::now();
    system.workers[1].signal(Signal::SIGKILL)?;
    eventually("the other has all", async || {
        let scrape = Scrape::of(&system, stays).await?;
        Ok(scrape.sum("sdb_partitions_owned", &[]) == 8.0
            && scrape.sum("sdb_workers_living", &[]) == 1.0
            && scrape.series("sdb_queue_messages") == 8)
    })
    .await?;
    ensure!(killed.elapsed() < Duration::from_secs(15), "only after {:?}", killed.elapsed());
    ensure!(ready(&system, goes).await.is_err(), "a killed worker answers");
    let share = ready(&system, stays).await?;
    ensure!(share.status == 200 && share.body["share"]["partitions"][7] == 7, "{share:?}");
    let log = system.workers[0].log()?;
    let last = lines(&log).filter(|line| line["message"] == "consuming").last();
    let partitions = last.context("it consumes nothing")?["partitions"].to_string();
    ensure!(partitions.contains('7') && partitions.contains('0'), "{partitions}");
    system.finish().await
}

async fn updates_that_wait_and_transactions_that_fail_show(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::bare(&fixture).await?;
    let variables = [("SDB_DATABASE_URI", system.database_uri.as_str()), ("SDB_PREFETCH", "1")];
    let (done, said) = fixture.command(&fixture.binaries.worker, &["migrate"], &variables).await?;
    ensure!(done, "{said}");
    system.start_worker(&[ADMIN]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let address = admin_address(&system.workers[0]).await?;
    // The worker holds one update, and can't apply it.
    let mut held = system.database.begin().await?;
    sqlx::query("SELECT FROM sdb_scope FOR UPDATE").execute(&mut *held).await?;
    for _ in 0..5 {
        let update = system.update(&json!({ "name": "DNS", "impact": 1 }));
        let accepted = answer(update.header("Prefer", "respond-async")).await?;
        ensure!(accepted.status == 202, "{accepted:?}");
    }
    let failed = ["result=\"failed\""];
    eventually("four wait, and a transaction has failed", async || {
        let scrape = Scrape::of(&system, &address).await?;
        Ok(scrape.sum("sdb_queue_messages", &["partition=\"1\""]) == 4.0
            && scrape.sum("sdb_queue_messages", &[]) == 4.0
            && scrape.sum("sdb_transaction_duration_seconds_count", &failed) > 0.0)
    })
    .await?;
    Scrape::of(&system, &address).await?.is("sdb_updates_applied_total", &[], 0)?;
    held.rollback().await?;
    eventually("all are applied, and none waits", async || {
        let scrape = Scrape::of(&system, &address).await?;
        let waiting = scrape.sum("sdb_queue_messages", &[]);
        Ok(waiting == 0.0 && scrape.sum("sdb_updates_applied_total", &[]) == 5.0)
    })
    .await?;
    system.finish().await
}

async fn lost_connections_show(fixture: Arc<Fixture>) -> Result<()> {
    let (system, workers) = watched(&fixture, 1).await?;
    let (servers, vhost) = (system.context.servers.clone(), system.vhost.clone());
    tokio::task::spawn_blocking(move || {
        servers.rabbitmq().ctl(&["close_all_connections", "-p", &vhost, "a test"])
    })
    .await??;
    system
        .sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name IN ('worker', 'gateway')",
        )
        .await?;
    for address in [&workers[0], &system.addresses[0]] {
        for server in ["rabbitmq", "postgresql"] {
            eventually(&format!("{address} has {server} again"), async || {
                // A list is read through a connection that was lost.
                system.get("/api/v1/incidents").await?;
                let scrape = Scrape::of(&system, address).await?;
                let label = format!("server=\"{server}\"");
                let again = scrape.sum("sdb_reconnects_total", &[&label]) > 0.0;
                Ok(again && scrape.sum("sdb_ready", &[]) == 1.0)
            })
            .await?;
        }
    }
    system.finish().await
}

async fn a_gateway_without_rabbitmq_shows_what_it_refuses(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway_unready(&[("SDB_AMQP_URI", "amqp://u:p@127.0.0.1:1/sd")]).await?;
    system.components(&[("DNS", &[])]).await?;
    let refused = system.post(&json!({ "name": "DNS", "impact": 1 })).await?;
    ensure!(refused.status == 503, "{refused:?}");
    let told = Scrape::of(&system, &system.addresses[0]).await?;
    told.is("sdb_updates_refused_total", &["reason=\"rabbitmq_absent\""], 1)?;
    told.is("sdb_updates_refused_total", &[], 1)?;
    told.is("sdb_updates_accepted_total", &[], 0)?;
    told.is("sdb_server_reachable", &["server=\"rabbitmq\""], 0)?;
    told.is("sdb_server_reachable", &["server=\"postgresql\""], 1)?;
    told.is("sdb_ready", &[], 1)?;
    system.finish_with_parked()
}

async fn a_worker_answers_while_it_waits_for_the_servers(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let nobody = "127.0.0.1:1";
    for (name, uri, reason) in [
        ("SDB_DATABASE_URI", format!("postgresql://u:hush@{nobody}/sd"), "PostgreSQL"),
        ("SDB_AMQP_URI", format!("amqp://u:hush@{nobody}/sd"), "RabbitMQ can't be reached"),
    ] {
        let worker = system.launch("worker", &[ADMIN, (name, &uri)])?;
        let address = admin_address(&worker).await?;
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

async fn health_commands_tell_whether_the_process_is_well(fixture: Arc<Fixture>) -> Result<()> {
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
            let (well, said) = fixture.command(program, &["health"], &variables).await?;
            ensure!(well && said.contains("ok"), "{said}");
            eventually("it is ready", async || {
                let ready = ["health", "--ready"];
                let (well, said) = fixture.command(program, &ready, &variables).await?;
                Ok(well && said.contains("ready"))
            })
            .await?;
        }
        let address = format!("0.0.0.0:{port}");
        let variables = [(name, address.as_str())];
        process.signal(Signal::SIGSTOP)?;
        let asked = Instant::now();
        let (well, said) = fixture.command(program, &["health"], &variables).await?;
        let took = asked.elapsed();
        process.signal(Signal::SIGCONT)?;
        ensure!(!well && said.contains("does not answer within"), "{said}");
        ensure!(took < Duration::from_secs(3), "{took:?}");
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
    let address = admin_address(&system.gateways[0]).await?;
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
        let got = asked(&address, path).await?.with_context(|| path.to_owned())?;
        ensure!(got.status == 200, "{path}: {got:?}");
    }
    let variables = [("SDB_ADMIN_ADDRESS", address.as_str()), ("SDB_BIND", "127.0.0.1:1")];
    for arguments in [&["health"][..], &["health", "--ready"]] {
        let (well, said) =
            fixture.command(&fixture.binaries.gateway, arguments, &variables).await?;
        ensure!(well, "{arguments:?}: {said}");
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
        let ready = asked(&address, "/readyz").await??;
        let stopping = json!("the gateway is stopping");
        Ok(ready.status == 503 && ready.body["reasons"][0] == stopping)
    })
    .await?;
    drop(slow);
    ensure!(system.gateways[0].ended().await?.success());
    ensure!(asked(&address, "/healthz").await?.is_err());
    system.finish_with_parked()
}

/// A request whose body is not sent, so that it is under way.
fn begin_request(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let token = token(harness::SECRET, &json!({ "stackmon": "dummy" }));
    write!(
        stream,
        "POST /api/v1/component_status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
        Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    )?;
    Ok(stream)
}

/// The lines of a log with this level and message.
fn said(log: &str, level: &str, message: &str) -> Vec<Value> {
    lines(log).filter(|line| line["level"] == level && line["message"] == message).collect()
}

async fn refused_tokens_do_not_flood_the_log(fixture: Arc<Fixture>) -> Result<()> {
    let (system, _) = watched(&fixture, 1).await?;
    let wrong = token("another-secret-that-is-long-enough", &json!({ "stackmon": "dummy" }));
    for _ in 0..100 {
        let refused = answer(
            system
                .request_to(0, Method::POST, "/api/v1/component_status")
                .bearer_auth(&wrong)
                .json(&burst::update(1)),
        )
        .await?;
        ensure!(refused.status == 401, "{refused:?}");
    }
    let log = system.gateways[0].log()?;
    let refusals = said(&log, "INFO", "token refused");
    ensure!((1..20).contains(&refusals.len()), "{} lines", refusals.len());
    ensure!(refusals.iter().all(|line| line["reason"] == "wrong_signature"), "{refusals:?}");
    for part in wrong.split('.') {
        ensure!(!log.contains(part), "the log shows a part of the token");
    }
    let told = Scrape::of(&system, &system.addresses[0]).await?;
    told.is("sdb_tokens_refused_total", &["reason=\"wrong_signature\""], 100)?;
    told.is("sdb_tokens_refused_total", &[], 100)?;
    system.finish().await
}

async fn parked_updates_do_not_flood_the_log(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    for _ in 0..100 {
        let update = system.update(&json!({ "name": "DNS", "impact": 1 }));
        let accepted = answer(update.header("Prefer", "respond-async")).await?;
        ensure!(accepted.status == 202, "{accepted:?}");
    }
    system.sql("DELETE FROM component").await?;
    system.start_worker(&[ADMIN]).await?;
    system.drained().await?;
    let log = system.workers[0].log()?;
    let (warned, rest) = (said(&log, "WARN", "parked"), said(&log, "DEBUG", "parked"));
    ensure!((1..10).contains(&warned.len()), "{} lines", warned.len());
    ensure!(warned.len() + rest.len() == 100, "{} lines in all", warned.len() + rest.len());
    ensure!(warned[0]["reason"] == "component 1, DNS (), is gone", "{warned:?}");
    ensure!(warned[0]["update"].is_string(), "{warned:?}");
    let address = admin_address(&system.workers[0]).await?;
    eventually("they are counted", async || {
        let scrape = Scrape::of(&system, &address).await?;
        scrape.is("sdb_updates_applied_total", &["outcome=\"parked\""], 100)?;
        Ok(scrape.sum("sdb_parked_updates", &[]) == 100.0)
    })
    .await?;
    system.finish_with_parked()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(deploy::checkout().join(path)).context(path.to_owned())
}

/// The words of a text that begin as the names of metrics do.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("sdb_"))
        .collect()
}

/// The metric that a series belongs to.
fn metric<'a>(kinds: &BTreeMap<String, String>, series: &'a str) -> &'a str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .filter_map(|end| series.strip_suffix(end))
        .find(|name| kinds.get(*name).is_some_and(|kind| kind == "histogram"))
        .unwrap_or(series)
}

async fn what_is_said_of_metrics_is_true(fixture: Arc<Fixture>) -> Result<()> {
    let (system, workers) = watched(&fixture, 1).await?;
    system.components(&[("DNS", &[])]).await?;
    ensure!(system.post(&json!({ "name": "DNS", "impact": 1 })).await?.status == 201);
    let mut kinds = BTreeMap::new();
    eventually("the worker has measured its queues", async || {
        let worker = Scrape::of(&system, &workers[0]).await?;
        let measured = worker.series("sdb_queue_messages") > 0;
        kinds = worker.kinds;
        Ok(measured)
    })
    .await?;
    kinds.extend(Scrape::of(&system, &system.addresses[0]).await?.kinds);
    let shown: BTreeSet<&str> = kinds.keys().map(String::as_str).collect();

    // Those of the code are shown, and named as Prometheus names them.
    let code = read("shared/src/telemetry/metrics.rs")?;
    let named: BTreeSet<&str> =
        code.split('"').skip(1).step_by(2).filter(|text| text.starts_with("sdb_")).collect();
    ensure!(named == shown, "the code has {named:#?}, /metrics shows {shown:#?}");
    for (name, kind) in &kinds {
        ensure!(name.ends_with("_total") == (kind == "counter"), "{name} is a {kind}");
        for unit in ["_ms", "_millis", "_milliseconds", "_days", "_kib", "_percent"] {
            ensure!(!name.contains(unit), "{name} has not the base unit");
        }
    }

    // The page describes each once.
    let page = read("deploy/monitoring/README.md")?;
    let rows: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `sdb_")?.split('`').next()).collect();
    let described: BTreeSet<String> = rows.iter().map(|name| format!("sdb_{name}")).collect();
    ensure!(described.len() == rows.len(), "a metric is described twice");
    let described: BTreeSet<&str> = described.iter().map(String::as_str).collect();
    ensure!(described == shown, "the page describes {described:#?}, /metrics shows {shown:#?}");

    let alerts = read("deploy/monitoring/alerts.yaml")?;
    let dashboard = read("deploy/monitoring/dashboard.json")?;
    for (file, text) in
        [("the alerts", &alerts), ("the dashboard", &dashboard), ("the page", &page)]
    {
        let unknown: Vec<&str> =
            names(text).into_iter().filter(|name| !shown.contains(metric(&kinds, name))).collect();
        ensure!(unknown.is_empty(), "{file} name {unknown:?}");
        ensure!(names(text).len() > 10, "{file} name hardly any metric");
    }
    let count = |key: &str| alerts.lines().filter(|line| line.trim().starts_with(key)).count();
    let rules = count("- alert: ");
    ensure!(rules > 10, "only {rules} alerts");
    for key in ["expr: ", "summary: ", "action: ", "runbook: RUNBOOK.md#", "labels: {severity: "] {
        ensure!(count(key) == rules, "{rules} alerts, but {} with {key:?}", count(key));
    }
    let runbook = read("RUNBOOK.md")?;
    let sections: BTreeSet<String> = runbook
        .lines()
        .filter_map(|line| Some(line.strip_prefix("## ")?.to_lowercase()))
        .map(|title| title.replace(' ', "-").replace('\'', ""))
        .collect();
    for section in
        alerts.lines().filter_map(|line| line.trim().strip_prefix("runbook: RUNBOOK.md#"))
    {
        ensure!(sections.contains(section), "the runbook has no section {section}");
    }
    let dashboard: Value = serde_json::from_str(&dashboard)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let ids: BTreeSet<String> = panels.iter().map(|panel| panel["id"].to_string()).collect();
    ensure!(ids.len() == panels.len(), "two panels have one id");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let described = panel["description"].as_str().is_some_and(|text| !text.is_empty());
        ensure!(described && panel["targets"][0]["expr"].is_string(), "{panel}");
    }
    system.finish().await
}
