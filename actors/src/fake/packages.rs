//! Packages that are texts, and an index of them.

use std::sync::Arc;

use tokio::time::sleep;

use super::{Fake, State, ms, package};
use crate::import_stats::ImportStats;
use crate::packages::{Package, PackageSet};
use crate::world::{
    Hold, ImportStatsStore, Installed, LaunchError, LocalFuture, PackageError, PackageStore, Survey,
};

impl ImportStatsStore for Fake {
    fn read(&self) -> LocalFuture<Option<ImportStats>> {
        let world = self.clone();
        Box::pin(async move {
            sleep(ms(1)).await;
            world.state().import_stats.clone()
        })
    }

    fn write(&self, stats: ImportStats) -> LocalFuture<()> {
        let world = self.clone();
        Box::pin(async move {
            let time = {
                let mut state = world.state();
                state.n_import_stats_writes += 1;
                state.import_stats_time
            };
            sleep(time).await;
            world.state().import_stats = Some(stats);
        })
    }
}

impl State {
    /// What must not be removed now, sorted.
    pub(crate) fn held(&self) -> Vec<String> {
        let mut held: Vec<String> =
            self.holds.iter().filter_map(|hold| hold.upgrade()).flat_map(|hold| hold.to_vec()).collect();
        held.sort();
        held.dedup();
        held
    }
}

impl PackageStore for Fake {
    fn find(&self, lists: Vec<Vec<String>>) -> LocalFuture<Vec<Result<PackageSet, LaunchError>>> {
        let world = self.clone();
        Box::pin(async move {
            sleep(ms(1)).await;
            let mut state = world.state();
            state.n_finds += 1;
            let find = |list: Vec<String>| match list.iter().find(|one| !state.installed.contains(*one)) {
                Some(missing) => Err(LaunchError::Unsupported(format!("{missing} is not installed"))),
                None => Ok(PackageSet::new(list.iter().map(|one| package(one)))),
            };
            lists.into_iter().map(find).collect()
        })
    }

    fn requires(&self, packages: Vec<Package>) -> LocalFuture<Vec<Vec<String>>> {
        let world = self.clone();
        Box::pin(async move {
            let state = world.state();
            let of =
                |package: &Package| state.requires.get(&package.to_string()).cloned().unwrap_or_default();
            packages.iter().map(of).collect()
        })
    }

    fn survey(&self, list: Vec<String>, is_settled: bool) -> LocalFuture<Survey> {
        let world = self.clone();
        Box::pin(async move {
            let state = world.state();
            let is_pinned = list.iter().all(|line| line.contains("=="));
            let missing: Vec<String> =
                list.iter().filter(|one| !state.installed.contains(*one)).cloned().collect();
            match (is_settled || is_pinned, missing.is_empty()) {
                (true, true) => {
                    let set = PackageSet::new(list.iter().map(|one| package(one)));
                    Survey::Complete { pins: list, set }
                }
                (true, false) if is_settled => Survey::Missing(missing),
                _ => Survey::Open,
            }
        })
    }

    /// Version 1 is the newest of everything.
    fn settle(
        &self,
        list: Vec<String>,
        _last: Vec<String>,
    ) -> LocalFuture<Result<Vec<String>, PackageError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().package_time;
            sleep(time).await;
            let mut state = world.state();
            state.n_settles += 1;
            if let Some(away) = &state.index_away {
                return Err(PackageError::Away(away.clone()));
            }
            let pin = |line: &String| if line.contains("==") { line.clone() } else { format!("{line}==1") };
            let pins: Vec<String> = list.iter().map(pin).collect();
            match pins.iter().find(|pin| !state.index.contains(*pin) && !state.installed.contains(*pin)) {
                Some(pin) => Err(PackageError::Refused(format!("there is no {pin}"))),
                None => Ok(pins),
            }
        })
    }

    fn install(&self, pin: String) -> LocalFuture<Result<Installed, PackageError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().package_time;
            sleep(time).await;
            let mut state = world.state();
            if let Some(away) = &state.index_away {
                return Err(PackageError::Away(away.clone()));
            }
            if !state.index.contains(&pin) {
                return Err(PackageError::Refused(format!("there is no {pin}")));
            }
            state.package_installs.push(pin.clone());
            state.installed.insert(pin);
            state.held_at_install = state.held();
            Ok(Installed::default())
        })
    }

    fn hold(&self, packages: &PackageSet) -> Result<Hold, PackageError> {
        if self.state().gone_when_held {
            return Err(PackageError::Away("it was removed a moment ago".into()));
        }
        self.want(&packages.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn want(&self, pins: &[String]) -> Result<Hold, PackageError> {
        let hold = Arc::new(pins.to_vec());
        self.state().holds.push(Arc::downgrade(&hold));
        Ok(hold)
    }

    fn bytes(&self) -> LocalFuture<u64> {
        let (n, time) = {
            let state = self.state();
            (state.installed.len() as u64, state.bytes_time)
        };
        Box::pin(async move {
            sleep(time).await;
            n
        })
    }
}
