use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::*;
use crate::fake::{Fake, FakeWorld, log, ms, package};
use crate::installs::PAUSE;
use crate::monitor::{Child, Down};
use crate::world::PackageError;

struct Ear;
impl Actor for Ear {
    type Context = Context<Self>;
}
impl Handler<Down> for Ear {
    type Result = ();
    fn handle(&mut self, _: Down, _: &mut Context<Self>) {}
}

fn packages(world: &Fake, known: &Known) -> actix::Addr<Packages<FakeWorld>> {
    let monitor = Monitor::new(Child::Packages, 1, Ear.start().recipient());
    Packages::new(world.clone(), known.clone(), Arc::default(), log(), monitor).start()
}

#[test]
fn a_package_is_used_first_once_and_once_more_when_it_was_evicted() {
    let known = Known::default();
    let set = |names: &[&str]| PackageSet::new(names.iter().map(|name| package(name)));
    assert_eq!(known.use_for_sandbox(&PackageSet::default()), 0);
    assert_eq!(known.use_for_sandbox(&set(&["a==1", "b==1"])), 2);
    assert_eq!(known.clone().use_for_sandbox(&set(&["b==1", "c==1"])), 1, "a clone knows the same");
    assert_eq!(known.use_for_sandbox(&set(&["a==1", "b==1", "c==1"])), 0);
    assert_eq!(known.use_for_sandbox(&set(&["a==2"])), 1, "another version is another package");
    known.forget_all_with(&[package("b==1").directory]);
    assert_eq!(known.use_for_sandbox(&set(&["a==1", "b==1"])), 1);
}

#[test]
fn what_a_package_is_known_by_says_where_it_comes_from_and_no_password() {
    for (pin, known_by) in [
        ("a==1 --hash=sha256:aa --hash=sha256:bb --pre", "a==1"),
        (
            "a==1 --hash=sha256:aa --index-url=https://me:pw@x.example/s",
            "a==1 --index-url=https://x.example/s",
        ),
        (
            "a==1 --no-index --find-links https://x.example/l@1",
            "a==1 --no-index --find-links=https://x.example/l@1",
        ),
        ("a==1 ; python_version > '3' --hash=sha256:aa", "a==1 ; python_version > '3'"),
    ] {
        assert_eq!(short(pin), known_by);
        assert_eq!(short(known_by), known_by);
    }
}

#[test]
fn the_same_name_and_version_from_elsewhere_is_another_package() {
    let other = Package { directory: "a==1@from-ab@cp311".into(), ..package("a==1") };
    assert_ne!(other, package("a==1"));
    assert_eq!((other.to_string().as_str(), package("a==1").to_string().as_str()), ("a==1@from-ab", "a==1"));
    let known = Known::default();
    assert_eq!(known.use_for_sandbox(&PackageSet::new([package("a==1"), other])), 2);
}

fn require(text: &str) -> Require {
    Require { packages: vec![text.into()] }
}

#[actix::test]
async fn what_is_there_is_asked_for_once_and_then_known_to_all() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    world.state().installed.insert("a==1".into());
    let packages = packages(&world, &known);
    assert_eq!(known.get(&["a==1".into()]), None);
    for _ in 0..3 {
        let set = packages.send(require("a==1")).await.unwrap().unwrap();
        assert_eq!(set, PackageSet::new([package("a==1")]));
    }
    assert_eq!(world.state().n_finds, 1);
    assert!(known.get(&["a==1".into()]).is_some());
    assert_eq!(known.get(&[]), Some(PackageSet::default()), "nothing is asked of nobody");
}

#[actix::test]
async fn what_is_missing_is_looked_for_again_each_time() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    let packages = packages(&world, &known);
    assert!(packages.send(require("a==1")).await.unwrap().is_err());
    world.state().installed.insert("a==1".into());
    assert!(packages.send(require("a==1")).await.unwrap().is_ok(), "no restart is needed");
}

#[actix::test]
async fn what_is_gone_is_forgotten() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    world.state().installed.insert("a==1".into());
    let packages = packages(&world, &known);
    packages.send(require("a==1")).await.unwrap().unwrap();
    sleep(LOOK_EVERY + ms(100)).await;
    assert!(known.get(&["a==1".into()]).is_some());
    world.state().installed.clear();
    sleep(LOOK_EVERY + ms(100)).await;
    assert!(known.get(&["a==1".into()]).is_none());
    assert!(packages.send(require("a==1")).await.unwrap().is_err());
}

fn provide(list: &[&str]) -> Provide {
    let list = list.iter().map(|line| (*line).to_owned()).collect();
    Provide { list, is_settled: false, last: Vec::new(), anew: false }
}

#[actix::test]
async fn ten_that_need_the_same_new_package_cost_one_install() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    world.state().index.extend(["a==1".into(), "b==1".into()]);
    let packages = packages(&world, &known);
    let asked = (0..10).map(|_| packages.send(provide(&["a", "b"])));
    for provided in join_all(asked).await {
        let provided = provided.unwrap().unwrap();
        assert_eq!(provided.pins, ["a==1", "b==1"]);
        assert_eq!(provided.set, PackageSet::new([package("a==1"), package("b==1")]));
    }
    let state = world.state();
    assert_eq!((state.n_settles, state.package_installs.len()), (1, 2));
    let held = &state.held_at_install;
    assert!(held.contains(&"a==1".into()), "what others wait for is not removed: {held:?}");
    drop(state);
    assert!(known.get(&["a==1".into(), "b==1".into()]).is_some());
}

#[actix::test]
async fn what_is_pinned_and_there_needs_no_resolver_and_no_index() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    world.state().installed.insert("a==1".into());
    world.state().index_away = Some("away".into());
    let packages = packages(&world, &known);
    assert!(packages.send(provide(&["a==1"])).await.unwrap().is_ok());
    assert_eq!(world.state().n_settles, 0);
    let anew = Provide { anew: true, ..provide(&["a==1"]) };
    let error = packages.send(anew).await.unwrap().err().unwrap();
    assert_eq!(error.retry_after, Some(PAUSE), "who asks for what is new asks the index");
}

#[actix::test]
async fn what_was_begun_goes_on_when_nobody_waits_any_more() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    world.state().index.insert("a==1".into());
    let packages = packages(&world, &known);
    let wish = Provide { is_settled: true, ..provide(&["a==1"]) };
    let _ = timeout(ms(100), packages.send(wish)).await;
    sleep(ms(600)).await;
    assert_eq!(world.state().package_installs, ["a==1"]);
}

#[actix::test]
async fn what_cannot_be_had_is_said_and_counted() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    let packages = packages(&world, &known);
    let error = packages.send(provide(&["none"])).await.unwrap().err().unwrap();
    assert_eq!(error.error, PackageError::Refused("there is no none==1".into()));
    assert_eq!(error.retry_after, None);
}

#[test]
fn never_more_is_known_than_may_be() {
    let known = Known::default();
    for at in 0..KNOWN_MAX + 10 {
        known.learn(vec![at.to_string()], PackageSet::default());
    }
    assert_eq!(known.all().len(), KNOWN_MAX);
    assert!(known.get(&[(KNOWN_MAX + 9).to_string()]).is_some(), "the last one is");
}

#[actix::test]
async fn what_was_provided_is_held_until_nobody_needs_it_and_what_is_gone_is_not_given() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    world.state().index.insert("a==1".into());
    let packages = packages(&world, &known);
    let provided = packages.send(provide(&["a==1"])).await.unwrap().unwrap();
    assert_eq!(world.state().held(), ["a==1"]);
    drop(provided);
    assert!(world.state().held().is_empty());
    // Another worker removes it, between the look and the hold.
    world.state().gone_when_held = true;
    let error = packages.send(provide(&["a==1"])).await.unwrap().err().unwrap();
    assert!(matches!(error.error, PackageError::Away(_)), "{:?}", error.error);
    assert_eq!(error.retry_after, Some(PAUSE));
    world.state().gone_when_held = false;
    assert!(packages.send(provide(&["a==1"])).await.unwrap().is_ok());
}

#[actix::test]
async fn nobody_waits_long_to_hear_what_packages_take() {
    tokio::time::pause();
    let (world, known) = (Fake::new(), Known::default());
    world.state().installed.insert("a==1".into());
    let packages = packages(&world, &known);
    assert_eq!(packages.send(AskActivity).await.unwrap().bytes, 1);
    world.state().installed.insert("b==1".into());
    world.state().bytes_time = BYTES_PATIENCE * 10;
    let (activity, found) =
        futures_util::future::join(packages.send(AskActivity), packages.send(require("b==1"))).await;
    assert_eq!(activity.unwrap().bytes, 1, "as it was before");
    assert!(found.unwrap().is_ok());
    world.state().bytes_time = ms(1);
    assert_eq!(packages.send(AskActivity).await.unwrap().bytes, 2);
}
