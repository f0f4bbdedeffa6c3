//! One actor per function. It makes the function's sandboxes, and decides about those that are idle.
//!
//! Handing out and checking in happens in the [pool](crate::pool) without it; the pool wakes it when
//! another sandbox may be needed. It has no timer of its own while it has no sandbox, so that ten thousand
//! functions that nobody calls cost nothing but their memory.
//!
//! To make a sandbox: memory from the evictor, packages, a standby from the zygotes, and the function's code
//! into it. Each step has a time limit, and a step that fails gives the place back to the pool.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, StreamHandler,
    WrapFuture,
};
use futures_util::stream;
use slog::{Logger, debug, info, warn};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::evictor::{Evictor, Ledger, NeedRoom, Reservation};
use crate::link::Link;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::packages::{Known, Packages, Provide};
use crate::pool::{Closed, Figures, Place, Reserved, SharedPool, TEND_PAUSE_MIN};
use crate::stats::{LambdaStatus, State, WorkerStats};
use crate::world::{Code, LaunchError, Launcher, Making, World};
use crate::zygotes::{self, Acquire, Acquired, Forkability, Loaded, Zygotes};

/// There is new code. The supervisor has told the pool already.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Changed<W: World> {
    /// Counts up with each version.
    pub generation: u64,
    /// What is put into sandboxes from now on.
    pub code: W::Code,
}

/// The last upload is broken (`None`: it is well again). The code before it is served on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Rejected {
    /// What to mend.
    pub reason: Option<String>,
}

/// Give up idle sandboxes, those first that were used least recently: memory is tight.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReleaseIdle {
    /// So many at most.
    pub n_max: usize,
}

/// Freeze idle sandboxes, those first that were used least recently: memory is tight.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FreezeIdle {
    /// So many at most.
    pub n_max: usize,
    /// Have the kernel take back what it can of those that are frozen.
    pub reclaim: bool,
}

/// Hand out no more and end. What is on loan is dropped when it comes home.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Retire;

/// How are you?
#[derive(Debug, Message)]
#[rtype(result = "LambdaStatus")]
pub struct Status;

/// How long it may take to look for the packages: some reads of directories, on a disk that may be busy.
pub const PROVIDE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a standby may take: as long as it may wait for its turn and be made.
pub const ACQUIRE_TIME_MAX: Duration =
    Duration::from_secs(zygotes::QUEUE_WAIT_MAX.as_secs() + zygotes::PREPARE_TIME_MAX.as_secs());
/// How long the function's module may take to be imported. The largest scientific packages take ten seconds
/// on a cold disk.
pub const INSTALL_TIME_MAX: Duration = Duration::from_secs(60);

/// Sandboxes that all lambdas make at once only to keep them warm: as many as half of the cores can, so that the other half is
/// there for calls. Lambdas take turns, one sandbox each.
#[must_use]
pub fn warm_turns() -> usize {
    std::thread::available_parallelism().map_or(1, |n_cores| (n_cores.get() / 2).max(1))
}

/// Whom a lambda asks, and where it counts. A clone asks the same.
pub struct Services<W: World> {
    /// Makes sandboxes.
    pub launcher: W::Launcher,
    /// Sees to packages.
    pub packages: Link<Packages<W>>,
    /// What it has found out.
    pub known: Known,
    /// Has standbys.
    pub zygotes: Link<Zygotes<W>>,
    /// Has memory, when it is tight.
    pub evictor: Link<Evictor<W>>,
    /// Has memory, when it is not.
    pub ledger: Ledger,
    /// What a sandbox is held to take before any was measured.
    pub sandbox_bytes: u64,
    /// Whose turn it is to make a sandbox that is only to be kept warm ([`warm_turns`]).
    pub warm_turns: Arc<Semaphore>,
    /// Counters of the worker.
    pub stats: Arc<WorkerStats>,
}

impl<W: World> Services<W> {
    /// What a sandbox takes, if `measured` (0: not yet).
    pub(crate) fn estimate(&self, measured: u64) -> u64 {
        if measured > 0 { measured } else { self.sandbox_bytes }
    }
}

impl<W: World> Clone for Services<W> {
    fn clone(&self) -> Self {
        Self {
            launcher: self.launcher.clone(),
            packages: self.packages.clone(),
            known: self.known.clone(),
            zygotes: self.zygotes.clone(),
            evictor: self.evictor.clone(),
            ledger: self.ledger.clone(),
            sandbox_bytes: self.sandbox_bytes,
            warm_turns: Arc::clone(&self.warm_turns),
            stats: Arc::clone(&self.stats),
        }
    }
}

/// What a lambda is for.
pub struct Assignment<W: World> {
    /// The function.
    pub name: FunctionName,
    /// Its code.
    pub code: W::Code,
    /// Which generation that is.
    pub generation: u64,
    /// The last upload is broken, and `code` is what was there before.
    pub rejected: Option<String>,
    /// The pool, of the same generation, that requests lease from.
    pub pool: SharedPool<W::Sandbox>,
}

/// The actor of one function.
pub struct Lambda<W: World> {
    name: FunctionName,
    code: W::Code,
    generation: u64,
    rejected: Option<String>,
    pool: Keeper<W>,
    services: Services<W>,
    /// Why the last sandbox could not be made, if that was so.
    last_failure: Option<LaunchError>,
    /// Why each sandbox has to load the function anew, if that is so.
    unforkable: Option<String>,
    looking_again: Option<SpawnHandle>,
    /// It waits for its turn to make a sandbox that is only to be kept warm.
    waits_for_turn: bool,
    tending: Option<SpawnHandle>,
    log: Logger,
    _monitor: Monitor,
}

/// Closes the pool when the lambda ends: nobody would make sandboxes for those who wait.
struct Keeper<W: World>(SharedPool<W::Sandbox>);

impl<W: World> Drop for Keeper<W> {
    fn drop(&mut self) {
        self.0.close(Closed::Restarting);
    }
}

/// The pool may need another sandbox.
struct GrowthWanted;

impl<W: World> Lambda<W> {
    /// Serves this function.
    #[must_use]
    pub fn new(assignment: Assignment<W>, services: Services<W>, log: Logger, monitor: Monitor) -> Self {
        let Assignment { name, code, generation, rejected, pool } = assignment;
        Self {
            name,
            code,
            generation,
            rejected,
            pool: Keeper(pool),
            services,
            last_failure: None,
            unforkable: None,
            looking_again: None,
            waits_for_turn: false,
            tending: None,
            log,
            _monitor: monitor,
        }
    }

    /// Take in what came of sandboxes that requests have made for themselves.
    fn hear(&mut self, ctx: &mut Context<Self>) {
        match self.pool.0.take_news() {
            Some(Ok(took)) => {
                self.last_failure = None;
                self.tell_load_time(took, ctx);
            }
            Some(Err(error)) => self.launch_failed(error),
            None => {}
        }
        if self.pool.0.has_any() {
            self.tend_later(TEND_PAUSE_MIN, ctx);
        }
    }

    fn launch_failed(&mut self, error: LaunchError) {
        if self.last_failure.as_ref() != Some(&error) {
            warn!(self.log, "failed to start a sandbox"; "error" => %error);
        }
        self.last_failure = Some(error);
    }

    fn grow(&mut self, ctx: &mut Context<Self>) {
        self.hear(ctx);
        let Reserved { places, keeps, look_again } = self.pool.0.reserve_growth(self.generation);
        if keeps {
            self.wait_for_turn(ctx);
        }
        if let Some(handle) = self.looking_again.take() {
            ctx.cancel_future(handle);
        }
        self.looking_again = look_again.map(|pause| {
            ctx.run_later(pause, |lambda, ctx| {
                lambda.looking_again = None;
                lambda.grow(ctx);
            })
        });
        if places.is_empty() {
            return;
        }
        debug!(self.log, "starting sandboxes"; "n" => places.len(), "generation" => self.generation);
        for place in places {
            let bytes = self.services.estimate(self.pool.0.sandbox_bytes());
            self.launch(place, Room::Needed(bytes), None, ctx);
        }
        self.tend_later(Duration::ZERO, ctx);
    }

    /// Make a sandbox to be kept warm when it is this lambda's turn. No place in the pool is reserved until then: a request that comes
    /// meanwhile is not to wait for a turn.
    fn wait_for_turn(&mut self, ctx: &mut Context<Self>) {
        if self.waits_for_turn {
            return;
        }
        self.waits_for_turn = true;
        let turn = Arc::clone(&self.services.warm_turns).acquire_owned();
        ctx.spawn(turn.into_actor(self).map(|turn, lambda, ctx| {
            lambda.waits_for_turn = false;
            // They are never closed.
            let Ok(turn) = turn else { return };
            lambda.keep_warm(turn, ctx);
        }));
    }

    fn keep_warm(&mut self, turn: OwnedSemaphorePermit, ctx: &mut Context<Self>) {
        let Some(place) = self.pool.0.reserve_kept(self.generation) else { return };
        let bytes = self.services.estimate(self.pool.0.sandbox_bytes());
        match self.services.ledger.try_reserve_warm(bytes) {
            Some(reservation) => {
                debug!(self.log, "starting a sandbox to keep it warm"; "generation" => self.generation);
                self.launch(place, Room::Had(reservation), Some(turn), ctx);
                self.tend_later(Duration::ZERO, ctx);
                // There may be another turn to be had.
                self.grow(ctx);
            }
            None => {
                debug!(self.log, "memory has no room for another sandbox that is only kept warm"; "bytes" => bytes);
                place.forgo();
            }
        }
    }

    /// `turn`: of what is made only to be kept warm.
    fn launch(
        &self,
        place: Place<W::Sandbox>,
        room: Room,
        turn: Option<OwnedSemaphorePermit>,
        ctx: &mut Context<Self>,
    ) {
        let generation = self.generation;
        let made = make(self.name.clone(), generation, self.code.clone(), room, self.services.clone());
        let made = async move { (made.await, turn) };
        // The turn is over when this has been heard.
        ctx.spawn(made.into_actor(self).map(move |(made, _turn), lambda, ctx| match made {
            Ok(Made { sandbox, _reservation, load_time, took }) => {
                lambda.services.stats.sandboxes_started.bump();
                lambda.last_failure = None;
                place.fill(sandbox, took);
                if let Some(took) = load_time
                    && generation == lambda.generation
                {
                    lambda.tell_load_time(took, ctx);
                }
            }
            Err(error) => {
                lambda.services.stats.launches_failed.bump();
                place.fail(&error);
                lambda.launch_failed(error);
            }
        }));
    }

    /// The zygotes may make one of this function, so that its next sandboxes need not load it.
    fn tell_load_time(&mut self, took: Duration, ctx: &mut Context<Self>) {
        let generation = self.generation;
        // Whoever had to load it has found no zygote.
        self.pool.0.set_forkable(generation, false);
        if !self.code.imports() {
            return;
        }
        // It was known a moment ago; if it is not now, there is another occasion.
        let Some(packages) = self.services.known.get(self.code.packages()) else { return };
        let loaded =
            Loaded::<W> { name: self.name.clone(), generation, code: self.code.clone(), packages, took };
        let told = self.services.zygotes.ask(loaded);
        ctx.spawn(told.into_actor(self).map(move |forkability, lambda, _ctx| {
            if generation != lambda.generation {
                return;
            }
            // No answer: the zygotes are being restarted. The next sandbox is as good an occasion.
            match forkability.unwrap_or(Forkability::None) {
                Forkability::Ready => lambda.pool.0.set_forkable(generation, true),
                Forkability::Never(reason) => lambda.unforkable = Some(reason),
                Forkability::None => {}
            }
        }));
    }

    /// See to idle sandboxes when that is next due, as long as there are any.
    fn tend_later(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if self.tending.is_none() {
            self.tending = Some(ctx.run_later(pause, |lambda, ctx| {
                lambda.tending = None;
                if let Some(pause) = lambda.pool.0.tend() {
                    lambda.tend_later(pause, ctx);
                }
            }));
        }
    }

    fn status(&self) -> LambdaStatus {
        let figures = self.pool.0.figures();
        let unloadable = match &self.last_failure {
            Some(LaunchError::Load(_) | LaunchError::Unsupported(_)) => figures.live() == 0,
            _ => false,
        };
        let state = if figures.closed.is_some() {
            State::Retiring
        } else if self.rejected.is_some() || unloadable {
            State::Rejected
        } else if figures.draining > 0 {
            State::Reloading
        } else if figures.live() == 0 && figures.starting > 0 {
            State::Starting
        } else {
            State::Ready
        };
        let failure = self.last_failure.as_ref().map(ToString::to_string);
        let unforkable =
            || self.unforkable.as_ref().map(|reason| format!("loaded anew in each sandbox: {reason}"));
        let message = self.rejected.clone().or(failure).or_else(unforkable).unwrap_or_default();
        row(self.name.clone(), self.code.version().to_owned(), &figures, state, message)
    }
}

/// A row of the status table.
pub(crate) fn row(
    name: FunctionName,
    version: String,
    figures: &Figures,
    state: State,
    message: String,
) -> LambdaStatus {
    let ms = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64() * 1e3);
    LambdaStatus {
        name,
        state,
        generation: figures.generation,
        version,
        busy: figures.busy,
        warm: figures.warm,
        frozen: figures.frozen,
        starting: figures.starting,
        queue: figures.queue,
        invocations: figures.invocations,
        errors: figures.errors,
        timeouts: figures.timeouts,
        refused: figures.refused,
        cold_starts: figures.cold_starts,
        p50_ms: ms(figures.p50),
        p99_ms: ms(figures.p99),
        memory_bytes: figures.sandbox_bytes.saturating_mul(figures.live() as u64),
        message,
    }
}

/// Memory for a sandbox.
enum Room {
    /// So many bytes, whoever has to give them up.
    Needed(u64),
    /// It is reserved.
    Had(Reservation),
}

/// A sandbox, and what it took.
struct Made<S> {
    sandbox: S,
    /// Goes when the sandbox shows in the memory that is in use.
    _reservation: Reservation,
    /// How long it took to load the function; `None`: it was forked from one that had it loaded.
    load_time: Option<Duration>,
    /// How long all of it took, but for the wait for memory.
    took: Duration,
}

/// All the steps to a sandbox.
async fn make<W: World>(
    name: FunctionName,
    generation: u64,
    code: W::Code,
    room: Room,
    services: Services<W>,
) -> Result<Made<W::Sandbox>, LaunchError> {
    let gone = |whom: &str| LaunchError::Failed(format!("the {whom} of the worker is being restarted"));
    let late = |what: &str, limit: Duration| {
        LaunchError::Failed(format!("{what} took more than {} s", limit.as_secs()))
    };

    let began = Instant::now();
    let set = match services.known.get(code.packages()) {
        Some(set) => set,
        None => {
            // They were there when the code went into service. What has gone since is installed again.
            let list = if code.is_settled() { code.pins() } else { code.packages().to_vec() };
            let wish = Provide { list, is_settled: code.is_settled(), last: Vec::new(), anew: false };
            let provided = timeout(PROVIDE_TIME_MAX, services.packages.ask(wish))
                .await
                .map_err(|_| late("installing packages", PROVIDE_TIME_MAX))?
                .map_err(|_| gone("package manager"))?
                .map_err(LaunchError::from)?;
            code.keep(provided.hold);
            provided.set
        }
    };
    let packages = began.elapsed();
    services.stats.packages_used.add(services.known.use_for_sandbox(&set));
    let reservation = match room {
        Room::Had(reservation) => reservation,
        Room::Needed(bytes) => match services.ledger.try_reserve(bytes) {
            Some(reservation) => reservation,
            // Bounded by the evictor.
            None => services
                .evictor
                .ask(NeedRoom { bytes })
                .await
                .map_err(|_| gone("evictor"))?
                .map_err(|no_room| LaunchError::Resources(no_room.to_string()))?,
        },
    };
    let room_at = Instant::now();
    let acquire = Acquire::<W> { name: name.clone(), generation, code: code.clone(), packages: set.clone() };
    let acquired = timeout(ACQUIRE_TIME_MAX, services.zygotes.ask(acquire))
        .await
        .map_err(|_| late("preparing a sandbox", ACQUIRE_TIME_MAX))?
        .map_err(|_| gone("zygotes"))??;
    let (standby, start) = match acquired {
        Acquired::Sandbox(sandbox) => {
            let took = packages + room_at.elapsed();
            return Ok(Made { sandbox, _reservation: reservation, load_time: None, took });
        }
        Acquired::Standby(standby, start) => (standby, start),
    };
    let began = Instant::now();
    let install = services.launcher.install(name, standby, code, set, Making { start, packages });
    let sandbox = timeout(INSTALL_TIME_MAX, install).await.map_err(|_| {
        LaunchError::Load(format!("importing the function took more than {} s", INSTALL_TIME_MAX.as_secs()))
    })??;
    let took = packages + room_at.elapsed();
    Ok(Made { sandbox, _reservation: reservation, load_time: Some(began.elapsed()), took })
}

impl<W: World> Actor for Lambda<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let wishes = stream::unfold(self.pool.0.clone(), |pool| async move {
            pool.growth_wanted().await.then_some((GrowthWanted, pool))
        });
        ctx.add_stream(wishes);
        self.grow(ctx);
    }
}

impl<W: World> StreamHandler<GrowthWanted> for Lambda<W> {
    fn handle(&mut self, _: GrowthWanted, ctx: &mut Context<Self>) {
        self.grow(ctx);
    }

    /// The pool is closed.
    fn finished(&mut self, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl<W: World> Handler<Changed<W>> for Lambda<W> {
    type Result = ();

    fn handle(&mut self, Changed { generation, code }: Changed<W>, ctx: &mut Context<Self>) {
        if generation <= self.generation {
            return;
        }
        info!(self.log, "serving new code"; "version" => code.version(), "generation" => generation);
        self.generation = generation;
        self.code = code;
        self.rejected = None;
        self.last_failure = None;
        self.unforkable = None;
        self.grow(ctx);
    }
}

impl<W: World> Handler<Rejected> for Lambda<W> {
    type Result = ();

    fn handle(&mut self, Rejected { reason }: Rejected, _ctx: &mut Context<Self>) {
        self.rejected = reason;
    }
}

impl<W: World> Handler<ReleaseIdle> for Lambda<W> {
    type Result = ();

    fn handle(&mut self, ReleaseIdle { n_max }: ReleaseIdle, ctx: &mut Context<Self>) {
        let n_released = self.pool.0.release_idle(n_max);
        info!(self.log, "released idle sandboxes"; "n_released" => n_released);
        // What is to be kept warm is looked at again when its pause is over.
        self.grow(ctx);
    }
}

impl<W: World> Handler<FreezeIdle> for Lambda<W> {
    type Result = ();

    fn handle(&mut self, FreezeIdle { n_max, reclaim }: FreezeIdle, _ctx: &mut Context<Self>) {
        let n_frozen = self.pool.0.freeze_idle(n_max);
        let n_reclaimed = if reclaim { self.pool.0.reclaim_frozen() } else { 0 };
        debug!(self.log, "froze idle sandboxes"; "n_frozen" => n_frozen, "n_reclaimed" => n_reclaimed);
    }
}

impl<W: World> Handler<Retire> for Lambda<W> {
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Context<Self>) {
        self.pool.0.close(Closed::Retiring);
        ctx.stop();
    }
}

impl<W: World> Handler<Status> for Lambda<W> {
    type Result = actix::MessageResult<Status>;

    fn handle(&mut self, _: Status, ctx: &mut Context<Self>) -> Self::Result {
        self.hear(ctx);
        actix::MessageResult(self.status())
    }
}

impl<W: World> Handler<Crash> for Lambda<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}
