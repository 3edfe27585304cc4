//! Many updates at once while a server is away.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::json;

use super::{many, many_to, numbers, results, statuses, update};
use crate::servers::encodings;
use harness::{Fixture, System, answer, eventually, tests};

tests!(
    without_postgres_updates_are_accepted,
    without_rabbitmq_each_is_refused,
    without_a_catalogue_each_is_refused,
    an_encoding_without_a_character_is_the_matter_of_one_update,
);

async fn without_postgres_updates_are_accepted(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let system = System::start(&own).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    own.postgres().stop();
    let updates = [update("DNS", 1), update("Unknown", 1), update("CDN", 1), update("DNS", 2)];
    let accepted = results(many(&system, &updates).header("Prefer", "wait=8")).await?;
    // That one may be new, and nobody can be asked.
    ensure!(statuses(&accepted) == [202, 503, 202, 202], "{accepted:?}");
    own.postgres().start()?;
    eventually("the updates are applied", async || {
        let mut done = 0;
        for result in &accepted {
            let Some(id) = result["id"].as_str() else { continue };
            let receipt = system.get(&format!("{}/{id}", super::PATH)).await?;
            done += usize::from(receipt.body["state"] == "done");
        }
        Ok(done == 3)
    })
    .await?;
    let again = results(many(&system, &updates).header("Prefer", "wait=20")).await?;
    ensure!(statuses(&again) == [200, 400, 200, 200], "{again:?}");
    ensure!(numbers(&again, "incident")[0] > 0, "{again:?}");
    system.finish().await
}

async fn without_rabbitmq_each_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    system.start_gateway_unready(&[("SDB_AMQP_URI", "amqp://127.0.0.1:1")]).await?;
    eventually("the gateway has the catalogue", async || {
        let readiness = answer(system.request_to(1, Method::GET, "/readyz")).await?;
        Ok(readiness.body["status"] == "degraded")
    })
    .await?;
    let updates = [update("DNS", 1), update("Nobody", 1), update("DNS", 2)];
    let refused = results(many_to(&system, 1, &updates).header("Prefer", "wait=20")).await?;
    ensure!(statuses(&refused) == [503, 400, 503], "{refused:?}");
    for result in refused.iter().filter(|result| result["status"] == 503) {
        let error = result["error"].as_str().unwrap_or_default();
        ensure!(error.contains("nothing was queued") && result["id"].is_string(), "{result}");
    }
    system.finish().await
}

async fn without_a_catalogue_each_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway_unready(&[("SDB_DATABASE_URI", "postgresql://x:y@127.0.0.1:1/z")]).await?;
    let updates = [update("DNS", 1), update("DNS", 0)];
    let refused = results(many(&system, &updates)).await?;
    ensure!(statuses(&refused) == [503, 400], "{refused:?}");
    let error = refused[0]["error"].as_str().unwrap_or_default();
    ensure!(error.contains("catalogue") && refused[0]["id"].is_null(), "{refused:?}");
    system.finish().await
}

async fn an_encoding_without_a_character_is_the_matter_of_one_update(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = encodings::bare(&fixture, "LATIN1").await?;
    system.worker_succeeds(&["migrate"]).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let titled = |name: &str, text: &str| json!({ "name": name, "impact": 1, "text": text });
    let updates = [titled("DNS", "langsam →"), titled("CDN", "für alle"), titled("DNS", "slow")];
    let results = results(many(&system, &updates).header("Prefer", "wait=20")).await?;
    ensure!(statuses(&results) == [422, 201, 201], "{results:?}");
    ensure!(results[0]["errors"]["json"]["text"].is_array(), "{results:?}");
    system.finish().await
}
