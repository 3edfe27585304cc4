//! An address that names several servers of PostgreSQL.

use std::{net::TcpListener, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use harness::{ADMIN, Fixture, Replication, System, eventually, tests};

use crate::{failures::readiness, telemetry::ready};

tests!(
    a_server_that_does_not_answer_does_not_hold_up_the_others,
    a_server_of_another_cluster_is_refused,
    a_standby_alone_is_not_used_among_several,
);

/// The reason for which a server is not used, as `/readyz` has it.
fn why_not(report: &Value, port: u16) -> String {
    let servers = report["database"]["not_used"].as_array().into_iter().flatten();
    let has_port = |server: &&Value| {
        server["server"].as_str().is_some_and(|name| name.ends_with(&format!(":{port}")))
    };
    let reasons = servers.filter(has_port).filter_map(|server| server["reason"].as_str());
    reasons.collect::<Vec<_>>().join(", ")
}

/// The address of the system's database, with this server named before its own.
fn after(system: &System, port: u16) -> String {
    let own = format!("@127.0.0.1:{}/", system.context.postgres().port());
    system.database_uri.replace(&own, &own.replace('@', &format!("@127.0.0.1:{port},")))
}

async fn a_server_that_does_not_answer_does_not_hold_up_the_others(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    // The kernel accepts connections, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let port = silent.local_addr()?.port();
    system.database_uri = after(&system, port);
    system.worker_succeeds(&["topology", "show"]).await?;
    system.start_worker(&[ADMIN]).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let answer = system.post(&json!({ "name": "DNS", "impact": 1 })).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let own = format!("127.0.0.1:{}", fixture.postgres().port());
    let admin = system.workers[0].admin_address().await?;
    let is_right = |report: &Value| {
        report["database"]["server"] == own
            && report["status"] == "ready"
            && why_not(report, port) == "it did not answer within 1 s"
    };
    eventually("the gateway reports it", async || Ok(is_right(&readiness(&system, 0).await?)))
        .await?;
    eventually("the worker reports it", async || Ok(is_right(&ready(&system, &admin).await?.body)))
        .await?;
    drop(silent);
    eventually("the refusal shows", async || {
        Ok(why_not(&readiness(&system, 0).await?, port).contains("refused"))
    })
    .await?;
    system.finish().await
}

async fn a_server_of_another_cluster_is_refused(fixture: Arc<Fixture>) -> Result<()> {
    let own = fixture.with_own_postgres()?;
    let mut system = System::prepared(&own).await?;
    // The shared server has a database of this name, too, and lets the same role in.
    let (foreign, name) = (fixture.servers.postgres(), system.vhost.clone());
    foreign.create_database(&name)?;
    for server in [own.postgres(), foreign] {
        server.psql(&name, &format!("CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'a-password'"))?;
    }
    let (first, second) = (own.postgres().port(), foreign.port());
    let servers = format!("127.0.0.1:{first},127.0.0.1:{second}");
    system.database_uri = format!("postgresql://{name}:a-password@{servers}/{name}");
    system.start_worker(&[]).await?;
    // A fault like this makes it degraded.
    system.start_gateway_unready(&[]).await?;
    system.components(&[("DNS", &[])]).await?;
    let dns = json!({ "name": "DNS", "impact": 1 });
    eventually("updates are decided", async || Ok(system.post(&dns).await?.status == 201)).await?;
    // Alone it is not used either.
    own.postgres().stop();
    let fault =
        format!("PostgreSQL at 127.0.0.1:{second} is not used: it belongs to another cluster");
    eventually("the other cluster is refused", async || {
        let report = readiness(&system, 0).await?;
        let reasons = report["reasons"].to_string();
        Ok(report["database"]["server"].is_null() && reasons.contains(&fault))
    })
    .await?;
    ensure!(system.get("/api/v1/incidents").await?.status == 503);
    own.postgres().start()?;
    eventually("updates are decided", async || Ok(system.post(&dns).await?.status == 200)).await?;
    foreign.drop_database(&name)?;
    system.finish().await
}

async fn a_standby_alone_is_not_used_among_several(fixture: Arc<Fixture>) -> Result<()> {
    let pair = fixture.with_own_pair(Replication::Synchronous)?;
    let system = pair.prepared().await?;
    let standby = pair.standby.port();
    pair.primary().stop();
    let (done, said) = system.worker_command(&["topology", "show"]).await?;
    ensure!(!done && said.contains("no server of the address takes writes"), "{said}");
    ensure!(said.contains(&format!(":{standby}: it is a standby")), "{said}");
    ensure!(said.lines().count() == 1 && !said.contains("://"), "{said}");
    // By itself a standby is shown, as before.
    let alone = pair.standby.database_uri(&system.vhost);
    let context = system.context.clone();
    let variables = [("SDB_DATABASE_URI", alone.as_str())];
    let (done, said) =
        context.command(&context.binaries.worker, &["parked", "list"], &variables).await?;
    ensure!(done, "{said}");
    pair.primary().start()?;
    system.worker_succeeds(&["topology", "show"]).await.context("the primary is back")?;
    system.finish_with_logs()
}
