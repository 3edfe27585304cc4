use shared::domain::{
    component::{Component, ComponentId},
    impact::Impact,
    timestamp::Timestamp,
    update_id::UpdateId,
};

use super::*;

fn update(component: i32) -> UpdateMessage {
    let now = Timestamp::from_micros(1_790_000_000_000_000).expect("in range");
    UpdateMessage {
        id: UpdateId::at(now),
        component: Component {
            id: ComponentId(component),
            name: "DNS".to_owned(),
            attributes: Vec::new(),
        },
        condition: Impact::Major.into(),
        text: "Slow".to_owned(),
        received_at: now,
        idempotency: None,
        report: None,
    }
}

fn entry(update: &UpdateMessage) -> Entry {
    Entry { message: update.encode(), wants_reply: false, trace: None }
}

fn delivered(body: Vec<u8>) -> Delivered<'static> {
    Delivered { body, message_id: Some("an id"), ids: None, given_up: None }
}

fn ids(updates: &[UpdateMessage]) -> String {
    updates.iter().map(|update| update.id.to_string()).collect::<Vec<_>>().join(",")
}

#[test]
fn a_message_without_an_envelope_is_one_update_as_it_came() {
    let update = update(1);
    for (body, readable) in [(update.encode(), true), (b"{".to_vec(), false)] {
        let parts = delivered(body.clone()).unpack();
        let [part] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!(part.payload, body);
        assert_eq!(part.message_id.as_deref(), Some("an id"));
        assert_eq!(part.content.as_ref().ok(), readable.then_some(&update));
        assert!(part.wants_reply && part.trace.is_none());
    }
}

#[test]
fn each_update_of_an_envelope_is_a_message_of_its_own() {
    let updates = [update(1), update(2), update(1)];
    let mut entries = updates.each_ref().map(entry);
    entries[1].wants_reply = true;
    let trace = TraceContext { traceparent: "00-1-2-01".to_owned(), tracestate: None };
    entries[2].trace = Some(trace.clone());
    for ids in [Some(ids(&updates)), Some("x,y".to_owned()), None] {
        let body = envelope::encode(&entries);
        let parts = Delivered { ids: ids.as_deref(), ..delivered(body) }.unpack();
        assert_eq!(parts.len(), updates.len());
        for (part, update) in parts.iter().zip(&updates) {
            assert_eq!(part.content.as_ref().ok(), Some(update));
            assert_eq!(part.message_id, Some(update.id.to_string()));
            assert_eq!(part.payload, update.encode(), "as it would travel alone");
        }
        let replies: Vec<bool> = parts.iter().map(|part| part.wants_reply).collect();
        assert_eq!(replies, [false, true, false]);
        assert_eq!(parts[2].trace, Some(trace.clone()));
    }
}

#[test]
fn an_update_that_cannot_be_read_has_its_own_id_and_harms_no_other() {
    let updates = [update(1), update(2)];
    let body = String::from_utf8(envelope::encode(&updates.each_ref().map(entry))).expect("UTF-8");
    for (good, bad) in [
        (r#""impact":2"#, r#""impact":0"#),
        (r#""impact":2"#, r#""impact":"x""#),
        (r#"{"v":1,"#, r#"{"v":2,"entries":[],"#),
        (r#"{"v":1,"#, r#"{"v":77,"#),
        (r#"{"v":1,"#, r#"{"v":3,"#),
        (r#""impact":2"#, r#""impact":"ok""#),
        (r#"{"message""#, r#"{"messages""#),
    ] {
        assert!(body.contains(good), "{body}");
        let ids = ids(&updates);
        let body = body.replacen(good, bad, 1).into_bytes();
        let parts = Delivered { ids: Some(&ids), ..delivered(body) }.unpack();
        let [first, second] = &parts[..] else { panic!("{parts:?}") };
        assert!(matches!(first.content, Err(Unusable::Unreadable(_))), "{first:?}");
        assert_eq!(first.message_id, Some(updates[0].id.to_string()), "{bad}");
        assert!(String::from_utf8_lossy(&first.payload).contains("Slow"), "{first:?}");
        assert_eq!(second.content.as_ref().ok(), Some(&updates[1]));
    }
}

#[test]
fn where_nothing_can_be_read_each_update_is_known_by_its_id() {
    let updates = [update(1), update(2)];
    let ids = ids(&updates);
    for body in [r#"{"v":2,"entries":["#, r#"{"v":2,"entries":[]}"#, r#"{"v":99}"#, ""] {
        let body = body.as_bytes().to_vec();
        let parts = Delivered { ids: Some(&ids), ..delivered(body.clone()) }.unpack();
        assert_eq!(parts.len(), 2);
        for (part, update) in parts.iter().zip(&updates) {
            assert!(matches!(part.content, Err(Unusable::Unreadable(_))), "{part:?}");
            assert_eq!(part.message_id, Some(update.id.to_string()));
            assert_eq!(part.payload, body);
        }
        // Without the header it is one unreadable message.
        let parts = delivered(body).unpack();
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].message_id.as_deref(), Some("an id"));
    }
}

#[test]
fn what_rabbitmq_gave_up_is_given_up_update_by_update() {
    let updates = [update(1), update(2)];
    let alone = [update(3)];
    for (body, updates) in [
        (envelope::encode(&updates.each_ref().map(entry)), &updates[..]),
        (alone[0].encode(), &alone[..]),
    ] {
        let id = updates[0].id.to_string();
        let delivered =
            Delivered { message_id: Some(&id), given_up: Some("why"), ..delivered(body) };
        let parts = delivered.unpack();
        assert_eq!(parts.len(), updates.len());
        for (part, update) in parts.iter().zip(updates) {
            assert!(matches!(&part.content, Err(Unusable::GivenUp(why)) if why == "why"));
            assert_eq!(part.message_id, Some(update.id.to_string()));
            assert_eq!(part.payload, update.encode());
        }
    }
}
