//! An event as answers show it.

use serde::Serialize;
use shared::domain::{
    component::ComponentId,
    incident::{IncidentId, SYSTEM_STATUS},
    timestamp::Timestamp,
};
use utoipa::{
    ToSchema,
    openapi::{KnownFormat, Object, SchemaFormat, Type},
};

use super::markdown;
use crate::store::events::Event;

/// The status of an update that has the description of its event.
const DESCRIPTION: &str = "description";

/// An incident or a maintenance.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventJson<'a> {
    /// Its id.
    #[schema(value_type = i32)]
    id: IncidentId,
    /// Its title, as plain text.
    #[schema(example = "High latency")]
    title: &'a str,
    /// 0 maintenance, 1 minor, 2 major, 3 outage.
    #[schema(minimum = 0, maximum = 3, example = 1)]
    impact: i16,
    /// The ids of its components.
    #[schema(value_type = Vec<i32>)]
    components: &'a [ComponentId],
    #[schema(schema_with = time)]
    start_date: String,
    #[schema(schema_with = end, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    end_date: Option<String>,
    /// Whether this service opened it and no person has changed it since.
    system: bool,
    #[serde(rename = "type")]
    kind: EventType,
    /// An open incident: `detected`, `analysing`, `fixing`, `impact changed`, `observing` or `reopened`; a closed
    /// one: `resolved`. A maintenance: `planned`, `in_progress`, `modified` or `completed`.
    #[schema(example = "detected")]
    status: &'a str,
    /// What happened to it, oldest first.
    updates: Vec<UpdateJson>,
    /// A description. Absent if there is none.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
}

/// The type of an event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EventType {
    Incident,
    Maintenance,
}

/// An update of an event.
#[derive(Serialize, ToSchema)]
#[schema(as = EventUpdate)]
struct UpdateJson {
    /// Its place in the list, from 0.
    id: usize,
    /// `SYSTEM` for what this service did, otherwise an operator's status.
    #[schema(example = "SYSTEM")]
    status: String,
    /// Markdown for what this service did, otherwise as the operator wrote it.
    #[schema(example = "impact changed from minor to major")]
    text: String,
    #[schema(schema_with = time)]
    timestamp: String,
}

fn time() -> Object {
    let mut text = Object::with_type(Type::String);
    text.description = Some("UTC.".to_owned());
    text.format = Some(SchemaFormat::KnownFormat(KnownFormat::DateTime));
    text.examples = vec!["2026-03-01T12:00:00.000000Z".into()];
    text
}

fn end() -> Object {
    let mut text = time();
    text.description = Some("UTC, possibly to come. Absent while it is open.".to_owned());
    text
}

/// RFC 3339, which has no years before 0.
fn rfc3339(time: Timestamp) -> String {
    let text = time.to_the_microsecond();
    if text.starts_with('-') { "0000-01-01T00:00:00.000000Z".to_owned() } else { text }
}

impl<'a> EventJson<'a> {
    pub(super) fn new(event: &'a Event) -> Self {
        let Event { incident, system, status, components } = event;
        let description = incident.updates().find(|(status, ..)| *status == DESCRIPTION);
        let oldest_first = incident.updates().rev();
        let updates = oldest_first.filter(|(status, ..)| *status != DESCRIPTION).enumerate();
        Self {
            id: incident.id,
            title: &incident.text,
            impact: incident.impact,
            components,
            start_date: rfc3339(incident.start_date),
            end_date: incident.end_date.map(rfc3339),
            system: *system,
            kind: if incident.impact == 0 { EventType::Maintenance } else { EventType::Incident },
            status,
            updates: updates
                .map(|(id, (status, text, at))| UpdateJson {
                    id,
                    status: word(status).to_owned(),
                    text: if status == SYSTEM_STATUS {
                        markdown::from_html(text)
                    } else {
                        text.to_owned()
                    },
                    timestamp: rfc3339(at),
                })
                .collect(),
            description: description.map(|(_, text, _)| text),
        }
    }
}

/// A status of the Python dashboard in the words of API v2.
fn word(status: &str) -> &str {
    match status {
        "analyzing" => "analysing",
        "in progress" => "in_progress",
        "scheduled" => "planned",
        other => other,
    }
}
