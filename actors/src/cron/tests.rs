use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::*;
use crate::cron::timetable::CronEntry;
use crate::fake::{Fake, FakeWorld, code, ms, name};
use crate::monitor::Crash;
use crate::supervisor::{Shutdown, Tree, Yield};
use crate::watcher::Refresh;
use crate::world::Schedule;

/// Due each so many seconds.
#[derive(Debug)]
struct Each(u64);

impl Schedule for Each {
    fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
        let s = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs((s / self.0 + 1) * self.0))
    }
}

fn each(s: u64) -> CronEntry {
    CronEntry { text: format!("each {s}"), zone: "UTC".into(), schedule: Arc::new(Each(s)) }
}

async fn deploy(world: &Fake, tree: &Tree<FakeWorld>, text: &str, version: &str, entries: &[u64]) {
    let mut code = code(version);
    code.cron = entries.iter().map(|s| each(*s)).collect();
    world.put(text, code);
    tree.watcher.ask(Refresh { name: name(text) }).await.unwrap().unwrap();
}

async fn one(tree: &Tree<FakeWorld>, text: &str) -> CronStatus {
    tree.cron.ask(AskCron).await.unwrap().0[&name(text)][0].clone()
}

fn n_calls(world: &Fake, text: &str) -> usize {
    world.state().calls.iter().filter(|(name, _)| name == text).count()
}

#[actix::test]
async fn a_function_is_called_when_it_is_due_and_as_often() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "hourly", "1", &[3600]).await;
    sleep(Duration::from_secs(3 * 3600 + 1)).await;
    let calls = world.state().calls.clone();
    assert_eq!(calls.len(), 3, "{calls:?}");
    for (_, time) in calls {
        assert_eq!(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % 3600, 0);
    }
    let status = one(&tree, "hourly").await;
    assert_eq!((status.runs, status.failed, status.running), (3, 0, false));
    assert_eq!(status.last.unwrap().text, "200");
}

#[actix::test]
async fn a_call_begins_within_milliseconds_of_its_time() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &[5]).await;
    for _ in 0..20 {
        let n = n_calls(&world, "f");
        while n_calls(&world, "f") == n {
            sleep(ms(1)).await;
        }
        let due = world.state().calls.last().unwrap().1;
        let late = Clock::now(&world).duration_since(due).unwrap();
        assert!(late < ms(5), "{late:?}");
    }
}

#[actix::test]
async fn a_call_that_takes_long_is_not_joined_by_the_next() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    world.state().call_time = Duration::from_secs(25);
    deploy(&world, &tree, "slow", "1", &[10]).await;
    for _ in 0..2000 {
        sleep(ms(100)).await;
        assert!(world.state().n_calling <= 1);
    }
    let status = one(&tree, "slow").await;
    assert!(status.runs >= 5 && status.overlapping >= 10, "{status:?}");
}

#[actix::test]
async fn a_clock_that_is_set_starts_no_flood_and_runs_nothing_twice() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &[600]).await;
    sleep(Duration::from_secs(601)).await;
    assert_eq!(n_calls(&world, "f"), 1);
    // A week passes in no time.
    world.state().day += Duration::from_secs(7 * 86_400 + 300);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(n_calls(&world, "f"), 1);
    assert!(one(&tree, "f").await.missed > 900);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(n_calls(&world, "f"), 2);
    world.state().day -= Duration::from_secs(700);
    sleep(Duration::from_secs(700)).await;
    assert_eq!(n_calls(&world, "f"), 2);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(n_calls(&world, "f"), 3);
    let mut times: Vec<_> = world.state().calls.iter().map(|(_, time)| *time).collect();
    times.dedup();
    assert_eq!(times.len(), 3);
}

#[actix::test]
async fn new_code_brings_its_schedules_and_takes_the_old_ones_away() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &[10, 3600]).await;
    sleep(Duration::from_secs(11)).await;
    assert_eq!(n_calls(&world, "f"), 1);
    deploy(&world, &tree, "f", "2", &[3600]).await;
    sleep(Duration::from_secs(1800)).await;
    assert!(n_calls(&world, "f") <= 2);
    world.state().registry.remove("f");
    tree.watcher.ask(Refresh { name: name("f") }).await.unwrap().unwrap();
    let n = n_calls(&world, "f");
    sleep(Duration::from_secs(7200)).await;
    assert_eq!(n_calls(&world, "f"), n);
    assert!(tree.cron.ask(AskCron).await.unwrap().0.is_empty());
}

#[actix::test]
async fn a_call_without_room_is_made_again_and_not_for_ever() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    world.state().call_outcome = Outcome::NoRoom { text: "full".into() };
    deploy(&world, &tree, "f", "1", &[3600]).await;
    while n_calls(&world, "f") < 3 {
        sleep(ms(10)).await;
    }
    assert!(one(&tree, "f").await.running);
    world.state().call_outcome = Outcome::Done { status: 200 };
    sleep(Duration::from_secs(5)).await;
    let status = one(&tree, "f").await;
    assert_eq!((status.runs, status.failed), (1, 0));
    world.state().call_outcome = Outcome::NoRoom { text: "full".into() };
    sleep(Duration::from_secs(3600 + 300)).await;
    let status = one(&tree, "f").await;
    assert_eq!((status.runs, status.failed, status.running), (2, 1, false));
    assert!(n_calls(&world, "f") < 40);
}

#[actix::test]
async fn after_a_panic_the_schedules_are_there_again() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &[60]).await;
    assert!(tree.cron.ask(Crash).await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(tree.cron.ask(AskCron).await.unwrap().0.len(), 1);
    sleep(Duration::from_secs(120)).await;
    assert!(n_calls(&world, "f") >= 1);
}

#[actix::test]
async fn a_worker_that_ends_calls_nothing_by_the_clock() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &[1]).await;
    tree.supervisor.send(Shutdown { grace: ms(100) }).await.unwrap();
    let n = n_calls(&world, "f");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(n_calls(&world, "f"), n);
}

#[actix::test]
async fn what_was_missed_while_there_was_no_worker_is_told() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &[600]).await;
    sleep(Duration::from_secs(605)).await;
    tree.supervisor.send(Shutdown { grace: ms(100) }).await.unwrap();
    assert_eq!(n_calls(&world, "f"), 1);
    sleep(Duration::from_secs(6000)).await;
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &[600, 60]).await;
    let status = tree.cron.ask(AskCron).await.unwrap().0[&name("f")].clone();
    assert_eq!((status[0].missed, status[1].missed), (10, 0));
    assert_eq!(n_calls(&world, "f"), 1);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(n_calls(&world, "f"), 1 + 1 + 10);
}

#[actix::test]
async fn schedules_of_seconds_do_not_keep_the_disk_busy() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    for n in 0..50 {
        deploy(&world, &tree, &format!("f{n}"), "1", &[1]).await;
    }
    let n = world.state().n_diary_writes;
    sleep(Duration::from_secs(100)).await;
    assert!(world.state().n_diary_writes - n <= 101);
    assert_eq!(world.state().diary.len(), 50);
}

#[actix::test]
async fn a_worker_whose_place_is_taken_calls_nobody_until_it_has_it_back() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &[60]).await;
    sleep(Duration::from_secs(61)).await;
    let n_before = n_calls(&world, "f");
    assert!(n_before >= 1);
    tree.supervisor.send(Yield(true)).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(n_calls(&world, "f"), n_before);
    // Nor does one that is crashed, and so started again.
    let _ = tree.cron.ask(Crash).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(n_calls(&world, "f"), n_before);
    tree.supervisor.send(Yield(false)).await.unwrap();
    sleep(Duration::from_secs(61)).await;
    assert_eq!(n_calls(&world, "f"), n_before + 1);
}
