//! A sandbox on loan, and how it comes home.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::lock::Shared;
use crate::flight::Answered;
use crate::world::Sandbox;

/// Why a leased sandbox is not checked in again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// The invocation took too long.
    Timeout,
    /// The sandbox died, or talked nonsense.
    Died,
    /// Whoever asked has gone; the handler may still be at work in there.
    ClientGone,
    /// The lease was dropped: its task was cancelled, or panicked.
    Abandoned,
}

/// A sandbox on loan. Give it back with [`finish`](Self::finish); dropped in any other way it is discarded,
/// since what runs in it is then unknown.
pub struct Lease<S: Sandbox> {
    shared: Arc<Shared<S>>,
    sandbox: Option<S>,
    generation: u64,
    waited: Duration,
}

impl<S: Sandbox> Lease<S> {
    pub(super) fn new(shared: &Arc<Shared<S>>, sandbox: S, generation: u64, waited: Duration) -> Self {
        Self { shared: Arc::clone(shared), sandbox: Some(sandbox), generation, waited }
    }

    /// Which generation of the function's code it runs.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How long the request waited for it.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The invocation failed, though the sandbox is well: the handler raised an exception.
    pub fn count_error(&mut self) {
        self.shared.lock().n_errors += 1;
    }

    /// Whether who comes now may use it: it runs the code that the pool serves, and the pool serves.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.shared.glance.serves(self.generation)
    }

    /// An invocation is over, and others are in flight in the same sandbox.
    pub fn served(&mut self, answered: Answered) {
        let took = self.waited + answered.waited + answered.service;
        // Only the first one waited for the lease.
        self.waited = Duration::ZERO;
        self.shared.lock().record(took, answered.pace, self.generation, Instant::now());
    }

    /// The invocation is over and the sandbox can take another. `service_time`: how long it held the sandbox.
    pub fn finish(self, service_time: Duration) {
        let waited = Duration::ZERO;
        self.finish_last(Answered { service: service_time, waited, pace: Some(service_time) });
    }

    /// The last invocation in flight is over.
    pub fn finish_last(mut self, answered: Answered) {
        let Some(sandbox) = self.sandbox.take() else { return };
        let shared = &self.shared;
        let sampled = if shared.sample_due.load(Ordering::Relaxed) {
            shared.sample_due.store(false, Ordering::Relaxed);
            Some(sandbox.memory_bytes())
        } else {
            None
        };
        let now = Instant::now();
        let onward = {
            let mut pool = shared.lock();
            if let Some(bytes) = sampled.filter(|bytes| *bytes > 0) {
                pool.weigh(bytes);
            }
            let took = self.waited + answered.waited + answered.service;
            pool.record(took, answered.pace, self.generation, now);
            pool.check_in(sandbox, self.generation, true, now)
        };
        shared.settle(onward, self.generation, now);
    }

    /// Nothing was asked of it.
    pub fn put_back(self) {
        let (shared, generation) = (Arc::clone(&self.shared), self.generation);
        shared.bring_home(self.into_sandbox(), generation, false, Instant::now());
    }

    /// The sandbox must not be used again.
    pub fn discard(mut self, why: Discard) {
        self.end(Some(why));
    }

    /// The sandbox is as it should be, and there is nothing to count.
    pub fn give_back(mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            self.shared.bring_home(sandbox, self.generation, true, Instant::now());
        }
    }

    /// It died while it was idle, which is no invocation.
    pub fn bury(mut self) {
        self.end(None);
    }

    fn end(&mut self, why: Option<Discard>) {
        let Some(mut sandbox) = self.sandbox.take() else { return };
        sandbox.condemn();
        {
            let mut pool = self.shared.lock();
            pool.forget(self.generation);
            if let Some(why) = why {
                pool.n_invocations += 1;
                pool.last_used = Some(Instant::now());
                match why {
                    Discard::Timeout => {
                        pool.n_errors += 1;
                        pool.n_timeouts += 1;
                    }
                    Discard::Died | Discard::Abandoned => pool.n_errors += 1,
                    Discard::ClientGone => {}
                }
            }
        }
        drop(sandbox);
        self.shared.wake_if_short();
    }

    pub(super) fn into_sandbox(mut self) -> S {
        self.sandbox.take().expect("a lease holds its sandbox until it ends")
    }
}

impl<S: Sandbox> Drop for Lease<S> {
    fn drop(&mut self) {
        self.end(Some(Discard::Abandoned));
    }
}

impl<S: Sandbox> Deref for Lease<S> {
    type Target = S;
    fn deref(&self) -> &S {
        self.sandbox.as_ref().expect("a lease holds its sandbox until it ends")
    }
}

impl<S: Sandbox> DerefMut for Lease<S> {
    fn deref_mut(&mut self) -> &mut S {
        self.sandbox.as_mut().expect("a lease holds its sandbox until it ends")
    }
}

impl<S: Sandbox> fmt::Debug for Lease<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("sandbox", &self.sandbox.as_ref().map(Sandbox::id))
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A lease on its way to a waiter. If that one has gone, the sandbox is as good as before and goes home.
pub(super) struct Handover<S: Sandbox>(pub(super) Option<Lease<S>>);

impl<S: Sandbox> Handover<S> {
    pub(super) fn take(&mut self) -> Lease<S> {
        self.0.take().expect("a lease is handed over once")
    }
}

impl<S: Sandbox> Drop for Handover<S> {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.put_back();
        }
    }
}
