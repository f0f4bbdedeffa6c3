//! Who gets a sandbox, who waits, and where one goes that comes home.

use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::time::Instant;

use super::refusal::Refusal;
use super::state::{Idle, Pool, Waiter};
use crate::flight;
use crate::world::LaunchError;

/// How many idle sandboxes are looked at for one that the same thread used last: it is among the latest, or has long
/// gone cold.
const KNOWN_LOOK_MAX: usize = 8;

/// Who asks for a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    pub(crate) thread: ThreadId,
    pub(crate) has_one: bool,
}

impl Asker {
    /// This thread. `has_one`: requests of it are in flight in a sandbox of this pool.
    #[must_use]
    pub fn here(has_one: bool) -> Self {
        Self { thread: thread::current().id(), has_one }
    }
}

pub(super) enum Take<S> {
    Idle { sandbox: S, frozen: bool, generation: u64 },
    Queue,
    Refused(Refusal),
}

/// Where a sandbox goes that has come home.
pub(super) enum Onward<S, T> {
    Kept,
    /// Stays busy; it belongs to this waiter now.
    Hand(Waiter<T>, S),
    Drop(S),
}

impl<S, T> Pool<S, T> {
    pub(super) fn take(&mut self, thread: ThreadId) -> Take<S> {
        if let Some(closed) = &self.closed {
            self.n_refused += 1;
            return Take::Refused(closed.refusal());
        }
        let known = |idle: &Idle<S>| idle.used_on == thread && !idle.frozen;
        let at = match self.idle.iter().rev().take(KNOWN_LOOK_MAX).position(known) {
            Some(from_back) => self.idle.len() - 1 - from_back,
            None => self.idle.len().saturating_sub(1),
        };
        match self.idle.remove(at) {
            Some(Idle { sandbox, frozen, .. }) => {
                self.busy += 1;
                Take::Idle { sandbox, frozen, generation: self.generation }
            }
            None => Take::Queue,
        }
    }

    /// A place in the queue, and whether the lambda must be woken. Those for whom a sandbox can be made do
    /// not count as waiting for a busy one, which is what `queue_length_max` bounds.
    pub(super) fn enqueue(&mut self, now: Instant, asker: Asker, reach: T) -> Result<(u64, bool), Refusal> {
        let coming = self.room() + self.starting_for_waiters();
        if self.waiters.len() >= self.limits.queue_length_max.saturating_add(coming) {
            self.n_refused += 1;
            return Err(Refusal::QueueFull);
        }
        let id = self.next_waiter;
        self.next_waiter += 1;
        self.waiters.push_back(Waiter { id, queued_at: now, asker, reach });
        let paused = self.growth_pause.waits_until(now).is_some();
        let wake = self.room() > 0 && (!self.watched || (!paused && self.estimated_shortfall() > 0));
        Ok((id, wake))
    }

    pub(super) fn give_up_place(&mut self, id: u64) -> bool {
        match self.waiters.binary_search_by_key(&id, |waiter| waiter.id) {
            Ok(at) => self.waiters.remove(at).is_some(),
            Err(_) => false,
        }
    }

    /// A busy sandbox comes home. `used`: it has served since it was made.
    pub(super) fn check_in(&mut self, sandbox: S, generation: u64, used: bool, now: Instant) -> Onward<S, T> {
        let stale = self.closed.is_some() || generation != self.generation || (used && !self.reuse);
        if stale || self.live() > self.limits.max_instances {
            self.forget(generation);
            return Onward::Drop(sandbox);
        }
        if let Some(waiter) = self.waiters.pop_front() {
            return Onward::Hand(waiter, sandbox);
        }
        self.busy -= 1;
        let used_on = thread::current().id();
        self.idle.push_back(Idle { sandbox, since: now, frozen: false, reclaimed: None, used_on });
        Onward::Kept
    }

    /// A busy sandbox does not come home.
    pub(super) fn forget(&mut self, generation: u64) {
        self.busy -= 1;
        if generation != self.generation {
            self.draining -= 1;
        }
    }

    /// `took`: waiting included. `pace`: what a call takes, where that can be told.
    pub(super) fn record(&mut self, took: Duration, pace: Option<Duration>, generation: u64, now: Instant) {
        self.n_invocations += 1;
        self.last_used = Some(now);
        self.uses.bump(now);
        self.latency.record(took, now);
        // An old generation says nothing about how long this one takes.
        if generation == self.generation {
            if let Some(pace) = pace {
                self.service.record(pace, now);
            }
            self.progress = Some(now);
        }
    }

    /// How many requests may be in flight in one sandbox.
    pub(super) fn depth(&self) -> usize {
        if !self.reuse {
            return 1;
        }
        flight::depth(self.service.undisturbed_ns().map(|ns| Duration::from_nanos(ns as u64)))
    }

    pub(super) fn time_out(&mut self, id: u64) -> bool {
        let in_queue = self.give_up_place(id);
        if in_queue {
            self.n_refused += 1;
        }
        in_queue
    }

    /// Why one that has waited for long enough got nothing.
    pub(super) fn lateness(&self) -> Refusal {
        match &self.shortage {
            Some(what) => Refusal::Launch(LaunchError::Resources(what.clone())),
            None => Refusal::QueueTimeout,
        }
    }
}
