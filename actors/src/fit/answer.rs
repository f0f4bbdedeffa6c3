//! What a tree is worth, and the tree as it is told.

use super::bits::Bits;
use super::node::Node;
use super::order::in_order;
use super::problem::Problem;
use super::{Fitted, FittedNode, MS_PER_MB};
use crate::packages::{Package, PackageSet};

impl Problem<'_> {
    /// Import time that the nodes save, each function forked from the best.
    pub(super) fn saved(&self, nodes: &[Node]) -> f64 {
        let savings: Vec<_> = nodes.iter().map(|node| self.savings(&node.holds)).collect();
        let each = self.weights.iter().enumerate().map(|(row, weight)| {
            weight * savings.iter().filter_map(|savings| savings[row]).fold(0.0, f64::max)
        });
        each.sum()
    }

    /// What it saves, less what must be saved for it.
    pub(super) fn worth(&self, nodes: &[Node]) -> f64 {
        let bytes: u64 = nodes.iter().map(|node| node.bytes).sum();
        self.saved(nodes) - MS_PER_MB * bytes as f64 / (1 << 20) as f64
    }

    pub(super) fn better(&self, one: Vec<Node>, other: Vec<Node>) -> Vec<Node> {
        if self.worth(&other) > self.worth(&one) { other } else { one }
    }

    pub(super) fn told(&self, nodes: &[Node]) -> Fitted {
        let mut nodes = nodes.to_vec();
        self.seat(&mut nodes);
        let packages_of = |bits: &Bits| -> Vec<Package> {
            let packages: Vec<Package> = bits.iter().map(|at| self.packages[at].clone()).collect();
            in_order(&packages, self.requires)
        };
        let told = nodes.iter().skip(1).map(|node| FittedNode {
            parent: node.parent.and_then(|parent| parent.checked_sub(1)),
            adds: packages_of(&node.adds),
            packages: PackageSet::new(packages_of(&node.holds)),
            bytes: node.bytes,
            n_functions: node.calls.iter().map(|at| self.n_functions[at]).sum(),
            weight: self.weight_of(&node.calls),
            ms_saved: self.ms_of(&node.holds) * self.weight_of(&node.calls),
        });
        Fitted {
            nodes: told.collect(),
            ms_without: self
                .rows
                .iter()
                .zip(&self.weights)
                .map(|(row, weight)| weight * self.ms_of(row))
                .sum(),
            ms_saved: self.saved(&nodes),
            bytes: nodes.iter().map(|node| node.bytes).sum(),
        }
    }
}
