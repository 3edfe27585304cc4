//! Operators' commands on alert mappings.

pub mod mapping;
