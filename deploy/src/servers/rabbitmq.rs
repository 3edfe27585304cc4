//! A private RabbitMQ node.

mod configuration;
mod epmd;
mod erlang;
mod evaluation;

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::{Read, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

pub(super) use self::{
    configuration::{NodeSetup, Ports},
    epmd::Epmd,
};
use self::{
    configuration::{config, environment},
    erlang::{binaries, binary, percent_encode},
    evaluation::evaluate,
};
use super::{
    DEFAULT_NAME, USER,
    folder::{Account, Folder},
    postgres::output,
    server::Server,
};
use crate::packages::Packages;

/// Opens an AMQP 0-9-1 connection; a broker that is ready answers, RabbitMQ with its properties.
const AMQP_HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";

/// A private RabbitMQ server.
pub struct RabbitMq {
    programs: PathBuf,
    erl_call: PathBuf,
    account: Account,
    home: PathBuf,
    erlang_name: String,
    environment: Vec<(&'static str, String)>,
    password: String,
    ports: Ports,
    epmd: Arc<Epmd>,
    server: Server,
    /// `rabbitmqctl` is an Erlang node of its own, on one port and with one name: one at a time.
    control: Mutex<()>,
}

impl RabbitMq {
    /// A node of its own, which is not started yet.
    pub(super) fn new(
        packages: &Packages,
        folder: &Folder,
        password: String,
        ports: Ports,
    ) -> Result<Self> {
        let home = folder.subfolder("rabbitmq")?;
        let node = NodeSetup { files: "rabbitmq", name: "sd", home, advanced: None, arguments: "" };
        let epmd = Arc::new(Epmd::new(packages, folder, "epmd", ports.epmd));
        Self::node(packages, folder, password, ports, node, epmd)
    }

    /// A node that may share its epmd with others. Writes the configuration.
    pub(super) fn node(
        packages: &Packages,
        folder: &Folder,
        password: String,
        ports: Ports,
        node: NodeSetup<'_>,
        epmd: Arc<Epmd>,
    ) -> Result<Self> {
        let environment = environment(folder, &node, &config(&password, &ports), &ports)?;
        Ok(Self {
            programs: packages.rabbitmq.clone(),
            erl_call: packages.erl_call.clone(),
            erlang_name: node.erlang_name(),
            account: folder.account(),
            environment,
            password,
            ports,
            epmd,
            // INT is ignored.
            server: Server::new("RabbitMQ", folder.log(node.files), Signal::SIGTERM),
            home: node.home,
            control: Mutex::new(()),
        })
    }

    /// Starts the server, on the same port each time, and waits until it answers.
    ///
    /// # Errors
    /// When it is running already or does not come up, with the end of its log.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.await_ready()
    }

    /// Starts the server and does not wait.
    pub(super) fn launch(&self) -> Result<()> {
        self.epmd.ensure()?;
        let program = self.programs.join("rabbitmq-server");
        let server = self.account.server(program, self.server.stop_signal());
        self.server.launch(self.prepared(server))
    }

    /// Waits until the server answers and its default virtual host is there.
    pub(super) fn await_ready(&self) -> Result<()> {
        self.await_answer()?;
        self.create_vhosts(&[DEFAULT_NAME])?;
        Ok(())
    }

    /// Waits until the server answers.
    pub(super) fn await_answer(&self) -> Result<()> {
        self.server.await_ready(|| Ok(self.speaks_amqp()))
    }

    /// Whether it answers as an AMQP broker; a port that is open only may be another's.
    fn speaks_amqp(&self) -> bool {
        let probe = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.amqp))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(AMQP_HEADER)?;
            // A method frame; `AMQP` would be a refusal of this version.
            let mut kind = [0];
            stream.read_exact(&mut kind)?;
            if kind == [1] { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
        };
        probe().is_ok()
    }

    /// The id of the first process, a shell that holds the Erlang VM; none while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// The port for AMQP, on 127.0.0.1 and, where there is IPv6, on ::1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// Where the default virtual host is. Holds the password.
    #[must_use]
    pub fn uri(&self) -> String {
        self.vhost_uri(DEFAULT_NAME)
    }

    /// Where a virtual host is. Holds the password.
    #[must_use]
    pub fn vhost_uri(&self, vhost: &str) -> String {
        let (port, vhost) = (self.ports.amqp, percent_encode(vhost));
        format!("amqp://{USER}:{}@127.0.0.1:{port}/{vhost}", self.password)
    }

    /// Stops the server.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Kills all of the server's processes, the Erlang VM too, at once (SIGKILL).
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

    /// Makes a virtual host and returns its URI; one that is there is no error.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn create_vhost(&self, name: &str) -> Result<String> {
        self.create_vhosts(&[name])?;
        Ok(self.vhost_uri(name))
    }

    /// Makes virtual hosts in one call, which is much faster than one after the other, and returns
    /// their URIs.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn create_vhosts(&self, names: &[&str]) -> Result<Vec<String>> {
        let user = binary(USER);
        self.eval_to_ok(&format!(
            "lists:foreach(fun(V) -> \
               case rabbit_vhost:exists(V) of true -> ok; false -> rabbit_vhost:add(V, {user}) end, \
               rabbit_auth_backend_internal:set_permissions\
                 ({user}, V, <<\".*\">>, <<\".*\">>, <<\".*\">>, {user}), \
               rabbit_vhost:await_running_on_all_nodes(V, 30000) \
             end, {}).",
            binaries(names)
        ))?;
        Ok(names.iter().map(|name| self.vhost_uri(name)).collect())
    }

    /// Removes a virtual host, closing its connections; one that is not there is no error.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn delete_vhost(&self, name: &str) -> Result<()> {
        self.delete_vhosts(&[name])
    }

    /// Removes virtual hosts in one call.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn delete_vhosts(&self, names: &[&str]) -> Result<()> {
        self.eval_to_ok(&format!(
            "lists:foreach(fun(V) -> \
               case rabbit_vhost:exists(V) of true -> rabbit_vhost:delete(V, {}); false -> ok end \
             end, {}).",
            binary(USER),
            binaries(names)
        ))
    }

    /// Has the server evaluate Erlang expressions, with a full stop at their end, and returns the value of the
    /// last one as `erl_call` prints it, with a space after each comma. It takes a hundredth of the time that
    /// `rabbitmqctl eval` takes, which starts an Erlang VM.
    ///
    /// # Errors
    /// When the server does not answer, or the expressions fail, with what it said.
    pub fn eval(&self, expressions: &str) -> Result<String> {
        let erl_call = self.prepared(self.account.command(&self.erl_call));
        evaluate(erl_call, &self.erlang_name, expressions)
    }

    /// Takes a queue's member from this node, which still counts it: so it is where the node that declared the queue died
    /// before it had started the members. What the member had is lost.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn lose_member(&self, vhost: &str, queue: &str) -> Result<()> {
        self.eval_to_ok(&format!(
            "ra:force_delete_server(quorum_queues, {{'{vhost}_{queue}', node()}})."
        ))
    }

    /// The same as `eval` for what is to return `ok`.
    ///
    /// # Errors
    /// When it does not, or fails.
    pub fn eval_to_ok(&self, expressions: &str) -> Result<()> {
        let value = self.eval(expressions)?;
        if value != "ok" {
            bail!("RabbitMQ answered `{value}` to `{expressions}`");
        }
        Ok(())
    }

    /// Runs `rabbitmqctl`, half a second a call, and returns what it prints.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let _one_at_a_time = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = self.account.command(self.programs.join("rabbitmqctl"));
        command.arg("-q").args(arguments);
        output(&mut self.prepared(command)).context("RabbitMQ's tool failed")
    }

    /// Calls back with a shell script that runs `rabbitmqctl` on this server with the script's arguments, as
    /// an operator does. No other tool runs meanwhile.
    pub fn with_ctl_script<T>(&self, run: impl FnOnce(&str) -> T) -> T {
        let _one_at_a_time = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let command = self.prepared(self.account.command(self.programs.join("rabbitmqctl")));
        let quoted = |text: &OsStr| format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"));
        let mut script = format!("#!/bin/sh\ncd {}\n", quoted(self.home.as_os_str()));
        for (name, value) in command.get_envs() {
            let name = name.to_string_lossy();
            // Writing to a string can't fail.
            match value {
                Some(value) => writeln!(script, "export {name}={}", quoted(value)).ok(),
                None => writeln!(script, "unset {name}").ok(),
            };
        }
        let words: Vec<String> =
            [command.get_program()].into_iter().chain(command.get_args()).map(quoted).collect();
        writeln!(script, "exec {} \"$@\"", words.join(" ")).ok();
        run(&script)
    }

    fn prepared(&self, mut command: Command) -> Command {
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        command.envs(environment).current_dir(&self.home);
        command
    }

    pub(super) fn ended(&self) -> Option<String> {
        self.server.ended()
    }

    pub(super) fn ask_to_stop(&self) {
        self.server.ask_to_stop();
    }

    /// Stops the server and, after it, what it is found by.
    pub(super) fn shut_down(&self) {
        self.server.stop();
        self.epmd.stop();
    }
}
