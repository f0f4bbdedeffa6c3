use std::sync::{Arc, Mutex};

use tokio::time::sleep;

use super::*;
use crate::fake::{Fake, FakeWorld, code, log, ms, name};
use crate::monitor::{Child, Down};
use crate::world::RegistryError;

/// Stands in for the supervisor, and writes down what it is told.
struct Ear(Arc<Mutex<Vec<String>>>);

impl Actor for Ear {
    type Context = Context<Self>;
}
impl Handler<Noticed<FakeWorld>> for Ear {
    type Result = ();
    fn handle(&mut self, noticed: Noticed<FakeWorld>, _: &mut Context<Self>) {
        self.0.lock().unwrap().push(match noticed {
            Noticed::Changed { name, code } => format!("{name} {}", code.version),
            Noticed::Removed { name } => format!("{name} gone"),
            Noticed::Rejected { name, reason } => format!("{name}: {reason}"),
            Noticed::Trouble { reason } => format!("trouble: {reason:?}"),
        });
    }
}
impl Handler<Down> for Ear {
    type Result = ();
    fn handle(&mut self, _: Down, _: &mut Context<Self>) {}
}

struct Bench {
    world: Fake,
    watcher: actix::Addr<RegistryWatcher<FakeWorld>>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    async fn new(world: Fake) -> Self {
        let told = Arc::default();
        let ear = Ear(Arc::clone(&told)).start();
        let monitor = Monitor::new(Child::Watcher, 1, ear.clone().recipient());
        let packages = Packages::new(
            world.clone(),
            crate::packages::Known::default(),
            Arc::default(),
            log(),
            Monitor::new(Child::Packages, 1, ear.clone().recipient()),
        );
        let packages = Link::new(packages.start());
        let watcher = RegistryWatcher::new(world.clone(), packages, ear.recipient(), log(), monitor).start();
        sleep(ms(20)).await;
        Self { world, watcher, told }
    }

    async fn touch(&self, text: &str) {
        self.watcher.send(Touched { names: vec![name(text)] }).await.unwrap();
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().drain(..).collect()
    }
}

#[actix::test]
async fn a_burst_of_touches_is_one_reading() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    bench.world.put("f", code("v1"));
    for _ in 0..30 {
        bench.touch("f").await;
        sleep(ms(10)).await;
    }
    assert_eq!(bench.world.state().n_loads, 0);
    sleep(ms(60)).await;
    assert_eq!((bench.told(), bench.world.state().n_loads), (vec!["f v1".into()], 1));
}

#[actix::test]
async fn files_that_are_touched_all_the_time_are_read_all_the_same() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    bench.world.put("f", code("v1"));
    for _ in 0..220 {
        bench.touch("f").await;
        sleep(ms(10)).await;
    }
    assert_eq!(bench.told(), ["f v1"]);
}

#[actix::test]
async fn a_half_written_upload_is_not_served_until_it_has_settled() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    let half = || Err(RegistryError::Unsettled("f.py is being written".into()));
    bench.world.state().registry.insert("f".into(), half());
    let lookup = bench.watcher.send(Lookup { name: name("f") });
    let upload = async {
        sleep(ms(700)).await;
        assert!(bench.told().is_empty());
        bench.world.put("f", code("v1"));
    };
    let (found, ()) = tokio::join!(lookup, upload);
    assert_eq!((found.unwrap(), bench.told()), (Ok(true), vec!["f v1".into()]));

    bench.world.state().registry.insert("g".into(), half());
    let began = Instant::now();
    let found = bench.watcher.send(Lookup { name: name("g") }).await.unwrap();
    assert_eq!(found, Err(Trouble::Rejected("f.py is being written".into())));
    assert!(began.elapsed() < SETTLE_MAX + ms(200), "whoever asks is not kept for ever");
    bench.world.put("g", code("v1"));
    sleep(UNSETTLED_AGAIN + ms(100)).await;
    assert_eq!(bench.told(), ["g: f.py is being written", "g v1"], "and the end of it is found");
}

#[actix::test]
async fn a_refresh_during_a_reading_reads_again() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    bench.world.put("f", code("v1"));
    bench.world.state().load_time = ms(100);
    let first = bench.watcher.send(Refresh { name: name("f") });
    let second = async {
        sleep(ms(50)).await;
        bench.watcher.send(Refresh { name: name("f") }).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap(), second.unwrap()), (Ok(Some("v1".into())), Ok(Some("v1".into()))));
    assert_eq!(bench.world.state().n_loads, 2);
    assert_eq!(bench.told(), ["f v1"], "the same content is no news");
}

#[actix::test]
async fn a_rescan_finds_what_events_have_missed() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("stays", code("v1"));
    world.put("goes", code("v1"));
    let bench = Bench::new(world).await;
    let mut told = bench.told();
    told.sort();
    assert_eq!(told, ["goes v1", "stays v1"]);
    bench.world.state().registry.remove("goes");
    bench.world.put("comes", code("v1"));
    bench.watcher.send(Rescan).await.unwrap();
    bench.watcher.send(Rescan).await.unwrap();
    sleep(ms(50)).await;
    let mut told = bench.told();
    told.sort();
    assert_eq!(told, ["comes v1", "goes gone"]);
}

#[actix::test]
async fn nothing_is_remembered_about_names_that_are_not_there() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    for i in 0..20 {
        let found = bench.watcher.send(Lookup { name: name(&format!("no{i}")) }).await.unwrap();
        assert_eq!(found, Ok(false));
    }
    assert!(bench.told().is_empty());
    assert_eq!(bench.world.state().n_loads, 20);
}

#[actix::test]
async fn an_unreadable_registry_is_tried_again_at_growing_intervals() {
    tokio::time::pause();
    let world = Fake::new();
    world.put("f", code("v1"));
    let bench = Bench::new(world).await;
    bench.told();
    bench.world.state().registry_error = Some(RegistryError::Unavailable("gone".into()));
    bench.watcher.send(Rescan).await.unwrap();
    sleep(ms(20_000)).await;
    assert_eq!(bench.told(), [r#"trouble: Some("cannot read the registry: gone")"#], "told once");
    bench.world.state().registry_error = None;
    sleep(RETRY_PAUSE_MAX).await;
    assert_eq!(bench.told(), ["trouble: None"]);
}

#[actix::test]
async fn a_registry_that_hangs_does_not_hang_those_who_ask() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    bench.world.state().load_time = ms(3_600_000);
    let found = bench.watcher.send(Lookup { name: name("f") }).await.unwrap();
    assert_eq!(found, Err(Trouble::Unavailable("cannot read the registry: reading takes too long".into())));
}

fn with_packages(version: &str, packages: &[&str]) -> crate::fake::FakeCode {
    let packages = packages.iter().map(|line| (*line).to_owned()).collect();
    crate::fake::FakeCode { packages, ..code(version) }
}

#[actix::test]
async fn new_code_goes_into_service_when_its_packages_are_there_and_keeps_no_other_waiting() {
    tokio::time::pause();
    let world = Fake::new();
    world.state().index.insert("a==1".into());
    world.state().package_time = ms(3_000);
    let bench = Bench::new(world).await;
    for at in 0..2 * LOADS_MAX {
        bench.world.put(&format!("f{at}"), with_packages("v1", &["a"]));
        bench.touch(&format!("f{at}")).await;
    }
    sleep(ms(100)).await;
    bench.world.put("plain", code("v1"));
    assert_eq!(bench.watcher.send(Lookup { name: name("plain") }).await.unwrap(), Ok(true));
    assert_eq!(bench.told(), ["plain v1"]);
    let early = bench.watcher.send(Lookup { name: name("f0") }).await.unwrap();
    assert_eq!(early, Err(Trouble::Installing));
    // Settled, and installed.
    sleep(ms(2 * 3_000)).await;
    assert_eq!(bench.watcher.send(Lookup { name: name("f0") }).await.unwrap(), Ok(true));
    assert_eq!(bench.told().len(), 2 * LOADS_MAX);
    assert_eq!(bench.world.state().package_installs, ["a==1"]);
}

#[actix::test]
async fn packages_that_cannot_be_had_reject_the_code_once_and_an_index_that_is_away_is_tried_again() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    bench.world.state().package_time = ms(2_500);
    bench.world.put("wrong", with_packages("v1", &["none"]));
    let answer = bench.watcher.send(Refresh { name: name("wrong") }).await.unwrap();
    assert_eq!(answer, Err(Trouble::Rejected("there is no none==1".into())));
    sleep(2 * UNSETTLED_AGAIN).await;
    assert_eq!((bench.told().len(), bench.world.state().n_settles), (1, 1), "nobody tries it again");

    bench.world.state().index_away = Some("the index is away".into());
    bench.world.put("right", with_packages("v1", &["a"]));
    let answer = bench.watcher.send(Refresh { name: name("right") }).await.unwrap();
    let is_awaited = |trouble: &Trouble| matches!(trouble, Trouble::Unavailable(text) if text.contains("the index is away"));
    assert!(is_awaited(&answer.unwrap_err()));
    let again = bench.watcher.send(Lookup { name: name("right") }).await.unwrap();
    assert!(is_awaited(&again.unwrap_err()));
    bench.world.state().index_away = None;
    bench.world.state().index.insert("a==1".into());
    sleep(ms(20_000)).await;
    assert_eq!(bench.told().last().unwrap(), "right v1");
}

#[actix::test]
async fn code_that_is_mended_while_its_packages_are_waited_for_is_read_at_once() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    bench.world.state().package_time = ms(3_600_000);
    bench.world.put("f", with_packages("v1", &["slow"]));
    let first = bench.watcher.send(Refresh { name: name("f") });
    let second = async {
        sleep(ms(500)).await;
        bench.world.put("f", code("v2"));
        bench.watcher.send(Refresh { name: name("f") }).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap(), second.unwrap()), (Ok(Some("v2".into())), Ok(Some("v2".into()))));
    assert_eq!(bench.told(), ["f v2"]);
}

#[actix::test]
async fn a_registry_that_is_out_of_reach_is_told_of_and_stays_so_while_others_are_read() {
    tokio::time::pause();
    let bench = Bench::new(Fake::new()).await;
    bench.watcher.send(Reach { trouble: Some("refused".into()) }).await.unwrap();
    bench.world.put("here", code("v1"));
    bench.touch("here").await;
    sleep(ms(200)).await;
    assert_eq!(bench.told(), ["trouble: Some(\"refused\")", "here v1"]);
    bench.watcher.send(Reach { trouble: None }).await.unwrap();
    sleep(ms(10)).await;
    assert_eq!(bench.told().last().unwrap(), "trouble: None");
}
