//! What alerting pipelines send, and the updates that the mapping file makes of it. Pure.
//!
//! A body is read alert by alert ([`payload`], [`alert`]). The mapping file ([`mod@file`]) has rules with
//! Alertmanager's matchers ([`matcher`]) and with templates ([`template`]); the first rule that matches an
//! alert decides what becomes of it ([`mapping`]). [`reachability`] compares the rules with a catalogue.

pub(crate) mod alert;
mod expression;
pub(crate) mod file;
pub(crate) mod mapping;
pub(crate) mod matcher;
pub(crate) mod payload;
pub(crate) mod reachability;
mod template;
