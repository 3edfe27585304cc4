//! Commands with which operators try things out, beside those of `main.rs`.

pub mod mapping;
