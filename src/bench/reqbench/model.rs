//! What look-ups would give that the worker does not have: by arithmetic, not by running them.
//!
//! OpenLambda's worker takes the first node, depth first, of which the function has all packages; ours takes the best of all
//! nodes. To build the former into the worker only to measure it would not make the worker better. So what is measured is the time
//! of a call against the import time that its zygote leaves over, without zygotes and with the fitted tree; the line through
//! the two says what a call would take that leaves over so much as the first match does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actors::fit::{Bounds, Fitted, FittedNode, Need, Price, Question, fit};
use actors::packages::{Package, PackageSet};

use super::graph::{Graph, Made, Wants};

/// Nodes of the tree that comes with OpenLambda (`default-zygotes-40.json`).
pub(super) const STATIC_NODES: usize = 40;

/// The graph as the fit has it.
pub(in crate::bench) fn question(graph: &Graph, functions: &[Wants]) -> Question {
    let package = |made: &Made| Package {
        name: made.name.clone(),
        version: made.version.to_string(),
        directory: made.directory(),
    };
    let price =
        |made: &Made| Price { import: Duration::from_secs_f64(made.import_ms / 1e3), bytes: made.bytes };
    Question {
        needs: functions
            .iter()
            .map(|function| Need {
                packages: PackageSet::new(function.all.iter().map(|at| package(&graph.packages[*at]))),
                n_functions: 1,
                weight: 1.0,
            })
            .collect(),
        prices: graph.packages.iter().map(|made| (package(made), price(made))).collect(),
        requires: graph
            .packages
            .iter()
            .map(|made| (package(made), Arc::from(made.requires.clone())))
            .collect(),
    }
}

/// A node of a tree: the place of the one above, its own packages, and those with the ones above.
pub(super) struct Node {
    parent: Option<usize>,
    adds: PackageSet,
    holds: PackageSet,
}

/// A tree of OpenLambda's shape, fitted to these functions with memory without end: one package for each node, when all that it needs is above.
/// It is fitted to import times, which is kinder than what theirs seems to be fitted to (how often a package is needed).
pub(super) fn static_tree(question: &Question) -> Vec<Node> {
    let names = |set: &[Package]| set.iter().map(|package| package.name.clone()).collect::<BTreeSet<_>>();
    // By node, the root first: what it holds, and the functions that are forked from it.
    let mut open: Vec<(Option<usize>, Vec<Package>, Vec<&Need>)> =
        vec![(None, Vec::new(), question.needs.iter().collect())];
    let mut nodes = Vec::<Node>::new();
    while nodes.len() < STATIC_NODES {
        let mut best: Option<(f64, usize, Package)> = None;
        for (at, (_, holds, needs)) in open.iter().enumerate() {
            let above = names(holds);
            let mut gains = BTreeMap::<&Package, f64>::new();
            for need in needs {
                let own = names(&need.packages.iter().cloned().collect::<Vec<_>>());
                for package in need.packages.iter().filter(|package| !holds.contains(package)) {
                    let mut needed =
                        question.requires.get(package).into_iter().flat_map(|names| names.iter());
                    if needed.all(|name| above.contains(name) || !own.contains(name)) {
                        *gains.entry(package).or_default() += need.weight * ms_of(question, package);
                    }
                }
            }
            for (package, gain) in gains {
                if gain > 0.0 && best.as_ref().is_none_or(|best| gain > best.0) {
                    best = Some((gain, at, package.clone()));
                }
            }
        }
        let Some((_, at, package)) = best else { break };
        let (mine, rest): (Vec<&Need>, Vec<&Need>) =
            open[at].2.iter().partition(|need| need.packages.iter().any(|one| *one == package));
        open[at].2 = rest;
        let holds = [&open[at].1[..], std::slice::from_ref(&package)].concat();
        nodes.push(Node {
            parent: open[at].0,
            adds: PackageSet::new([package]),
            holds: PackageSet::new(holds.iter().cloned()),
        });
        open.push((Some(nodes.len() - 1), holds, mine));
    }
    nodes
}

/// A fitted tree, to be looked up in as in one of these.
pub(super) fn nodes_of(fitted: &Fitted) -> Vec<Node> {
    let of = |node: &FittedNode| Node {
        parent: node.parent,
        adds: PackageSet::new(node.adds.iter().cloned()),
        holds: node.packages.clone(),
    };
    fitted.nodes.iter().map(of).collect()
}

/// What is fitted to these functions within these bounds.
pub(super) fn fitted_tree(question: &Question, bounds: Bounds) -> Fitted {
    fit(question, bounds, &[])
}

/// Import time that is left over on average, in milliseconds.
pub(super) fn left_over_ms(question: &Question, saved_ms: f64) -> f64 {
    let all: f64 = question.needs.iter().map(|need| ms(question, &need.packages)).sum();
    (all - saved_ms) / question.needs.len() as f64
}

/// What the first match saves of all these calls.
pub(super) fn first_match_ms(question: &Question, tree: &[Node]) -> f64 {
    let mut children = HashMap::<Option<usize>, Vec<usize>>::new();
    for (at, node) in tree.iter().enumerate() {
        children.entry(node.parent).or_default().push(at);
    }
    let each = question.needs.iter().map(|need| {
        let has = |at: usize| tree[at].adds.iter().all(|one| need.packages.iter().any(|other| one == other));
        let mut found = None;
        // Down the first child that suits, as long as one does.
        while let Some(at) = children.get(&found).into_iter().flatten().copied().find(|at| has(*at)) {
            found = Some(at);
        }
        found.map_or(0.0, |at| ms(question, &tree[at].holds))
    });
    each.sum()
}

fn ms(question: &Question, packages: &PackageSet) -> f64 {
    packages.iter().map(|package| ms_of(question, package)).sum()
}

fn ms_of(question: &Question, package: &Package) -> f64 {
    question.prices.get(package).map_or(0.0, |price| price.import.as_secs_f64() * 1e3)
}

/// Calls per second when so much is left over, on the line through two that were measured: (left over, calls per second).
pub(super) fn calls_per_s(one: (f64, f64), other: (f64, f64), left_over: f64) -> Option<f64> {
    let slope = (1.0 / one.1 - 1.0 / other.1) / (one.0 - other.0);
    let per_s = 1.0 / (1.0 / one.1 + slope * (left_over - one.0));
    Some(per_s).filter(|per_s| per_s.is_finite() && *per_s > 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::graph::make;
    use super::*;

    #[test]
    fn the_best_match_leaves_no_more_over_than_the_first_and_several_packages_less_than_single_ones() {
        let graph = make(100, 200, 3);
        let (train, test) = graph.functions.split_at(100);
        let (train, test) = (question(&graph, train), question(&graph, test));
        let bounds = Bounds { n_nodes: STATIC_NODES, n_top: 40, n_levels: 40, bytes: u64::MAX };
        let fitted = fitted_tree(&train, bounds);
        let sets: Vec<PackageSet> = fitted.nodes.iter().map(|node| node.packages.clone()).collect();
        let (best, first) = (actors::fit::saved_ms(&test, &sets), first_match_ms(&test, &nodes_of(&fitted)));
        assert!(first > 0.0 && best >= first - 1e-6, "{best} {first}");
        assert!(left_over_ms(&test, best) >= 0.0);
        let single = static_tree(&train);
        assert!(single.len() <= STATIC_NODES && single.iter().all(|node| node.adds.len() == 1));
        assert!(first_match_ms(&train, &single) <= fitted.ms_saved, "of what it was fitted to");
    }

    #[test]
    fn what_was_not_measured_lies_on_the_line() {
        let per_s = calls_per_s((100.0, 10.0), (0.0, 50.0), 50.0).unwrap();
        assert!((per_s - 1.0 / 0.06).abs() < 1e-9, "{per_s}");
    }
}
