//! The played workers: they join, leave, stall and are missed.

use anyhow::{Result, bail};
use sqlx::PgConnection;
use worker::batch::ApplyError;

use super::{Rig, WORKER, connect, worker::apply_batch};
use crate::{eventually, simulation::history::Pick, verdict};

impl Rig {
    pub(super) fn pick(&self, worker: Pick) -> Option<usize> {
        (!self.live_workers.is_empty()).then(|| worker.of(self.live_workers.len()))
    }

    /// This worker, or the next one that has something to do.
    pub(super) fn busy(&self, worker: Pick) -> Option<usize> {
        let (first, count) = (self.pick(worker)?, self.live_workers.len());
        (first..first + count).map(|place| place % count).find(|place| {
            self.queues.iter().skip(*place).step_by(count).any(|queue| !queue.is_empty())
        })
    }

    pub(super) async fn join(&mut self) -> Result<()> {
        let id = sqlx::query_scalar(
            "INSERT INTO sdb_worker (seen_at, reads)
            VALUES (clock_timestamp() AT TIME ZONE 'UTC', $1) RETURNING id",
        )
        .bind(i16::try_from(shared::wire::message::NEWEST)?)
        .fetch_one(&mut self.database)
        .await?;
        self.live_workers.push(id);
        self.all_comes_again();
        Ok(())
    }

    pub(super) async fn leave(&mut self, place: usize) -> Result<()> {
        let id = self.live_workers.remove(place);
        self.all_comes_again();
        sqlx::query("DELETE FROM sdb_worker WHERE id = $1")
            .bind(id)
            .execute(&mut self.database)
            .await?;
        Ok(())
    }

    /// The others have missed the worker at this place.
    pub(super) async fn miss(&mut self, place: usize) -> Result<()> {
        self.played.broken += 1;
        let id = self.live_workers.remove(place);
        self.all_comes_again();
        sqlx::query(
            "UPDATE sdb_worker SET seen_at = seen_at - interval '10 seconds' WHERE id = $1",
        )
        .bind(id)
        .execute(&mut self.database)
        .await?;
        Ok(())
    }

    pub(super) async fn stall(&mut self, worker: Pick, most: usize) -> Result<()> {
        let Some(place) = self.pick(worker) else { return Ok(()) };
        let batch = self.batch(place, most);
        if let Some(member) = self.live_workers.get(place) {
            self.stalled.push((*member, batch));
        }
        self.miss(place).await
    }

    /// What a worker does that was missed must count for nothing; it joins anew.
    pub(super) async fn wake(&mut self) -> Result<()> {
        for (member, batch) in std::mem::take(&mut self.stalled) {
            self.send_heartbeats().await?;
            let mut connection = self.connection().await?;
            match apply_batch(&mut connection, member, batch.incoming(self.fault), self.fault).await
            {
                Err(ApplyError::Expired) => {}
                other => bail!("a worker that was missed committed: {other:?}"),
            }
            self.idle.push(connection);
            self.join().await?;
        }
        Ok(())
    }

    /// All that live say so. Whatever was committed by now is seen by what begins next.
    pub(super) async fn send_heartbeats(&mut self) -> Result<()> {
        sqlx::query(
            "UPDATE sdb_worker SET seen_at = clock_timestamp() AT TIME ZONE 'UTC'
            WHERE id = ANY($1)",
        )
        .bind(&self.live_workers)
        .execute(&mut self.database)
        .await?;
        verdict::mark(&mut self.database).await?;
        Ok(())
    }

    pub(super) async fn connection(&mut self) -> Result<PgConnection> {
        match self.idle.pop() {
            Some(connection) => Ok(connection),
            None => connect(&self.uri, WORKER).await,
        }
    }

    /// Waits until the server has noticed that a connection was dropped in the middle of something.
    pub(super) async fn has_noticed(&mut self, backend: i32) -> Result<()> {
        eventually("the server notices that a worker is gone", async || {
            let there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
            let there: bool =
                sqlx::query_scalar(there).bind(backend).fetch_one(&mut self.database).await?;
            Ok(!there)
        })
        .await
    }
}
