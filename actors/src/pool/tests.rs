use std::task::Waker;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::fake::{Fake, FakeSandbox, limits, ms};

fn pool(limits: PoolLimits) -> (SharedPool<FakeSandbox>, Fake) {
    (SharedPool::new(1, limits, true), Fake::new())
}

/// Make as many sandboxes as the pool wants now.
fn grow(pool: &SharedPool<FakeSandbox>, world: &Fake) -> usize {
    let (places, _) = pool.reserve_growth(pool.generation());
    let n = places.len();
    for place in places {
        place.fill(world.sandbox("v"));
    }
    n
}

fn ready(leasing: Leasing<FakeSandbox>) -> Lease<FakeSandbox> {
    match leasing {
        Leasing::Ready(lease) => lease,
        other => panic!("a sandbox should be there: {other:?}"),
    }
}

fn queued(leasing: Leasing<FakeSandbox>) -> Ticket<FakeSandbox> {
    match leasing {
        Leasing::Queued(ticket) => ticket,
        other => panic!("none should be there: {other:?}"),
    }
}

fn poll(ticket: &mut Ticket<FakeSandbox>) -> Poll<Result<Lease<FakeSandbox>, Refusal>> {
    Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()))
}

/// A pool with one sandbox, which is on loan.
async fn one_busy(limits: PoolLimits) -> (SharedPool<FakeSandbox>, Fake, Lease<FakeSandbox>) {
    let (pool, world) = pool(limits);
    let ticket = queued(pool.lease());
    assert_eq!(grow(&pool, &world), 1);
    let lease = ticket.await.unwrap();
    (pool, world, lease)
}

#[actix::test]
async fn a_sandbox_is_leased_used_and_leased_again() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(limits()).await;
    let id = lease.id();
    lease.finish(ms(1));
    let lease = ready(pool.lease());
    assert_eq!(lease.id(), id);
    pool.tend();
    lease.finish(ms(1));
    let figures = pool.figures();
    assert_eq!((figures.warm, figures.busy, figures.invocations, figures.cold_starts), (1, 0, 2, 1));
    assert_eq!(figures.sandbox_bytes, world.state().sandbox_bytes);
}

#[actix::test]
async fn a_caller_that_gives_up_leaks_no_place() {
    tokio::time::pause();
    let (pool, _world, lease) = one_busy(PoolLimits { max_instances: 1, ..limits() }).await;
    for _ in 0..100 {
        drop(queued(pool.lease()));
    }
    assert_eq!(pool.figures().queue, 0);
    lease.finish(ms(1));
    assert_eq!(pool.figures().warm, 1);
}

#[actix::test]
async fn a_sandbox_on_its_way_to_someone_who_has_left_goes_to_the_next() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(PoolLimits { max_instances: 1, ..limits() }).await;
    let id = lease.id();
    let leaves = queued(pool.lease());
    let mut stays = queued(pool.lease());
    lease.finish(ms(1));
    assert!(poll(&mut stays).is_pending());
    drop(leaves);
    let Poll::Ready(Ok(lease)) = poll(&mut stays) else { panic!("the next one should have it") };
    assert_eq!(lease.id(), id);
    drop(lease);
    assert!(world.state().live.is_empty());
}

#[actix::test]
async fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    tokio::time::pause();
    let (pool, _world, mut lease) = one_busy(PoolLimits { max_instances: 1, ..limits() }).await;
    let mut tickets: Vec<_> = (0..5).map(|_| queued(pool.lease())).collect();
    for at in 0..5 {
        lease.finish(ms(1));
        for later in &mut tickets[at + 1..] {
            assert!(poll(later).is_pending());
        }
        let Poll::Ready(Ok(next)) = poll(&mut tickets[at]) else { panic!("it is number {at}'s turn") };
        lease = next;
    }
}

#[actix::test]
async fn the_queue_is_bounded_in_length() {
    tokio::time::pause();
    let few = PoolLimits { max_instances: 1, queue_length_max: 2, ..limits() };
    let (pool, _world, _lease) = one_busy(few).await;
    let _tickets = [queued(pool.lease()), queued(pool.lease())];
    assert!(matches!(pool.lease(), Leasing::Refused(Refusal::QueueFull)));
    assert_eq!(pool.figures().refused, 1);
}

#[actix::test]
async fn those_for_whom_a_sandbox_can_be_made_do_not_count_as_queued() {
    tokio::time::pause();
    let (pool, world) = pool(PoolLimits { max_instances: 3, queue_length_max: 0, ..limits() });
    let tickets: Vec<_> = (0..3).map(|_| queued(pool.lease())).collect();
    assert!(matches!(pool.lease(), Leasing::Refused(Refusal::QueueFull)));
    assert_eq!(grow(&pool, &world), 1);
    drop(tickets);
}

#[actix::test]
async fn the_queue_is_bounded_in_time() {
    tokio::time::pause();
    let (pool, _world, _lease) = one_busy(PoolLimits { max_instances: 1, ..limits() }).await;
    let began = Instant::now();
    assert_eq!(queued(pool.lease()).await.unwrap_err(), Refusal::QueueTimeout);
    assert_eq!(began.elapsed().as_millis() / 10, 200);
    assert_eq!(pool.figures().queue, 0);
}

#[actix::test]
async fn a_dead_sandbox_is_never_handed_out() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(limits()).await;
    let second = queued(pool.lease());
    advance(WAIT_TARGET).await;
    assert_eq!(grow(&pool, &world), 1);
    let second = second.await.unwrap();
    let (alive, dead) = (lease.id(), second.id());
    lease.finish(ms(1));
    second.finish(ms(1));
    world.state().dead.insert(dead);
    assert_eq!(ready(pool.lease()).id(), alive);
    assert_eq!(pool.figures().errors, 1, "only the one that was dropped just now");
    assert!(!world.state().live.contains_key(&dead));
}

#[actix::test]
async fn a_sandbox_that_died_idle_is_noticed() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(limits()).await;
    world.state().dead.insert(lease.id());
    lease.finish(ms(1));
    pool.tend();
    assert!(world.state().live.is_empty());
    assert_eq!(pool.figures().live(), 0);
}

#[actix::test]
async fn an_idle_sandbox_is_frozen_then_thawed_for_the_next_request() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(limits()).await;
    lease.finish(ms(1));
    advance(ms(9_900)).await;
    let pause = pool.tend().unwrap();
    assert_eq!(pool.figures().frozen, 0);
    advance(pause).await;
    pool.tend();
    assert_eq!((pool.figures().frozen, world.state().frozen.len()), (1, 1));
    let lease = ready(pool.lease());
    assert!(world.state().frozen.is_empty());
    lease.finish(ms(1));
    assert_eq!((pool.figures().frozen, pool.figures().warm), (0, 1));
}

#[actix::test]
async fn surplus_is_released_oldest_first_and_min_warm_stays() {
    tokio::time::pause();
    let (pool, world) = pool(PoolLimits { min_warm: 3, ..limits() });
    assert_eq!(grow(&pool, &world), 3);
    let leases: Vec<_> = (0..3).map(|_| ready(pool.lease())).collect();
    let ticket = queued(pool.lease());
    advance(WAIT_TARGET).await;
    assert_eq!(grow(&pool, &world), 1);
    let fourth = ticket.await.unwrap();
    let oldest = leases[0].id();
    for lease in leases.into_iter().chain([fourth]) {
        lease.finish(ms(1));
        advance(ms(10)).await;
    }
    advance(ms(60_000)).await;
    pool.tend();
    assert_eq!(world.state().dropped, [oldest]);
    assert_eq!(pool.figures().live(), 3);
    assert_eq!(pool.release_idle(10), 3, "memory comes before wishes");
    assert_eq!(grow(&pool, &world), 0, "and what was given up is not made again at once");
}

#[actix::test]
async fn after_a_reload_nobody_gets_the_old_code() {
    tokio::time::pause();
    let (pool, world) = pool(limits());
    let tickets = [queued(pool.lease()), queued(pool.lease())];
    grow(&pool, &world);
    advance(WAIT_TARGET).await;
    grow(&pool, &world);
    let [first, second] = tickets;
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let (late_place, _) = {
        let _waiting = queued(pool.lease());
        advance(WAIT_TARGET).await;
        pool.reserve_growth(1)
    };
    assert_eq!(late_place.len(), 1);
    second.finish(ms(1));
    assert_eq!(pool.figures().warm, 1);

    pool.set_code(2, limits(), true);
    assert_eq!(world.state().live.len(), 1, "the idle one is gone, the one on loan is not");
    assert_eq!((pool.figures().busy, pool.figures().draining), (1, 1));
    assert!(pool.reserve_growth(1).0.is_empty(), "a lambda that has the old code makes nothing any more");
    let mut ticket = queued(pool.lease());
    for place in late_place {
        place.fill(world.sandbox("old"));
    }
    first.finish(ms(1));
    assert!(poll(&mut ticket).is_pending());
    assert!(world.state().live.is_empty());
    assert_eq!(grow(&pool, &world), 1);
    let Poll::Ready(Ok(lease)) = poll(&mut ticket) else { panic!("the new one is there") };
    assert_eq!(lease.generation(), 2);
}

#[actix::test]
async fn a_reload_of_a_function_in_use_starts_one_ahead() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(limits()).await;
    pool.set_code(2, limits(), true);
    assert_eq!(grow(&pool, &world), 1);
    assert_eq!(grow(&pool, &world), 0);
    lease.finish(ms(1));
    let (unused, _) = self::pool(limits());
    unused.set_code(2, limits(), true);
    assert_eq!(grow(&unused, &world), 0);
}

#[actix::test]
async fn a_lease_that_is_dropped_is_discarded() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(limits()).await;
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _lease = lease;
        panic!("on purpose");
    }));
    assert!(broken.is_err());
    assert!(world.state().live.is_empty());
    assert_eq!((pool.figures().live(), pool.figures().errors), (0, 1));
}

#[actix::test]
async fn a_timeout_is_an_error_and_a_lost_client_is_none() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(limits()).await;
    lease.discard(Discard::Timeout);
    let ticket = queued(pool.lease());
    grow(&pool, &world);
    ticket.await.unwrap().discard(Discard::ClientGone);
    let figures = pool.figures();
    assert_eq!((figures.invocations, figures.errors, figures.timeouts, figures.busy), (2, 1, 1, 0));
}

#[actix::test]
async fn without_reuse_the_next_sandbox_lies_ready_when_it_can_be_forked() {
    tokio::time::pause();
    let (pool, world) = (SharedPool::<FakeSandbox>::new(1, limits(), false), Fake::new());
    let ticket = queued(pool.lease());
    assert_eq!(grow(&pool, &world), 1);
    let first = ticket.await.unwrap();
    assert_eq!(grow(&pool, &world), 0, "others take standbys, which are everybody's");
    pool.set_forkable(1, true);
    first.finish(ms(1));
    assert_eq!(grow(&pool, &world), 1);
    assert_eq!(grow(&pool, &world), 0, "one is enough when nothing is under way");
    let second = ready(pool.lease());
    assert_eq!(grow(&pool, &world), 2, "one for the next call, and one for who comes while this one runs");
    second.finish(ms(1));
    assert_eq!((pool.figures().warm, grow(&pool, &world)), (2, 0));
    // After a while nobody is expected any more.
    drop((ready(pool.lease()), ready(pool.lease())));
    advance(AHEAD_FOR).await;
    assert_eq!(grow(&pool, &world), 0);
}

#[actix::test]
async fn without_reuse_each_sandbox_serves_once() {
    tokio::time::pause();
    let world = Fake::new();
    let pool = SharedPool::new(1, limits(), false);
    let tickets: Vec<_> = (0..3).map(|_| queued(pool.lease())).collect();
    assert_eq!(grow(&pool, &world), 3, "none comes back for the second");
    for ticket in tickets {
        ticket.await.unwrap().finish(ms(1));
    }
    assert!(world.state().live.is_empty());
}

#[actix::test]
async fn code_that_does_not_load_refuses_those_who_wait_and_the_next_may_try_again() {
    tokio::time::pause();
    let (pool, world) = pool(PoolLimits { min_warm: 1, ..limits() });
    let tickets = [queued(pool.lease()), queued(pool.lease())];
    let error = LaunchError::Load("SyntaxError".into());
    for place in pool.reserve_growth(1).0 {
        place.fail(&error);
    }
    for ticket in tickets {
        assert_eq!(ticket.await.unwrap_err(), Refusal::Launch(error.clone()));
    }
    assert_eq!(grow(&pool, &world), 0, "not even for min_warm");
    let ticket = queued(pool.lease());
    assert_eq!(grow(&pool, &world), 1);
    ticket.await.unwrap().finish(ms(1));
}

#[actix::test]
async fn growth_pauses_when_the_machine_is_out_of_something() {
    tokio::time::pause();
    let (pool, world) = pool(limits());
    let mut ticket = queued(pool.lease());
    for expected in [100, 200, 400] {
        let (mut places, _) = pool.reserve_growth(1);
        assert_eq!(places.len(), 1);
        places.pop().unwrap().fail(&LaunchError::Resources("memory".into()));
        let (places, look_again) = pool.reserve_growth(1);
        assert!(places.is_empty());
        assert_eq!(look_again, Some(ms(expected)));
        advance(ms(expected)).await;
    }
    assert!(poll(&mut ticket).is_pending());
    assert_eq!(grow(&pool, &world), 1);
    assert!(poll(&mut ticket).is_ready());
}

#[actix::test]
async fn a_closed_pool_says_why_and_drops_what_comes_home() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(PoolLimits { max_instances: 1, ..limits() }).await;
    let ticket = queued(pool.lease());
    pool.close(Closed::Retiring);
    pool.close(Closed::Restarting);
    assert_eq!(ticket.await.unwrap_err(), Refusal::Retiring);
    lease.finish(ms(1));
    assert!(world.state().live.is_empty());
    assert!(!pool.growth_wanted().await);

    let until = Instant::now() + ms(30_000);
    let pool = SharedPool::<FakeSandbox>::closed(Closed::Broken { reason: "it panics".into(), until });
    advance(ms(10_000)).await;
    let Leasing::Refused(Refusal::Broken { retry_after, .. }) = pool.lease() else { panic!("it is broken") };
    assert_eq!(retry_after, ms(20_000));
}

/// One line of the growth table: sandboxes, of these started but not there, waiters and their age, what calls took.
struct Case {
    about: &'static str,
    busy: usize,
    starting: usize,
    waiters: usize,
    age_ms: u64,
    took: Option<Duration>,
    expected: usize,
}

#[test]
fn growth_follows_the_table() {
    let us = Duration::from_micros;
    #[rustfmt::skip]
    let table = [
        Case { about: "nobody waits", busy: 0, starting: 0, waiters: 0, age_ms: 0, took: None, expected: 0 },
        Case { about: "the first request", busy: 0, starting: 0, waiters: 1, age_ms: 0, took: None, expected: 1 },
        Case { about: "a first burst: a probe", busy: 0, starting: 0, waiters: 50, age_ms: 0, took: None, expected: 1 },
        Case { about: "the probe is still coming", busy: 0, starting: 1, waiters: 50, age_ms: 500, took: None, expected: 0 },
        Case { about: "nothing is known yet", busy: 1, starting: 0, waiters: 50, age_ms: 4, took: None, expected: 0 },
        Case { about: "calls turn out to be long", busy: 1, starting: 0, waiters: 50, age_ms: 5, took: None, expected: 50 },
        Case { about: "some are coming already", busy: 1, starting: 20, waiters: 50, age_ms: 5, took: None, expected: 30 },
        Case { about: "known long calls", busy: 0, starting: 0, waiters: 50, age_ms: 0, took: Some(ms(1_000)), expected: 50 },
        Case { about: "known short calls", busy: 0, starting: 0, waiters: 50, age_ms: 0, took: Some(us(20)), expected: 1 },
        Case { about: "short calls, one at work", busy: 1, starting: 0, waiters: 200, age_ms: 0, took: Some(us(20)), expected: 0 },
        Case { about: "calls of 1 ms, 20 wait", busy: 1, starting: 0, waiters: 20, age_ms: 0, took: Some(ms(1)), expected: 3 },
        Case { about: "enough are at work", busy: 4, starting: 0, waiters: 20, age_ms: 0, took: Some(ms(1)), expected: 0 },
        Case { about: "never more than wait", busy: 1, starting: 0, waiters: 2, age_ms: 0, took: Some(ms(9_000)), expected: 2 },
        Case { about: "up to the bound", busy: 90, starting: 0, waiters: 50, age_ms: 0, took: Some(ms(1_000)), expected: 10 },
    ];
    for Case { about, busy, starting, waiters, age_ms, took, expected } in table {
        let now = Instant::now();
        let bounds = PoolLimits { max_instances: 100, queue_length_max: 1_000, ..limits() };
        let mut pool = Pool::<(), ()>::new(1, bounds, true);
        pool.starting = busy;
        for _ in 0..busy {
            pool.arrive(1, false, now);
        }
        if let Some(took) = took {
            pool.record(took, Some(took), 1, now);
        }
        pool.starting = starting;
        for _ in 0..waiters {
            pool.enqueue(now, Asker::here(true), ()).unwrap();
        }
        assert_eq!(pool.plan_growth(1, now + ms(age_ms)).n_start, expected, "{about}");
    }
}

#[test]
fn a_busy_machine_does_not_talk_the_pool_into_more_sandboxes() {
    let now = Instant::now();
    let bounds = PoolLimits { max_instances: 100, queue_length_max: 1_000, ..limits() };
    let mut pool = Pool::<(), ()>::new(1, bounds, true);
    pool.starting = 4;
    for _ in 0..4 {
        pool.arrive(1, false, now);
    }
    // Calls that take 50 µs when they run alone, most of them slowed down by the others.
    for i in 0..100 {
        let took = if i % 10 == 0 { Duration::from_micros(50) } else { ms(2) };
        pool.record(took, Some(took), 1, now);
    }
    for _ in 0..200 {
        pool.enqueue(now, Asker::here(true), ()).unwrap();
    }
    assert_eq!(pool.plan_growth(1, now).n_start, 0);
}

#[test]
fn while_sandboxes_keep_coming_home_age_alone_starts_none() {
    let now = Instant::now();
    let mut pool = Pool::<(), ()>::new(1, limits(), true);
    pool.starting = 1;
    pool.arrive(1, false, now);
    for _ in 0..3 {
        pool.enqueue(now, Asker::here(true), ()).unwrap();
    }
    pool.record(Duration::from_micros(20), Some(Duration::from_micros(20)), 1, now + ms(9));
    let growth = pool.plan_growth(1, now + ms(10));
    assert_eq!((growth.n_start, growth.look_again), (0, Some(ms(4))));
    assert_eq!(pool.plan_growth(1, now + ms(14)).n_start, 3);
}

#[test]
fn a_reload_while_a_sandbox_is_being_frozen_drops_that_one() {
    let now = Instant::now();
    let mut pool = Pool::<u32, ()>::new(1, limits(), true);
    pool.starting = 1;
    pool.arrive(1, false, now);
    assert!(matches!(pool.check_in(7, 1, false, now), Onward::Kept));
    let (idle, generation) = pool.take_to_freeze(true, now).unwrap();
    assert!(pool.set_code(2, limits(), true).is_empty());
    assert_eq!(pool.servers(), 0, "it will not serve the new code");
    assert!(matches!(pool.after_freeze(idle, generation), Onward::Drop(7)));
    assert_eq!((pool.total(), pool.draining), (0, 0));
}

#[actix::test]
async fn a_claimed_place_is_nobody_elses_and_is_given_back_with_a_word_to_those_who_wait() {
    tokio::time::pause();
    let (pool, world) = pool(limits());
    let (place, ()) = queued(pool.lease()).claim(1, |_| Some(())).unwrap();
    let mut ticket = queued(pool.lease());
    assert!(poll(&mut ticket).is_pending());
    assert!(pool.growth_wanted().await);
    assert_eq!(grow(&pool, &world), 0, "one is coming, and will come home");
    drop(place);
    assert!(pool.growth_wanted().await, "it does not come");
    assert_eq!(grow(&pool, &world), 1);
    ticket.await.unwrap().finish(ms(1));
}

#[actix::test]
async fn whoever_cannot_claim_wakes_the_lambda_when_it_begins_to_wait() {
    tokio::time::pause();
    let (pool, _world) = pool(limits());
    let Err(ticket) = queued(pool.lease()).claim(1, |_| None::<()>) else { panic!("nothing is at hand") };
    let Err(mut ticket) = ticket.claim(0, |_| Some(())) else { panic!("there is newer code") };
    assert!(tokio::time::timeout(ms(1), pool.growth_wanted()).await.is_err());
    assert!(poll(&mut ticket).is_pending());
    assert!(pool.growth_wanted().await);
}

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
            Op::Reserve => held.places.extend(pool.reserve_growth(pool.generation()).0),
            Op::Fill(at) => {
                if let Some(place) = pick(&mut held.places, at) {
                    if place.claimed {
                        held.leases.push(place.lease(world.sandbox("v"), ms(1), ms(1)));
                    } else {
                        place.fill(world.sandbox("v"));
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

#[actix::test]
async fn a_thread_that_has_no_sandbox_gets_one_though_calls_are_short() {
    tokio::time::pause();
    let (pool, world, lease) = one_busy(limits()).await;
    lease.finish(Duration::from_micros(20));
    let _held = ready(pool.lease());
    let _waits_here = queued(pool.lease_unseen(Asker::here(true)));
    assert_eq!(grow(&pool, &world), 0, "its thread has one");
    let other = std::thread::spawn(|| Asker::here(false)).join().unwrap();
    let _wait_there = [queued(pool.lease_unseen(other)), queued(pool.lease_unseen(other))];
    assert_eq!(grow(&pool, &world), 1);
}

#[test]
fn a_thread_gets_the_sandbox_that_it_used_last() {
    let mut pool: Pool<u32, ()> = Pool::new(1, limits(), true);
    let now = Instant::now();
    pool.busy = 3;
    assert!(matches!(pool.check_in(1, 1, true, now), Onward::Kept));
    assert!(matches!(pool.check_in(2, 1, true, now), Onward::Kept));
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(pool.check_in(3, 1, true, now), Onward::Kept)));
    });
    let here = std::thread::current().id();
    let taken: Vec<_> = (0..3)
        .map(|_| match pool.take(here) {
            Take::Idle { sandbox, .. } => sandbox,
            _ => panic!("there are three"),
        })
        .collect();
    assert_eq!(taken, [2, 1, 3], "its own, the latest first, and then another's");
}

#[actix::test]
async fn what_is_seen_without_the_lock_is_what_the_pool_says() {
    tokio::time::pause();
    let (pool, _world, lease) = one_busy(PoolLimits { max_instances: 1, ..limits() }).await;
    assert_eq!((pool.depth(), pool.n_waiting(), lease.is_current()), (1, 0, true));
    let mut lease = lease;
    let call = Duration::from_micros(100);
    lease.served(Answered { service: call, waited: Duration::ZERO, pace: Some(call) });
    let ticket = queued(pool.lease());
    assert_eq!((pool.depth(), pool.n_waiting()), (5, 1));
    drop(ticket);
    pool.set_code(2, limits(), true);
    assert_eq!((pool.depth(), pool.n_waiting(), lease.is_current()), (1, 0, false));
    lease.give_back();
    pool.close(Closed::Retiring);
    assert_eq!(pool.figures().live(), 0);
}
