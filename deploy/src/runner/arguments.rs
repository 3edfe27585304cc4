//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The answer to `--help`.
pub(crate) const HELP: &str = "\
Runs the whole Status Dashboard ingest and API on this machine

Usage: cargo run [--release] [-- OPTIONS]

Starts a private PostgreSQL and RabbitMQ (their packages are installed if they are missing and
that is allowed), builds and starts gateway and worker, loads a sample catalogue, and prints an
address, a token and what to paste. Ctrl-C stops all of it; starting again finds the data.

Options:
  --gateways N   gateways to run, on one port after the other from that of SDB_BIND [default: 1]
  --workers N    workers to run [default: 1]
  --data FOLDER  where private servers have their data [default: one for this checkout in /var/tmp]
  -h, --help     this text

Environment:
  SDB_DATABASE_URI, SDB_AMQP_URI   servers to use instead of private ones; set both or neither
  SDB_SECRET_KEY                   what tokens are signed with [default: a random one, kept]
  SDB_BIND                         where the first gateway listens [default: 127.0.0.1:8080]
  All other SDB_ settings are handed on to gateway and worker.";

/// More than this on one machine is a slip of the finger.
const MOST: u16 = 64;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// How many gateways to run.
    pub(crate) gateways: u16,
    /// How many workers to run.
    pub(crate) workers: u16,
    /// Where private servers have their data; none for this checkout's own folder.
    pub(crate) data: Option<PathBuf>,
}

impl Arguments {
    /// Reads the command line; none when it asks for help.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut arguments = Self { gateways: 1, workers: 1, data: None };
        let mut words = words;
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let target = match name {
                "-h" | "--help" => return Ok(None),
                "--gateways" => &mut arguments.gateways,
                "--workers" => &mut arguments.workers,
                "--data" => {
                    let folder = value.or_else(|| words.next()).filter(|folder| !folder.is_empty());
                    arguments.data = Some(folder.context("--data wants a folder")?.into());
                    continue;
                }
                _ => bail!("there is no option `{word}`"),
            };
            let value = value.or_else(|| words.next());
            *target = value
                .and_then(|value| value.parse().ok())
                .filter(|count| (1..=MOST).contains(count))
                .with_context(|| format!("{name} wants a number from 1 to {MOST}"))?;
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
        let expect = |gateways, workers| Some(Arguments { gateways, workers, data: None });
        assert_eq!(parse("").unwrap(), expect(1, 1));
        assert_eq!(parse("--gateways 2 --workers=3").unwrap(), expect(2, 3));
        assert_eq!(parse("--gateways 2 --help").unwrap(), None);
        let arguments = parse("--data /srv/x --workers 2").unwrap().unwrap();
        assert_eq!((arguments.data, arguments.workers), (Some(PathBuf::from("/srv/x")), 2));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, named) in [
            ("--gateway 2", "--gateway"),
            ("--workers", "--workers wants"),
            ("--workers 0", "--workers wants"),
            ("--workers many", "--workers wants"),
            ("--data", "--data wants"),
        ] {
            assert!(parse(line).unwrap_err().to_string().contains(named), "{line}");
        }
    }
}
