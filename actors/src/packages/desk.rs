//! Has it settled which packages are meant, and installed what is missing: once, however many wait.

use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use futures_util::FutureExt;
use futures_util::future::join_all;
use slog::{Logger, debug, info};
use tokio::time::timeout;

use super::{Known, PackageSet};
use crate::installs::{Asked, PAUSE, Runs, Turns};
use crate::stats::WorkerStats;
use crate::world::{Hold, Installed, LaunchError, LocalFuture, PackageError, PackageStore, Survey, World};

/// How long anybody waits for packages to be settled, and for each to be installed: a queue of others' and then one's own, which
/// `installer_limits.runtime_sec` bounds.
pub const PROVIDE_TIME_MAX: Duration = Duration::from_secs(900);

/// See that these packages are there: have it settled which are meant, if that is open, and install what is missing.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Provided, Unprovided>")]
pub struct Provide {
    /// As the user wrote them; or, if they are settled, each pinned.
    pub list: Vec<String>,
    /// Whether they are.
    pub is_settled: bool,
    /// What was chosen for this function the last time, to be kept where the list allows it.
    pub last: Vec<String>,
    /// Ask the resolver although the answer could be had without.
    pub anew: bool,
}

/// They are there.
#[derive(Clone)]
pub struct Provided {
    /// Each of them pinned, one a line.
    pub pins: Vec<String>,
    /// The packages.
    pub set: PackageSet,
    /// As long as it lives they are not removed.
    pub hold: Hold,
}

/// They are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprovided {
    /// Why.
    pub error: PackageError,
    /// After how long it is worth trying again, if that may help.
    pub retry_after: Option<Duration>,
}

impl From<Unprovided> for LaunchError {
    fn from(unprovided: Unprovided) -> Self {
        match unprovided.error {
            PackageError::Refused(text) => Self::Unsupported(text),
            PackageError::Away(text) | PackageError::Failed(text) => Self::Failed(text),
        }
    }
}

/// Options that say where a package comes from, which is a part of what it is.
const SOURCE_OPTIONS: [&str; 4] = ["index-url", "extra-index-url", "find-links", "no-index"];

/// A pinned line without its hashes: what packages of a function are known by. Where it comes from stays, without passwords.
#[must_use]
pub fn short(pin: &str) -> String {
    let mut words = pin.split(" --");
    let package = words.next().unwrap_or(pin).trim().to_owned();
    words.fold(package, |line, word| {
        let (name, value) = word.trim().split_once(['=', ' ']).unwrap_or((word.trim(), ""));
        match value.trim() {
            _ if !SOURCE_OPTIONS.contains(&name) => line,
            "" => format!("{line} --{name}"),
            value => format!("{line} --{name}={}", without_credentials(value)),
        }
    })
}

/// An address without the user and the password in it.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// What a [`Provide`] under way needs. A clone is the same.
pub(super) struct Desk<W: World> {
    pub(super) store: W::Packages,
    pub(super) known: Known,
    pub(super) turns: Turns,
    settling: Runs<(Vec<String>, Vec<String>), Vec<String>>,
    installing: Runs<String, Installed>,
    stats: Arc<WorkerStats>,
    log: Logger,
}

impl<W: World> Clone for Desk<W> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            known: self.known.clone(),
            turns: self.turns.clone(),
            settling: self.settling.clone(),
            installing: self.installing.clone(),
            stats: Arc::clone(&self.stats),
            log: self.log.clone(),
        }
    }
}

impl<W: World> Desk<W> {
    pub(super) fn new(store: W::Packages, known: Known, stats: Arc<WorkerStats>, log: Logger) -> Self {
        Self {
            store,
            known,
            turns: Turns::default(),
            settling: Runs::default(),
            installing: Runs::default(),
            stats,
            log,
        }
    }

    pub(super) async fn provide(self, wish: Provide) -> Result<Provided, Unprovided> {
        let provided = self.try_provide(wish).await;
        if let Err(Unprovided { error, .. }) = &provided {
            self.stats.package_failures.bump();
            info!(self.log, "packages cannot be had"; "error" => %error);
        }
        provided
    }

    async fn try_provide(&self, wish: Provide) -> Result<Provided, Unprovided> {
        let Provide { list, is_settled, last, anew } = wish;
        let never = |error: PackageError| Unprovided { error, retry_after: None };
        debug!(self.log, "packages are wanted"; "list" => list.join(" "), "is_settled" => is_settled, "anew" => anew);
        // From before anybody looks whether they are there: nobody removes them for others, and they not for one another.
        let mut _wanted = if is_settled { Some(self.want(&list)?) } else { None };
        let survey = if anew { Survey::Open } else { self.store.survey(list.clone(), is_settled).await };
        let (pins, missing) = match survey {
            Survey::Complete { pins, set } => {
                // What is settled has been counted when that was done.
                if !is_settled {
                    self.stats.package_hits.add(set.len() as u64);
                }
                return self.learn(pins, set);
            }
            Survey::Missing(missing) => (list, missing),
            Survey::Wrong(text) => return Err(never(PackageError::Refused(text))),
            Survey::Open => {
                let pins = self.settle(list, last).await?;
                self.stats.packages_settled.bump();
                debug!(self.log, "settled which packages are meant"; "pins" => pins.join(" "));
                _wanted = Some(self.want(&pins)?);
                match self.store.survey(pins.clone(), true).await {
                    Survey::Complete { pins, set } => {
                        self.stats.package_hits.add(set.len() as u64);
                        return self.learn(pins, set);
                    }
                    Survey::Missing(missing) => (pins, missing),
                    Survey::Wrong(text) => return Err(never(PackageError::Refused(text))),
                    Survey::Open => {
                        let text = "the resolver has left open which packages are meant".into();
                        return Err(never(PackageError::Failed(text)));
                    }
                }
            }
        };
        self.stats.package_hits.add(pins.len().saturating_sub(missing.len()) as u64);
        debug!(self.log, "packages are missing"; "missing" => missing.join(" "), "n_there" => pins.len() - missing.len().min(pins.len()));
        let runs: Vec<_> = missing.iter().map(|pin| self.install(pin.clone())).collect();
        for installed in join_all(runs).await {
            installed?;
        }
        let short: Vec<String> = pins.iter().map(|pin| short(pin)).collect();
        match self.store.find(vec![short]).await.pop() {
            Some(Ok(set)) => self.learn(pins, set),
            Some(Err(error)) => Err(never(PackageError::Failed(error.to_string()))),
            None => Err(never(PackageError::Failed("the packages were not looked for".into()))),
        }
    }

    fn learn(&self, pins: Vec<String>, set: PackageSet) -> Result<Provided, Unprovided> {
        let hold = self.store.hold(&set).map_err(at_once)?;
        self.known.learn(pins.iter().map(|pin| short(pin)).collect(), set.clone());
        Ok(Provided { pins, set, hold })
    }

    fn want(&self, pins: &[String]) -> Result<Hold, Unprovided> {
        self.store.want(pins).map_err(at_once)
    }

    async fn settle(&self, list: Vec<String>, last: Vec<String>) -> Result<Vec<String>, Unprovided> {
        let (store, key) = (self.store.clone(), (list.clone(), last.clone()));
        let asked = self.settling.ask(key.clone(), &self.turns, move || store.settle(list, last));
        self.see_through(asked).await.map_err(|error| {
            let retry_after = self.settling.pause(&key).or_else(|| soon(&error));
            Unprovided { error, retry_after }
        })
    }

    async fn install(&self, pin: String) -> Result<(), Unprovided> {
        let (desk, key) = (self.clone(), pin.clone());
        let begin = move || -> LocalFuture<Result<Installed, PackageError>> {
            Box::pin(async move {
                debug!(desk.log, "installs a package"; "package" => short(&pin));
                let installed = desk.store.install(pin.clone()).await?;
                desk.stats.packages_installed.bump();
                desk.stats.packages_evicted.add(installed.evicted.len() as u64);
                desk.known.forget_all_with(&installed.evicted);
                info!(desk.log, "installed a package"; "package" => short(&pin), "evicted" => installed.evicted.join(" "));
                Ok(installed)
            })
        };
        let asked = self.installing.ask(key.clone(), &self.turns, begin);
        self.see_through(asked).await.map(drop).map_err(|error| {
            let retry_after = self.installing.pause(&key).or_else(|| soon(&error));
            Unprovided { error, retry_after }
        })
    }

    /// Waits, but not for ever; what was begun goes on, whoever waits.
    async fn see_through<T: Clone + 'static>(
        &self,
        asked: Result<Asked<T>, PackageError>,
    ) -> Result<T, PackageError> {
        let run = match asked? {
            Asked::New(run) => {
                actix::spawn(run.clone().map(drop));
                run
            }
            Asked::Joined(run) => run,
        };
        let late =
            || PackageError::Away("the packages are being installed; that takes long, and goes on".into());
        timeout(PROVIDE_TIME_MAX, run).await.unwrap_or_else(|_| Err(late()))
    }
}

/// When what is merely too much at once is worth another try.
fn soon(error: &PackageError) -> Option<Duration> {
    matches!(error, PackageError::Away(_)).then_some(PAUSE)
}

/// What another worker has done a moment ago is over when it is tried again.
fn at_once(error: PackageError) -> Unprovided {
    Unprovided { retry_after: soon(&error), error }
}
