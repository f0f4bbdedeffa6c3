mod anything;
mod growth;
mod idle;
mod lending;

use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::fake::{Fake, FakeSandbox, limits, ms};
use crate::world::PoolLimits;

fn pool(limits: PoolLimits) -> (SharedPool<FakeSandbox>, Fake) {
    (SharedPool::new(1, limits, true), Fake::new())
}

/// Make as many sandboxes as the pool wants now.
fn grow(pool: &SharedPool<FakeSandbox>, world: &Fake) -> usize {
    let places = pool.reserve_growth(pool.generation()).places;
    let n = places.len();
    for place in places {
        place.fill(world.sandbox("v"), Duration::ZERO);
    }
    n
}

/// Make as many sandboxes as the pool wants to be kept warm now.
fn keep(pool: &SharedPool<FakeSandbox>, world: &Fake) -> usize {
    let places = iter::from_fn(|| pool.reserve_kept(pool.generation()));
    places.map(|place| place.fill(world.sandbox("v"), Duration::ZERO)).count()
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
