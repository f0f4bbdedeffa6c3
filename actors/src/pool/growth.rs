//! When another sandbox is made, and what comes of it: see [the pool](super).

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::state::{Pool, Waiter};
use crate::backoff::Backoff;
use crate::world::LaunchError;

/// The wait for a sandbox that growth aims at: about what a new one costs when no standby is at hand, so
/// that waiting less than that is not worth one.
pub const WAIT_TARGET: Duration = Duration::from_millis(5);
/// The pause after a failed launch; doubles with each in a row.
pub const GROWTH_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause after failed launches: a machine that has room again should be used soon.
pub const GROWTH_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Sandboxes that lie ready for calls to come, where each call takes a new one: what two cores can make while as many
/// calls run.
const AHEAD_MAX: usize = 4;
/// For how long after the last call they are made: by then it is more likely that none comes soon.
pub(super) const AHEAD_FOR: Duration = Duration::from_secs(60);
/// How long no sandbox is made only to be kept warm, when memory has no room for one or has taken one back; doubles with each time
/// in a row. By then others have used what was free, or it is free still.
pub const WARM_PAUSE: Duration = Duration::from_secs(10);
/// The longest of these pauses, and the time after which another is the first one again: one cold start in ten minutes is nothing
/// to anybody else.
pub const WARM_PAUSE_MAX: Duration = Duration::from_secs(600);

/// Sandboxes that the lambda should start, those that it may start in turn only to be kept warm, and when to ask again at the latest.
pub(super) struct Growth {
    pub(super) n_start: usize,
    pub(super) n_keep: usize,
    pub(super) look_again: Option<Duration>,
}

/// The pauses after launches that failed.
pub(super) fn pause() -> Backoff {
    Backoff::new(GROWTH_PAUSE, GROWTH_PAUSE_MAX)
}

/// The pauses after memory had no room for what is only kept warm.
pub(super) fn warm_pause() -> Backoff {
    Backoff::new(WARM_PAUSE, WARM_PAUSE_MAX)
}

impl<S, T> Pool<S, T> {
    /// Whether a sandbox should be made for this waiter now, and nobody does yet. Those before it come first.
    pub(super) fn may_claim(&self, id: u64, generation: u64, now: Instant) -> bool {
        self.closed.is_none()
            && generation == self.generation
            && self.waiters.front().is_some_and(|waiter| waiter.id == id)
            && !self.forkable
            && self.growth_pause.waits_until(now).is_none()
            && self.room() > 0
            && self.estimated_shortfall() > 0
    }

    /// This waiter makes its sandbox itself.
    pub(super) fn claim(&mut self, id: u64) {
        self.give_up_place(id);
        self.starting += 1;
        self.claimed += 1;
    }

    /// Threads that wait and have no sandbox, each counted once.
    fn empty_handed(&self) -> usize {
        let empty_handed = self.waiters.iter().filter(|waiter| !waiter.asker.has_one);
        empty_handed.map(|waiter| waiter.asker.thread).collect::<HashSet<_>>().len()
    }

    /// Sandboxes that are missing by what is known about the service time.
    pub(super) fn estimated_shortfall(&self) -> usize {
        let n_waiters = self.waiters.len();
        let unattended = n_waiters.saturating_sub(self.starting_for_waiters());
        if unattended == 0 {
            return 0;
        }
        if !self.reuse {
            // None comes back for a second request.
            return unattended;
        }
        let n_servers = self.servers() + self.starting;
        let needed = match self.service.typical_ns() {
            Some(typical) => {
                let by_wait = (n_waiters as f64 * typical / WAIT_TARGET.as_nanos() as f64).ceil() as usize;
                by_wait.max(self.servers() + self.empty_handed())
            }
            None => 0,
        };
        needed.max(1).saturating_sub(n_servers).min(unattended)
    }

    /// Sandboxes that are missing because no sandbox has come home for a while.
    fn aged_shortfall(&self, now: Instant) -> usize {
        if self.servers() == 0 || self.stalled_since().is_none_or(|since| now < since + WAIT_TARGET) {
            return 0;
        }
        let n_aged = self.waiters.partition_point(|waiter| waiter.queued_at + WAIT_TARGET <= now);
        n_aged.saturating_sub(self.starting_for_waiters())
    }

    /// Since when a request waits and no sandbox has come home.
    fn stalled_since(&self) -> Option<Instant> {
        let queued_at = self.waiters.front()?.queued_at;
        Some(self.progress.map_or(queued_at, |progress| progress.max(queued_at)))
    }

    /// Sandboxes that are missing for calls that are soon to come.
    pub(super) fn ahead_shortfall(&self, now: Instant) -> usize {
        if self.prewarm_suspended {
            return 0;
        }
        let replaced = self.prestart.saturating_sub(self.servers() + self.starting);
        replaced.max(self.ahead(now).saturating_sub(self.idle.len() + self.freezing + self.starting))
    }

    /// Sandboxes that are missing of `min_warm`.
    fn unkept(&self) -> usize {
        let unkept = self.limits.min_warm.saturating_sub(self.servers() + self.starting).min(self.room());
        if self.prewarm_suspended || self.closed.is_some() { 0 } else { unkept }
    }

    /// Those of them that may be made now: whoever waits comes first.
    pub(super) fn kept_shortfall(&self, now: Instant) -> usize {
        let pauses = [&self.warm_pause, &self.growth_pause];
        let is_paused = pauses.iter().any(|pause| pause.waits_until(now).is_some());
        if is_paused || !self.waiters.is_empty() { 0 } else { self.unkept() }
    }

    /// Memory has no room for what is only kept warm.
    pub(super) fn forgo_warm(&mut self, now: Instant) {
        if self.warm_pause.waits_until(now).is_none() {
            self.warm_pause.failed_again_within(WARM_PAUSE_MAX, now);
        }
    }

    /// Sandboxes that are to lie ready where each call takes a new one: as many as calls are under way, and one for the
    /// next. Only of a lambda with a zygote, since then a sandbox takes all of its time before the call; others take
    /// standbys, which lie ready for everybody.
    fn ahead(&self, now: Instant) -> usize {
        let wanted = !self.reuse
            && self.forkable
            && self.last_used.is_some_and(|used| now.saturating_duration_since(used) < AHEAD_FOR);
        if wanted { (self.busy + 1).min(AHEAD_MAX) } else { 0 }
    }

    pub(super) fn plan_growth(&mut self, generation: u64, now: Instant) -> Growth {
        self.watched = false;
        if self.closed.is_some() || generation != self.generation {
            return Growth { n_start: 0, n_keep: 0, look_again: None };
        }
        if let Some(until) = self.growth_pause.waits_until(now) {
            self.watched = true;
            return Growth { n_start: 0, n_keep: 0, look_again: Some(until - now) };
        }
        let wanted = self.estimated_shortfall().max(self.aged_shortfall(now)).max(self.ahead_shortfall(now));
        let n_start = wanted.min(self.room());
        self.starting += n_start;
        if self.servers() + self.starting >= self.prestart {
            self.prestart = 0;
        }
        // The first one for whom nothing is being made.
        let unattended = self.waiters.get(self.starting_for_waiters()).filter(|_| self.room() > 0);
        self.watched = unattended.is_some();
        let look_again = match (unattended, self.stalled_since()) {
            // With nothing live, the arrival of the probe, or its failure, is what to wait for.
            (Some(waiter), Some(since)) if self.servers() > 0 => {
                let due = (since.max(waiter.queued_at) + WAIT_TARGET).saturating_duration_since(now);
                // A timer's grain is a millisecond.
                Some(due.max(Duration::from_millis(1)))
            }
            _ => None,
        };
        let n_keep = self.kept_shortfall(now);
        let warm_pause =
            self.warm_pause.waits_until(now).filter(|_| self.unkept() > 0).map(|until| until - now);
        let look_again = [look_again, warm_pause].into_iter().flatten().min();
        Growth { n_start, n_keep, look_again }
    }

    /// A place for a sandbox of this generation that is only to be kept warm, if one is missing still.
    pub(super) fn reserve_kept(&mut self, generation: u64, now: Instant) -> bool {
        let is_missing = generation == self.generation && self.kept_shortfall(now) > 0;
        self.starting += usize::from(is_missing);
        is_missing
    }

    /// A place that was reserved by [`plan_growth`](Self::plan_growth) or [`claim`](Self::claim) is given back.
    pub(super) fn unreserve(&mut self, generation: u64, claimed: bool) {
        if generation == self.generation {
            self.starting -= 1;
            self.claimed -= usize::from(claimed);
        } else {
            self.starting_old -= 1;
        }
    }

    /// A sandbox has arrived in the place reserved for it; it counts as busy until it is checked in.
    pub(super) fn arrive(&mut self, generation: u64, claimed: bool, now: Instant) {
        self.unreserve(generation, claimed);
        self.n_cold_starts += 1;
        self.last_used = Some(now);
        if generation == self.generation {
            if self.servers() == 0 {
                self.progress = Some(now);
            }
            self.growth_pause.succeeded();
            self.prewarm_suspended = false;
            self.shortage = None;
        } else {
            self.draining += 1;
        }
        self.busy += 1;
    }

    /// No sandbox will arrive in a reserved place. Gives back the waiters that have nothing left to wait for.
    pub(super) fn fail(
        &mut self,
        generation: u64,
        claimed: bool,
        error: &LaunchError,
        now: Instant,
    ) -> Vec<Waiter<T>> {
        self.unreserve(generation, claimed);
        let may_come_back = matches!(error, LaunchError::Resources(_));
        self.n_refused += u64::from(claimed && !may_come_back);
        if generation != self.generation {
            return Vec::new();
        }
        if claimed {
            self.news = Some(Err(error.clone()));
        }
        let alone = self.servers() == 0;
        match error {
            // The code is at fault, and every further attempt with it costs the same: whoever comes next may
            // try again, and nobody else.
            LaunchError::Load(_) | LaunchError::Unsupported(_) => {
                self.prewarm_suspended = true;
                if !alone {
                    self.growth_pause.failed(now);
                    return Vec::new();
                }
            }
            // Room may come back while they wait. If not, they are told what was missing.
            LaunchError::Resources(what) => {
                self.shortage = Some(what.clone());
                self.growth_pause.failed(now);
                return Vec::new();
            }
            LaunchError::Failed(_) => {
                self.growth_pause.failed(now);
                if !alone || self.starting > 0 {
                    return Vec::new();
                }
            }
        }
        self.n_refused += self.waiters.len() as u64;
        self.waiters.drain(..).collect()
    }
}
