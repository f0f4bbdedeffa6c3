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
//! * No node has, with those above it, anything that one of its functions does not need, or that would use something which one of them has
//!   and the node has not: so each may be forked from it.
//!   Versions cannot conflict on a path, since no function needs two of one package.
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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::lambda_zygotes::LOAD_TIME_WORTH;
use crate::packages::{Package, PackageSet};

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
/// A node that stands goes when it saves less than this share of what would have it made.
const KEEP_SHARE: f64 = 0.5;
/// By how much a new tree must be better than the one that stands: each zygote that is made anew costs an import.
pub const BETTER_BY: f64 = 0.1;

/// A set of small numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Bits(Vec<u64>);

impl Bits {
    fn none(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)])
    }

    fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one & !other == 0)
    }

    fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(one, other)| *one &= other);
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(one, other)| *one |= other);
    }

    fn without(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one & !other).collect())
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            std::iter::successors(Some(*word), |word| Some(word & word.wrapping_sub(1)))
                .take_while(|word| *word != 0)
                .map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }
}

/// A question in numbers.
struct Problem<'a> {
    packages: Vec<&'a Package>,
    ms: Vec<f64>,
    bytes: Vec<u64>,
    /// By need: its packages.
    rows: Vec<Bits>,
    /// By package: the needs that have it.
    columns: Vec<Bits>,
    n_functions: Vec<u32>,
    weights: Vec<f64>,
    /// A package with all that it needs, of what a function has.
    candidates: Vec<Bits>,
    /// All that is in one of them.
    useful: Bits,
    /// By package: those that it uses where they are, in any version.
    uses: Vec<Bits>,
    requires: &'a HashMap<Package, Arc<[String]>>,
    bounds: Bounds,
}

#[derive(Debug, Clone)]
struct Node {
    parent: Option<usize>,
    adds: Bits,
    /// With those above.
    holds: Bits,
    calls: Bits,
    level: usize,
    process: Place,
    bytes: u64,
    n_children: usize,
}

/// Where a node's process is among the others.
#[derive(Debug, Clone)]
struct Place {
    depth: usize,
    /// What the process that it is forked from holds.
    origin: Bits,
}

#[derive(Debug, Clone)]
struct Split {
    adds: Bits,
    calls: Bits,
    saves: f64,
    bytes: u64,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Saved,
    SavedPerByte,
}

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

/// Packages in the order in which they can be imported one after the other: what one needs comes before it. Then the
/// time that each takes is its own.
#[must_use]
pub fn in_order(packages: &[Package], requires: &HashMap<Package, Arc<[String]>>) -> Vec<Package> {
    fn visit<'a>(
        package: &'a Package,
        by_name: &BTreeMap<&str, &'a Package>,
        requires: &HashMap<Package, Arc<[String]>>,
        seen: &mut BTreeSet<&'a str>,
        out: &mut Vec<Package>,
    ) {
        if !seen.insert(&package.name) {
            return;
        }
        for name in requires.get(package).into_iter().flat_map(|names| names.iter()) {
            if let Some(needed) = by_name.get(name.as_str()) {
                visit(needed, by_name, requires, seen, out);
            }
        }
        out.push(package.clone());
    }
    let by_name: BTreeMap<&str, &Package> =
        packages.iter().map(|package| (package.name.as_str(), package)).collect();
    let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
    for package in packages {
        visit(package, &by_name, requires, &mut seen, &mut out);
    }
    out
}

impl<'a> Problem<'a> {
    fn new(question: &'a Question, bounds: Bounds, standing: &'a [Standing]) -> Self {
        // In an order of their own, so that the answer does not depend on that of the question.
        let mut needs: Vec<&Need> = question.needs.iter().filter(|need| need.weight > 0.0).collect();
        needs.sort_by(|one, other| one.packages.iter().cmp(other.packages.iter()));
        let all: BTreeSet<&Package> = needs
            .iter()
            .flat_map(|need| &need.packages)
            .chain(standing.iter().flat_map(|node| &node.packages))
            .collect();
        let packages: Vec<&Package> = all.into_iter().collect();
        let number: HashMap<&Package, usize> =
            packages.iter().enumerate().map(|(at, package)| (*package, at)).collect();
        let price = |package: &&Package| question.prices.get(*package).copied().unwrap_or_default();
        let mut rows = vec![Bits::none(packages.len()); needs.len()];
        let mut columns = vec![Bits::none(needs.len()); packages.len()];
        let mut candidates = BTreeSet::new();
        for (at, need) in needs.iter().enumerate() {
            let by_name: HashMap<&str, usize> =
                need.packages.iter().map(|package| (package.name.as_str(), number[package])).collect();
            for package in &need.packages {
                let is_free = price(&package).import.is_zero();
                let package = number[package];
                rows[at].insert(package);
                columns[package].insert(at);
                if is_free {
                    continue;
                }
                let mut closed = Bits::none(packages.len());
                let mut open = vec![package];
                while let Some(at) = open.pop() {
                    if closed.has(at) {
                        continue;
                    }
                    closed.insert(at);
                    let names =
                        question.requires.get(packages[at]).into_iter().flat_map(|names| names.iter());
                    open.extend(names.filter_map(|name| by_name.get(name.as_str())));
                }
                candidates.insert(closed);
            }
        }
        let mut by_name = HashMap::<&str, Vec<usize>>::new();
        for (at, package) in packages.iter().enumerate() {
            by_name.entry(package.name.as_str()).or_default().push(at);
        }
        let uses = packages.iter().map(|package| {
            let names = question.requires.get(*package).into_iter().flat_map(|names| names.iter());
            let mut used = Bits::none(packages.len());
            names.filter_map(|name| by_name.get(name.as_str())).flatten().for_each(|at| used.insert(*at));
            used
        });
        let uses = uses.collect();
        let mut useful = Bits::none(packages.len());
        candidates.iter().for_each(|candidate| useful.add(candidate));
        Self {
            useful,
            uses,
            ms: packages.iter().map(|package| price(package).import.as_secs_f64() * 1e3).collect(),
            bytes: packages.iter().map(|package| price(package).bytes).collect(),
            rows,
            columns,
            n_functions: needs.iter().map(|need| need.n_functions).collect(),
            weights: needs.iter().map(|need| need.weight).collect(),
            candidates: candidates.into_iter().collect(),
            requires: &question.requires,
            packages,
            bounds,
        }
    }

    fn root(&self) -> Node {
        let nothing = Bits::none(self.packages.len());
        let mut calls = Bits::none(self.rows.len());
        (0..self.rows.len()).for_each(|at| calls.insert(at));
        Node {
            parent: None,
            adds: nothing.clone(),
            holds: nothing.clone(),
            calls,
            level: 0,
            process: Place { depth: 0, origin: nothing },
            bytes: 0,
            n_children: 0,
        }
    }

    /// Whether functions with these packages may be forked from a zygote that holds those: it has nothing that they do not need, and has
    /// missed nothing that they have.
    fn suits(&self, holds: &Bits, needed: &Bits) -> bool {
        let finds = |at: usize| {
            self.uses[at]
                .0
                .iter()
                .zip(&needed.0)
                .zip(&holds.0)
                .all(|((used, needed), held)| used & needed & !held == 0)
        };
        holds.is_subset(needed) && holds.iter().all(finds)
    }

    fn ms_of(&self, packages: &Bits) -> f64 {
        packages.iter().map(|at| self.ms[at]).sum()
    }

    fn weight_of(&self, calls: &Bits) -> f64 {
        calls.iter().map(|at| self.weights[at]).sum()
    }

    /// The process of a child of this node that holds all these, and what it takes.
    fn process(&self, parent: &Node, holds: &Bits) -> (Place, u64) {
        let place = if parent.process.depth < PROCESSES_DEEP {
            Place { depth: parent.process.depth + 1, origin: parent.holds.clone() }
        } else {
            parent.process.clone()
        };
        let imports = holds.without(&place.origin);
        let bytes = NODE_BYTES + imports.iter().map(|at| self.bytes[at]).sum::<u64>();
        (place, bytes)
    }

    /// What a node must save to be worth making.
    fn price(bytes: u64) -> f64 {
        let worth = LOAD_TIME_WORTH.as_secs_f64() * 1e3;
        worth.max(MS_PER_MB * bytes as f64 / (1 << 20) as f64)
    }

    /// Splits the nodes further as long as that is worth it.
    fn grow(&self, mut nodes: Vec<Node>, order: Order) -> Vec<Node> {
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
            let mut holds = nodes[at].holds.clone();
            holds.add(&split.adds);
            nodes[at].calls = nodes[at].calls.without(&split.calls);
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
            let mut calls = node.calls.clone();
            adds.iter().for_each(|package| calls.keep(&self.columns[package]));
            let mut holds = node.holds.clone();
            holds.add(&adds);
            let calls = self.suited(&holds, &calls);
            if !calls.is_empty() {
                groups.entry(calls).or_default().push(adds);
            }
        }
        let mut best: Option<Split> = None;
        for (calls, splits) in groups {
            let weight = self.weight_of(&calls);
            let all = self.all_in_common(&splits, &calls, &node.holds);
            for adds in all.into_iter().chain(splits) {
                let saves = self.ms_of(&adds) * weight;
                let mut holds = node.holds.clone();
                holds.add(&adds);
                let (place, bytes) = self.process(node, &holds);
                // All that they have in common may use what one of them has besides.
                let is_none = bytes > bytes_left || saves < Self::price(bytes);
                if is_none || self.suited(&holds, &calls) != calls {
                    continue;
                }
                let split = Split { adds, calls: calls.clone(), saves, bytes, place };
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

    /// Those of these functions that may be forked from a zygote that holds these.
    fn suited(&self, holds: &Bits, calls: &Bits) -> Bits {
        let mut suited = Bits::none(self.rows.len());
        calls.iter().filter(|row| self.suits(holds, &self.rows[*row])).for_each(|row| suited.insert(row));
        suited
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

    /// The nodes of a tree that there is, each with the functions that are forked from it.
    fn standing(&self, standing: &[Standing]) -> Vec<Node> {
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
    fn seat(&self, nodes: &mut [Node]) {
        nodes.iter_mut().for_each(|node| node.calls = Bits::none(self.rows.len()));
        let worth: Vec<f64> = nodes.iter().map(|node| self.ms_of(&node.holds)).collect();
        for (row, needed) in self.rows.iter().enumerate() {
            let suiting = nodes.iter().enumerate().filter(|(_, node)| self.suits(&node.holds, needed));
            let best = suiting.rev().max_by(|(one, _), (other, _)| worth[*one].total_cmp(&worth[*other]));
            // The root holds nothing and suits all.
            let at = best.map_or(0, |(at, _)| at);
            nodes[at].calls.insert(row);
        }
    }

    /// Without the leaves that save too little.
    fn pruned(&self, mut nodes: Vec<Node>) -> Vec<Node> {
        loop {
            let worth: Vec<f64> = nodes.iter().map(|node| self.ms_of(&node.holds)).collect();
            let loss = |at: usize| -> f64 {
                let node = &nodes[at];
                let each = node.calls.iter().map(|row| {
                    let others = nodes
                        .iter()
                        .enumerate()
                        .filter(|(other, node)| *other != at && self.suits(&node.holds, &self.rows[row]));
                    let next = others.map(|(other, _)| worth[other]).fold(0.0, f64::max);
                    self.weights[row] * (worth[at] - next)
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
            for node in &mut nodes {
                node.parent = node.parent.map(|parent| if parent > at { parent - 1 } else { parent });
            }
            if let Some(parent) = gone.parent {
                nodes[parent].n_children -= 1;
            }
            self.seat(&mut nodes);
        }
    }

    fn saved(&self, nodes: &[Node]) -> f64 {
        let worth: Vec<f64> = nodes.iter().map(|node| self.ms_of(&node.holds)).collect();
        let each = self.rows.iter().zip(&self.weights).map(|(needed, weight)| {
            let suiting = nodes.iter().zip(&worth).filter(|(node, _)| self.suits(&node.holds, needed));
            weight * suiting.map(|(_, worth)| *worth).fold(0.0, f64::max)
        });
        each.sum()
    }

    /// What it saves, less what must be saved for it.
    fn worth(&self, nodes: &[Node]) -> f64 {
        let bytes: u64 = nodes.iter().map(|node| node.bytes).sum();
        self.saved(nodes) - MS_PER_MB * bytes as f64 / (1 << 20) as f64
    }

    fn better(&self, one: Vec<Node>, other: Vec<Node>) -> Vec<Node> {
        if self.worth(&other) > self.worth(&one) { other } else { one }
    }

    fn told(&self, nodes: &[Node]) -> Fitted {
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

fn score(split: &Split, order: Order) -> f64 {
    match order {
        Order::Saved => split.saves,
        Order::SavedPerByte => split.saves / split.bytes as f64,
    }
}

#[cfg(test)]
mod tests;
