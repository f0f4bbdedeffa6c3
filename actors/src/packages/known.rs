//! What is known of requirements, for whoever makes a sandbox to read without asking anyone.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::PackageSet;

/// Sets that are remembered: some 500 bytes each.
pub const KNOWN_MAX: usize = 4_096;

/// What is known of requirements, and true a moment ago. A clone knows the same.
#[derive(Debug, Clone, Default)]
pub struct Known {
    sets: Arc<Mutex<HashMap<Vec<String>, PackageSet>>>,
    /// Directories of packages that a sandbox was made with. No more than there ever were, less those that were evicted.
    used: Arc<Mutex<HashSet<String>>>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<String>, PackageSet>> {
        // A panic under the lock cannot be: it is held for single calls of the map.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_used(&self) -> MutexGuard<'_, HashSet<String>> {
        // The same of the set.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sandbox is made with these. Gives how many of them none was made with before.
    pub(crate) fn use_for_sandbox(&self, set: &PackageSet) -> u64 {
        if set.is_empty() {
            return 0;
        }
        let mut used = self.lock_used();
        let mut n_new = 0;
        for package in set {
            if !used.contains(&package.directory) {
                used.insert(package.directory.clone());
                n_new += 1;
            }
        }
        n_new
    }

    /// Which packages these are. `None`: ask. Nothing required is always known.
    #[must_use]
    pub fn get(&self, requirements: &[String]) -> Option<PackageSet> {
        if requirements.is_empty() {
            return Some(PackageSet::default());
        }
        self.lock().get(requirements).cloned()
    }

    pub(super) fn learn(&self, requirements: Vec<String>, set: PackageSet) {
        let mut known = self.lock();
        if known.len() >= KNOWN_MAX
            && !known.contains_key(&requirements)
            && let Some(any) = known.keys().next().cloned()
        {
            // Any: whoever needs it asks again, which costs a fraction of a millisecond.
            known.remove(&any);
        }
        known.insert(requirements, set);
    }

    pub(super) fn forget(&self, requirements: &[String]) {
        self.lock().remove(requirements);
    }

    /// Those with any of these packages, by their directories.
    pub(super) fn forget_all_with(&self, directories: &[String]) {
        if !directories.is_empty() {
            self.lock_used().retain(|directory| !directories.contains(directory));
            self.lock().retain(|_, set| !set.iter().any(|package| directories.contains(&package.directory)));
        }
    }

    pub(super) fn all(&self) -> Vec<Vec<String>> {
        self.lock().keys().cloned().collect()
    }
}
