//! The way of a first call: the request makes its sandbox itself.
//!
//! A function without an idle sandbox needs a standby, memory and a place in its pool. When all three are at hand,
//! no actor has to be asked: each message would be a wake-up on another thread, and the whole way takes as long as
//! a few of these. The thread that has the request takes all three, puts the function's code into the standby, and
//! tells the pool what came of it ([`Opening`]). The lambda hears of it afterwards, from the pool.
//!
//! When something is missing, or there are packages to be seen to, the request waits in the pool's queue, and the
//! lambda makes the sandbox.

use std::sync::Arc;

use tokio::time::Instant;

use crate::evictor::Reservation;
use crate::lambda::Services;
use crate::pool::{Lease, Place, Ticket};
use crate::router::Route;
use crate::stats::WorkerStats;
use crate::world::{Code, LaunchError, World};
use crate::zygotes::Standbys;

/// Where what a first call needs is at hand. A clone is the same place.
pub struct AtHand<W: World> {
    standbys: Standbys<W>,
    services: Services<W>,
}

impl<W: World> Clone for AtHand<W> {
    fn clone(&self) -> Self {
        Self { standbys: self.standbys.clone(), services: self.services.clone() }
    }
}

/// A request that makes its sandbox itself: the standby to be used, and where to say what came of it.
pub struct First<W: World> {
    /// Give it the function's code.
    pub standby: W::Standby,
    /// Say how that went.
    pub opening: Opening<W>,
}

/// A place in the pool that waits for its sandbox. Dropped without a word, the place is free again.
pub struct Opening<W: World> {
    place: Place<W::Sandbox>,
    began: Instant,
    reservation: Reservation,
    refill: Refill<W>,
    stats: Arc<WorkerStats>,
}

/// Has the shelf filled up again, once, also when nobody says so.
struct Refill<W: World>(Option<Standbys<W>>);

impl<W: World> Drop for Refill<W> {
    fn drop(&mut self) {
        if let Some(standbys) = self.0.take() {
            standbys.say_taken();
        }
    }
}

impl<W: World> AtHand<W> {
    pub(crate) fn new(standbys: Standbys<W>, services: Services<W>) -> Self {
        Self { standbys, services }
    }

    /// What this request needs to make its sandbox itself, if it is the one who should, and all of it is there.
    ///
    /// # Errors
    /// When it is to wait like any other.
    pub fn take(&self, route: &Route<W>, ticket: Ticket<W::Sandbox>) -> Result<First<W>, Ticket<W::Sandbox>> {
        if !route.code.packages().is_empty() {
            return Err(ticket);
        }
        let class = route.code.class();
        let (place, (standby, reservation)) = ticket.claim(route.generation, |measured| {
            let reservation = self.services.ledger.try_reserve(self.services.estimate(measured))?;
            Some((self.standbys.take_ready(&class)?, reservation))
        })?;
        let opening = Opening {
            place,
            began: Instant::now(),
            reservation,
            refill: Refill(Some(self.standbys.clone())),
            stats: Arc::clone(&self.services.stats),
        };
        Ok(First { standby, opening })
    }
}

impl<W: World> Opening<W> {
    /// The sandbox is at work: now is the time to think of the next one.
    pub fn under_way(&mut self) {
        drop(Refill::<W>(self.refill.0.take()));
    }

    /// It is there, and this request's.
    #[must_use]
    pub fn opened(self, sandbox: W::Sandbox) -> Lease<W::Sandbox> {
        self.stats.sandboxes_started.bump();
        let lease = self.place.lease(sandbox, self.began.elapsed());
        // From now on the sandbox shows in the memory that is in use.
        drop(self.reservation);
        lease
    }

    /// There is none. Those who wait for the same may hear it as well.
    pub fn failed(self, error: &LaunchError) {
        self.stats.launches_failed.bump();
        self.place.fail(error);
    }
}
