//! A pool behind a lock, for the threads that have requests and for the lambda.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::figures::{Figures, Idleness};
use super::lease::Lease;
use super::lending::{Asker, Onward, Take};
use super::lock::{Reach, Shared, refuse};
use super::place::Place;
use super::refusal::{Closed, Refusal};
use super::state::{Idle, Pool, UNUSED_LIMITS};
use super::ticket::Ticket;
use crate::world::{LaunchError, PoolLimits, Sandbox};

/// No request waits longer than this for a sandbox, whatever was configured: a day is for ever, and fits a clock.
const QUEUE_WAIT_LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A pool that several threads use. A clone is the same pool.
pub struct SharedPool<S: Sandbox>(pub(super) Arc<Shared<S>>);

impl<S: Sandbox> Clone for SharedPool<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Sandbox> fmt::Debug for SharedPool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedPool").field(&self.figures()).finish()
    }
}

/// See [`SharedPool::key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey(usize);

/// What a lambda is to do for its pool.
pub(crate) struct Reserved<S: Sandbox> {
    /// Make a sandbox for each of these.
    pub(crate) places: Vec<Place<S>>,
    /// Make some to be kept warm, when it is this lambda's turn.
    pub(crate) keeps: bool,
    /// Ask again after so long.
    pub(crate) look_again: Option<Duration>,
}

/// What came of asking for a sandbox.
pub enum Leasing<S: Sandbox> {
    /// Here it is.
    Ready(Lease<S>),
    /// Await this.
    Queued(Ticket<S>),
    /// There will be none.
    Refused(Refusal),
}

impl<S: Sandbox> fmt::Debug for Leasing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(lease) => f.debug_tuple("Ready").field(lease).finish(),
            Self::Queued(ticket) => f.debug_tuple("Queued").field(ticket).finish(),
            Self::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
        }
    }
}

impl<S: Sandbox> SharedPool<S> {
    /// A pool for the first generation of a function's code.
    #[must_use]
    pub fn new(generation: u64, limits: PoolLimits, reuse: bool) -> Self {
        Self::holding(Pool::new(generation, limits, reuse))
    }

    /// A pool that hands out nothing, and says why.
    #[must_use]
    pub fn closed(why: Closed) -> Self {
        let mut pool = Pool::new(0, UNUSED_LIMITS, true);
        pool.closed = Some(why);
        Self::holding(pool)
    }

    fn holding(pool: Pool<S, Reach<S>>) -> Self {
        Self(Arc::new(Shared::new(pool)))
    }

    /// Ask for a sandbox that lives.
    #[must_use]
    pub fn lease(&self) -> Leasing<S> {
        loop {
            match self.lease_unseen(Asker::here(true)) {
                Leasing::Ready(lease) if !lease.is_alive() => lease.bury(),
                leasing => return leasing,
            }
        }
    }

    /// Ask for a sandbox; whether it lives is seen when it is used. With a warm one at hand: one uncontended lock, and no
    /// allocation.
    #[must_use]
    pub fn lease_unseen(&self, asker: Asker) -> Leasing<S> {
        let mut pool = self.0.lock();
        match pool.take(asker.thread) {
            Take::Idle { sandbox, frozen, generation } => {
                drop(pool);
                let mut lease = Lease::new(&self.0, sandbox, generation, Duration::ZERO);
                if frozen {
                    lease.thaw();
                }
                Leasing::Ready(lease)
            }
            Take::Refused(refusal) => Leasing::Refused(refusal),
            Take::Queue => {
                let now = Instant::now();
                let (reach, handover) = oneshot::channel();
                let deadline = now + pool.limits.queue_wait_max.min(QUEUE_WAIT_LONGEST);
                let queued = pool.enqueue(now, asker, reach);
                drop(pool);
                match queued {
                    Err(refusal) => Leasing::Refused(refusal),
                    Ok((id, wake)) => {
                        Leasing::Queued(Ticket::new(Arc::clone(&self.0), id, deadline, handover, wake))
                    }
                }
            }
        }
    }

    /// How many requests may be in flight in one sandbox.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.glance.depth()
    }

    /// Requests that wait for a sandbox.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.0.glance.n_waiting()
    }

    /// Tells pools apart, as long as one of this or a lease of it is held.
    #[must_use]
    pub fn key(&self) -> PoolKey {
        PoolKey(Arc::as_ptr(&self.0).addr())
    }

    /// [`lease`](Self::lease), and wait if need be.
    ///
    /// # Errors
    /// There was no sandbox to be had in the time that a request may wait.
    pub async fn lease_or_wait(&self) -> Result<Lease<S>, Refusal> {
        match self.lease() {
            Leasing::Ready(lease) => Ok(lease),
            Leasing::Queued(ticket) => ticket.await,
            Leasing::Refused(refusal) => Err(refusal),
        }
    }

    /// What it is up to.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.0.lock().figures(Instant::now())
    }

    /// What one sandbox takes, as far as it was measured; 0: not yet.
    #[must_use]
    pub(crate) fn sandbox_bytes(&self) -> u64 {
        self.0.lock().sandbox_bytes as u64
    }

    /// What could be taken from it if memory were tight. Cheaper than [`figures`](Self::figures).
    #[must_use]
    pub(crate) fn idleness(&self) -> Idleness {
        self.0.lock().idleness(Instant::now())
    }

    /// Sandboxes on loan.
    #[must_use]
    pub fn n_busy(&self) -> usize {
        self.0.lock().busy
    }

    /// Which generation it serves.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    /// Hand out sandboxes of this generation only. Idle ones of the old generation are dropped, those on loan
    /// when they come home; requests that wait get the new code.
    ///
    /// # Panics
    /// When the generation is not newer than the last one.
    pub fn set_code(&self, generation: u64, limits: PoolLimits, reuse: bool) {
        let old = self.0.lock().set_code(generation, limits, reuse);
        drop(old);
        self.0.growth_wanted.notify_one();
    }

    /// Hand out no more, refuse those who wait, drop what is idle. What is on loan is dropped when it comes home.
    pub fn close(&self, why: Closed) {
        let refusal = why.refusal();
        let (idle, waiters) = self.0.lock().close(why);
        refuse(waiters, &refusal);
        drop(idle);
        self.0.growth_wanted.notify_one();
    }

    /// Wait until someone thinks that another sandbox is needed. `false`: the pool is closed.
    pub(crate) async fn growth_wanted(&self) -> bool {
        if self.0.lock().closed.is_some() {
            return false;
        }
        self.0.growth_wanted.notified().await;
        self.0.lock().closed.is_none()
    }

    /// Reserve places for the sandboxes that should be made now, of this generation, and say when to ask again.
    pub(crate) fn reserve_growth(&self, generation: u64) -> Reserved<S> {
        let growth = self.0.lock().plan_growth(generation, Instant::now());
        let place = || Place::reserved(Arc::clone(&self.0), generation);
        let places = (0..growth.n_start).map(|_| place()).collect();
        Reserved { places, keeps: growth.n_keep > 0, look_again: growth.look_again }
    }

    /// Reserve a place for a sandbox of this generation that is only to be kept warm, if one is missing still.
    pub(crate) fn reserve_kept(&self, generation: u64) -> Option<Place<S>> {
        let is_missing = self.0.lock().reserve_kept(generation, Instant::now());
        is_missing.then(|| Place::reserved(Arc::clone(&self.0), generation))
    }

    /// What came of the last sandbox that a request has made for itself, if the lambda has not heard of it yet.
    pub(crate) fn take_news(&self) -> Option<Result<Duration, LaunchError>> {
        self.0.lock().news.take()
    }

    /// From now on the lambda is to make sandboxes of this generation, or requests may do it themselves again: a fork of
    /// an interpreter that has the function loaded is better than a standby that has not.
    pub(crate) fn set_forkable(&self, generation: u64, forkable: bool) {
        let mut pool = self.0.lock();
        if generation == pool.generation {
            pool.forkable = forkable;
        }
        drop(pool);
        self.0.wake_if_short();
    }

    /// There is something for the lambda to hear or to see to.
    pub(crate) fn wake_lambda(&self) {
        self.0.growth_wanted.notify_one();
    }

    /// Whether there is a sandbox, or one is being made.
    pub(crate) fn has_any(&self) -> bool {
        self.0.lock().total() > 0
    }

    /// Freeze and release what has been idle for long enough, drop what has died. Says when to come back.
    pub(crate) fn tend(&self) -> Option<Duration> {
        let now = Instant::now();
        self.0.sample_due.store(true, Ordering::Relaxed);
        while let Some(sandbox) = { self.0.lock().take_to_release(now) } {
            drop(sandbox);
        }
        while self.freeze_one(false, now) {}
        self.bury_dead();
        self.0.wake_if_short();
        self.0.lock().next_tending(now)
    }

    /// Freeze up to `n_max` idle sandboxes, those first that were used least recently.
    pub(crate) fn freeze_idle(&self, n_max: usize) -> usize {
        let now = Instant::now();
        (0..n_max).take_while(|_| self.freeze_one(true, now)).count()
    }

    /// Have the kernel take back what it can of the memory of those that are frozen, of each once.
    pub(crate) fn reclaim_frozen(&self) -> usize {
        let mut n = 0;
        let now = Instant::now();
        for idle in self.0.lock().idle.iter_mut().filter(|idle| idle.frozen && idle.reclaimed.is_none()) {
            // Under the lock, since asking does not wait for it.
            idle.sandbox.reclaim();
            idle.reclaimed = Some(now);
            n += 1;
        }
        n
    }

    /// Drop up to `n_max` idle sandboxes, those first that were used least recently.
    pub(crate) fn release_idle(&self, n_max: usize) -> usize {
        let now = Instant::now();
        let release_one = || {
            let sandbox = self.0.lock().take_under_pressure(now);
            sandbox.is_some()
        };
        (0..n_max).take_while(|_| release_one()).count()
    }

    fn freeze_one(&self, any: bool, now: Instant) -> bool {
        let Some((mut idle, generation)) = ({ self.0.lock().take_to_freeze(any, now) }) else {
            return false;
        };
        idle.sandbox.freeze();
        idle.frozen = true;
        let onward = self.0.lock().after_freeze(idle, generation);
        match onward {
            Onward::Hand(waiter, mut sandbox) => {
                sandbox.thaw();
                self.0.hand_over(waiter, sandbox, generation, Instant::now());
            }
            Onward::Drop(sandbox) => drop(sandbox),
            Onward::Kept => {}
        }
        true
    }

    fn bury_dead(&self) {
        // Asked under the lock, since asking is cheap by contract; dropped outside.
        let dead: VecDeque<Idle<S>> = {
            let mut pool = self.0.lock();
            if pool.idle.iter().all(|idle| idle.sandbox.is_alive()) {
                return;
            }
            let (alive, dead) =
                mem::take(&mut pool.idle).into_iter().partition(|idle| idle.sandbox.is_alive());
            pool.idle = alive;
            dead
        };
        drop(dead);
    }
}
