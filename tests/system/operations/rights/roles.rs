//! The roles of SECURITY.md, made by the statements that stand there.

use std::{
    fs,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{io::AsyncWriteExt, process::Command, time::sleep};

use harness::{Fixture, Process, System};

const PASSWORD: &str = "hush";

/// The blocks of a kind in the section about roles.
pub(super) fn blocks(kind: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(deploy::checkout().join("SECURITY.md"))?;
    let (_, section) = text.split_once("## Roles and privileges").context("no section")?;
    let (section, _) = section.split_once("\n## ").context("it is not the last section")?;
    let fence = format!("```{kind}\n");
    let blocks = section.split(&fence).skip(1).filter_map(|rest| rest.split_once("```"));
    Ok(blocks.map(|(block, _)| block.to_owned()).collect())
}

/// A system with the roles of the document. Roles are the server's, so each test has a prefix for its own.
pub(super) struct Roles {
    pub(super) system: System,
    prefix: &'static str,
    /// The statements of the document, for this test's roles.
    sql: String,
    started: AtomicUsize,
}

impl Roles {
    pub(super) async fn new(fixture: &Arc<Fixture>, prefix: &'static str) -> Result<Self> {
        let system = System::bare(fixture).await?;
        let [roles, rights] = &blocks("sql")?[..] else { bail!("not two blocks of SQL") };
        let own = |text: &str| text.replace(" status_", &format!(" {prefix}_"));
        system.sql(&own(roles)).await?;
        for line in roles.lines().filter_map(|line| line.strip_prefix("CREATE ROLE status_")) {
            let role = line.trim_end_matches(" LOGIN;");
            system.sql(&format!("ALTER ROLE {prefix}_{role} PASSWORD '{PASSWORD}'")).await?;
        }
        let roles = Self {
            system,
            prefix,
            sql: own(&format!("{roles}{rights}")),
            started: AtomicUsize::new(0),
        };
        roles.works(&["migrate"], "owner").await?;
        roles.system.sql(&own(rights)).await?;
        for line in blocks("sh")?.concat().lines() {
            let line = line.replace("VHOST", &roles.system.vhost).replace('\'', "");
            let words: Vec<&str> = line.split_whitespace().collect();
            let (servers, user) = (fixture.rabbitmq(), words.get(4).context("no user")?);
            let own = user.replace("status_", &format!("{prefix}_"));
            servers.ctl(&["add_user", &own, PASSWORD])?;
            servers
                .ctl(&[&["set_permissions", "-p", words[3], own.as_str()], &words[5..]].concat())?;
        }
        Ok(roles)
    }

    /// The addresses of both servers, for a role.
    fn addresses(&self, role: &str) -> Result<[(&'static str, String); 2]> {
        let of = |uri: &str| -> Result<String> {
            let (scheme, rest) = uri.split_once("://").context("no scheme")?;
            let (_, place) = rest.rsplit_once('@').context("no user")?;
            Ok(format!("{scheme}://{}_{role}:{PASSWORD}@{place}", self.prefix))
        };
        Ok([
            ("SDB_DATABASE_URI", of(&self.system.database_uri)?),
            ("SDB_AMQP_URI", of(&self.system.amqp_uri)?),
        ])
    }

    /// Runs a command of `worker` as a role, with something for it to read.
    pub(super) async fn run(&self, arguments: &[&str], role: &str, input: &str) -> Result<String> {
        let mut command = Command::new(&self.system.context.binaries.worker)
            .args(arguments)
            .env_clear()
            .envs(self.addresses(role)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = command.stdin.take().context("no input")?;
        // A command that reads nothing may have ended.
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
        let output = command.wait_with_output().await?;
        let said = String::from_utf8([output.stdout, output.stderr].concat())?;
        ensure!(output.status.success(), "worker {arguments:?} as {role}: {said}");
        Ok(said)
    }

    pub(super) async fn works(&self, arguments: &[&str], role: &str) -> Result<String> {
        self.run(arguments, role, "").await
    }

    /// Each right of a role, as what follows `GRANT` and `REVOKE`.
    fn rights(&self, role: &str) -> Vec<(String, String)> {
        let to = format!(" TO {}_{role}", self.prefix);
        let statements = self.sql.split(';').map(|each| {
            let lines = each.lines().filter(|line| !line.trim_start().starts_with("--"));
            lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
        });
        let mut rights = Vec::new();
        for statement in statements {
            let Some(granted) = statement.strip_prefix("GRANT ") else { continue };
            let Some(granted) = granted.strip_suffix(&to) else { continue };
            let Some((privileges, objects)) = granted.split_once(" ON ") else { continue };
            let (kind, objects) = match objects.split_once(' ') {
                Some((kind @ ("SEQUENCE" | "SCHEMA" | "FUNCTION"), objects)) => {
                    (format!("{kind} "), objects)
                }
                _ => (String::new(), objects),
            };
            for privilege in privileges.split(", ") {
                for object in objects.split(", ") {
                    rights.push((privilege.to_owned(), format!("{kind}{object}")));
                }
            }
        }
        rights
    }

    /// The scenario works with the rights of the role, and without any one of those on such objects something is
    /// denied.
    pub(super) async fn each_is_needed(
        &self,
        role: &str,
        of: impl Fn(&str) -> bool,
        scenario: impl AsyncFn() -> Result<()>,
    ) -> Result<()> {
        scenario().await.context("with all rights")?;
        let mut rights = self.rights(role);
        rights.retain(|(_, object)| of(object));
        ensure!(rights.len() > 3, "{role} has only {rights:?}");
        let name = format!("{}_{role}", self.prefix);
        let mut unneeded = Vec::new();
        for (privilege, object) in rights {
            self.system.sql(&format!("REVOKE {privilege} ON {object} FROM {name}")).await?;
            match scenario().await {
                Ok(()) => unneeded.push(format!("{privilege} ON {object}")),
                Err(error) => {
                    let said = format!("{error:#}");
                    ensure!(said.contains("permission denied"), "{privilege} ON {object}: {said}");
                }
            }
            self.system.sql(&format!("GRANT {privilege} ON {object} TO {name}")).await?;
        }
        ensure!(unneeded.is_empty(), "{role} does not need {unneeded:#?}");
        scenario().await.context("with all rights again")
    }

    /// Starts a process as a role.
    pub(super) fn start(&self, program: &str, role: &str) -> Result<Process> {
        let addresses = self.addresses(role)?;
        let variables: Vec<(&str, &str)> =
            addresses.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let binaries = &self.system.context.binaries;
        let path = if program == "gateway" { &binaries.gateway } else { &binaries.worker };
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.system.context.folder.join(format!("{number}-{program}-{role}.log"));
        Process::start(path, &["run"], &self.system.variables(&variables), log)
    }
}

/// Waits until a process has logged a line; one that says that a right is missing ends it.
pub(super) async fn logs(process: &Process, line: &str) -> Result<String> {
    for _ in 0..600 {
        let log = process.log()?;
        denied(&log)?;
        if let Some(found) = log.lines().find(|each| each.contains(line)) {
            return Ok(found.to_owned());
        }
        sleep(Duration::from_millis(50)).await;
    }
    bail!("there is no {line:?} in the log:\n{}", process.log()?)
}

pub(super) fn denied(log: &str) -> Result<()> {
    for says in ["permission denied", "must be owner", "ACCESS_REFUSED"] {
        if let Some(line) = log.lines().find(|line| line.contains(says)) {
            bail!("permission denied: {line}");
        }
    }
    Ok(())
}
