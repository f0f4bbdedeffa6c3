use futures_util::future::join_all;
use tokio::time::sleep;

use super::*;
use crate::fake::{CLASS, Fake, FakeCode, FakeStandby, FakeWorld, MB, code, log, ms, name, package};
use crate::monitor::{Child, Down};
use crate::packages::Known;
use crate::tree::Requirement;
use crate::world::Network;

struct Ear;
impl Actor for Ear {
    type Context = Context<Self>;
}
impl Handler<Down> for Ear {
    type Result = ();
    fn handle(&mut self, _: Down, _: &mut Context<Self>) {}
}

type Zygotes = super::Zygotes<FakeWorld>;

const PLAIN: StandbyKind = StandbyKind { class: CLASS, node: NodeId::ROOT };
const CONFIG: ZygotesConfig = ZygotesConfig {
    default_class: CLASS,
    standbys: 4,
    standbys_max: 16,
    import_cache: true,
    plan: None,
    zygote_bytes_max: 256 * MB,
};

async fn start(world: &Fake, standbys: &Standbys<FakeWorld>) -> actix::Addr<Zygotes> {
    start_with(world, standbys, CONFIG).await
}

async fn start_with(
    world: &Fake,
    standbys: &Standbys<FakeWorld>,
    config: ZygotesConfig,
) -> actix::Addr<Zygotes> {
    let monitor = |child| Monitor::new(child, 1, Ear.start().recipient());
    let packages =
        Packages::new(world.clone(), Known::default(), Arc::default(), log(), monitor(Child::Packages))
            .start();
    let surroundings = Surroundings {
        launcher: world.clone(),
        standbys: standbys.clone(),
        forest: SharedForest::new(config.plan.as_ref(), false),
        packages: Link::new(packages),
        store: world.clone(),
        known: Known::default(),
        routes: Routes::default(),
        ledger: Ledger::default(),
        clock: world.clone(),
        import_stats: world.clone(),
        stats: Arc::default(),
    };
    let zygotes = Zygotes::new(surroundings, config, log(), monitor(Child::Zygotes)).start();
    sleep(ms(50)).await;
    zygotes
}

async fn zygotes(world: &Fake) -> actix::Addr<Zygotes> {
    start(world, &Standbys::<FakeWorld>::new(CONFIG.shelf_limits())).await
}

async fn acquire(zygotes: &actix::Addr<Zygotes>, class: Class) -> Result<FakeStandby, LaunchError> {
    acquire_with(zygotes, class, &[]).await
}

async fn acquire_with(
    zygotes: &actix::Addr<Zygotes>,
    class: Class,
    packages: &[&str],
) -> Result<FakeStandby, LaunchError> {
    let code = FakeCode { class, ..code("1") };
    let packages = PackageSet::new(packages.iter().map(|text| package(text)));
    match zygotes.send(Acquire { name: name("f"), generation: 1, code, packages }).await.unwrap()? {
        Acquired::Standby(standby, _) => Ok(standby),
        Acquired::Sandbox(_) => panic!("nothing was loaded, so there is no zygote of it"),
    }
}

#[actix::test]
async fn standbys_of_the_default_class_wait_and_cost_no_wait() {
    tokio::time::pause();
    let world = Fake::new();
    let zygotes = zygotes(&world).await;
    assert_eq!(world.state().standbys.len(), 4);
    let began = Instant::now();
    let _standby = acquire(&zygotes, CLASS).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    sleep(ms(50)).await;
    assert_eq!(world.state().standbys.len(), 5, "four wait again");
}

#[actix::test]
async fn what_is_taken_without_asking_is_made_again_one_at_a_time() {
    tokio::time::pause();
    let world = Fake::new();
    let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
    let _zygotes = start(&world, &standbys).await;
    world.state().n_preparing_max = 0;
    let _taken = standbys.take_ready(&PLAIN).unwrap();
    sleep(ms(50)).await;
    assert_eq!(world.state().n_preparing_max, 0, "the request has the cores for itself");
    standbys.say_taken();
    sleep(ms(50)).await;
    assert_eq!(world.state().n_preparing_max, 1);
    assert_eq!(world.state().standbys.len(), 5);
}

#[actix::test]
async fn a_shelf_that_a_burst_has_emptied_is_filled_at_once_and_by_several() {
    tokio::time::pause();
    let world = Fake::new();
    let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
    let _zygotes = start(&world, &standbys).await;
    world.state().n_preparing_max = 0;
    while standbys.take_ready(&PLAIN).is_some() {}
    standbys.say_taken();
    sleep(ms(1)).await;
    assert_eq!(world.state().n_preparing_max, URGENT_MAX);
}

#[actix::test]
async fn what_is_made_ahead_makes_way_until_somebody_waits_for_it() {
    tokio::time::pause();
    let world = Fake::new();
    world.state().is_saturated = true;
    let zygotes = zygotes(&world).await;
    sleep(ms(5_000)).await;
    assert!(world.state().standbys.is_empty(), "there is more urgent work");
    let _standby = acquire(&zygotes, CLASS).await.unwrap();
    assert_eq!(world.state().n_prepared, 1, "the one that was begun, and no other");
}

#[actix::test]
async fn what_is_made_first_is_for_whoever_has_waited_longest() {
    tokio::time::pause();
    let world = Fake::new();
    let zygotes = zygotes(&world).await;
    zygotes.send(ReleaseIdle).await.unwrap();
    let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    join_all((0..20).map(|i| {
        let (order, zygotes) = (std::rc::Rc::clone(&order), zygotes.clone());
        async move {
            acquire(&zygotes, CLASS).await.unwrap();
            order.borrow_mut().push(i);
        }
    }))
    .await;
    assert!(order.borrow().is_sorted(), "{order:?}");
}

#[actix::test]
async fn standbys_outlive_their_keeper_and_the_next_one_has_them() {
    tokio::time::pause();
    let world = Fake::new();
    let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
    let zygotes = start(&world, &standbys).await;
    // Amid its work, so that what it had begun is not waited for ever after.
    drop(standbys.take_ready(&PLAIN));
    standbys.say_taken();
    sleep(ms(1)).await;
    assert_eq!(standbys.n_making(), 1);
    assert!(zygotes.send(Crash).await.is_err());
    let _successor = start(&world, &standbys).await;
    assert_eq!((standbys.n_making(), standbys.waiting()), (0, vec![(PLAIN, 4)]));
    assert!(world.state().n_prepared <= 6);
}

#[actix::test]
async fn a_dead_standby_is_never_handed_out() {
    tokio::time::pause();
    let world = Fake::new();
    let zygotes = zygotes(&world).await;
    let dead: Vec<u64> = world.state().standbys.iter().copied().collect();
    world.state().dead.extend(&dead);
    let standby = acquire(&zygotes, CLASS).await.unwrap();
    assert!(!dead.contains(&standby.id));
}

#[actix::test]
async fn few_are_prepared_at_once_and_all_are_served() {
    tokio::time::pause();
    let world = Fake::new();
    let zygotes = zygotes(&world).await;
    let standbys = join_all((0..100).map(|_| acquire(&zygotes, CLASS))).await;
    assert!(standbys.iter().all(Result::is_ok));
    assert!(world.state().n_preparing_max <= ON_DEMAND_MAX + 1);
}

#[actix::test]
async fn demand_raises_the_target_and_quiet_lowers_it() {
    tokio::time::pause();
    let world = Fake::new();
    let zygotes = zygotes(&world).await;
    let other = Class { network: Network::Host };
    assert_eq!(zygotes.send(Waiting).await.unwrap(), [(CLASS, 4)], "others only on demand");
    drop(acquire(&zygotes, other).await.unwrap());
    drop(join_all((0..20).map(|_| acquire(&zygotes, CLASS))).await);
    sleep(ms(500)).await;
    let waiting = zygotes.send(Waiting).await.unwrap();
    assert!(waiting.contains(&(other, 1)) && waiting.contains(&(CLASS, 16)), "{waiting:?}");
    sleep(ms(200_000)).await;
    assert_eq!(zygotes.send(Waiting).await.unwrap(), [(CLASS, 4)]);
}

#[actix::test]
async fn failures_are_told_to_those_who_ask_and_slow_the_refilling_down() {
    tokio::time::pause();
    let world = Fake::new();
    let error = LaunchError::Failed("no fork".into());
    world.state().prepare_error = Some(error.clone());
    let zygotes = zygotes(&world).await;
    assert_eq!(acquire(&zygotes, CLASS).await.err(), Some(error));
    world.state().prepare_time = Duration::ZERO;
    sleep(ms(60_000)).await;
    world.state().prepare_error = None;
    sleep(REFILL_PAUSE_MAX + ms(100)).await;
    assert!(world.state().standbys.len() >= 4, "it recovers by itself");
}

#[actix::test]
async fn under_pressure_standbys_are_given_up_and_come_back_later() {
    tokio::time::pause();
    let world = Fake::new();
    let zygotes = zygotes(&world).await;
    assert_eq!(zygotes.send(ReleaseIdle).await.unwrap(), 4);
    sleep(ms(1_000)).await;
    assert!(world.state().standbys.is_empty());
    sleep(PRESSURE_PAUSE).await;
    assert_eq!(world.state().standbys.len(), 4);
}

#[actix::test]
async fn a_standby_for_someone_who_has_gone_is_not_leaked() {
    tokio::time::pause();
    let world = Fake::new();
    let zygotes = zygotes(&world).await;
    zygotes.send(ReleaseIdle).await.unwrap();
    let gone = tokio::time::timeout(ms(1), acquire(&zygotes, CLASS)).await;
    assert!(gone.is_err());
    sleep(ms(5)).await;
    assert_eq!(world.state().n_prepared, 5);
    assert!(world.state().standbys.is_empty());
}

const SET: [&str; 2] = ["a==1", "b==1"];

/// A function that requires these was loaded, and it took long.
async fn load(zygotes: &actix::Addr<Zygotes>, packages: &[&str]) {
    drop(acquire_with(zygotes, CLASS, packages).await.unwrap());
    let packages = PackageSet::new(packages.iter().map(|text| package(text)));
    let loaded = Loaded { name: name("f"), generation: 1, code: code("1"), packages, took: ms(300) };
    zygotes.send(loaded).await.unwrap();
}

/// Zygotes of packages made, and forks of them.
fn planted(world: &Fake) -> (usize, usize) {
    let state = world.state();
    (state.n_plants, state.n_spawns)
}

fn install(world: &Fake, packages: &[&str]) {
    world.state().installed.extend(packages.iter().map(|&text| text.to_owned()));
}

#[actix::test]
async fn what_took_long_to_import_is_imported_once_more_and_then_forked() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    assert_eq!(planted(&world), (0, 0), "nobody waits for a zygote");
    sleep(ms(600)).await;
    assert_eq!(world.state().n_plants, 1);
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    assert_eq!(world.state().n_spawns, 1);
    sleep(ms(100)).await;
    assert_eq!(world.state().n_spawns, 2, "one waits for the next");
    let began = Instant::now();
    acquire_with(&zygotes, CLASS, &["b==1", "c==1", "a==1"]).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "it also suits who needs more");
    let n = world.state().n_spawns;
    acquire_with(&zygotes, CLASS, &SET[..1]).await.unwrap();
    sleep(ms(1)).await;
    assert!(world.state().n_spawns <= n + 1, "but not who needs less");
}

#[actix::test]
async fn a_package_that_crashes_takes_no_other_down() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    world.state().crashing.insert("b==1".into());
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    sleep(ms(600)).await;
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    assert_eq!(planted(&world).1, 0);
    sleep(ms(2_000)).await;
    assert_eq!(world.state().n_plants, 4, "both, each by itself, and the one that can be imported");
    acquire_with(&zygotes, CLASS, &SET[..1]).await.unwrap();
    assert_eq!(world.state().n_spawns, 1, "the other one is there");
    sleep(ms(10_000)).await;
    assert_eq!(world.state().n_plants, 4, "nobody imports what was found out");
}

#[actix::test]
async fn what_fails_only_together_is_nobodys_fault_and_is_tried_again_after_a_pause() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    world.state().quarrel = true;
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    sleep(ms(1_600)).await;
    assert_eq!(world.state().n_plants, 3, "both, and each by itself");
    world.state().quarrel = false;
    sleep(ms(2_000)).await;
    assert_eq!(world.state().n_plants, 4);
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    assert_eq!(world.state().n_spawns, 1);
}

#[actix::test]
async fn a_dead_zygote_is_missed_by_nobody_and_comes_back() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    sleep(ms(600)).await;
    world.state().zygotes.clear();
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    assert_eq!(world.state().n_spawns, 0);
    sleep(ms(6_000)).await;
    assert_eq!(world.state().n_plants, 2);
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    assert!(world.state().n_spawns > 0);
}

#[actix::test]
async fn whoever_waits_for_a_fork_that_fails_imports_itself() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    sleep(ms(600)).await;
    world.state().spawn_error = Some(LaunchError::Failed("stuck".into()));
    let all = join_all((0..10).map(|_| acquire_with(&zygotes, CLASS, &SET))).await;
    assert!(all.iter().all(Result::is_ok));
    world.state().spawn_error = Some(LaunchError::Resources("uids".into()));
    sleep(ms(6_000)).await;
    assert!(acquire_with(&zygotes, CLASS, &SET).await.is_ok());
}

#[actix::test]
async fn under_pressure_zygotes_of_packages_go_after_standbys() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    sleep(ms(600)).await;
    assert_eq!(zygotes.send(ReleaseIdle).await.unwrap(), 4);
    assert_eq!(world.state().zygotes.len(), 1);
    assert_eq!(zygotes.send(ReleaseIdle).await.unwrap(), 0);
    assert!(zygotes.send(ReleaseZygote).await.unwrap());
    assert!(world.state().zygotes.is_empty());
    assert!(!zygotes.send(ReleaseZygote).await.unwrap());
}

#[actix::test]
async fn a_drawn_tree_is_there_before_anybody_asks_and_does_without_what_is_missing() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET[..1]);
    let child = Plan { packages: vec![Requirement::from(&package("b==1"))], children: Vec::new() };
    let node = Plan { packages: vec![Requirement::from(&package("a==1"))], children: vec![child] };
    let plan = Some(Plan { packages: Vec::new(), children: vec![node] });
    let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
    let zygotes = start_with(&world, &standbys, ZygotesConfig { plan, ..CONFIG }).await;
    sleep(ms(700)).await;
    assert_eq!(world.state().n_plants, 2);
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    assert_eq!(world.state().n_spawns, 1);
}

#[actix::test]
async fn switched_off_there_are_none() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
    let zygotes = start_with(&world, &standbys, ZygotesConfig { import_cache: false, ..CONFIG }).await;
    load(&zygotes, &SET).await;
    sleep(ms(6_000)).await;
    assert_eq!(world.state().n_plants, 0);
}

fn shown(view: &Shown) -> Vec<(String, &'static str, u64)> {
    view.nodes.iter().map(|node| (node.packages.join(" "), node.state, node.hits)).collect()
}

#[actix::test]
async fn what_is_shown_is_what_there_is_and_what_a_tree_would_bring_is_told_before() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    let projection = zygotes.send(Project { calls: None }).await.unwrap().unwrap();
    assert_eq!((projection.fitted.nodes.len(), projection.n_functions), (1, 1));
    assert!((projection.fitted.ms_saved - 300.0).abs() < 1.0, "{projection:?}");
    assert!(shown(&zygotes.send(Show).await.unwrap()).is_empty(), "nothing was made for it");
    sleep(ms(600)).await;
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    let view = zygotes.send(Show).await.unwrap();
    assert_eq!(shown(&view), [("a==1 b==1".to_owned(), "growing", 1)]);
    assert_eq!((view.bytes, view.is_drawn, view.nodes[0].saved_ms > 0.0), (3 * MB, false, true));
    let of = std::collections::HashMap::from([("nobody".to_owned(), 3.0)]);
    let projection = zygotes.send(Project { calls: Some(of) }).await.unwrap().unwrap();
    assert_eq!((projection.fitted.nodes.len(), projection.unknown), (0, vec!["nobody".to_owned()]));
}

#[actix::test]
async fn a_tree_can_be_set_while_the_worker_runs_and_left_to_fitting_again() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    sleep(ms(600)).await;
    let node = Plan { packages: vec![Requirement::from(&package("b==1"))], children: Vec::new() };
    zygotes.send(Draw { plan: Some(Plan { packages: Vec::new(), children: vec![node] }) }).await.unwrap();
    sleep(ms(600)).await;
    let view = zygotes.send(Show).await.unwrap();
    assert_eq!((shown(&view), view.is_drawn), (vec![("b==1".to_owned(), "growing", 0)], true));
    assert_eq!(world.state().zygotes.len(), 1, "the old one has ended");
    zygotes.send(Draw { plan: None }).await.unwrap();
    sleep(ms(5_000)).await;
    assert_eq!(shown(&zygotes.send(Show).await.unwrap())[0].0, "a==1 b==1");
}

#[actix::test]
async fn what_is_not_asked_for_any_more_is_retired() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    sleep(ms(600)).await;
    assert_eq!(world.state().zygotes.len(), 1);
    sleep(20 * crate::demand::HALF_LIFE).await;
    assert!(world.state().zygotes.is_empty());
}

#[actix::test]
async fn no_zygote_is_made_for_which_there_is_no_memory() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
    let config = ZygotesConfig { zygote_bytes_max: MB, ..CONFIG };
    let zygotes = start_with(&world, &standbys, config).await;
    load(&zygotes, &SET).await;
    sleep(ms(6_000)).await;
    assert_eq!(world.state().n_plants, 0);
}

/// Enough forks at once that a twin is wanted.
async fn crowd(zygotes: &actix::Addr<Zygotes>, packages: &[&str]) {
    drop(join_all((0..60).map(|_| acquire_with(zygotes, CLASS, packages))).await);
}

#[actix::test]
async fn a_twin_that_cannot_be_made_changes_nothing_of_what_the_first_one_has_missed() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    install(&world, &["x==1"]);
    world.state().requires.insert("a==1".into(), vec!["x".into()]);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    sleep(ms(600)).await;
    assert_eq!(world.state().n_plants, 1);
    world.state().plant_error = Some(LaunchError::Failed("no fork".into()));
    crowd(&zygotes, &SET).await;
    sleep(ms(6_000)).await;
    assert!(world.state().n_plants >= 2, "a twin was tried");
    let hits = async || shown(&zygotes.send(Show).await.unwrap())[0].2;
    let before = hits().await;
    acquire_with(&zygotes, CLASS, &["a==1", "b==1", "x==1"]).await.unwrap();
    assert_eq!(hits().await, before, "a would not find x in a fork");
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    assert_eq!(hits().await, before + 1, "who has no x is forked from it");
}

/// A worker that has learnt what a set costs, and has kept it.
async fn predecessor(world: &Fake) -> actix::Addr<Zygotes> {
    install(world, &SET);
    let zygotes = zygotes(world).await;
    load(&zygotes, &SET).await;
    sleep(KEEP_EVERY + ms(100)).await;
    assert_eq!(world.state().n_plants, 1);
    zygotes
}

/// The zygotes that a worker makes that was started just now, of which no sandbox was asked.
async fn plants_of_another(world: &Fake) -> usize {
    world.state().n_plants = 0;
    let successor = zygotes(world).await;
    sleep(ms(6_000)).await;
    successor.send(Close).await.unwrap();
    world.state().n_plants
}

#[actix::test]
async fn what_was_learnt_is_known_to_the_next_worker_before_any_call() {
    tokio::time::pause();
    let world = Fake::new();
    // Killed: nobody has told it to close.
    assert!(predecessor(&world).await.send(Crash).await.is_err());
    assert_eq!(plants_of_another(&world).await, 1);
    world.state().installed.clear();
    assert_eq!(plants_of_another(&world).await, 0, "what is gone is not imported");
    install(&world, &SET);
    world.state().import_stats = None;
    assert_eq!(plants_of_another(&world).await, 0, "nobody would have known");
}

#[actix::test]
async fn what_is_asked_for_no_more_when_the_next_worker_starts_is_not_imported() {
    tokio::time::pause();
    let world = Fake::new();
    predecessor(&world).await.send(Close).await.unwrap();
    world.state().day += 20 * crate::demand::HALF_LIFE;
    assert_eq!(plants_of_another(&world).await, 0);
}

#[actix::test]
async fn where_nothing_was_learnt_before_the_first_fit_waits_until_something_is() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    acquire_with(&zygotes, CLASS, &SET).await.unwrap();
    sleep(ms(1_000)).await;
    assert_eq!(world.state().n_plants, 0, "what is being loaded is known in a moment");
}

#[actix::test]
async fn it_is_written_now_and_then_while_something_is_learnt_and_at_the_end() {
    tokio::time::pause();
    let world = Fake::new();
    let zygotes = predecessor(&world).await;
    let n_writes = || world.state().n_import_stats_writes;
    let n = n_writes();
    sleep(10 * KEEP_EVERY).await;
    assert_eq!(n_writes(), n, "nothing was learnt");
    for _ in 0..100 {
        acquire_with(&zygotes, CLASS, &SET).await.unwrap();
        sleep(KEEP_EVERY / 10).await;
    }
    assert!((9..=11).contains(&(n_writes() - n)), "{}", n_writes() - n);
    acquire_with(&zygotes, CLASS, &["b==1"]).await.unwrap();
    zygotes.send(Close).await.unwrap();
    let stats = world.state().import_stats.clone().unwrap();
    assert_eq!(stats.starts.len(), 2, "the last one is in it");
}

#[actix::test]
async fn a_disk_that_hangs_is_given_no_more_to_write() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    world.state().import_stats_time = 100 * KEEP_EVERY;
    for _ in 0..50 {
        acquire_with(&zygotes, CLASS, &SET).await.unwrap();
        sleep(KEEP_EVERY / 5).await;
    }
    assert_eq!(world.state().n_import_stats_writes, 1);
}

#[actix::test]
async fn who_asks_for_what_was_learnt_has_it_written_at_once() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let zygotes = zygotes(&world).await;
    load(&zygotes, &SET).await;
    zygotes.send(keeping::Keep).await.unwrap();
    assert_eq!(world.state().import_stats.as_ref().map(|stats| stats.starts.len()), Some(1));
}

#[actix::test]
async fn switched_off_nothing_is_learnt_or_written() {
    tokio::time::pause();
    let world = Fake::new();
    install(&world, &SET);
    let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
    let zygotes = start_with(&world, &standbys, ZygotesConfig { import_cache: false, ..CONFIG }).await;
    load(&zygotes, &SET).await;
    sleep(2 * KEEP_EVERY).await;
    zygotes.send(Close).await.unwrap();
    assert_eq!(world.state().n_import_stats_writes, 0);
}
