//! What was learnt of imports, kept from one worker to the next: read once, before the first fit, and written while the worker
//! runs and at its end.

use std::collections::HashSet;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use slog::{info, warn};
use tokio::time::{Instant, timeout};

use super::Zygotes;
use crate::import_stats::ImportStats;
use crate::packages::{Package, PackageSet};
use crate::world::{Clock, ImportStatsStore, LocalFuture, PackageStore, World};

/// From one writing to the next while something is learnt: a worker that is killed loses what it has learnt since. It takes some
/// milliseconds of a thread that nobody waits for.
pub const KEEP_EVERY: Duration = Duration::from_secs(10);
/// How long the end of a worker, or its successor, waits for the last writing. A disk that takes longer holds up nobody.
pub const KEEP_TIME_MAX: Duration = Duration::from_secs(2);
/// How long the first fit waits for what an earlier worker has kept: reading a file, and looking which packages are there.
pub const RECALL_TIME_MAX: Duration = Duration::from_secs(10);

/// Write down what has been learnt. The answer comes when that is done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Keep;

impl<W: World> Zygotes<W> {
    /// Learns what an earlier worker has kept. Nothing is fitted or written meanwhile.
    pub(super) fn recall(&mut self, ctx: &mut Context<Self>) {
        if !self.config.import_cache || self.forest.lock().is_recalled {
            return;
        }
        self.recalling = true;
        let (read, store) = (self.import_stats.read(), self.store.clone());
        let recalled = async move {
            let stats = read.await?;
            let packages: Vec<Package> = stats.packages().collect();
            let pins = packages.iter().map(|package| vec![package.to_string()]).collect();
            let found = store.find(pins).await;
            let is_there = |(package, found): (Package, Result<PackageSet, _>)| {
                found.is_ok_and(|set| set.iter().any(|one| *one == package)).then_some(package)
            };
            let there: HashSet<Package> = packages.into_iter().zip(found).filter_map(is_there).collect();
            Some((stats, there))
        };
        ctx.spawn(timeout(RECALL_TIME_MAX, recalled).into_actor(self).map(|recalled, zygotes, ctx| {
            zygotes.recalling = false;
            match recalled {
                Ok(Some((stats, there))) => {
                    zygotes.learn_again(&stats, &there);
                    zygotes.fit_soon(ctx);
                }
                Ok(None) => zygotes.forest.lock().is_recalled = true,
                Err(_) => {
                    warn!(
                        zygotes.log,
                        "what was learnt of imports cannot be read in time: it is learnt anew"
                    );
                    zygotes.forest.lock().is_recalled = true;
                }
            }
            zygotes.fit_what_is_due(ctx);
        }));
    }

    fn learn_again(&self, stats: &ImportStats, there: &HashSet<Package>) {
        let mut forest = self.forest.lock();
        let forest = &mut *forest;
        let (costs, demand) = (&mut forest.costs, &mut forest.demand);
        let n_packages = stats.recall(there, costs, demand, Instant::now(), self.clock.now());
        forest.is_recalled = true;
        info!(self.log, "knows what was learnt of imports before"; "n_packages" => n_packages,
            "n_gone" => stats.packages.len().saturating_sub(n_packages));
    }

    /// Ends when what has been learnt is written, if there is anything new and it is this worker's to write.
    pub(super) fn keep(&self) -> LocalFuture<()> {
        if self.recalling || !self.config.import_cache {
            return Box::pin(async {});
        }
        let mut forest = self.forest.lock();
        let forest = &mut *forest;
        if forest.is_yielded || !std::mem::take(&mut forest.has_news) {
            return Box::pin(async {});
        }
        let stats = ImportStats::of(&forest.costs, &mut forest.demand, Instant::now(), self.clock.now());
        self.import_stats.write(stats)
    }

    /// One after the other, however long each takes.
    pub(super) fn keep_now_and_then(&mut self, ctx: &mut Context<Self>) {
        if self.keeping {
            return;
        }
        self.keeping = true;
        ctx.spawn(self.keep().into_actor(self).map(|(), zygotes, _ctx| zygotes.keeping = false));
    }
}

impl<W: World> Handler<Keep> for Zygotes<W> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Keep, _ctx: &mut Context<Self>) -> Self::Result {
        self.keep()
    }
}
