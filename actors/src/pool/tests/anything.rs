//! Whatever happens, in whatever order: nothing leaks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::world::{LaunchError, Sandbox};

/// Threads that lease, leave and come home all at once, and one that makes sandboxes. No clock is waited for.
#[test]
fn threads_that_share_a_pool_lose_nothing() {
    let bounds =
        PoolLimits { max_instances: 3, queue_length_max: 100, freeze_after: Duration::ZERO, ..limits() };
    let (pool, world) = pool(bounds);
    let running = AtomicBool::new(true);
    let user = |seed: u64| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (pool, mut n_served) = (pool.clone(), 0);
        runtime.block_on(async {
            for i in 0..2_000 {
                match (pool.lease(), (i * 7 + seed) % 5) {
                    (Leasing::Queued(ticket), 0) => drop(ticket),
                    (Leasing::Queued(mut ticket), 1) => drop(poll(&mut ticket)),
                    (Leasing::Queued(ticket), 2) => match ticket.claim(1, |_| Some(())) {
                        Ok((place, ())) if i % 3 == 0 => drop(place),
                        Ok((place, ())) => {
                            place.lease(world.sandbox("v"), ms(1), ms(1)).finish(ms(1));
                            n_served += 1;
                        }
                        Err(ticket) => {
                            ticket.await.unwrap().finish(ms(1));
                            n_served += 1;
                        }
                    },
                    (Leasing::Queued(ticket), _) => {
                        ticket.await.unwrap().finish(ms(1));
                        n_served += 1;
                    }
                    (Leasing::Ready(lease), 4) => drop(lease),
                    (Leasing::Ready(lease), _) => {
                        lease.finish(ms(1));
                        n_served += 1;
                    }
                    (Leasing::Refused(refusal), _) => panic!("{refusal}"),
                }
            }
        });
        n_served
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                grow(&pool, &world);
                pool.freeze_idle(1);
                assert!(world.state().live.len() <= 3);
                std::thread::yield_now();
            }
        });
        let users: Vec<_> = (0..4).map(|seed| scope.spawn(move || user(seed))).collect();
        let n_served: usize = users.into_iter().map(|user| user.join().unwrap()).sum();
        running.store(false, Ordering::Relaxed);
        assert!(n_served > 4_000, "{n_served}");
    });
    let figures = pool.figures();
    assert_eq!((figures.busy, figures.starting, figures.queue), (0, 0, 0));
    assert_eq!(figures.live(), world.state().live.len());
}

#[derive(Debug, Clone)]
enum Op {
    Lease,
    Claim,
    Poll(usize),
    DropTicket(usize),
    Finish(usize),
    Discard(usize),
    DropLease(usize),
    Reserve,
    ReserveKept,
    Forgo(usize),
    Fill(usize),
    Fail(usize, LaunchError),
    DropPlace(usize),
    Advance(u64),
    Tend,
    Freeze(usize),
    Release(usize),
    SetCode { max_instances: usize, reuse: bool },
    Kill(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..8usize;
    prop_oneof![
        8 => Just(Op::Lease),
        4 => Just(Op::Claim),
        6 => at.clone().prop_map(Op::Poll),
        2 => at.clone().prop_map(Op::DropTicket),
        6 => at.clone().prop_map(Op::Finish),
        1 => at.clone().prop_map(Op::Discard),
        1 => at.clone().prop_map(Op::DropLease),
        5 => Just(Op::Reserve),
        2 => Just(Op::ReserveKept),
        1 => at.clone().prop_map(Op::Forgo),
        6 => at.clone().prop_map(Op::Fill),
        1 => at.clone().prop_map(|at| Op::Fail(at, LaunchError::Load("x".into()))),
        1 => at.clone().prop_map(|at| Op::Fail(at, LaunchError::Resources("x".into()))),
        1 => at.clone().prop_map(|at| Op::Fail(at, LaunchError::Failed("x".into()))),
        1 => at.clone().prop_map(Op::DropPlace),
        4 => (0..8_000u64).prop_map(Op::Advance),
        2 => Just(Op::Tend),
        1 => (0..4usize).prop_map(Op::Freeze),
        1 => (0..4usize).prop_map(Op::Release),
        1 => (1..6usize, any::<bool>()).prop_map(|(max_instances, reuse)| Op::SetCode { max_instances, reuse }),
        1 => at.prop_map(Op::Kill),
    ]
}

fn pick<T>(from: &mut Vec<T>, at: usize) -> Option<T> {
    (at < from.len()).then(|| from.remove(at))
}

/// What the users of a pool hold: the naive model of where everything is.
#[derive(Default)]
struct Held {
    leases: Vec<Lease<FakeSandbox>>,
    tickets: Vec<Ticket<FakeSandbox>>,
    places: Vec<Place<FakeSandbox>>,
}

impl Held {
    fn check(&self, pool: &SharedPool<FakeSandbox>, world: &Fake, max_instances: usize, total_before: usize) {
        let figures = pool.figures();
        let total = figures.live() + figures.starting;
        assert!(total <= max_instances.max(total_before), "{total} sandboxes, {max_instances} allowed");
        assert_eq!(figures.starting, self.places.len(), "a place is held by who makes the sandbox");
        assert_eq!(figures.live(), world.state().live.len(), "each sandbox is in the pool's count");
        assert!(figures.warm + figures.frozen == 0 || figures.queue == 0, "nobody waits beside an idle one");

        let inner = pool.0.lock();
        assert!(inner.waiters.len() <= inner.limits.queue_length_max + 8, "the queue has its bound");
        // What is neither idle nor with a lease is on its way to a ticket.
        let idle: Vec<u64> = inner.idle.iter().map(|idle| idle.sandbox.id).collect();
        let mut seen: Vec<u64> = idle.into_iter().chain(self.leases.iter().map(|lease| lease.id())).collect();
        let n_seen = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), n_seen, "each sandbox is in one place");
        let n_claimed =
            self.places.iter().filter(|place| place.claimed && place.generation == inner.generation);
        assert_eq!(inner.claimed, n_claimed.count(), "a claim is as good as its place");
        let n_under_way = figures.busy - self.leases.len();
        let waiting: Vec<u64> = inner.waiters.iter().map(|waiter| waiter.id).collect();
        let mut outstanding: Vec<u64> =
            self.tickets.iter().filter(|ticket| ticket.handover.is_some()).map(|ticket| ticket.id).collect();
        outstanding.sort_unstable();
        assert!(outstanding.ends_with(&waiting), "first come, first served: {waiting:?} of {outstanding:?}");
        assert!(n_under_way <= outstanding.len() - waiting.len(), "what is under way has someone to go to");
        assert!(inner.draining <= inner.busy);
        assert!(inner.idle.iter().zip(inner.idle.iter().skip(1)).all(|(a, b)| a.since <= b.since));
    }
}

async fn run(ops: Vec<Op>) {
    let world = Fake::new();
    let mut bounds = PoolLimits { max_instances: 3, min_warm: 1, queue_length_max: 4, ..limits() };
    let pool = SharedPool::<FakeSandbox>::new(1, bounds, true);
    let mut held = Held::default();
    for op in ops {
        let before = pool.figures();
        match op {
            Op::Lease => match pool.lease() {
                Leasing::Ready(lease) => {
                    assert!(lease.is_alive() && !world.state().frozen.contains(&lease.id()));
                    assert_eq!(lease.generation(), pool.generation());
                    held.leases.push(lease);
                }
                Leasing::Queued(ticket) => held.tickets.push(ticket),
                Leasing::Refused(refusal) => assert_eq!(refusal, Refusal::QueueFull),
            },
            Op::Claim => {
                // Whoever claims has just come.
                if let Leasing::Queued(ticket) = pool.lease() {
                    match ticket.claim(pool.generation(), |_| Some(())) {
                        Ok((place, ())) => {
                            assert!(!pool.0.lock().reuse || before.queue == 0, "nobody is overtaken");
                            held.places.push(place);
                        }
                        Err(ticket) => held.tickets.push(ticket),
                    }
                }
            }
            Op::Poll(at) => {
                if let Some(mut ticket) = pick(&mut held.tickets, at) {
                    match poll(&mut ticket) {
                        Poll::Pending => held.tickets.push(ticket),
                        Poll::Ready(Ok(lease)) => held.leases.push(lease),
                        Poll::Ready(Err(_)) => {}
                    }
                }
            }
            Op::DropTicket(at) => drop(pick(&mut held.tickets, at)),
            Op::Finish(at) => {
                if let Some(lease) = pick(&mut held.leases, at) {
                    lease.finish(ms(1));
                }
            }
            Op::Discard(at) => {
                if let Some(lease) = pick(&mut held.leases, at) {
                    lease.discard(Discard::Timeout);
                }
            }
            Op::DropLease(at) => drop(pick(&mut held.leases, at)),
            Op::Reserve => held.places.extend(pool.reserve_growth(pool.generation()).places),
            Op::ReserveKept => held.places.extend(pool.reserve_kept(pool.generation())),
            Op::Forgo(at) => match pick(&mut held.places, at) {
                Some(place) if place.claimed => held.places.push(place),
                Some(place) => place.forgo(),
                None => {}
            },
            Op::Fill(at) => {
                if let Some(place) = pick(&mut held.places, at) {
                    if place.claimed {
                        held.leases.push(place.lease(world.sandbox("v"), ms(1), ms(1)));
                    } else {
                        place.fill(world.sandbox("v"), Duration::ZERO);
                    }
                }
            }
            Op::Fail(at, error) => {
                if let Some(place) = pick(&mut held.places, at) {
                    place.fail(&error);
                }
            }
            Op::DropPlace(at) => drop(pick(&mut held.places, at)),
            Op::Advance(by) => advance(ms(by)).await,
            Op::Tend => drop(pool.tend()),
            Op::Freeze(n) => assert!(pool.freeze_idle(n) <= n),
            Op::Release(n) => assert!(pool.release_idle(n) <= n),
            Op::SetCode { max_instances, reuse } => {
                bounds.max_instances = max_instances;
                pool.set_code(pool.generation() + 1, bounds, reuse);
            }
            Op::Kill(at) => {
                let id = world.state().live.keys().nth(at).copied();
                world.state().dead.extend(id);
            }
        }
        held.check(&pool, &world, bounds.max_instances, before.live() + before.starting);
    }
    drop(held);
    let figures = pool.figures();
    assert_eq!((figures.busy, figures.starting, figures.queue), (0, 0, 0), "what was held has gone home");
    pool.close(Closed::ShuttingDown);
    assert!(world.state().live.is_empty(), "a closed pool keeps nothing");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_each_sandbox_is_in_one_place_and_nothing_leaks(ops in proptest::collection::vec(op(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(ops));
    }
}
