//! A tree grows: the best split of all, again and again.

use std::collections::HashMap;

use super::bits::Bits;
use super::node::{Node, Place};
use super::problem::Problem;

/// Functions of a node that get a child of their own.
#[derive(Debug, Clone)]
struct Split {
    adds: Bits,
    calls: Bits,
    saves: f64,
    bytes: u64,
    place: Place,
}

/// Which split is the best.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Saved,
    SavedPerByte,
}

impl Problem<'_> {
    /// Splits the nodes further as long as that is worth it.
    pub(super) fn grow(&self, mut nodes: Vec<Node>, order: Order) -> Vec<Node> {
        let mut used: u64 = nodes.iter().map(|node| node.bytes).sum();
        let left = |used| self.bounds.bytes.saturating_sub(used);
        let mut splits: Vec<Option<Split>> =
            nodes.iter().map(|node| self.best_split(node, order, left(used))).collect();
        // The root is no zygote.
        while nodes.len() <= self.bounds.n_nodes {
            let best = splits.iter().enumerate().filter_map(|(at, split)| Some((at, split.as_ref()?)));
            // The first of equals: the order of the nodes is that of their making.
            let best = best.rev().max_by(|one, other| score(one.1, order).total_cmp(&score(other.1, order)));
            let Some((at, split)) = best.map(|(at, split)| (at, split.clone())) else { break };
            if split.bytes > left(used) {
                // It was found when there was more left.
                splits[at] = self.best_split(&nodes[at], order, left(used));
                continue;
            }
            used += split.bytes;
            let holds = nodes[at].holds.with(&split.adds);
            nodes[at].calls.remove(&split.calls);
            nodes[at].n_children += 1;
            nodes.push(Node {
                parent: Some(at),
                adds: split.adds,
                holds,
                calls: split.calls,
                level: nodes[at].level + 1,
                process: split.place,
                bytes: split.bytes,
                n_children: 0,
            });
            splits[at] = self.best_split(&nodes[at], order, left(used));
            splits.push(nodes.last().and_then(|node| self.best_split(node, order, left(used))));
        }
        nodes
    }

    fn best_split(&self, node: &Node, order: Order, bytes_left: u64) -> Option<Split> {
        let is_full = node.level >= self.bounds.n_levels
            || (node.level == 0 && node.n_children >= self.bounds.n_top)
            || node.calls.is_empty();
        if is_full {
            return None;
        }
        // Many splits have the same functions: what these have in common is looked for once.
        let mut groups = HashMap::<Bits, Vec<Bits>>::new();
        for candidate in &self.candidates {
            let adds = candidate.without(&node.holds);
            if adds.is_empty() {
                continue;
            }
            let calls = self.calls_of(node, &adds);
            if !calls.is_empty() {
                groups.entry(calls).or_default().push(adds);
            }
        }
        let mut best: Option<Split> = None;
        for (calls, splits) in groups {
            let all = self.all_in_common(&splits, &calls, &node.holds);
            let all = all.map(|adds| (self.calls_of(node, &adds), adds));
            for (calls, adds) in all.into_iter().chain(splits.into_iter().map(|adds| (calls.clone(), adds))) {
                let saves = self.ms_of(&adds) * self.weight_of(&calls);
                let holds = node.holds.with(&adds);
                let (place, bytes) = self.process(node, &holds);
                if bytes > bytes_left || saves < Self::price(bytes) {
                    continue;
                }
                let split = Split { adds, calls, saves, bytes, place };
                let is_better = best.as_ref().is_none_or(|best| {
                    let (one, other) = (score(&split, order), score(best, order));
                    // Of equals always the same one, in whatever order they come.
                    one > other || (one >= other && (&split.adds, &split.calls) < (&best.adds, &best.calls))
                });
                if is_better {
                    best = Some(split);
                }
            }
        }
        best
    }

    /// Those of the node's functions that suit a child with these besides.
    fn calls_of(&self, node: &Node, adds: &Bits) -> Bits {
        let mut calls = node.calls.clone();
        adds.iter().for_each(|package| calls.keep(&self.columns[package]));
        let missed = self.missed_by(&node.holds.with(adds));
        missed.iter().for_each(|package| calls.remove(&self.columns[package]));
        calls
    }

    /// All that these functions have in common, if that is to be taken along; see the module's text. `splits` are those that have these
    /// functions.
    fn all_in_common(&self, splits: &[Bits], calls: &Bits, above: &Bits) -> Option<Bits> {
        let mut rows = calls.iter();
        let mut common = self.rows[rows.next()?].without(above);
        rows.for_each(|row| common.keep(&self.rows[row]));
        // What is of no use for any is left out: it may have been found impossible to import.
        common.keep(&self.useful);
        let n: u32 = calls.iter().map(|at| self.n_functions[at]).sum();
        let alone = splits.iter().map(|adds| self.ms_of(adds)).fold(0.0, f64::max);
        ((self.ms_of(&common) - alone) * f64::from(n) >= alone).then_some(common)
    }
}

fn score(split: &Split, order: Order) -> f64 {
    match order {
        Order::Saved => split.saves,
        Order::SavedPerByte => split.saves / split.bytes as f64,
    }
}
