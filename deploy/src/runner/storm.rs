//! A small storm for the eye: components of the sample catalogue fail, get worse, and some recover.

use std::{thread, time::Duration};

use anyhow::Result;
use deploy::say;
use serde_json::json;

use super::usage::Usage;

/// Time between two updates, so that somebody who looks at the page sees it change.
const PAUSE: Duration = Duration::from_millis(400);

/// What fails, one after the other.
const UPDATES: [(&str, &str, &str); 12] = [
    ("Object Storage", "Region 1", "minor"),
    ("Block Storage", "Region 1", "minor"),
    ("Virtual Machines", "Region 1", "minor"),
    ("Object Storage", "Region 1", "major"),
    ("Kubernetes", "Region 1", "major"),
    ("Block Storage", "Region 1", "major"),
    ("Object Storage", "Region 1", "outage"),
    ("Virtual Machines", "Region 1", "major"),
    ("Object Storage", "Region 2", "minor"),
    ("Block Storage", "Region 1", "outage"),
    ("Kubernetes", "Region 1", "ok"),
    ("Virtual Machines", "Region 1", "ok"),
];

/// Posts the updates, if the components are there.
///
/// # Errors
/// When the user asks to stop. An update that is not taken is only said: the rest goes on.
pub(super) fn play(usage: &Usage<'_>, mut healthy: impl FnMut() -> Result<()>) -> Result<()> {
    let Some(address) = usage.addresses.first().filter(|_| usage.has_samples) else {
        say("no storm is played: the database does not have the sample catalogue");
        return Ok(());
    };
    say("playing a small storm");
    for (name, region, impact) in UPDATES {
        healthy()?;
        let body = json!({
            "name": name,
            "impact": impact,
            "text": "Requests fail or take long",
            "attributes": [{ "name": "region", "value": region }],
        });
        match address.post("/api/v1/component_status", usage.token, &body.to_string()) {
            Ok(answer) if answer.starts_with("HTTP/1.1 2") => {}
            Ok(answer) => {
                let line = answer.lines().next().unwrap_or_default();
                say(&format!("an update of the storm was not taken: {line}"));
            }
            Err(error) => say(&format!("an update of the storm was not taken: {error:#}")),
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
