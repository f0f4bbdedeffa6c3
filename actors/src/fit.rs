//! Fitting a tree of zygotes: which packages are worth being imported ahead, and together.
//!
//! The tree grows from the root by *splits* of its nodes (Forklift, WoSC '24). A split takes those of a node's functions
//! that need some package with all that it needs in turn, and gives them a child that has these imported. What it saves is
//! the import time of what the child adds, for each start of a sandbox that the child serves. Of all splits of all nodes
//! the best is made, until the bounds are reached or none is worth what it takes:
//!
//! ```text
//!   root   f1 f2 f3 f4            numpy, pandas need numpy      root      f4
//!                             ──▶ saves most: f1 f2 f3      ──▶  └ numpy   f3
//!                                 need numpy; f1 f2 pandas           └ pandas, pytz   f1 f2
//! ```
//!
//! * No node has, with those above it, anything that one of its functions does not need: so each may be forked from it.
//!   Versions cannot conflict on a path, since no function needs two of one package.
//! * Nor has one of its functions anything besides that the node's packages would use: they have looked for it in vain when
//!   they were imported, and the function would be refused there ([`crate::tree`]).
//! * All that a child's functions have in common it may as well have. It is then of no use to a function to come that needs
//!   only a part. `n` functions that all have more speak for the next one having it with n/(n+1) (the rule of succession), and so
//!   all is taken if that, times all that is saved, is more than the best of its packages alone saves.
//! * A budget of memory makes it a knapsack: once the splits are taken that save most, once those that save most for each
//!   byte, and the better of the two trees is the answer.
//! * Processes nest less deep than the tree may ([`PROCESSES_DEEP`]): a node further down is forked from one further up, and
//!   imports what lies between again. Its bytes count so.
//! * A tree that stands is only replaced if the new one is better by [`BETTER_BY`]; otherwise it grows, and loses what does not
//!   pay any more.
//!
//! Sets are bits: packages of a function, functions of a package. It is a pure function of its input.
//!
//! | part | what |
//! |---|---|
//! | `bits` | sets of packages and of functions |
//! | `problem` | the question in numbers |
//! | `node` | nodes, their processes, what these cost |
//! | `growing` | the best split, again and again |
//! | `keeping` | the tree that stands, and what of it still pays |
//! | `answer` | what a tree is worth, and how it is told |
//! | `order` | in which order packages are imported |

mod answer;
mod bits;
mod growing;
mod keeping;
mod node;
mod order;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::packages::{Package, PackageSet};
use growing::Order;
pub use order::in_order;
use problem::Problem;

/// Functions that need the same packages.
#[derive(Debug, Clone)]
pub struct Need {
    /// All of them.
    pub packages: PackageSet,
    /// How many functions.
    pub n_functions: u32,
    /// Starts of their sandboxes lately; see [`crate::demand`].
    pub weight: f64,
}

/// What it costs to import a package, without what it needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// How long it takes.
    pub import: Duration,
    /// What it takes for as long as it is imported.
    pub bytes: u64,
}

/// What is known when a tree is to be fitted.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// What functions need.
    pub needs: Vec<Need>,
    /// Packages that are not here cost nothing.
    pub prices: HashMap<Package, Price>,
    /// Names of the packages that one needs directly, or uses where they are. What a function has of both comes before it in a zygote.
    pub requires: HashMap<Package, Arc<[String]>>,
}

/// What a tree may come to.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Zygotes.
    pub n_nodes: usize,
    /// Zygotes directly below the root.
    pub n_top: usize,
    /// Nodes from the root to a leaf.
    pub n_levels: usize,
    /// Memory of all zygotes.
    pub bytes: u64,
}

/// A node of a tree that stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its place in the list; before its own.
    pub parent: Option<usize>,
    /// Its packages and those of the nodes above.
    pub packages: PackageSet,
}

/// A tree, and what it brings.
#[derive(Debug, Clone, Default)]
pub struct Fitted {
    /// Parents before their children.
    pub nodes: Vec<FittedNode>,
    /// Import time of all starts without any zygote, in milliseconds.
    pub ms_without: f64,
    /// How much less that is with these, each function forked from the best.
    pub ms_saved: f64,
    /// What the zygotes take, by estimate.
    pub bytes: u64,
}

/// A zygote that there should be.
#[derive(Debug, Clone)]
pub struct FittedNode {
    /// Its place in the list; `None`: the root.
    pub parent: Option<usize>,
    /// What it imports, in the order in which that is needed.
    pub adds: Vec<Package>,
    /// With what the nodes above have.
    pub packages: PackageSet,
    /// By estimate.
    pub bytes: u64,
    /// Functions that are forked from this one and no other.
    pub n_functions: u32,
    /// Starts of their sandboxes.
    pub weight: f64,
    /// Import time that these starts save, in milliseconds.
    pub ms_saved: f64,
}

/// What a zygote takes beside its packages: the pages of the root zygote's that it has written to, its stack, its shell.
/// Measured as PSS of a zygote of an empty package.
pub const NODE_BYTES: u64 = 5 << 19;
/// Processes of zygotes from the root down, as many as the uids of the user namespaces go
/// (`PACKAGE_ZYGOTE_UIDS` in `src/sandbox/uids.rs`).
pub const PROCESSES_DEEP: usize = 3;
/// What a megabyte must save to be worth it, in milliseconds of imports in [`crate::demand::HALF_LIFE`]. A zygote of numpy takes
/// 30 MB and saves 150 ms: it pays if somebody needs it every forty minutes.
const MS_PER_MB: f64 = 0.2;
/// By how much a new tree must be better than the one that stands: each zygote that is made anew costs an import.
pub const BETTER_BY: f64 = 0.1;

/// The tree for this question. See the module's text; `standing` is the tree that there is, parents first.
#[must_use]
pub fn fit(question: &Question, bounds: Bounds, standing: &[Standing]) -> Fitted {
    let problem = Problem::new(question, bounds, standing);
    let fresh = |order| problem.grow(vec![problem.root()], order);
    let anew = problem.better(fresh(Order::Saved), fresh(Order::SavedPerByte));
    if standing.is_empty() {
        return problem.told(&anew);
    }
    let kept = problem.pruned(problem.standing(standing));
    let grown = problem.grow(kept, Order::Saved);
    let (old, new) = (problem.worth(&grown), problem.worth(&anew));
    problem.told(if new > old + BETTER_BY * old.abs() { &anew } else { &grown })
}

/// What these zygotes save, in milliseconds, if each function is forked from the best of them.
#[must_use]
pub fn saved_ms(question: &Question, zygotes: &[PackageSet]) -> f64 {
    let standing: Vec<_> =
        zygotes.iter().map(|packages| Standing { parent: None, packages: packages.clone() }).collect();
    let bounds = Bounds { n_nodes: usize::MAX, n_top: usize::MAX, n_levels: usize::MAX, bytes: u64::MAX };
    let problem = Problem::new(question, bounds, &standing);
    problem.saved(&problem.standing(&standing))
}
