//! Incidents as JSON, as API v1 has them.

use serde::{Serialize, Serializer};
use shared::domain::{
    incident::{IncidentId, IncidentSnapshot},
    timestamp::Timestamp,
};
use utoipa::{
    ToSchema,
    openapi::{Object, Type},
};

use crate::store::incidents::Incident;

/// An incident for the answers to the updates of one batch: its own updates are written once for all
/// of them.
pub(crate) struct ShownIncident {
    pub(crate) incident: Incident,
    /// Its updates as JSON, with commas between them.
    updates: Vec<u8>,
    /// Where each begins.
    begins: Vec<usize>,
}

impl ShownIncident {
    pub(crate) fn new(incident: Incident) -> Self {
        let (mut updates, mut begins) = (Vec::new(), Vec::new());
        for update in updates_of(&incident) {
            if !begins.is_empty() {
                updates.push(b',');
            }
            begins.push(updates.len());
            updates.append(&mut json(&update));
        }
        Self { incident, updates, begins }
    }

    /// As it is now, as JSON.
    pub(crate) fn now(&self) -> Vec<u8> {
        self.json(IncidentJson::of(&self.incident), 0)
    }

    /// As it stood when the snapshot was taken, as JSON: what was written later is left out.
    pub(crate) fn at(&self, snapshot: &IncidentSnapshot) -> Vec<u8> {
        let IncidentSnapshot { id, text, impact, start_date, end_date, last_update_at } = snapshot;
        let times = self.incident.update_times.iter();
        // The snapshot came in a message, which has no times beyond our calendar.
        let is_later = |last: Timestamp, time: &Timestamp| time.as_micros() > last.as_micros();
        let later = times.take_while(|time| last_update_at.is_none_or(|last| is_later(last, time)));
        self.json(
            IncidentJson::new(*id, text, (*impact).into(), *start_date, *end_date),
            later.count(),
        )
    }

    fn json(&self, head: IncidentJson<'_>, later: usize) -> Vec<u8> {
        let begin = self.begins.get(later).copied().unwrap_or(self.updates.len());
        let mut json = json(&head);
        // The updates take the place of the `null` that ends it.
        json.truncate(json.len() - "null}".len());
        json.push(b'[');
        json.extend_from_slice(self.updates.get(begin..).unwrap_or_default());
        json.extend_from_slice(b"]}");
        json
    }
}

#[expect(clippy::expect_used, reason = "texts, numbers and lists of them are always JSON")]
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what is shown is JSON")
}

/// An incident, or a maintenance.
#[derive(Serialize, ToSchema)]
#[schema(as = Incident)]
pub(crate) struct IncidentJson<'a> {
    /// Its id.
    #[schema(value_type = i32)]
    id: IncidentId,
    /// Its title, as plain text.
    #[schema(example = "High latency")]
    text: &'a str,
    /// 0 maintenance, 1 minor, 2 major, 3 outage.
    #[schema(minimum = 0, maximum = 3, example = 1)]
    impact: i16,
    #[schema(schema_with = minute)]
    start_date: String,
    #[schema(schema_with = minute_or_null)]
    end_date: Option<String>,
    /// What happened to it, newest first.
    #[schema(value_type = Vec<UpdateJson>)]
    updates: Option<Updates<'a>>,
}

/// A time as answers show it. Its description is here, because the document has no other for such fields.
fn minute() -> Object {
    let mut text = Object::with_type(Type::String);
    text.description = Some("UTC, to the minute.".to_owned());
    text.pattern = Some(r"^-?\d{4,6}-\d\d-\d\d \d\d:\d\d$".to_owned());
    text.examples = vec!["2026-03-01 12:00".into()];
    text
}

/// The end of an incident.
fn minute_or_null() -> Object {
    let mut text = minute();
    text.description = Some(
        "UTC, to the minute. Null while an incident is active; that of a maintenance may be in the future."
            .to_owned(),
    );
    text.schema_type = [Type::String, Type::Null].into_iter().collect();
    text
}

impl<'a> IncidentJson<'a> {
    /// As it is now, without its updates.
    fn of(incident: &'a Incident) -> Self {
        let Incident { id, text, impact, start_date, end_date, .. } = incident;
        Self::new(*id, text, *impact, *start_date, *end_date)
    }

    /// Without its updates.
    fn new(
        id: IncidentId,
        text: &'a str,
        impact: i16,
        start_date: Timestamp,
        end_date: Option<Timestamp>,
    ) -> Self {
        let (start_date, end_date) =
            (start_date.to_the_minute(), end_date.map(Timestamp::to_the_minute));
        Self { id, text, impact, start_date, end_date, updates: None }
    }
}

impl Serialize for Incident {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        IncidentJson { updates: Some(Updates(self)), ..IncidentJson::of(self) }
            .serialize(serializer)
    }
}

struct Updates<'a>(&'a Incident);

/// An incident update.
#[derive(Serialize, ToSchema)]
#[schema(as = IncidentUpdate)]
struct UpdateJson<'a> {
    /// `SYSTEM` for what this service did, otherwise an operator's status.
    #[schema(example = "SYSTEM")]
    status: &'a str,
    /// HTML. In texts of this service, all names are escaped.
    #[schema(example = "impact changed from minor to major")]
    text: &'a str,
    #[schema(schema_with = minute)]
    timestamp: String,
}

impl Serialize for Updates<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(updates_of(self.0))
    }
}

/// The updates of an incident, newest first.
fn updates_of(incident: &Incident) -> impl Iterator<Item = UpdateJson<'_>> {
    incident.updates().map(|(status, text, time)| UpdateJson {
        status,
        text,
        timestamp: time.to_the_minute(),
    })
}
