//! What can't be applied is parked with its reason, and requeued by an operator.

mod causes;
mod requeue;
mod retries;

use std::sync::Arc;

use anyhow::{Result, ensure};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Value, json};
use shared::{
    amqp::topology::Topology,
    domain::{
        component::{Component, ComponentId},
        impact::Impact,
        timestamp::Timestamp,
        update_id::UpdateId,
    },
    wire::message::UpdateMessage,
};

use harness::{Answer, Fixture, System, tests_of};

tests_of!(causes, requeue, retries);

/// A foreign publisher, which can send what a gateway never would.
pub(crate) struct Publisher {
    _connection: Connection,
    channel: Channel,
    topology: Topology,
}

impl Publisher {
    pub(crate) async fn connect(system: &System) -> Result<Self> {
        let connection =
            Connection::connect(&system.amqp_uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { _connection: connection, channel, topology: system.topology().await? })
    }

    pub(crate) fn queue_of(&self, component: i32) -> String {
        self.topology.queue(ComponentId(component).partition(self.topology.partitions))
    }

    /// Sends bytes to the partition of a component and waits for the confirmation.
    pub(crate) async fn send(
        &self,
        component: i32,
        payload: &[u8],
        message_id: Option<&str>,
    ) -> Result<()> {
        let partition = ComponentId(component).partition(self.topology.partitions);
        let mut properties = BasicProperties::default().with_delivery_mode(2);
        if let Some(id) = message_id {
            properties = properties.with_message_id(id.into());
        }
        let confirmation = self
            .channel
            .basic_publish(
                self.topology.exchange().into(),
                self.topology.routing_key(partition).into(),
                BasicPublishOptions::default(),
                payload,
                properties,
            )
            .await?
            .await?;
        ensure!(confirmation.is_ack(), "{confirmation:?}");
        Ok(())
    }

    /// Sends an update as a gateway does.
    pub(crate) async fn send_update(&self, update: &UpdateMessage) -> Result<()> {
        let id = update.id.to_string();
        self.send(update.component.id.0, &update.encode(), Some(&id)).await
    }
}

/// An update for a component, with an id made now by the database's clock.
pub(crate) async fn message(system: &System, id: i32, name: &str) -> Result<UpdateMessage> {
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let micros = system.count(now).await?;
    Ok(UpdateMessage {
        id: UpdateId::at(Timestamp::from_micros(micros)?),
        component: Component { id: ComponentId(id), name: name.to_owned(), attributes: Vec::new() },
        condition: Impact::Minor.into(),
        text: "Incident".to_owned(),
        received_at: Timestamp::from_micros(micros)?,
        idempotency: None,
        report: None,
    })
}

pub(crate) fn update(name: &str, impact: u8, text: &str) -> Value {
    json!({ "name": name, "impact": impact, "text": text })
}

/// The component's updates in the inbox, in the order in which they took effect.
pub(crate) async fn in_order(system: &System, component: i32) -> Result<Vec<String>> {
    let query = "SELECT id::text FROM sdb_inbox WHERE component_id = $1 ORDER BY position";
    Ok(sqlx::query_scalar(query).bind(component).fetch_all(&system.database).await?)
}

pub(crate) async fn with_components(fixture: &Arc<Fixture>) -> Result<System> {
    System::start_with(fixture, &[("DNS", &[]), ("CDN", &[]), ("Mail", &[])]).await
}

/// A trigger before inserts into a table that refuses rows with a text, as a database whose owner
/// has rules of their own.
pub(crate) async fn refuse(system: &System, table: &str, text: &str, how: &str) -> Result<()> {
    system
        .sql(&format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.text = '{text}' THEN RAISE EXCEPTION 'we take no %', NEW.text {how}; END IF;
                RETURN NEW;
            END $$;
            CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON {table}
                FOR EACH ROW EXECUTE FUNCTION refuse();"
        ))
        .await
}

/// Posts an update and waits for its outcome, however slow the machine is.
pub(crate) async fn settled(system: &System, update: &Value) -> Result<Answer> {
    system.post(update).await
}
