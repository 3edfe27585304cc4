//! Metrics add up, and show what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Scrape, ready, watched};
use harness::{ADMIN, Answer, Fixture, System, answer, burst, eventually, log_lines, tests};

tests!(
    the_metrics_of_a_burst_add_up,
    a_killed_worker_shows_in_metrics_readiness_and_logs,
    updates_that_wait_and_transactions_that_fail_show,
    lost_connections_show,
    a_gateway_without_rabbitmq_shows_what_it_refuses,
    metrics_alerts_dashboard_and_documents_agree,
);

fn read(path: &str) -> Result<String> {
    fs::read_to_string(deploy::checkout().join(path)).context(path.to_owned())
}

/// Updates of a burst.
const UPDATES: usize = 300;

/// Those at once.
const CLIENTS: usize = 16;

/// Waits until the first gateway says that it reaches a server, which it asks for each answer, not for long.
async fn reaches(system: &System, server: &str) -> Result<()> {
    let label = format!("server=\"{server}\"");
    eventually(&format!("the gateway reaches {server}"), async || {
        let told = Scrape::of(system, &system.addresses[0]).await?;
        Ok(told.sum("sdb_server_reachable", &[&label]) == 1.0)
    })
    .await
}

async fn the_metrics_of_a_burst_add_up(fixture: Arc<Fixture>) -> Result<()> {
    let (system, workers) = watched(&fixture, 1).await?;
    let (gateway, worker) = (&system.addresses[0], &workers[0]);
    burst::add_components(&system).await?;
    let posts = stream::iter(0..UPDATES).map(|number| {
        let update = system.update(&burst::update(number));
        let prefer = if number.is_multiple_of(3) { "wait=30" } else { "respond-async" };
        answer(update.header("Prefer", prefer))
    });
    let answers: Vec<Answer> = posts.buffer_unordered(CLIENTS).try_collect().await?;
    ensure!(answers.iter().all(|answer| [200, 201, 202].contains(&answer.status)), "{answers:?}");
    let unknown = system.post(&json!({ "name": "Unknown", "impact": 1 })).await?;
    ensure!(unknown.status == 400, "{unknown:?}");
    // Then the list does not change any more.
    system.drained().await?;
    let path = "/api/v1/incidents";
    let list = system.get(path).await?;
    system.get(path).await?;
    let again =
        system.request_to(0, Method::GET, path).header("If-None-Match", list.header("etag"));
    ensure!(answer(again).await?.status == 304);
    ensure!(system.get("/nowhere/at/all").await?.status == 404);

    reaches(&system, "postgresql").await?;
    reaches(&system, "rabbitmq").await?;
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
    let live = system.count("SELECT count(*) FROM sdb_report WHERE is_live").await?;
    ensure!(live > 0);
    eventually("the inbox is estimated, and the reports are counted", async || {
        let scrape = Scrape::of(&system, worker).await?;
        let rows = scrape.sum("sdb_inbox_rows", &[]);
        Ok(rows == UPDATES as f64 && scrape.sum("sdb_reports_live", &[]) == live as f64)
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

    system.workers[1].signal(Signal::SIGKILL)?;
    eventually("the other has all", async || {
        let scrape = Scrape::of(&system, stays).await?;
        Ok(scrape.sum("sdb_partitions_owned", &[]) == 8.0
            && scrape.sum("sdb_workers_living", &[]) == 1.0
            && scrape.series("sdb_queue_messages") == 8)
    })
    .await?;
    ensure!(ready(&system, goes).await.is_err(), "a killed worker answers");
    let share = ready(&system, stays).await?;
    ensure!(share.status == 200 && share.body["share"]["partitions"][7] == 7, "{share:?}");
    let log = system.workers[0].log()?;
    let last = log_lines(&log).into_iter().rfind(|line| line["message"] == "consuming");
    let partitions = last.context("it consumes nothing")?["partitions"].to_string();
    ensure!(partitions.contains('7') && partitions.contains('0'), "{partitions}");
    system.finish().await
}

async fn updates_that_wait_and_transactions_that_fail_show(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::bare(&fixture).await?;
    let variables = [
        ("SDB_DATABASE_URI", system.database_uri.as_str()),
        ("SDB_PREFETCH", "1"),
        ("SDB_PARTITIONS", "2"),
    ];
    let (done, said) = fixture.command(&fixture.binaries.worker, &["migrate"], &variables).await?;
    ensure!(done, "{said}");
    system.start_worker(&[ADMIN]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let address = system.workers[0].admin_address().await?;
    // The worker holds one update, and can't apply it.
    let held = system.hold_scope().await?;
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
    let update = json!({ "name": "DNS", "impact": 1 });
    let refused = system.post_with_default_wait(&update).await?;
    ensure!(refused.status == 503, "{refused:?}");
    let told = Scrape::of(&system, &system.addresses[0]).await?;
    told.is("sdb_updates_refused_total", &["reason=\"rabbitmq_absent\""], 1)?;
    told.is("sdb_updates_refused_total", &[], 1)?;
    told.is("sdb_updates_accepted_total", &[], 0)?;
    told.is("sdb_server_reachable", &["server=\"rabbitmq\""], 0)?;
    reaches(&system, "postgresql").await?;
    told.is("sdb_ready", &[], 1)?;
    system.finish_with_parked()
}

/// The metric that a series belongs to.
fn metric<'a>(kinds: &BTreeMap<String, String>, series: &'a str) -> &'a str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .filter_map(|end| series.strip_suffix(end))
        .find(|name| kinds.get(*name).is_some_and(|kind| kind == "histogram"))
        .unwrap_or(series)
}

/// The words of a text that begin as the names of metrics do.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("sdb_"))
        .collect()
}

async fn metrics_alerts_dashboard_and_documents_agree(fixture: Arc<Fixture>) -> Result<()> {
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
    for key in [
        "expr: ",
        "summary: ",
        "action: ",
        "runbook: docs/operations/alerts.md#",
        "labels: {severity: ",
    ] {
        ensure!(count(key) == rules, "{rules} alerts, but {} with {key:?}", count(key));
    }
    let responses = read("docs/operations/alerts.md")?;
    let sections: BTreeSet<String> = responses
        .lines()
        .filter_map(|line| Some(line.strip_prefix("## ")?.to_lowercase()))
        .map(|title| title.replace(' ', "-").replace('\'', ""))
        .collect();
    for section in alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: docs/operations/alerts.md#"))
    {
        ensure!(sections.contains(section), "the page of alerts has no section {section}");
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
