//! Makes standbys, and sandboxes from them: the stages of `docs/SANDBOX.md` in order.

mod installer;

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actors::haste::Haste;
use actors::name::FunctionName;
use actors::world::{Class, LaunchError, Making, Network, Start};
use serde::Serialize;
use slog::{Logger, debug, o};

use super::cgroup::{Cgroup, CgroupError, CgroupRoot, Limits, Nest, Ways};
use super::channel::{Channel, ChannelError};
use super::family::{Family, Filters, Outer, Shell, ShellOrder};
use super::forker::Forker;
use super::logs::{Logs, Naming};
use super::mounter::{HANDLER, Mounter};
use super::network::{self, NetworkError, Outbound};
use super::process::Process;
use super::reaper::{Reaper, Remains};
use super::seccomp;
use super::shells::{Count, Made, SPARE_TIME, Uses};
use super::tally;
use super::uids::{self, LAMBDA_ZYGOTE_UIDS, PACKAGE_ZYGOTE_UIDS, ROOT_SANDBOX_UIDS, RangeLease, Slot, Uids};
use super::wire::{BaseSpec, ShimSpec};
use super::zygote::{Birth, Entrance, Zygote, control_pair};
use crate::frame::{Kind, PROTOCOL};

pub use installer::{InstallerOrder, InstallerSandbox, WORK};

/// How long a fresh interpreter may take until it answers; ordinary are 3 ms.
const WARM_PATIENCE: Duration = Duration::from_secs(10);
/// How long a standby that nobody waits for makes way for others. On a machine that has no time to spare for longer, those to
/// come will want one.
const ASIDE_MAX: Duration = Duration::from_millis(500);
/// From a fork that is waited for to the making of the next one's shell: the time of such a fork.
const KEEP_SHELLS_PAUSE: Duration = Duration::from_millis(5);
/// How long the packages of a zygote may take to be imported, all together.
const PLANT_PATIENCE: Duration = Duration::from_secs(60);
/// What a zygote of packages may use: the largest packages take some hundred MB. Processes are for trying imports out.
const PACKAGE_ZYGOTE_LIMITS: Limits =
    Limits { memory_bytes: 1 << 30, swap_bytes: 0, cpu_percent: 100, n_processes: 64 };
/// Open files of one sandbox: the customary soft limit, which programs with `select` rely on.
const SANDBOX_FILES_MAX: u32 = 1024;
/// What the shim and the zygote of a family may use. One interpreter with the standard library is 25 MB; and the kernel counts to
/// the shim what it takes for the namespaces of each sandbox, some half a megabyte: with 1 GiB for all, two thousand sandboxes were
/// the end of the zygote.
const FAMILY_LIMITS: Limits = Limits {
    memory_bytes: (1 << 30) + ROOT_SANDBOX_UIDS as u64 * (1 << 20),
    swap_bytes: 1 << 30,
    cpu_percent: 1000,
    n_processes: 70_000,
};

/// What the launcher is made from.
#[derive(Debug, Clone)]
pub struct LauncherSpec {
    /// An empty directory that only this worker uses.
    pub scratch: PathBuf,
    /// Name of the worker's cgroups.
    pub cgroup_name: String,
    /// Where the root file system comes from.
    pub base: BaseSpec,
    /// Python inside the base.
    pub python: String,
    /// Name servers for sandboxes with a network.
    pub dns: Vec<String>,
    /// Directory with installed packages.
    pub packages: PathBuf,
    /// Limits of a sandbox before its function is known.
    pub limits: Limits,
    /// Size of its `/tmp` then, in MiB.
    pub tmp_mb: u32,
    /// First uid of slot 0.
    pub uid_base: u32,
    /// Whether system calls are filtered. Off only where somebody studies without.
    pub seccomp: bool,
}

/// One function's code and what it is given, ready to be put into a sandbox.
#[derive(Debug, Clone)]
pub struct Program {
    /// Of the function.
    pub name: FunctionName,
    /// Its files on the machine.
    pub directory: PathBuf,
    /// The file to load, relative to the directory.
    pub entry: String,
    /// What it finds in its environment.
    pub environment: BTreeMap<String, String>,
    /// Directories that it imports packages from, as the sandbox sees them.
    pub packages: Vec<String>,
    /// What it may use. Processes are the function's own; the sandbox's init comes on top.
    pub limits: Limits,
    /// Size of its `/tmp`, in MiB.
    pub tmp_mb: u32,
    /// How many sandboxes it may have at the same time.
    pub n_sandboxes_max: usize,
    /// How long loading it may take.
    pub load_patience: Duration,
    /// What must stay for as long as the sandbox does.
    pub holds: Arc<dyn Any + Send + Sync>,
}

/// See the module's text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: LauncherSpec,
    slot: Slot,
    cgroups: CgroupRoot,
    forker: Forker,
    mounter: Mounter,
    reaper: Reaper,
    logs: Logs,
    filters: Filters,
    next_id: AtomicU64,
    next_family: AtomicU64,
    /// Shells that wait.
    n_spare: Count,
    isolated: RootPlace,
    on_host: RootPlace,
    outbound: Mutex<Option<Arc<Outbound>>>,
    log: Logger,
}

/// Where a family's root zygote is, once it was asked for. The lock is held while one is started, so that many who miss
/// it start one; it is only ever taken where blocking is allowed.
#[derive(Debug, Default)]
struct RootPlace(Arc<Mutex<Option<Arc<Zygote>>>>);

/// A confined interpreter that has said nothing yet.
struct Newborn {
    channel: Channel,
    process: Process,
    naming: Naming,
    /// How long its shell took.
    shell: Duration,
    /// Of a zygote: its control socket, and the uids of its user namespace.
    sprout: Option<(OwnedFd, Uids)>,
}

/// A zygote that was forked from another: one that has a function loaded, and that only this function's sandboxes are
/// forked from, or one that has packages imported. Dropping it ends it; what was forked from it goes on.
#[derive(Debug, Clone)]
pub struct GrownZygote(Arc<Sprout>);

#[derive(Debug)]
struct Sprout {
    zygote: Arc<Zygote>,
    /// Zygotes of packages from it up to the root.
    depth: usize,
    /// What must stay for as long as it, and what was forked from it, does.
    holds: Arc<dyn Any + Send + Sync>,
    /// Held open: its end is how the zygote would notice that the worker is gone.
    _channel: Channel,
}

impl GrownZygote {
    /// Whether it can still be forked.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.zygote.is_alive()
    }

    /// Memory charged to it now, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.zygote.memory_bytes()
    }
}

impl Drop for Sprout {
    fn drop(&mut self) {
        self.zygote.shells.close();
        self.zygote.retire();
    }
}

/// A confined interpreter that waits for a function.
#[derive(Debug)]
pub struct Standby {
    channel: Channel,
    process: Process,
    naming: Naming,
    /// How long its shell and its fork took.
    made: (Duration, Duration),
}

/// Whose output it is that a new sandbox prints: kept in its pipe until this is told. It wakes up a thread, so
/// nobody who waits should have to wait for it.
#[derive(Debug)]
pub struct Output {
    naming: Naming,
    name: FunctionName,
}

impl Output {
    /// Have it written to the function's log.
    pub fn follow(self) {
        self.naming.assign(self.name);
    }
}

/// A standby that can be told to load its function's code.
#[derive(Debug)]
pub struct Loading {
    channel: Channel,
    process: Process,
    naming: Naming,
    program: Program,
    origin: Origin,
    /// What it is told: to load, or as a fork of one that has, to renew itself.
    kind: Kind,
}

/// How a sandbox came to be, and how long each step took that a request waited for.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// What it was made from.
    pub start: Start,
    /// Its packages.
    pub install: Duration,
    /// The shell; nothing if it was there.
    pub shell: Duration,
    /// The fork; nothing if it was there.
    pub fork: Duration,
    /// The function's code.
    pub import: Duration,
}

/// A sandbox that serves one function.
#[derive(Debug)]
pub struct Sandbox {
    /// Where requests go in and answers come out.
    pub channel: Channel,
    /// Until somebody takes it: whoever waited for the sandbox wants to know.
    pub origin: Option<Origin>,
    process: Process,
    wants_head: bool,
    is_asgi: bool,
    /// Whether the function is to be told of the end, and given time for it.
    wants_end: bool,
    is_frozen: bool,
    /// Goes when it goes.
    _holds: Arc<dyn Any + Send + Sync>,
}

/// `LOAD` and `ZYGOTE`, as the protocol has them.
#[derive(Serialize)]
struct Order<'a> {
    protocol: u32,
    name: &'a str,
    directory: &'a str,
    entry: &'a str,
    environment: &'a BTreeMap<String, String>,
    packages: &'a [String],
}

/// `ZYGOTE` for packages, as the protocol has it.
#[derive(Serialize)]
struct PlantOrder<'a> {
    protocol: u32,
    packages: &'a [String],
    careful: bool,
}

/// What a zygote of packages has come to hold. Packages are named by their directories.
#[derive(Debug)]
pub struct Plantation {
    /// The zygote.
    pub zygote: GrownZygote,
    /// What was imported, and how many milliseconds that took.
    pub held: BTreeMap<String, f64>,
    /// By how many bytes the interpreter grew.
    pub grown: BTreeMap<String, u64>,
    /// What was not, and why.
    pub failed: BTreeMap<String, String>,
}

/// `RENEW`, as the protocol has it.
#[derive(Serialize)]
struct Renewal {
    random: String,
}

/// `READY`, as far as the worker cares.
#[derive(serde::Deserialize)]
struct Ready {
    protocol: u32,
    head: bool,
    entry: String,
    #[serde(default)]
    end: bool,
    /// In answer to `ZYGOTE`: why it must not be forked.
    #[serde(default)]
    unforkable: Option<String>,
    /// In answer to `ZYGOTE` for packages.
    #[serde(default)]
    held: BTreeMap<String, f64>,
    #[serde(default)]
    grown: BTreeMap<String, u64>,
    #[serde(default)]
    failed: BTreeMap<String, String>,
}

/// The cgroup of a shell that is to be made.
struct GroupOrder {
    name: String,
    /// Of the nest, if it gets a new one.
    nest: String,
    beside: Option<Arc<Nest>>,
    limits: Limits,
    room: Room,
    may_be_born_inside: bool,
}

impl GroupOrder {
    /// Blocks.
    fn make(self, cgroups: &CgroupRoot) -> Result<(Cgroup, Ways), CgroupError> {
        let Limits { memory_bytes, swap_bytes, .. } = self.limits;
        let nest = match self.room {
            Room::Root => None,
            Room::BesideZygote => self.beside,
            Room::Nest { n_forks_max } => {
                // As much as zygote and sandboxes may use each by itself.
                let n = n_forks_max as u64 + 1;
                Some(cgroups.nest(
                    &self.nest,
                    memory_bytes.saturating_mul(n),
                    swap_bytes.saturating_mul(n),
                )?)
            }
        };
        let began = Instant::now();
        let group = cgroups.create(&self.name, self.limits, nest)?;
        tally::CGROUP.add(began);
        let birthplace = if self.may_be_born_inside { group.birthplace()? } else { None };
        let ways = match birthplace {
            Some(birthplace) => Ways::Birth(birthplace),
            None => Ways::Procs(group.procs()?),
        };
        Ok((group, ways))
    }
}

/// Where the cgroup of a new interpreter lies.
enum Room {
    /// Below the worker's.
    Root,
    /// In a new nest, beside those of its forks.
    Nest { n_forks_max: usize },
    /// In that of the zygote that it is forked from, if it has one.
    BesideZygote,
}

impl Program {
    /// What its shell is made for.
    fn uses(&self) -> Uses {
        (self.limits, self.tmp_mb)
    }

    /// What goes with a frame that has it loaded.
    fn order(&self, kind: Kind) -> Result<Vec<u8>, LaunchError> {
        if kind == Kind::Renew {
            let random = random_hex().map_err(failed("read random bytes"))?;
            return serde_json::to_vec(&Renewal { random })
                .map_err(|error| LaunchError::Failed(error.to_string()));
        }
        let order = Order {
            protocol: PROTOCOL,
            name: self.name.as_str(),
            directory: HANDLER,
            entry: &self.entry,
            environment: &self.environment,
            packages: &self.packages,
        };
        serde_json::to_vec(&order).map_err(|error| LaunchError::Failed(error.to_string()))
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |error| match error.raw_os_error() {
        Some(libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN) => {
            LaunchError::Resources(format!("{what}: {error}"))
        }
        _ => LaunchError::Failed(format!("{what}: {error}")),
    }
}

impl Launcher {
    /// Takes a slot, makes the worker's cgroups, and starts the zygote of isolated sandboxes. Blocks.
    ///
    /// # Errors
    /// When the machine lacks something; the text says what.
    pub fn start(spec: LauncherSpec, logs: Logs, log: &Logger) -> io::Result<Self> {
        let log = log.new(o!("part" => "sandbox"));
        let slot = Slot::take(spec.uid_base)?;
        // Who wants the network is told when it is started; others need not have a packet filter at all.
        if let Err(error) = network::sweep(&slot) {
            debug!(log, "could not look for remains of the outbound network"; "error" => error.to_string());
        }
        let cgroups = CgroupRoot::open(&spec.cgroup_name, Some(slot.uid_base())).map_err(io::Error::other)?;
        fs::create_dir_all(&spec.scratch)?;
        let filter = |who| if spec.seccomp { seccomp::compile(who) } else { seccomp::allow_all() };
        let filters =
            Filters { sandbox: filter(seccomp::Who::Sandbox), zygote: filter(seccomp::Who::Zygote) };
        let launcher = Self {
            inner: Arc::new(Inner {
                slot,
                cgroups,
                forker: Forker::start()?,
                mounter: Mounter::new()?,
                reaper: Reaper::start(log.clone())?,
                logs,
                filters,
                next_id: AtomicU64::new(1),
                next_family: AtomicU64::new(1),
                n_spare: Count::default(),
                isolated: RootPlace::default(),
                on_host: RootPlace::default(),
                outbound: Mutex::new(None),
                spec,
                log,
            }),
        };
        launcher.inner.root_zygote_blocking(true)?;
        Ok(launcher)
    }

    /// `v2`, `v1 (hybrid)` or `v1`.
    #[must_use]
    pub fn cgroup_layout(&self) -> &'static str {
        self.inner.cgroups.describe()
    }

    /// Memory charged to all sandboxes and zygotes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.inner.cgroups.memory_bytes()
    }

    /// The groups of all its sandboxes.
    #[must_use]
    pub fn cgroups(&self) -> &CgroupRoot {
        &self.inner.cgroups
    }

    /// A confined interpreter of this class, forked from a zygote of packages, or from the root zygote. As long as nobody
    /// waits for it, others have the processors first; and one that is waited for from the start is not warmed by more than
    /// it needs: its first request is there already, and does that itself.
    ///
    /// # Errors
    /// [`LaunchError::Resources`] when the machine is out of something, else [`LaunchError::Failed`] with the step.
    pub async fn prepare(
        &self,
        class: Class,
        zygote: Option<&GrownZygote>,
        haste: &Haste,
    ) -> Result<Standby, LaunchError> {
        let zygote = self.inner.zygote_or_root(class, zygote).await?;
        let uses = (self.inner.spec.limits, self.inner.spec.tmp_mb);
        let Newborn { channel, process, naming, shell, .. } =
            self.inner.bear(&zygote, class, uses, Room::Root, None, haste.is_waited_for()).await?;
        let began = Instant::now();
        let mut standby = Standby { channel, process, naming, made: (shell, Duration::ZERO) };
        match tokio::time::timeout(WARM_PATIENCE, standby.warm(haste)).await {
            Ok(Ok(())) => {
                standby.made.1 = began.elapsed();
                Ok(standby)
            }
            Ok(Err(error)) => Err(LaunchError::Failed(format!(
                "wait for a new interpreter: {}",
                standby.process.obituary(&error).await
            ))),
            Err(_) => Err(LaunchError::Failed(format!(
                "a new interpreter did not answer in {} s",
                WARM_PATIENCE.as_secs()
            ))),
        }
    }

    /// A zygote that has the function loaded, and serves nothing.
    ///
    /// # Errors
    /// [`LaunchError::Load`] when the code cannot be loaded, [`LaunchError::Unsupported`] when what it has loaded must
    /// not be forked; the text says why.
    pub async fn sprout(
        &self,
        class: Class,
        program: &Program,
        parent: Option<&GrownZygote>,
    ) -> Result<GrownZygote, LaunchError> {
        let inner = &self.inner;
        let mut parent_zygote = inner.zygote_or_root(class, parent).await?;
        let mut range = parent_zygote.uids.take_range(LAMBDA_ZYGOTE_UIDS);
        if range.is_none() && parent.is_some() {
            parent_zygote = inner.zygote_or_root(class, None).await?;
            range = parent_zygote.uids.take_range(LAMBDA_ZYGOTE_UIDS);
        }
        let range = range.ok_or_else(|| LaunchError::Resources("no range of uids is free".into()))?;
        let room = Room::Nest { n_forks_max: program.n_sandboxes_max };
        let newborn = inner.bear(&parent_zygote, class, program.uses(), room, Some(range), false).await?;
        let Newborn { mut channel, process, naming, sprout: Some((control, uids)), .. } = newborn else {
            return Err(LaunchError::Failed("the new zygote has no control socket".into()));
        };
        naming.assign(program.name.clone());
        inner.furnish(&process, program, None)?;
        let order = program.order(Kind::Zygote)?;
        let exchange = async {
            channel.send(Kind::Zygote, &order).await?;
            receive_ready(&mut channel).await
        };
        let ready = loaded(exchange, &process, program.load_patience).await?;
        if let Some(reason) = ready.unforkable {
            return Err(LaunchError::Unsupported(reason));
        }
        let grown = (process, uids, channel);
        inner.adopt_zygote(control, &parent_zygote, grown, 0, Arc::clone(&program.holds))
    }

    /// A zygote that has packages imported, from those of `parents` that has room for it, the first of them first, or
    /// from the root. `careful`: each package is tried in a child first, so that one that crashes spoils no other.
    ///
    /// # Errors
    /// As [`sprout`](Self::sprout).
    pub async fn plant(
        &self,
        class: Class,
        packages: &[String],
        parents: &[GrownZygote],
        careful: bool,
        holds: Arc<dyn Any + Send + Sync>,
    ) -> Result<Plantation, LaunchError> {
        let inner = &self.inner;
        let from_parent = parents.iter().find_map(|parent| {
            let len = *PACKAGE_ZYGOTE_UIDS.get(parent.0.depth)?;
            let range = parent.0.zygote.uids.take_range(len).filter(|_| parent.is_alive())?;
            Some((Arc::clone(&parent.0.zygote), range, parent.0.depth + 1))
        });
        let (parent, range, depth) = match from_parent {
            Some(found) => found,
            None => {
                let root = inner.zygote_or_root(class, None).await?;
                let range = root.uids.take_range(PACKAGE_ZYGOTE_UIDS[0]);
                (root, range.ok_or_else(|| LaunchError::Resources("no range of uids is free".into()))?, 1)
            }
        };
        let uses = (PACKAGE_ZYGOTE_LIMITS, inner.spec.tmp_mb);
        let newborn = inner.bear(&parent, class, uses, Room::Root, Some(range), false).await?;
        let Newborn { mut channel, process, sprout: Some((control, uids)), .. } = newborn else {
            return Err(LaunchError::Failed("the new zygote has no control socket".into()));
        };
        let order = serde_json::to_vec(&PlantOrder { protocol: PROTOCOL, packages, careful })
            .map_err(|error| LaunchError::Failed(error.to_string()))?;
        let exchange = async {
            channel.send(Kind::Zygote, &order).await?;
            receive_ready(&mut channel).await
        };
        let ready = match tokio::time::timeout(PLANT_PATIENCE, exchange).await {
            Ok(Ok(Answer::Ready(ready))) => ready,
            Ok(Ok(Answer::LoadFailed(text))) => return Err(LaunchError::Load(text)),
            Ok(Err(error)) => return Err(LaunchError::Load(process.obituary(&error).await)),
            Err(_) => {
                let text = format!("the packages were not imported within {} s", PLANT_PATIENCE.as_secs());
                return Err(LaunchError::Load(text));
            }
        };
        let Ready { unforkable, held, grown, failed, .. } = ready;
        if unforkable.is_some() {
            // What it says of the last package is why.
            let said: Vec<String> = failed.iter().map(|(path, why)| format!("{path}: {why}")).collect();
            return Err(LaunchError::Unsupported(said.join("; ")));
        }
        let zygote = inner.adopt_zygote(control, &parent, (process, uids, channel), depth, holds)?;
        Ok(Plantation { zygote, held, grown, failed })
    }

    /// A sandbox forked from a zygote that has its function loaded.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub async fn spawn(
        &self,
        zygote: &GrownZygote,
        class: Class,
        program: Program,
    ) -> Result<Sandbox, LaunchError> {
        let began = Instant::now();
        let newborn =
            self.inner.bear(&zygote.0.zygote, class, program.uses(), Room::BesideZygote, None, true).await?;
        let Newborn { channel, process, naming, shell, .. } = newborn;
        self.inner.furnish(&process, &program, None)?;
        let fork = began.elapsed().saturating_sub(shell);
        let origin =
            Origin { start: Start::Forked, install: Duration::ZERO, shell, fork, import: Duration::ZERO };
        // Nothing is imported, but what the function does when it starts may take as long.
        let holds = Arc::clone(&zygote.0.holds);
        let program = Program { holds, ..program };
        Loading { channel, process, naming, program, origin, kind: Kind::Renew }
            .load(None, Output::follow)
            .await
    }

    /// Gives a standby its function.
    ///
    /// # Errors
    /// [`LaunchError::Load`] with a text for the function's author when the code cannot be loaded.
    pub async fn install(
        &self,
        standby: Standby,
        program: Program,
        making: Making,
    ) -> Result<Sandbox, LaunchError> {
        self.adopt(standby, program, making)?.load(None, Output::follow).await
    }

    /// Puts a function's code and limits on a standby, which does not run yet. Does not wait.
    ///
    /// # Errors
    /// [`LaunchError::Resources`] when the limits cannot be set, else [`LaunchError::Failed`] with the step.
    pub fn adopt(&self, standby: Standby, program: Program, making: Making) -> Result<Loading, LaunchError> {
        let Standby { channel, mut process, naming, made } = standby;
        if let Some(group) = &mut process.remains_mut().cgroup {
            group
                .set_limits(with_init(program.limits))
                .map_err(|error| LaunchError::Resources(error.to_string()))?;
        }
        let tmp_mb = Some(program.tmp_mb).filter(|tmp_mb| *tmp_mb != self.inner.spec.tmp_mb);
        self.inner.furnish(&process, &program, tmp_mb)?;
        let (shell, fork) = match making.start {
            Start::Standby => (Duration::ZERO, Duration::ZERO),
            Start::Forked => made,
        };
        let origin =
            Origin { start: making.start, install: making.packages, shell, fork, import: Duration::ZERO };
        Ok(Loading { channel, process, naming, program, origin, kind: Kind::Load })
    }

    /// How many shells wait for an interpreter.
    #[must_use]
    pub fn n_spare_shells(&self) -> usize {
        self.inner.n_spare.get()
    }

    /// Waits until every sandbox that was dropped is gone, and every shell that waited. Blocks: for shutdown.
    pub fn flush(&self) {
        for place in [&self.inner.isolated, &self.inner.on_host] {
            if let Some(zygote) = place.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                zygote.shells.close();
            }
        }
        self.inner.reaper.flush();
        // The last one takes the rules along.
        drop(self.inner.outbound.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Loading {
    /// Has the code loaded, and gives with the order, if there is one, the first request: its head and its body, both
    /// so short that the socket takes them. Its answer follows. `told` is called as soon as the sandbox is at work; what
    /// it prints fills its pipe until `told` has it followed.
    ///
    /// # Errors
    /// [`LaunchError::Load`] with a text for the function's author when the code cannot be loaded.
    pub async fn load(
        self,
        request: Option<(&[u8], &[u8])>,
        told: impl FnOnce(Output),
    ) -> Result<Sandbox, LaunchError> {
        let Self { mut channel, process, naming, program, mut origin, kind } = self;
        let order = program.order(kind)?;
        let began = Instant::now();
        let exchange = async {
            match request {
                Some((head, body)) => channel.send_load(&order, head, body).await?,
                None => channel.send(kind, &order).await?,
            }
            // What it prints is kept until somebody reads it. Nobody waits for that, and it costs a wake-up.
            told(Output { naming, name: program.name.clone() });
            receive_ready(&mut channel).await
        };
        let ready = loaded(exchange, &process, program.load_patience).await?;
        origin.import = began.elapsed();
        Ok(Sandbox {
            channel,
            origin: Some(origin),
            process,
            wants_head: ready.head,
            is_asgi: ready.entry == "asgi",
            wants_end: ready.end,
            is_frozen: false,
            _holds: program.holds,
        })
    }
}

/// What came of an order to load.
async fn loaded(
    exchange: impl Future<Output = Result<Answer, ChannelError>>,
    process: &Process,
    patience: Duration,
) -> Result<Ready, LaunchError> {
    match tokio::time::timeout(patience, exchange).await {
        Ok(Ok(Answer::Ready(ready))) => Ok(ready),
        Ok(Ok(Answer::LoadFailed(text))) => Err(LaunchError::Load(text)),
        Ok(Err(error)) => {
            let cause = process.obituary(&error).await;
            Err(LaunchError::Load(format!("the sandbox died while the function was loaded: {cause}")))
        }
        Err(_) => Err(LaunchError::Load(format!(
            "the function was not loaded within {} s: what it does when it is imported takes too long",
            patience.as_secs()
        ))),
    }
}

impl Inner {
    /// A confined interpreter in a shell of its own, forked from this zygote: for a sandbox, or, with uids for a user
    /// namespace, for a zygote. In one of the zygote's spare shells if somebody waits.
    async fn bear(
        self: &Arc<Self>,
        zygote: &Arc<Zygote>,
        class: Class,
        uses: Uses,
        room: Room,
        range: Option<RangeLease>,
        is_waited_for: bool,
    ) -> Result<Newborn, LaunchError> {
        if is_waited_for && range.is_none() && class.network != Network::Outbound {
            let began = Instant::now();
            let spare = zygote.shells.take(uses);
            self.keep_shells(zygote, class, uses);
            if let Some(shell) = spare {
                let waited = began.elapsed();
                match self.bear_in(shell, zygote, waited).await {
                    Ok(newborn) => return Ok(newborn),
                    // It may have been ended a moment ago; a new one will tell.
                    Err(error) => debug!(self.log, "a spare shell was of no use"; "error" => %error),
                }
            }
        }
        let shell = self.shell(zygote, class, uses, room, range).await?;
        let took = shell.took;
        self.bear_in(shell, zygote, took).await
    }

    /// An interpreter in this shell, for which one has waited so long.
    async fn bear_in(
        &self,
        shell: Made,
        zygote: &Arc<Zygote>,
        waited: Duration,
    ) -> Result<Newborn, LaunchError> {
        let Made { mut process, namespaces, ways, door, uid, users, .. } = shell;
        let (channel, theirs) = Channel::pair().map_err(failed("make a socket pair"))?;
        let (reader, writer) = log_pipe().map_err(failed("make a pipe"))?;
        let (sprout, control) = match users {
            Some(users) => {
                let (ours, theirs) = control_pair().map_err(failed("make a socket pair"))?;
                (Some((ours, users)), Some(theirs))
            }
            None => (None, None),
        };
        let birth = Birth {
            id: process.id,
            uid,
            nofile: SANDBOX_FILES_MAX,
            namespaces: &namespaces,
            answers: theirs.answers.as_fd(),
            log: writer.as_fd(),
            requests: theirs.requests.as_fd(),
            control: control.as_ref().map(AsFd::as_fd),
            entrance: match &ways {
                Ways::Birth(group) => Entrance::Birthplace(group.as_fd()),
                Ways::Procs(_) if zygote.outer().is_some() => Entrance::Door(door.as_fd()),
                Ways::Procs(procs) => Entrance::Procs(procs),
            },
        };
        let began = Instant::now();
        process.exit = Some(zygote.fork(&birth).await.map_err(failed("fork an interpreter"))?);
        tally::FORK.add(began);
        // While we held its end of the answers the death of the sandbox would not close it.
        drop((theirs, writer, control));
        let naming = self.logs.follow(reader, process.id);
        Ok(Newborn { channel, process, naming, shell: waited, sprout })
    }

    /// A shell for a fork of this zygote.
    async fn shell(
        self: &Arc<Self>,
        zygote: &Arc<Zygote>,
        class: Class,
        uses: Uses,
        room: Room,
        range: Option<RangeLease>,
    ) -> Result<Made, LaunchError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let ids = range.as_ref().map(RangeLease::range);
        let users = ids.map(|ids| Uids::new(ids.len, uids::n_single(ids.len)));
        let uid = users.as_ref().unwrap_or(&zygote.uids).take();
        let uid = uid.ok_or_else(|| LaunchError::Resources("no uid is free".into()))?;
        let uid_number = uid.uid();
        // From here on, whatever has been made is taken down when this future ends early.
        let remains = Remains {
            id,
            init: None,
            cgroup: None,
            link: None,
            network: None,
            uid: Some(uid),
            users: range,
            retiring: None,
            zygote: Arc::downgrade(zygote),
        };
        let mut process = Process::new(remains, self.reaper.clone(), Arc::clone(zygote));
        let may_be_born_inside = zygote.outer().is_none() && users.is_none();
        let group = GroupOrder {
            name: format!("{}-{id}", if users.is_some() { "zygote" } else { "sandbox" }),
            nest: format!("lambda-{id}"),
            beside: zygote.nest(),
            limits: with_init(uses.0),
            room,
            may_be_born_inside,
        };
        let cgroups = self.cgroups.clone();
        let (group, ways) = tokio::task::spawn_blocking(move || group.make(&cgroups))
            .await
            .map_err(|error| LaunchError::Failed(error.to_string()))?
            .map_err(|error| LaunchError::Resources(error.to_string()))?;
        process.remains_mut().cgroup = Some(group);
        let began = Instant::now();
        let (inside, door) = UnixStream::pair().map_err(failed("make a socket pair"))?;
        let outer = zygote.outer().map(|init| Outer { init, door: inside.as_fd() });
        // Not one that is connected to the outside, nor that of a zygote, which may do in it what it likes.
        let is_plain = class.network == Network::None && ids.is_none();
        let spare = if is_plain { zygote.networks.take() } else { None };
        let network = spare.as_ref().map(AsFd::as_fd);
        let order = ShellOrder { id, tmp_mb: uses.1, ways: &ways, outer, users: ids, network };
        let Shell { init, namespaces } =
            zygote.family.make_shell(&order).await.map_err(failed("prepare a shell"))?;
        let took = began.elapsed();
        tally::SHELL.add(began);
        if is_plain {
            process.remains_mut().network = namespaces.network().map_err(failed("copy a descriptor"))?;
        }
        // Its end closes the door.
        drop(inside);
        if class.network == Network::Outbound {
            let for_link = init.try_clone().map_err(failed("copy a descriptor"))?;
            process.remains_mut().init = Some(init);
            process.remains_mut().link = Some(self.connect(for_link).await?);
        } else {
            process.remains_mut().init = Some(init);
        }
        Ok(Made { process, namespaces, ways, door, uid: uid_number, users, uses, took })
    }

    /// Has shells made for the forks of this zygote that will be waited for, for as long as such forks come.
    fn keep_shells(self: &Arc<Self>, zygote: &Arc<Zygote>, class: Class, uses: Uses) {
        if !zygote.shells.want_keeper() {
            return;
        }
        let (inner, asked) = (Arc::clone(self), zygote.shells.asked());
        let zygote = Arc::downgrade(zygote);
        tokio::spawn(async move {
            loop {
                // The fork that is waited for now comes first.
                tokio::time::sleep(KEEP_SHELLS_PAUSE).await;
                match zygote.upgrade() {
                    Some(zygote) if zygote.is_alive() => inner.stock_shells(&zygote, class, uses).await,
                    _ => return,
                }
                if tokio::time::timeout(SPARE_TIME, asked.notified()).await.is_err() {
                    return zygote.upgrade().map_or((), |zygote| zygote.shells.forsake());
                }
            }
        });
    }

    async fn stock_shells(self: &Arc<Self>, zygote: &Arc<Zygote>, class: Class, uses: Uses) {
        while zygote.shells.has_room(&self.n_spare) {
            match self.shell(zygote, class, uses, Room::BesideZygote, None).await {
                Ok(shell) => zygote.shells.put(shell, &self.n_spare),
                // Who waits for a fork makes one, and hears why not.
                Err(error) => return debug!(self.log, "no shell could be made ahead"; "error" => %error),
            }
        }
    }

    async fn connect(self: &Arc<Self>, init: OwnedFd) -> Result<network::Link, LaunchError> {
        let outbound = self.outbound().await?;
        tokio::task::spawn_blocking(move || outbound.attach(init.as_fd()))
            .await
            .map_err(|error| LaunchError::Failed(error.to_string()))?
            .map_err(|error| match error {
                NetworkError::NoAddress { .. } => {
                    LaunchError::Resources(format!("connect the sandbox's network: {error}"))
                }
                _ => LaunchError::Failed(format!("connect the sandbox's network: {error}")),
            })
    }

    /// The function's code, and a `/tmp` of its size if that is not what the shell has.
    fn furnish(&self, process: &Process, program: &Program, tmp_mb: Option<u32>) -> Result<(), LaunchError> {
        let init = process.init().ok_or_else(|| LaunchError::Failed("the standby has no init".into()))?;
        self.mounter.furnish(init, &program.directory, tmp_mb).map_err(failed("mount the function's code"))
    }

    /// A zygote to be told from now on what to fork.
    fn adopt_zygote(
        &self,
        control: OwnedFd,
        parent: &Arc<Zygote>,
        (home, uids, channel): (Process, Uids, Channel),
        depth: usize,
        holds: Arc<dyn Any + Send + Sync>,
    ) -> Result<GrownZygote, LaunchError> {
        let zygote = Zygote::adopt(control, Arc::clone(&parent.family), Some(home), uids, &self.log)
            .map_err(failed("listen to a zygote"))?;
        Ok(GrownZygote(Arc::new(Sprout { zygote: Arc::new(zygote), depth, holds, _channel: channel })))
    }

    async fn zygote_or_root(
        self: &Arc<Self>,
        class: Class,
        zygote: Option<&GrownZygote>,
    ) -> Result<Arc<Zygote>, LaunchError> {
        match zygote {
            Some(zygote) => Ok(Arc::clone(&zygote.0.zygote)),
            None => self.root_zygote(class.network != Network::Host).await,
        }
    }

    /// The zygote that runs no code but ours.
    async fn root_zygote(self: &Arc<Self>, own_network: bool) -> Result<Arc<Zygote>, LaunchError> {
        let place = if own_network { &self.isolated } else { &self.on_host };
        if let Ok(guard) = place.0.try_lock()
            && let Some(zygote) = guard.as_ref()
            && zygote.is_alive()
        {
            return Ok(Arc::clone(zygote));
        }
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || inner.root_zygote_blocking(own_network))
            .await
            .map_err(|error| LaunchError::Failed(error.to_string()))?
            .map_err(failed("start a zygote"))
    }

    fn root_zygote_blocking(&self, own_network: bool) -> io::Result<Arc<Zygote>> {
        let place = if own_network { &self.isolated } else { &self.on_host };
        let mut guard = place.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zygote) = guard.as_ref()
            && zygote.is_alive()
        {
            return Ok(Arc::clone(zygote));
        }
        if let Some(dead) = guard.take() {
            dead.shells.close();
        }
        let number = self.next_family.fetch_add(1, Ordering::Relaxed);
        let cgroup = self
            .cgroups
            .create(&format!("family-{number}"), FAMILY_LIMITS, None)
            .map_err(io::Error::other)?;
        let spec = ShimSpec {
            base: self.spec.base.clone(),
            mount_point: self.spec.scratch.clone(),
            own_network,
            uid_base: self.slot.uid_base(),
            dns: self.spec.dns.clone(),
            python: self.spec.python.clone(),
            packages: self.spec.packages.clone(),
            n_cgroups: 0,
        };
        let zygote = Family::start(&self.forker, &spec, &self.filters, cgroup, &self.reaper, &self.log)?;
        *guard = Some(Arc::clone(&zygote));
        Ok(zygote)
    }

    async fn outbound(self: &Arc<Self>) -> Result<Arc<Outbound>, LaunchError> {
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut outbound = inner.outbound.lock().unwrap_or_else(PoisonError::into_inner);
            match &*outbound {
                Some(outbound) => Ok(Arc::clone(outbound)),
                None => Ok(Arc::clone(outbound.insert(Arc::new(Outbound::start(
                    &inner.slot,
                    &inner.spec.dns,
                    &inner.log,
                )?)))),
            }
        })
        .await
        .map_err(|error| LaunchError::Failed(error.to_string()))?
        .map_err(|error: NetworkError| LaunchError::Unsupported(format!("network 'outbound': {error}")))
    }
}

impl Standby {
    /// Unique while the worker runs; the sandbox keeps it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.process.id
    }

    /// Whether it still waits.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.channel.is_open()
    }

    /// What is needed in any case, and then, if nobody waits, what a first request would have to do.
    async fn warm(&mut self, haste: &Haste) -> Result<(), ChannelError> {
        let Self { channel, process, .. } = self;
        channel.send_warm(true).await?;
        warmed(receive_ready(channel).await?)?;
        if haste.is_waited_for() {
            return Ok(());
        }
        // Not before: who is confining itself holds locks that all of the machine waits for.
        let aside = process.remains_mut().cgroup.as_ref().map(Aside::step);
        channel.send_warm(false).await?;
        let answer = {
            let mut answer = pin!(receive_ready(channel));
            tokio::select! {
                answer = &mut answer => answer?,
                () = haste.hurried() => {
                    drop(aside);
                    answer.await?
                }
                () = tokio::time::sleep(ASIDE_MAX) => {
                    drop(aside);
                    answer.await?
                }
            }
        };
        warmed(answer)
    }
}

fn warmed(answer: Answer) -> Result<(), ChannelError> {
    match answer {
        Answer::Ready(_) => Ok(()),
        Answer::LoadFailed(_) => {
            Err(crate::frame::BrokenFrame("it cannot load what it was not given").into())
        }
    }
}

/// A sandbox that lets others have the processors. Until this is dropped.
struct Aside<'a>(&'a Cgroup);

impl<'a> Aside<'a> {
    fn step(group: &'a Cgroup) -> Self {
        group.set_idle(true);
        Self(group)
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.0.set_idle(false);
    }
}

enum Answer {
    Ready(Ready),
    LoadFailed(String),
}

async fn receive_ready(channel: &mut Channel) -> Result<Answer, ChannelError> {
    let answer = channel.receive().await?;
    match answer.header.kind {
        Kind::Ready => {
            let ready: Ready = serde_json::from_slice(&answer.body)
                .map_err(|_| crate::frame::BrokenFrame("READY is not what it should be"))?;
            if ready.protocol != PROTOCOL {
                return Err(crate::frame::BrokenFrame("another version of the protocol").into());
            }
            Ok(Answer::Ready(ready))
        }
        Kind::LoadFailed => Ok(Answer::LoadFailed(String::from_utf8_lossy(&answer.body).into_owned())),
        _ => Err(crate::frame::BrokenFrame("an answer to nothing").into()),
    }
}

impl Sandbox {
    /// Unique while the worker runs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.process.id
    }

    /// Whether its interpreter lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.channel.is_open()
    }

    /// Whether the function wants to see method, path and headers.
    #[must_use]
    pub fn wants_head(&self) -> bool {
        self.wants_head
    }

    /// Whether the function is an ASGI app: it can be told that a client has gone, and speaks WebSocket.
    #[must_use]
    pub fn is_asgi(&self) -> bool {
        self.is_asgi
    }

    /// What runs in it is not known: when it is dropped, it ends at once.
    pub fn condemn(&mut self) {
        self.wants_end = false;
    }

    /// Stops its processes from running.
    pub fn freeze(&mut self) {
        self.channel.rest_idle();
        self.set_frozen(true);
    }

    /// Lets them run again.
    pub fn thaw(&mut self) {
        self.set_frozen(false);
    }

    fn set_frozen(&mut self, frozen: bool) {
        if self.is_frozen != frozen {
            self.is_frozen = frozen;
            if let Some(group) = &self.process.remains_mut().cgroup {
                let began = Instant::now();
                group.set_frozen(frozen);
                if frozen { &tally::PAUSE } else { &tally::UNPAUSE }.add(began);
            }
        }
    }

    /// Memory charged to it now, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.process.memory_bytes()
    }

    /// Has the kernel take back what it can of its memory, soon.
    pub fn reclaim(&self) {
        self.process.reclaim();
    }

    /// Why it is gone, for people, after its channel has failed.
    pub async fn obituary(&self, error: &ChannelError) -> String {
        self.process.obituary(error).await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.wants_end {
            // It is told by the end of its channel, which goes now.
            self.process.retire();
        }
    }
}

/// What a function may use, and its sandbox's init on top. The same for a standby as for what becomes of it: limits
/// that do not differ are not written again when a request waits.
fn with_init(limits: Limits) -> Limits {
    Limits { n_processes: limits.n_processes + 1, ..limits }
}

/// Reading must not block the log thread; writing blocks the function that floods it.
fn log_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader.into(), writer.into()))
}

fn random_hex() -> io::Result<String> {
    let mut bytes = [0u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
