//! Incidents as answers show them.

use std::collections::HashMap;

use serde::{Serialize, Serializer};
use shared::{
    impact::Impact,
    incident::{IncidentId, IncidentSnapshot},
    timestamp::Timestamp,
};
use sqlx::{AssertSqlSafe, FromRow};
use utoipa::{
    ToSchema,
    openapi::{Object, Type},
};

use super::pools::Pool;

/// An incident with its updates, newest first.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Incident {
    pub(crate) id: IncidentId,
    pub(crate) text: String,
    pub(crate) impact: i16,
    pub(crate) start_date: Timestamp,
    pub(crate) end_date: Option<Timestamp>,
    pub(crate) update_statuses: Vec<String>,
    pub(crate) update_texts: Vec<String>,
    pub(crate) update_times: Vec<Timestamp>,
}

/// The condition that `incident i` is active now: it has started, and has no end or one in the future.
///
/// The statement's time stays the same throughout it, so that an index can be used.
pub(crate) const ACTIVE_NOW: &str = "i.start_date <= statement_timestamp() AT TIME ZONE 'UTC'
    AND (i.end_date IS NULL OR i.end_date > statement_timestamp() AT TIME ZONE 'UTC')";

/// Which incidents a list has, newest start first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IncidentSelection {
    /// Only those that are active now.
    pub(crate) active: bool,
    pub(crate) impact: Option<Impact>,
    /// Only those after this one, by start and id.
    pub(crate) after: Option<(Timestamp, i32)>,
    /// At most this many; none for all.
    pub(crate) limit: Option<u32>,
}

impl IncidentSelection {
    /// The statement. It has only the conditions that are asked for, so that the plan can use their index. `limit`
    /// is bound as $1, impact as $2, the last incident of the page before as $3 and $4.
    fn statement(&self) -> String {
        let mut conditions = vec!["$2::smallint IS NULL OR i.impact = $2"];
        conditions.extend(self.active.then_some(ACTIVE_NOW));
        conditions.push(match self.after {
            Some(_) => "(i.start_date, i.id) < ($3::timestamp, $4::integer)",
            None => "$3::timestamp IS NULL AND $4::integer IS NULL",
        });
        let conditions = conditions.join(") AND (");
        format!(
            "SELECT {COLUMNS} FROM (
                SELECT * FROM incident i WHERE ({conditions})
                ORDER BY i.start_date DESC, i.id DESC LIMIT $1
            ) AS i {UPDATES} ORDER BY i.start_date DESC, i.id DESC"
        )
    }

    /// The statement with its values.
    pub(crate) fn rows(&self) -> Rows {
        sqlx::query_as(AssertSqlSafe(self.statement()))
            .bind(self.limit.map(i64::from))
            .bind(self.impact.map(i16::from))
            .bind(self.after.map(|(start_date, _)| start_date))
            .bind(self.after.map(|(_, id)| id))
    }
}

pub(crate) type Rows = sqlx::query::QueryAs<
    'static,
    sqlx::Postgres,
    Incident,
    <sqlx::Postgres as sqlx::Database>::Arguments,
>;

/// The columns of [`Incident`] for `incident i`, joined with its updates as `u`.
pub(crate) const COLUMNS: &str =
    "i.id, sdb_readable(i.text) AS text, i.impact, i.start_date, i.end_date,
    u.update_statuses, u.update_texts, u.update_times";

/// The updates of an incident as the arrays of [`Incident`], newest first.
macro_rules! update_arrays {
    () => {
        "coalesce(array_agg(sdb_readable(status) ORDER BY \"timestamp\" DESC, id DESC), '{}')
                AS update_statuses,
            coalesce(array_agg(sdb_readable(text) ORDER BY \"timestamp\" DESC, id DESC), '{}')
                AS update_texts,
            coalesce(array_agg(\"timestamp\" ORDER BY \"timestamp\" DESC, id DESC), '{}') AS update_times"
    };
}

pub(super) const UPDATE_ARRAYS: &str = update_arrays!();

/// The updates of `incident i`, newest first.
pub(crate) const UPDATES: &str = concat!(
    "LEFT JOIN LATERAL (
        SELECT ",
    update_arrays!(),
    " FROM incident_status WHERE incident_id = i.id
    ) AS u ON true"
);

/// An incident for the answers to the updates of one batch: its own updates are written once for all
/// of them.
pub(crate) struct Shown {
    pub(crate) incident: Incident,
    /// Its updates as JSON, with commas between them.
    updates: Vec<u8>,
    /// Where each begins.
    begins: Vec<usize>,
}

impl Shown {
    pub(crate) fn new(incident: Incident) -> Self {
        let (mut updates, mut begins) = (Vec::new(), Vec::new());
        for update in incident.updates_json() {
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
        self.json(self.incident.head(), 0)
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
    #[schema(value_type = Vec<Update>)]
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

/// The status of updates that this service wrote.
pub(crate) const SYSTEM: &str = "SYSTEM";

impl<'a> IncidentJson<'a> {
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

impl Incident {
    fn head(&self) -> IncidentJson<'_> {
        IncidentJson::new(self.id, &self.text, self.impact, self.start_date, self.end_date)
    }

    /// Status, text and time of each update, newest first.
    pub(crate) fn updates(&self) -> impl DoubleEndedIterator<Item = (&str, &str, Timestamp)> {
        let updates = self.update_statuses.iter().zip(&self.update_texts).zip(&self.update_times);
        updates.map(|((status, text), time)| (status.as_str(), text.as_str(), *time))
    }

    fn updates_json(&self) -> impl Iterator<Item = Update<'_>> {
        self.updates().map(|(status, text, time)| Update {
            status,
            text,
            timestamp: time.to_the_minute(),
        })
    }
}

impl Serialize for Incident {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        IncidentJson { updates: Some(Updates(self)), ..self.head() }.serialize(serializer)
    }
}

struct Updates<'a>(&'a Incident);

/// An incident update.
#[derive(Serialize, ToSchema)]
#[schema(as = IncidentUpdate)]
struct Update<'a> {
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
        serializer.collect_seq(self.0.updates_json())
    }
}

/// The incidents with these ids, as they are now; one that is gone is absent.
pub(crate) async fn read(
    database: &Pool,
    ids: &[IncidentId],
) -> Result<HashMap<IncidentId, Incident>, sqlx::Error> {
    let query = format!("SELECT {COLUMNS} FROM incident i {UPDATES} WHERE i.id = ANY($1)");
    let incidents: Vec<Incident> = sqlx::query_as(sqlx::AssertSqlSafe(query))
        .bind(ids)
        .fetch_all(&database.now().await)
        .await?;
    Ok(incidents.into_iter().map(|incident| (incident.id, incident)).collect())
}
