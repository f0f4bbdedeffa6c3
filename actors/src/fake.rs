//! A world for tests: sandboxes are numbers, and everything that happens to them is counted.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, SystemTime};

use slog::{Discard, Logger, o};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::cron::timetable::CronEntry;
use crate::haste::Haste;
use crate::name::FunctionName;
use crate::outcome::Outcome;
use crate::packages::{Package, PackageSet};
use crate::pool::{Lease, Refusal};
use crate::router::{Resolve, ResolveError, Route};
use crate::stats::{FeedFigures, LambdaStatus};
use crate::supervisor::{Config, Parts, Statuses, Tree, start};
use crate::world::{
    Caller, Class, Clock, Code, Diary, Feed, Feeds, Gauge, Held, Installed, KafkaSource, LaunchError,
    Launcher, Line, LocalFuture, Making, MemoryReading, Network, PackageError, PackageStore, Planted,
    PoolLimits, Registry, RegistryError, Sandbox, Standby, Survey, Weight, World, Zygote,
};
use crate::zygotes::ZygotesConfig;

pub(crate) const CLASS: Class = Class { network: Network::None };
pub(crate) const MB: u64 = 1 << 20;

pub(crate) fn limits() -> PoolLimits {
    PoolLimits {
        max_instances: 4,
        min_warm: 0,
        queue_length_max: 8,
        queue_wait_max: Duration::from_secs(2),
        freeze_after: Duration::from_secs(10),
        release_after: Some(Duration::from_secs(60)),
    }
}

pub(crate) fn name(text: &str) -> FunctionName {
    text.parse().unwrap()
}

pub(crate) fn log() -> Logger {
    Logger::root(Discard, o!())
}

pub(crate) fn package(text: &str) -> Package {
    let (name, version) = text.split_once("==").unwrap();
    Package { name: name.into(), version: version.into(), directory: text.into() }
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Clone, Debug)]
pub(crate) struct FakeCode {
    pub(crate) version: String,
    pub(crate) limits: PoolLimits,
    pub(crate) packages: Vec<String>,
    pub(crate) reuse: bool,
    pub(crate) imports: bool,
    pub(crate) class: Class,
    pub(crate) cron: Vec<CronEntry>,
    pub(crate) kafka: Vec<KafkaSource>,
}

pub(crate) fn code(version: &str) -> FakeCode {
    FakeCode {
        version: version.into(),
        limits: limits(),
        packages: Vec::new(),
        reuse: true,
        imports: true,
        class: CLASS,
        cron: Vec::new(),
        kafka: Vec::new(),
    }
}

impl Code for FakeCode {
    fn version(&self) -> &str {
        &self.version
    }
    fn limits(&self) -> PoolLimits {
        self.limits
    }
    fn class(&self) -> Class {
        self.class
    }
    fn packages(&self) -> &[String] {
        &self.packages
    }
    fn is_settled(&self) -> bool {
        self.packages.iter().all(|line| line.contains("=="))
    }
    fn pins(&self) -> Vec<String> {
        self.packages.clone()
    }
    fn reuse(&self) -> bool {
        self.reuse
    }
    fn imports(&self) -> bool {
        self.imports
    }
    fn cron(&self) -> Vec<CronEntry> {
        self.cron.clone()
    }
    fn kafka(&self) -> Vec<KafkaSource> {
        self.kafka.clone()
    }
}

/// The state of the fake world, for tests to set and to look at.
pub(crate) struct State {
    next_id: u64,
    /// Sandboxes that exist, with the version of their code.
    pub(crate) live: BTreeMap<u64, String>,
    pub(crate) frozen: BTreeSet<u64>,
    pub(crate) dead: BTreeSet<u64>,
    /// Requests that a sandbox has not read.
    pub(crate) unread: BTreeMap<u64, VecDeque<u32>>,
    /// Ids of sandboxes in the order in which they were dropped.
    pub(crate) dropped: Vec<u64>,
    pub(crate) standbys: BTreeSet<u64>,
    pub(crate) n_prepared: usize,
    pub(crate) n_preparing: usize,
    pub(crate) n_preparing_max: usize,
    pub(crate) n_installs: usize,
    pub(crate) prepare_time: Duration,
    /// What nobody waits for makes no progress.
    pub(crate) is_saturated: bool,
    pub(crate) install_time: Duration,
    /// Functions that have a zygote.
    pub(crate) zygotes: BTreeSet<String>,
    pub(crate) n_sprouts: usize,
    pub(crate) plant_time: Duration,
    pub(crate) n_plants: usize,
    /// Packages that end the interpreter that imports them.
    pub(crate) crashing: BTreeSet<String>,
    pub(crate) n_spawns: usize,
    pub(crate) sprout_error: Option<LaunchError>,
    pub(crate) spawn_error: Option<LaunchError>,
    pub(crate) prepare_error: Option<LaunchError>,
    pub(crate) install_error: Option<LaunchError>,
    /// Packages that are there, as `name==version`.
    pub(crate) installed: BTreeSet<String>,
    pub(crate) n_finds: usize,
    /// Packages that the index has; by default none, so that what is not installed cannot be.
    pub(crate) index: BTreeSet<String>,
    /// Why the index cannot be reached, if that is so.
    pub(crate) index_away: Option<String>,
    pub(crate) package_time: Duration,
    pub(crate) n_settles: usize,
    /// Packages in the order in which they were installed.
    pub(crate) package_installs: Vec<String>,
    /// What had to stay when the last one was installed.
    pub(crate) needed: Vec<String>,
    pub(crate) registry: BTreeMap<String, Result<FakeCode, RegistryError>>,
    pub(crate) registry_error: Option<RegistryError>,
    /// The registry lies elsewhere, and there are copies of these.
    pub(crate) copies: Option<BTreeSet<String>>,
    pub(crate) load_time: Duration,
    pub(crate) n_loads: usize,
    pub(crate) n_loading: usize,
    pub(crate) n_loading_max: usize,
    pub(crate) base: MemoryReading,
    pub(crate) sandbox_bytes: u64,
    /// The wall clock at the beginning of the test, and by how much it was set since.
    pub(crate) day: SystemTime,
    pub(crate) diary: BTreeMap<String, u64>,
    pub(crate) n_diary_writes: usize,
    began: Instant,
    /// Calls by the clock: the function, and when it was due.
    pub(crate) calls: Vec<(String, SystemTime)>,
    pub(crate) n_calling: usize,
    pub(crate) call_time: Duration,
    pub(crate) call_outcome: Outcome,
    /// Open readers of Kafka by number, with their functions and first topics; those in `dead` have ended by themselves.
    pub(crate) feeds: BTreeMap<u64, (String, String)>,
    pub(crate) n_feeds_opened: usize,
    pub(crate) feed_error: Option<String>,
    /// Sandboxes that the kernel was asked to take from, in order.
    pub(crate) reclaimed: Vec<u64>,
    /// Sandboxes that were ended for want of memory.
    pub(crate) ended: Vec<u64>,
    /// Notified, the kernel says that memory is short.
    pub(crate) pressed: Arc<Notify>,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            next_id: 1,
            live: BTreeMap::new(),
            frozen: BTreeSet::new(),
            dead: BTreeSet::new(),
            unread: BTreeMap::new(),
            dropped: Vec::new(),
            standbys: BTreeSet::new(),
            n_prepared: 0,
            n_preparing: 0,
            n_preparing_max: 0,
            n_installs: 0,
            prepare_time: ms(2),
            is_saturated: false,
            install_time: ms(1),
            zygotes: BTreeSet::new(),
            n_sprouts: 0,
            plant_time: ms(300),
            n_plants: 0,
            crashing: BTreeSet::new(),
            n_spawns: 0,
            sprout_error: None,
            spawn_error: None,
            prepare_error: None,
            install_error: None,
            installed: BTreeSet::new(),
            n_finds: 0,
            index: BTreeSet::new(),
            index_away: None,
            package_time: ms(500),
            n_settles: 0,
            package_installs: Vec::new(),
            needed: Vec::new(),
            registry: BTreeMap::new(),
            registry_error: None,
            copies: None,
            load_time: ms(1),
            n_loads: 0,
            n_loading: 0,
            n_loading_max: 0,
            base: MemoryReading { used_bytes: 0, pool_bytes: 1024 * MB, available_bytes: 8192 * MB },
            sandbox_bytes: 2 * MB,
            day: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            diary: BTreeMap::new(),
            n_diary_writes: 0,
            began: Instant::now(),
            calls: Vec::new(),
            n_calling: 0,
            call_time: ms(1),
            call_outcome: Outcome::Done { status: 200 },
            feeds: BTreeMap::new(),
            n_feeds_opened: 0,
            feed_error: None,
            reclaimed: Vec::new(),
            ended: Vec::new(),
            pressed: Arc::default(),
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A test that holds one state while it asks for another would hang; threads that share a world wait at most
        // for a moment.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match self.0.try_lock() {
                Ok(state) => return state,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => assert!(std::time::Instant::now() < deadline, "held twice"),
            }
            std::thread::yield_now();
        }
    }

    pub(crate) fn put(&self, name: &str, code: FakeCode) {
        self.state().registry.insert(name.into(), Ok(code));
    }

    pub(crate) fn sandbox(&self, version: &str) -> FakeSandbox {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.live.insert(id, version.into());
        FakeSandbox { id, world: self.clone() }
    }

    pub(crate) fn start(&self) -> Tree<FakeWorld> {
        let parts = Parts {
            launcher: self.clone(),
            packages: self.clone(),
            registry: self.clone(),
            gauge: self.clone(),
            clock: self.clone(),
            diary: self.clone(),
            caller: self.clone(),
            feeds: self.clone(),
        };
        let zygotes = ZygotesConfig {
            default_class: CLASS,
            standbys: 4,
            standbys_max: 32,
            import_cache: true,
            plan: None,
            zygote_bytes_max: 256 * MB,
        };
        start(parts, Config { n_arbiters: 0, zygotes, sandbox_bytes: 2 * MB, reclaim: true }, log())
    }
}

pub(crate) struct FakeWorld;

impl World for FakeWorld {
    type Code = FakeCode;
    type Standby = FakeStandby;
    type Sandbox = FakeSandbox;
    type Zygote = FakeZygote;
    type Launcher = Fake;
    type Packages = Fake;
    type Registry = Fake;
    type Gauge = Fake;
    type Clock = Fake;
    type Diary = Fake;
    type Caller = Fake;
    type Feeds = Fake;
}

pub(crate) struct FakeStandby {
    pub(crate) id: u64,
    world: Fake,
}

impl Standby for FakeStandby {
    fn is_alive(&self) -> bool {
        !self.world.state().dead.contains(&self.id)
    }
}

impl Drop for FakeStandby {
    fn drop(&mut self) {
        self.world.state().standbys.remove(&self.id);
    }
}

#[derive(Clone)]
pub(crate) struct FakeZygote(Arc<FakeSprout>);

struct FakeSprout {
    name: String,
    version: String,
    world: Fake,
}

impl Zygote for FakeZygote {
    fn is_alive(&self) -> bool {
        self.0.world.state().zygotes.contains(&self.0.name)
    }
    fn memory_bytes(&self) -> u64 {
        2 * MB
    }
}

impl Drop for FakeSprout {
    fn drop(&mut self) {
        self.world.state().zygotes.remove(&self.name);
    }
}

pub(crate) struct FakeSandbox {
    pub(crate) id: u64,
    world: Fake,
}

impl FakeSandbox {
    pub(crate) fn version(&self) -> String {
        self.world.state().live[&self.id].clone()
    }
}

impl Line for FakeSandbox {
    fn take_back(&mut self) -> VecDeque<u32> {
        self.world.state().unread.remove(&self.id).unwrap_or_default()
    }
    fn first_unread(&self) -> Option<u32> {
        self.world.state().unread.get(&self.id)?.front().copied()
    }
}

impl Sandbox for FakeSandbox {
    fn id(&self) -> u64 {
        self.id
    }
    fn is_alive(&self) -> bool {
        !self.world.state().dead.contains(&self.id)
    }
    fn freeze(&mut self) {
        self.world.state().frozen.insert(self.id);
    }
    fn thaw(&mut self) {
        self.world.state().frozen.remove(&self.id);
    }
    fn reclaim(&self) {
        self.world.state().reclaimed.push(self.id);
    }
    fn memory_bytes(&self) -> u64 {
        self.world.state().sandbox_bytes
    }
}

impl Drop for FakeSandbox {
    fn drop(&mut self) {
        let mut state = self.world.state();
        state.live.remove(&self.id);
        state.frozen.remove(&self.id);
        state.dropped.push(self.id);
    }
}

/// Counts down when the work ends, or is dropped half-way.
struct Working(Fake, fn(&mut State));

impl Drop for Working {
    fn drop(&mut self) {
        (self.1)(&mut self.0.state());
    }
}

impl Launcher<FakeWorld> for Fake {
    fn prepare(
        &self,
        _class: Class,
        zygote: Option<FakeZygote>,
        haste: Haste,
    ) -> LocalFuture<Result<FakeStandby, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            let (time, starved) = {
                let mut state = world.state();
                state.n_preparing += 1;
                state.n_preparing_max = state.n_preparing_max.max(state.n_preparing);
                (state.prepare_time, state.is_saturated)
            };
            let _working = Working(world.clone(), |state| state.n_preparing -= 1);
            if starved {
                // What nobody waits for gets no processor.
                haste.hurried().await;
            }
            sleep(time).await;
            let id = {
                let mut state = world.state();
                if zygote.is_some() {
                    if let Some(error) = &state.spawn_error {
                        return Err(error.clone());
                    }
                    state.n_spawns += 1;
                }
                if let Some(error) = &state.prepare_error {
                    return Err(error.clone());
                }
                let id = state.next_id;
                state.next_id += 1;
                state.n_prepared += 1;
                state.standbys.insert(id);
                id
            };
            Ok(FakeStandby { id, world: world.clone() })
        })
    }

    fn install(
        &self,
        _name: FunctionName,
        _standby: FakeStandby,
        code: FakeCode,
        _packages: PackageSet,
        _making: Making,
    ) -> LocalFuture<Result<FakeSandbox, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = {
                let mut state = world.state();
                state.n_installs += 1;
                state.install_time
            };
            sleep(time).await;
            if let Some(error) = world.state().install_error.clone() {
                return Err(error);
            }
            Ok(world.sandbox(&code.version))
        })
    }

    fn sprout(
        &self,
        name: FunctionName,
        code: FakeCode,
        _packages: PackageSet,
        _parent: Option<FakeZygote>,
    ) -> LocalFuture<Result<FakeZygote, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().install_time;
            sleep(time).await;
            let mut state = world.state();
            if let Some(error) = &state.sprout_error {
                return Err(error.clone());
            }
            state.n_sprouts += 1;
            state.zygotes.insert(name.to_string());
            drop(state);
            let name = name.to_string();
            Ok(FakeZygote(Arc::new(FakeSprout { name, version: code.version, world: world.clone() })))
        })
    }

    fn plant(
        &self,
        _class: Class,
        packages: PackageSet,
        _parents: Vec<FakeZygote>,
        careful: bool,
    ) -> LocalFuture<Result<Planted<FakeZygote>, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().plant_time;
            sleep(time).await;
            let mut state = world.state();
            state.n_plants += 1;
            let crashes = |package: &Package| state.crashing.contains(&package.to_string());
            let (failed, holds): (Vec<_>, Vec<_>) = packages.iter().cloned().partition(crashes);
            if !careful && !failed.is_empty() {
                return Err(LaunchError::Load("its interpreter ended".into()));
            }
            let name = packages.to_string();
            state.zygotes.insert(name.clone());
            drop(state);
            Ok(Planted {
                zygote: FakeZygote(Arc::new(FakeSprout {
                    name,
                    version: String::new(),
                    world: world.clone(),
                })),
                holds: holds.into_iter().map(|package| Held { package, took: time, bytes: MB }).collect(),
                bytes: 3 * MB,
                failed: failed.into_iter().map(|package| (package, "crashed".to_owned())).collect(),
            })
        })
    }

    fn spawn(
        &self,
        _name: FunctionName,
        zygote: FakeZygote,
        code: FakeCode,
    ) -> LocalFuture<Result<FakeSandbox, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            assert_eq!(zygote.0.version, code.version, "a fork of other code");
            let time = world.state().prepare_time;
            sleep(time).await;
            if let Some(error) = world.state().spawn_error.clone() {
                return Err(error);
            }
            world.state().n_spawns += 1;
            Ok(world.sandbox(&code.version))
        })
    }
}

impl PackageStore for Fake {
    fn find(&self, lists: Vec<Vec<String>>) -> LocalFuture<Vec<Result<PackageSet, LaunchError>>> {
        let world = self.clone();
        Box::pin(async move {
            sleep(ms(1)).await;
            let mut state = world.state();
            state.n_finds += 1;
            let find = |list: Vec<String>| match list.iter().find(|one| !state.installed.contains(*one)) {
                Some(missing) => Err(LaunchError::Unsupported(format!("{missing} is not installed"))),
                None => Ok(PackageSet::new(list.iter().map(|one| package(one)))),
            };
            lists.into_iter().map(find).collect()
        })
    }

    fn requires(&self, packages: Vec<Package>) -> LocalFuture<Vec<Vec<String>>> {
        Box::pin(async move { vec![Vec::new(); packages.len()] })
    }

    fn survey(&self, list: Vec<String>, is_settled: bool) -> LocalFuture<Survey> {
        let world = self.clone();
        Box::pin(async move {
            let state = world.state();
            let is_pinned = list.iter().all(|line| line.contains("=="));
            let missing: Vec<String> =
                list.iter().filter(|one| !state.installed.contains(*one)).cloned().collect();
            match (is_settled || is_pinned, missing.is_empty()) {
                (true, true) => Survey::Complete(PackageSet::new(list.iter().map(|one| package(one)))),
                (true, false) if is_settled => Survey::Missing(missing),
                _ => Survey::Open,
            }
        })
    }

    /// Version 1 is the newest of everything.
    fn settle(
        &self,
        list: Vec<String>,
        _last: Vec<String>,
    ) -> LocalFuture<Result<Vec<String>, PackageError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().package_time;
            sleep(time).await;
            let mut state = world.state();
            state.n_settles += 1;
            if let Some(away) = &state.index_away {
                return Err(PackageError::Away(away.clone()));
            }
            let pin = |line: &String| if line.contains("==") { line.clone() } else { format!("{line}==1") };
            let pins: Vec<String> = list.iter().map(pin).collect();
            match pins.iter().find(|pin| !state.index.contains(*pin) && !state.installed.contains(*pin)) {
                Some(pin) => Err(PackageError::Refused(format!("there is no {pin}"))),
                None => Ok(pins),
            }
        })
    }

    fn install(&self, pin: String, needed: Vec<String>) -> LocalFuture<Result<Installed, PackageError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().package_time;
            sleep(time).await;
            let mut state = world.state();
            if let Some(away) = &state.index_away {
                return Err(PackageError::Away(away.clone()));
            }
            if !state.index.contains(&pin) {
                return Err(PackageError::Refused(format!("there is no {pin}")));
            }
            state.package_installs.push(pin.clone());
            state.installed.insert(pin);
            state.needed = needed;
            Ok(Installed::default())
        })
    }

    fn hold(&self, _packages: &PackageSet) -> Arc<dyn Any + Send + Sync> {
        Arc::new(())
    }

    fn bytes(&self) -> u64 {
        self.state().installed.len() as u64
    }
}

impl Registry<FakeWorld> for Fake {
    fn scan(&self) -> LocalFuture<Result<Vec<FunctionName>, RegistryError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().load_time;
            sleep(time).await;
            let state = world.state();
            match &state.registry_error {
                Some(error) => Err(error.clone()),
                None => Ok(state.registry.keys().map(|text| name(text)).collect()),
            }
        })
    }

    fn is_at_hand(&self, name: &FunctionName) -> bool {
        self.state().copies.as_ref().is_none_or(|copies| copies.contains(name.as_str()))
    }

    fn load(
        &self,
        name: FunctionName,
        last: Option<FakeCode>,
    ) -> LocalFuture<Result<Option<FakeCode>, RegistryError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = {
                let mut state = world.state();
                state.n_loads += 1;
                state.n_loading += 1;
                state.n_loading_max = state.n_loading_max.max(state.n_loading);
                state.load_time
            };
            let _working = Working(world.clone(), |state| state.n_loading -= 1);
            sleep(time).await;
            let state = world.state();
            if let Some(error) = &state.registry_error {
                return Err(error.clone());
            }
            match state.registry.get(name.as_str()) {
                None => Ok(None),
                Some(Err(error)) => Err(error.clone()),
                Some(Ok(code)) => {
                    Ok(Some(last.filter(|last| last.version == code.version).unwrap_or(code.clone())))
                }
            }
        })
    }

    fn settle(&self, mut code: FakeCode, pins: Vec<String>) -> LocalFuture<Result<FakeCode, RegistryError>> {
        code.packages = pins;
        Box::pin(async { Ok(code) })
    }
}

impl Gauge for Fake {
    fn read(&self) -> MemoryReading {
        let state = self.state();
        let used = state.base.used_bytes + state.live.len() as u64 * state.sandbox_bytes;
        MemoryReading { used_bytes: used, ..state.base }
    }

    fn pressed(&self) -> LocalFuture<()> {
        let pressed = Arc::clone(&self.state().pressed);
        Box::pin(async move { pressed.notified().await })
    }

    fn weights(&self) -> Vec<Weight> {
        let state = self.state();
        let used_bytes = state.sandbox_bytes;
        state.live.keys().map(|id| Weight { id: *id, used_bytes, limit_bytes: 4 * used_bytes }).collect()
    }

    fn end(&self, id: u64) {
        let mut state = self.state();
        state.ended.push(id);
        state.dead.insert(id);
    }
}

impl Clock for Fake {
    fn now(&self) -> SystemTime {
        let state = self.state();
        state.day + state.began.elapsed()
    }
}

impl Diary for Fake {
    fn read(&self) -> BTreeMap<String, u64> {
        self.state().diary.clone()
    }
    fn write(&self, schedules: BTreeMap<String, u64>) -> LocalFuture<()> {
        let world = self.clone();
        Box::pin(async move {
            sleep(ms(1)).await;
            let mut state = world.state();
            state.diary = schedules;
            state.n_diary_writes += 1;
        })
    }
}

impl Caller for Fake {
    fn call_by_clock(&self, name: FunctionName, _schedule: String, time: SystemTime) -> LocalFuture<Outcome> {
        let world = self.clone();
        Box::pin(async move {
            let took = {
                let mut state = world.state();
                state.calls.push((name.to_string(), time));
                state.n_calling += 1;
                state.call_time
            };
            let _working = Working(world.clone(), |state| state.n_calling -= 1);
            sleep(took).await;
            world.state().call_outcome.clone()
        })
    }
}

pub(crate) struct FakeFeed {
    id: u64,
    world: Fake,
}

impl Feeds for Fake {
    type Feed = FakeFeed;

    fn open(&self, name: &FunctionName, source: &KafkaSource) -> Result<FakeFeed, String> {
        let mut state = self.state();
        state.n_feeds_opened += 1;
        if let Some(error) = &state.feed_error {
            return Err(error.clone());
        }
        let id = state.next_id;
        state.next_id += 1;
        state.feeds.insert(id, (name.to_string(), source.topics[0].clone()));
        Ok(FakeFeed { id, world: self.clone() })
    }
}

impl Feed for FakeFeed {
    fn is_alive(&self) -> bool {
        !self.world.state().dead.contains(&self.id)
    }
    fn figures(&self) -> FeedFigures {
        FeedFigures::default()
    }
}

impl Drop for FakeFeed {
    fn drop(&mut self) {
        self.world.state().feeds.remove(&self.id);
    }
}

/// Find a function as an HTTP thread does.
pub(crate) async fn route(tree: &Tree<FakeWorld>, text: &str) -> Result<Arc<Route<FakeWorld>>, ResolveError> {
    match tree.routes.get(text) {
        Some(route) => Ok(route),
        None => tree.router.ask(Resolve::new(name(text))).await.expect("the router lives"),
    }
}

/// Lease a sandbox as an HTTP thread does.
pub(crate) async fn lease(tree: &Tree<FakeWorld>, text: &str) -> Result<Lease<FakeSandbox>, Refusal> {
    route(tree, text).await.expect("the function is there").pool.lease_or_wait().await
}

/// One invocation from start to end.
pub(crate) async fn call(tree: &Tree<FakeWorld>, text: &str, takes: Duration) -> Result<String, Refusal> {
    let lease = lease(tree, text).await?;
    sleep(takes).await;
    let version = lease.version();
    lease.finish(takes);
    Ok(version)
}

pub(crate) async fn status(tree: &Tree<FakeWorld>, text: &str) -> LambdaStatus {
    let rows = tree.supervisor.send(Statuses).await.unwrap();
    rows.into_iter().find(|row| row.name.as_str() == text).expect("the function has a row")
}
