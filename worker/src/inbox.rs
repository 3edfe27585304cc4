//! The inbox: the record of every update, with the idempotency keys and the parked messages.

use std::collections::HashSet;

use shared::{
    incident::IncidentId, message::UpdateMessage, outcome::Reason, seldom, timestamp::Timestamp,
    traces::Processing, update::UpdateId,
};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    blockers::SESSION,
    decision::IncidentRef,
    step::{Incoming, Unusable, resolved},
};

/// What an earlier transaction did with an update.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    Decided {
        original: UpdateId,
        reason: Reason,
        incident: IncidentId,
    },
    /// For a reason that this version does not know: the receipt has the outcome, a reply can't.
    ByAnotherVersion,
    Rejected,
    Parked,
}

/// An idempotency key that is in use.
#[derive(Clone)]
pub(crate) struct Settled {
    pub(crate) fingerprint: String,
    /// The update that used it first.
    pub(crate) original: UpdateId,
    pub(crate) when: When,
}

/// When the first use of an idempotency key was settled.
#[derive(Clone)]
pub(crate) enum When {
    /// In an earlier transaction.
    Before(Known),
    /// In this batch, at this place.
    InBatch(usize),
}

/// The reasons of rows that no rule decided.
const KEY_REPEATED: &str = "idempotency_key_repeated";
const KEY_OF_ANOTHER_BODY: &str = "idempotency_key_of_another_body";

/// The outcomes of rows that no rule decided.
const REPEATED: &str = "repeated";
const REJECTED: &str = "rejected";

/// A row of the inbox, before the incidents that its batch opens have ids.
pub(crate) struct PendingRow<'a> {
    pub(crate) update: &'a UpdateMessage,
    pub(crate) position: i64,
    pub(crate) decided_at: Timestamp,
    pub(crate) ending: Ending,
}

/// How an update ended.
pub(crate) enum Ending {
    Decided { reason: Reason, holder: IncidentRef },
    Repeated { original: UpdateId },
    Rejected { original: UpdateId },
}

/// Writes the batch's rows, the idempotency keys that were used first, and the place and time of the
/// newest row.
pub(crate) async fn write(
    database: &mut PgConnection,
    rows: &[PendingRow<'_>],
    new_ids: &[IncidentId],
) -> Result<(), sqlx::Error> {
    let Some(last) = rows.last() else { return Ok(()) };
    let endings: Vec<_> = rows
        .iter()
        .map(|row| match row.ending {
            Ending::Decided { reason, holder } => {
                (reason.outcome().word(), reason.word(), Some(resolved(holder, new_ids)), None)
            }
            Ending::Repeated { original } => (REPEATED, KEY_REPEATED, None, Some(original)),
            Ending::Rejected { original } => (REJECTED, KEY_OF_ANOTHER_BODY, None, Some(original)),
        })
        .collect();
    let first_uses: Vec<_> = rows
        .iter()
        .filter(|row| matches!(row.ending, Ending::Decided { .. }))
        .filter_map(|row| Some((row.update.idempotency.as_ref()?, row)))
        .collect();
    // A key that stands is older than its 24 hours, or this would not be its first use.
    sqlx::query(
        "WITH scope AS (UPDATE sdb_scope SET position = $12, decided_at = $13),
        keys AS (
            INSERT INTO sdb_idempotency_key (key, fingerprint, update_id, used_at)
            SELECT * FROM unnest($14::varchar[], $15::varchar[], $16::uuid[], $17::timestamp[])
            ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint,
                update_id = excluded.update_id, used_at = excluded.used_at)
        INSERT INTO sdb_inbox (id, component_id, impact, text, received_at, decided_at, position,
            outcome, reason, incident_id, original)
        SELECT * FROM unnest($1::uuid[], $2::integer[], $3::smallint[], $4::varchar[],
            $5::timestamp[], $6::timestamp[], $7::bigint[], $8::varchar[], $9::varchar[],
            $10::integer[], $11::uuid[])",
    )
    .bind(column(rows, |row| row.update.id))
    .bind(column(rows, |row| row.update.component.id))
    .bind(column(rows, |row| i16::from(row.update.impact)))
    .bind(column(rows, |row| row.update.text.as_str()))
    .bind(column(rows, |row| row.update.received_at))
    .bind(column(rows, |row| row.decided_at))
    .bind(column(rows, |row| row.position))
    .bind(column(&endings, |ending| ending.0))
    .bind(column(&endings, |ending| ending.1))
    .bind(column(&endings, |ending| ending.2))
    .bind(column(&endings, |ending| ending.3))
    .bind(last.position)
    .bind(last.decided_at)
    .bind(column(&first_uses, |(key, _)| key.key.as_str()))
    .bind(column(&first_uses, |(key, _)| key.fingerprint.as_str()))
    .bind(column(&first_uses, |(_, row)| row.update.id))
    .bind(column(&first_uses, |(_, row)| row.decided_at))
    .execute(database)
    .await?;
    Ok(())
}

pub(crate) fn column<'a, T, C>(rows: &'a [T], value: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(value).collect()
}

/// A message that can't be applied for a reason of its own.
pub(crate) struct Parked<'a> {
    /// Tells a redelivery from another message.
    pub(crate) delivery_key: String,
    update_id: Option<UpdateId>,
    queue: &'a str,
    reason: String,
    payload: &'a [u8],
    trace: Option<&'a Processing>,
}

impl<'a> Parked<'a> {
    pub(crate) fn new(incoming: &'a Incoming, reason: String) -> Self {
        let update_id = incoming.update_id();
        let is_readable = match &incoming.content {
            Ok(_) => true,
            Err(Unusable::Unreadable(_)) => false,
            Err(Unusable::GivenUp(_) | Unusable::Refused(_)) => {
                UpdateMessage::decode(&incoming.payload).is_ok()
            }
        };
        let delivery_key = match (is_readable, update_id, &incoming.message_id) {
            (true, Some(id), _) => id.to_string(),
            // Whoever made a message that can't be read may have given others the same id.
            (_, _, Some(id)) => format!("{id} {}", digest(&incoming.payload)),
            (_, _, None) => digest(&incoming.payload),
        };
        let Incoming { queue, payload, trace, .. } = incoming;
        // PostgreSQL's text has no NUL, which a message that can't be read may well have.
        let [delivery_key, reason] = [delivery_key, reason].map(|text| text.replace('\0', "␀"));
        Self { delivery_key, update_id, queue, reason, payload, trace: trace.as_deref() }
    }
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes what was put back out of the parked messages, now that it is decided.
pub(crate) async fn unpark(
    database: &mut PgConnection,
    rows: &[PendingRow<'_>],
    put_back: &HashSet<UpdateId>,
) -> Result<(), sqlx::Error> {
    let decided: Vec<UpdateId> =
        rows.iter().map(|row| row.update.id).filter(|id| put_back.contains(id)).collect();
    if !decided.is_empty() {
        sqlx::query("DELETE FROM sdb_parked WHERE update_id = ANY($1)")
            .bind(decided)
            .execute(database)
            .await?;
    }
    Ok(())
}

/// Parks messages; one that stands parked already is left as it is, unless it was put back.
pub(crate) async fn park(
    database: &mut PgConnection,
    parked: &[Parked<'_>],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    if parked.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO sdb_parked (delivery_key, update_id, queue, reason, payload, parked_at)
        SELECT *, $6::timestamp
        FROM unnest($1::varchar[], $2::uuid[], $3::varchar[], $4::varchar[], $5::bytea[])
        ON CONFLICT (delivery_key) DO UPDATE SET put_back_at = NULL, queue = excluded.queue,
            reason = excluded.reason, parked_at = excluded.parked_at
            WHERE sdb_parked.put_back_at IS NOT NULL",
    )
    .bind(column(parked, |p| p.delivery_key.as_str()))
    .bind(column(parked, |p| p.update_id))
    .bind(column(parked, |p| p.queue))
    .bind(column(parked, |p| p.reason.as_str()))
    .bind(column(parked, |p| p.payload))
    .bind(now)
    .execute(database)
    .await?;
    for parked in parked {
        let Parked { delivery_key: update, queue, reason, .. } = parked;
        let trace_id = parked.trace.and_then(Processing::id).map(tracing::field::display);
        seldom!(warn, reason, update, trace_id, queue, reason, "parked");
    }
    Ok(())
}

/// Gives the parts to the role that the inbox belongs to. `worker migrate` may run as another one, and
/// the workers could not drop what belongs to that.
const GIVE_PARTS_TO_THE_OWNER: &str = "DO $$
DECLARE
    part regclass;
    owner name;
BEGIN
    FOR part, owner IN SELECT child.oid, pg_get_userbyid(inbox.relowner)
        FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
            JOIN pg_class inbox ON inbox.oid = inhparent
        WHERE inhparent = 'sdb_inbox'::regclass AND child.relowner <> inbox.relowner
            AND pg_has_role(child.relowner, 'USAGE')
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', part, owner);
    END LOOP;
END $$";

/// Makes the inbox's parts ahead of time, drops those that are older than `days`, and forgets
/// idempotency keys after their 24 hours. Workers do this side by side without harm.
pub(crate) async fn keep(database: &mut PgConnection, days: u32) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT sdb_make_inbox_parts($1)")
        .bind(days as i32)
        .execute(&mut *database)
        .await?;
    sqlx::query(GIVE_PARTS_TO_THE_OWNER).execute(&mut *database).await?;
    let dropped =
        sqlx::query("SELECT sdb_drop_inbox_parts($1)").bind(days as i32).execute(&mut *database);
    match dropped.await {
        Ok(_) => {}
        Err(error)
            if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("55P03") =>
        {
            let sessions = readers(database).await?.join("; ");
            tracing::info!(
                sessions,
                "old parts of the inbox are being read: they are dropped later"
            );
        }
        Err(error) => return Err(error),
    }
    // Little by little: a statement that takes too long would be undone as a whole.
    loop {
        let forgotten = sqlx::query(
            "DELETE FROM sdb_idempotency_key WHERE key IN (
                SELECT key FROM sdb_idempotency_key
                WHERE used_at < (clock_timestamp() AT TIME ZONE 'UTC') - interval '24 hours'
                ORDER BY used_at LIMIT 10000 FOR UPDATE SKIP LOCKED)",
        )
        .execute(&mut *database)
        .await?;
        if forgotten.rows_affected() == 0 {
            return Ok(());
        }
    }
}

/// The sessions that read the inbox for longest, three at most.
async fn readers(database: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let statement = format!(
        "SELECT {SESSION} FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND pid IN (
            SELECT l.pid FROM pg_locks l
            WHERE l.granted AND l.locktype = 'relation'
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND l.relation IN (SELECT 'sdb_inbox'::regclass UNION ALL
                    SELECT inhrelid FROM pg_inherits WHERE inhparent = 'sdb_inbox'::regclass))
        ORDER BY xact_start LIMIT 3"
    );
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_all(database).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_rows_that_no_rule_decided_are_those_that_are_recorded() {
        let words = include_str!("../../shared/tests/wire/words.json");
        let words: serde_json::Value = serde_json::from_str(words).expect("JSON");
        let last = |kind: &str| -> Vec<&str> {
            let all = words[kind].as_array().expect("a list");
            all[all.len() - 2..].iter().filter_map(|word| word.as_str()).collect()
        };
        assert_eq!(last("outcome"), [REPEATED, REJECTED]);
        assert_eq!(last("reason"), [KEY_REPEATED, KEY_OF_ANOTHER_BODY]);
    }
}
