//! RabbitMQ has several hosts, of which some do not answer.

use std::{net::TcpListener, sync::Arc};

use anyhow::{Context, Result, ensure};
use harness::{Fixture, System, status_update, tests};

use super::readiness;

tests!(hosts_that_are_silent_or_refuse_are_passed_over);

/// The order is random: after so many starts, each host was tried before the good one, but for one of a
/// million times.
const STARTS: usize = 20;

async fn hosts_that_are_silent_or_refuse_are_passed_over(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    // Connections are accepted by the kernel, and nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let good = format!("127.0.0.1:{}", fixture.rabbitmq().port());
    let hosts = format!("{},127.0.0.1:1,{good}", silent.local_addr()?);
    let uri = system.amqp_uri.replace(&good, &hosts);
    system.start_worker(&[("SDB_AMQP_URI", &uri)]).await?;

    let (mut was_silent, mut has_refused) = (false, false);
    for start in 0..STARTS {
        system.start_gateway(&[("SDB_AMQP_URI", &uri)]).await?;
        let seen = readiness(&system, start).await?["rabbitmq"].clone();
        ensure!(seen["server"] == good, "{seen}");
        for node in seen["not_used"].as_array().context("no list")? {
            let reason = node["reason"].as_str().unwrap_or_default();
            was_silent |= reason.starts_with("RabbitMQ did not answer within 1 s");
            has_refused |=
                node["server"] == "127.0.0.1:1" && reason.starts_with("RabbitMQ can't be reached");
        }
        if was_silent && has_refused {
            break;
        }
    }
    ensure!(was_silent && has_refused, "not every host was tried: {was_silent}, {has_refused}");
    system.components(&[("DNS", &[])]).await?;
    ensure!(system.post(&status_update("DNS", 1)).await?.status == 201);
    system.finish().await
}
