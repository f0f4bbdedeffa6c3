//! The interpreters that are forked, and the standbys forked from them.
//!
//! A standby is made in some milliseconds and handed out in none, so some wait ready on
//! [shelves](crate::shelves), which say how many. This actor fills them, off the path of requests: it is told
//! of what was taken when the first call is over, and makes one at a time, but several together when a burst has
//! emptied a shelf by half. It pauses after failures.
//!
//! Requests take standbys from the shelves themselves. When there is none, their lambda asks here and waits: what is
//! made next is for whoever has waited longest, whatever it was begun for.

use std::collections::{HashMap, VecDeque, hash_map::Entry};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, SpawnHandle,
    StreamHandler, WrapFuture, fut,
};
use futures_util::stream;
use slog::{Logger, debug, info, warn};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::lambda_zygotes::LambdaZygotes;
use crate::link::Link;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::packages::{PackageSet, Packages, Require};
use crate::shelves::{SharedShelves, ShelfLimits, Wanted};
use crate::stats::WorkerStats;
use crate::tree::{Best, Build, NodeId, Plan, SharedForest};
use crate::world::{Class, Code, LaunchError, Launcher, LocalFuture, Network, Planted, Start, World, Zygote};

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

/// Make no more, and give up those that wait: the worker ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Close;

/// How many standbys wait, by class.
#[derive(Debug, Message)]
#[rtype(result = "Vec<(Class, usize)>")]
pub struct Waiting;

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
    /// A zygote of packages is being made.
    planting: bool,
    next_planting: Option<SpawnHandle>,
    queues: HashMap<StandbyKind, VecDeque<Customer<W::Standby>>>,
    n_waiting: usize,
    n_customers: u64,
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
    /// Where it counts.
    pub stats: Arc<WorkerStats>,
}

/// Something was taken from the shelves.
struct Taken;

impl<W: World> Zygotes<W> {
    /// Begins to fill the shelves as soon as it runs; what a predecessor has left there is kept.
    #[must_use]
    pub fn new(surroundings: Surroundings<W>, config: ZygotesConfig, log: Logger, monitor: Monitor) -> Self {
        let Surroundings { launcher, standbys, forest, packages, stats } = surroundings;
        standbys.forget_makings();
        forest.lock().forget_builds();
        Self {
            launcher,
            config,
            standbys,
            forest,
            packages,
            planting: false,
            next_planting: None,
            queues: HashMap::new(),
            n_waiting: 0,
            n_customers: 0,
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

    /// Prepare for those who wait, then for the shelves, as many at once as may be.
    fn work(&mut self, ctx: &mut Context<Self>) {
        while self.standbys.n_making() < ON_DEMAND_MAX {
            let Some(kind) = self.unattended() else { break };
            self.make(kind, ctx);
        }
        self.refill(ctx);
    }

    /// What the one who has waited longest waits for, of those for whom none is being made.
    fn unattended(&mut self) -> Option<StandbyKind> {
        let now = Instant::now();
        for queue in self.queues.values_mut() {
            while let Some(customer) = queue.front() {
                let late = customer.deadline <= now;
                if !late && !customer.reach.is_closed() {
                    break;
                }
                let Some(customer) = queue.pop_front() else { break };
                self.n_waiting -= 1;
                if late {
                    let late = LaunchError::Resources("no standby became ready in time".into());
                    let _ = customer.reach.send(Err(late));
                }
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        self.queues
            .iter()
            .filter_map(|(kind, queue)| {
                let first = queue.get(self.standbys.n_making_of(kind))?;
                Some((first.number, *kind))
            })
            .min_by_key(|(number, _)| *number)
            .map(|(_, kind)| kind)
    }

    fn make(&mut self, kind: StandbyKind, ctx: &mut Context<Self>) {
        let zygote = self.forest.lock().zygote(kind.node, Instant::now());
        if kind.node != NodeId::ROOT && !zygote.as_ref().is_some_and(Zygote::is_alive) {
            self.give_up_node(kind.node);
            return;
        }
        self.standbys.begin(&kind);
        let made = self.prepare(kind.class, zygote);
        ctx.spawn(made.into_actor(self).map(move |made, zygotes, ctx| {
            zygotes.standbys.end(&kind);
            match made {
                Ok(standby) => {
                    zygotes.refill_pause.succeeded();
                    if kind.node != NodeId::ROOT {
                        zygotes.stats.package_zygote_forks.bump();
                    }
                    zygotes.deliver(kind, standby);
                }
                // Those who wait import for themselves. What is out of something now will be so for the root as well.
                Err(error) if kind.node != NodeId::ROOT && !matches!(error, LaunchError::Resources(_)) => {
                    zygotes.give_up_node(kind.node);
                }
                Err(error) => {
                    zygotes.refill_pause.failed(Instant::now());
                    zygotes.fall_back(kind);
                    if kind.node == NodeId::ROOT {
                        zygotes.refuse_next(kind, &error);
                    }
                }
            }
            zygotes.work(ctx);
        }));
    }

    fn refuse_next(&mut self, kind: StandbyKind, error: &LaunchError) {
        while let Some(customer) = self.next_customer(kind) {
            if customer.reach.send(Err(error.clone())).is_ok() {
                break;
            }
        }
    }

    /// This zygote of packages is no more: who waits for a fork of it gets one of the root's.
    fn give_up_node(&mut self, node: NodeId) {
        drop(self.forest.lock().failed(node, Instant::now()));
        let kinds: Vec<_> = self.queues.keys().copied().filter(|kind| kind.node == node).collect();
        for kind in kinds {
            self.fall_back(kind);
        }
        self.standbys.discard(|kind| kind.node == node);
    }

    /// Who waits for one of these gets one without packages, and keeps the place in the queue.
    fn fall_back(&mut self, kind: StandbyKind) {
        if kind.node == NodeId::ROOT {
            return;
        }
        let Some(moved) = self.queues.remove(&kind) else { return };
        let queue = self.queues.entry(StandbyKind::plain(kind.class)).or_default();
        queue.extend(moved);
        queue.make_contiguous().sort_by_key(|customer| customer.number);
    }

    /// To the one who has waited longest; if nobody waits, or all have gone, onto the shelf.
    fn deliver(&mut self, kind: StandbyKind, standby: W::Standby) {
        let mut ready = (standby, Start::Forked);
        while let Some(customer) = self.next_customer(kind) {
            match customer.reach.send(Ok(ready)) {
                Err(Ok(again)) => ready = again,
                _ => return,
            }
        }
        self.standbys.stock(&kind, ready.0);
    }

    fn next_customer(&mut self, kind: StandbyKind) -> Option<Customer<W::Standby>> {
        let Entry::Occupied(mut queue) = self.queues.entry(kind) else { return None };
        let customer = queue.get_mut().pop_front();
        if queue.get().is_empty() {
            queue.remove();
        }
        self.n_waiting -= usize::from(customer.is_some());
        customer
    }

    fn prepare(
        &self,
        class: Class,
        zygote: Option<W::Zygote>,
    ) -> impl Future<Output = Result<W::Standby, LaunchError>> + use<W> {
        let made = self.launcher.prepare(class, zygote);
        let stats = Arc::clone(&self.stats);
        let log = self.log.clone();
        async move {
            let made = match tokio::time::timeout(PREPARE_TIME_MAX, made).await {
                Ok(made) => made,
                Err(_) => {
                    Err(LaunchError::Failed(format!("no standby after {} s", PREPARE_TIME_MAX.as_secs())))
                }
            };
            match &made {
                Ok(_) => stats.standbys_prepared.bump(),
                Err(error) => {
                    stats.prepares_failed.bump();
                    warn!(log, "failed to prepare a standby"; "error" => %error);
                }
            }
            made
        }
    }

    /// Bring the shelves nearer to their targets, unless something more urgent is under way.
    fn refill(&mut self, ctx: &mut Context<Self>) {
        if self.closed || self.n_waiting > 0 {
            return;
        }
        let now = Instant::now();
        let wait = self.refill_pause.waits_until(now).max(self.not_before.filter(|then| *then > now));
        while let Some(Wanted { key, urgent }) = self.standbys.wanted() {
            if let Some(then) = wait {
                self.refill_later(then - now, ctx);
                return;
            }
            if self.standbys.n_making() >= if urgent { URGENT_MAX } else { 1 } {
                return;
            }
            self.make(key, ctx);
        }
    }

    fn refill_later(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if self.next_refill.is_none() {
            self.next_refill = Some(ctx.run_later(pause, |zygotes, ctx| {
                zygotes.next_refill = None;
                zygotes.refill(ctx);
            }));
        }
    }

    /// A standby that lies ready, or the next one that is made for whoever has waited longest.
    fn standby(
        &mut self,
        kind: StandbyKind,
        ctx: &mut Context<Self>,
    ) -> LocalFuture<Result<(W::Standby, Start), LaunchError>> {
        if let Some(standby) = self.standbys.demand(&kind) {
            self.refill(ctx);
            return Box::pin(async { Ok((standby, Start::Standby)) });
        }
        if self.n_waiting >= QUEUE_LENGTH_MAX {
            return Box::pin(async {
                Err(LaunchError::Resources("too many sandboxes are being made".into()))
            });
        }
        let (reach, answer) = oneshot::channel();
        self.n_customers += 1;
        let customer =
            Customer { number: self.n_customers, deadline: Instant::now() + QUEUE_WAIT_MAX, reach };
        self.queues.entry(kind).or_default().push_back(customer);
        self.n_waiting += 1;
        self.work(ctx);
        Box::pin(async {
            answer
                .await
                .unwrap_or_else(|_| Err(LaunchError::Failed("the zygotes are being restarted".into())))
        })
    }

    /// Targets shrink where nothing was asked for; dead standbys go.
    fn tidy(&mut self, ctx: &mut Context<Self>) {
        self.standbys.tidy();
        let now = Instant::now();
        self.lambdas.tidy(Zygote::is_alive, now);
        let gone = self.forest.lock().tidy(Zygote::is_alive, now);
        for node in gone {
            self.give_up_node(node);
        }
        self.refill(ctx);
        self.plant(ctx);
    }

    /// The zygote of packages that suits a function best, and lives.
    fn best(&mut self, packages: &PackageSet, class: Class) -> Option<Best<W::Zygote>> {
        loop {
            let best = self.forest.lock().best(packages, class.network == Network::Host)?;
            if best.zygote.is_alive() {
                return Some(best);
            }
            self.give_up_node(best.node);
        }
    }

    /// Make the zygotes of packages that should be there: one at a time, since an import takes a core for itself.
    fn plant(&mut self, ctx: &mut Context<Self>) {
        if self.closed || self.planting || !self.config.import_cache {
            return;
        }
        let now = Instant::now();
        let under_pressure = self.not_before.filter(|then| *then > now);
        let build = if under_pressure.is_none() { self.forest.lock().next_build(now) } else { None };
        let Some(build) = build else {
            let due = self.forest.lock().next_due(now);
            if let (Some(due), None) = (due, &self.next_planting) {
                let pause = under_pressure.unwrap_or(now).max(due) - now;
                self.next_planting = Some(ctx.run_later(pause, |zygotes, ctx| {
                    zygotes.next_planting = None;
                    zygotes.plant(ctx);
                }));
            }
            return;
        };
        self.planting = true;
        let node = build.node;
        ctx.spawn(self.import(build).into_actor(self).map(move |made, zygotes, ctx| {
            zygotes.planting = false;
            match &made {
                Ok(Planted { holds, .. }) => {
                    let took: Duration = holds.iter().map(|(_, took)| *took).sum();
                    let holds = PackageSet::new(holds.iter().map(|(package, _)| package.clone()));
                    zygotes.stats.package_zygotes_started.bump();
                    info!(zygotes.log, "started a zygote of packages"; "holds" => %holds, "import_ms" => took.as_millis());
                }
                Err(error) => {
                    warn!(zygotes.log, "failed to start a zygote of packages"; "error" => %error);
                }
            }
            let unwanted = if zygotes.closed {
                made.ok().map(|planted| planted.zygote)
            } else {
                zygotes.forest.lock().built(node, made, Instant::now())
            };
            drop(unwanted);
            zygotes.plant(ctx);
        }));
    }

    fn import(&self, build: Build<W::Zygote>) -> LocalFuture<Result<Planted<W::Zygote>, LaunchError>> {
        let Build { requirements, on_host, parents, careful, .. } = build;
        let (packages, launcher, log) = (self.packages.clone(), self.launcher.clone(), self.log.clone());
        let network = if on_host { Network::Host } else { Network::None };
        let class = Class { network, ..self.config.default_class };
        Box::pin(async move {
            let mut there = Vec::new();
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
            let set = PackageSet::new(there);
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
            Ok(planted)
        })
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
        self.refill(ctx);
        self.plant(ctx);
        ctx.run_interval(TIDY_EVERY, Self::tidy);
    }
}

impl<W: World> StreamHandler<Taken> for Zygotes<W> {
    fn handle(&mut self, _: Taken, ctx: &mut Context<Self>) {
        self.refill(ctx);
    }
}

impl<W: World> Handler<Acquire<W>> for Zygotes<W> {
    type Result = ResponseActFuture<Self, Result<Acquired<W>, LaunchError>>;

    fn handle(
        &mut self,
        Acquire { name, generation, code, packages }: Acquire<W>,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        if self.closed {
            return Box::pin(fut::err(LaunchError::Resources("the worker is shutting down".into())));
        }
        let class = code.class();
        let zygote = self.lambdas.find(&name, generation, Instant::now()).filter(Zygote::is_alive);
        let best = self.best(&packages, class);
        let kind = StandbyKind { class, node: best.map_or(NodeId::ROOT, |best| best.node) };
        let Some(zygote) = zygote else {
            let standby = self.standby(kind, ctx);
            return Box::pin(
                standby
                    .into_actor(self)
                    .map(|standby, _, _| standby.map(|(standby, start)| Acquired::Standby(standby, start))),
            );
        };
        let made = tokio::time::timeout(PREPARE_TIME_MAX, self.launcher.spawn(name.clone(), zygote, code));
        Box::pin(made.into_actor(self).then(
            move |made, zygotes: &mut Self, ctx: &mut Context<Self>| -> Self::Result {
                let error = match made {
                    Ok(Ok(sandbox)) => {
                        zygotes.stats.lambda_zygote_forks.bump();
                        return Box::pin(fut::ok(Acquired::Sandbox(sandbox)));
                    }
                    Ok(Err(error)) => error,
                    Err(_) => LaunchError::Failed(format!("no fork after {} s", PREPARE_TIME_MAX.as_secs())),
                };
                // Then as if there were none. What is out of something now will be so for a standby as well.
                warn!(zygotes.log, "failed to fork a lambda's zygote"; "lambda" => %name, "error" => %error);
                if !matches!(error, LaunchError::Resources(_)) {
                    zygotes.lambdas.failed(&name, generation, Instant::now());
                }
                let standby = zygotes.standby(kind, ctx).into_actor(zygotes);
                Box::pin(
                    standby.map(|standby, _, _| {
                        standby.map(|(standby, start)| Acquired::Standby(standby, start))
                    }),
                )
            },
        ))
    }
}

impl<W: World> Handler<Loaded<W>> for Zygotes<W> {
    type Result = ResponseActFuture<Self, Forkability>;

    fn handle(
        &mut self,
        Loaded { name, generation, code, packages, took }: Loaded<W>,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        let class = code.class();
        if !self.closed && self.config.import_cache {
            self.forest.lock().loaded(&packages, class.network == Network::Host, took, Instant::now());
            self.plant(ctx);
        }
        if self.closed || !self.lambdas.loaded(&name, generation, took, code.reuse(), Instant::now()) {
            return Box::pin(fut::ready(self.lambdas.forkability(&name, generation)));
        }
        let parent = self.best(&packages, class).map(|best| best.zygote);
        let sprouted = self.launcher.sprout(name.clone(), code, packages, parent);
        let made = tokio::time::timeout(SPROUT_TIME_MAX, sprouted);
        Box::pin(made.into_actor(self).map(move |made, zygotes: &mut Self, _ctx| {
            let late = || LaunchError::Failed(format!("not loaded after {} s", SPROUT_TIME_MAX.as_secs()));
            let made = made.unwrap_or_else(|_| Err(late()));
            match &made {
                Ok(_) => {
                    zygotes.stats.lambda_zygotes_started.bump();
                    info!(zygotes.log, "started a lambda's zygote"; "lambda" => %name, "load_ms" => took.as_millis());
                }
                Err(LaunchError::Unsupported(reason)) => {
                    info!(zygotes.log, "a lambda gets no zygote"; "lambda" => %name, "reason" => reason);
                }
                Err(error) => {
                    warn!(zygotes.log, "failed to start a lambda's zygote"; "lambda" => %name, "error" => %error);
                }
            }
            // Meanwhile there may have come new code, or the end; then it goes again.
            let unwanted = zygotes.lambdas.sprouted(&name, generation, made, Instant::now());
            drop(unwanted);
            zygotes.lambdas.forkability(&name, generation)
        }))
    }
}

impl<W: World> Handler<ReleaseIdle> for Zygotes<W> {
    type Result = usize;

    fn handle(&mut self, _: ReleaseIdle, ctx: &mut Context<Self>) -> usize {
        let n_released = self.standbys.release();
        self.not_before = Some(Instant::now() + PRESSURE_PAUSE);
        // Standbys first: they cost 2 ms to make again, a zygote an import. One at a time, the next one when it has not
        // been enough.
        if n_released == 0 {
            let node = self.forest.lock().release_one(Instant::now());
            if let Some(node) = node {
                debug!(self.log, "released a zygote of packages");
                self.give_up_node(node);
                return 1;
            }
        }
        if n_released == 0
            && let Some(zygote) = self.lambdas.release_one()
        {
            debug!(self.log, "released a lambda's zygote");
            drop(zygote);
            return 1;
        }
        if n_released > 0 {
            debug!(self.log, "released standbys"; "n_released" => n_released);
        }
        self.refill(ctx);
        n_released
    }
}

impl<W: World> Handler<Close> for Zygotes<W> {
    type Result = ();

    fn handle(&mut self, _: Close, _ctx: &mut Context<Self>) {
        self.closed = true;
        self.standbys.close();
        self.lambdas.clear();
        self.forest.lock().clear();
        self.n_waiting = 0;
        for customer in self.queues.drain().flat_map(|(_, queue)| queue) {
            let _ = customer.reach.send(Err(LaunchError::Resources("the worker is shutting down".into())));
        }
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

impl<W: World> Handler<Crash> for Zygotes<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;
    use crate::fake::{CLASS, Fake, FakeCode, FakeStandby, FakeWorld, code, log, ms, name, package};
    use crate::monitor::{Child, Down};
    use crate::packages::Known;
    use crate::router::Routes;
    use crate::world::Network;

    struct Ear;
    impl Actor for Ear {
        type Context = Context<Self>;
    }
    impl Handler<Down> for Ear {
        type Result = ();
        fn handle(&mut self, _: Down, _: &mut Context<Self>) {}
    }

    type Zygotes = super::Zygotes<FakeWorld>;

    const PLAIN: StandbyKind = StandbyKind { class: CLASS, node: NodeId::ROOT };
    const CONFIG: ZygotesConfig =
        ZygotesConfig { default_class: CLASS, standbys: 4, standbys_max: 16, import_cache: true, plan: None };

    async fn start(world: &Fake, standbys: &Standbys<FakeWorld>) -> actix::Addr<Zygotes> {
        start_with(world, standbys, CONFIG).await
    }

    async fn start_with(
        world: &Fake,
        standbys: &Standbys<FakeWorld>,
        config: ZygotesConfig,
    ) -> actix::Addr<Zygotes> {
        let monitor = |child| Monitor::new(child, 1, Ear.start().recipient());
        let packages = Packages::new(
            world.clone(),
            Known::default(),
            Routes::default(),
            Arc::default(),
            log(),
            monitor(Child::Packages),
        )
        .start();
        let surroundings = Surroundings {
            launcher: world.clone(),
            standbys: standbys.clone(),
            forest: SharedForest::new(config.plan.as_ref(), false),
            packages: Link::new(packages),
            stats: Arc::default(),
        };
        let zygotes = Zygotes::new(surroundings, config, log(), monitor(Child::Zygotes)).start();
        sleep(ms(50)).await;
        zygotes
    }

    async fn zygotes(world: &Fake) -> actix::Addr<Zygotes> {
        start(world, &Standbys::<FakeWorld>::new(CONFIG.shelf_limits())).await
    }

    async fn acquire(zygotes: &actix::Addr<Zygotes>, class: Class) -> Result<FakeStandby, LaunchError> {
        acquire_with(zygotes, class, &[]).await
    }

    async fn acquire_with(
        zygotes: &actix::Addr<Zygotes>,
        class: Class,
        packages: &[&str],
    ) -> Result<FakeStandby, LaunchError> {
        let code = FakeCode { class, ..code("1") };
        let packages = PackageSet::new(packages.iter().map(|text| package(text)));
        match zygotes.send(Acquire { name: name("f"), generation: 1, code, packages }).await.unwrap()? {
            Acquired::Standby(standby, _) => Ok(standby),
            Acquired::Sandbox(_) => panic!("nothing was loaded, so there is no zygote of it"),
        }
    }

    #[actix::test]
    async fn standbys_of_the_default_class_wait_and_cost_no_wait() {
        tokio::time::pause();
        let world = Fake::new();
        let zygotes = zygotes(&world).await;
        assert_eq!(world.state().standbys.len(), 4);
        let began = Instant::now();
        let _standby = acquire(&zygotes, CLASS).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        sleep(ms(50)).await;
        assert_eq!(world.state().standbys.len(), 5, "four wait again");
    }

    #[actix::test]
    async fn what_is_taken_without_asking_is_made_again_one_at_a_time() {
        tokio::time::pause();
        let world = Fake::new();
        let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
        let _zygotes = start(&world, &standbys).await;
        world.state().n_preparing_max = 0;
        let _taken = standbys.take_ready(&PLAIN).unwrap();
        sleep(ms(50)).await;
        assert_eq!(world.state().n_preparing_max, 0, "the request has the cores for itself");
        standbys.say_taken();
        sleep(ms(50)).await;
        assert_eq!(world.state().n_preparing_max, 1);
        assert_eq!(world.state().standbys.len(), 5);
    }

    #[actix::test]
    async fn a_shelf_that_a_burst_has_emptied_is_filled_at_once_and_by_several() {
        tokio::time::pause();
        let world = Fake::new();
        let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
        let _zygotes = start(&world, &standbys).await;
        world.state().n_preparing_max = 0;
        while standbys.take_ready(&PLAIN).is_some() {}
        standbys.say_taken();
        sleep(ms(1)).await;
        assert_eq!(world.state().n_preparing_max, URGENT_MAX);
    }

    #[actix::test]
    async fn what_is_made_first_is_for_whoever_has_waited_longest() {
        tokio::time::pause();
        let world = Fake::new();
        let zygotes = zygotes(&world).await;
        zygotes.send(ReleaseIdle).await.unwrap();
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        join_all((0..20).map(|i| {
            let (order, zygotes) = (std::rc::Rc::clone(&order), zygotes.clone());
            async move {
                acquire(&zygotes, CLASS).await.unwrap();
                order.borrow_mut().push(i);
            }
        }))
        .await;
        assert!(order.borrow().is_sorted(), "{order:?}");
    }

    #[actix::test]
    async fn standbys_outlive_their_keeper_and_the_next_one_has_them() {
        tokio::time::pause();
        let world = Fake::new();
        let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
        let zygotes = start(&world, &standbys).await;
        // Amid its work, so that what it had begun is not waited for ever after.
        drop(standbys.take_ready(&PLAIN));
        standbys.say_taken();
        sleep(ms(1)).await;
        assert_eq!(standbys.n_making(), 1);
        assert!(zygotes.send(Crash).await.is_err());
        let _successor = start(&world, &standbys).await;
        assert_eq!((standbys.n_making(), standbys.waiting()), (0, vec![(PLAIN, 4)]));
        assert!(world.state().n_prepared <= 6);
    }

    #[actix::test]
    async fn a_dead_standby_is_never_handed_out() {
        tokio::time::pause();
        let world = Fake::new();
        let zygotes = zygotes(&world).await;
        let dead: Vec<u64> = world.state().standbys.iter().copied().collect();
        world.state().dead.extend(&dead);
        let standby = acquire(&zygotes, CLASS).await.unwrap();
        assert!(!dead.contains(&standby.id));
    }

    #[actix::test]
    async fn few_are_prepared_at_once_and_all_are_served() {
        tokio::time::pause();
        let world = Fake::new();
        let zygotes = zygotes(&world).await;
        let standbys = join_all((0..100).map(|_| acquire(&zygotes, CLASS))).await;
        assert!(standbys.iter().all(Result::is_ok));
        assert!(world.state().n_preparing_max <= ON_DEMAND_MAX + 1);
    }

    #[actix::test]
    async fn demand_raises_the_target_and_quiet_lowers_it() {
        tokio::time::pause();
        let world = Fake::new();
        let zygotes = zygotes(&world).await;
        let other = Class { network: Network::Host, ..CLASS };
        assert_eq!(zygotes.send(Waiting).await.unwrap(), [(CLASS, 4)], "others only on demand");
        drop(acquire(&zygotes, other).await.unwrap());
        drop(join_all((0..20).map(|_| acquire(&zygotes, CLASS))).await);
        sleep(ms(500)).await;
        let waiting = zygotes.send(Waiting).await.unwrap();
        assert!(waiting.contains(&(other, 1)) && waiting.contains(&(CLASS, 16)), "{waiting:?}");
        sleep(ms(200_000)).await;
        assert_eq!(zygotes.send(Waiting).await.unwrap(), [(CLASS, 4)]);
    }

    #[actix::test]
    async fn failures_are_told_to_those_who_ask_and_slow_the_refilling_down() {
        tokio::time::pause();
        let world = Fake::new();
        let error = LaunchError::Failed("no fork".into());
        world.state().prepare_error = Some(error.clone());
        let zygotes = zygotes(&world).await;
        assert_eq!(acquire(&zygotes, CLASS).await.err(), Some(error));
        world.state().prepare_time = Duration::ZERO;
        sleep(ms(60_000)).await;
        world.state().prepare_error = None;
        sleep(REFILL_PAUSE_MAX + ms(100)).await;
        assert!(world.state().standbys.len() >= 4, "it recovers by itself");
    }

    #[actix::test]
    async fn under_pressure_standbys_are_given_up_and_come_back_later() {
        tokio::time::pause();
        let world = Fake::new();
        let zygotes = zygotes(&world).await;
        assert_eq!(zygotes.send(ReleaseIdle).await.unwrap(), 4);
        sleep(ms(1_000)).await;
        assert!(world.state().standbys.is_empty());
        sleep(PRESSURE_PAUSE).await;
        assert_eq!(world.state().standbys.len(), 4);
    }

    #[actix::test]
    async fn a_standby_for_someone_who_has_gone_is_not_leaked() {
        tokio::time::pause();
        let world = Fake::new();
        let zygotes = zygotes(&world).await;
        zygotes.send(ReleaseIdle).await.unwrap();
        let gone = tokio::time::timeout(ms(1), acquire(&zygotes, CLASS)).await;
        assert!(gone.is_err());
        sleep(ms(5)).await;
        assert_eq!(world.state().n_prepared, 5);
        assert!(world.state().standbys.is_empty());
    }

    const SET: [&str; 2] = ["a==1", "b==1"];

    /// A function that requires these was loaded, and it took long.
    async fn load(zygotes: &actix::Addr<Zygotes>, packages: &[&str]) {
        let packages = PackageSet::new(packages.iter().map(|text| package(text)));
        let loaded = Loaded { name: name("f"), generation: 1, code: code("1"), packages, took: ms(300) };
        zygotes.send(loaded).await.unwrap();
    }

    /// Zygotes of packages made, and forks of them.
    fn planted(world: &Fake) -> (usize, usize) {
        let state = world.state();
        (state.n_plants, state.n_spawns)
    }

    fn install(world: &Fake, packages: &[&str]) {
        world.state().installed.extend(packages.iter().map(|&text| text.to_owned()));
    }

    #[actix::test]
    async fn what_took_long_to_import_is_imported_once_more_and_then_forked() {
        tokio::time::pause();
        let world = Fake::new();
        install(&world, &SET);
        let zygotes = zygotes(&world).await;
        load(&zygotes, &SET).await;
        acquire_with(&zygotes, CLASS, &SET).await.unwrap();
        assert_eq!(planted(&world), (0, 0), "nobody waits for a zygote");
        sleep(ms(400)).await;
        assert_eq!(world.state().n_plants, 1);
        acquire_with(&zygotes, CLASS, &SET).await.unwrap();
        assert_eq!(world.state().n_spawns, 1);
        sleep(ms(100)).await;
        assert_eq!(world.state().n_spawns, 2, "one waits for the next");
        let began = Instant::now();
        acquire_with(&zygotes, CLASS, &["b==1", "c==1", "a==1"]).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO, "it also suits who needs more");
        let n = world.state().n_spawns;
        acquire_with(&zygotes, CLASS, &SET[..1]).await.unwrap();
        sleep(ms(1)).await;
        assert!(world.state().n_spawns <= n + 1, "but not who needs less");
    }

    #[actix::test]
    async fn a_package_that_crashes_takes_no_other_down() {
        tokio::time::pause();
        let world = Fake::new();
        install(&world, &SET);
        world.state().crashing.insert("b==1".into());
        let zygotes = zygotes(&world).await;
        load(&zygotes, &SET).await;
        sleep(ms(400)).await;
        acquire_with(&zygotes, CLASS, &SET).await.unwrap();
        assert_eq!(planted(&world), (1, 0));
        sleep(ms(2_000)).await;
        assert_eq!(world.state().n_plants, 2, "after a pause, with care");
        acquire_with(&zygotes, CLASS, &SET[..1]).await.unwrap();
        assert_eq!(world.state().n_spawns, 1, "the other one is there");
    }

    #[actix::test]
    async fn a_dead_zygote_is_missed_by_nobody_and_comes_back() {
        tokio::time::pause();
        let world = Fake::new();
        install(&world, &SET);
        let zygotes = zygotes(&world).await;
        load(&zygotes, &SET).await;
        sleep(ms(400)).await;
        world.state().zygotes.clear();
        acquire_with(&zygotes, CLASS, &SET).await.unwrap();
        assert_eq!(world.state().n_spawns, 0);
        sleep(ms(6_000)).await;
        assert_eq!(world.state().n_plants, 2);
        acquire_with(&zygotes, CLASS, &SET).await.unwrap();
        assert!(world.state().n_spawns > 0);
    }

    #[actix::test]
    async fn whoever_waits_for_a_fork_that_fails_imports_itself() {
        tokio::time::pause();
        let world = Fake::new();
        install(&world, &SET);
        let zygotes = zygotes(&world).await;
        load(&zygotes, &SET).await;
        sleep(ms(400)).await;
        world.state().spawn_error = Some(LaunchError::Failed("stuck".into()));
        let all = join_all((0..10).map(|_| acquire_with(&zygotes, CLASS, &SET))).await;
        assert!(all.iter().all(Result::is_ok));
        world.state().spawn_error = Some(LaunchError::Resources("uids".into()));
        sleep(ms(6_000)).await;
        assert!(acquire_with(&zygotes, CLASS, &SET).await.is_ok());
    }

    #[actix::test]
    async fn under_pressure_zygotes_of_packages_go_after_standbys() {
        tokio::time::pause();
        let world = Fake::new();
        install(&world, &SET);
        let zygotes = zygotes(&world).await;
        load(&zygotes, &SET).await;
        sleep(ms(400)).await;
        assert_eq!(zygotes.send(ReleaseIdle).await.unwrap(), 4);
        assert_eq!(world.state().zygotes.len(), 1);
        assert_eq!(zygotes.send(ReleaseIdle).await.unwrap(), 1);
        assert!(world.state().zygotes.is_empty());
    }

    #[actix::test]
    async fn a_drawn_tree_is_there_before_anybody_asks_and_does_without_what_is_missing() {
        tokio::time::pause();
        let world = Fake::new();
        install(&world, &SET[..1]);
        let child = Plan { packages: vec!["b==1".into()], children: Vec::new() };
        let node = Plan { packages: vec!["a==1".into()], children: vec![child] };
        let plan = Some(Plan { packages: Vec::new(), children: vec![node] });
        let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
        let zygotes = start_with(&world, &standbys, ZygotesConfig { plan, ..CONFIG }).await;
        sleep(ms(700)).await;
        assert_eq!(world.state().n_plants, 2);
        acquire_with(&zygotes, CLASS, &SET).await.unwrap();
        assert_eq!(world.state().n_spawns, 1);
    }

    #[actix::test]
    async fn switched_off_there_are_none() {
        tokio::time::pause();
        let world = Fake::new();
        install(&world, &SET);
        let standbys = Standbys::<FakeWorld>::new(CONFIG.shelf_limits());
        let zygotes = start_with(&world, &standbys, ZygotesConfig { import_cache: false, ..CONFIG }).await;
        load(&zygotes, &SET).await;
        sleep(ms(6_000)).await;
        assert_eq!(world.state().n_plants, 0);
    }
}
