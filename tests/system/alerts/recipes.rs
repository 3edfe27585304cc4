//! The recipes of `docs/recipes.md` work as they are written.

use std::{fs, path::PathBuf, process::Stdio, sync::Arc};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::{incidents, incidents_are};
use harness::{
    Fixture, SECRET, System, eventually,
    pipeline::{Program, RESEND_DELAY, Watched},
    tests,
};

tests!(
    a_monitor_that_says_ok,
    prometheus_that_sends_to_a_gateway,
    alertmanager_that_sends_to_a_gateway,
);

const DOCUMENT: &str = "docs/recipes.md";

/// A recipe: its commands, and its files by the names in their first lines.
struct Recipe {
    scripts: Vec<String>,
    files: Vec<(String, String)>,
    folder: PathBuf,
}

impl Recipe {
    /// The recipe below a heading. Only addresses and times are not as they stand in the document.
    fn read(fixture: &Fixture, heading: &str, replaced: &[(&str, &str)]) -> Result<Self> {
        let document = fs::read_to_string(deploy::checkout().join(DOCUMENT)).context(DOCUMENT)?;
        let (_, section) =
            document.split_once(&format!("\n## {heading}\n")).context("no such heading")?;
        let section = section.split("\n## ").next().unwrap_or(section);
        let (mut scripts, mut files) = (Vec::new(), Vec::new());
        for block in section.split("```").skip(1).step_by(2) {
            let (kind, block) = block.split_once('\n').context("an empty block")?;
            let mut block = block.to_owned();
            for (address, instead) in replaced {
                block = block.replace(address, instead);
            }
            match kind {
                "sh" => scripts.push(block),
                "yaml" => {
                    let name = block.lines().next().and_then(|line| line.strip_prefix("# "));
                    files.push((name.context("a file without its name")?.to_owned(), block));
                }
                other => anyhow::bail!("a block of {other}"),
            }
        }
        let folder = fixture.folder.join("recipe");
        fs::create_dir_all(&folder)?;
        Ok(Self { scripts, files, folder })
    }

    fn file(&self, name: &str) -> Result<(&str, &str)> {
        let found = self.files.iter().find(|(found, _)| found == name);
        let (name, content) = found.with_context(|| format!("there is no {name}"))?;
        Ok((name, content))
    }

    /// Pastes a block into a shell; returns what it prints.
    async fn paste(&self, system: &System, script: usize) -> Result<String> {
        let script = self.scripts.get(script).context("there is no such block")?;
        let programs = system.context.binaries.gateway.parent().context("no folder")?.display();
        let output = Command::new("sh")
            .args(["-euc", script])
            .env_clear()
            .env("PATH", format!("{programs}:/usr/bin:/bin"))
            .env("TOKEN", &system.token)
            .env("SDB_SECRET_KEY", SECRET)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let errors = String::from_utf8(output.stderr)?;
        ensure!(output.status.success(), "{script}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The token that the recipe has made.
    fn token(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("status-dashboard.token"))?)
    }
}

/// A system with the component of the recipes.
async fn system(fixture: &Arc<Fixture>, variables: &[(&str, &str)]) -> Result<System> {
    let mut system = System::prepared(fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(variables).await?;
    system
        .components(&[
            ("Object Storage", &[("region", "Region 1"), ("type", "obs")]),
            ("Object Storage", &[("region", "Region 2"), ("type", "obs")]),
        ])
        .await?;
    Ok(system)
}

const OPEN: &str = "Object Storage does not answer: Object Storage";

/// Waits until what is watched is in an incident because it fails, and until that ends.
async fn fails_and_recovers(system: &System, watched: &Watched) -> Result<()> {
    watched.show("probe_success 0\n");
    incidents_are(system, &[OPEN]).await?;
    watched.show("probe_success 1\n");
    incidents_are(system, &[]).await
}

async fn a_monitor_that_says_ok(fixture: Arc<Fixture>) -> Result<()> {
    let system = system(&fixture, &[]).await?;
    let gateway = system.addresses[0].as_str();
    let recipe = |component: &str| {
        let replaced = [("gateway.example:8080", gateway), ("object-storage.example", component)];
        Recipe::read(&fixture, "A monitor that says ok", &replaced)
    };
    let (failing, well) = (recipe("127.0.0.1:1")?, recipe(&format!("{gateway}/healthz?"))?);
    // The answer may come before the update is decided, or say that it was not taken: the next run repeats it.
    let reports = async |recipe: &Recipe| match recipe.paste(&system, 0).await {
        Err(error) if error.to_string().contains("error: 503") => Ok(String::new()),
        answered => answered,
    };
    for _ in 0..2 {
        eventually("the answer has the incident", async || {
            Ok(reports(&failing).await?.contains("\"end_date\":null"))
        })
        .await?;
        ensure!(incidents(&system).await? == [OPEN]);
    }
    for _ in 0..2 {
        eventually("the incident has ended", async || {
            reports(&well).await?;
            Ok(incidents(&system).await?.is_empty())
        })
        .await?;
    }
    ensure!(system.count("SELECT count(*) FROM incident").await? == 1);
    system.finish().await
}

async fn prometheus_that_sends_to_a_gateway(fixture: Arc<Fixture>) -> Result<()> {
    let system = system(&fixture, &[]).await?;
    let watched = Watched::start().await?;
    let replaced = [
        ("gateway.example:8080", system.addresses[0].as_str()),
        ("blackbox.example:9115", watched.address()),
        ("15s", "250ms"),
    ];
    let recipe = Recipe::read(&fixture, "Prometheus", &replaced)?;
    recipe.paste(&system, 0).await?;
    let token = recipe.token()?;
    let files = [
        recipe.file("prometheus.yml")?,
        recipe.file("rules.yml")?,
        ("status-dashboard.token", token.as_str()),
    ];
    let folder = fixture.folder.join("prometheus");
    let mut prometheus = Program::prometheus(&folder, &files, RESEND_DELAY).await?;
    fails_and_recovers(&system, &watched).await?;
    // As the exporter wants to be asked.
    let probed = watched.probed();
    let asked = ["module=http_2xx&target=https%3A%2F%2Fobject-storage.example%2F"];
    ensure!(probed == asked, "{probed:?}");
    prometheus.kill().await?;
    system.finish().await
}

async fn alertmanager_that_sends_to_a_gateway(fixture: Arc<Fixture>) -> Result<()> {
    // The mapping is not made for the gateway's address.
    let mapping = Recipe::read(&fixture, "Alertmanager", &[])?;
    let (name, content) = mapping.file("mapping.yaml")?;
    let file = super::written(&fixture, name, content)?;
    let system = system(&fixture, &[("SDB_ALERT_MAPPING", &file)]).await?;
    let replaced = [
        ("gateway.example:8080", system.addresses[0].as_str()),
        ("10s", "100ms"),
        ("15s", "500ms"),
    ];
    let recipe = Recipe::read(&fixture, "Alertmanager", &replaced)?;
    recipe.paste(&system, 0).await?;
    let planned = recipe.paste(&system, 1).await?;
    let says =
        "\"name\":\"Object Storage\",\"attributes\":[{\"name\":\"region\",\"value\":\"Region 1\"}";
    ensure!(planned.contains(says) && planned.contains("\"impact\":\"minor\""), "{planned}");

    let token = recipe.token()?;
    let files = [recipe.file("alertmanager.yml")?, ("status-dashboard.token", token.as_str())];
    let folder = fixture.folder.join("alertmanager");
    let mut alertmanager = Program::alertmanager(&folder, &files).await?;
    let watched = Watched::start().await?;
    let configuration = format!(
        "global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}
scrape_configs:
  - job_name: object-storage
    static_configs: [{{targets: ['{}']}}]
rule_files: [rules.yml]
alerting:
  alertmanagers:
    - static_configs: [{{targets: ['{}']}}]
",
        watched.address(),
        alertmanager.address()
    );
    let rules = "groups:
  - name: storage
    rules:
      - alert: ObjectStorageDown
        expr: probe_success == 0
        labels: {service: Object Storage, cluster: otc-1, severity: critical}
        annotations: {summary: Object Storage does not answer}
";
    let files = [("prometheus.yml", configuration.as_str()), ("rules.yml", rules)];
    let folder = fixture.folder.join("prometheus");
    let mut prometheus = Program::prometheus(&folder, &files, RESEND_DELAY).await?;
    fails_and_recovers(&system, &watched).await?;
    prometheus.kill().await?;
    alertmanager.kill().await?;
    system.finish().await
}
