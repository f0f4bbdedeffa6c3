//! The memory ledger, and who gives memory back when it is tight.
//!
//! Memory is tight when what is used and promised exceeds [`TIGHT_SHARE`] of the pool, or when the machine
//! has less left than [`SPARE_SHARE`] of it. Then, in this order, and only as far as needed:
//!
//! 1. idle sandboxes are frozen, so that they touch no memory, and waiting standbys are given up;
//! 2. if that was not enough by the next look, or a new sandbox waits for room: idle sandboxes are given up,
//!    those of the lambdas first that were used least recently.
//!
//! A busy sandbox is never taken.
//!
//! A lambda that wants another sandbox reserves its memory first: with memory to spare straight from the
//! [`Ledger`], else by [`NeedRoom`], which waits a moment for others to give up theirs. So what is used and
//! what is being made never exceed the pool, as far as estimates hold.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use slog::{Logger, debug, info, warn};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::lambda;
use crate::link::Link;
use crate::monitor::{Crash, Monitor};
use crate::router::{Route, Routes};
use crate::stats::WorkerStats;
use crate::world::{Gauge, MemoryReading, World};
use crate::zygotes::{self, Zygotes};

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
/// Memory that must be left on the machine, as a share of the pool.
pub const SPARE_SHARE: f64 = 0.05;
/// How often memory is read: often enough to see a burst, seldom enough to cost nothing.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is read while someone waits for room.
pub const LOOK_EVERY_WAITING: Duration = Duration::from_millis(10);
/// How long to wait for room. Dead sandboxes give their memory back within a few ms; what is not there after
/// this is not there.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// How many may wait for room.
pub const ROOM_WAITERS_MAX: usize = 1_024;
/// How long given-up memory is expected to come back before more is taken for the same need.
const RELEASE_TAKES: Duration = Duration::from_millis(500);

/// What memory is used and promised. A clone is the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Entries>);

#[derive(Debug, Default)]
struct Entries {
    used: AtomicU64,
    pool: AtomicU64,
    available: AtomicU64,
    /// Promised to sandboxes that are being made.
    reserved: AtomicU64,
    /// Promised to sandboxes that have been made, or not, since the last reading, which may not show them yet.
    settling: AtomicU64,
}

/// Memory promised to a sandbox that is being made. Drop it when that has succeeded or failed.
#[derive(Debug)]
pub struct Reservation {
    ledger: Ledger,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // First counted twice for a moment, rather than not at all.
        self.ledger.0.settling.fetch_add(self.bytes, Ordering::AcqRel);
        self.ledger.0.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Ledger {
    /// Reserve memory if there is plenty. Costs no message.
    #[must_use]
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        self.reserve_within(TIGHT_SHARE, bytes)
    }

    fn reserve_within(&self, share: f64, bytes: u64) -> Option<Reservation> {
        let entries = &self.0;
        let pool = entries.pool.load(Ordering::Acquire);
        let spare = entries.available.load(Ordering::Acquire);
        if pool > 0 && spare < part_of(pool, SPARE_SHARE).saturating_add(bytes) {
            return None;
        }
        let bound = if pool == 0 { u64::MAX } else { part_of(pool, share) };
        let others =
            entries.used.load(Ordering::Acquire).saturating_add(entries.settling.load(Ordering::Acquire));
        entries
            .reserved
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |reserved| {
                let reserved = reserved.checked_add(bytes)?;
                (others.saturating_add(reserved) <= bound).then_some(reserved)
            })
            .ok()?;
        Some(Reservation { ledger: self.clone(), bytes })
    }

    fn read(&self, gauge: &impl Gauge) -> MemoryReading {
        // What was made before the reading began is in the reading.
        let settled = self.0.settling.load(Ordering::Acquire);
        let reading = gauge.read();
        self.0.used.store(reading.used_bytes, Ordering::Release);
        self.0.pool.store(reading.pool_bytes, Ordering::Release);
        self.0.available.store(reading.available_bytes, Ordering::Release);
        self.0.settling.fetch_sub(settled, Ordering::AcqRel);
        reading
    }

    fn promised(&self) -> u64 {
        self.0.reserved.load(Ordering::Acquire).saturating_add(self.0.settling.load(Ordering::Acquire))
    }
}

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
    /// Memory was tight at the last look, and the mild means have been used.
    mild_means_used: bool,
    /// What was given up lately and may not have come back yet.
    releasing: VecDeque<(Instant, u64)>,
    waiters: VecDeque<Waiter>,
    hurrying: bool,
    stats: Arc<WorkerStats>,
    log: Logger,
    _monitor: Monitor,
}

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
    /// Where it counts.
    pub stats: Arc<WorkerStats>,
}

impl<W: World> Evictor<W> {
    /// Reads memory once, so that the ledger is true from the start.
    #[must_use]
    pub fn new(surroundings: Surroundings<W>, log: Logger, monitor: Monitor) -> Self {
        let Surroundings { gauge, ledger, routes, zygotes, sandbox_bytes, stats } = surroundings;
        let last = ledger.read(&gauge);
        Self {
            gauge,
            ledger,
            routes,
            zygotes,
            sandbox_bytes,
            last,
            mild_means_used: false,
            releasing: VecDeque::new(),
            waiters: VecDeque::new(),
            hurrying: false,
            stats,
            log,
            _monitor: monitor,
        }
    }

    fn look(&mut self) {
        self.last = self.ledger.read(&self.gauge);
        self.grant();
        let excess = self.excess(Instant::now());
        if excess == 0 {
            self.mild_means_used = false;
            return;
        }
        let waited_for = !self.waiters.is_empty();
        if !self.mild_means_used {
            self.mild_means_used = true;
            self.use_mild_means();
            if !waited_for {
                return;
            }
        }
        self.release(excess);
    }

    /// How much is to be given up, in bytes.
    fn excess(&mut self, now: Instant) -> u64 {
        while self
            .releasing
            .front()
            .is_some_and(|(when, _)| now.saturating_duration_since(*when) >= RELEASE_TAKES)
        {
            self.releasing.pop_front();
        }
        let MemoryReading { used_bytes, pool_bytes, available_bytes } = self.last;
        if pool_bytes == 0 {
            return 0;
        }
        let wanted: u64 = self.waiters.iter().map(|waiter| waiter.bytes).sum();
        let releasing: u64 = self.releasing.iter().map(|(_, bytes)| bytes).sum();
        let used = used_bytes.saturating_add(self.ledger.promised());
        // Whoever waits is let in up to the brim, so room for them is made below it, not below the mark.
        let over_pool = used.saturating_sub(part_of(pool_bytes, TIGHT_SHARE));
        let over_for_waiters = used.saturating_add(wanted).saturating_sub(pool_bytes);
        let spare = part_of(pool_bytes, SPARE_SHARE).saturating_add(wanted);
        let over_machine = spare.saturating_sub(available_bytes);
        over_pool.max(over_for_waiters).max(over_machine).saturating_sub(releasing)
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

    /// Those with idle sandboxes, least recently used first.
    fn idle_lambdas(&self) -> Vec<(Arc<Route<W>>, crate::pool::Idleness)> {
        let mut idle: Vec<_> = self
            .routes
            .all()
            .into_iter()
            .map(|route| {
                let idleness = route.pool.idleness();
                (route, idleness)
            })
            .filter(|(_, idleness)| idleness.warm + idleness.frozen > 0)
            .collect();
        idle.sort_by_key(|(_, idleness)| idleness.last_used);
        idle
    }

    fn use_mild_means(&mut self) {
        if self.zygotes.try_tell(zygotes::ReleaseIdle).is_err() {
            warn!(self.log, "the zygotes could not be asked for memory");
        }
        let mut n_frozen = 0;
        for (route, idleness) in self.idle_lambdas() {
            let told = route
                .lambda
                .as_ref()
                .map(|lambda| lambda.try_send(lambda::FreezeIdle { n_max: idleness.warm }));
            if matches!(told, Some(Ok(()))) {
                n_frozen += idleness.warm;
            }
        }
        info!(self.log, "memory is tight"; "used_mb" => self.last.used_bytes >> 20,
            "pool_mb" => self.last.pool_bytes >> 20, "available_mb" => self.last.available_bytes >> 20,
            "n_frozen" => n_frozen);
    }

    fn release(&mut self, mut excess: u64) {
        let mut n_released = 0;
        let mut bytes_released = 0;
        for (route, idleness) in self.idle_lambdas() {
            if excess == 0 {
                break;
            }
            let each =
                if idleness.sandbox_bytes > 0 { idleness.sandbox_bytes } else { self.sandbox_bytes }.max(1);
            let n_max = (idleness.warm + idleness.frozen).min(excess.div_ceil(each) as usize);
            // One that does not take the message, or is gone, has nothing to give now; the next look asks again.
            let told = route.lambda.as_ref().map(|lambda| lambda.try_send(lambda::ReleaseIdle { n_max }));
            if matches!(told, Some(Ok(()))) {
                let bytes = each.saturating_mul(n_max as u64);
                excess = excess.saturating_sub(bytes);
                bytes_released += bytes;
                n_released += n_max;
            }
        }
        if n_released > 0 {
            self.releasing.push_back((Instant::now(), bytes_released));
            self.stats.released_under_pressure.add(n_released as u64);
            debug!(self.log, "asked for idle sandboxes to be given up"; "n" => n_released, "bytes" => bytes_released);
        }
    }

    /// Look often as long as someone waits.
    fn hurry(&mut self, ctx: &mut Context<Self>) {
        if self.waiters.is_empty() || self.hurrying {
            return;
        }
        self.hurrying = true;
        ctx.run_later(LOOK_EVERY_WAITING, |evictor, ctx| {
            evictor.hurrying = false;
            evictor.look();
            evictor.hurry(ctx);
        });
    }
}

impl<W: World> Actor for Evictor<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(LOOK_EVERY, |evictor, _ctx| {
            if evictor.waiters.is_empty() {
                evictor.look();
            }
        });
    }
}

impl<W: World> Handler<NeedRoom> for Evictor<W> {
    type Result = ResponseFuture<Result<Reservation, NoRoom>>;

    fn handle(&mut self, NeedRoom { bytes }: NeedRoom, ctx: &mut Context<Self>) -> Self::Result {
        if self.waiters.is_empty()
            && let Some(reservation) = self.ledger.reserve_within(1.0, bytes)
        {
            return Box::pin(async { Ok(reservation) });
        }
        if self.waiters.len() >= ROOM_WAITERS_MAX {
            self.stats.room_refused.bump();
            return Box::pin(async { Err(NoRoom::Busy) });
        }
        let (reach, answer) = oneshot::channel();
        self.waiters.push_back(Waiter { bytes, deadline: Instant::now() + ROOM_WAIT_MAX, reach });
        if self.waiters.len() == 1 {
            self.look();
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

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::fake::{Fake, MB, call, code, lease, ms, status};
    use crate::pool::Refusal;

    /// A pool of memory of this size, in sandboxes of 10 MB.
    fn world(pool_mb: u64) -> Fake {
        let world = Fake::new();
        world.state().sandbox_bytes = 10 * MB;
        world.state().base =
            MemoryReading { used_bytes: 0, pool_bytes: pool_mb * MB, available_bytes: 1 << 40 };
        world
    }

    async fn n_idle(tree: &crate::supervisor::Tree<crate::fake::FakeWorld>, text: &str) -> usize {
        let row = status(tree, text).await;
        row.warm + row.frozen
    }

    #[actix::test]
    async fn under_pressure_the_least_recently_used_go_first_and_busy_ones_never() {
        tokio::time::pause();
        let world = world(100);
        for text in ["oldest", "middle", "newest", "busy"] {
            world.put(text, code("v1"));
        }
        let tree = world.start();
        let busy = lease(&tree, "busy").await.unwrap();
        for text in ["oldest", "middle", "newest"] {
            call(&tree, text, ms(10)).await.unwrap();
        }
        world.state().base.used_bytes = 55 * MB;
        sleep(LOOK_EVERY * 3).await;
        assert_eq!(
            (n_idle(&tree, "oldest").await, n_idle(&tree, "middle").await),
            (0, 0),
            "15 MB over, 10 MB each"
        );
        assert_eq!(n_idle(&tree, "newest").await, 1);
        world.state().base.used_bytes = 100 * MB;
        sleep(ms(2_000)).await;
        assert_eq!(n_idle(&tree, "newest").await, 0);
        assert_eq!((busy.version(), status(&tree, "busy").await.busy), ("v1".into(), 1));
        assert_eq!(tree.stats.read().released_under_pressure, 3);
    }

    #[actix::test]
    async fn the_mild_means_come_first() {
        tokio::time::pause();
        let world = world(100);
        world.put("hello", code("v1"));
        let tree = world.start();
        sleep(ms(50)).await;
        call(&tree, "hello", ms(10)).await.unwrap();
        sleep(ms(50)).await;
        world.state().base.used_bytes = 85 * MB;
        sleep(LOOK_EVERY).await;
        assert_eq!(world.state().frozen.len(), 1);
        assert!(world.state().standbys.is_empty());
        world.state().base.used_bytes = 0;
        sleep(ms(10_000)).await;
        assert_eq!(world.state().live.len(), 1, "that was enough");
        assert_eq!(world.state().standbys.len(), 4, "and they are back");
    }

    #[actix::test]
    async fn a_machine_that_runs_out_is_relieved_whatever_the_pool_says() {
        tokio::time::pause();
        let world = world(1_000);
        world.put("hello", code("v1"));
        let tree = world.start();
        call(&tree, "hello", ms(10)).await.unwrap();
        world.state().base.available_bytes = 20 * MB;
        sleep(LOOK_EVERY * 3).await;
        assert!(world.state().live.is_empty());
    }

    #[actix::test]
    async fn a_full_pool_makes_room_for_who_is_asked_for() {
        tokio::time::pause();
        let world = world(9);
        world.state().sandbox_bytes = 2 * MB;
        for text in ["a", "b", "c", "d", "e"] {
            world.put(text, code("v1"));
        }
        let tree = world.start();
        for text in ["a", "b", "c", "d", "e"] {
            let began = Instant::now();
            call(&tree, text, ms(1)).await.unwrap();
            assert!(began.elapsed() < ms(500), "{text} took {:?}", began.elapsed());
            assert!(world.state().live.len() <= 4);
            sleep(ms(20)).await;
        }
    }

    #[actix::test]
    async fn without_room_the_answer_says_so_and_comes_in_time() {
        tokio::time::pause();
        let world = world(100);
        world.state().base.used_bytes = 100 * MB;
        world.put("hello", code("v1"));
        let tree = world.start();
        let began = Instant::now();
        let answer = tree.evictor.ask(NeedRoom { bytes: 10 * MB }).await.unwrap();
        assert_eq!(
            answer.unwrap_err().to_string(),
            "memory is full: 100 MB of 100 MB are in use, and 1048576 MB are left on the machine"
        );
        assert!(began.elapsed() < ROOM_WAIT_MAX + ms(50));
        assert_eq!(call(&tree, "hello", ms(1)).await, Err(Refusal::QueueTimeout));
        assert!(status(&tree, "hello").await.message.starts_with("cannot make a sandbox: memory is full"));
        world.state().base.used_bytes = 0;
        sleep(ms(5_000)).await;
        assert_eq!(call(&tree, "hello", ms(1)).await, Ok("v1".into()));
    }

    #[actix::test]
    async fn what_is_being_made_counts_and_what_was_just_made_is_not_forgotten() {
        let world = world(100);
        let ledger = Ledger::default();
        ledger.read(&world);
        let held: Vec<_> = (0..8).map(|_| ledger.try_reserve(10 * MB).expect("up to 80 %")).collect();
        assert!(ledger.try_reserve(MB).is_none());
        assert!(ledger.reserve_within(1.0, 20 * MB).is_some());
        drop(held);
        assert!(ledger.try_reserve(MB).is_none(), "they may be there, and not in the last reading");
        ledger.read(&world);
        assert!(ledger.try_reserve(80 * MB).is_some());
        assert_eq!(ledger.promised(), 80 * MB, "settling");
        ledger.read(&world);
        assert_eq!(ledger.promised(), 0);
        assert!(ledger.try_reserve(u64::MAX).is_none());
    }

    #[actix::test]
    async fn whoever_stops_waiting_for_room_holds_none() {
        tokio::time::pause();
        let world = world(100);
        world.state().base.used_bytes = 100 * MB;
        let tree = world.start();
        let gone = tokio::time::timeout(ms(100), tree.evictor.ask(NeedRoom { bytes: 50 * MB })).await;
        assert!(gone.is_err());
        world.state().base.used_bytes = 20 * MB;
        sleep(ms(500)).await;
        let room = tree.evictor.ask(NeedRoom { bytes: 80 * MB }).await.unwrap();
        assert!(room.is_ok());
    }
}
