//! Generations of functions that are gone.
//!
//! A function that comes back under an old name counts on where that was: a zygote of what once had the name, which goes by name
//! and generation, must not be taken for one of the new code. A name that there never was begins at 1.

use std::collections::HashMap;

use crate::name::FunctionName;

/// Names that are remembered: some 100 bytes each. As many as come and go in an hour, one each second.
const NAMES_MAX: usize = 4_096;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Gone {
    last: HashMap<FunctionName, u64>,
    /// The highest generation of any name that is not remembered any more.
    forgotten: u64,
}

impl Gone {
    /// A function of this name is gone, and this was its generation.
    pub(super) fn insert(&mut self, name: FunctionName, generation: u64) {
        if self.last.len() >= NAMES_MAX && !self.last.contains_key(&name) {
            // The one of the lowest generation: so those that there never were begin as low as may be.
            let lowest = self.last.iter().min_by_key(|(_, generation)| **generation);
            if let Some((name, generation)) = lowest.map(|(name, generation)| (name.clone(), *generation)) {
                self.last.remove(&name);
                self.forgotten = self.forgotten.max(generation);
            }
        }
        self.last.insert(name, generation);
    }

    /// The generation of a function that has come, under this name.
    pub(super) fn next(&mut self, name: &FunctionName) -> u64 {
        self.last.remove(name).unwrap_or(0).max(self.forgotten) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::name;

    #[test]
    fn an_old_name_counts_on_and_a_new_one_begins_at_one() {
        let mut gone = Gone::default();
        assert_eq!(gone.next(&name("f")), 1);
        gone.insert(name("f"), 7);
        assert_eq!((gone.next(&name("g")), gone.next(&name("f"))), (1, 8));
    }

    #[test]
    fn only_so_many_are_remembered_and_none_that_is_forgotten_gets_a_generation_again() {
        let mut gone = Gone::default();
        gone.insert(name("f"), 2);
        gone.insert(name("kept"), 9);
        for at in 0..2 * NAMES_MAX {
            gone.insert(name(&format!("n{at}")), 3);
        }
        assert_eq!(gone.last.len(), NAMES_MAX);
        assert_eq!(gone.next(&name("f")), 4);
        assert_eq!(gone.next(&name("kept")), 10);
        assert_eq!(gone.next(&name("new")), 4);
    }
}
