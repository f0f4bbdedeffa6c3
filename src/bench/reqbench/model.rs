//! What look-ups would give that the worker does not have: by arithmetic, not by running them.
//!
//! OpenLambda's worker takes the first node, depth first, of which the function has all packages; ours takes the best of all
//! nodes. To build the former into the worker only to measure it would not make the worker better. So what is measured is the time
//! of a call against the import time that its zygote leaves over, without zygotes and with the fitted tree; the line through
//! the two says what a call would take that leaves over so much as the first match does.

use std::collections::HashMap;

use actors::fit::{Bounds, Fitted, Need, Price, Question, fit};
use actors::packages::{Package, PackageSet};
use std::sync::Arc;
use std::time::Duration;

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
    let price = |made: &Made| Price { import: Duration::from_secs_f64(made.import_ms / 1e3), bytes: made.bytes };
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
        requires: graph.packages.iter().map(|made| (package(made), Arc::from(made.requires.clone()))).collect(),
    }
}

/// A tree of OpenLambda's size, fitted to these functions with memory without end.
pub(super) fn static_tree(question: &Question) -> Fitted {
    let bounds =
        Bounds { n_nodes: STATIC_NODES, n_top: STATIC_NODES, n_levels: STATIC_NODES, bytes: u64::MAX };
    fit(question, bounds, &[])
}

/// Import time that is left over on average, in milliseconds.
pub(super) fn left_over_ms(question: &Question, saved_ms: f64) -> f64 {
    let all: f64 = question.needs.iter().map(|need| ms(question, &need.packages)).sum();
    (all - saved_ms) / question.needs.len() as f64
}

/// What the first match saves of all these calls.
pub(super) fn first_match_ms(question: &Question, tree: &Fitted) -> f64 {
    let mut children = HashMap::<Option<usize>, Vec<usize>>::new();
    for (at, node) in tree.nodes.iter().enumerate() {
        children.entry(node.parent).or_default().push(at);
    }
    let each = question.needs.iter().map(|need| {
        let has = |at: usize| tree.nodes[at].adds.iter().all(|one| need.packages.iter().any(|other| one == other));
        let mut found = None;
        // Down the first child that suits, as long as one does.
        while let Some(at) = children.get(&found).into_iter().flatten().copied().find(|at| has(*at)) {
            found = Some(at);
        }
        found.map_or(0.0, |at| ms(question, &tree.nodes[at].packages))
    });
    each.sum()
}

fn ms(question: &Question, packages: &PackageSet) -> f64 {
    packages.iter().filter_map(|package| question.prices.get(package)).map(|price| price.import.as_secs_f64() * 1e3).sum()
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
    fn the_best_match_leaves_no_more_over_than_the_first() {
        let graph = make(100, 200, 3);
        let (train, test) = graph.functions.split_at(100);
        let tree = static_tree(&question(&graph, train));
        let test = question(&graph, test);
        let sets: Vec<PackageSet> = tree.nodes.iter().map(|node| node.packages.clone()).collect();
        let (best, first) = (actors::fit::saved_ms(&test, &sets), first_match_ms(&test, &tree));
        assert!(first > 0.0 && best >= first - 1e-6, "{best} {first}");
        assert!(left_over_ms(&test, best) >= 0.0);
    }

    #[test]
    fn what_was_not_measured_lies_on_the_line() {
        let per_s = calls_per_s((100.0, 10.0), (0.0, 50.0), 50.0).unwrap();
        assert!((per_s - 1.0 / 0.06).abs() < 1e-9, "{per_s}");
    }
}
