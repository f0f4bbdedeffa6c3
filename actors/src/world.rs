//! What the actors need from the world outside: a launcher of sandboxes, a registry of code, a gauge
//! of memory. The root package implements these; the tests have fakes.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cron::timetable::CronEntry;
use crate::haste::Haste;
use crate::import_stats::ImportStats;
use crate::name::FunctionName;
use crate::outcome::Outcome;
use crate::packages::{Package, PackageSet};
use crate::stats::FeedFigures;

/// A future that stays on the thread of the actor that made it.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Everything outside, as one type parameter of the actors.
pub trait World: 'static + Sized + Unpin {
    /// One generation of a function's code, ready to be put into a sandbox.
    type Code: Code;
    /// A confined interpreter that waits for a function.
    type Standby: Standby;
    /// A sandbox that serves one function.
    type Sandbox: Sandbox;
    /// An interpreter that has one function loaded, or packages imported, and is forked.
    type Zygote: Zygote;
    /// Makes standbys, and sandboxes from them.
    type Launcher: Launcher<Self>;
    /// Where packages are.
    type Packages: PackageStore;
    /// Where functions come from.
    type Registry: Registry<Self>;
    /// How much memory is in use.
    type Gauge: Gauge;
    /// What time it is.
    type Clock: Clock;
    /// Remembers which times are over.
    type Diary: Diary;
    /// Remembers what was learnt of imports.
    type ImportStats: ImportStatsStore;
    /// Calls functions that nobody has asked for over HTTP.
    type Caller: Caller;
    /// Readers of Kafka.
    type Feeds: Feeds;
}

/// One generation of a function's code: an immutable directory and its settings. Cheap to clone; the
/// files go when the last clone goes.
pub trait Code: Clone + Send + Sync + Unpin + Debug + 'static {
    /// Tells versions of the code apart; shown to people, e.g. the first digits of a content hash.
    fn version(&self) -> &str;
    /// What the pool of this function may do.
    fn limits(&self) -> PoolLimits;
    /// What a standby must be like to take this code.
    fn class(&self) -> Class;
    /// Packages that the function may import, each pinned; or, as long as they are not settled, what it asks for as the user
    /// wrote it.
    fn packages(&self) -> &[String];
    /// Whether it is settled which packages these are.
    fn is_settled(&self) -> bool;
    /// The same with the archives' hashes, if these are known. Reads a file.
    fn pins(&self) -> Vec<String>;
    /// Its packages are there; they stay for as long as a clone of this code lives.
    fn keep(&self, packages: Hold);
    /// Whether a sandbox serves more than one invocation (`reuse-sandbox` of `ol.yaml`).
    fn reuse(&self) -> bool;
    /// Whether loading it imports a module, which a zygote can have done ahead.
    fn imports(&self) -> bool;
    /// When it is called by the clock.
    fn cron(&self) -> Vec<CronEntry>;
    /// What it is called with from Kafka.
    fn kafka(&self) -> Vec<KafkaSource>;
}

/// Bounds of one function's pool and queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Sandboxes at most, busy and idle together. At least 1.
    pub max_instances: usize,
    /// Sandboxes that are kept even when idle.
    pub min_warm: usize,
    /// Requests that may wait for a sandbox; one more is refused.
    pub queue_length_max: usize,
    /// How long a request may wait for a sandbox.
    pub queue_wait_max: Duration,
    /// How long a sandbox is idle before it is frozen.
    pub freeze_after: Duration,
    /// How long a sandbox is idle before it is given up. `None`: only under memory pressure.
    pub release_after: Option<Duration>,
}

/// What tells standbys apart before they know their function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Class {
    /// The network that a sandbox sees.
    pub network: Network,
}

/// The network that a sandbox sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A loopback device of its own and nothing else.
    #[default]
    None,
    /// Outbound connections through address translation; nothing on this machine is reachable.
    Outbound,
    /// The machine's own network.
    Host,
}

/// A standby as the zygotes see it. Dropping one destroys it, and never blocks.
pub trait Standby: Send + Unpin + 'static {
    /// Whether its processes still live. Cheap: called each time one is handed out.
    fn is_alive(&self) -> bool;
}

/// A sandbox as the pool sees it. Dropping one destroys it, and never blocks.
pub trait Sandbox: Send + Unpin + 'static {
    /// Unique while the worker runs.
    fn id(&self) -> u64;
    /// Whether its processes still live. Cheap: called at each lease of an idle sandbox.
    fn is_alive(&self) -> bool;
    /// Stop it from running until [`thaw`](Self::thaw). Frozen twice is fine.
    fn freeze(&mut self);
    /// Undo [`freeze`](Self::freeze).
    fn thaw(&mut self);
    /// Have the kernel take back what it can of its memory, soon. Cheap: called under a lock.
    fn reclaim(&self);
    /// Memory charged to it now, in bytes.
    fn memory_bytes(&self) -> u64;
    /// What runs in it is not known, so it is to end at once when it is dropped, and not in order.
    fn condemn(&mut self) {}
}

/// A sandbox as a lane sees it: requests lie in a socket until it reads them.
pub trait Line {
    /// Takes back the requests that the sandbox has not read, and gives their numbers. It will not see them.
    fn take_back(&mut self) -> VecDeque<u32>;
    /// The number of the request that the sandbox reads next.
    fn first_unread(&self) -> Option<u32>;
}

/// The zygote of one lambda, or of packages. A clone is the same; when the last one is dropped it ends, and sandboxes that were forked
/// from it go on.
pub trait Zygote: Clone + Send + Unpin + 'static {
    /// Whether it can still be forked. Cheap.
    fn is_alive(&self) -> bool;
    /// Memory charged to it now, in bytes.
    fn memory_bytes(&self) -> u64;
}

/// Makes standbys, and sandboxes from them. The futures may be dropped at any time; what was half
/// made is then destroyed. A clone is cheap and is the same launcher: each actor that needs one holds
/// its own, on the arbiter where it runs.
pub trait Launcher<W: World>: Clone + Send + Unpin + 'static {
    /// A confined interpreter of this class, forked from a zygote of packages, or (`None`) from the root zygote. Takes
    /// about 2 ms. While nobody waits for it, it makes way for others.
    fn prepare(
        &self,
        class: Class,
        zygote: Option<W::Zygote>,
        haste: Haste,
    ) -> LocalFuture<Result<W::Standby, LaunchError>>;
    /// Give a standby its function's code, and let it import these packages and no others. `making` is what was done
    /// for it before.
    fn install(
        &self,
        name: FunctionName,
        standby: W::Standby,
        code: W::Code,
        packages: PackageSet,
        making: Making,
    ) -> LocalFuture<Result<W::Sandbox, LaunchError>>;
    /// A zygote that has the function loaded, forked from one of packages or from the root. [`LaunchError::Unsupported`]:
    /// what it has loaded must not be forked.
    fn sprout(
        &self,
        name: FunctionName,
        code: W::Code,
        packages: PackageSet,
        parent: Option<W::Zygote>,
    ) -> LocalFuture<Result<W::Zygote, LaunchError>>;
    /// A zygote that has imported all of these packages, forked from the first of `parents` that has room for it, or else
    /// from the root. If one of them cannot be imported ([`LaunchError::Load`]), or has made what must not be forked
    /// ([`LaunchError::Unsupported`]), there is none.
    fn plant(
        &self,
        class: Class,
        packages: PackageSet,
        parents: Vec<W::Zygote>,
    ) -> LocalFuture<Result<Planted<W::Zygote>, LaunchError>>;
    /// A sandbox forked from the function's zygote. Takes about 2 ms, whatever the function imports.
    fn spawn(
        &self,
        name: FunctionName,
        zygote: W::Zygote,
        code: W::Code,
    ) -> LocalFuture<Result<W::Sandbox, LaunchError>>;
}

/// A zygote that holds all the packages that were to be imported.
#[derive(Debug)]
pub struct Planted<Z> {
    /// The zygote.
    pub zygote: Z,
    /// What it says of the imports. That is the word of a process in which the packages' own code has run: what it *holds*
    /// is not learnt from this.
    pub imports: Vec<Import>,
    /// Memory charged to it.
    pub bytes: u64,
}

/// What it took to import a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Which.
    pub package: Package,
    /// How long that took; next to nothing if it is a fork of one that had it.
    pub took: Duration,
    /// By how much the interpreter grew.
    pub bytes: u64,
}

/// What a sandbox is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A standby that lay ready.
    Standby,
    /// One that was prepared for it.
    Forked,
}

/// What was done for a sandbox before it got its function's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Making {
    /// What it is made from.
    pub start: Start,
    /// How long its packages took.
    pub packages: Duration,
}

/// Why there is no sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The function's code could not be loaded; the text is for its author (a traceback).
    #[error("{0}")]
    Load(String),
    /// The function asks for something that this worker cannot give it.
    #[error("{0}")]
    Unsupported(String),
    /// The machine or the worker is out of something; the text says of what.
    #[error("cannot make a sandbox: {0}")]
    Resources(String),
    /// A sandbox could not be made; the text says which step failed.
    #[error("cannot make a sandbox: {0}")]
    Failed(String),
}

/// Where packages are, and who brings those that are not there. A clone is cheap and is the same place. What a dropped future
/// has begun may go on without it.
pub trait PackageStore: Clone + Send + Unpin + 'static {
    /// Which packages are meant by each of these lists of requirements, and that all of a list are there. As many
    /// answers as lists.
    fn find(&self, lists: Vec<Vec<String>>) -> LocalFuture<Vec<Result<PackageSet, LaunchError>>>;
    /// Of each of these the names of the packages that it needs directly, or uses where they are (its extras), as far as it says.
    fn requires(&self, packages: Vec<Package>) -> LocalFuture<Vec<Vec<String>>>;
    /// What a list comes to on this machine without anybody being asked.
    fn survey(&self, list: Vec<String>, is_settled: bool) -> LocalFuture<Survey>;
    /// Have the resolver settle a list: what it asks for and all that this needs, each pinned, one a line. What `last` has
    /// is kept where the list allows it. Takes as long as a resolver takes.
    fn settle(&self, list: Vec<String>, last: Vec<String>) -> LocalFuture<Result<Vec<String>, PackageError>>;
    /// Install one pinned package. What nobody holds may be removed to make room for it.
    fn install(&self, pin: String) -> LocalFuture<Result<Installed, PackageError>>;
    /// These packages are not removed for as long as what is given back lives. They are there, unless it fails. Cheap for those that
    /// are held already; else it looks at a directory of each.
    ///
    /// # Errors
    /// When some are not there any more.
    fn hold(&self, packages: &PackageSet) -> Result<Hold, PackageError>;
    /// The same of pinned packages that may not be there yet.
    ///
    /// # Errors
    /// When some are being removed at this moment.
    fn want(&self, pins: &[String]) -> Result<Hold, PackageError>;
    /// What the packages take, in bytes.
    fn bytes(&self) -> LocalFuture<u64>;
}

/// Some packages are not removed for as long as it lives. Dropping one never blocks.
pub type Hold = Arc<dyn Any + Send + Sync>;

/// What a list of requirements comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survey {
    /// All that it asks for and all that this needs is there.
    Complete {
        /// Each of them pinned, with where it comes from; those that are not for this machine included.
        pins: Vec<String>,
        /// Those that are for this machine.
        set: PackageSet,
    },
    /// It is settled, and these of its lines are not there.
    Missing(Vec<String>),
    /// A resolver must say which packages are meant.
    Open,
    /// There is something wrong with it; the text says what.
    Wrong(String),
}

/// A package was installed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installed {
    /// Directories of packages that were removed to make room.
    pub evicted: Vec<String>,
}

/// Why packages are not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// The function's author can mend it: the text is the resolver's, and what to do.
    #[error("{0}")]
    Refused(String),
    /// It may be otherwise a moment later: the index is away, or too much is wanted at once.
    #[error("{0}")]
    Away(String),
    /// The worker cannot; the text says what the operator can do.
    #[error("{0}")]
    Failed(String),
}

/// Where functions come from. A clone is cheap and is the same registry.
pub trait Registry<W: World>: Clone + Send + Unpin + 'static {
    /// Names of all functions now in the registry, valid or not.
    fn scan(&self) -> LocalFuture<Result<Vec<FunctionName>, RegistryError>>;
    /// Whether it takes nobody elsewhere to say if there is a function of this name: functions lie here, or there is a copy of this
    /// one here. Reads no more than a directory's entry.
    fn is_at_hand(&self, name: &FunctionName) -> bool;
    /// Read one function: take an immutable copy of its code, check it. `Ok(None)`: there is none of that name.
    /// When the content is that of `last`, gives `last` back, unchanged.
    fn load(
        &self,
        name: FunctionName,
        last: Option<W::Code>,
    ) -> LocalFuture<Result<Option<W::Code>, RegistryError>>;
    /// Write down which packages this code gets from now on, each pinned, and give the code with them.
    fn settle(&self, code: W::Code, pins: Vec<String>) -> LocalFuture<Result<W::Code, RegistryError>>;
}

/// Why a function cannot be served from the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// What was uploaded is not a function; the text says what to mend.
    #[error("{0}")]
    Invalid(String),
    /// Files are still being written; try again a moment later.
    #[error("{0}")]
    Unsettled(String),
    /// The registry could not be read.
    #[error("cannot read the registry: {0}")]
    Unavailable(String),
    /// The registry lies elsewhere, which does not answer, and there is no copy of this function. Who keeps the registry sees to
    /// it, and says when it is back.
    #[error("the registry does not answer: {0}")]
    Away(String),
}

/// How much memory is in use. A clone is cheap and is the same gauge.
pub trait Gauge: Clone + Send + Unpin + 'static {
    /// Bytes charged to all sandboxes and zygotes, and the pool's size in bytes.
    fn read(&self) -> MemoryReading;
    /// Ends when the kernel says that programs wait for memory. Where it says no such thing it never ends.
    fn pressed(&self) -> LocalFuture<()>;
    /// What each sandbox takes and may take. Reads some files for each: for emergencies.
    fn weights(&self) -> Vec<Weight>;
    /// End this sandbox, whatever it does, and have whoever waits for it told that memory ran out.
    fn end(&self, id: u64);
}

/// What one sandbox weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// As [`Sandbox::id`].
    pub id: u64,
    /// Memory charged to it, in bytes.
    pub used_bytes: u64,
    /// What it may use, in bytes.
    pub limit_bytes: u64,
}

/// One reading of the [`Gauge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct MemoryReading {
    /// Charged to sandboxes and zygotes, in bytes.
    pub used_bytes: u64,
    /// What they may use together (`mem_pool_mb`), in bytes.
    pub pool_bytes: u64,
    /// What the machine has free for programs (`MemAvailable`), in bytes.
    pub available_bytes: u64,
}

/// The time of day, which may be set, and then goes forward or back. A clone is the same clock.
pub trait Clock: Clone + Send + Unpin + 'static {
    /// What it is now.
    fn now(&self) -> SystemTime;
}

/// What is remembered of schedules from one worker to the next. A clone is the same diary.
pub trait Diary: Clone + Send + Unpin + 'static {
    /// Which schedules there were, and up to when their times are over, in milliseconds since 1970. Nothing, if nobody has
    /// written anything that can be read. Reads a file.
    fn read(&self) -> BTreeMap<String, u64>;
    /// Replace what is remembered.
    fn write(&self, schedules: BTreeMap<String, u64>) -> LocalFuture<()>;
}

/// What is remembered of imports from one worker to the next. A clone is the same store.
pub trait ImportStatsStore: Clone + Send + Unpin + 'static {
    /// What an earlier worker has written. `None`: nothing, or nothing that can be read, of which the log tells.
    fn read(&self) -> LocalFuture<Option<ImportStats>>;
    /// Replace what is remembered, as a whole: one after the other, in the order of calls.
    fn write(&self, stats: ImportStats) -> LocalFuture<()>;
}

/// Times at which something is due.
pub trait Schedule: Debug + Send + Sync {
    /// The first one after this; `None`: there will be none.
    fn next_after(&self, time: SystemTime) -> Option<SystemTime>;
}

/// Calls functions, on the way that requests over HTTP go. A clone is the same caller. A call goes on to its end if its
/// future is dropped.
pub trait Caller: Clone + Send + Unpin + 'static {
    /// The call of a schedule, as it was written, that was due at `time`.
    fn call_by_clock(&self, name: FunctionName, schedule: String, time: SystemTime) -> LocalFuture<Outcome>;
}

/// What is read from Kafka for a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSource {
    /// Brokers to ask first, as `host:port`.
    pub bootstrap_servers: Vec<String>,
    /// Topics to read.
    pub topics: Vec<String>,
    /// Where to start in a topic that was never read: at its oldest record, or (`false`) at those that come.
    pub from_earliest: bool,
    /// Calls of one record before it is given up.
    pub calls_max: u32,
    /// Where records go that were given up.
    pub dead_letter_topic: Option<String>,
}

/// Opens readers of Kafka. A clone opens the same.
pub trait Feeds: Clone + Send + Unpin + 'static {
    /// A reader.
    type Feed: Feed;
    /// Begin to read for this function. Does not block, and does not wait for a broker.
    ///
    /// # Errors
    /// The machine has no more threads; the text says so.
    fn open(&self, name: &FunctionName, source: &KafkaSource) -> Result<Self::Feed, String>;
}

/// A reader of Kafka, which calls its function by itself. Dropped, it finishes the records that are being called, commits,
/// and leaves its group; dropping does not wait for that.
pub trait Feed: Send + Unpin + 'static {
    /// Whether it still reads, or tries to.
    fn is_alive(&self) -> bool;
    /// How it fares.
    fn figures(&self) -> FeedFigures;
}
