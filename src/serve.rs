//! The worker: puts the parts together, waits, and takes them apart in order.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use actix_web::{App as ActixApp, HttpServer};
use actors::freshness::Use;
use actors::name::FunctionName;
use actors::supervisor::{self, Parts, Shutdown, Tree};
use actors::tree::Plan;
use actors::watcher::{Reach, Rescan, Touched};
use actors::world::{Class, Code};
use actors::zygotes::ZygotesConfig;
use slog::{Logger, error, info, warn};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::http::by_hand::ByHand;
use crate::http::{self, App};
use crate::image::{self, Base};
use crate::packages::installer::{self, Installer, InstallerSpec};
use crate::packages::{PackagesDir, Sources, tree_file};
use crate::profile::CpuProfiler;
use crate::registry::watch::WatchEvent;
use crate::registry::{Registry, RegistryWatch};
use crate::sandbox::cleanup;
use crate::sandbox::launcher::{Launcher, LauncherSpec};
use crate::sandbox::logs::Logs;
use crate::sandbox::wire::BaseSpec;
use crate::stats::Stats;
use crate::world::{OlGauge, OlLauncher, OlWorld, sandbox_limits};
use crate::{logging, sandbox};

/// Connections that may wait to be accepted, and that one thread serves at once; beyond it clients wait in the
/// kernel. A connection costs some 10 KB.
const CONNECTIONS_PER_THREAD: usize = 10_000;
/// How long a client may take for its request's headers.
const HEADERS_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection stays open without a request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

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
    /// The event loop or one of its threads.
    #[error("cannot start the worker's threads: {0}")]
    Threads(io::Error),
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServeError {
    let path = path.to_owned();
    move |source| ServeError::File { what, path, source }
}

/// Runs the worker until SIGTERM or SIGINT; a second one ends it without waiting for running invocations.
///
/// The caller holds the lock of the worker's directory.
///
/// # Errors
/// When a part cannot be started; what was started before is taken down.
pub fn run(ol_dir: &Path, config: Config) -> Result<(), ServeError> {
    let level = if config.trace.latency { slog::Level::Debug } else { slog::Level::Info };
    let (log, _guard) = logging::start(level);
    raise_file_limit(&log);
    // First, so that a taken port is known before anything else exists.
    let address = (config.host.as_str(), config.port);
    let listener = TcpListener::bind(address).map_err(|source| ServeError::Listen {
        address: format!("{}:{}", config.host, config.port),
        source,
    })?;
    // Who called says what went wrong.
    actix::System::new().block_on(serve(ol_dir, config, listener, log))
}

async fn serve(ol_dir: &Path, config: Config, listener: TcpListener, log: Logger) -> Result<(), ServeError> {
    let worker_dir = config.worker_dir.clone();
    fs::create_dir_all(&worker_dir).map_err(file("make", &worker_dir))?;
    let n_left = cleanup::sweep(&config.cgroup_root)?;
    if n_left > 0 {
        info!(log, "removed what an earlier worker had left"; "n_cgroups" => n_left);
    }
    let kept = worker_dir.join(tree_file::KEPT);
    let plan = plan(&config, &kept)?;
    let is_free = config.features.import_cache && config.import_cache_tree.is_none();
    let stats: &'static Stats = Box::leak(Box::default());
    let descriptor = match image::Descriptor::load(ol_dir)? {
        Some(descriptor) => descriptor,
        None => image::prepare(ol_dir, None, config.python.as_deref())?,
    };
    let registry = Registry::open(&config, log.clone())?;
    let logs_dir = worker_dir.join("logs");
    let logs =
        Logs::start(logs_dir.clone(), config.log_bytes_max, log.clone()).map_err(file("make", &logs_dir))?;
    let spec = launcher_spec(&config, &descriptor, &worker_dir);
    // Sandboxes see it from the start.
    fs::create_dir_all(&config.packages_dir).map_err(file("make", &config.packages_dir))?;
    let launcher = {
        let log = log.clone();
        actix_web::web::block(move || Launcher::start(spec, logs, &log))
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
            let installer = Installer::find(spec, launcher, log.clone());
            PackagesDir::open(&path, minor, installer, bytes_max)
        };
        let opened = actix_web::web::block(opened)
            .await
            .map_err(|error| ServeError::Sandbox(io::Error::other(error)))?;
        opened.map_err(file("make", &config.packages_dir))?
    };
    let gauge = OlGauge::new(launcher.clone(), config.mem_pool_mb << 20);
    let for_actors = OlLauncher::new(launcher.clone(), packages.clone(), stats);
    let parts =
        Parts { launcher: for_actors.clone(), packages, registry: registry.clone(), gauge: gauge.clone() };
    let tree: Tree<OlWorld> = supervisor::start(parts, actor_settings(&config, plan), log.clone());
    let watch =
        watch(&config, &registry, &tree, &log).map_err(file("watch", Path::new(&registry.place())))?;

    let port = listener.local_addr().map_or(config.port, |address| address.port());
    let class = Class { network: config.network, tmp_mb: config.limits.tmp_mb };
    let by_hand = config.by_hand.then(|| Arc::new(ByHand::new(gauge.clone(), class)));
    let profiler = CpuProfiler::new(Some(worker_dir.join("profile")));
    let app = Data::new(App {
        tree: tree.clone(),
        launcher: for_actors,
        registry: registry.clone(),
        stats,
        body_bytes_max: config.body_bytes_max,
        cgroup_layout: launcher.cgroup_layout(),
        logs: logs_dir,
        profiler: profiler.clone(),
        by_hand: by_hand.clone(),
        zygotes_file: Some(kept).filter(|_| is_free),
    });
    let socket = worker_dir.join("ol.sock");
    let pid_file = worker_dir.join("worker.pid");
    let (public, private) = listen(&config, listener, &socket, app)?;
    // Where the kernel has chosen the port, only we know which. Before the pid, which says that all is there.
    let port_file = worker_dir.join("worker.port");
    fs::write(&port_file, port.to_string()).map_err(file("write", &port_file))?;
    fs::write(&pid_file, std::process::id().to_string()).map_err(file("write", &pid_file))?;
    info!(log, "the worker is ready"; "host" => &config.host, "port" => port, "cgroup" => launcher.cgroup_layout());

    let mut signals = Signals::new().map_err(ServeError::Threads)?;
    let handles = (public.handle(), private.handle());
    let servers = (actix::spawn(public), actix::spawn(private));
    signals.wait().await;

    info!(log, "the worker ends: it finishes what runs"; "grace_s" => config.grace.as_secs());
    drop(watch);
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
            tokio::join!(handles.0.stop(false), handles.1.stop(false));
        }
    }
    drop(servers);
    write_stats(&worker_dir, stats, &log);
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
    drop(tree);
    drop(launcher);
    if let Err(error) = cleanup::sweep(&config.cgroup_root) {
        warn!(log, "cannot remove all cgroups; the next start does"; "error" => %error);
    }
    for path in [&socket, &pid_file, &port_file] {
        // Whoever starts next replaces them anyway.
        let _ = fs::remove_file(path);
    }
    info!(log, "the worker has ended");
    Ok(())
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
        seccomp: config.features.enable_seccomp,
    }
}

/// Why a worker in this directory could not install packages; `None`: it can.
#[must_use]
pub fn no_installer(ol_dir: &Path, config: &Config) -> Option<String> {
    // Whoever has no base yet has other things to hear first.
    let descriptor = image::Descriptor::load(ol_dir).ok().flatten()?;
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
            default_class: Class { network: config.network, tmp_mb: config.limits.tmp_mb },
            standbys: config.n_standbys,
            standbys_max: config.n_standbys.max(STANDBYS_MAX),
            import_cache: config.features.import_cache,
            plan,
            zygote_bytes_max: config.import_cache_mb << 20,
        },
        sandbox_bytes: SANDBOX_BYTES,
    }
}

fn listen(
    config: &Config,
    listener: TcpListener,
    socket: &Path,
    app: Data<App>,
) -> Result<(actix_web::dev::Server, actix_web::dev::Server), ServeError> {
    let for_private = app.clone();
    let public = HttpServer::new(move || ActixApp::new().app_data(app.clone()).configure(http::paths))
        .on_connect(http::client::remember)
        .workers(config.n_http_threads)
        .max_connections(CONNECTIONS_PER_THREAD)
        .client_request_timeout(HEADERS_PATIENCE)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(config.grace.as_secs())
        .disable_signals()
        .listen(listener)
        .map_err(|source| ServeError::Listen { address: format!("{}:{}", config.host, config.port), source })?
        .run();
    // What a killed worker left; nobody listens on it, we hold the directory's lock.
    let _ = fs::remove_file(socket);
    let in_use = |source| ServeError::Listen { address: socket.display().to_string(), source };
    let private =
        HttpServer::new(move || ActixApp::new().app_data(for_private.clone()).configure(http::private_paths))
            .on_connect(http::client::remember)
            .workers(1)
            .client_request_timeout(HEADERS_PATIENCE)
            .shutdown_timeout(config.grace.as_secs())
            .disable_signals()
            .bind_uds(socket)
            .map_err(in_use)?
            .run();
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))
        .map_err(file("set the mode of", socket))?;
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

fn write_stats(worker_dir: &Path, stats: &Stats, log: &Logger) {
    let path = worker_dir.join("stats.json");
    let text =
        serde_json::to_string_pretty(&stats.to_map()).expect("names and numbers can always be written");
    if let Err(error) = fs::write(&path, text) {
        warn!(log, "cannot write the statistics"; "path" => %path.display(), "error" => %error);
    }
}
