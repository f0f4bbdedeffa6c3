//! A worker between its begin and its end: it may have taken another's place, which is to be seen off, and another may take its
//! own. What is said on the way is in [`takeover`](crate::takeover).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actors::world::LocalFuture;
use slog::{Logger, info, warn};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ServeError, Signals, cleanup};
use crate::http::KEEP_ALIVE;
use crate::takeover::{Door, Predecessor, Reply, Visit};

/// How long one that was replaced waits for its connections to end: a client that has a connection and says nothing gets it
/// closed after [`KEEP_ALIVE`] in any case, and one that calls is told with the answer that this was the last.
const LEAVING_MAX: Duration = Duration::from_secs(KEEP_ALIVE.as_secs() + 5);
/// How long there must have been no connection: one that was accepted a moment before takes some time to its thread.
const EMPTY_FOR: Duration = Duration::from_millis(500);
/// How often one looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a predecessor may take to end, beyond its grace: the same as anybody who is told to.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// The connections that there are, and whether they are to end with their next answer. A clone counts the same ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Guests(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    n: AtomicUsize,
    leave: AtomicBool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Guest(Guests);

impl Guests {
    pub(super) fn enter(&self) -> Guest {
        self.0.n.fetch_add(1, Ordering::AcqRel);
        Guest(self.clone())
    }

    /// Whether a connection is to end with its next answer.
    pub(super) fn leave(&self) -> bool {
        self.0.leave.load(Ordering::Relaxed)
    }

    fn n(&self) -> usize {
        self.0.n.load(Ordering::Acquire)
    }

    fn set_leave(&self, leave: bool) {
        self.0.leave.store(leave, Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.0.n.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How it came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Somebody told it to.
    Told,
    /// Another one has taken its place: what tells others where the worker is, is that one's.
    Replaced,
}

/// The worker whose place this one has taken, for as long as it finishes what it had begun.
#[derive(Debug)]
pub(super) struct Fading {
    predecessor: Arc<Predecessor>,
    gone: watch::Receiver<bool>,
}

impl Fading {
    /// Waits for its end, and then sweeps what it has left.
    pub(super) fn watch(predecessor: Predecessor, sweep: impl FnOnce() + Send + 'static) -> Self {
        let (tell, gone) = watch::channel(false);
        let wait = predecessor.wait();
        actix_web::rt::task::spawn_blocking(move || {
            wait();
            sweep();
            // Nobody may be interested.
            let _ = tell.send(true);
        });
        Self { predecessor: Arc::new(predecessor), gone }
    }

    /// Has it end within its grace. Says whether it has.
    async fn see_off(self, grace: Duration) -> bool {
        let Self { predecessor, mut gone } = self;
        if *gone.borrow() {
            return true;
        }
        predecessor.tell_end();
        tokio::time::timeout(grace + END_PATIENCE, gone.wait_for(|gone| *gone))
            .await
            .is_ok_and(|gone| gone.is_ok())
    }

    fn again(&self) -> Self {
        Self { predecessor: Arc::clone(&self.predecessor), gone: self.gone.clone() }
    }
}

/// What a worker holds while it serves.
pub(super) struct Reign<'a> {
    pub(super) door: Door,
    /// Writes down that this one is the worker, and opens the door anew.
    pub(super) stand: Box<dyn Fn() -> Result<Door, ServeError> + 'a>,
    /// Removes what one has left that was to take this one's place.
    pub(super) sweep: Arc<dyn Fn() + Send + Sync>,
    pub(super) fading: Option<Fading>,
    pub(super) servers: (ServerHandle, ServerHandle),
    pub(super) guests: Guests,
    pub(super) grace: Duration,
    /// Whoever serves sees to the triggers, and writes down what is learnt: told whether that is another one.
    pub(super) yield_place: Box<dyn Fn(bool) + 'a>,
    /// Writes down what was learnt, for the one that comes next.
    pub(super) keep: Box<dyn Fn() -> LocalFuture<()> + 'a>,
    pub(super) log: Logger,
}

impl Reign<'_> {
    /// This worker is to end, and the one before it as well: at the same time, not one after the other.
    pub(super) fn tell_end(&self) {
        if let Some(fading) = &self.fading {
            fading.predecessor.tell_end();
        }
    }

    /// Until this worker is to end.
    pub(super) async fn last(&mut self, signals: &mut Signals) -> Ending {
        let mut leaving: Option<Leaving> = None;
        loop {
            tokio::select! {
                () = signals.wait() => {
                    return if leaving.is_some() { Ending::Replaced } else { Ending::Told };
                }
                Some(visit) = self.door.next() => match visit {
                    Visit::Asks(reply) => self.receive(reply),
                    Visit::Serves => {
                        info!(self.log, "another worker serves in this one's place: it finishes what it has begun";
                            "n_connections" => self.guests.n());
                        tokio::join!(self.servers.0.pause(), self.servers.1.pause());
                        self.guests.set_leave(true);
                        (self.yield_place)(true);
                        leaving = Some(Leaving::begin());
                    }
                    Visit::Ends => return Ending::Replaced,
                    Visit::Gone => {
                        if leaving.take().is_some() {
                            warn!(self.log, "the worker that had taken this one's place is gone: it serves on");
                            self.guests.set_leave(false);
                            (self.yield_place)(false);
                            tokio::join!(self.servers.0.resume(), self.servers.1.resume());
                        }
                        let sweep = Arc::clone(&self.sweep);
                        // It has a bound of its own. Nobody else comes in before.
                        let _ = actix_web::rt::task::spawn_blocking(move || sweep()).await;
                        // It may have come so far as to write down that it is the worker.
                        match (self.stand)() {
                            Ok(door) => self.door = door,
                            Err(error) => warn!(self.log, "cannot be found as the worker"; "error" => %error),
                        }
                    }
                },
                () = tokio::time::sleep(LOOK_EVERY), if leaving.is_some() => {
                    if leaving.as_mut().is_some_and(|leaving| leaving.is_over(self.guests.n())) {
                        info!(self.log, "what was begun is finished"; "n_connections" => self.guests.n());
                        return Ending::Replaced;
                    }
                }
            }
        }
    }

    /// Somebody wants this worker's place: there are never more than two.
    fn receive(&self, reply: Reply) {
        let (grace, log) = (self.grace, self.log.clone());
        let fading = self.fading.as_ref().map(Fading::again);
        let kept = (self.keep)();
        actix_web::rt::spawn(async move {
            kept.await;
            let Some(fading) = fading else { return reply.accept() };
            if fading.see_off(grace).await {
                reply.accept();
            } else {
                warn!(log, "no takeover: the worker before this one has not ended yet");
                reply.refuse("the worker before it has not ended yet; try again later");
            }
        });
    }

    /// Nothing of the worker before this one is to be left either.
    pub(super) async fn see_off(&mut self) {
        if let Some(fading) = self.fading.take()
            && !fading.see_off(self.grace).await
        {
            warn!(self.log, "the worker before this one has not ended yet");
        }
    }
}

/// It was replaced, and waits for its connections to end.
struct Leaving {
    until: Instant,
    empty_since: Option<Instant>,
}

impl Leaving {
    fn begin() -> Self {
        Self { until: Instant::now() + LEAVING_MAX, empty_since: None }
    }

    fn is_over(&mut self, n_guests: usize) -> bool {
        let now = Instant::now();
        if n_guests > 0 {
            self.empty_since = None;
        } else {
            self.empty_since.get_or_insert(now);
        }
        now >= self.until || self.empty_since.is_some_and(|since| now.duration_since(since) >= EMPTY_FOR)
    }
}

/// Removes the groups and the copies of code of a worker that went by these names.
pub(super) fn sweep(cgroup_root: &str, generations: &Path, log: &Logger) {
    let _ = fs::remove_dir_all(generations);
    match cleanup::sweep(cgroup_root) {
        Ok(0) => {}
        Ok(n_cgroups) => info!(log, "removed what another worker had left"; "n_cgroups" => n_cgroups),
        Err(error) => warn!(log, "cannot remove all cgroups; the next start does"; "error" => %error),
    }
}
