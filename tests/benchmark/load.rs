//! The load generators: `wrk` for as many requests as can be had, `oha` for a steady rate.

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
/// Its `done` prints what wrk measured, in a form that can be read.
const WRK_DONE: &str = r#"
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        "\n{\"requests\":%d,\"micros\":%d,\"failed\":%d,\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f}\n",
        summary.requests, summary.duration,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
"#;

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

/// The generators, and where they find what they send.
pub(crate) struct Generators {
    wrk: PathBuf,
    oha: PathBuf,
    folder: PathBuf,
    token: String,
}

impl Generators {
    /// Writes the updates that they send.
    pub(crate) fn prepare(
        wrk: PathBuf,
        oha: PathBuf,
        folder: &Path,
        token: String,
    ) -> Result<Self> {
        let folder = folder.join("load");
        std::fs::create_dir(&folder)?;
        let bodies: Vec<String> = (0..BODIES).map(|n| burst::update(n).to_string()).collect();
        std::fs::write(folder.join("bodies"), bodies.join("\n"))?;
        Ok(Self { wrk, oha, folder, token })
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
        let script = self.folder.join("wrk.lua");
        std::fs::write(&script, self.script(request))?;
        let threads = connections.min(2);
        let mut command = Command::new(&self.wrk);
        command
            .args(["--timeout", "30s", "--threads", &threads.to_string()])
            .args(["--connections", &connections.to_string()])
            .args(["--duration", &format!("{}s", time.as_secs().max(1))])
            .arg("--script")
            .arg(&script)
            .arg(format!("http://{address}{}", path(request)));
        let printed = output(command).await?;
        let line = printed.lines().rfind(|line| line.starts_with('{'));
        let said: Value = serde_json::from_str(line.context("wrk printed no result")?)?;
        Ok(Outcome {
            requests: said["requests"].as_u64().unwrap_or_default(),
            seconds: said["micros"].as_f64().unwrap_or_default() / 1e6,
            failed: said["failed"].as_u64().unwrap_or_default(),
            p50: said["p50"].as_f64(),
            p99: said["p99"].as_f64(),
            max: said["max"].as_f64(),
        })
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
        let mut command = Command::new(&self.oha);
        command
            .args(["--no-tui", "--output-format", "json", "--latency-correction"])
            .args(["-c", "64", "-q", &rate.to_string()])
            .args([
                "-z",
                &format!("{}s", time.as_secs().max(1)),
                "--wait-ongoing-requests-after-deadline",
            ])
            // One thread: the programs under test need the others.
            .args(["--worker-threads", "1", "--disable-compression"]);
        for (name, value) in self.headers(request) {
            command.arg("-H").arg(format!("{name}: {value}"));
        }
        if matches!(request, Request::Post(_)) {
            command.args(["-m", "POST", "-Z"]).arg(self.folder.join("bodies"));
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

    fn script(&self, request: &Request) -> String {
        let mut script = String::from(WRK_DONE);
        for (name, value) in self.headers(request) {
            script.push_str(&format!("wrk.headers[{name:?}] = {value:?}\n"));
        }
        if matches!(request, Request::Post(_)) {
            // Requests are put together before the measurement. Each thread begins at another.
            script.push_str(&format!(
                r#"
local requests, place, threads = {{}}, 0, 0
function setup(thread)
    thread:set("first", threads * {BODIES} / 2)
    threads = threads + 1
end
function init(args)
    for body in io.lines({:?}) do
        requests[#requests + 1] = wrk.format("POST", nil, nil, body)
    end
    place = math.floor(first)
end
function request()
    place = place % #requests + 1
    return requests[place]
end
"#,
                self.folder.join("bodies")
            ));
        }
        script
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
