//! A lane: a sandbox on loan with requests in flight in it, and who is told what when something happens to one of them.
//!
//! ```text
//!   first ──▶ join ──▶ … ──▶ finish ──▶ … ──▶ finish: home
//!                │             │
//!                │             └ goes on (`alone`): those behind it are taken back
//!                ├ long (`look`): those behind it are taken back, and nobody joins any more
//!                ├ leaves (`leave`, `go_on`): its answer is nobody's; with the last one, what has not begun is taken back
//!                └ dies, is late, is nonsense (`break_up`): what has not begun is taken back, the others are lost
//! ```
//!
//! Whoever was taken back has not been seen by the sandbox, and may run elsewhere. Whoever is lost may have run.

use tokio::time::Instant;

use crate::flight::{Answered, Flight};
use crate::pool::{Lease, SharedPool};
use crate::world::{Line, Sandbox};

/// See the module's text. `T` is how the one who waits for an answer is reached.
#[derive(Debug)]
pub struct Lane<S: Sandbox, T> {
    /// `None`: the lane is at its end.
    lease: Option<Lease<S>>,
    flight: Flight<T>,
    is_open: bool,
}

/// What is left of a lane whose sandbox must go.
#[derive(Debug)]
pub struct BrokenUp<S: Sandbox, T> {
    /// To be discarded.
    pub lease: Lease<S>,
    /// The sandbox has not seen these, and will not.
    pub taken_back: Vec<T>,
    /// It may have seen these.
    pub lost: Vec<T>,
}

/// Who sees to the answers that are still to come.
#[derive(Debug)]
pub enum Next<'a, S: Sandbox, T> {
    /// He reads.
    Reader(&'a T),
    /// Nobody waits for the answer of what runs: it is to be read for nobody.
    Nobody,
    /// Nothing runs.
    Home(Lease<S>),
    /// The lane is at its end, or somebody sees to it already.
    Over,
}

/// An answer was whole.
#[derive(Debug)]
pub enum Finished<S: Sandbox> {
    /// It was the last one in flight: the lease is to be checked in with it.
    Last(Lease<S>, Answered),
    /// There are more, or the lane is at its end.
    More,
}

impl<S: Sandbox + Line, T> Lane<S, T> {
    /// A sandbox that was just leased, and that a first request was sent to.
    #[must_use]
    pub fn first(lease: Lease<S>, number: u32, reach: T, now: Instant) -> Self {
        Self { lease: Some(lease), flight: Flight::new(number, reach, now), is_open: true }
    }

    /// Whether one more may be sent. `n_waiting_here`: of those who wait in the pool, so many are this thread's.
    #[must_use]
    pub fn has_room(&self, pool: &SharedPool<S>, n_waiting_here: usize, now: Instant) -> bool {
        let others_wait = pool.n_waiting() > n_waiting_here;
        self.is_open
            && self.lease.as_ref().is_some_and(Lease::is_current)
            && self.flight.may_join(pool.depth(), others_wait, || self.front_has_begun(), now)
    }

    /// One more was sent.
    pub fn join(&mut self, number: u32, reach: T, now: Instant) {
        self.flight.join(number, reach, now);
    }

    /// The sandbox. `None`: the lane is at its end.
    pub fn lease(&mut self) -> Option<&mut Lease<S>> {
        self.lease.as_mut()
    }

    /// Who waits for its answers.
    #[must_use]
    pub fn flight(&self) -> &Flight<T> {
        &self.flight
    }

    /// Whether the sandbox has read the request in front. If not, it is no long call: the sandbox gets no processor.
    #[must_use]
    pub fn front_has_begun(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.first_unread() != self.flight.front())
    }

    /// Looks whether the one in front is long. Gives those who stood behind it, and have been taken back.
    pub fn look(&mut self) -> Vec<T> {
        if self.flight.look() && self.front_has_begun() { self.take_back() } else { Vec::new() }
    }

    /// Nobody stands behind the one that runs any longer, and nobody will. Gives those who did.
    pub fn take_back(&mut self) -> Vec<T> {
        self.is_open = false;
        let Some(lease) = &mut self.lease else { return Vec::new() };
        let numbers = lease.take_back();
        self.flight.taken_back(&numbers)
    }

    /// The answer in front was read for nobody.
    pub fn passed_over(&mut self, now: Instant) {
        if let (Some(answered), Some(lease)) = (self.flight.answered(now), &mut self.lease) {
            lease.served(answered);
        }
    }

    /// The answer in front is there, and whole.
    pub fn finish(&mut self, now: Instant) -> Finished<S> {
        let Some(answered) = self.flight.answered(now) else { return Finished::More };
        if self.flight.is_empty() {
            return self.lease.take().map_or(Finished::More, |lease| Finished::Last(lease, answered));
        }
        if let Some(lease) = &mut self.lease {
            lease.served(answered);
        }
        Finished::More
    }

    /// Nobody waits for this answer any more.
    pub fn leave(&mut self, number: u32) {
        self.flight.leave(number);
    }

    /// Who sees to the next answer. If nobody waits for any, what has not begun need not begin.
    pub fn go_on(&mut self) -> Next<'_, S, T> {
        if self.lease.is_none() {
            return Next::Over;
        }
        if self.flight.reader().is_none() {
            // Nobody waits for these.
            drop(self.take_back());
            if self.flight.is_empty() {
                return self.lease.take().map_or(Next::Over, Next::Home);
            }
        }
        self.flight.reader().map_or(Next::Nobody, Next::Reader)
    }

    /// For an answer that goes on, which is the one in front: takes back what stands behind it, and the lease out of the
    /// lane, with the time since when it has been running. No lease: the sandbox has begun with the next one, so all of
    /// the answer is there.
    pub fn alone(&mut self) -> (Vec<T>, Option<(Lease<S>, Instant)>) {
        let taken_back = self.take_back();
        if self.flight.len() > 1 {
            return (taken_back, None);
        }
        let since = self.flight.front_since();
        let lease = self.lease.take();
        if lease.is_some() {
            drop(self.flight.end());
        }
        (taken_back, lease.map(|lease| (lease, since)))
    }

    /// The end of the lane: its sandbox must go.
    pub fn break_up(&mut self) -> Option<BrokenUp<S, T>> {
        self.is_open = false;
        let mut lease = self.lease.take()?;
        let numbers = lease.take_back();
        let taken_back = self.flight.taken_back(&numbers);
        Some(BrokenUp { lease, taken_back, lost: self.flight.end() })
    }

    /// The lease, when nobody waits for anything any more.
    pub fn end(&mut self) -> Option<Lease<S>> {
        self.lease.take()
    }
}

#[cfg(test)]
mod tests;
