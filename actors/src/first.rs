//! The way of a first call: the request makes its sandbox itself.
//!
//! A function without an idle sandbox needs a standby, memory and a place in its pool. When all three are at hand,
//! no actor has to be asked: each message would be a wake-up on another thread, and the whole way takes as long as
//! a few of these. The thread that has the request takes all three, puts the function's code into the standby, and
//! tells the pool what came of it ([`Opening`]). The lambda hears of it afterwards, from the pool.
//!
//! When something is missing, or it is not known which packages are meant, the request waits in the pool's queue, and the
//! lambda makes the sandbox.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::evictor::Reservation;
use crate::lambda::Services;
use crate::packages::PackageSet;
use crate::pool::{Lease, Place, SharedPool, Ticket};
use crate::router::Route;
use crate::stats::WorkerStats;
use crate::tree::{NodeId, SharedForest};
use crate::world::{Code, LaunchError, Network, World};
use crate::zygotes::{StandbyKind, Standbys};

/// Where what a first call needs is at hand. A clone is the same place.
pub struct AtHand<W: World> {
    standbys: Standbys<W>,
    forest: SharedForest<W::Zygote>,
    services: Services<W>,
}

impl<W: World> Clone for AtHand<W> {
    fn clone(&self) -> Self {
        Self { standbys: self.standbys.clone(), forest: self.forest.clone(), services: self.services.clone() }
    }
}

/// A request that makes its sandbox itself: the standby to be used, and where to say what came of it.
pub struct First<W: World> {
    /// Give it the function's code.
    pub standby: W::Standby,
    /// It may import these.
    pub packages: PackageSet,
    /// Say how that went.
    pub opening: Opening<W>,
}

/// A place in the pool that waits for its sandbox. Dropped without a word, the place is free again.
pub struct Opening<W: World> {
    place: Place<W::Sandbox>,
    began: Instant,
    reservation: Reservation,
    chores: Option<Chores<W>>,
    stats: Arc<WorkerStats>,
}

/// What has to be done about a first call, but not while it waits: each wakes another thread, on a core that the
/// request may need. Done when it is dropped.
pub struct Chores<W: World> {
    standbys: Standbys<W>,
    pool: SharedPool<W::Sandbox>,
}

/// How long after the sandbox is at work the chores are done: most first calls are over by then.
pub const CHORES_AFTER: Duration = Duration::from_millis(2);

impl<W: World> Drop for Chores<W> {
    fn drop(&mut self) {
        // The shelf is filled up again, and the lambda has a sandbox to see to.
        self.standbys.say_taken();
        self.pool.wake_lambda();
    }
}

impl<W: World> AtHand<W> {
    pub(crate) fn new(standbys: Standbys<W>, forest: SharedForest<W::Zygote>, services: Services<W>) -> Self {
        Self { standbys, forest, services }
    }

    /// What this request needs to make its sandbox itself, if it is the one who should, and all of it is there.
    ///
    /// # Errors
    /// When it is to wait like any other.
    pub fn take(&self, route: &Route<W>, ticket: Ticket<W::Sandbox>) -> Result<First<W>, Ticket<W::Sandbox>> {
        let Some(packages) = self.services.known.get(route.code.packages()) else { return Err(ticket) };
        let class = route.code.class();
        // With no standby of that zygote the lambda has it forked: that is sooner than to import all of it.
        let best = self.forest.lock().best(&packages, class.network == Network::Host);
        let kind = StandbyKind { class, node: best.map_or(NodeId::ROOT, |best| best.node) };
        let (place, (standby, reservation)) = ticket.claim(route.generation, |measured| {
            let reservation = self.services.ledger.try_reserve_ready(self.services.estimate(measured))?;
            Some((self.standbys.take_ready(&kind)?, reservation))
        })?;
        if !packages.is_empty() {
            self.services.stats.packages_used.add(self.services.known.use_for_sandbox(&packages));
            self.forest.lock().used(kind.node, &packages, class.network == Network::Host, Instant::now());
        }
        let chores = Chores { standbys: self.standbys.clone(), pool: place.pool() };
        let opening = Opening {
            place,
            began: Instant::now(),
            reservation,
            chores: Some(chores),
            stats: Arc::clone(&self.services.stats),
        };
        Ok(First { standby, packages, opening })
    }
}

impl<W: World> Opening<W> {
    /// The sandbox is at work. What is given back is to be dropped [`CHORES_AFTER`] from now.
    pub fn under_way(&mut self) -> Option<Chores<W>> {
        self.chores.take()
    }

    /// It is there, and this request's. To load the function took `load_time`.
    #[must_use]
    pub fn opened(self, sandbox: W::Sandbox, load_time: Duration) -> Lease<W::Sandbox> {
        self.stats.sandboxes_started.bump();
        let lease = self.place.lease(sandbox, self.began.elapsed(), load_time);
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

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::fake::{Fake, FakeSandbox, FakeWorld, call, code, limits, ms, route, status};
    use crate::pool::{Closed, Discard, Leasing, Refusal};
    use crate::stats::State;
    use crate::supervisor::Tree;
    use crate::world::PoolLimits;
    use crate::zygotes;

    type Way = Result<First<FakeWorld>, Ticket<FakeSandbox>>;

    async fn tree(world: &Fake) -> (Tree<FakeWorld>, Arc<Route<FakeWorld>>) {
        let tree = world.start();
        sleep(ms(50)).await;
        let route = route(&tree, "f").await.expect("it was put there");
        (tree, route)
    }

    fn ask(tree: &Tree<FakeWorld>, route: &Route<FakeWorld>) -> Way {
        match route.pool.lease() {
            Leasing::Queued(ticket) => tree.at_hand.take(route, ticket),
            other => panic!("no sandbox should be idle: {other:?}"),
        }
    }

    fn first(way: Way) -> First<FakeWorld> {
        way.unwrap_or_else(|_| panic!("all should be at hand"))
    }

    fn waits(way: Way) -> Ticket<FakeSandbox> {
        match way {
            Ok(_) => panic!("this one is to wait"),
            Err(ticket) => ticket,
        }
    }

    fn open(world: &Fake, first: First<FakeWorld>) -> Lease<FakeSandbox> {
        let First { standby, mut opening, packages: _ } = first;
        drop(standby);
        drop(opening.under_way());
        opening.opened(world.sandbox("1"), ms(1))
    }

    #[actix::test]
    async fn a_first_call_takes_what_is_at_hand_and_the_lambda_hears_of_it() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", code("1"));
        let (tree, route) = tree(&world).await;
        let began = Instant::now();
        let lease = open(&world, first(ask(&tree, &route)));
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody was waited for");
        assert_eq!(world.state().n_installs, 0, "and the lambda makes none");
        lease.finish(ms(1));
        let row = status(&tree, "f").await;
        assert_eq!((row.state, row.warm, row.cold_starts, row.invocations), (State::Ready, 1, 1, 1));
        assert_eq!(tree.stats.read().sandboxes_started, 1);
        assert_eq!(tree.zygotes.addr().send(zygotes::Waiting).await.unwrap()[0].1, 3);
        sleep(ms(100)).await;
        assert_eq!(
            tree.zygotes.addr().send(zygotes::Waiting).await.unwrap()[0].1,
            4,
            "the shelf is full again"
        );
        sleep(ms(11_000)).await;
        assert_eq!(status(&tree, "f").await.frozen, 1, "the lambda tends it like any other");
        sleep(ms(120_000)).await;
        assert!(world.state().live.is_empty());
    }

    #[actix::test]
    async fn when_something_is_missing_the_lambda_makes_the_sandbox() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", code("1"));
        let (tree, route) = tree(&world).await;
        tree.zygotes.addr().send(zygotes::ReleaseIdle).await.unwrap();
        let ticket = waits(ask(&tree, &route));
        ticket.await.unwrap().discard(Discard::Died);
        assert_eq!(world.state().n_installs, 1);

        sleep(ms(5_000)).await;
        world.state().base.available_bytes = 1;
        sleep(ms(5_000)).await;
        drop(waits(ask(&tree, &route)));
        world.state().base.available_bytes = 1 << 40;
        sleep(ms(5_000)).await;
        drop(first(ask(&tree, &route)));
        assert_eq!(world.state().n_installs, 1, "whoever did not wait needs none");
    }

    #[actix::test]
    async fn packages_are_the_lambdas_to_see_to_until_they_are_known() {
        tokio::time::pause();
        let world = Fake::new();
        for name in ["f", "g"] {
            world.put(name, crate::fake::FakeCode { packages: vec!["x==1".into()], ..code("1") });
        }
        world.state().installed.insert("x==1".into());
        let (tree, first_route) = tree(&world).await;
        world.state().installed.clear();
        sleep(crate::packages::LOOK_EVERY + ms(100)).await;
        assert!(waits(ask(&tree, &first_route)).await.is_err(), "it is there no longer");
        world.state().installed.insert("x==1".into());
        waits(ask(&tree, &first_route)).await.unwrap().finish(ms(1));
        let other = route(&tree, "g").await.expect("it was put there");
        let first = first(ask(&tree, &other));
        assert_eq!(first.packages.to_string(), "x==1", "who comes later need not ask");
    }

    #[actix::test]
    async fn one_makes_the_sandbox_and_the_others_wait_for_it() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", code("1"));
        let (tree, route) = tree(&world).await;
        let making = first(ask(&tree, &route));
        let other = waits(ask(&tree, &route));
        let other = tokio::spawn(other);
        sleep(ms(50)).await;
        assert_eq!(world.state().n_installs, 0);
        open(&world, making).finish(ms(1));
        other.await.unwrap().unwrap().finish(ms(1));
        assert_eq!(world.state().live.len(), 1);
    }

    #[actix::test]
    async fn a_first_call_that_is_given_up_leaves_no_one_waiting_for_it() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", code("1"));
        let (tree, route) = tree(&world).await;
        let making = first(ask(&tree, &route));
        let other = tokio::spawn(waits(ask(&tree, &route)));
        sleep(ms(50)).await;
        drop(making);
        let began = Instant::now();
        other.await.unwrap().unwrap().finish(ms(1));
        assert!(began.elapsed() < ms(50));
        let figures = route.pool.figures();
        assert_eq!((figures.starting, figures.busy, figures.warm), (0, 0, 1));
    }

    #[actix::test]
    async fn without_reuse_each_makes_its_own_at_once() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", crate::fake::FakeCode { reuse: false, ..code("1") });
        let (tree, route) = tree(&world).await;
        let all: Vec<_> = (0..4).map(|_| first(ask(&tree, &route))).collect();
        let fifth = waits(ask(&tree, &route));
        assert_eq!(route.pool.figures().starting, 4, "max_instances");
        for one in all {
            open(&world, one).finish(ms(1));
        }
        fifth.await.unwrap().finish(ms(1));
        assert!(world.state().live.is_empty());
    }

    #[actix::test]
    async fn code_that_does_not_load_is_told_to_all_who_wait_and_shown() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", code("1"));
        let (tree, route) = tree(&world).await;
        let making = first(ask(&tree, &route));
        let other = tokio::spawn(waits(ask(&tree, &route)));
        sleep(ms(1)).await;
        let error = LaunchError::Load("SyntaxError".into());
        making.opening.failed(&error);
        assert_eq!(other.await.unwrap().unwrap_err(), Refusal::Launch(error));
        let row = status(&tree, "f").await;
        assert_eq!((row.state, row.message.as_str(), row.refused), (State::Rejected, "SyntaxError", 2));
        assert_eq!(tree.stats.read().launches_failed, 1);
        open(&world, first(ask(&tree, &route))).finish(ms(1));
        assert_eq!(status(&tree, "f").await.state, State::Ready, "the next one may try again");
    }

    #[actix::test]
    async fn when_the_machine_is_out_of_something_first_calls_pause_like_all_growth() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", code("1"));
        let (tree, route) = tree(&world).await;
        first(ask(&tree, &route)).opening.failed(&LaunchError::Resources("memory".into()));
        let ticket = waits(ask(&tree, &route));
        assert_eq!(route.pool.figures().refused, 0);
        let began = Instant::now();
        ticket.await.unwrap().finish(ms(1));
        assert!(began.elapsed() >= ms(90), "{:?}", began.elapsed());
    }

    #[actix::test]
    async fn a_reload_during_a_first_call_leaves_it_to_the_old_code_and_later_ones_to_the_new() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", code("1"));
        let (tree, old) = tree(&world).await;
        let making = first(ask(&tree, &old));
        world.put("f", code("2"));
        tree.watcher.addr().send(crate::watcher::Rescan).await.unwrap();
        sleep(ms(1_000)).await;
        let Leasing::Ready(newer) = old.pool.lease() else { panic!("one was started ahead") };
        assert_eq!(newer.generation(), 2);
        newer.finish(ms(1));
        let lease = open(&world, making);
        assert_eq!(lease.generation(), 1, "it came before");
        lease.finish(ms(1));
        assert_eq!(call(&tree, "f", ms(1)).await.unwrap(), "2");
        assert!(world.state().live.values().all(|version| version == "2"));
    }

    #[actix::test]
    async fn a_pool_that_closes_amid_a_first_call_lets_it_finish_and_keeps_nothing() {
        tokio::time::pause();
        let world = Fake::new();
        world.put("f", crate::fake::FakeCode { limits: PoolLimits { min_warm: 0, ..limits() }, ..code("1") });
        let (tree, route) = tree(&world).await;
        let making = first(ask(&tree, &route));
        route.pool.close(Closed::Retiring);
        open(&world, making).finish(ms(1));
        assert!(world.state().live.is_empty());
    }
}
