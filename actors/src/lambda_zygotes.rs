//! The zygotes of lambdas: which function is worth one, which has one, and which is given up.
//!
//! Such a zygote has a function's module imported and serves nothing; every further sandbox of the function is a fork
//! of it, whatever the import costs. It takes the memory of the import once more, so a function gets one only when its
//! import is long ([`LOAD_TIME_WORTH`]) and it has been paid more than once, or will be with each request
//! (`reuse-sandbox: false`).
//!
//! ```text
//!             loaded, worth it                 sprouted
//!   (watched) ────────────────▶ sprouting ────────────────▶ growing ──▶ (watched)
//!       ▲                           │ failed                    died, unused, memory is tight
//!       │  pause, doubling          ▼
//!       └──────────────────────── (watched)        must not be forked: barren, until there is new code
//! ```

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::gdsf::Uses;
use crate::name::FunctionName;
use crate::world::LaunchError;
use crate::zygotes::Forkability;

/// How long the import must take: less than this is not worth the 2 MB and the processes that a zygote takes. A fork of
/// a zygote costs about as much as one of a standby, so nothing else is saved.
pub const LOAD_TIME_WORTH: Duration = Duration::from_millis(3);
/// Zygotes of lambdas at most: some hundred MB, if each has imported a large package.
pub const ZYGOTES_MAX: usize = 64;
/// A zygote that nobody has asked for this long is given up.
pub const UNUSED_MAX: Duration = Duration::from_secs(300);
/// Functions that are remembered without a zygote: some 100 bytes each.
const WATCHED_MAX: usize = 10_000;
/// The pause after a zygote could not be made; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// See [`RETRY_PAUSE`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);

/// See the module's text. `Z` is a zygote; a clone is the same one.
#[derive(Debug)]
pub(crate) struct LambdaZygotes<Z> {
    by_name: HashMap<FunctionName, Entry<Z>>,
}

#[derive(Debug)]
struct Entry<Z> {
    generation: u64,
    stage: Stage<Z>,
    n_loads: u32,
    /// How long the import took when it was last paid.
    took: Duration,
    uses: Uses,
    last_used: Instant,
    pause: Backoff,
}

#[derive(Debug)]
enum Stage<Z> {
    Watched,
    Sprouting,
    Growing(Z),
    Barren(String),
}

impl<Z: Clone> LambdaZygotes<Z> {
    pub(crate) fn new() -> Self {
        Self { by_name: HashMap::new() }
    }

    /// A sandbox has loaded the function, which took so long. `true`: make a zygote of it now, and say what came of it
    /// with [`sprouted`](Self::sprouted).
    pub(crate) fn loaded(
        &mut self,
        name: &FunctionName,
        generation: u64,
        took: Duration,
        reuse: bool,
        now: Instant,
    ) -> bool {
        if took < LOAD_TIME_WORTH {
            return false;
        }
        let room = self.n_live() < ZYGOTES_MAX;
        if self.by_name.len() >= WATCHED_MAX && !self.by_name.contains_key(name) {
            return false;
        }
        let fresh = || Entry {
            generation,
            stage: Stage::Watched,
            n_loads: 0,
            took,
            uses: Uses::default(),
            last_used: now,
            pause: Backoff::new(RETRY_PAUSE, RETRY_PAUSE_MAX),
        };
        let entry = self.by_name.entry(name.clone()).or_insert_with(fresh);
        if entry.generation > generation {
            return false;
        }
        if entry.generation < generation {
            *entry = fresh();
        }
        entry.n_loads += 1;
        entry.took = took;
        entry.last_used = now;
        let worth = (entry.n_loads > 1 || !reuse) && matches!(entry.stage, Stage::Watched);
        if worth && room && entry.pause.waits_until(now).is_none() {
            entry.stage = Stage::Sprouting;
            return true;
        }
        false
    }

    /// What came of it. A zygote that is not wanted any more is given back.
    pub(crate) fn sprouted(
        &mut self,
        name: &FunctionName,
        generation: u64,
        outcome: Result<Z, LaunchError>,
        now: Instant,
    ) -> Option<Z> {
        let wanted = self
            .by_name
            .get_mut(name)
            .filter(|entry| entry.generation == generation && matches!(entry.stage, Stage::Sprouting));
        let Some(entry) = wanted else { return outcome.ok() };
        entry.last_used = now;
        match outcome {
            Ok(zygote) => {
                entry.pause.succeeded();
                entry.stage = Stage::Growing(zygote);
            }
            Err(LaunchError::Unsupported(reason)) => entry.stage = Stage::Barren(reason),
            Err(_) => {
                entry.pause.failed(now);
                entry.stage = Stage::Watched;
            }
        }
        None
    }

    /// The zygote of this generation of the function, if there is one.
    pub(crate) fn find(&mut self, name: &FunctionName, generation: u64, now: Instant) -> Option<Z> {
        let entry = self.by_name.get_mut(name)?;
        if entry.generation < generation {
            // There is newer code: whatever was made of the old serves nobody.
            self.by_name.remove(name);
            return None;
        }
        match &entry.stage {
            Stage::Growing(zygote) if entry.generation == generation => {
                entry.last_used = now;
                entry.uses.bump(now);
                Some(zygote.clone())
            }
            _ => None,
        }
    }

    /// A fork has failed. The next load may make another one, after a pause.
    pub(crate) fn failed(&mut self, name: &FunctionName, generation: u64, now: Instant) {
        if let Some(entry) = self.by_name.get_mut(name)
            && entry.generation == generation
            && matches!(entry.stage, Stage::Growing(_))
        {
            entry.pause.failed(now);
            entry.stage = Stage::Watched;
        }
    }

    /// What there is of the function's zygote.
    pub(crate) fn forkability(&self, name: &FunctionName, generation: u64) -> Forkability {
        let entry = self.by_name.get(name).filter(|entry| entry.generation == generation);
        match entry.map(|entry| &entry.stage) {
            Some(Stage::Growing(_)) => Forkability::Ready,
            Some(Stage::Barren(reason)) => Forkability::Never(reason.clone()),
            Some(Stage::Watched | Stage::Sprouting) | None => Forkability::None,
        }
    }

    /// Gives up those that are dead, or that nobody has asked for; and forgets who has not been heard of.
    pub(crate) fn tidy(&mut self, is_alive: impl Fn(&Z) -> bool, now: Instant) {
        for entry in self.by_name.values_mut() {
            if matches!(&entry.stage, Stage::Growing(zygote) if !is_alive(zygote)) {
                entry.pause.failed(now);
                entry.stage = Stage::Watched;
            }
        }
        self.by_name.retain(|_, entry| {
            matches!(entry.stage, Stage::Sprouting)
                || now.saturating_duration_since(entry.last_used) < UNUSED_MAX
        });
    }

    /// The one that pays least, and how much: import time that was not waited for lately, in nanoseconds, for each byte that it
    /// takes.
    pub(crate) fn least_paying(
        &self,
        bytes: impl Fn(&Z) -> u64,
        now: Instant,
    ) -> Option<(FunctionName, f64)> {
        let paying = self.by_name.iter().filter_map(|(name, entry)| match &entry.stage {
            Stage::Growing(zygote) => {
                let saved = entry.uses.at(now) * entry.took.as_nanos() as f64;
                Some((name, entry, saved / bytes(zygote).max(1) as f64))
            }
            _ => None,
        });
        let least = paying.min_by(|(_, one, pays), (_, other, others)| {
            pays.total_cmp(others).then_with(|| one.last_used.cmp(&other.last_used))
        });
        least.map(|(name, _, pays)| (name.clone(), pays))
    }

    /// Gives it up: memory is tight.
    pub(crate) fn release(&mut self, name: &FunctionName) -> Option<Z> {
        match self.by_name.remove(name)?.stage {
            Stage::Growing(zygote) => Some(zygote),
            _ => None,
        }
    }

    /// Gives up all.
    pub(crate) fn clear(&mut self) {
        self.by_name.clear();
    }

    /// Zygotes that there are, or will be in a moment.
    pub(crate) fn n_live(&self) -> usize {
        self.by_name
            .values()
            .filter(|entry| matches!(entry.stage, Stage::Growing(_) | Stage::Sprouting))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::name;

    const LONG: Duration = Duration::from_millis(200);

    fn sprout(zygotes: &mut LambdaZygotes<u32>, text: &str, zygote: u32, now: Instant) {
        assert!(zygotes.loaded(&name(text), 1, LONG, false, now));
        assert_eq!(zygotes.sprouted(&name(text), 1, Ok(zygote), now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_import_is_worth_a_zygote_when_it_is_paid_again() {
        let mut zygotes = LambdaZygotes::<u32>::new();
        let now = Instant::now();
        let function = name("f");
        assert!(!zygotes.loaded(&function, 1, Duration::from_millis(1), true, now), "too short");
        assert!(!zygotes.loaded(&function, 1, Duration::from_millis(1), true, now), "still");
        assert!(!zygotes.loaded(&function, 1, LONG, true, now), "one sandbox may be all that it ever needs");
        assert!(zygotes.loaded(&function, 1, LONG, true, now));
        assert!(!zygotes.loaded(&function, 1, LONG, true, now), "one is enough");
        assert_eq!(zygotes.find(&function, 1, now), None);
        assert_eq!(zygotes.sprouted(&function, 1, Ok(7), now), None);
        assert_eq!(zygotes.find(&function, 1, now), Some(7));
        assert_eq!(zygotes.forkability(&function, 1), Forkability::Ready);
        assert!(zygotes.loaded(&name("g"), 1, LONG, false, now), "each request pays it");
    }

    #[tokio::test(start_paused = true)]
    async fn new_code_gets_no_fork_of_the_old() {
        let mut zygotes = LambdaZygotes::new();
        let now = Instant::now();
        sprout(&mut zygotes, "f", 1, now);
        assert_eq!(zygotes.find(&name("f"), 2, now), None);
        assert!(zygotes.loaded(&name("f"), 2, LONG, false, now));
        assert_eq!(zygotes.sprouted(&name("f"), 1, Ok(2), now), Some(2), "of the old code");
        assert_eq!(zygotes.find(&name("f"), 1, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_not_be_forked_is_not_tried_again_before_there_is_new_code() {
        let mut zygotes = LambdaZygotes::<u32>::new();
        let (now, function) = (Instant::now(), name("f"));
        assert!(zygotes.loaded(&function, 1, LONG, false, now));
        zygotes.sprouted(&function, 1, Err(LaunchError::Unsupported("threads".into())), now);
        assert_eq!(zygotes.forkability(&function, 1), Forkability::Never("threads".into()));
        assert!(!zygotes.loaded(&function, 1, LONG, false, now + RETRY_PAUSE_MAX));
        assert!(zygotes.loaded(&function, 2, LONG, false, now));
        assert_eq!(zygotes.forkability(&function, 2), Forkability::None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_after_a_pause_that_grows() {
        let mut zygotes = LambdaZygotes::<u32>::new();
        let (mut now, function) = (Instant::now(), name("f"));
        for pause in [1, 2, 4] {
            assert!(zygotes.loaded(&function, 1, LONG, false, now));
            zygotes.sprouted(&function, 1, Err(LaunchError::Failed("no".into())), now);
            now += Duration::from_secs(pause) - Duration::from_millis(1);
            assert!(!zygotes.loaded(&function, 1, LONG, false, now));
            now += Duration::from_millis(1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_dead_and_the_unused_go_and_under_pressure_the_least_recently_used() {
        let mut zygotes = LambdaZygotes::new();
        let start = Instant::now();
        for (at, text) in ["a", "b", "c"].into_iter().enumerate() {
            sprout(&mut zygotes, text, at as u32, start + Duration::from_secs(at as u64));
        }
        zygotes.find(&name("a"), 1, start + Duration::from_secs(5));
        let least = zygotes.least_paying(|_| 1, start + Duration::from_secs(6)).unwrap().0;
        assert_eq!(zygotes.release(&least), Some(1));
        zygotes.tidy(|zygote| *zygote != 2, start + Duration::from_secs(6));
        assert_eq!(zygotes.n_live(), 1);
        zygotes.tidy(|_| true, start + Duration::from_secs(5) + UNUSED_MAX);
        assert_eq!(zygotes.n_live(), 0);
        assert_eq!(zygotes.least_paying(|_| 1, start), None);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_more_than_may_be() {
        let mut zygotes = LambdaZygotes::<u32>::new();
        let now = Instant::now();
        let n = (0..2 * ZYGOTES_MAX)
            .filter(|at| zygotes.loaded(&name(&format!("f{at}")), 1, LONG, false, now))
            .count();
        assert_eq!(n, ZYGOTES_MAX);
    }
}
