//! The standbys that wait, and how many should.
//!
//! ```text
//!             begin           stock              take
//!   (nothing) ─────▶ making ────────▶ ready ───────────────▶ (a sandbox's)
//!                      │ end            │ tidy, release
//!                      ▼                ▼
//!                  (nothing)        (dropped)
//! ```
//!
//! One shelf for each key, whatever tells standbys apart. A shelf's target is what was asked of it in the busiest
//! burst of the last [`MEMORY`] (to twice that): what comes back is then served without waiting, and what does
//! not come back is given up. A burst is all that is asked for until the shelf is full again: so its length follows
//! from how fast this machine makes standbys, and a trickle that is made up for each time counts as one. Never less
//! than the shelf's `least`, and within the bounds of [`ShelfLimits`].
//!
//! [`Shelves`] is plain data and decides; [`SharedShelves`] puts it behind a mutex, so that whoever needs a standby
//! takes it without asking the actor that fills the shelves. Standbys are dropped outside of the mutex.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::world::Standby;

/// How long a burst is remembered: one to two of these.
pub const MEMORY: Duration = Duration::from_secs(30);

/// Bounds of all shelves.
#[derive(Debug, Clone, Copy)]
pub struct ShelfLimits {
    /// Standbys of any one key that wait at most.
    pub each_max: usize,
    /// Standbys of all keys that wait or are being made at most.
    pub total_max: usize,
}

/// The decisions about standbys, as plain data.
#[derive(Debug)]
struct Shelves<K, T> {
    limits: ShelfLimits,
    shelves: HashMap<K, Shelf<T>>,
    closed: bool,
}

#[derive(Debug)]
struct Shelf<T> {
    /// The newest last, and taken first: its pages are still in the processor's caches.
    ready: Vec<T>,
    n_making: usize,
    least: usize,
    demand: Demand,
}

/// How many were asked for in the busiest burst that is remembered.
#[derive(Debug)]
struct Demand {
    n_in_burst: usize,
    window_began: Instant,
    peak: usize,
    peak_before: usize,
}

impl Demand {
    fn new(now: Instant) -> Self {
        Self { n_in_burst: 0, window_began: now, peak: 0, peak_before: 0 }
    }

    fn record(&mut self, now: Instant) {
        self.forget_old(now);
        self.n_in_burst += 1;
        self.peak = self.peak.max(self.n_in_burst);
    }

    fn peak(&self) -> usize {
        self.peak.max(self.peak_before)
    }

    fn forget_old(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.window_began);
        if age >= MEMORY {
            self.peak_before = if age < 2 * MEMORY { self.peak } else { 0 };
            self.peak = 0;
            self.window_began = now;
        }
    }
}

impl<T> Shelf<T> {
    fn target(&self, limits: ShelfLimits) -> usize {
        self.demand.peak().max(self.least).min(limits.each_max)
    }

    fn end_burst(&mut self, limits: ShelfLimits) {
        if self.ready.len() >= self.target(limits) {
            self.demand.n_in_burst = 0;
        }
    }

    fn n_missing(&self, limits: ShelfLimits) -> usize {
        self.target(limits).saturating_sub(self.ready.len() + self.n_making)
    }
}

/// A standby that is to be made ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted<K> {
    /// Of this kind.
    pub(crate) key: K,
    /// The shelf is less than half full: the next burst is not to find it empty.
    pub(crate) urgent: bool,
}

impl<K: Eq + Hash + Clone, T> Shelves<K, T> {
    fn shelf(&mut self, key: &K, now: Instant) -> &mut Shelf<T> {
        self.shelves.entry(key.clone()).or_insert_with(|| Shelf {
            ready: Vec::new(),
            n_making: 0,
            least: 0,
            demand: Demand::new(now),
        })
    }

    fn n_total(&self) -> usize {
        self.shelves.values().map(|shelf| shelf.ready.len() + shelf.n_making).sum()
    }

    fn n_making(&self) -> usize {
        self.shelves.values().map(|shelf| shelf.n_making).sum()
    }

    /// What is to be made next, so that the shelves come nearer to their targets: of the kind that lacks most.
    fn wanted(&self) -> Option<Wanted<K>> {
        if self.closed || self.n_total() >= self.limits.total_max {
            return None;
        }
        let (key, shelf) = self
            .shelves
            .iter()
            .filter(|(_, shelf)| shelf.n_missing(self.limits) > 0)
            .max_by_key(|(_, shelf)| shelf.n_missing(self.limits))?;
        let urgent = 2 * shelf.ready.len() < shelf.target(self.limits);
        Some(Wanted { key: key.clone(), urgent })
    }

    /// Puts one on its shelf, or gives it back when there is no use for it.
    fn stock(&mut self, key: &K, standby: T, now: Instant) -> Option<T> {
        let (closed, limits) = (self.closed, self.limits);
        let shelf = self.shelf(key, now);
        // One that was made for somebody who has gone is kept, though nobody may ask again: it is paid for.
        if closed || shelf.ready.len() >= shelf.target(limits).max(1) {
            return Some(standby);
        }
        shelf.ready.push(standby);
        shelf.end_burst(limits);
        None
    }

    /// Takes out what is more than the targets by now, and those of which `is_alive` says no.
    fn tidy(&mut self, is_alive: impl Fn(&T) -> bool, now: Instant) -> Vec<T> {
        let mut out = Vec::new();
        let limits = self.limits;
        for shelf in self.shelves.values_mut() {
            shelf.demand.forget_old(now);
            let (alive, dead): (Vec<T>, Vec<T>) =
                std::mem::take(&mut shelf.ready).into_iter().partition(&is_alive);
            shelf.ready = alive;
            out.extend(dead);
            let n_surplus = shelf.ready.len().saturating_sub(shelf.target(limits));
            out.extend(shelf.ready.drain(..n_surplus));
            shelf.end_burst(limits);
        }
        self.shelves.retain(|_, shelf| shelf.target(limits) > 0 || shelf.n_making > 0);
        out
    }

    fn release(&mut self) -> Vec<T> {
        self.shelves.values_mut().flat_map(|shelf| shelf.ready.drain(..)).collect()
    }
}

/// Shelves that several threads use. A clone is the same shelves.
pub struct SharedShelves<K, T>(Arc<Shared<K, T>>);

struct Shared<K, T> {
    shelves: Mutex<Shelves<K, T>>,
    taken: Notify,
}

impl<K, T> Clone for SharedShelves<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Clone, T: Standby> SharedShelves<K, T> {
    /// Nothing lies there yet.
    #[must_use]
    pub fn new(limits: ShelfLimits) -> Self {
        let shelves = Shelves { limits, shelves: HashMap::new(), closed: false };
        Self(Arc::new(Shared { shelves: Mutex::new(shelves), taken: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Shelves<K, T>> {
        // A panic under the lock is a bug of this file; the counts are right before and after each call.
        self.0.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At least so many of these are to be kept, asked for or not.
    pub(crate) fn keep(&self, key: &K, least: usize) {
        self.lock().shelf(key, Instant::now()).least = least;
    }

    /// Nobody makes any: whoever did has ended.
    pub(crate) fn forget_makings(&self) {
        for shelf in self.lock().shelves.values_mut() {
            shelf.n_making = 0;
        }
    }

    /// One of these, if it is there. Not there, nothing has been asked: ask with [`demand`](Self::demand).
    pub(crate) fn take_ready(&self, key: &K) -> Option<T> {
        let now = Instant::now();
        loop {
            let standby = {
                let mut shelves = self.lock();
                let shelf = shelves.shelves.get_mut(key)?;
                let standby = shelf.ready.pop()?;
                shelf.demand.record(now);
                standby
            };
            if standby.is_alive() {
                return Some(standby);
            }
        }
    }

    /// One of these, if it is there. If not, it is remembered that one was wanted.
    pub(crate) fn demand(&self, key: &K) -> Option<T> {
        let ready = self.take_ready(key);
        if ready.is_none() {
            let now = Instant::now();
            self.lock().shelf(key, now).demand.record(now);
        }
        ready
    }

    /// Puts back what was taken and turned out not to be needed, or something new.
    pub(crate) fn stock(&self, key: &K, standby: T) {
        let surplus = self.lock().stock(key, standby, Instant::now());
        drop(surplus);
    }

    /// What is to be made next.
    pub(crate) fn wanted(&self) -> Option<Wanted<K>> {
        self.lock().wanted()
    }

    /// Somebody makes one of these; [`end`](Self::end) says that it is over, well or not.
    pub(crate) fn begin(&self, key: &K) {
        self.lock().shelf(key, Instant::now()).n_making += 1;
    }

    /// See [`begin`](Self::begin).
    pub(crate) fn end(&self, key: &K) {
        let mut shelves = self.lock();
        let shelf = shelves.shelf(key, Instant::now());
        shelf.n_making = shelf.n_making.saturating_sub(1);
    }

    /// How many are being made, of this key.
    pub(crate) fn n_making_of(&self, key: &K) -> usize {
        self.lock().shelves.get(key).map_or(0, |shelf| shelf.n_making)
    }

    /// How many are being made.
    pub(crate) fn n_making(&self) -> usize {
        self.lock().n_making()
    }

    /// Gives up what died, and what is not expected to be asked for any more.
    pub(crate) fn tidy(&self) {
        let out = self.lock().tidy(T::is_alive, Instant::now());
        drop(out);
    }

    /// Gives up those of the kinds that nobody can be given any more, and forgets that they were asked for.
    pub(crate) fn discard(&self, of: impl Fn(&K) -> bool) {
        let out: Vec<T> = {
            let mut shelves = self.lock();
            let gone = shelves.shelves.iter_mut().filter(|(key, _)| of(key));
            gone.flat_map(|(_, shelf)| {
                shelf.demand = Demand::new(Instant::now());
                shelf.ready.drain(..)
            })
            .collect()
        };
        drop(out);
    }

    /// Gives up all that wait, and says how many that were.
    pub(crate) fn release(&self) -> usize {
        let out = self.lock().release();
        out.len()
    }

    /// Gives up all that wait, and keeps none from now on.
    pub(crate) fn close(&self) {
        let out = {
            let mut shelves = self.lock();
            shelves.closed = true;
            shelves.release()
        };
        drop(out);
    }

    /// How many wait, by key.
    #[must_use]
    pub fn waiting(&self) -> Vec<(K, usize)> {
        let shelves = self.lock();
        shelves.shelves.iter().map(|(key, shelf)| (key.clone(), shelf.ready.len())).collect()
    }

    /// Tell whoever fills the shelves that something was taken. It costs a wake-up, so it is said when whoever has
    /// taken it has nothing better to do.
    pub(crate) fn say_taken(&self) {
        self.0.taken.notify_one();
    }

    /// Wait until something was taken.
    pub(crate) async fn taken(&self) {
        self.0.taken.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = Shelves<&'static str, u32>;

    fn shelves() -> Plain {
        Shelves {
            limits: ShelfLimits { each_max: 16, total_max: 24 },
            shelves: HashMap::new(),
            closed: false,
        }
    }

    fn ask(shelves: &mut Plain, key: &'static str, n: usize, now: Instant) {
        for _ in 0..n {
            shelves.shelf(&key, now).demand.record(now);
        }
    }

    fn target(shelves: &mut Plain, key: &'static str, now: Instant) -> usize {
        let limits = shelves.limits;
        shelves.shelf(&key, now).demand.forget_old(now);
        shelves.shelf(&key, now).target(limits)
    }

    fn fill(shelves: &mut Plain, key: &'static str, now: Instant) {
        let limits = shelves.limits;
        while shelves.shelf(&key, now).n_missing(limits) > 0 {
            assert_eq!(shelves.stock(&key, 0, now), None);
        }
    }

    #[test]
    fn the_target_is_the_busiest_burst_that_is_remembered() {
        let mut shelves = shelves();
        let mut now = Instant::now();
        shelves.shelf(&"plain", now).least = 4;
        assert_eq!(target(&mut shelves, "plain", now), 4);
        ask(&mut shelves, "plain", 9, now);
        fill(&mut shelves, "plain", now);
        ask(&mut shelves, "plain", 3, now);
        assert_eq!(target(&mut shelves, "plain", now), 9);
        now += MEMORY;
        assert_eq!(target(&mut shelves, "plain", now), 9, "remembered for one to two of the windows");
        now += MEMORY;
        assert_eq!(target(&mut shelves, "plain", now), 4);
    }

    #[test]
    fn a_trickle_that_is_made_up_for_keeps_one_ready_and_a_flood_no_more_than_the_bound() {
        let mut shelves = shelves();
        let now = Instant::now();
        for _ in 0..20 {
            shelves.shelf(&"trickle", now).ready.pop();
            ask(&mut shelves, "trickle", 1, now);
            fill(&mut shelves, "trickle", now);
        }
        assert_eq!(target(&mut shelves, "trickle", now), 1);
        ask(&mut shelves, "flood", 1_000, now);
        assert_eq!(target(&mut shelves, "flood", now), 16);
    }

    #[test]
    fn what_lacks_most_is_made_first_and_within_the_bound_of_all() {
        let mut shelves = shelves();
        let now = Instant::now();
        ask(&mut shelves, "a", 10, now);
        ask(&mut shelves, "b", 100, now);
        assert_eq!(shelves.wanted(), Some(Wanted { key: "b", urgent: true }));
        let mut n_made = 0;
        while let Some(Wanted { key, .. }) = shelves.wanted() {
            assert_eq!(shelves.stock(&key, n_made, now), None);
            n_made += 1;
        }
        assert_eq!(n_made, 24, "and not 26");
    }

    #[test]
    fn a_shelf_that_is_half_full_can_wait_a_moment() {
        let mut shelves = shelves();
        let now = Instant::now();
        ask(&mut shelves, "a", 4, now);
        let urgent = |shelves: &Plain| shelves.wanted().map(|wanted| wanted.urgent);
        assert_eq!(urgent(&shelves), Some(true));
        for i in 0..2 {
            assert_eq!(shelves.stock(&"a", i, now), None);
        }
        assert_eq!(urgent(&shelves), Some(false));
        shelves.shelf(&"a", now).n_making = 2;
        assert_eq!(shelves.wanted(), None, "those under way count");
    }

    #[test]
    fn surplus_and_dead_ones_are_given_up_and_empty_shelves_forgotten() {
        let mut shelves = shelves();
        let now = Instant::now();
        ask(&mut shelves, "a", 4, now);
        for i in 0..4 {
            assert_eq!(shelves.stock(&"a", i, now), None);
        }
        assert_eq!(shelves.stock(&"a", 4, now), Some(4), "there are enough");
        assert_eq!(shelves.tidy(|i| *i != 2, now), [2]);
        assert_eq!(shelves.tidy(|_| true, now + 2 * MEMORY), [0, 1, 3]);
        assert!(shelves.shelves.is_empty());
    }
}
