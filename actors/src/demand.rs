//! Which packages were asked for lately, and how often.
//!
//! What a zygote of packages saves is an import at each *start* of a sandbox. Calls that find a warm sandbox save nothing, and
//! the starts that a lambda's own zygote sees to save nothing either; so it is starts that are counted, those that took
//! a standby. They count less the longer they are ago: half after [`HALF_LIFE`].

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::packages::PackageSet;

/// After this long a start counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(600);
/// What a function counts for being there: it may start one day, and may never. Enough for one with as many packages as pandas
/// takes to have them imported before its first call, when nothing is known of them yet.
pub const FUNCTION_WEIGHT: f64 = 0.1;
/// Sets that are remembered: some 100 bytes each. As many as are [`Known`](crate::packages::Known).
pub const SETS_MAX: usize = 4_096;
/// A set that counts less is forgotten: it has not been asked for in hours.
const WEIGHT_MIN: f64 = 1e-3;

/// See the module's text. `on_host`: for sandboxes on the machine's network, whose zygotes are others.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    starts: HashMap<(PackageSet, bool), Starts>,
}

#[derive(Debug)]
struct Starts {
    weight: f64,
    at: Instant,
}

impl Starts {
    fn weight(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        self.weight * (-age / HALF_LIFE.as_secs_f64()).exp2()
    }
}

impl Demand {
    /// A sandbox with these packages was started. Says whether nobody had asked for them before.
    pub(crate) fn started(&mut self, packages: &PackageSet, on_host: bool, now: Instant) -> bool {
        if packages.is_empty() {
            return false;
        }
        if let Some(starts) = self.starts.get_mut(&(packages.clone(), on_host)) {
            *starts = Starts { weight: starts.weight(now) + 1.0, at: now };
            return false;
        }
        if self.starts.len() >= SETS_MAX {
            self.forget(now);
        }
        self.starts.insert((packages.clone(), on_host), Starts { weight: 1.0, at: now });
        true
    }

    /// Sandboxes with these packages were started before this worker was, and come to this weight now.
    pub(crate) fn started_before(&mut self, packages: &PackageSet, on_host: bool, weight: f64, now: Instant) {
        if packages.is_empty() || weight < WEIGHT_MIN {
            return;
        }
        let key = (packages.clone(), on_host);
        if self.starts.len() >= SETS_MAX && !self.starts.contains_key(&key) {
            self.forget(now);
        }
        let weight = weight + self.starts.get(&key).map_or(0.0, |starts| starts.weight(now));
        self.starts.insert(key, Starts { weight, at: now });
    }

    fn forget(&mut self, now: Instant) {
        self.starts.retain(|_, starts| starts.weight(now) >= WEIGHT_MIN);
        if self.starts.len() >= SETS_MAX {
            let least = self
                .starts
                .iter()
                .min_by(|(_, one), (_, other)| one.weight(now).total_cmp(&other.weight(now)));
            if let Some(key) = least.map(|(key, _)| key.clone()) {
                self.starts.remove(&key);
            }
        }
    }

    /// What was asked for lately.
    pub(crate) fn weights(&mut self, now: Instant) -> Vec<(PackageSet, bool, f64)> {
        self.starts.retain(|_, starts| starts.weight(now) >= WEIGHT_MIN);
        self.starts
            .iter()
            .map(|((set, on_host), starts)| (set.clone(), *on_host, starts.weight(now)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::package;

    fn set(at: usize) -> PackageSet {
        PackageSet::new([package(&format!("p{at}==1"))])
    }

    #[tokio::test(start_paused = true)]
    async fn starts_are_counted_and_fade() {
        let (mut demand, now) = (Demand::default(), Instant::now());
        assert!(demand.started(&set(1), false, now));
        assert!(!demand.started(&set(1), false, now + HALF_LIFE));
        assert!(demand.started(&set(1), true, now), "another family's");
        assert!(!demand.started(&PackageSet::default(), false, now));
        let weights = demand.weights(now + HALF_LIFE);
        let of = |host| weights.iter().find(|(_, on_host, _)| *on_host == host).map(|(_, _, weight)| *weight);
        assert!((of(false).unwrap() - 1.5).abs() < 1e-9 && (of(true).unwrap() - 0.5).abs() < 1e-9);
        assert!(demand.weights(now + 20 * HALF_LIFE).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn never_more_is_remembered_than_may_be_and_the_last_one_is() {
        let (mut demand, now) = (Demand::default(), Instant::now());
        for at in 0..SETS_MAX + 10 {
            demand.started(&set(at), false, now + Duration::from_millis(at as u64));
        }
        let weights = demand.weights(now);
        assert_eq!(weights.len(), SETS_MAX);
        assert!(weights.iter().any(|(packages, ..)| *packages == set(SETS_MAX + 9)));
    }
}
