//! One function's pool of sandboxes: who gets one, who waits, when another is made, when one is given up.
//!
//! ```text
//!             reserve          fill                 lease
//!   (nothing) ───────▶ starting ────▶ idle ◀────────────────▶ busy ──▶ (dropped)
//!                          │           │ ▲       finish         discard, timeout, death, old generation
//!                          ▼           ▼ │ lease
//!                      (nothing)      frozen ──▶ (dropped): release_after, memory pressure
//! ```
//!
//! `Pool` is plain data and decides; [`SharedPool`] puts it behind a mutex, so that HTTP threads lease
//! and check in without asking the lambda's actor, whose part is growth, freezing, release and
//! generations. Sandboxes are frozen, thawed, measured and dropped outside of the mutex.
//!
//! # When another sandbox is made
//!
//! * Nothing is live and a request waits: one, at once. It is also the probe: how long calls take is not
//!   known before one has been served, and starting a hundred imports for a hundred calls of 20 µs would
//!   take longer than serving them one after the other.
//! * The estimated wait, waiters × service time ÷ sandboxes, exceeds [`WAIT_TARGET`]: as many as bring it
//!   back, but never more than wait. A burst of long calls gets one each at once; a burst of short ones
//!   stays on few sandboxes. Service time is here the mean, but at most twice the shortest of the last
//!   seconds: on a busy machine every call takes longer because of the others, and more sandboxes would
//!   only make that worse.
//! * For [`WAIT_TARGET`] no sandbox has come home while requests waited: then the estimate is wrong (or
//!   there is none yet), all sandboxes are held by long calls, and each request that has waited so long
//!   gets one of its own.
//! * Threads wait that have no sandbox at all, while others hold them: one for each (see
//!   [`flight`](crate::flight); calls that are in flight in a sandbox do not wait here).
//! * There are fewer than `min_warm`; or each call takes a new sandbox, and there is none for the next one.
//!
//! A request that is the reason for one may make it itself ([`Ticket::claim`]): then nobody else does, and nobody
//! else gets it.
//!
//! Always within `max_instances`, which counts sandboxes that still serve an old generation, too: whoever
//! sets it to 1 means it. After a launch has failed, growth pauses, from [`GROWTH_PAUSE`] doubling.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep};

use crate::backoff::Backoff;
use crate::first::CHORES_AFTER;
use crate::flight::{self, Answered};
use crate::latency::Latency;
use crate::world::{LaunchError, PoolLimits, Sandbox};

/// The wait for a sandbox that growth aims at: about what a new one costs when no standby is at hand, so
/// that waiting less than that is not worth one.
pub const WAIT_TARGET: Duration = Duration::from_millis(5);
/// The pause after a failed launch; doubles with each in a row.
pub const GROWTH_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause after failed launches: a machine that has room again should be used soon.
pub const GROWTH_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long the shortest service time is remembered: one to two of these.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// The weight of one invocation in the mean service time: about the last eight count.
const MEAN_WEIGHT: f64 = 1.0 / 8.0;
/// No request waits longer than this for a sandbox, whatever was configured: a day is for ever, and fits a clock.
const QUEUE_WAIT_LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How often an otherwise settled pool looks for idle sandboxes that have died.
const TEND_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Sandboxes that lie ready for calls to come, where each call takes a new one: what two cores can make while as many
/// calls run.
const AHEAD_MAX: usize = 4;
/// For how long after the last call they are made: by then it is more likely that none comes soon.
const AHEAD_FOR: Duration = Duration::from_secs(60);
/// How many idle sandboxes are looked at for one that the same thread used last: it is among the latest, or has long
/// gone cold.
const KNOWN_LOOK_MAX: usize = 8;
/// Tending more often than this would not be worth the wake-up.
pub(crate) const TEND_PAUSE_MIN: Duration = Duration::from_millis(50);

/// Why a request got no sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many requests wait as may.
    #[error("too many requests wait for this function already")]
    QueueFull,
    /// It waited as long as a request may.
    #[error("no sandbox became free in time")]
    QueueTimeout,
    /// The function was removed.
    #[error("the function has been removed")]
    Retiring,
    /// The function's lambda has failed and is being started again; nothing was run.
    #[error("the function is being restarted; try again")]
    Restarting,
    /// The function's lambda has failed too often.
    #[error("the function is out of order: {reason}")]
    Broken {
        /// What failed.
        reason: String,
        /// When it is tried again.
        retry_after: Duration,
    },
    /// No sandbox could be made.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The worker ends.
    #[error("the worker is shutting down")]
    ShuttingDown,
}

/// Why no more sandboxes are handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The function was removed.
    Retiring,
    /// The lambda died, and another pool will take this one's place.
    Restarting,
    /// The lambda dies too often.
    Broken {
        /// What failed.
        reason: String,
        /// When it is tried again.
        until: Instant,
    },
    /// The worker ends.
    ShuttingDown,
}

impl Closed {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Retiring => Refusal::Retiring,
            Self::Restarting => Refusal::Restarting,
            Self::Broken { reason, until } => Refusal::Broken {
                reason: reason.clone(),
                retry_after: until.saturating_duration_since(Instant::now()),
            },
            Self::ShuttingDown => Refusal::ShuttingDown,
        }
    }
}

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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idleness {
    pub(crate) warm: usize,
    pub(crate) frozen: usize,
    pub(crate) sandbox_bytes: u64,
    pub(crate) last_used: Option<Instant>,
}

/// The decisions of a pool, as plain data. `T` is how a waiter is reached.
#[derive(Debug)]
struct Pool<S, T> {
    generation: u64,
    limits: PoolLimits,
    reuse: bool,
    closed: Option<Closed>,

    /// Oldest first; leased from the back, so that the surplus stays untouched and can be released.
    idle: VecDeque<Idle<S>>,
    /// On loan; `draining` of them belong to older generations.
    busy: usize,
    draining: usize,
    /// Taken out for a moment to be frozen.
    freezing: usize,
    /// Being made; `starting_old` for older generations, to be dropped when they arrive.
    starting: usize,
    starting_old: usize,
    /// Of `starting`, those that a request makes for itself: they are not for those who wait.
    claimed: usize,
    /// What came of the last one that was made without the lambda, until it has heard of it.
    /// A success: how long the function took to load.
    news: Option<Result<Duration, LaunchError>>,
    /// The lambda has a zygote that has the function loaded, of which it makes sandboxes.
    forkable: bool,

    waiters: VecDeque<Waiter<T>>,
    next_waiter: u64,

    /// Sandboxes wanted beside `min_warm`, after a reload, so that it is not felt.
    prestart: usize,
    /// Making sandboxes before they are asked for failed, or memory pressure took them: no more of it until
    /// one was made for a request.
    prewarm_suspended: bool,
    growth_pause: Backoff,
    /// The lambda has promised to look at the queue again soon.
    watched: bool,
    /// When a sandbox last came home, or the first one arrived.
    progress: Option<Instant>,

    service: Service,
    latency: Latency,
    sandbox_bytes: f64,
    last_used: Option<Instant>,
    n_invocations: u64,
    n_errors: u64,
    n_timeouts: u64,
    n_refused: u64,
    n_cold_starts: u64,
}

#[derive(Debug)]
struct Idle<S> {
    sandbox: S,
    since: Instant,
    frozen: bool,
    /// The thread whose event loop it is registered with: for another one it costs two system calls, and its pages
    /// lie in another core's cache.
    used_on: ThreadId,
}

#[derive(Debug)]
struct Waiter<T> {
    id: u64,
    queued_at: Instant,
    asker: Asker,
    reach: T,
}

/// Who asks for a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    thread: ThreadId,
    has_one: bool,
}

impl Asker {
    /// This thread. `has_one`: requests of it are in flight in a sandbox of this pool.
    #[must_use]
    pub fn here(has_one: bool) -> Self {
        Self { thread: thread::current().id(), has_one }
    }
}

/// How long invocations hold a sandbox.
#[derive(Debug, Default)]
struct Service {
    mean_ns: Option<f64>,
    shortest_ns: f64,
    shortest_before_ns: f64,
    window_began: Option<Instant>,
}

impl Service {
    fn record(&mut self, took: Duration, now: Instant) {
        let ns = took.as_nanos() as f64;
        self.mean_ns = Some(self.mean_ns.map_or(ns, |mean| mean + (ns - mean) * MEAN_WEIGHT));
        match self.window_began {
            Some(began) if now.saturating_duration_since(began) < SHORTEST_WINDOW => {
                self.shortest_ns = self.shortest_ns.min(ns);
            }
            Some(_) => {
                self.shortest_before_ns = self.shortest_ns;
                self.shortest_ns = ns;
                self.window_began = Some(now);
            }
            None => {
                self.shortest_before_ns = ns;
                self.shortest_ns = ns;
                self.window_began = Some(now);
            }
        }
    }

    /// What a call takes when it is not slowed down by the others.
    fn typical_ns(&self) -> Option<f64> {
        Some(self.mean_ns?.min(2.0 * self.shortest_ns.min(self.shortest_before_ns)))
    }
}

enum Take<S> {
    Idle { sandbox: S, frozen: bool, generation: u64 },
    Queue,
    Refused(Refusal),
}

/// Where a sandbox goes that has come home.
enum Onward<S, T> {
    Kept,
    /// Stays busy; it belongs to this waiter now.
    Hand(Waiter<T>, S),
    Drop(S),
}

/// Sandboxes that the lambda should start, and when to ask again at the latest.
struct Growth {
    n_start: usize,
    look_again: Option<Duration>,
}

/// The bounds of a pool that serves no code yet.
const UNUSED_LIMITS: PoolLimits = PoolLimits {
    max_instances: 0,
    min_warm: 0,
    queue_length_max: 0,
    queue_wait_max: Duration::ZERO,
    freeze_after: Duration::MAX,
    release_after: None,
};

impl<S, T> Pool<S, T> {
    fn new(generation: u64, limits: PoolLimits, reuse: bool) -> Self {
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
            growth_pause: Backoff::new(GROWTH_PAUSE, GROWTH_PAUSE_MAX),
            watched: false,
            progress: None,
            service: Service::default(),
            latency: Latency::default(),
            sandbox_bytes: 0.0,
            last_used: None,
            n_invocations: 0,
            n_errors: 0,
            n_timeouts: 0,
            n_refused: 0,
            n_cold_starts: 0,
        }
    }

    fn live(&self) -> usize {
        self.busy + self.idle.len() + self.freezing
    }

    fn total(&self) -> usize {
        self.live() + self.starting + self.starting_old
    }

    fn room(&self) -> usize {
        self.limits.max_instances.saturating_sub(self.total())
    }

    /// Those that are being made for whoever waits longest.
    fn starting_for_waiters(&self) -> usize {
        self.starting - self.claimed
    }

    /// Sandboxes that come home to this generation.
    fn servers(&self) -> usize {
        self.live() - self.draining
    }

    fn take(&mut self, thread: ThreadId) -> Take<S> {
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
    fn enqueue(&mut self, now: Instant, asker: Asker, reach: T) -> Result<(u64, bool), Refusal> {
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

    /// Whether a sandbox should be made for this waiter now, and nobody does yet. Those before it come first.
    fn may_claim(&self, id: u64, generation: u64, now: Instant) -> bool {
        self.closed.is_none()
            && generation == self.generation
            && self.waiters.front().is_some_and(|waiter| waiter.id == id)
            && !self.forkable
            && self.growth_pause.waits_until(now).is_none()
            && self.room() > 0
            && self.estimated_shortfall() > 0
    }

    /// This waiter makes its sandbox itself.
    fn claim(&mut self, id: u64) {
        self.give_up_place(id);
        self.starting += 1;
        self.claimed += 1;
    }

    fn give_up_place(&mut self, id: u64) -> bool {
        match self.waiters.binary_search_by_key(&id, |waiter| waiter.id) {
            Ok(at) => self.waiters.remove(at).is_some(),
            Err(_) => false,
        }
    }

    /// A busy sandbox comes home. `used`: it has served since it was made.
    fn check_in(&mut self, sandbox: S, generation: u64, used: bool, now: Instant) -> Onward<S, T> {
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
        self.idle.push_back(Idle { sandbox, since: now, frozen: false, used_on });
        Onward::Kept
    }

    /// A busy sandbox does not come home.
    fn forget(&mut self, generation: u64) {
        self.busy -= 1;
        if generation != self.generation {
            self.draining -= 1;
        }
    }

    /// `took`: waiting included. `pace`: what a call takes, where that can be told.
    fn record(&mut self, took: Duration, pace: Option<Duration>, generation: u64, now: Instant) {
        self.n_invocations += 1;
        self.last_used = Some(now);
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
    fn depth(&self) -> usize {
        if !self.reuse {
            return 1;
        }
        flight::depth(self.service.typical_ns().map(|ns| Duration::from_nanos(ns as u64)))
    }

    /// Threads that wait and have no sandbox, each counted once.
    fn empty_handed(&self) -> usize {
        let empty_handed = self.waiters.iter().filter(|waiter| !waiter.asker.has_one);
        empty_handed.map(|waiter| waiter.asker.thread).collect::<HashSet<_>>().len()
    }

    /// Sandboxes that are missing by what is known about the service time.
    fn estimated_shortfall(&self) -> usize {
        let n_waiters = self.waiters.len();
        let unattended = n_waiters.saturating_sub(self.starting_for_waiters());
        if unattended == 0 {
            return 0;
        }
        if !self.reuse {
            // None comes back for a second request.
            return unattended;
        }
        let n_servers = self.servers() + self.starting;
        let needed = match self.service.typical_ns() {
            Some(typical) => {
                let by_wait = (n_waiters as f64 * typical / WAIT_TARGET.as_nanos() as f64).ceil() as usize;
                by_wait.max(self.servers() + self.empty_handed())
            }
            None => 0,
        };
        needed.max(1).saturating_sub(n_servers).min(unattended)
    }

    /// Sandboxes that are missing because no sandbox has come home for a while.
    fn aged_shortfall(&self, now: Instant) -> usize {
        if self.servers() == 0 || self.stalled_since().is_none_or(|since| now < since + WAIT_TARGET) {
            return 0;
        }
        let n_aged = self.waiters.partition_point(|waiter| waiter.queued_at + WAIT_TARGET <= now);
        n_aged.saturating_sub(self.starting_for_waiters())
    }

    /// Since when a request waits and no sandbox has come home.
    fn stalled_since(&self) -> Option<Instant> {
        let queued_at = self.waiters.front()?.queued_at;
        Some(self.progress.map_or(queued_at, |progress| progress.max(queued_at)))
    }

    fn warm_shortfall(&self, now: Instant) -> usize {
        if self.prewarm_suspended {
            return 0;
        }
        let kept = self.limits.min_warm.max(self.prestart).saturating_sub(self.servers() + self.starting);
        kept.max(self.ahead(now).saturating_sub(self.idle.len() + self.freezing + self.starting))
    }

    /// Sandboxes that are to lie ready where each call takes a new one: as many as calls are under way, and one for the
    /// next. Only of a lambda with a zygote, since then a sandbox takes all of its time before the call; others take
    /// standbys, which lie ready for everybody.
    fn ahead(&self, now: Instant) -> usize {
        let wanted = !self.reuse
            && self.forkable
            && self.last_used.is_some_and(|used| now.saturating_duration_since(used) < AHEAD_FOR);
        if wanted { (self.busy + 1).min(AHEAD_MAX) } else { 0 }
    }

    fn plan_growth(&mut self, generation: u64, now: Instant) -> Growth {
        self.watched = false;
        if self.closed.is_some() || generation != self.generation {
            return Growth { n_start: 0, look_again: None };
        }
        if let Some(until) = self.growth_pause.waits_until(now) {
            self.watched = true;
            return Growth { n_start: 0, look_again: Some(until - now) };
        }
        let wanted = self.estimated_shortfall().max(self.aged_shortfall(now)).max(self.warm_shortfall(now));
        let n_start = wanted.min(self.room());
        self.starting += n_start;
        if self.servers() + self.starting >= self.prestart {
            self.prestart = 0;
        }
        // The first one for whom nothing is being made.
        let unattended = self.waiters.get(self.starting_for_waiters()).filter(|_| self.room() > 0);
        self.watched = unattended.is_some();
        let look_again = match (unattended, self.stalled_since()) {
            // With nothing live, the arrival of the probe, or its failure, is what to wait for.
            (Some(waiter), Some(since)) if self.servers() > 0 => {
                let due = (since.max(waiter.queued_at) + WAIT_TARGET).saturating_duration_since(now);
                // A timer's grain is a millisecond.
                Some(due.max(Duration::from_millis(1)))
            }
            _ => None,
        };
        Growth { n_start, look_again }
    }

    /// A place that was reserved by [`plan_growth`](Self::plan_growth) or [`claim`](Self::claim) is given back.
    fn unreserve(&mut self, generation: u64, claimed: bool) {
        if generation == self.generation {
            self.starting -= 1;
            self.claimed -= usize::from(claimed);
        } else {
            self.starting_old -= 1;
        }
    }

    /// A sandbox has arrived in the place reserved for it; it counts as busy until it is checked in.
    fn arrive(&mut self, generation: u64, claimed: bool, now: Instant) {
        self.unreserve(generation, claimed);
        self.n_cold_starts += 1;
        self.last_used = Some(now);
        if generation == self.generation {
            if self.servers() == 0 {
                self.progress = Some(now);
            }
            self.growth_pause.succeeded();
            self.prewarm_suspended = false;
        } else {
            self.draining += 1;
        }
        self.busy += 1;
    }

    /// No sandbox will arrive in a reserved place. Gives back the waiters that have nothing left to wait for.
    fn fail(&mut self, generation: u64, claimed: bool, error: &LaunchError, now: Instant) -> Vec<Waiter<T>> {
        self.unreserve(generation, claimed);
        let may_come_back = matches!(error, LaunchError::Resources(_));
        self.n_refused += u64::from(claimed && !may_come_back);
        if generation != self.generation {
            return Vec::new();
        }
        if claimed {
            self.news = Some(Err(error.clone()));
        }
        let alone = self.servers() == 0;
        match error {
            // The code is at fault, and every further attempt with it costs the same: whoever comes next may
            // try again, and nobody else.
            LaunchError::Load(_) | LaunchError::Unsupported(_) => {
                self.prewarm_suspended = true;
                if !alone {
                    self.growth_pause.failed(now);
                    return Vec::new();
                }
            }
            // Room may come back while they wait.
            LaunchError::Resources(_) => {
                self.growth_pause.failed(now);
                return Vec::new();
            }
            LaunchError::Failed(_) => {
                self.growth_pause.failed(now);
                if !alone || self.starting > 0 {
                    return Vec::new();
                }
            }
        }
        self.n_refused += self.waiters.len() as u64;
        self.waiters.drain(..).collect()
    }

    /// Serve another generation from now on. Gives back the idle sandboxes of the old one.
    fn set_code(&mut self, generation: u64, limits: PoolLimits, reuse: bool) -> VecDeque<Idle<S>> {
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
        self.watched = false;
        self.service = Service::default();
        self.progress = None;
        mem::take(&mut self.idle)
    }

    /// Hand out no more. Gives back what is now to be dropped and who is now to be refused.
    fn close(&mut self, why: Closed) -> (VecDeque<Idle<S>>, Vec<Waiter<T>>) {
        // The first reason stays.
        self.closed.get_or_insert(why);
        self.n_refused += self.waiters.len() as u64;
        (mem::take(&mut self.idle), self.waiters.drain(..).collect())
    }

    /// The oldest idle sandbox that is due to be frozen, or with `any`, just the oldest.
    fn take_to_freeze(&mut self, any: bool, now: Instant) -> Option<(Idle<S>, u64)> {
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
    fn after_freeze(&mut self, idle: Idle<S>, generation: u64) -> Onward<S, T> {
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
    fn take_to_release(&mut self, now: Instant) -> Option<S> {
        let release_after = self.limits.release_after?;
        let oldest = self.idle.front()?;
        let due = now.saturating_duration_since(oldest.since) >= release_after;
        if !due || self.servers() <= self.limits.min_warm {
            return None;
        }
        self.idle.pop_front().map(|idle| idle.sandbox)
    }

    /// The oldest idle sandbox, for the memory's sake. `min_warm` is a wish, memory is a fact; so that the
    /// next one is not made at once, wishes are suspended until a request has needed one.
    fn take_under_pressure(&mut self) -> Option<S> {
        let idle = self.idle.pop_front()?;
        self.prewarm_suspended = true;
        Some(idle.sandbox)
    }

    /// When [`take_to_freeze`](Self::take_to_freeze) or [`take_to_release`](Self::take_to_release) may next
    /// have something. `None`: not before a sandbox is made.
    fn next_tending(&self, now: Instant) -> Option<Duration> {
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

    fn figures(&self, now: Instant) -> Figures {
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
}

type Reach<S> = oneshot::Sender<Result<Handover<S>, Refusal>>;

/// A pool that several threads use. A clone is the same pool.
pub struct SharedPool<S: Sandbox>(Arc<Shared<S>>);

struct Shared<S: Sandbox> {
    pool: Mutex<Pool<S, Reach<S>>>,
    glance: Glance,
    growth_wanted: Notify,
    /// The next sandbox that comes home is asked for its memory. Set when the pool is tended: it is a file
    /// read, too dear for each invocation.
    sample_due: AtomicBool,
}

/// What is asked for at every request, to be had without the lock: as it was when the lock was last given back.
#[derive(Debug)]
struct Glance {
    /// [`CLOSED`] when no sandboxes are handed out.
    generation: AtomicU64,
    depth: AtomicUsize,
    n_waiting: AtomicUsize,
}

/// No generation has this number.
const CLOSED: u64 = u64::MAX;

impl Glance {
    fn refresh<S, T>(&self, pool: &Pool<S, T>) {
        let generation = if pool.closed.is_some() { CLOSED } else { pool.generation };
        self.generation.store(generation, Ordering::Release);
        self.depth.store(pool.depth(), Ordering::Relaxed);
        self.n_waiting.store(pool.waiters.len(), Ordering::Relaxed);
    }
}

/// The pool under its lock.
struct Locked<'a, S: Sandbox> {
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
        let glance = Glance {
            generation: AtomicU64::new(CLOSED),
            depth: AtomicUsize::new(1),
            n_waiting: AtomicUsize::new(0),
        };
        glance.refresh(&pool);
        Self(Arc::new(Shared {
            pool: Mutex::new(pool),
            glance,
            growth_wanted: Notify::new(),
            sample_due: AtomicBool::new(false),
        }))
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
                        let shared = Arc::clone(&self.0);
                        let handover = Some(handover);
                        Leasing::Queued(Ticket { shared, id, deadline, handover, wake, sleep: None })
                    }
                }
            }
        }
    }

    /// How many requests may be in flight in one sandbox.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.glance.depth.load(Ordering::Relaxed)
    }

    /// Requests that wait for a sandbox.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.0.glance.n_waiting.load(Ordering::Relaxed)
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

    /// What could be taken from it if memory were tight. Cheaper than [`figures`](Self::figures).
    #[must_use]
    pub(crate) fn idleness(&self) -> Idleness {
        let pool = self.0.lock();
        let n_frozen = pool.idle.iter().filter(|idle| idle.frozen).count();
        Idleness {
            warm: pool.idle.len() - n_frozen,
            frozen: n_frozen,
            sandbox_bytes: pool.sandbox_bytes as u64,
            last_used: pool.last_used,
        }
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
    pub(crate) fn reserve_growth(&self, generation: u64) -> (Vec<Place<S>>, Option<Duration>) {
        let growth = self.0.lock().plan_growth(generation, Instant::now());
        let place = || Place { shared: Arc::clone(&self.0), generation, claimed: false, open: true };
        ((0..growth.n_start).map(|_| place()).collect(), growth.look_again)
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

    /// Drop up to `n_max` idle sandboxes, those first that were used least recently.
    pub(crate) fn release_idle(&self, n_max: usize) -> usize {
        let release_one = || {
            let sandbox = self.0.lock().take_under_pressure();
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

impl<S: Sandbox> Shared<S> {
    fn lock(&self) -> Locked<'_, S> {
        // A panic under the lock is a bug of this file; the counts are right before and after each call.
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { pool, glance: &self.glance }
    }

    /// A busy sandbox comes home, or has just been made: to the one who has waited longest, or to the idle ones.
    fn bring_home(self: &Arc<Self>, sandbox: S, generation: u64, used: bool, now: Instant) {
        let onward = self.lock().check_in(sandbox, generation, used, now);
        self.settle(onward, generation, now);
    }

    fn settle(self: &Arc<Self>, onward: Onward<S, Reach<S>>, generation: u64, now: Instant) {
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
    fn hand_over(
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
    fn wake_if_short(&self) {
        let short = {
            let pool = self.lock();
            pool.room() > 0
                && (pool.warm_shortfall(Instant::now()) > 0 || (!pool.watched && !pool.waiters.is_empty()))
        };
        if short {
            self.growth_wanted.notify_one();
        }
    }
}

fn refuse<S: Sandbox>(waiters: Vec<Waiter<Reach<S>>>, refusal: &Refusal) {
    for waiter in waiters {
        // One that has gone meanwhile needs no answer.
        let _ = waiter.reach.send(Err(refusal.clone()));
    }
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
    fn new(shared: &Arc<Shared<S>>, sandbox: S, generation: u64, waited: Duration) -> Self {
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
        self.shared.glance.generation.load(Ordering::Acquire) == self.generation
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
                let mean = pool.sandbox_bytes;
                let bytes = bytes as f64;
                pool.sandbox_bytes = if mean == 0.0 { bytes } else { mean + (bytes - mean) / 4.0 };
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
        let Some(sandbox) = self.sandbox.take() else { return };
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

    fn into_sandbox(mut self) -> S {
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
struct Handover<S: Sandbox>(Option<Lease<S>>);

impl<S: Sandbox> Handover<S> {
    fn take(&mut self) -> Lease<S> {
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

/// A place in the queue: a future that ends with a sandbox or a refusal. Dropping it gives the place up.
pub struct Ticket<S: Sandbox> {
    shared: Arc<Shared<S>>,
    id: u64,
    deadline: Instant,
    handover: Option<oneshot::Receiver<Result<Handover<S>, Refusal>>>,
    /// The lambda has to be woken when this one begins to wait: not before, since it may [`claim`](Self::claim).
    wake: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<S: Sandbox> Ticket<S> {
    /// Give up waiting and make the sandbox oneself: if one is due for this request, and `at_hand` has what it takes,
    /// which is asked under the pool's lock (with the estimate of the sandbox's memory) and so has to be quick.
    ///
    /// # Errors
    /// When it is not to be; then this waits as if nothing had been asked.
    pub(crate) fn claim<T>(
        mut self,
        generation: u64,
        at_hand: impl FnOnce(u64) -> Option<T>,
    ) -> Result<(Place<S>, T), Self> {
        let found = {
            let mut pool = self.shared.lock();
            let found = if pool.may_claim(self.id, generation, Instant::now()) {
                at_hand(pool.sandbox_bytes as u64)
            } else {
                None
            };
            if found.is_some() {
                pool.claim(self.id);
            }
            found
        };
        match found {
            Some(thing) => {
                self.handover = None;
                let shared = Arc::clone(&self.shared);
                Ok((Place { shared, generation, claimed: true, open: true }, thing))
            }
            None => Err(self),
        }
    }
}

impl<S: Sandbox> Future for Ticket<S> {
    type Output = Result<Lease<S>, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.get_mut();
        if mem::take(&mut ticket.wake) {
            ticket.shared.growth_wanted.notify_one();
        }
        let handover = ticket.handover.as_mut().expect("a ticket is not polled after it has ended");
        if let Poll::Ready(answer) = Pin::new(handover).poll(cx) {
            ticket.handover = None;
            return Poll::Ready(match answer {
                Ok(answer) => answer.map(|mut handover| handover.take()),
                // Every path answers or leaves the waiter in the queue; the queue itself is held by this ticket.
                Err(_) => Err(Refusal::Restarting),
            });
        }
        let deadline = ticket.deadline;
        let sleep = ticket.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let mut handover = ticket.handover.take().expect("it was there a moment ago");
        let in_queue = ticket.shared.lock().time_out(ticket.id);
        if !in_queue {
            // Someone has called this waiter up at the last moment: whatever was sent counts, and what is sent
            // from now on finds a closed door and goes home.
            handover.close();
            if let Ok(answer) = handover.try_recv() {
                return Poll::Ready(answer.map(|mut handover| handover.take()));
            }
            ticket.shared.lock().n_refused += 1;
        }
        Poll::Ready(Err(Refusal::QueueTimeout))
    }
}

impl<S, T> Pool<S, T> {
    fn time_out(&mut self, id: u64) -> bool {
        let in_queue = self.give_up_place(id);
        if in_queue {
            self.n_refused += 1;
        }
        in_queue
    }
}

impl<S: Sandbox> Drop for Ticket<S> {
    fn drop(&mut self) {
        if self.handover.is_some() {
            self.shared.lock().give_up_place(self.id);
        }
    }
}

impl<S: Sandbox> fmt::Debug for Ticket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Room reserved for a sandbox that is being made. Dropped without an outcome, the room is free again.
pub(crate) struct Place<S: Sandbox> {
    shared: Arc<Shared<S>>,
    generation: u64,
    /// The sandbox is for the request that makes it.
    claimed: bool,
    open: bool,
}

impl<S: Sandbox> Place<S> {
    /// The pool that it is in.
    pub(crate) fn pool(&self) -> SharedPool<S> {
        SharedPool(Arc::clone(&self.shared))
    }

    /// The sandbox is there, and stays with the request that has made it. That took `waited`; to load the function, a
    /// part of it, `load_time`.
    pub(crate) fn lease(mut self, sandbox: S, waited: Duration, load_time: Duration) -> Lease<S> {
        self.open = false;
        let others_wait = {
            let mut pool = self.shared.lock();
            pool.arrive(self.generation, self.claimed, Instant::now());
            pool.news = Some(Ok(load_time));
            !pool.waiters.is_empty()
        };
        // It is woken after this long in any case, so that the request need not pay for it.
        if others_wait || waited >= CHORES_AFTER {
            self.shared.growth_wanted.notify_one();
        }
        Lease::new(&self.shared, sandbox, self.generation, waited)
    }

    /// The sandbox is there.
    pub(crate) fn fill(mut self, sandbox: S) {
        self.open = false;
        let now = Instant::now();
        let onward = {
            let mut pool = self.shared.lock();
            pool.arrive(self.generation, self.claimed, now);
            pool.check_in(sandbox, self.generation, false, now)
        };
        self.shared.settle(onward, self.generation, now);
        if !self.shared.lock().waiters.is_empty() {
            // This was the probe, or more have come meanwhile.
            self.shared.growth_wanted.notify_one();
        }
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

#[cfg(test)]
mod tests;
