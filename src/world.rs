//! The world of the actors, as it is on this machine: which types stand for the traits of
//! [`actors::world`].

mod import_stats;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actors::haste::Haste;
use actors::name::FunctionName;
use actors::outcome::Outcome;
use actors::packages::{Package, PackageSet};
use actors::world::{
    self, Class, Hold, Import, LaunchError, LocalFuture, Making, MemoryReading, Planted, Start, Weight, World,
};
use slog::{Logger, warn};

use crate::kafka::KafkaFeeds;
use crate::packages::PackagesDir;
use crate::registry::{FunctionCode, Registry};
use crate::sandbox::cgroup::Limits;
use crate::sandbox::launcher::{GrownZygote, Launcher, Loading, Plantation, Program, Sandbox, Standby};
use crate::sandbox::pressure::Pressure;
use crate::stats::Stats;
use crate::triggers::{Desk, Event};
pub use import_stats::OlImportStats;

/// Files of the worker's directory that are written anew, each under a name that ends with the process' number first.
pub const REWRITTEN: [&str; 2] = [DIARY, import_stats::FILE];
/// What [`OlDiary`] is written to.
const DIARY: &str = "cron.json";

/// The real one.
#[derive(Debug, Clone, Copy)]
pub struct OlWorld;

impl World for OlWorld {
    type Code = FunctionCode;
    type Standby = Standby;
    type Sandbox = Sandbox;
    type Zygote = GrownZygote;
    type Launcher = OlLauncher;
    type Packages = PackagesDir;
    type Registry = Registry;
    type Gauge = OlGauge;
    type Clock = OlClock;
    type Diary = OlDiary;
    type ImportStats = OlImportStats;
    type Caller = OlCaller;
    type Feeds = KafkaFeeds;
}

/// The launcher, and what it costs written down.
#[derive(Debug, Clone)]
pub struct OlLauncher {
    launcher: Launcher,
    packages: PackagesDir,
    stats: &'static Stats,
}

impl OlLauncher {
    /// How many shells wait for an interpreter.
    #[must_use]
    pub fn n_spare_shells(&self) -> usize {
        self.launcher.n_spare_shells()
    }

    /// Times go to `stats`.
    #[must_use]
    pub fn new(launcher: Launcher, packages: PackagesDir, stats: &'static Stats) -> Self {
        Self { launcher, packages, stats }
    }

    /// Puts a function's code on a standby that lay ready; the request that needs it has it loaded.
    ///
    /// # Errors
    /// As [`Launcher::adopt`].
    pub fn adopt(
        &self,
        name: FunctionName,
        standby: Standby,
        code: &FunctionCode,
        packages: &PackageSet,
    ) -> Result<Loading, LaunchError> {
        let making = Making { start: Start::Standby, packages: Duration::ZERO };
        self.launcher.adopt(standby, self.program(name, code, packages)?, making)
    }
}

impl OlLauncher {
    fn program(
        &self,
        name: FunctionName,
        code: &FunctionCode,
        packages: &PackageSet,
    ) -> Result<Program, LaunchError> {
        let limits = code.sandbox_limits();
        Ok(Program {
            name,
            directory: code.dir().to_owned(),
            entry: code.entry_file().to_owned(),
            environment: code.config().environment.clone(),
            packages: paths(packages),
            limits: sandbox_limits(limits),
            tmp_mb: limits.tmp_mb,
            n_sandboxes_max: world::Code::limits(code).max_instances,
            load_patience: limits.runtime.max(LOAD_PATIENCE_MIN),
            holds: self.hold(packages)?,
        })
    }

    fn hold(&self, packages: &PackageSet) -> Result<Hold, LaunchError> {
        self.packages.hold(packages).map_err(|error| LaunchError::Failed(error.to_string()))
    }
}

impl world::Launcher<OlWorld> for OlLauncher {
    fn prepare(
        &self,
        class: Class,
        zygote: Option<GrownZygote>,
        haste: Haste,
    ) -> LocalFuture<Result<Standby, LaunchError>> {
        let (launcher, stats) = (self.launcher.clone(), self.stats);
        Box::pin(async move {
            let began = std::time::Instant::now();
            let standby = launcher.prepare(class, zygote.as_ref(), &haste).await?;
            stats.fork.add(began.elapsed());
            Ok(standby)
        })
    }

    fn install(
        &self,
        name: FunctionName,
        standby: Standby,
        code: FunctionCode,
        packages: PackageSet,
        making: Making,
    ) -> LocalFuture<Result<Sandbox, LaunchError>> {
        let (launcher, stats) = (self.launcher.clone(), self.stats);
        let program = self.program(name, &code, &packages);
        Box::pin(async move {
            let began = std::time::Instant::now();
            let sandbox = launcher.install(standby, program?, making).await?;
            stats.create.add(began.elapsed());
            Ok(sandbox)
        })
    }

    fn sprout(
        &self,
        name: FunctionName,
        code: FunctionCode,
        packages: PackageSet,
        parent: Option<GrownZygote>,
    ) -> LocalFuture<Result<GrownZygote, LaunchError>> {
        let launcher = self.launcher.clone();
        let program = self.program(name, &code, &packages);
        Box::pin(async move {
            let class = world::Code::class(&code);
            launcher.sprout(class, &program?, parent.as_ref()).await
        })
    }

    fn plant(
        &self,
        class: Class,
        packages: PackageSet,
        parents: Vec<GrownZygote>,
    ) -> LocalFuture<Result<Planted<GrownZygote>, LaunchError>> {
        let (launcher, holds) = (self.launcher.clone(), self.hold(&packages));
        Box::pin(async move {
            let Plantation { zygote, held, grown, took } =
                launcher.plant(class, &paths(&packages), &parents, holds?).await?;
            let bytes_in_all = zygote.memory_bytes();
            // What it says is the word of a process that has run the packages' code. It may give one of them more than its
            // share, but no more than all of them have taken.
            let import = |package: &Package| {
                let ms = held.get(&path(package)).filter(|ms| ms.is_finite() && **ms >= 0.0)?;
                let took = Duration::try_from_secs_f64(ms / 1e3).ok()?.min(took);
                let bytes = grown.get(&path(package)).copied().unwrap_or(0).min(bytes_in_all);
                Some(Import { package: package.clone(), took, bytes })
            };
            let imports = packages.iter().filter_map(import).collect();
            Ok(Planted { zygote, imports, bytes: bytes_in_all })
        })
    }

    fn spawn(
        &self,
        name: FunctionName,
        zygote: GrownZygote,
        code: FunctionCode,
    ) -> LocalFuture<Result<Sandbox, LaunchError>> {
        let (launcher, stats) = (self.launcher.clone(), self.stats);
        // What it may import is settled already.
        let program = self.program(name, &code, &PackageSet::default());
        Box::pin(async move {
            let began = std::time::Instant::now();
            let sandbox = launcher.spawn(&zygote, world::Code::class(&code), program?).await?;
            stats.fork.add(began.elapsed());
            Ok(sandbox)
        })
    }
}

/// Importing counts as running: who sets `runtime_sec` low wants an end, but an import gets this much in any case.
const LOAD_PATIENCE_MIN: Duration = Duration::from_secs(10);

/// Where a sandbox finds these packages.
fn paths(packages: &PackageSet) -> Vec<String> {
    packages.iter().map(path).collect()
}

fn path(package: &Package) -> String {
    format!("/packages/{}/files", package.directory)
}

/// The limits of the configuration in the units of cgroups.
#[must_use]
pub fn sandbox_limits(limits: &crate::config::Limits) -> Limits {
    Limits {
        memory_bytes: u64::from(limits.mem_mb) << 20,
        // OpenLambda's "swappiness" is written to the swap limit; anything but 0 lets a sandbox swap as much as it may use.
        swap_bytes: if limits.swappiness == 0 { 0 } else { u64::from(limits.mem_mb) << 20 },
        cpu_percent: limits.cpu_percent,
        n_processes: limits.procs,
    }
}

impl world::Standby for Standby {
    fn is_alive(&self) -> bool {
        self.is_alive()
    }
}

impl world::Zygote for GrownZygote {
    fn is_alive(&self) -> bool {
        self.is_alive()
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes()
    }
}

impl world::Sandbox for Sandbox {
    fn id(&self) -> u64 {
        self.id()
    }

    fn is_alive(&self) -> bool {
        self.is_alive()
    }

    fn freeze(&mut self) {
        self.freeze();
    }

    fn thaw(&mut self) {
        self.thaw();
    }

    fn reclaim(&self) {
        self.reclaim();
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes()
    }

    fn condemn(&mut self) {
        self.condemn();
    }
}

impl world::Line for Sandbox {
    fn take_back(&mut self) -> VecDeque<u32> {
        self.channel.take_back()
    }

    fn first_unread(&self) -> Option<u32> {
        self.channel.first_unread()
    }
}

/// Reads the memory of all sandboxes from the worker's cgroup, and the machine's from `/proc/meminfo`.
#[derive(Debug, Clone)]
pub struct OlGauge {
    launcher: Launcher,
    pressure: Arc<Pressure>,
    pool_bytes: u64,
}

impl OlGauge {
    /// `pool_bytes` is what sandboxes and zygotes may use together.
    #[must_use]
    pub fn new(launcher: Launcher, pool_bytes: u64, log: &Logger) -> Self {
        let pressure = Arc::new(Pressure::open(launcher.cgroups(), log));
        Self { launcher, pressure, pool_bytes }
    }
}

impl world::Gauge for OlGauge {
    fn read(&self) -> MemoryReading {
        MemoryReading {
            used_bytes: self.launcher.memory_bytes(),
            pool_bytes: self.pool_bytes,
            available_bytes: available_bytes().unwrap_or(u64::MAX),
        }
    }

    fn pressed(&self) -> LocalFuture<()> {
        let pressure = Arc::clone(&self.pressure);
        Box::pin(async move { pressure.wait().await })
    }

    fn weights(&self) -> Vec<Weight> {
        self.launcher.weights()
    }

    fn end(&self, id: u64) {
        self.launcher.end_for_memory(id);
    }
}

fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The machine's.
#[derive(Debug, Clone, Copy)]
pub struct OlClock;

impl world::Clock for OlClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A file in the worker's directory.
#[derive(Debug, Clone)]
pub struct OlDiary {
    path: PathBuf,
    log: Logger,
}

impl OlDiary {
    /// In this directory, which only the worker writes to.
    #[must_use]
    pub fn new(worker_dir: &Path, log: Logger) -> Self {
        Self { path: worker_dir.join(DIARY), log }
    }
}

impl world::Diary for OlDiary {
    fn read(&self) -> BTreeMap<String, u64> {
        // What is lost with it is a count of missed calls.
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn write(&self, schedules: BTreeMap<String, u64>) -> LocalFuture<()> {
        let Self { path, log } = self.clone();
        Box::pin(async move {
            let text = serde_json::to_string(&schedules).expect("names and numbers can always be written");
            let new = path.with_extension(format!("json.{}", std::process::id()));
            let written = match tokio::fs::write(&new, text).await {
                Ok(()) => tokio::fs::rename(&new, &path).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                warn!(log, "cannot write down which schedules were called"; "path" => %path.display(), "error" => %error);
            }
        })
    }
}

/// Has the thread of triggers make calls.
#[derive(Debug, Clone)]
pub struct OlCaller {
    desk: Desk,
    stats: &'static Stats,
}

impl OlCaller {
    /// At this desk.
    #[must_use]
    pub fn new(desk: Desk, stats: &'static Stats) -> Self {
        Self { desk, stats }
    }
}

impl world::Caller for OlCaller {
    fn call_by_clock(&self, name: FunctionName, schedule: String, time: SystemTime) -> LocalFuture<Outcome> {
        let headers = vec![
            ("x-cron-schedule", schedule),
            ("x-cron-time", humantime::format_rfc3339_seconds(time).to_string()),
        ];
        let event = Event { headers, body: bytes::Bytes::from_static(b"{}"), wanted: None };
        let (tell, told) = tokio::sync::oneshot::channel();
        let stats = self.stats;
        self.desk.bring(move |calls| {
            Box::pin(async move {
                let began = std::time::Instant::now();
                let answer = calls.call(&name, event).await;
                stats.cron.add(began.elapsed());
                // Nobody asks any more when the worker ends.
                let _ = tell.send(answer.outcome);
            })
        });
        let ends = || Outcome::NoRoom { text: "the worker ends".to_owned() };
        Box::pin(async move { told.await.unwrap_or_else(|_| ends()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_it_has_free() {
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
