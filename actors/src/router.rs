//! From a function's name to its lambda.
//!
//! The table ([`Routes`]) is read by every HTTP thread without asking anyone, and written by the supervisor
//! only. The actor ([`Router`]) is the miss path: a name that is not in the table may have been put into the
//! registry a moment ago. It asks the watcher to look, once per name however many ask, and keeps nothing
//! about names that are not there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use dashmap::DashMap;
use slog::{Logger, debug};
use tokio::sync::oneshot;

use crate::lambda::Lambda;
use crate::link::Link;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::pool::SharedPool;
use crate::watcher::{Lookup, RegistryWatcher, Trouble};
use crate::world::World;

/// Find the lambda of a name that is not in the table.
pub struct Resolve<W: World> {
    /// The name that was asked for.
    pub name: FunctionName,
    world: std::marker::PhantomData<fn() -> W>,
}

impl<W: World> Resolve<W> {
    /// Find this one.
    #[must_use]
    pub fn new(name: FunctionName) -> Self {
        Self { name, world: std::marker::PhantomData }
    }
}

impl<W: World> Message for Resolve<W> {
    type Result = Result<Arc<Route<W>>, ResolveError>;
}

/// Why a name leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no function of that name.
    #[error("there is no such function")]
    NotFound,
    /// There is one, and it cannot be served; the text says what to mend.
    #[error("{0}")]
    Rejected(String),
    /// The registry could not be asked.
    #[error("{0}")]
    Unavailable(String),
    /// There is one, and its packages are being installed. Who asks again is told when they are there.
    #[error("{}", Trouble::Installing)]
    Installing,
    /// Too many unknown names are being looked up.
    #[error("too many functions are being looked up; try again")]
    Busy,
}

/// Names that are looked up at once. A flood of unknown names must not keep the disk from those that exist.
pub const LOOKUPS_MAX: usize = 64;
/// Requests that wait for lookups, all names together.
pub const LOOKUP_WAITERS_MAX: usize = 4_096;
/// How long a lookup may take: the time that a half-written upload may take to settle, and as much again to
/// read it.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(6);

/// Where a name leads.
pub struct Route<W: World> {
    /// The function.
    pub name: FunctionName,
    /// Its sandboxes: lease from here.
    pub pool: SharedPool<W::Sandbox>,
    /// Its lambda. `None`: the lambda failed too often, and the pool refuses.
    pub lambda: Option<Addr<Lambda<W>>>,
    /// The code that is served.
    pub code: W::Code,
    /// Which generation of the code that is.
    pub generation: u64,
}

/// The table. Cheap to clone; a clone is the same table.
pub struct Routes<W: World>(Arc<Table<W>>);

struct Table<W: World> {
    routes: DashMap<FunctionName, Arc<Route<W>>>,
    n_changes: AtomicU64,
}

impl<W: World> Clone for Routes<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: World> Default for Routes<W> {
    fn default() -> Self {
        Self(Arc::new(Table { routes: DashMap::new(), n_changes: AtomicU64::new(0) }))
    }
}

impl<W: World> Routes<W> {
    /// Where this name leads.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Route<W>>> {
        // Cloned out at once: the shard is locked as long as the entry is held.
        self.0.routes.get(name).map(|route| Arc::clone(&route))
    }

    /// All routes, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Route<W>>> {
        self.0.routes.iter().map(|route| Arc::clone(&route)).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.routes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.routes.is_empty()
    }

    /// How often a route was set so far.
    #[must_use]
    pub fn n_changes(&self) -> u64 {
        self.0.n_changes.load(Ordering::Relaxed)
    }

    pub(crate) fn insert(&self, route: Route<W>) {
        self.0.routes.insert(route.name.clone(), Arc::new(route));
        self.0.n_changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, name: &FunctionName) {
        self.0.routes.remove(name);
    }

    pub(crate) fn clear(&self) {
        self.0.routes.clear();
    }
}

/// The miss path.
pub struct Router<W: World> {
    routes: Routes<W>,
    watcher: Link<RegistryWatcher<W>>,
    lookups: HashMap<FunctionName, Vec<Reach<W>>>,
    n_waiters: usize,
    log: Logger,
    _monitor: Monitor,
}

type Reach<W> = oneshot::Sender<Result<Arc<Route<W>>, ResolveError>>;

impl<W: World> Router<W> {
    /// Looks names up through this watcher.
    #[must_use]
    pub fn new(routes: Routes<W>, watcher: Link<RegistryWatcher<W>>, log: Logger, monitor: Monitor) -> Self {
        Self { routes, watcher, lookups: HashMap::new(), n_waiters: 0, log, _monitor: monitor }
    }

    fn look_up(&mut self, name: FunctionName, ctx: &mut Context<Self>) {
        let asked = self.watcher.ask(Lookup { name: name.clone() });
        let bounded = async move {
            match tokio::time::timeout(LOOKUP_TIME_MAX, asked).await {
                Ok(Ok(found)) => found.map_err(ResolveError::from),
                Ok(Err(_)) => {
                    Err(ResolveError::Unavailable("the registry's watcher is being restarted".into()))
                }
                Err(_) => Err(ResolveError::Unavailable("the registry takes too long to answer".into())),
            }
        };
        ctx.spawn(bounded.into_actor(self).map(move |found, router, _ctx| {
            // The supervisor has made the route by the time the watcher answers.
            let answer = match found {
                Ok(true) => router.routes.get(name.as_str()).ok_or(ResolveError::NotFound),
                Ok(false) => Err(ResolveError::NotFound),
                Err(error) => Err(error),
            };
            debug!(router.log, "looked up a function"; "name" => %name, "found" => answer.is_ok());
            let waiters = router.lookups.remove(&name).unwrap_or_default();
            router.n_waiters -= waiters.len();
            for reach in waiters {
                // One that has gone needs no answer.
                let _ = reach.send(answer.clone());
            }
        }));
    }
}

impl From<Trouble> for ResolveError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Rejected(reason) => Self::Rejected(reason),
            Trouble::Installing => Self::Installing,
            Trouble::Unavailable(reason) => Self::Unavailable(reason),
            Trouble::Busy => Self::Busy,
        }
    }
}

impl<W: World> Actor for Router<W> {
    type Context = Context<Self>;
}

impl<W: World> Handler<Resolve<W>> for Router<W> {
    type Result = ResponseFuture<Result<Arc<Route<W>>, ResolveError>>;

    fn handle(&mut self, Resolve { name, .. }: Resolve<W>, ctx: &mut Context<Self>) -> Self::Result {
        if let Some(route) = self.routes.get(name.as_str()) {
            return Box::pin(async { Ok(route) });
        }
        let is_new = !self.lookups.contains_key(&name);
        if self.n_waiters >= LOOKUP_WAITERS_MAX || (is_new && self.lookups.len() >= LOOKUPS_MAX) {
            return Box::pin(async { Err(ResolveError::Busy) });
        }
        let (reach, answer) = oneshot::channel();
        self.n_waiters += 1;
        self.lookups.entry(name.clone()).or_default().push(reach);
        if is_new {
            self.look_up(name, ctx);
        }
        Box::pin(async {
            let gone = || Err(ResolveError::Unavailable("the router is being restarted".into()));
            answer.await.unwrap_or_else(|_| gone())
        })
    }
}

impl<W: World> Handler<Crash> for Router<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}
