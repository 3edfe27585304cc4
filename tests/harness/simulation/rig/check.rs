//! Compares the database with the model.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context, Result, ensure};
use model::{Answer, Incident, Post};
use shared::{
    component::ComponentId,
    impact::Impact,
    incident::{IncidentId, IncidentSnapshot},
    message::{UpdateResult, Verdict},
    timestamp::Timestamp,
    update::UpdateId,
};
use sqlx::PgPool;

use super::{Batch, FirstUse, Message, Rig};
use crate::replay;

/// A row of the inbox.
#[derive(Debug, sqlx::FromRow)]
struct Row {
    id: UpdateId,
    component_id: ComponentId,
    position: i64,
    decided_at: Timestamp,
    outcome: String,
    reason: String,
    incident_id: Option<IncidentId>,
    original: Option<UpdateId>,
}

impl Rig {
    /// Gives the model what the inbox has now, and compares all there is.
    pub(super) async fn compare(&mut self, batches: &[Batch<'_>]) -> Result<()> {
        let known_before: HashSet<UpdateId> = self.settled.union(&self.parked).copied().collect();
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, component_id, position, decided_at, outcome, reason, incident_id, original
            FROM sdb_inbox WHERE position > $1 ORDER BY position",
        )
        .bind(self.position)
        .fetch_all(&mut self.database)
        .await?;
        let sent: HashSet<UpdateId> =
            batches.iter().flat_map(|(batch, _)| batch.iter().map(|message| message.id)).collect();
        for row in rows {
            ensure!(sent.contains(&row.id), "{row:?} was in no batch");
            self.follow(&row).with_context(|| format!("{row:?}"))?;
        }
        self.parked = self.read_parked().await?;
        for (batch, results) in batches {
            match results {
                Some(results) => self.told(batch, results)?,
                None => self.is_whole(batch, &known_before)?,
            }
        }
        let stored = self.stored().await?;
        ensure!(
            stored == self.world.incidents,
            "the database has {stored:#?},\nthe model {:#?}",
            self.world.incidents
        );
        Ok(())
    }

    /// One decided update: the model must decide the same.
    fn follow(&mut self, row: &Row) -> Result<()> {
        ensure!(row.position == self.position + 1, "a place is left out");
        ensure!(self.decided_at.is_none_or(|last| row.decided_at > last), "time stands still");
        (self.position, self.decided_at) = (row.position, Some(row.decided_at));
        ensure!(self.settled.insert(row.id), "it was decided before");

        let posted = self.posted.get_mut(&row.id).context("nobody sent it")?;
        let update = &posted.update;
        ensure!(row.component_id == update.component.id, "another component");
        let current = self.world.catalogue.get(&update.component.id);
        let named = current.is_some_and(|current| current.name == update.component.name);
        ensure!(named, "its component is gone or means another one");
        let newest = self.newest.entry(update.component.id).or_default();
        if !posted.put_back {
            // Numbers begin at 0.
            ensure!(posted.number + 1 > *newest, "an update that was sent later came first");
            *newest = posted.number + 1;
        }
        if let (Some(key), Some(idempotency)) = (self.key_of.get(&row.id), &update.idempotency) {
            if let Some(first) = self.keys.get(key) {
                let same = first.fingerprint == idempotency.fingerprint;
                let expected = if same { "repeated" } else { "rejected" };
                ensure!(row.outcome == expected, "the key was used, so it is {expected}");
                ensure!(row.original == Some(first.update), "the first was {}", first.update);
                return Ok(());
            }
            let fingerprint = idempotency.fingerprint.clone();
            self.keys.insert(*key, FirstUse { fingerprint, update: row.id });
        }
        let post = Post {
            component: update.component.id,
            impact: update.impact,
            text: update.text.clone(),
            at: row.decided_at,
        };
        let answer = model::apply(&mut self.world, &post);
        ensure!(row.reason == answer.reason.word(), "the model says {}", answer.reason);
        ensure!(row.outcome == answer.reason.outcome().word(), "the reason has another outcome");
        ensure!(row.incident_id == Some(answer.id), "the model's incident is {}", answer.id);
        posted.answer = Some(answer);
        Ok(())
    }

    /// The worker was told what the database has.
    fn told(&self, batch: &[Message], results: &[Option<UpdateResult>]) -> Result<()> {
        ensure!(batch.len() == results.len(), "{} results", results.len());
        let mut first = HashSet::new();
        for (message, result) in batch.iter().zip(results) {
            let result = result.as_ref().context("a result without an id")?;
            ensure!(result.id == message.id, "{result:?} for {}", message.id);
            let again = !first.insert(message.id);
            self.verdict(&result.verdict, message, again)
                .with_context(|| format!("{message:?} was told {:?}", result.verdict))?;
        }
        Ok(())
    }

    fn verdict(&self, verdict: &Verdict, message: &Message, again: bool) -> Result<()> {
        let settled = self.settled.contains(&message.id);
        match verdict {
            Verdict::Decided { reason, incident } => {
                ensure!(settled && !again, "it was not decided now");
                let answer = self.answer(message.id)?;
                ensure!(answer.reason == *reason, "the model says {}", answer.reason);
                ensure!(*incident == snapshot(answer), "the model has {answer:?}");
            }
            Verdict::Repeated { original, reason, incident } => {
                ensure!(settled, "it was not decided");
                let answer = self.answer(*original)?;
                ensure!(answer.reason == *reason && answer.id == *incident, "not as {answer:?}");
            }
            Verdict::Rejected => ensure!(settled, "it was not decided"),
            Verdict::Parked => ensure!(self.parked.contains(&message.id), "it is not parked"),
        }
        Ok(())
    }

    fn answer(&self, id: UpdateId) -> Result<&Answer> {
        let answer = self.posted.get(&id).and_then(|posted| posted.answer.as_ref());
        answer.context("the model did not decide it")
    }

    /// A batch whose worker was killed is committed as a whole or not at all.
    fn is_whole(&self, batch: &[Message], known_before: &HashSet<UpdateId>) -> Result<()> {
        let ids: HashSet<UpdateId> = batch.iter().map(|message| message.id).collect();
        let fresh = ids.difference(known_before);
        let (done, missing): (Vec<&UpdateId>, Vec<&UpdateId>) =
            fresh.partition(|id| self.settled.contains(id) || self.parked.contains(id));
        ensure!(
            done.is_empty() || missing.is_empty(),
            "half of a batch was committed: {done:?} and not {missing:?}"
        );
        Ok(())
    }

    /// What stands parked and was not put back.
    async fn read_parked(&mut self) -> Result<HashSet<UpdateId>> {
        let parked: Vec<Option<UpdateId>> =
            sqlx::query_scalar("SELECT update_id FROM sdb_parked WHERE put_back_at IS NULL")
                .fetch_all(&mut self.database)
                .await?;
        let ids: Option<HashSet<UpdateId>> = parked.iter().copied().collect();
        let ids = ids.context("a parked message without an id")?;
        ensure!(ids.len() == parked.len(), "an update is parked twice");
        Ok(ids)
    }

    async fn stored(&mut self) -> Result<BTreeMap<IncidentId, Incident>> {
        type Stored = (
            IncidentId,
            String,
            i16,
            Timestamp,
            Option<Timestamp>,
            bool,
            Vec<ComponentId>,
            Vec<Timestamp>,
            Vec<String>,
        );
        let rows: Vec<Stored> = sqlx::query_as(
            "SELECT id, text, impact, start_date, end_date, system,
                coalesce((SELECT array_agg(component_id) FROM incident_component_relation r
                    WHERE r.incident_id = i.id), '{}'),
                coalesce((SELECT array_agg(\"timestamp\" ORDER BY \"timestamp\", id)
                    FROM incident_status s WHERE s.incident_id = i.id), '{}'),
                coalesce((SELECT array_agg(text ORDER BY \"timestamp\", id)
                    FROM incident_status s WHERE s.incident_id = i.id), '{}')
            FROM incident i",
        )
        .fetch_all(&mut self.database)
        .await?;
        rows.into_iter()
            .map(|(id, text, impact, start, end, system, components, times, texts)| {
                let incident = Incident {
                    text,
                    impact: Impact::try_from(impact)?,
                    start,
                    end,
                    system,
                    components: components.into_iter().collect::<BTreeSet<_>>(),
                    updates: times.into_iter().zip(texts).collect(),
                };
                Ok((id, incident))
            })
            .collect()
    }

    /// Every update that was posted took effect, or stands parked; nothing else did.
    pub(super) async fn all_is_accounted_for(&mut self) -> Result<()> {
        let parked = self.read_parked().await?;
        for id in &self.ids {
            let (settled, parked) = (self.settled.contains(id), parked.contains(id));
            ensure!(settled != parked, "{id}: in the inbox {settled}, parked {parked}");
        }
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM sdb_inbox")
            .fetch_one(&mut self.database)
            .await?;
        ensure!(rows == self.settled.len() as i64, "{rows} rows for {}", self.settled.len());
        let pool = PgPool::connect(&self.uri).await?;
        let holds = replay::holds_one_active_incident(&pool).await;
        pool.close().await;
        holds
    }
}

fn snapshot(answer: &Answer) -> IncidentSnapshot {
    IncidentSnapshot {
        id: answer.id,
        text: answer.text.clone(),
        impact: answer.impact,
        start_date: answer.start,
        end_date: answer.end,
        last_update_at: answer.updates.last().map(|(at, _)| *at),
    }
}
