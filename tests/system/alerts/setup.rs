//! A system, Debian's Prometheus, which watches something, and Alertmanagers between them.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use anyhow::Result;

use harness::{
    Fixture, System, eventually, free_ports,
    pipeline::{Program, RESEND_DELAY, Watched},
    proxy::Proxy,
};

/// What was measured last counts: a measurement that fails is no end of an alert.
const RULES: &str = "groups:
  - name: demo
    interval: 250ms
    rules:
      - alert: Down
        expr: last_over_time(demo_down[5m]) == 1
        labels: {severity: critical}
        annotations: {summary: '{{ $labels.component }} is down'}
";

/// What is between Prometheus and the gateway, and how much is watched.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    /// None: Prometheus sends to the gateway.
    pub(super) alertmanagers: usize,
    /// Whether they know of each other.
    pub(super) is_cluster: bool,
    pub(super) components: usize,
    /// After how long an Alertmanager sends again what has not changed.
    pub(super) repeat_interval: &'static str,
    /// The same of Prometheus.
    pub(super) resend_delay: &'static str,
}

impl Setup {
    pub(super) const fn alertmanagers(alertmanagers: usize) -> Self {
        Self {
            alertmanagers,
            is_cluster: false,
            components: 2,
            repeat_interval: "1h",
            resend_delay: RESEND_DELAY,
        }
    }
}

/// All of them.
pub(super) struct Pipeline {
    pub(super) system: System,
    watched: Watched,
    /// Which checks of which components fail, and which did.
    failing: RefCell<BTreeMap<(usize, usize), bool>>,
    pub(super) alertmanagers: Vec<Program>,
    pub(super) prometheus: Program,
    /// Between the gateway and RabbitMQ.
    pub(super) broker: Proxy,
}

impl Pipeline {
    pub(super) async fn start(fixture: &Arc<Fixture>, setup: Setup) -> Result<Self> {
        let mut system = System::prepared(fixture).await?;
        let broker = Proxy::before(&system.amqp_uri).await?;
        system.start_worker(&[]).await?;
        system.start_gateway(&[("SDB_AMQP_URI", broker.uri())]).await?;
        let names: Vec<String> = (0..setup.components).map(component).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
        system.components(&all).await?;
        let alertmanagers = start_alertmanagers(fixture, &system, setup).await?;
        let targets = if alertmanagers.is_empty() {
            format!(
                "{{path_prefix: /alertmanager, authorization: {{credentials: {}}},
        static_configs: [{{targets: ['{}']}}]}}",
                system.token, system.addresses[0]
            )
        } else {
            let addresses: Vec<&str> = alertmanagers.iter().map(Program::address).collect();
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
        let folder = fixture.folder.join("prometheus");
        let prometheus = Program::prometheus(&folder, &files, setup.resend_delay).await?;
        let failing = RefCell::default();
        Ok(Self { system, watched, failing, alertmanagers, prometheus, broker })
    }

    /// Has these checks of these components fail, and no others: those that failed before are shown as well.
    pub(super) fn fail(&self, failing: &[(usize, usize)]) {
        let mut checks = self.failing.borrow_mut();
        for fails in checks.values_mut() {
            *fails = false;
        }
        checks.extend(failing.iter().map(|check| (*check, true)));
        let series = |((number, check), fails): (&(usize, usize), &bool)| {
            let (component, value) = (component(*number), u8::from(*fails));
            format!("demo_down{{component=\"{component}\",check=\"{check}\"}} {value}\n")
        };
        self.watched.show(&checks.iter().map(series).collect::<String>());
    }

    /// Ends the programs, and leaves the system.
    pub(super) async fn end(mut self) -> Result<System> {
        self.prometheus.kill().await?;
        for alertmanager in &mut self.alertmanagers {
            alertmanager.kill().await?;
        }
        Ok(self.system)
    }

    /// Ends the programs, and then the test.
    pub(super) async fn finish(self) -> Result<()> {
        self.end().await?.finish().await
    }
}

async fn start_alertmanagers(
    fixture: &Fixture,
    system: &System,
    setup: Setup,
) -> Result<Vec<Program>> {
    let configuration = format!(
        "route: {{receiver: status, group_by: [alertname], group_wait: 100ms,
  group_interval: 500ms, repeat_interval: {}}}
receivers:
  - name: status
    webhook_configs:
      - url: http://{}/alertmanager/webhook
        http_config: {{authorization: {{credentials: {}}}}}
",
        setup.repeat_interval, system.addresses[0], system.token
    );
    let files = [("alertmanager.yml", configuration.as_str())];
    let (mut started, mut members) = (Vec::new(), Vec::new());
    for number in 0..setup.alertmanagers {
        let folder = fixture.folder.join(format!("alertmanager-{number}"));
        started.push(if setup.is_cluster {
            let address = format!("127.0.0.1:{}", free_ports(1)?);
            let member = Program::member(&folder, &files, &address, &members).await?;
            members.push(address);
            member
        } else {
            Program::alertmanager(&folder, &files).await?
        });
    }
    if setup.is_cluster {
        for alertmanager in &started {
            eventually("it knows the others", async || {
                let status = &alertmanager.get("/api/v2/status").await?["cluster"];
                let peers = status["peers"].as_array().map(Vec::len);
                Ok(status["status"] == "ready" && peers == Some(members.len()))
            })
            .await?;
        }
    }
    Ok(started)
}

/// How many alerts fire, for all that is known.
pub(super) async fn standing(system: &System) -> Result<i64> {
    system.count("SELECT count(*) FROM sdb_report WHERE is_live").await
}

/// The name of a component.
pub(super) fn component(number: usize) -> String {
    format!("Service {number}")
}
