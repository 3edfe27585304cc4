//! The configuration of a node, and its environment.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::Result;

use crate::servers::{DEFAULT_NAME, USER, folder::Folder, ports::has_ipv6};

/// The ports that RabbitMQ and its tools need.
#[derive(Clone, Copy)]
pub(in crate::servers) struct Ports {
    pub(in crate::servers) amqp: u16,
    /// Where its tools connect to.
    pub(in crate::servers) distribution: u16,
    /// Where its tools ask for the former.
    pub(in crate::servers) epmd: u16,
    /// Where the tools listen themselves.
    pub(in crate::servers) control: u16,
}

/// What distinguishes a node from others in the same folder.
pub(in crate::servers) struct NodeSetup<'a> {
    /// The name of its files and of its folder.
    pub(in crate::servers) files: &'a str,
    /// Its Erlang name, before the `@`.
    pub(in crate::servers) name: &'a str,
    /// The folder with the Erlang cookie, which the nodes of a cluster share.
    pub(in crate::servers) home: PathBuf,
    /// Erlang terms that set what `rabbitmq.conf` can't; none without them.
    pub(in crate::servers) advanced: Option<&'a str>,
    /// Further arguments of its Erlang VM.
    pub(in crate::servers) arguments: &'a str,
}

impl NodeSetup<'_> {
    /// Its whole Erlang name.
    pub(super) fn erlang_name(&self) -> String {
        format!("{}@localhost", self.name)
    }
}

/// The configuration file. The user and the virtual host are made at the first start only.
pub(super) fn config(password: &str, ports: &Ports) -> String {
    let mut config = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\n\
         default_user = {USER}\ndefault_pass = {password}\ndefault_vhost = {DEFAULT_NAME}\n\
         disk_free_limit.absolute = 256MB\nvm_memory_high_watermark.absolute = 1GiB\n\
         log.console = true\nlog.file = false\n",
        ports.amqp
    );
    if has_ipv6() {
        // Writing to a string can't fail.
        writeln!(config, "listeners.tcp.2 = ::1:{}", ports.amqp).ok();
    }
    config
}

/// The environment of the server and its tools. All that is not set here would be taken from the machine's own
/// RabbitMQ.
pub(super) fn environment(
    folder: &Folder,
    node: &NodeSetup<'_>,
    config: &str,
    ports: &Ports,
) -> Result<Vec<(&'static str, String)>> {
    let text = |path: PathBuf| path.display().to_string();
    let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
    // Erlang's threads would spin before they sleep, on cores that the whole system shares.
    let server_arguments =
        format!("{loopback} +sbwt none +sbwtdcpu none +sbwtdio none {}", node.arguments);
    let files = node.files;
    let advanced = match node.advanced {
        Some(terms) => folder.write_shared(&format!("{files}-advanced.config"), terms)?,
        None => folder.path().join("none.config"),
    };
    Ok(vec![
        ("HOME", text(node.home.clone())),
        ("ERL_EPMD_PORT", ports.epmd.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        // A crash dump takes seconds and hundreds of megabytes.
        ("ERL_CRASH_DUMP_SECONDS", "0".to_owned()),
        ("RABBITMQ_CONF_ENV_FILE", text(folder.write_shared(&format!("{files}-env.conf"), "")?)),
        ("RABBITMQ_CONFIG_FILE", text(folder.write_shared(&format!("{files}.conf"), config)?)),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", text(advanced)),
        (
            "RABBITMQ_ENABLED_PLUGINS_FILE",
            text(folder.write_shared(&format!("{files}-enabled-plugins"), "[].\n")?),
        ),
        ("RABBITMQ_MNESIA_BASE", text(folder.subfolder(&format!("{files}/mnesia"))?)),
        ("RABBITMQ_LOG_BASE", text(folder.subfolder(&format!("{files}/log"))?)),
        ("RABBITMQ_PID_FILE", text(folder.subfolder(files)?.join("pid"))),
        ("RABBITMQ_NODENAME", node.erlang_name()),
        ("RABBITMQ_DIST_PORT", ports.distribution.to_string()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", server_arguments),
        ("RABBITMQ_CTL_DIST_PORT_MIN", ports.control.to_string()),
        ("RABBITMQ_CTL_DIST_PORT_MAX", ports.control.to_string()),
        ("RABBITMQ_CTL_ERL_ARGS", loopback.to_owned()),
    ])
}
