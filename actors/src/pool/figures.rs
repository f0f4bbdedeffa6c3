//! What a pool tells of itself.

use std::time::Duration;

use tokio::time::Instant;

use super::refusal::Closed;
use super::state::Pool;

/// What a pool is up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Which code it serves.
    pub generation: u64,
    /// On loan.
    pub busy: usize,
    /// On loan, and of an older generation. Part of `busy`.
    pub draining: usize,
    /// Idle and able to run.
    pub warm: usize,
    /// Idle and frozen, or just being frozen.
    pub frozen: usize,
    /// Being made.
    pub starting: usize,
    /// Requests that wait.
    pub queue: usize,
    /// Invocations that have ended.
    pub invocations: u64,
    /// Of these, failed.
    pub errors: u64,
    /// Of these, took too long.
    pub timeouts: u64,
    /// Requests that got no sandbox.
    pub refused: u64,
    /// Sandboxes made.
    pub cold_starts: u64,
    /// How long an invocation holds a sandbox.
    pub mean_service: Option<Duration>,
    /// Median of the last half minute to minute, waiting included.
    pub p50: Option<Duration>,
    /// 99th percentile of the same.
    pub p99: Option<Duration>,
    /// What one sandbox takes, as far as it was measured; 0: not yet.
    pub sandbox_bytes: u64,
    /// When a sandbox last came home or was made.
    pub last_used: Option<Instant>,
    /// Whether it hands out sandboxes.
    pub closed: Option<Closed>,
}

impl Figures {
    /// Sandboxes that exist.
    #[must_use]
    pub fn live(&self) -> usize {
        self.busy + self.warm + self.frozen
    }
}

/// What could be taken from a pool if memory were tight.
#[derive(Debug, Clone)]
pub(crate) struct Idleness {
    /// Those that are not idle.
    pub(crate) n_busy: usize,
    /// What one sandbox takes; 0: not known yet.
    pub(crate) sandbox_bytes: u64,
    /// What a cold start takes; nothing: not known yet.
    pub(crate) cold: Duration,
    /// How often it was called lately.
    pub(crate) frequency: f64,
    /// The idle ones, the one that was used least recently first.
    pub(crate) idle: Vec<IdleOne>,
}

/// What the evictor must know of an idle sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdleOne {
    /// When it was used last.
    pub(crate) since: Instant,
    /// It is frozen.
    pub(crate) frozen: bool,
    /// When the kernel was asked to take back what it can of it, since then.
    pub(crate) reclaimed: Option<Instant>,
}

impl<S, T> Pool<S, T> {
    pub(super) fn figures(&self, now: Instant) -> Figures {
        let n_frozen = self.idle.iter().filter(|idle| idle.frozen).count();
        Figures {
            generation: self.generation,
            busy: self.busy,
            draining: self.draining.min(self.busy),
            warm: self.idle.len() - n_frozen,
            frozen: n_frozen + self.freezing,
            starting: self.starting + self.starting_old,
            queue: self.waiters.len(),
            invocations: self.n_invocations,
            errors: self.n_errors,
            timeouts: self.n_timeouts,
            refused: self.n_refused,
            cold_starts: self.n_cold_starts,
            mean_service: self.service.mean_ns.map(|ns| Duration::from_nanos(ns as u64)),
            p50: self.latency.quantile(0.5, now),
            p99: self.latency.quantile(0.99, now),
            sandbox_bytes: self.sandbox_bytes as u64,
            last_used: self.last_used,
            closed: self.closed.clone(),
        }
    }

    /// What could be taken from it if memory were tight. Cheaper than [`figures`](Self::figures).
    pub(super) fn idleness(&self, now: Instant) -> Idleness {
        Idleness {
            n_busy: self.busy + self.starting,
            sandbox_bytes: self.sandbox_bytes as u64,
            cold: Duration::from_nanos(self.cold_ns as u64),
            frequency: self.uses.at(now),
            idle: self
                .idle
                .iter()
                .map(|idle| IdleOne { since: idle.since, frozen: idle.frozen, reclaimed: idle.reclaimed })
                .collect(),
        }
    }
}
