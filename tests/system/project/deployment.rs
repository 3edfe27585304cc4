//! What the files for deployment say of metrics and servers is true of the programs and of the servers that are
//! installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{Fixture, System, eventually, tests};

tests!(alerts_and_dashboard_name_labels_that_metrics_have, the_settings_of_rabbitmq_are_understood,);

/// What Prometheus adds to every series of a target (deploy/monitoring), and the bound of a histogram.
const TARGET_LABELS: [&str; 6] = ["job", "instance", "namespace", "pod", "program", "le"];
/// What RabbitMQ adds to the series of a queue (`/metrics/detailed`), which is not asked here.
const RABBITMQ_LABELS: [&str; 2] = ["vhost", "queue"];
/// Labels whose values depend on what clients ask for.
const OPEN_LABELS: [&str; 4] = ["route", "method", "status", "partition"];

/// The labels of each metric, with their values.
type Labels = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn read(path: &str) -> Result<String> {
    fs::read_to_string(deploy::checkout().join(path)).with_context(|| path.to_owned())
}

/// Adds what a program shows.
async fn scrape(system: &System, address: &str, labels: &mut Labels) -> Result<()> {
    let text = system.client.get(format!("http://{address}/metrics")).send().await?.text().await?;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').context("no value")?;
        let (name, rest) = series.split_once('{').unwrap_or((series, ""));
        let all = labels.entry(name.to_owned()).or_default();
        for (label, _, value) in matchers(rest.trim_end_matches('}')) {
            all.entry(label).or_default().insert(value);
        }
    }
    Ok(())
}

/// `name="value"`, with any operator, and commas between them.
fn matchers(text: &str) -> Vec<(String, String, String)> {
    let mut parts = text.split('"');
    let mut found = Vec::new();
    while let (Some(before), Some(value)) = (parts.next(), parts.next()) {
        let before = before.trim_start_matches([',', ' ']);
        let end = before.find(['=', '!']).unwrap_or(before.len());
        found.push((before[..end].to_owned(), before[end..].to_owned(), value.to_owned()));
    }
    found
}

/// The metrics of an expression with what is between their braces, and the labels of `by` and `on`.
fn parse(expression: &str) -> (Vec<(String, String)>, Vec<String>) {
    let mut metrics = Vec::new();
    for (at, _) in expression.match_indices("sdb_") {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let rest = &expression[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let braces = rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        metrics.push((rest[..end].to_owned(), braces.map_or("", |(inner, _)| inner).to_owned()));
    }
    let mut grouped = Vec::new();
    for word in [" by (", " on ("] {
        for rest in expression.split(word).skip(1) {
            let inner = rest.split(')').next().unwrap_or_default();
            grouped.extend(inner.split(',').map(|label| label.trim().to_owned()));
        }
    }
    (metrics, grouped)
}

/// What is wrong with an expression.
fn problems(expression: &str, labels: &Labels) -> Vec<String> {
    let (metrics, grouped) = parse(expression);
    let mut problems = Vec::new();
    let mut known: BTreeSet<&str> = TARGET_LABELS.into();
    for (name, inner) in &metrics {
        let Some(own) = labels.get(name) else {
            problems.push(format!("no metric {name}"));
            continue;
        };
        known.extend(own.keys().map(String::as_str));
        for (label, operator, value) in matchers(inner) {
            match own.get(&label) {
                None if TARGET_LABELS.contains(&label.as_str()) => {}
                None => problems.push(format!("{name} has no label {label}")),
                Some(values) => {
                    let is_open = OPEN_LABELS.contains(&label.as_str());
                    if ["=", "!="].contains(&operator.as_str())
                        && !is_open
                        && !values.contains(&value)
                    {
                        problems.push(format!("{label} of {name} is never {value}"));
                    }
                }
            }
        }
    }
    if expression.contains("rabbitmq_detailed_") {
        known.extend(RABBITMQ_LABELS);
    }
    problems.extend(
        grouped
            .iter()
            // `on ()` has none.
            .filter(|label| !label.is_empty())
            .filter(|label| !known.contains(label.as_str()))
            .map(|label| format!("nothing has the label {label}")),
    );
    problems
}

async fn alerts_and_dashboard_name_labels_that_metrics_have(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[("SDB_ADMIN_ADDRESS", "127.0.0.1:0")]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    ensure!(system.post(&json!({ "name": "DNS", "impact": 1 })).await?.status == 201);
    ensure!(system.get("/api/v1/incidents").await?.status == 200);
    let log = system.workers[0].log()?;
    let line = log.lines().find(|line| line.contains("serving health and metrics"));
    let line: Value = serde_json::from_str(line.context("the worker has no address")?)?;
    let worker = line["address"].as_str().context("no address")?;
    let mut labels = Labels::new();
    eventually("the worker has measured its queues", async || {
        scrape(&system, worker, &mut labels).await?;
        Ok(labels.contains_key("sdb_queue_messages"))
    })
    .await?;
    scrape(&system, &system.addresses[0], &mut labels).await?;

    let mut expressions: Vec<String> = read("deploy/monitoring/alerts.yaml")?
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: ").map(str::to_owned))
        .collect();
    let dashboard: Value = serde_json::from_str(&read("deploy/monitoring/dashboard.json")?)?;
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let targets = panel["targets"].as_array().into_iter().flatten();
        expressions.extend(targets.filter_map(|target| Some(target["expr"].as_str()?.to_owned())));
    }
    ensure!(expressions.len() > 40, "only {} expressions were found", expressions.len());
    for expression in expressions {
        let problems = problems(&expression, &labels);
        ensure!(problems.is_empty(), "{expression}: {problems:?}");
    }
    // That it finds what it looks for.
    for (expression, says) in [
        ("rate(sdb_updates_refused_total{cause=\"queue_full\"}[5m])", "has no label cause"),
        ("rate(sdb_updates_refused_total{reason=\"full\"}[5m])", "is never full"),
        ("sum by (queue) (sdb_queue_messages)", "nothing has the label queue"),
        ("up == 0 and on (host) sdb_partitions", "nothing has the label host"),
        ("sdb_partition", "no metric sdb_partition"),
    ] {
        let found = problems(expression, &labels);
        ensure!(found.len() == 1 && found[0].contains(says), "{expression}: {found:?}");
    }
    system.finish().await
}

/// What RabbitMQ's own reader and schema say of settings, without another server.
fn understood(fixture: &Fixture, settings: &str) -> Result<String> {
    let expression = format!(
        "Schema = cuttlefish_schema:files(filelib:wildcard(filename:join(
            [code:priv_dir(rabbit), \"schema\", \"*.schema\"]))),
        Settings = conf_parse:parse(<<{}>>),
        case cuttlefish_generator:map(Schema, Settings) of
            Config when is_list(Config), Settings =/= [] -> ok;
            Other -> Other
        end.",
        bytes(settings)
    );
    fixture.rabbitmq().eval(&expression)
}

/// The same of `advanced.config`: the terms, as Erlang reads them.
fn terms(fixture: &Fixture, text: &str) -> Result<String> {
    let expression = format!(
        "{{ok, Tokens, _}} = erl_scan:string(binary_to_list(<<{}>>)),
        case erl_parse:parse_term(Tokens) of {{ok, Terms}} -> Terms; Other -> Other end.",
        bytes(text)
    );
    let answer = fixture.rabbitmq().eval(&expression)?;
    Ok(answer.split_ascii_whitespace().collect())
}

fn bytes(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    bytes.join(",")
}

/// The text under a key of a YAML file, as `key: |` has it.
fn block(yaml: &str, key: &str) -> Result<String> {
    let mut lines = yaml.lines().skip_while(|line| line.trim_start() != format!("{key}: |"));
    let first = lines.next().with_context(|| format!("no {key}"))?;
    let indentation = first.len() - first.trim_start().len();
    let is_inside = |line: &&str| line.len() - line.trim_start().len() > indentation;
    Ok(lines.take_while(is_inside).map(|line| format!("{}\n", line.trim_start())).collect())
}

async fn the_settings_of_rabbitmq_are_understood(fixture: Arc<Fixture>) -> Result<()> {
    let cluster = read("deploy/kubernetes/servers/rabbitmq.yaml")?;
    let container = read("deploy/container/rabbitmq.conf")?;
    let additional = block(&cluster, "additionalConfig")?;
    for settings in [&container, &additional] {
        let answer = understood(&fixture, settings)?;
        ensure!(answer == "ok", "RabbitMQ refuses {settings}: {answer}");
        for fault in ["consumer_timeouts = 1\n", "consumer_timeout = soon\n"] {
            let answer = understood(&fixture, &format!("{settings}{fault}"))?;
            ensure!(answer.contains("error"), "{fault:?} is not refused: {answer}");
        }
    }
    let advanced = block(&cluster, "advancedConfig")?;
    let answer = terms(&fixture, &advanced)?;
    let expected = "[{kernel,[{net_ticktime,10}]},{aten,[{poll_interval,1000}]}]";
    ensure!(answer == expected, "{advanced} is {answer}");
    let answer = terms(&fixture, &advanced.replacen('}', "", 1))?;
    ensure!(answer.contains("error"), "a fault is not found: {answer}");
    // What RabbitMQ can't evaluate is no answer.
    for expressions in ["no_module:no_function().", "not an expression"] {
        let answer = fixture.rabbitmq().eval(expressions);
        let failed =
            answer.as_ref().is_err_and(|error| error.to_string().contains("can't evaluate"));
        ensure!(failed, "{expressions}: {answer:?}");
    }
    Ok(())
}
