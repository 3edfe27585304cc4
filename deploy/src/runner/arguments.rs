//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The answer to `--help`.
pub(crate) const HELP: &str = "\
Runs the whole Status Dashboard ingest and API on this machine

Usage: cargo run [--release] [-- OPTIONS]

Starts a private PostgreSQL and a private RabbitMQ, builds and starts the gateway and the worker,
loads a sample catalogue when the database is new, and prints the address, a token and the commands
to try. Ctrl-C stops everything; the next start finds the data.

With SDB_DATABASE_URI and SDB_AMQP_URI set, it uses those servers instead. It then neither prepares
the database nor loads the sample catalogue, unless an option below says so.

Options:
  --gateways N         gateways to run, on consecutive ports from that of SDB_BIND [default: 1]
  --workers N          workers to run [default: 1]
  --data FOLDER        folder for the private servers' data and for the environment file
                       [default: one for this user and checkout in /var/tmp]
  --prepare            run `worker migrate` on the database of SDB_DATABASE_URI
  --sample-catalogue   load deploy/sample-catalogue.yaml, whatever the database has
  --storm              play a small storm with the sample catalogue, to look at the page
  --install-packages   install the packages of PostgreSQL and RabbitMQ without asking, if missing
  --programs FOLDER    use the gateway and worker in FOLDER instead of building them
  -h, --help           print this help

Environment:
  SDB_DATABASE_URI, SDB_AMQP_URI      servers to use instead of private ones; set both or neither
  SDB_SECRET_KEY                      key that signs tokens [default: a random one, kept in the folder]
  SDB_BIND                            address of the first gateway [default: 127.0.0.1:8080]
  SDB_ADMIN_ADDRESS                   address of the first gateway's health and metrics; the other
                                      gateways, then the workers, take the ports after it
  STATUS_DASHBOARD_INSTALL_PACKAGES   yes or no: the answer to the question about missing packages;
                                      CI=true means yes. Without a terminal nobody is asked, and
                                      nothing is installed
  All other SDB_ settings are passed on to gateway and worker.";

/// More than this on one machine is probably a typing error.
const MOST: u16 = 64;

/// The parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// How many gateways to run.
    pub(crate) gateways: u16,
    /// How many workers to run.
    pub(crate) workers: u16,
    /// Where private servers have their data; none for this checkout's own folder.
    pub(crate) data: Option<PathBuf>,
    /// Whether a database that is not ours is prepared.
    pub(crate) prepare: bool,
    /// Whether the sample catalogue is loaded in any case.
    pub(crate) sample_catalogue: bool,
    /// Whether a small storm is played.
    pub(crate) storm: bool,
    /// Whether missing packages are installed without asking.
    pub(crate) install_packages: bool,
    /// Where the programs are; none to build them.
    pub(crate) programs: Option<PathBuf>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            gateways: 1,
            workers: 1,
            data: None,
            prepare: false,
            sample_catalogue: false,
            storm: false,
            install_packages: false,
            programs: None,
        }
    }
}

impl Arguments {
    /// Reads the command line; none when it asks for help.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut arguments = Self::default();
        let mut words = words;
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let flag = match name {
                "-h" | "--help" => return Ok(None),
                "--prepare" => Some(&mut arguments.prepare),
                "--sample-catalogue" => Some(&mut arguments.sample_catalogue),
                "--storm" => Some(&mut arguments.storm),
                "--install-packages" => Some(&mut arguments.install_packages),
                _ => None,
            };
            if let Some(flag) = flag {
                if value.is_some() {
                    bail!("{name} takes no value");
                }
                *flag = true;
                continue;
            }
            let folder = match name {
                "--data" => Some(&mut arguments.data),
                "--programs" => Some(&mut arguments.programs),
                _ => None,
            };
            if let Some(target) = folder {
                let folder = value.or_else(|| words.next()).filter(|folder| !folder.is_empty());
                *target = Some(folder.with_context(|| format!("{name} needs a folder"))?.into());
                continue;
            }
            let target = match name {
                "--gateways" => &mut arguments.gateways,
                "--workers" => &mut arguments.workers,
                _ => bail!("there is no option `{word}`"),
            };
            let value = value.or_else(|| words.next());
            *target = value
                .and_then(|value| value.parse().ok())
                .filter(|count| (1..=MOST).contains(count))
                .with_context(|| format!("{name} needs a number from 1 to {MOST}"))?;
        }
        Ok(Some(arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Arguments>> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let expect =
            |gateways, workers| Some(Arguments { gateways, workers, ..Arguments::default() });
        assert_eq!(parse("").unwrap(), expect(1, 1));
        assert_eq!(parse("--gateways 2 --workers=3").unwrap(), expect(2, 3));
        assert_eq!(parse("--gateways 2 --help").unwrap(), None);
        let arguments = parse("--data /srv/x --workers 2").unwrap().unwrap();
        assert_eq!((arguments.data, arguments.workers), (Some(PathBuf::from("/srv/x")), 2));
        let arguments = parse("--prepare --install-packages --programs=/p").unwrap().unwrap();
        assert!(arguments.prepare && arguments.install_packages && !arguments.sample_catalogue);
        assert_eq!(arguments.programs, Some(PathBuf::from("/p")));
        assert!(parse("--sample-catalogue").unwrap().unwrap().sample_catalogue);
        assert!(parse("--storm").unwrap().unwrap().storm);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, named) in [
            ("--gateway 2", "--gateway"),
            ("--workers", "--workers needs"),
            ("--workers 0", "--workers needs"),
            ("--workers many", "--workers needs"),
            ("--data", "--data needs"),
            ("--programs=", "--programs needs"),
            ("--prepare=yes", "--prepare takes no value"),
        ] {
            assert!(parse(line).unwrap_err().to_string().contains(named), "{line}");
        }
    }
}
