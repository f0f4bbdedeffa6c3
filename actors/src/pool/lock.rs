//! The lock around a pool, and the way of a sandbox that comes home through it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::glance::Glance;
use super::lease::{Handover, Lease};
use super::lending::Onward;
use super::refusal::Refusal;
use super::state::{Pool, Waiter};
use crate::world::Sandbox;

pub(super) type Reach<S> = oneshot::Sender<Result<Handover<S>, Refusal>>;

pub(super) struct Shared<S: Sandbox> {
    pool: Mutex<Pool<S, Reach<S>>>,
    pub(super) glance: Glance,
    pub(super) growth_wanted: Notify,
    /// The next sandbox that comes home is asked for its memory. Set when the pool is tended: it is a file
    /// read, too dear for each invocation.
    pub(super) sample_due: AtomicBool,
}

/// The pool under its lock.
pub(super) struct Locked<'a, S: Sandbox> {
    pool: MutexGuard<'a, Pool<S, Reach<S>>>,
    glance: &'a Glance,
}

impl<S: Sandbox> Deref for Locked<'_, S> {
    type Target = Pool<S, Reach<S>>;
    fn deref(&self) -> &Self::Target {
        &self.pool
    }
}

impl<S: Sandbox> DerefMut for Locked<'_, S> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.pool
    }
}

impl<S: Sandbox> Drop for Locked<'_, S> {
    fn drop(&mut self) {
        self.glance.refresh(&self.pool);
    }
}

impl<S: Sandbox> Shared<S> {
    pub(super) fn new(pool: Pool<S, Reach<S>>) -> Self {
        Self {
            glance: Glance::of(&pool),
            pool: Mutex::new(pool),
            growth_wanted: Notify::new(),
            sample_due: AtomicBool::new(false),
        }
    }

    pub(super) fn lock(&self) -> Locked<'_, S> {
        // A panic under the lock is a bug of this file; the counts are right before and after each call.
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { pool, glance: &self.glance }
    }

    /// A busy sandbox comes home, or has just been made: to the one who has waited longest, or to the idle ones.
    pub(super) fn bring_home(self: &Arc<Self>, sandbox: S, generation: u64, used: bool, now: Instant) {
        let onward = self.lock().check_in(sandbox, generation, used, now);
        self.settle(onward, generation, now);
    }

    pub(super) fn settle(self: &Arc<Self>, onward: Onward<S, Reach<S>>, generation: u64, now: Instant) {
        match onward {
            Onward::Kept => {}
            Onward::Hand(waiter, sandbox) => self.hand_over(waiter, sandbox, generation, now),
            Onward::Drop(sandbox) => {
                drop(sandbox);
                self.wake_if_short();
            }
        }
    }

    /// To this waiter, or if that one has gone, to the next.
    pub(super) fn hand_over(
        self: &Arc<Self>,
        mut waiter: Waiter<Reach<S>>,
        mut sandbox: S,
        generation: u64,
        now: Instant,
    ) {
        loop {
            let waited = now.saturating_duration_since(waiter.queued_at);
            let handover = Handover(Some(Lease::new(self, sandbox, generation, waited)));
            let Err(Ok(mut unwanted)) = waiter.reach.send(Ok(handover)) else {
                return;
            };
            sandbox = unwanted.take().into_sandbox();
            let onward = self.lock().check_in(sandbox, generation, false, now);
            match onward {
                Onward::Hand(next, again) => (waiter, sandbox) = (next, again),
                onward => return self.settle(onward, generation, now),
            }
        }
    }

    /// A place has become free: perhaps someone waits for it.
    pub(super) fn wake_if_short(&self) {
        let short = {
            let (pool, now) = (self.lock(), Instant::now());
            let is_missing = pool.ahead_shortfall(now) > 0 || pool.kept_shortfall(now) > 0;
            pool.room() > 0 && (is_missing || (!pool.watched && !pool.waiters.is_empty()))
        };
        if short {
            self.growth_wanted.notify_one();
        }
    }
}

pub(super) fn refuse<S: Sandbox>(waiters: Vec<Waiter<Reach<S>>>, refusal: &Refusal) {
    for waiter in waiters {
        // One that has gone meanwhile needs no answer.
        let _ = waiter.reach.send(Err(refusal.clone()));
    }
}
