//! What becomes of sandboxes that nobody uses.

use tokio::time::{Instant, advance};

use super::super::lending::Onward;
use super::super::state::Pool;
use super::*;
use crate::world::Sandbox;

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
    assert_eq!(keep(&pool, &world), 3);
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
    assert_eq!(
        (grow(&pool, &world), keep(&pool, &world)),
        (0, 0),
        "and what was given up is not made again at once"
    );
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
