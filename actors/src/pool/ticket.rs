//! A request's place in the queue for a sandbox.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::lease::{Handover, Lease};
use super::lock::Shared;
use super::place::Place;
use super::refusal::Refusal;
use crate::world::Sandbox;

/// A place in the queue: a future that ends with a sandbox or a refusal. Dropping it gives the place up.
pub struct Ticket<S: Sandbox> {
    shared: Arc<Shared<S>>,
    pub(super) id: u64,
    deadline: Instant,
    pub(super) handover: Option<oneshot::Receiver<Result<Handover<S>, Refusal>>>,
    /// The lambda has to be woken when this one begins to wait: not before, since it may [`claim`](Self::claim).
    wake: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<S: Sandbox> Ticket<S> {
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        id: u64,
        deadline: Instant,
        handover: oneshot::Receiver<Result<Handover<S>, Refusal>>,
        wake: bool,
    ) -> Self {
        Self { shared, id, deadline, handover: Some(handover), wake, sleep: None }
    }

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
                Ok((Place::claimed(shared, generation), thing))
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
        let (in_queue, lateness) = {
            let mut pool = ticket.shared.lock();
            (pool.time_out(ticket.id), pool.lateness())
        };
        if !in_queue {
            // Someone has called this waiter up at the last moment: whatever was sent counts, and what is sent
            // from now on finds a closed door and goes home.
            handover.close();
            if let Ok(answer) = handover.try_recv() {
                return Poll::Ready(answer.map(|mut handover| handover.take()));
            }
            ticket.shared.lock().n_refused += 1;
        }
        Poll::Ready(Err(lateness))
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
