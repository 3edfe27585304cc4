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
    traces::Processing,
    update::UpdateId,
};
use sqlx::{Connection, PgConnection};

use crate::{
    decision::{ActiveState, Holder, IncidentRef},
    inbox::{self, Ending, Known, Parked, PendingRow, Settled, When},
    lookup::{Found, Wanted, look_up},
    membership::MemberId,
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

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The worker is not among the living any more: the others have its partitions.
    #[error("the others have this worker's partitions: it was away for too long")]
    Lapsed,
    /// The database refused the batch, or failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

/// Begins a transaction with the lock that every deciding one holds until its end.
const BEGIN: &str = "BEGIN; SELECT FROM sdb_scope FOR UPDATE";

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
}

/// Applies a batch for a worker in one transaction; returns what became of each message, in order. A
/// message without an id has no result: nobody can be told.
///
/// # Errors
/// When the database refuses the batch or fails, or when the worker was missed by the others: nothing
/// was changed then.
pub async fn apply(
    database: &mut PgConnection,
    member: MemberId,
    batch: &[Incoming],
) -> Result<Vec<Option<UpdateResult>>, ApplyError> {
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
    };

    let mut transaction = database.begin_with(BEGIN).await?;
    // The lock may have been waited for, so all else is asked now that it is held.
    let found = look_up(&mut transaction, wanted).await?;
    if !found.lives {
        return Err(ApplyError::Lapsed);
    }
    // The time of the batch's first decision.
    let now = found.now;
    let until = now.plus_micros(batch.len() as i64);
    let mut active = state::read(&mut transaction, &component_ids, now, until).await?;
    let before = active.clone();

    let decided = decide_batch(batch, &found, &mut active);

    let changes = Changes {
        before: &before,
        after: &active,
        history: decided.history,
        components: &found.components,
    };
    let new_ids = write_changes(&mut transaction, changes).await?;
    inbox::write(&mut transaction, &decided.rows, &new_ids).await?;
    inbox::unpark(&mut transaction, &decided.rows, &found.put_back).await?;
    inbox::park(&mut transaction, &decided.parked, now).await?;
    transaction.commit().await?;
    Ok(results(batch, decided.fates, &new_ids))
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
}

/// Decides message by message, in order. No I/O.
fn decide_batch<'a>(
    batch: &'a [Incoming],
    found: &'a Found,
    active: &mut ActiveState,
) -> Decided<'a> {
    let Found { known, components, position, now, .. } = found;
    let mut settled: HashMap<&str, Settled> =
        found.settled.iter().map(|(key, settled)| (key.as_str(), settled.clone())).collect();
    let mut decided = Decided {
        fates: Vec::with_capacity(batch.len()),
        history: Vec::new(),
        rows: Vec::with_capacity(batch.len()),
        parked: Vec::new(),
    };
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
                if let Some(Idempotency { key, fingerprint }) = &update.idempotency {
                    let (fingerprint, when) = (fingerprint.clone(), When::InBatch(place));
                    settled.insert(key, Settled { fingerprint, original: update.id, when });
                }
                let id = update.component.id;
                let effect = active.apply(id, update.impact, &update.text, decided_at);
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

fn results(
    batch: &[Incoming],
    fates: Vec<Fate>,
    new_ids: &[IncidentId],
) -> Vec<Option<UpdateResult>> {
    let mut results: Vec<Option<UpdateResult>> = Vec::with_capacity(batch.len());
    for (incoming, fate) in batch.iter().zip(fates) {
        let verdict = match fate {
            Fate::Decided { reason, holder, snapshot } => Verdict::Decided {
                reason,
                incident: IncidentSnapshot { id: resolved(holder, new_ids), ..snapshot },
            },
            Fate::Known(Known::Decided { original, reason, incident }) => {
                Verdict::Repeated { original, reason, incident }
            }
            Fate::Known(Known::Rejected) | Fate::Rejected => Verdict::Rejected,
            Fate::Known(Known::Parked) | Fate::Parked => Verdict::Parked,
            Fate::SameAs(place) => match results.get(place).cloned().flatten() {
                Some(first) => repeated(first),
                None => Verdict::Parked,
            },
        };
        results.push(incoming.update_id().map(|id| UpdateResult { id, verdict }));
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
