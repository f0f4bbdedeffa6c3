//! Makes standbys, and sandboxes from them: the stages of `docs/SANDBOX.md` in order.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actors::name::FunctionName;
use actors::world::{Class, LaunchError, Making, Network, Start};
use serde::Serialize;
use slog::{Logger, debug, o};

use super::cgroup::{CgroupRoot, Limits};
use super::channel::{Channel, ChannelError};
use super::family::{Birth, Exit, Family};
use super::forker::Forker;
use super::logs::{Logs, Naming};
use super::mounter::{HANDLER, Mounter};
use super::network::{self, NetworkError, Outbound};
use super::reaper::{Reaper, Remains};
use super::seccomp;
use super::uids::{Slot, Uids};
use super::wire::{BaseSpec, ShimSpec};
use crate::frame::{Kind, PROTOCOL};

/// How long a fresh interpreter may take until it answers; ordinary are 3 ms.
const WARM_PATIENCE: Duration = Duration::from_secs(10);
/// How long the death of an interpreter and the report of it lie apart at most: the report goes through the zygote.
const EXIT_PATIENCE: Duration = Duration::from_millis(200);
/// Open files of one sandbox: the customary soft limit, which programs with `select` rely on.
const SANDBOX_FILES_MAX: u32 = 1024;
/// What the shims and zygotes of a worker may use: one interpreter with the standard library is 25 MB.
const FAMILY_LIMITS: Limits =
    Limits { memory_bytes: 1 << 30, swap_bytes: 1 << 30, cpu_percent: 1000, n_processes: 70_000 };

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
    pub packages: Option<PathBuf>,
    /// Limits of a sandbox before its function is known.
    pub limits: Limits,
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
    /// What it may use. Processes are the function's own; the sandbox's init comes on top.
    pub limits: Limits,
    /// How long loading it may take.
    pub load_patience: Duration,
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
    uids: Uids,
    forker: Forker,
    mounter: Mounter,
    reaper: Reaper,
    logs: Logs,
    filter: Vec<seccomp::Instruction>,
    next_id: AtomicU64,
    next_family: AtomicU64,
    isolated: FamilyPlace,
    on_host: FamilyPlace,
    outbound: Mutex<Option<Arc<Outbound>>>,
    log: Logger,
}

/// Where a family is, once it was asked for. The lock is held while one is started, so that many who miss it
/// start one; it is only ever taken where blocking is allowed.
#[derive(Debug, Default)]
struct FamilyPlace(Arc<Mutex<Option<Arc<Family>>>>);

/// A confined interpreter that waits for a function.
#[derive(Debug)]
pub struct Standby {
    channel: Channel,
    process: Process,
    naming: Naming,
    /// How long its shell and its fork took.
    made: (Duration, Duration),
}

/// A standby that can be told to load its function's code.
#[derive(Debug)]
pub struct Loading {
    channel: Channel,
    process: Process,
    naming: Naming,
    program: Program,
    origin: Origin,
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
    is_frozen: bool,
}

/// The part that has to be taken down.
#[derive(Debug)]
struct Process {
    id: u64,
    exit: Option<Arc<Exit>>,
    remains: Option<Remains>,
    reaper: Reaper,
    /// A family whose zygote has ended is replaced, but its shim holds up the sandboxes that there are.
    _family: Arc<Family>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(remains) = self.remains.take() {
            self.reaper.bury(remains);
        }
    }
}

/// `LOAD`, as the protocol has it.
#[derive(Serialize)]
struct Load<'a> {
    protocol: u32,
    name: &'a str,
    directory: &'a str,
    entry: &'a str,
    environment: &'a BTreeMap<String, String>,
    packages: &'a [String],
    random: String,
}

/// `READY`, as far as the worker cares.
#[derive(serde::Deserialize)]
struct Ready {
    protocol: u32,
    head: bool,
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
        let cgroups = CgroupRoot::open(&spec.cgroup_name).map_err(io::Error::other)?;
        fs::create_dir_all(&spec.scratch)?;
        let filter = if spec.seccomp { seccomp::compile() } else { seccomp::allow_all() };
        let launcher = Self {
            inner: Arc::new(Inner {
                slot,
                cgroups,
                uids: Uids::new(),
                forker: Forker::start()?,
                mounter: Mounter::new()?,
                reaper: Reaper::start(log.clone())?,
                logs,
                filter,
                next_id: AtomicU64::new(1),
                next_family: AtomicU64::new(1),
                isolated: FamilyPlace::default(),
                on_host: FamilyPlace::default(),
                outbound: Mutex::new(None),
                spec,
                log,
            }),
        };
        launcher.inner.family_blocking(true)?;
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

    /// A confined interpreter of this class.
    ///
    /// # Errors
    /// [`LaunchError::Resources`] when the machine is out of something, else [`LaunchError::Failed`] with the step.
    pub async fn prepare(&self, class: Class) -> Result<Standby, LaunchError> {
        let inner = &self.inner;
        let family = inner.family(class.network != Network::Host).await?;
        let id = inner.next_id.fetch_add(1, Ordering::Relaxed);
        let uid = inner.uids.take().ok_or_else(|| LaunchError::Resources("no uid is free".into()))?;
        let uid_number = uid.uid();
        // From here on, whatever has been made is taken down when this future ends early.
        let mut process = Process {
            id,
            exit: None,
            remains: Some(Remains { id, init: None, cgroup: None, link: None, uid: Some(uid) }),
            reaper: inner.reaper.clone(),
            _family: Arc::clone(&family),
        };
        let cgroups = inner.cgroups.clone();
        let limits = with_init(inner.spec.limits);
        let group = tokio::task::spawn_blocking(move || {
            let group = cgroups.create(&format!("sandbox-{id}"), limits)?;
            let procs = group.procs()?;
            Ok::<_, super::cgroup::CgroupError>((group, procs))
        });
        let (group, procs) = group
            .await
            .map_err(|error| LaunchError::Failed(error.to_string()))?
            .map_err(|error| LaunchError::Resources(error.to_string()))?;
        process.remains_mut().cgroup = Some(group);
        let began = Instant::now();
        let init = family.make_shell(id, class.tmp_mb, &procs).await.map_err(failed("prepare a shell"))?;
        process.remains_mut().init = Some(init.try_clone().map_err(failed("copy a descriptor"))?);
        let shell = began.elapsed();
        if class.network == Network::Outbound {
            let outbound = inner.outbound().await?;
            let for_link = init.try_clone().map_err(failed("copy a descriptor"))?;
            let link = tokio::task::spawn_blocking(move || outbound.attach(for_link.as_fd()))
                .await
                .map_err(|error| LaunchError::Failed(error.to_string()))?
                .map_err(|error| match error {
                    NetworkError::NoAddress { .. } => {
                        LaunchError::Resources(format!("connect the sandbox's network: {error}"))
                    }
                    _ => LaunchError::Failed(format!("connect the sandbox's network: {error}")),
                })?;
            process.remains_mut().link = Some(link);
        }
        let began = Instant::now();
        let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
        ours.set_nonblocking(true).map_err(failed("make a socket pair"))?;
        let (reader, writer) = log_pipe().map_err(failed("make a pipe"))?;
        let birth = Birth {
            id,
            uid: uid_number,
            init: init.as_fd(),
            data: theirs.as_fd(),
            log: writer.as_fd(),
            procs: &procs,
        };
        process.exit = Some(family.fork(&birth).await.map_err(failed("fork an interpreter"))?);
        // While we hold these the death of the sandbox would not close them.
        drop((theirs, writer));
        let naming = inner.logs.follow(reader, id);
        let mut standby =
            Standby { channel: Channel::new(ours), process, naming, made: (shell, Duration::ZERO) };
        match tokio::time::timeout(WARM_PATIENCE, standby.warm()).await {
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
        self.adopt(standby, program, making)?.load(None, || {}).await
    }

    /// Puts a function's code and limits on a standby, which does not run yet. Does not wait.
    ///
    /// # Errors
    /// [`LaunchError::Resources`] when the limits cannot be set, else [`LaunchError::Failed`] with the step.
    pub fn adopt(&self, standby: Standby, program: Program, making: Making) -> Result<Loading, LaunchError> {
        let Standby { channel, mut process, naming, made } = standby;
        let remains = process.remains_mut();
        if let Some(group) = &mut remains.cgroup {
            group
                .set_limits(with_init(program.limits))
                .map_err(|error| LaunchError::Resources(error.to_string()))?;
        }
        let Some(init) = &remains.init else {
            return Err(LaunchError::Failed("the standby has no init".into()));
        };
        self.inner
            .mounter
            .attach_code(init, &program.directory)
            .map_err(failed("mount the function's code"))?;
        let (shell, fork) = match making.start {
            Start::Standby => (Duration::ZERO, Duration::ZERO),
            Start::Forked => made,
        };
        let origin =
            Origin { start: making.start, install: making.packages, shell, fork, import: Duration::ZERO };
        Ok(Loading { channel, process, naming, program, origin })
    }

    /// Waits until every sandbox that was dropped is gone. Blocks: for shutdown.
    pub fn flush(&self) {
        self.inner.reaper.flush();
        // The last one takes the rules along.
        drop(self.inner.outbound.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Loading {
    /// Has the code loaded, and gives with the order, if there is one, the first request: its head and its body, both
    /// so short that the socket takes them. Its answer follows. `told` is called as soon as the sandbox is at work.
    ///
    /// # Errors
    /// [`LaunchError::Load`] with a text for the function's author when the code cannot be loaded.
    pub async fn load(
        self,
        request: Option<(&[u8], &[u8])>,
        told: impl FnOnce(),
    ) -> Result<Sandbox, LaunchError> {
        let Self { mut channel, process, naming, program, mut origin } = self;
        let load = Load {
            protocol: PROTOCOL,
            name: program.name.as_str(),
            directory: HANDLER,
            entry: &program.entry,
            environment: &program.environment,
            packages: &[],
            random: random_hex().map_err(failed("read random bytes"))?,
        };
        let load = serde_json::to_vec(&load).map_err(|error| LaunchError::Failed(error.to_string()))?;
        let began = Instant::now();
        let exchange = async {
            match request {
                Some((head, body)) => channel.send_load(&load, head, body).await?,
                None => channel.send(Kind::Load, &load).await?,
            }
            // What it prints is kept until somebody reads it. Nobody waits for that, and it costs a wake-up.
            naming.assign(program.name.clone());
            told();
            receive_ready(&mut channel).await
        };
        match tokio::time::timeout(program.load_patience, exchange).await {
            Ok(Ok(Answer::Ready(ready))) => {
                origin.import = began.elapsed();
                Ok(Sandbox {
                    channel,
                    origin: Some(origin),
                    process,
                    wants_head: ready.head,
                    is_frozen: false,
                })
            }
            Ok(Ok(Answer::LoadFailed(text))) => Err(LaunchError::Load(text)),
            Ok(Err(error)) => {
                let cause = process.obituary(&error).await;
                Err(LaunchError::Load(format!("the sandbox died while the function was loaded: {cause}")))
            }
            Err(_) => Err(LaunchError::Load(format!(
                "the function was not loaded within {} s: what it does when it is imported takes too long",
                program.load_patience.as_secs()
            ))),
        }
    }
}

impl Inner {
    async fn family(self: &Arc<Self>, own_network: bool) -> Result<Arc<Family>, LaunchError> {
        let place = if own_network { &self.isolated } else { &self.on_host };
        if let Ok(guard) = place.0.try_lock()
            && let Some(family) = guard.as_ref()
            && family.is_alive()
        {
            return Ok(Arc::clone(family));
        }
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || inner.family_blocking(own_network))
            .await
            .map_err(|error| LaunchError::Failed(error.to_string()))?
            .map_err(failed("start a zygote"))
    }

    fn family_blocking(&self, own_network: bool) -> io::Result<Arc<Family>> {
        let place = if own_network { &self.isolated } else { &self.on_host };
        let mut guard = place.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(family) = guard.as_ref()
            && family.is_alive()
        {
            return Ok(Arc::clone(family));
        }
        let number = self.next_family.fetch_add(1, Ordering::Relaxed);
        let cgroup =
            self.cgroups.create(&format!("zygote-{number}"), FAMILY_LIMITS).map_err(io::Error::other)?;
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
        let family = Family::start(
            &self.forker,
            &spec,
            SANDBOX_FILES_MAX,
            &self.filter,
            cgroup,
            &self.reaper,
            &self.log,
        )?;
        let family = Arc::new(family);
        *guard = Some(Arc::clone(&family));
        Ok(family)
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

impl Process {
    fn remains_mut(&mut self) -> &mut Remains {
        self.remains.as_mut().expect("only the destructor takes them")
    }

    /// Why the sandbox is gone, for people.
    async fn obituary(&self, error: &ChannelError) -> String {
        if !matches!(error, ChannelError::Closed) {
            return error.to_string();
        }
        let status = match &self.exit {
            Some(exit) => exit.wait(EXIT_PATIENCE).await,
            None => None,
        };
        let group = self.remains.as_ref().and_then(|remains| remains.cgroup.as_ref());
        if let Some(group) = group
            && group.n_oom_kills() > 0
        {
            return format!(
                "out of memory: it used more than its limit of {} MB",
                group.limits().memory_bytes >> 20
            );
        }
        match status {
            Some(status) => format!("its interpreter ended: {}", super::family::describe_status(status)),
            None => "its interpreter has ended".into(),
        }
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

    async fn warm(&mut self) -> Result<(), ChannelError> {
        self.channel.send(Kind::Warm, &[]).await?;
        match receive_ready(&mut self.channel).await? {
            Answer::Ready(_) => Ok(()),
            Answer::LoadFailed(_) => {
                Err(crate::frame::BrokenFrame("it cannot load what it was not given").into())
            }
        }
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

    /// Stops its processes from running.
    pub fn freeze(&mut self) {
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
                group.set_frozen(frozen);
            }
        }
    }

    /// Memory charged to it now, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let group = self.process.remains.as_ref().and_then(|remains| remains.cgroup.as_ref());
        group.map_or(0, super::cgroup::Cgroup::memory_bytes)
    }

    /// Why it is gone, for people, after its channel has failed.
    pub async fn obituary(&self, error: &ChannelError) -> String {
        self.process.obituary(error).await
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
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}
