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
//! `Pool` (`state`) is plain data and decides, each kind of decision in a file: `lending`, `growth`, `idle`.
//! [`SharedPool`] puts it behind a mutex (`lock`), so that HTTP threads lease and check in without asking the lambda's
//! actor, whose part is growth, freezing, release and generations. Sandboxes are frozen, thawed, measured and dropped
//! outside of the mutex. What others hold of a pool gives itself back: a [`Lease`], a [`Ticket`], a `Place`.
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
//! * Each call takes a new sandbox, and there is none for the next one.
//! * There are fewer than `min_warm`, and nobody waits: one when it is this function's turn, if memory has room for it without
//!   anybody having to give up another. When it has not, or has taken one back, not for [`WARM_PAUSE`], doubling.
//!
//! A request that is the reason for one may make it itself ([`Ticket::claim`]): then nobody else does, and nobody
//! else gets it.
//!
//! Always within `max_instances`, which counts sandboxes that still serve an old generation, too: whoever
//! sets it to 1 means it. After a launch has failed, growth pauses, from [`GROWTH_PAUSE`] doubling.

mod figures;
mod glance;
mod growth;
mod idle;
mod lease;
mod lending;
mod lock;
mod place;
mod refusal;
mod service;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod ticket;

pub use figures::Figures;
pub(crate) use figures::{IdleOne, Idleness};
pub use growth::{GROWTH_PAUSE, GROWTH_PAUSE_MAX, WAIT_TARGET, WARM_PAUSE, WARM_PAUSE_MAX};
pub(crate) use idle::TEND_PAUSE_MIN;
pub use lease::{Discard, Lease};
pub use lending::Asker;
pub(crate) use place::Place;
pub use refusal::{Closed, Refusal};
pub(crate) use shared::Reserved;
pub use shared::{Leasing, PoolKey, SharedPool};
pub use ticket::Ticket;
