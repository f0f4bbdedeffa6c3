//! Installed packages: what functions ask for, and which of it is there.
//!
//! This actor asks the world (a [`PackageStore`]) and remembers the answers in [`Known`], which whoever makes a
//! sandbox reads without asking anyone. It has installed what is missing ([`Provide`]), before a function's code goes into
//! service: each package once, a few at a time, and never in the way of a request of another function. What is remembered is looked at again every [`LOOK_EVERY`]; so a package that
//! was removed, or a second version where one was meant, is noticed while the worker runs. What is missing is never
//! remembered: the next request looks again.
//!
//! | part | what |
//! |---|---|
//! | `set` | packages, and sets of them |
//! | `known` | what is remembered |
//! | `desk` | what is settled and installed |

mod desk;
mod known;
mod set;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResponse, ResponseActFuture,
    ResponseFuture, WrapFuture, fut,
};
use slog::{Logger, debug, info};
use tokio::time::timeout;

use crate::monitor::{Crash, Monitor};
use crate::stats::WorkerStats;
use crate::world::{LaunchError, PackageStore, World};
use desk::Desk;
pub use desk::{PROVIDE_TIME_MAX, Provide, Provided, Unprovided, short, without_credentials};
pub use known::{KNOWN_MAX, Known};
pub use set::{Package, PackageSet};

/// Which packages are meant, of those that are there, and that they can be imported. Nothing is installed for it.
#[derive(Debug, Message)]
#[rtype(result = "Result<PackageSet, LaunchError>")]
pub struct Require {
    /// As the user wrote them.
    pub packages: Vec<String>,
}

/// How often what is known is looked at again. One look costs some system calls for each set.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long one waits to hear what the packages take. Reading a directory takes a moment; but what was put there by hand is looked through
/// once, and that may be many thousand files.
pub const BYTES_PATIENCE: Duration = Duration::from_millis(500);

/// How much is being installed?
#[derive(Debug, Message)]
#[rtype(result = "Activity")]
pub struct AskActivity;

/// What the installer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, MessageResponse)]
pub struct Activity {
    /// Runs of it now.
    pub running: usize,
    /// Runs that wait for their turn.
    pub waiting: usize,
    /// What all packages take, in bytes; or what they took before, if it takes long to find out.
    pub bytes: u64,
}

/// The owner of what is known of packages.
pub struct Packages<W: World> {
    desk: Desk<W>,
    looking: bool,
    /// What all packages took when that was last asked.
    bytes: Rc<Cell<u64>>,
    log: Logger,
    _monitor: Monitor,
}

impl<W: World> Packages<W> {
    /// What a predecessor has found out, and left in `known`, is kept.
    #[must_use]
    pub fn new(
        store: W::Packages,
        known: Known,
        stats: Arc<WorkerStats>,
        log: Logger,
        monitor: Monitor,
    ) -> Self {
        let desk = Desk::new(store, known, stats, log.clone());
        Self { desk, looking: false, bytes: Rc::default(), log, _monitor: monitor }
    }

    fn look_again(&mut self, ctx: &mut Context<Self>) {
        let all = self.desk.known.all();
        if self.looking || all.is_empty() {
            return;
        }
        self.looking = true;
        let found = self.desk.store.find(all.clone());
        ctx.spawn(found.into_actor(self).map(move |found, packages, _ctx| {
            packages.looking = false;
            for (requirements, found) in all.into_iter().zip(found) {
                match found {
                    Ok(set) => packages.desk.known.learn(requirements, set),
                    Err(error) => {
                        info!(packages.log, "packages that were there are there no longer"; "error" => %error);
                        packages.desk.known.forget(&requirements);
                    }
                }
            }
        }));
    }
}

impl<W: World> Actor for Packages<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(LOOK_EVERY, Self::look_again);
    }
}

impl<W: World> Handler<Require> for Packages<W> {
    type Result = ResponseActFuture<Self, Result<PackageSet, LaunchError>>;

    fn handle(&mut self, Require { packages }: Require, _ctx: &mut Context<Self>) -> Self::Result {
        if let Some(set) = self.desk.known.get(&packages) {
            return Box::pin(fut::ok(set));
        }
        let found = self.desk.store.find(vec![packages.clone()]);
        Box::pin(found.into_actor(self).map(move |found, this, _ctx| {
            let none = || Err(LaunchError::Failed("the packages were not looked for".into()));
            let found = found.into_iter().next().unwrap_or_else(none);
            if let Ok(set) = &found {
                debug!(this.log, "found packages"; "set" => %set);
                this.desk.known.learn(packages, set.clone());
            }
            found
        }))
    }
}

impl<W: World> Handler<Provide> for Packages<W> {
    type Result = ResponseFuture<Result<Provided, Unprovided>>;

    fn handle(&mut self, wish: Provide, _ctx: &mut Context<Self>) -> Self::Result {
        Box::pin(self.desk.clone().provide(wish))
    }
}

impl<W: World> Handler<AskActivity> for Packages<W> {
    type Result = ResponseFuture<Activity>;

    fn handle(&mut self, _: AskActivity, _ctx: &mut Context<Self>) -> Self::Result {
        let (turns, bytes) = (self.desk.turns.clone(), self.desk.store.bytes());
        let known = Rc::clone(&self.bytes);
        Box::pin(async move {
            // What takes longer is told the next time.
            let bytes = match timeout(BYTES_PATIENCE, bytes).await {
                Ok(bytes) => {
                    known.set(bytes);
                    bytes
                }
                Err(_) => known.get(),
            };
            let (running, waiting) = turns.counts();
            Activity { running, waiting, bytes }
        })
    }
}

impl<W: World> Handler<Crash> for Packages<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}
