//! A queue that hangs: RabbitMQ takes its updates and does not confirm them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{Fixture, System, answer, eventually, tests};
use tokio::time::{Instant, sleep};

use crate::workers::envelopes::with_components;

tests!(
    updates_that_are_not_sent_by_their_deadline_never_are,
    a_partition_that_does_not_confirm_does_not_stop_the_others,
);

async fn updates_that_are_not_sent_by_their_deadline_never_are(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture, "1").await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.catalogue_seen().await?;
    let queue = system.topology().await?.queue(0);
    suspend(&system, &queue).await?;
    // The first ones are sent and not confirmed; the others gather behind them.
    let posts = (0..60).map(|n| {
        let body = json!({ "name": "DNS", "impact": 1, "text": n.to_string() });
        answer(system.update(&body).header("Prefer", "wait=2"))
    });
    let answers: Vec<_> = futures_util::future::try_join_all(posts).await.context("an answer")?;
    resume(&system, &queue).await?;
    ensure!(answers.iter().all(|answer| answer.status == 503), "{answers:?}");
    let unsent: Vec<Value> = answers
        .iter()
        .filter(|answer| answer.body.to_string().contains("nothing was queued"))
        .map(|answer| json!(answer.header("update-id")))
        .collect();
    ensure!((1..60).contains(&unsent.len()), "{} of 60 were not sent", unsent.len());
    system.drained().await?;
    let body = json!({ "name": "CDN", "impact": 1 });
    eventually("updates are taken again", async || {
        Ok(system.post_with_default_wait(&body).await?.status < 300)
    })
    .await?;
    system.drained().await?;
    let texts: Vec<String> =
        sqlx::query_scalar("SELECT text FROM sdb_inbox WHERE component_id = 1")
            .fetch_all(&system.database)
            .await?;
    ensure!(texts.len() <= 60 - unsent.len(), "{} of {} unsent", texts.len(), unsent.len());
    system.finish().await
}

async fn a_partition_that_does_not_confirm_does_not_stop_the_others(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = with_components(&fixture, "2").await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.catalogue_seen().await?;
    // DNS and Mail take partition 1, CDN and VPN 0.
    let queue = system.topology().await?.queue(1);
    suspend(&system, &queue).await?;
    let stuck = json!({ "name": "DNS", "impact": 1 });
    let free = json!({ "name": "CDN", "impact": 1 });
    let refused = system.post_and_wait(1, &stuck).await?;
    ensure!(refused.status == 503, "{refused:?}");
    // Long enough for the lane's channel to be given up, and for RabbitMQ to be late with closing it.
    let until = Instant::now() + Duration::from_secs(60);
    let mut refused = Vec::new();
    while Instant::now() < until {
        let waiting = answer(system.update(&stuck).header("Prefer", "wait=1"));
        refused.push(tokio::spawn(waiting));
        for _ in 0..5 {
            let taken = system.post_and_wait(5, &free).await?;
            ensure!(taken.status < 300, "{taken:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }
    for refused in refused {
        let refused = refused.await??;
        ensure!(refused.status == 503, "{refused:?}");
    }
    let log = system.gateways[0].log()?;
    ensure!(log.contains("its channel is given up"), "{log}");
    ensure!(!log.contains("the connection to RabbitMQ is given up"), "{log}");
    resume(&system, &queue).await?;
    eventually("the partition takes updates again", async || {
        Ok(system.post_with_default_wait(&stuck).await?.status < 300)
    })
    .await?;
    system.finish().await
}

/// Makes a queue hang: its leader reads nothing until it is resumed.
async fn suspend(system: &System, queue: &str) -> Result<()> {
    leader(system, queue, "suspend").await
}

async fn resume(system: &System, queue: &str) -> Result<()> {
    leader(system, queue, "resume").await
}

async fn leader(system: &System, queue: &str, action: &str) -> Result<()> {
    let statement = format!(
        "{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{}\">>, queue, <<\"{queue}\">>)),
        {{Name, _}} = amqqueue:get_pid(Queue), sys:{action}(whereis(Name)).",
        system.vhost
    );
    let servers = system.context.clone();
    tokio::task::spawn_blocking(move || servers.rabbitmq().eval_to_ok(&statement)).await?
}
