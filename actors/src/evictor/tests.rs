//! What the evictor does when memory is tight, in a world of numbers.

use tokio::time::sleep;

use super::*;
use crate::fake::{Fake, MB, call, code, lease, ms, status};
use crate::pool::Refusal;
use crate::world::{LaunchError, PoolLimits};

/// A pool of memory of this size, in sandboxes of 10 MB.
fn world(pool_mb: u64) -> Fake {
    let world = Fake::new();
    world.state().sandbox_bytes = 10 * MB;
    world.state().base = MemoryReading { used_bytes: 0, pool_bytes: pool_mb * MB, available_bytes: 1 << 40 };
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
    sleep(MILD_MEANS_TAKE + LOOK_EVERY * 3).await;
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

/// As many as it likes of a function, and no call of it.
fn greedy() -> crate::fake::FakeCode {
    let limits = PoolLimits { max_instances: 10_000, min_warm: 10_000, ..crate::fake::limits() };
    crate::fake::FakeCode { limits, ..code("v1") }
}

#[actix::test]
async fn what_is_only_kept_warm_takes_what_is_free_and_nothing_is_given_up_for_it() {
    tokio::time::pause();
    let world = world(1_000);
    world.put("greedy", greedy());
    world.put("other", code("v1"));
    world.state().install_time = ms(20);
    let tree = world.start();
    for _ in 0..200 {
        sleep(ms(20)).await;
        let row = status(&tree, "greedy").await;
        assert!(row.starting <= lambda::warm_turns(), "{} at once", row.starting);
    }
    let n_kept = n_idle(&tree, "greedy").await;
    assert!((60..=70).contains(&n_kept), "{n_kept}: 10 MB each, up to 700 MB");
    // What others need is there.
    call(&tree, "other", ms(10)).await.unwrap();
    sleep(ms(60_000)).await;
    let stats = tree.stats.read();
    assert_eq!((stats.released_under_pressure, stats.room_refused), (0, 0));
    assert_eq!(status(&tree, "greedy").await.cold_starts as usize, n_idle(&tree, "greedy").await);
}

#[actix::test]
async fn what_was_kept_warm_and_given_up_is_not_made_again_and_again() {
    tokio::time::pause();
    let world = world(1_000);
    world.put("greedy", greedy());
    let tree = world.start();
    sleep(ms(5_000)).await;
    let n_kept = n_idle(&tree, "greedy").await;
    // Somebody else comes and goes, for an hour.
    let mut n_taken = 0;
    for _ in 0..180 {
        world.state().base.used_bytes = 700 * MB;
        sleep(ms(10_000)).await;
        n_taken += usize::from(n_idle(&tree, "greedy").await < n_kept);
        world.state().base.used_bytes = 0;
        sleep(ms(10_000)).await;
    }
    assert!(n_taken > 100, "memory is a fact: {n_taken}");
    let n_made = status(&tree, "greedy").await.cold_starts as usize;
    assert!((n_kept..20 * n_kept).contains(&n_made), "{n_made} were made, {n_kept} at a time");
}

#[actix::test]
async fn many_that_want_to_be_kept_warm_take_turns() {
    tokio::time::pause();
    let world = world(1_000_000);
    let names: Vec<_> = (0..50).map(|n| format!("greedy-{n}")).collect();
    for name in &names {
        world.put(name, greedy());
    }
    world.state().install_time = ms(20);
    let tree = world.start();
    let (mut n_starting_max, mut rows) = (0, Vec::new());
    for _ in 0..100 {
        sleep(ms(50)).await;
        rows = Vec::new();
        for name in &names {
            rows.push(status(&tree, name).await);
        }
        n_starting_max = n_starting_max.max(rows.iter().map(|row| row.starting).sum());
    }
    assert!(n_starting_max <= lambda::warm_turns(), "{n_starting_max} at once");
    let counts: Vec<_> = rows.iter().map(|row| row.warm + row.frozen).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least > 0 && *most <= least + 5, "one each, in turn: {counts:?}");
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
    assert_eq!(
        world.state().standbys.len(),
        4,
        "they are for the next calls, and nobody waits for their memory"
    );
    world.state().base.used_bytes = 0;
    sleep(ms(10_000)).await;
    assert_eq!(world.state().live.len(), 1, "that was enough");
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
    let refusal = call(&tree, "hello", ms(1)).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Launch(LaunchError::Resources(_))), "{refusal}");
    assert!(refusal.to_string().contains("memory is full"), "{refusal}");
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
    assert!(
        ledger.try_reserve_ready(15 * MB).is_some(),
        "what is made of a standby comes nearer to the brim"
    );
    ledger.read(&world);
    assert!(ledger.try_reserve_ready(16 * MB).is_none());
    assert!(ledger.reserve_within(1.0, 20 * MB).is_some());
    ledger.read(&world);
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

#[actix::test]
async fn what_is_dear_to_make_again_stays_although_it_was_used_before() {
    tokio::time::pause();
    let world = world(100);
    world.put("cheap", code("v1"));
    world.put("dear", code("v1"));
    let tree = world.start();
    world.state().install_time = ms(400);
    call(&tree, "dear", ms(10)).await.unwrap();
    world.state().install_time = ms(1);
    call(&tree, "cheap", ms(10)).await.unwrap();
    world.state().base.used_bytes = 65 * MB;
    sleep(MILD_MEANS_TAKE / 2).await;
    assert_eq!((n_idle(&tree, "cheap").await, n_idle(&tree, "dear").await), (1, 1), "it may be enough");
    sleep(MILD_MEANS_TAKE).await;
    assert_eq!((n_idle(&tree, "cheap").await, n_idle(&tree, "dear").await), (0, 1));
}

#[actix::test]
async fn one_that_was_busy_when_memory_became_tight_gives_back_what_it_can_before_it_is_given_up() {
    tokio::time::pause();
    let world = world(100);
    world.put("reader", code("v1"));
    let tree = world.start();
    let busy = lease(&tree, "reader").await.unwrap();
    let id = busy.id;
    world.state().base.used_bytes = 75 * MB;
    sleep(MILD_MEANS_TAKE + LOOK_EVERY).await;
    assert!(world.state().reclaimed.is_empty());
    busy.finish(ms(10));
    sleep(MILD_MEANS_AFTER + LOOK_EVERY).await;
    assert_eq!(world.state().reclaimed, [id]);
    assert_eq!(n_idle(&tree, "reader").await, 1);
    sleep(MILD_MEANS_TAKE / 2).await;
    assert_eq!(n_idle(&tree, "reader").await, 1, "it may be enough");
    sleep(MILD_MEANS_TAKE).await;
    assert_eq!(n_idle(&tree, "reader").await, 0);
}

#[actix::test]
async fn the_kernels_word_has_it_look_at_once_and_take_no_more_than_it_must() {
    tokio::time::pause();
    let world = world(1_000);
    world.put("hello", code("v1"));
    let tree = world.start();
    sleep(ms(50)).await;
    call(&tree, "hello", ms(10)).await.unwrap();
    sleep(ms(50)).await;
    let pressed = Arc::clone(&world.state().pressed);
    pressed.notify_one();
    sleep(ms(5)).await;
    assert_eq!(world.state().frozen.len(), 1);
    assert_eq!(world.state().reclaimed.len(), 0, "who presses may be at his own limit");
    assert_eq!(world.state().live.len(), 1, "there is enough");
    assert_eq!(world.state().standbys.len(), 4);
    // 8 % of the pool is enough, but not for who is pressed.
    world.state().base.available_bytes = 80 * MB;
    sleep(LOOK_EVERY * 3).await;
    assert_eq!(world.state().live.len(), 1);
    pressed.notify_one();
    sleep(PRESSED_PAUSE + ms(5)).await;
    assert!(world.state().reclaimed.len() == 1, "once for each time that it is idle");
    assert_eq!(tree.stats.read().memory_pressure, 2);
}

#[actix::test]
async fn zygotes_stay_as_long_as_only_the_mark_is_exceeded() {
    tokio::time::pause();
    let world = world(100);
    world.put("slow", crate::fake::FakeCode { reuse: false, ..code("v1") });
    let tree = world.start();
    world.state().install_time = ms(50);
    for _ in 0..3 {
        call(&tree, "slow", ms(10)).await.unwrap();
        sleep(ms(300)).await;
    }
    assert_eq!(world.state().zygotes.len(), 1);
    world.state().base.used_bytes = 90 * MB;
    sleep(ms(3_000)).await;
    assert_eq!(world.state().zygotes.len(), 1, "nobody waits for its memory");
    world.state().base.used_bytes = 100 * MB;
    sleep(LOOK_EVERY).await;
    let refused = tree.evictor.ask(NeedRoom { bytes: 10 * MB }).await.unwrap();
    assert!(refused.is_err());
    assert!(world.state().standbys.is_empty(), "these first");
    assert!(world.state().zygotes.is_empty());
}

#[actix::test]
async fn a_busy_one_is_ended_only_when_the_machine_would_die() {
    tokio::time::pause();
    let world = world(1_000);
    world.put("busy", code("v1"));
    world.put("idle", code("v1"));
    let tree = world.start();
    let busy = lease(&tree, "busy").await.unwrap();
    call(&tree, "idle", ms(10)).await.unwrap();
    world.state().base.available_bytes = 20 * MB;
    sleep(OUT_FOR * 5).await;
    assert!(world.state().ended.is_empty(), "it is tight, and no more");
    world.state().base.available_bytes = 8 * MB;
    sleep(OUT_FOR / 2).await;
    assert!(world.state().ended.is_empty(), "what was given up may come back");
    let began = Instant::now();
    let refused = tree.evictor.ask(NeedRoom { bytes: MB }).await.unwrap();
    assert!(matches!(refused, Err(NoRoom::Full { .. })) && began.elapsed() < ms(10));
    sleep(OUT_FOR).await;
    assert_eq!(world.state().ended, [busy.id]);
    assert_eq!(tree.stats.read().ended_under_pressure, 1);
}
