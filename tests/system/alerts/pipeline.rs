//! Debian's Prometheus and Alertmanager, from a metric to the incident and to its end.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{incidents, metrics};
use harness::{
    Fixture, System, eventually,
    pipeline::{Program, Watched},
    tests,
};

tests!(
    what_prometheus_reports_opens_an_incident_and_ends_it,
    what_alertmanager_reports_opens_an_incident_and_ends_it,
    two_alertmanagers_make_no_difference,
    an_alertmanager_that_is_restarted_goes_on,
    a_storm_of_alerts_from_prometheus_is_one_incident_that_ends,
    a_storm_of_alerts_from_alertmanager_is_one_incident_that_ends,
);

const RULES: &str = "groups:
  - name: demo
    interval: 250ms
    rules:
      - alert: Down
        expr: demo_down == 1
        labels: {severity: critical}
        annotations: {summary: '{{ $labels.component }} is down'}
";

/// A system, something that is watched, and the programs between them.
struct Pipeline {
    system: System,
    watched: Watched,
    /// None: Prometheus sends to the gateway.
    alertmanagers: Vec<Program>,
    prometheus: Program,
}

impl Pipeline {
    async fn start(
        fixture: &Arc<Fixture>,
        alertmanagers: usize,
        components: usize,
    ) -> Result<Self> {
        let mut system = System::prepared(fixture).await?;
        system.start_worker(&[]).await?;
        system.start_gateway(&[]).await?;
        let names: Vec<String> = (0..components).map(component).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
        system.components(&all).await?;
        let gateway = &system.addresses[0];
        let configuration = format!(
            "route: {{receiver: status, group_by: [alertname], group_wait: 100ms,
  group_interval: 500ms, repeat_interval: 1h}}
receivers:
  - name: status
    webhook_configs:
      - url: http://{gateway}/alertmanager/webhook
        http_config: {{authorization: {{credentials: {}}}}}
",
            system.token
        );
        let mut started = Vec::new();
        for number in 0..alertmanagers {
            let folder = fixture.folder.join(format!("alertmanager-{number}"));
            let files = [("alertmanager.yml", configuration.as_str())];
            started.push(Program::alertmanager(&folder, &files).await?);
        }
        let targets = if started.is_empty() {
            format!(
                "{{path_prefix: /alertmanager, authorization: {{credentials: {}}},
        static_configs: [{{targets: ['{gateway}']}}]}}",
                system.token
            )
        } else {
            let addresses: Vec<&str> = started.iter().map(Program::address).collect();
            format!("{{static_configs: [{{targets: ['{}']}}]}}", addresses.join("', '"))
        };
        let watched = Watched::start().await?;
        let configuration = format!(
            "global: {{scrape_interval: 250ms}}
scrape_configs:
  - job_name: demo
    static_configs: [{{targets: ['{}']}}]
rule_files: [rules.yml]
alerting:
  alertmanagers:
    - {targets}
",
            watched.address()
        );
        let files = [("prometheus.yml", configuration.as_str()), ("rules.yml", RULES)];
        let prometheus = Program::prometheus(&fixture.folder.join("prometheus"), &files).await?;
        Ok(Self { system, watched, alertmanagers: started, prometheus })
    }

    /// Has these checks of these components fail, and no others.
    fn fail(&self, failing: &[(usize, usize)]) {
        let series = |(number, check): &(usize, usize)| {
            format!("demo_down{{component=\"{}\",check=\"{check}\"}} 1\n", component(*number))
        };
        self.watched.show(&failing.iter().map(series).collect::<String>());
    }

    /// Ends the programs, and then the test.
    async fn finish(mut self) -> Result<()> {
        self.prometheus.kill().await?;
        for alertmanager in &mut self.alertmanagers {
            alertmanager.kill().await?;
        }
        self.system.finish().await
    }
}

/// One component fails, by one check and by another, and then a second component; they recover in that order.
async fn failures_are_one_incident(
    fixture: Arc<Fixture>,
    alertmanagers: usize,
    restarted: bool,
) -> Result<()> {
    let mut pipeline = Pipeline::start(&fixture, alertmanagers, 2).await?;
    let system = &pipeline.system;
    pipeline.fail(&[(0, 0)]);
    eventually("an incident is opened", async || {
        Ok(incidents(system).await? == ["Service 0 is down: Service 0"])
    })
    .await?;
    pipeline.fail(&[(0, 0), (0, 1), (1, 0)]);
    eventually("the second component has joined it", async || {
        Ok(incidents(system).await? == ["Service 0 is down: Service 0 Service 1"])
    })
    .await?;
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
    eventually("the component has recovered", async || {
        Ok(incidents(system).await? == ["Service 0 is down: Service 1"])
    })
    .await?;
    pipeline.fail(&[]);
    eventually("the incident is closed", async || Ok(incidents(system).await?.is_empty())).await?;
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1);
    pipeline.finish().await
}

async fn an_alertmanager_that_is_restarted_goes_on(fixture: Arc<Fixture>) -> Result<()> {
    failures_are_one_incident(fixture, 1, true).await
}

async fn what_prometheus_reports_opens_an_incident_and_ends_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    failures_are_one_incident(fixture, 0, false).await
}

async fn what_alertmanager_reports_opens_an_incident_and_ends_it(
    fixture: Arc<Fixture>,
) -> Result<()> {
    failures_are_one_incident(fixture, 1, false).await
}

async fn two_alertmanagers_make_no_difference(fixture: Arc<Fixture>) -> Result<()> {
    failures_are_one_incident(fixture, 2, false).await
}

/// How many alerts fire, for all that is known.
async fn standing(system: &System) -> Result<i64> {
    system.count("SELECT count(*) FROM sdb_report WHERE is_live").await
}

/// 2,000 alerts of 200 components at once.
async fn a_storm_is_one_incident(fixture: Arc<Fixture>, alertmanagers: usize) -> Result<()> {
    let pipeline = Pipeline::start(&fixture, alertmanagers, 200).await?;
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

fn component(number: usize) -> String {
    format!("Service {number}")
}
