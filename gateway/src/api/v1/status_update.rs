//! Reads the body of a status update, naming every field that can't be used.

use serde_json::{Map, Value, json};
use shared::{
    component::{Attribute, MAX_ATTRIBUTE_LENGTH, MAX_ATTRIBUTES},
    impact::Impact,
    shorten::shorten,
};
use utoipa::{
    ToSchema,
    openapi::{Object, Type},
};

use crate::http::{
    error::ApiError,
    impact::{ImpactInput, impact_from_number, impact_from_text},
    schema,
};

/// Characters of the title of an incident, at most.
const LONGEST_TEXT: usize = 255;
const DEFAULT_TEXT: &str = "Incident";
/// Unknown fields of an object that a refusal names, at most; and characters of the name of one.
const NAMED_FIELDS: usize = 10;
const FIELD_NAME: usize = 60;
// The document and the errors have the numbers as they are.
const _: () = assert!(MAX_ATTRIBUTES == 32 && MAX_ATTRIBUTE_LENGTH == 255);

/// A component shows an impact.
#[derive(Debug, PartialEq, Eq, ToSchema)]
#[schema(as = StatusUpdate)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostedUpdate {
    /// The name of the component.
    #[schema(example = "Object Storage")]
    pub(crate) name: String,
    /// Never `Maintenance`.
    #[schema(schema_with = reportable)]
    pub(crate) impact: Impact,
    #[schema(schema_with = titled, required = false)]
    pub(crate) text: String,
    /// The component is the one with this name and exactly these attributes; failing that, the only
    /// one with this name whose attributes contain these. Of a repeated name the last value counts.
    #[schema(value_type = Vec<PostedAttribute>, required = false, max_items = 32)]
    pub(crate) attributes: Vec<Attribute>,
}

/// An attribute of the component that an update is about.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes a type of `shared`, which knows nothing of the web")]
struct PostedAttribute {
    /// What is said, such as `region`.
    #[schema(example = "region", max_length = 255)]
    name: String,
    /// What it is for this component.
    #[schema(example = "Region 1", max_length = 255)]
    value: String,
}

/// The impacts that can be reported, never a maintenance, as [`impact`] reads them.
fn reportable() -> Object {
    let impacts = Impact::REPORTABLE;
    let numbers = impacts.map(|impact| json!(i16::from(impact)));
    let digits = impacts.map(|impact| json!(i16::from(impact).to_string()));
    let words = impacts.map(|impact| json!(impact.word()));
    let mut impact = schema::one_of(numbers.into_iter().chain(digits).chain(words));
    impact.description = Some("1 minor, 2 major, 3 outage.".to_owned());
    impact
}

/// What [`title`] takes.
fn titled() -> Object {
    let mut text = Object::with_type(Type::String);
    text.description = Some("The title of an incident that this update opens.".to_owned());
    text.max_length = Some(LONGEST_TEXT);
    text.pattern = Some(r"^[^\u0000-\u001f\u007f-\u009f]*$".to_owned());
    text.default = Some(json!(DEFAULT_TEXT));
    text
}

impl PostedUpdate {
    /// From the bytes of a body.
    ///
    /// # Errors
    /// 400 when it is not JSON or the impact can't be reported, 422 when fields can't be used.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::bad_request("The body is empty: a JSON object is needed"));
        }
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request(format!("The body is not valid JSON: {error}"))
        })?;
        let Value::Object(mut fields) = value else {
            return Err(ApiError::unprocessable(
                "json",
                json!({ "_schema": ["Must be an object."] }),
            ));
        };
        let mut wrong = Map::new();
        let mut note = |field: &str, problem: Value| {
            wrong.insert(field.to_owned(), problem);
        };

        let name = required(fields.remove("name")).and_then(string);
        let impact = required(fields.remove("impact")).and_then(impact);
        let text = match fields.remove("text") {
            None => Ok(DEFAULT_TEXT.to_owned()),
            Some(value) => not_null(value).and_then(string).and_then(title),
        };
        let attributes = match fields.remove("attributes") {
            None => Ok(Vec::new()),
            Some(value) => attributes(value),
        };
        for (field, problem) in unknown(&fields) {
            note(&field, problem);
        }
        for (field, problem) in [
            ("name", name.as_ref().err()),
            ("impact", impact.as_ref().err()),
            ("text", text.as_ref().err()),
        ] {
            if let Some(problem) = problem {
                note(field, json!([problem]));
            }
        }
        if let Err(problem) = &attributes {
            note("attributes", problem.clone());
        }
        match (name, impact, text, attributes) {
            (Ok(name), Ok(impact), Ok(text), Ok(attributes)) if wrong.is_empty() => {
                let impact =
                    impact.filter(|impact| *impact != Impact::Maintenance).ok_or_else(|| {
                        ApiError::bad_request("Incident impact is not allowed by configuration")
                    })?;
                Ok(Self { name, impact, text, attributes })
            }
            _ => Err(ApiError::unprocessable("json", Value::Object(wrong))),
        }
    }
}

type Field<T> = Result<T, &'static str>;

fn required(value: Option<Value>) -> Field<Value> {
    not_null(value.ok_or("Missing data for required field.")?)
}

fn not_null(value: Value) -> Field<Value> {
    if value.is_null() { Err("Field may not be null.") } else { Ok(value) }
}

/// The problem of each field that is left, and of all those at once that are too many to name.
fn unknown(fields: &Map<String, Value>) -> Vec<(String, Value)> {
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

fn string(value: Value) -> Field<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err("Not a valid string.")
        }
    }
}

fn title(text: String) -> Field<String> {
    if text.chars().count() > LONGEST_TEXT {
        return Err("Longer than maximum length 255.");
    }
    if text.chars().any(char::is_control) {
        return Err("Control characters are not allowed.");
    }
    Ok(text)
}

/// The name or the value of an attribute.
fn attribute_text(text: String) -> Field<String> {
    if text.chars().count() > MAX_ATTRIBUTE_LENGTH {
        return Err("Longer than maximum length 255.");
    }
    Ok(text)
}

/// The impact; none for a number that is no impact.
fn impact(value: Value) -> Field<Option<Impact>> {
    let input = match value {
        Value::Number(number) => impact_from_number(&number),
        Value::String(text) => impact_from_text(&text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            ImpactInput::Unreadable
        }
    };
    match input {
        ImpactInput::Impact(impact) => Ok(Some(impact)),
        ImpactInput::OutOfRange => Ok(None),
        ImpactInput::Unreadable => {
            Err("Not a valid impact: 1, 2, 3, \"minor\", \"major\" or \"outage\".")
        }
    }
}

/// The attributes, of a repeated name the last value; or what is wrong, by place in the list.
fn attributes(value: Value) -> Result<Vec<Attribute>, Value> {
    let Value::Array(items) = value else {
        let problem = if value.is_null() { "Field may not be null." } else { "Not a valid list." };
        return Err(json!([problem]));
    };
    // Before any is looked at: what is wrong with each would make an answer of megabytes.
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

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    fn status(body: &str) -> u16 {
        match PostedUpdate::read(body.as_bytes()) {
            Ok(_) => 200,
            Err(error) => error.into_response().status().as_u16(),
        }
    }

    #[test]
    fn impacts_are_numbers_or_words() {
        for (text, expected) in [
            ("1", Some(Impact::Minor)),
            ("2", Some(Impact::Major)),
            ("3", Some(Impact::Outage)),
            ("\"1\"", Some(Impact::Minor)),
            ("\"minor\"", Some(Impact::Minor)),
            ("\"major\"", Some(Impact::Major)),
            ("\"outage\"", Some(Impact::Outage)),
            // Each in one way alone.
            ("1.0", None),
            ("1e0", None),
            ("\"+1\"", None),
            ("\"01\"", None),
            ("\"1.0\"", None),
            ("\"1e0\"", None),
            ("\" 1\"", None),
            ("\"1 \"", None),
            ("\"Minor\"", None),
            ("\"minor \"", None),
        ] {
            let body = format!("{{\"name\": \"DNS\", \"impact\": {text}}}");
            let read = PostedUpdate::read(body.as_bytes()).ok().map(|update| update.impact);
            assert_eq!(read, expected, "{text}");
        }
    }

    /// What is not a status update is told apart: 400 for what is no JSON or no impact that can be
    /// reported, 422 for fields.
    #[test]
    fn bad_bodies_are_refused() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let long = format!("{{\"name\":\"D\",\"impact\":1,\"text\":\"{}\"}}", "x".repeat(256));
        for (body, expected) in [
            ("", 400),
            ("{", 400),
            ("nonsense", 400),
            (deep.as_str(), 400),
            (r#"{"name":"D","impact":0}"#, 400),
            (r#"{"name":"D","impact":4}"#, 400),
            (r#"{"name":"D","impact":-1}"#, 400),
            (r#"{"name":"D","impact":99999999999999999999}"#, 400),
            (r#"{"name":"D","impact":"maintenance"}"#, 400),
            (r#"{"name":"D","impact":"0"}"#, 400),
            ("[]", 422),
            ("null", 422),
            (r#"{"name":"D"}"#, 422),
            (r#"{"impact":1}"#, 422),
            (r#"{"name":"D","impact":null}"#, 422),
            (r#"{"name":"D","impact":true}"#, 422),
            (r#"{"name":"D","impact":"4"}"#, 400),
            (r#"{"name":"D","impact":"-1"}"#, 400),
            (r#"{"name":"D","impact":-99999999999999999999}"#, 400),
            (r#"{"name":"D","impact":1.5}"#, 422),
            (r#"{"name":"D","impact":1.0}"#, 422),
            (r#"{"name":"D","impact":1e0}"#, 422),
            (r#"{"name":"D","impact":"+1"}"#, 422),
            (r#"{"name":"D","impact":"01"}"#, 422),
            (r#"{"name":"D","impact":""}"#, 422),
            (r#"{"name":"D","impact":"-"}"#, 422),
            (r#"{"name":"D","impact":"bad"}"#, 422),
            (r#"{"name":"D","impact":"NaN"}"#, 422),
            (r#"{"name":5,"impact":1}"#, 422),
            (r#"{"name":"D","impact":1,"text":null}"#, 422),
            (r#"{"name":"D","impact":1,"text":"a\u0000b"}"#, 422),
            (long.as_str(), 422),
            (r#"{"name":"D","impact":1,"extra":1}"#, 422),
            (r#"{"name":"D","impact":1,"attributes":null}"#, 422),
            (r#"{"name":"D","impact":1,"attributes":{}}"#, 422),
            (r#"{"name":"D","impact":1,"attributes":[5]}"#, 422),
            (r#"{"name":"D","impact":1,"attributes":[{"name":"a"}]}"#, 422),
            (r#"{"name":"D","impact":1,"attributes":[{"name":"a","value":1}]}"#, 422),
            (r#"{"name":"D","impact":1,"attributes":[{"name":"a","value":"b","c":1}]}"#, 422),
        ] {
            assert_eq!(status(body), expected, "{body:.80}");
        }
        assert!(PostedUpdate::read(b"{\"name\":\"\xff\",\"impact\":1}").is_err());
    }

    /// What the refusal of a body says about its fields.
    fn errors(body: &str) -> (String, Value) {
        let error = PostedUpdate::read(body.as_bytes()).expect_err("it is refused");
        let response = error.into_response();
        assert_eq!(response.status().as_u16(), 422);
        let body = http_body_util::BodyExt::collect(response.into_body());
        let body = futures_util::FutureExt::now_or_never(body).expect("it is there already");
        let text = String::from_utf8(body.expect("it is there").to_bytes().into()).expect("text");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        (text, json["errors"]["json"].clone())
    }

    fn with_attributes(attributes: &str) -> String {
        format!("{{\"name\":\"D\",\"impact\":1,\"attributes\":[{attributes}]}}")
    }

    #[test]
    fn attributes_are_limited_in_number_and_length() {
        let many = |count: usize| {
            let attributes = (0..count).map(|n| format!("{{\"name\":\"a{n}\",\"value\":\"b\"}}"));
            with_attributes(&attributes.collect::<Vec<_>>().join(","))
        };
        let read = PostedUpdate::read(many(MAX_ATTRIBUTES).as_bytes()).expect("they fit");
        assert_eq!(read.attributes.len(), MAX_ATTRIBUTES);
        let (_, wrong) = errors(&many(MAX_ATTRIBUTES + 1));
        assert_eq!(wrong, json!({ "attributes": ["Longer than maximum length 32."] }));

        let one = |name: &str, value: &str| {
            with_attributes(&json!({ "name": name, "value": value }).to_string())
        };
        let (fits, long) = ("ü".repeat(MAX_ATTRIBUTE_LENGTH), "ü".repeat(MAX_ATTRIBUTE_LENGTH + 1));
        assert_eq!(status(&one(&fits, &fits)), 200);
        for (body, field) in [(one(&long, "v"), "name"), (one("n", &long), "value")] {
            let expected = json!({ "0": { field: ["Longer than maximum length 255."] } });
            assert_eq!(errors(&body).1["attributes"], expected);
        }
    }

    /// The largest bodies with as much wrong as they can hold, and how long the answer may be.
    #[test]
    fn refusals_are_short_however_much_is_wrong() {
        let numbered = |n: usize| format!("\"{n:x}\":1");
        let fields: Vec<String> = (0..6_000).map(numbered).collect();
        let fields = format!("{{{}}}", fields.join(","));
        let few: Vec<String> = (0..200).map(numbered).collect();
        let items = vec![format!("{{{}}}", few.join(",")); MAX_ATTRIBUTES];
        for (body, most) in [
            (with_attributes(&vec!["5"; 32_000].join(",")), 300),
            (with_attributes(&vec!["{}"; 21_000].join(",")), 300),
            (fields.clone(), 1_000),
            (format!("{{\"{}\":1}}", "x".repeat(65_000)), 1_000),
            (with_attributes(&items.join(",")), 20_000),
        ] {
            assert!(body.len() <= 64 * 1024 + 100, "{} bytes", body.len());
            let (text, _) = errors(&body);
            assert!(text.len() < most, "{} bytes of {text:.200}", text.len());
        }
        let (_, wrong) = errors(&fields);
        assert_eq!(wrong["_schema"], json!(["5990 more unknown fields."]), "{wrong}");
        assert_eq!(wrong["name"], json!(["Missing data for required field."]));
    }

    #[test]
    fn the_title_has_a_default_and_the_last_of_a_repeated_attribute_counts() {
        let body = br#"{"name":"D","impact":1,"attributes":[
            {"name":"a","value":"1"},{"name":"b","value":"2"},{"name":"a","value":"3"}]}"#;
        let update = PostedUpdate::read(body).expect("valid");
        assert_eq!(update.text, "Incident");
        let pairs: Vec<_> =
            update.attributes.iter().map(|a| (a.name.as_str(), a.value.as_str())).collect();
        assert_eq!(pairs, [("a", "3"), ("b", "2")]);
    }
}
