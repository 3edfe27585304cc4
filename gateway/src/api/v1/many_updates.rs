//! Reads the body of a request with many updates. An invalid update is refused alone; only an invalid
//! body or list refuses the whole request.

use std::collections::HashMap;

use serde_json::{Map, Value, json, value::RawValue};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Object, RefOr, Schema, Type},
};

use super::posted_update::{PostedUpdate, fields::unknown, no_json, no_object};
use crate::{
    http::{
        body::{MAX_BODY_BYTES, too_large},
        error::ApiError,
        idempotency_key,
        list::BoundedList,
    },
    ingest::submit::StatusUpdate,
};

/// Maximum number of updates in one request.
pub(crate) const MAX_UPDATES: usize = 500;
// The OpenAPI document and the error messages repeat the number literally.
const _: () = assert!(MAX_UPDATES == 500);

/// Several status updates.
#[derive(ToSchema)]
#[schema(as = StatusUpdates)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `read` takes")]
pub(crate) struct PostedUpdates {
    #[schema(schema_with = posted)]
    updates: Vec<PostedUpdate>,
}

/// An update, and its idempotency key.
fn posted() -> utoipa::openapi::Array {
    let mut key = Object::with_type(Type::String);
    key.description =
        Some("Makes it safe to send the update again, to any gateway, for 24 hours.".to_owned());
    (key.min_length, key.max_length) = (Some(1), Some(idempotency_key::MAX_LENGTH));
    key.pattern = Some("^[!-~]([ -~]*[!-~])?$".to_owned());
    let mut update = PostedUpdate::schema();
    if let RefOr::T(Schema::Object(update)) = &mut update {
        update.properties.insert("idempotency_key".to_owned(), key.into());
    }
    let mut updates = utoipa::openapi::Array::new(update);
    updates.max_items = Some(MAX_UPDATES);
    updates.description =
        Some("At most 500. Updates of one component are applied in their order.".to_owned());
    updates
}

/// The updates of a body, each either valid or with its error.
///
/// # Errors
/// When the body as a whole is invalid: 400 if it is not JSON, 422 if it has another structure.
pub(crate) fn read(body: &[u8]) -> Result<Vec<Result<StatusUpdate, ApiError>>, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad_request("The body is empty: a JSON object is needed"));
    }
    let body: &RawValue = serde_json::from_slice(body).map_err(|error| no_json(&error))?;
    let fields: HashMap<String, &RawValue> =
        serde_json::from_str(body.get()).map_err(|_| no_object())?;
    let others = fields.keys().filter(|name| *name != "updates");
    let others: Map<String, Value> = others.map(|name| (name.clone(), Value::Null)).collect();
    let mut wrong: Map<String, Value> = unknown(&others).into_iter().collect();
    let updates = match fields.get("updates").map(|value| value.get()) {
        None => Err("Missing data for required field."),
        Some("null") => Err("Field may not be null."),
        Some(value) => match serde_json::from_str(value) {
            Err(_) => Err("Not a valid list."),
            Ok(BoundedList::<MAX_UPDATES>(updates)) if updates.len() > MAX_UPDATES => {
                Err("Longer than maximum length 500.")
            }
            Ok(BoundedList(updates)) => Ok(updates),
        },
    };
    match updates {
        Ok(updates) if wrong.is_empty() => updates.into_iter().map(one).collect(),
        Ok(_) => Err(ApiError::unprocessable("json", Value::Object(wrong))),
        Err(problem) => {
            wrong.insert("updates".to_owned(), json!([problem]));
            Err(ApiError::unprocessable("json", Value::Object(wrong)))
        }
    }
}

/// One update, under the size limit of a single update. Text that is no Unicode refuses the whole body.
fn one(update: &RawValue) -> Result<Result<StatusUpdate, ApiError>, ApiError> {
    if update.get().len() > MAX_BODY_BYTES {
        return Ok(Err(too_large("update", "64 KiB")));
    }
    let value = serde_json::from_str(update.get()).map_err(|error| no_json(&error))?;
    Ok(PostedUpdate::one_of_many(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of each update, or of the whole.
    fn statuses(body: &str) -> Result<Vec<u16>, u16> {
        let read = read(body.as_bytes()).map_err(|error| error.status().as_u16())?;
        let status = |one: Result<_, ApiError>| one.map_or_else(|e| e.status().as_u16(), |_| 200);
        Ok(read.into_iter().map(status).collect())
    }

    #[test]
    fn what_is_wrong_with_the_whole_refuses_all() {
        let deep = format!("{{\"updates\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let good = r#"{"name":"D","impact":1}"#;
        let cut = format!("{{\"updates\":[{good},{good}");
        let more = format!("{{\"updates\":[{good}]}} x");
        let half = format!("{{\"updates\":[{good},{{\"name\":\"\\ud800\",\"impact\":1}}]}}");
        for (body, expected) in [
            ("", 400),
            ("{", 400),
            ("nonsense", 400),
            (deep.as_str(), 400),
            (cut.as_str(), 400),
            (more.as_str(), 400),
            (half.as_str(), 400),
            ("{\"updates\":[1,]}", 400),
            ("{\"updates\":[1}", 400),
            ("{\"updates\":[1 2]}", 400),
            ("{\"updates\"}", 400),
            ("null", 422),
            ("5", 422),
            ("[]", 422),
            ("{}", 422),
            ("{\"updates\":null}", 422),
            ("{\"updates\": {}}", 422),
            ("{\"updates\": \"[]\"}", 422),
            ("{\"updates\":[],\"more\":[]}", 422),
            ("{\"updates\":[], \"updates\" : 5}", 422),
        ] {
            assert_eq!(statuses(body), Err(expected), "{body:.80}");
        }
        assert!(read(b"{\"updates\":[{\"name\":\"\xff\",\"impact\":1}]}").is_err());
        let many = |count: usize| format!("{{\"updates\":[{}]}}", vec![good; count].join(","));
        assert_eq!(statuses(&many(500)), Ok(vec![200; 500]));
        assert_eq!(statuses(&many(501)), Err(422));
        assert_eq!(statuses(&many(9_000)), Err(422));
    }

    #[test]
    fn what_is_wrong_with_one_is_its_own() {
        let long = |bytes: usize| {
            format!(" {{\"name\":\"D\",\"impact\":1,\"text\":\"[,]}}\"{}}}", " ".repeat(bytes))
        };
        let (fits, large) = (long(60 * 1024), long(64 * 1024));
        let body = format!(
            "\n {{ \"updates\" : [ {{\"name\":\"D\",\"impact\":1}} ,{fits},{large},{}] }} ",
            [
                "null",
                "5",
                "-1e5",
                "true",
                "[[],{}]",
                "\"\\\"]\"",
                "{}",
                r#"{"name":"D","impact":0}"#,
                r#"{"name":"D","impact":1,"idempotency_key":"k 1"}"#,
                r#"{"name":"D","impact":1,"idempotency_key":null}"#,
                r#"{"name":"D","impact":1,"idempotency_key":" k"}"#,
                r#"{"name":"D","impact":1,"idempotency_key":""}"#,
                r#"{"name":"D","impact":1,"idempotency_key":"ü"}"#,
                r#"{"name":"D","impact":1,"idempotency_key":5,"more":1}"#,
            ]
            .join(" , ")
        );
        let expected = [200, 200, 413, 422, 422, 422, 422, 422, 422, 422, 400, 200];
        let expected = expected.into_iter().chain([422; 5]).collect();
        assert_eq!(statuses(&body), Ok(expected));
        assert_eq!(statuses("{\"updates\": []}"), Ok(vec![]));
        let keys = read(br#"{"updates":[{"name":"D","impact":1,"idempotency_key":"k 1"}]}"#);
        let keys = keys.expect("it can be read").remove(0).expect("it can be used");
        assert_eq!(keys.idempotency_key.as_deref(), Some("k 1"));
        // Alone it has a header for its key.
        assert!(PostedUpdate::read(br#"{"name":"D","impact":1,"idempotency_key":"k"}"#).is_err());
    }
}
