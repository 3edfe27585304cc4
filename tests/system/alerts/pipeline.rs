//! Debian's Prometheus and Alertmanager, from a metric to the incident and to its end.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::incidents;
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
    async fn start(fixture: &Arc<Fixture>, alertmanagers: usize, components: usize) -> Result<Self> {
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
}

fn component(number: usize) -> String {
    format!("Service {number}")
}
