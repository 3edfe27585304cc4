//! The bodies with alerts, as the OpenAPI document describes them. An alert of any form is taken: one that is
//! malformed is not mapped, and does not affect the others.

use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Array, Object, ObjectBuilder, RefOr, Schema, schema::SchemaType},
};

use crate::alertmanager::alert_bodies::MAX_ALERTS;

/// A list of alerts.
pub(super) struct PostedAlerts;

impl PartialSchema for PostedAlerts {
    fn schema() -> RefOr<Schema> {
        alerts().into()
    }
}

impl ToSchema for PostedAlerts {}

/// What Alertmanager's webhook sends. Its other fields are ignored.
#[derive(ToSchema)]
#[schema(as = AlertmanagerWebhook, rename_all = "camelCase")]
#[expect(dead_code, reason = "describes what `Alerts::of_webhook` takes")]
pub(super) struct PostedWebhook {
    /// Always `4`.
    #[schema(pattern = "^4$")]
    version: String,
    #[schema(schema_with = alerts)]
    alerts: (),
    /// How many alerts Alertmanager left out, by its setting `max_alerts`.
    #[schema(required = false)]
    truncated_alerts: u32,
}

fn alerts() -> Array {
    let mut alerts = Array::new(alert());
    alerts.max_items = Some(MAX_ALERTS);
    alerts.description = Some("At most 20000.".to_owned());
    alerts
}

/// An alert.
fn alert() -> Object {
    let description = "An object with the fields of Alertmanager's alerts, of which these count: `labels`, a \
        label at least, and `annotations`, objects of texts; `startsAt` and `endsAt`, times in RFC 3339; \
        `fingerprint`, 16 hexadecimal digits, otherwise computed from the labels; `status`, `firing` or \
        `resolved`, only in the webhook's body.";
    let mut alert = ObjectBuilder::new().schema_type(SchemaType::AnyValue).build();
    alert.description = Some(description.to_owned());
    alert.example = Some(json!({
        "labels": { "alertname": "Slow", "component": "DNS", "region": "Region 1", "severity": "warning" },
        "annotations": { "summary": "DNS answers slowly" },
        "startsAt": "2026-03-01T12:00:00Z",
        "endsAt": "2026-03-01T12:04:00Z",
    }));
    alert
}
