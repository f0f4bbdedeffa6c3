//! Who gets a sandbox, and who waits.

use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, advance};

use super::super::lending::{Onward, Take};
use super::super::state::Pool;
use super::*;
use crate::flight::Answered;
use crate::world::Sandbox;

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
async fn after_a_reload_nobody_gets_the_old_code() {
    tokio::time::pause();
    let (pool, world) = pool(limits());
    let tickets = [queued(pool.lease()), queued(pool.lease())];
    grow(&pool, &world);
    advance(WAIT_TARGET).await;
    grow(&pool, &world);
    let [first, second] = tickets;
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let late_place = {
        let _waiting = queued(pool.lease());
        advance(WAIT_TARGET).await;
        pool.reserve_growth(1).places
    };
    assert_eq!(late_place.len(), 1);
    second.finish(ms(1));
    assert_eq!(pool.figures().warm, 1);

    pool.set_code(2, limits(), true);
    assert_eq!(world.state().live.len(), 1, "the idle one is gone, the one on loan is not");
    assert_eq!((pool.figures().busy, pool.figures().draining), (1, 1));
    assert!(
        pool.reserve_growth(1).places.is_empty(),
        "a lambda that has the old code makes nothing any more"
    );
    let mut ticket = queued(pool.lease());
    for place in late_place {
        place.fill(world.sandbox("old"), Duration::ZERO);
    }
    first.finish(ms(1));
    assert!(poll(&mut ticket).is_pending());
    assert!(world.state().live.is_empty());
    assert_eq!(grow(&pool, &world), 1);
    let Poll::Ready(Ok(lease)) = poll(&mut ticket) else { panic!("the new one is there") };
    assert_eq!(lease.generation(), 2);
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
