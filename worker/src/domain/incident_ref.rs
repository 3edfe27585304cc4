//! Names incidents before those that a batch opens have ids.

use shared::incident::IncidentId;

/// Names an incident within a batch: one that stands in the database, or one that the batch opens
/// and that has no id before the batch is written. Older ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IncidentRef {
    /// It stands in the database.
    Existing(IncidentId),
    /// The batch opens it, as its n-th, from 0.
    New(usize),
}

impl IncidentRef {
    /// The id, now that those that the batch opened have theirs.
    #[must_use]
    pub fn id(self, new_ids: &[IncidentId]) -> IncidentId {
        match self {
            Self::Existing(id) => id,
            #[expect(clippy::indexing_slicing, reason = "an id was made for every incident opened")]
            Self::New(index) => new_ids[index],
        }
    }
}
