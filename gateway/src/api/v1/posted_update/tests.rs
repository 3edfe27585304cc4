use axum::response::IntoResponse;
use shared::domain::component::{MAX_ATTRIBUTE_LENGTH, MAX_ATTRIBUTES};

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
        // Each has exactly one error.
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
        let read =
            PostedUpdate::read(body.as_bytes()).ok().and_then(|update| update.condition.impact());
        assert_eq!(read, expected, "{text}");
    }
}

/// Invalid bodies are distinguished: 400 if it is not JSON or its impact can't be reported, 422 for
/// invalid fields.
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

/// The errors by field in the refusal of a body.
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

/// The largest bodies with as many errors as possible, and the maximum length of the answer.
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
