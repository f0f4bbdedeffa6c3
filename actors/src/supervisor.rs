//! The root of the tree: starts every actor, starts those again that panic, and ends them in order.
//!
//! ```text
//! Supervisor ─┬─ Packages, Zygotes, Evictor     asked by the lambdas
//!             ├─ RegistryWatcher                tells the supervisor what changed
//!             ├─ Router                         asks the watcher
//!             ├─ Cron, Kafka                    call functions as HTTP does; are told what changed
//!             └─ Lambda "hello", "resize", …    spread over arbiters by name
//! ```
//!
//! Asking goes down or sideways in the order of that picture, and never in a circle: HTTP asks the router,
//! which asks the watcher; lambdas ask packages, zygotes and the evictor; zygotes and the watcher ask packages. Upwards there are events only. The
//! one thing the supervisor itself waits for are lambdas' answers to [`Statuses`], with a time limit, and no
//! lambda ever waits for the supervisor.
//!
//! Who panics is started again after a pause, five times in ten seconds; then it is left alone for half a
//! minute ([`RestartBudget`]). Each life of an actor has a number, its incarnation, so that a late report of
//! one life's end cannot take down the next.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, Arbiter, ArbiterHandle, AsyncContext, Context, Handler, Message,
    ResponseActFuture, ResponseFuture, WrapFuture,
};
use futures_util::future::{join, join_all};
use slog::{Logger, error, info, o, warn};
use tokio::time::{Instant, timeout};

use crate::cron::{self, Cron, Reconsider};
use crate::evictor::{Evictor, Ledger, Surroundings};
use crate::first::AtHand;
use crate::kafka::{Kafka, Unregistered};
use crate::lambda::{self, Assignment, Lambda, Services};
use crate::link::Link;
use crate::monitor::{Child, Down, Exit, Monitor, RestartBudget, Spent};
use crate::name::FunctionName;
use crate::packages::{Known, Packages};
use crate::pool::{Closed, SharedPool};
use crate::router::{Route, Router, Routes};
use crate::shelves::SharedShelves;
use crate::stats::{LambdaStatus, State, WorkerStats};
use crate::tree::SharedForest;
use crate::watcher::{Noticed, RegistryWatcher};
use crate::world::{Code, Network, World};
use crate::zygotes::{self, Standbys, Zygotes, ZygotesConfig};

/// How are all lambdas? Sorted by name.
#[derive(Debug, Message)]
#[rtype(result = "Vec<LambdaStatus>")]
pub struct Statuses;

/// Whether another worker, which has taken this one's place, sees to the triggers. What has begun goes on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct YieldTriggers(pub bool);

/// How is the worker?
#[derive(Debug, Message)]
#[rtype(result = "Health")]
pub struct AskHealth;

/// The worker as a whole.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Health {
    /// Why the registry cannot be read, if that is so. What is known is served on.
    pub registry_trouble: Option<String>,
    /// Functions in the registry.
    pub n_functions: usize,
    /// The worker ends.
    pub shutting_down: bool,
}

/// End the worker: refuse new requests, let invocations finish, drop all sandboxes. Sent again, with a shorter
/// grace, it ends sooner.
#[derive(Debug, Message)]
#[rtype(result = "ShutdownReport")]
pub struct Shutdown {
    /// How long invocations may take to finish.
    pub grace: Duration,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Invocations that had not finished when the grace was over.
    pub n_unfinished: usize,
}

/// How long a lambda may take to say how it is.
pub const STATUS_TIME_MAX: Duration = Duration::from_millis(250);
/// How often a shutdown looks whether all invocations have finished.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(10);

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

/// What the rest of the worker needs of the tree. A clone leads to the same one.
pub struct Tree<W: World> {
    /// From names to lambdas and their pools.
    pub routes: Routes<W>,
    /// [`Statuses`], [`AskHealth`], [`Shutdown`].
    pub supervisor: Addr<Supervisor<W>>,
    /// [`Resolve`](crate::router::Resolve) names that are not in `routes`.
    pub router: Link<Router<W>>,
    /// [`Touched`](crate::watcher::Touched), [`Rescan`](crate::watcher::Rescan),
    /// [`Refresh`](crate::watcher::Refresh).
    pub watcher: Link<RegistryWatcher<W>>,
    /// [`Waiting`](crate::zygotes::Waiting).
    pub zygotes: Link<Zygotes<W>>,
    /// [`Memory`](crate::evictor::Memory).
    pub evictor: Link<Evictor<W>>,
    /// [`Require`](crate::packages::Require).
    pub packages: Link<Packages<W>>,
    /// [`AskCron`](crate::cron::AskCron).
    pub cron: Link<Cron<W>>,
    /// [`Register`](crate::kafka::Register), [`Unregister`](crate::kafka::Unregister),
    /// [`AskKafka`](crate::kafka::AskKafka).
    pub kafka: Link<Kafka<W>>,
    /// What a request needs to make its sandbox itself.
    pub at_hand: AtHand<W>,
    /// Counters of the worker.
    pub stats: Arc<WorkerStats>,
}

impl<W: World> Clone for Tree<W> {
    fn clone(&self) -> Self {
        Self {
            routes: self.routes.clone(),
            supervisor: self.supervisor.clone(),
            router: self.router.clone(),
            watcher: self.watcher.clone(),
            zygotes: self.zygotes.clone(),
            evictor: self.evictor.clone(),
            packages: self.packages.clone(),
            cron: self.cron.clone(),
            kafka: self.kafka.clone(),
            at_hand: self.at_hand.clone(),
            stats: Arc::clone(&self.stats),
        }
    }
}

/// Start the tree on the arbiter of the caller, and lambdas on arbiters of their own.
///
/// # Panics
/// Outside of an actix system.
#[must_use]
pub fn start<W: World>(parts: Parts<W>, config: Config, logs: impl Into<Logs>) -> Tree<W> {
    let logs = logs.into();
    let ctx = Context::<Supervisor<W>>::new();
    let supervisor = ctx.address();
    let settings = &config.zygotes;
    let forest = SharedForest::new(
        settings.plan.as_ref().filter(|_| settings.import_cache),
        settings.default_class.network == Network::Host,
    );
    let nursery = Nursery {
        parts,
        ledger: Ledger::new(logs.memory.new(o!("part" => "memory"))),
        known: Known::default(),
        standbys: SharedShelves::new(settings.shelf_limits()),
        forest,
        routes: Routes::default(),
        unregistered: Unregistered::default(),
        stats: Arc::new(WorkerStats::default()),
        arbiters: (0..config.n_arbiters).map(|_| Arbiter::new()).collect(),
        config,
        supervisor: supervisor.clone(),
        logs: logs.clone(),
    };
    // From the ground up: each is given those that it asks.
    let packages = Link::new(nursery.packages(1));
    let zygotes = Link::new(nursery.zygotes(1, packages.clone()));
    let evictor = Link::new(nursery.evictor(1, zygotes.clone()));
    let watcher = Link::new(nursery.watcher(1, packages.clone()));
    let router = Link::new(nursery.router(1, watcher.clone()));
    let cron = Link::new(nursery.cron(1));
    let kafka = Link::new(nursery.kafka(1));
    let services = nursery.lambda_services(&packages, &zygotes, &evictor);
    let at_hand = AtHand::new(nursery.standbys.clone(), nursery.forest.clone(), services);
    let tree = Tree {
        routes: nursery.routes.clone(),
        supervisor,
        router,
        watcher,
        zygotes,
        evictor,
        packages,
        cron,
        kafka,
        at_hand,
        stats: Arc::clone(&nursery.stats),
    };
    let service = || Service { incarnation: 1, budget: RestartBudget::default() };
    let services = [
        Child::Packages,
        Child::Zygotes,
        Child::Evictor,
        Child::Watcher,
        Child::Router,
        Child::Cron,
        Child::Kafka,
    ];
    let _ = ctx.run(Supervisor {
        tree: tree.clone(),
        nursery,
        lambdas: HashMap::new(),
        services: services.into_iter().map(|child| (child, service())).collect(),
        next_incarnation: 2,
        generations_gone: 0,
        leaving: Vec::new(),
        registry_trouble: None,
        shutting_down: false,
        triggers_yielded: false,
        log: logs.plain,
    });
    tree
}

/// Makes actors, the first time and after a panic.
struct Nursery<W: World> {
    config: Config,
    parts: Parts<W>,
    ledger: Ledger,
    known: Known,
    standbys: Standbys<W>,
    forest: SharedForest<W::Zygote>,
    routes: Routes<W>,
    unregistered: Unregistered,
    stats: Arc<WorkerStats>,
    arbiters: Vec<Arbiter>,
    supervisor: Addr<Supervisor<W>>,
    logs: Logs,
}

impl<W: World> Nursery<W> {
    fn monitor(&self, child: Child, incarnation: u64) -> Monitor {
        Monitor::new(child, incarnation, self.supervisor.clone().recipient())
    }

    fn log_of(&self, actor: &'static str) -> Logger {
        self.logs.plain.new(o!("actor" => actor))
    }

    fn packages(&self, incarnation: u64) -> Addr<Packages<W>> {
        let monitor = self.monitor(Child::Packages, incarnation);
        Packages::new(
            self.parts.packages.clone(),
            self.known.clone(),
            self.routes.clone(),
            Arc::clone(&self.stats),
            self.logs.packages.new(o!("actor" => "packages")),
            monitor,
        )
        .start()
    }

    fn zygotes(&self, incarnation: u64, packages: Link<Packages<W>>) -> Addr<Zygotes<W>> {
        let surroundings = zygotes::Surroundings {
            launcher: self.parts.launcher.clone(),
            standbys: self.standbys.clone(),
            forest: self.forest.clone(),
            packages,
            store: self.parts.packages.clone(),
            known: self.known.clone(),
            routes: self.routes.clone(),
            ledger: self.ledger.clone(),
            stats: Arc::clone(&self.stats),
        };
        let monitor = self.monitor(Child::Zygotes, incarnation);
        Zygotes::new(surroundings, self.config.zygotes.clone(), self.log_of("zygotes"), monitor).start()
    }

    fn evictor(&self, incarnation: u64, zygotes: Link<Zygotes<W>>) -> Addr<Evictor<W>> {
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

    fn watcher(&self, incarnation: u64, packages: Link<Packages<W>>) -> Addr<RegistryWatcher<W>> {
        RegistryWatcher::new(
            self.parts.registry.clone(),
            packages,
            self.supervisor.clone().recipient(),
            self.log_of("watcher"),
            self.monitor(Child::Watcher, incarnation),
        )
        .start()
    }

    fn router(&self, incarnation: u64, watcher: Link<RegistryWatcher<W>>) -> Addr<Router<W>> {
        let monitor = self.monitor(Child::Router, incarnation);
        Router::new(self.routes.clone(), watcher, self.log_of("router"), monitor).start()
    }

    fn cron(&self, incarnation: u64) -> Addr<Cron<W>> {
        let (parts, monitor) = (&self.parts, self.monitor(Child::Cron, incarnation));
        let (clock, caller, diary) = (parts.clock.clone(), parts.caller.clone(), parts.diary.clone());
        Cron::new(clock, caller, diary, self.routes.clone(), self.log_of("cron"), monitor).start()
    }

    fn kafka(&self, incarnation: u64) -> Addr<Kafka<W>> {
        let (feeds, monitor) = (self.parts.feeds.clone(), self.monitor(Child::Kafka, incarnation));
        let unregistered = self.unregistered.clone();
        Kafka::new(feeds, self.routes.clone(), unregistered, self.log_of("kafka"), monitor).start()
    }

    fn lambda_services(
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
            stats: Arc::clone(&self.stats),
        }
    }

    fn lambda(&self, incarnation: u64, assignment: Assignment<W>, services: Services<W>) -> Addr<Lambda<W>> {
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

/// The root of the tree.
pub struct Supervisor<W: World> {
    tree: Tree<W>,
    nursery: Nursery<W>,
    lambdas: HashMap<FunctionName, Entry<W>>,
    services: HashMap<Child, Service>,
    next_incarnation: u64,
    /// The highest generation of any function that is gone. One that comes back under an old name counts on from it: a
    /// zygote of what once had the name, which goes by name and generation, must not be taken for one of the new code.
    generations_gone: u64,
    /// Pools of lambdas that are gone, while invocations in them still run.
    leaving: Vec<SharedPool<W::Sandbox>>,
    registry_trouble: Option<String>,
    /// Another worker sees to the triggers.
    triggers_yielded: bool,
    shutting_down: bool,
    log: Logger,
}

struct Service {
    incarnation: u64,
    budget: RestartBudget,
}

/// What the supervisor knows about a function.
struct Entry<W: World> {
    /// What is served, and which generation that is.
    served: Option<(W::Code, u64)>,
    rejected: Option<String>,
    life: Life<W>,
    budget: RestartBudget,
}

enum Life<W: World> {
    /// There was no valid code yet.
    Unborn,
    Running {
        addr: Addr<Lambda<W>>,
        pool: SharedPool<W::Sandbox>,
        incarnation: u64,
    },
    /// It has ended, and is started again in a moment. The pool refuses, and has the last figures.
    Restarting {
        pool: SharedPool<W::Sandbox>,
        ended: u64,
    },
    /// It has ended too often.
    Broken {
        pool: SharedPool<W::Sandbox>,
        until: Instant,
        reason: String,
    },
}

impl<W: World> Supervisor<W> {
    fn changed(&mut self, name: FunctionName, code: W::Code, ctx: &mut Context<Self>) {
        let entry = self.lambdas.entry(name.clone()).or_insert_with(Entry::unborn);
        let was_rejected = entry.rejected.take().is_some();
        let generation = match &entry.served {
            Some((served, _)) if served.version() == code.version() => {
                if let (true, Life::Running { addr, .. }) = (was_rejected, &entry.life)
                    && addr.try_send(lambda::Rejected { reason: None }).is_err()
                {
                    warn!(self.log, "a lambda was not told that its upload is well again"; "lambda" => %name);
                }
                return;
            }
            Some((_, generation)) => generation + 1,
            None => self.generations_gone + 1,
        };
        entry.served = Some((code.clone(), generation));
        self.nursery.stats.reloads.bump();
        match &entry.life {
            Life::Running { addr, pool, .. } => {
                // From here on no request gets the old code. The lambda makes sandboxes of the new one when the
                // message arrives; it goes past a full mailbox by waiting for its turn.
                pool.set_code(generation, code.limits(), code.reuse());
                let told = addr.send(lambda::Changed { generation, code: code.clone() });
                let route = Route { name, pool: pool.clone(), lambda: Some(addr.clone()), code, generation };
                self.nursery.routes.insert(route);
                // A lambda that has died meanwhile gets the code when it is started again.
                ctx.spawn(told.into_actor(self).map(|_told, _supervisor, _ctx| ()));
            }
            Life::Restarting { .. } => {}
            // New code is a new chance.
            Life::Unborn | Life::Broken { .. } => self.start_lambda(&name),
        }
    }

    fn removed(&mut self, name: &FunctionName) {
        self.nursery.routes.remove(name);
        let Some(entry) = self.lambdas.remove(name) else { return };
        if let Some((_, generation)) = entry.served {
            self.generations_gone = self.generations_gone.max(generation);
        }
        if let Life::Running { addr, pool, .. } = entry.life {
            info!(self.log, "retiring a lambda"; "lambda" => %name);
            pool.close(Closed::Retiring);
            // The lambda ends by itself when its pool is closed; with this it does so at once.
            let _ = addr.try_send(lambda::Retire);
            self.see_off(pool);
        }
    }

    fn rejected(&mut self, name: FunctionName, reason: String) {
        warn!(self.log, "an upload cannot be served"; "lambda" => %name, "reason" => &reason);
        self.nursery.stats.uploads_rejected.bump();
        let entry = self.lambdas.entry(name.clone()).or_insert_with(Entry::unborn);
        if let Life::Running { addr, .. } = &entry.life
            && addr.try_send(lambda::Rejected { reason: Some(reason.clone()) }).is_err()
        {
            warn!(self.log, "a lambda was not told that its upload is broken"; "lambda" => %name);
        }
        entry.rejected = Some(reason);
    }

    fn start_lambda(&mut self, name: &FunctionName) {
        let Some(entry) = self.lambdas.get_mut(name) else { return };
        let Some((code, generation)) = entry.served.clone() else { return };
        let incarnation = self.next_incarnation;
        self.next_incarnation += 1;
        let pool = SharedPool::new(generation, code.limits(), code.reuse());
        let assignment = Assignment {
            name: name.clone(),
            code: code.clone(),
            generation,
            rejected: entry.rejected.clone(),
            pool: pool.clone(),
        };
        let services =
            self.nursery.lambda_services(&self.tree.packages, &self.tree.zygotes, &self.tree.evictor);
        let addr = self.nursery.lambda(incarnation, assignment, services);
        let route =
            Route { name: name.clone(), pool: pool.clone(), lambda: Some(addr.clone()), code, generation };
        self.nursery.routes.insert(route);
        entry.life = Life::Running { addr, pool, incarnation };
    }

    fn lambda_down(&mut self, name: FunctionName, ended: u64, exit: Exit, ctx: &mut Context<Self>) {
        let Some(entry) = self.lambdas.get_mut(&name) else { return };
        let Life::Running { pool, incarnation, .. } = &entry.life else { return };
        if *incarnation != ended {
            return;
        }
        let pool = pool.clone();
        // Those who wait and those who come are told, until the successor is there.
        pool.close(Closed::Restarting);
        let now = Instant::now();
        match entry.budget.try_spend(now) {
            Ok(pause) => {
                warn!(self.log, "a lambda has ended and is started again"; "lambda" => %name, "exit" => ?exit);
                self.nursery.stats.actors_restarted.bump();
                entry.life = Life::Restarting { pool: pool.clone(), ended };
                ctx.run_later(pause, move |supervisor, ctx| {
                    let entry = supervisor.lambdas.get(&name);
                    let due = entry
                        .is_some_and(|e| matches!(e.life, Life::Restarting { ended: e, .. } if e == ended));
                    if due && !supervisor.shutting_down {
                        supervisor.start_lambda(&name);
                        // Its code may have changed meanwhile, and is in the table from now on.
                        supervisor.tell_triggers(&name, ctx);
                    }
                });
            }
            Err(Spent { until }) => {
                error!(self.log, "a lambda ends again and again, it is left alone for a while";
                    "lambda" => %name, "exit" => ?exit);
                let reason =
                    format!("its actor has failed {} times in a row", crate::monitor::RESTARTS_MAX + 1);
                if let Some((code, generation)) = entry.served.clone() {
                    let closed = SharedPool::closed(Closed::Broken { reason: reason.clone(), until });
                    let route = Route { name: name.clone(), pool: closed, lambda: None, code, generation };
                    self.nursery.routes.insert(route);
                }
                entry.life = Life::Broken { pool: pool.clone(), until, reason };
                ctx.run_later(until - now, move |supervisor, _ctx| {
                    let entry = supervisor.lambdas.get(&name);
                    let due =
                        entry.is_some_and(|e| matches!(e.life, Life::Broken { until: u, .. } if u == until));
                    if due && !supervisor.shutting_down {
                        supervisor.start_lambda(&name);
                    }
                });
            }
        }
        self.see_off(pool);
    }

    fn service_down(&mut self, child: Child, ended: u64, exit: Exit, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get_mut(&child) else { return };
        if service.incarnation != ended {
            return;
        }
        if self.triggers_yielded && matches!(child, Child::Cron | Child::Kafka) {
            // It was told to close, and comes back with the place.
            return;
        }
        let now = Instant::now();
        let pause = match service.budget.try_spend(now) {
            Ok(pause) => {
                warn!(self.log, "a service has ended and is started again"; "actor" => %child, "exit" => ?exit);
                pause
            }
            Err(Spent { until }) => {
                error!(self.log, "a service ends again and again, it is left alone for a while";
                    "actor" => %child, "exit" => ?exit);
                until - now
            }
        };
        self.nursery.stats.actors_restarted.bump();
        ctx.run_later(pause, move |supervisor, _ctx| {
            let is_yielded = supervisor.triggers_yielded && matches!(child, Child::Cron | Child::Kafka);
            if !supervisor.shutting_down && !is_yielded {
                supervisor.restart_service(&child);
            }
        });
    }

    fn restart_service(&mut self, child: &Child) {
        let Some(service) = self.services.get_mut(child) else { return };
        let incarnation = self.next_incarnation;
        self.next_incarnation += 1;
        service.incarnation = incarnation;
        let (nursery, tree) = (&self.nursery, &self.tree);
        match child {
            Child::Packages => tree.packages.replace(nursery.packages(incarnation)),
            Child::Zygotes => tree.zygotes.replace(nursery.zygotes(incarnation, tree.packages.clone())),
            Child::Evictor => tree.evictor.replace(nursery.evictor(incarnation, tree.zygotes.clone())),
            Child::Watcher => tree.watcher.replace(nursery.watcher(incarnation, tree.packages.clone())),
            Child::Router => tree.router.replace(nursery.router(incarnation, tree.watcher.clone())),
            Child::Cron => tree.cron.replace(nursery.cron(incarnation)),
            Child::Kafka => tree.kafka.replace(nursery.kafka(incarnation)),
            Child::Lambda(_) => unreachable!("a lambda is not a service"),
        }
    }

    /// The triggers look at the routing table, which has been changed already. A full mailbox is waited for; an actor that has
    /// died meanwhile looks at all of it when it is started again.
    fn tell_triggers(&self, name: &FunctionName, ctx: &mut Context<Self>) {
        let told = self.tree.cron.ask(Reconsider { name: name.clone() });
        ctx.spawn(told.into_actor(self).map(|_told, _supervisor, _ctx| ()));
        let told = self.tree.kafka.ask(Reconsider { name: name.clone() });
        ctx.spawn(told.into_actor(self).map(|_told, _supervisor, _ctx| ()));
    }

    /// Remember a pool that hands out no more, until what is on loan has come home.
    fn see_off(&mut self, pool: SharedPool<W::Sandbox>) {
        self.leaving.retain(|pool| pool.n_busy() > 0);
        self.leaving.push(pool);
    }

    fn pools(&self) -> Vec<SharedPool<W::Sandbox>> {
        let running = self.lambdas.values().filter_map(|entry| match &entry.life {
            Life::Running { pool, .. } => Some(pool.clone()),
            // Theirs are among those that leave.
            Life::Unborn | Life::Restarting { .. } | Life::Broken { .. } => None,
        });
        running.chain(self.leaving.iter().cloned()).collect()
    }

    /// What can be said about a lambda without asking it.
    fn row(&self, name: &FunctionName, entry: &Entry<W>) -> LambdaStatus {
        let version = entry.served.as_ref().map_or_else(String::new, |(code, _)| code.version().to_owned());
        let message = entry.rejected.clone().unwrap_or_default();
        let (pool, state, message) = match &entry.life {
            Life::Unborn => (SharedPool::closed(Closed::Retiring), State::Rejected, message),
            Life::Running { pool, .. } => {
                (pool.clone(), State::Unresponsive, "its actor does not answer".into())
            }
            Life::Restarting { pool, .. } => {
                (pool.clone(), State::Starting, "its actor is being restarted".into())
            }
            Life::Broken { pool, until, reason } => {
                let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
                (pool.clone(), State::Broken, format!("{reason}; tried again in {seconds} s"))
            }
        };
        let mut row = lambda::row(name.clone(), version, &pool.figures(), state, message);
        row.generation = entry.served.as_ref().map_or(0, |(_, generation)| *generation);
        row
    }
}

impl<W: World> Entry<W> {
    fn unborn() -> Self {
        Self { served: None, rejected: None, life: Life::Unborn, budget: RestartBudget::default() }
    }
}

impl<W: World> Actor for Supervisor<W> {
    type Context = Context<Self>;
}

impl<W: World> Handler<Noticed<W>> for Supervisor<W> {
    type Result = ();

    fn handle(&mut self, noticed: Noticed<W>, ctx: &mut Context<Self>) {
        if self.shutting_down {
            return;
        }
        match noticed {
            Noticed::Changed { name, code } => {
                self.changed(name.clone(), code, ctx);
                self.tell_triggers(&name, ctx);
            }
            Noticed::Removed { name } => {
                self.removed(&name);
                self.tell_triggers(&name, ctx);
            }
            Noticed::Rejected { name, reason } => self.rejected(name, reason),
            Noticed::Trouble { reason } => self.registry_trouble = reason,
        }
    }
}

impl<W: World> Handler<Down> for Supervisor<W> {
    type Result = ();

    fn handle(&mut self, Down { name, incarnation, exit }: Down, ctx: &mut Context<Self>) {
        if self.shutting_down {
            return;
        }
        match name {
            Child::Lambda(name) => self.lambda_down(name, incarnation, exit, ctx),
            service => self.service_down(service, incarnation, exit, ctx),
        }
    }
}

impl<W: World> Handler<Statuses> for Supervisor<W> {
    type Result = ResponseFuture<Vec<LambdaStatus>>;

    fn handle(&mut self, _: Statuses, _ctx: &mut Context<Self>) -> Self::Result {
        let rows: Vec<_> = self
            .lambdas
            .iter()
            .map(|(name, entry)| {
                let asked = match &entry.life {
                    Life::Running { addr, .. } => Some(timeout(STATUS_TIME_MAX, addr.send(lambda::Status))),
                    _ => None,
                };
                let stand_in = self.row(name, entry);
                async move {
                    match asked {
                        Some(asked) => asked.await.ok().and_then(Result::ok).unwrap_or(stand_in),
                        None => stand_in,
                    }
                }
            })
            .collect();
        Box::pin(async {
            let mut rows = join_all(rows).await;
            rows.sort_by(|a, b| a.name.cmp(&b.name));
            rows
        })
    }
}

impl<W: World> Handler<YieldTriggers> for Supervisor<W> {
    type Result = ();

    fn handle(&mut self, YieldTriggers(yielded): YieldTriggers, ctx: &mut Context<Self>) {
        if self.shutting_down || self.triggers_yielded == yielded {
            return;
        }
        self.triggers_yielded = yielded;
        if yielded {
            let closed = join(self.tree.cron.ask(cron::Close), self.tree.kafka.ask(cron::Close));
            ctx.spawn(closed.into_actor(self).map(|_closed, _supervisor, _ctx| ()));
        } else {
            // What was closed stays so; those that are started now look at all functions.
            self.restart_service(&Child::Cron);
            self.restart_service(&Child::Kafka);
        }
    }
}

impl<W: World> Handler<AskHealth> for Supervisor<W> {
    type Result = actix::MessageResult<AskHealth>;

    fn handle(&mut self, _: AskHealth, _ctx: &mut Context<Self>) -> Self::Result {
        actix::MessageResult(Health {
            registry_trouble: self.registry_trouble.clone(),
            n_functions: self.lambdas.len(),
            shutting_down: self.shutting_down,
        })
    }
}

impl<W: World> Handler<Shutdown> for Supervisor<W> {
    type Result = ResponseActFuture<Self, ShutdownReport>;

    fn handle(&mut self, Shutdown { grace }: Shutdown, _ctx: &mut Context<Self>) -> Self::Result {
        let deadline = Instant::now() + grace;
        let pools = self.pools();
        self.shutting_down = true;
        info!(self.log, "shutting down"; "grace_ms" => u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        // Each lambda ends when its pool is closed; what is on loan stays so until it comes home.
        for pool in &pools {
            pool.close(Closed::ShuttingDown);
        }
        // What they have begun is waited for like any other request. One that is being restarted is not started again.
        let triggers = join(self.tree.cron.ask(cron::Close), self.tree.kafka.ask(cron::Close));
        let drained = async move {
            let _ = timeout(STATUS_TIME_MAX, triggers).await;
            loop {
                let n_unfinished: usize = pools.iter().map(SharedPool::n_busy).sum();
                if n_unfinished == 0 || Instant::now() >= deadline {
                    return n_unfinished;
                }
                tokio::time::sleep(DRAIN_LOOK_EVERY).await;
            }
        };
        Box::pin(drained.into_actor(self).map(|n_unfinished, supervisor, _ctx| {
            if n_unfinished > 0 {
                warn!(supervisor.log, "invocations did not finish in time"; "n_unfinished" => n_unfinished);
            }
            // Routes first, so that nobody holds what is dropped next.
            supervisor.nursery.routes.clear();
            supervisor.lambdas.clear();
            supervisor.leaving.clear();
            let closed = supervisor.tree.zygotes.try_tell(zygotes::Close);
            if closed.is_err() {
                warn!(supervisor.log, "the zygotes were not told to close; they end with the worker");
            }
            for arbiter in &supervisor.nursery.arbiters {
                arbiter.stop();
            }
            ShutdownReport { n_unfinished }
        }))
    }
}

#[cfg(test)]
mod tests;
