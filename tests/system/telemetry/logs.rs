//! The log in a storm.

use std::sync::Arc;

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Scrape, watched};
use harness::{ADMIN, Fixture, System, answer, burst, eventually, log_lines, tests, token};

tests!(refused_tokens_do_not_flood_the_log, parked_updates_do_not_flood_the_log,);

/// The lines of a log with this level and message.
fn said(log: &str, level: &str, message: &str) -> Vec<Value> {
    log_lines(log)
        .into_iter()
        .filter(|line| line["level"] == level && line["message"] == message)
        .collect()
}

async fn refused_tokens_do_not_flood_the_log(fixture: Arc<Fixture>) -> Result<()> {
    let (system, _) = watched(&fixture, 1).await?;
    let wrong = token("another-secret-that-is-long-enough", &json!({ "stackmon": "dummy" }));
    for _ in 0..100 {
        let refused = answer(
            system
                .request_to(0, Method::POST, "/api/v1/component_status")
                .bearer_auth(&wrong)
                .json(&burst::update(1)),
        )
        .await?;
        ensure!(refused.status == 401, "{refused:?}");
    }
    let log = system.gateways[0].log()?;
    let refusals = said(&log, "INFO", "token refused");
    ensure!((1..20).contains(&refusals.len()), "{} lines", refusals.len());
    ensure!(refusals.iter().all(|line| line["reason"] == "wrong_signature"), "{refusals:?}");
    for part in wrong.split('.') {
        ensure!(!log.contains(part), "the log shows a part of the token");
    }
    let told = Scrape::of(&system, &system.addresses[0]).await?;
    told.is("sdb_tokens_refused_total", &["reason=\"wrong_signature\""], 100)?;
    told.is("sdb_tokens_refused_total", &[], 100)?;
    system.finish().await
}

async fn parked_updates_do_not_flood_the_log(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    for _ in 0..100 {
        let update = system.update(&json!({ "name": "DNS", "impact": 1 }));
        let accepted = answer(update.header("Prefer", "respond-async")).await?;
        ensure!(accepted.status == 202, "{accepted:?}");
    }
    system.sql("DELETE FROM component").await?;
    system.start_worker(&[ADMIN]).await?;
    system.drained().await?;
    let log = system.workers[0].log()?;
    let (warned, rest) = (said(&log, "WARN", "parked"), said(&log, "DEBUG", "parked"));
    ensure!((1..10).contains(&warned.len()), "{} lines", warned.len());
    ensure!(warned.len() + rest.len() == 100, "{} lines in all", warned.len() + rest.len());
    ensure!(warned[0]["reason"] == "component 1, DNS (), is gone", "{warned:?}");
    ensure!(warned[0]["update"].is_string(), "{warned:?}");
    let address = system.workers[0].admin_address().await?;
    eventually("they are counted", async || {
        let scrape = Scrape::of(&system, &address).await?;
        scrape.is("sdb_updates_applied_total", &["outcome=\"parked\""], 100)?;
        Ok(scrape.sum("sdb_parked_updates", &[]) == 100.0)
    })
    .await?;
    system.finish_with_parked()
}
