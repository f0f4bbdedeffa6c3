//! Which function is read next, who waits for it, and what comes after: its packages, the verdict, the answer.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, ResponseFuture, WrapFuture};
use slog::warn;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::providing::Provided;
use super::verdict::{Update, Verdict, tell};
use super::{Answer, RegistryWatcher, SETTLE, SETTLE_MAX, Trouble};
use crate::name::FunctionName;
use crate::world::{Registry, RegistryError, World};

/// When to look again at files that were half written for longer than that. Usually a touch comes first.
pub const UNSETTLED_AGAIN: Duration = Duration::from_secs(5);
/// Functions that are read at once: enough to keep a disk busy, too few to keep others from it.
pub const LOADS_MAX: usize = 4;
/// How long reading one function may take; a registry on a network may hang for ever.
pub const LOAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Requests that wait for one function to be read.
pub const ASKERS_MAX: usize = 256;

type Asker = oneshot::Sender<Answer>;

/// A function that is being read, or is about to be.
pub(super) struct Job {
    pub(super) began: Instant,
    stage: Stage,
    askers: Vec<Asker>,
    /// What is being read may be outdated already; these are answered after another reading.
    pub(super) again: bool,
    askers_again: Vec<Asker>,
    /// Waiting for its packages ends when this is dropped.
    pub(super) providing: Option<oneshot::Sender<()>>,
    pub(super) providing_since: Option<Instant>,
    /// Nothing of it was still being written.
    pub(super) is_whole: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    /// It is being read; or its packages are being seen to, for which no other function has to wait.
    Loading,
    /// Half written; looked at again in a moment.
    Settling,
}

impl<W: World> RegistryWatcher<W> {
    /// Read this function when it is its turn.
    pub(super) fn want(&mut self, name: FunctionName, ctx: &mut Context<Self>) {
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
    pub(super) fn want_now(
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
                self.strangers.remove(&name);
            }
            self.queue.push_front(name);
            self.load_next(ctx);
        }
        answer_of(answer)
    }

    /// Look for a function of which nothing is known, for someone who waits, when it is its turn.
    pub(super) fn want_stranger(
        &mut self,
        name: FunctionName,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Answer> {
        if self.strangers.is_full() {
            return Box::pin(async { Err(Trouble::Busy) });
        }
        let (asker, answer) = oneshot::channel();
        self.jobs.insert(name.clone(), Job { askers: vec![asker], ..Job::new() });
        self.strangers.push(name);
        self.load_next(ctx);
        answer_of(answer)
    }

    fn load_next(&mut self, ctx: &mut Context<Self>) {
        while self.n_loading < LOADS_MAX
            && let Some(name) = self.queue.pop_front()
        {
            self.n_loading += 1;
            self.load(name, |watcher| watcher.n_loading -= 1, ctx);
        }
        while let Some(name) = self.strangers.next() {
            self.load(name, |watcher| watcher.strangers.answered(), ctx);
        }
    }

    /// Read a function. It has been counted among those that are read; `uncount` takes it off again.
    fn load(&mut self, name: FunctionName, uncount: fn(&mut Self), ctx: &mut Context<Self>) {
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
            uncount(watcher);
            let providing = watcher.provide(&for_packages, loaded);
            watcher.load_next(ctx);
            providing.into_actor(watcher)
        });
        let read = provided.then(move |provided, watcher, ctx| {
            let Provided { loaded, retry_after } = provided;
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
            tell(supervisor, noticed).into_actor(watcher).map(move |told, watcher, ctx| match answer {
                Some(answer) => watcher.conclude(name, known, answer, told, ctx),
                None => watcher.ask_again(name, ctx),
            })
        });
        ctx.spawn(read);
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

/// What an asker is told.
fn answer_of(answer: oneshot::Receiver<Answer>) -> ResponseFuture<Answer> {
    Box::pin(async {
        let gone = || Err(Trouble::Unavailable("the registry's watcher is being restarted".into()));
        answer.await.unwrap_or_else(|_| gone())
    })
}
