//! Requests to the gateways of a system, and their answers.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{System, eventually};

/// Where updates are posted, and components listed.
pub const COMPONENT_STATUS: &str = "/api/v1/component_status";
/// Where incidents are listed.
pub const INCIDENTS: &str = "/api/v1/incidents";

/// The body of a status update.
#[must_use]
pub fn status_update(name: &str, impact: u8) -> Value {
    json!({ "name": name, "impact": impact })
}

/// Fails unless both are the same, and shows both.
pub fn same(found: &Value, expected: &Value) -> Result<()> {
    ensure!(found == expected, "found {found:#}, not {expected:#}");
    Ok(())
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; null when it is empty.
    pub body: Value,
}

impl Answer {
    /// The text of a header; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl System {
    /// A request to one of the gateways.
    pub fn request_to(&self, gateway: usize, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.addresses[gateway]))
    }

    /// An update to the first gateway, with the token.
    pub fn update(&self, body: &Value) -> RequestBuilder {
        self.update_to(0, body)
    }

    /// An update to one of the gateways, with the token.
    pub fn update_to(&self, gateway: usize, body: &Value) -> RequestBuilder {
        self.request_to(gateway, Method::POST, COMPONENT_STATUS).bearer_auth(&self.token).json(body)
    }

    /// Posts an update and returns the answer. It waits for the outcome as long as a gateway allows: the
    /// default wait is over before a slow machine has decided the update.
    pub async fn post(&self, body: &Value) -> Result<Answer> {
        self.post_and_wait(30, body).await
    }

    /// The same with another wait, in seconds: shorter where the answer may be lost, so that there is another try.
    pub async fn post_and_wait(&self, seconds: u8, body: &Value) -> Result<Answer> {
        answer(self.update(body).header("Prefer", format!("wait={seconds}"))).await
    }

    /// Posts an update until it is answered with its outcome.
    pub async fn is_decided(&self, body: &Value) -> Result<()> {
        eventually("an update is decided", async || {
            Ok([200, 201].contains(&self.post_and_wait(10, body).await?.status))
        })
        .await
    }

    /// The same for a client that does not say how long it waits.
    pub async fn post_with_default_wait(&self, body: &Value) -> Result<Answer> {
        answer(self.update(body)).await
    }

    /// Gets a path, with the token.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        answer(self.request_to(0, Method::GET, path).bearer_auth(&self.token)).await
    }

    /// Posts an update to one of the gateways without waiting for its outcome; returns its id.
    pub async fn post_async(&self, gateway: usize, body: &Value) -> Result<String> {
        let request = self.update_to(gateway, body).header("Prefer", "respond-async");
        let accepted = answer(request).await?;
        ensure!(accepted.status == 202, "{accepted:?}");
        Ok(accepted.header("update-id").to_owned())
    }

    /// The receipt of an update.
    pub async fn receipt(&self, id: &str) -> Result<Value> {
        let receipt = self.get(&format!("/api/v1/updates/{id}")).await?;
        ensure!(receipt.status == 200, "{receipt:?}");
        Ok(receipt.body)
    }

    /// Waits until an update is applied; returns its receipt.
    pub async fn applied(&self, id: &str) -> Result<Value> {
        let mut receipt = Value::Null;
        eventually("the update is applied", async || {
            receipt = self.receipt(id).await?;
            Ok(receipt["state"] != "pending")
        })
        .await?;
        ensure!(receipt["state"] == "done", "{receipt}");
        Ok(receipt)
    }
}

/// Sends a request and reads the whole answer.
pub async fn answer(request: RequestBuilder) -> Result<Answer> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let is_json = headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok())
        .is_none_or(|kind| kind.starts_with("application/json"));
    let bytes = response.bytes().await?;
    let body = match (bytes.is_empty(), is_json) {
        (true, _) => Value::Null,
        (false, true) => serde_json::from_slice(&bytes)?,
        (false, false) => Value::String(String::from_utf8(bytes.into())?),
    };
    Ok(Answer { status, headers, body })
}

/// Asks again while the answer is 503 because the database did not answer in time, as where a machine stalls: after
/// 2 s or more, and for some time only.
pub async fn unless_unanswered<T>(
    ask: impl AsyncFn() -> Result<T>,
    status: impl Fn(&T) -> u16,
) -> Result<T> {
    let began = Instant::now();
    loop {
        let answered = ask().await?;
        let is_unanswered =
            (Duration::from_secs(2)..Duration::from_secs(60)).contains(&began.elapsed());
        if status(&answered) != 503 || !is_unanswered {
            return Ok(answered);
        }
    }
}
