//! What the supervisor knows about each function, and what it does about its lambda when that changes.

use actix::{ActorFutureExt, Addr, AsyncContext, Context, WrapFuture};
use slog::{info, warn};
use tokio::time::Instant;

use super::Supervisor;
use crate::lambda::{self, Assignment, Lambda};
use crate::monitor::RestartBudget;
use crate::name::FunctionName;
use crate::pool::{Closed, SharedPool};
use crate::router::Route;
use crate::stats::{LambdaStatus, State};
use crate::world::{Code, World};

/// What the supervisor knows about a function.
pub(super) struct Entry<W: World> {
    /// What is served, and which generation that is.
    pub(super) served: Option<(W::Code, u64)>,
    pub(super) rejected: Option<String>,
    pub(super) life: Life<W>,
    pub(super) budget: RestartBudget,
}

pub(super) enum Life<W: World> {
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
    pub(super) fn changed(&mut self, name: FunctionName, code: W::Code, ctx: &mut Context<Self>) {
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
            None => self.gone.next(&name),
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

    pub(super) fn removed(&mut self, name: &FunctionName) {
        self.nursery.routes.remove(name);
        let Some(entry) = self.lambdas.remove(name) else { return };
        if let Some((_, generation)) = entry.served {
            self.gone.insert(name.clone(), generation);
        }
        if let Life::Running { addr, pool, .. } = entry.life {
            info!(self.log, "retiring a lambda"; "lambda" => %name);
            pool.close(Closed::Retiring);
            // The lambda ends by itself when its pool is closed; with this it does so at once.
            let _ = addr.try_send(lambda::Retire);
            self.see_off(pool);
        }
    }

    pub(super) fn rejected(&mut self, name: FunctionName, reason: String) {
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

    pub(super) fn start_lambda(&mut self, name: &FunctionName) {
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

    /// Remember a pool that hands out no more, until what is on loan has come home.
    pub(super) fn see_off(&mut self, pool: SharedPool<W::Sandbox>) {
        self.leaving.retain(|pool| pool.n_busy() > 0);
        self.leaving.push(pool);
    }

    pub(super) fn pools(&self) -> Vec<SharedPool<W::Sandbox>> {
        let running = self.lambdas.values().filter_map(|entry| match &entry.life {
            Life::Running { pool, .. } => Some(pool.clone()),
            // Theirs are among those that leave.
            Life::Unborn | Life::Restarting { .. } | Life::Broken { .. } => None,
        });
        running.chain(self.leaving.iter().cloned()).collect()
    }

    /// What can be said about a lambda without asking it.
    pub(super) fn row(&self, name: &FunctionName, entry: &Entry<W>) -> LambdaStatus {
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
