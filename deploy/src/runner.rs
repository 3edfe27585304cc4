//! What `cargo run` does, in order.

mod address;
mod arguments;
mod backing;
mod children;
mod environment;
mod reports;
mod storm;
mod system;
mod usage;

use std::{
    io::{self, Write},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use deploy::{
    binaries::{self, Binaries},
    checkout, data_dir, say, settings,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub(crate) use self::arguments::{Arguments, HELP};
use self::{
    address::Address,
    backing::Backing,
    children::Children,
    environment::{EnvironmentFile, quoted},
    system::System,
};

/// Time limit for the gateways and the workers to become ready.
const READY_LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
/// The sample catalogue, from the checkout.
const SAMPLE_CATALOGUE: &str = "deploy/sample-catalogue.yaml";

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

    /// An error once the user has asked to stop, to abandon what is in progress.
    fn check(&self) -> Result<()> {
        if self.is_asked() { Err(anyhow::anyhow!("stopped by a signal")) } else { Ok(()) }
    }
}

/// Starts everything, says how to use it, and waits for a signal or a failure. All that was
/// started has stopped when this returns.
pub(crate) fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let addresses = Address::of_gateways(arguments.gateways)?;
    let admins = Address::of_admins(arguments.gateways + arguments.workers)?;
    let given = arguments.programs.as_deref().map(Binaries::of_folder).transpose()?;
    let data = arguments.data.clone().unwrap_or_else(data_dir);
    let backing = Backing::find(&data, arguments.install_packages, stop)?;
    EnvironmentFile::remove_old(backing.folder());
    let programs = match given {
        Some(programs) => programs,
        None => {
            say("building the gateway and the worker");
            binaries::build()?
        }
    };
    stop.check()?;
    let environment = vec![
        (settings::DATABASE, backing.database.clone()),
        (settings::AMQP, backing.amqp.clone()),
        (settings::SECRET_KEY, backing.secret_key()?),
    ];
    let system = System { programs, environment, stop };
    let has_samples = prepare(arguments, &backing, &system)?;

    // Made after the servers, and so ended before them.
    let mut children = start(arguments.workers, &addresses, &admins, &system)?;
    let healthy = |children: &mut Children| {
        stop.check()?;
        match children.ended().or_else(|| backing.ended()) {
            Some(ended) => bail!("{ended}; all of the rest was stopped"),
            None => Ok(()),
        }
    };
    await_ready(&addresses, &mut children, healthy)?;
    let token = system.finish("gateway token", system.gateway(&["token"]), Stdio::piped())?;
    let usage = usage::Usage { addresses: &addresses, token: token.trim(), has_samples };
    let environment_file = usage.write_environment(&backing, &system)?;
    // A closed pipe, as with `| head`, stops nothing.
    writeln!(io::stdout(), "{}", usage.text(&environment_file.command())).ok();
    if arguments.storm {
        storm::play(&usage, || healthy(&mut children))?;
    }
    say("everything is running; Ctrl-C stops it, and the next start finds the data");
    while healthy(&mut children).is_ok() {
        thread::sleep(POLL);
    }
    let outcome = healthy(&mut children);
    say("stopping: gateways, workers, then the servers");
    outcome
}

/// Starts the workers, and a gateway at each of the addresses; `admins` are for the gateways first.
fn start(
    workers: u16,
    addresses: &[Address],
    admins: &[Address],
    system: &System,
) -> Result<Children> {
    let gateways = addresses.len();
    say(&format!("starting {workers} worker(s) and {gateways} gateway(s)"));
    let mut children = Children::default();
    let admin = |place: usize| admins.get(place).map(|a| (settings::ADMIN, a.to_string()));
    for (number, place) in (1..=workers).zip(gateways..) {
        let mut worker = system.worker(&["run"]);
        worker.envs(admin(place));
        children.start_worker(number, worker)?;
    }
    for ((address, number), place) in addresses.iter().zip(1..).zip(0..) {
        let mut gateway = system.gateway(&["run"]);
        gateway.env(settings::BIND, address.to_string()).envs(admin(place));
        children.start_gateway(number, gateway)?;
    }
    Ok(children)
}

/// Prepares the database if it is private or if that was requested; otherwise checks whether it is
/// prepared. Returns whether it is known to have the components of the sample catalogue.
fn prepare(arguments: &Arguments, backing: &Backing, system: &System) -> Result<bool> {
    if backing.is_private() || arguments.prepare {
        say("preparing the database: `worker migrate`");
        let migrate = system.worker(&["migrate"]);
        system.finish("worker migrate", migrate, Stdio::from(std::io::stderr()))?;
    } else {
        say("looking at the database: `worker topology show`");
        if let Err(said) = system.probe(system.worker(&["topology", "show"]))? {
            bail!("{}", not_usable(&said, &system.programs.worker));
        }
    }
    let file = checkout().join(SAMPLE_CATALOGUE);
    if arguments.sample_catalogue || backing.is_new()? {
        say(&format!("loading the sample catalogue: `worker catalogue apply {SAMPLE_CATALOGUE}`"));
        // Taken into this program, since an unprivileged user may not reach the checkout.
        let file = if file.exists() {
            file
        } else {
            let text = include_str!("../sample-catalogue.yaml");
            backing.folder().write_private("sample-catalogue.yaml", text)?
        };
        let mut apply = system.worker(&["catalogue", "apply"]);
        apply.arg(file);
        system.finish("worker catalogue apply", apply, Stdio::from(std::io::stderr()))?;
        return Ok(true);
    }
    backing.has_samples()
}

/// Why a database of the user's own can't be used, and what to do.
fn not_usable(said: &str, worker: &Path) -> String {
    let problem = format!("{said}\nNothing was written to the database.");
    if !said.contains("`worker migrate`") {
        return problem;
    }
    let worker = quoted(&worker.display().to_string());
    let catalogue = quoted(&checkout().join(SAMPLE_CATALOGUE).display().to_string());
    format!(
        "{problem} To prepare it, run this, with {} set:\n\n    {worker} migrate\n    {worker} \
         catalogue apply FILE\n\nOr let this program do it: `cargo run -- --prepare`, with \
         `--sample-catalogue` to load\n{catalogue}, too.",
        settings::DATABASE,
    )
}

/// Waits until each gateway is ready, and each worker has been: until a worker consumes, updates get 202.
fn await_ready(
    addresses: &[Address],
    children: &mut Children,
    healthy: impl Fn(&mut Children) -> Result<()>,
) -> Result<()> {
    let (end, seconds) = (Instant::now() + READY_LIMIT, READY_LIMIT.as_secs());
    let is_over = |children: &mut Children| -> Result<bool> {
        healthy(children)?;
        thread::sleep(POLL);
        Ok(Instant::now() >= end)
    };
    for address in addresses {
        while let Err(answer) = address.readiness() {
            if is_over(children)? {
                let url = address.url();
                let answer = answer.unwrap_or_else(|| "no answer".to_owned());
                bail!("{url}/readyz does not say that it is ready after {seconds} s: {answer}");
            }
        }
    }
    while let Err(missing) = children.workers_are_ready() {
        if is_over(children)? {
            bail!("after {seconds} s, {missing}");
        }
    }
    Ok(())
}
