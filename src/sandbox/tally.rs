//! How often sandboxes are made, stopped and removed, and how long that takes: for `GET /stats`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One kind of work.
#[derive(Debug)]
pub struct Tally {
    n: AtomicU64,
    total_us: AtomicU64,
}

/// Cgroups made.
pub static CGROUP: Tally = Tally::new();
/// Shells made: namespaces and a root.
pub static SHELL: Tally = Tally::new();
/// Interpreters forked.
pub static FORK: Tally = Tally::new();
/// Sandboxes frozen.
pub static PAUSE: Tally = Tally::new();
/// Sandboxes thawed.
pub static UNPAUSE: Tally = Tally::new();
/// Sandboxes removed, from the moment they were given up to that at which nothing of them is left.
pub static DESTROY: Tally = Tally::new();

impl Tally {
    // Static, because these are figures of the process, as `/stats` gives them: what is frozen or removed knows nothing of whoever
    // counts, and nothing is decided by them. Two launchers in one process would be counted together.
    const fn new() -> Self {
        Self { n: AtomicU64::new(0), total_us: AtomicU64::new(0) }
    }

    /// One more, that began then.
    pub(super) fn add(&self, began: Instant) {
        self.n.fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// How many, and how long all of them took.
    #[must_use]
    pub fn read(&self) -> (u64, Duration) {
        (self.n.load(Ordering::Relaxed), Duration::from_micros(self.total_us.load(Ordering::Relaxed)))
    }
}
