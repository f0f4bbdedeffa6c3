//! A world for tests: sandboxes are numbers, and everything that happens to them is counted.
//!
//! | part | what it stands for |
//! |---|---|
//! | [`code`] | functions |
//! | [`sandboxes`] | the launcher and what it makes |
//! | [`packages`] | the packages' directory, and the index |
//! | [`registry`] | the registry |
//! | [`gauge`] | memory |
//! | [`triggers`] | the clock, and Kafka |
//! | [`calls`] | HTTP |

mod calls;
mod code;
mod gauge;
mod packages;
mod registry;
mod sandboxes;
mod triggers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::time::{Duration, SystemTime};

use slog::{Discard, Logger, o};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::import_stats::ImportStats;
use crate::name::FunctionName;
use crate::outcome::Outcome;
use crate::packages::Package;
use crate::supervisor::{Config, Parts, Tree, start};
use crate::world::{Class, LaunchError, MemoryReading, Network, RegistryError, World};
use crate::zygotes::ZygotesConfig;
pub(crate) use calls::{call, lease, route, status};
pub(crate) use code::{FakeCode, code, limits};
pub(crate) use sandboxes::{FakeSandbox, FakeStandby, FakeZygote};

pub(crate) const CLASS: Class = Class { network: Network::None };
pub(crate) const MB: u64 = 1 << 20;

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
    /// Why no zygote of packages can be made, if that is so.
    pub(crate) plant_error: Option<LaunchError>,
    /// Names of the packages that one would use, by its name and version.
    pub(crate) requires: BTreeMap<String, Vec<String>>,
    /// Packages that end the interpreter that imports them.
    pub(crate) crashing: BTreeSet<String>,
    /// No two packages can be imported into one zygote.
    pub(crate) quarrel: bool,
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
    /// What must not be removed, for as long as somebody has it.
    pub(crate) holds: Vec<Weak<Vec<String>>>,
    /// What had to stay when the last one was installed.
    pub(crate) held_at_install: Vec<String>,
    /// What is there when it is looked for is gone when it is to be held.
    pub(crate) gone_when_held: bool,
    /// How long it takes to add up what packages take.
    pub(crate) bytes_time: Duration,
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
    /// What was written of imports, how often, and how long that takes.
    pub(crate) import_stats: Option<ImportStats>,
    pub(crate) n_import_stats_writes: usize,
    pub(crate) import_stats_time: Duration,
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
            plant_error: None,
            requires: BTreeMap::new(),
            crashing: BTreeSet::new(),
            quarrel: false,
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
            holds: Vec::new(),
            held_at_install: Vec::new(),
            gone_when_held: false,
            bytes_time: Duration::ZERO,
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
            import_stats: None,
            n_import_stats_writes: 0,
            import_stats_time: ms(1),
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

    pub(crate) fn parts(&self) -> Parts<FakeWorld> {
        Parts {
            launcher: self.clone(),
            packages: self.clone(),
            registry: self.clone(),
            gauge: self.clone(),
            clock: self.clone(),
            diary: self.clone(),
            import_stats: self.clone(),
            caller: self.clone(),
            feeds: self.clone(),
        }
    }

    pub(crate) fn start(&self) -> Tree<FakeWorld> {
        let zygotes = ZygotesConfig {
            default_class: CLASS,
            standbys: 4,
            standbys_max: 32,
            import_cache: true,
            plan: None,
            zygote_bytes_max: 256 * MB,
        };
        start(self.parts(), Config { n_arbiters: 0, zygotes, sandbox_bytes: 2 * MB, reclaim: true }, log())
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
    type ImportStats = Fake;
    type Caller = Fake;
    type Feeds = Fake;
}

/// Counts down when the work ends, or is dropped half-way.
struct Working(Fake, fn(&mut State));

impl Drop for Working {
    fn drop(&mut self) {
        (self.1)(&mut self.0.state());
    }
}
