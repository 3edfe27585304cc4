//! Reads the fields of a status update, and collects the error of each.

use serde_json::{Map, Value, json};
use shared::{
    domain::{
        component::{Attribute, MAX_ATTRIBUTE_LENGTH, MAX_ATTRIBUTES},
        condition::Condition,
        incident::MAX_TITLE_CHARS,
        shorten::shorten,
    },
    wire::message::{MAX_REPORT_NAME, is_source},
};

use crate::http::{
    idempotency_key,
    impact::{ImpactInput, impact_from_number, impact_from_text},
};

/// Maximum number of unknown fields that an error names, and of characters of each name.
const NAMED_FIELDS: usize = 10;
const FIELD_NAME: usize = 60;
// The OpenAPI document and the error messages repeat the numbers literally.
const _: () = assert!(
    MAX_ATTRIBUTES == 32
        && MAX_ATTRIBUTE_LENGTH == 255
        && MAX_TITLE_CHARS == 255
        && idempotency_key::MAX_LENGTH == 255
        && MAX_REPORT_NAME == 255
);

pub(super) type Field<T> = Result<T, &'static str>;

pub(super) fn required(value: Option<Value>) -> Field<Value> {
    not_null(value.ok_or("Missing data for required field.")?)
}

pub(super) fn not_null(value: Value) -> Field<Value> {
    if value.is_null() { Err("Field may not be null.") } else { Ok(value) }
}

/// An error for each remaining field, and one for all those that are too many to name.
pub(crate) fn unknown(fields: &Map<String, Value>) -> Vec<(String, Value)> {
    let named = fields.keys().take(NAMED_FIELDS);
    let mut problems: Vec<(String, Value)> = named
        .map(|field| (shorten(field, FIELD_NAME).into_owned(), json!(["Unknown field."])))
        .collect();
    let more = fields.len().saturating_sub(NAMED_FIELDS);
    if more > 0 {
        problems.push(("_schema".to_owned(), json!([format!("{more} more unknown fields.")])));
    }
    problems
}

pub(super) fn string(value: Value) -> Field<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err("Not a valid string.")
        }
    }
}

pub(super) fn title(text: String) -> Field<String> {
    if text.chars().count() > MAX_TITLE_CHARS {
        return Err("Longer than maximum length 255.");
    }
    if text.chars().any(char::is_control) {
        return Err("Control characters are not allowed.");
    }
    Ok(text)
}

pub(super) fn idempotency_key(text: String) -> Field<String> {
    // A header value has no spaces at either end, and a key must be the same in the header and in the
    // body.
    if text.trim() == text && idempotency_key::is_valid(&text) {
        Ok(text)
    } else {
        Err("Must be 1 to 255 printable ASCII characters, none at either end a space.")
    }
}

pub(super) fn source(text: String) -> Field<String> {
    if is_source(&text) {
        Ok(text)
    } else {
        Err("Must be 1 to 255 characters, none a control character.")
    }
}

/// The name or the value of an attribute.
fn attribute_text(text: String) -> Field<String> {
    if text.chars().count() > MAX_ATTRIBUTE_LENGTH {
        return Err("Longer than maximum length 255.");
    }
    Ok(text)
}

/// The impact or `ok`; none for a number that is no impact.
pub(super) fn condition(value: Value) -> Field<Option<Condition>> {
    let input = match value {
        Value::String(word) if word == Condition::OK => return Ok(Some(Condition::Ok)),
        Value::Number(number) => impact_from_number(&number),
        Value::String(text) => impact_from_text(&text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            ImpactInput::Unreadable
        }
    };
    match input {
        ImpactInput::Impact(impact) => Ok(Some(impact.into())),
        ImpactInput::OutOfRange => Ok(None),
        ImpactInput::Unreadable => {
            Err("Not a valid impact: 1, 2, 3, \"minor\", \"major\", \"outage\" or \"ok\".")
        }
    }
}

/// The attributes, with the last value of a repeated name; or the errors by position in the list.
pub(super) fn attributes(value: Value) -> Result<Vec<Attribute>, Value> {
    let Value::Array(items) = value else {
        let problem = if value.is_null() { "Field may not be null." } else { "Not a valid list." };
        return Err(json!([problem]));
    };
    // Checked before the attributes: an error for each would make an answer of megabytes.
    if items.len() > MAX_ATTRIBUTES {
        return Err(json!([format!("Longer than maximum length {MAX_ATTRIBUTES}.")]));
    }
    let mut attributes: Vec<Attribute> = Vec::with_capacity(items.len());
    let mut wrong = Map::new();
    for (place, item) in items.into_iter().enumerate() {
        let Value::Object(mut fields) = item else {
            wrong.insert(place.to_string(), json!({ "_schema": ["Must be an object."] }));
            continue;
        };
        let name = required(fields.remove("name")).and_then(string).and_then(attribute_text);
        let value = required(fields.remove("value")).and_then(string).and_then(attribute_text);
        let mut problems: Map<String, Value> = unknown(&fields).into_iter().collect();
        for (field, problem) in [("name", name.as_ref().err()), ("value", value.as_ref().err())] {
            problems.extend(problem.map(|problem| (field.to_owned(), json!([problem]))));
        }
        if let (Ok(name), Ok(value), true) = (name, value, problems.is_empty()) {
            match attributes.iter_mut().find(|attribute| attribute.name == name) {
                Some(attribute) => attribute.value = value,
                None => attributes.push(Attribute { name, value }),
            }
        } else {
            wrong.insert(place.to_string(), Value::Object(problems));
        }
    }
    if wrong.is_empty() { Ok(attributes) } else { Err(Value::Object(wrong)) }
}
