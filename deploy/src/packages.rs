//! Finds the server programs of Debian's and Ubuntu's packages, and installs what is missing
//! where that is allowed.

mod consent;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::say;

pub use self::consent::Consent;

/// The oldest PostgreSQL that this is tested on: Debian 12 has it.
const POSTGRESQL_FLOOR: Version = Version(15, 0);
/// The oldest RabbitMQ that this is tested on: Debian 12 has it.
const RABBITMQ_FLOOR: Version = Version(3, 10);
const TOO_OLD: &str = "Debian 12 and Ubuntu 24.04 are the oldest systems that have them";
const POSTGRESQL: &str = "postgresql";
const RABBITMQ: &str = "rabbitmq-server";
const INSTALL: &str = include_str!("install.sh");

/// Where the server programs are.
#[derive(Clone, Debug)]
pub struct Packages {
    /// The folder of `postgres`, `initdb` and `psql`.
    pub postgresql: PathBuf,
    /// The folder of `rabbitmq-server` and `rabbitmqctl`, without the wrappers in `/usr/sbin`,
    /// which switch to a user of their own.
    pub rabbitmq: PathBuf,
    /// Erlang's port mapper, which RabbitMQ's tools find the server by.
    pub epmd: PathBuf,
    /// Erlang's tool that has a running node evaluate something.
    pub erl_call: PathBuf,
}

/// A program that only tests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The connection pooler.
    PgBouncer,
    /// The client of README's tour.
    Curl,
    /// What watches components and sends alerts.
    Prometheus,
    /// What groups alerts and passes them on.
    Alertmanager,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PgBouncer, Self::Curl, Self::Prometheus, Self::Alertmanager];

    /// Where it is, once installed.
    #[must_use]
    pub fn program(self) -> &'static Path {
        Path::new(match self {
            Self::PgBouncer => "/usr/sbin/pgbouncer",
            Self::Curl => "/usr/bin/curl",
            Self::Prometheus => "/usr/bin/prometheus",
            Self::Alertmanager => "/usr/bin/prometheus-alertmanager",
        })
    }

    fn package(self) -> &'static str {
        match self {
            Self::PgBouncer => "pgbouncer",
            Self::Curl => "curl",
            Self::Prometheus => "prometheus",
            Self::Alertmanager => "prometheus-alertmanager",
        }
    }
}

/// The servers' programs. What is missing of them and of the tools is installed first, if the consent
/// allows it and this user may.
///
/// # Errors
/// When something is missing and can't be installed, with the line to run; when the system's are too
/// old.
pub fn ensure(tools: &[Tool], consent: &Consent) -> Result<Packages> {
    let servers = find()?;
    let mut missing = servers.as_ref().err().cloned().unwrap_or_default();
    missing.extend(tools.iter().filter(|tool| !tool.program().exists()).map(|tool| tool.package()));
    if !missing.is_empty() {
        install(&missing, consent)?;
    }
    match servers {
        Ok(found) => Ok(found),
        Err(_) => find()?
            .ok()
            .context("the packages are installed, but their programs are not where expected"),
    }
}

/// The programs, or the packages that are missing.
///
/// # Errors
/// When what is there is too old.
pub fn find() -> Result<Result<Packages, Vec<&'static str>>> {
    let postgresql = newest(Path::new("/usr/lib/postgresql"), "");
    let rabbitmq = newest(Path::new("/usr/lib/rabbitmq/lib"), "rabbitmq_server-");
    // An old PostgreSQL does no harm: a newer one is installed beside it.
    let postgresql = postgresql.filter(|(version, _)| *version >= POSTGRESQL_FLOOR);
    if let Some((version, _)) = rabbitmq.filter(|(version, _)| *version < RABBITMQ_FLOOR) {
        refuse_old("RabbitMQ", version, RABBITMQ_FLOOR)?;
    }
    let found = Packages {
        postgresql: postgresql.map(|(_, folder)| folder.join("bin")).unwrap_or_default(),
        rabbitmq: PathBuf::from("/usr/lib/rabbitmq/bin"),
        epmd: PathBuf::from("/usr/bin/epmd"),
        erl_call: PathBuf::from("/usr/bin/erl_call"),
    };
    let all = |folder: &Path, programs: &[&str]| {
        programs.iter().all(|program| folder.join(program).exists())
    };
    let mut missing = Vec::new();
    if !all(&found.postgresql, &["postgres", "initdb", "psql"]) {
        missing.push(POSTGRESQL);
    }
    let of_erlang = found.epmd.exists() && found.erl_call.exists();
    if !all(&found.rabbitmq, &["rabbitmq-server", "rabbitmqctl"]) || !of_erlang {
        missing.push(RABBITMQ);
    }
    Ok(if missing.is_empty() { Ok(found) } else { Err(missing) })
}

fn refuse_old(name: &str, version: Version, floor: Version) -> Result<()> {
    let (Version(major, minor), Version(floor_major, floor_minor)) = (version, floor);
    bail!("{name} {major}.{minor} is too old, {floor_major}.{floor_minor} is needed: {TOO_OLD}")
}

/// The newest of the folders that are named after a version.
fn newest(folder: &Path, prefix: &str) -> Option<(Version, PathBuf)> {
    let entries = fs::read_dir(folder).ok()?;
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = version(entry.file_name().to_str()?.strip_prefix(prefix)?)?;
            // A removed package can leave an empty folder behind.
            let used = ["bin", "sbin"].iter().any(|programs| entry.path().join(programs).is_dir());
            used.then(|| (version, entry.path()))
        })
        .max()
}

/// Major and minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

/// Reads versions as folders and Debian's packages name them: `15`, `3.10.8`,
/// `1:3.10.8-1.1+deb12u1`.
fn version(text: &str) -> Option<Version> {
    let text = text.split_once(':').map_or(text, |(_epoch, version)| version);
    let mut numbers = text.split(|character: char| !character.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let rest = text.trim_start_matches(|character: char| character.is_ascii_digit());
    let minor = if rest.starts_with('.') { numbers.next()?.parse().ok()? } else { 0 };
    Some(Version(major, minor))
}

/// Installs the packages, if that is allowed.
fn install(packages: &[&str], consent: &Consent) -> Result<()> {
    let names = packages.join(", ");
    let missing = format!("these packages are needed and not installed: {names}");
    let by_hand = by_hand(packages);
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{missing}; only Debian's and Ubuntu's packages are known here. {BRING_SERVERS}");
    }
    let Some(root) = root_shell() else {
        bail!("{missing}. Run this, then try again:\n\n    {by_hand}\n\n{BRING_SERVERS}");
    };
    say(&missing);
    let question = "apt-get can install them now. It starts no server, creates no PostgreSQL cluster, \
                    and disables the services that the packages bring, so that none starts at boot.";
    if !consent.is_given(question)? {
        bail!(
            "the packages are not installed: {names}. Install them with this command:\n\n    \
             {by_hand}\n\nOr allow it: `cargo run -- --install-packages`, or set \
             {}=yes. {BRING_SERVERS}",
            consent::VARIABLE
        );
    }
    say(&format!("installing {names} with apt-get"));
    // Packages that are there are not named, so as not to upgrade a server that is in use.
    run(&root, "update", packages)?;
    refuse_old_candidates(packages)?;
    run(&root, "install", packages)
}

/// What a user who may install packages runs.
fn by_hand(packages: &[&str]) -> String {
    let names = packages.join(" ");
    format!("sudo apt-get update && sudo apt-get install -y --no-install-recommends {names}")
}

const BRING_SERVERS: &str =
    "Or set SDB_DATABASE_URI and SDB_AMQP_URI to use servers that are running already.";

/// How to run a shell as root; none when this user may not, or only with a password.
fn root_shell() -> Option<Vec<&'static str>> {
    if nix::unistd::geteuid().is_root() {
        return Some(vec!["sh"]);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sudo.status().is_ok_and(|status| status.success()).then(|| vec!["sudo", "-n", "sh"])
}

fn run(root: &[&str], step: &str, packages: &[&str]) -> Result<()> {
    let (program, arguments) = root.split_first().context("no shell")?;
    let status = Command::new(program)
        .args(arguments)
        .args(["-c", INSTALL, "install.sh", step])
        .args(packages)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{program} can't be run"))?;
    if !status.success() {
        let by_hand = by_hand(packages);
        bail!("apt-get failed, see above. The packages can be installed by hand:\n\n    {by_hand}");
    }
    Ok(())
}

/// Refuses a system whose packages are too old before anything is installed.
fn refuse_old_candidates(packages: &[&str]) -> Result<()> {
    for package in packages {
        let floor = match *package {
            RABBITMQ => RABBITMQ_FLOOR,
            POSTGRESQL => POSTGRESQL_FLOOR,
            _ => Version(0, 0),
        };
        let policy =
            Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
        let policy = policy.context("apt-cache can't be run")?;
        match candidate(&String::from_utf8_lossy(&policy.stdout)) {
            None => bail!("the package {package} is not known to apt-get"),
            Some(version) if version < floor => refuse_old(package, version, floor)?,
            Some(_) => {}
        }
    }
    Ok(())
}

/// The version that `apt-cache policy` says would be installed.
fn candidate(policy: &str) -> Option<Version> {
    policy.lines().find_map(|line| version(line.trim().strip_prefix("Candidate:")?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_folders_and_packages_are_read() {
        assert_eq!(version("15"), Some(Version(15, 0)));
        assert_eq!(version("3.10.8"), Some(Version(3, 10)));
        assert_eq!(version("15+248+deb12u1"), Some(Version(15, 0)));
        assert_eq!(version("1:3.9.27-0ubuntu0.1"), Some(Version(3, 9)));
        assert_eq!(version("(none)"), None);
        assert!(Version(3, 9) < RABBITMQ_FLOOR && Version(4, 0) > RABBITMQ_FLOOR);
    }

    #[test]
    fn the_candidate_is_what_would_be_installed() {
        let policy = "rabbitmq-server:\n  Installed: (none)\n  Candidate: 3.10.8-1.1+deb12u1\n";
        assert_eq!(candidate(policy), Some(Version(3, 10)));
        assert_eq!(candidate("rabbitmq-server:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }
}
