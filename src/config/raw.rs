//! `config.json` as it is written: the names, the types and the defaults of its fields.

use std::net::IpAddr;
use std::path::Path;
use std::sync::LazyLock;

use actors::world::Network;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Wrong, classic};

/// Every field of `config.json`; what a file leaves out has its default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "one line per field would repeat docs/CONFIG.md, which is the reference")]
pub struct RawConfig {
    pub worker_dir: String,
    pub worker_url: String,
    pub worker_port: Port,
    pub registry: String,
    pub registry_cache_ms: u64,
    pub registry_cache_mb: u64,
    #[serde(rename = "Pkgs_dir")]
    pub packages_dir: String,
    pub packages_max_mb: u64,
    pub pip_mirror: String,
    pub installer: String,
    pub installer_hosts: Vec<String>,
    pub mem_pool_mb: Option<u64>,
    pub limits: RawLimits,
    pub limits_max: RawLimitsMax,
    pub installer_limits: RawInstallerLimits,
    pub queue: RawQueue,
    pub max_body_mb: u64,
    pub max_code_mb: u64,
    pub network: RawNetwork,
    pub network_max: RawNetwork,
    pub dns: Vec<IpAddr>,
    pub freeze_after_ms: u64,
    pub release_after_s: u64,
    pub standbys: usize,
    pub log_max_mb: u64,
    pub http_threads: Option<usize>,
    pub allowed_hosts: Vec<String>,
    pub python: Option<String>,
    pub uid_base: u32,
    pub grace_sec: u64,
    pub cgroup_root: Option<String>,
    pub log_output: bool,
    pub sandbox: String,
    pub server_mode: String,
    pub import_cache_tree: Option<Value>,
    pub import_cache_mb: Option<u64>,
    pub features: RawFeatures,
    pub trace: RawTrace,
    // Without a meaning here; typed so that a slip of the pen is still found.
    #[serde(rename = "SOCK_base_path")]
    pub sock_base_path: String,
    pub sandbox_config: serde_json::Map<String, Value>,
    pub docker: RawDocker,
    pub storage: RawStorage,
    pub kafka: RawKafka,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            worker_dir: String::new(),
            worker_url: "localhost".to_owned(),
            worker_port: Port::Text("5000".to_owned()),
            registry: String::new(),
            registry_cache_ms: 5000,
            registry_cache_mb: 1024,
            packages_dir: String::new(),
            packages_max_mb: 10_240,
            pip_mirror: String::new(),
            installer: String::new(),
            installer_hosts: Vec::new(),
            mem_pool_mb: None,
            limits: RawLimits::default(),
            limits_max: RawLimitsMax::default(),
            installer_limits: RawInstallerLimits::default(),
            queue: RawQueue::default(),
            max_body_mb: 6,
            max_code_mb: 250,
            network: RawNetwork::None,
            network_max: RawNetwork::Outbound,
            dns: Vec::new(),
            freeze_after_ms: 1000,
            release_after_s: 600,
            standbys: 4,
            log_max_mb: 16,
            http_threads: None,
            allowed_hosts: Vec::new(),
            python: None,
            // Neither systemd nor the ranges that `useradd` gives out reach up to here.
            uid_base: 2_000_000_000,
            grace_sec: 10,
            cgroup_root: None,
            log_output: true,
            sandbox: "sock".to_owned(),
            server_mode: "lambda".to_owned(),
            import_cache_tree: None,
            import_cache_mb: None,
            features: RawFeatures::default(),
            trace: RawTrace::default(),
            sock_base_path: String::new(),
            sandbox_config: serde_json::Map::new(),
            docker: RawDocker::default(),
            storage: RawStorage::default(),
            kafka: RawKafka::default(),
        }
    }
}

/// A port, as `"5000"` or as `5000`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be a port number from 0 to 65535, as a number or as a text")]
#[allow(missing_docs, reason = "the two spellings say it")]
pub enum Port {
    Text(String),
    Number(u16),
}

impl Port {
    pub(super) fn number(&self) -> Result<u16, Wrong> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Text(text) => text.parse().map_err(|_| {
                Wrong::new("worker_port", format!("is '{text}', and must be a port number from 0 to 65535"))
            }),
        }
    }
}

/// [`Network`] with an order: each allows what the one before allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "see Network")]
pub enum RawNetwork {
    None,
    Outbound,
    Host,
}

impl From<RawNetwork> for Network {
    fn from(raw: RawNetwork) -> Self {
        match raw {
            RawNetwork::None => Self::None,
            RawNetwork::Outbound => Self::Outbound,
            RawNetwork::Host => Self::Host,
        }
    }
}

impl From<Network> for RawNetwork {
    fn from(network: Network) -> Self {
        match network {
            Network::None => Self::None,
            Network::Outbound => Self::Outbound,
            Network::Host => Self::Host,
        }
    }
}

/// `limits` of `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
pub struct RawLimits {
    pub procs: u32,
    pub mem_mb: u32,
    pub cpu_percent: u32,
    pub swappiness: u32,
    pub runtime_sec: u64,
    pub tmp_mb: u32,
    pub max_instances: usize,
    pub min_warm: usize,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            procs: 10,
            mem_mb: 50,
            cpu_percent: 100,
            swappiness: 0,
            runtime_sec: 30,
            tmp_mb: 64,
            max_instances: 64,
            min_warm: 0,
        }
    }
}

/// `limits_max` of `config.json`: what is left out is bounded by what can be meant.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
pub struct RawLimitsMax {
    pub procs: Option<u32>,
    pub mem_mb: Option<u32>,
    pub cpu_percent: Option<u32>,
    pub swappiness: Option<u32>,
    pub runtime_sec: Option<u64>,
    pub tmp_mb: Option<u32>,
    pub max_instances: Option<usize>,
    pub min_warm: Option<usize>,
}

/// `installer_limits` of `config.json`: what is left out, or 0 as OpenLambda writes it, is inherited.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
pub struct RawInstallerLimits {
    pub procs: Option<u32>,
    pub mem_mb: Option<u32>,
    pub cpu_percent: Option<u32>,
    pub swappiness: Option<u32>,
    pub runtime_sec: Option<u64>,
    pub tmp_mb: Option<u32>,
}

/// `queue` of `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
pub struct RawQueue {
    pub length: usize,
    pub wait_ms: u64,
}

impl Default for RawQueue {
    // With the 30 s that an invocation may take, 10 s of waiting stays below the 60 s after which
    // proxies give up.
    fn default() -> Self {
        Self { length: 1024, wait_ms: 10_000 }
    }
}

/// `features` of `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
pub struct RawFeatures {
    pub reuse_cgroups: bool,
    pub import_cache: String,
    pub downsize_paused_mem: bool,
    pub enable_seccomp: bool,
}

impl Default for RawFeatures {
    fn default() -> Self {
        Self {
            reuse_cgroups: false,
            import_cache: "tree".to_owned(),
            downsize_paused_mem: true,
            enable_seccomp: true,
        }
    }
}

/// `trace` of `config.json`: what is logged in detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
#[allow(clippy::struct_excessive_bools, reason = "five independent switches of the file's format")]
pub struct RawTrace {
    pub cgroups: bool,
    pub memory: bool,
    pub evictor: bool,
    pub package: bool,
    pub latency: bool,
}

/// `docker` of `config.json`; without a meaning here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
pub struct RawDocker {
    pub runtime: String,
    pub base_image: String,
}

impl Default for RawDocker {
    // OpenLambda's: only what differs from it was meant by somebody.
    fn default() -> Self {
        Self { runtime: String::new(), base_image: "ol-min".to_owned() }
    }
}

/// `storage` of `config.json`; without a meaning here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
pub struct RawStorage {
    pub root: String,
    pub scratch: String,
    pub code: String,
}

impl Default for RawStorage {
    // OpenLambda's, as above.
    fn default() -> Self {
        Self { root: "private".to_owned(), scratch: String::new(), code: String::new() }
    }
}

/// `kafka` of `config.json`. The cache is without a meaning here: records are read again from the broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "see docs/CONFIG.md")]
pub struct RawKafka {
    pub brokers: Option<Vec<String>>,
    pub cache_enabled: bool,
    pub cache_size: u64,
    pub session_timeout_sec: u64,
    pub heartbeat_interval_sec: u64,
    pub poll_timeout_sec: u64,
}

impl Default for RawKafka {
    fn default() -> Self {
        Self {
            brokers: None,
            cache_enabled: true,
            cache_size: 1024,
            session_timeout_sec: 10,
            heartbeat_interval_sec: 3,
            poll_timeout_sec: 1,
        }
    }
}

/// All fields, with their defaults.
pub(super) fn defaults() -> &'static Value {
    static DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
        serde_json::to_value(RawConfig::default()).expect("the defaults can always be written")
    });
    &DEFAULTS
}

/// Takes out each field that is there and null: to OpenLambda, and so here, that is as if it were not there. A name that means nothing
/// stays, to be refused.
pub(super) fn forget_nulls(json: &mut Value) {
    fn forget(value: &mut Value, known: &Value, is_old: &dyn Fn(&str) -> bool) {
        let (Some(fields), Some(known)) = (value.as_object_mut(), known.as_object()) else { return };
        fields.retain(|name, value| !(value.is_null() && (known.contains_key(name) || is_old(name))));
        for (name, value) in fields {
            if let Some(known) = known.get(name) {
                forget(value, known, &|inner| classic::is_name(&[name, inner]));
            }
        }
    }
    forget(json, defaults(), &|name| classic::is_name(&[name]));
}

/// Whether each field that has fields is an object: serde would take a list for the fields in their order.
pub(super) fn check_objects(json: &Value) -> Result<(), Wrong> {
    let objects = defaults().as_object().into_iter().flatten().filter(|(_, default)| default.is_object());
    for (name, _) in objects {
        if json.get(name).is_some_and(|value| !value.is_object()) {
            let problem = "is not an object; write { \"field\": value, ... }";
            return Err(Wrong::new(name.as_str(), problem.to_owned()));
        }
    }
    Ok(())
}

/// OpenLambda's fields that have no effect here.
const WITHOUT_MEANING: [&str; 11] = [
    "SOCK_base_path",
    "sandbox_config",
    "docker.runtime",
    "docker.base_image",
    "storage.root",
    "storage.scratch",
    "storage.code",
    "kafka.cache_enabled",
    "kafka.cache_size",
    "kafka.poll_timeout_sec",
    "features.reuse_cgroups",
];

/// Fields of OpenLambda that have no effect here, and have another value in `json` than OpenLambda itself writes: the rest was asked for by
/// nobody, and would be named at every start.
pub(super) fn without_meaning(json: &Value) -> Vec<String> {
    let is_asked_for = |name: &&str| {
        let pointer = format!("/{}", name.replace('.', "/"));
        json.pointer(&pointer).is_some_and(|value| Some(value) != defaults().pointer(&pointer))
    };
    let mut found: Vec<String> =
        WITHOUT_MEANING.into_iter().filter(is_asked_for).map(str::to_owned).collect();
    if json.pointer("/features/import_cache").is_some_and(|value| value == "multitree") {
        found.push("features.import_cache: multitree (there is one tree)".to_owned());
    }
    found
}

/// The fields that a person may want to edit, or a script of OpenLambda looks for, with their defaults.
pub(super) fn editable_defaults(ol_dir: &Path) -> Value {
    let raw = RawConfig::default();
    json!({
        "worker_dir": ol_dir.join("worker"),
        "worker_url": raw.worker_url,
        "worker_port": raw.worker_port,
        "registry": format!("file://{}", ol_dir.join("registry").display()),
        "registry_cache_ms": raw.registry_cache_ms,
        "Pkgs_dir": ol_dir.join("packages"),
        "pip_mirror": raw.pip_mirror,
        "sandbox": raw.sandbox,
        "server_mode": raw.server_mode,
        "import_cache_tree": "",
        "mem_pool_mb": super::default_pool_mb(),
        "limits": raw.limits,
        "installer_limits": { "mem_mb": 250, "runtime_sec": 300 },
        "queue": raw.queue,
        "max_body_mb": raw.max_body_mb,
        "network": raw.network,
        "freeze_after_ms": raw.freeze_after_ms,
        "release_after_s": raw.release_after_s,
        "standbys": raw.standbys,
        "log_output": raw.log_output,
        "features": raw.features,
        "trace": raw.trace,
        "sandbox_config": raw.sandbox_config,
        "docker": raw.docker,
        "storage": raw.storage,
        "kafka": {
            "cache_enabled": raw.kafka.cache_enabled,
            "cache_size": raw.kafka.cache_size,
            "session_timeout_sec": raw.kafka.session_timeout_sec,
            "heartbeat_interval_sec": raw.kafka.heartbeat_interval_sec,
            "poll_timeout_sec": raw.kafka.poll_timeout_sec,
        },
    })
}
