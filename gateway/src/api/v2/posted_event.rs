//! Reads an event as the reporter posts it.

#[cfg(test)]
mod tests;

use axum::http::StatusCode;
use serde_json::{Map, Value};
use shared::domain::{
    component::ComponentId, impact::Impact, incident::MAX_TITLE_CHARS, timestamp::Timestamp,
};
use utoipa::ToSchema;

use crate::{http::error::ApiError, ingest::submit::unknown_id, store::clock::TOLERATED};

/// Maximum number of components of one event.
const MOST_COMPONENTS: usize = 500;

/// What monitoring reports of components.
#[derive(Debug, PartialEq, Eq, ToSchema)]
#[schema(as = PostedEvent)]
pub(super) struct PostedEvent {
    /// The title of an incident that this report opens.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub(super) title: String,
    /// 1 minor, 2 major, 3 outage.
    #[schema(value_type = i16, minimum = 1, maximum = 3)]
    pub(super) impact: Impact,
    /// The ids of the components.
    #[schema(value_type = Vec<i32>, min_items = 1, max_items = 500)]
    pub(super) components: Vec<ComponentId>,
}

/// The rest of a report, which is checked and not kept.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `read` takes")]
pub(super) struct PostedReport {
    #[schema(inline)]
    #[serde(flatten)]
    event: PostedEvent,
    /// Not kept.
    #[schema(required = false)]
    description: String,
    /// RFC 3339, not in the future. Not kept: an incident starts when it is opened.
    #[schema(format = DateTime)]
    start_date: String,
    /// Always true.
    system: bool,
    /// Always `incident`.
    r#type: String,
}

impl PostedEvent {
    /// From the bytes of a body. `now` is the database's time, if it is known.
    ///
    /// # Errors
    /// 400 if something is invalid; 403 for what only people may do.
    pub(super) fn read(body: &[u8], now: Option<Timestamp>) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| bad(format!("the body is not valid JSON: {error}")))?;
        let Value::Object(fields) = value else { return Err(bad("the body is not an object")) };
        if fields.get("system") != Some(&Value::Bool(true)) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "only events with `system` true can be posted; operators use `worker incident open` and \
                `worker maintenance schedule`",
            ));
        }
        if fields.get("type").and_then(Value::as_str) != Some("incident") {
            return Err(bad("type must be incident"));
        }
        for field in ["end_date", "updates"] {
            if fields.contains_key(field) {
                return Err(bad(format!("{field} can't be given for an incident of the system")));
            }
        }
        check_start(&fields, now)?;
        check_description(&fields)?;
        Ok(Self {
            title: title(&fields)?,
            impact: impact(&fields)?,
            components: components(&fields)?,
        })
    }
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::bad_request(message)
}

fn title(fields: &Map<String, Value>) -> Result<String, ApiError> {
    let title = fields.get("title").and_then(Value::as_str).unwrap_or_default();
    if title.trim().is_empty() {
        return Err(bad("title is missing or empty"));
    }
    if title.chars().count() > MAX_TITLE_CHARS || title.chars().any(char::is_control) {
        return Err(bad("title is longer than 255 characters or has control characters"));
    }
    Ok(title.to_owned())
}

fn impact(fields: &Map<String, Value>) -> Result<Impact, ApiError> {
    let number = fields.get("impact").and_then(Value::as_i64);
    number
        .and_then(|number| i16::try_from(number).ok())
        .and_then(|number| Impact::try_from(number).ok())
        .filter(|impact| *impact != Impact::Maintenance)
        .ok_or_else(|| bad("impact must be 1, 2 or 3"))
}

fn components(fields: &Map<String, Value>) -> Result<Vec<ComponentId>, ApiError> {
    let list = fields.get("components").and_then(Value::as_array);
    let list = list
        .filter(|list| !list.is_empty())
        .ok_or_else(|| bad("components is missing or empty"))?;
    if list.len() > MOST_COMPONENTS {
        return Err(bad("components has more than 500 ids"));
    }
    let mut components = Vec::with_capacity(list.len());
    for id in list {
        let number = id.as_i64().ok_or_else(|| bad("components has something that is no id"))?;
        // Beyond the range of ids there is none.
        components.push(i32::try_from(number).map(ComponentId).map_err(|_| unknown_id(number))?);
    }
    Ok(components)
}

/// A start in the future is one that no two clocks that are set can explain.
fn check_start(fields: &Map<String, Value>, now: Option<Timestamp>) -> Result<(), ApiError> {
    let text = fields.get("start_date").and_then(Value::as_str);
    let start: Timestamp = text
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| bad("start_date is missing or is not a time of RFC 3339"))?;
    if now.is_some_and(|now| start > now.plus_micros(TOLERATED)) {
        return Err(bad("start_date is in the future"));
    }
    Ok(())
}

fn check_description(fields: &Map<String, Value>) -> Result<(), ApiError> {
    match fields.get("description") {
        None | Some(Value::Null | Value::String(_)) => Ok(()),
        Some(_) => Err(bad("description is not a text")),
    }
}
