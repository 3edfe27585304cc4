//! The document of the API says what is true: every answer is held against it.

mod alerts;
mod answers;
mod document;
mod formats;
mod many_updates;
mod v2;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use harness::{Answer, System, answer, eventually, tests_of};

tests_of!(answers, document);

/// Headers that HTTP has everywhere.
const EVERYWHERE: [&str; 5] =
    ["connection", "content-length", "content-type", "date", "transfer-encoding"];
/// What every answer has, and how it begins.
const PROTECTION: [(&str, &str); 5] = [
    ("cache-control", "no-"),
    ("content-security-policy", "default-src 'none'; "),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

/// The document, and what of it was met.
struct Document {
    spec: Value,
    met: BTreeSet<String>,
}

impl Document {
    async fn read(system: &System) -> Result<Self> {
        let mut spec = answer(system.request_to(0, Method::GET, "/api-spec.json")).await?.body;
        ensure!(spec["openapi"] == "3.1.0", "{spec}");
        // A field that the document does not name is a difference, too.
        let schemas = spec["components"]["schemas"].as_object_mut().context("no schemas")?;
        for schema in schemas.values_mut().filter(|schema| schema["properties"].is_object()) {
            schema["additionalProperties"] = json!(false);
        }
        Ok(Self { spec, met: BTreeSet::new() })
    }

    /// Holds a value against a schema of the document.
    fn fits(&self, schema: &Value, value: &Value) -> Result<()> {
        let root = json!({ "components": self.spec["components"], "allOf": [schema] });
        let validator = jsonschema::options().should_validate_formats(true).build(&root)?;
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        ensure!(errors.is_empty(), "{value} does not fit: {}", errors.join("; "));
        Ok(())
    }

    /// Holds an answer against the document; returns it.
    fn check(&mut self, method: &str, path: &str, answer: Answer) -> Result<Answer> {
        let name = format!("{method} {path} {}", answer.status);
        self.compare(&name, method, path, &answer)
            .with_context(|| format!("{name}: {answer:?}"))?;
        Ok(answer)
    }

    fn compare(&mut self, name: &str, method: &str, path: &str, answer: &Answer) -> Result<()> {
        let described = match method {
            "HEAD" => &self.spec["paths"][path]["get"],
            method => &self.spec["paths"][path][method.to_ascii_lowercase()],
        };
        let described = &described["responses"][answer.status.to_string()];
        ensure!(described.is_object(), "the document does not have it");
        match (answer.header("content-type"), described["content"].as_object()) {
            ("", None) => ensure!(answer.body.is_null(), "a body without a type"),
            // One status with a body and without one can only be described in words.
            ("", Some(_)) if described["description"].to_string().contains("an empty body") => {
                ensure!(answer.body.is_null(), "a body without a type");
            }
            (media_type, content) => {
                let content = content.and_then(|content| content.get(media_type));
                let schema = &content.context("another content type")?["schema"];
                if method != "HEAD" {
                    self.fits(schema, &answer.body)?;
                }
            }
        }
        for (header, value) in PROTECTION {
            ensure!(answer.header(header).starts_with(value), "{header}");
        }
        let documented = described["headers"].as_object().into_iter().flatten();
        let documented: Vec<String> = documented.map(|(header, _)| header.clone()).collect();
        for (header, value) in &answer.headers {
            let known = documented.iter().find(|known| known.eq_ignore_ascii_case(header.as_str()));
            if let Some(known) = known {
                let schema = &described["headers"][known]["schema"];
                let text = value.to_str()?;
                let value = match schema["type"].as_str() {
                    Some("integer") => json!(text.parse::<i64>()?),
                    _ => json!(text),
                };
                self.fits(schema, &value)?;
                self.met.insert(format!("{name} {known}").replace("HEAD", "GET"));
            } else {
                let common = PROTECTION.map(|(name, _)| name);
                let mut known = EVERYWHERE.iter().chain(&common);
                ensure!(known.any(|known| header == known), "the header {header}");
            }
        }
        self.met.insert(name.replace("HEAD", "GET"));
        Ok(())
    }

    /// Every status, and every header of one, that the document has.
    fn promised(&self) -> Vec<String> {
        let mut promised = Vec::new();
        for (path, methods) in self.spec["paths"].as_object().into_iter().flatten() {
            for (method, described) in methods.as_object().into_iter().flatten() {
                let method = method.to_ascii_uppercase();
                for (status, response) in described["responses"].as_object().into_iter().flatten() {
                    promised.push(format!("{method} {path} {status}"));
                    for (header, _) in response["headers"].as_object().into_iter().flatten() {
                        promised.push(format!("{method} {path} {status} {header}"));
                    }
                }
            }
        }
        promised
    }

    /// Holds every example of the document against its own schema; returns how many there are.
    fn examples(&self) -> Result<usize> {
        let mut pairs = Vec::new();
        for (name, schema) in self.spec["components"]["schemas"].as_object().into_iter().flatten() {
            pairs.extend(schema.get("example").map(|example| (name, schema, example)));
        }
        for (name, methods) in self.spec["paths"].as_object().into_iter().flatten() {
            for (_, described) in methods.as_object().into_iter().flatten() {
                let responses = described["responses"].as_object().into_iter().flatten();
                let bodies = responses.map(|(_, response)| response);
                for body in bodies.chain(described.get("requestBody")) {
                    for (_, content) in body["content"].as_object().into_iter().flatten() {
                        let example = content.get("example");
                        pairs.extend(example.map(|example| (name, &content["schema"], example)));
                    }
                }
            }
        }
        for (name, schema, example) in &pairs {
            self.fits(schema, example).with_context(|| format!("an example of {name}"))?;
        }
        Ok(pairs.len())
    }
}

/// Each is there, compressed too, and is not sent again while nothing changes.
async fn are_cached(
    system: &System,
    document: &mut Document,
    asked: &[(&str, &str)],
) -> Result<()> {
    for (path, asked) in asked {
        let request =
            |method| system.request_to(0, method, asked).header("Accept-Encoding", "gzip");
        let compressed = document.check("HEAD", path, answer(request(Method::HEAD)).await?)?;
        ensure!(compressed.status == 200, "{compressed:?}");
        // A minute may end between the two.
        eventually("nothing has changed", async || {
            let first = answer(request(Method::HEAD)).await?;
            let again = request(Method::GET).header("If-None-Match", first.header("etag"));
            let again = answer(again).await?;
            // A compressed body is no text.
            Ok(again.status == 304 && document.check("GET", path, again).is_ok())
        })
        .await?;
    }
    Ok(())
}
