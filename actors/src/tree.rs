//! The zygotes of packages: which there should be, which there are, and which of them suits a function best.
//!
//! A node stands for a set of packages, its own and those of the nodes above it. Its zygote has them imported, and a
//! function may be forked from it if it requires all that the zygote holds: what was imported cannot be taken back.
//! Nor can what was missed: a package that looks for another one when it is imported, and does without if that is not there,
//! would not find what the function has besides. So a function that has anything which the zygote's packages name is not
//! forked from it. Among those that are left the one is best that saves most of the import time.
//!
//! ```text
//!           next_build            built                 the last one is dead, or fails
//!   planned ──────────▶ building ───────▶ growing ─────────────────────────▶ planned, after a pause
//!      ▲                   │ failed        │  ▲ crowded: one more replica
//!      └── after a pause ──┘               └──┘ quiet: one less
//! ```
//!
//! Which nodes there are says a tree that somebody drew (`import_cache_tree`, `ol zygotes import`), or else
//! [`fit`](crate::fit) of what functions need. A node that is no longer wanted is forgotten, and its zygotes end; what was
//! forked from them goes on.
//!
//! | part | what |
//! |---|---|
//! | `node` | a node, its zygotes and how crowded these are |
//! | `wishes` | which nodes there should be |
//! | `finding` | which zygote suits a function |
//! | `building` | which zygote is made next, and what came of it |
//! | `ending` | which zygotes are no more |

mod building;
mod ending;
mod finding;
mod node;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::costs::Costs;
use crate::demand::Demand;
use crate::fit::Standing;
use crate::packages::Package;
pub(crate) use building::{Build, Built};
pub(crate) use finding::Best;
use node::Node;
pub use node::{NodeView, REPLICAS_MAX};

/// A package that a node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// As somebody wrote it.
    pub text: String,
    /// Which package that is: its name, normalised as [`Package::name`] is.
    pub name: String,
}

impl From<&Package> for Requirement {
    fn from(package: &Package) -> Self {
        Self { text: package.to_string(), name: package.name.clone() }
    }
}

/// A node of a tree that somebody drew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What it has beside those of the nodes above.
    pub packages: Vec<Requirement>,
    /// Nodes below.
    pub children: Vec<Plan>,
}

/// The forest of a worker, for those who look for a zygote and for the actor that looks after them. A clone is the same.
#[derive(Debug)]
pub struct SharedForest<Z>(Arc<Mutex<Forest<Z>>>);

impl<Z> Clone for SharedForest<Z> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Z: Clone> SharedForest<Z> {
    pub(crate) fn new(plan: Option<&Plan>, on_host: bool) -> Self {
        Self(Arc::new(Mutex::new(Forest::new(plan, on_host, Instant::now()))))
    }

    /// Held for single calls only: each is a look at some maps.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Forest<Z>> {
        // A panic under the lock is a bug of this file; each call leaves the forest whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which node. Never used again for another one; [`NodeId::ROOT`] has no packages and is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct NodeId(u64);

impl NodeId {
    /// The root zygotes.
    pub const ROOT: Self = Self(0);
}

/// Nodes of a tree that somebody drew at most: as many zygotes as uids are set aside for (`src/sandbox/uids.rs`).
pub const DRAWN_MAX: usize = 1_000;
/// The pause after a zygote could not be made, or has died; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// See [`RETRY_PAUSE`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);

/// See the module's text. `Z` is a zygote; a clone is the same one.
#[derive(Debug)]
pub(crate) struct Forest<Z> {
    nodes: HashMap<NodeId, Node<Z>>,
    /// Which growing nodes hold a package: so that a look-up need not look at all nodes.
    holders: HashMap<Package, Vec<NodeId>>,
    /// What it is fitted to.
    pub(crate) costs: Costs,
    pub(crate) demand: Demand,
    /// What an earlier worker has learnt of these is among it, or cannot be had.
    pub(crate) is_recalled: bool,
    /// Something was learnt of these since it was written down.
    pub(crate) has_news: bool,
    /// Another worker, which has taken this one's place, writes down what it learns.
    pub(crate) is_yielded: bool,
    next_id: u64,
    next_zygote: u64,
    is_drawn: bool,
}

impl<Z: Clone> Forest<Z> {
    /// With a plan: its nodes, and no others. Without: none yet.
    pub(crate) fn new(plan: Option<&Plan>, on_host: bool, now: Instant) -> Self {
        let mut forest = Self {
            nodes: HashMap::new(),
            holders: HashMap::new(),
            costs: Costs::default(),
            demand: Demand::default(),
            is_recalled: false,
            has_news: false,
            is_yielded: false,
            next_id: 1,
            next_zygote: 1,
            is_drawn: false,
        };
        forest.draw(plan, on_host, now);
        forest
    }

    /// Whether somebody drew it.
    pub(crate) fn is_drawn(&self) -> bool {
        self.is_drawn
    }

    /// The nodes that were fitted, parents first.
    pub(crate) fn standing(&self, on_host: bool) -> Vec<Standing> {
        let mut ids: Vec<NodeId> = self.nodes_of(on_host).collect();
        // Those above come first; whose parent is gone is below the root.
        ids.sort_by_key(|id| (self.level(*id), *id));
        let place: HashMap<NodeId, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        ids.iter()
            .map(|id| {
                let node = &self.nodes[id];
                Standing { parent: place.get(&node.parent).copied(), packages: node.packages.clone() }
            })
            .collect()
    }

    fn nodes_of(&self, on_host: bool) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().filter(move |(_, node)| node.on_host == on_host).map(|(id, _)| *id)
    }

    fn level(&self, id: NodeId) -> usize {
        std::iter::successors(self.nodes.get(&id), |node| self.nodes.get(&node.parent)).count()
    }

    fn remove(&mut self, id: NodeId) {
        self.forget_holder(id);
        self.nodes.remove(&id);
    }

    fn forget_holder(&mut self, id: NodeId) {
        self.holders.retain(|_, holders| {
            holders.retain(|holder| *holder != id);
            !holders.is_empty()
        });
    }

    /// Gives up all.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.holders.clear();
    }

    /// What all zygotes took when they had been made.
    pub(crate) fn bytes(&self) -> u64 {
        self.nodes.values().map(Node::bytes).sum()
    }

    /// Of each node what a person may know, parents first.
    pub(crate) fn views(&self, now: Instant) -> Vec<NodeView> {
        let mut ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.sort_by_key(|id| (self.level(*id), *id));
        ids.into_iter().map(|id| self.nodes[&id].view(id, &self.nodes, now)).collect()
    }

    /// Zygotes that there are.
    #[cfg(test)]
    pub(crate) fn n_growing(&self) -> usize {
        self.nodes.values().map(|node| node.replicas().len()).sum()
    }
}
