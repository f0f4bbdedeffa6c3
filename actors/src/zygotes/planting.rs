//! Zygotes of packages: made one at a time, off the way of requests, and given up.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use slog::{info, warn};
use tokio::time::Instant;

use super::culprits::culprits;
use super::fitting::Requires;
use super::{PLANT_TIME_MAX, PRESSURE_PAUSE, StandbyKind, Zygotes};
use crate::fit::in_order;
use crate::packages::{Package, PackageSet, Require};
use crate::tree::{Best, Build, Built, NodeId};
use crate::world::{Class, LaunchError, Launcher, LocalFuture, Network, World, Zygote};

/// What came of a build.
struct Outcome<W: World> {
    made: Result<Built<W::Zygote>, LaunchError>,
    /// What turned out to be importable by no zygote.
    culprits: Vec<Package>,
}

impl<W: World> Zygotes<W> {
    /// The zygote of packages that suits a function best, and lives.
    pub(super) fn best(&mut self, packages: &PackageSet, class: Class) -> Option<Best<W::Zygote>> {
        loop {
            let best = self.forest.lock().best(packages, class.network == Network::Host)?;
            if best.zygote.is_alive() {
                return Some(best);
            }
            self.give_up_zygote(best.node, best.number);
        }
    }

    /// This zygote of packages is no more. If it was the node's last, who waits for a fork gets one of the root's.
    pub(super) fn give_up_zygote(&mut self, node: NodeId, number: u64) {
        if self.forest.lock().failed(node, number, Instant::now()) {
            self.give_up_kinds_of(node);
        }
    }

    /// The node has no zygote any more.
    pub(super) fn give_up_kinds_of(&mut self, node: NodeId) {
        let kinds: Vec<_> = self.queues.keys().copied().filter(|kind| kind.node == node).collect();
        for kind in kinds {
            self.fall_back(kind);
        }
        self.standbys.discard(|kind: &StandbyKind| kind.node == node);
    }

    /// Make the zygotes of packages that should be there: one at a time, since an import takes a core for itself.
    pub(super) fn plant(&mut self, ctx: &mut Context<Self>) {
        if self.closed || self.planting || !self.config.import_cache {
            return;
        }
        let now = Instant::now();
        let under_pressure = self.not_before.filter(|then| *then > now);
        let build = match under_pressure {
            None => self.forest.lock().next_build(self.config.zygote_bytes_max, now),
            Some(_) => None,
        };
        let Some(build) = build else {
            let due = self.forest.lock().next_due(now);
            if let Some(due) = due {
                self.plant_later(under_pressure.unwrap_or(now).max(due) - now, ctx);
            }
            return;
        };
        let node = build.node;
        let Some(reservation) = self.ledger.try_reserve(build.bytes) else {
            // Sandboxes come first. It is no fault of the zygote, but it waits as if it were.
            let refused = LaunchError::Resources("memory is tight".into());
            drop(self.forest.lock().built(node, Err(refused), now));
            self.plant_later(PRESSURE_PAUSE, ctx);
            return;
        };
        self.planting = true;
        ctx.spawn(self.import(build).into_actor(self).map(move |outcome, zygotes, ctx| {
            // From now on it shows in the memory that is in use.
            drop(reservation);
            zygotes.planting = false;
            let Outcome { made, culprits } = outcome;
            match &made {
                Ok(Built { holds, imports, bytes, .. }) => {
                    let took: Duration = imports.iter().map(|import| import.took).sum();
                    zygotes.stats.package_zygotes_started.bump();
                    info!(zygotes.log, "started a zygote of packages"; "holds" => %holds,
                        "import_ms" => took.as_millis(), "mb" => bytes >> 20);
                }
                Err(error) => {
                    warn!(zygotes.log, "failed to start a zygote of packages"; "error" => %error);
                }
            }
            let is_news = made.is_ok() || !culprits.is_empty();
            let unwanted = {
                let (now, mut forest) = (Instant::now(), zygotes.forest.lock());
                culprits.iter().for_each(|package| forest.cannot_import(package, now));
                if zygotes.closed {
                    made.ok().map(|built| built.zygote)
                } else {
                    forest.built(node, made, now)
                }
            };
            drop(unwanted);
            if is_news {
                // What was a guess is known now.
                zygotes.fit_soon(ctx);
            }
            zygotes.plant(ctx);
        }));
    }

    fn plant_later(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if self.next_planting.is_none() {
            self.next_planting = Some(ctx.run_later(pause, |zygotes, ctx| {
                zygotes.next_planting = None;
                zygotes.plant(ctx);
            }));
        }
    }

    fn import(&self, build: Build<W::Zygote>) -> LocalFuture<Outcome<W>> {
        let (packages, launcher, log) = (self.packages.clone(), self.launcher.clone(), self.log.clone());
        let (store, requires, forest) = (self.store.clone(), self.requires.clone(), self.forest.clone());
        let network = if build.on_host { Network::Host } else { Network::None };
        let class = Class { network };
        Box::pin(async move {
            let mut there: Vec<Package> = Vec::new();
            for requirement in &build.requirements {
                match packages.ask(Require { packages: vec![requirement.clone()] }).await {
                    Ok(Ok(set)) => there.extend(set.iter().cloned()),
                    Ok(Err(error)) => {
                        warn!(log, "a zygote does without a package"; "error" => %error);
                    }
                    Err(_) => {
                        let error = LaunchError::Failed("the package manager is being restarted".into());
                        return Outcome { made: Err(error), culprits: Vec::new() };
                    }
                }
            }
            {
                let forest = forest.lock();
                there.retain(|package| !forest.costs.is_left_alone(package));
            }
            // Each after what it needs: so each is seen to take what it takes.
            let requires = super::fitting::requires::<W>(&store, there.iter(), requires).await;
            let mut wanted = in_order(&there, &requires);
            let mut made = make::<W>(&launcher, class, &build, &wanted, &requires).await;
            let mut found = Vec::new();
            if let Err(LaunchError::Load(_) | LaunchError::Unsupported(_)) = &made {
                let held = build.parents_within(&wanted).into_iter().next();
                let held = held.map(|(_, holds)| holds).unwrap_or_default();
                found = culprits::<W>(&launcher, class, &wanted, &held, &requires).await;
                for (package, why) in &found {
                    warn!(log, "a package could not be imported into a zygote"; "package" => %package, "error" => why);
                }
                wanted.retain(|package| found.iter().all(|(culprit, _)| culprit != package));
            }
            if !found.is_empty() {
                made = make::<W>(&launcher, class, &build, &wanted, &requires).await;
            }
            Outcome { made, culprits: found.into_iter().map(|(package, _)| package).collect() }
        })
    }
}

/// A zygote that holds all of these, in this order; or none.
async fn make<W: World>(
    launcher: &W::Launcher,
    class: Class,
    build: &Build<W::Zygote>,
    wanted: &[Package],
    requires: &Requires,
) -> Result<Built<W::Zygote>, LaunchError> {
    if wanted.is_empty() {
        return Err(LaunchError::Failed("none of its packages is there, or can be imported".into()));
    }
    let holds = PackageSet::new(wanted.iter().cloned());
    let parents = build.parents_within(wanted).into_iter().map(|(zygote, _)| zygote).collect();
    let planted = tokio::time::timeout(PLANT_TIME_MAX, launcher.plant(class, holds.clone(), parents))
        .await
        .map_err(|_| LaunchError::Failed(format!("no zygote after {} s", PLANT_TIME_MAX.as_secs())))?
        .map_err(|error| match error {
            LaunchError::Load(text) => LaunchError::Load(format!("{holds}: {text}")),
            error => error,
        })?;
    let used = wanted.iter().filter_map(|package| requires.get(package)).flat_map(|names| names.iter());
    let missed = used.filter(|name| !wanted.iter().any(|package| package.name == **name)).cloned().collect();
    Ok(Built { zygote: planted.zygote, holds, missed, imports: planted.imports, bytes: planted.bytes })
}
