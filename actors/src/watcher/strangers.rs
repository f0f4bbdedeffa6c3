//! Names of which nothing is known here, and about which somebody elsewhere has to be asked.
//!
//! Anybody may ask for any name. So these wait in a queue of their own, with a bound of its own: who calls a function of which there
//! is a copy waits behind none of them.

use std::collections::VecDeque;

use crate::name::FunctionName;
use crate::router::LOOKUPS_MAX;

/// Names that somebody asked for and of which nothing is known here, while somebody elsewhere is asked about them. Half of what is
/// looked up at all: however many names somebody tries, who calls a function of which there is a copy finds room.
pub const STRANGERS_MAX: usize = LOOKUPS_MAX / 2;
/// How many of those are asked about at once, besides what is read. They wait for a network, not for the disk; and half of what
/// a store is asked for at once is left for functions in use.
pub const STRANGERS_ASKED_MAX: usize = 8;

/// Those that wait, in the order in which they came, and how many are being asked about.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    waiting: VecDeque<FunctionName>,
    n_asked: usize,
}

impl Strangers {
    /// Whether there is room for another.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() + self.n_asked >= STRANGERS_MAX
    }

    /// It waits for its turn.
    pub(super) fn push(&mut self, name: FunctionName) {
        self.waiting.push_back(name);
    }

    /// Whether it waits for its turn.
    pub(super) fn contains(&self, name: &FunctionName) -> bool {
        self.waiting.contains(name)
    }

    /// It is looked for in another way.
    pub(super) fn remove(&mut self, name: &FunctionName) {
        self.waiting.retain(|waiting| waiting != name);
    }

    /// Whose turn it is. It counts as asked about until [`Self::answered`].
    pub(super) fn next(&mut self) -> Option<FunctionName> {
        if self.n_asked >= STRANGERS_ASKED_MAX {
            return None;
        }
        let name = self.waiting.pop_front()?;
        self.n_asked += 1;
        Some(name)
    }

    /// One of those that were asked about is one no more.
    pub(super) fn answered(&mut self) {
        self.n_asked -= 1;
    }
}
