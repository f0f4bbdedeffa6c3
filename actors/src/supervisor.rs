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
//! supervisor itself waits for lambdas' answers to [`Statuses`], and at the end for those that have something to close, each with a time
//! limit; and no lambda ever waits for the supervisor.
//!
//! Who panics is started again after a pause, five times in ten seconds; then it is left alone for half a
//! minute ([`RestartBudget`]). Each life of an actor has a number, its incarnation, so that a late report of
//! one life's end cannot take down the next.
//!
//! | part | what |
//! |---|---|
//! | `nursery` | makes actors |
//! | `lambdas` | what is known of each function, and what is done when that changes |
//! | `gone` | the generations of functions that are gone |
//! | `restarts` | who has ended is started again |

mod gone;
mod lambdas;
mod nursery;
mod restarts;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture, ResponseFuture,
    WrapFuture,
};
use futures_util::future::{FutureExt, join, join_all};
use slog::{Logger, info, warn};
use tokio::time::{Instant, timeout};

use crate::cron::Cron;
use crate::evictor::Evictor;
use crate::first::AtHand;
use crate::kafka::Kafka;
use crate::lambda;
use crate::link::Link;
use crate::monitor::{Child, Down, RestartBudget};
use crate::name::FunctionName;
use crate::packages::Packages;
use crate::pool::{Closed, SharedPool};
use crate::router::{Router, Routes};
use crate::stats::{LambdaStatus, WorkerStats};
use crate::triggers::{self, Reconsider};
use crate::watcher::{Noticed, RegistryWatcher};
use crate::world::World;
use crate::zygotes::keeping::KEEP_TIME_MAX;
use crate::zygotes::{self, Zygotes};
use gone::Gone;
use lambdas::{Entry, Life};
use nursery::Nursery;
pub use nursery::{Config, Logs, Parts};
use restarts::Service;

/// How are all lambdas? Sorted by name.
#[derive(Debug, Message)]
#[rtype(result = "Vec<LambdaStatus>")]
pub struct Statuses;

/// Whether another worker, which has taken this one's place, sees to the triggers, and writes down what is learnt of imports. What
/// has begun goes on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Yield(pub bool);

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
    /// [`Require`](crate::packages::Require), [`Provide`](crate::packages::Provide),
    /// [`AskActivity`](crate::packages::AskActivity).
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
    let nursery = Nursery::new(parts, config, logs.clone(), supervisor.clone());
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
        gone: Gone::default(),
        leaving: Vec::new(),
        registry_trouble: None,
        shutting_down: false,
        is_yielded: false,
        log: logs.plain,
    });
    tree
}

/// The root of the tree.
pub struct Supervisor<W: World> {
    tree: Tree<W>,
    nursery: Nursery<W>,
    lambdas: HashMap<FunctionName, Entry<W>>,
    services: HashMap<Child, Service>,
    next_incarnation: u64,
    gone: Gone,
    /// Pools of lambdas that are gone, while invocations in them still run.
    leaving: Vec<SharedPool<W::Sandbox>>,
    registry_trouble: Option<String>,
    /// See [`Yield`].
    is_yielded: bool,
    shutting_down: bool,
    log: Logger,
}

impl<W: World> Supervisor<W> {
    /// The triggers look at the routing table, which has been changed already. A full mailbox is waited for; an actor that has
    /// died meanwhile looks at all of it when it is started again.
    fn tell_triggers(&self, name: &FunctionName, ctx: &mut Context<Self>) {
        let told = self.tree.cron.ask(Reconsider { name: name.clone() });
        ctx.spawn(told.into_actor(self).map(|_told, _supervisor, _ctx| ()));
        let told = self.tree.kafka.ask(Reconsider { name: name.clone() });
        ctx.spawn(told.into_actor(self).map(|_told, _supervisor, _ctx| ()));
    }

    /// They call nobody any more; waits until both have heard it.
    fn close_triggers(&self) -> impl Future<Output = ()> + use<W> {
        let closed = join(self.tree.cron.ask(triggers::Close), self.tree.kafka.ask(triggers::Close));
        // One that is being restarted has nothing to close.
        closed.map(|_closed| ())
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

impl<W: World> Handler<Yield> for Supervisor<W> {
    type Result = ();

    fn handle(&mut self, Yield(is_yielded): Yield, ctx: &mut Context<Self>) {
        if self.shutting_down || self.is_yielded == is_yielded {
            return;
        }
        self.is_yielded = is_yielded;
        self.nursery.forest.lock().is_yielded = is_yielded;
        if is_yielded {
            let closed = self.close_triggers();
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
        let closed = self.close_triggers();
        let drained = async move {
            let _ = timeout(STATUS_TIME_MAX, closed).await;
            loop {
                let n_unfinished: usize = pools.iter().map(SharedPool::n_busy).sum();
                if n_unfinished == 0 || Instant::now() >= deadline {
                    return n_unfinished;
                }
                tokio::time::sleep(DRAIN_LOOK_EVERY).await;
            }
        };
        Box::pin(drained.into_actor(self).then(|n_unfinished, supervisor, _ctx| {
            if n_unfinished > 0 {
                warn!(supervisor.log, "invocations did not finish in time"; "n_unfinished" => n_unfinished);
            }
            // Routes first, so that nobody holds what is dropped next.
            supervisor.nursery.routes.clear();
            supervisor.lambdas.clear();
            supervisor.leaving.clear();
            let closed = timeout(KEEP_TIME_MAX, supervisor.tree.zygotes.ask(zygotes::Close));
            closed.into_actor(supervisor).map(move |closed, supervisor, _ctx| {
                if !matches!(closed, Ok(Ok(()))) {
                    warn!(supervisor.log, "the zygotes have not closed in time; they end with the worker");
                }
                for arbiter in &supervisor.nursery.arbiters {
                    arbiter.stop();
                }
                ShutdownReport { n_unfinished }
            })
        }))
    }
}
