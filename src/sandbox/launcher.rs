//! Makes standbys, and sandboxes from them: the stages of `docs/SANDBOX.md` in order.

mod birth;
mod grown;
mod installer;
mod loading;
mod orders;
mod roots;
mod sandbox;
mod standby;

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actors::haste::Haste;
use actors::name::FunctionName;
use actors::world::{Class, LaunchError, Making, Start, Weight};
use slog::{Logger, debug, o};

use super::cgroup::{CgroupRoot, Limits};
use super::channel::Channel;
use super::family::Filters;
use super::forker::Forker;
use super::last_resort::{self, LastResort};
use super::logs::Logs;
use super::mounter::Mounter;
use super::network::{self, Outbound};
use super::process::Process;
use super::reaper::Reaper;
use super::seccomp;
use super::shells::{Count, Uses};
use super::uids::{LAMBDA_ZYGOTE_UIDS, PACKAGE_ZYGOTE_UIDS, Slot, Uids};
use super::watchdog::Watchdog;
use super::wire::BaseSpec;
use super::zygote::{Home, Zygote};
use crate::frame::{Kind, PROTOCOL};
use birth::{Newborn, Room, Wanted, with_init};
use grown::Sprout;
use loading::loaded;
use orders::{Answer, PlantOrder, Ready, receive_ready};
use roots::RootPlace;

pub use grown::{GrownZygote, Plantation};
pub use installer::{InstallerOrder, InstallerSandbox, WORK};
pub use loading::{Loading, Origin, Output};
pub use sandbox::Sandbox;
pub use standby::Standby;

/// How long a fresh interpreter may take until it answers; ordinary are 3 ms.
const WARM_PATIENCE: Duration = Duration::from_secs(10);
/// How long the packages of a zygote may take to be imported, all together.
const PLANT_PATIENCE: Duration = Duration::from_secs(60);
/// How many characters of what a package says of itself come into the worker's log: an exception and what belongs to it.
const PACKAGE_WORDS_MAX: usize = 500;
/// What a zygote of packages may use: the largest packages take some hundred MB; some ask other programs about the machine.
const PACKAGE_ZYGOTE_LIMITS: Limits =
    Limits { memory_bytes: 1 << 30, swap_bytes: 0, cpu_percent: 100, n_processes: 64 };

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
    watchdog: Watchdog,
    last_resort: LastResort,
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

impl Program {
    /// What its shell is made for.
    fn uses(&self) -> Uses {
        (self.limits, self.tmp_mb)
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> LaunchError {
    // Where there is text, the kernel's number is gone, and the kind is left.
    move |error| match (error.raw_os_error(), error.kind()) {
        // Of a fork (fork(2)): the group of all sandboxes, or the machine.
        (Some(libc::EAGAIN), _) | (_, io::ErrorKind::WouldBlock) => LaunchError::Resources(format!(
            "{what}: {error}: there are as many processes as this worker's sandboxes, or the machine, may have"
        )),
        (Some(libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::ENFILE), _)
        | (_, io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull | io::ErrorKind::ResourceBusy) => {
            LaunchError::Resources(format!("{what}: {error}"))
        }
        _ => LaunchError::Failed(format!("{what}: {error}")),
    }
}

/// Whether what the imports have made in there can be forked, as the kernel tells it. It is asked when they are over, and before
/// the first fork.
async fn look_at(process: &Process) -> Result<(), LaunchError> {
    let suspect = process.suspect().map_err(failed("look at a zygote"))?;
    let found = tokio::task::spawn_blocking(move || suspect.unforkable())
        .await
        .map_err(|error| LaunchError::Failed(error.to_string()))?;
    match found.map_err(failed("look at a zygote"))? {
        Some(reason) => Err(LaunchError::Unsupported(reason)),
        None => Ok(()),
    }
}

/// What a package says of itself, for the worker's log.
fn shortened(text: &str) -> String {
    text.chars().take(PACKAGE_WORDS_MAX).collect()
}

impl Launcher {
    /// Takes a slot, makes the worker's cgroups, and starts the zygote of isolated sandboxes. `of_cgroups` hears of each cgroup at level debug. Blocks.
    ///
    /// # Errors
    /// When the machine lacks something; the text says what.
    pub fn start(spec: LauncherSpec, logs: Logs, log: &Logger, of_cgroups: &Logger) -> io::Result<Self> {
        let log = log.new(o!("part" => "sandbox"));
        let slot = Slot::take(spec.uid_base)?;
        // Who wants the network is told when it is started; others need not have a packet filter at all.
        if let Err(error) = network::sweep(&slot) {
            debug!(log, "could not look for remains of the outbound network"; "error" => error.to_string());
        }
        let of_cgroups = of_cgroups.new(o!("part" => "cgroups"));
        let cgroups = CgroupRoot::open(&spec.cgroup_name, Some(slot.uid_base()), of_cgroups)
            .map_err(io::Error::other)?;
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
                watchdog: Watchdog::start()?,
                last_resort: LastResort::default(),
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

    /// What each sandbox takes and may take.
    #[must_use]
    pub fn weights(&self) -> Vec<Weight> {
        last_resort::weights(&self.inner.cgroups)
    }

    /// Ends all processes of this sandbox, because the machine is out of memory; its caller is told that.
    pub fn end_for_memory(&self, id: u64) {
        self.inner.last_resort.end(&self.inner.cgroups, id);
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
        let is_waited_for = haste.is_waited_for();
        let wanted = Wanted { class, uses, room: Room::Root, range: None, is_waited_for };
        let Newborn { channel, process, naming, shell, .. } = self.inner.bear(&zygote, wanted).await?;
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
        let wanted = Wanted { class, uses: program.uses(), room, range: Some(range), is_waited_for: false };
        let newborn = inner.bear(&parent_zygote, wanted).await?;
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
        look_at(&process).await?;
        let grown = (process, uids, channel);
        inner.adopt_zygote(control, &parent_zygote, grown, 0, Arc::clone(&program.holds))
    }

    /// A zygote that has packages imported, from those of `parents` that has room for it, the first of them first, or
    /// from the root. All of them, or there is none.
    ///
    /// # Errors
    /// As [`sprout`](Self::sprout).
    pub async fn plant(
        &self,
        class: Class,
        packages: &[String],
        parents: &[GrownZygote],
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
        let wanted = Wanted { class, uses, room: Room::Root, range: Some(range), is_waited_for: false };
        let newborn = inner.bear(&parent, wanted).await?;
        let Newborn { mut channel, process, sprout: Some((control, uids)), .. } = newborn else {
            return Err(LaunchError::Failed("the new zygote has no control socket".into()));
        };
        let order = serde_json::to_vec(&PlantOrder { protocol: PROTOCOL, packages })
            .map_err(|error| LaunchError::Failed(error.to_string()))?;
        let began = Instant::now();
        let exchange = async {
            channel.send(Kind::Zygote, &order).await?;
            receive_ready(&mut channel).await
        };
        let ready = match tokio::time::timeout(PLANT_PATIENCE, exchange).await {
            Ok(Ok(Answer::Ready(ready))) => ready,
            Ok(Ok(Answer::LoadFailed(text))) => return Err(LaunchError::Load(shortened(&text))),
            Ok(Err(error)) => return Err(LaunchError::Load(process.obituary(&error).await)),
            Err(_) => {
                let text = format!("the packages were not imported within {} s", PLANT_PATIENCE.as_secs());
                return Err(LaunchError::Load(text));
            }
        };
        let took = began.elapsed();
        let Ready { unforkable, held, grown, .. } = ready;
        if let Some(reason) = unforkable {
            return Err(LaunchError::Unsupported(shortened(&reason)));
        }
        look_at(&process).await?;
        let zygote = inner.adopt_zygote(control, &parent, (process, uids, channel), depth, holds)?;
        Ok(Plantation { zygote, held, grown, took })
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
        let (uses, room) = (program.uses(), Room::BesideZygote);
        let wanted = Wanted { class, uses, room, range: None, is_waited_for: true };
        let newborn = self.inner.bear(&zygote.0.zygote, wanted).await?;
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

impl Inner {
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
        let family = Arc::clone(&parent.family);
        let zygote =
            Zygote::adopt(control, family, Home::Shell(Box::new(home)), uids, &self.watchdog, &self.log)
                .map_err(failed("listen to a zygote"))?;
        Ok(GrownZygote(Arc::new(Sprout { zygote, depth, holds, _channel: channel })))
    }
}
