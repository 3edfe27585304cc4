//! Servers, processes and clients for tests of the whole system, with the verbs of the domain.

pub mod burst;
mod clock;
mod cluster;
pub mod http;
mod locks;
mod pair;
pub mod pipeline;
mod process;
pub mod proxy;
mod publish;
pub mod reference;
pub mod replay;
mod requests;
pub mod simulation;
mod system;
pub mod verdict;

use std::{
    fs,
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use deploy::{
    binaries::{self, Binaries},
    packages::{self, Consent, Tool},
    servers::{Cluster, Postgres, PostgresAlone, RabbitMq, Servers},
};
use libtest_mimic::Failed;
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep, timeout},
};

pub use self::{
    clock::Clock,
    cluster::SharedCluster,
    pair::{Pair, Replication, connect},
    process::{ADMIN, Process, free_ports, log_lines},
    publish::publish,
    requests::{
        Answer, COMPONENT_STATUS, INCIDENTS, answer, same, status_update, unless_unanswered,
    },
    system::{CLAIM, Component, NOW, SECRET, SEVERAL_PARTITIONS, System, token},
};

/// The longest that a test may take: only one that hangs is ended by it, however slow the machine is.
const TEST_LIMIT: Duration = Duration::from_secs(600);
/// The longest that anything that is waited for may take.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// The same for a command, which may itself wait for servers.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// What a test does with its fixture.
pub type Run = fn(Arc<Fixture>) -> Pin<Box<dyn Future<Output = Result<()>>>>;

/// A test and its name.
pub struct Test {
    /// Its module's path and its function's name.
    pub name: &'static str,
    /// Its function.
    pub run: Run,
}

/// Lists a module's tests.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::Test> {
            vec![$($crate::Test {
                name: concat!(module_path!(), "::", stringify!($name)),
                run: |context| Box::pin($name(context)),
            }),*]
        }
    };
}

/// Lists the tests of modules.
#[macro_export]
macro_rules! tests_of {
    ($($($module:ident)::+),* $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::Test> {
            [$($($module)::+::tests()),*].into_iter().flatten().collect()
        }
    };
}

/// What all tests share.
pub struct Harness {
    runtime: Runtime,
    servers: Arc<Servers>,
    cluster: Arc<SharedCluster>,
    binaries: Arc<Binaries>,
    folder: PathBuf,
}

/// The beginning of the names of the tests that share a cluster of RabbitMQ nodes. They break it, so they
/// run one after the other.
const ON_THE_CLUSTER: &str = "system::cluster::";

/// What one test works with.
pub struct Fixture {
    /// The servers that all tests share, or those of the test's own.
    pub servers: Arc<Servers>,
    /// A PostgreSQL of the test's own, to be used instead.
    pub own_postgres: Option<PostgresAlone>,
    /// A cluster of RabbitMQ nodes, to be used instead.
    pub cluster: Option<Arc<Cluster>>,
    /// From which that is taken.
    pub shared_cluster: Arc<SharedCluster>,
    /// The programs under test.
    pub binaries: Arc<Binaries>,
    /// The test's name, fit for a database.
    pub name: String,
    /// A folder of the test's own.
    pub folder: PathBuf,
    /// Whether prepared databases have a journal ([`verdict`]), from which it can be determined at the
    /// end that all is as it must be.
    pub has_journal: bool,
}

impl Harness {
    /// Starts the servers and builds the programs.
    pub fn start() -> Result<Self> {
        let folder =
            PathBuf::from(format!("/var/tmp/status-dashboard-test-{}", std::process::id()));
        // One question for all, before anything has started.
        packages::ensure(&Tool::ALL, &Consent::of_tests()?)?;
        fs::create_dir(&folder)?;
        let servers = Arc::new(Servers::start(&folder.join("servers"))?);
        let cluster = SharedCluster::new(folder.join("cluster"));
        let binaries = Arc::new(binaries::build()?);
        let runtime = Runtime::new()?;
        Ok(Self { runtime, servers, cluster, binaries, folder })
    }

    /// Runs one test; when it fails, its processes' logs are shown.
    pub fn run(&self, test: &Test) -> Result<(), Failed> {
        // Waiting for the turn does not count.
        let _turn = test.name.starts_with(ON_THE_CLUSTER).then(|| self.cluster.turn());
        let name = test.name.trim_start_matches("system::").replace("::", "_");
        let folder = self.folder.join("logs").join(&name);
        fs::create_dir_all(&folder)?;
        let short_name = short(&name);
        let context = Arc::new(Fixture {
            servers: self.servers.clone(),
            own_postgres: None,
            cluster: None,
            shared_cluster: self.cluster.clone(),
            binaries: self.binaries.clone(),
            name: short_name.clone(),
            folder: folder.clone(),
            has_journal: true,
        });
        let run =
            || self.runtime.block_on(async { timeout(TEST_LIMIT, (test.run)(context)).await });
        let problem = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(Ok(()))) => match self.clear(&short_name) {
                Ok(()) => return Ok(()),
                Err(error) => format!("what it made can't be removed: {error:#}"),
            },
            Ok(Ok(Err(error))) => format!("{error:#}"),
            Ok(Err(_)) => format!("took longer than {} s", TEST_LIMIT.as_secs()),
            Err(_) => "panicked".to_owned(),
        };
        Err(format!("{problem}\n{}", tails(&folder)).into())
    }

    /// Removes a test's virtual host and database. The queues of all tests together would take more memory than the
    /// server may have.
    fn clear(&self, name: &str) -> Result<()> {
        self.servers.rabbitmq().delete_vhost(name)?;
        self.servers.postgres().drop_database(name)
    }
}

/// PostgreSQL's names have at most 63 bytes, of which a test needs some for more databases and roles.
const NAME_LIMIT: usize = 60;

/// A test's name, cut to fit for a database and still its own.
fn short(name: &str) -> String {
    if name.len() <= NAME_LIMIT {
        return name.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let beginning: String = name.chars().take(NAME_LIMIT - 9).collect();
    format!("{beginning}_{:08x}", hasher.finish() & 0xffff_ffff)
}

impl Harness {
    /// Stops the servers and takes their folder away.
    pub fn stop(self) -> Result<()> {
        self.cluster.stop();
        drop(self.servers);
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

/// The ends of the logs in a folder.
fn tails(folder: &Path) -> String {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "log"));
    files.sort();
    files
        .iter()
        .map(|file| {
            let log = fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n");
            format!("--- the end of {}\n{tail}\n", file.display())
        })
        .collect()
}

/// Waits until `condition` holds, for what another process brings about.
pub async fn eventually(what: &str, condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    eventually_within(WAIT_LIMIT, what, condition).await
}

/// The same for what may take longer by its nature.
pub async fn eventually_within(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    loop {
        if condition().await? {
            return Ok(());
        }
        anyhow::ensure!(begin.elapsed() < limit, "waited in vain until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

impl Fixture {
    /// The same with servers of the test's own, which it may stop, stall and fill while other tests
    /// use the shared ones.
    pub fn with_own_servers(&self) -> Result<Arc<Self>> {
        let servers = Servers::start(&self.folder.join("servers"))?;
        Ok(self.with(Arc::new(servers), None, None))
    }

    /// The same with a PostgreSQL of the test's own, which is there much sooner than both servers.
    pub fn with_own_postgres(&self) -> Result<Arc<Self>> {
        let postgres = PostgresAlone::start(&self.folder.join("postgresql"))?;
        Ok(self.with(self.servers.clone(), Some(postgres), self.cluster.clone()))
    }

    /// The same with a standby of it, which has this name.
    fn with_own_standby(&self, name: &str) -> Result<(Arc<Self>, Postgres)> {
        let postgres = PostgresAlone::start(&self.folder.join("postgresql"))?;
        let standby = postgres.start_standby(name)?;
        let fixture = self.with(self.servers.clone(), Some(postgres), self.cluster.clone());
        Ok((fixture, standby))
    }

    /// The same with the cluster of RabbitMQ nodes, for the tests that may break it.
    pub fn with_cluster(&self) -> Result<Arc<Self>> {
        Ok(self.with(self.servers.clone(), None, Some(self.shared_cluster.get()?)))
    }

    fn with(
        &self,
        servers: Arc<Servers>,
        own_postgres: Option<PostgresAlone>,
        cluster: Option<Arc<Cluster>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            servers,
            own_postgres,
            cluster,
            shared_cluster: self.shared_cluster.clone(),
            binaries: self.binaries.clone(),
            name: self.name.clone(),
            folder: self.folder.clone(),
            has_journal: self.has_journal,
        })
    }

    /// The PostgreSQL that the test works with.
    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        self.own_postgres.as_ref().map_or(self.servers.postgres(), PostgresAlone::postgres)
    }

    /// The RabbitMQ that the test works with: of a cluster, its first node.
    #[must_use]
    pub fn rabbitmq(&self) -> &RabbitMq {
        self.cluster.as_ref().map_or(self.servers.rabbitmq(), |cluster| cluster.first())
    }

    /// Makes a virtual host and returns its URI, with all nodes of a cluster.
    pub fn create_vhost(&self, name: &str) -> Result<String> {
        let uri = self.rabbitmq().create_vhost(name)?;
        self.cluster.as_ref().map_or(Ok(uri), |cluster| cluster.vhost_uri(name, &[0, 1, 2]))
    }

    /// Runs `worker` or `gateway` to its end, as an operator does; returns whether it succeeded and
    /// what it printed, errors included.
    pub async fn command(
        &self,
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(bool, String)> {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env_clear().kill_on_drop(true);
        command.envs(variables.iter().copied());
        let output =
            timeout(COMMAND_LIMIT, command.output()).await.context("the command hangs")??;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    }
}
