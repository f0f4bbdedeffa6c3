//! Who gives memory back when it is tight.
//!
//! Memory is tight when what is used and promised exceeds [`TIGHT_SHARE`] of the pool, or when the machine
//! has less left than [`SPARE_SHARE`] of it; when the kernel says that programs wait for memory, than twice as much. Then, in
//! this order, and only as far as needed:
//!
//! 1. idle sandboxes are frozen, so that they touch no memory, and the kernel takes back what it can of them;
//! 2. if that was not enough after [`MILD_MEANS_TAKE`], or the machine is short, or a new sandbox waits for room: idle sandboxes are
//!    given up, those first that are worth least ([`gdsf`](crate::gdsf)). As long as only the mark is exceeded, each of them first
//!    has as long to give back what the kernel can take;
//! 3. if there are not enough of these, and it is not only the mark that is exceeded: standbys that wait, and then the zygotes
//!    that pay least, one at a time;
//! 4. new sandboxes are refused, with the reason;
//! 5. if the machine would die otherwise: a busy sandbox is ended ([`emergency`]).
//!
//! Before that a busy sandbox is never taken.
//!
//! A lambda that wants another sandbox reserves its memory first: with memory to spare straight from the
//! [`Ledger`], else by [`NeedRoom`], which waits a moment for others to give up theirs. So what is used and
//! what is being made never exceed the pool, as far as estimates hold.

mod emergency;
mod ledger;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, StreamHandler};
use futures_util::stream;
use slog::{Logger, debug, error, info, warn};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::gdsf::{Candidate, Gdsf};
use crate::lambda;
use crate::link::Link;
use crate::monitor::{Crash, Monitor};
use crate::pool::{IdleOne, Idleness};
use crate::router::{Route, Routes};
use crate::stats::WorkerStats;
use crate::world::{Gauge, MemoryReading, World};
use crate::zygotes::{self, Zygotes};
use emergency::Emergency;
pub use emergency::OUT_FOR;
pub use ledger::{Ledger, Reservation};

/// Reserve memory for a sandbox that is about to be made.
#[derive(Debug, Message)]
#[rtype(result = "Result<Reservation, NoRoom>")]
pub struct NeedRoom {
    /// The estimate.
    pub bytes: u64,
}

/// The last reading of memory.
#[derive(Debug, Message)]
#[rtype(result = "MemoryReading")]
pub struct Memory;

/// Why there is no memory for another sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Nothing idle is left to be given up.
    #[error(
        "memory is full: {used_mb} MB of {pool_mb} MB are in use, and {available_mb} MB are left on the machine"
    )]
    Full {
        /// In use by sandboxes, in MB.
        used_mb: u64,
        /// What they may use, in MB.
        pool_mb: u64,
        /// Left on the machine, in MB.
        available_mb: u64,
    },
    /// Too many wait for room already.
    #[error("memory is full, and many sandboxes wait for room")]
    Busy,
}

/// The share of the pool above which memory is tight; the fifth above it is for bursts, while idle sandboxes
/// are given up.
pub const TIGHT_SHARE: f64 = 0.8;
/// The share of the pool up to which a standby is put to use without asking: the memory that it has is in the reading, so that all
/// that is promised twice is what is left to its function. Above it, whoever wants one waits for room.
pub const READY_SHARE: f64 = 0.95;
/// The share of the pool up to which sandboxes are made only to be kept warm (`min_warm`): the tenth above it, up to
/// [`TIGHT_SHARE`], is for calls, so that they find room without anything having to be given up.
pub const WARM_SHARE: f64 = 0.7;
/// Memory that must be left on the machine, as a share of the pool.
pub const SPARE_SHARE: f64 = 0.05;
/// Memory that is left on the machine by what is only kept warm, as a share of the pool: more than is missing when the kernel says that
/// programs wait for memory, so that this is no reason to give it up at once.
pub const WARM_SPARE_SHARE: f64 = 3.0 * SPARE_SHARE;
/// How often memory is read: often enough to see a burst, seldom enough to cost nothing.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is read while someone waits for room.
pub const LOOK_EVERY_WAITING: Duration = Duration::from_millis(10);
/// How long to wait for room. Dead sandboxes give their memory back within a few ms; what is not there after
/// this is not there.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// How many may wait for room.
pub const ROOM_WAITERS_MAX: usize = 1_024;
/// How long a sandbox must have been idle to be frozen for memory that is tight already: one that is called all the time is idle for
/// moments, and is not to be frozen in each.
const MILD_MEANS_AFTER: Duration = LOOK_EVERY;
/// How long freezing and reclaiming may take before idle sandboxes are given up, as long as only the mark is exceeded and nobody
/// waits: a busy machine takes a while to take back what thousands have read.
pub const MILD_MEANS_TAKE: Duration = Duration::from_secs(1);
/// The kernel's word counts so often at most: it is a look at all functions.
const PRESSED_PAUSE: Duration = Duration::from_millis(500);
/// What a cold start is held to take before any was measured.
const COLD_UNKNOWN: Duration = Duration::from_millis(5);
/// How long given-up memory is expected to come back before more is taken for the same need.
const RELEASE_TAKES: Duration = Duration::from_millis(500);

fn part_of(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share) as u64
}

/// The keeper of the ledger.
pub struct Evictor<W: World> {
    gauge: W::Gauge,
    ledger: Ledger,
    routes: Routes<W>,
    zygotes: Link<Zygotes<W>>,
    sandbox_bytes: u64,
    last: MemoryReading,
    /// Memory was tight at the last look, and has been since then.
    tight_since: Option<Instant>,
    reclaim: bool,
    gdsf: Gdsf,
    emergency: Emergency,
    /// When standbys or a zygote were asked for last, since memory is tight.
    spare_asked: Option<Instant>,
    /// What was given up lately and may not have come back yet.
    releasing: VecDeque<(Instant, u64)>,
    waiters: VecDeque<Waiter>,
    hurrying: bool,
    stats: Arc<WorkerStats>,
    log: Logger,
    _monitor: Monitor,
}

/// What is to be given up, in bytes.
#[derive(Debug, Clone, Copy)]
struct Excess {
    /// So that the pool is below its mark, too.
    over_mark: u64,
    /// So that those who wait have room, and the machine some to spare. Part of `over_mark`.
    over_brim: u64,
}

/// A lambda with idle sandboxes.
type IdleLambda<W> = (Arc<Route<W>>, Idleness);

/// The kernel says that programs wait for memory.
struct Pressed;

struct Waiter {
    bytes: u64,
    deadline: Instant,
    reach: oneshot::Sender<Result<Reservation, NoRoom>>,
}

/// What an [`Evictor`] needs from its surroundings.
pub struct Surroundings<W: World> {
    /// Tells how much memory is in use.
    pub gauge: W::Gauge,
    /// Shared with the lambdas.
    pub ledger: Ledger,
    /// Whom it may ask for memory.
    pub routes: Routes<W>,
    /// Who gives up standbys.
    pub zygotes: Link<Zygotes<W>>,
    /// What a sandbox is held to take before any was measured.
    pub sandbox_bytes: u64,
    /// Whether the kernel is asked to take back what it can of frozen sandboxes.
    pub reclaim: bool,
    /// Where it counts.
    pub stats: Arc<WorkerStats>,
}

impl<W: World> Evictor<W> {
    /// Reads memory once, so that the ledger is true from the start.
    #[must_use]
    pub fn new(surroundings: Surroundings<W>, log: Logger, monitor: Monitor) -> Self {
        let Surroundings { gauge, ledger, routes, zygotes, sandbox_bytes, reclaim, stats } = surroundings;
        let last = ledger.read(&gauge);
        Self {
            gauge,
            ledger,
            routes,
            zygotes,
            sandbox_bytes,
            last,
            tight_since: None,
            reclaim,
            gdsf: Gdsf::default(),
            emergency: Emergency::default(),
            spare_asked: None,
            releasing: VecDeque::new(),
            waiters: VecDeque::new(),
            hurrying: false,
            stats,
            log,
            _monitor: monitor,
        }
    }

    /// `pressed`: the kernel says that programs wait for memory.
    fn look(&mut self, pressed: bool) {
        self.last = self.ledger.read(&self.gauge);
        self.grant();
        let now = Instant::now();
        let excess = self.excess(pressed, now);
        if excess.over_mark == 0 {
            self.tight_since = None;
            self.spare_asked = None;
            self.emergency.look(false, now);
            if pressed {
                // It may be one sandbox that is at its own limit: nobody else is to pay for that with pages to be read again.
                freeze_idle(&self.idle_lambdas(), now, Duration::ZERO, false);
            }
            return;
        }
        let only_mark = excess.over_brim == 0;
        let idle = self.idle_lambdas();
        debug!(self.log, "more memory is in use than should be"; "over_mark" => excess.over_mark,
            "over_brim" => excess.over_brim, "n_idle_lambdas" => idle.len(), "n_waiting" => self.waiters.len());
        if let Some(since) = self.tight_since {
            // Those that were busy then, or have been since.
            freeze_idle(&idle, now, MILD_MEANS_AFTER, self.reclaim);
            if only_mark && now.saturating_duration_since(since) < MILD_MEANS_TAKE {
                return;
            }
        } else {
            self.tight_since = Some(now);
            let n_frozen = freeze_idle(&idle, now, Duration::ZERO, self.reclaim);
            info!(self.log, "memory is tight"; "used_mb" => self.last.used_bytes >> 20,
                "pool_mb" => self.last.pool_bytes >> 20, "available_mb" => self.last.available_bytes >> 20,
                "n_frozen" => n_frozen);
            if self.waiters.is_empty() {
                return;
            }
        }
        let missing = self.release(&idle, excess.over_mark, only_mark, now);
        if missing > 0 && excess.over_brim > 0 {
            self.release_spare(now);
        }
        let is_out = idle.is_empty() && self.last.available_bytes < emergency::floor(self.last.pool_bytes);
        if self.emergency.look(is_out, now) {
            self.end_greediest();
        }
    }

    /// How much is to be given up.
    fn excess(&mut self, pressed: bool, now: Instant) -> Excess {
        while self
            .releasing
            .front()
            .is_some_and(|(when, _)| now.saturating_duration_since(*when) >= RELEASE_TAKES)
        {
            self.releasing.pop_front();
        }
        let MemoryReading { used_bytes, pool_bytes, available_bytes } = self.last;
        if pool_bytes == 0 {
            return Excess { over_mark: 0, over_brim: 0 };
        }
        let wanted: u64 = self.waiters.iter().map(|waiter| waiter.bytes).sum();
        let releasing: u64 = self.releasing.iter().map(|(_, bytes)| bytes).sum();
        let used = used_bytes.saturating_add(self.ledger.promised());
        // Whoever waits is let in up to the brim, so room for them is made below it, not below the mark.
        let over_pool = used.saturating_sub(part_of(pool_bytes, TIGHT_SHARE));
        let over_for_waiters = used.saturating_add(wanted).saturating_sub(pool_bytes);
        let spare_share = if pressed { 2.0 * SPARE_SHARE } else { SPARE_SHARE };
        let spare = part_of(pool_bytes, spare_share).saturating_add(wanted);
        let over_machine = spare.saturating_sub(available_bytes);
        let over_brim = over_for_waiters.max(over_machine);
        Excess {
            over_mark: over_pool.max(over_brim).saturating_sub(releasing),
            over_brim: over_brim.saturating_sub(releasing),
        }
    }

    fn grant(&mut self) {
        let now = Instant::now();
        while let Some(waiter) = self.waiters.front() {
            let granted = if waiter.reach.is_closed() {
                None
            } else if let Some(reservation) = self.ledger.reserve_within(1.0, waiter.bytes) {
                Some(Ok(reservation))
            } else if waiter.deadline <= now {
                self.stats.room_refused.bump();
                debug!(self.ledger.log(), "nobody gave up memory in time"; "bytes" => waiter.bytes);
                Some(Err(self.no_room()))
            } else {
                return;
            };
            if let (Some(waiter), Some(granted)) = (self.waiters.pop_front(), granted) {
                // One that has gone drops its reservation.
                let _ = waiter.reach.send(granted);
            }
        }
    }

    fn no_room(&self) -> NoRoom {
        const MB: u64 = 1 << 20;
        NoRoom::Full {
            used_mb: self.last.used_bytes.saturating_add(self.ledger.promised()) / MB,
            pool_mb: self.last.pool_bytes / MB,
            available_mb: self.last.available_bytes / MB,
        }
    }

    /// Those with idle sandboxes.
    fn idle_lambdas(&self) -> Vec<IdleLambda<W>> {
        let idle = self.routes.all().into_iter().map(|route| {
            let idleness = route.pool.idleness();
            (route, idleness)
        });
        idle.filter(|(_, idleness)| !idleness.idle.is_empty()).collect()
    }

    /// Whether it has had the time to give back what the kernel can take of it.
    fn was_reclaimed(&self, one: &IdleOne, now: Instant) -> bool {
        let asked = one.reclaimed.is_some_and(|then| now.saturating_duration_since(then) >= MILD_MEANS_TAKE);
        asked || !self.reclaim
    }

    /// Have idle sandboxes given up, those first that are worth least; or, if only the mark is exceeded, of those that have been
    /// reclaimed. Gives what is still to be given up, in bytes.
    fn release(&mut self, idle: &[IdleLambda<W>], excess: u64, only_mark: bool, now: Instant) -> u64 {
        let candidates: Vec<Candidate> = idle
            .iter()
            .map(|(_, idleness)| Candidate {
                frequency: idleness.frequency,
                cost: if idleness.cold.is_zero() { COLD_UNKNOWN } else { idleness.cold },
                bytes: if idleness.sandbox_bytes > 0 { idleness.sandbox_bytes } else { self.sandbox_bytes }
                    .max(1),
                n_busy: idleness.n_busy,
                idle_since: idleness
                    .idle
                    .iter()
                    .filter(|one| !only_mark || self.was_reclaimed(one, now))
                    .map(|one| one.since)
                    .collect(),
            })
            .collect();
        let taken = self.gdsf.choose(&candidates, excess, now);
        let (mut n_released, mut bytes_released) = (0, 0u64);
        for (((route, _), candidate), n_max) in idle.iter().zip(&candidates).zip(taken) {
            if n_max == 0 {
                continue;
            }
            // One that does not take the message, or is gone, has nothing to give now; the next look asks again.
            let told = route.lambda.as_ref().map(|lambda| lambda.try_send(lambda::ReleaseIdle { n_max }));
            if matches!(told, Some(Ok(()))) {
                bytes_released = bytes_released.saturating_add(candidate.bytes.saturating_mul(n_max as u64));
                n_released += n_max;
                debug!(self.log, "a lambda is to give up idle sandboxes"; "lambda" => %route.name, "n_max" => n_max,
                    "bytes_each" => candidate.bytes, "frequency" => candidate.frequency,
                    "cold_ms" => candidate.cost.as_secs_f64() * 1e3);
            }
        }
        if n_released > 0 {
            self.releasing.push_back((now, bytes_released));
            self.stats.released_under_pressure.add(n_released as u64);
            debug!(self.log, "asked for idle sandboxes to be given up"; "n" => n_released, "bytes" => bytes_released);
        }
        excess.saturating_sub(bytes_released)
    }

    /// Have standbys given up, and if that was not enough, the zygote that pays least, if the last ones have had time to go.
    fn release_spare(&mut self, now: Instant) {
        if self.spare_asked.is_some_and(|then| now.saturating_duration_since(then) < RELEASE_TAKES) {
            return;
        }
        // They are made again after a while: so it is standbys again when it has been well in between.
        let standbys_went = self.spare_asked.is_some();
        self.spare_asked = Some(now);
        let told = if standbys_went {
            self.zygotes.try_tell(zygotes::ReleaseZygote).is_ok()
        } else {
            self.zygotes.try_tell(zygotes::ReleaseIdle).is_ok()
        };
        if !told {
            warn!(self.log, "the zygotes could not be asked for memory");
        }
    }

    fn end_greediest(&mut self) {
        let Some(weight) = emergency::greediest(&self.gauge.weights()) else { return };
        self.stats.ended_under_pressure.bump();
        error!(self.log, "the machine is out of memory and nothing idle is left: a busy sandbox is ended";
            "sandbox" => weight.id, "used_mb" => weight.used_bytes >> 20, "limit_mb" => weight.limit_bytes >> 20,
            "available_mb" => self.last.available_bytes >> 20);
        self.gauge.end(weight.id);
    }

    /// Look often as long as someone waits.
    fn hurry(&mut self, ctx: &mut Context<Self>) {
        if self.waiters.is_empty() || self.hurrying {
            return;
        }
        self.hurrying = true;
        ctx.run_later(LOOK_EVERY_WAITING, |evictor, ctx| {
            evictor.hurrying = false;
            evictor.look(false);
            evictor.hurry(ctx);
        });
    }
}

/// Have those frozen, and reclaimed if that is asked for, that have been idle for `after`. Lambdas whose idle sandboxes have been
/// through it hear nothing.
fn freeze_idle<W: World>(idle: &[IdleLambda<W>], now: Instant, after: Duration, reclaim: bool) -> usize {
    let mut n_frozen = 0;
    for (route, idleness) in idle {
        let rested = || idleness.idle.iter().filter(|one| now.saturating_duration_since(one.since) >= after);
        let n_max = rested().filter(|one| !one.frozen).count();
        let n_to_reclaim = rested().filter(|one| reclaim && one.reclaimed.is_none()).count();
        if n_max == 0 && n_to_reclaim == 0 {
            continue;
        }
        let order = lambda::FreezeIdle { n_max, reclaim };
        let told = route.lambda.as_ref().map(|lambda| lambda.try_send(order));
        if matches!(told, Some(Ok(()))) {
            n_frozen += n_max;
        }
    }
    n_frozen
}

impl<W: World> Actor for Evictor<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(LOOK_EVERY, |evictor, _ctx| {
            if evictor.waiters.is_empty() {
                evictor.look(false);
            }
        });
        let pressed = stream::unfold((self.gauge.clone(), Duration::ZERO), |(gauge, pause)| async move {
            // What the kernel says meanwhile it says again then.
            tokio::time::sleep(pause).await;
            gauge.pressed().await;
            Some((Pressed, (gauge, PRESSED_PAUSE)))
        });
        ctx.add_stream(pressed);
    }
}

impl<W: World> StreamHandler<Pressed> for Evictor<W> {
    fn handle(&mut self, _: Pressed, _ctx: &mut Context<Self>) {
        self.stats.memory_pressure.bump();
        self.look(true);
        debug!(self.log, "the kernel says that memory is short"; "used_mb" => self.last.used_bytes >> 20,
            "available_mb" => self.last.available_bytes >> 20);
    }

    /// The gauge's stream has no end.
    fn finished(&mut self, _ctx: &mut Context<Self>) {}
}

impl<W: World> Handler<NeedRoom> for Evictor<W> {
    type Result = ResponseFuture<Result<Reservation, NoRoom>>;

    fn handle(&mut self, NeedRoom { bytes }: NeedRoom, ctx: &mut Context<Self>) -> Self::Result {
        if self.waiters.is_empty()
            && let Some(reservation) = self.ledger.reserve_within(1.0, bytes)
        {
            return Box::pin(async { Ok(reservation) });
        }
        // In an emergency nobody waits: what comes free is for those who run.
        if self.emergency.is_on() {
            self.stats.room_refused.bump();
            let no_room = self.no_room();
            return Box::pin(async { Err(no_room) });
        }
        if self.waiters.len() >= ROOM_WAITERS_MAX {
            self.stats.room_refused.bump();
            return Box::pin(async { Err(NoRoom::Busy) });
        }
        let (reach, answer) = oneshot::channel();
        debug!(self.ledger.log(), "memory is waited for"; "bytes" => bytes, "n_waiting" => self.waiters.len() + 1);
        self.waiters.push_back(Waiter { bytes, deadline: Instant::now() + ROOM_WAIT_MAX, reach });
        if self.waiters.len() == 1 {
            self.look(false);
        }
        self.hurry(ctx);
        Box::pin(async { answer.await.unwrap_or(Err(NoRoom::Busy)) })
    }
}

impl<W: World> Handler<Memory> for Evictor<W> {
    type Result = actix::MessageResult<Memory>;

    fn handle(&mut self, _: Memory, _ctx: &mut Context<Self>) -> Self::Result {
        actix::MessageResult(self.last)
    }
}

impl<W: World> Handler<Crash> for Evictor<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}
