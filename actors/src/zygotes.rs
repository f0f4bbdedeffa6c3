//! The interpreters that are forked, and the standbys forked from them.
//!
//! A standby is made in about 2 ms and handed out in none, so some wait ready. How many: per class a
//! target, [`ZygotesConfig::standbys`] for the default class and none for the others to begin with. Each
//! time one is asked for and none is there, the target doubles (at least to 1), up to
//! [`ZygotesConfig::standbys_max`]; after each [`SHRINK_AFTER`] without a request it halves again, towards
//! where it began. Refilling happens off the path, one at a time, so that a burst of requests finds the
//! machine's cores for itself; it pauses after failures.
//!
//! Whoever finds none waits for one that is prepared on demand, at most [`ON_DEMAND_MAX`] at once.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, SpawnHandle,
    WrapFuture, fut,
};
use slog::{Logger, debug, info, warn};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::lambda_zygotes::LambdaZygotes;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::stats::WorkerStats;
use crate::world::{Class, Code, LaunchError, Launcher, LocalFuture, Standby, World, Zygote};

/// Hand out what a sandbox of this function can be made of.
pub struct Acquire<W: World> {
    /// Of the function.
    pub name: FunctionName,
    /// Counts its versions.
    pub generation: u64,
    /// What it must be like.
    pub code: W::Code,
}

/// What a sandbox is made of.
pub enum Acquired<W: World> {
    /// An interpreter that has to load the function.
    Standby(W::Standby),
    /// A fork of the function's own zygote: the sandbox itself.
    Sandbox(W::Sandbox),
}

impl<W: World> Message for Acquire<W> {
    type Result = Result<Acquired<W>, LaunchError>;
}

/// A sandbox has loaded a function: it may be worth a zygote. The answer, when that is decided, is why the function's
/// module must not be forked, if that is so.
pub struct Loaded<W: World> {
    /// Of the function.
    pub name: FunctionName,
    /// Counts its versions.
    pub generation: u64,
    /// What was loaded.
    pub code: W::Code,
    /// How long that took.
    pub took: Duration,
}

impl<W: World> Message for Loaded<W> {
    type Result = Option<String>;
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
#[derive(Debug, Clone, Copy)]
pub struct ZygotesConfig {
    /// The class that most functions want: filled from the start.
    pub default_class: Class,
    /// Standbys of the default class that wait when nothing is asked for.
    pub standbys: usize,
    /// Standbys of any one class that wait at most; each takes about 1.5 MB.
    pub standbys_max: usize,
}

/// Standbys prepared on demand at once: forks of one zygote queue up behind each other in the kernel, so
/// that more at once would only make each slower.
pub const ON_DEMAND_MAX: usize = 8;
/// Requests for a standby that may wait; as many launches as a burst of new sandboxes can use within the
/// time that a request waits, at 500 a second.
pub const QUEUE_LENGTH_MAX: usize = 5_000;
/// How long a request for a standby may wait; behind it waits a client.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long one standby may take; a fork that takes longer than this is stuck.
pub const PREPARE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a lambda's zygote may take to load its function: as long as a sandbox may.
pub const SPROUT_TIME_MAX: Duration = Duration::from_secs(60);
/// How long nothing is asked for before a target shrinks.
pub const SHRINK_AFTER: Duration = Duration::from_secs(30);
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
    shelves: HashMap<Class, Shelf<W::Standby>>,
    queue: VecDeque<Customer<W::Standby>>,
    n_on_demand: usize,
    refilling: bool,
    refill_pause: Backoff,
    not_before: Option<Instant>,
    next_refill: Option<SpawnHandle>,
    closed: bool,
    lambdas: LambdaZygotes<W::Zygote>,
    stats: Arc<WorkerStats>,
    log: Logger,
    _monitor: Monitor,
}

/// The standbys of one class.
struct Shelf<T> {
    ready: Vec<T>,
    target: usize,
    least: usize,
    last_asked: Instant,
}

struct Customer<T> {
    class: Class,
    deadline: Instant,
    reach: oneshot::Sender<Result<T, LaunchError>>,
}

impl<W: World> Zygotes<W> {
    /// Owns none yet; begins to fill up as soon as it runs.
    #[must_use]
    pub fn new(
        launcher: W::Launcher,
        config: ZygotesConfig,
        stats: Arc<WorkerStats>,
        log: Logger,
        monitor: Monitor,
    ) -> Self {
        Self {
            launcher,
            config,
            shelves: HashMap::new(),
            queue: VecDeque::new(),
            n_on_demand: 0,
            refilling: false,
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

    fn shelf(&mut self, class: Class) -> &mut Shelf<W::Standby> {
        let least = if class == self.config.default_class { self.config.standbys } else { 0 };
        self.shelves.entry(class).or_insert_with(|| Shelf {
            ready: Vec::new(),
            target: least,
            least,
            last_asked: Instant::now(),
        })
    }

    /// Prepare for those who wait, as many at once as may be.
    fn serve_queue(&mut self, ctx: &mut Context<Self>) {
        while self.n_on_demand < ON_DEMAND_MAX {
            let Some(customer) = self.queue.pop_front() else { return };
            if customer.reach.is_closed() {
                continue;
            }
            if customer.deadline <= Instant::now() {
                let late = LaunchError::Resources("no standby became ready in time".into());
                let _ = customer.reach.send(Err(late));
                continue;
            }
            self.n_on_demand += 1;
            let made = self.prepare(customer.class);
            ctx.spawn(made.into_actor(self).map(move |made, zygotes, ctx| {
                zygotes.n_on_demand -= 1;
                // Whoever asked may have gone; then the standby is the next one's.
                if let Err(Ok(standby)) = customer.reach.send(made) {
                    zygotes.stock(customer.class, standby);
                }
                zygotes.serve_queue(ctx);
                zygotes.refill(ctx);
            }));
        }
    }

    fn prepare(&self, class: Class) -> impl Future<Output = Result<W::Standby, LaunchError>> + use<W> {
        let made = self.launcher.prepare(class);
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

    fn stock(&mut self, class: Class, standby: W::Standby) {
        if self.closed {
            return;
        }
        let shelf = self.shelf(class);
        if shelf.ready.len() < shelf.target.max(1) {
            shelf.ready.push(standby);
        }
    }

    /// Bring the shelves nearer to their targets by one standby, unless something more urgent is under way.
    fn refill(&mut self, ctx: &mut Context<Self>) {
        if self.closed || self.refilling || self.n_on_demand > 0 || self.next_refill.is_some() {
            return;
        }
        let Some(class) = self.emptiest() else { return };
        let now = Instant::now();
        let wait = self.refill_pause.waits_until(now).max(self.not_before.filter(|then| *then > now));
        if let Some(then) = wait {
            self.next_refill = Some(ctx.run_later(then - now, |zygotes, ctx| {
                zygotes.next_refill = None;
                zygotes.refill(ctx);
            }));
            return;
        }
        self.refilling = true;
        let made = self.prepare(class);
        ctx.spawn(made.into_actor(self).map(move |made, zygotes, ctx| {
            zygotes.refilling = false;
            match made {
                Ok(standby) => {
                    zygotes.refill_pause.succeeded();
                    zygotes.stock(class, standby);
                }
                Err(_) => {
                    zygotes.refill_pause.failed(Instant::now());
                }
            }
            zygotes.refill(ctx);
        }));
    }

    /// The class whose shelf is furthest below its target.
    fn emptiest(&self) -> Option<Class> {
        self.shelves
            .iter()
            .map(|(class, shelf)| (shelf.target.saturating_sub(shelf.ready.len()), class))
            .filter(|(n_missing, _)| *n_missing > 0)
            .max_by_key(|(n_missing, _)| *n_missing)
            .map(|(_, class)| *class)
    }

    /// Targets shrink where nothing was asked for; dead standbys go.
    fn tidy(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        for shelf in self.shelves.values_mut() {
            if now.saturating_duration_since(shelf.last_asked) >= SHRINK_AFTER && shelf.target > shelf.least {
                shelf.target = (shelf.target / 2).max(shelf.least);
                shelf.last_asked = now;
            }
            shelf.ready.retain(Standby::is_alive);
            shelf.ready.truncate(shelf.target);
        }
        self.shelves.retain(|_, shelf| shelf.target > 0 || !shelf.ready.is_empty());
        self.lambdas.tidy(Zygote::is_alive, now);
        self.refill(ctx);
    }

    fn standby(
        &mut self,
        class: Class,
        ctx: &mut Context<Self>,
    ) -> LocalFuture<Result<W::Standby, LaunchError>> {
        let standbys_max = self.config.standbys_max;
        let shelf = self.shelf(class);
        shelf.last_asked = Instant::now();
        while let Some(standby) = shelf.ready.pop() {
            if standby.is_alive() {
                self.refill(ctx);
                return Box::pin(async { Ok(standby) });
            }
        }
        shelf.target = (shelf.target * 2).clamp(1, standbys_max.max(1));
        if self.queue.len() >= QUEUE_LENGTH_MAX {
            return Box::pin(async {
                Err(LaunchError::Resources("too many sandboxes are being made".into()))
            });
        }
        let (reach, answer) = oneshot::channel();
        self.queue.push_back(Customer { class, deadline: Instant::now() + QUEUE_WAIT_MAX, reach });
        self.serve_queue(ctx);
        Box::pin(async {
            answer
                .await
                .unwrap_or_else(|_| Err(LaunchError::Failed("the zygotes are being restarted".into())))
        })
    }
}

/// How often targets and standbys are looked at: often enough that one that died is not counted on for long.
const TIDY_EVERY: Duration = Duration::from_secs(5);

impl<W: World> Actor for Zygotes<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.shelf(self.config.default_class);
        self.refill(ctx);
        ctx.run_interval(TIDY_EVERY, Self::tidy);
    }
}

impl<W: World> Handler<Acquire<W>> for Zygotes<W> {
    type Result = ResponseActFuture<Self, Result<Acquired<W>, LaunchError>>;

    fn handle(
        &mut self,
        Acquire { name, generation, code }: Acquire<W>,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        if self.closed {
            return Box::pin(fut::err(LaunchError::Resources("the worker is shutting down".into())));
        }
        let class = code.class();
        let zygote = self.lambdas.find(&name, generation, Instant::now()).filter(Zygote::is_alive);
        let Some(zygote) = zygote else {
            let standby = self.standby(class, ctx);
            return Box::pin(standby.into_actor(self).map(|standby, _, _| standby.map(Acquired::Standby)));
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
                let standby = zygotes.standby(class, ctx).into_actor(zygotes);
                Box::pin(standby.map(|standby, _, _| standby.map(Acquired::Standby)))
            },
        ))
    }
}

impl<W: World> Handler<Loaded<W>> for Zygotes<W> {
    type Result = ResponseActFuture<Self, Option<String>>;

    fn handle(
        &mut self,
        Loaded { name, generation, code, took }: Loaded<W>,
        _ctx: &mut Context<Self>,
    ) -> Self::Result {
        if self.closed || !self.lambdas.loaded(&name, generation, took, code.reuse(), Instant::now()) {
            return Box::pin(fut::ready(self.lambdas.barren(&name, generation).map(str::to_owned)));
        }
        let made = tokio::time::timeout(SPROUT_TIME_MAX, self.launcher.sprout(name.clone(), code));
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
            zygotes.lambdas.barren(&name, generation).map(str::to_owned)
        }))
    }
}

impl<W: World> Handler<ReleaseIdle> for Zygotes<W> {
    type Result = usize;

    fn handle(&mut self, _: ReleaseIdle, ctx: &mut Context<Self>) -> usize {
        let released: Vec<_> = self.shelves.values_mut().flat_map(|shelf| shelf.ready.drain(..)).collect();
        // Standbys first: they cost 2 ms to make again, a zygote an import. One at a time, the next one when it has not
        // been enough.
        if released.is_empty()
            && let Some(zygote) = self.lambdas.release_one()
        {
            debug!(self.log, "released a lambda's zygote");
            drop(zygote);
            return 1;
        }
        self.not_before = Some(Instant::now() + PRESSURE_PAUSE);
        if !released.is_empty() {
            debug!(self.log, "released standbys"; "n_released" => released.len());
        }
        self.refill(ctx);
        released.len()
    }
}

impl<W: World> Handler<Close> for Zygotes<W> {
    type Result = ();

    fn handle(&mut self, _: Close, _ctx: &mut Context<Self>) {
        self.closed = true;
        self.shelves.clear();
        self.lambdas.clear();
        for customer in self.queue.drain(..) {
            let _ = customer.reach.send(Err(LaunchError::Resources("the worker is shutting down".into())));
        }
    }
}

impl<W: World> Handler<Waiting> for Zygotes<W> {
    type Result = actix::MessageResult<Waiting>;

    fn handle(&mut self, _: Waiting, _ctx: &mut Context<Self>) -> Self::Result {
        actix::MessageResult(self.shelves.iter().map(|(class, shelf)| (*class, shelf.ready.len())).collect())
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
    use crate::fake::{CLASS, Fake, FakeCode, FakeStandby, FakeWorld, code, log, ms, name};
    use crate::monitor::{Child, Down};
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

    async fn zygotes(world: &Fake) -> actix::Addr<Zygotes> {
        let monitor = Monitor::new(Child::Zygotes, 1, Ear.start().recipient());
        let config = ZygotesConfig { default_class: CLASS, standbys: 4, standbys_max: 16 };
        let zygotes = Zygotes::new(world.clone(), config, Arc::default(), log(), monitor).start();
        sleep(ms(50)).await;
        zygotes
    }

    async fn acquire(zygotes: &actix::Addr<Zygotes>, class: Class) -> Result<FakeStandby, LaunchError> {
        let code = FakeCode { class, ..code("1") };
        match zygotes.send(Acquire { name: name("f"), generation: 1, code }).await.unwrap()? {
            Acquired::Standby(standby) => Ok(standby),
            Acquired::Sandbox(_) => panic!("nothing was loaded, so there is no zygote of it"),
        }
    }

    #[actix::test]
    async fn standbys_of_the_default_class_wait_and_cost_no_wait() {
        tokio::time::pause();
        let world = Fake::new();
        let zygotes = zygotes(&world).await;
        assert_eq!(world.state().standbys.len(), 4);
        assert_eq!(world.state().n_preparing_max, 1, "one after the other");
        let began = Instant::now();
        let _standby = acquire(&zygotes, CLASS).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        sleep(ms(50)).await;
        assert_eq!(world.state().standbys.len(), 5, "four wait again");
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
}
