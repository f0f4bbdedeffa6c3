//! Who ends is started again after a pause, and left alone for a while if it ends again and again ([`RestartBudget`]).

use actix::{AsyncContext, Context};
use slog::{error, warn};
use tokio::time::Instant;

use super::Supervisor;
use super::lambdas::Life;
use crate::monitor::{Child, Exit, RestartBudget, Spent};
use crate::name::FunctionName;
use crate::pool::{Closed, SharedPool};
use crate::router::Route;
use crate::world::World;

/// An actor that is no lambda: each of them is there once.
pub(super) struct Service {
    pub(super) incarnation: u64,
    pub(super) budget: RestartBudget,
}

impl<W: World> Supervisor<W> {
    pub(super) fn lambda_down(
        &mut self,
        name: FunctionName,
        ended: u64,
        exit: Exit,
        ctx: &mut Context<Self>,
    ) {
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

    pub(super) fn service_down(&mut self, child: Child, ended: u64, exit: Exit, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get_mut(&child) else { return };
        if service.incarnation != ended {
            return;
        }
        if self.is_yielded && matches!(child, Child::Cron | Child::Kafka) {
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
            let is_yielded = supervisor.is_yielded && matches!(child, Child::Cron | Child::Kafka);
            if !supervisor.shutting_down && !is_yielded {
                supervisor.restart_service(&child);
            }
        });
    }

    pub(super) fn restart_service(&mut self, child: &Child) {
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
}
