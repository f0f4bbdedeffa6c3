//! A node of the tree: what it stands for, how far it has come, and how much it is used.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::{NodeId, Requirement};
use crate::backoff::Backoff;
use crate::gdsf::Uses;
use crate::packages::PackageSet;

/// What a person may know of a node.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// 0: the root.
    pub parent: NodeId,
    /// What it adds to the node above.
    pub packages: Vec<String>,
    /// What its zygotes hold, with what they got from above. Empty while there is none.
    pub holds: Vec<String>,
    /// `planned`, `building` or `growing`.
    pub state: &'static str,
    /// Whether it is for functions on the machine's own network.
    pub on_host: bool,
    /// Zygotes with the same packages.
    pub replicas: usize,
    /// Memory charged to all of them when they had been made.
    pub bytes: u64,
    /// Sandboxes of functions that began as a fork of it.
    pub hits: u64,
    /// Standbys that were forked from it.
    pub forks: u64,
    /// Import time that these sandboxes did not wait for, in milliseconds.
    pub saved_ms: f64,
    /// What it was expected to save when the tree was fitted, in milliseconds in some ten minutes. 0: somebody drew it.
    pub expected_ms: f64,
    /// How long nobody has used it.
    pub unused_s: u64,
}

/// Zygotes of one node at most. They help as long as there are cores that fork at once.
pub const REPLICAS_MAX: usize = 4;
/// Forks in one look from which it counts that they were crowded: fewer are a burst that is over.
const CROWDED_FORKS_MIN: u32 = 20;
/// Looks in a row without a crowd after which one replica goes: with one look in 5 s, a minute.
pub(super) const QUIET_LOOKS: u32 = 12;

#[derive(Debug)]
pub(super) struct Node<Z> {
    pub(super) parent: NodeId,
    /// Its own.
    pub(super) adds: Vec<Requirement>,
    /// Its own and those of the nodes above.
    pub(super) requirements: Vec<Requirement>,
    /// What these are, of a node that was fitted.
    pub(super) packages: PackageSet,
    /// For sandboxes on the machine's network, whose zygotes are others.
    pub(super) on_host: bool,
    pub(super) stage: Stage<Z>,
    pub(super) pause: Backoff,
    pub(super) last_used: Instant,
    pub(super) uses: Uses,
    pub(super) hits: u64,
    pub(super) forks: u64,
    pub(super) saved: Duration,
    pub(super) expected_ms: f64,
    pub(super) bytes_expected: u64,
}

impl<Z> Node<Z> {
    pub(super) fn replicas(&self) -> &[Replica<Z>] {
        match &self.stage {
            Stage::Growing(grown) => &grown.replicas,
            _ => &[],
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.replicas().iter().map(|replica| replica.bytes).sum()
    }

    pub(super) fn view(&self, id: NodeId, others: &HashMap<NodeId, Self>, now: Instant) -> NodeView {
        let (state, holds) = match &self.stage {
            Stage::Planned => ("planned", None),
            Stage::Building => ("building", None),
            Stage::Growing(grown) => ("growing", Some(&grown.holds)),
        };
        NodeView {
            node: id,
            parent: if others.contains_key(&self.parent) { self.parent } else { NodeId::ROOT },
            packages: self.adds.iter().map(|one| one.text.clone()).collect(),
            holds: holds.into_iter().flatten().map(ToString::to_string).collect(),
            state,
            on_host: self.on_host,
            replicas: self.replicas().len(),
            bytes: self.bytes(),
            hits: self.hits,
            forks: self.forks,
            saved_ms: self.saved.as_secs_f64() * 1e3,
            expected_ms: self.expected_ms,
            unused_s: now.saturating_duration_since(self.last_used).as_secs(),
        }
    }
}

#[derive(Debug)]
pub(super) enum Stage<Z> {
    Planned,
    Building,
    Growing(Grown<Z>),
}

#[derive(Debug)]
pub(super) struct Grown<Z> {
    /// At least one.
    pub(super) replicas: Vec<Replica<Z>>,
    pub(super) holds: PackageSet,
    /// Names of the packages that these would use, and that were not there when they were imported.
    pub(super) missed: BTreeSet<String>,
    pub(super) n_wanted: usize,
    pub(super) is_building: bool,
    pub(super) crowd: Crowd,
}

#[derive(Debug)]
pub(super) struct Replica<Z> {
    pub(super) zygote: Z,
    pub(super) number: u64,
    pub(super) n_forking: usize,
    pub(super) bytes: u64,
}

/// How often forks had to wait for others.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    pub(super) n_forks: u32,
    pub(super) n_crowded: u32,
    pub(super) n_quiet_looks: u32,
}

impl<Z> Grown<Z> {
    /// Whether nothing that is wanted was looked for in vain.
    pub(super) fn has_missed_none_of<'a>(&self, mut wanted: impl Iterator<Item = &'a str>) -> bool {
        self.missed.is_empty() || !wanted.any(|name| self.missed.contains(name))
    }

    /// More replicas while forks wait for each other, fewer when none has for a while.
    pub(super) fn look_at_crowd(&mut self) {
        let Crowd { n_forks, n_crowded, n_quiet_looks } = std::mem::take(&mut self.crowd);
        if n_forks >= CROWDED_FORKS_MIN && 2 * n_crowded > n_forks {
            self.n_wanted = (self.replicas.len() + 1).min(REPLICAS_MAX);
        } else if n_crowded == 0 && self.replicas.len() > 1 {
            self.crowd.n_quiet_looks = n_quiet_looks + 1;
            if self.crowd.n_quiet_looks >= QUIET_LOOKS {
                self.crowd.n_quiet_looks = 0;
                self.replicas.pop();
                self.n_wanted = self.replicas.len();
            }
        }
    }
}
