//! HTTP of both programs: health and readiness, the admin address, canonical paths.

pub mod admin;
pub mod health;
pub mod paths;
pub mod servers_report;
