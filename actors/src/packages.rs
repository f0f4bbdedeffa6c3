//! Installed packages: what functions ask for, and which of it is there.
//!
//! This actor asks the world (a [`PackageStore`]) and remembers the answers in [`Known`], which whoever makes a
//! sandbox reads without asking anyone. What is remembered is looked at again every [`LOOK_EVERY`]; so a package that
//! was removed, or a second version where one was meant, is noticed while the worker runs. What is missing is never
//! remembered: the next request looks again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture, fut,
};
use slog::{Logger, debug, info};

use crate::monitor::{Crash, Monitor};
use crate::world::{LaunchError, PackageStore, World};

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

/// Which packages are meant, and that they can be imported.
#[derive(Debug, Message)]
#[rtype(result = "Result<PackageSet, LaunchError>")]
pub struct Require {
    /// As the user wrote them.
    pub packages: Vec<String>,
}

/// How often what is known is looked at again. One look costs some system calls for each set.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Sets that are remembered: some 500 bytes each.
pub const KNOWN_MAX: usize = 4_096;

/// What is known of requirements, and true a moment ago. A clone knows the same.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<HashMap<Vec<String>, PackageSet>>>);

impl Known {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<String>, PackageSet>> {
        // A panic under the lock cannot be: it is held for single calls of the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn all(&self) -> Vec<Vec<String>> {
        self.lock().keys().cloned().collect()
    }
}

/// The owner of what is known of packages.
pub struct Packages<W: World> {
    store: W::Packages,
    known: Known,
    looking: bool,
    log: Logger,
    _monitor: Monitor,
}

impl<W: World> Packages<W> {
    /// What a predecessor has found out, and left in `known`, is kept.
    #[must_use]
    pub fn new(store: W::Packages, known: Known, log: Logger, monitor: Monitor) -> Self {
        Self { store, known, looking: false, log, _monitor: monitor }
    }

    fn look_again(&mut self, ctx: &mut Context<Self>) {
        let all = self.known.all();
        if self.looking || all.is_empty() {
            return;
        }
        self.looking = true;
        let found = self.store.find(all.clone());
        ctx.spawn(found.into_actor(self).map(move |found, packages, _ctx| {
            packages.looking = false;
            for (requirements, found) in all.into_iter().zip(found) {
                match found {
                    Ok(set) => packages.known.learn(requirements, set),
                    Err(error) => {
                        info!(packages.log, "packages that were there are there no longer"; "error" => %error);
                        packages.known.forget(&requirements);
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
        if let Some(set) = self.known.get(&packages) {
            return Box::pin(fut::ok(set));
        }
        let found = self.store.find(vec![packages.clone()]);
        Box::pin(found.into_actor(self).map(move |found, this, _ctx| {
            let none = || Err(LaunchError::Failed("the packages were not looked for".into()));
            let found = found.into_iter().next().unwrap_or_else(none);
            if let Ok(set) = &found {
                debug!(this.log, "found packages"; "set" => %set);
                this.known.learn(packages, set.clone());
            }
            found
        }))
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
        Packages::new(world.clone(), known.clone(), log(), monitor).start()
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
