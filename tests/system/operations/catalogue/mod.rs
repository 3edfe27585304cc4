//! Catalogue files: which component an entry means, how components are renamed, and what operators'
//! commands cost the workers.

mod apply;
mod cost;
mod rename;

use std::fs;

use anyhow::{Context, Result};

use harness::{System, tests_of};

tests_of!(apply, cost, rename);

/// Applies a file with these components, each an entry as YAML has it in one line.
async fn apply(system: &System, entries: &[&str], more: &[&str]) -> Result<(bool, String)> {
    let path = system.context.folder.join("catalogue.yaml");
    let entries: Vec<String> =
        entries.iter().map(|entry| format!("- {{name: {entry}}}\n")).collect();
    fs::write(&path, format!("components:\n{}", entries.concat()))?;
    let path = path.to_str().context("the path is no text")?;
    system.worker_command(&[&["catalogue", "apply", path], more].concat()).await
}

/// Each component with its id, its attributes in order, and its incidents.
async fn components(system: &System) -> Result<Vec<String>> {
    system
        .texts(
            "SELECT concat_ws(' ', c.id, c.name,
            (SELECT string_agg(a.value, ',' ORDER BY a.id) FROM component_attribute a
                WHERE a.component_id = c.id),
            (SELECT 'in ' || string_agg(r.incident_id::text, ',' ORDER BY r.incident_id)
                FROM incident_component_relation r WHERE r.component_id = c.id))
        FROM component c ORDER BY c.id",
        )
        .await
}
