//! The nursery makes actors, the first time and after a panic; and what it makes them of.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use actix::{Actor, Addr, Arbiter, ArbiterHandle};
use slog::{Logger, o};
use tokio::sync::Semaphore;

use super::Supervisor;
use crate::cron::Cron;
use crate::evictor::{Evictor, Ledger, Surroundings};
use crate::kafka::{Kafka, Unregistered};
use crate::lambda::{Assignment, Lambda, Services, warm_turns};
use crate::link::Link;
use crate::monitor::{Child, Monitor};
use crate::name::FunctionName;
use crate::packages::{Known, Packages};
use crate::router::{Router, Routes};
use crate::shelves::SharedShelves;
use crate::stats::WorkerStats;
use crate::tree::SharedForest;
use crate::watcher::RegistryWatcher;
use crate::world::{Network, World};
use crate::zygotes::{self, Standbys, Zygotes, ZygotesConfig};

/// The world, as the tree needs it.
pub struct Parts<W: World> {
    /// Makes sandboxes.
    pub launcher: W::Launcher,
    /// Has the packages.
    pub packages: W::Packages,
    /// Has the functions.
    pub registry: W::Registry,
    /// Tells how much memory is in use.
    pub gauge: W::Gauge,
    /// Tells the time.
    pub clock: W::Clock,
    /// Remembers which times are over.
    pub diary: W::Diary,
    /// Remembers what was learnt of imports.
    pub import_stats: W::ImportStats,
    /// Calls functions.
    pub caller: W::Caller,
    /// Reads from Kafka.
    pub feeds: W::Feeds,
}

/// What the tree can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Threads that lambdas run on. 0: the calling one.
    pub n_arbiters: usize,
    /// How many standbys to keep.
    pub zygotes: ZygotesConfig,
    /// What a sandbox is held to take before any was measured, in bytes.
    pub sandbox_bytes: u64,
    /// Whether the kernel is asked to take back what it can of frozen sandboxes, when memory is tight.
    pub reclaim: bool,
}

/// Where the actors log. What some of them decide can be told in more detail (level debug) than the rest.
#[derive(Debug, Clone)]
pub struct Logs {
    /// All that has no log of its own.
    pub plain: Logger,
    /// What memory is promised to sandboxes.
    pub memory: Logger,
    /// Who is to give memory back.
    pub evictor: Logger,
    /// Which packages are looked for and installed.
    pub packages: Logger,
}

impl From<Logger> for Logs {
    /// The same for all.
    fn from(log: Logger) -> Self {
        Self { plain: log.clone(), memory: log.clone(), evictor: log.clone(), packages: log }
    }
}

/// Makes actors, the first time and after a panic.
pub(super) struct Nursery<W: World> {
    config: Config,
    parts: Parts<W>,
    ledger: Ledger,
    warm_turns: Arc<Semaphore>,
    known: Known,
    pub(super) standbys: Standbys<W>,
    pub(super) forest: SharedForest<W::Zygote>,
    pub(super) routes: Routes<W>,
    unregistered: Unregistered,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) arbiters: Vec<Arbiter>,
    supervisor: Addr<Supervisor<W>>,
    logs: Logs,
}

impl<W: World> Nursery<W> {
    /// Has made nobody yet, but for the arbiters that lambdas run on.
    pub(super) fn new(parts: Parts<W>, config: Config, logs: Logs, supervisor: Addr<Supervisor<W>>) -> Self {
        let settings = &config.zygotes;
        let forest = SharedForest::new(
            settings.plan.as_ref().filter(|_| settings.import_cache),
            settings.default_class.network == Network::Host,
        );
        Self {
            parts,
            ledger: Ledger::new(logs.memory.new(o!("part" => "memory"))),
            warm_turns: Arc::new(Semaphore::new(warm_turns())),
            known: Known::default(),
            standbys: SharedShelves::new(settings.shelf_limits()),
            forest,
            routes: Routes::default(),
            unregistered: Unregistered::default(),
            stats: Arc::new(WorkerStats::default()),
            arbiters: (0..config.n_arbiters).map(|_| Arbiter::new()).collect(),
            config,
            supervisor,
            logs,
        }
    }

    fn monitor(&self, child: Child, incarnation: u64) -> Monitor {
        Monitor::new(child, incarnation, self.supervisor.clone().recipient())
    }

    fn log_of(&self, actor: &'static str) -> Logger {
        self.logs.plain.new(o!("actor" => actor))
    }

    pub(super) fn packages(&self, incarnation: u64) -> Addr<Packages<W>> {
        let monitor = self.monitor(Child::Packages, incarnation);
        Packages::new(
            self.parts.packages.clone(),
            self.known.clone(),
            Arc::clone(&self.stats),
            self.logs.packages.new(o!("actor" => "packages")),
            monitor,
        )
        .start()
    }

    pub(super) fn zygotes(&self, incarnation: u64, packages: Link<Packages<W>>) -> Addr<Zygotes<W>> {
        let surroundings = zygotes::Surroundings {
            launcher: self.parts.launcher.clone(),
            standbys: self.standbys.clone(),
            forest: self.forest.clone(),
            packages,
            store: self.parts.packages.clone(),
            known: self.known.clone(),
            routes: self.routes.clone(),
            ledger: self.ledger.clone(),
            clock: self.parts.clock.clone(),
            import_stats: self.parts.import_stats.clone(),
            stats: Arc::clone(&self.stats),
        };
        let monitor = self.monitor(Child::Zygotes, incarnation);
        Zygotes::new(surroundings, self.config.zygotes.clone(), self.log_of("zygotes"), monitor).start()
    }

    pub(super) fn evictor(&self, incarnation: u64, zygotes: Link<Zygotes<W>>) -> Addr<Evictor<W>> {
        let surroundings = Surroundings {
            gauge: self.parts.gauge.clone(),
            ledger: self.ledger.clone(),
            routes: self.routes.clone(),
            zygotes,
            sandbox_bytes: self.config.sandbox_bytes,
            reclaim: self.config.reclaim,
            stats: Arc::clone(&self.stats),
        };
        let log = self.logs.evictor.new(o!("actor" => "evictor"));
        Evictor::new(surroundings, log, self.monitor(Child::Evictor, incarnation)).start()
    }

    pub(super) fn watcher(&self, incarnation: u64, packages: Link<Packages<W>>) -> Addr<RegistryWatcher<W>> {
        RegistryWatcher::new(
            self.parts.registry.clone(),
            packages,
            self.supervisor.clone().recipient(),
            self.log_of("watcher"),
            self.monitor(Child::Watcher, incarnation),
        )
        .start()
    }

    pub(super) fn router(&self, incarnation: u64, watcher: Link<RegistryWatcher<W>>) -> Addr<Router<W>> {
        let monitor = self.monitor(Child::Router, incarnation);
        Router::new(self.routes.clone(), watcher, self.log_of("router"), monitor).start()
    }

    pub(super) fn cron(&self, incarnation: u64) -> Addr<Cron<W>> {
        let (parts, monitor) = (&self.parts, self.monitor(Child::Cron, incarnation));
        let (clock, caller, diary) = (parts.clock.clone(), parts.caller.clone(), parts.diary.clone());
        Cron::new(clock, caller, diary, self.routes.clone(), self.log_of("cron"), monitor).start()
    }

    pub(super) fn kafka(&self, incarnation: u64) -> Addr<Kafka<W>> {
        let (feeds, monitor) = (self.parts.feeds.clone(), self.monitor(Child::Kafka, incarnation));
        let unregistered = self.unregistered.clone();
        Kafka::new(feeds, self.routes.clone(), unregistered, self.log_of("kafka"), monitor).start()
    }

    pub(super) fn lambda_services(
        &self,
        packages: &Link<Packages<W>>,
        zygotes: &Link<Zygotes<W>>,
        evictor: &Link<Evictor<W>>,
    ) -> Services<W> {
        Services {
            launcher: self.parts.launcher.clone(),
            packages: packages.clone(),
            known: self.known.clone(),
            zygotes: zygotes.clone(),
            evictor: evictor.clone(),
            ledger: self.ledger.clone(),
            sandbox_bytes: self.config.sandbox_bytes,
            warm_turns: Arc::clone(&self.warm_turns),
            stats: Arc::clone(&self.stats),
        }
    }

    pub(super) fn lambda(
        &self,
        incarnation: u64,
        assignment: Assignment<W>,
        services: Services<W>,
    ) -> Addr<Lambda<W>> {
        let log = self.logs.plain.new(o!("lambda" => assignment.name.to_string()));
        let monitor = self.monitor(Child::Lambda(assignment.name.clone()), incarnation);
        match self.arbiter_of(&assignment.name) {
            Some(arbiter) => {
                Lambda::start_in_arbiter(&arbiter, move |_| Lambda::new(assignment, services, log, monitor))
            }
            None => Lambda::new(assignment, services, log, monitor).start(),
        }
    }

    fn arbiter_of(&self, name: &FunctionName) -> Option<ArbiterHandle> {
        // The same name on the same arbiter each time, also after a restart of the worker.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
        let n = self.arbiters.len() as u64;
        (n > 0).then(|| self.arbiters[(hash % n) as usize].handle())
    }
}
