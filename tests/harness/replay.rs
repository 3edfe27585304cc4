//! Invariant 5: the inbox, replayed through the decision, gives the state in the database.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use shared::{
    component::ComponentId, impact::Impact, incident::IncidentId, outcome::Reason,
    timestamp::Timestamp,
};
use sqlx::PgPool;
use worker::decision::{ActiveState, Holder, IncidentRef};

/// What the replay and the database must agree on, by incident.
type Shape =
    BTreeMap<IncidentId, (String, i16, Timestamp, Option<Timestamp>, BTreeSet<ComponentId>)>;

/// An incident that an operator closed, while nothing was decided.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    /// The newest place in the inbox then.
    pub after: i64,
    /// The incident.
    pub incident: IncidentId,
    /// The end that it got.
    pub at: Timestamp,
}

/// Replays a journal that nobody else wrote beside, from an empty database.
pub async fn agrees(database: &PgPool) -> Result<()> {
    agrees_with(database, Vec::new()).await
}

/// The same, where an operator closed incidents meanwhile. Those that the database does not have
/// with that end were not closed: their commit failed.
pub async fn agrees_with(database: &PgPool, mut closings: Vec<Closing>) -> Result<()> {
    let stored = stored(database).await?;
    closings.retain(|closing| {
        stored.get(&closing.incident).is_some_and(|(_, _, _, end, _)| *end == Some(closing.at))
    });
    closings.sort_by_key(|closing| closing.after);
    let mut closings = closings.into_iter().peekable();
    type Row = (i64, ComponentId, i16, String, Timestamp, String, IncidentId);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT position, component_id, impact, text, decided_at, reason, incident_id
        FROM sdb_inbox WHERE incident_id IS NOT NULL ORDER BY position",
    )
    .fetch_all(database)
    .await?;
    let mut state = ActiveState::default();
    let mut ids: Vec<IncidentId> = Vec::new();
    for (position, component, impact, text, decided_at, reason, incident) in rows {
        while let Some(closing) = closings.next_if(|closing| closing.after < position) {
            close(&mut state, &ids, closing)?;
        }
        let effect = state.apply(component, Impact::try_from(impact)?, &text, decided_at);
        let recorded = Reason::from_word(&reason)?;
        ensure!(effect.reason == recorded, "{position}: {} was {recorded}", effect.reason);
        let Holder::System(IncidentRef::New(index)) = effect.holder else {
            anyhow::bail!("{position} is held by {:?}", effect.holder);
        };
        if index == ids.len() {
            ids.push(incident);
        }
        ensure!(ids.get(index) == Some(&incident), "{position} went to {incident}");
    }
    for closing in closings {
        close(&mut state, &ids, closing)?;
    }

    let mut replayed = Shape::new();
    for (id, incident) in state.system.iter().chain(&state.closed) {
        let IncidentRef::New(index) = id else { anyhow::bail!("{id:?} came from nowhere") };
        let id = *ids.get(*index).context("an incident without a row")?;
        let incident = incident.clone();
        let shape = (
            incident.text,
            i16::from(incident.impact),
            incident.start_date,
            incident.end_date,
            incident.components,
        );
        replayed.insert(id, shape);
    }
    ensure!(replayed == stored, "the replay gives another state");
    Ok(())
}

/// Closes an incident as an operator did.
fn close(state: &mut ActiveState, ids: &[IncidentId], closing: Closing) -> Result<()> {
    let index = ids.iter().position(|id| *id == closing.incident);
    let id = IncidentRef::New(index.context("an incident was closed before it was opened")?);
    let mut incident = state.system.remove(&id).context("an incident was closed twice")?;
    incident.end_date = Some(closing.at);
    state.closed.insert(id, incident);
    Ok(())
}

async fn stored(database: &PgPool) -> Result<Shape> {
    type Row = (IncidentId, String, i16, Timestamp, Option<Timestamp>, Vec<ComponentId>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, text, impact, start_date, end_date, coalesce(
            (SELECT array_agg(component_id) FROM incident_component_relation
                WHERE incident_id = incident.id), '{}')
        FROM incident WHERE system",
    )
    .fetch_all(database)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, text, impact, start, end, components)| {
            (id, (text, impact, start, end, components.into_iter().collect()))
        })
        .collect())
}

/// Invariant 3, as the database has it.
pub async fn holds_one_active_incident(database: &PgPool) -> Result<()> {
    let shared_impacts: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT impact FROM incident
            WHERE system AND end_date IS NULL GROUP BY impact HAVING count(*) > 1) AS twice",
    )
    .fetch_one(database)
    .await?;
    ensure!(shared_impacts == 0, "{shared_impacts} impacts have several active incidents");
    let doubled: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT component_id FROM incident_component_relation r
            JOIN incident i ON i.id = r.incident_id
            WHERE i.system AND i.end_date IS NULL GROUP BY component_id HAVING count(*) > 1) AS d",
    )
    .fetch_one(database)
    .await?;
    ensure!(doubled == 0, "{doubled} components are in several active incidents");
    Ok(())
}
