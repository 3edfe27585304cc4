//! `cargo run` itself: it starts and stops the whole system, changes no database unasked, and installs
//! nothing unasked.

pub(super) mod packages;
pub(crate) mod started;

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tokio::task::spawn_blocking;

use self::started::{Start, shell};
use crate::workers::spreading::spread;
use harness::{Fixture, System, answer, eventually, eventually_within, free_ports, tests};

tests!(
    a_stopped_run_leaves_nothing_and_the_next_start_finds_its_data,
    several_gateways_and_workers_run_and_share_the_work,
    a_child_that_fails_ends_all_with_its_reason,
    an_unprepared_database_is_not_prepared_unasked,
    a_prepared_database_is_used_as_it_is,
    what_is_printed_leads_a_stranger_to_the_page_and_its_storm,
    one_address_of_two_is_refused,
    the_environment_file_keeps_any_value,
    an_ordinary_user_can_run_everything,
);

/// A catalogue of an operator, which has one of the sample components only.
const CATALOGUE: &str = "components:
  - name: Object Storage
    attributes: {region: Region 1, category: Storage, type: obs}
  - name: Mail
    attributes: {region: Region 1, category: Office, type: mail}
";

/// The same system that a `System` of the harness has, without any process of its own.
pub(crate) async fn start_on(system: &System, arguments: &[&str]) -> Result<Start> {
    let start = Start::new(&system.context, arguments).await?;
    Ok(start
        .variable("SDB_DATABASE_URI", &system.database_uri)
        .variable("SDB_AMQP_URI", &system.amqp_uri))
}

async fn get(url: String) -> Result<Value> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    Ok(answer(client.get(url)).await?.body)
}

async fn a_stopped_run_leaves_nothing_and_the_next_start_finds_its_data(
    fixture: Arc<Fixture>,
) -> Result<()> {
    // The command of the README, with its build.
    started::deploy(&fixture).await?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let words = [&cargo, "run", "--locked", "--"].map(str::to_owned).to_vec();
    let first = Start::of(&fixture, words, &[])?.in_terminal();
    let mut run = first.spawn()?;
    run.runs().await?;
    let traces = run.traces().await?;
    traces.have(&["gateway", "worker", "postgres", "beam.smp", "epmd"])?;
    let environment = run.environment();
    ensure!(
        fs::metadata(&environment)?.permissions().mode() & 0o777 == 0o600,
        "others can read it"
    );

    // An incident, and a catalogue that has less than the sample catalogue and more.
    let post = r#"curl -sS "$URL/api/v1/component_status" -H "Authorization: Bearer $TOKEN" \
        -H 'Prefer: wait=30' -H 'Content-Type: application/json' \
        -d '{"name": "Object Storage", "impact": 2,
        "text": "Before the stop", "attributes": [{"name": "region", "value": "Region 1"}]}'"#;
    shell(&environment, post).await?;
    let file = fixture.folder.join("catalogue.yaml");
    fs::write(&file, CATALOGUE)?;
    let apply = format!("worker catalogue apply --prune '{}'", file.display());
    shell(&environment, &apply).await?;
    let variables = shell(&environment, "env").await?;
    run.types("\u{3}").await?;
    let status = run.ended().await?;
    ensure!(status.success(), "Ctrl-C is no failure: {status}: {}", run.printed()?);
    let left = traces.left()?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));

    // The next start, in a shell that read the environment file of the first.
    let mut second = Start::new(&fixture, &[]).await?;
    for line in variables.lines() {
        if let Some((name, value)) = line.split_once('=')
            && (name.starts_with("STATUS_DASHBOARD_") || name.starts_with("SDB_"))
            && name != "SDB_BIND"
        {
            second = second.variable(name, value);
        }
    }
    let mut run = second.spawn()?;
    run.runs().await?;
    let said = run.printed()?;
    ensure!(said.contains("earlier start") && !said.contains("sample catalogue"), "{said}");
    let incidents = get(run.url(0, "/api/v1/incidents")).await?;
    ensure!(incidents.to_string().contains("Before the stop"), "no incident in {incidents}");
    let components = get(run.url(0, "/api/v1/component_status")).await?;
    let count = components.as_array().map_or(0, Vec::len);
    ensure!(count == 2, "the operator's catalogue has 2 components, not: {components}");

    // A third beside it.
    let (code, said) = second.to_its_end_beside("third.log").await?;
    let taken = format!("the address 127.0.0.1:{} is in use", second.port);
    ensure!(code == Some(1) && said.contains(&taken), "{code:?}: {said}");
    let third = Start::new(&fixture, &[]).await?;
    let (code, said) = third.to_its_end_beside("third.log").await?;
    let taken = format!("uses the folder {}", third.data.display());
    ensure!(
        code == Some(1) && said.contains(&taken) && said.contains("--data"),
        "{code:?}: {said}"
    );
    get(run.url(0, "/healthz")).await?;

    // Killed, it takes everything with it.
    let traces = run.traces().await?;
    traces.have(&["gateway", "worker", "postgres", "beam.smp", "epmd"])?;
    run.signal(Signal::SIGKILL)?;
    run.ended().await?;
    traces.processes_are_gone().await
}

async fn several_gateways_and_workers_run_and_share_the_work(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::bare(&fixture).await?;
    let arguments = ["--gateways", "2", "--workers", "3", "--prepare", "--sample-catalogue"];
    let admin = free_ports(5)?;
    let start = start_on(&system, &arguments).await?;
    let start = start.variable("SDB_ADMIN_ADDRESS", &format!("127.0.0.1:{admin}"));
    let start = start.variable("SDB_PARTITIONS", "8");
    let mut run = start.spawn()?;
    run.runs().await?;
    for port in admin..admin + 5 {
        let health = get(format!("http://127.0.0.1:{port}/healthz")).await?;
        ensure!(health["status"] == "ok", "port {port}: {health}");
    }
    let traces = run.traces().await?;
    let counts = (traces.processes("gateway").len(), traces.processes("worker").len());
    ensure!(counts == (2, 3), "{counts:?} gateways and workers");

    let shape = shell(&run.environment(), "worker topology show --json").await?;
    let shape: Value = serde_json::from_str(&shape)?;
    ensure!(shape["workers"].as_array().map(Vec::len) == Some(3), "{shape}");
    eventually("three workers share the partitions", async || {
        let mut counts: Vec<usize> = spread(&system).await?.into_values().collect();
        counts.sort_unstable();
        Ok(counts == [2, 3, 3])
    })
    .await?;

    // What one gateway takes, the other shows.
    let post = format!(
        r#"curl -sSf '{}' -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
        -H 'Prefer: wait=30' -d '{{"name": "Kubernetes", "impact": 1,
             "attributes": [{{"name": "region", "value": "Region 1"}}]}}'"#,
        run.url(1, "/api/v1/component_status")
    );
    shell(&run.environment(), &post).await?;
    let shown = get(run.url(0, "/api/v1/incidents")).await?;
    ensure!(shown.as_array().map(Vec::len) == Some(1), "{shown}");

    run.signal(Signal::SIGTERM)?;
    ensure!(run.ended().await?.success(), "SIGTERM is no failure: {}", run.printed()?);
    // The servers are not ours.
    for program in ["gateway", "worker"] {
        ensure!(traces.processes(program).is_empty(), "{program} is left");
    }
    ensure!(!run.environment().exists(), "the environment file is left");
    Ok(())
}

async fn a_child_that_fails_ends_all_with_its_reason(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::bare(&fixture).await?;
    let mut run = start_on(&system, &["--workers", "2", "--prepare"]).await?.spawn()?;
    run.runs().await?;
    let traces = run.traces().await?;
    let workers = traces.processes("worker");
    let worker = *workers.last().context("no worker")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker.try_into()?), Signal::SIGKILL)?;
    let status = run.ended().await?;
    let said = run.printed()?;
    ensure!(status.code() == Some(1), "{status}: {said}");
    let reason = "ended with SIGKILL; all of the rest was stopped";
    ensure!(said.contains("deploy: worker ") && said.contains(reason), "{said}");
    for program in ["gateway", "worker"] {
        ensure!(traces.processes(program).is_empty(), "{program} is left");
    }

    // A setting that a child refuses: its message says why.
    let wrong = start_on(&system, &[]).await?.variable("SDB_PARTITIONS", "4");
    let (code, said) = wrong.to_its_end().await?;
    ensure!(code == Some(1) && said.contains("SDB_PARTITIONS is 4"), "{code:?}: {said}");
    ensure!(said.contains("ended with exit code 1; all of the rest was stopped"), "{said}");
    Ok(())
}

/// All that a database has: a line for each table and each row, except what running processes write
/// on their own: that they live, and the inbox's parts for the days to come.
async fn contents(system: &System) -> Result<Vec<String>> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'
            AND table_name NOT LIKE 'sdb_inbox_2%' AND table_name <> 'sdb_worker'
            AND table_type = 'BASE TABLE' ORDER BY 1",
    )
    .fetch_all(&system.database)
    .await?;
    let mut lines = Vec::new();
    for table in tables {
        let query = format!("SELECT t::text FROM \"{table}\" t ORDER BY 1");
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&system.database).await?;
        lines.push(table.clone());
        lines.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    Ok(lines)
}

async fn queues(system: &System) -> Result<String> {
    let (servers, vhost) = (system.context.servers.clone(), system.vhost.clone());
    spawn_blocking(move || servers.rabbitmq().ctl(&["list_queues", "-p", &vhost, "name"])).await?
}

async fn an_unprepared_database_is_not_prepared_unasked(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::bare(&fixture).await?;
    system.sql("CREATE TABLE others (id integer); INSERT INTO others VALUES (1)").await?;
    let before = (contents(&system).await?, queues(&system).await?);
    let (code, said) = start_on(&system, &[]).await?.to_its_end().await?;
    ensure!(code == Some(1), "{code:?}: {said}");
    for part in
        ["the database is not prepared", "Nothing was written", "worker migrate", "--prepare"]
    {
        ensure!(said.contains(part), "no `{part}` in {said}");
    }
    let after = (contents(&system).await?, queues(&system).await?);
    ensure!(before == after, "before: {before:?}; after: {after:?}");

    // Asked for, it is prepared, and no more than that.
    let mut run = start_on(&system, &["--prepare"]).await?.spawn()?;
    run.runs().await?;
    ensure!(system.count("SELECT count(*) FROM component").await? == 0, "sample components");
    let said = run.printed()?;
    ensure!(!said.contains("Post an update"), "there is no component to name: {said}");
    run.signal(Signal::SIGINT)?;
    run.ended().await?;
    let (code, said) = start_on(&system, &["--sample-catalogue"])
        .await?
        .variable("SDB_PARTITIONS", "nonsense")
        .to_its_end()
        .await?;
    ensure!(code == Some(1) && said.contains("SDB_PARTITIONS"), "{code:?}: {said}");
    Ok(())
}

async fn a_prepared_database_is_used_as_it_is(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let file = fixture.folder.join("catalogue.yaml");
    fs::write(&file, CATALOGUE)?;
    let file = file.display().to_string();
    system.worker_succeeds(&["catalogue", "apply", &file]).await?;
    let before = contents(&system).await?;
    let mut run = start_on(&system, &[]).await?.spawn()?;
    run.runs().await?;
    run.signal(Signal::SIGINT)?;
    run.ended().await?;
    let after = contents(&system).await?;
    ensure!(before == after, "before: {before:#?}; after: {after:#?}");

    // The sample catalogue comes when asked for, beside what is there.
    let mut run = start_on(&system, &["--sample-catalogue"]).await?.spawn()?;
    run.runs().await?;
    ensure!(system.count("SELECT count(*) FROM component").await? == 13, "12 samples and Mail");
    ensure!(run.printed()?.contains("Post an update"), "there is a component to name");
    run.signal(Signal::SIGINT)?;
    run.ended().await?;
    Ok(())
}

async fn what_is_printed_leads_a_stranger_to_the_page_and_its_storm(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let arguments = ["--sample-catalogue", "--storm"];
    let mut run = start_on(&system, &arguments).await?.spawn()?;
    run.runs().await?;
    let said = run.printed()?;
    let first = said.split_whitespace().find(|word| word.starts_with("http://"));
    ensure!(first == Some(run.url(0, "/").as_str()), "the page's address is not the first: {said}");
    let client = reqwest::Client::builder().no_proxy().build()?;
    let shows = async |path: &str, text: &str| {
        let page = client.get(run.url(0, path)).send().await?.text().await?;
        anyhow::Ok(page.contains(text))
    };
    // Its end: one incident has been joined, raised and left.
    let end = "Also 1 with a minor problem.";
    eventually_within(Duration::from_secs(60), "the storm is on the page", async || {
        Ok(shows("/", "Outage of 2 components").await? && shows("/", end).await?)
    })
    .await?;
    // The line to paste.
    let paste = said.lines().find(|line| line.trim().starts_with("curl -i ")).context("no line")?;
    let answered = shell(&run.environment(), paste).await?;
    ensure!(answered.starts_with("HTTP/1.1 20"), "{answered}");
    for path in ["/components/1", "/history", "/feed.atom", "/incidents/1"] {
        ensure!(shows(path, "Object Storage").await?, "{path}");
    }
    run.signal(Signal::SIGINT)?;
    run.ended().await?;
    Ok(())
}

async fn one_address_of_two_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    for name in ["SDB_DATABASE_URI", "SDB_SQLALCHEMY_DATABASE_URI", "SDB_AMQP_URI"] {
        let start = Start::new(&fixture, &[]).await?.variable(name, "amqp://u:p@127.0.0.1:1/v");
        let (code, said) = start.to_its_end().await?;
        ensure!(code == Some(1) && said.contains("set both"), "{name}: {code:?}: {said}");
        let name = format!("{name}_FILE");
        let start = Start::new(&fixture, &[]).await?.variable(&name, "/none");
        let (code, said) = start.to_its_end().await?;
        ensure!(code == Some(1) && said.contains("does not read it"), "{name}: {code:?}: {said}");
    }
    Ok(())
}

async fn the_environment_file_keeps_any_value(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::bare(&fixture).await?;
    let claim = "it's \"$HOME\" `id` \\ & 100 %";
    let mut run = start_on(&system, &["--prepare", "--sample-catalogue"])
        .await?
        .variable("SDB_API_PAYLOAD_KEY", claim)
        .variable("SDB_SECRET_KEY", "a 'secret' of \"32 bytes\" or more; $(id)")
        .spawn()?;
    run.runs().await?;
    let read = shell(&run.environment(), r#"printf %s "$SDB_API_PAYLOAD_KEY""#).await?;
    ensure!(read == claim, "{read}");
    // The token is signed with that key and has that claim.
    let post = r#"curl -sSf "$URL/api/v1/component_status" -H "Authorization: Bearer $TOKEN" \
        -H 'Content-Type: application/json' -d '{"name": "Kubernetes", "impact": 1,
        "attributes": [{"name": "region", "value": "Region 2"}]}'
        TOKEN=$(gateway token --client another)
        curl -sSf "$URL/api/v1/incidents" -H "Authorization: Bearer $TOKEN"
        gateway health --ready"#;
    shell(&run.environment(), post).await?;
    run.signal(Signal::SIGINT)?;
    run.ended().await?;
    Ok(())
}

async fn an_ordinary_user_can_run_everything(fixture: Arc<Fixture>) -> Result<()> {
    // A home of mode 700 may hold the checkout: the programs are copied to where all can reach them.
    let programs = fixture.folder.join("programs");
    fs::create_dir(&programs)?;
    let deploy = started::deploy(&fixture).await?;
    for program in [deploy, &fixture.binaries.gateway, &fixture.binaries.worker] {
        let name = program.file_name().context("a program without a name")?;
        fs::copy(program, programs.join(name))?;
    }
    let mut start = Start::new(&fixture, &[]).await?;
    let program = programs.join("deploy").display().to_string();
    let own = format!("{}", programs.display());
    start.words = if geteuid().is_root() {
        fs::create_dir(&start.data)?;
        let nobody = nix::unistd::User::from_name("nobody")?.context("there is no user nobody")?;
        std::os::unix::fs::chown(&start.data, Some(nobody.uid.as_raw()), None)?;
        let (user, group) = (nobody.uid.to_string(), nobody.gid.to_string());
        let switch = ["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups", "--"];
        switch.map(str::to_owned).to_vec()
    } else {
        Vec::new()
    };
    let data = start.data.display().to_string();
    start.words.extend([program, "--data".to_owned(), data, "--programs".to_owned(), own]);
    let mut run = start.spawn()?;
    run.runs().await?;
    let traces = run.traces().await?;
    traces.have(&["gateway", "worker", "postgres", "beam.smp", "epmd"])?;
    let post = r#"curl -sSf "$URL/api/v1/component_status" -H "Authorization: Bearer $TOKEN" \
        -H 'Content-Type: application/json' -d '{"name": "Object Storage", "impact": 2,
        "attributes": [{"name": "region", "value": "Region 1"}]}'"#;
    shell(&run.environment(), post).await?;
    run.signal(Signal::SIGINT)?;
    ensure!(run.ended().await?.success(), "{}", run.printed()?);
    let left = traces.left()?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    // What only root could remove would be in the user's way.
    eventually_within(Duration::from_secs(5), "the data is the user's", async || {
        let owner =
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(start.data.join("postgresql"))?);
        Ok(!geteuid().is_root() || owner != 0)
    })
    .await
}
