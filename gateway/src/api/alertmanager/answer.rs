//! What is answered about alerts.

use serde::Serialize;
use shared::{domain::component::Component, wire::message::UpdateMessage};
use utoipa::ToSchema;

use crate::{
    alertmanager::{alert::Fingerprint, alert_to_update::Rule},
    http::schema,
};

/// What became of the alerts, or what would become of them.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookAnswer)]
#[serde(untagged)]
pub(super) enum Received {
    // All mapped alerts are queued.
    #[schema(title = "Taken")]
    Taken(Taken),
    // Nothing was queued, as the client asked.
    #[schema(title = "DryRun")]
    DryRun(DryRun),
}

/// What became of alerts that were taken.
#[derive(Serialize, ToSchema)]
#[schema(as = TakenAlerts)]
pub(super) struct Taken {
    /// How many alerts are queued as updates. Alerts that the mapping passes over are in neither field.
    pub(super) accepted: usize,
    /// Those that are about no component.
    pub(super) unmapped: Vec<UnmappedJson>,
}

/// What would become of alerts.
#[derive(Serialize, ToSchema)]
#[schema(as = PlannedAlerts)]
pub(super) struct DryRun {
    /// The alerts that would be queued as updates, in the order of the request.
    pub(super) updates: Vec<PlannedJson>,
    /// Those that the mapping passes over.
    pub(super) passed_over: Vec<PassedOverJson>,
    /// Those that are about no component.
    pub(super) unmapped: Vec<UnmappedJson>,
}

/// The update that an alert makes.
#[derive(Serialize, ToSchema)]
#[schema(as = PlannedAlert)]
pub(super) struct PlannedJson {
    /// The fingerprint of the alert.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    fingerprint: String,
    /// The rule of the mapping that makes it.
    rule: String,
    /// The component of the update.
    #[schema(value_type = PlannedComponent)]
    component: Component,
    /// What it reports: `minor`, `major` or `outage`, or `ok` of an alert that is resolved.
    impact: String,
    /// The title of an incident that it opens.
    text: String,
}

impl PlannedJson {
    pub(super) fn new(fingerprint: Fingerprint, rule: &Rule, message: UpdateMessage) -> Self {
        let UpdateMessage { component, condition, text, .. } = message;
        Self {
            fingerprint: fingerprint.to_string(),
            rule: rule.to_string(),
            component,
            impact: condition.to_string(),
            text,
        }
    }
}

/// The component that an alert is about.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes a type of `shared`, which knows nothing of the web")]
struct PlannedComponent {
    /// Its id.
    id: i32,
    /// Its name.
    name: String,
    /// In the order of the catalogue.
    attributes: Vec<schema::Attribute>,
}

/// An alert that the mapping passes over.
#[derive(Serialize, ToSchema)]
#[schema(as = PassedOverAlert)]
pub(super) struct PassedOverJson {
    /// The fingerprint of the alert.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    pub(super) fingerprint: String,
    /// Which rule passes it over.
    pub(super) reason: String,
}

/// An alert that is about no component.
#[derive(Serialize, ToSchema)]
#[schema(as = UnmappedAlert)]
pub(super) struct UnmappedJson {
    /// The fingerprint of the alert. Absent if it is malformed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, pattern = "^[0-9a-f]{16}$")]
    pub(super) fingerprint: Option<String>,
    /// Why, for people.
    pub(super) reason: String,
}
