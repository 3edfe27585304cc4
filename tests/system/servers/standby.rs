//! What a standby of PostgreSQL records is late: it is no source for the shape of the queues.

use std::sync::Arc;

use anyhow::{Result, ensure};
use lapin::{
    Connection, ConnectionProperties,
    options::{ExchangeDeleteOptions, QueueDeleteOptions},
};
use serde_json::{Value, json};

use harness::{Fixture, Process, System, eventually, tests};

tests!(what_a_standby_records_is_not_declared);

fn dns() -> Value {
    json!({ "name": "DNS", "impact": 1 })
}

async fn says(process: &Process, words: &str) -> Result<()> {
    eventually(&format!("the log says `{words}`"), async || Ok(process.log()?.contains(words)))
        .await
}

async fn what_a_standby_records_is_not_declared(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let mut system = System::start(&own).await?;
    system.components(&[("DNS", &[])]).await?;
    ensure!(system.post(&dns()).await?.status == 201);
    let topology = system.topology().await?;
    system.drained().await?;
    system.workers.clear();

    own.postgres().stop();
    own.postgres().start_as_standby()?;
    // On the primary the shape was changed meanwhile, and the standby does not know it yet.
    let connection = Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for exchange in [topology.exchange(), topology.publish_exchange()] {
        channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
    }
    for partition in 0..topology.partitions {
        let queue = topology.queue(partition);
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    }
    connection.close(200, "done".into()).await?;

    let standby = "the database is a standby (in recovery)";
    for _ in 0..20 {
        let answer = system.post_with_default_wait(&dns()).await?;
        ensure!(answer.status == 503, "taken for queues that nobody consumes: {answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    says(&system.gateways[0], standby).await?;
    // A process that starts now waits, and says for what.
    let gateway = system.launch("gateway", &[])?;
    let worker = system.launch("worker", &[])?;
    says(&gateway, standby).await?;
    says(&worker, standby).await?;
    let (done, said) = system.worker_command(&["topology", "change", "--partitions", "3"]).await?;
    ensure!(!done && said.contains(standby), "{said}");

    // Promoted, it is the primary, and what is missing is declared.
    own.postgres().psql(&system.vhost, "SELECT pg_promote()")?;
    system.workers.push(worker);
    eventually("updates are decided", async || Ok(system.post(&dns()).await?.status == 200))
        .await?;
    drop(gateway);
    system.finish().await
}
