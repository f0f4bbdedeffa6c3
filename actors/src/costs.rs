//! What it costs to import packages: measured where a zygote has imported them, guessed where only sandboxes have.
//!
//! A zygote imports one package after the other, what it needs first, and says of each how long it took and what it has taken.
//! A sandbox tells only how long all of its function took to load. That is shared out among the packages of which nothing is
//! known: each gets of it in proportion to the shortest such time of all functions that have it, since a package
//! that is in a function which loads fast is not what makes another one slow.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::demand::SETS_MAX;
use crate::fit::Price;
use crate::packages::{Package, PackageSet};

/// What an import takes for each millisecond, where it was not measured: the mean of what Forklift measured of 427 packages.
const BYTES_PER_MS: f64 = 65_536.0;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Costs {
    measured: HashMap<Package, Price>,
    /// How long functions with these packages took to load at most, without what was there already.
    loads: HashMap<PackageSet, Duration>,
    /// What a zygote could not import. It costs nothing there, and saves nothing.
    failed: HashSet<Package>,
}

impl Costs {
    /// A zygote has imported it. It takes no time where another one has brought what it needs, so the most counts.
    pub(crate) fn imported(&mut self, package: &Package, price: Price) {
        self.failed.remove(package);
        let known = self.measured.entry(package.clone()).or_default();
        known.import = known.import.max(price.import);
        known.bytes = known.bytes.max(price.bytes);
    }

    /// A zygote could not.
    pub(crate) fn failed(&mut self, package: &Package) {
        self.failed.insert(package.clone());
    }

    /// A function with these packages was loaded, which took so long, in a sandbox that held `held` from its begin. Says
    /// whether something was learnt.
    pub(crate) fn loaded(&mut self, packages: &PackageSet, took: Duration, held: Option<&PackageSet>) -> bool {
        let is_held = |package: &&Package| held.is_some_and(|held| held.iter().any(|one| one == *package));
        let others = packages.iter().filter(|package| !is_held(package));
        let (known, unknown): (Vec<&Package>, Vec<&Package>) =
            others.partition(|package| self.measured.contains_key(*package) || self.failed.contains(*package));
        if unknown.is_empty() || (self.loads.len() >= SETS_MAX && !self.loads.contains_key(packages)) {
            return false;
        }
        let explained: Duration = known.iter().filter_map(|package| self.measured.get(*package)).map(|price| price.import).sum();
        let rest = took.saturating_sub(explained);
        let longest = self.loads.entry(packages.clone()).or_default();
        let is_longer = rest > *longest;
        *longest = rest.max(*longest);
        is_longer
    }

    /// How long these take to import, as far as that was measured.
    pub(crate) fn import_time(&self, packages: &PackageSet) -> Duration {
        packages.iter().filter_map(|package| self.measured.get(package)).map(|price| price.import).sum()
    }

    /// What is known or guessed of each package.
    pub(crate) fn prices(&self) -> HashMap<Package, Price> {
        let mut prices = self.measured.clone();
        let is_unknown = |package: &&Package| !self.measured.contains_key(*package) && !self.failed.contains(*package);
        let mut shortest = HashMap::<&Package, Duration>::new();
        for (packages, took) in &self.loads {
            for package in packages.iter().filter(is_unknown) {
                let known = shortest.entry(package).or_insert(*took);
                *known = (*known).min(*took);
            }
        }
        let mut guessed = HashMap::<&Package, Duration>::new();
        for (packages, took) in &self.loads {
            let all: f64 = packages.iter().filter_map(|package| shortest.get(package)).map(Duration::as_secs_f64).sum();
            for package in packages.iter().filter(is_unknown) {
                let share = if all > 0.0 { shortest[package].as_secs_f64() / all } else { 0.0 };
                let guess = took.mul_f64(share);
                let known = guessed.entry(package).or_insert(guess);
                *known = (*known).min(guess);
            }
        }
        for (package, import) in guessed {
            let bytes = (import.as_secs_f64() * 1e3 * BYTES_PER_MS) as u64;
            prices.insert(package.clone(), Price { import, bytes });
        }
        for package in &self.failed {
            prices.remove(package);
        }
        prices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{MB, ms, package};

    fn set(names: &[&str]) -> PackageSet {
        PackageSet::new(names.iter().map(|name| package(&format!("{name}==1"))))
    }

    fn price(costs: &Costs, name: &str) -> Option<u64> {
        let price = costs.prices().get(&package(&format!("{name}==1"))).copied()?;
        Some(u64::try_from(price.import.as_millis()).unwrap())
    }

    #[test]
    fn what_a_function_took_is_shared_out_to_those_that_slow_others_down_too() {
        let mut costs = Costs::default();
        assert!(costs.loaded(&set(&["heavy", "light"]), ms(200), None));
        assert_eq!((price(&costs, "heavy"), price(&costs, "light")), (Some(100), Some(100)));
        assert!(costs.loaded(&set(&["light", "other"]), ms(10), None));
        assert!(!costs.loaded(&set(&["light", "other"]), ms(9), None), "the longest counts");
        assert!(price(&costs, "heavy") > Some(180) && price(&costs, "light") <= Some(10));
        assert_eq!(costs.prices()[&package("heavy==1")].bytes / 65_536, 190);
    }

    #[test]
    fn what_was_measured_is_no_longer_guessed_and_what_failed_is_worth_nothing() {
        let mut costs = Costs::default();
        costs.loaded(&set(&["a", "b"]), ms(100), None);
        costs.imported(&package("a==1"), Price { import: ms(70), bytes: MB });
        costs.imported(&package("a==1"), Price { import: ms(1), bytes: 0 });
        assert_eq!(costs.import_time(&set(&["a", "b"])), ms(70));
        assert!(costs.loaded(&set(&["a", "b", "c"]), ms(100), None));
        assert_eq!(price(&costs, "c"), Some(15), "30 ms are left for two");
        costs.failed(&package("b==1"));
        assert_eq!((price(&costs, "a"), price(&costs, "b")), (Some(70), None));
        assert!(!costs.loaded(&set(&["a"]), ms(500), None), "nothing is left to guess");
        assert!(!costs.loaded(&set(&["c", "d"]), ms(500), Some(&set(&["c", "d"]))), "they were there");
    }
}
