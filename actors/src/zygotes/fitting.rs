//! When the tree is fitted anew, from what, and what becomes of it.
//!
//! A fit is worth its time when something is known that was not before: a function was deployed or loaded, a zygote has been
//! measured; and now and then, since starts count less with time. It runs on a thread of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use slog::{debug, info};
use tokio::time::Instant;

use super::{Projection, Zygotes};
use crate::demand::FUNCTION_WEIGHT;
use crate::fit::{Bounds, Need, Question, fit};
use crate::name::FunctionName;
use crate::packages::{Known, Package, PackageSet};
use crate::router::Routes;
use crate::world::{Class, Code, LaunchError, LocalFuture, Network, PackageStore, World};

/// Zygotes of a fitted tree at most. Forklift's trees get most of what there is to be had from 80 to 120; each is a process, and two
/// threads of the worker.
pub const NODES_MAX: usize = 120;
/// Of these, directly below the root: what uids are set aside for, less some for zygotes of lambdas.
pub const TOP_MAX: usize = 40;
/// Nodes from the root to a leaf.
pub const LEVELS_MAX: usize = 8;
/// From the news to the fit: what is loaded together is fitted together.
pub const FIT_PAUSE: Duration = Duration::from_millis(200);
/// From one fit to the next. A zygote takes some hundred milliseconds to make, so that a tree is seldom there sooner.
pub const FIT_EVERY: Duration = Duration::from_secs(2);
/// From one fit to the next without news: starts fade with a half-life of ten minutes.
pub const FIT_AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// A fit takes no more than this share of the time.
const FIT_SHARE: u32 = 50;
/// After zygotes were given up for memory's sake nothing is fitted for so long: it would come to the same.
pub(super) const FIT_PRESSURE_PAUSE: Duration = Duration::from_secs(60);

/// Names of the packages that each needs directly.
pub(super) type Requires = HashMap<Package, Arc<[String]>>;

/// Of the actor: when the next fit is due.
#[derive(Debug, Default)]
pub(super) struct Fits {
    is_running: bool,
    is_due: bool,
    next: Option<actix::SpawnHandle>,
    not_before: Option<Instant>,
    last: Option<Instant>,
    /// Of the functions that there are.
    n_changes_seen: u64,
}

impl Fits {
    pub(super) fn not_before(&mut self, then: Instant) {
        self.not_before = self.not_before.max(Some(then));
    }
}

/// What a fit is made from, beside the forest.
struct Material<W: World> {
    routes: Routes<W>,
    known: Known,
    store: W::Packages,
    requires: Requires,
}

/// A function that is in the registry, and what it needs.
struct Registered {
    name: FunctionName,
    packages: PackageSet,
    on_host: bool,
}

impl<W: World> Zygotes<W> {
    /// Something is known that was not.
    pub(super) fn fit_soon(&mut self, ctx: &mut Context<Self>) {
        if self.closed || !self.config.import_cache {
            return;
        }
        self.fits.is_due = true;
        if self.recalling || self.fits.is_running || self.fits.next.is_some() {
            return;
        }
        let now = Instant::now();
        let due = (now + FIT_PAUSE).max(self.fits.not_before.unwrap_or(now));
        self.fits.next = Some(ctx.run_later(due - now, |zygotes, ctx| {
            zygotes.fits.next = None;
            zygotes.fit(ctx);
        }));
    }

    /// What was put off.
    pub(super) fn fit_what_is_due(&mut self, ctx: &mut Context<Self>) {
        if self.fits.is_due {
            self.fit_soon(ctx);
        }
    }

    /// When functions have come or changed, and now and then in any case.
    pub(super) fn fit_sometimes(&mut self, ctx: &mut Context<Self>) {
        let is_old = self.fits.last.is_some_and(|last| last.elapsed() >= FIT_AT_LEAST_EVERY);
        let n_changes = self.routes.n_changes();
        if is_old || n_changes != self.fits.n_changes_seen {
            self.fits.n_changes_seen = n_changes;
            self.fit_soon(ctx);
        }
    }

    fn fit(&mut self, ctx: &mut Context<Self>) {
        self.fits.is_due = false;
        if self.closed || self.forest.lock().is_drawn() {
            return;
        }
        self.fits.is_running = true;
        let began = Instant::now();
        let (forest, material, bytes_max) =
            (self.forest.clone(), self.material(), self.config.zygote_bytes_max);
        let fitted = async move {
            let (registered, requires) = gather(material).await;
            let mut questions = Vec::new();
            for on_host in [false, true] {
                let (standing, question) = {
                    let mut forest = forest.lock();
                    let weights = forest.demand.weights(Instant::now());
                    let needs = needs(&registered, &weights, on_host);
                    let prices = forest.costs.prices(packages_of(&needs));
                    (forest.standing(on_host), Question { needs, prices, requires: requires.clone() })
                };
                if !standing.is_empty() || !question.needs.is_empty() {
                    questions.push((on_host, question, standing));
                }
            }
            let task = tokio::task::spawn_blocking(move || {
                let mut left = bytes_max;
                let fits = questions.into_iter().map(|(on_host, question, standing)| {
                    let fitted = fit(&question, bounds(left), &standing);
                    left = left.saturating_sub(fitted.bytes);
                    (on_host, fitted)
                });
                fits.collect::<Vec<_>>()
            });
            // A panic in there is a bug of the fit; the tree stays as it is.
            let fits = task.await.unwrap_or_default();
            (fits, requires)
        };
        ctx.spawn(fitted.into_actor(self).map(move |(fits, requires), zygotes, ctx| {
            let now = Instant::now();
            zygotes.requires = requires;
            zygotes.fits.is_running = false;
            zygotes.fits.last = Some(now);
            zygotes.fits.not_before((now + FIT_EVERY).max(now + began.elapsed() * FIT_SHARE));
            if zygotes.closed {
                return;
            }
            for (on_host, fitted) in fits {
                debug!(zygotes.log, "fitted the zygotes of packages"; "n_nodes" => fitted.nodes.len(),
                    "saves_ms" => fitted.ms_saved as u64, "of_ms" => fitted.ms_without as u64);
                let gone = zygotes.forest.lock().adopt(&fitted, on_host, now);
                zygotes.forget_nodes(&gone);
            }
            zygotes.plant(ctx);
            zygotes.fit_what_is_due(ctx);
        }));
    }

    /// These nodes are no more.
    pub(super) fn forget_nodes(&mut self, gone: &[crate::tree::NodeId]) {
        for &node in gone {
            self.give_up_kinds_of(node);
        }
        if !gone.is_empty() {
            info!(self.log, "retired zygotes of packages"; "n_nodes" => gone.len());
        }
    }

    fn material(&self) -> Material<W> {
        Material {
            routes: self.routes.clone(),
            known: self.known.clone(),
            store: self.store.clone(),
            requires: self.requires.clone(),
        }
    }

    /// What a tree would bring, for so many calls of each function, or (`None`) for what was started lately.
    pub(super) fn project(
        &self,
        calls: Option<HashMap<String, f64>>,
    ) -> LocalFuture<Result<Projection, LaunchError>> {
        let (forest, material, bytes_max) =
            (self.forest.clone(), self.material(), self.config.zygote_bytes_max);
        Box::pin(async move {
            let (registered, requires) = gather(material).await;
            let weights = forest.lock().demand.weights(Instant::now());
            let mut unknown = Vec::new();
            let needs = match &calls {
                None => needs(&registered, &weights, false),
                Some(calls) => {
                    let there: HashMap<&str, &Registered> =
                        registered.iter().map(|one| (one.name.as_str(), one)).collect();
                    unknown =
                        calls.keys().filter(|name| !there.contains_key(name.as_str())).cloned().collect();
                    unknown.sort();
                    let called = calls.iter().filter_map(|(name, n)| Some((*there.get(name.as_str())?, *n)));
                    merged(
                        called.filter(|(one, _)| !one.on_host).map(|(one, n)| (one.packages.clone(), 1, n)),
                    )
                }
            };
            let n_functions = needs.iter().map(|need| need.n_functions).sum();
            let (prices, unmeasured, standing) = {
                let forest = forest.lock();
                let unmeasured = forest.costs.unmeasured(packages_of(&needs));
                let unmeasured = unmeasured.into_iter().map(ToString::to_string).collect();
                (forest.costs.prices(packages_of(&needs)), unmeasured, forest.standing(false))
            };
            let question = Question { needs, prices, requires };
            let began = std::time::Instant::now();
            let task = tokio::task::spawn_blocking(move || {
                let standing: Vec<PackageSet> = standing.into_iter().map(|node| node.packages).collect();
                (fit(&question, bounds(bytes_max), &[]), crate::fit::saved_ms(&question, &standing))
            });
            let (fitted, saved_now_ms) =
                task.await.map_err(|error| LaunchError::Failed(error.to_string()))?;
            Ok(Projection {
                fitted,
                saved_now_ms,
                n_functions,
                unknown,
                unmeasured,
                bytes_max,
                took: began.elapsed(),
            })
        })
    }
}

/// What a fitted tree may come to.
#[must_use]
pub fn bounds(bytes: u64) -> Bounds {
    Bounds { n_nodes: NODES_MAX, n_top: TOP_MAX, n_levels: LEVELS_MAX, bytes }
}

/// The functions that there are, what they need, and what their packages need in turn.
async fn gather<W: World>(material: Material<W>) -> (Vec<Registered>, Requires) {
    let Material { routes, known, store, requires } = material;
    let mut registered = Vec::new();
    let mut unknown = Vec::new();
    for route in routes.all() {
        let listed = route.code.packages();
        let Class { network } = route.code.class();
        let on_host = network == Network::Host;
        match known.get(listed) {
            _ if listed.is_empty() => {}
            Some(packages) => registered.push(Registered { name: route.name.clone(), packages, on_host }),
            None => unknown.push((route.name.clone(), listed.to_vec(), on_host)),
        }
    }
    if !unknown.is_empty() {
        let found = store.find(unknown.iter().map(|(_, listed, _)| listed.clone()).collect()).await;
        // Who needs what is not there will be told when it is called.
        for ((name, _, on_host), found) in unknown.into_iter().zip(found) {
            if let Ok(packages) = found
                && !packages.is_empty()
            {
                registered.push(Registered { name, packages, on_host });
            }
        }
    }
    let packages: BTreeSet<&Package> = registered.iter().flat_map(|one| &one.packages).collect();
    let requires = self::requires::<W>(&store, packages.into_iter(), requires).await;
    (registered, requires)
}

/// What is known already, and what else there is to be known of these.
pub(super) async fn requires<W: World>(
    store: &W::Packages,
    packages: impl Iterator<Item = &Package>,
    mut requires: Requires,
) -> Requires {
    let new: Vec<Package> = packages.filter(|package| !requires.contains_key(*package)).cloned().collect();
    if !new.is_empty() {
        let found = store.requires(new.clone()).await;
        requires.extend(new.into_iter().zip(found.into_iter().map(Into::into)));
    }
    requires
}

fn needs(registered: &[Registered], starts: &[(PackageSet, bool, f64)], on_host: bool) -> Vec<Need> {
    let there = registered.iter().filter(|one| one.on_host == on_host);
    let there = there.map(|one| (one.packages.clone(), 1, FUNCTION_WEIGHT));
    let starts = starts.iter().filter(|(_, host, _)| *host == on_host);
    merged(there.chain(starts.map(|(packages, _, weight)| (packages.clone(), 0, *weight))))
}

fn packages_of(needs: &[Need]) -> impl Iterator<Item = &Package> {
    needs.iter().flat_map(|need| &need.packages)
}

/// One need for each set of packages.
fn merged(needs: impl Iterator<Item = (PackageSet, u32, f64)>) -> Vec<Need> {
    let mut by_set = HashMap::<PackageSet, (u32, f64)>::new();
    for (packages, n_functions, weight) in needs {
        let entry = by_set.entry(packages).or_default();
        entry.0 += n_functions;
        entry.1 += weight;
    }
    // Of a function that is not there any more, or not in the table yet, something was started.
    let need = |(packages, (n, weight))| Need { packages, n_functions: u32::max(n, 1), weight };
    by_set.into_iter().map(need).collect()
}
