//! Reads a status update, and names every invalid field.

pub(super) mod fields;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};
use shared::{
    domain::{
        component::Attribute,
        condition::Condition,
        impact::Impact,
        incident::{DEFAULT_TITLE, MAX_TITLE_CHARS},
    },
    wire::message::{MAX_REPORT_NAME, Report},
};
use utoipa::{
    ToSchema,
    openapi::{Object, Type},
};

use self::fields::{
    attributes, condition, idempotency_key, not_null, required, source, string, title, unknown,
};
use crate::{
    http::{error::ApiError, schema},
    ingest::submit::{ComponentRef, StatusUpdate},
};

/// The reported impact of a component, or that it is well again.
#[derive(Debug, PartialEq, Eq, ToSchema)]
#[schema(as = StatusUpdate)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostedUpdate {
    /// The name of the component.
    #[schema(example = "Object Storage")]
    pub(crate) name: String,
    /// Never the impact `Maintenance`.
    #[serde(rename = "impact")]
    #[schema(schema_with = reportable)]
    pub(crate) condition: Condition,
    #[schema(schema_with = titled, required = false)]
    pub(crate) text: String,
    /// Attributes that identify the component: it is the one with this name and exactly these attributes, or
    /// else the only one with this name and these attributes among others. If an attribute is repeated, its
    /// last value counts.
    #[schema(value_type = Vec<PostedAttribute>, required = false, max_items = 32)]
    pub(crate) attributes: Vec<Attribute>,
    #[schema(schema_with = named_source, required = false)]
    pub(crate) source: Option<String>,
}

/// An attribute of the component that an update is about.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes a type of `shared`, which knows nothing of the web")]
struct PostedAttribute {
    /// The name of the attribute.
    #[schema(example = "region", max_length = 255)]
    name: String,
    /// The component's value of it.
    #[schema(example = "Region 1", max_length = 255)]
    value: String,
}

/// What can be reported, never a maintenance, as [`condition`] reads it.
fn reportable() -> Object {
    let impacts = Impact::REPORTABLE;
    let numbers = impacts.map(|impact| json!(i16::from(impact)));
    let digits = impacts.map(|impact| json!(i16::from(impact).to_string()));
    let words = impacts.map(|impact| json!(impact.word()));
    let all = numbers.into_iter().chain(digits).chain(words).chain([json!(Condition::OK)]);
    let mut impact = schema::one_of(all);
    impact.description = Some(
        "1 minor, 2 major, 3 outage; `ok`: what this source reported of the component has ended."
            .to_owned(),
    );
    impact
}

/// What [`title`] takes.
fn titled() -> Object {
    let mut text = Object::with_type(Type::String);
    text.description = Some("The title of an incident that this update opens.".to_owned());
    text.max_length = Some(MAX_TITLE_CHARS);
    text.pattern = Some(r"^[^\u0000-\u001f\u007f-\u009f]*$".to_owned());
    text.default = Some(json!(DEFAULT_TITLE));
    text
}

/// What [`source`] takes.
fn named_source() -> Object {
    let mut source = Object::with_type(Type::String);
    source.description = Some(
        "Who reports it: `ok` ends only what the same source has reported. Without it, the claim `sub` of \
        the token."
            .to_owned(),
    );
    (source.min_length, source.max_length) = (Some(1), Some(MAX_REPORT_NAME));
    source.pattern = Some(r"^[^\u0000-\u001f\u007f-\u009f]+$".to_owned());
    source
}

impl PostedUpdate {
    /// From the bytes of a body.
    ///
    /// # Errors
    /// 400 if it is not JSON or its impact can't be reported, 422 if fields are invalid.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::bad_request("The body is empty: a JSON object is needed"));
        }
        let value = serde_json::from_slice(body).map_err(|error| no_json(&error))?;
        Self::from_fields(object(value)?, Map::new())
    }

    /// One of many updates, which may carry its idempotency key.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn one_of_many(value: Value) -> Result<StatusUpdate, ApiError> {
        let mut fields = object(value)?;
        let mut wrong = Map::new();
        let key = match fields.remove("idempotency_key") {
            None => None,
            Some(key) => match not_null(key).and_then(string).and_then(idempotency_key) {
                Ok(key) => Some(key),
                Err(problem) => {
                    wrong.insert("idempotency_key".to_owned(), json!([problem]));
                    None
                }
            },
        };
        Ok(Self::from_fields(fields, wrong)?.with_key(key))
    }

    /// As it is submitted.
    pub(crate) fn with_key(self, idempotency_key: Option<String>) -> StatusUpdate {
        let Self { name, condition, text, attributes, source } = self;
        let component = ComponentRef::Named { name, attributes };
        let report = Report { source: source.unwrap_or_default(), ..Report::default() };
        StatusUpdate { component, condition, text, idempotency_key, report }
    }

    /// From the fields; `wrong` has the errors found so far.
    fn from_fields(
        mut fields: Map<String, Value>,
        mut wrong: Map<String, Value>,
    ) -> Result<Self, ApiError> {
        let mut note = |field: &str, problem: Value| {
            wrong.insert(field.to_owned(), problem);
        };

        let name = required(fields.remove("name")).and_then(string);
        let condition = required(fields.remove("impact")).and_then(condition);
        let text = match fields.remove("text") {
            None => Ok(DEFAULT_TITLE.to_owned()),
            Some(value) => not_null(value).and_then(string).and_then(title),
        };
        let attributes = match fields.remove("attributes") {
            None => Ok(Vec::new()),
            Some(value) => attributes(value),
        };
        let source = match fields.remove("source") {
            None => Ok(None),
            Some(value) => not_null(value).and_then(string).and_then(source).map(Some),
        };
        for (field, problem) in unknown(&fields) {
            note(&field, problem);
        }
        for (field, problem) in [
            ("name", name.as_ref().err()),
            ("impact", condition.as_ref().err()),
            ("text", text.as_ref().err()),
            ("source", source.as_ref().err()),
        ] {
            if let Some(problem) = problem {
                note(field, json!([problem]));
            }
        }
        if let Err(problem) = &attributes {
            note("attributes", problem.clone());
        }
        match (name, condition, text, attributes, source) {
            (Ok(name), Ok(condition), Ok(text), Ok(attributes), Ok(source)) if wrong.is_empty() => {
                let reportable =
                    |condition: &Condition| *condition != Condition::Impact(Impact::Maintenance);
                let condition = condition.filter(reportable).ok_or_else(|| {
                    ApiError::bad_request("Incident impact is not allowed by configuration")
                })?;
                Ok(Self { name, condition, text, attributes, source })
            }
            _ => Err(ApiError::unprocessable("json", Value::Object(wrong))),
        }
    }
}

/// The error for a body that is not JSON.
pub(super) fn no_json(error: &serde_json::Error) -> ApiError {
    ApiError::bad_request(format!("The body is not valid JSON: {error}"))
}

fn object(value: Value) -> Result<Map<String, Value>, ApiError> {
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(no_object())
        }
    }
}

/// The error for JSON that is not an object.
pub(super) fn no_object() -> ApiError {
    ApiError::unprocessable("json", json!({ "_schema": ["Must be an object."] }))
}
