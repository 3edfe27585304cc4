//! What alerting pipelines send, and the updates that the mapping file makes of it. Pure.
//!
//! A body is read alert by alert ([`alert_bodies`], [`alert`]). The mapping file ([`mapping_file`]) has rules with
//! Alertmanager's matchers ([`matcher`]) and with templates ([`template`]); the first rule that matches an
//! alert decides what becomes of it ([`alert_to_update`]). [`reachable_components`] compares the rules with a
//! catalogue.

pub(crate) mod alert;
pub(crate) mod alert_bodies;
pub(crate) mod alert_to_update;
mod expression;
pub(crate) mod mapping_file;
pub(crate) mod matcher;
pub(crate) mod reachable_components;
mod template;
