use std::fs;

use super::*;
use crate::wire::message::tests::update;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn entry(text: &str, wants_reply: bool, trace: Option<TraceContext>) -> Entry {
    let update = UpdateMessage { text: text.to_owned(), ..update() };
    Entry { message: update.encode(), wants_reply, trace }
}

fn trace(tracestate: Option<&str>) -> Option<TraceContext> {
    let tracestate = tracestate.map(str::to_owned);
    Some(TraceContext { traceparent: TRACEPARENT.to_owned(), tracestate })
}

/// Every kind of envelope.
fn envelopes() -> [(&'static str, Vec<Entry>); 3] {
    [
        ("envelope-one", vec![entry("Slow", false, None)]),
        ("envelope-several", vec![entry("Slow", true, None), entry("\"Ü\"\\\n\0", false, None)]),
        (
            "envelope-traced",
            vec![
                entry("Slow", true, trace(None)),
                entry("Slower", false, trace(Some("a=\"b\",c=d"))),
                entry("Down", true, None),
            ],
        ),
    ]
}

fn entries(bytes: &[u8]) -> Vec<Result<Entry, UnreadableEntry>> {
    match decode(bytes) {
        Ok(Content::Entries(entries)) => entries,
        other => panic!("no envelope: {other:?}"),
    }
}

fn read(bytes: &[u8]) -> Vec<Entry> {
    entries(bytes).into_iter().map(|entry| entry.expect("readable")).collect()
}

#[test]
fn envelopes_are_the_bytes_that_are_recorded() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/v2");
    for (name, entries) in envelopes() {
        let golden = fs::read_to_string(format!("{folder}/{name}.json")).expect(name);
        let golden = golden.strip_suffix('\n').expect("ends with a line break");
        assert_eq!(String::from_utf8(encode(&entries)).expect("UTF-8"), golden, "{name}");
        assert_eq!(read(golden.as_bytes()), entries, "{name}");
        for entry in entries {
            UpdateMessage::decode(&entry.message).expect("a whole message");
        }
    }
    assert_eq!(fs::read_dir(folder).expect("the folder is there").count(), envelopes().len());
}

#[test]
fn an_entry_that_cannot_be_read_harms_no_other() {
    let [_, (_, good), _] = envelopes();
    let text = String::from_utf8(encode(&good)).expect("UTF-8");
    for (bad, bytes) in [
        (r#"{"reply":"yes","message":{}}"#, r#"{"reply":"yes","message":{}}"#),
        (r#"{"reply":true}"#, r#"{"reply":true}"#),
        (r#"{"traceparent":7,"message":{}}"#, r#"{"traceparent":7,"message":{}}"#),
        ("7", "7"),
        ("null", "null"),
    ] {
        let text = text.replacen('[', &format!("[{bad},"), 1);
        let mut entries = entries(text.as_bytes());
        let unreadable = entries.remove(0).expect_err(bad);
        assert_eq!(String::from_utf8(unreadable.bytes).expect("UTF-8"), bytes);
        assert!(matches!(unreadable.error, DecodeError::Malformed(_)), "{bad}");
        let rest: Vec<Entry> = entries.into_iter().map(|entry| entry.expect("readable")).collect();
        assert_eq!(rest, good, "{bad}");
    }
}

#[test]
fn fields_that_are_not_known_are_passed_over() {
    let [_, (_, good), _] = envelopes();
    let text = String::from_utf8(encode(&good)).expect("UTF-8");
    for at in [r#"{"v":2,"#, r#"[{"#] {
        let text = text.replacen(at, &format!(r#"{at}"new":{{"a":[1,null]}},"#), 1);
        assert_eq!(read(text.as_bytes()), good);
    }
}

#[test]
fn what_is_no_envelope_is_told_apart() {
    let single = decode(&update().encode());
    assert!(matches!(single, Ok(Content::Single(single)) if *single == update()));
    assert!(matches!(decode(br#"{"v":2,"entries":[]}"#), Err(DecodeError::Empty)));
    for malformed in [&b"{"[..], br#"{"v":2}"#, br#"{"v":2,"entries":7}"#, br#"{"v":"2"}"#, b"\xff"]
    {
        assert!(matches!(decode(malformed), Err(DecodeError::Malformed(_))));
    }
    let newer = format!(r#"{{"v":{},"entries":[]}}"#, message::NEWEST + 1);
    assert!(matches!(decode(newer.as_bytes()), Err(DecodeError::Version(_))));
}
