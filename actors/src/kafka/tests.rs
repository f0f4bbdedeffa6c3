use std::time::Duration;

use tokio::time::sleep;

use super::*;
use crate::fake::{Fake, FakeWorld, code, ms, name};
use crate::supervisor::{Shutdown, Tree};
use crate::watcher::Refresh;

fn source(topic: &str) -> KafkaSource {
    KafkaSource {
        bootstrap_servers: vec!["localhost:9092".into()],
        topics: vec![topic.into()],
        from_earliest: true,
        calls_max: 5,
        dead_letter_topic: None,
    }
}

async fn deploy(world: &Fake, tree: &Tree<FakeWorld>, text: &str, version: &str, topics: &[&str]) {
    let mut code = code(version);
    code.kafka = topics.iter().map(|topic| source(topic)).collect();
    world.put(text, code);
    refresh(tree, text).await;
}

async fn refresh(tree: &Tree<FakeWorld>, text: &str) {
    tree.watcher.ask(Refresh { name: name(text) }).await.unwrap().unwrap();
    // What was told to the actor before this has been heard.
    tree.kafka.ask(AskKafka).await.unwrap();
}

fn feeds(world: &Fake) -> Vec<(String, String)> {
    world.state().feeds.values().cloned().collect()
}

fn pair(function: &str, topic: &str) -> (String, String) {
    (function.into(), topic.into())
}

#[actix::test]
async fn a_function_is_fed_as_its_code_says_and_what_stays_the_same_goes_on() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &["a", "b"]).await;
    assert_eq!(feeds(&world), [pair("f", "a"), pair("f", "b")]);
    let first = *world.state().feeds.keys().next_back().unwrap();
    deploy(&world, &tree, "f", "2", &["b", "c"]).await;
    assert_eq!(feeds(&world), [pair("f", "b"), pair("f", "c")]);
    assert_eq!(*world.state().feeds.keys().next().unwrap(), first);
    world.state().registry.remove("f");
    refresh(&tree, "f").await;
    assert!(feeds(&world).is_empty());
}

#[actix::test]
async fn a_reader_that_ends_is_started_again_after_longer_and_longer_pauses() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &["a"]).await;
    for _ in 0..120 {
        let ids: Vec<_> = world.state().feeds.keys().copied().collect();
        world.state().dead.extend(ids);
        sleep(Duration::from_secs(1)).await;
    }
    let n = world.state().n_feeds_opened;
    assert!((4..12).contains(&n), "{n}");
    sleep(AGAIN_MAX).await;
    assert_eq!(feeds(&world), [pair("f", "a")]);
}

#[actix::test]
async fn what_cannot_be_opened_is_told_and_tried_again() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    world.state().feed_error = Some("no more threads".into());
    deploy(&world, &tree, "f", "1", &["a"]).await;
    let status = tree.kafka.ask(AskKafka).await.unwrap().0[&name("f")][0].clone();
    assert_eq!((status.state, status.message.as_str()), (FeedState::Trouble, "no more threads"));
    world.state().feed_error = None;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(feeds(&world), [pair("f", "a")]);
}

#[actix::test]
async fn a_function_that_is_unregistered_is_not_fed_until_it_is_registered() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &["a"]).await;
    tree.kafka.ask(Unregister { name: name("f") }).await.unwrap();
    tree.kafka.ask(Unregister { name: name("nobody") }).await.unwrap();
    // Neither new code nor a panic changes that.
    deploy(&world, &tree, "f", "2", &["a", "b"]).await;
    assert!(tree.kafka.ask(Crash).await.is_err());
    sleep(Duration::from_secs(5)).await;
    assert!(feeds(&world).is_empty());
    let status = tree.kafka.ask(AskKafka).await.unwrap().0[&name("f")][0].clone();
    assert_eq!(status.state, FeedState::Stopped);
    assert_eq!(tree.kafka.ask(Register { name: name("f") }).await.unwrap(), 2);
    assert_eq!(feeds(&world), [pair("f", "a"), pair("f", "b")]);
}

#[actix::test]
async fn after_a_panic_all_functions_are_fed_again() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &["a"]).await;
    assert!(tree.kafka.ask(Crash).await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(feeds(&world), [pair("f", "a")]);
}

#[actix::test]
async fn there_is_a_bound_to_readers() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    let topics: Vec<String> = (0..FEEDS_MAX + 2).map(|n| format!("t{n}")).collect();
    deploy(&world, &tree, "f", "1", &topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(feeds(&world).len(), FEEDS_MAX);
    let status = tree.kafka.ask(AskKafka).await.unwrap();
    assert!(status.0[&name("f")].iter().any(|one| one.message.contains("already")));
}

#[actix::test]
async fn a_worker_that_ends_lets_go_of_its_readers() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    deploy(&world, &tree, "f", "1", &["a"]).await;
    tree.supervisor.send(Shutdown { grace: ms(100) }).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(feeds(&world).is_empty());
}
