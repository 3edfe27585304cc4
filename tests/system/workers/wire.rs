//! What gateways and workers put on the wire, since another release of the other one reads it:
//! `shared/tests/wire` has the bodies, this the properties, and that real processes send both.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;
use shared::{
    amqp::topology::Topology,
    domain::{timestamp::Timestamp, update_id::UpdateId},
    wire::message::{ReplyMessage, UpdateMessage, Verdict},
};

use harness::{Fixture, System, answer, eventually, tests};

tests!(
    a_gateway_sends_what_is_recorded,
    a_gateway_sends_reports_only_where_workers_read_them,
    a_worker_answers_what_is_recorded,
    a_result_that_a_gateway_does_not_know_costs_no_other_its_outcome,
);

const DNS: (&str, &[(&str, &str)]) = ("DNS", &[("region", "EU-DE"), ("type", "dns")]);

/// A party of the test's own, with a queue that gets all updates, as copies.
struct Party {
    _connection: Connection,
    channel: Channel,
    topology: Topology,
    queue: String,
    received: Consumer,
}

impl Party {
    async fn join(system: &System) -> Result<Self> {
        let topology = system.topology().await?;
        let connection =
            Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let own = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?;
        let queue = queue.name().to_string();
        for partition in 0..topology.partitions {
            let (exchange, key) = (topology.publish_exchange(), topology.routing_key(partition));
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            let name = queue.as_str();
            channel.queue_bind(name.into(), exchange.into(), key.into(), options, none).await?;
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let received = channel
            .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
            .await?;
        Ok(Self { _connection: connection, channel, topology, queue, received })
    }

    async fn next(&mut self) -> Result<Delivery> {
        Ok(self.received.next().await.context("the connection ended")??)
    }

    async fn send(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<()> {
        let options = BasicPublishOptions::default();
        let sent =
            self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
        drop(sent.await?.await?);
        Ok(())
    }
}

/// The recorded body of an update of DNS, with these in place of its id, component and time.
fn recorded(case: &str, id: UpdateId, component: i32, micros: i64) -> String {
    let body = match case {
        "major" => include_str!("../../../shared/tests/wire/v1/update-major.json"),
        _ => include_str!("../../../shared/tests/wire/v1/update-with-idempotency-key.json"),
    };
    of_dns(body, id, component, micros)
}

fn of_dns(body: &str, id: UpdateId, component: i32, micros: i64) -> String {
    body.trim_end()
        .replace("019a0000-0000-7000-8000-000000000001", &id.to_string())
        .replace("1790000000123456", &micros.to_string())
        .replace("\"id\":7,", &format!("\"id\":{component},"))
}

async fn a_gateway_sends_what_is_recorded(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.sql("UPDATE sdb_topology SET wire = 2").await?;
    system.start_gateway(&[]).await?;
    system.components(&[DNS]).await?;
    let mut party = Party::join(&system).await?;
    let attributes =
        json!([{ "name": "region", "value": "EU-DE" }, { "name": "type", "value": "dns" }]);
    let body = json!({ "name": "DNS", "impact": 2, "text": "Slow", "attributes": attributes });

    let request = system.update(&body).header("Prefer", "respond-async");
    let accepted = answer(request).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    let expected = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type("status-update".into())
        .with_delivery_mode(2)
        .with_message_id(accepted.header("update-id").into());
    let message = party.next().await?;
    ensure!(message.properties == expected, "{:?}", message.properties);
    ensure!(message.routing_key.as_str() == "p1", "{}", message.routing_key);
    let update = UpdateMessage::decode(&message.data)?;
    ensure!(update.id.to_string() == accepted.header("update-id"));
    let text = String::from_utf8(message.data.to_vec())?;
    let wanted = recorded("major", update.id, 1, update.received_at.as_micros());
    ensure!(text == wanted, "{text}\ninstead of\n{wanted}");

    // One that waits for its outcome, in vain, with an idempotency key.
    let accepted = answer(system.update(&body).header("Idempotency-Key", "a-key")).await?;
    ensure!(accepted.status == 202, "{accepted:?}");
    let message = party.next().await?;
    let reply_to = message.properties.reply_to().clone().context("nowhere to reply to")?;
    ensure!(reply_to.as_str().starts_with("amq.rabbitmq.reply-to."), "{reply_to}");
    let expected =
        expected.with_message_id(accepted.header("update-id").into()).with_reply_to(reply_to);
    ensure!(message.properties == expected, "{:?}", message.properties);
    let update = UpdateMessage::decode(&message.data)?;
    let text = String::from_utf8(message.data.to_vec())?;
    let fingerprint = &update.idempotency.as_ref().context("no key")?.fingerprint;
    let wanted = recorded("with-idempotency-key", update.id, 1, update.received_at.as_micros())
        .replace(&"0123456789abcdef".repeat(4), fingerprint);
    ensure!(text == wanted, "{text}\ninstead of\n{wanted}");
    // SHA-256 of component id, impact and text: another release must come to the same.
    let known = "a fingerprint of 64 hexadecimal digits";
    ensure!(fingerprint.len() == 64 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()), known);

    system.start_worker(&[]).await?;
    system.finish().await
}

async fn a_gateway_sends_reports_only_where_workers_read_them(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.components(&[DNS]).await?;
    system.sql("UPDATE sdb_topology SET wire = 2").await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[]).await?;
    let plain = json!({ "name": "DNS", "impact": 1, "text": "Slow" });
    let source = "probe \"é\" 🚧";
    let named = json!({ "name": "DNS", "impact": 1, "text": "Slow", "source": source });
    let ok = json!({ "name": "DNS", "impact": "ok", "text": "Slow", "source": source });
    for body in [&named, &ok, &json!({ "name": "DNS", "impact": "ok" })] {
        let refused = system.post_with_default_wait(body).await?;
        let text = refused.body["message"].as_str().unwrap_or_default();
        ensure!(
            refused.status == 503 && text.contains("worker topology change --wire 3"),
            "{refused:?}"
        );
    }
    let accepted = answer(system.update(&plain).header("Prefer", "respond-async")).await?;
    ensure!(accepted.status == 202, "{accepted:?}");

    let (done, said) = system.worker_command(&["topology", "change", "--wire", "3"]).await?;
    ensure!(done, "{said}");
    // Then the new exchange is there.
    let taken = async || Ok(system.post(&plain).await?.status == 200);
    eventually("the gateway publishes in the new version", taken).await?;
    let mut party = Party::join(&system).await?;
    for (body, case) in [
        (&plain, include_str!("../../../shared/tests/wire/v3/update-of-nobody.json")),
        (&named, include_str!("../../../shared/tests/wire/v3/update-of-source.json")),
        (&ok, include_str!("../../../shared/tests/wire/v3/update-ok-of-source.json")),
    ] {
        let accepted = answer(system.update(body).header("Prefer", "respond-async")).await?;
        ensure!(accepted.status == 202, "{accepted:?}");
        let message = party.next().await?;
        let update = UpdateMessage::decode(&message.data)?;
        let text = String::from_utf8(message.data.to_vec())?;
        let wanted = of_dns(case, update.id, 1, update.received_at.as_micros());
        ensure!(text == wanted, "{text}\ninstead of\n{wanted}");
    }
    system.finish().await
}

async fn a_worker_answers_what_is_recorded(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.components(&[DNS]).await?;
    system.start_worker(&[]).await?;
    let mut party = Party::join(&system).await?;
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let micros = system.count(now).await?;
    let id = UpdateId::at(Timestamp::from_micros(micros)?);
    let body = recorded("major", id, 1, micros);
    let properties = BasicProperties::default().with_reply_to(party.queue.as_str().into());
    let (exchange, key) = (party.topology.publish_exchange(), party.topology.routing_key(1));

    for round in 0..2 {
        party.send(&exchange, &key, body.as_bytes(), properties.clone()).await?;
        // The queue also gets a copy of the update.
        let reply = loop {
            let message = party.next().await?;
            if message.routing_key.as_str() == party.queue {
                break message;
            }
        };
        let expected = BasicProperties::default().with_content_type("application/json".into());
        ensure!(reply.properties == expected, "{:?}", reply.properties);
        let (message, left_out) = ReplyMessage::decode(&reply.data)?;
        ensure!(left_out == 0 && message.results.len() == 1, "{message:?}");
        let text = String::from_utf8(reply.data.to_vec())?;
        let wanted = match &message.results[0].verdict {
            Verdict::Decided { incident: Some(incident), .. } if round == 0 => {
                // One that was just opened has no update yet.
                ensure!(incident.last_update_at.is_none(), "{incident:?}");
                wire("reply-decided-no-incident-of-impact.json")?
                    .replace("\"last_update_at\":1790000000000001", "\"last_update_at\":null")
                    .replace(
                        "\"start_date\":1790000000000000",
                        &at("start_date", incident.start_date.as_micros()),
                    )
                    .replace("\"id\":42", &format!("\"id\":{}", incident.id))
            }
            Verdict::Repeated { incident: Some(incident), .. } if round == 1 => {
                wire("reply-repeated-no-incident-of-impact.json")?
                    .replace("019a0000-0000-7000-8000-00000000000a", &id.to_string())
                    .replace("\"incident\":42", &format!("\"incident\":{incident}"))
            }
            other @ (Verdict::Decided { .. }
            | Verdict::Repeated { .. }
            | Verdict::Rejected { .. }
            | Verdict::Parked) => anyhow::bail!("{other:?}"),
        };
        let wanted = wanted.replace("019a0000-0000-7000-8000-000000000001", &id.to_string());
        ensure!(text == wanted, "{text}\ninstead of\n{wanted}");
    }
    system.finish().await
}

fn at(name: &str, micros: i64) -> String {
    format!("\"{name}\":{micros}")
}

/// A recorded body.
fn wire(file: &str) -> Result<String> {
    let path = deploy::checkout().join("shared/tests/wire/v1").join(file);
    let body = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(body.trim_end().to_owned())
}

async fn a_result_that_a_gateway_does_not_know_costs_no_other_its_outcome(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    system.components(&[("DNS", &[]), ("CDN", &[])]).await?;
    let mut party = Party::join(&system).await?;
    let dns = json!({ "name": "DNS", "impact": 1 });
    let cdn = json!({ "name": "CDN", "impact": 1 });
    let reply = async {
        let (first, second) = (party.next().await?, party.next().await?);
        let reply_to = first.properties.reply_to().clone().context("nowhere to reply to")?;
        let mut results = Vec::new();
        for message in [&first, &second] {
            let update = UpdateMessage::decode(&message.data)?;
            results.push(match update.component.name.as_str() {
                "DNS" => json!({ "id": update.id, "verdict": { "state": "decided", "reason":
                    "a_rule_of_the_future", "incident": { "id": 1 } } }),
                _ => json!({ "id": update.id, "verdict": { "state": "rejected" } }),
            });
        }
        let body = json!({ "v": 1, "results": results }).to_string();
        let properties = BasicProperties::default();
        party.send("", reply_to.as_str(), body.as_bytes(), properties).await
    };
    // That of DNS waits in vain.
    let (dns, cdn, replied) =
        tokio::join!(system.post_with_default_wait(&dns), system.post(&cdn), reply);
    replied?;
    let (dns, cdn) = (dns?, cdn?);
    ensure!(dns.status == 202, "{dns:?}");
    ensure!(cdn.status == 422, "{cdn:?}");
    let log = system.gateways[0].log()?;
    ensure!(log.contains("results of a newer worker can't be read"), "{log}");
    system.start_worker(&[]).await?;
    system.finish().await
}
