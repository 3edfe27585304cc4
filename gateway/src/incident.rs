//! Incidents as answers show them.

use std::collections::HashMap;

use serde::{Serialize, Serializer, ser::SerializeStruct};
use shared::{
    incident::{IncidentId, IncidentSnapshot},
    timestamp::Timestamp,
};
use sqlx::{FromRow, PgPool};

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

/// The columns of [`Incident`] for `incident i`, joined with its updates as `u`.
pub(crate) const COLUMNS: &str = "i.id, i.text, i.impact, i.start_date, i.end_date,
    u.update_statuses, u.update_texts, u.update_times";

/// The updates of `incident i`, newest first.
pub(crate) const UPDATES: &str = "LEFT JOIN LATERAL (
        SELECT
            coalesce(array_agg(status ORDER BY \"timestamp\" DESC, id DESC), '{}') AS update_statuses,
            coalesce(array_agg(text ORDER BY \"timestamp\" DESC, id DESC), '{}') AS update_texts,
            coalesce(array_agg(\"timestamp\" ORDER BY \"timestamp\" DESC, id DESC), '{}') AS update_times
        FROM incident_status WHERE incident_id = i.id
    ) AS u ON true";

impl Incident {
    /// The incident as it stood when the snapshot was taken: what was written later is left out.
    pub(crate) fn rolled_back_to(mut self, snapshot: &IncidentSnapshot) -> Self {
        let later = self
            .update_times
            .iter()
            .take_while(|time| snapshot.last_update_at.is_none_or(|last| **time > last))
            .count();
        self.update_statuses.drain(..later);
        self.update_texts.drain(..later);
        self.update_times.drain(..later);
        self.text.clone_from(&snapshot.text);
        self.impact = snapshot.impact.into();
        self.start_date = snapshot.start_date;
        self.end_date = snapshot.end_date;
        self
    }
}

impl Serialize for Incident {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut incident = serializer.serialize_struct("Incident", 6)?;
        incident.serialize_field("id", &self.id)?;
        incident.serialize_field("text", &self.text)?;
        incident.serialize_field("impact", &self.impact)?;
        incident.serialize_field("start_date", &self.start_date.to_the_minute())?;
        incident.serialize_field("end_date", &self.end_date.map(Timestamp::to_the_minute))?;
        incident.serialize_field("updates", &Updates(self))?;
        incident.end()
    }
}

struct Updates<'a>(&'a Incident);

#[derive(Serialize)]
struct Update<'a> {
    status: &'a str,
    text: &'a str,
    timestamp: String,
}

impl Serialize for Updates<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Incident { update_statuses, update_texts, update_times, .. } = self.0;
        let updates = update_statuses.iter().zip(update_texts).zip(update_times);
        serializer.collect_seq(updates.map(|((status, text), time)| Update {
            status,
            text,
            timestamp: time.to_the_minute(),
        }))
    }
}

/// The incidents with these ids, as they are now; one that is gone is absent.
pub(crate) async fn read(
    database: &PgPool,
    ids: &[IncidentId],
) -> Result<HashMap<IncidentId, Incident>, sqlx::Error> {
    let query = format!("SELECT {COLUMNS} FROM incident i {UPDATES} WHERE i.id = ANY($1)");
    let incidents: Vec<Incident> =
        sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(ids).fetch_all(database).await?;
    Ok(incidents.into_iter().map(|incident| (incident.id, incident)).collect())
}
