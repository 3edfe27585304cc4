//! RabbitMQ fails.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use harness::{
    Fixture, System,
    burst::{Burst, add_components, update},
    eventually,
    proxy::Proxy,
    tests,
};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::{is_degraded, lists_go_on, start, start_on, survived};

tests!(
    rabbitmq_is_stopped_and_started,
    rabbitmq_is_killed_and_started,
    rabbitmq_stalls,
    rabbitmq_is_short_of_memory,
    rabbitmq_is_short_of_disk,
    an_update_whose_confirm_timed_out_is_not_queued_later,
    rabbitmq_takes_no_more_connections,
);

const ABSENT: &str = "RabbitMQ can't be reached";
const SHORT: &str = "short of memory or disk";

/// Both gateways refuse updates and say why, and the lists go on.
async fn refuses(system: &System, burst: &Burst, sentence: &str, reason: &str) -> Result<()> {
    for gateway in 0..system.gateways.len() {
        burst.is_refused_by(gateway, sentence).await?;
        is_degraded(system, gateway, reason).await?;
    }
    lists_go_on(system).await
}

async fn rabbitmq_is_stopped_and_started(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_servers()?;
    let (system, burst) = start_on(&own).await?;
    own.rabbitmq().stop();
    ensure!(own.rabbitmq().eval("ok.").is_err(), "it is not stopped");
    refuses(&system, &burst, ABSENT, ABSENT).await?;
    own.rabbitmq().start()?;
    survived(system, burst).await
}

async fn rabbitmq_is_killed_and_started(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_servers()?;
    let (system, burst) = start_on(&own).await?;
    own.rabbitmq().kill();
    refuses(&system, &burst, ABSENT, ABSENT).await?;
    own.rabbitmq().start()?;
    survived(system, burst).await
}

async fn rabbitmq_stalls(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_servers()?;
    let (system, burst) = start_on(&own).await?;
    let end = Instant::now() + Duration::from_secs(20);
    own.rabbitmq().pause();
    // At first nobody knows, then the heartbeats are missed.
    try_join_all((0..system.gateways.len()).map(|gateway| burst.is_unknown_to(gateway))).await?;
    refuses(&system, &burst, ABSENT, ABSENT).await?;
    sleep_until(end).await;
    own.rabbitmq().resume();
    survived(system, burst).await
}

/// Both gateways say that RabbitMQ is short of something, and still do so after a while.
async fn stays_short(system: &System, burst: &Burst) -> Result<()> {
    refuses(system, burst, SHORT, "RabbitMQ is short of memory or disk").await?;
    sleep(Duration::from_secs(10)).await;
    refuses(system, burst, SHORT, "RabbitMQ is short of memory or disk").await
}

async fn rabbitmq_is_short_of_memory(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_servers()?;
    let (system, burst) = start_on(&own).await?;
    own.rabbitmq().ctl(&["set_vm_memory_high_watermark", "absolute", "1MiB"])?;
    stays_short(&system, &burst).await?;
    own.rabbitmq().ctl(&["set_vm_memory_high_watermark", "absolute", "1GiB"])?;
    survived(system, burst).await
}

async fn rabbitmq_is_short_of_disk(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_servers()?;
    let (system, burst) = start_on(&own).await?;
    own.rabbitmq().ctl(&["set_disk_free_limit", "1000000GB"])?;
    stays_short(&system, &burst).await?;
    own.rabbitmq().ctl(&["set_disk_free_limit", "256MB"])?;
    survived(system, burst).await
}

/// The ids of the inbox among these.
async fn decided(system: &System, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    let query = "SELECT id FROM sdb_inbox WHERE id = ANY($1) ORDER BY id";
    Ok(sqlx::query_scalar(query).bind(ids).fetch_all(&system.database).await?)
}

async fn an_update_whose_confirm_timed_out_is_not_queued_later(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let own = fixture.with_own_servers()?;
    let mut system = System::prepared(&own).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_AMQP_URI", proxy.uri())]).await?;
    add_components(&system).await?;
    ensure!(system.post(&update(0)).await?.status == 201);
    own.rabbitmq().ctl(&["set_vm_memory_high_watermark", "absolute", "1MiB"])?;
    eventually("the alarm is raised", async || {
        let alarms = own.rabbitmq().eval("rabbit_alarm:get_alarms().")?;
        Ok(alarms.contains("memory"))
    })
    .await?;
    let end = Instant::now() + Duration::from_secs(20);
    // RabbitMQ takes the first one and reads no further: the others stay in the connection. They are
    // sent before the gateway hears of that.
    proxy.delay(Duration::from_millis(300));
    let answers = try_join_all((1..100).map(|number| {
        let body = update(number);
        let system = &system;
        async move { system.post_with_default_wait(&body).await }
    }))
    .await?;
    let mut unknown: Vec<Uuid> = Vec::new();
    for answer in &answers {
        let sentence = answer.body["message"].as_str().unwrap_or_default();
        if answer.status == 503 && sentence.contains("may have been queued or not") {
            unknown.push(answer.header("update-id").parse()?);
        }
    }
    ensure!(!unknown.is_empty(), "no confirm timed out, so this shows nothing: {answers:?}");
    proxy.pass();
    sleep_until(end).await;
    // A confirm may also come too late.
    system.drained().await?;
    let queued_in_time = decided(&system, &unknown).await?;

    own.rabbitmq().ctl(&["set_vm_memory_high_watermark", "absolute", "1GiB"])?;
    eventually("updates are decided again", async || {
        Ok(system.post_and_wait(5, &update(0)).await?.status == 200)
    })
    .await?;
    // What is on its way is in the queues by then: the same connections would have brought it.
    sleep(Duration::from_secs(2)).await;
    system.drained().await?;
    let later = decided(&system, &unknown).await?.len() - queued_in_time.len();
    ensure!(later == 0, "{later} of {} were queued when the alarm was cleared", unknown.len());
    system.finish().await
}

async fn rabbitmq_takes_no_more_connections(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    let proxy = Proxy::before(&system.amqp_uri).await?;
    let through = [("SDB_AMQP_URI", proxy.uri())];
    let (system, burst) = start(system, &through, &[]).await?;
    let rabbitmq = fixture.rabbitmq();
    let vhost = system.vhost.clone();
    let connections = || -> Result<usize> {
        let query = format!(
            "length([C || C <- rabbit_networking:connections(),
                [{{vhost, <<\"{vhost}\">>}}] =:= catch rabbit_networking:connection_info(C, [vhost])])."
        );
        Ok(rabbitmq.eval(&query)?.parse()?)
    };
    // One for each gateway, two for each worker.
    let all = 6;
    eventually("all processes have their connections", async || Ok(connections()? == all)).await?;
    // Those that stay have five, and no other may come.
    rabbitmq.ctl(&["set_vhost_limits", "-p", &vhost, "{\"max-connections\": 5}"])?;
    proxy.reset();
    burst.is_refused_by(0, ABSENT).await?;
    is_degraded(&system, 0, ABSENT).await?;
    lists_go_on(&system).await?;
    // The others go on.
    burst.is_decided_by(1).await?;
    rabbitmq.ctl(&["clear_vhost_limits", "-p", &vhost])?;
    burst.is_decided().await?;
    eventually("each process has its connections, and none has more", async || {
        Ok(connections()? == all)
    })
    .await?;
    survived(system, burst).await
}
