//! When another sandbox is made.

use std::time::Duration;

use tokio::time::{Instant, advance};

use super::super::growth::AHEAD_FOR;
use super::super::state::Pool;
use super::*;
use crate::world::LaunchError;

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
    for place in pool.reserve_growth(1).places {
        place.fail(&error);
    }
    for ticket in tickets {
        assert_eq!(ticket.await.unwrap_err(), Refusal::Launch(error.clone()));
    }
    assert_eq!((grow(&pool, &world), keep(&pool, &world)), (0, 0), "not even for min_warm");
    let ticket = queued(pool.lease());
    assert_eq!(grow(&pool, &world), 1);
    ticket.await.unwrap().finish(ms(1));
}

#[actix::test]
async fn what_is_kept_warm_is_made_when_nobody_waits() {
    tokio::time::pause();
    let (pool, world) = pool(PoolLimits { min_warm: 3, ..limits() });
    assert_eq!(grow(&pool, &world), 0, "what nobody waits for is made in turn");
    let ticket = queued(pool.lease());
    assert!(pool.reserve_kept(1).is_none(), "whoever waits comes first");
    assert!(!pool.reserve_growth(1).keeps);
    drop(ticket);
    assert!(pool.reserve_growth(1).keeps);
    assert_eq!(keep(&pool, &world), 3);
    assert_eq!(pool.figures().live(), 3);
    assert!(!pool.reserve_growth(1).keeps);
}

#[actix::test]
async fn what_memory_has_no_room_for_is_tried_again_ever_less_often() {
    tokio::time::pause();
    let (pool, world) = pool(PoolLimits { min_warm: 2, ..limits() });
    for expected in [10, 20, 40, 80, 160, 320, 600, 600].map(Duration::from_secs) {
        pool.reserve_kept(1).unwrap().forgo();
        assert!(pool.reserve_kept(1).is_none());
        assert_eq!(pool.reserve_growth(1).look_again, Some(expected));
        // A request is served as ever, and its sandbox ends no pause.
        let ticket = queued(pool.lease());
        assert_eq!(grow(&pool, &world), 1);
        ticket.await.unwrap().discard(Discard::Timeout);
        assert_eq!((grow(&pool, &world), keep(&pool, &world)), (0, 0));
        advance(expected).await;
    }
    assert_eq!(keep(&pool, &world), 2);
    // All at once are one failure, and after ten quiet minutes it is the first again.
    advance(WARM_PAUSE_MAX + ms(1)).await;
    assert_eq!(pool.release_idle(2), 2);
    ready_again(&pool, &world).await;
    assert_eq!(pool.reserve_growth(1).look_again, Some(WARM_PAUSE));
    // Other code may want other things.
    pool.set_code(2, PoolLimits { min_warm: 1, ..limits() }, true);
    assert!(pool.reserve_growth(2).keeps || !pool.reserve_growth(2).places.is_empty());
}

/// A request has needed a sandbox, and that one is gone.
async fn ready_again(pool: &SharedPool<FakeSandbox>, world: &Fake) {
    let ticket = queued(pool.lease());
    grow(pool, world);
    ticket.await.unwrap().discard(Discard::Timeout);
}

#[actix::test]
async fn growth_pauses_when_the_machine_is_out_of_something() {
    tokio::time::pause();
    let (pool, world) = pool(limits());
    let mut ticket = queued(pool.lease());
    for expected in [100, 200, 400] {
        let Reserved { mut places, .. } = pool.reserve_growth(1);
        assert_eq!(places.len(), 1);
        places.pop().unwrap().fail(&LaunchError::Resources("memory".into()));
        let Reserved { places, look_again, .. } = pool.reserve_growth(1);
        assert!(places.is_empty());
        assert_eq!(look_again, Some(ms(expected)));
        advance(ms(expected)).await;
    }
    assert!(poll(&mut ticket).is_pending());
    assert_eq!(grow(&pool, &world), 1);
    assert!(poll(&mut ticket).is_ready());
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
