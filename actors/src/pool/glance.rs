//! What is asked for at every request, to be had without the pool's lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::state::Pool;

/// As it was when the lock was last given back.
#[derive(Debug)]
pub(super) struct Glance {
    /// [`CLOSED`] when no sandboxes are handed out.
    generation: AtomicU64,
    depth: AtomicUsize,
    n_waiting: AtomicUsize,
}

/// No generation has this number.
const CLOSED: u64 = u64::MAX;

impl Glance {
    pub(super) fn of<S, T>(pool: &Pool<S, T>) -> Self {
        let glance = Self {
            generation: AtomicU64::new(CLOSED),
            depth: AtomicUsize::new(1),
            n_waiting: AtomicUsize::new(0),
        };
        glance.refresh(pool);
        glance
    }

    pub(super) fn refresh<S, T>(&self, pool: &Pool<S, T>) {
        let generation = if pool.closed.is_some() { CLOSED } else { pool.generation };
        self.generation.store(generation, Ordering::Release);
        self.depth.store(pool.depth(), Ordering::Relaxed);
        self.n_waiting.store(pool.waiters.len(), Ordering::Relaxed);
    }

    /// Whether the pool hands out sandboxes of this generation.
    pub(super) fn serves(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    pub(super) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    pub(super) fn n_waiting(&self) -> usize {
        self.n_waiting.load(Ordering::Relaxed)
    }
}
