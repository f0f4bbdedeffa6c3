//! What sandboxes weigh, read from their groups, and the end of one of them when the machine is out of memory.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use actors::world::Weight;

use super::cgroup::CgroupRoot;
use super::family::lock;

/// Those that were ended and whose callers have not been told yet. A launcher gives an id once, and one sandbox a second is
/// ended at most, so this is a handful. A clone is the same.
#[derive(Debug, Clone, Default)]
pub(super) struct LastResort(Arc<Mutex<BTreeSet<u64>>>);

/// What each sandbox takes and may take.
pub(super) fn weights(cgroups: &CgroupRoot) -> Vec<Weight> {
    cgroups.sandboxes().into_iter().filter_map(|group| group.weight()).collect()
}

impl LastResort {
    /// Ends all processes of this sandbox.
    pub(super) fn end(&self, cgroups: &CgroupRoot, id: u64) {
        lock(&self.0).insert(id);
        cgroups.kill_sandbox(id);
    }

    /// What its caller is to be told, if it was ended so.
    pub(super) fn why(&self, id: u64) -> Option<&'static str> {
        lock(&self.0).contains(&id).then_some(
            "the machine was out of memory, and it had grown most over its share of what there is; try again later",
        )
    }

    /// It is gone.
    pub(super) fn forget(&self, id: u64) {
        lock(&self.0).remove(&id);
    }
}
