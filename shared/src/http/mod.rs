//! HTTP of both programs: health, the admin address, canonical paths.

pub mod admin;
pub mod health;
pub mod paths;
