//! The worker's settings: what `config.json` says, checked and given types before anything is opened.
//!
//! `config.json` → [`RawConfig`] (as a person wrote it) → [`Config`] (what is meant). Names and
//! defaults are those of OpenLambda where the field means something here; `docs/CONFIG.md` lists all.

mod brokers;
mod ceiling;
mod classic;
mod document;
mod overrides;
mod raw;
mod store;

use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use actors::world::{Network, PoolLimits};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use brokers::{Broker, Brokers};
pub use ceiling::Ceiling;
pub use document::Document;
pub use raw::{RawConfig, RawTrace};
pub use store::{StoreAddress, StoreKind};

use crate::field::{FieldPath, Place};
use crate::json;

const MIB: u64 = 1024 * 1024;

/// The longest that a call, the wait before it, or the wait for its end may be allowed to take: a day is for ever, and fits a clock.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// After so long is never: no machine runs for a hundred years, and they fit a clock.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// More memory than any machine has, in MiB: a pebibyte. In bytes, and some thousand times that, it is a number still.
const MEMORY_MB_MAX: u64 = 1 << 30;
/// Sandboxes of a function, requests that wait, interpreters that lie ready: more than fit into any machine.
const COUNT_MAX: usize = 1_000_000;
/// Threads for HTTP: some for each core of the largest machines.
const THREADS_MAX: usize = 4_096;

/// Everything the worker is told, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The directory that `ol worker init` made; every default path is below it.
    pub ol_dir: PathBuf,
    /// State of the running worker.
    pub worker_dir: PathBuf,
    /// Whether sandboxes may be made by hand (`server_mode: sock`).
    pub by_hand: bool,
    /// Name or address to listen on (`worker_url`).
    pub host: String,
    /// Port to listen on; 0 lets the kernel choose.
    pub port: u16,
    /// Where functions are put; or copies of them, if they lie in a store.
    pub registry_dir: PathBuf,
    /// Where functions lie, if that is not a directory.
    pub registry_store: Option<StoreAddress>,
    /// How often the registry is looked at where the kernel gives no events; how old copies of what lies in a store may be.
    pub registry_poll: Duration,
    /// What copies of functions that nobody calls may take together, in bytes.
    pub registry_cache_bytes_max: u64,
    /// Where installed packages are kept (`Pkgs_dir`).
    pub packages_dir: PathBuf,
    /// What installed packages may take together, in bytes.
    pub packages_bytes_max: u64,
    /// Package index for installs; `None`: that of the machine's pip configuration.
    pub pip_mirror: Option<String>,
    /// What installs packages: `pip`, the path of a `uv`, or nothing for what is found.
    pub installer: String,
    /// Hosts that installs may reach besides those of the index.
    pub installer_hosts: Vec<String>,
    /// Memory for all sandboxes together, in MiB.
    pub mem_pool_mb: u64,
    /// Limits of a function that sets none of its own.
    pub limits: Limits,
    /// The most that an `ol.yaml` may ask for of them.
    pub limits_max: Ceiling,
    /// Limits of the sandbox that installs packages.
    pub installer_limits: Limits,
    /// The queue in front of each function.
    pub queue: Queue,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Largest function, unpacked, in bytes.
    pub code_bytes_max: u64,
    /// Network of a function that asks for none in its `ol.yaml`.
    pub network: Network,
    /// The most that an `ol.yaml` may ask for.
    pub network_max: Network,
    /// Name servers of sandboxes that have a network; empty: the machine's.
    pub dns: Vec<IpAddr>,
    /// How long a sandbox is idle before it is frozen.
    pub freeze_after: Duration,
    /// How long a sandbox is idle before it is given up; `None`: only under memory pressure.
    pub release_after: Option<Duration>,
    /// Standbys kept ready for functions that have no sandbox yet.
    pub n_standbys: usize,
    /// Size at which a log file is rotated, in bytes.
    pub log_bytes_max: u64,
    /// Names besides the machine's own under which it may be asked for more than a function.
    pub allowed_hosts: Vec<String>,
    /// Threads that serve HTTP.
    pub n_http_threads: usize,
    /// The interpreter, inside of the base and relative to it; `None`: the one that is found.
    pub python: Option<PathBuf>,
    /// First of the uids that sandboxes run as.
    pub uid_base: u32,
    /// How long shutdown waits for running invocations.
    pub grace: Duration,
    /// Name of the cgroup that holds all sandboxes of this worker.
    pub cgroup_root: String,
    /// Whether what functions print is repeated in the worker's log.
    pub log_output: bool,
    /// Mechanisms that can be switched off.
    pub features: Features,
    /// What is logged in detail.
    pub trace: RawTrace,
    /// Zygotes to start with: a path, a JSON text or an object, as in OpenLambda.
    pub import_cache_tree: Option<Value>,
    /// What zygotes of packages may take together, in MiB.
    pub import_cache_mb: u64,
    /// Which brokers of Kafka are read, and how readers stand in their groups.
    pub kafka: Kafka,
}

/// Limits of a sandbox and of a function's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads of one sandbox.
    pub procs: u32,
    /// Memory of one sandbox, in MiB.
    pub mem_mb: u32,
    /// Processor time, in percent of one core: 200 is two cores.
    pub cpu_percent: u32,
    /// How readily its memory is swapped out, 0 to 100; 0 is never.
    pub swappiness: u32,
    /// How long one invocation may take.
    pub runtime: Duration,
    /// Size of the private `/tmp`, in MiB.
    pub tmp_mb: u32,
    /// Sandboxes of one function at most.
    pub max_instances: usize,
    /// Sandboxes of one function that are kept when idle.
    pub min_warm: usize,
}

/// The queue in front of each function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait; one more is answered 429.
    pub length_max: usize,
    /// How long a request may wait.
    pub wait_max: Duration,
}

/// Which brokers of Kafka are read, and how readers stand in their groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Which brokers functions may name.
    pub brokers: Brokers,
    /// After how long without a sign of life a group gives a reader's partitions to others.
    pub session_timeout: Duration,
    /// How often a reader gives one.
    pub heartbeat_interval: Duration,
}

/// Mechanisms that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Fork sandboxes from zygotes that have packages imported.
    pub import_cache: bool,
    /// Give memory of frozen sandboxes back to the machine.
    pub downsize_paused_mem: bool,
    /// Filter system calls.
    pub enable_seccomp: bool,
}

/// A configuration that was read, and the fields of it that mean nothing here.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What is meant.
    pub config: Config,
    /// OpenLambda's fields that were written but have no effect, for one warning.
    pub ignored: Vec<String>,
}

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A field that does not exist, or has a value that cannot be meant; or the whole is no JSON.
    #[error("{}: {}{problem}{}", origin.display(), in_front(field), in_brackets(*place))]
    Field {
        /// The file.
        origin: PathBuf,
        /// The field; nothing if it is the whole.
        field: FieldPath,
        /// What is wrong with it, and what to write.
        problem: String,
        /// Where it stands in the file, if it does.
        place: Option<Place>,
    },
    /// `-o` names a field that does not exist, or a value that does not fit.
    #[error("invalid option '{option}': {problem}")]
    Option {
        /// As it was typed, or its name.
        option: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn in_front(field: &FieldPath) -> String {
    if field.steps().is_empty() { String::new() } else { format!("{field}: ") }
}

fn in_brackets(place: Option<Place>) -> String {
    place.map(|place| format!(" ({place})")).unwrap_or_default()
}

/// A field with something that cannot be meant, or that this version does not do. Whoever has the [`Document`] knows the place.
#[derive(Debug, thiserror::Error)]
#[error("{}{problem}", in_front(field))]
pub struct Wrong {
    field: FieldPath,
    problem: String,
}

impl Wrong {
    /// What is wrong with it, and what to write.
    #[must_use]
    pub fn new(field: impl Into<FieldPath>, problem: String) -> Self {
        Self { field: field.into(), problem }
    }
}

impl Config {
    /// Check a configuration. `ol_dir` is the directory that default paths are below.
    pub fn from_document(document: &Document, ol_dir: &Path) -> Result<Loaded, ConfigError> {
        checked(&document.value, ol_dir).map_err(|wrong| document.error(wrong))
    }

    /// Check a configuration that nobody has written; `origin` is the file that errors name.
    pub fn from_json(json: &Value, origin: &Path, ol_dir: &Path) -> Result<Loaded, ConfigError> {
        Self::from_document(&Document::made(json.clone(), origin), ol_dir)
    }

    /// What `ol worker init` writes: the fields that a person may want to edit, with their defaults.
    /// The fields of `template` (a `template.json`) take precedence.
    pub fn default_for(ol_dir: &Path, template: Option<&Value>) -> Value {
        let mut json = raw::editable_defaults(ol_dir);
        if let Some(template) = template {
            overrides::merge(&mut json, template);
        }
        json
    }

    /// The `template.json` of `cwd` or, if there is none, of the directory above it.
    pub fn find_template(cwd: &Path) -> Option<PathBuf> {
        let candidates = [Some(cwd), cwd.parent()];
        candidates.into_iter().flatten().map(|dir| dir.join("template.json")).find(|path| path.is_file())
    }

    /// What a function's pool may do when its `ol.yaml` says nothing.
    pub fn pool_limits(&self, limits: &Limits) -> PoolLimits {
        PoolLimits {
            max_instances: limits.max_instances,
            min_warm: limits.min_warm,
            queue_length_max: self.queue.length_max,
            queue_wait_max: self.queue.wait_max,
            freeze_after: self.freeze_after,
            release_after: self.release_after,
        }
    }
}

fn checked(json: &Value, ol_dir: &Path) -> Result<Loaded, Wrong> {
    if !json.is_object() {
        let problem = "a configuration is an object: { \"field\": value, ... }";
        return wrong(FieldPath::default(), problem.to_owned());
    }
    let mut json = json.clone();
    raw::forget_nulls(&mut json);
    let mut ignored = classic::translate(&mut json)?;
    raw::check_objects(&json)?;
    ignored.extend(raw::without_meaning(&json));
    // serde tells the type that was wanted, and not where.
    let raw = serde_path_to_error::deserialize(json).map_err(|error| {
        let field = FieldPath::from(error.path());
        Wrong { field, problem: json::problem(&error.into_inner()) }
    })?;
    Ok(Loaded { config: mean(raw, ol_dir)?, ignored })
}

fn mean(raw: RawConfig, ol_dir: &Path) -> Result<Config, Wrong> {
    let ol_dir = absolute("the worker's directory", ol_dir)?;
    match raw.sandbox.as_str() {
        "sock" | "" => {}
        other => {
            return wrong(
                "sandbox",
                format!(
                    "is '{other}': this version has its own sandbox only; write \"sock\" or leave it out"
                ),
            );
        }
    }
    match raw.server_mode.as_str() {
        "lambda" | "sock" | "" => {}
        other => {
            return wrong(
                "server_mode",
                format!("is '{other}': write \"lambda\" or \"sock\", or leave it out"),
            );
        }
    }
    let import_cache = match raw.features.import_cache.as_str() {
        "" => false,
        "tree" | "multitree" => true,
        other => {
            return wrong(
                "features.import_cache",
                format!("is '{other}'; write \"tree\", \"multitree\" or \"\""),
            );
        }
    };
    let worker_dir = path_or("worker_dir", &raw.worker_dir, || ol_dir.join("worker"))?;
    let registry_store = StoreAddress::parse(&raw.registry)?;
    let limits = limits("limits", &raw.limits)?;
    let limits_max = Ceiling::new(&raw.limits_max, &limits)?;
    let installer_limits = limits_of_installer(&raw, limits)?;
    let mem_pool_mb = raw.mem_pool_mb.unwrap_or_else(default_pool_mb);
    if mem_pool_mb > MEMORY_MB_MAX {
        let problem = format!("is {mem_pool_mb}, and must be at most {MEMORY_MB_MAX}, which no machine has");
        return wrong("mem_pool_mb", problem);
    }
    let least_mb = 2 * u64::from(limits.mem_mb.max(installer_limits.mem_mb));
    if mem_pool_mb < least_mb {
        return wrong(
            "mem_pool_mb",
            format!(
                "is {mem_pool_mb}, and must be at least {least_mb}: twice the larger of limits.mem_mb and installer_limits.mem_mb"
            ),
        );
    }
    if raw.network > raw.network_max {
        return wrong("network", "asks for more than network_max allows".to_owned());
    }
    Ok(Config {
        by_hand: raw.server_mode == "sock",
        host: if raw.worker_url.is_empty() { "localhost".to_owned() } else { raw.worker_url },
        port: raw.worker_port.number()?,
        registry_dir: match &registry_store {
            Some(store) => worker_dir.join("mirror").join(digits(store.text.as_bytes(), 6)),
            None => registry_dir(&raw.registry, &ol_dir)?,
        },
        registry_store,
        worker_dir,
        registry_cache_bytes_max: bytes("registry_cache_mb", raw.registry_cache_mb)?,
        registry_poll: or_never(Duration::from_millis(at_least(
            "registry_cache_ms",
            raw.registry_cache_ms,
            10,
        )?)),
        packages_dir: path_or("Pkgs_dir", &raw.packages_dir, || ol_dir.join("packages"))?,
        packages_bytes_max: bytes("packages_max_mb", raw.packages_max_mb)?,
        pip_mirror: pip_mirror(raw.pip_mirror)?,
        installer: installer(raw.installer)?,
        installer_hosts: raw.installer_hosts,
        mem_pool_mb,
        limits,
        limits_max,
        installer_limits,
        queue: queue(&raw.queue)?,
        body_bytes_max: usize::try_from(bytes("max_body_mb", raw.max_body_mb)?).unwrap_or(usize::MAX),
        code_bytes_max: bytes("max_code_mb", raw.max_code_mb)?,
        network: raw.network.into(),
        network_max: raw.network_max.into(),
        dns: raw.dns,
        freeze_after: or_never(Duration::from_millis(raw.freeze_after_ms)),
        release_after: Some(raw.release_after_s).filter(|s| *s > 0).map(Duration::from_secs).map(or_never),
        n_standbys: at_most("standbys", raw.standbys, COUNT_MAX)?,
        log_bytes_max: bytes("log_max_mb", raw.log_max_mb)?,
        allowed_hosts: allowed_hosts(raw.allowed_hosts)?,
        n_http_threads: match raw.http_threads {
            None | Some(0) => cores(),
            Some(n) => at_most("http_threads", n, THREADS_MAX)?,
        },
        python: raw.python.filter(|text| !text.is_empty()).map(|text| inside_base(&text)).transpose()?,
        uid_base: uid_base(raw.uid_base)?,
        grace: Duration::from_secs(at_most("grace_sec", raw.grace_sec, CALL_TIME_MAX.as_secs())?),
        cgroup_root: cgroup_root(raw.cgroup_root, &ol_dir)?,
        log_output: raw.log_output,
        features: Features {
            import_cache,
            downsize_paused_mem: raw.features.downsize_paused_mem,
            enable_seccomp: raw.features.enable_seccomp,
        },
        trace: raw.trace,
        import_cache_mb: import_cache_mb(raw.import_cache_mb, mem_pool_mb)?,
        kafka: kafka(&raw.kafka)?,
        import_cache_tree: raw.import_cache_tree.filter(|tree| *tree != Value::String(String::new())),
        ol_dir,
    })
}

/// By default a quarter of what there is: the rest is for those who run.
fn import_cache_mb(given: Option<u64>, pool_mb: u64) -> Result<u64, Wrong> {
    let mb = given.unwrap_or(pool_mb / 4);
    if mb > pool_mb {
        return wrong("import_cache_mb", format!("is {mb}, and must be at most {pool_mb}, the mem_pool_mb"));
    }
    Ok(mb)
}

fn kafka(raw: &raw::RawKafka) -> Result<Kafka, Wrong> {
    let (session, heartbeat) = (raw.session_timeout_sec, raw.heartbeat_interval_sec);
    // More than an hour is refused by the library.
    if !(2..=3600).contains(&session) {
        return wrong("kafka.session_timeout_sec", format!("is {session}, and must be from 2 to 3600"));
    }
    if heartbeat == 0 || heartbeat >= session {
        let problem = format!("is {heartbeat}, and must be at least 1 and less than session_timeout_sec");
        return wrong("kafka.heartbeat_interval_sec", problem);
    }
    Ok(Kafka {
        brokers: Brokers::new(raw.brokers.as_deref())?,
        session_timeout: Duration::from_secs(session),
        heartbeat_interval: Duration::from_secs(heartbeat),
    })
}

/// Most processes that a limit may allow: the kernel's default for `pid_max` on small machines.
const PROCS_MAX: u32 = 32_768;

fn limits(name: &'static str, raw: &raw::RawLimits) -> Result<Limits, Wrong> {
    let wrong = |field: &str, problem: String| wrong(FieldPath::from(name).name(field), problem);
    if raw.procs == 0 || raw.procs > PROCS_MAX {
        return wrong("procs", format!("is {}, and must be from 1 to {PROCS_MAX}", raw.procs));
    }
    // An idle Python with the runtime in it takes about 10 MiB; below that nothing starts.
    if raw.mem_mb < 16 {
        let problem = format!("is {}, and must be at least 16: an idle interpreter needs 10", raw.mem_mb);
        return wrong("mem_mb", problem);
    }
    if raw.cpu_percent == 0 || raw.cpu_percent > 100_000 {
        let problem = format!("is {}, and must be from 1 to 100000 (100 is one core)", raw.cpu_percent);
        return wrong("cpu_percent", problem);
    }
    if raw.swappiness > 100 {
        return wrong("swappiness", format!("is {}, and must be at most 100", raw.swappiness));
    }
    if raw.runtime_sec == 0 {
        return wrong("runtime_sec", "is 0, and every invocation needs a limit".to_owned());
    }
    let runtime_max = CALL_TIME_MAX.as_secs();
    if raw.runtime_sec > runtime_max {
        let problem = format!("is {}, and must be at most {runtime_max}, which is a day", raw.runtime_sec);
        return wrong("runtime_sec", problem);
    }
    if raw.tmp_mb == 0 {
        return wrong("tmp_mb", "is 0, and must be at least 1".to_owned());
    }
    if raw.max_instances == 0 {
        return wrong("max_instances", "is 0, and nothing would ever run".to_owned());
    }
    if raw.max_instances > COUNT_MAX {
        let problem = format!("is {}, and must be at most {COUNT_MAX}", raw.max_instances);
        return wrong("max_instances", problem);
    }
    if raw.min_warm > raw.max_instances {
        let problem =
            format!("is {}, which is more than max_instances ({})", raw.min_warm, raw.max_instances);
        return wrong("min_warm", problem);
    }
    Ok(Limits {
        procs: raw.procs,
        mem_mb: raw.mem_mb,
        cpu_percent: raw.cpu_percent,
        swappiness: raw.swappiness,
        runtime: Duration::from_secs(raw.runtime_sec),
        tmp_mb: raw.tmp_mb,
        max_instances: raw.max_instances,
        min_warm: raw.min_warm,
    })
}

fn pip_mirror(text: String) -> Result<Option<String>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return wrong(
            "pip_mirror",
            format!("is '{text}', and must be an address, such as https://pypi.org/simple"),
        );
    }
    Ok(Some(text))
}

fn installer(text: String) -> Result<String, Wrong> {
    if !text.is_empty() && text != "pip" {
        absolute("installer", Path::new(&text))?;
    }
    Ok(text)
}

/// What `installer_limits` leaves out, or has as 0, is taken from `limits`, except for memory, processes and time, of which an install needs more
/// than a function.
fn limits_of_installer(raw: &RawConfig, limits: Limits) -> Result<Limits, Wrong> {
    // OpenLambda writes all of them, and 0 for what is not set.
    let given = |value: Option<u32>| value.filter(|n| *n > 0);
    let own = &raw.installer_limits;
    self::limits(
        "installer_limits",
        &raw::RawLimits {
            // A build starts compilers, and the installer some threads for each core.
            procs: given(own.procs).unwrap_or(100.max(limits.procs)),
            mem_mb: given(own.mem_mb).unwrap_or(250.max(limits.mem_mb)),
            cpu_percent: given(own.cpu_percent).unwrap_or(limits.cpu_percent),
            swappiness: given(own.swappiness).unwrap_or(limits.swappiness),
            runtime_sec: own.runtime_sec.filter(|s| *s > 0).unwrap_or(300),
            tmp_mb: given(own.tmp_mb).unwrap_or(limits.tmp_mb),
            max_instances: 1,
            min_warm: 0,
        },
    )
}

fn registry_dir(text: &str, ol_dir: &Path) -> Result<PathBuf, Wrong> {
    let default = || ol_dir.join("registry");
    match text.split_once("://") {
        // gocloud's blob URLs may carry parameters, such as ?create_dir=true.
        Some((_, path)) => path_or("registry", path.split('?').next().unwrap_or(path), default),
        None => path_or("registry", text, default),
    }
}

/// The first of the digits that tell this text from others.
fn digits(text: &[u8], n_bytes: usize) -> String {
    Sha256::digest(text).iter().take(n_bytes).map(|byte| format!("{byte:02x}")).collect()
}

fn path_or(name: &'static str, text: &str, default: impl FnOnce() -> PathBuf) -> Result<PathBuf, Wrong> {
    if text.is_empty() { Ok(default()) } else { absolute(name, Path::new(text)) }
}

fn absolute(name: &'static str, path: &Path) -> Result<PathBuf, Wrong> {
    if !path.is_absolute() {
        return wrong(name, format!("is '{}', and must be an absolute path", path.display()));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return wrong(name, format!("is '{}', and must not have '..' in it", path.display()));
    }
    Ok(path.components().collect())
}

/// A path inside of the base, given with or without a slash in front, as one relative to the base.
fn inside_base(text: &str) -> Result<PathBuf, Wrong> {
    let path = Path::new(text.trim_start_matches('/'));
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if path.as_os_str().is_empty() || !plain {
        return wrong(
            "python",
            format!("is '{text}', and must be a path inside of the base, such as /usr/bin/python3"),
        );
    }
    Ok(path.to_owned())
}

/// Uids that may be in use from `uid_base` on: 262144 for each of at most 256 workers of a machine.
const N_UIDS: u32 = 256 * 262_144;

/// None of the uids from here on may be the user of something else on the machine.
fn uid_base(uid: u32) -> Result<u32, Wrong> {
    let most = u32::MAX / 2 - N_UIDS;
    if !(65_536..=most).contains(&uid) {
        let problem = format!("is {uid}, and must be from 65536 to {most}, where {N_UIDS} uids are free");
        return wrong("uid_base", problem);
    }
    Ok(uid)
}

/// Named after the worker's directory, with some digits of its path: a worker sweeps its cgroup when it
/// starts, and must not sweep that of another worker whose directory has the same last name.
fn cgroup_root(name: Option<String>, ol_dir: &Path) -> Result<String, Wrong> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        let base = ol_dir.file_name().unwrap_or(OsStr::new("ol")).to_string_lossy();
        let base: String = base
            .trim_start_matches('.')
            .chars()
            .take(100)
            .map(|c| if allowed(c) { c } else { '_' })
            .collect();
        let digits = digits(ol_dir.as_os_str().as_bytes(), 3);
        return Ok(format!("ol-{base}-{digits}-sandboxes"));
    };
    // The kernel's own files are named `cgroup.procs`, `memory.max` and so on.
    if !name.chars().all(allowed) || name.contains('.') || name.len() > 200 {
        return wrong("cgroup_root", format!("is '{name}': use up to 200 letters, digits, '-' and '_'"));
    }
    Ok(name)
}

fn at_least(name: &'static str, value: u64, least: u64) -> Result<u64, Wrong> {
    if value < least { wrong(name, format!("is {value}, and must be at least {least}")) } else { Ok(value) }
}

fn at_most<T: PartialOrd + std::fmt::Display>(name: &'static str, value: T, most: T) -> Result<T, Wrong> {
    if value > most { wrong(name, format!("is {value}, and must be at most {most}")) } else { Ok(value) }
}

/// People write 999999999 for what is never to be given up.
fn or_never(after: Duration) -> Duration {
    after.min(NEVER)
}

/// A size in MiB that only bounds something: beyond what any machine has, there is no bound.
fn bytes(name: &'static str, mb: u64) -> Result<u64, Wrong> {
    Ok(at_least(name, mb, 1)?.min(MEMORY_MB_MAX) * MIB)
}

fn queue(raw: &raw::RawQueue) -> Result<Queue, Wrong> {
    let wait_ms_max = CALL_TIME_MAX.as_secs() * 1_000;
    Ok(Queue {
        length_max: at_most("queue.length", raw.length, COUNT_MAX)?,
        wait_max: Duration::from_millis(at_most("queue.wait_ms", raw.wait_ms, wait_ms_max)?),
    })
}

/// Names as a `Host` has them, without a port: small letters, and none with a dot at its end.
fn allowed_hosts(names: Vec<String>) -> Result<Vec<String>, Wrong> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = |(n, name): (usize, String)| {
        let plain = name.strip_suffix('.').unwrap_or(&name);
        if plain.is_empty() || !plain.chars().all(is_allowed) {
            let problem =
                format!("is '{name}': write the name of a host, such as ol.example.org, without a port");
            return wrong(FieldPath::from("allowed_hosts").index(n), problem);
        }
        Ok(plain.to_ascii_lowercase())
    };
    names.into_iter().enumerate().map(name).collect()
}

fn wrong<T>(field: impl Into<FieldPath>, problem: String) -> Result<T, Wrong> {
    Err(Wrong::new(field, problem))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The machine's memory less 500 MiB for everything else, and never less than 500 MiB.
fn default_pool_mb() -> u64 {
    let info = rustix::system::sysinfo();
    let total_mb = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) / MIB;
    total_mb.saturating_sub(500).max(500)
}

#[cfg(test)]
mod tests;
