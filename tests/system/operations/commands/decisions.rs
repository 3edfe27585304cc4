//! Commands beside a worker: each stands between two batches.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shared::domain::{
    component::ComponentId, impact::Impact, incident::IncidentId, outcome::Reason,
    timestamp::Timestamp,
};
use sqlx::AssertSqlSafe;
use worker::domain::{ActiveState, IncidentRef, ManualIncident, Update, decide};

use super::json_of;
use harness::{
    Fixture, System,
    burst::{Burst, took_effect_beside_commands},
    replay, tests,
};

tests!(decisions_beside_an_operators_commands_are_right,);

/// A command and when it took place.
struct Command {
    at: Timestamp,
    incident: IncidentId,
    does: Does,
}

enum Does {
    /// Opened a person's outage of these.
    Open(BTreeSet<ComponentId>),
    /// Closed one of the system's.
    Close,
}

async fn command(system: &System, incident: &Value, time: &str, does: Does) -> Result<Command> {
    let id = incident["id"].as_i64().context("no id")?;
    let query = format!("SELECT {time} FROM incident WHERE id = {id}");
    let at = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&system.database).await?;
    Ok(Command { at, incident: IncidentId(i32::try_from(id)?), does })
}

async fn decisions_beside_an_operators_commands_are_right(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::start(&fixture).await?;
    system.start_worker(&[]).await?;
    let burst = Burst::start(&system).await?;
    let mut commands: Vec<Command> = Vec::new();
    for round in 1..=5_i32 {
        burst.is_decided().await?;
        let (one, two) = (round * 7, round * 7 + 1);
        let (first, second) = (one.to_string(), two.to_string());
        let open = ["incident", "open", "--title", "Seen", "--impact", "3", "--component", &first];
        let opened = json_of(&system, &[&open[..], &["--component", &second]].concat()).await?;
        let components = BTreeSet::from([ComponentId(one), ComponentId(two)]);
        commands.push(command(&system, &opened, "start_date", Does::Open(components)).await?);

        burst.is_decided().await?;
        let list = json_of(&system, &["incident", "list"]).await?;
        let all = list.as_array().context("no list")?;
        let of_the_system = all.iter().find(|incident| incident["system"] == true);
        let id = of_the_system.context("the system has none")?["id"].to_string();
        let (done, said) = system.worker_command(&["incident", "close", &id, "--json"]).await?;
        // A decision may have been first.
        ensure!(done || said.contains("was closed at"), "{said}");
        if done {
            let closed = serde_json::from_str(&said)?;
            commands.push(command(&system, &closed, "end_date", Does::Close).await?);
        }
    }
    burst.is_decided().await?;
    let sent = burst.stop().await?;
    system.drained().await?;
    took_effect_beside_commands(&system, &sent).await?;
    replay::holds_one_active_incident(&system.database).await?;
    replayed(&system, commands).await?;
    system.finish().await
}

/// Every decision follows from those before it and the commands between them.
async fn replayed(system: &System, commands: Vec<Command>) -> Result<()> {
    type Row = (ComponentId, i16, String, Timestamp, String, IncidentId);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT component_id, impact, text, decided_at, reason, incident_id FROM sdb_inbox
        WHERE incident_id IS NOT NULL ORDER BY position",
    )
    .fetch_all(&system.database)
    .await?;
    let mut state = ActiveState::default();
    let mut ids: Vec<IncidentId> = Vec::new();
    let (mut commands, mut covered) = (commands.into_iter().peekable(), 0);
    for (component, impact, text, decided_at, reason, incident) in rows {
        while let Some(command) = commands.next_if(|command| command.at < decided_at) {
            took_place(&mut state, &ids, command)?;
        }
        let impact = Impact::try_from(impact)?;
        let update = Update { component, text: &text, at: decided_at };
        let decision = decide(&state, update, impact);
        let decided = decision.reason();
        ensure!(Some(decided) == Reason::from_word(&reason), "{decided} was {reason}");
        covered += usize::from(matches!(
            decided,
            Reason::InRunningMaintenance | Reason::CoveredByManualIncident
        ));
        let holder = state.carry_out(&decision, update, &mut Vec::new());
        let holder = match holder.context("no incident")? {
            IncidentRef::Existing(id) => id,
            IncidentRef::New(index) => {
                if index == ids.len() {
                    ids.push(incident);
                }
                *ids.get(index).context("no incident")?
            }
        };
        ensure!(holder == incident, "{holder} was {incident}");
    }
    ensure!(commands.next().is_none(), "a command came after the burst");
    ensure!(covered > 0, "no update met an incident of a person");
    // What the system has in the end is what the replay has.
    let number = |id: &IncidentRef| match id {
        IncidentRef::Existing(id) => Some(*id),
        IncidentRef::New(index) => ids.get(*index).copied(),
    };
    let mut replayed: Vec<_> = state.system.iter().map(|(id, i)| (number(id), i.impact)).collect();
    replayed.sort();
    let stored: Vec<(IncidentId, i16)> = sqlx::query_as(
        "SELECT id, impact FROM incident WHERE system AND end_date IS NULL ORDER BY id",
    )
    .fetch_all(&system.database)
    .await?;
    let replayed: Vec<_> = replayed.into_iter().map(|(id, i)| (id, i16::from(i))).collect();
    let stored: Vec<_> = stored.into_iter().map(|(id, impact)| (Some(id), impact)).collect();
    ensure!(replayed == stored, "the replay has {replayed:?}, the database {stored:?}");
    Ok(())
}

fn took_place(state: &mut ActiveState, ids: &[IncidentId], command: Command) -> Result<()> {
    match command.does {
        Does::Close => {
            let index = ids.iter().position(|id| *id == command.incident);
            let id = IncidentRef::New(index.context("closed before it was opened")?);
            state.system.remove(&id).context("closed twice")?;
        }
        Does::Open(components) => {
            state.system.retain(|_, incident| {
                let left = incident.components.iter().any(|id| !components.contains(id));
                if left {
                    incident.components.retain(|id| !components.contains(id));
                }
                left
            });
            for component in components {
                state.manual.entry(component).or_default().push(ManualIncident {
                    id: command.incident,
                    text: "Seen".to_owned(),
                    impact: Impact::Outage,
                    start_date: command.at,
                    end_date: None,
                    last_update_at: None,
                });
            }
        }
    }
    Ok(())
}
