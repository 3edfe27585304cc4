//! The inbox: the record of every update, with the idempotency keys.

use shared::{
    incident::IncidentId,
    message::UpdateMessage,
    outcome::{Reason, Rejection},
    timestamp::Timestamp,
    update_id::UpdateId,
};

use super::{incidents::column, scope_lock::ScopeGuard};
use crate::domain::IncidentRef;

/// The outcome and the reason of a row that no rule decided: the body is that of the key's first use.
pub(super) const REPEATED: &str = "repeated";
const KEY_REPEATED: &str = "idempotency_key_repeated";

/// The outcome of a row with a [`Rejection`].
pub(super) const REJECTED: &str = "rejected";

/// A row of the inbox, before the incidents that its batch opens have ids.
pub(crate) struct PendingRow<'a> {
    pub(crate) update: &'a UpdateMessage,
    pub(crate) position: i64,
    pub(crate) decided_at: Timestamp,
    pub(crate) result: RowResult,
}

/// The columns of a row that say what became of its update. A type of its own, because the words of the inbox
/// include two that are not those of a rule ([`Reason`]), and because the incident may have no id yet.
pub(crate) struct RowResult {
    outcome: &'static str,
    reason: &'static str,
    incident: Option<IncidentRef>,
    /// The update that used the idempotency key first, where that is another one.
    original: Option<UpdateId>,
}

impl RowResult {
    /// A rule decided it.
    pub(crate) fn decided(reason: Reason, incident: Option<IncidentRef>) -> Self {
        let outcome = reason.outcome().word();
        Self { outcome, reason: reason.word(), incident, original: None }
    }

    /// Its idempotency key was used before, for the same body.
    pub(crate) const fn repeated(original: UpdateId) -> Self {
        let original = Some(original);
        Self { outcome: REPEATED, reason: KEY_REPEATED, incident: None, original }
    }

    /// Its idempotency key was used before, for another body.
    pub(crate) fn rejected(original: UpdateId) -> Self {
        let (reason, original) = (Rejection::KeyOfAnotherBody.word(), Some(original));
        Self { outcome: REJECTED, reason, incident: None, original }
    }
}

/// The statement that writes the rows, with a CTE for the keys if there are any. Functions that return sets stand
/// in the SELECT list: in FROM, PostgreSQL would store each one's set first.
macro_rules! write_statement {
    ($keys:literal) => {
        concat!(
            "WITH scope AS (UPDATE sdb_scope SET position = $12, decided_at = $13)",
            $keys,
            " INSERT INTO sdb_inbox (id, component_id, impact, text, received_at, decided_at, position,
                outcome, reason, incident_id, original)
            SELECT unnest($1::uuid[]), unnest($2::integer[]), unnest($3::smallint[]),
                unnest($4::varchar[]), unnest($5::timestamp[]), unnest($6::timestamp[]),
                unnest($7::bigint[]), unnest($8::varchar[]), unnest($9::varchar[]),
                unnest($10::integer[]), unnest($11::uuid[])"
        )
    };
}

/// Writes the batch's rows, the idempotency keys used for the first time, and the position and time of
/// the newest row.
pub(crate) async fn write(
    scope: &mut ScopeGuard<'_>,
    rows: &[PendingRow<'_>],
    new_ids: &[IncidentId],
) -> Result<(), sqlx::Error> {
    let Some(last) = rows.last() else { return Ok(()) };
    let first_uses: Vec<_> = rows
        .iter()
        .filter(|row| row.result.original.is_none())
        .filter_map(|row| Some((row.update.idempotency.as_ref()?, row)))
        .collect();
    let statement = if first_uses.is_empty() {
        write_statement!("")
    } else {
        // An existing key is older than its 24 hours, or this would not be its first use.
        write_statement!(
            ", keys AS (
                INSERT INTO sdb_idempotency_key (key, fingerprint, update_id, used_at)
                SELECT unnest($14::varchar[]), unnest($15::varchar[]), unnest($16::uuid[]),
                    unnest($17::timestamp[])
                ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint,
                    update_id = excluded.update_id, used_at = excluded.used_at)"
        )
    };
    sqlx::query(statement)
        .bind(column(rows, |row| row.update.id))
        .bind(column(rows, |row| row.update.component.id))
        .bind(column(rows, |row| row.update.condition.impact().map(i16::from)))
        .bind(column(rows, |row| row.update.text.as_str()))
        .bind(column(rows, |row| row.update.received_at))
        .bind(column(rows, |row| row.decided_at))
        .bind(column(rows, |row| row.position))
        .bind(column(rows, |row| row.result.outcome))
        .bind(column(rows, |row| row.result.reason))
        .bind(column(rows, |row| row.result.incident.map(|incident| incident.id(new_ids))))
        .bind(column(rows, |row| row.result.original))
        .bind(last.position)
        .bind(last.decided_at)
        .bind(column(&first_uses, |(key, _)| key.key.as_str()))
        .bind(column(&first_uses, |(key, _)| key.fingerprint.as_str()))
        .bind(column(&first_uses, |(_, row)| row.update.id))
        .bind(column(&first_uses, |(_, row)| row.decided_at))
        .execute(scope.session())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_rows_that_no_rule_decided_are_those_that_are_recorded() {
        let words = include_str!("../../../shared/tests/wire/words.json");
        let words: serde_json::Value = serde_json::from_str(words).expect("JSON");
        let last = |kind: &str, count: usize| -> Vec<&str> {
            let all = words[kind].as_array().expect("a list");
            all[all.len() - count..].iter().filter_map(|word| word.as_str()).collect()
        };
        assert_eq!(last("outcome", 2), [REPEATED, REJECTED]);
        let [of_another_body, too_many] = Rejection::ALL.map(Rejection::word);
        assert_eq!(last("reason", 3), [KEY_REPEATED, of_another_body, too_many]);
    }
}
