//! The parts of the inbox, a week of ids each: made ahead, dropped when they are old, and what becomes of
//! updates at their bounds. PostgreSQL's clock is shifted, since all of it goes by that clock.

mod clock;
mod dropping;
mod turns;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use shared::{
    domain::{
        component::{Component, ComponentId},
        impact::Impact,
        update_id::UpdateId,
    },
    wire::message::UpdateMessage,
};
use sqlx::AssertSqlSafe;

use harness::{System, eventually, tests_of};

tests_of!(dropping, turns);

/// Starts a worker, which makes and drops parts before it consumes.
async fn worker(system: &mut System, days: &str) -> Result<()> {
    system.start_worker(&[("SDB_INBOX_DAYS", days), ("SDB_ADMIN_ADDRESS", "127.0.0.1:0")]).await
}

/// Starts a gateway, whose machine's clock may differ from PostgreSQL's: it is ready then, but degraded.
async fn gateway(system: &mut System, days: &str) -> Result<()> {
    system.start_gateway_unready(&[("SDB_INBOX_DAYS", days)]).await?;
    // With a clock that is off it is never quite ready.
    eventually("the gateway serves", async || {
        Ok(!system.get("/readyz").await?.body["reasons"].to_string().contains("RabbitMQ"))
    })
    .await
}

/// Ends all workers.
async fn no_worker(system: &mut System) -> Result<()> {
    for mut worker in system.workers.drain(..) {
        worker.signal(Signal::SIGTERM)?;
        ensure!(worker.ended().await?.success());
    }
    Ok(())
}

/// The first days of the weeks that have a part.
async fn weeks(system: &System) -> Result<Vec<String>> {
    let parts = "SELECT right(inhrelid::regclass::text, 8) FROM pg_inherits
        WHERE inhparent = 'sdb_inbox'::regclass ORDER BY 1";
    Ok(sqlx::query_scalar(parts).fetch_all(&system.database).await?)
}

async fn text(system: &System, query: &str) -> Result<String> {
    Ok(sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&system.database).await?)
}

async fn receipt(system: &System, id: &str) -> Result<(u16, Value)> {
    let receipt = system.get(&format!("/api/v1/updates/{id}")).await?;
    Ok((receipt.status, receipt.body))
}

async fn is_applied(system: &System, id: &str) -> Result<()> {
    eventually(
        "the update is applied",
        async || Ok(receipt(system, id).await?.1["state"] == "done"),
    )
    .await
}

/// The first day of the week of an id.
fn week_of(id: &str) -> String {
    format!(
        "SELECT to_char(date_trunc('week', to_timestamp(('x' || left(replace('{id}', '-', ''), 12))
            ::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC'), 'YYYYMMDD')"
    )
}

/// The part that has the record of an update.
async fn part_of(system: &System, id: &str) -> Result<String> {
    text(
        system,
        &format!("SELECT right(tableoid::regclass::text, 8) FROM sdb_inbox WHERE id = '{id}'"),
    )
    .await
}

/// An update about DNS, which is component 1.
fn message(id: UpdateId, impact: Impact) -> Result<UpdateMessage> {
    let component =
        Component { id: ComponentId(1), name: "DNS".to_owned(), attributes: Vec::new() };
    let received_at = id.made_at().context("an id with a time")?;
    let (condition, text, idempotency, report) = (impact.into(), "x".into(), None, None);
    Ok(UpdateMessage { id, component, condition, text, received_at, idempotency, report })
}
