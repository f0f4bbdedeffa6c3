//! A question in numbers, and what of it is looked up again and again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::bits::Bits;
use super::{Bounds, Need, Question, Standing};
use crate::packages::Package;

/// A question in numbers.
pub(super) struct Problem<'a> {
    pub(super) packages: Vec<&'a Package>,
    pub(super) ms: Vec<f64>,
    pub(super) bytes: Vec<u64>,
    /// By need: its packages.
    pub(super) rows: Vec<Bits>,
    /// By package: the needs that have it.
    pub(super) columns: Vec<Bits>,
    /// By package: what it needs directly, or uses where that is.
    pub(super) uses: Vec<Bits>,
    pub(super) n_functions: Vec<u32>,
    pub(super) weights: Vec<f64>,
    /// A package with all that it needs, of what a function has.
    pub(super) candidates: Vec<Bits>,
    /// All that is in one of them.
    pub(super) useful: Bits,
    pub(super) requires: &'a HashMap<Package, Arc<[String]>>,
    pub(super) bounds: Bounds,
}

impl<'a> Problem<'a> {
    pub(super) fn new(question: &'a Question, bounds: Bounds, standing: &'a [Standing]) -> Self {
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
            by_name.entry(&package.name).or_default().push(at);
        }
        let uses = packages.iter().map(|package| {
            let mut uses = Bits::none(packages.len());
            let names = question.requires.get(*package).into_iter().flat_map(|names| names.iter());
            names.filter_map(|name| by_name.get(name.as_str())).flatten().for_each(|at| uses.insert(*at));
            uses
        });
        let uses = uses.collect();
        let mut useful = Bits::none(packages.len());
        candidates.iter().for_each(|candidate| useful.add(candidate));
        Self {
            useful,
            ms: packages.iter().map(|package| price(package).import.as_secs_f64() * 1e3).collect(),
            bytes: packages.iter().map(|package| price(package).bytes).collect(),
            rows,
            columns,
            uses,
            n_functions: needs.iter().map(|need| need.n_functions).collect(),
            weights: needs.iter().map(|need| need.weight).collect(),
            candidates: candidates.into_iter().collect(),
            requires: &question.requires,
            packages,
            bounds,
        }
    }

    /// What these would use, and do not have among them.
    pub(super) fn missed_by(&self, holds: &Bits) -> Bits {
        let mut uses = Bits::none(self.packages.len());
        holds.iter().for_each(|at| uses.add(&self.uses[at]));
        uses.without(holds)
    }

    /// By need: what it saves if it is forked from one that holds these; `None` where it may not be.
    pub(super) fn savings(&self, holds: &Bits) -> Vec<Option<f64>> {
        let (ms, missed) = (self.ms_of(holds), self.missed_by(holds));
        let suits = |row: &Bits| holds.is_subset(row) && missed.is_disjoint(row);
        self.rows.iter().map(|row| suits(row).then_some(ms)).collect()
    }

    pub(super) fn ms_of(&self, packages: &Bits) -> f64 {
        packages.iter().map(|at| self.ms[at]).sum()
    }

    pub(super) fn weight_of(&self, calls: &Bits) -> f64 {
        calls.iter().map(|at| self.weights[at]).sum()
    }
}
