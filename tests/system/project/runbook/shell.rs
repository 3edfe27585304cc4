//! The commands of the pages for operators, and a shell that runs them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use tokio::task::spawn_blocking;

use harness::{Fixture, SECRET, System};

/// What commands begin with that an operator pastes into a shell. Others are for machines with systemd.
const PROGRAMS: [&str; 8] = [
    "worker ",
    "gateway ",
    "psql ",
    "pg_dump ",
    "pg_restore ",
    "curl ",
    "rabbitmqctl ",
    "openssl ",
];

/// What stands between two pages. A heading would not do: comments of the shell look like one.
const PAGE_BREAK: &str = "\u{c}";

/// The pages for operators, one after the other.
pub(super) fn text() -> Result<String> {
    let pages = ["docs/operations/alerts.md", "docs/operations/procedures.md"];
    let read = |page| fs::read_to_string(deploy::checkout().join(page)).context(page);
    let pages = pages.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    Ok(pages.join(PAGE_BREAK))
}

/// The commands of a section in their order: between backticks, and blocks for the shell.
pub(super) fn commands(title: &str) -> Result<Vec<String>> {
    let text = text()?;
    let heading = format!("\n## {title}\n");
    let (_, section) = text.split_once(&heading).with_context(|| format!("no section {title}"))?;
    // Up to the next section, or the next page.
    let section = section.split("\n## ").next().unwrap_or_default();
    let section = section.split(PAGE_BREAK).next().unwrap_or_default();
    let mut commands = Vec::new();
    let mut prose = String::new();
    let mut block: Option<(usize, bool, Vec<&str>)> = None;
    for line in section.lines() {
        match (&mut block, line.trim_start().strip_prefix("```")) {
            (None, Some(kind)) => {
                spans(&prose, &mut commands);
                prose.clear();
                block = Some((line.len() - line.trim_start().len(), kind == "sh", Vec::new()));
            }
            (Some((_, is_shell, lines)), Some(_)) => {
                if *is_shell {
                    commands.push(lines.join("\n"));
                }
                block = None;
            }
            // As the page shows it: without the indentation of its list.
            (Some((indent, _, lines)), None) => lines.push(line.get(*indent..).unwrap_or_default()),
            (None, None) => {
                prose.push_str(line.trim());
                prose.push(' ');
            }
        }
    }
    spans(&prose, &mut commands);
    Ok(commands)
}

fn spans(prose: &str, commands: &mut Vec<String>) {
    let spans = prose.split('`').skip(1).step_by(2);
    for command in spans.map(program).filter(|span| is_command(span)) {
        // Deployments have the same commands.
        if !commands.iter().any(|known| known == command) {
            commands.push(command.to_owned());
        }
    }
}

/// A command of one of our programs without that which runs it in a deployment.
fn program(span: &str) -> &str {
    let in_container = span.split_once(" /usr/local/bin/").map(|(_, command)| command);
    in_container.or_else(|| span.strip_prefix("sdb ")).unwrap_or(span)
}

fn is_command(span: &str) -> bool {
    // `worker topology change` alone names a command; one that needs arguments is written with them.
    PROGRAMS.iter().any(|program| span.starts_with(program))
}

/// What an operator has at hand: a folder, the addresses, and the programs on the PATH.
pub(super) struct Shell {
    pub(super) folder: PathBuf,
    variables: Vec<(String, String)>,
    fixture: Arc<Fixture>,
}

impl Shell {
    pub(super) fn new(system: &System, gateway: &str) -> Result<Self> {
        let fixture = system.context.clone();
        let folder = fixture.folder.join("operator");
        fs::create_dir_all(folder.join("bin"))?;
        fs::write(folder.join("catalogue.yaml"), "components:\n  - name: DNS\n  - name: New\n")?;
        let programs = fixture.binaries.worker.parent().context("no folder")?.display().to_string();
        let path = format!("{}:{programs}:/usr/bin:/bin", folder.join("bin").display());
        let variables = [
            ("PATH", path.as_str()),
            ("DB", &system.database_uri),
            ("GATEWAY", gateway),
            ("SDB_DATABASE_URI", &system.database_uri),
            ("SDB_AMQP_URI", &system.amqp_uri),
            ("SDB_SECRET_KEY", SECRET),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Ok(Self { folder, variables, fixture })
    }

    /// Another database.
    pub(super) fn at(&self, database: &str) -> Self {
        let mut variables = self.variables.clone();
        for (name, value) in &mut variables {
            if name == "DB" || name == "SDB_DATABASE_URI" {
                database.clone_into(value);
            }
        }
        Self { folder: self.folder.clone(), variables, fixture: self.fixture.clone() }
    }

    /// Runs a command, and returns what it prints.
    pub(super) async fn run(&self, command: &str) -> Result<String> {
        let (folder, variables) = (self.folder.clone(), self.variables.clone());
        let (fixture, command) = (self.fixture.clone(), command.to_owned());
        spawn_blocking(move || {
            let run = || {
                let mut shell = Command::new("sh");
                shell.args(["-euc", &command]).env_clear().envs(variables).current_dir(&folder);
                let output = shell.stdin(Stdio::null()).output()?;
                let said = String::from_utf8([output.stdout, output.stderr].concat())?;
                ensure!(output.status.success(), "`{command}` failed: {said}");
                // In a pipe of commands only the last one's status shows.
                ensure!(!said.contains("not found"), "`{command}`: {said}");
                Ok(said)
            };
            if !command.contains("rabbitmqctl") {
                return run();
            }
            fixture.rabbitmq().with_ctl_script(|script| {
                let path = folder.join("bin/rabbitmqctl");
                fs::write(&path, script)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                run()
            })
        })
        .await?
    }
}

/// The commands of a section, each of which must begin as is expected.
pub(super) fn expect(title: &str, beginnings: &[&str]) -> Result<Vec<String>> {
    let commands = commands(title)?;
    let fit = commands.len() == beginnings.len()
        && commands.iter().zip(beginnings).all(|(command, begins)| command.starts_with(begins));
    ensure!(fit, "{title} has {commands:#?}, but this test runs {beginnings:#?}");
    Ok(commands)
}
