//! What was learnt of imports, as it is kept from one worker to the next.
//!
//! That is [what packages cost](crate::costs) and [which were asked for](crate::demand): all that a tree of zygotes is
//! fitted to, beside the functions that there are. So the tree of before is there again soon after a restart, without an import that
//! somebody waits for. Packages stand once, in a table, and are meant by their places in it.
//!
//! Durations and weights are those of the moment of writing, which stands beside them: what was to fade meanwhile has faded
//! when it is read, by the time of day. A clock that was set back makes nothing younger than it was.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::costs::Costs;
use crate::demand::{Demand, HALF_LIFE, SETS_MAX};
use crate::fit::Price;
use crate::packages::{Package, PackageSet};
use crate::stats::unix_ms;

/// Of the form. One of another version is not read.
pub const VERSION: u32 = 1;
/// Packages that are remembered: more than a machine has that serves as many sets as are remembered. Some 100 bytes each.
pub const PACKAGES_MAX: usize = 8_192;
/// A start counts 1, and fades; a set that is started a thousand times a second comes to this.
const WEIGHT_MAX: f64 = 1e6;
/// No import takes longer: a zygote is given up before.
const IMPORT_MAX: Duration = Duration::from_secs(3_600);
/// No package takes more, on any machine.
const BYTES_MAX: u64 = 1 << 40;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportStats {
    /// [`VERSION`].
    pub version: u32,
    /// When it was written, in milliseconds since 1970.
    pub written_ms: u64,
    /// All that is mentioned.
    pub packages: Vec<PackageStats>,
    /// How long functions took to load that need packages of which some were never imported in a zygote.
    pub loads: Vec<LoadStats>,
    /// Starts of sandboxes, by what they need.
    pub starts: Vec<StartStats>,
}

/// A package, and what it costs to import it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackageStats {
    /// Normalised.
    pub name: String,
    /// As its directory has it.
    pub version: String,
    /// Its directory's name.
    pub directory: String,
    /// What a zygote has measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportCost>,
    /// A zygote could not import it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failures>,
}

/// What an import takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportCost {
    /// In microseconds.
    pub us: u64,
    /// In bytes.
    pub bytes: u64,
}

/// How often an import has failed, and when it may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// In a row.
    pub n: u32,
    /// After how many milliseconds from the time of writing; 0: at once.
    pub retry_in_ms: u64,
}

/// How long functions with the same packages took to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStats {
    /// Places in the table.
    pub packages: Vec<usize>,
    /// In microseconds.
    pub us: u64,
    /// What the sandbox held from its begin.
    pub held: Vec<usize>,
}

/// How often sandboxes with the same packages were started lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartStats {
    /// Places in the table.
    pub packages: Vec<usize>,
    /// On the machine's own network.
    pub on_host: bool,
    /// See [`demand`](crate::demand).
    pub weight: f64,
}

/// Gives packages their places.
#[derive(Default)]
struct Table {
    packages: Vec<PackageStats>,
    places: HashMap<Package, usize>,
}

impl Table {
    /// `None`: it is full.
    fn place(&mut self, package: &Package) -> Option<usize> {
        if let Some(place) = self.places.get(package) {
            return Some(*place);
        }
        if self.packages.len() >= PACKAGES_MAX {
            return None;
        }
        let Package { name, version, directory } = package.clone();
        self.packages.push(PackageStats { name, version, directory, import: None, failed: None });
        self.places.insert(package.clone(), self.packages.len() - 1);
        Some(self.packages.len() - 1)
    }

    fn places(&mut self, packages: &PackageSet) -> Option<Vec<usize>> {
        packages.iter().map(|package| self.place(package)).collect()
    }
}

impl ImportStats {
    /// What there is to be kept. `at` is the time of day at `now`.
    pub(crate) fn of(costs: &Costs, demand: &mut Demand, now: Instant, at: SystemTime) -> Self {
        let mut table = Table::default();
        // What is asked for first: if there is not room for all, it is the rest that is missing.
        let mut starts = demand.weights(now);
        starts.sort_by(|(_, _, one), (_, _, other)| other.total_cmp(one));
        let starts = starts.into_iter().filter_map(|(packages, on_host, weight)| {
            Some(StartStats { packages: table.places(&packages)?, on_host, weight })
        });
        let starts: Vec<StartStats> = starts.collect();
        let loads = costs.loads().filter_map(|(packages, took, held)| {
            Some(LoadStats { packages: table.places(packages)?, us: micros(took), held: table.places(held)? })
        });
        let loads: Vec<LoadStats> = loads.collect();
        for (package, price) in costs.measured() {
            if let Some(place) = table.place(package) {
                let cost = ImportCost { us: micros(price.import), bytes: price.bytes };
                table.packages[place].import = Some(cost);
            }
        }
        for (package, n, pause) in costs.failures(now) {
            if let Some(place) = table.place(package) {
                let retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                table.packages[place].failed = Some(Failures { n, retry_in_ms });
            }
        }
        Self { version: VERSION, written_ms: unix_ms(at), packages: table.packages, loads, starts }
    }

    /// Each package.
    pub(crate) fn packages(&self) -> impl Iterator<Item = Package> + '_ {
        self.packages.iter().take(PACKAGES_MAX).map(PackageStats::package)
    }

    /// Learns it once more, of packages that are there still. Says how many of those that are mentioned these are.
    pub(crate) fn recall(
        &self,
        is_there: &HashSet<Package>,
        costs: &mut Costs,
        demand: &mut Demand,
        now: Instant,
        at: SystemTime,
    ) -> usize {
        let age = Duration::from_millis(unix_ms(at).saturating_sub(self.written_ms));
        let packages: Vec<Option<Package>> = self
            .packages()
            .map(|package| Some(package).filter(|package| is_there.contains(package)))
            .collect();
        let set = |places: &[usize]| -> Option<PackageSet> {
            let packages: Option<Vec<Package>> =
                places.iter().map(|place| packages.get(*place).cloned().flatten()).collect();
            packages.map(PackageSet::new)
        };
        for (package, stats) in packages.iter().zip(&self.packages) {
            let Some(package) = package else { continue };
            if let Some(ImportCost { us, bytes }) = stats.import {
                let (import, bytes) = (Duration::from_micros(us).min(IMPORT_MAX), bytes.min(BYTES_MAX));
                costs.imported(package, Price { import, bytes });
            }
            if let Some(Failures { n, retry_in_ms }) = stats.failed {
                let pause = Duration::from_millis(retry_in_ms).saturating_sub(age);
                costs.failed_before(package, n, now, pause);
            }
        }
        for LoadStats { packages, us, held } in self.loads.iter().take(SETS_MAX) {
            if let (Some(packages), Some(held)) = (set(packages), set(held)) {
                costs.loaded(&packages, Duration::from_micros(*us).min(IMPORT_MAX), held);
            }
        }
        let faded = (-age.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        for StartStats { packages, on_host, weight } in self.starts.iter().take(SETS_MAX) {
            if let Some(packages) = set(packages)
                && *weight > 0.0
            {
                demand.started_before(&packages, *on_host, weight.min(WEIGHT_MAX) * faded, now);
            }
        }
        packages.iter().flatten().collect::<BTreeSet<_>>().len()
    }
}

impl PackageStats {
    fn package(&self) -> Package {
        Package { name: self.name.clone(), version: self.version.clone(), directory: self.directory.clone() }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{MB, ms, package};

    fn set(names: &[&str]) -> PackageSet {
        PackageSet::new(names.iter().map(|name| package(&format!("{name}==1"))))
    }

    fn day(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    struct Learnt {
        costs: Costs,
        demand: Demand,
    }

    impl Learnt {
        fn nothing() -> Self {
            Self { costs: Costs::default(), demand: Demand::default() }
        }

        fn something(now: Instant) -> Self {
            let mut learnt = Self::nothing();
            learnt.costs.imported(&package("a==1"), Price { import: ms(120), bytes: 7 * MB });
            assert!(learnt.costs.loaded(&set(&["a", "b"]), ms(150), PackageSet::default()));
            learnt.costs.failed(&package("c==1"), now);
            for _ in 0..4 {
                learnt.demand.started(&set(&["b", "a"]), false, now);
            }
            learnt.demand.started(&set(&["c"]), true, now);
            learnt
        }

        fn recalled(stats: &ImportStats, there: &[&str], now: Instant, at: SystemTime) -> Self {
            let mut learnt = Self::nothing();
            let there: HashSet<Package> = set(there).iter().cloned().collect();
            stats.recall(&there, &mut learnt.costs, &mut learnt.demand, now, at);
            learnt
        }

        fn stats(&mut self, now: Instant, at: SystemTime) -> ImportStats {
            ImportStats::of(&self.costs, &mut self.demand, now, at)
        }

        fn price(&self, name: &str) -> Option<u64> {
            let prices = self.costs.prices(std::iter::empty());
            Some((prices.get(&package(&format!("{name}==1")))?.import.as_secs_f64() * 1e3).round() as u64)
        }

        fn weight(&mut self, names: &[&str], on_host: bool, now: Instant) -> f64 {
            let weights = self.demand.weights(now);
            let found =
                weights.iter().find(|(packages, host, _)| *packages == set(names) && *host == on_host);
            found.map_or(0.0, |(_, _, weight)| *weight)
        }
    }

    #[test]
    fn what_was_kept_is_known_again_and_has_faded_by_the_time_of_day() {
        let now = Instant::now();
        let stats = Learnt::something(now).stats(now, day(0));
        assert_eq!((stats.version, stats.packages.len(), stats.starts.len()), (VERSION, 3, 2));
        // Of another process, whose time has nothing to do with this one's.
        let then = now + Duration::from_secs(1_000_000);
        let mut learnt = Learnt::recalled(&stats, &["a", "b", "c"], then, day(600));
        assert_eq!((learnt.price("a"), learnt.price("b"), learnt.price("c")), (Some(120), Some(30), None));
        assert!((learnt.weight(&["b", "a"], false, then) - 2.0).abs() < 1e-6, "half of it after ten minutes");
        assert!((learnt.weight(&["c"], true, then) - 0.5).abs() < 1e-6);
        assert!(learnt.demand.weights(then).iter().all(|(packages, ..)| *packages != set(&["a", "b"])));
        let again = learnt.stats(then, day(600));
        assert_eq!(again.packages.iter().filter(|one| one.import.is_some()).count(), 1);
        let mut late = Learnt::recalled(&stats, &["a", "b", "c"], then, day(1_000_000));
        assert!(late.demand.weights(then).is_empty(), "nobody asks for it any more");
        assert_eq!(late.price("a"), Some(120), "it costs what it costs");
    }

    #[test]
    fn what_could_not_be_imported_is_left_alone_for_the_rest_of_its_pause() {
        let now = Instant::now();
        let stats = Learnt::something(now).stats(now, day(0));
        let c = package("c==1");
        let is_left_alone = |learnt: &Learnt| learnt.costs.unmeasured([&c].into_iter()).is_empty();
        let mut learnt = Learnt::recalled(&stats, &["c"], now, day(50));
        assert!(is_left_alone(&learnt));
        learnt.costs.tidy(now + Duration::from_secs(10));
        assert!(!is_left_alone(&learnt));
        learnt.costs.failed(&c, now);
        learnt.costs.tidy(now + Duration::from_secs(90));
        assert!(is_left_alone(&learnt), "the second time for longer");
        assert!(!is_left_alone(&Learnt::recalled(&stats, &["c"], now, day(60))));
    }

    #[test]
    fn packages_that_are_gone_are_forgotten_with_all_that_needed_them() {
        let now = Instant::now();
        let stats = Learnt::something(now).stats(now, day(0));
        let mut learnt = Learnt::recalled(&stats, &["a"], now, day(0));
        assert_eq!((learnt.price("a"), learnt.price("b")), (Some(120), None));
        assert!(learnt.demand.weights(now).is_empty());
        assert_eq!(learnt.stats(now, day(0)).packages.len(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_and_numbers_that_mean_nothing_do_no_harm() {
        let now = Instant::now();
        let mut stats = Learnt::something(now).stats(now, day(0));
        let mut learnt = Learnt::recalled(&stats, &["a", "b", "c"], now, day(0) - Duration::from_secs(5_000));
        assert!((learnt.weight(&["b", "a"], false, now) - 4.0).abs() < 1e-6);
        stats.starts[0].weight = f64::INFINITY;
        stats.starts[1].weight = f64::NAN;
        stats.loads[0].packages.push(99);
        let mut learnt = Learnt::recalled(&stats, &["a", "b", "c"], now, day(0));
        assert!(learnt.weight(&["b", "a"], false, now) <= WEIGHT_MAX);
        assert!(learnt.weight(&["c"], true, now) == 0.0);
        assert_eq!(learnt.price("b"), None);
    }

    #[test]
    fn never_more_is_kept_than_may_be_and_what_is_asked_for_is() {
        let now = Instant::now();
        let mut learnt = Learnt::nothing();
        for at in 0..PACKAGES_MAX + 10 {
            let price = Price { import: ms(1), bytes: 1 };
            learnt.costs.imported(&package(&format!("p{at}==1")), price);
        }
        learnt.demand.started(&set(&["wanted"]), false, now);
        let stats = learnt.stats(now, day(0));
        assert_eq!((stats.packages.len(), &stats.packages[0].name[..]), (PACKAGES_MAX, "wanted"));
    }
}
