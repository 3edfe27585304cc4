//! What `cargo run` does, step by step.

mod address;
mod arguments;
mod children;

use std::{
    io::{self, Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use deploy::{
    binaries::{self, Binaries},
    checkout, data_dir, packages,
    process::{self, describe, dying_with_us},
    servers::{Folder, Servers},
    setting, settings,
};
use nix::sys::signal::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub(crate) use self::arguments::{Arguments, HELP};
use self::{address::Address, children::Children};

/// How long the gateways may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// The first component of `sample-catalogue.yaml`, as an update names it.
const SAMPLE_UPDATE: &str = r#"{"name": "Object Storage", "impact": "minor", "text": "High latency", "attributes": [{"name": "region", "value": "Region 1"}]}"#;

/// Whether the user has asked to stop.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The first Ctrl-C, SIGTERM or end of the terminal asks; the second ends this process at
    /// once, and with it all that it started.
    pub(crate) fn on_signals() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first of them finds the flag as it was before this signal.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&asked))?;
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self(asked))
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once the user has asked, to leave what is under way.
    fn check(&self) -> Result<()> {
        if self.is_asked() { Err(anyhow::anyhow!("stopped by a signal")) } else { Ok(()) }
    }
}

/// Says it on standard error, as far as anybody reads that.
pub(crate) fn say(line: &str) {
    writeln!(io::stderr(), "deploy: {line}").ok();
}

/// Starts everything, says how to use it, and waits for a signal or a failure. All that was
/// started has stopped when this returns.
pub(crate) fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let addresses = Address::all(arguments.gateways)?;
    let backing = Backing::find(&arguments.data.clone().unwrap_or_else(data_dir), stop)?;
    let secret_key = match setting(settings::SECRET_KEY) {
        Some(key) => key,
        None => backing.folder()?.secret("secret-key")?,
    };
    say("building the gateway and the worker");
    let programs = binaries::build()?;
    stop.check()?;
    let environment = vec![
        (settings::DATABASE, backing.database.clone()),
        (settings::AMQP, backing.amqp.clone()),
        (settings::SECRET_KEY, secret_key),
    ];
    let system = System { programs, environment, stop };
    let catalogue = checkout().join("deploy/sample-catalogue.yaml");
    say("preparing the database: `worker migrate`");
    let migrate = system.worker(&["migrate"]);
    system.finish("worker migrate", migrate, Stdio::from(io::stderr()))?;
    say("loading the sample catalogue: `worker catalogue apply deploy/sample-catalogue.yaml`");
    let mut apply = system.worker(&["catalogue", "apply"]);
    apply.arg(catalogue);
    system.finish("worker catalogue apply", apply, Stdio::from(io::stderr()))?;

    say(&format!("starting {} worker(s) and {} gateway(s)", arguments.workers, arguments.gateways));
    // Made after the servers, and so ended before them.
    let mut children = Children::default();
    for number in 1..=arguments.workers {
        children.start_worker(number, system.worker(&["run"]))?;
    }
    for (address, number) in addresses.iter().zip(1..) {
        let mut gateway = system.gateway(&["run"]);
        gateway.env(settings::BIND, address.to_string());
        children.start_gateway(number, gateway)?;
    }
    let healthy = |children: &mut Children| {
        stop.check()?;
        match children.ended().or_else(|| backing.servers.as_ref().and_then(Servers::ended)) {
            Some(ended) => bail!("{ended}; all of the rest was stopped"),
            None => Ok(()),
        }
    };
    let end = Instant::now() + READY_LIMIT;
    for address in &addresses {
        while !address.is_ready() {
            healthy(&mut children)?;
            if Instant::now() >= end {
                let seconds = READY_LIMIT.as_secs();
                bail!("{}/readyz does not answer 200 after {seconds} s", address.url());
            }
            thread::sleep(POLL);
        }
    }
    let token = system.finish("gateway token", system.gateway(&["token"]), Stdio::piped())?;
    // That nobody reads it, as with `| head`, stops nothing.
    writeln!(io::stdout(), "{}", how_to_use(&addresses, token.trim())).ok();
    say("everything runs; Ctrl-C stops it, and the next start finds the data");
    while healthy(&mut children).is_ok() {
        thread::sleep(POLL);
    }
    let outcome = healthy(&mut children);
    say("stopping: gateways, workers, then the servers");
    outcome
}

fn how_to_use(addresses: &[Address], token: &str) -> String {
    let urls: Vec<String> = addresses.iter().map(Address::url).collect();
    let first = urls.first().map_or("", String::as_str);
    format!(
        "\nThe Status Dashboard runs at {}\n\nToken: {token}\n\nPost an update:\n  curl -i \
         {first}/api/v1/component_status -H 'Content-Type: application/json' -H 'Authorization: \
         Bearer {token}' -d '{SAMPLE_UPDATE}'\n\nSee the incidents:\n  curl \
         {first}/api/v1/incidents\n",
        urls.join(" "),
    )
}

/// Database and broker: our own, or those that the settings name.
struct Backing {
    database: String,
    amqp: String,
    servers: Option<Servers>,
    folder: Option<Folder>,
}

impl Backing {
    fn find(data: &Path, stop: &Stop) -> Result<Self> {
        let database = setting(settings::DATABASE).or_else(|| setting(settings::DATABASE_ALIAS));
        match (database, setting(settings::AMQP)) {
            (Some(database), Some(amqp)) => {
                say("using the PostgreSQL and RabbitMQ that the settings name, starting none");
                // Only for the secret key, and only if none is set.
                let folder = match setting(settings::SECRET_KEY) {
                    Some(_) => None,
                    None => Some(Folder::open(data)?),
                };
                Ok(Self { database, amqp, servers: None, folder })
            }
            (Some(_), None) | (None, Some(_)) => bail!(
                "only one of {} and {} is set: set both to use your own servers, or neither to \
                 have private ones started",
                settings::DATABASE,
                settings::AMQP
            ),
            (None, None) => {
                say("looking for PostgreSQL and RabbitMQ");
                packages::ensure()?;
                stop.check()?;
                say(&format!(
                    "starting private servers, with their data and logs in {}",
                    data.display()
                ));
                let servers = Servers::start(data)?;
                stop.check()?;
                let (database, amqp) = (servers.postgres().uri(), servers.rabbitmq().uri());
                Ok(Self { database, amqp, servers: Some(servers), folder: None })
            }
        }
    }

    fn folder(&self) -> Result<&Folder> {
        let folder = self.servers.as_ref().map(Servers::folder).or(self.folder.as_ref());
        folder.context("no folder is open to keep a secret key in")
    }
}

/// The programs with the settings that they share.
struct System<'a> {
    programs: Binaries,
    environment: Vec<(&'static str, String)>,
    stop: &'a Stop,
}

impl System<'_> {
    fn worker(&self, arguments: &[&str]) -> Command {
        self.command(dying_with_us(&self.programs.worker, Signal::SIGTERM), arguments)
    }

    fn gateway(&self, arguments: &[&str]) -> Command {
        self.command(dying_with_us(&self.programs.gateway, Signal::SIGTERM), arguments)
    }

    fn command(&self, mut command: Command, arguments: &[&str]) -> Command {
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        // Our own standard output is for what the user is to copy.
        command.args(arguments).envs(environment).stdin(Stdio::null()).stdout(io::stderr());
        command
    }

    /// Runs a command to its end and returns what it printed, if that is piped.
    fn finish(&self, name: &str, mut command: Command, output: Stdio) -> Result<String> {
        command.stdout(output);
        let mut child = process::spawn(command).with_context(|| name.to_owned())?;
        let status = loop {
            if let Some(status) = process::wait(&mut child, POLL)? {
                break status;
            }
            if self.stop.is_asked() {
                process::signal(&mut child, Signal::SIGTERM);
                child.wait()?;
            }
        };
        self.stop.check()?;
        if !status.success() {
            bail!("`{name}` ended with {}, see above", describe(status));
        }
        let mut printed = String::new();
        if let Some(mut output) = child.stdout.take() {
            output.read_to_string(&mut printed)?;
        }
        Ok(printed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_update_to_paste_names_the_first_sample_component() {
        let catalogue = include_str!("../sample-catalogue.yaml");
        let (_, first) = catalogue.split_once("  - ").unwrap();
        let (first, _) = first.split_once("  - ").unwrap();
        let update: serde_json::Value = serde_json::from_str(SAMPLE_UPDATE).unwrap();
        assert!(first.contains(&format!("name: {}\n", update["name"].as_str().unwrap())));
        for attribute in update["attributes"].as_array().unwrap() {
            let text = |key| attribute[key].as_str().unwrap();
            assert!(first.contains(&format!("      {}: {}\n", text("name"), text("value"))));
        }
        // It stands between single quotes on the line to paste.
        assert!(!SAMPLE_UPDATE.contains('\''));
    }
}
