//! The programs with their roles.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    domain::{
        component::{Component, ComponentId},
        impact::Impact,
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::UpdateMessage,
};
use tokio::task::spawn_blocking;

use super::roles::{Roles, blocks, denied, logs};
use harness::{Fixture, System, answer, eventually, publish, status_update};

/// A gateway of the role `gateway` takes an update, and shows all that it shows.
async fn gateway_works(roles: &Roles, parked: &str) -> Result<()> {
    let gateway = roles.start("gateway", "gateway")?;
    let line: Value = serde_json::from_str(&logs(&gateway, "\"serving\"").await?)?;
    let address = line["address"].as_str().context("no address")?;
    let request = |method, path: &str| {
        let request = roles.system.client.request(method, format!("http://{address}{path}"));
        request.bearer_auth(&roles.system.token)
    };
    eventually("the gateway is ready or is denied something", async || {
        denied(&gateway.log()?)?;
        let ready = answer(request(Method::GET, "/readyz")).await?;
        Ok(ready.status == 200 && ready.body["status"] == "ready")
    })
    .await?;
    let update = request(Method::POST, "/api/v1/component_status").json(&status_update("DNS", 1));
    let update = answer(update.header("Prefer", "wait=20").header("Idempotency-Key", "k")).await?;
    denied(&gateway.log()?)?;
    ensure!([200, 201].contains(&update.status), "{update:?}");
    for path in [
        &format!("/api/v1/updates/{}", update.header("update-id")),
        &format!("/api/v1/updates/{parked}"),
        "/api/v1/incidents",
        "/api/v1/incidents?active=true&limit=1",
        "/api/v1/component_status",
        "/v2/availability",
        "/api/v1/component_status?active=true&attribute_name=region&attribute_value=R1",
    ] {
        let got = answer(request(Method::GET, path)).await?;
        denied(&gateway.log()?)?;
        ensure!(got.status == 200, "{path}: {got:?}");
    }
    Ok(())
}

const PARKED: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Parks something that is not an update's.
pub(super) async fn park(system: &System) -> Result<()> {
    let statement = format!(
        "INSERT INTO sdb_parked (delivery_key, update_id, queue, reason, parked_at, payload)
        VALUES ('{PARKED}', '{PARKED}', 'sdb.updates.v1.p0', 'for a test', now(), '{{}}')"
    );
    system.sql(&statement).await
}

pub(super) async fn a_gateways_role_has_the_rights_that_it_needs(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut roles = Roles::new(&fixture, "rg").await?;
    roles.system.start_worker(&[]).await?;
    roles.system.components(&[("DNS", &[("region", "R1")])]).await?;
    park(&roles.system).await?;
    roles.each_is_needed("gateway", |_| true, async || gateway_works(&roles, PARKED).await).await?;
    roles.system.finish_with_logs()
}

/// A worker of the role `worker` does all that a worker does.
async fn worker_works(roles: &Roles) -> Result<()> {
    let system = &roles.system;
    // Nothing is left of a worker that was denied something and was ended: what it held comes back when
    // RabbitMQ notices.
    let purge = format!(
        "lists:foreach(fun(Queue) -> rabbit_amqqueue:purge(Queue) end, rabbit_amqqueue:list(<<\"{}\">>)).",
        system.vhost
    );
    eventually("the queues are empty", async || {
        let (servers, purge) = (system.context.clone(), purge.clone());
        spawn_blocking(move || servers.rabbitmq().eval(&purge)).await??;
        system.is_drained().await
    })
    .await?;
    let newest = "SELECT max(inhrelid::regclass::text) FROM pg_inherits
        WHERE inhparent = 'sdb_inbox'::regclass";
    let part: String = sqlx::query_scalar(newest).fetch_one(&system.database).await?;
    // A part has to be made; a command that changed the queues died.
    system
        .sql(&format!(
            "DELETE FROM sdb_parked; DELETE FROM incident_component_relation;
            DELETE FROM incident_status; DELETE FROM incident;
            UPDATE component SET name = 'DNS' WHERE name = 'Other';
            UPDATE sdb_topology SET phase = 'closed'; DROP TABLE {part}"
        ))
        .await?;
    system.catalogue_seen().await?;
    let worker = roles.start("worker", "worker")?;
    logs(&worker, "\"consuming\"").await?;
    let after = async |body: Value, key: &str, outcome: &str| -> Result<()> {
        let mut id = String::new();
        // The gateway may see just now that the queues were closed.
        eventually("the update is accepted", async || {
            denied(&worker.log()?)?;
            let update = system.update(&body).header("Prefer", "wait=1");
            let accepted = answer(update.header("Idempotency-Key", key)).await?;
            accepted.header("update-id").clone_into(&mut id);
            Ok(accepted.status != 503)
        })
        .await?;
        eventually(&format!("{body} is {outcome}"), async || {
            denied(&worker.log()?)?;
            let receipt = system.get(&format!("/api/v1/updates/{id}")).await?.body;
            Ok(receipt["outcome"] == outcome || receipt["state"] == outcome)
        })
        .await
    };
    let unique = system.count("SELECT last_value FROM sdb_worker_id_seq").await?.to_string();
    let cdn = |impact: u8| json!({ "name": "CDN", "impact": impact });
    eventually("the gateway is ready", async || {
        denied(&worker.log()?)?;
        Ok(system.get("/readyz").await?.body["status"] == "ready")
    })
    .await?;
    after(status_update("DNS", 1), &unique, "opened").await?;
    after(status_update("DNS", 1), &unique, "opened").await?;
    after(status_update("DNS", 2), &unique, "rejected").await?;
    after(cdn(1), &format!("{unique} 1"), "joined").await?;
    after(status_update("DNS", 2), &format!("{unique} 2"), "moved").await?;
    after(cdn(2), &format!("{unique} 3"), "moved").await?;
    after(status_update("DNS", 2), &format!("{unique} 4"), "unchanged").await?;
    // One that can't be applied is parked, and applied when it is requeued.
    system.sql("UPDATE component SET name = 'Other' WHERE name = 'DNS'").await?;
    let waiting = message(system).await?;
    let parked = "SELECT count(*) FROM sdb_parked WHERE put_back_at IS NULL";
    eventually("it is parked", async || {
        denied(&worker.log()?)?;
        Ok(system.count(parked).await? == 1)
    })
    .await?;
    system.sql("UPDATE component SET name = 'DNS' WHERE name = 'Other'").await?;
    let (done, said) = system.worker_command(&["parked", "requeue", "--all"]).await?;
    ensure!(done, "{said}");
    eventually("it is applied", async || {
        denied(&worker.log()?)?;
        Ok(system.get(&format!("/api/v1/updates/{waiting}")).await?.body["state"] == "done")
    })
    .await?;
    let mut worker = worker;
    worker.signal(Signal::SIGTERM)?;
    worker.ended().await?;
    denied(&worker.log()?)
}

/// Publishes an update about DNS, component 1, as a gateway does that knows it by this name.
async fn message(system: &System) -> Result<UpdateId> {
    let now =
        system.count("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await?;
    let received_at = Timestamp::from_micros(now)?;
    let component =
        Component { id: ComponentId(1), name: "DNS".to_owned(), attributes: Vec::new() };
    let id = UpdateId::at(received_at);
    let update = UpdateMessage {
        id,
        component,
        condition: Impact::Outage.into(),
        text: "x".into(),
        received_at,
        idempotency: None,
        report: None,
    };
    publish(system, &update).await?;
    Ok(id)
}

/// A system in which a worker's role works, and updates can wait for a worker that is denied something.
async fn for_worker(fixture: &Arc<Fixture>, prefix: &'static str) -> Result<Roles> {
    let mut roles = Roles::new(fixture, prefix).await?;
    // It makes the queues.
    roles.system.start_worker(&[]).await?;
    roles.system.workers.clear();
    roles.system.start_gateway(&[]).await?;
    roles.system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    Ok(roles)
}

pub(super) async fn a_workers_role_needs_its_rights_on_the_shared_tables(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let roles = for_worker(&fixture, "rs").await?;
    let shared = |object: &str| !object.starts_with("sdb_") && !object.starts_with("SEQUENCE sdb_");
    roles.each_is_needed("worker", shared, async || worker_works(&roles).await).await?;
    roles.system.finish_with_logs()
}

pub(super) async fn a_workers_role_needs_its_rights_on_our_tables(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let roles = for_worker(&fixture, "rw").await?;
    let ours = |object: &str| object.split(' ').any(|word| word.starts_with("sdb_"));
    roles.each_is_needed("worker", ours, async || worker_works(&roles).await).await?;
    // That the parts are its own.
    roles.system.sql("ALTER TABLE sdb_inbox OWNER TO rw_owner").await?;
    let newest = "SELECT max(inhrelid::regclass::text) FROM pg_inherits
        WHERE inhparent = 'sdb_inbox'::regclass";
    let part: String = sqlx::query_scalar(newest).fetch_one(&roles.system.database).await?;
    roles.system.sql(&format!("DROP TABLE {part}")).await?;
    let worker = roles.start("worker", "worker")?;
    let error = logs(&worker, "\"consuming\"").await.err().context("the inbox is not its own")?;
    ensure!(format!("{error:#}").contains("permission denied for table sdb_inbox"), "{error:#}");
    roles.system.finish_with_logs()
}

pub(super) async fn the_rights_on_rabbitmq_are_needed(fixture: Arc<Fixture>) -> Result<()> {
    let mut roles = Roles::new(&fixture, "rr").await?;
    roles.system.components(&[("DNS", &[("region", "R1")]), ("CDN", &[])]).await?;
    park(&roles.system).await?;
    roles.system.start_worker(&[]).await?;
    gateway_works(&roles, PARKED).await?;
    let vhost = roles.system.vhost.clone();
    for line in blocks("sh")?.concat().lines() {
        let line = line.replace('\'', "");
        let words: Vec<&str> = line.split_whitespace().collect();
        let role = words[4].trim_start_matches("status_");
        let user = words[4].replace("status_", "rr_");
        for kind in 0..3 {
            let mut rights = words[5..].to_vec();
            rights[kind] = "^$";
            let set = |rights: &[&str]| {
                let set =
                    [&["set_permissions", "-p", vhost.as_str(), user.as_str()], rights].concat();
                fixture.rabbitmq().ctl(&set)
            };
            set(&rights)?;
            let without = match role {
                "gateway" => gateway_works(&roles, PARKED).await,
                "worker" => {
                    // An update with a reply, for which it writes.
                    roles.system.workers.clear();
                    roles.system.start_gateway(&[]).await?;
                    let worker = roles.start("worker", "worker")?;
                    let posting =
                        roles.system.update(&status_update("DNS", 3)).header("Prefer", "wait=1");
                    drop(answer(posting).await?);
                    let ended = logs(&worker, "no such line").await.map(drop);
                    drop(worker);
                    roles.system.gateways.clear();
                    roles.system.addresses.clear();
                    ended
                }
                "queues" => {
                    roles.system.workers.clear();
                    roles.system.start_worker(&[]).await?;
                    let change =
                        roles.works(&["topology", "change", "--partitions", "9"], role).await;
                    let put_back = roles.works(&["parked", "requeue", "--all"], role).await;
                    change.and(put_back).map(drop)
                }
                other => bail!("no test of {other}"),
            };
            let error =
                without.err().with_context(|| format!("{role} does not need right {kind}"))?;
            ensure!(format!("{error:#}").contains("ACCESS_REFUSED"), "{role}, {kind}: {error:#}");
            set(&words[5..])?;
        }
    }
    roles.system.finish_with_logs()
}
