//! Uploads and removals through this worker, of functions that are being fetched meanwhile: what the store has said of one before it
//! was changed is outdated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use actors::name::FunctionName;

use super::lock;

/// How often each was changed since somebody began to fetch it. No more than are fetched at once. A clone is the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<Mutex<HashMap<FunctionName, Watched>>>);

#[derive(Debug, Default)]
struct Watched {
    n_watches: usize,
    n_changes: u64,
}

/// Changes of one function are counted for as long as this lives.
#[derive(Debug)]
pub(super) struct Watch {
    changes: Changes,
    name: FunctionName,
}

impl Changes {
    /// This one is about to be fetched.
    pub(super) fn watch(&self, name: &FunctionName) -> Watch {
        lock(&self.0).entry(name.clone()).or_default().n_watches += 1;
        Watch { changes: self.clone(), name: name.clone() }
    }

    /// It is changed.
    pub(super) fn changed(&self, name: &FunctionName) {
        if let Some(watched) = lock(&self.0).get_mut(name) {
            watched.n_changes += 1;
        }
    }

    /// How often it was changed, if somebody fetches it.
    pub(super) fn count(&self, name: &FunctionName) -> u64 {
        lock(&self.0).get(name).map_or(0, |watched| watched.n_changes)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut all = lock(&self.changes.0);
        if let Some(watched) = all.get_mut(&self.name) {
            watched.n_watches -= 1;
            if watched.n_watches == 0 {
                all.remove(&self.name);
            }
        }
    }
}
