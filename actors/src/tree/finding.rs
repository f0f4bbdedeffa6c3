//! Which zygote suits a function, and how often it is used.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::node::{Grown, Stage};
use super::{Forest, NodeId};
use crate::packages::PackageSet;

/// A fork finds its zygote crowded when so many are under way already. The kernel does one after the other, so that the next
/// waits for all of them.
const CROWDED_AT: usize = 2;

/// The zygote that suits a function best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Best<Z> {
    pub(crate) node: NodeId,
    pub(crate) zygote: Z,
    /// Which of the node's.
    pub(crate) number: u64,
}

impl<Z: Clone> Forest<Z> {
    /// The zygote that holds most of what is required, by import time, and nothing that is not. `None`: the root's.
    pub(crate) fn best(&self, required: &PackageSet, on_host: bool) -> Option<Best<Z>> {
        let (node, grown) = self.best_node(required, on_host)?;
        let replica = grown.replicas.iter().min_by_key(|replica| replica.n_forking)?;
        Some(Best { node, zygote: replica.zygote.clone(), number: replica.number })
    }

    fn best_node(&self, required: &PackageSet, on_host: bool) -> Option<(NodeId, &Grown<Z>)> {
        if self.holders.is_empty() {
            return None;
        }
        let mut n_shared = HashMap::<NodeId, usize>::new();
        for id in required.iter().filter_map(|package| self.holders.get(package)).flatten() {
            *n_shared.entry(*id).or_default() += 1;
        }
        let suiting = n_shared.into_iter().filter_map(|(id, n)| {
            let node = self.nodes.get(&id).filter(|node| node.on_host == on_host)?;
            match &node.stage {
                Stage::Growing(grown)
                    if grown.holds.len() == n
                        && grown.has_missed_none_of(required.iter().map(|package| package.name.as_str())) =>
                {
                    Some((id, grown))
                }
                _ => None,
            }
        });
        // Of those that save the same, the one that holds most, and then the oldest.
        let rank = |(id, grown): &(NodeId, &Grown<Z>)| {
            (self.costs.import_time(&grown.holds), grown.holds.len(), std::cmp::Reverse(*id))
        };
        suiting.max_by_key(rank)
    }

    /// A sandbox with these packages was begun as a fork of this node, or of the root.
    pub(crate) fn used(&mut self, id: NodeId, required: &PackageSet, on_host: bool, now: Instant) {
        self.demand.started(required, on_host, now);
        self.has_news |= !required.is_empty();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.last_used = now;
        node.uses.bump(now);
        node.hits += 1;
        if let Stage::Growing(grown) = &node.stage {
            node.saved += self.costs.import_time(&grown.holds);
        }
    }

    /// A zygote of this node to be forked: the one that has least to do. Say with [`forked`](Self::forked) that it is over.
    pub(crate) fn fork(&mut self, id: NodeId) -> Option<Best<Z>> {
        let Stage::Growing(grown) = &mut self.nodes.get_mut(&id)?.stage else { return None };
        let replica = grown.replicas.iter_mut().min_by_key(|replica| replica.n_forking)?;
        grown.crowd.n_forks += 1;
        grown.crowd.n_crowded += u32::from(replica.n_forking >= CROWDED_AT);
        replica.n_forking += 1;
        Some(Best { node: id, zygote: replica.zygote.clone(), number: replica.number })
    }

    /// See [`fork`](Self::fork).
    pub(crate) fn forked(&mut self, id: NodeId, number: u64, well: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.forks += u64::from(well);
        if let Stage::Growing(grown) = &mut node.stage
            && let Some(replica) = grown.replicas.iter_mut().find(|replica| replica.number == number)
        {
            replica.n_forking = replica.n_forking.saturating_sub(1);
        }
    }

    /// A function that requires these was loaded in a sandbox, which took so long. Says whether that was news.
    pub(crate) fn loaded(&mut self, required: &PackageSet, on_host: bool, took: Duration) -> bool {
        let held = self.best_node(required, on_host).map(|(_, grown)| grown.holds.clone());
        let is_news = self.costs.loaded(required, took, held.unwrap_or_default());
        self.has_news |= is_news;
        is_news
    }
}
