//! Installed packages: what functions ask for, and which of it is there.
//!
//! This actor asks the world (a [`PackageStore`]) and remembers the answers in [`Known`], which whoever makes a
//! sandbox reads without asking anyone. It has installed what is missing ([`Provide`]), before a function's code goes into
//! service: each package once, a few at a time, and never in the way of a request of another function. What is remembered is looked at again every [`LOOK_EVERY`]; so a package that
//! was removed, or a second version where one was meant, is noticed while the worker runs. What is missing is never
//! remembered: the next request looks again.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResponse, MessageResult,
    ResponseActFuture, ResponseFuture, WrapFuture, fut,
};
use futures_util::FutureExt;
use futures_util::future::join_all;
use slog::{Logger, debug, info};
use tokio::time::timeout;

use crate::installs::{Asked, PAUSE, Runs, Turns};
use crate::monitor::{Crash, Monitor};
use crate::router::Routes;
use crate::stats::WorkerStats;
use crate::world::{Code, Installed, LaunchError, LocalFuture, PackageError, PackageStore, Survey, World};

/// One package in one version, as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Package {
    /// Normalised: lower case, with `-` where others write `_` or `.`.
    pub name: String,
    /// As its directory has it.
    pub version: String,
    /// Its directory's name.
    pub directory: String,
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=={}", self.name, self.version)
    }
}

/// Packages in the order in which they are looked through for a module, each once. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PackageSet(Arc<[Package]>);

impl PackageSet {
    /// In this order; what comes twice counts where it comes first.
    #[must_use]
    pub fn new(packages: impl IntoIterator<Item = Package>) -> Self {
        let mut unique: Vec<Package> = Vec::new();
        for package in packages {
            if !unique.contains(&package) {
                unique.push(package);
            }
        }
        Self(unique.into())
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Package> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for PackageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, package) in self.iter().enumerate() {
            write!(f, "{}{package}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl<'a> IntoIterator for &'a PackageSet {
    type Item = &'a Package;
    type IntoIter = std::slice::Iter<'a, Package>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Which packages are meant, of those that are there, and that they can be imported. Nothing is installed for it.
#[derive(Debug, Message)]
#[rtype(result = "Result<PackageSet, LaunchError>")]
pub struct Require {
    /// As the user wrote them.
    pub packages: Vec<String>,
}

/// How often what is known is looked at again. One look costs some system calls for each set.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long anybody waits for packages to be settled, and for each to be installed: a queue of others' and then one's own, which
/// `installer_limits.runtime_sec` bounds.
pub const PROVIDE_TIME_MAX: Duration = Duration::from_secs(900);
/// Sets that are remembered: some 500 bytes each.
pub const KNOWN_MAX: usize = 4_096;

/// What is known of requirements, and true a moment ago. A clone knows the same.
#[derive(Debug, Clone, Default)]
pub struct Known {
    sets: Arc<Mutex<HashMap<Vec<String>, PackageSet>>>,
    /// Directories of packages that a sandbox was made with. No more than there ever were, less those that were evicted.
    used: Arc<Mutex<HashSet<String>>>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<String>, PackageSet>> {
        // A panic under the lock cannot be: it is held for single calls of the map.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_used(&self) -> MutexGuard<'_, HashSet<String>> {
        // The same of the set.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sandbox is made with these. Gives how many of them none was made with before.
    pub(crate) fn use_for_sandbox(&self, set: &PackageSet) -> u64 {
        if set.is_empty() {
            return 0;
        }
        let mut used = self.lock_used();
        let mut n_new = 0;
        for package in set {
            if !used.contains(&package.directory) {
                used.insert(package.directory.clone());
                n_new += 1;
            }
        }
        n_new
    }

    /// Which packages these are. `None`: ask. Nothing required is always known.
    #[must_use]
    pub fn get(&self, requirements: &[String]) -> Option<PackageSet> {
        if requirements.is_empty() {
            return Some(PackageSet::default());
        }
        self.lock().get(requirements).cloned()
    }

    fn learn(&self, requirements: Vec<String>, set: PackageSet) {
        let mut known = self.lock();
        if known.len() >= KNOWN_MAX
            && !known.contains_key(&requirements)
            && let Some(any) = known.keys().next().cloned()
        {
            // Any: whoever needs it asks again, which costs a fraction of a millisecond.
            known.remove(&any);
        }
        known.insert(requirements, set);
    }

    fn forget(&self, requirements: &[String]) {
        self.lock().remove(requirements);
    }

    /// Those with any of these packages, by their directories.
    fn forget_all_with(&self, directories: &[String]) {
        if !directories.is_empty() {
            self.lock_used().retain(|directory| !directories.contains(directory));
            self.lock().retain(|_, set| !set.iter().any(|package| directories.contains(&package.directory)));
        }
    }

    fn all(&self) -> Vec<Vec<String>> {
        self.lock().keys().cloned().collect()
    }
}

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
    pub hold: Arc<dyn Any + Send + Sync>,
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

/// How much is being installed?
#[derive(Debug, Message)]
#[rtype(result = "Activity")]
pub struct AskActivity;

/// What the installer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, MessageResponse)]
pub struct Activity {
    /// Runs of it now.
    pub running: usize,
    /// Runs that wait for their turn.
    pub waiting: usize,
    /// What all packages take, in bytes.
    pub bytes: u64,
}

/// A pinned line without its hashes: what packages of a function are known by.
#[must_use]
pub fn short(pin: &str) -> String {
    pin.split(" --").next().unwrap_or(pin).trim().to_owned()
}

/// The owner of what is known of packages.
pub struct Packages<W: World> {
    desk: Desk<W>,
    looking: bool,
    log: Logger,
    _monitor: Monitor,
}

/// What a [`Provide`] under way needs. A clone is the same.
struct Desk<W: World> {
    store: W::Packages,
    known: Known,
    routes: Routes<W>,
    turns: Turns,
    settling: Runs<(Vec<String>, Vec<String>), Vec<String>>,
    installing: Runs<String, Installed>,
    /// What is wanted by those under way, and how often: not to be removed for one another.
    wanted: Rc<RefCell<HashMap<String, usize>>>,
    stats: Arc<WorkerStats>,
    log: Logger,
}

impl<W: World> Clone for Desk<W> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            known: self.known.clone(),
            routes: self.routes.clone(),
            turns: self.turns.clone(),
            settling: self.settling.clone(),
            installing: self.installing.clone(),
            wanted: Rc::clone(&self.wanted),
            stats: Arc::clone(&self.stats),
            log: self.log.clone(),
        }
    }
}

/// Some pins are wanted for as long as this lives.
struct Wanted(Rc<RefCell<HashMap<String, usize>>>, Vec<String>);

impl Wanted {
    fn new(all: &Rc<RefCell<HashMap<String, usize>>>, pins: &[String]) -> Self {
        let pins: Vec<String> = pins.iter().map(|pin| short(pin)).collect();
        for pin in &pins {
            *all.borrow_mut().entry(pin.clone()).or_default() += 1;
        }
        Self(Rc::clone(all), pins)
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut all = self.0.borrow_mut();
        for pin in &self.1 {
            if let Some(n) = all.get_mut(pin) {
                *n -= 1;
                if *n == 0 {
                    all.remove(pin);
                }
            }
        }
    }
}

impl<W: World> Desk<W> {
    async fn provide(self, wish: Provide) -> Result<Provided, Unprovided> {
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
        let survey = if anew { Survey::Open } else { self.store.survey(list.clone(), is_settled).await };
        let (pins, missing) = match survey {
            Survey::Complete(set) => {
                // What is settled has been counted when that was done.
                if !is_settled {
                    self.stats.package_hits.add(set.len() as u64);
                }
                // What is said to the installer is no package. Where a version was left open, nobody is there who could settle
                // it, and it is the one that was found.
                let is_open = |line: &String| !line.starts_with('-') && !line.contains("==");
                let pins = if list.iter().any(is_open) {
                    set.iter().map(ToString::to_string).collect()
                } else {
                    list.into_iter().filter(|line| !line.starts_with('-')).collect()
                };
                return Ok(self.learn(pins, set));
            }
            Survey::Missing(missing) => (list, missing),
            Survey::Wrong(text) => return Err(never(PackageError::Refused(text))),
            Survey::Open => {
                let pins = self.settle(list, last).await?;
                self.stats.packages_settled.bump();
                debug!(self.log, "settled which packages are meant"; "pins" => pins.join(" "));
                match self.store.survey(pins.clone(), true).await {
                    Survey::Complete(set) => {
                        self.stats.package_hits.add(set.len() as u64);
                        return Ok(self.learn(pins, set));
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
        let _wanted = Wanted::new(&self.wanted, &pins);
        let runs: Vec<_> = missing.iter().map(|pin| self.install(pin.clone())).collect();
        for installed in join_all(runs).await {
            installed?;
        }
        let short: Vec<String> = pins.iter().map(|pin| short(pin)).collect();
        match self.store.find(vec![short]).await.pop() {
            Some(Ok(set)) => Ok(self.learn(pins, set)),
            Some(Err(error)) => Err(never(PackageError::Failed(error.to_string()))),
            None => Err(never(PackageError::Failed("the packages were not looked for".into()))),
        }
    }

    fn learn(&self, pins: Vec<String>, set: PackageSet) -> Provided {
        let hold = self.store.hold(&set);
        self.known.learn(pins.iter().map(|pin| short(pin)).collect(), set.clone());
        Provided { pins, set, hold }
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
                let installed = desk.store.install(pin.clone(), desk.needed()).await?;
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

    /// What functions of the registry need, and those that are on their way into it.
    fn needed(&self) -> Vec<String> {
        let routes = self.routes.all();
        let served = routes.iter().flat_map(|route| route.code.packages().iter().cloned());
        let wanted: Vec<String> = self.wanted.borrow().keys().cloned().collect();
        let mut needed: Vec<String> = served.chain(wanted).collect();
        needed.sort_unstable();
        needed.dedup();
        needed
    }
}

/// When what is merely too much at once is worth another try.
fn soon(error: &PackageError) -> Option<Duration> {
    matches!(error, PackageError::Away(_)).then_some(PAUSE)
}

impl<W: World> Packages<W> {
    /// What a predecessor has found out, and left in `known`, is kept. What is in `routes` is needed.
    #[must_use]
    pub fn new(
        store: W::Packages,
        known: Known,
        routes: Routes<W>,
        stats: Arc<WorkerStats>,
        log: Logger,
        monitor: Monitor,
    ) -> Self {
        let desk = Desk {
            store,
            known,
            routes,
            turns: Turns::default(),
            settling: Runs::default(),
            installing: Runs::default(),
            wanted: Rc::default(),
            stats,
            log: log.clone(),
        };
        Self { desk, looking: false, log, _monitor: monitor }
    }

    fn look_again(&mut self, ctx: &mut Context<Self>) {
        let all = self.desk.known.all();
        if self.looking || all.is_empty() {
            return;
        }
        self.looking = true;
        let found = self.desk.store.find(all.clone());
        ctx.spawn(found.into_actor(self).map(move |found, packages, _ctx| {
            packages.looking = false;
            for (requirements, found) in all.into_iter().zip(found) {
                match found {
                    Ok(set) => packages.desk.known.learn(requirements, set),
                    Err(error) => {
                        info!(packages.log, "packages that were there are there no longer"; "error" => %error);
                        packages.desk.known.forget(&requirements);
                    }
                }
            }
        }));
    }
}

impl<W: World> Actor for Packages<W> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(LOOK_EVERY, Self::look_again);
    }
}

impl<W: World> Handler<Require> for Packages<W> {
    type Result = ResponseActFuture<Self, Result<PackageSet, LaunchError>>;

    fn handle(&mut self, Require { packages }: Require, _ctx: &mut Context<Self>) -> Self::Result {
        if let Some(set) = self.desk.known.get(&packages) {
            return Box::pin(fut::ok(set));
        }
        let found = self.desk.store.find(vec![packages.clone()]);
        Box::pin(found.into_actor(self).map(move |found, this, _ctx| {
            let none = || Err(LaunchError::Failed("the packages were not looked for".into()));
            let found = found.into_iter().next().unwrap_or_else(none);
            if let Ok(set) = &found {
                debug!(this.log, "found packages"; "set" => %set);
                this.desk.known.learn(packages, set.clone());
            }
            found
        }))
    }
}

impl<W: World> Handler<Provide> for Packages<W> {
    type Result = ResponseFuture<Result<Provided, Unprovided>>;

    fn handle(&mut self, wish: Provide, _ctx: &mut Context<Self>) -> Self::Result {
        Box::pin(self.desk.clone().provide(wish))
    }
}

impl<W: World> Handler<AskActivity> for Packages<W> {
    type Result = MessageResult<AskActivity>;

    fn handle(&mut self, _: AskActivity, _ctx: &mut Context<Self>) -> Self::Result {
        let (running, waiting) = self.desk.turns.counts();
        MessageResult(Activity { running, waiting, bytes: self.desk.store.bytes() })
    }
}

impl<W: World> Handler<Crash> for Packages<W> {
    type Result = ();

    fn handle(&mut self, _: Crash, _ctx: &mut Context<Self>) {
        panic!("crashed on request");
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::fake::{Fake, FakeWorld, log, ms, package};
    use crate::monitor::{Child, Down};

    struct Ear;
    impl Actor for Ear {
        type Context = Context<Self>;
    }
    impl Handler<Down> for Ear {
        type Result = ();
        fn handle(&mut self, _: Down, _: &mut Context<Self>) {}
    }

    fn packages(world: &Fake, known: &Known) -> actix::Addr<Packages<FakeWorld>> {
        let monitor = Monitor::new(Child::Packages, 1, Ear.start().recipient());
        Packages::new(world.clone(), known.clone(), Routes::default(), Arc::default(), log(), monitor).start()
    }

    #[test]
    fn a_package_is_used_first_once_and_once_more_when_it_was_evicted() {
        let known = Known::default();
        let set = |names: &[&str]| PackageSet::new(names.iter().map(|name| package(name)));
        assert_eq!(known.use_for_sandbox(&PackageSet::default()), 0);
        assert_eq!(known.use_for_sandbox(&set(&["a==1", "b==1"])), 2);
        assert_eq!(known.clone().use_for_sandbox(&set(&["b==1", "c==1"])), 1, "a clone knows the same");
        assert_eq!(known.use_for_sandbox(&set(&["a==1", "b==1", "c==1"])), 0);
        assert_eq!(known.use_for_sandbox(&set(&["a==2"])), 1, "another version is another package");
        known.forget_all_with(&[package("b==1").directory]);
        assert_eq!(known.use_for_sandbox(&set(&["a==1", "b==1"])), 1);
    }

    fn require(text: &str) -> Require {
        Require { packages: vec![text.into()] }
    }

    #[actix::test]
    async fn what_is_there_is_asked_for_once_and_then_known_to_all() {
        tokio::time::pause();
        let (world, known) = (Fake::new(), Known::default());
        world.state().installed.insert("a==1".into());
        let packages = packages(&world, &known);
        assert_eq!(known.get(&["a==1".into()]), None);
        for _ in 0..3 {
            let set = packages.send(require("a==1")).await.unwrap().unwrap();
            assert_eq!(set, PackageSet::new([package("a==1")]));
        }
        assert_eq!(world.state().n_finds, 1);
        assert!(known.get(&["a==1".into()]).is_some());
        assert_eq!(known.get(&[]), Some(PackageSet::default()), "nothing is asked of nobody");
    }

    #[actix::test]
    async fn what_is_missing_is_looked_for_again_each_time() {
        tokio::time::pause();
        let (world, known) = (Fake::new(), Known::default());
        let packages = packages(&world, &known);
        assert!(packages.send(require("a==1")).await.unwrap().is_err());
        world.state().installed.insert("a==1".into());
        assert!(packages.send(require("a==1")).await.unwrap().is_ok(), "no restart is needed");
    }

    #[actix::test]
    async fn what_is_gone_is_forgotten() {
        tokio::time::pause();
        let (world, known) = (Fake::new(), Known::default());
        world.state().installed.insert("a==1".into());
        let packages = packages(&world, &known);
        packages.send(require("a==1")).await.unwrap().unwrap();
        sleep(LOOK_EVERY + ms(100)).await;
        assert!(known.get(&["a==1".into()]).is_some());
        world.state().installed.clear();
        sleep(LOOK_EVERY + ms(100)).await;
        assert!(known.get(&["a==1".into()]).is_none());
        assert!(packages.send(require("a==1")).await.unwrap().is_err());
    }

    fn provide(list: &[&str]) -> Provide {
        let list = list.iter().map(|line| (*line).to_owned()).collect();
        Provide { list, is_settled: false, last: Vec::new(), anew: false }
    }

    #[actix::test]
    async fn ten_that_need_the_same_new_package_cost_one_install() {
        tokio::time::pause();
        let (world, known) = (Fake::new(), Known::default());
        world.state().index.extend(["a==1".into(), "b==1".into()]);
        let packages = packages(&world, &known);
        let asked = (0..10).map(|_| packages.send(provide(&["a", "b"])));
        for provided in join_all(asked).await {
            let provided = provided.unwrap().unwrap();
            assert_eq!(provided.pins, ["a==1", "b==1"]);
            assert_eq!(provided.set, PackageSet::new([package("a==1"), package("b==1")]));
        }
        let state = world.state();
        assert_eq!((state.n_settles, state.package_installs.len()), (1, 2));
        assert!(
            state.needed.contains(&"a==1".into()),
            "what others wait for is not removed: {:?}",
            state.needed
        );
        drop(state);
        assert!(known.get(&["a==1".into(), "b==1".into()]).is_some());
    }

    #[actix::test]
    async fn what_is_pinned_and_there_needs_no_resolver_and_no_index() {
        tokio::time::pause();
        let (world, known) = (Fake::new(), Known::default());
        world.state().installed.insert("a==1".into());
        world.state().index_away = Some("away".into());
        let packages = packages(&world, &known);
        assert!(packages.send(provide(&["a==1"])).await.unwrap().is_ok());
        assert_eq!(world.state().n_settles, 0);
        let anew = Provide { anew: true, ..provide(&["a==1"]) };
        let error = packages.send(anew).await.unwrap().err().unwrap();
        assert_eq!(error.retry_after, Some(PAUSE), "who asks for what is new asks the index");
    }

    #[actix::test]
    async fn what_was_begun_goes_on_when_nobody_waits_any_more() {
        tokio::time::pause();
        let (world, known) = (Fake::new(), Known::default());
        world.state().index.insert("a==1".into());
        let packages = packages(&world, &known);
        let wish = Provide { is_settled: true, ..provide(&["a==1"]) };
        let _ = timeout(ms(100), packages.send(wish)).await;
        sleep(ms(600)).await;
        assert_eq!(world.state().package_installs, ["a==1"]);
    }

    #[actix::test]
    async fn what_cannot_be_had_is_said_and_counted() {
        tokio::time::pause();
        let (world, known) = (Fake::new(), Known::default());
        let packages = packages(&world, &known);
        let error = packages.send(provide(&["none"])).await.unwrap().err().unwrap();
        assert_eq!(error.error, PackageError::Refused("there is no none==1".into()));
        assert_eq!(error.retry_after, None);
    }

    #[test]
    fn never_more_is_known_than_may_be() {
        let known = Known::default();
        for at in 0..KNOWN_MAX + 10 {
            known.learn(vec![at.to_string()], PackageSet::default());
        }
        assert_eq!(known.all().len(), KNOWN_MAX);
        assert!(known.get(&[(KNOWN_MAX + 9).to_string()]).is_some(), "the last one is");
    }
}
