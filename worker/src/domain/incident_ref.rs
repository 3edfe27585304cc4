//! References to incidents, of which those that a batch opens have no ids yet.

use shared::domain::incident::IncidentId;

/// An incident within a batch: an existing one, or one that the batch opens and that has no id until it is
/// written. Ordered by age, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IncidentRef {
    /// It exists in the database.
    Existing(IncidentId),
    /// The n-th incident that the batch opens, from 0.
    New(usize),
}

impl IncidentRef {
    /// The id, given those of the incidents that the batch has opened.
    #[must_use]
    pub fn id(self, new_ids: &[IncidentId]) -> IncidentId {
        match self {
            Self::Existing(id) => id,
            #[expect(clippy::indexing_slicing, reason = "every opened incident got an id")]
            Self::New(index) => new_ids[index],
        }
    }
}
