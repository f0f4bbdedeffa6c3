//! One function's pool as plain data: where each sandbox is, and who waits.

use std::collections::VecDeque;
use std::mem;
use std::thread::ThreadId;
use std::time::Duration;

use tokio::time::Instant;

use super::growth;
use super::lending::Asker;
use super::refusal::Closed;
use super::service::Service;
use crate::backoff::Backoff;
use crate::gdsf::Uses;
use crate::latency::Latency;
use crate::world::{LaunchError, PoolLimits};

/// The decisions of a pool, as plain data. `T` is how a waiter is reached.
#[derive(Debug)]
pub(super) struct Pool<S, T> {
    pub(super) generation: u64,
    pub(super) limits: PoolLimits,
    pub(super) reuse: bool,
    pub(super) closed: Option<Closed>,

    /// Oldest first; leased from the back, so that the surplus stays untouched and can be released.
    pub(super) idle: VecDeque<Idle<S>>,
    /// On loan; `draining` of them belong to older generations.
    pub(super) busy: usize,
    pub(super) draining: usize,
    /// Taken out for a moment to be frozen.
    pub(super) freezing: usize,
    /// Being made; `starting_old` for older generations, to be dropped when they arrive.
    pub(super) starting: usize,
    pub(super) starting_old: usize,
    /// Of `starting`, those that a request makes for itself: they are not for those who wait.
    pub(super) claimed: usize,
    /// What came of the last one that was made without the lambda, until it has heard of it.
    /// A success: how long the function took to load.
    pub(super) news: Option<Result<Duration, LaunchError>>,
    /// The lambda has a zygote that has the function loaded, of which it makes sandboxes.
    pub(super) forkable: bool,

    pub(super) waiters: VecDeque<Waiter<T>>,
    pub(super) next_waiter: u64,

    /// Sandboxes wanted beside `min_warm`, after a reload, so that it is not felt.
    pub(super) prestart: usize,
    /// Making sandboxes before they are asked for failed, or memory pressure took them: no more of it until
    /// one was made for a request.
    pub(super) prewarm_suspended: bool,
    pub(super) growth_pause: Backoff,
    /// While it lasts nothing is made for `min_warm`.
    pub(super) warm_pause: Backoff,
    /// The lambda has promised to look at the queue again soon.
    pub(super) watched: bool,
    /// When a sandbox last came home, or the first one arrived.
    pub(super) progress: Option<Instant>,

    pub(super) service: Service,
    pub(super) latency: Latency,
    pub(super) sandbox_bytes: f64,
    /// How long it takes to make a sandbox, in nanoseconds; 0: not known yet.
    pub(super) cold_ns: f64,
    pub(super) uses: Uses,
    pub(super) last_used: Option<Instant>,
    /// What was missing when the last sandbox could not be made, as long as none was made since.
    pub(super) shortage: Option<String>,
    pub(super) n_invocations: u64,
    pub(super) n_errors: u64,
    pub(super) n_timeouts: u64,
    pub(super) n_refused: u64,
    pub(super) n_cold_starts: u64,
}

#[derive(Debug)]
pub(super) struct Idle<S> {
    pub(super) sandbox: S,
    pub(super) since: Instant,
    pub(super) frozen: bool,
    /// When the kernel was asked to take back what it can, since it is idle.
    pub(super) reclaimed: Option<Instant>,
    /// The thread whose event loop it is registered with: for another one it costs two system calls, and its pages
    /// lie in another core's cache.
    pub(super) used_on: ThreadId,
}

#[derive(Debug)]
pub(super) struct Waiter<T> {
    pub(super) id: u64,
    pub(super) queued_at: Instant,
    pub(super) asker: Asker,
    pub(super) reach: T,
}

/// The bounds of a pool that serves no code yet.
pub(super) const UNUSED_LIMITS: PoolLimits = PoolLimits {
    max_instances: 0,
    min_warm: 0,
    queue_length_max: 0,
    queue_wait_max: Duration::ZERO,
    freeze_after: Duration::MAX,
    release_after: None,
};

impl<S, T> Pool<S, T> {
    pub(super) fn new(generation: u64, limits: PoolLimits, reuse: bool) -> Self {
        Self {
            generation,
            limits,
            reuse,
            closed: None,
            idle: VecDeque::new(),
            busy: 0,
            draining: 0,
            freezing: 0,
            starting: 0,
            starting_old: 0,
            claimed: 0,
            news: None,
            forkable: false,
            waiters: VecDeque::new(),
            next_waiter: 0,
            prestart: 0,
            prewarm_suspended: false,
            growth_pause: growth::pause(),
            warm_pause: growth::warm_pause(),
            watched: false,
            progress: None,
            service: Service::default(),
            latency: Latency::default(),
            sandbox_bytes: 0.0,
            cold_ns: 0.0,
            uses: Uses::default(),
            last_used: None,
            shortage: None,
            n_invocations: 0,
            n_errors: 0,
            n_timeouts: 0,
            n_refused: 0,
            n_cold_starts: 0,
        }
    }

    pub(super) fn live(&self) -> usize {
        self.busy + self.idle.len() + self.freezing
    }

    pub(super) fn total(&self) -> usize {
        self.live() + self.starting + self.starting_old
    }

    pub(super) fn room(&self) -> usize {
        self.limits.max_instances.saturating_sub(self.total())
    }

    /// Those that are being made for whoever waits longest.
    pub(super) fn starting_for_waiters(&self) -> usize {
        self.starting - self.claimed
    }

    /// Sandboxes that come home to this generation.
    pub(super) fn servers(&self) -> usize {
        self.live() - self.draining
    }

    /// Serve another generation from now on. Gives back the idle sandboxes of the old one.
    pub(super) fn set_code(&mut self, generation: u64, limits: PoolLimits, reuse: bool) -> VecDeque<Idle<S>> {
        assert!(
            generation > self.generation,
            "generations only grow: {} after {}",
            generation,
            self.generation
        );
        if self.servers() + self.starting > 0 {
            self.prestart = 1;
        }
        self.generation = generation;
        self.limits = limits;
        self.reuse = reuse;
        // Those that are being frozen find out when they come back; see `after_freeze`.
        self.draining = self.busy + self.freezing;
        self.starting_old += self.starting;
        self.starting = 0;
        self.claimed = 0;
        self.news = None;
        self.forkable = false;
        self.prewarm_suspended = false;
        self.growth_pause.succeeded();
        // The new code may want fewer, and take less.
        self.warm_pause.succeeded();
        self.watched = false;
        self.service = Service::default();
        self.progress = None;
        mem::take(&mut self.idle)
    }

    /// Hand out no more. Gives back what is now to be dropped and who is now to be refused.
    pub(super) fn close(&mut self, why: Closed) -> (VecDeque<Idle<S>>, Vec<Waiter<T>>) {
        // The first reason stays.
        self.closed.get_or_insert(why);
        self.n_refused += self.waiters.len() as u64;
        (mem::take(&mut self.idle), self.waiters.drain(..).collect())
    }

    /// A sandbox was found to take so much memory: about the last four count.
    pub(super) fn weigh(&mut self, bytes: u64) {
        self.sandbox_bytes = lately(self.sandbox_bytes, bytes as f64);
    }

    /// A sandbox was made, which took so long: about the last four count.
    pub(super) fn paid(&mut self, took: Duration) {
        self.cold_ns = lately(self.cold_ns, took.as_nanos() as f64);
    }
}

/// A mean of which the newest is a quarter. 0: there is none yet.
fn lately(mean: f64, newest: f64) -> f64 {
    if mean == 0.0 { newest } else { mean + (newest - mean) / 4.0 }
}
