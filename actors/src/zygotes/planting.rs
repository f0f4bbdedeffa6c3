//! Zygotes of packages: made one at a time, off the way of requests, and given up.

use std::collections::BTreeSet;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use slog::{info, warn};
use tokio::time::Instant;

use super::{PLANT_TIME_MAX, PRESSURE_PAUSE, StandbyKind, Zygotes};
use crate::fit::in_order;
use crate::packages::{Package, PackageSet, Require};
use crate::tree::{Best, Build, NodeId};
use crate::world::{Class, LaunchError, Launcher, LocalFuture, Network, Planted, World, Zygote};

/// A zygote, and the names of what its packages have missed.
type Made<W> = (Planted<<W as World>::Zygote>, BTreeSet<String>);

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
        ctx.spawn(self.import(build).into_actor(self).map(move |made, zygotes, ctx| {
            // From now on it shows in the memory that is in use.
            drop(reservation);
            zygotes.planting = false;
            match &made {
                Ok((Planted { holds, bytes, .. }, _)) => {
                    let took: Duration = holds.iter().map(|held| held.took).sum();
                    let holds = PackageSet::new(holds.iter().map(|held| held.package.clone()));
                    zygotes.stats.package_zygotes_started.bump();
                    info!(zygotes.log, "started a zygote of packages"; "holds" => %holds,
                        "import_ms" => took.as_millis(), "mb" => bytes >> 20);
                    // What was a guess is known now.
                    zygotes.fit_soon(ctx);
                }
                Err(error) => {
                    warn!(zygotes.log, "failed to start a zygote of packages"; "error" => %error);
                }
            }
            let unwanted = if zygotes.closed {
                made.ok().map(|(planted, _)| planted.zygote)
            } else {
                let (made, missed) = match made {
                    Ok((planted, missed)) => (Ok(planted), Some(missed)),
                    Err(error) => (Err(error), None),
                };
                let mut forest = zygotes.forest.lock();
                let unwanted = forest.built(node, made, Instant::now());
                // One that failed, or is not wanted, says nothing of those that there are.
                if let (Some(missed), None) = (missed, &unwanted) {
                    forest.missed(node, missed);
                }
                unwanted
            };
            drop(unwanted);
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

    fn import(&self, build: Build<W::Zygote>) -> LocalFuture<Result<Made<W>, LaunchError>> {
        let Build { requirements, on_host, parents, careful, .. } = build;
        let (packages, launcher, log) = (self.packages.clone(), self.launcher.clone(), self.log.clone());
        let (store, requires) = (self.store.clone(), self.requires.clone());
        let network = if on_host { Network::Host } else { Network::None };
        let class = Class { network };
        Box::pin(async move {
            let mut there: Vec<Package> = Vec::new();
            for requirement in requirements {
                match packages.ask(Require { packages: vec![requirement] }).await {
                    Ok(Ok(set)) => there.extend(set.iter().cloned()),
                    Ok(Err(error)) => {
                        warn!(log, "a zygote does without a package"; "error" => %error);
                    }
                    Err(_) => {
                        return Err(LaunchError::Failed("the package manager is being restarted".into()));
                    }
                }
            }
            // Each after what it needs: so each is seen to take what it takes.
            let requires = super::fitting::requires::<W>(&store, there.iter(), requires).await;
            let set = PackageSet::new(in_order(&there, &requires));
            if set.is_empty() {
                return Err(LaunchError::Unsupported("none of its packages is there".into()));
            }
            let asked = set.to_string();
            let planted = tokio::time::timeout(PLANT_TIME_MAX, launcher.plant(class, set, parents, careful))
                .await
                .map_err(|_| LaunchError::Failed(format!("no zygote after {} s", PLANT_TIME_MAX.as_secs())))?
                .map_err(|error| match error {
                    LaunchError::Load(text) => LaunchError::Load(format!("{asked}: {text}")),
                    error => error,
                })?;
            for (package, why) in &planted.failed {
                warn!(log, "a package could not be imported into a zygote"; "package" => %package, "error" => why);
            }
            let held = || planted.holds.iter().map(|held| &held.package);
            let used = held().filter_map(|package| requires.get(package)).flat_map(|names| names.iter());
            let missed = used.filter(|name| !held().any(|package| package.name == **name)).cloned().collect();
            Ok((planted, missed))
        })
    }
}
