use serde_json::json;

use super::*;

fn report() -> Value {
    json!({
        "title": "System incident from monitoring system", "description": "DNS is slow", "impact": 2,
        "components": [218], "start_date": "2026-02-03T15:17:26+00:00", "system": true, "type": "incident",
    })
}

fn read(value: &Value) -> Result<PostedEvent, (u16, String)> {
    let now = "2026-02-03T15:17:20Z".parse().ok();
    PostedEvent::read(value.to_string().as_bytes(), now).map_err(|error| {
        let (status, message, _) = error.into_parts();
        (status.as_u16(), message)
    })
}

#[test]
fn a_report_is_read() {
    let event = read(&report()).unwrap();
    assert_eq!(event.components, [ComponentId(218)]);
    assert_eq!(
        (event.impact, event.title.as_str()),
        (Impact::Major, "System incident from monitoring system")
    );
}

#[test]
fn what_is_invalid_is_refused() {
    for (field, values, status, message) in [
        ("system", vec![json!(false), json!(null), json!("true")], 403, "worker incident open"),
        ("type", vec![json!("maintenance"), json!("info"), json!(1), json!(null)], 400, "type"),
        (
            "title",
            vec![json!(""), json!(" "), json!(1), json!("a\n"), json!("x".repeat(256))],
            400,
            "title",
        ),
        ("impact", vec![json!(0), json!(4), json!("1"), json!(1.5), json!(null)], 400, "impact"),
        (
            "components",
            vec![json!([]), json!(1), json!(["1"]), json!(vec![1; 501])],
            400,
            "components",
        ),
        (
            "components",
            vec![json!([3_000_000_000_i64])],
            400,
            "component does not exist, component_id: 3000000000",
        ),
        (
            "start_date",
            vec![json!("yesterday"), json!("2026-02-03"), json!(5), json!(null)],
            400,
            "RFC 3339",
        ),
        ("start_date", vec![json!("2026-02-03T15:23:00Z")], 400, "future"),
        ("end_date", vec![json!("2026-02-03T15:17:26Z"), json!(null)], 400, "end_date"),
        ("updates", vec![json!([])], 400, "updates"),
        ("description", vec![json!(5)], 400, "description"),
    ] {
        for value in values {
            let mut report = report();
            report[field] = value.clone();
            let (found, said) = read(&report).expect_err(field);
            assert!(found == status && said.contains(message), "{field} {value}: {found} {said}");
        }
    }
    for field in ["system", "type", "title", "impact", "components", "start_date"] {
        let mut report = report();
        report.as_object_mut().unwrap().remove(field);
        read(&report).expect_err(field);
    }
    for body in ["", "{", "[]", "null"] {
        assert_eq!(PostedEvent::read(body.as_bytes(), None).unwrap_err().status(), 400);
    }
}
