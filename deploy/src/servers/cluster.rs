//! Three RabbitMQ nodes of one cluster, for tests.

use std::{path::Path, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{
    DEFAULT_NAME, USER, ports,
    rabbitmq::{Epmd, NodeSetup, Ports, RabbitMq},
};
use crate::{
    packages::{self, Consent, Packages},
    process,
    servers::folder::Folder,
};

/// The files and the Erlang names of the nodes.
const NODES: [[&str; 2]; 3] = [["rabbitmq-1", "sd1"], ["rabbitmq-2", "sd2"], ["rabbitmq-3", "sd3"]];

/// A stalled node is given up after 10 s instead of 60, and the loss of a queue's leader is noticed after 1 s
/// instead of 5: what the documents recommend.
const ADVANCED: &str = "[{kernel, [{net_ticktime, 10}]}, {aten, [{poll_interval, 1000}]}].\n";
const TICK_TIME: u32 = 10;
/// One scheduler each: three nodes share the cores with all else.
const ARGUMENTS: &str = "+S 1:1";

/// Attempts to heal a node, which may be refused while another node is noticed to be back.
const HEAL_ATTEMPTS: u32 = 20;
const HEAL_PAUSE: Duration = Duration::from_secs(1);

/// A cluster of three RabbitMQ nodes. They stop when this is dropped, and also when this process is killed.
pub struct Cluster {
    nodes: [RabbitMq; NODES.len()],
    epmd: Arc<Epmd>,
    password: String,
    // Last, so that the folder's lock is given back after the nodes have stopped.
    _folder: Folder,
}

impl Cluster {
    /// Starts three nodes in a folder, which is made if it is missing, and joins them. Takes 12 to 15 s on
    /// an idle machine.
    ///
    /// # Errors
    /// As those of [`super::Servers::start`].
    pub fn start(dir: &Path) -> Result<Self> {
        let packages = packages::ensure(&[], &Consent::of_tests()?)?;
        let folder = Folder::open(dir)?;
        let password = folder.shared_secret("password")?;
        let [epmd_port, ports @ ..] = ports::free::<10>()?;
        let epmd = Arc::new(Epmd::new(&packages, &folder, "epmd", epmd_port));
        make_cookie(&folder)?;
        let [a, b, c, d, e, f, g, h, i] = ports;
        let node = |name, [amqp, distribution, control]: [u16; 3]| {
            let ports = Ports { amqp, distribution, epmd: epmd_port, control };
            node(&packages, &folder, &password, ports, name, &epmd)
        };
        let [first, second, third] = NODES;
        let nodes = [node(first, [a, b, c])?, node(second, [d, e, f])?, node(third, [g, h, i])?];
        let cluster = Self { nodes, epmd, password, _folder: folder };
        for node in &cluster.nodes {
            node.launch()?;
        }
        for node in &cluster.nodes {
            node.await_answer()?;
        }
        for node in cluster.nodes.iter().skip(1) {
            node.ctl(&["stop_app"])?;
            node.ctl(&["join_cluster", &erlang_name(0)?])?;
            node.ctl(&["start_app"])?;
        }
        cluster.node(0)?.create_vhost(DEFAULT_NAME)?;
        Ok(cluster)
    }

    /// The first node.
    #[must_use]
    pub fn first(&self) -> &RabbitMq {
        let [first, ..] = &self.nodes;
        first
    }

    /// One of the nodes, counted from 0.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, index: usize) -> Result<&RabbitMq> {
        self.nodes.get(index).with_context(|| format!("there is no node {index}"))
    }

    /// The address of a virtual host at these nodes, in this order. Holds the password.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn vhost_uri(&self, vhost: &str, nodes: &[usize]) -> Result<String> {
        let hosts: Vec<String> = nodes
            .iter()
            .map(|node| Ok(format!("127.0.0.1:{}", self.node(*node)?.port())))
            .collect::<Result<_>>()?;
        let (password, hosts) = (&self.password, hosts.join(","));
        Ok(format!("amqp://{USER}:{password}@{hosts}/{vhost}"))
    }

    /// The node that leads a queue, as the node `asked` knows it; none while it knows no leader. Does not
    /// wait for other nodes.
    ///
    /// # Errors
    /// When the asked node does not answer.
    pub fn leader(&self, asked: usize, vhost: &str, queue: &str) -> Result<Option<usize>> {
        let query = format!("ra_leaderboard:lookup_leader('{vhost}_{queue}').");
        let answer = self.node(asked)?.eval(&query)?;
        Ok(NODES.iter().position(|[_, name]| answer.contains(&format!("{name}@"))))
    }

    /// Gives a queue another leader.
    ///
    /// # Errors
    /// When the node can't take over.
    pub fn lead(&self, vhost: &str, queue: &str, leader: usize) -> Result<()> {
        let name = erlang_name(leader)?;
        let transfer = format!(
            "{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{vhost}\">>, queue, \
             <<\"{queue}\">>)), rabbit_quorum_queue:transfer_leadership(Queue, '{name}')."
        );
        let answer = self.node(leader)?.eval(&transfer)?;
        let done = answer.contains("migrated") || answer.contains("already_leader");
        ensure!(done, "the leader stays: {answer}");
        Ok(())
    }

    /// Has a queue whose declaration was broken off led, as operators do: a node that starts also starts its members
    /// of such queues, but they wait for someone to call an election.
    ///
    /// # Errors
    /// When a node does not come back.
    pub fn complete_declaration(&self, vhost: &str, queue: &str) -> Result<()> {
        for index in 0..self.nodes.len() {
            let node = self.node(index)?;
            node.ctl(&["stop_app"])?;
            node.ctl(&["start_app"])?;
            self.make_whole(index)?;
        }
        let elect = format!("ra:trigger_election({{'{vhost}_{queue}', node()}}).");
        self.first().ctl(&["eval", &elect])?;
        Ok(())
    }

    /// Has the nodes give a stalled one up after this time only, in seconds, until they are healed.
    ///
    /// # Errors
    /// When a node does not answer.
    pub fn give_up_after(&self, seconds: u32) -> Result<()> {
        for node in &self.nodes {
            node.eval(&format!("{}.", set_tick_time(seconds)))?;
        }
        Ok(())
    }

    /// Cuts a node off from the others, as a network that breaks does: none of them accepts connections of the
    /// other side. Clients are not affected.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn cut_off(&self, index: usize) -> Result<()> {
        // Both before the connections are cut, so that none comes back in between.
        let others = others(index)?;
        let refuse: Vec<String> =
            others.iter().map(|name| format!("erlang:set_cookie('{name}', apart)")).collect();
        let cut: Vec<String> =
            others.iter().map(|name| format!("erlang:disconnect_node('{name}')")).collect();
        let answer =
            self.node(index)?.eval(&format!("{}, [{}].", refuse.join(", "), cut.join(", ")))?;
        ensure!(answer == "[true, true]", "it is not cut off: {answer}");
        Ok(())
    }

    /// Brings a node back: resumes it, connects it, starts it, or restarts its application, until it sees all of the
    /// cluster and is not partitioned from it. A supervisor outside of RabbitMQ has to do the same.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn heal(&self, index: usize) -> Result<()> {
        self.reach(index)?;
        self.make_whole(index)
    }

    /// Resumes or starts a node, and has it accept the others.
    fn reach(&self, index: usize) -> Result<()> {
        let node = self.node(index)?;
        if node.pid().is_none() {
            node.launch()?;
        }
        node.resume();
        node.await_answer()?;
        let accept: Vec<String> = others(index)?
            .iter()
            .map(|name| format!("erlang:set_cookie('{name}', erlang:get_cookie())"))
            .collect();
        node.eval(&format!("{}, {}.", accept.join(", "), set_tick_time(TICK_TIME)))?;
        Ok(())
    }

    /// Restarts a node's application until it sees all of the cluster and is not partitioned from it.
    fn make_whole(&self, index: usize) -> Result<()> {
        let node = self.node(index)?;
        let mut answer = String::new();
        for _ in 0..HEAL_ATTEMPTS {
            answer = node.eval(
                "{length(rabbit_mnesia:cluster_nodes(running)), rabbit_node_monitor:partitions()}.",
            )?;
            if answer == format!("{{{}, []}}", NODES.len()) {
                return Ok(());
            }
            if !answer.ends_with(", []}") {
                node.ctl(&["stop_app"])?;
                node.ctl(&["start_app"])?;
            }
            thread::sleep(HEAL_PAUSE);
        }
        bail!("{} is not whole again: {answer}", erlang_name(index)?)
    }

    /// Brings all nodes back.
    ///
    /// # Errors
    /// When one does not come back.
    pub fn heal_all(&self) -> Result<()> {
        for node in &self.nodes {
            if node.pid().is_none() {
                node.launch()?;
            }
            node.resume();
        }
        let mut all = 0..self.nodes.len();
        // First all of them: none is whole while another one refuses it.
        all.clone().try_for_each(|node| self.reach(node))?;
        all.try_for_each(|node| self.make_whole(node))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.ask_to_stop();
        }
        for node in &self.nodes {
            node.stop();
        }
        self.epmd.stop();
    }
}

fn set_tick_time(seconds: u32) -> String {
    format!("net_kernel:set_net_ticktime({seconds}, 0)")
}

fn others(index: usize) -> Result<Vec<String>> {
    (0..NODES.len()).filter(|other| *other != index).map(erlang_name).collect()
}

fn erlang_name(index: usize) -> Result<String> {
    let [_, name] = NODES.get(index).with_context(|| format!("there is no node {index}"))?;
    Ok(format!("{name}@localhost"))
}

fn node(
    packages: &Packages,
    folder: &Folder,
    password: &str,
    ports: Ports,
    [files, name]: [&str; 2],
    epmd: &Arc<Epmd>,
) -> Result<RabbitMq> {
    let home = folder.subfolder(HOME)?;
    let setup = NodeSetup { files, name, home, advanced: Some(ADVANCED), arguments: ARGUMENTS };
    RabbitMq::node(packages, folder, password.to_owned(), ports, setup, epmd.clone())
}

/// The folder with the cookie.
const HOME: &str = "home";

/// Makes the secret by which the nodes trust each other. It must belong to the nodes' user, and nobody else
/// may read it.
fn make_cookie(folder: &Folder) -> Result<()> {
    let home = folder.subfolder(HOME)?;
    let make = "test -e .erlang.cookie || \
        (umask 377 && od -An -tx1 -N16 /dev/urandom | tr -d ' \\n' > .erlang.cookie)";
    let mut command = folder.account().command("sh");
    let made = command.args(["-c", make]).current_dir(home).status()?;
    ensure!(made.success(), "no cookie can be made: {}", process::describe(made));
    Ok(())
}
