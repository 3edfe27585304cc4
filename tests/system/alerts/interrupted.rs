//! Debian's Prometheus and Alertmanager where something between a metric and its incident is away for a while.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{
    incidents, incidents_are, metrics,
    setup::{Pipeline, Setup, standing},
};
use harness::{Fixture, eventually, tests};

tests!(
    an_alert_that_alertmanager_ends_for_want_of_news_comes_again,
    an_end_that_prometheus_could_not_deliver_is_delivered_later,
    an_end_that_alertmanager_could_not_deliver_is_delivered_later,
    an_alert_that_ends_while_prometheus_is_away_stands_until_somebody_ends_it,
    one_alertmanager_of_a_cluster_delivers_what_the_other_can_not,
);

const OPEN: &str = "Service 0 is down: Service 0";

/// Has one check of one component fail, and waits for its incident.
async fn with_incident(fixture: &Arc<Fixture>, setup: Setup) -> Result<Pipeline> {
    let pipeline = Pipeline::start(fixture, setup).await?;
    pipeline.fail(&[(0, 0)]);
    opened(&pipeline).await?;
    Ok(pipeline)
}

async fn opened(pipeline: &Pipeline) -> Result<()> {
    incidents_are(&pipeline.system, &[OPEN]).await
}

async fn closed(pipeline: &Pipeline) -> Result<()> {
    incidents_are(&pipeline.system, &[]).await
}

/// Prometheus stalls: its Alertmanager ends the alert, which goes on as it began.
async fn an_alert_that_alertmanager_ends_for_want_of_news_comes_again(
    fixture: Arc<Fixture>,
) -> Result<()> {
    // Alertmanager hears nothing for four times the delay.
    let setup = Setup { repeat_interval: "1s", resend_delay: "1s", ..Setup::alertmanagers(1) };
    let pipeline = with_incident(&fixture, setup).await?;
    pipeline.prometheus.signal(Signal::SIGSTOP)?;
    closed(&pipeline).await?;
    pipeline.prometheus.signal(Signal::SIGCONT)?;
    let system = &pipeline.system;
    eventually("the alert is taken for a late copy", async || {
        let copies = "SELECT count(*) FROM sdb_inbox WHERE reason = 'began_before_known_end'";
        Ok(system.count(copies).await? > 0)
    })
    .await?;
    ensure!(incidents(system).await?.is_empty());
    // For two minutes, which need not be waited for.
    system.sql("UPDATE sdb_report SET ended_at = ended_at - interval '3 minutes'").await?;
    opened(&pipeline).await?;
    pipeline.fail(&[]);
    closed(&pipeline).await?;
    // Its times were moved.
    pipeline.end().await?.finish_without_replay().await
}

/// RabbitMQ is away while an alert ends: the end is answered 503, and sent again.
async fn an_end_is_delivered_later(fixture: Arc<Fixture>, alertmanagers: usize) -> Result<()> {
    // What Prometheus itself could not deliver comes again after the delay.
    let setup = Setup { resend_delay: "3s", ..Setup::alertmanagers(alertmanagers) };
    let pipeline = with_incident(&fixture, setup).await?;
    pipeline.broker.cut();
    pipeline.fail(&[]);
    eventually("Prometheus knows that it is over", async || {
        let known = pipeline.prometheus.get("/api/v1/alerts").await?;
        Ok(known["data"]["alerts"].as_array().context("no alerts")?.is_empty())
    })
    .await?;
    // What is sent from now on is the end.
    let system = &pipeline.system;
    let refused = async || -> Result<f64> {
        Ok(metrics(system, 0).await?.sum("sdb_updates_refused_total", &[]))
    };
    let before = refused().await?;
    eventually("the end is refused", async || Ok(refused().await? > before)).await?;
    ensure!(incidents(system).await? == [OPEN]);
    pipeline.broker.pass();
    closed(&pipeline).await?;
    pipeline.finish().await
}

async fn an_end_that_prometheus_could_not_deliver_is_delivered_later(
    fixture: Arc<Fixture>,
) -> Result<()> {
    an_end_is_delivered_later(fixture, 0).await
}

async fn an_end_that_alertmanager_could_not_deliver_is_delivered_later(
    fixture: Arc<Fixture>,
) -> Result<()> {
    an_end_is_delivered_later(fixture, 1).await
}

/// As `docs/recipes.md` says, with what it says to do.
async fn an_alert_that_ends_while_prometheus_is_away_stands_until_somebody_ends_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut pipeline = with_incident(&fixture, Setup::alertmanagers(0)).await?;
    pipeline.prometheus.kill().await?;
    pipeline.fail(&[]);
    // What it has stored would have the alert fire once more, and end.
    pipeline.prometheus.start_empty().await?;
    pipeline.fail(&[(1, 0)]);
    let system = &pipeline.system;
    incidents_are(system, &["Service 0 is down: Service 0 Service 1"]).await?;
    pipeline.fail(&[]);
    incidents_are(system, &[OPEN]).await?;
    ensure!(standing(system).await? == 1);
    let mut reports = system.texts("SELECT key FROM sdb_report WHERE is_live").await?;
    let key = reports.pop().context("no report")?;
    let listed = system.worker_succeeds(&["report", "list"]).await?;
    ensure!(listed.contains("Service 0") && listed.contains(&key), "{listed}");
    let source = system.texts("SELECT source FROM sdb_report WHERE is_live").await?;
    let mut end = vec!["report", "end", "Service 0", "--key", &key];
    if let [source] = source.as_slice()
        && !source.is_empty()
    {
        end.extend(["--source", source]);
    }
    system.worker_succeeds(&end).await?;
    closed(&pipeline).await?;
    pipeline.finish().await
}

async fn one_alertmanager_of_a_cluster_delivers_what_the_other_can_not(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let setup = Setup { is_cluster: true, ..Setup::alertmanagers(2) };
    let mut pipeline = with_incident(&fixture, setup).await?;
    // Whichever of them would send it.
    for away in 0..2 {
        pipeline.alertmanagers[away].kill().await?;
        pipeline.fail(&[]);
        closed(&pipeline).await?;
        pipeline.alertmanagers[away].start_again().await?;
        pipeline.fail(&[(0, 0)]);
        opened(&pipeline).await?;
    }
    pipeline.fail(&[]);
    closed(&pipeline).await?;
    pipeline.finish().await
}
