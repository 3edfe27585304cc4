use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::alert::{AlertState, Fingerprint, Labels},
    *,
};

/// What Prometheus 2.42 and Alertmanager 0.25 sent about one alert.
const PROMETHEUS_FIRING: &str =
    include_str!("../../../../tests/data/alerts/prometheus-firing.json");
const PROMETHEUS_RESOLVED: &str =
    include_str!("../../../../tests/data/alerts/prometheus-resolved.json");
const WEBHOOK_FIRING: &str = include_str!("../../../../tests/data/alerts/alertmanager-firing.json");
const WEBHOOK_RESOLVED: &str =
    include_str!("../../../../tests/data/alerts/alertmanager-resolved.json");

fn at(time: &str) -> Timestamp {
    time.parse().expect("a time")
}

/// The alerts of a list, at a time.
fn read(body: &Value, now: &str) -> Vec<Result<Alert, BadAlert>> {
    let body = body.to_string();
    Alerts::of_list(body.as_bytes()).expect("a list").read(at(now)).collect()
}

fn ended(time: &str) -> AlertState {
    AlertState::Resolved { ended_at: Some(at(time)) }
}

fn states(alerts: &Alerts<'_>, now: &str) -> Vec<AlertState> {
    alerts.read(at(now)).map(|alert| alert.expect("an alert").state).collect()
}

#[test]
fn what_prometheus_sends_is_judged_by_its_end() {
    let firing = Alerts::of_list(PROMETHEUS_FIRING.as_bytes()).expect("a list");
    let resolved = Alerts::of_list(PROMETHEUS_RESOLVED.as_bytes()).expect("a list");
    for (now, ttl) in [
        ("2026-11-26T13:03:05.568Z", Some(240_000)),
        ("2026-11-26T13:07:05.567Z", Some(1)),
        ("2026-11-26T13:07:05.568Z", None),
    ] {
        let expected = match ttl.map(Duration::from_millis) {
            Some(ttl) => AlertState::Firing { ttl: Some(ttl) },
            None => ended("2026-11-26T13:07:05.568Z"),
        };
        assert_eq!(states(&firing, now), [expected], "{now}");
    }
    assert_eq!(states(&resolved, "2026-11-26T13:04:41.568Z"), [ended("2026-11-26T13:04:41.568Z")]);
}

#[test]
fn what_a_webhook_brings_is_judged_by_the_status_of_each_alert() {
    let firing = Alerts::of_webhook(WEBHOOK_FIRING.as_bytes()).expect("a webhook's body");
    let resolved = Alerts::of_webhook(WEBHOOK_RESOLVED.as_bytes()).expect("a webhook's body");
    for now in ["2000-01-01T00:00:00Z", "2030-01-01T00:00:00Z"] {
        assert_eq!(states(&firing, now), [AlertState::Firing { ttl: None }], "{now}");
        assert_eq!(states(&resolved, now), [ended("2026-11-26T13:04:41.568Z")], "{now}");
    }
    // The group's status is not that of its alerts.
    let mut body: Value = serde_json::from_str(WEBHOOK_FIRING).expect("JSON");
    let mut other = body["alerts"][0].clone();
    other["status"] = json!("resolved");
    body["alerts"].as_array_mut().expect("a list").push(other);
    body["truncatedAlerts"] = json!(3);
    let body = body.to_string();
    let both = Alerts::of_webhook(body.as_bytes()).expect("a webhook's body");
    let states = states(&both, "2026-11-26T13:04:00Z");
    assert_eq!(states, [AlertState::Firing { ttl: None }, AlertState::Resolved { ended_at: None }]);
    assert_eq!((both.truncated, firing.truncated), (3, 0));
}

#[test]
fn an_alert_has_one_fingerprint_on_all_ways() {
    let now = at("2026-11-26T13:04:00Z");
    for (way, alerts) in [
        ("Prometheus", Alerts::of_list(PROMETHEUS_FIRING.as_bytes())),
        ("Alertmanager", Alerts::of_webhook(WEBHOOK_FIRING.as_bytes())),
    ] {
        let alerts: Vec<Alert> =
            alerts.expect(way).read(now).map(|alert| alert.expect("an alert")).collect();
        let [alert] = alerts.as_slice() else { panic!("{way}: not one alert") };
        // Alertmanager's own for these labels; Prometheus sends none.
        assert_eq!(alert.fingerprint.to_string(), "03f8b6a16c633a06", "{way}");
        assert_eq!(Fingerprint::of(&alert.labels), alert.fingerprint, "{way}");
        assert_eq!(alert.starts_at, Some(at("2026-11-26T13:03:05.568Z")), "{way}");
        assert_eq!(alert.labels.len(), 8, "{way}");
        assert_eq!(alert.annotations["description"], "value 0", "{way}");
    }
    // Of no labels, it is the hash's beginning.
    assert_eq!(Fingerprint::of(&Labels::new()).to_string(), "cbf29ce484222325");
}

/// What the field is, and the fingerprint.
#[test]
fn a_fingerprint_that_is_given_counts_if_it_is_one() {
    let labels = json!({ "alertname": "Slow" });
    let own = Fingerprint::of(&Labels::from([("alertname".to_owned(), "Slow".to_owned())]));
    for (given, expected) in [
        (json!("00000000000000ff"), "00000000000000ff".to_owned()),
        (json!("ABCDEF0123456789"), "abcdef0123456789".to_owned()),
        (json!(""), own.to_string()),
        (json!("+000000000000fff"), own.to_string()),
        (json!("fff"), own.to_string()),
        (Value::Null, own.to_string()),
    ] {
        let body = json!([{ "labels": labels, "fingerprint": given }]);
        let alert = read(&body, "2026-11-26T13:04:00Z").remove(0).expect("an alert");
        assert_eq!(alert.fingerprint.to_string(), expected, "{given}");
    }
}

#[test]
fn an_end_that_is_not_known_is_none() {
    for end in
        [Value::Null, json!(""), json!("0001-01-01T00:00:00Z"), json!("0001-01-01T00:00:00.000Z")]
    {
        let body = json!([{ "labels": { "alertname": "Slow" }, "endsAt": end, "startsAt": end }]);
        let alert = read(&body, "2026-11-26T13:04:00Z").remove(0).expect("an alert");
        assert_eq!(alert.state, AlertState::Firing { ttl: None }, "{end}");
        assert_eq!(alert.starts_at, None, "{end}");
    }
}

/// Only at the endpoint that judges by `endsAt` is an alert nothing without it.
#[test]
fn a_time_that_is_unreadable_is_not_given() {
    let now = "2026-11-26T13:04:00Z";
    let alert = json!({ "labels": { "alertname": "Slow" }, "startsAt": "9" });
    let alert = read(&json!([alert]), now).remove(0).expect("an alert");
    assert_eq!((alert.starts_at, alert.state), (None, AlertState::Firing { ttl: None }));
    let mut body: Value = serde_json::from_str(WEBHOOK_RESOLVED).expect("JSON");
    for field in ["startsAt", "endsAt"] {
        body["alerts"][0][field] = json!("soon");
    }
    let body = body.to_string();
    let alerts = Alerts::of_webhook(body.as_bytes()).expect("a webhook's body");
    assert_eq!(states(&alerts, now), [AlertState::Resolved { ended_at: None }]);
}

/// Labels without a value are none, in the fingerprint too; what else an alert has does not matter.
#[test]
fn empty_labels_and_unknown_fields_are_ignored() {
    let plain = json!([{ "labels": { "a": "b" } }]);
    let more =
        json!([{ "labels": { "a": "b", "c": "" }, "annotations": { "d": "" }, "values": {} }]);
    assert_eq!(read(&plain, "2026-11-26 13:04"), read(&more, "2026-11-26 13:04"));
    let null = json!([{ "labels": { "a": "b" }, "annotations": null }]);
    assert_eq!(read(&plain, "2026-11-26 13:04"), read(&null, "2026-11-26 13:04"));
}

/// Each stands between two alerts that are good.
#[test]
fn a_bad_alert_does_not_make_others_bad() {
    let good = json!({ "labels": { "alertname": "Slow" } });
    for (bad, says) in [
        (json!({}), "it has no labels"),
        (json!({ "labels": null }), "it has no labels"),
        (json!({ "labels": { "a": "" } }), "it has no labels"),
        (json!({ "labels": { "a": 1 } }), "it is not an alert: invalid type: integer `1`"),
        (json!({ "labels": ["a"] }), "it is not an alert: invalid type: sequence"),
        (json!(null), "it is not an alert: invalid type: null"),
        (json!("alert"), "it is not an alert: invalid type: string"),
        (
            json!({ "labels": { "a": "b" }, "endsAt": "now" }),
            "its endsAt is `now`, which is no time",
        ),
    ] {
        let alerts = read(&json!([good, bad, good]), "2026-11-26T13:04:00Z");
        assert!(alerts[0].is_ok() && alerts[2].is_ok(), "{bad}");
        let reason = alerts[1].as_ref().expect_err("it is bad").to_string();
        assert!(reason.starts_with(says), "{bad}: {reason}");
    }
    let mut body: Value = serde_json::from_str(WEBHOOK_FIRING).expect("JSON");
    for (status, says) in [(json!("pending"), "`pending`"), (Value::Null, "``")] {
        body["alerts"][0]["status"] = status;
        let body = body.to_string();
        let alerts = Alerts::of_webhook(body.as_bytes()).expect("a webhook's body");
        let reasons: Vec<String> = alerts
            .read(at("2026-11-26T13:04:00Z"))
            .filter_map(|alert| alert.err().map(|reason| reason.to_string()))
            .collect();
        assert_eq!(reasons, [format!("its status is {says}, not `firing` or `resolved`")]);
    }
}

#[test]
fn a_body_of_another_form_is_refused_as_a_whole() {
    for body in ["", "{}", "[", "[{}] x", "null", "\"alert\"", "{\"alerts\": []}"] {
        assert!(Alerts::of_list(body.as_bytes()).is_err(), "{body}");
        assert!(Alerts::of_webhook(body.as_bytes()).is_err(), "{body}");
    }
    let other = json!({ "version": "5", "alerts": [] }).to_string();
    let error = Alerts::of_webhook(other.as_bytes()).err().map(|error| error.to_string());
    assert_eq!(error.as_deref(), Some("the webhook's version is `5`, and only `4` is known"));
    assert!(Alerts::of_list(b"[]").is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for alerts in [Alerts::of_list(&bytes), Alerts::of_webhook(&bytes)].into_iter().flatten() {
            alerts.read(at("2026-11-26T13:04:00Z")).count();
        }
    }

    /// What is no alert in one place of the captured body, and text in any field.
    #[test]
    fn any_texts_in_an_alert_are_read_or_refused(field in "labels|annotations|startsAt|endsAt|status|fingerprint", text in ".{0,20}") {
        let mut body: Value = serde_json::from_str(PROMETHEUS_FIRING).expect("JSON");
        body[0][&field] = json!(text);
        let alerts = read(&body, "2026-11-26T13:04:00Z");
        prop_assert_eq!(alerts.len(), 1);
    }
}
