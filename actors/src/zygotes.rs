//! The interpreters that are forked, and the standbys forked from them.
//!
//! A standby is made in some milliseconds and handed out in none, so some wait ready on
//! [shelves](crate::shelves), which say how many. This actor fills them, off the path of requests: it is told
//! of what was taken when the first call is over, and makes one at a time, but several together when a burst has
//! emptied a shelf by half. It pauses after failures.
//!
//! Requests take standbys from the shelves themselves. When there is none, their lambda asks here and waits: what is
//! made next is for whoever has waited longest, whatever it was begun for.
//!
//! | part | what |
//! |---|---|
//! | [`standbys`] | made for those who wait, and for the shelves |
//! | [`planting`] | zygotes of packages: made, and given up |
//! | [`culprits`] | why one could not be made |
//! | [`fitting`] | which of these there should be |
//! | [`sprouting`] | zygotes of lambdas |
//! | [`keeping`] | what was learnt of imports, from one worker to the next |

mod culprits;
pub mod fitting;
pub mod keeping;
mod planting;
mod sprouting;
mod standbys;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, SpawnHandle, StreamHandler};
use futures_util::stream;
use slog::{Logger, debug, info};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::evictor::Ledger;
use crate::fit::Fitted;
use crate::haste::Haste;
use crate::lambda_zygotes::LambdaZygotes;
use crate::link::Link;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::packages::{Known, PackageSet, Packages};
use crate::router::Routes;
use crate::shelves::{SharedShelves, ShelfLimits};
use crate::stats::WorkerStats;
use crate::tree::{NodeId, NodeView, Plan, SharedForest};
use crate::world::{Class, LaunchError, Network, Start, World, Zygote};
use fitting::{FIT_PRESSURE_PAUSE, Fits, Requires};
use keeping::KEEP_EVERY;

/// The shelves of a world.
pub type Standbys<W> = SharedShelves<StandbyKind, <W as World>::Standby>;

/// What tells standbys apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StandbyKind {
    /// What it must be like.
    pub class: Class,
    /// What it is forked from.
    pub node: NodeId,
}

impl StandbyKind {
    /// Forked from the root zygote, with no packages in it.
    #[must_use]
    pub fn plain(class: Class) -> Self {
        Self { class, node: NodeId::ROOT }
    }
}

/// Hand out what a sandbox of this function can be made of.
pub struct Acquire<W: World> {
    /// Of the function.
    pub name: FunctionName,
    /// Counts its versions.
    pub generation: u64,
    /// What it must be like.
    pub code: W::Code,
    /// What it may import.
    pub packages: PackageSet,
}

/// What a sandbox is made of.
pub enum Acquired<W: World> {
    /// An interpreter that has to load the function, and whether it lay ready.
    Standby(W::Standby, Start),
    /// A fork of the function's own zygote: the sandbox itself.
    Sandbox(W::Sandbox),
}

impl<W: World> Message for Acquire<W> {
    type Result = Result<Acquired<W>, LaunchError>;
}

/// What there is of a lambda's zygote.
#[derive(Debug, Clone, PartialEq, Eq, actix::MessageResponse)]
pub enum Forkability {
    /// It waits to be forked.
    Ready,
    /// There is none now.
    None,
    /// What the function's module has made must not be forked; the text says what that is.
    Never(String),
}

/// A sandbox has loaded a function: it may be worth a zygote. The answer comes when that is decided and done.
pub struct Loaded<W: World> {
    /// Of the function.
    pub name: FunctionName,
    /// Counts its versions.
    pub generation: u64,
    /// What was loaded.
    pub code: W::Code,
    /// With which packages.
    pub packages: PackageSet,
    /// How long that took.
    pub took: Duration,
}

impl<W: World> Message for Loaded<W> {
    type Result = Forkability;
}

/// Give up standbys that wait: memory is tight. The answer is how many there were.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct ReleaseIdle;

/// Give up the zygote that pays least: memory is tight, and nothing else can be given up. The answer is whether there was one.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct ReleaseZygote;

/// Make no more, give up those that wait, and write down what was learnt: the worker ends. The answer comes when that is done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Close;

/// How many standbys wait, by class.
#[derive(Debug, Message)]
#[rtype(result = "Vec<(Class, usize)>")]
pub struct Waiting;

/// Show the zygotes of packages.
#[derive(Debug, Message)]
#[rtype(result = "Shown")]
pub struct Show;

/// The zygotes of packages, as they are.
#[derive(Debug, Clone, PartialEq, serde::Serialize, actix::MessageResponse)]
pub struct Shown {
    /// Somebody drew the tree.
    pub is_drawn: bool,
    /// What all of them may take.
    pub bytes_max: u64,
    /// What they took when they had been made.
    pub bytes: u64,
    /// Parents first.
    pub nodes: Vec<NodeView>,
}

/// What would a tree bring that is fitted now? Nothing is made.
#[derive(Debug, Message)]
#[rtype(result = "Result<Projection, LaunchError>")]
pub struct Project {
    /// How often each function is called, without a warm sandbox. `None`: what was started lately.
    pub calls: Option<HashMap<String, f64>>,
}

/// A tree, and what it would bring.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The tree.
    pub fitted: Fitted,
    /// What the zygotes that there are now would save of the same, in milliseconds.
    pub saved_now_ms: f64,
    /// Functions with packages that were looked at.
    pub n_functions: u32,
    /// Functions that were asked about and that the worker does not have, or that need no packages.
    pub unknown: Vec<String>,
    /// Packages of which nobody knows how long they take: they are taken for average ones.
    pub unmeasured: Vec<String>,
    /// What the zygotes may take.
    pub bytes_max: u64,
    /// How long the fit took.
    pub took: Duration,
}

/// This is the tree from now on; `None`: it is fitted again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Draw {
    /// The tree.
    pub plan: Option<Plan>,
}

/// How many standbys to keep.
#[derive(Debug, Clone)]
pub struct ZygotesConfig {
    /// The class that most functions want: filled from the start.
    pub default_class: Class,
    /// Standbys of the default class that wait when nothing is asked for.
    pub standbys: usize,
    /// Standbys of any one class that wait at most; each takes about 2.5 MB.
    pub standbys_max: usize,
    /// Whether there are zygotes of packages.
    pub import_cache: bool,
    /// Which; `None`: those that turn out to be worth it.
    pub plan: Option<Plan>,
    /// What all of them may take.
    pub zygote_bytes_max: u64,
}

impl ZygotesConfig {
    /// The bounds of the shelves. Classes are few; two that are used as hard as may be have room.
    #[must_use]
    pub fn shelf_limits(&self) -> ShelfLimits {
        ShelfLimits { each_max: self.standbys_max, total_max: 2 * self.standbys_max }
    }
}

/// Standbys prepared at once while somebody waits for them: forks of one zygote queue up behind each other in the
/// kernel, so that more at once would only make each slower.
pub const ON_DEMAND_MAX: usize = 8;
/// Standbys prepared at once to fill a shelf that a burst has emptied: making one is a chain of steps in several
/// processes, so that fewer leave cores idle.
pub const URGENT_MAX: usize = 4;
/// Requests for a standby that may wait; as many launches as a burst of new sandboxes can use within the
/// time that a request waits, at 500 a second.
pub const QUEUE_LENGTH_MAX: usize = 5_000;
/// How long a request for a standby may wait; behind it waits a client.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long one standby may take; a fork that takes longer than this is stuck.
pub const PREPARE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a lambda's zygote may take to load its function: as long as a sandbox may.
pub const SPROUT_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a zygote of packages may take to import them: longer than the launcher's own patience.
pub const PLANT_TIME_MAX: Duration = Duration::from_secs(90);
/// The pause after a failed refill; it doubles up to [`REFILL_PAUSE_MAX`].
pub const REFILL_PAUSE: Duration = Duration::from_millis(200);
/// See [`REFILL_PAUSE`].
pub const REFILL_PAUSE_MAX: Duration = Duration::from_secs(10);
/// The pause in refilling after standbys were given up for memory's sake.
pub const PRESSURE_PAUSE: Duration = Duration::from_secs(2);

/// The owner of standbys.
pub struct Zygotes<W: World> {
    launcher: W::Launcher,
    config: ZygotesConfig,
    standbys: Standbys<W>,
    forest: SharedForest<W::Zygote>,
    packages: Link<Packages<W>>,
    store: W::Packages,
    known: Known,
    routes: Routes<W>,
    ledger: Ledger,
    clock: W::Clock,
    import_stats: W::ImportStats,
    /// What an earlier worker has learnt is being read.
    recalling: bool,
    /// What was learnt is being written.
    keeping: bool,
    /// What is known of who needs whom.
    requires: Requires,
    fits: Fits,
    /// A zygote of packages is being made.
    planting: bool,
    next_planting: Option<SpawnHandle>,
    queues: HashMap<StandbyKind, VecDeque<Customer<W::Standby>>>,
    n_waiting: usize,
    n_customers: u64,
    /// Standbys that are being made, the oldest first.
    making: Vec<(StandbyKind, Haste)>,
    refill_pause: Backoff,
    not_before: Option<Instant>,
    next_refill: Option<SpawnHandle>,
    closed: bool,
    lambdas: LambdaZygotes<W::Zygote>,
    stats: Arc<WorkerStats>,
    log: Logger,
    _monitor: Monitor,
}

struct Customer<T> {
    /// Counts up with those who came.
    number: u64,
    deadline: Instant,
    reach: oneshot::Sender<Result<(T, Start), LaunchError>>,
}

/// What [`Zygotes`] needs from its surroundings.
pub struct Surroundings<W: World> {
    /// Makes standbys and zygotes.
    pub launcher: W::Launcher,
    /// The shelves, shared with those who take from them.
    pub standbys: Standbys<W>,
    /// The zygotes of packages, shared with those who look for one.
    pub forest: SharedForest<W::Zygote>,
    /// Knows packages.
    pub packages: Link<Packages<W>>,
    /// Has the packages.
    pub store: W::Packages,
    /// What is known of requirements.
    pub known: Known,
    /// The functions that there are.
    pub routes: Routes<W>,
    /// Where memory is reserved.
    pub ledger: Ledger,
    /// Tells the time of day.
    pub clock: W::Clock,
    /// Remembers what was learnt of imports.
    pub import_stats: W::ImportStats,
    /// Where it counts.
    pub stats: Arc<WorkerStats>,
}

/// Something was taken from the shelves.
struct Taken;

impl<W: World> Zygotes<W> {
    /// Begins to fill the shelves as soon as it runs; what a predecessor has left there is kept.
    #[must_use]
    pub fn new(surroundings: Surroundings<W>, config: ZygotesConfig, log: Logger, monitor: Monitor) -> Self {
        let Surroundings {
            launcher,
            standbys,
            forest,
            packages,
            store,
            known,
            routes,
            ledger,
            clock,
            import_stats,
            stats,
        } = surroundings;
        standbys.forget_makings();
        forest.lock().forget_builds();
        Self {
            launcher,
            config,
            standbys,
            forest,
            packages,
            store,
            known,
            routes,
            ledger,
            clock,
            import_stats,
            recalling: false,
            keeping: false,
            requires: Requires::default(),
            fits: Fits::default(),
            planting: false,
            next_planting: None,
            queues: HashMap::new(),
            n_waiting: 0,
            n_customers: 0,
            making: Vec::new(),
            refill_pause: Backoff::new(REFILL_PAUSE, REFILL_PAUSE_MAX),
            not_before: None,
            next_refill: None,
            closed: false,
            lambdas: LambdaZygotes::new(),
            stats,
            log,
            _monitor: monitor,
        }
    }

    /// Targets shrink where nothing was asked for; dead standbys go.
    fn tidy(&mut self, ctx: &mut Context<Self>) {
        self.standbys.tidy();
        let now = Instant::now();
        self.lambdas.tidy(Zygote::is_alive, now);
        let gone = self.forest.lock().tidy(Zygote::is_alive, now);
        for node in gone {
            self.give_up_kinds_of(node);
        }
        self.refill(ctx);
        self.fit_sometimes(ctx);
        self.plant(ctx);
    }
}

/// How often targets and standbys are looked at: often enough that one that died is not counted on for long.
const TIDY_EVERY: Duration = Duration::from_secs(5);

impl<W: World> Actor for Zygotes<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.standbys.keep(&StandbyKind::plain(self.config.default_class), self.config.standbys);
        let taken = stream::unfold(self.standbys.clone(), |standbys| async move {
            standbys.taken().await;
            Some((Taken, standbys))
        });
        ctx.add_stream(taken);
        self.recall(ctx);
        self.refill(ctx);
        self.plant(ctx);
        ctx.run_interval(TIDY_EVERY, Self::tidy);
        ctx.run_interval(KEEP_EVERY, Self::keep_now_and_then);
    }
}

impl<W: World> StreamHandler<Taken> for Zygotes<W> {
    fn handle(&mut self, _: Taken, ctx: &mut Context<Self>) {
        self.refill(ctx);
    }
}

impl<W: World> Handler<ReleaseIdle> for Zygotes<W> {
    type Result = usize;

    fn handle(&mut self, _: ReleaseIdle, ctx: &mut Context<Self>) -> usize {
        let n_released = self.standbys.release();
        self.not_before = Some(Instant::now() + PRESSURE_PAUSE);
        if n_released > 0 {
            debug!(self.log, "released standbys"; "n_released" => n_released);
        }
        self.refill(ctx);
        n_released
    }
}

impl<W: World> Handler<ReleaseZygote> for Zygotes<W> {
    type Result = bool;

    fn handle(&mut self, _: ReleaseZygote, _ctx: &mut Context<Self>) -> bool {
        let now = Instant::now();
        let (of_packages, of_lambdas) = (
            self.forest.lock().least_paying(Zygote::memory_bytes, now),
            self.lambdas.least_paying(Zygote::memory_bytes, now),
        );
        match (of_packages, of_lambdas) {
            (Some((_, pays)), of_lambdas) if of_lambdas.as_ref().is_none_or(|(_, other)| pays <= *other) => {
                let released = self.forest.lock().release_one(Zygote::memory_bytes, now);
                let Some((node, is_last)) = released else { return false };
                debug!(self.log, "released a zygote of packages"; "saved_ns_per_byte" => pays);
                self.fits.not_before(now + FIT_PRESSURE_PAUSE);
                if is_last {
                    self.give_up_kinds_of(node);
                }
                true
            }
            (_, Some((name, pays))) => {
                debug!(self.log, "released a lambda's zygote"; "lambda" => %name, "saved_ns_per_byte" => pays);
                drop(self.lambdas.release(&name));
                true
            }
            _ => false,
        }
    }
}

impl<W: World> Handler<Close> for Zygotes<W> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Close, _ctx: &mut Context<Self>) -> Self::Result {
        self.closed = true;
        self.standbys.close();
        self.lambdas.clear();
        self.forest.lock().clear();
        self.n_waiting = 0;
        for customer in self.queues.drain().flat_map(|(_, queue)| queue) {
            let _ = customer.reach.send(Err(LaunchError::Resources("the worker is shutting down".into())));
        }
        self.keep()
    }
}

impl<W: World> Handler<Waiting> for Zygotes<W> {
    type Result = actix::MessageResult<Waiting>;

    fn handle(&mut self, _: Waiting, _ctx: &mut Context<Self>) -> Self::Result {
        let mut by_class = HashMap::new();
        for (kind, n) in self.standbys.waiting() {
            *by_class.entry(kind.class).or_default() += n;
        }
        actix::MessageResult(by_class.into_iter().collect())
    }
}

impl<W: World> Handler<Show> for Zygotes<W> {
    type Result = Shown;

    fn handle(&mut self, _: Show, _ctx: &mut Context<Self>) -> Shown {
        let forest = self.forest.lock();
        Shown {
            is_drawn: forest.is_drawn(),
            bytes_max: self.config.zygote_bytes_max,
            bytes: forest.bytes(),
            nodes: forest.views(Instant::now()),
        }
    }
}

impl<W: World> Handler<Project> for Zygotes<W> {
    type Result = ResponseFuture<Result<Projection, LaunchError>>;

    fn handle(&mut self, Project { calls }: Project, _ctx: &mut Context<Self>) -> Self::Result {
        self.project(calls)
    }
}

impl<W: World> Handler<Draw> for Zygotes<W> {
    type Result = ();

    fn handle(&mut self, Draw { plan }: Draw, ctx: &mut Context<Self>) {
        if self.closed || !self.config.import_cache {
            return;
        }
        let on_host = self.config.default_class.network == Network::Host;
        let gone = self.forest.lock().draw(plan.as_ref(), on_host, Instant::now());
        info!(self.log, "the tree of zygotes was set"; "is_drawn" => plan.is_some());
        self.forget_nodes(&gone);
        self.plant(ctx);
        self.fit_soon(ctx);
    }
}

impl<W: World> Handler<Crash> for Zygotes<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}

#[cfg(test)]
mod tests;
