//! What a gateway still answers after it was asked to stop.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use harness::{Fixture, System, eventually, http, proxy::Proxy, tests};

tests!(every_request_is_answered_before_a_gateway_ends);

/// A request that waits as long as it may, and has so many bytes of its body.
fn post(system: &System, name: &str, bytes: usize) -> String {
    let body = json!({ "name": name, "impact": 1 }).to_string();
    format!(
        "POST /api/v1/component_status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
        Prefer: wait=30\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
        system.token,
        body.len(),
        &body[..bytes.min(body.len())]
    )
}

async fn every_request_is_answered_before_a_gateway_ends(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_servers()?;
    let mut system = System::prepared(&own).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    // The connection is not given up while the proxy holds its first frames.
    let patient = format!("{}?heartbeat=60", proxy.uri());
    system.start_gateway(&[("SDB_AMQP_URI", &patient)]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let begin = async |request: String| -> Result<TcpStream> {
        let mut stream = TcpStream::connect(&system.addresses[0]).await?;
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    };
    // One that is queued, and whose outcome never comes.
    let mut queued = begin(post(&system, "DNS", usize::MAX)).await?;
    let taken = async |count: usize| {
        eventually("it was taken", async || {
            let metrics = http::exchange(
                &system.addresses[0],
                "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                false,
            )
            .await?;
            Ok(metrics.body.contains(&format!("sdb_updates_in_flight {count}\n"))
                && !metrics.body.contains("sdb_updates_accepted_total 0\n"))
        })
        .await
    };
    taken(1).await?;
    // Some that RabbitMQ does not confirm: it takes one while it is short of memory, and reads no further.
    // They are all taken before the gateway hears of that: from then on, it takes none.
    own.rabbitmq().ctl(&["set_vm_memory_high_watermark", "absolute", "1MiB"])?;
    eventually("the alarm is raised", async || {
        let alarms = own.rabbitmq().eval("rabbit_alarm:get_alarms().")?;
        Ok(alarms.contains("memory"))
    })
    .await?;
    proxy.delay(Duration::from_secs(3));
    let mut unconfirmed = Vec::new();
    for _ in 0..10 {
        unconfirmed.push(begin(post(&system, "CDN", usize::MAX)).await?);
    }
    taken(11).await?;
    // And two whose bodies never come.
    let mut unsent = begin(post(&system, "CDN", 0)).await?;
    let mut half_sent = begin(post(&system, "CDN", 9)).await?;
    taken(13).await?;

    system.gateways[0].signal(Signal::SIGTERM)?;
    let unconfirmed = try_join_all(unconfirmed.iter_mut().map(http::rest));
    let (queued, unconfirmed, unsent, half_sent) = tokio::try_join!(
        http::rest(&mut queued),
        unconfirmed,
        http::rest(&mut unsent),
        http::rest(&mut half_sent),
    )?;
    ensure!(queued.status == 202 && queued.body.contains("pending"), "{queued:?}");
    ensure!(!queued.header("location").is_empty(), "{queued:?}");
    let mut unknown = 0;
    for answer in &unconfirmed {
        let says = "may have been queued or not";
        ensure!(answer.status == 202 || answer.body.contains(says), "{answer:?}");
        unknown += usize::from(answer.status == 503);
    }
    ensure!(unknown > 0, "all were confirmed, so this shows nothing: {unconfirmed:?}");
    for stopped in [unsent, half_sent] {
        ensure!(stopped.status == 503, "{stopped:?}");
        ensure!(stopped.body.contains("nothing was queued"), "{stopped:?}");
        ensure!(!stopped.header("retry-after").is_empty(), "{stopped:?}");
    }
    ensure!(system.gateways[0].ended().await?.success());
    let log = system.gateways[0].log()?;
    ensure!(!log.contains("stopped with requests unfinished"), "{log}");

    // What was queued takes effect.
    own.rabbitmq().ctl(&["set_vm_memory_high_watermark", "absolute", "1GiB"])?;
    system.start_worker(&[]).await?;
    eventually("the update is applied", async || {
        Ok(system
            .count(
                "SELECT count(*) FROM sdb_inbox i JOIN component c ON c.id = i.component_id
            WHERE c.name = 'DNS'",
            )
            .await?
            == 1)
    })
    .await?;
    system.finish().await
}
