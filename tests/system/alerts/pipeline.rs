//! Debian's Prometheus and Alertmanager, from a metric to the incident and to its end.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{
    incidents, incidents_are, metrics,
    setup::{Pipeline, Setup, standing},
};
use harness::{Fixture, eventually, tests};

tests!(
    what_prometheus_reports_opens_an_incident_and_ends_it,
    what_alertmanager_reports_opens_an_incident_and_ends_it,
    two_alertmanagers_make_no_difference,
    a_cluster_of_alertmanagers_makes_no_difference,
    an_alertmanager_that_is_restarted_goes_on,
    a_storm_of_alerts_from_prometheus_is_one_incident_that_ends,
    a_storm_of_alerts_from_alertmanager_is_one_incident_that_ends,
);

/// One component fails, by one check and by another, and then a second component; they recover in that order.
async fn failures_are_one_incident(
    fixture: Arc<Fixture>,
    setup: Setup,
    restarted: bool,
) -> Result<()> {
    let mut pipeline = Pipeline::start(&fixture, setup).await?;
    let system = &pipeline.system;
    pipeline.fail(&[(0, 0)]);
    incidents_are(system, &["Service 0 is down: Service 0"]).await?;
    pipeline.fail(&[(0, 0), (0, 1), (1, 0)]);
    incidents_are(system, &["Service 0 is down: Service 0 Service 1"]).await?;
    eventually("all three alerts are reported", async || Ok(standing(system).await? == 3)).await?;
    if restarted {
        for alertmanager in &mut pipeline.alertmanagers {
            alertmanager.restart().await?;
        }
    }
    let system = &pipeline.system;
    // One check of a component is well again, and the other is not.
    pipeline.fail(&[(0, 1), (1, 0)]);
    eventually("the end of one alert is applied, and changed nothing", async || {
        let ended = "SELECT count(*) FROM sdb_inbox WHERE reason = 'another_report_stands'";
        Ok(system.count(ended).await? > 0)
    })
    .await?;
    ensure!(incidents(system).await? == ["Service 0 is down: Service 0 Service 1"]);
    pipeline.fail(&[(1, 0)]);
    incidents_are(system, &["Service 0 is down: Service 1"]).await?;
    pipeline.fail(&[]);
    incidents_are(system, &[]).await?;
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1);
    pipeline.finish().await
}

async fn an_alertmanager_that_is_restarted_goes_on(fixture: Arc<Fixture>) -> Result<()> {
    // It has forgotten the alerts, which Prometheus sends again after the delay.
    let setup = Setup { resend_delay: "3s", ..Setup::alertmanagers(1) };
    failures_are_one_incident(fixture, setup, true).await
}

async fn what_prometheus_reports_opens_an_incident_and_ends_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    failures_are_one_incident(fixture, Setup::alertmanagers(0), false).await
}

async fn what_alertmanager_reports_opens_an_incident_and_ends_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    failures_are_one_incident(fixture, Setup::alertmanagers(1), false).await
}

async fn two_alertmanagers_make_no_difference(fixture: Arc<Fixture>) -> Result<()> {
    failures_are_one_incident(fixture, Setup::alertmanagers(2), false).await
}

async fn a_cluster_of_alertmanagers_makes_no_difference(fixture: Arc<Fixture>) -> Result<()> {
    let setup = Setup { is_cluster: true, ..Setup::alertmanagers(2) };
    failures_are_one_incident(fixture, setup, false).await
}

/// 2,000 alerts of 200 components at once.
async fn a_storm_is_one_incident(fixture: Arc<Fixture>, alertmanagers: usize) -> Result<()> {
    let setup = Setup { components: 200, ..Setup::alertmanagers(alertmanagers) };
    let pipeline = Pipeline::start(&fixture, setup).await?;
    let failing: Vec<(usize, usize)> =
        (0..2_000).map(|number| (number / 10, number % 10)).collect();
    pipeline.fail(&failing);
    let system = &pipeline.system;
    eventually("all alerts are reported", async || Ok(standing(system).await? == 2_000)).await?;
    let affected = "SELECT count(*) FROM incident_component_relation";
    ensure!(system.count(affected).await? == 200);
    pipeline.fail(&[]);
    eventually("all of them have ended", async || Ok(standing(system).await? == 0)).await?;
    ensure!(incidents(system).await?.is_empty());
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1);
    let metrics = metrics(system, 0).await?;
    metrics.is("sdb_alerts_unmapped_total", &[], 0)?;
    metrics.is("sdb_updates_refused_total", &[], 0)?;
    pipeline.finish().await
}

async fn a_storm_of_alerts_from_prometheus_is_one_incident_that_ends(
    fixture: Arc<Fixture>,
) -> Result<()> {
    a_storm_is_one_incident(fixture, 0).await
}

async fn a_storm_of_alerts_from_alertmanager_is_one_incident_that_ends(
    fixture: Arc<Fixture>,
) -> Result<()> {
    a_storm_is_one_incident(fixture, 1).await
}
