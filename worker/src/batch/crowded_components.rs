//! The components that had about as many reports as they may have when this process last counted them. Their
//! reports are counted at once; those of others only after a batch found too many, which runs it again.
//! It only decides which way is tried first.

use std::collections::{BTreeSet, HashMap};

use parking_lot::{Mutex, MutexGuard};
use shared::domain::component::ComponentId;

use crate::domain::MAX_LIVE_REPORTS;

static CROWDED: Mutex<BTreeSet<ComponentId>> = Mutex::new(BTreeSet::new());

/// A component with fewer reports is not crowded any more. Less than the maximum, so that one that ends a report
/// and begins another does not come and go.
const FEW: usize = MAX_LIVE_REPORTS / 10 * 9;

/// The crowded components, locked.
pub(super) fn lock() -> MutexGuard<'static, BTreeSet<ComponentId>> {
    CROWDED.lock()
}

/// Notes the components that were found to be crowded, and the numbers of reports of those that were counted.
pub(super) fn note(found: &[ComponentId], counted: &HashMap<ComponentId, usize>) {
    if found.is_empty() && counted.is_empty() {
        return;
    }
    let mut crowded = lock();
    crowded.retain(|component| counted.get(component).is_none_or(|count| *count >= FEW));
    crowded.extend(found);
}
