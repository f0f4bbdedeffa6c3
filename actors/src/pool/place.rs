//! Room in a pool for a sandbox that is being made.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lease::Lease;
use super::lock::{Shared, refuse};
use super::refusal::Refusal;
use super::shared::SharedPool;
use crate::first::CHORES_AFTER;
use crate::world::{LaunchError, Sandbox};

/// Room reserved for a sandbox that is being made. Dropped without an outcome, the room is free again.
pub(crate) struct Place<S: Sandbox> {
    shared: Arc<Shared<S>>,
    pub(super) generation: u64,
    /// The sandbox is for the request that makes it.
    pub(super) claimed: bool,
    open: bool,
}

impl<S: Sandbox> Place<S> {
    /// Room for one that the lambda makes.
    pub(super) fn reserved(shared: Arc<Shared<S>>, generation: u64) -> Self {
        Self { shared, generation, claimed: false, open: true }
    }

    /// Room for one that a request makes for itself.
    pub(super) fn claimed(shared: Arc<Shared<S>>, generation: u64) -> Self {
        Self { shared, generation, claimed: true, open: true }
    }

    /// The pool that it is in.
    pub(crate) fn pool(&self) -> SharedPool<S> {
        SharedPool(Arc::clone(&self.shared))
    }

    /// The sandbox is there, and stays with the request that has made it. That took `waited`; to load the function, a
    /// part of it, `load_time`.
    pub(crate) fn lease(mut self, sandbox: S, waited: Duration, load_time: Duration) -> Lease<S> {
        self.open = false;
        let is_more_wanted = {
            let mut pool = self.shared.lock();
            pool.arrive(self.generation, self.claimed, Instant::now());
            pool.paid(waited);
            pool.news = Some(Ok(load_time));
            !pool.waiters.is_empty() || pool.kept_shortfall(Instant::now()) > 0
        };
        // It is woken after this long in any case, so that the request need not pay for it.
        if is_more_wanted || waited >= CHORES_AFTER {
            self.shared.growth_wanted.notify_one();
        }
        Lease::new(&self.shared, sandbox, self.generation, waited)
    }

    /// The sandbox is there. To make it took so long.
    pub(crate) fn fill(mut self, sandbox: S, took: Duration) {
        self.open = false;
        let now = Instant::now();
        // It may be long until it is used and measured, and many more may be made to be kept warm until then.
        let is_measured = self.shared.lock().sandbox_bytes > 0.0;
        let bytes = if is_measured { 0 } else { sandbox.memory_bytes() };
        let onward = {
            let mut pool = self.shared.lock();
            pool.arrive(self.generation, self.claimed, now);
            pool.paid(took);
            if bytes > 0 {
                pool.weigh(bytes);
            }
            pool.check_in(sandbox, self.generation, false, now)
        };
        self.shared.settle(onward, self.generation, now);
        let is_more_wanted = {
            let pool = self.shared.lock();
            // This was the probe, or more have come meanwhile; or it was the last that somebody waited for.
            !pool.waiters.is_empty() || pool.kept_shortfall(now) > 0
        };
        if is_more_wanted {
            self.shared.growth_wanted.notify_one();
        }
    }

    /// Memory has no room for what is only kept warm: there will be none for a while.
    pub(crate) fn forgo(mut self) {
        self.open = false;
        {
            let mut pool = self.shared.lock();
            pool.unreserve(self.generation, self.claimed);
            pool.forgo_warm(Instant::now());
        }
        // A request may have come to wait for this one.
        self.shared.growth_wanted.notify_one();
    }

    /// There will be none.
    pub(crate) fn fail(mut self, error: &LaunchError) {
        self.open = false;
        let waiters = self.shared.lock().fail(self.generation, self.claimed, error, Instant::now());
        refuse(waiters, &Refusal::Launch(error.clone()));
        // The lambda's next look may be needed to honour the pause.
        self.shared.growth_wanted.notify_one();
    }
}

impl<S: Sandbox> Drop for Place<S> {
    fn drop(&mut self) {
        if self.open {
            self.shared.lock().unreserve(self.generation, self.claimed);
            // Those who wait may have waited for this one, without anybody watching the clock.
            self.shared.growth_wanted.notify_one();
        }
    }
}
