//! What it costs to import packages: measured where a zygote has imported them, guessed where only sandboxes have.
//!
//! A zygote imports one package after the other, what it needs first, and says of each how long it took and what it has taken.
//! A sandbox tells only how long all of its function took to load. The packages of which nothing is known are then guessed so that
//! all loads are explained as well as may be: each is made longer where the loads that have it took longer than is explained so far,
//! and shorter where they took less, in turns ([`TURNS`]; multiplicative, so that none is less than nothing). So a package that is in functions
//! which load fast is not what makes another one slow.
//!
//! Of a package that nobody has imported yet nothing can be known, but it is not free: it is taken for an average one
//! ([`Costs::prices`]). So a function that was deployed may have its zygote before its first call, and what the zygote
//! measures takes the guess's place.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::demand::SETS_MAX;
use crate::fit::Price;
use crate::packages::{Package, PackageSet};

/// What an import takes for each millisecond, where it was not measured: the mean of what Forklift measured of 427 packages.
const BYTES_PER_MS: f64 = 65_536.0;
/// An import by itself, where nothing is known: the mean of what Forklift measured of 427 packages. Most take less, and a few
/// most of the time; it is those that a zygote is for, and they cannot be told before.
const MEAN_MS: f64 = 9.2;
/// How long a package that a zygote could not import is left alone; it doubles up to [`FAILED_PAUSE_MAX`]. Each attempt takes down
/// a zygote at the worst.
const FAILED_PAUSE: Duration = Duration::from_secs(60);
/// See [`FAILED_PAUSE`].
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// After so many the guesses move by less than loads differ from one time to the next.
const TURNS: usize = 50;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Costs {
    measured: HashMap<Package, Price>,
    loads: HashMap<PackageSet, Load>,
    /// What a zygote could not import. It costs nothing there, and saves nothing.
    failed: HashSet<Package>,
    /// When each of these may be tried again.
    pauses: HashMap<Package, Backoff>,
}

/// How long functions with the same packages took to load.
#[derive(Debug, Clone)]
struct Load {
    took: Duration,
    /// What the sandbox held from its begin.
    held: PackageSet,
}

impl Costs {
    /// A zygote has imported it. It takes no time where another one has brought what it needs, so the most counts.
    pub(crate) fn imported(&mut self, package: &Package, price: Price) {
        self.failed.remove(package);
        self.pauses.remove(package);
        let known = self.measured.entry(package.clone()).or_default();
        known.import = known.import.max(price.import);
        known.bytes = known.bytes.max(price.bytes);
    }

    /// A zygote could not.
    pub(crate) fn failed(&mut self, package: &Package, now: Instant) {
        self.failed.insert(package.clone());
        let pause = self.pauses.entry(package.clone());
        pause.or_insert_with(|| Backoff::new(FAILED_PAUSE, FAILED_PAUSE_MAX)).failed(now);
    }

    /// Whether no zygote could when it was tried last, and it is left alone now.
    pub(crate) fn is_left_alone(&self, package: &Package) -> bool {
        self.failed.contains(package)
    }

    /// No zygote could, so often in a row, before this worker was started; it is left alone for the rest of the pause.
    pub(crate) fn failed_before(&mut self, package: &Package, n: u32, now: Instant, rest: Duration) {
        if !rest.is_zero() {
            self.failed.insert(package.clone());
        }
        let pause = Backoff::resumed(FAILED_PAUSE, FAILED_PAUSE_MAX, n, now, rest);
        self.pauses.insert(package.clone(), pause);
    }

    /// What zygotes have measured.
    pub(crate) fn measured(&self) -> impl Iterator<Item = (&Package, Price)> {
        self.measured.iter().map(|(package, price)| (package, *price))
    }

    /// What no zygote could import: how often in a row, and for how long it is left alone.
    pub(crate) fn failures(&self, now: Instant) -> impl Iterator<Item = (&Package, u32, Duration)> {
        self.pauses.iter().map(move |(package, pause)| {
            let rest = pause.waits_until(now).map_or(Duration::ZERO, |until| until - now);
            (package, pause.n_failures(), rest)
        })
    }

    /// How long functions took to load that have packages which were not measured, and what was held from the begin.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (&PackageSet, Duration, &PackageSet)> {
        let has_unknown = |packages: &&PackageSet| packages.iter().any(|package| self.is_unknown(package));
        let loads = self.loads.iter().filter(move |(packages, _)| has_unknown(packages));
        loads.map(|(packages, load)| (packages, load.took, &load.held))
    }

    /// What failed long enough ago may be tried again: it may have been for want of memory or of time.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let pauses = &self.pauses;
        let waits =
            |package: &Package| pauses.get(package).is_some_and(|pause| pause.waits_until(now).is_some());
        self.failed.retain(waits);
    }

    fn is_unknown(&self, package: &Package) -> bool {
        !self.measured.contains_key(package) && !self.failed.contains(package)
    }

    /// A function with these packages was loaded, which took so long, in a sandbox that held `held` from its begin. Says
    /// whether something was learnt.
    pub(crate) fn loaded(&mut self, packages: &PackageSet, took: Duration, held: PackageSet) -> bool {
        let is_new = |package: &&Package| self.is_unknown(package) && !held.iter().any(|one| one == *package);
        if packages.iter().find(is_new).is_none() {
            return false;
        }
        if let Some(known) = self.loads.get_mut(packages) {
            // The less it held the more it tells; of the same the shortest is nearest to the truth: a busy machine only adds.
            if held.len() > known.held.len() || (held.len() == known.held.len() && took >= known.took) {
                return false;
            }
            *known = Load { took, held };
            return true;
        }
        if self.loads.len() < SETS_MAX {
            self.loads.insert(packages.clone(), Load { took, held });
            return true;
        }
        false
    }

    /// How long these take to import, as far as that was measured.
    pub(crate) fn import_time(&self, packages: &PackageSet) -> Duration {
        packages.iter().filter_map(|package| self.measured.get(package)).map(|price| price.import).sum()
    }

    /// What is known or guessed of each package; of these besides, what an average package costs. The average is that of
    /// those that are known, and of one more of [`MEAN_MS`].
    pub(crate) fn prices<'a>(&self, wanted: impl Iterator<Item = &'a Package>) -> HashMap<Package, Price> {
        let mut prices = self.measured.clone();
        for (package, ms) in self.guesses() {
            prices.insert(package.clone(), guessed(ms));
        }
        let known_ms: f64 = prices.values().map(|price| price.import.as_secs_f64() * 1e3).sum();
        let average = guessed((known_ms + MEAN_MS) / (prices.len() as f64 + 1.0));
        for package in wanted.filter(|package| self.is_unknown(package)) {
            prices.entry(package.clone()).or_insert(average);
        }
        for package in &self.failed {
            prices.remove(package);
        }
        prices
    }

    /// Of these, those that no zygote and no sandbox has imported yet.
    pub(crate) fn unmeasured<'a>(&self, wanted: impl Iterator<Item = &'a Package>) -> BTreeSet<&'a Package> {
        let guesses = self.guesses();
        wanted.filter(|package| self.is_unknown(package) && !guesses.contains_key(*package)).collect()
    }

    /// In milliseconds.
    fn guesses(&self) -> HashMap<&Package, f64> {
        // What each load took beyond what is measured, and which packages that is to be explained by, as places.
        let mut place = HashMap::<&Package, usize>::new();
        let mut rests = Vec::new();
        for (packages, Load { took, held }) in &self.loads {
            let others = packages.iter().filter(|package| !held.iter().any(|one| one == *package));
            let (unknown, known): (Vec<&Package>, Vec<&Package>) =
                others.partition(|package| self.is_unknown(package));
            let explained: Duration = known
                .iter()
                .filter_map(|package| self.measured.get(*package))
                .map(|price| price.import)
                .sum();
            if !unknown.is_empty() {
                let mut at = |package| {
                    let next = place.len();
                    *place.entry(package).or_insert(next)
                };
                let unknown: Vec<usize> = unknown.into_iter().map(&mut at).collect();
                rests.push((took.saturating_sub(explained).as_secs_f64() * 1e3, unknown));
            }
        }
        // Places are in the order of a map; what comes out does not depend on it but for rounding.
        let mut guesses = vec![1.0; place.len()];
        for _ in 0..TURNS {
            let mut shares = vec![(0.0, 0.0); place.len()];
            for (rest, unknown) in &rests {
                let explained: f64 = unknown.iter().map(|at| guesses[*at]).sum();
                let share = if explained > 0.0 { rest / explained } else { 0.0 };
                for at in unknown {
                    shares[*at].0 += share;
                    shares[*at].1 += 1.0;
                }
            }
            guesses.iter_mut().zip(shares).for_each(|(guess, (sum, n))| *guess *= sum / n);
        }
        // What is next to nothing is nothing: it is noise, and would differ from one time to the next.
        place.into_iter().map(|(package, at)| (package, guesses[at])).filter(|(_, ms)| *ms >= 0.01).collect()
    }
}

fn guessed(ms: f64) -> Price {
    Price { import: Duration::from_secs_f64(ms / 1e3), bytes: (ms * BYTES_PER_MS) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{MB, ms, package};

    fn set(names: &[&str]) -> PackageSet {
        PackageSet::new(names.iter().map(|name| package(&format!("{name}==1"))))
    }

    fn load(costs: &mut Costs, names: &[&str], took: u64, held: &[&str]) -> bool {
        costs.loaded(&set(names), ms(took), set(held))
    }

    fn price(costs: &Costs, name: &str) -> Option<u64> {
        let price = costs.prices(std::iter::empty()).get(&package(&format!("{name}==1"))).copied()?;
        Some((price.import.as_secs_f64() * 1e3).round() as u64)
    }

    #[test]
    fn what_a_function_took_is_shared_out_so_that_others_are_explained_too() {
        let mut costs = Costs::default();
        assert!(load(&mut costs, &["heavy", "light"], 200, &[]));
        assert_eq!((price(&costs, "heavy"), price(&costs, "light")), (Some(100), Some(100)));
        assert!(load(&mut costs, &["light", "other"], 10, &[]));
        assert!(!load(&mut costs, &["light", "other"], 11, &[]), "the shortest counts");
        assert!(price(&costs, "heavy") > Some(180) && price(&costs, "light") <= Some(10));
    }

    #[test]
    fn of_what_nobody_knows_the_average_is_taken_until_it_is_known() {
        let mut costs = Costs::default();
        let (a, b) = (package("a==1"), package("b==1"));
        let ms_of = |costs: &Costs| {
            let prices = costs.prices([&a, &b].into_iter());
            [&a, &b].map(|package| prices.get(package).map(|price| price.import.as_secs_f64() * 1e3))
        };
        assert_eq!(ms_of(&costs), [Some(MEAN_MS); 2]);
        assert_eq!(costs.unmeasured([&a, &b].into_iter()), BTreeSet::from([&a, &b]));
        costs.imported(&a, Price { import: ms(100), bytes: MB });
        assert_eq!(ms_of(&costs), [Some(100.0), Some((100.0 + MEAN_MS) / 2.0)]);
        let now = Instant::now();
        costs.failed(&b, now);
        assert_eq!(ms_of(&costs), [Some(100.0), None]);
        assert!(costs.unmeasured([&a, &b].into_iter()).is_empty());
        costs.tidy(now + FAILED_PAUSE - ms(1));
        assert_eq!(ms_of(&costs)[1], None);
        costs.tidy(now + FAILED_PAUSE);
        assert!(ms_of(&costs)[1].is_some(), "it may be tried again");
        costs.failed(&b, now);
        costs.tidy(now + FAILED_PAUSE);
        assert_eq!(ms_of(&costs)[1], None, "later than the first time");
    }

    #[test]
    fn what_was_measured_is_no_longer_guessed_and_what_failed_is_worth_nothing() {
        let mut costs = Costs::default();
        load(&mut costs, &["a", "b"], 100, &[]);
        costs.imported(&package("a==1"), Price { import: ms(70), bytes: MB });
        costs.imported(&package("a==1"), Price { import: ms(1), bytes: 0 });
        assert_eq!(costs.import_time(&set(&["a", "b"])), ms(70));
        assert_eq!(price(&costs, "b"), Some(30));
        assert!(load(&mut costs, &["b", "c"], 80, &[]));
        assert_eq!((price(&costs, "b"), price(&costs, "c")), (Some(30), Some(50)));
        costs.failed(&package("b==1"), Instant::now());
        assert_eq!((price(&costs, "a"), price(&costs, "b")), (Some(70), None));
        assert!(!load(&mut costs, &["a"], 500, &[]), "nothing is left to guess");
        assert!(!load(&mut costs, &["d", "e"], 500, &["d", "e"]), "they were there");
        assert!(load(&mut costs, &["a", "d", "e"], 90, &["d"]));
        assert_eq!((price(&costs, "d"), price(&costs, "e")), (None, Some(20)));
    }
}
