//! Zygotes that are no more: those that have died or failed, twins that nobody needs, and what memory is short for.

use tokio::time::Instant;

use super::node::Stage;
use super::{Forest, NodeId};

impl<Z: Clone> Forest<Z> {
    /// A fork of this zygote has failed, or it is dead. Says whether it was the last one of the node; then another one takes its
    /// place, after a pause.
    pub(crate) fn failed(&mut self, id: NodeId, number: u64, now: Instant) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let Stage::Growing(grown) = &mut node.stage else { return false };
        let n_before = grown.replicas.len();
        grown.replicas.retain(|replica| replica.number != number);
        if n_before == grown.replicas.len() || !grown.replicas.is_empty() {
            return false;
        }
        node.pause.failed(now);
        node.stage = Stage::Planned;
        self.forget_holder(id);
        true
    }

    /// Gives up the dead, and replicas where there is no crowd any more; wants more where there is one. Says which nodes
    /// have no zygote any more.
    pub(crate) fn tidy(&mut self, is_alive: impl Fn(&Z) -> bool, now: Instant) -> Vec<NodeId> {
        let growing = self.nodes.iter().filter_map(|(id, node)| match &node.stage {
            Stage::Growing(grown) => Some((id, grown)),
            _ => None,
        });
        let dead: Vec<(NodeId, u64)> = growing
            .flat_map(|(id, grown)| grown.replicas.iter().map(|replica| (*id, replica)))
            .filter(|(_, replica)| !is_alive(&replica.zygote))
            .map(|(id, replica)| (id, replica.number))
            .collect();
        let gone = dead.into_iter().filter(|(id, number)| self.failed(*id, *number, now)).map(|(id, _)| id);
        let gone = gone.collect();
        self.costs.tidy(now);
        for node in self.nodes.values_mut() {
            if let Stage::Growing(grown) = &mut node.stage {
                grown.look_at_crowd();
            }
        }
        gone
    }

    /// The node that pays least, and how much: import time that was not waited for lately, in nanoseconds, for each byte that it
    /// takes. Replicas come before all others: they save no import.
    pub(crate) fn least_paying(&self, bytes: impl Fn(&Z) -> u64, now: Instant) -> Option<(NodeId, f64)> {
        let growing = self.nodes.iter().filter_map(|(id, node)| match &node.stage {
            Stage::Growing(grown) => {
                let taken: u64 = grown.replicas.iter().map(|replica| bytes(&replica.zygote)).sum();
                let saved = node.uses.at(now) * self.costs.import_time(&grown.holds).as_nanos() as f64;
                let is_last = grown.replicas.len() == 1;
                Some((*id, node, is_last, if is_last { saved / taken.max(1) as f64 } else { 0.0 }))
            }
            _ => None,
        });
        // Of those that pay the same the one that was unused for longest, and of these the one furthest from the root.
        let least = growing.min_by(|(id, node, is_last, pays), (other_id, other, other_is_last, others)| {
            is_last
                .cmp(other_is_last)
                .then_with(|| pays.total_cmp(others))
                .then_with(|| node.last_used.cmp(&other.last_used))
                .then_with(|| other_id.cmp(id))
        });
        least.map(|(id, _, _, pays)| (id, pays))
    }

    /// Gives up one, that which pays least: memory is tight. One that somebody drew comes back later. Says which, and whether
    /// that was the node's last.
    pub(crate) fn release_one(&mut self, bytes: impl Fn(&Z) -> u64, now: Instant) -> Option<(NodeId, bool)> {
        let (id, _) = self.least_paying(bytes, now)?;
        let Stage::Growing(grown) = &self.nodes.get(&id)?.stage else { return None };
        let (number, is_last) = (grown.replicas.last()?.number, grown.replicas.len() == 1);
        if is_last && !self.is_drawn {
            self.remove(id);
        } else {
            if let Some(Stage::Growing(grown)) = self.nodes.get_mut(&id).map(|node| &mut node.stage) {
                grown.n_wanted = 1;
            }
            self.failed(id, number, now);
        }
        Some((id, is_last))
    }
}
