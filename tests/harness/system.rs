//! Gateways and workers on a database and a virtual host of their own.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lapin::Connection;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use shared::{amqp::broker::Broker, domain::component::ComponentId, settings::Settings};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{
    runtime::Handle,
    task::{block_in_place, spawn_blocking},
};

use super::{
    Fixture, Process, answer, eventually, log_lines, pair,
    verdict::{self, Expected},
};

/// What the gateways' tokens are signed with.
pub const SECRET: &str = "a-secret-that-is-long-enough-for-tests";
/// The claim that a token must have.
pub const CLAIM: &str = "stackmon";

/// A token as the reporter of the Python dashboard makes it: no `typ`, no `exp`.
#[expect(clippy::expect_used, reason = "claims of a test can be signed")]
pub fn token(secret: &str, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.typ = None;
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&header, claims, &key).expect("claims can be signed")
}

/// Settings at `worker migrate` for more partitions than by default, so that workers share and exchange
/// several, of which they hold fewer messages.
pub const SEVERAL_PARTITIONS: &[(&str, &str)] = &[("SDB_PARTITIONS", "8"), ("SDB_PREFETCH", "256")];

/// A component: its name and its attributes, each a name with its value.
pub type Component<'a> = (&'a str, &'a [(&'a str, &'a str)]);

/// The time of a row that is written now, in SQL: the tables' times are UTC without a zone.
pub const NOW: &str = "(clock_timestamp() AT TIME ZONE 'UTC')";

/// The system under test.
pub struct System {
    /// What the test works with.
    pub context: Arc<Fixture>,
    /// Connections of the test's own.
    pub database: PgPool,
    /// Where the database is.
    pub database_uri: String,
    /// Where the virtual host is.
    pub amqp_uri: String,
    /// The name of the virtual host, and of the database.
    pub vhost: String,
    /// What requests are sent with.
    pub client: Client,
    /// A token that the gateways accept.
    pub token: String,
    /// The gateways, in the order of their start.
    pub gateways: Vec<Process>,
    /// The gateways' addresses, in the same order.
    pub addresses: Vec<String>,
    /// The workers, in the order of their start.
    pub workers: Vec<Process>,
    started: usize,
}

impl System {
    /// A prepared database and a virtual host, and no process yet. It has [`SEVERAL_PARTITIONS`].
    pub async fn prepared(context: &Arc<Fixture>) -> Result<Self> {
        Self::prepared_with(context, SEVERAL_PARTITIONS).await
    }

    /// The same with these settings at `worker migrate`, which records the shape of the queues, and the
    /// default number of partitions.
    pub async fn prepared_with(context: &Arc<Fixture>, settings: &[(&str, &str)]) -> Result<Self> {
        Self::prepared_by(context, &context.binaries.worker, settings).await
    }

    /// The same by this `worker`, which may be that of an earlier release.
    pub async fn prepared_by(
        context: &Arc<Fixture>,
        worker: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let system = Self::bare(context).await?;
        let mut variables = vec![("SDB_DATABASE_URI", system.database_uri.as_str())];
        variables.extend(settings);
        let (done, said) = context.command(worker, &["migrate"], &variables).await?;
        ensure!(done, "worker migrate: {said}");
        if context.has_journal {
            let mut connection = system.database.acquire().await?;
            verdict::install(&mut connection).await?;
        }
        Ok(system)
    }

    /// An empty database and a virtual host.
    pub async fn bare(context: &Arc<Fixture>) -> Result<Self> {
        let name = context.name.clone();
        let (servers, database_name) = (context.clone(), name.clone());
        let (database_uri, amqp_uri) = spawn_blocking(move || -> Result<_> {
            let database = servers.postgres().create_database(&database_name)?;
            Ok((database, servers.create_vhost(&database_name)?))
        })
        .await??;
        let database = pair::connect(&database_uri).await?;
        Ok(Self {
            context: context.clone(),
            database,
            database_uri,
            amqp_uri,
            vhost: name,
            client: Client::builder().no_gzip().no_proxy().build()?,
            token: token(SECRET, &json!({ CLAIM: "dummy" })),
            gateways: Vec::new(),
            addresses: Vec::new(),
            workers: Vec::new(),
            started: 0,
        })
    }

    /// One gateway and one worker.
    pub async fn start(context: &Arc<Fixture>) -> Result<Self> {
        let mut system = Self::prepared(context).await?;
        system.start_worker(&[]).await?;
        system.start_gateway(&[]).await?;
        Ok(system)
    }

    /// One gateway, one worker and these components.
    pub async fn start_with(context: &Arc<Fixture>, components: &[Component<'_>]) -> Result<Self> {
        let system = Self::start(context).await?;
        system.components(components).await?;
        Ok(system)
    }

    /// A process's variables: those of this system, and more that win over them.
    pub fn variables(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = [
            ("SDB_DATABASE_URI", self.database_uri.as_str()),
            ("SDB_AMQP_URI", &self.amqp_uri),
            ("SDB_SECRET_KEY", SECRET),
            ("SDB_BIND", "127.0.0.1:0"),
            ("SDB_LOG_FORMAT", "json"),
            ("SDB_LOG", "info,gateway=debug,worker=debug"),
        ];
        let mut variables: BTreeMap<&str, &str> = own.into_iter().collect();
        variables.extend(more.iter().copied());
        variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Runs a command of `worker` on this system's servers.
    pub async fn worker_command(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let variables = [
            ("SDB_DATABASE_URI", self.database_uri.as_str()),
            ("SDB_AMQP_URI", self.amqp_uri.as_str()),
        ];
        self.context.command(&self.context.binaries.worker, arguments, &variables).await
    }

    /// The same for a command that must succeed; returns what it printed.
    pub async fn worker_succeeds(&self, arguments: &[&str]) -> Result<String> {
        let (done, said) = self.worker_command(arguments).await?;
        ensure!(done, "worker {arguments:?}: {said}");
        Ok(said)
    }

    /// Starts a worker and waits until it consumes, or stands by for another one.
    pub async fn start_worker(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let process = self.launch("worker", variables)?;
        eventually("the worker consumes", async || Ok(process.log()?.contains("\"consuming\"")))
            .await?;
        self.workers.push(process);
        Ok(())
    }

    /// Starts a gateway and waits until it is ready.
    pub async fn start_gateway(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        self.start_gateway_unready(variables).await?;
        let last = self.gateways.len() - 1;
        eventually("the gateway is ready", async || {
            let answer = self.request_to(last, Method::GET, "/readyz").send().await?;
            Ok(answer.status() == 200 && answer.json::<Value>().await?["status"] == "ready")
        })
        .await
    }

    /// Starts a gateway and waits until it has its address.
    pub async fn start_gateway_unready(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let process = self.launch("gateway", variables)?;
        self.adopt_gateway(process).await
    }

    /// Takes a gateway in that was started otherwise, and waits until it has its address.
    pub async fn adopt_gateway(&mut self, process: Process) -> Result<()> {
        let mut address = None;
        eventually("the gateway has its address", async || {
            let lines = log_lines(&process.log()?);
            let line = lines.iter().find(|line| line["message"] == "serving");
            address = line.and_then(|line| line["address"].as_str().map(str::to_owned));
            Ok(address.is_some())
        })
        .await?;
        self.addresses.push(address.context("the gateway has no address")?);
        self.gateways.push(process);
        Ok(())
    }

    /// Starts a process and waits for nothing.
    pub fn launch(&mut self, program: &str, variables: &[(&str, &str)]) -> Result<Process> {
        self.started += 1;
        let binaries = &self.context.binaries;
        let path = if program == "gateway" { &binaries.gateway } else { &binaries.worker };
        let log = self.context.folder.join(format!("{}-{program}.log", self.started));
        Process::start(path, &["run"], &self.variables(variables), log)
    }

    /// Runs statements on the database, as a foreign writer does. Every batch that begins later must
    /// honour them.
    pub async fn sql(&self, statements: &str) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&self.database).await?;
        let mut connection = self.database.acquire().await?;
        if verdict::is_installed(&mut connection).await? {
            verdict::mark(&mut connection).await?;
        }
        Ok(())
    }

    /// One number from the database.
    pub async fn count(&self, query: &str) -> Result<i64> {
        Ok(sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&self.database).await?)
    }

    /// Texts from the database, one of each row.
    pub async fn texts(&self, query: &str) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&self.database).await?)
    }

    /// Adds components, each a name with its attributes, and waits until every gateway knows them.
    pub async fn components(&self, components: &[Component<'_>]) -> Result<()> {
        for (name, attributes) in components {
            let id: i32 =
                sqlx::query_scalar("INSERT INTO component (name) VALUES ($1) RETURNING id")
                    .bind(*name)
                    .fetch_one(&self.database)
                    .await?;
            for (name, value) in *attributes {
                sqlx::query(
                    "INSERT INTO component_attribute (component_id, name, value)
                    VALUES ($1, $2, $3)",
                )
                .bind(id)
                .bind(*name)
                .bind(*value)
                .execute(&self.database)
                .await?;
            }
        }
        self.catalogue_seen().await
    }

    /// Waits until every gateway has the catalogue as the database has it.
    pub async fn catalogue_seen(&self) -> Result<()> {
        let version = self.count("SELECT catalogue FROM sdb_version").await?;
        for gateway in 0..self.gateways.len() {
            eventually("the gateway knows the catalogue", async || {
                let ready = answer(self.request_to(gateway, Method::GET, "/readyz")).await?;
                Ok(ready.body["catalogue"]["version"] == version)
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every update is settled: no queue has a message, not even one that a worker
    /// holds.
    pub async fn drained(&self) -> Result<()> {
        eventually("the queues are empty", async || self.is_drained().await).await
    }

    /// Whether no queue has a message now.
    pub async fn is_drained(&self) -> Result<bool> {
        // The queues' own state: statistics are some seconds old. One that is being declared or deleted does not
        // answer yet.
        let query = format!(
            "lists:all(fun(Queue) -> case ra:leader_query(amqqueue:get_pid(Queue),
                fun rabbit_fifo:query_messages_total/1) of
                {{ok, {{_, 0}}, _}} -> true;
                _ -> false
            end end, [Queue || Queue <- rabbit_amqqueue:list(<<\"{}\">>),
                amqqueue:get_type(Queue) =:= rabbit_quorum_queue]).",
            self.vhost
        );
        let servers = self.context.clone();
        let answer = spawn_blocking(move || servers.rabbitmq().eval(&query)).await??;
        Ok(answer == "true")
    }

    /// Waits until one message is ready in the queue of a component.
    pub async fn is_queued(&self, component: ComponentId) -> Result<()> {
        let topology = self.topology().await?;
        let queue = topology.queue(component.partition(topology.partitions));
        eventually("the update is queued", async || Ok(self.waiting(&queue).await? == 1)).await
    }

    /// A connection to RabbitMQ of the test's own.
    pub async fn connect_to_rabbitmq(&self) -> Result<Connection> {
        let settings = Settings::new([("SDB_AMQP_URI".to_owned(), self.amqp_uri.clone())]);
        Ok(Broker::from_settings(&settings)?.connect("test").await?)
    }

    /// How many messages are ready in a queue.
    pub async fn waiting(&self, queue: &str) -> Result<u32> {
        let connection = self.connect_to_rabbitmq().await?;
        let channel = connection.create_channel().await?;
        let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        let arguments = lapin::types::FieldTable::default();
        let declared = channel.queue_declare(queue.into(), options, arguments).await?;
        connection.close(200, "done".into()).await?;
        Ok(declared.message_count())
    }

    /// The recorded shape of the queues.
    pub async fn topology(&self) -> Result<shared::amqp::topology::Topology> {
        let mut connection = self.database.acquire().await?;
        Ok(shared::amqp::topology::Recorded::read(&mut connection).await?.topology)
    }

    /// Ends the test: all is drained and nothing is parked; what was decided, the incidents and their
    /// timelines are what the model makes of the same updates, and of what the test wrote itself.
    pub async fn finish(self) -> Result<()> {
        self.drained().await?;
        let parked = self.count("SELECT count(*) FROM sdb_parked").await?;
        ensure!(parked == 0, "{parked} updates are parked");
        self.logs_are_clean()?;
        self.state_is_right().await
    }

    /// Ends a test that parked something on purpose: each with a reason that the model has, too.
    pub fn finish_with_parked(self) -> Result<()> {
        self.logs_are_clean()?;
        block_in_place(|| Handle::current().block_on(self.state_is_right()))
    }

    /// Ends a test after which the database does not tell all that happened, since the test changed
    /// the record itself, or what makes it: the logs are looked at, and that nothing is parked.
    pub async fn finish_without_replay(self) -> Result<()> {
        self.drained().await?;
        let parked = self.count("SELECT count(*) FROM sdb_parked").await?;
        ensure!(parked == 0, "{parked} updates are parked");
        self.logs_are_clean()
    }

    /// Ends a test that has no database any more, or parked something and changed the record: the logs
    /// are looked at.
    pub fn finish_with_logs(self) -> Result<()> {
        self.logs_are_clean()
    }

    /// The database is what follows from what was decided and from what others wrote. An update that
    /// was parked since RabbitMQ gave it up, or since the database refused it, is believed to be so. A
    /// database that the harness did not prepare has no journal, and is skipped.
    async fn state_is_right(&self) -> Result<()> {
        let mut connection = self.database.acquire().await?;
        if !verdict::is_installed(&mut connection).await? {
            return Ok(());
        }
        let mut run = verdict::read(&mut connection).await?;
        run.expected = Expected { unknown_may_be_given_up: true, ..Expected::default() };
        drop(connection);
        verdict::judge(&run).into_result()?;
        Ok(())
    }

    fn logs_are_clean(&self) -> Result<()> {
        for process in self.gateways.iter().chain(&self.workers) {
            let log = process.log()?;
            ensure!(!log.contains(SECRET), "the log shows the secret key");
            ensure!(!log.contains("panicked"), "a task panicked");
            let password = self.database_uri.split([':', '@']).nth(2).unwrap_or(SECRET);
            ensure!(!log.contains(password), "the log shows a password");
        }
        Ok(())
    }
}
