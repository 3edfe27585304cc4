//! What is printed once all runs: how to use it.

use anyhow::Result;
use deploy::settings;

use super::{address::Address, backing::Backing, environment::EnvironmentFile, system::System};

/// The first component of `sample-catalogue.yaml`, as an update names it.
const SAMPLE_UPDATE: &str = r#"{"name": "Object Storage", "impact": "minor", "text": "High latency", "attributes": [{"name": "region", "value": "Region 1"}]}"#;

/// What runs.
pub(super) struct Usage<'a> {
    pub(super) addresses: &'a [Address],
    pub(super) token: &'a str,
    /// Whether the sample components are known to be there.
    pub(super) has_samples: bool,
}

impl Usage<'_> {
    /// Writes what a shell needs for the commands of an operator and for the tour.
    pub(super) fn write_environment(
        &self,
        backing: &Backing,
        system: &System,
    ) -> Result<EnvironmentFile> {
        let bind = self.addresses.first().map(Address::to_string).unwrap_or_default();
        EnvironmentFile::write(
            backing.folder(),
            &system.environment,
            backing.is_private(),
            system.programs.worker.parent(),
            &[(settings::BIND, &bind), ("URL", &self.url()), ("TOKEN", self.token)],
        )
    }

    /// What is printed; `read_environment` is the command that reads the environment file.
    pub(super) fn text(&self, read_environment: &str) -> String {
        let (url, token) = (self.url(), self.token);
        let others: Vec<String> = self.addresses.iter().skip(1).map(Address::url).collect();
        let others = if others.is_empty() {
            String::new()
        } else {
            format!("The other gateways: {}\n", others.join(" "))
        };
        let post = if self.has_samples {
            format!(
                "Post an update:\n\n  curl -i {url}/api/v1/component_status -H 'Content-Type: \
                 application/json' -H 'Authorization: Bearer {token}' -d '{SAMPLE_UPDATE}'\n\n"
            )
        } else {
            String::new()
        };
        format!(
            "\nThe Status Dashboard is running. Open its page in a browser:\n\n  {url}/\n\nIts API:\n\n  \
             {url}/api-docs\n\n{others}Token: {token}\n\n{post}See the components and the \
             incidents:\n\n  curl {url}/api/v1/component_status\n  curl \
             {url}/api/v1/incidents\n\nIn another terminal (sh, bash or zsh), set the variables of \
             the tour in docs/tour.md and of the\noperator's commands, then try one:\n\n  \
             {read_environment}\n  worker topology show\n"
        )
    }

    fn url(&self) -> String {
        self.addresses.first().map(Address::url).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_update_to_paste_names_the_first_sample_component() {
        let catalogue = include_str!("../../sample-catalogue.yaml");
        let (_, first) = catalogue.split_once("  - ").unwrap();
        let (first, _) = first.split_once("  - ").unwrap();
        let update: serde_json::Value = serde_json::from_str(SAMPLE_UPDATE).unwrap();
        assert!(first.contains(&format!("name: {}\n", update["name"].as_str().unwrap())));
        for attribute in update["attributes"].as_array().unwrap() {
            let text = |key| attribute[key].as_str().unwrap();
            assert!(first.contains(&format!("      {}: {}\n", text("name"), text("value"))));
        }
        // It is between single quotes on the line to paste.
        assert!(!SAMPLE_UPDATE.contains('\''));
    }
}
