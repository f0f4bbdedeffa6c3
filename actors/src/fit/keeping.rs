//! The tree that stands: who is forked from which of its nodes, and which of them pay no more.

use std::collections::HashMap;

use super::Standing;
use super::bits::Bits;
use super::node::Node;
use super::problem::Problem;
use crate::packages::Package;

/// A node that stands goes when it saves less than this share of what would have it made.
const KEEP_SHARE: f64 = 0.5;

impl Problem<'_> {
    /// The nodes of a tree that there is, each with the functions that are forked from it.
    pub(super) fn standing(&self, standing: &[Standing]) -> Vec<Node> {
        let mut nodes = vec![self.root()];
        let number: HashMap<&Package, usize> =
            self.packages.iter().enumerate().map(|(at, package)| (*package, at)).collect();
        for Standing { parent, packages } in standing {
            let at = parent.map_or(0, |at| at + 1);
            let mut holds = Bits::none(self.packages.len());
            packages.iter().filter_map(|package| number.get(package)).for_each(|at| holds.insert(*at));
            let (process, bytes) = self.process(&nodes[at], &holds);
            nodes[at].n_children += 1;
            nodes.push(Node {
                parent: Some(at),
                adds: holds.without(&nodes[at].holds),
                holds,
                calls: Bits::none(self.rows.len()),
                level: nodes[at].level + 1,
                process,
                bytes,
                n_children: 0,
            });
        }
        self.seat(&mut nodes);
        nodes
    }

    /// Each function to the node that saves it most.
    pub(super) fn seat(&self, nodes: &mut [Node]) {
        nodes.iter_mut().for_each(|node| node.calls = Bits::none(self.rows.len()));
        let savings: Vec<_> = nodes.iter().map(|node| self.savings(&node.holds)).collect();
        for row in 0..self.rows.len() {
            let suiting = savings.iter().enumerate().filter_map(|(at, savings)| Some((at, savings[row]?)));
            let best = suiting.rev().max_by(|(_, one), (_, other)| one.total_cmp(other));
            // The root holds nothing and suits all.
            let at = best.map_or(0, |(at, _)| at);
            nodes[at].calls.insert(row);
        }
    }

    /// Without the leaves that save too little.
    pub(super) fn pruned(&self, mut nodes: Vec<Node>) -> Vec<Node> {
        let mut savings: Vec<_> = nodes.iter().map(|node| self.savings(&node.holds)).collect();
        loop {
            let loss = |at: usize| -> f64 {
                let each = nodes[at].calls.iter().map(|row| {
                    let others = savings.iter().enumerate().filter(|(other, _)| *other != at);
                    let next = others.filter_map(|(_, savings)| savings[row]).fold(0.0, f64::max);
                    self.weights[row] * (savings[at][row].unwrap_or(0.0) - next)
                });
                each.sum()
            };
            let too_much = nodes.iter().map(|node| node.bytes).sum::<u64>() > self.bounds.bytes
                || nodes.len() > self.bounds.n_nodes.saturating_add(1);
            let leaves = (1..nodes.len()).filter(|at| nodes[*at].n_children == 0);
            let least = leaves
                .map(|at| (at, loss(at) / Self::price(nodes[at].bytes)))
                .min_by(|one, other| one.1.total_cmp(&other.1));
            let Some((at, _)) = least.filter(|(_, share)| too_much || *share < KEEP_SHARE) else {
                return nodes;
            };
            let gone = nodes.remove(at);
            savings.remove(at);
            for node in &mut nodes {
                node.parent = node.parent.map(|parent| if parent > at { parent - 1 } else { parent });
            }
            if let Some(parent) = gone.parent {
                nodes[parent].n_children -= 1;
            }
            self.seat(&mut nodes);
        }
    }
}
