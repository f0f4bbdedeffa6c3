//! Sandboxes that nobody uses: which are frozen, which are given up, and when to look again.

use std::time::Duration;

use tokio::time::Instant;

use super::lending::Onward;
use super::state::{Idle, Pool};

/// How often an otherwise settled pool looks for idle sandboxes that have died.
const TEND_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Tending more often than this would not be worth the wake-up.
pub(crate) const TEND_PAUSE_MIN: Duration = Duration::from_millis(50);

impl<S, T> Pool<S, T> {
    /// The oldest idle sandbox that is due to be frozen, or with `any`, just the oldest.
    pub(super) fn take_to_freeze(&mut self, any: bool, now: Instant) -> Option<(Idle<S>, u64)> {
        let at = self.idle.iter().position(|idle| !idle.frozen)?;
        let due = now.saturating_duration_since(self.idle[at].since) >= self.limits.freeze_after;
        if !any && !due {
            return None;
        }
        let idle = self.idle.remove(at)?;
        self.freezing += 1;
        Some((idle, self.generation))
    }

    /// A frozen sandbox comes back to where it was; or it is wanted elsewhere by now.
    pub(super) fn after_freeze(&mut self, idle: Idle<S>, generation: u64) -> Onward<S, T> {
        self.freezing -= 1;
        if self.closed.is_some() || generation != self.generation {
            if generation != self.generation {
                self.draining -= 1;
            }
            return Onward::Drop(idle.sandbox);
        }
        if let Some(waiter) = self.waiters.pop_front() {
            self.busy += 1;
            return Onward::Hand(waiter, idle.sandbox);
        }
        let at = self.idle.partition_point(|other| other.since <= idle.since);
        self.idle.insert(at, idle);
        Onward::Kept
    }

    /// The oldest idle sandbox, if it has outlived its use and is not one of the `min_warm`.
    pub(super) fn take_to_release(&mut self, now: Instant) -> Option<S> {
        let release_after = self.limits.release_after?;
        let oldest = self.idle.front()?;
        let due = now.saturating_duration_since(oldest.since) >= release_after;
        if !due || self.servers() <= self.limits.min_warm {
            return None;
        }
        self.idle.pop_front().map(|idle| idle.sandbox)
    }

    /// The oldest idle sandbox, for the memory's sake. `min_warm` is a wish, memory is a fact; so that the
    /// next one is not made at once, wishes are suspended until a request has needed one, and that for `min_warm` for a while
    /// in any case: who is given what others have to give up, again and again, costs everybody more than it is worth.
    pub(super) fn take_under_pressure(&mut self, now: Instant) -> Option<S> {
        let idle = self.idle.pop_front()?;
        self.prewarm_suspended = true;
        self.forgo_warm(now);
        Some(idle.sandbox)
    }

    /// When [`take_to_freeze`](Self::take_to_freeze) or [`take_to_release`](Self::take_to_release) may next
    /// have something. `None`: not before a sandbox is made.
    pub(super) fn next_tending(&self, now: Instant) -> Option<Duration> {
        if self.total() == 0 {
            return None;
        }
        let until = |since: Instant, after: Duration| {
            since.checked_add(after).map_or(TEND_PAUSE_MAX, |due| due.saturating_duration_since(now))
        };
        // Whatever is used from now on is not due before it has been idle again.
        let mut pause = self.limits.freeze_after.clamp(Duration::from_secs(1), TEND_PAUSE_MAX);
        if let Some(idle) = self.idle.iter().find(|idle| !idle.frozen) {
            pause = pause.min(until(idle.since, self.limits.freeze_after));
        }
        if let (Some(idle), Some(after)) = (self.idle.front(), self.limits.release_after)
            && self.servers() > self.limits.min_warm
        {
            pause = pause.min(until(idle.since, after));
        }
        if self.busy + self.starting > 0 {
            // They will be idle at a time that nobody knows yet.
            pause = pause.min(self.limits.freeze_after.max(Duration::from_millis(100)));
        }
        Some(pause.max(TEND_PAUSE_MIN))
    }
}
