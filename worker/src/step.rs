//! The transaction that applies a batch. It can be run again at any time: what is in the inbox is
//! passed over, and nothing outside the database is touched.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use shared::{
    component::ComponentId,
    incident::{IncidentId, IncidentSnapshot},
    message::{DecodeError, Idempotency, UpdateMessage, UpdateResult, Verdict},
    outcome::Reason,
    seldom,
    traces::Processing,
    update::UpdateId,
};
use sqlx::{Connection, PgConnection};

use crate::{
    decision::{ActiveState, Holder, IncidentRef, decide},
    facts::{self, Facts, Wanted},
    held::HeldUp,
    inbox::{self, Ending, Known, Parked, PendingRow, Settled, When},
    membership::MemberId,
    row_locks::{Row, RowLocks},
    state,
    write::{Changes, write_changes},
};

/// A message as it came, decoded on its own: one that can't be read harms no other.
#[derive(Debug)]
pub struct Incoming {
    /// The queue it came from.
    pub queue: String,
    /// The id that its publisher gave the message.
    pub message_id: Option<String>,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// What they say.
    pub content: Result<UpdateMessage, Unusable>,
    /// Its span, when traces are wanted.
    pub trace: Option<Arc<Processing>>,
}

/// Why a message is not tried.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its bytes are not an update's.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// It comes from the dead-letter queue.
    #[error("RabbitMQ gave it up: {0}")]
    GivenUp(String),
    /// The database refused it again and again.
    #[error("the database refuses it: {0}")]
    Refused(String),
}

impl Incoming {
    /// The update's id: the gateway gives it to the message, too, so that it is known even where
    /// the bytes can't be read.
    #[must_use]
    pub fn update_id(&self) -> Option<UpdateId> {
        match &self.content {
            Ok(update) => Some(update.id),
            Err(_) => self.message_id.as_ref()?.parse().ok().map(UpdateId),
        }
    }
}

/// What became of one message of a batch.
#[derive(Clone, Debug)]
pub enum Applied {
    /// The transaction settled it. There is no result where nobody can be told: it has no id, or was
    /// decided by a version with rules that this one does not know.
    Settled(Option<UpdateResult>),
    /// Another session holds rows of these incidents, which it needs, or an earlier update of its
    /// component or its idempotency key was deferred. Nothing of it was written: it is to be tried again
    /// before any later one of its component.
    Deferred(Vec<IncidentId>),
}

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The worker's membership has expired: the others have its partitions.
    #[error("the others have this worker's partitions: it was away for too long")]
    Lapsed,
    /// Once the scope's lock was held, the transaction waited too long for others, or took too long.
    /// Fewer updates may need less of what others hold.
    #[error("the transaction took too long")]
    TooLong(#[source] sqlx::Error),
    /// The database refused the batch, or failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl ApplyError {
    /// An error of a statement that was run while the scope's lock was held.
    fn in_transaction(error: sqlx::Error) -> Self {
        /// SQLSTATE of a lock that was waited for in vain.
        const LOCK_NOT_AVAILABLE: &str = "55P03";
        /// SQLSTATE of a statement that took too long.
        const QUERY_CANCELED: &str = "57014";
        match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some(LOCK_NOT_AVAILABLE | QUERY_CANCELED) => Self::TooLong(error),
            Some(_) | None => Self::Database(error),
        }
    }
}

/// Begins a transaction with the lock that every deciding one holds until its end.
///
/// From then on every worker waits with it, so that a further wait for a lock is bounded to half a second.
/// There is none for incidents and their components, but there may be one for a component that someone
/// is removing, or an incident that someone is adding.
const BEGIN: &str = "BEGIN; SELECT FROM sdb_scope FOR UPDATE; SET LOCAL lock_timeout = '500ms'";

/// What becomes of one message, before the incidents that the batch opens have ids.
enum Fate {
    Decided {
        reason: Reason,
        holder: IncidentRef,
        snapshot: IncidentSnapshot,
    },
    Known(Known),
    /// The batch has another message with the same id or idempotency key, at this earlier place.
    SameAs(usize),
    Rejected,
    Parked,
    /// Another session holds these incidents, or holds up an earlier update of the component.
    Deferred(Vec<IncidentId>),
}

/// Applies a batch for a worker in one transaction; returns what became of each message, in order.
///
/// Updates that change nothing are decided on one snapshot, without a lock on any row: they take effect
/// before whatever others commit later. What changes rest on is locked, without waiting for it, and then
/// read and decided again; what can't be locked defers the updates that need it.
///
/// # Errors
/// When the database refuses the batch or fails, or when the worker's membership has expired: nothing
/// was changed then.
pub async fn apply(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
) -> Result<Vec<Applied>, ApplyError> {
    apply_behind(database, member, batch, &HeldUp::default()).await
}

/// The same, behind updates that were deferred before.
pub(crate) async fn apply_behind(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
    held_up: &HeldUp,
) -> Result<Vec<Applied>, ApplyError> {
    // A lock that other workers hold is waited for here, whatever is in the batch.
    let mut transaction = database.begin_with(BEGIN).await?;
    let results = apply_locked(&mut transaction, member, batch, held_up).await?;
    transaction.commit().await.map_err(ApplyError::in_transaction)?;
    Ok(results)
}

/// The transaction, once it holds the scope's lock.
async fn apply_locked(
    transaction: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
    held_up: &HeldUp,
) -> Result<Vec<Applied>, ApplyError> {
    let component_ids: Vec<ComponentId> = updates(batch)
        .map(|update| update.component.id)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let wanted = Wanted {
        member,
        updates: batch.iter().filter_map(Incoming::update_id).collect(),
        keys: updates(batch)
            .filter_map(|update| Some(update.idempotency.as_ref()?.key.as_str()))
            .collect(),
        components: &component_ids,
        batch: batch.len(),
    };
    // The lock may have been waited for, so all is read now that it is held.
    let facts = facts::read(transaction, wanted).await.map_err(ApplyError::in_transaction)?;
    if !facts.lives {
        return Err(ApplyError::Lapsed);
    }
    if let Some(seconds) = facts.seconds_ahead {
        seldom!(
            warn,
            "clock",
            seconds,
            "the newest decision is ahead of the database's clock, which was wrong or is: the clock \
            counts from now on"
        );
    }
    let mut before = facts.active.clone();
    let mut locks = RowLocks::default();
    let (decided, after) = loop {
        let mut after = before.clone();
        let decided = decide_batch(batch, &facts, &before, &mut after, &locks, held_up);
        let missing = locks.missing(&decided.rests_on);
        if missing.is_empty() {
            break (decided, after);
        }
        let taken = locks.take(transaction, &missing, &component_ids).await;
        taken.map_err(ApplyError::in_transaction)?;
        // What another session committed before its rows could be locked is seen now.
        let again = state::read(transaction, &component_ids, facts.now, facts.until).await;
        before = again.map_err(ApplyError::in_transaction)?;
    };

    let new_ids = write(transaction, &facts, &decided, &before, &after)
        .await
        .map_err(ApplyError::in_transaction)?;
    Ok(results(batch, decided.fates, &new_ids))
}

/// Writes what was decided; returns the ids of the incidents that were opened.
async fn write(
    transaction: &mut PgConnection,
    facts: &Facts,
    decided: &Decided<'_>,
    before: &ActiveState,
    after: &ActiveState,
) -> Result<Vec<IncidentId>, sqlx::Error> {
    let changes =
        Changes { before, after, history: &decided.history, components: &facts.components };
    let new_ids = write_changes(transaction, changes).await?;
    inbox::write(transaction, &decided.rows, &new_ids).await?;
    inbox::unpark(transaction, &decided.rows, &facts.put_back).await?;
    inbox::park(transaction, &decided.parked, facts.now).await?;
    Ok(new_ids)
}

fn updates(batch: &[Incoming]) -> impl Iterator<Item = &UpdateMessage> + Clone {
    batch.iter().filter_map(|incoming| incoming.content.as_ref().ok())
}

/// What a batch leads to, before anything of it is written.
struct Decided<'a> {
    fates: Vec<Fate>,
    history: Vec<crate::decision::HistoryEntry>,
    rows: Vec<PendingRow<'a>>,
    parked: Vec<Parked<'a>>,
    /// The rows that the changes rest on.
    rests_on: HashSet<Row>,
}

/// Decides message by message, in order. No I/O.
///
/// `read` is the state as it was read, `active` the same, into which the decisions are taken.
fn decide_batch<'a>(
    batch: &'a [Incoming],
    facts: &'a Facts,
    read: &ActiveState,
    active: &mut ActiveState,
    locks: &RowLocks,
    held_up: &HeldUp,
) -> Decided<'a> {
    let Facts { known, components, position, now, .. } = facts;
    let mut settled: HashMap<&str, Settled> =
        facts.settled.iter().map(|(key, settled)| (key.as_str(), settled.clone())).collect();
    let mut decided = Decided {
        fates: Vec::with_capacity(batch.len()),
        history: Vec::new(),
        rows: Vec::with_capacity(batch.len()),
        parked: Vec::new(),
        rests_on: HashSet::new(),
    };
    let mut held_up = held_up.clone();
    let mut places: HashMap<UpdateId, usize> = HashMap::with_capacity(batch.len());
    let mut parked_keys: HashSet<String> = HashSet::new();

    for (place, incoming) in batch.iter().enumerate() {
        let mut park = |reason: String| {
            let parked = Parked::new(incoming, reason);
            if parked_keys.insert(parked.delivery_key.clone()) {
                decided.parked.push(parked);
            }
            decided.fates.push(Fate::Parked);
        };
        let update = match &incoming.content {
            Ok(update) => update,
            Err(error) => {
                if held_up.holds_up(incoming) {
                    decided.fates.push(Fate::Deferred(Vec::new()));
                    continue;
                }
                let settled = match (error, incoming.update_id()) {
                    // It may be settled, and only its acknowledgement lost.
                    (Unusable::GivenUp(_) | Unusable::Refused(_), Some(id)) => match known.get(&id)
                    {
                        Some(known) => Some(Fate::Known(known.clone())),
                        None => same_as(&mut places, id, place),
                    },
                    // Whoever made a message that can't be read may have given it any id.
                    (Unusable::Unreadable(_), _) | (_, None) => None,
                };
                match settled {
                    Some(fate) => decided.fates.push(fate),
                    None => park(error.to_string()),
                }
                continue;
            }
        };
        if let Some(known) = known.get(&update.id) {
            decided.fates.push(Fate::Known(known.clone()));
            continue;
        }
        if held_up.holds_up(incoming) {
            held_up.add(update);
            decided.fates.push(Fate::Deferred(Vec::new()));
            continue;
        }
        if let Some(fate) = same_as(&mut places, update.id, place) {
            decided.fates.push(fate);
            continue;
        }
        let problem = match components.get(&update.component.id) {
            None => Some("is gone"),
            Some(current) if !update.component.is_still(current) => Some("now names another one"),
            Some(_) => None,
        };
        if let Some(problem) = problem {
            let (id, label) = (update.component.id, update.component.label());
            park(format!("component {id}, {label}, {problem}"));
            continue;
        }

        let index = decided.rows.len() as i64;
        let decided_at = now.plus_micros(index);
        let first_use =
            update.idempotency.as_ref().and_then(|key| Some((key, settled.get(key.key.as_str())?)));
        let (ending, fate) = match first_use {
            Some((key, first)) if key.fingerprint != first.fingerprint => {
                (Ending::Rejected { original: first.original }, Fate::Rejected)
            }
            Some((_, first)) => {
                let fate = match &first.when {
                    When::Before(known) => Fate::Known(known.clone()),
                    When::InBatch(place) => Fate::SameAs(*place),
                };
                (Ending::Repeated { original: first.original }, fate)
            }
            None => {
                let id = update.component.id;
                let decision = decide(active, id, update.impact, decided_at);
                let rests_on = Row::of(decision.rests_on(), id, read);
                let held = locks.held_of(&rests_on);
                if !held.is_empty() {
                    held_up.add(update);
                    decided.fates.push(Fate::Deferred(held));
                    continue;
                }
                decided.rests_on.extend(rests_on);
                if let Some(Idempotency { key, fingerprint }) = &update.idempotency {
                    let (fingerprint, when) = (fingerprint.clone(), When::InBatch(place));
                    settled.insert(key, Settled { fingerprint, original: update.id, when });
                }
                let effect =
                    active.carry_out(decision, id, update.impact, &update.text, decided_at);
                let reason = effect.reason;
                let (holder, snapshot) = snapshot(active, id, effect.holder);
                decided.history.extend(effect.history);
                (Ending::Decided { reason, holder }, Fate::Decided { reason, holder, snapshot })
            }
        };
        decided.rows.push(PendingRow {
            update,
            position: position + 1 + index,
            decided_at,
            ending,
        });
        decided.fates.push(fate);
    }
    decided
}

/// The fate of a message whose update the batch has at an earlier place; none for the first one.
fn same_as(places: &mut HashMap<UpdateId, usize>, id: UpdateId, place: usize) -> Option<Fate> {
    match places.entry(id) {
        Entry::Occupied(first) => Some(Fate::SameAs(*first.get())),
        Entry::Vacant(vacant) => {
            vacant.insert(place);
            None
        }
    }
}

/// The incident that holds or covers a component, as it stands now; its id is known only for one
/// that stands in the database.
fn snapshot(
    active: &ActiveState,
    component: ComponentId,
    holder: Holder,
) -> (IncidentRef, IncidentSnapshot) {
    #[expect(
        clippy::expect_used,
        reason = "an effect names incidents of the state it was taken into"
    )]
    match holder {
        Holder::System(id) => {
            let incident = active.any_incident(id).expect("the holder is in the state");
            let snapshot = IncidentSnapshot {
                id: standing_id(id),
                text: incident.text.clone(),
                impact: incident.impact,
                start_date: incident.start_date,
                end_date: incident.end_date,
                last_update_at: incident.last_update_at,
            };
            (id, snapshot)
        }
        Holder::Manual(place) => {
            let incident = active.manual.get(&component).and_then(|all| all.get(place));
            let incident = incident.expect("the holder is in the state");
            let snapshot = IncidentSnapshot {
                id: incident.id,
                text: incident.text.clone(),
                impact: incident.impact,
                start_date: incident.start_date,
                end_date: incident.end_date,
                last_update_at: incident.last_update_at,
            };
            (IncidentRef::Standing(incident.id), snapshot)
        }
    }
}

/// The id of a standing incident; 0, which [`results`] replaces, for one that has none yet.
const fn standing_id(id: IncidentRef) -> IncidentId {
    match id {
        IncidentRef::Standing(id) => id,
        IncidentRef::New(_) => IncidentId(0),
    }
}

/// The id of an incident, now that the batch is written.
pub(crate) fn resolved(id: IncidentRef, new_ids: &[IncidentId]) -> IncidentId {
    match id {
        IncidentRef::Standing(id) => id,
        #[expect(clippy::indexing_slicing, reason = "an id was made for every incident opened")]
        IncidentRef::New(index) => new_ids[index],
    }
}

fn results(batch: &[Incoming], fates: Vec<Fate>, new_ids: &[IncidentId]) -> Vec<Applied> {
    let mut results: Vec<Applied> = Vec::with_capacity(batch.len());
    for (incoming, fate) in batch.iter().zip(fates) {
        let verdict = match fate {
            Fate::Decided { reason, holder, snapshot } => Some(Verdict::Decided {
                reason,
                incident: IncidentSnapshot { id: resolved(holder, new_ids), ..snapshot },
            }),
            Fate::Known(Known::Decided { original, reason, incident }) => {
                Some(Verdict::Repeated { original, reason, incident })
            }
            Fate::Known(Known::ByAnotherVersion) => None,
            Fate::Known(Known::Rejected) | Fate::Rejected => Some(Verdict::Rejected),
            Fate::Known(Known::Parked) | Fate::Parked => Some(Verdict::Parked),
            Fate::SameAs(place) => match results.get(place) {
                Some(Applied::Settled(first)) => first.clone().map(repeated),
                Some(Applied::Deferred(_)) | None => None,
            },
            Fate::Deferred(held) => {
                results.push(Applied::Deferred(held));
                continue;
            }
        };
        let result =
            verdict.and_then(|verdict| incoming.update_id().map(|id| UpdateResult { id, verdict }));
        results.push(Applied::Settled(result));
    }
    results
}

/// The verdict for a repetition of an update that this batch settled.
fn repeated(first: UpdateResult) -> Verdict {
    match first.verdict {
        Verdict::Decided { reason, incident } => {
            Verdict::Repeated { original: first.id, reason, incident: incident.id }
        }
        other @ (Verdict::Repeated { .. } | Verdict::Rejected | Verdict::Parked) => other,
    }
}
