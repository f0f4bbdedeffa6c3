//! The worker: puts the parts together, waits, and takes them apart in order.

mod succession;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::App as ActixApp;
use actix_web::dev::Server;
use actix_web::dev::Service as _;
use actix_web::http::ConnectionType;
use actix_web::web::Data;
use actors::freshness::Use;
use actors::name::FunctionName;
use actors::packages::PROVIDE_TIME_MAX;
use actors::router::LOOKUP_TIME_MAX;
use actors::supervisor::{self, Parts, Shutdown, Tree, Yield};
use actors::tree::Plan;
use actors::watcher::{Reach, Rescan, Touched};
use actors::world::{Class, Code};
use actors::zygotes::ZygotesConfig;
use actors::zygotes::keeping::{KEEP_TIME_MAX, Keep};
use slog::{Logger, error, info, warn};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use crate::http::INSTALL_PATIENCE;
pub use crate::registry::function_yaml::RUNTIME_MAX;

use crate::address::Address;
use crate::config::Config;
use crate::dep_trace::DepTrace;
use crate::http::by_hand::ByHand;
use crate::http::{self, App, Hosts};
use crate::image::{self, Base};
use crate::kafka::{KafkaFeeds, KafkaSettings};
use crate::logging::{self, Log, Sink};
use crate::packages::installer::{self, Installer, InstallerSpec};
use crate::packages::{PackagesDir, Sources, tree_file};
use crate::profile::{CpuProfiler, HeapProfiler};
use crate::registry::watch::WatchEvent;
use crate::registry::{GENERATIONS, LISTED_WITHIN, Registry, RegistryWatch, STORED_WITHIN};
use crate::sandbox;
use crate::sandbox::cleanup;
use crate::sandbox::launcher::{Launcher, LauncherSpec};
use crate::sandbox::logs::Logs;
use crate::sandbox::wire::BaseSpec;
use crate::stats::Stats;
use crate::takeover::{self, Door, Estate, Offer, Predecessor};
use crate::triggers::Desk;
use crate::world::{
    OlCaller, OlClock, OlDiary, OlGauge, OlImportStats, OlLauncher, OlWorld, REWRITTEN, sandbox_limits,
};
use succession::{Ending, Fading, Guests, Reign};

/// Connections that may wait to be accepted, and that one thread serves at once; beyond it clients wait in the
/// kernel. A connection costs some 10 KB.
const CONNECTIONS_PER_THREAD: usize = 10_000;
/// The longest that the worker takes to say what is in its registry, or why it cannot tell. What it says about one function is there
/// sooner.
pub const REGISTRY_TIME_MAX: Duration = LISTED_WITHIN;
/// The longest that an upload takes once it is here: its packages are installed, and the store takes it.
pub const UPLOAD_TIME_MAX: Duration = PROVIDE_TIME_MAX.saturating_add(STORED_WITHIN);
const _: () = assert!(REGISTRY_TIME_MAX.as_millis() > LOOKUP_TIME_MAX.as_millis());

/// How long readers of Kafka may take for their last commits; a broker that is away takes longer.
const COMMIT_PATIENCE: Duration = Duration::from_secs(3);

/// Standbys that wait at most, of any one class: at 2.5 MB each, 160 MB after a burst that uses up as many.
const STANDBYS_MAX: usize = 64;
/// What a sandbox of which nothing is known takes: a fork with its pages touched, measured.
const SANDBOX_BYTES: u64 = 3 << 20;

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else listens there, or nobody may.
    #[error("cannot listen on {address}: {source}{}", if source.kind() == io::ErrorKind::AddrInUse { "; choose another port with -o worker_port=N" } else { "" })]
    Listen {
        /// Host and port, or path.
        address: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// No base.
    #[error(transparent)]
    Image(#[from] image::ImageError),
    /// No registry.
    #[error(transparent)]
    Registry(#[from] crate::registry::OpenError),
    /// The sandboxes cannot be had on this machine.
    #[error("cannot start the sandboxes: {0}")]
    Sandbox(io::Error),
    /// What an earlier worker left cannot be removed.
    #[error(transparent)]
    Cleanup(#[from] sandbox::cgroup::CgroupError),
    /// A file of the worker's directory.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// What `import_cache_tree` says.
    #[error("import_cache_tree: {0}")]
    ImportCacheTree(String),
    /// What somebody imported, and somebody has changed.
    #[error("the tree of zygotes: {0}; remove the file to let it fit itself")]
    KeptTree(String),
    /// Where a successor would come in.
    #[error("cannot prepare to hand over to another worker: {0}")]
    Door(io::Error),
    /// The event loop or one of its threads.
    #[error("cannot start the worker's threads: {0}")]
    Threads(io::Error),
}

impl ServeError {
    /// Which field of the configuration it is about, and what is wrong with that; nothing if it is about something else.
    #[must_use]
    pub fn setting(&self) -> Option<(&'static str, String)> {
        match self {
            Self::ImportCacheTree(problem) => Some(("import_cache_tree", problem.clone())),
            Self::Image(error) => error.setting(),
            Self::Registry(error) => error.setting(),
            _ => None,
        }
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServeError {
    let path = path.to_owned();
    move |source| ServeError::File { what, path, source }
}

/// What a worker needs of whoever runs it.
pub struct Standing {
    /// The right to run in the worker's directory: it is held as long as any copy of this is open.
    pub lock: OwnedFd,
    /// Whose place it takes, and what it got from there.
    pub before: Option<(Predecessor, Estate)>,
    /// Where its log goes, and all that it writes besides. `None`: to its standard error.
    pub log_file: Option<PathBuf>,
    /// Writes down that this process is the worker of the directory.
    pub stand: Box<dyn Fn() -> io::Result<()>>,
}

/// Runs the worker until SIGTERM or SIGINT, or until another has taken its place; a second one ends it without waiting for running invocations.
///
/// The caller holds the lock of the worker's directory.
///
/// # Errors
/// When a part cannot be started; what was started before is taken down.
pub fn run(ol_dir: &Path, config: Config, standing: Standing) -> Result<(), ServeError> {
    let sink = match standing.log_file.clone() {
        Some(path) => Sink::File(path, config.log_bytes_max),
        None => Sink::StandardError,
    };
    let (logs, _guard) = logging::start(sink);
    let log = logs.part(config.trace.latency);
    raise_file_limit(&log);
    if let Err(error) = sandbox::oom::spare_this_process() {
        info!(log, "the worker may not ask the kernel to be spared when memory runs out; sandboxes still go first";
            "error" => %error);
    }
    // First, so that a taken port is known before anything else exists.
    let address = (config.host.as_str(), config.port);
    let bind = || {
        let address_text = format!("{}:{}", config.host, config.port);
        TcpListener::bind(address).map_err(|source| ServeError::Listen { address: address_text, source })
    };
    let handed = standing.before.as_ref().filter(|(predecessor, _)| {
        let Offer { host, port, .. } = &predecessor.offer;
        *host == config.host && (*port == config.port || config.port == 0)
    });
    let listener = match handed {
        Some((_, estate)) => estate.public.try_clone().map_err(ServeError::Door)?,
        None => bind()?,
    };
    // Who called says what went wrong.
    actix::System::new().block_on(serve(ol_dir, config, listener, standing, logs))
}

async fn serve(
    ol_dir: &Path,
    mut config: Config,
    listener: TcpListener,
    standing: Standing,
    of_parts: Log,
) -> Result<(), ServeError> {
    let trace = config.trace;
    let in_detail = |is_traced| of_parts.part(is_traced || trace.latency);
    let log = in_detail(false);
    // Of what comes from here on it is known who has it.
    let heap = HeapProfiler::start();
    let Standing { lock, before, log_file: _, stand } = standing;
    let worker_dir = config.worker_dir.clone();
    fs::create_dir_all(&worker_dir).map_err(file("make", &worker_dir))?;
    let configured_root = config.cgroup_root.clone();
    let generations = match &before {
        Some((Predecessor { offer, .. }, _)) => {
            info!(log, "takes the place of another worker"; "pid" => offer.pid);
            config.cgroup_root = takeover::other_name(&config.cgroup_root, &offer.cgroup_root);
            takeover::other_name(GENERATIONS, &offer.generations)
        }
        None => {
            // A takeover that was killed may have left these.
            for name in takeover::names(GENERATIONS) {
                let _ = fs::remove_dir_all(worker_dir.join(name));
            }
            remove_half_written(&worker_dir);
            GENERATIONS.to_owned()
        }
    };
    // With a predecessor there is none of this name. Without, either may be left.
    let n_left = match &before {
        Some(_) => cleanup::sweep(&config.cgroup_root)?,
        None => takeover::names(&config.cgroup_root)
            .iter()
            .try_fold(0, |n_left, name| Ok::<_, ServeError>(n_left + cleanup::sweep(name)?))?,
    };
    if n_left > 0 {
        info!(log, "removed what an earlier worker had left"; "n_cgroups" => n_left);
    }
    let kept = worker_dir.join(tree_file::KEPT);
    let plan = plan(&config, &kept)?;
    let is_free = config.features.import_cache && config.import_cache_tree.is_none();
    let stats: &'static Stats = Box::leak(Box::default());
    let descriptor = match image::Descriptor::load(ol_dir, config.python.as_deref())? {
        Some(descriptor) => descriptor,
        None => image::prepare(ol_dir, None, config.python.as_deref())?,
    };
    let beside = before.is_some().then(std::process::id);
    let registry = Registry::open_in(&config, &generations, before.is_some(), log.clone())?;
    let logs_dir = worker_dir.join("logs");
    let repeat_in = config.log_output.then(|| log.clone());
    let logs = Logs::start(logs_dir.clone(), config.log_bytes_max, repeat_in, log.clone())
        .map_err(file("make", &logs_dir))?;
    let spec = launcher_spec(&config, &descriptor, &worker_dir);
    // Sandboxes see it from the start.
    fs::create_dir_all(&config.packages_dir).map_err(file("make", &config.packages_dir))?;
    let launcher = {
        let (log, of_cgroups) = (log.clone(), in_detail(trace.cgroups));
        actix_web::web::block(move || Launcher::start(spec, logs, &log, &of_cgroups))
            .await
            .map_err(|error| ServeError::Sandbox(io::Error::other(error)))?
            .map_err(ServeError::Sandbox)?
    };
    let packages = {
        let (spec, launcher, log) =
            (installer_spec(&config, &descriptor, &worker_dir), launcher.clone(), log.clone());
        let (path, minor, bytes_max) =
            (config.packages_dir.clone(), descriptor.python.minor, config.packages_bytes_max);
        let opened = move || {
            match installer::describe(&spec) {
                Ok(tool) => info!(log, "packages are installed on demand"; "by" => tool),
                Err(why) => {
                    warn!(log, "packages cannot be installed, only those that are there can be used"; "why" => why);
                }
            }
            let sources = spec.sources.clone();
            let installer = Installer::find(spec, launcher, log.clone());
            PackagesDir::open(&path, minor, sources, installer, bytes_max)
        };
        let opened = actix_web::web::block(opened)
            .await
            .map_err(|error| ServeError::Sandbox(io::Error::other(error)))?;
        opened.map_err(file("make", &config.packages_dir))?
    };
    let dep_trace = trace.package.then(|| {
        let path = worker_dir.join("dep-trace.json");
        DepTrace::start(path, config.log_bytes_max, packages.clone(), log.clone())
            .map_err(ServeError::Threads)
    });
    let dep_trace = dep_trace.transpose()?;
    let gauge = OlGauge::new(launcher.clone(), config.mem_pool_mb << 20, &log);
    let for_actors = OlLauncher::new(launcher.clone(), packages.clone(), stats);
    let logs_of_actors = supervisor::Logs {
        plain: log.clone(),
        memory: in_detail(trace.memory),
        evictor: in_detail(trace.evictor),
        packages: in_detail(trace.package),
    };
    let (desk, jobs) = Desk::new();
    let settings = KafkaSettings {
        session_timeout: config.kafka.session_timeout,
        heartbeat_interval: config.kafka.heartbeat_interval,
    };
    let feeds = KafkaFeeds::new(desk.clone(), settings, config.grace, stats, log.clone());
    let parts = Parts {
        launcher: for_actors.clone(),
        packages,
        registry: registry.clone(),
        gauge: gauge.clone(),
        clock: OlClock,
        diary: OlDiary::new(&worker_dir, log.clone()),
        import_stats: OlImportStats::new(&worker_dir, log.clone()),
        caller: OlCaller::new(desk, stats),
        feeds: feeds.clone(),
    };
    let tree: Tree<OlWorld> = supervisor::start(parts, actor_settings(&config, plan), logs_of_actors);
    let watch =
        watch(&config, &registry, &tree, &log).map_err(file("watch", Path::new(&registry.place())))?;

    let port = listener.local_addr().map_or(config.port, |address| address.port());
    let ending = CancellationToken::new();
    let class = Class { network: config.network };
    let by_hand = config.by_hand.then(|| Arc::new(ByHand::new(gauge.clone(), class, beside)));
    let profiler = CpuProfiler::new(Some(worker_dir.join(generations.replace(GENERATIONS, "profile"))));
    let app = Data::new(App {
        tree: tree.clone(),
        launcher: for_actors,
        registry: registry.clone(),
        stats,
        body_bytes_max: config.body_bytes_max,
        cgroup_layout: launcher.cgroup_layout(),
        logs: logs_dir,
        profiler: profiler.clone(),
        heap,
        dep_trace: dep_trace.clone(),
        install_waiters: Semaphore::new(http::INSTALL_WAITERS_MAX),
        by_hand: by_hand.clone(),
        zygotes_file: Some(kept).filter(|_| is_free),
        ending: ending.clone(),
    });
    // Those that are due already have waited at the desk.
    let triggers = actix::Arbiter::new();
    let (for_triggers, for_statistics) = (app.clone(), app.clone());
    triggers.spawn_fn(move || drop(actix::spawn(http::attend(for_triggers, jobs))));
    let files = Files::of(&worker_dir);
    let (private, fading) = match before {
        Some((predecessor, estate)) => (estate.private, Some((predecessor, estate.public))),
        None => (listen_privately(&files.socket)?, None),
    };
    let offer = Offer {
        pid: std::process::id().cast_signed(),
        host: config.host.clone(),
        port: config.port,
        cgroup_root: config.cgroup_root.clone(),
        generations: generations.clone(),
    };
    let share = || {
        Ok(Estate { lock: lock.try_clone()?, public: listener.try_clone()?, private: private.try_clone()? })
    };
    let stand = || {
        let door = share().and_then(|estate| Door::open(&worker_dir, offer.clone(), estate));
        let door = door.map_err(ServeError::Door)?;
        stand().map_err(file("sign", &worker_dir))?;
        files.write(port)?;
        Ok(door)
    };
    // Before it answers: who asks it finds all of this.
    let door = stand()?;
    let guests = Guests::default();
    let (public, private) = listen(
        &config,
        (listener.try_clone().map_err(ServeError::Door)?, private.try_clone().map_err(ServeError::Door)?),
        app,
        &guests,
    )?;
    let handles = (public.handle(), private.handle());
    let servers = (actix::spawn(public), actix::spawn(private));
    info!(log, "the worker is ready"; "host" => &config.host, "port" => port, "cgroup" => launcher.cgroup_layout());

    let mut signals = Signals::new().map_err(ServeError::Threads)?;
    let fading = fading.map(|(predecessor, _public)| {
        predecessor.tell_serving();
        let Offer { cgroup_root, generations, .. } = predecessor.offer.clone();
        let (log, left) = (log.clone(), worker_dir.join(generations));
        Fading::watch(predecessor, move || succession::sweep(&cgroup_root, &left, &log))
    });
    let sweep = {
        let other = takeover::other_name(&configured_root, &config.cgroup_root);
        let left = worker_dir.join(takeover::other_name(GENERATIONS, &generations));
        let log = log.clone();
        move || succession::sweep(&other, &left, &log)
    };
    let mut reign = Reign {
        door,
        stand: Box::new(stand),
        sweep: Arc::new(sweep),
        fading,
        servers: handles.clone(),
        guests,
        grace: config.grace,
        yield_place: {
            let (supervisor, log) = (tree.supervisor.clone(), log.clone());
            Box::new(move |is_yielded| {
                if supervisor.try_send(Yield(is_yielded)).is_err() {
                    warn!(
                        log,
                        "the supervisor is not told who sees to the triggers: calls may be made twice"
                    );
                }
            })
        },
        keep: {
            let zygotes = tree.zygotes.clone();
            Box::new(move || {
                let kept = tokio::time::timeout(KEEP_TIME_MAX, zygotes.ask(Keep));
                // Whoever comes next learns what is missing.
                Box::pin(async move { drop(kept.await) })
            })
        },
        log: log.clone(),
    };
    let end = reign.last(&mut signals).await;

    info!(log, "the worker ends: it finishes what runs"; "grace_s" => config.grace.as_secs());
    if end == Ending::Told {
        reign.door.close();
        reign.tell_end();
    }
    drop(watch);
    ending.cancel();
    let drain = async {
        // New requests are refused by the pools; running ones end, and their connections with them.
        match tree.supervisor.send(Shutdown { grace: config.grace }).await {
            Ok(report) if report.n_unfinished > 0 => {
                warn!(log, "the grace is over: invocations are cut off"; "n_invocations" => report.n_unfinished);
            }
            Ok(_) => {}
            Err(error) => error!(log, "the supervisor is gone"; "error" => %error),
        }
        tokio::join!(handles.0.stop(true), handles.1.stop(true));
    };
    tokio::select! {
        () = drain => {}
        () = signals.wait() => {
            warn!(log, "told twice: running invocations are cut off");
            let at_once = tree.supervisor.send(Shutdown { grace: Duration::ZERO });
            let (_, (), ()) = tokio::join!(at_once, handles.0.stop(false), handles.1.stop(false));
        }
    }
    drop(servers);
    // They were dropped when the shutdown began, and had as long as everybody else; what is left is a commit.
    let n_readers = actix_web::web::block(move || feeds.wait(COMMIT_PATIENCE)).await.unwrap_or_default();
    if n_readers > 0 {
        warn!(log, "readers of Kafka did not end in time: some records are called again"; "n_readers" => n_readers);
    }
    triggers.stop();
    // Calls that outlast the grace are cut off with it, and their sandboxes go.
    let _ = actix_web::web::block(move || triggers.join()).await;
    if end == Ending::Told {
        tokio::select! {
            () = reign.see_off() => {}
            () = signals.wait() => warn!(log, "told again: the worker before this one ends by itself"),
        }
    }
    if let Some(dep_trace) = dep_trace {
        let _ = actix_web::web::block(move || dep_trace.finish()).await;
    }
    if let Some(profile) = profiler.end()
        && let Err(error) = fs::write(worker_dir.join("cpu.buf.prof"), profile)
    {
        warn!(log, "cannot write the profile that nobody has taken"; "error" => %error);
    }
    if let Some(by_hand) = by_hand {
        by_hand.end();
    }
    let for_flush = launcher.clone();
    // The reaper has its own bound for what does not die.
    let _ = actix_web::web::block(move || for_flush.flush()).await;
    // When all sandboxes are gone, so that their ends are in it.
    write_stats(&worker_dir, &http::statistics(&for_statistics).await, &log);
    drop(for_statistics);
    drop(tree);
    drop(launcher);
    if let Err(error) = cleanup::sweep(&config.cgroup_root) {
        warn!(log, "cannot remove all cgroups; the next start does"; "error" => %error);
    }
    // No sandbox is left that could see them; those who still hold some find them gone.
    let _ = fs::remove_dir_all(worker_dir.join(&generations));
    if end == Ending::Told {
        files.remove();
    }
    info!(log, "the worker has ended");
    Ok(())
}

/// Removes what workers were killed at while they wrote a file anew: the file's name, and the number of the process.
fn remove_half_written(worker_dir: &Path) {
    let entries = fs::read_dir(worker_dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let is_number = |end: &std::ffi::OsStr| end.to_str().is_some_and(|end| end.parse::<u32>().is_ok());
        let is_written_anew = path.file_stem().is_some_and(|name| REWRITTEN.iter().any(|one| name == *one));
        if is_written_anew && path.extension().is_some_and(is_number) {
            // It is in nobody's way.
            let _ = fs::remove_file(path);
        }
    }
}

/// The tree of zygotes that somebody drew: in the configuration, or else while an earlier worker ran.
fn plan(config: &Config, kept: &Path) -> Result<Option<Plan>, ServeError> {
    let tree = match &config.import_cache_tree {
        Some(tree) => Some(tree_file::read(tree).map_err(ServeError::ImportCacheTree)?),
        None if config.features.import_cache && kept.exists() => {
            let path = kept.display().to_string();
            Some(tree_file::read(&path.into()).map_err(ServeError::KeptTree)?)
        }
        None => None,
    };
    Ok(tree)
}

fn launcher_spec(config: &Config, descriptor: &image::Descriptor, worker_dir: &Path) -> LauncherSpec {
    LauncherSpec {
        scratch: worker_dir.join("root"),
        cgroup_name: config.cgroup_root.clone(),
        uid_base: config.uid_base,
        base: match &descriptor.base {
            Base::Host => BaseSpec::Host,
            Base::Directory(path) => BaseSpec::Directory(path.clone()),
        },
        python: Path::new("/").join(&descriptor.python.path).display().to_string(),
        dns: sandbox::resolvers(&config.dns),
        packages: config.packages_dir.clone(),
        limits: sandbox_limits(&config.limits),
        tmp_mb: config.limits.tmp_mb,
        seccomp: config.features.enable_seccomp,
    }
}

/// Why a worker in this directory could not install packages; `None`: it can.
#[must_use]
pub fn no_installer(ol_dir: &Path, config: &Config) -> Option<String> {
    // Whoever has no base yet has other things to hear first.
    let descriptor = image::Descriptor::load(ol_dir, config.python.as_deref()).ok().flatten()?;
    installer::describe(&installer_spec(config, &descriptor, &config.worker_dir)).err()
}

/// What the installer is made from.
fn installer_spec(config: &Config, descriptor: &image::Descriptor, worker_dir: &Path) -> InstallerSpec {
    InstallerSpec {
        tools: worker_dir.join("installer"),
        tool: config.installer.clone(),
        python: Path::new("/").join(&descriptor.python.path).display().to_string(),
        base: match &descriptor.base {
            Base::Host => None,
            Base::Directory(path) => Some(path.clone()),
        },
        sources: Sources::of_machine(config.pip_mirror.as_deref(), &config.installer_hosts),
        limits: sandbox_limits(&config.installer_limits),
        runtime: config.installer_limits.runtime,
        tmp_mb: config.installer_limits.tmp_mb,
        bytes_max: config.packages_bytes_max,
    }
}

fn watch(
    config: &Config,
    registry: &Registry,
    tree: &Tree<OlWorld>,
    log: &Logger,
) -> io::Result<RegistryWatch> {
    let (watcher, routes) = (tree.watcher.clone(), tree.routes.clone());
    let use_of = move |name: &FunctionName| {
        let route = routes.get(name.as_str())?;
        let figures = route.pool.figures();
        let is_kept =
            Code::limits(&route.code).min_warm > 0 || route.code.config().triggers.has_other_than_http();
        let n_calls = figures.invocations + figures.refused;
        Some(Use { n_calls, stays: is_kept || figures.busy + figures.queue > 0 })
    };
    let for_tell = log.clone();
    // When the watcher's mailbox is full it has work for a while, and a full look at the end of it makes up for
    // what could not be told.
    registry.watch(config.registry_poll, log.clone(), use_of, move |event| {
        let told = match event {
            WatchEvent::Reach(trouble) => {
                // Told again at the next try.
                let _ = watcher.try_tell(Reach { trouble });
                return;
            }
            WatchEvent::Touched(names) => watcher.try_tell(Touched { names }).is_ok(),
            WatchEvent::Rescan => false,
        };
        if !told && watcher.try_tell(Rescan).is_err() {
            warn!(for_tell, "the registry's watcher does not listen: a change may be seen late");
        }
    })
}

/// What the actors are told of the configuration.
fn actor_settings(config: &Config, plan: Option<Plan>) -> supervisor::Config {
    supervisor::Config {
        // The decisions of thousands of lambdas take a small part of one core; the HTTP threads have the rest.
        n_arbiters: 1,
        zygotes: ZygotesConfig {
            default_class: Class { network: config.network },
            standbys: config.n_standbys,
            // Who wants none ready wants to see what it is like without.
            standbys_max: if config.n_standbys == 0 { 0 } else { config.n_standbys.max(STANDBYS_MAX) },
            import_cache: config.features.import_cache,
            plan,
            zygote_bytes_max: config.import_cache_mb << 20,
        },
        sandbox_bytes: SANDBOX_BYTES,
        reclaim: config.features.downsize_paused_mem,
    }
}

/// What tells others where the worker is.
struct Files {
    socket: PathBuf,
    pid: PathBuf,
    port: PathBuf,
}

impl Files {
    fn of(worker_dir: &Path) -> Self {
        let [socket, pid, port] = ["ol.sock", "worker.pid", "worker.port"].map(|name| worker_dir.join(name));
        Self { socket, pid, port }
    }

    /// Where the kernel has chosen the port, only we know which. Before the pid, which says that all is there.
    fn write(&self, port: u16) -> Result<(), ServeError> {
        for (path, number) in [(&self.port, u32::from(port)), (&self.pid, std::process::id())] {
            // Never half written: another worker's may be there.
            let new = path.with_extension("new");
            fs::write(&new, number.to_string()).map_err(file("write", &new))?;
            fs::rename(&new, path).map_err(file("write", path))?;
        }
        Ok(())
    }

    fn remove(&self) {
        for path in [&self.socket, &self.pid, &self.port] {
            // Whoever starts next replaces them anyway.
            let _ = fs::remove_file(path);
        }
    }
}

fn listen_privately(socket: &Path) -> Result<UnixListener, ServeError> {
    // What a killed worker left; nobody listens on it, we hold the directory's lock.
    let _ = fs::remove_file(socket);
    let in_use = |source| ServeError::Listen { address: socket.display().to_string(), source };
    let listener =
        Address::of(socket).and_then(|address| UnixListener::bind(address.path())).map_err(in_use)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))
        .map_err(file("set the mode of", socket))?;
    Ok(listener)
}

/// An application that lets in nobody's page (`hosts`: see [`http::admit`]), and whose connections end with their next answer when the guests are to leave.
macro_rules! application {
    ($app:expr, $guests:expr, $hosts:expr, $paths:path) => {{
        let (app, guests, hosts) = ($app.clone(), $guests.clone(), $hosts);
        move || {
            let (guests, hosts) = (guests.clone(), hosts.clone());
            ActixApp::new()
                .app_data(app.clone())
                .wrap_fn(move |request, service| {
                    let answer = http::admit(request, hosts.as_deref()).map(|request| service.call(request));
                    let guests = guests.clone();
                    async move {
                        let mut answer = match answer {
                            Ok(answer) => answer.await?,
                            Err(refused) => *refused,
                        };
                        if guests.leave() {
                            answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
                        }
                        Ok(answer)
                    }
                })
                .configure($paths)
        }
    }};
}

fn listen(
    config: &Config,
    (public, private): (TcpListener, UnixListener),
    app: Data<App>,
    guests: &Guests,
) -> Result<(actix_web::dev::Server, actix_web::dev::Server), ServeError> {
    let enter = || {
        let guests = guests.clone();
        move |extensions: &mut actix_web::dev::Extensions| {
            extensions.insert(guests.enter());
        }
    };
    let failed = |source| ServeError::Listen { address: format!("{}:{}", config.host, config.port), source };
    let build = |n_threads| {
        let builder =
            Server::build().workers(n_threads).shutdown_timeout(config.grace.as_secs()).disable_signals();
        let signal = builder.graceful_shutdown_signal();
        let ending = move || {
            let signal = signal.clone();
            async move { signal.notified().await }
        };
        (builder, ending)
    };
    let (builder, ending) = build(config.n_http_threads);
    let hosts = Arc::new(Hosts::new(&config.host, &config.allowed_hosts));
    let (application, enter_public) = (application!(app, guests, Some(hosts), http::paths), enter());
    let public = builder
        .max_concurrent_connections(CONNECTIONS_PER_THREAD)
        .listen("public", public, move || http::serving(application(), enter_public.clone(), ending.clone()))
        .map_err(failed)?
        .run();
    let (builder, ending) = build(1);
    let (application, enter_private) =
        (application!(app, guests, None::<Arc<Hosts>>, http::private_paths), enter());
    let private = builder
        .listen_uds("private", private, move || {
            http::serving(application(), enter_private.clone(), ending.clone())
        })
        .map_err(failed)?
        .run();
    Ok((public, private))
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A sandbox takes some ten descriptors, and the customary soft limit is 1,024.
fn raise_file_limit(log: &Logger) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(log, "cannot raise the limit of open files: fewer sandboxes can live at once"; "error" => %error);
    }
}

fn write_stats(worker_dir: &Path, statistics: &BTreeMap<String, u64>, log: &Logger) {
    let path = worker_dir.join("stats.json");
    let text = serde_json::to_string_pretty(statistics).expect("names and numbers can always be written");
    if let Err(error) = fs::write(&path, text) {
        warn!(log, "cannot write the statistics"; "path" => %path.display(), "error" => %error);
    }
}
