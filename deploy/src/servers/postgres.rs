//! The private PostgreSQL.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::{
    DEFAULT_NAME, USER,
    folder::{Account, Folder},
    ports::has_ipv6,
    server::Server,
};
use crate::packages::Packages;

/// A private PostgreSQL server. `fsync` and `synchronous_commit` are on, as in production.
pub struct Postgres {
    programs: PathBuf,
    account: Account,
    data: PathBuf,
    /// Where its Unix socket is; none where the path is too long for one.
    socket: Option<PathBuf>,
    password: String,
    port: u16,
    server: Server,
}

impl Postgres {
    /// Prepares the data folder.
    pub(super) fn new(
        packages: &Packages,
        folder: &Folder,
        password: String,
        port: u16,
    ) -> Result<Self> {
        let programs = packages.postgresql.clone();
        let postgres = Self::at(folder, "postgresql", programs, password, port)?;
        let parent = folder.subfolder("postgresql")?;
        if !postgres.data.exists() {
            let unfinished = parent.join("data.new");
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished)?;
            }
            let mut initdb = postgres.account.command(postgres.programs.join("initdb"));
            initdb.arg("-D").arg(&unfinished).args(["-U", USER]).arg("--pwfile");
            initdb.arg(folder.path().join("password"));
            initdb.args(["-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"]);
            output(initdb.arg("--no-instructions").current_dir(&parent))?;
            // Only what is complete gets the name that the next start looks for.
            fs::rename(&unfinished, &postgres.data)?;
        }
        Ok(postgres)
    }

    /// A server in a subfolder, without data yet.
    fn at(
        folder: &Folder,
        name: &str,
        programs: PathBuf,
        password: String,
        port: u16,
    ) -> Result<Self> {
        let socket = folder.subfolder(&format!("{name}/socket"))?;
        Ok(Self {
            programs,
            account: folder.account(),
            data: folder.subfolder(name)?.join("data"),
            socket: Some(socket).filter(|path| fits(path, port)),
            password,
            port,
            // INT ends open connections; TERM would wait for them.
            server: Server::new("PostgreSQL", folder.log(name), Signal::SIGINT),
        })
    }

    /// A standby of this server, started. It is called by its name where it is one that commits wait for.
    pub(super) fn standby(&self, folder: &Folder, name: &str, port: u16) -> Result<Self> {
        let (programs, password) = (self.programs.clone(), self.password.clone());
        let standby = Self::at(folder, name, programs, password, port)?;
        standby.follow(self, name)?;
        Ok(standby)
    }

    /// Starts this server, which is stopped, as a standby of another one, with that one's data. It is
    /// called by its name where it is one that commits wait for.
    ///
    /// # Errors
    /// When the data can't be copied, or the server does not come up, with the end of its log.
    pub fn follow(&self, primary: &Self, name: &str) -> Result<()> {
        if self.data.exists() {
            fs::remove_dir_all(&self.data)?;
        }
        let source =
            format!("host=127.0.0.1 port={} user={USER} application_name={name}", primary.port);
        let mut backup = self.account.command(self.programs.join("pg_basebackup"));
        backup.arg("-D").arg(&self.data).args(["-R", "-X", "stream", "-c", "fast", "-d", &source]);
        backup.env("PGPASSWORD", &self.password);
        output(backup.current_dir(self.data.parent().unwrap_or(Path::new("/"))))?;
        // The standbys that the primary waits for are not its own.
        let mut settings =
            OpenOptions::new().append(true).open(self.data.join("postgresql.auto.conf"))?;
        settings.write_all(b"synchronous_standby_names = ''\n")?;
        self.start()
    }

    /// Has commits wait for the standbys with these names, as `synchronous_standby_names` has them; for none
    /// if it is empty. Commits that wait already are released then.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn wait_for_standbys(&self, names: &str) -> Result<()> {
        self.psql("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))?;
        self.psql("postgres", "SELECT pg_reload_conf()")?;
        Ok(())
    }

    /// Makes a standby a primary, and waits until it is.
    ///
    /// # Errors
    /// When the server does not answer, or is none.
    pub fn promote(&self) -> Result<()> {
        let promoted = self.psql("postgres", "SELECT pg_promote()")?;
        ensure!(promoted == "t", "the standby was not promoted in time");
        Ok(())
    }

    /// Starts the server, on the same port each time, and waits until it answers.
    ///
    /// # Errors
    /// When it is running already or does not come up, with the end of its log.
    pub fn start(&self) -> Result<()> {
        let mut command =
            self.account.server(self.programs.join("postgres"), self.server.stop_signal());
        command.arg("-D").arg(&self.data).current_dir(&self.data);
        let socket = self.socket.as_ref().map(|folder| format!("\"{}\"", folder.display()));
        for setting in [
            if has_ipv6() {
                "listen_addresses=127.0.0.1,::1"
            } else {
                "listen_addresses=127.0.0.1"
            },
            &format!("unix_socket_directories={}", socket.unwrap_or_default()),
            "timezone=UTC",
            "log_timezone=UTC",
            "max_connections=200",
            &format!("port={}", self.port),
        ] {
            command.args(["-c", setting]);
        }
        self.server.launch(command)?;
        self.server.await_ready(|| {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
                return Ok(false);
            }
            let found = format!("select 1 from pg_database where datname = '{DEFAULT_NAME}'");
            if self.psql("postgres", &found)?.is_empty() {
                self.create_database(DEFAULT_NAME)?;
            }
            Ok(true)
        })
    }

    /// Starts the server as a standby, which answers queries and takes no writes until it is promoted
    /// (`pg_promote()`): what clients meet while a cluster fails over.
    ///
    /// # Errors
    /// The same as [`Self::start`]'s.
    pub fn start_as_standby(&self) -> Result<()> {
        fs::write(self.data.join("standby.signal"), "")?;
        self.start()
    }

    /// The id of the first process (the postmaster); none while the server is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// The file that the server logs to.
    #[must_use]
    pub fn log(&self) -> &Path {
        self.server.log()
    }

    /// The port, on 127.0.0.1 and, where there is IPv6, on ::1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket; none where its path is too long for one.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The password of its user.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Where the default database is. Holds the password.
    #[must_use]
    pub fn uri(&self) -> String {
        self.database_uri(DEFAULT_NAME)
    }

    /// Where a database is. Holds the password.
    #[must_use]
    pub fn database_uri(&self, database: &str) -> String {
        format!("postgresql://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Stops the server, ending open connections.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Kills all of the server's processes at once (SIGKILL).
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops (SIGSTOP) all of the server's processes: connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// Resumes them.
    pub fn resume(&self) {
        self.server.resume();
    }

    /// Makes an empty database and returns its URI.
    ///
    /// # Errors
    /// When there is one of this name; when the name is not of lower-case letters, digits and
    /// underscores; when the server does not answer.
    pub fn create_database(&self, name: &str) -> Result<String> {
        check_name(name)?;
        self.psql("postgres", &format!("create database {name}"))?;
        Ok(self.database_uri(name))
    }

    /// Removes a database, ending open connections to it; one that is not there is no error.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.psql("postgres", &format!("drop database if exists {name} with (force)"))?;
        Ok(())
    }

    /// Runs a statement in a database, and returns the rows without any decoration.
    ///
    /// # Errors
    /// When the server does not answer or refuses the statement, with what it said.
    pub fn psql(&self, database: &str, statement: &str) -> Result<String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8");
        psql.env("PGPASSWORD", &self.password).env("PGCONNECT_TIMEOUT", "5");
        psql.args(["-h", "127.0.0.1", "-U", USER, "-d", database, "-p", &self.port.to_string()]);
        psql.args(["-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]);
        output(&mut psql)
    }

    pub(super) fn ended(&self) -> Option<String> {
        self.server.ended()
    }

    pub(super) fn ask_to_stop(&self) {
        self.server.ask_to_stop();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a Unix socket in the folder has a path that is short enough, that of its lock included.
fn fits(folder: &Path, port: u16) -> bool {
    /// What the kernel takes.
    const LONGEST: usize = 107;
    folder.join(format!(".s.PGSQL.{port}.lock")).as_os_str().len() <= LONGEST
}

/// Only names that need no quotes, in SQL or in a URI.
fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    if !starts_well || name.len() > 63 || !name.bytes().all(plain) {
        bail!("`{name}` is no plain name for a database: lower-case letters, digits, underscores");
    }
    Ok(())
}

/// What a command prints; an error, with what it says, when it fails.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let arguments: Vec<_> = command.get_args().map(|each| each.display().to_string()).collect();
    let output = command.output().with_context(|| format!("{program} can't be run"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said =
            if said.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { said };
        bail!("`{program} {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_quotes_are_refused() {
        for name in ["sdb", "test_12", "_a"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "1a", "A", "a-b", "a b", "a;drop", "ä", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
