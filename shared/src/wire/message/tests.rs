use std::{collections::BTreeSet, fs, path::PathBuf};

use super::*;
use crate::{
    amqp::topology::Phase,
    domain::{
        component::{Attribute, Component, ComponentId},
        condition::Condition,
        impact::Impact,
        incident::{IncidentId, IncidentSnapshot},
        outcome::{InboxOutcome, Outcome, Reason, Rejection},
        timestamp::Timestamp,
        update_id::UpdateId,
    },
};

fn id(number: u8) -> UpdateId {
    let mut bytes = *b"\x01\x9a\0\0\0\0\x70\0\x80\0\0\0\0\0\0\0";
    bytes[15] = number;
    UpdateId(uuid::Uuid::from_bytes(bytes))
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_790_000_000_000_000 + micros).expect("in range")
}

fn component(id: i32, name: &str, attributes: &[(&str, &str)]) -> Component {
    let attributes = attributes
        .iter()
        .map(|(name, value)| Attribute { name: (*name).into(), value: (*value).into() })
        .collect();
    Component { id: ComponentId(id), name: name.to_owned(), attributes }
}

pub(in crate::wire) fn update() -> UpdateMessage {
    UpdateMessage {
        id: id(1),
        component: component(7, "DNS", &[("region", "EU-DE"), ("type", "dns")]),
        condition: Impact::Major.into(),
        text: "Slow".to_owned(),
        received_at: at(123_456),
        idempotency: None,
        report: None,
    }
}

/// Every kind of update without a report.
fn updates() -> Vec<(String, UpdateMessage)> {
    let mut updates: Vec<_> = Impact::REPORTABLE
        .into_iter()
        .map(|impact| {
            (format!("update-{impact}"), UpdateMessage { condition: impact.into(), ..update() })
        })
        .collect();
    let without = component(-7, "DNS", &[]);
    updates.push((
        "update-without-attributes".to_owned(),
        UpdateMessage { component: without, ..update() },
    ));
    updates.push((
        "update-unicode".to_owned(),
        UpdateMessage {
            component: component(7, "Größe 東京", &[("région", "🌍")]),
            text: "\"Ü\"\\\n\t\0 é🚧".to_owned(),
            ..update()
        },
    ));
    let idempotency =
        Idempotency { key: "a-key".to_owned(), fingerprint: "0123456789abcdef".repeat(4) };
    updates.push((
        "update-with-idempotency-key".to_owned(),
        UpdateMessage { idempotency: Some(idempotency), ..update() },
    ));
    updates
}

/// Every kind of update with a report.
fn updates_with_reports() -> Vec<(String, UpdateMessage)> {
    let of = |condition: Condition, report: Report| UpdateMessage {
        condition,
        report: Some(report),
        ..update()
    };
    let (nobody, minor) = (Report::default(), Condition::Impact(Impact::Minor));
    let named = Report { source: "probe \"é\" 🚧".to_owned(), ..nobody.clone() };
    let firing = Report {
        source: "prometheus-1".to_owned(),
        key: "0123456789abcdef".to_owned(),
        ttl: Some(240),
        starts_at: Some(at(-5)),
        ends_at: None,
    };
    let resolved = Report { ttl: None, ends_at: Some(at(7)), ..firing.clone() };
    let idempotency =
        Idempotency { key: "a-key".to_owned(), fingerprint: "0123456789abcdef".repeat(4) };
    let with_key = of(minor, named.clone());
    [
        ("of-nobody", of(minor, nobody.clone())),
        ("of-source", of(minor, named.clone())),
        ("with-idempotency-key", UpdateMessage { idempotency: Some(idempotency), ..with_key }),
        ("firing", of(minor, firing)),
        ("ok-of-nobody", of(Condition::Ok, nobody)),
        ("ok-of-source", of(Condition::Ok, named)),
        ("ok-resolved", of(Condition::Ok, resolved)),
    ]
    .map(|(name, update)| (format!("update-{name}"), update))
    .into()
}

/// A verdict of each kind, for each reason that it can have. One that is missing does not compile.
fn verdicts(kind: &Verdict) -> Vec<(String, Verdict)> {
    let named =
        |state: &str, reason: Reason| format!("{state}-{}", reason.word().replace('_', "-"));
    match kind {
        Verdict::Decided { incident, .. } => Reason::ALL
            .into_iter()
            .map(|reason| {
                let incident = match reason.outcome() {
                    Outcome::Suppressed => Some(maintenance()),
                    Outcome::Opened
                    | Outcome::Joined
                    | Outcome::Raised
                    | Outcome::Moved
                    | Outcome::Left
                    | Outcome::Unchanged => incident.clone(),
                    Outcome::Closed => {
                        Some(IncidentSnapshot { end_date: Some(at(2)), ..self::incident() })
                    }
                };
                let decided_at = None;
                (named("decided", reason), Verdict::Decided { reason, incident, decided_at })
            })
            .collect(),
        Verdict::Repeated { original, incident, .. } => Reason::ALL
            .into_iter()
            .map(|reason| {
                let (original, incident) = (*original, *incident);
                (named("repeated", reason), Verdict::Repeated { original, reason, incident })
            })
            .collect(),
        Verdict::Rejected { .. } => Rejection::ALL
            .into_iter()
            .map(|reason| {
                let name = match reason {
                    // From before there was another reason.
                    Rejection::KeyOfAnotherBody => "rejected".to_owned(),
                    Rejection::TooManyReports => {
                        format!("rejected-{}", reason.word().replace('_', "-"))
                    }
                };
                (name, Verdict::Rejected { reason })
            })
            .collect(),
        Verdict::Parked => vec![("parked".to_owned(), Verdict::Parked)],
    }
}

fn incident() -> IncidentSnapshot {
    IncidentSnapshot {
        id: IncidentId(42),
        text: "Slow".to_owned(),
        impact: Impact::Major,
        start_date: at(0),
        end_date: None,
        last_update_at: Some(at(1)),
    }
}

fn maintenance() -> IncidentSnapshot {
    IncidentSnapshot {
        id: IncidentId(43),
        text: "Work".to_owned(),
        impact: Impact::Maintenance,
        start_date: at(0),
        end_date: Some(at(3_600_000_000)),
        last_update_at: None,
    }
}

fn reply(verdicts: impl IntoIterator<Item = Verdict>) -> ReplyMessage {
    let results = (1..).zip(verdicts).map(|(n, verdict)| UpdateResult { id: id(n), verdict });
    ReplyMessage { results: results.collect() }
}

/// Every kind of reply.
fn replies() -> Vec<(String, ReplyMessage)> {
    let reason = Reason::NoIncidentOfImpact;
    let decided = Verdict::Decided { reason, incident: Some(incident()), decided_at: None };
    let repeated = Verdict::Repeated { original: id(10), reason, incident: Some(IncidentId(42)) };
    let rejected = Verdict::Rejected { reason: Rejection::KeyOfAnotherBody };
    let kinds = [decided.clone(), repeated, rejected.clone(), Verdict::Parked];
    let mut replies: Vec<_> = kinds
        .iter()
        .flat_map(verdicts)
        .map(|(name, verdict)| (format!("reply-{name}"), reply([verdict])))
        .collect();
    let repeated = Verdict::Repeated { original: id(1), reason, incident: Some(IncidentId(42)) };
    let several = [decided, repeated, rejected, Verdict::Parked];
    replies.push(("reply-several".to_owned(), reply(several)));
    let reason = Reason::InNoSystemIncident;
    for (name, verdict) in [
        ("decided-without-incident", Verdict::Decided { reason, incident: None, decided_at: None }),
        ("decided-with-time", Verdict::Decided { reason, incident: None, decided_at: Some(at(3)) }),
        (
            "repeated-without-incident",
            Verdict::Repeated { original: id(10), reason, incident: None },
        ),
    ] {
        replies.push((format!("reply-{name}"), reply([verdict])));
    }
    replies.push(("reply-empty".to_owned(), reply([])));
    replies
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire")
}

/// The bytes of a case; the file's last line break is not part of them.
fn golden(version: u16, name: &str) -> Vec<u8> {
    let file = folder().join(format!("v{version}")).join(format!("{name}.json"));
    let mut bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_eq!(bytes.pop(), Some(b'\n'), "{name} ends with a line break");
    bytes
}

#[test]
fn messages_are_the_bytes_that_are_recorded() {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8");
    let (updates, replies) = (updates(), replies());
    for (version, updates) in [(VERSION, &updates), (REPORTS, &updates_with_reports())] {
        for (name, update) in updates {
            let golden = golden(version, name);
            assert_eq!(text(&update.encode()), text(&golden), "{name}");
            assert_eq!(&UpdateMessage::decode(&golden).expect(name), update, "{name}");
        }
    }
    for (name, reply) in &replies {
        let golden = golden(VERSION, name);
        assert_eq!(text(&reply.encode()), text(&golden), "{name}");
        assert_eq!(&ReplyMessage::decode(&golden).expect(name), &(reply.clone(), 0), "{name}");
    }
    let files = |version: u16| -> BTreeSet<String> {
        fs::read_dir(folder().join(format!("v{version}")))
            .expect("the folder is there")
            .map(|entry| entry.expect("an entry").path())
            .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
            .collect()
    };
    let names = updates.into_iter().map(|(name, _)| name);
    let cases: BTreeSet<String> = names.chain(replies.into_iter().map(|(name, _)| name)).collect();
    assert_eq!(files(VERSION), cases, "each file is a case, and each case has a file");
    let cases = updates_with_reports().into_iter().map(|(name, _)| name).collect();
    assert_eq!(files(REPORTS), cases, "each file is a case, and each case has a file");
}

#[test]
fn only_the_version_with_reports_can_say_ok() {
    let text = |update: &UpdateMessage| String::from_utf8(update.encode()).expect("UTF-8");
    let ok =
        UpdateMessage { condition: Condition::Ok, report: Some(Report::default()), ..update() };
    let as_first = text(&ok).replacen(r#""v":3"#, r#""v":1"#, 1);
    let read = UpdateMessage::decode(as_first.as_bytes());
    assert!(matches!(read, Err(DecodeError::OkOfNobody)), "{read:?}");
    let without = text(&update()).replacen(r#""v":1"#, r#""v":3"#, 1);
    let read = UpdateMessage::decode(without.as_bytes());
    assert!(matches!(read, Err(DecodeError::NoReport)), "{read:?}");
    // A reader of the first version passes the field over.
    let more = UpdateMessage { report: Some(Report::default()), ..update() };
    let more = text(&more).replacen(r#""v":3"#, r#""v":1"#, 1);
    assert_eq!(UpdateMessage::decode(more.as_bytes()).expect("an update"), update());
    for wrong in [r#""fine""#, r#""OK""#, "9", "-1", "99999999999999999999", "1.5", "null"] {
        let wrong = text(&ok).replacen(r#""impact":"ok""#, &format!(r#""impact":{wrong}"#), 1);
        let read = UpdateMessage::decode(wrong.as_bytes());
        assert!(matches!(read, Err(DecodeError::Malformed(_))), "{wrong}: {read:?}");
    }
}

#[test]
fn the_database_has_the_words_that_are_recorded() {
    let words = fs::read_to_string(folder().join("words.json")).expect("the file is there");
    let words: serde_json::Value = serde_json::from_str(&words).expect("JSON");
    let recorded = |kind: &str| -> Vec<String> {
        serde_json::from_value(words[kind].clone()).expect("a list of words")
    };
    // A new phase does not compile until it is in the list.
    let phases = [Phase::Open, Phase::Draining, Phase::Closed].map(|phase| match phase {
        Phase::Open | Phase::Draining | Phase::Closed => phase.word(),
    });
    assert_eq!(recorded("phase"), phases);
    for rejection in Rejection::ALL {
        let in_json = serde_json::to_value(rejection).expect("JSON");
        assert_eq!(in_json, rejection.word());
    }
    let rejected = Rejection::ALL.map(InboxOutcome::Rejected);
    let mut all: Vec<_> = Reason::ALL.map(InboxOutcome::Decided).into();
    all.push(InboxOutcome::Repeated);
    all.extend(rejected);
    assert_eq!(recorded("reason"), all.iter().map(|one| one.reason()).collect::<Vec<_>>());
    let mut outcomes: Vec<_> = Outcome::ALL.map(Outcome::word).into();
    outcomes.extend([InboxOutcome::Repeated, rejected[0]].map(InboxOutcome::outcome));
    assert_eq!(recorded("outcome"), outcomes);
    for one in all {
        assert_eq!(InboxOutcome::of_row(one.outcome(), one.reason()), Some(one));
        assert_eq!(InboxOutcome::of_row("postponed", "for_fun"), None);
    }
}

#[test]
fn fields_that_are_not_known_are_passed_over() {
    let more = |bytes: Vec<u8>, at: &str, field: &str| {
        let text = String::from_utf8(bytes).expect("JSON is UTF-8");
        assert!(text.contains(at), "{text}");
        text.replacen(at, &format!("{at}{field},"), 1).into_bytes()
    };
    let new = r#""new":{"a":[1,null]}"#;
    for at in ["{", r#""component":{"#, r#""attributes":[{"#] {
        let bytes = more(update().encode(), at, new);
        assert_eq!(UpdateMessage::decode(&bytes).expect(at), update());
    }
    let (_, several) = replies().into_iter().find(|(name, _)| name == "reply-several").expect("it");
    for at in ["{", r#""results":[{"#, r#""verdict":{"#, r#""incident":{"#] {
        let bytes = more(several.encode(), at, new);
        assert_eq!(ReplyMessage::decode(&bytes).expect(at), (several.clone(), 0));
    }
}

#[test]
fn a_result_that_is_not_known_costs_no_other_one() {
    let (_, several) = replies().into_iter().find(|(name, _)| name == "reply-several").expect("it");
    let text = String::from_utf8(several.encode()).expect("JSON is UTF-8");
    for (known, new, left) in [
        (r#""state":"rejected""#, r#""state":"postponed""#, vec![1, 2, 4]),
        (r#""reason":"no_incident_of_impact""#, r#""reason":"for_fun""#, vec![2, 3, 4]),
        (r#""impact":2"#, r#""impact":9"#, vec![2, 3, 4]),
        (r#""state":"parked""#, r#""state":7"#, vec![1, 2, 3]),
    ] {
        assert!(text.contains(known), "{text}");
        let (reply, left_out) =
            ReplyMessage::decode(text.replacen(known, new, 1).as_bytes()).expect(new);
        let ids: Vec<UpdateId> = reply.results.iter().map(|result| result.id).collect();
        assert_eq!(ids, left.into_iter().map(id).collect::<Vec<_>>(), "{new}");
        assert_eq!(left_out, 1, "{new}");
    }
    for wrong in [&b"{"[..], b"{\"v\":1}", b"{\"v\":1,\"results\":7}"] {
        assert!(matches!(ReplyMessage::decode(wrong), Err(DecodeError::Malformed(_))));
    }
}

#[test]
fn other_versions_and_other_bytes_are_told_apart() {
    let with = |version: u16, bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("JSON is UTF-8");
        text.replacen(&format!("\"v\":{VERSION}"), &format!("\"v\":{version}"), 1).into_bytes()
    };
    for version in [OLDEST - 1, NEWEST + 1] {
        let update = UpdateMessage::decode(&with(version, update().encode()));
        assert!(matches!(update, Err(DecodeError::Version(v)) if v == version));
        let reply = ReplyMessage::decode(&with(version, reply([Verdict::Parked]).encode()));
        assert!(matches!(reply, Err(DecodeError::Version(v)) if v == version));
    }
    let envelope = with(crate::wire::envelope::VERSION, update().encode());
    assert!(matches!(UpdateMessage::decode(&envelope), Err(DecodeError::Envelope)));
    assert!(matches!(ReplyMessage::decode(&envelope), Err(DecodeError::Envelope)));
    assert!(matches!(UpdateMessage::decode(b"{"), Err(DecodeError::Malformed(_))));
    assert!(matches!(UpdateMessage::decode(b"{\"v\":1}"), Err(DecodeError::Malformed(_))));
    let maintenance = UpdateMessage { condition: Impact::Maintenance.into(), ..update() };
    assert!(matches!(UpdateMessage::decode(&maintenance.encode()), Err(DecodeError::Maintenance)));
}
