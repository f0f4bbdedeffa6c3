//! What sandboxes weigh, read from their groups, and the end of one of them when the machine is out of memory.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use actors::world::Weight;

use super::cgroup::CgroupRoot;

/// Those that were ended and whose callers have not been told yet. Ids are given once in a process, and one a second is ended
/// at most, so this is a handful.
static ENDED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// What each sandbox takes and may take.
#[must_use]
pub fn weights(cgroups: &CgroupRoot) -> Vec<Weight> {
    cgroups.sandboxes().into_iter().filter_map(|group| group.weight()).collect()
}

/// Ends all processes of this sandbox.
pub fn end(cgroups: &CgroupRoot, id: u64) {
    ENDED.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    cgroups.kill_sandbox(id);
}

/// What its caller is to be told, if it was ended so.
pub(super) fn why(id: u64) -> Option<&'static str> {
    let was_ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner).contains(&id);
    was_ended.then_some(
        "the machine was out of memory, and it had grown most over its share of what there is; try again later",
    )
}

/// It is gone.
pub(super) fn forget(id: u64) {
    let mut ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
    if !ended.is_empty() {
        ended.remove(&id);
    }
}
