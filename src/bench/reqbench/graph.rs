//! Packages and functions as they are in the world, made up: who needs whom, how popular they are, what an import costs.
//!
//! The figures are those of ReqBench and Forklift (9,678 `requirements.txt` of GitHub, 427 packages measured):
//!
//! | what | as measured there | made here as |
//! |---|---|---|
//! | own import time of a package | p50 1.5 ms, p90 18.6, p99 147, at most 358 | a log-normal of that median, σ = 1.96, cut at 360 |
//! | memory of it | p50 0.03 MB, p90 0.8, at most 11.1 | a log-normal of that median, σ = 2.56, cut at 11; long imports take more |
//! | popularity of packages | rank to the power of about -1 | a Zipf distribution with exponent 1 |
//! | packages of a function, with all that they need | p50 6, p90 23, p99 48 | a log-normal of that median, σ = 1.05, cut at 48 |
//! | what functions have in common | a tree of 120 zygotes, fitted to one half, brings 80 % of the packages of the other half (by import time, here: 89, 74 and 84 % with seeds 1, 2 and 3; 54 to 63 % by number of packages) | functions of a kind: see [`N_KINDS`] |
//! | versions | 339 packages in 427 versions | one package in four has a second one, which a fourth of its users want |

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal, Zipf};

/// How many packages there are, as Forklift measured.
pub(in crate::bench) const N_PACKAGES: usize = 340;
/// Packages that need nothing, of ten.
const ROOTS_OF_TEN: f64 = 4.5;
/// Packages that one needs directly at most.
const DIRECT_MAX: usize = 6;

/// Kinds of functions. Those of a kind (web applications of some framework, say) have most of their packages in common: each takes its kind's,
/// all but some ([`OWN_SHARE`]), and a few of its own. Kinds are as unequally popular as packages. Drawn independently, functions would share so little that no tree could
/// bring what Forklift's do.
const N_KINDS: usize = 60;
/// The share of a kind's packages that one of its functions does without, and about the share that it has of its own.
const OWN_SHARE: f64 = 0.1;

/// A package in one version.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Made {
    pub(in crate::bench) name: String,
    pub(in crate::bench) version: u32,
    pub(in crate::bench) import_ms: f64,
    pub(in crate::bench) bytes: u64,
    /// Names of what it needs directly.
    pub(in crate::bench) requires: Vec<String>,
}

/// A function: what it imports itself, and all that this needs, as places in [`Graph::packages`].
#[derive(Debug, Clone)]
pub(in crate::bench) struct Wants {
    pub(in crate::bench) direct: Vec<usize>,
    pub(in crate::bench) all: Vec<usize>,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Graph {
    pub(in crate::bench) packages: Vec<Made>,
    pub(in crate::bench) functions: Vec<Wants>,
}

impl Made {
    pub(in crate::bench) fn directory(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }
}

fn log_normal(z: f64, median: f64, sigma: f64, max: f64) -> f64 {
    (median * (sigma * z).exp()).min(max)
}

/// The same seed makes the same.
pub(in crate::bench) fn make(n_packages: usize, n_functions: usize, seed: u64) -> Graph {
    let mut random = StdRng::seed_from_u64(seed);
    let zipf = Zipf::new(n_packages as f64, 1.0).expect("the numbers are constants that fit");
    let normal = |random: &mut StdRng| -> f64 { StandardNormal.sample(random) };
    let mut packages = Vec::new();
    // By rank: its versions, as places in the list.
    let mut versions: Vec<Vec<usize>> = Vec::new();
    for rank in 0..n_packages {
        let is_root = rank == 0 || random.random_range(0.0..10.0) < ROOTS_OF_TEN;
        let n_direct = if is_root {
            0
        } else {
            1 + random.random_range(0..DIRECT_MAX).min(random.random_range(0..DIRECT_MAX))
        };
        let mut requires: Vec<usize> = (0..n_direct)
            .map(|_| zipf.sample(&mut random) as usize - 1)
            // What is less popular needs what is more popular: so there are no circles.
            .filter(|needed| *needed < rank)
            .collect();
        requires.sort_unstable();
        requires.dedup();
        let n_versions = 1 + usize::from(random.random_range(0..4) == 0);
        let z = normal(&mut random);
        versions.push((0..n_versions).map(|at| packages.len() + at).collect());
        for version in 1..=n_versions {
            let z_bytes = 0.7 * z + 0.71 * normal(&mut random);
            packages.push(Made {
                name: format!("made{rank}"),
                version: version as u32,
                import_ms: log_normal(z, 1.5, 1.96, 360.0),
                bytes: (log_normal(z_bytes, 0.03, 2.56, 11.0) * f64::from(1 << 20)) as u64,
                requires: requires.iter().map(|needed| format!("made{needed}")).collect(),
            });
        }
    }
    let rank_of: BTreeMap<String, usize> =
        (0..n_packages).map(|rank| (format!("made{rank}"), rank)).collect();
    // More than there are could never be found, and nearly all of them only after long.
    let most = 48.0_f64.min(n_packages as f64 / 2.0);
    let size = |random: &mut StdRng| log_normal(normal(random), 6.0, 1.05, most).max(1.0) as usize;
    // A package with all that it needs, in one version each.
    let take = |rank: usize, chosen: &mut BTreeMap<usize, usize>, random: &mut StdRng| {
        let mut open = vec![rank];
        while let Some(rank) = open.pop() {
            if chosen.contains_key(&rank) {
                continue;
            }
            let old = versions[rank].len() > 1 && random.random_range(0..4) == 0;
            let place = if old { versions[rank][0] } else { versions[rank][versions[rank].len() - 1] };
            chosen.insert(rank, place);
            open.extend(packages[place].requires.iter().map(|name| rank_of[name]));
        }
    };
    // Of each kind what it imports, by rank, and the versions.
    let kinds: Vec<(Vec<usize>, BTreeMap<usize, usize>)> = (0..N_KINDS)
        .map(|_| {
            let n_wanted = size(&mut random);
            let (mut direct, mut chosen) = (Vec::new(), BTreeMap::new());
            while chosen.len() < n_wanted {
                let rank = zipf.sample(&mut random) as usize - 1;
                if !direct.contains(&rank) {
                    direct.push(rank);
                }
                take(rank, &mut chosen, &mut random);
            }
            (direct, chosen)
        })
        .collect();
    let popular = Zipf::new(N_KINDS as f64, 1.0).expect("the numbers are constants that fit");
    let functions = (0..n_functions)
        .map(|_| {
            let (of_kind, versions_of_kind) = &kinds[popular.sample(&mut random) as usize - 1];
            let mut direct: Vec<usize> =
                of_kind.iter().copied().filter(|_| random.random_bool(1.0 - OWN_SHARE)).collect();
            let n_own = of_kind.iter().filter(|_| random.random_bool(OWN_SHARE)).count();
            let n_own = if direct.is_empty() { n_own.max(1) } else { n_own };
            direct.extend((0..n_own).map(|_| zipf.sample(&mut random) as usize - 1));
            direct.sort_unstable();
            direct.dedup();
            // Its kind's versions, and of what is its own those that it happens to want.
            let (mut all, mut chosen) = (BTreeMap::new(), versions_of_kind.clone());
            for rank in &direct {
                take(*rank, &mut chosen, &mut random);
                let mut open = vec![*rank];
                while let Some(rank) = open.pop() {
                    if all.insert(rank, chosen[&rank]).is_none() {
                        open.extend(packages[chosen[&rank]].requires.iter().map(|name| rank_of[name]));
                    }
                }
            }
            Wants { direct: direct.iter().map(|rank| all[rank]).collect(), all: all.into_values().collect() }
        })
        .collect();
    Graph { packages, functions }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        values[((values.len() - 1) as f64 * share) as usize]
    }

    #[test]
    fn what_is_made_has_the_shape_that_was_measured() {
        let graph = make(N_PACKAGES, 2_000, 1);
        let ms: Vec<f64> = graph.packages.iter().map(|package| package.import_ms).collect();
        let (p50, p90) = (quantile(ms.clone(), 0.5), quantile(ms, 0.9));
        assert!((1.0..2.2).contains(&p50) && (10.0..32.0).contains(&p90), "{p50} {p90}");
        // What kinds there are differs from seed to seed.
        let functions: Vec<Wants> = (0..12).flat_map(|seed| make(N_PACKAGES, 500, seed).functions).collect();
        let sizes: Vec<f64> = functions.iter().map(|function| function.all.len() as f64).collect();
        let (p50, p90) = (quantile(sizes.clone(), 0.5), quantile(sizes, 0.9));
        assert!((4.0..10.0).contains(&p50) && (14.0..34.0).contains(&p90), "{p50} {p90}");
        let with_head = functions.iter().filter(|function| function.all.iter().any(|at| *at <= 1)).count();
        assert!(with_head > 1_500, "{with_head} of 6,000 have the most popular one");
    }

    #[test]
    fn a_function_has_all_that_its_packages_need_and_the_same_seed_makes_the_same() {
        let graph = make(100, 200, 7);
        for Wants { direct, all } in &graph.functions {
            let names: Vec<&str> = all.iter().map(|at| graph.packages[*at].name.as_str()).collect();
            assert!(direct.iter().all(|at| all.contains(at)));
            for at in all {
                assert!(graph.packages[*at].requires.iter().all(|name| names.contains(&name.as_str())));
            }
            let mut once = names.clone();
            once.dedup();
            assert_eq!(once.len(), names.len(), "one version of each");
        }
        let again = make(100, 200, 7);
        assert_eq!(format!("{graph:?}"), format!("{again:?}"));
        assert_ne!(format!("{graph:?}"), format!("{:?}", make(100, 200, 8)));
    }
}
