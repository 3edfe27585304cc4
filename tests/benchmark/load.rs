//! The load generator, oha: as many requests as can be had, or a steady rate of them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::burst;
use serde_json::Value;
use tokio::process::Command;

/// Updates before they repeat: each component with each impact as often as a burst has it.
const BODIES: usize = 5_000;
/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// Updates of all components and impacts, with more headers.
    Post(Vec<(&'static str, String)>),
    /// A path, with headers.
    Get(String, Vec<(&'static str, String)>),
}

/// What a load had for answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Errors, and answers of 400 and more.
    pub(crate) failed: u64,
    /// Milliseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
}

impl Outcome {
    /// Good answers in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests.saturating_sub(self.failed) as f64 / self.seconds.max(1e-9)
    }
}

/// The generator, and where it finds what it sends.
pub(crate) struct Generator {
    oha: PathBuf,
    bodies: PathBuf,
    token: String,
}

impl Generator {
    /// Writes the updates that it sends.
    pub(crate) fn prepare(oha: PathBuf, folder: &Path, token: String) -> Result<Self> {
        let all: Vec<String> = (0..BODIES).map(|n| burst::update(n).to_string()).collect();
        let bodies = folder.join("bodies");
        std::fs::write(&bodies, all.join("\n"))?;
        Ok(Self { oha, bodies, token })
    }

    /// As many requests as so many connections get answered, each sending its next one when it
    /// has its answer.
    pub(crate) async fn closed(
        &self,
        address: &str,
        request: &Request,
        connections: usize,
        time: Duration,
    ) -> Result<Outcome> {
        self.run(address, request, time, &["-c", &connections.to_string()]).await
    }

    /// So many requests a second, whatever becomes of those before: latency counts from when a
    /// request was to be sent.
    pub(crate) async fn steady(
        &self,
        address: &str,
        request: &Request,
        rate: u32,
        time: Duration,
    ) -> Result<Outcome> {
        let how = ["-c", "64", "-q", &rate.to_string(), "--latency-correction"];
        self.run(address, request, time, &how).await
    }

    async fn run(
        &self,
        address: &str,
        request: &Request,
        time: Duration,
        how: &[&str],
    ) -> Result<Outcome> {
        let mut command = Command::new(&self.oha);
        command.args(["--no-tui", "--output-format", "json", "--disable-compression"]).args(how);
        // What is under way at the end counts, and so does the time that it takes.
        command.args(["-w", "-t", "30s", "-z", &format!("{}s", time.as_secs().max(1))]);
        for (name, value) in self.headers(request) {
            command.arg("-H").arg(format!("{name}: {value}"));
        }
        if matches!(request, Request::Post(_)) {
            command.args(["-m", "POST", "-Z"]).arg(&self.bodies);
        }
        command.arg(format!("http://{address}{}", path(request)));
        let said: Value = serde_json::from_str(&output(command).await?)?;
        let counts = |what: &str| -> Vec<(String, u64)> {
            let counts = said[what].as_object().into_iter().flatten();
            counts.map(|(key, count)| (key.clone(), count.as_u64().unwrap_or_default())).collect()
        };
        let (statuses, errors) = (counts("statusCodeDistribution"), counts("errorDistribution"));
        let sum = |counts: &[(String, u64)]| counts.iter().map(|(_, count)| count).sum::<u64>();
        let refused = statuses.iter().filter(|(status, _)| status.as_str() >= "400");
        let refused: u64 = refused.map(|(_, count)| count).sum();
        let millis = |seconds: &Value| Some(seconds.as_f64()? * 1e3);
        Ok(Outcome {
            requests: sum(&statuses) + sum(&errors),
            seconds: said["summary"]["total"].as_f64().unwrap_or_default(),
            failed: refused + sum(&errors),
            p50: millis(&said["latencyPercentiles"]["p50"]),
            p99: millis(&said["latencyPercentiles"]["p99"]),
            max: millis(&said["summary"]["slowest"]),
        })
    }

    fn headers(&self, request: &Request) -> Vec<(&'static str, String)> {
        match request {
            Request::Post(more) => {
                let mut headers = vec![
                    ("Authorization", format!("Bearer {}", self.token)),
                    ("Content-Type", "application/json".to_owned()),
                ];
                headers.extend(more.iter().cloned());
                headers
            }
            Request::Get(_, headers) => headers.clone(),
        }
    }
}

fn path(request: &Request) -> &str {
    match request {
        Request::Post(_) => "/api/v1/component_status",
        Request::Get(path, _) => path,
    }
}

async fn output(mut command: Command) -> Result<String> {
    let program = command.as_std().get_program().display().to_string();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("{program} can't be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", said.trim());
    Ok(String::from_utf8(output.stdout)?)
}
