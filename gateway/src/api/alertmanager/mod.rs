//! Alerts from pipelines: Alertmanager's API v2, for those that send to an Alertmanager, and its webhook.

mod answer;
mod body_schemas;
pub(crate) mod post_alerts;
pub(crate) mod post_webhook;
mod receive_alerts;
