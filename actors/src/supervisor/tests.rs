//! The whole tree, in the fake world.

use futures_util::future::join_all;
use tokio::time::sleep;

use super::*;
use crate::fake::{Fake, FakeWorld, MB, call, code, lease, limits, ms, name, route, status};
use crate::lambda::Lambda;
use crate::monitor::{Crash, Exit};
use crate::pool::Refusal;
use crate::router::{Resolve, ResolveError};
use crate::stats::State;
use crate::watcher::{Lookup, Refresh, STRANGERS_ASKED_MAX, STRANGERS_MAX, Touched, Trouble};
use crate::world::{LaunchError, PoolLimits, RegistryError};
use crate::zygotes::ZygotesConfig;

/// Does nothing for ever: a handler that hangs.
#[derive(Message)]
#[rtype(result = "()")]
struct Stall;

impl Handler<Stall> for Lambda<FakeWorld> {
    type Result = ();
    fn handle(&mut self, _: Stall, ctx: &mut Context<Self>) {
        ctx.wait(std::future::pending::<()>().into_actor(self));
    }
}

fn assert_shareable<T: Send + Sync + Clone + 'static>(_: &T) {}

async fn upload(tree: &Tree<FakeWorld>, world: &Fake, text: &str, version: &str) {
    world.put(text, code(version));
    let live = tree.watcher.ask(Refresh { name: name(text) }).await.unwrap();
    assert_eq!(live, Ok(Some(version.into())));
}

async fn crash_lambda(tree: &Tree<FakeWorld>, text: &str) {
    let addr = tree.routes.get(text).unwrap().lambda.clone().unwrap();
    assert!(addr.send(Crash).await.is_err());
    sleep(ms(1)).await;
}

#[actix::test]
async fn a_function_that_was_just_dropped_in_is_served() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    assert_shareable(&tree);
    world.put("hello", code("v1"));
    assert_eq!(call(&tree, "hello", ms(1)).await, Ok("v1".into()));
    let row = status(&tree, "hello").await;
    assert_eq!((row.state, row.generation, row.version.as_str()), (State::Ready, 1, "v1"));
    assert_eq!((row.warm, row.invocations, row.memory_bytes), (1, 1, 2 * MB));
    assert!(row.p50_ms.unwrap() >= 1.0);
    assert_eq!(tree.stats.read().sandboxes_started, 1);
}

#[actix::test]
async fn functions_that_are_there_at_the_start_are_found_without_being_asked_for() {
    tokio::time::pause();
    let world = Fake::new();
    for i in 0..20 {
        world.put(&format!("f{i}"), code("v1"));
    }
    let tree = world.start();
    sleep(ms(100)).await;
    assert_eq!(tree.routes.len(), 20);
    assert!(world.state().live.is_empty(), "none of them has a sandbox");
    assert_eq!(world.state().n_loading_max, crate::watcher::LOADS_MAX);
}

#[actix::test]
async fn an_unknown_name_is_not_found_and_leaves_nothing() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    assert!(matches!(route(&tree, "nobody").await, Err(ResolveError::NotFound)));
    assert!(tree.routes.is_empty());
    assert!(tree.supervisor.send(Statuses).await.unwrap().is_empty());
}

#[actix::test]
async fn requests_for_one_unknown_name_share_one_look_and_a_flood_of_names_is_refused() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    sleep(ms(10)).await;
    world.put("late", code("v1"));
    let found = join_all((0..50).map(|_| route(&tree, "late"))).await;
    assert!(found.iter().all(Result::is_ok));
    assert_eq!(world.state().n_loads, 1);

    world.state().load_time = ms(50);
    let names: Vec<String> = (0..100).map(|i| format!("no{i}")).collect();
    let answers = join_all(names.iter().map(|text| route(&tree, text))).await;
    let n_busy = answers.iter().filter(|answer| matches!(answer, Err(ResolveError::Busy))).count();
    assert_eq!(n_busy, 100 - crate::router::LOOKUPS_MAX);
}

#[actix::test]
async fn names_that_somebody_tries_keep_no_function_waiting_of_which_there_is_a_copy() {
    tokio::time::pause();
    let world = Fake::new();
    world.state().copies = Some(["cold".to_owned()].into());
    let tree = world.start();
    sleep(ms(10)).await;
    world.put("cold", code("v1"));
    world.put("first", code("v1"));
    world.state().load_time = ms(1_000);
    let names: Vec<String> = (0..200).map(|i| format!("no{i}")).collect();
    let trying = join_all(names.iter().map(|text| route(&tree, text)));
    let called = async {
        sleep(ms(10)).await;
        let began = Instant::now();
        // Also one who does not wait for the first answer finds it among the others, behind the first eight.
        tree.watcher.try_tell(Lookup { name: name("no31") }).unwrap();
        assert!(
            matches!(route(&tree, "first").await, Err(ResolveError::Busy)),
            "nobody here knows that it is one"
        );
        assert!(route(&tree, "cold").await.is_ok());
        began.elapsed()
    };
    let (tried, took) = futures_util::future::join(trying, called).await;
    assert!(took < ms(1_100), "it waited for others: {took:?}");
    let n = |is: fn(&Result<_, ResolveError>) -> bool| tried.iter().filter(|answer| is(answer)).count();
    assert_eq!(n(|answer| matches!(answer, Err(ResolveError::NotFound))), STRANGERS_MAX);
    assert_eq!(n(|answer| matches!(answer, Err(ResolveError::Busy))), 200 - STRANGERS_MAX);
    assert_eq!(world.state().n_loading_max, STRANGERS_ASKED_MAX + 1);
    assert!(route(&tree, "first").await.is_ok(), "there is room again");
}

#[actix::test]
async fn a_burst_of_long_calls_gets_a_sandbox_each() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("slow", code_with(PoolLimits { max_instances: 50, ..limits() }));
    let tree = world.start();
    let began = Instant::now();
    let answers = join_all((0..50).map(|_| call(&tree, "slow", ms(1_000)))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(began.elapsed() < ms(1_100), "they took {:?}", began.elapsed());
    assert_eq!(world.state().live.len(), 50);
}

#[actix::test]
async fn a_burst_of_short_calls_stays_on_few_sandboxes() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("fast", code_with(PoolLimits { max_instances: 50, queue_length_max: 500, ..limits() }));
    let tree = world.start();
    let route = route(&tree, "fast").await.unwrap();
    let one = || async {
        let lease = route.pool.lease_or_wait().await.unwrap();
        tokio::task::yield_now().await;
        lease.finish(Duration::from_micros(20));
    };
    join_all((0..400).map(|_| one())).await;
    assert!(world.state().live.len() <= 2, "{} sandboxes", world.state().live.len());
}

fn code_with(limits: PoolLimits) -> crate::fake::FakeCode {
    crate::fake::FakeCode { limits, ..code("v1") }
}

#[actix::test]
async fn what_imports_nothing_gets_no_zygote_however_long_it_took_to_load() {
    tokio::time::pause();
    for (imports, n_sprouts) in [(true, 1), (false, 0)] {
        let world = Fake::new();
        world.put("f", crate::fake::FakeCode { reuse: false, imports, ..code("v1") });
        world.state().install_time = ms(50);
        let tree = world.start();
        for _ in 0..3 {
            call(&tree, "f", ms(1)).await.unwrap();
            sleep(ms(1_000)).await;
        }
        assert_eq!(world.state().n_sprouts, n_sprouts, "imports: {imports}");
    }
}

#[actix::test]
async fn min_warm_is_there_before_the_first_request() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("warm", code_with(PoolLimits { min_warm: 2, ..limits() }));
    let tree = world.start();
    sleep(ms(100)).await;
    assert_eq!(status(&tree, "warm").await.warm, 2);
}

#[actix::test]
async fn idle_sandboxes_are_frozen_then_released_and_then_the_lambda_has_no_timer() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    call(&tree, "hello", ms(1)).await.unwrap();
    sleep(ms(11_000)).await;
    assert_eq!(status(&tree, "hello").await.frozen, 1);
    call(&tree, "hello", ms(1)).await.unwrap();
    assert_eq!(world.state().live.len(), 1, "the frozen one has served again");
    sleep(ms(80_000)).await;
    assert!(world.state().live.is_empty());
    assert_eq!(tree.routes.get("hello").unwrap().pool.tend(), None);
}

#[actix::test]
async fn code_that_does_not_load_is_told_to_all_who_wait_and_tried_once() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("bad", code("v1"));
    let error = LaunchError::Load("Traceback: ImportError".into());
    world.state().install_error = Some(error.clone());
    let tree = world.start();
    let answers = join_all((0..5).map(|_| call(&tree, "bad", ms(1)))).await;
    assert!(answers.iter().all(|answer| *answer == Err(Refusal::Launch(error.clone()))));
    sleep(ms(5_000)).await;
    assert_eq!(world.state().n_installs, 1);
    let row = status(&tree, "bad").await;
    assert_eq!((row.state, row.message.as_str()), (State::Rejected, "Traceback: ImportError"));

    world.state().install_error = None;
    assert_eq!(call(&tree, "bad", ms(1)).await, Ok("v1".into()), "the next request tries again");
    assert_eq!(status(&tree, "bad").await.message, "");
}

#[actix::test]
async fn a_missing_package_is_named_and_when_it_comes_it_is_noticed() {
    tokio::time::pause();
    let world = Fake::new();
    world.state().package_time = ms(100);
    world.put("np", crate::fake::FakeCode { packages: vec!["numpy==2".into()], ..code("v1") });
    let tree = world.start();
    let said = route(&tree, "np").await.err().unwrap().to_string();
    assert!(said.contains("there is no numpy==2"), "{said}");
    world.state().installed.insert("numpy==2".into());
    sleep(crate::watcher::PACKAGES_AGAIN + ms(10)).await;
    assert_eq!(call(&tree, "np", ms(1)).await, Ok("v1".into()));
}

#[actix::test]
async fn when_the_packages_of_new_code_cannot_be_had_the_old_code_goes_on() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("f", code("v1"));
    let tree = world.start();
    assert_eq!(call(&tree, "f", ms(1)).await, Ok("v1".into()));
    world.put("f", crate::fake::FakeCode { packages: vec!["none".into()], ..code("v2") });
    let told = tree.watcher.ask(crate::watcher::Refresh { name: crate::fake::name("f") }).await.unwrap();
    assert!(told.unwrap_err().to_string().contains("there is no none==1"));
    assert_eq!(call(&tree, "f", ms(1)).await, Ok("v1".into()));
    assert!(status(&tree, "f").await.message.contains("there is no none==1"));
}

#[actix::test]
async fn a_reload_lets_running_invocations_finish_and_gives_the_new_code_to_all_others() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    let old = lease(&tree, "hello").await.unwrap();
    upload(&tree, &world, "hello", "v2").await;
    assert_eq!(tree.routes.get("hello").unwrap().generation, 2);
    assert_eq!(status(&tree, "hello").await.state, State::Reloading);
    assert_eq!(old.version(), "v1");
    sleep(ms(50)).await;
    assert_eq!(status(&tree, "hello").await.warm, 1, "one of the new code waits already");
    assert_eq!(call(&tree, "hello", ms(1)).await, Ok("v2".into()));
    old.finish(ms(60));
    let row = status(&tree, "hello").await;
    assert_eq!((row.state, row.busy, row.generation, row.version.as_str()), (State::Ready, 0, 2, "v2"));
    assert!(world.state().live.values().all(|version| version == "v2"));
}

#[actix::test]
async fn a_sandbox_that_a_reload_has_overtaken_is_dropped() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    world.state().install_time = ms(500);
    let tree = world.start();
    let asked = actix::spawn({
        let tree = tree.clone();
        async move { call(&tree, "hello", ms(1)).await }
    });
    sleep(ms(100)).await;
    upload(&tree, &world, "hello", "v2").await;
    assert_eq!(asked.await.unwrap(), Ok("v2".into()));
    sleep(ms(1_000)).await;
    assert!(world.state().live.values().all(|version| version == "v2"));
}

#[actix::test]
async fn the_same_content_again_changes_nothing() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    call(&tree, "hello", ms(1)).await.unwrap();
    upload(&tree, &world, "hello", "v1").await;
    assert_eq!((status(&tree, "hello").await.generation, world.state().live.len()), (1, 1));
}

#[actix::test]
async fn a_broken_upload_leaves_the_function_served_and_says_so() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    call(&tree, "hello", ms(1)).await.unwrap();
    let broken = || Err(RegistryError::Invalid("f.py has no function f".into()));
    world.state().registry.insert("hello".into(), broken());
    let refreshed = tree.watcher.ask(Refresh { name: name("hello") }).await.unwrap();
    assert_eq!(refreshed, Err(Trouble::Rejected("f.py has no function f".into())));
    assert_eq!(call(&tree, "hello", ms(1)).await, Ok("v1".into()));
    let row = status(&tree, "hello").await;
    assert_eq!((row.state, row.message.as_str()), (State::Rejected, "f.py has no function f"));
    upload(&tree, &world, "hello", "v1").await;
    sleep(ms(1)).await;
    let row = status(&tree, "hello").await;
    assert_eq!((row.state, row.generation), (State::Ready, 1), "the old content is well again");

    world.state().registry.insert("never".into(), broken());
    let told = ResolveError::Rejected("f.py has no function f".into());
    assert_eq!(route(&tree, "never").await.err(), Some(told));
    let row = status(&tree, "never").await;
    assert_eq!((row.state, row.generation), (State::Rejected, 0));
}

#[actix::test]
async fn a_removed_function_is_gone_and_its_last_invocation_finishes() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    let last = lease(&tree, "hello").await.unwrap();
    world.state().registry.clear();
    assert_eq!(tree.watcher.ask(Refresh { name: name("hello") }).await.unwrap(), Ok(None));
    assert!(matches!(route(&tree, "hello").await, Err(ResolveError::NotFound)));
    assert_eq!(last.version(), "v1");
    last.finish(ms(1));
    assert!(world.state().live.is_empty());
    upload(&tree, &world, "hello", "v2").await;
    assert_eq!(call(&tree, "hello", ms(1)).await, Ok("v2".into()), "and it may come back");
}

#[actix::test]
async fn a_function_that_comes_back_after_its_removal_is_of_a_generation_that_there_never_was() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    upload(&tree, &world, "f", "v1").await;
    upload(&tree, &world, "f", "v2").await;
    world.state().registry.clear();
    assert_eq!(tree.watcher.ask(Refresh { name: name("f") }).await.unwrap(), Ok(None));
    upload(&tree, &world, "f", "v3").await;
    assert_eq!(status(&tree, "f").await.generation, 3);
    assert_eq!(call(&tree, "f", ms(1)).await, Ok("v3".into()));
    upload(&tree, &world, "g", "v1").await;
    assert_eq!(status(&tree, "g").await.generation, 1, "it is nobody's successor");
}

#[actix::test]
async fn a_lambda_that_panics_is_started_again_and_its_neighbour_notices_nothing() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("shaky", code("v1"));
    world.put("steady", code("v1"));
    let tree = world.start();
    let neighbour = lease(&tree, "steady").await.unwrap();
    let running = lease(&tree, "shaky").await.unwrap();
    world.state().install_time = ms(100);
    let waiting = actix::spawn({
        let tree = tree.clone();
        async move { call(&tree, "shaky", ms(1)).await }
    });
    sleep(ms(20)).await;
    crash_lambda(&tree, "shaky").await;
    assert_eq!(waiting.await.unwrap(), Err(Refusal::Restarting));
    assert_eq!(lease(&tree, "shaky").await.unwrap_err(), Refusal::Restarting);
    assert_eq!(running.version(), "v1", "what runs goes on");
    running.finish(ms(1));
    sleep(ms(20)).await;
    assert_eq!(call(&tree, "shaky", ms(1)).await, Ok("v1".into()));
    neighbour.finish(ms(1));
    assert_eq!(call(&tree, "steady", ms(1)).await, Ok("v1".into()));
    assert_eq!(tree.stats.read().actors_restarted, 1);
    assert_eq!(world.state().live.len(), 2, "nothing of the first life is left");
}

#[actix::test]
async fn a_lambda_that_panics_again_and_again_is_left_alone_and_says_so() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("shaky", code("v1"));
    let tree = world.start();
    route(&tree, "shaky").await.unwrap();
    for _ in 0..6 {
        crash_lambda(&tree, "shaky").await;
        sleep(ms(200)).await;
    }
    let Refusal::Broken { retry_after, .. } = lease(&tree, "shaky").await.unwrap_err() else {
        panic!("it should be broken")
    };
    assert!(retry_after > ms(29_000) && retry_after < ms(30_000));
    let row = status(&tree, "shaky").await;
    assert_eq!(row.state, State::Broken);
    assert!(
        row.message.starts_with("its actor has failed 6 times in a row; tried again in"),
        "{}",
        row.message
    );
    sleep(retry_after + ms(2)).await;
    assert_eq!(call(&tree, "shaky", ms(1)).await, Ok("v1".into()));
}

#[actix::test]
async fn new_code_is_a_new_chance_for_a_broken_lambda() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("shaky", code("v1"));
    let tree = world.start();
    route(&tree, "shaky").await.unwrap();
    for _ in 0..6 {
        crash_lambda(&tree, "shaky").await;
        sleep(ms(200)).await;
    }
    upload(&tree, &world, "shaky", "v2").await;
    assert_eq!(call(&tree, "shaky", ms(1)).await, Ok("v2".into()));
    let first = tree.routes.get("shaky").unwrap();
    sleep(ms(40_000)).await;
    let later = tree.routes.get("shaky").unwrap();
    assert!(Arc::ptr_eq(&first, &later), "the timer of the old trouble starts nothing");
}

#[actix::test]
async fn a_late_report_does_not_take_down_the_successor() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    call(&tree, "hello", ms(1)).await.unwrap();
    for incarnation in [0, 1, 99] {
        let name = Child::Lambda(name("hello"));
        tree.supervisor.send(Down { name, incarnation, exit: Exit::Panicked }).await.unwrap();
    }
    assert_eq!(call(&tree, "hello", ms(1)).await, Ok("v1".into()));
    assert_eq!(tree.stats.read().actors_restarted, 0);
}

#[actix::test]
async fn a_lambda_that_does_not_answer_is_shown_as_such() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("stuck", code("v1"));
    world.put("well", code("v1"));
    let tree = world.start();
    call(&tree, "stuck", ms(1)).await.unwrap();
    route(&tree, "well").await.unwrap();
    tree.routes.get("stuck").unwrap().lambda.as_ref().unwrap().send(Stall).await.unwrap();
    let row = status(&tree, "stuck").await;
    assert_eq!((row.state, row.warm, row.invocations), (State::Unresponsive, 1, 1));
    assert_eq!(status(&tree, "well").await.state, State::Ready);
    assert_eq!(call(&tree, "stuck", ms(1)).await, Ok("v1".into()), "its warm sandbox serves without it");
}

#[actix::test]
async fn every_service_survives_a_panic() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    let calls = async |round: &str| {
        world.put(round, code("v1"));
        assert_eq!(call(&tree, round, ms(1)).await, Ok("v1".into()), "after the panic of {round}");
        sleep(ms(11_000)).await;
    };
    calls("nobody").await;
    assert!(tree.watcher.ask(Crash).await.is_err());
    sleep(ms(20)).await;
    calls("watcher").await;
    assert!(tree.router.ask(Crash).await.is_err());
    sleep(ms(20)).await;
    calls("router").await;
    assert!(tree.zygotes.ask(Crash).await.is_err());
    sleep(ms(20)).await;
    calls("zygotes").await;
    assert!(tree.evictor.ask(Crash).await.is_err());
    sleep(ms(20)).await;
    assert!(tree.evictor.ask(crate::evictor::NeedRoom { bytes: MB }).await.unwrap().is_ok());
    calls("evictor").await;
    assert!(tree.packages.ask(Crash).await.is_err());
    sleep(ms(20)).await;
    assert!(tree.packages.ask(crate::packages::Require { packages: Vec::new() }).await.unwrap().is_ok());
    assert_eq!(tree.stats.read().actors_restarted, 5);
    let rows = tree.supervisor.send(Statuses).await.unwrap();
    assert!(rows.iter().all(|row| row.generation == 1), "a new watcher reloads nothing that is the same");
}

#[actix::test]
async fn a_service_that_panics_again_and_again_is_tried_again_later() {
    tokio::time::pause();
    let world = Fake::new();
    let tree = world.start();
    for _ in 0..6 {
        assert!(tree.router.ask(Crash).await.is_err());
        sleep(ms(200)).await;
    }
    assert!(tree.router.ask(Resolve::new(name("x"))).await.is_err());
    sleep(ms(30_000)).await;
    assert!(tree.router.ask(Resolve::new(name("x"))).await.is_ok());
}

#[actix::test]
async fn shutdown_refuses_the_new_and_lets_the_old_finish() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    let route = route(&tree, "hello").await.unwrap();
    let running = lease(&tree, "hello").await.unwrap();
    let began = Instant::now();
    let ended = tree.supervisor.send(Shutdown { grace: ms(5_000) });
    let finish = async {
        sleep(ms(300)).await;
        assert_eq!(route.pool.lease_or_wait().await.unwrap_err(), Refusal::ShuttingDown);
        running.finish(ms(300));
    };
    let (report, ()) = tokio::join!(ended, finish);
    assert_eq!(report.unwrap(), ShutdownReport { n_unfinished: 0 });
    assert!(began.elapsed() < ms(400));
    assert!(tree.routes.is_empty());
    sleep(ms(50)).await;
    assert!(world.state().live.is_empty() && world.state().standbys.is_empty(), "nothing is left");
    sleep(ms(60_000)).await;
    assert_eq!(tree.stats.read().actors_restarted, 0, "and nothing is started again");
}

#[actix::test]
async fn shutdown_does_not_wait_for_longer_than_the_grace() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    let hangs = lease(&tree, "hello").await.unwrap();
    let began = Instant::now();
    let slow = tree.supervisor.send(Shutdown { grace: ms(60_000) });
    let hasty = async {
        sleep(ms(100)).await;
        tree.supervisor.send(Shutdown { grace: ms(200) }).await.unwrap()
    };
    let (_slow, report) = tokio::join!(async { drop(slow) }, hasty);
    assert_eq!(report, ShutdownReport { n_unfinished: 1 });
    assert!(began.elapsed() < ms(400));
    drop(hangs);
    assert!(world.state().live.is_empty());
}

#[actix::test]
async fn an_unreadable_registry_is_told_and_what_is_known_is_served_on() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("hello", code("v1"));
    let tree = world.start();
    call(&tree, "hello", ms(1)).await.unwrap();
    world.state().registry_error = Some(RegistryError::Unavailable("input/output error".into()));
    tree.watcher.ask(Touched { names: vec![name("hello")] }).await.unwrap();
    sleep(ms(200)).await;
    let health = tree.supervisor.send(AskHealth).await.unwrap();
    assert_eq!(health.registry_trouble.as_deref(), Some("cannot read the registry: input/output error"));
    assert_eq!(call(&tree, "hello", ms(1)).await, Ok("v1".into()));
    assert!(matches!(route(&tree, "other").await, Err(ResolveError::Unavailable(_))));
    world.state().registry_error = None;
    world.put("hello", code("v2"));
    sleep(ms(60_000)).await;
    assert_eq!(tree.supervisor.send(AskHealth).await.unwrap().registry_trouble, None);
    assert_eq!(call(&tree, "hello", ms(1)).await, Ok("v2".into()), "what was missed has been read");
}

#[actix::test]
async fn what_was_learnt_of_imports_is_written_by_the_worker_that_serves_and_before_it_has_ended() {
    tokio::time::pause();
    let world = Fake::new();
    world.state().installed.insert("a==1".into());
    let tree = world.start();
    let n_writes = || world.state().n_import_stats_writes;
    let deploy = |version: &str| {
        world.put("f", crate::fake::FakeCode { packages: vec!["a==1".into()], ..code(version) })
    };
    deploy("1");
    assert!(call(&tree, "f", ms(1)).await.is_ok());
    tree.supervisor.send(Yield(true)).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(n_writes(), 0, "another one does");
    tree.supervisor.send(Yield(false)).await.unwrap();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(n_writes(), 1);
    deploy("2");
    tree.watcher.ask(Refresh { name: name("f") }).await.unwrap().unwrap();
    assert!(call(&tree, "f", ms(1)).await.is_ok());
    tree.supervisor.send(Shutdown { grace: ms(1_000) }).await.unwrap();
    assert_eq!(n_writes(), 2);
}

#[actix::test]
async fn lambdas_run_on_their_own_arbiters() {
    let world = Fake::new();
    let zygotes = ZygotesConfig {
        default_class: crate::fake::CLASS,
        standbys: 1,
        standbys_max: 2,
        import_cache: true,
        plan: None,
        zygote_bytes_max: 256 << 20,
    };
    let config = Config { n_arbiters: 2, zygotes, sandbox_bytes: MB, reclaim: true };
    let tree = start::<FakeWorld>(world.parts(), config, crate::fake::log());
    for text in ["a", "b", "c"] {
        world.put(text, code("v1"));
        assert_eq!(call(&tree, text, Duration::ZERO).await, Ok("v1".into()));
    }
    crash_lambda(&tree, "a").await;
    sleep(ms(50)).await;
    assert_eq!(call(&tree, "a", Duration::ZERO).await, Ok("v1".into()));
    let report = tree.supervisor.send(Shutdown { grace: ms(1_000) }).await.unwrap();
    assert_eq!(report.n_unfinished, 0);
}
