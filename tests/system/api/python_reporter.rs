//! A program that was written for the Python dashboard.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};

use super::token_by_hand;
use harness::{Fixture, SECRET, System, tests};

tests!(a_program_written_for_the_python_dashboard_works_unchanged,);

/// As the reporter of the reference does: it reads the components, posts each with its attributes,
/// looks only at whether the answer is an error, and gives up after 2 s.
async fn a_program_written_for_the_python_dashboard_works_unchanged(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start_with(
        &fixture,
        &[
            ("Component 1", &[("region", "Reg1"), ("category", "Cat"), ("type", "t1")]),
            ("Component 1", &[("region", "Reg2"), ("category", "Cat"), ("type", "t1")]),
            ("Component 2", &[("region", "Reg1")]),
        ],
    )
    .await?;
    let base = format!("http://{}/api", system.addresses[0]);
    let token = token_by_hand(r#"{"alg":"HS256"}"#, &json!({ "stackmon": "dummy" }), SECRET)?;
    let program = Client::builder().timeout(Duration::from_secs(2)).no_proxy().build()?;
    let read = async |path: &str| -> Result<Value> {
        let response = program.get(format!("{base}{path}")).send().await?.error_for_status()?;
        Ok(response.json().await?)
    };
    let components = read("/v1/component_status").await?;
    ensure!(components.as_array().map(Vec::len) == Some(3), "{components}");
    for impact in [1, 2, 3, 3] {
        for component in components.as_array().into_iter().flatten() {
            let response = program
                .post(format!("{base}/v1/component_status"))
                .header("Authorization", format!("Bearer {token}"))
                .json(&json!({
                    "name": component["name"],
                    "impact": impact,
                    "attributes": component["attributes"],
                }))
                .send()
                .await?
                .error_for_status()?;
            let incident: Value = response.json().await?;
            ensure!(incident["impact"] == impact && incident["text"] == "Incident", "{incident}");
        }
    }
    let active = read("/v1/incidents?active=true").await?;
    ensure!(active.as_array().map(Vec::len) == Some(1) && active[0]["impact"] == 3, "{active}");
    let one = "/v1/component_status?name=Component%201&attribute_name=region&attribute_value=Reg2";
    let one = read(one).await?;
    ensure!(one["id"] == 2 && one["incidents"][0]["id"] == active[0]["id"], "{one}");
    for component in read("/v1/component_status").await?.as_array().into_iter().flatten() {
        ensure!(component["incidents"][0]["id"] == active[0]["id"], "{component}");
    }
    system.finish().await
}
