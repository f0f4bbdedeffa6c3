//! The view of the registry: which function is new, changed, gone or broken.
//!
//! ```text
//!   Touched ──▶ touched (settling) ──▶ queued ──▶ loading ──▶ providing ──▶ told to the supervisor ──▶ known
//!   Rescan, Lookup, Refresh ──────────────▲          │           (its packages)
//!                                         └──────────┘ still being written: again after SETTLE
//! ```
//!
//! A [`Lookup`] of a name that nobody here has heard of, where somebody elsewhere has to be asked, waits among strangers instead.
//!
//! Whatever watches the file system says which names were touched, in any number; each is read once it has
//! been left alone for [`SETTLE`]. What was read is told to the supervisor, which answers when it has taken
//! it in: that is why [`Lookup`] and [`Refresh`] can promise that a function they have found is live. (The
//! supervisor never waits for the watcher.)

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, Recipient, ResponseActFuture,
    ResponseFuture, SpawnHandle, WrapFuture, fut,
};
use slog::{Logger, debug, info, warn};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::link::Link;
use crate::monitor::{Crash, Monitor};
use crate::name::FunctionName;
use crate::packages::{Packages, Provide, Unprovided};
use crate::router::LOOKUPS_MAX;
use crate::world::{Code, LocalFuture, PackageError, Registry, RegistryError, World};

/// Something has happened to these functions' files.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Touched {
    /// Whose files.
    pub names: Vec<FunctionName>,
}

/// Look at the whole registry: events may have been lost.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Rescan;

/// Is there a function of this name? `Ok(true)`: there is, and it is in the routing table.
#[derive(Debug, Message)]
#[rtype(result = "Result<bool, Trouble>")]
pub struct Lookup {
    /// The name that was asked for.
    pub name: FunctionName,
}

/// Read this function now. The answer is the version that is live from now on, or `None` if there is no such
/// function (any more).
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<String>, Trouble>")]
pub struct Refresh {
    /// The function that was uploaded or removed.
    pub name: FunctionName,
}

/// Where the registry lies does not answer, or with `None`, answers again. Whoever says so also looks after it: nothing is read
/// anew because of it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reach {
    /// Why it does not answer.
    pub trouble: Option<String>,
}

/// What was seen in the registry; for the supervisor, which answers when it has taken it in.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Noticed<W: World> {
    /// A function is new, or has new code, or is again what it was before a broken upload.
    Changed {
        /// Which function.
        name: FunctionName,
        /// What is served from now on.
        code: W::Code,
    },
    /// A function is gone.
    Removed {
        /// Which function.
        name: FunctionName,
    },
    /// A function's files are not a function.
    Rejected {
        /// Which function.
        name: FunctionName,
        /// What to mend.
        reason: String,
    },
    /// The registry cannot be read, or with `None`, can be read again.
    Trouble {
        /// What failed.
        reason: Option<String>,
    },
}

/// Why a function was not found, or not taken into service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It is there, and is not a function; the text says what to mend.
    #[error("{0}")]
    Rejected(String),
    /// The registry could not be read.
    #[error("{0}")]
    Unavailable(String),
    /// Too many functions wait to be read.
    #[error("too many functions are being read; try again")]
    Busy,
}

impl Trouble {
    /// Who asks for what comes by itself may ask again.
    fn awaited(self, is_awaited: bool) -> Self {
        match self {
            Self::Rejected(reason) if is_awaited => Self::Unavailable(reason),
            other => other,
        }
    }
}

/// How long files are left alone before they are read.
pub const SETTLE: Duration = Duration::from_millis(50);
/// How long files that are touched all the time, or half written, are waited for.
pub const SETTLE_MAX: Duration = Duration::from_secs(2);
/// When to look again at files that were half written for longer than that. Usually a touch comes first.
pub const UNSETTLED_AGAIN: Duration = Duration::from_secs(5);
/// Functions that are read at once: enough to keep a disk busy, too few to keep others from it.
pub const LOADS_MAX: usize = 4;
/// Names that somebody asked for and of which nothing is known here, while somebody elsewhere is asked about them. Half of what is
/// looked up at all: however many names somebody tries, who calls a function of which there is a copy finds room.
pub const STRANGERS_MAX: usize = LOOKUPS_MAX / 2;
/// How many of those are asked about at once, besides what is read. They wait for a network, not for the disk; and half of what
/// a store is asked for at once is left for functions in use.
pub const STRANGERS_ASKED_MAX: usize = 8;
/// How long reading one function may take; a registry on a network may hang for ever.
pub const LOAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Requests that wait for one function to be read.
pub const ASKERS_MAX: usize = 256;
/// After how long a function that was rejected for want of its packages is looked at again when somebody asks for it; and no sooner
/// than after four times as long as it took to find out, so that asking keeps nothing busy.
pub const PACKAGES_AGAIN: Duration = Duration::from_secs(2);
/// How long who calls a new function waits for its packages to be installed; less than the router waits for a lookup.
pub const INSTALL_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the supervisor may take to take something in. It only ever does short things.
pub const TELL_TIME_MAX: Duration = Duration::from_secs(5);
/// The pause before an unreadable registry is read again; doubles up to [`RETRY_PAUSE_MAX`].
pub const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// See [`RETRY_PAUSE`].
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// The watcher of the registry.
pub struct RegistryWatcher<W: World> {
    registry: W::Registry,
    packages: Link<Packages<W>>,
    supervisor: Recipient<Noticed<W>>,
    known: HashMap<FunctionName, Known<W>>,
    touched: HashMap<FunctionName, Touch>,
    settling: Option<SpawnHandle>,
    jobs: HashMap<FunctionName, Job>,
    queue: VecDeque<FunctionName>,
    /// Those that may not exist, and for which somebody elsewhere must be asked: in the order in which they came.
    strangers: VecDeque<FunctionName>,
    /// Functions whose packages are asked for again in a while.
    providing_later: HashSet<FunctionName>,
    n_loading: usize,
    n_strangers_asked: usize,
    scan: Scan,
    retry: Backoff,
    retrying: Option<SpawnHandle>,
    /// Why the registry could not be read, if that was so the last time.
    trouble: Option<String>,
    /// Why the place where it lies does not answer, as was said last.
    out_of_reach: Option<String>,
    /// Something could not be read since the last scan began.
    failed_since_scan: bool,
    log: Logger,
    _monitor: Monitor,
}

/// What the supervisor has been told about a function.
struct Known<W: World> {
    code: Option<W::Code>,
    rejected: Option<String>,
    /// From when on somebody's asking is worth another look, if it was rejected for want of its packages.
    again_from: Option<Instant>,
    /// It comes by itself, when what has to give it its packages is there again.
    is_awaited: bool,
}

#[derive(Clone, Copy)]
struct Touch {
    first: Instant,
    last: Instant,
}

impl Touch {
    fn due(self) -> Instant {
        (self.last + SETTLE).min(self.first + SETTLE_MAX)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    Resting,
    Running,
    /// Another was asked for while one was running.
    RunningAndAgain,
}

/// A function that is being read, or is about to be.
struct Job {
    began: Instant,
    stage: Stage,
    askers: Vec<Asker>,
    /// What is being read may be outdated already; these are answered after another reading.
    again: bool,
    askers_again: Vec<Asker>,
    /// Waiting for its packages ends when this is dropped.
    providing: Option<oneshot::Sender<()>>,
    providing_since: Option<Instant>,
    /// Nothing of it was still being written.
    is_whole: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    /// It is being read; or its packages are being seen to, for which no other function has to wait.
    Loading,
    /// Half written; looked at again in a moment.
    Settling,
}

type Answer = Result<Option<String>, Trouble>;
type Asker = oneshot::Sender<Answer>;

/// What a reading has come to.
struct Verdict<W: World> {
    /// What the supervisor must be told.
    noticed: Option<Noticed<W>>,
    /// What is known once it has been told.
    known: Update<W>,
    /// `None`: half written, ask again in a moment.
    answer: Option<Answer>,
}

enum Update<W: World> {
    Keep,
    Set(Known<W>),
    Forget,
}

impl<W: World> Verdict<W> {
    fn nothing_new(answer: Answer) -> Self {
        Self { noticed: None, known: Update::Keep, answer: Some(answer) }
    }
}

impl<W: World> RegistryWatcher<W> {
    /// Knows nothing yet; scans the registry as soon as it runs.
    #[must_use]
    pub fn new(
        registry: W::Registry,
        packages: Link<Packages<W>>,
        supervisor: Recipient<Noticed<W>>,
        log: Logger,
        monitor: Monitor,
    ) -> Self {
        Self {
            registry,
            packages,
            supervisor,
            known: HashMap::new(),
            touched: HashMap::new(),
            settling: None,
            jobs: HashMap::new(),
            queue: VecDeque::new(),
            strangers: VecDeque::new(),
            providing_later: HashSet::new(),
            n_loading: 0,
            n_strangers_asked: 0,
            scan: Scan::Resting,
            retry: Backoff::new(RETRY_PAUSE, RETRY_PAUSE_MAX),
            retrying: None,
            trouble: None,
            out_of_reach: None,
            failed_since_scan: false,
            log,
            _monitor: monitor,
        }
    }

    /// Read this function when it is its turn.
    fn want(&mut self, name: FunctionName, ctx: &mut Context<Self>) {
        match self.jobs.get_mut(&name) {
            Some(job) if job.stage == Stage::Loading => job.read_again(),
            Some(_) => {}
            None => {
                self.jobs.insert(name.clone(), Job::new());
                self.queue.push_back(name);
                self.load_next(ctx);
            }
        }
    }

    /// Read this function next, for someone who waits. `anew`: a reading that has begun already won't do.
    fn want_now(
        &mut self,
        name: FunctionName,
        anew: bool,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Answer> {
        let (asker, answer) = oneshot::channel();
        let is_new = !self.jobs.contains_key(&name);
        let job = self.jobs.entry(name.clone()).or_insert_with(Job::new);
        if job.askers.len() + job.askers_again.len() >= ASKERS_MAX {
            return Box::pin(async { Err(Trouble::Busy) });
        }
        if anew && job.stage == Stage::Loading {
            job.read_again();
            job.askers_again.push(asker);
        } else {
            job.askers.push(asker);
        }
        // A name that somebody asks for once more is no less strange.
        if job.stage == Stage::Queued && (anew || !self.strangers.contains(&name)) {
            if !is_new {
                self.queue.retain(|queued| *queued != name);
                self.strangers.retain(|queued| *queued != name);
            }
            self.queue.push_front(name);
            self.load_next(ctx);
        }
        answer_of(answer)
    }

    /// Look for a function of which nothing is known, for someone who waits, when it is its turn.
    fn want_stranger(&mut self, name: FunctionName, ctx: &mut Context<Self>) -> ResponseFuture<Answer> {
        if self.strangers.len() + self.n_strangers_asked >= STRANGERS_MAX {
            return Box::pin(async { Err(Trouble::Busy) });
        }
        let (asker, answer) = oneshot::channel();
        self.jobs.insert(name.clone(), Job { askers: vec![asker], ..Job::new() });
        self.strangers.push_back(name);
        self.load_next(ctx);
        answer_of(answer)
    }

    fn load_next(&mut self, ctx: &mut Context<Self>) {
        while self.n_loading < LOADS_MAX
            && let Some(name) = self.queue.pop_front()
        {
            self.n_loading += 1;
            self.load(name, |watcher| &mut watcher.n_loading, ctx);
        }
        while self.n_strangers_asked < STRANGERS_ASKED_MAX
            && let Some(name) = self.strangers.pop_front()
        {
            self.n_strangers_asked += 1;
            self.load(name, |watcher| &mut watcher.n_strangers_asked, ctx);
        }
    }

    /// Read a function; it has been counted there.
    fn load(&mut self, name: FunctionName, count: fn(&mut Self) -> &mut usize, ctx: &mut Context<Self>) {
        let job = self.jobs.get_mut(&name).expect("what is queued has a job");
        job.stage = Stage::Loading;
        let last = self.known.get(&name).and_then(|known| known.code.clone());
        let load = tokio::time::timeout(LOAD_TIME_MAX, self.registry.load(name.clone(), last));
        let load = async move {
            load.await.unwrap_or_else(|_| Err(RegistryError::Unavailable("reading takes too long".into())))
        };
        let supervisor = self.supervisor.clone();
        let for_packages = name.clone();
        let provided = load.into_actor(self).then(move |loaded, watcher, ctx| {
            *count(watcher) -= 1;
            let providing = watcher.provide(&for_packages, loaded);
            watcher.load_next(ctx);
            providing.into_actor(watcher)
        });
        let read = provided.then(move |provided, watcher, ctx| {
            let Provided { loaded, retry_after, hold } = provided;
            let again_from = watcher.again_from(&name);
            if let Some(pause) = retry_after {
                watcher.provide_later(name.clone(), pause, ctx);
            }
            let verdict = match loaded {
                Some(loaded) => watcher.judge(&name, loaded),
                None => Verdict { noticed: None, known: Update::Keep, answer: None },
            };
            let Verdict { noticed, mut known, answer } = verdict;
            let is_awaited = retry_after.is_some();
            let rejected = match &mut known {
                Update::Set(known) => Some(known),
                // For the same reason as before.
                Update::Keep => watcher.known.get_mut(&name),
                Update::Forget => None,
            };
            if let Some(known) = rejected {
                known.again_from = again_from.filter(|_| known.rejected.is_some());
                known.is_awaited = is_awaited && known.rejected.is_some();
            }
            let answer = answer.map(|answer| answer.map_err(|trouble| trouble.awaited(is_awaited)));
            tell(supervisor, noticed).into_actor(watcher).map(move |told, watcher, ctx| {
                // From here on they are held by the function's being there.
                drop(hold);
                match answer {
                    Some(answer) => watcher.conclude(name, known, answer, told, ctx),
                    None => watcher.ask_again(name, ctx),
                }
            })
        });
        ctx.spawn(read);
    }

    /// Ask for its packages again by and by; once, however often that was said.
    fn provide_later(&mut self, name: FunctionName, pause: Duration, ctx: &mut Context<Self>) {
        if self.providing_later.insert(name.clone()) {
            ctx.run_later(pause, move |watcher, ctx| {
                watcher.providing_later.remove(&name);
                watcher.want(name, ctx);
            });
        }
    }

    /// When it is worth asking for these packages again, if they are why this reading has come to nothing.
    fn again_from(&mut self, name: &FunctionName) -> Option<Instant> {
        let began = self.jobs.get_mut(name)?.providing_since.take()?;
        let now = Instant::now();
        Some(now + PACKAGES_AGAIN.max(4 * (now - began)))
    }

    /// Sees to it that the packages of new code are there before it goes into service. What is served meanwhile is what was
    /// served before.
    fn provide(
        &mut self,
        name: &FunctionName,
        loaded: Result<Option<W::Code>, RegistryError>,
    ) -> LocalFuture<Provided<W>> {
        let nothing = |loaded| Provided { loaded: Some(loaded), retry_after: None, hold: None };
        let known = self.known.get(name);
        let code = match loaded {
            Ok(Some(code)) if !code.packages().is_empty() && !is_served(known, &code) => code,
            other => return Box::pin(async move { nothing(other) }),
        };
        let last = known.and_then(|known| known.code.as_ref()).map(|code| code.packages().to_vec());
        let (end, mut ended) = oneshot::channel();
        let job = self.jobs.get_mut(name).expect("a job lasts until it is concluded");
        if job.again {
            return Box::pin(async { Provided { loaded: None, retry_after: None, hold: None } });
        }
        job.providing = Some(end);
        job.providing_since = Some(Instant::now());
        // It has been read, and is whole.
        job.is_whole = true;
        let list = if code.is_settled() { code.pins() } else { code.packages().to_vec() };
        let wish =
            Provide { list, is_settled: code.is_settled(), last: last.unwrap_or_default(), anew: false };
        let asked = self.packages.ask(wish);
        let registry = self.registry.clone();
        Box::pin(async move {
            let provided = tokio::select! {
                provided = asked => provided,
                // It is going to be read again; what was begun for it goes on.
                _ = &mut ended => return Provided { loaded: None, retry_after: None, hold: None },
            };
            match provided {
                Ok(Ok(provided)) if code.is_settled() => {
                    Provided { loaded: Some(Ok(Some(code))), retry_after: None, hold: Some(provided.hold) }
                }
                Ok(Ok(provided)) => {
                    let loaded = registry.settle(code, provided.pins).await.map(Some);
                    Provided { loaded: Some(loaded), retry_after: None, hold: Some(provided.hold) }
                }
                Ok(Err(Unprovided { error: PackageError::Refused(text), .. })) => {
                    nothing(Err(RegistryError::Invalid(text)))
                }
                Ok(Err(Unprovided { error, retry_after })) => {
                    let loaded = Err(RegistryError::Invalid(error.to_string()));
                    Provided { loaded: Some(loaded), retry_after, hold: None }
                }
                Err(_) => nothing(Err(RegistryError::Unavailable(
                    "the worker's package manager is being restarted".into(),
                ))),
            }
        })
    }

    fn judge(&mut self, name: &FunctionName, loaded: Result<Option<W::Code>, RegistryError>) -> Verdict<W> {
        let known = self.known.get(name);
        match loaded {
            Ok(Some(code)) => {
                let version = code.version().to_owned();
                if is_served(known, &code) {
                    return Verdict::nothing_new(Ok(Some(version)));
                }
                Verdict {
                    noticed: Some(Noticed::Changed { name: name.clone(), code: code.clone() }),
                    known: Update::Set(Known {
                        code: Some(code),
                        rejected: None,
                        again_from: None,
                        is_awaited: false,
                    }),
                    answer: Some(Ok(Some(version))),
                }
            }
            Ok(None) if known.is_none() => Verdict::nothing_new(Ok(None)),
            Ok(None) => Verdict {
                noticed: Some(Noticed::Removed { name: name.clone() }),
                known: Update::Forget,
                answer: Some(Ok(None)),
            },
            Err(RegistryError::Invalid(reason)) => self.reject(name, reason),
            Err(RegistryError::Unsettled(reason)) => {
                let began = self.jobs.get(name).map(|job| job.began);
                if began.is_some_and(|began| began.elapsed() < SETTLE_MAX) {
                    return Verdict { noticed: None, known: Update::Keep, answer: None };
                }
                self.reject(name, reason)
            }
            Err(error @ RegistryError::Away(_)) => {
                Verdict::nothing_new(Err(Trouble::Unavailable(error.to_string())))
            }
            Err(error @ RegistryError::Unavailable(_)) => {
                let reason = error.to_string();
                self.failed_since_scan = true;
                let answer = Err(Trouble::Unavailable(reason.clone()));
                if self.trouble.as_ref() == Some(&reason) {
                    return Verdict::nothing_new(answer);
                }
                warn!(self.log, "failed to read the registry, what is known is served on"; "error" => &reason);
                self.trouble = Some(reason.clone());
                let noticed = Some(Noticed::Trouble { reason: Some(reason) });
                Verdict { noticed, known: Update::Keep, answer: Some(answer) }
            }
        }
    }

    fn reject(&self, name: &FunctionName, reason: String) -> Verdict<W> {
        let known = self.known.get(name);
        let answer = Err(Trouble::Rejected(reason.clone()));
        if known.is_some_and(|known| known.rejected.as_ref() == Some(&reason)) {
            return Verdict::nothing_new(answer);
        }
        let code = known.and_then(|known| known.code.clone());
        Verdict {
            noticed: Some(Noticed::Rejected { name: name.clone(), reason: reason.clone() }),
            known: Update::Set(Known { code, rejected: Some(reason), again_from: None, is_awaited: false }),
            answer: Some(answer),
        }
    }

    /// The files are still being written.
    fn ask_again(&mut self, name: FunctionName, ctx: &mut Context<Self>) {
        let job = self.jobs.get_mut(&name).expect("a job lasts until it is concluded");
        job.stage = Stage::Settling;
        if std::mem::take(&mut job.again) {
            job.is_whole = false;
            // Who asks for what is there now and who asked before get the same answer.
            job.began = Instant::now();
            let more = std::mem::take(&mut job.askers_again);
            job.askers.extend(more);
        }
        ctx.run_later(SETTLE, move |watcher, ctx| watcher.look_again(name, ctx));
        self.load_next(ctx);
    }

    fn conclude(
        &mut self,
        name: FunctionName,
        known: Update<W>,
        mut answer: Answer,
        told: bool,
        ctx: &mut Context<Self>,
    ) {
        if told {
            match known {
                Update::Keep => {}
                Update::Set(known) => drop(self.known.insert(name.clone(), known)),
                Update::Forget => drop(self.known.remove(&name)),
            }
        } else {
            // What the supervisor knows is now unknown; another reading tells it anew.
            warn!(self.log, "the supervisor did not take in what was read"; "name" => %name);
            self.known.remove(&name);
            self.failed_since_scan = true;
            answer = Err(Trouble::Unavailable("the supervisor does not answer".into()));
        }
        let mut job = self.jobs.remove(&name).expect("a job lasts until it is concluded");
        for asker in job.askers.drain(..) {
            // One that has gone needs no answer.
            let _ = asker.send(answer.clone());
        }
        if job.again {
            let job = Job { askers: job.askers_again, ..Job::new() };
            self.jobs.insert(name.clone(), job);
            self.queue.push_front(name);
        } else if !job.is_whole
            && job.began.elapsed() >= SETTLE_MAX
            && matches!(answer, Err(Trouble::Rejected(_)))
        {
            // Given up on as half written; should the writer be merely slow, this finds the end of it.
            ctx.run_later(UNSETTLED_AGAIN, move |watcher, ctx| watcher.want(name, ctx));
        }
        self.load_next(ctx);
        self.take_stock(ctx);
    }

    fn look_again(&mut self, name: FunctionName, ctx: &mut Context<Self>) {
        let job = self.jobs.get_mut(&name).expect("a job lasts until it is concluded");
        job.stage = Stage::Queued;
        self.queue.push_front(name);
        self.load_next(ctx);
    }

    /// When all is read: was all of it readable?
    fn take_stock(&mut self, ctx: &mut Context<Self>) {
        if !self.jobs.is_empty() || self.scan != Scan::Resting {
            return;
        }
        if self.failed_since_scan {
            self.retry_later(ctx);
            return;
        }
        self.retry.succeeded();
        if self.trouble.take().is_some() {
            info!(self.log, "the registry can be read again");
            self.tell_of_trouble(self.out_of_reach.clone(), ctx);
        }
    }

    fn retry_later(&mut self, ctx: &mut Context<Self>) {
        if self.retrying.is_some() {
            return;
        }
        let now = Instant::now();
        let pause = self.retry.failed(now) - now;
        self.retrying = Some(ctx.run_later(pause, |watcher, ctx| {
            watcher.retrying = None;
            watcher.rescan(ctx);
        }));
    }

    fn tell_of_trouble(&self, reason: Option<String>, ctx: &mut Context<Self>) {
        let told = tokio::time::timeout(TELL_TIME_MAX, self.supervisor.send(Noticed::Trouble { reason }));
        ctx.spawn(told.into_actor(self).map(|told, watcher, _ctx| {
            if !matches!(told, Ok(Ok(()))) {
                warn!(watcher.log, "the supervisor was not told about the state of the registry");
            }
        }));
    }

    fn rescan(&mut self, ctx: &mut Context<Self>) {
        if self.scan != Scan::Resting {
            self.scan = Scan::RunningAndAgain;
            return;
        }
        self.scan = Scan::Running;
        self.failed_since_scan = false;
        let scan = tokio::time::timeout(LOAD_TIME_MAX, self.registry.scan());
        ctx.spawn(scan.into_actor(self).map(|scanned, watcher, ctx| {
            let again = watcher.scan == Scan::RunningAndAgain;
            watcher.scan = Scan::Resting;
            let scanned = scanned
                .unwrap_or_else(|_| Err(RegistryError::Unavailable("listing its functions takes too long".into())));
            match scanned {
                Ok(names) => {
                    debug!(watcher.log, "scanned the registry"; "n_functions" => names.len());
                    let gone: HashSet<_> = watcher.known.keys().cloned().collect();
                    let names: HashSet<_> = names.into_iter().chain(gone).collect();
                    for name in names {
                        watcher.want(name, ctx);
                    }
                }
                Err(error) => {
                    let reason = error.to_string();
                    watcher.failed_since_scan = true;
                    if watcher.trouble.as_ref() != Some(&reason) {
                        warn!(watcher.log, "failed to scan the registry, what is known is served on"; "error" => &reason);
                        watcher.trouble = Some(reason.clone());
                        watcher.tell_of_trouble(Some(reason), ctx);
                    }
                }
            }
            if again {
                watcher.rescan(ctx);
            }
            watcher.take_stock(ctx);
        }));
    }

    /// Read what has been left alone for long enough, and come back when the next may have been.
    fn read_settled(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let due: Vec<_> = self
            .touched
            .iter()
            .filter(|(_, touch)| touch.due() <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.touched.remove(&name);
            self.want(name, ctx);
        }
        if let Some(next) = self.touched.values().map(|touch| touch.due()).min() {
            // A timer's grain is a millisecond.
            let pause = (next - now).max(Duration::from_millis(1));
            self.settling = Some(ctx.run_later(pause, |watcher, ctx| {
                watcher.settling = None;
                watcher.read_settled(ctx);
            }));
        }
    }
}

impl Job {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            stage: Stage::Queued,
            askers: Vec::new(),
            again: false,
            askers_again: Vec::new(),
            providing: None,
            providing_since: None,
            is_whole: false,
        }
    }

    /// What has been read is outdated. If only its packages are waited for, that ends.
    fn read_again(&mut self) {
        self.again = true;
        self.providing = None;
    }
}

/// Code, and what came of its packages.
struct Provided<W: World> {
    /// `None`: it is outdated, and to be read again.
    loaded: Option<Result<Option<W::Code>, RegistryError>>,
    /// When it is worth reading it again.
    retry_after: Option<Duration>,
    /// Keeps them from being removed.
    hold: Option<Arc<dyn Any + Send + Sync>>,
}

/// What an asker is told.
fn answer_of(answer: oneshot::Receiver<Answer>) -> ResponseFuture<Answer> {
    Box::pin(async {
        let gone = || Err(Trouble::Unavailable("the registry's watcher is being restarted".into()));
        answer.await.unwrap_or_else(|_| gone())
    })
}

/// Whether the supervisor has this code, and nothing is wrong with it.
fn is_served<W: World>(known: Option<&Known<W>>, code: &W::Code) -> bool {
    known.is_some_and(|known| {
        known.rejected.is_none() && known.code.as_ref().is_some_and(|old| old.version() == code.version())
    })
}

/// Tell the supervisor, if there is something to tell, and wait until it has taken it in.
async fn tell<W: World>(supervisor: Recipient<Noticed<W>>, noticed: Option<Noticed<W>>) -> bool {
    match noticed {
        Some(noticed) => {
            matches!(tokio::time::timeout(TELL_TIME_MAX, supervisor.send(noticed)).await, Ok(Ok(())))
        }
        None => true,
    }
}

impl<W: World> Actor for RegistryWatcher<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.rescan(ctx);
    }
}

impl<W: World> Handler<Touched> for RegistryWatcher<W> {
    type Result = ();

    fn handle(&mut self, Touched { names }: Touched, ctx: &mut Context<Self>) {
        let now = Instant::now();
        for name in names {
            self.touched
                .entry(name)
                .and_modify(|touch| touch.last = now)
                .or_insert(Touch { first: now, last: now });
        }
        if self.settling.is_none() {
            self.read_settled(ctx);
        }
    }
}

impl<W: World> Handler<Rescan> for RegistryWatcher<W> {
    type Result = ();

    fn handle(&mut self, _: Rescan, ctx: &mut Context<Self>) {
        self.rescan(ctx);
    }
}

impl<W: World> Handler<Reach> for RegistryWatcher<W> {
    type Result = ();

    fn handle(&mut self, Reach { trouble }: Reach, ctx: &mut Context<Self>) {
        self.out_of_reach = trouble;
        // What cannot be read here is told of before what cannot be asked for elsewhere.
        if self.trouble.is_none() {
            self.tell_of_trouble(self.out_of_reach.clone(), ctx);
        }
    }
}

impl<W: World> Handler<Lookup> for RegistryWatcher<W> {
    type Result = ResponseActFuture<Self, Result<bool, Trouble>>;

    fn handle(&mut self, Lookup { name }: Lookup, ctx: &mut Context<Self>) -> Self::Result {
        match self.known.get(&name) {
            Some(Known { code: Some(_), .. }) => return Box::pin(fut::ok(true)),
            Some(Known { rejected: Some(reason), again_from, is_awaited, .. })
                if again_from.is_none_or(|again_from| Instant::now() < again_from) =>
            {
                return Box::pin(fut::err(Trouble::Rejected(reason.clone()).awaited(*is_awaited)));
            }
            _ => {}
        }
        let is_stranger = !self.known.contains_key(&name)
            && !self.jobs.contains_key(&name)
            && !self.registry.is_at_hand(&name);
        let mut answer = if is_stranger {
            self.want_stranger(name.clone(), ctx)
        } else {
            self.want_now(name.clone(), false, ctx)
        };
        let first = async move {
            let early = tokio::time::timeout(INSTALL_WAIT_MAX, &mut answer).await;
            early.map_err(|_| answer)
        };
        Box::pin(first.into_actor(self).then(move |first, watcher, _ctx| {
            let is_providing = watcher.jobs.get(&name).is_some_and(|job| job.providing.is_some());
            let answer = async move {
                let answer = match first {
                    Ok(answer) => answer,
                    Err(_) if is_providing => {
                        let text = "the packages that the function needs are being installed; try again";
                        return Err(Trouble::Unavailable(text.into()));
                    }
                    Err(answer) => answer.await,
                };
                answer.map(|version| version.is_some())
            };
            answer.into_actor(watcher)
        }))
    }
}

impl<W: World> Handler<Refresh> for RegistryWatcher<W> {
    type Result = ResponseFuture<Answer>;

    fn handle(&mut self, Refresh { name }: Refresh, ctx: &mut Context<Self>) -> Self::Result {
        // What was touched until now is read with this.
        self.touched.remove(&name);
        self.want_now(name, true, ctx)
    }
}

impl<W: World> Handler<Crash> for RegistryWatcher<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}

#[cfg(test)]
mod tests;
