//! Sandboxes, standbys and zygotes that are numbers and names, and the launcher that makes them.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::sleep;

use super::code::FakeCode;
use super::{Fake, FakeWorld, MB, Working};
use crate::haste::Haste;
use crate::name::FunctionName;
use crate::packages::PackageSet;
use crate::world::{
    Class, Import, LaunchError, Launcher, Line, LocalFuture, Making, Planted, Sandbox, Standby, Zygote,
};

pub(crate) struct FakeStandby {
    pub(crate) id: u64,
    world: Fake,
}

impl Standby for FakeStandby {
    fn is_alive(&self) -> bool {
        !self.world.state().dead.contains(&self.id)
    }
}

impl Drop for FakeStandby {
    fn drop(&mut self) {
        self.world.state().standbys.remove(&self.id);
    }
}

#[derive(Clone)]
pub(crate) struct FakeZygote(Arc<FakeSprout>);

struct FakeSprout {
    name: String,
    version: String,
    world: Fake,
}

impl Zygote for FakeZygote {
    fn is_alive(&self) -> bool {
        self.0.world.state().zygotes.contains(&self.0.name)
    }
    fn memory_bytes(&self) -> u64 {
        2 * MB
    }
}

impl Drop for FakeSprout {
    fn drop(&mut self) {
        self.world.state().zygotes.remove(&self.name);
    }
}

pub(crate) struct FakeSandbox {
    pub(crate) id: u64,
    world: Fake,
}

impl Fake {
    pub(crate) fn sandbox(&self, version: &str) -> FakeSandbox {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.live.insert(id, version.into());
        FakeSandbox { id, world: self.clone() }
    }
}

impl FakeSandbox {
    pub(crate) fn version(&self) -> String {
        self.world.state().live[&self.id].clone()
    }
}

impl Line for FakeSandbox {
    fn take_back(&mut self) -> VecDeque<u32> {
        self.world.state().unread.remove(&self.id).unwrap_or_default()
    }
    fn first_unread(&self) -> Option<u32> {
        self.world.state().unread.get(&self.id)?.front().copied()
    }
}

impl Sandbox for FakeSandbox {
    fn id(&self) -> u64 {
        self.id
    }
    fn is_alive(&self) -> bool {
        !self.world.state().dead.contains(&self.id)
    }
    fn freeze(&mut self) {
        self.world.state().frozen.insert(self.id);
    }
    fn thaw(&mut self) {
        self.world.state().frozen.remove(&self.id);
    }
    fn reclaim(&self) {
        self.world.state().reclaimed.push(self.id);
    }
    fn memory_bytes(&self) -> u64 {
        self.world.state().sandbox_bytes
    }
}

impl Drop for FakeSandbox {
    fn drop(&mut self) {
        let mut state = self.world.state();
        state.live.remove(&self.id);
        state.frozen.remove(&self.id);
        state.dropped.push(self.id);
    }
}

impl Launcher<FakeWorld> for Fake {
    fn prepare(
        &self,
        _class: Class,
        zygote: Option<FakeZygote>,
        haste: Haste,
    ) -> LocalFuture<Result<FakeStandby, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            let (time, starved) = {
                let mut state = world.state();
                state.n_preparing += 1;
                state.n_preparing_max = state.n_preparing_max.max(state.n_preparing);
                (state.prepare_time, state.is_saturated)
            };
            let _working = Working(world.clone(), |state| state.n_preparing -= 1);
            if starved {
                // What nobody waits for gets no processor.
                haste.hurried().await;
            }
            sleep(time).await;
            let id = {
                let mut state = world.state();
                if zygote.is_some() {
                    if let Some(error) = &state.spawn_error {
                        return Err(error.clone());
                    }
                    state.n_spawns += 1;
                }
                if let Some(error) = &state.prepare_error {
                    return Err(error.clone());
                }
                let id = state.next_id;
                state.next_id += 1;
                state.n_prepared += 1;
                state.standbys.insert(id);
                id
            };
            Ok(FakeStandby { id, world: world.clone() })
        })
    }

    fn install(
        &self,
        _name: FunctionName,
        _standby: FakeStandby,
        code: FakeCode,
        _packages: PackageSet,
        _making: Making,
    ) -> LocalFuture<Result<FakeSandbox, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = {
                let mut state = world.state();
                state.n_installs += 1;
                state.install_time
            };
            sleep(time).await;
            if let Some(error) = world.state().install_error.clone() {
                return Err(error);
            }
            Ok(world.sandbox(&code.version))
        })
    }

    fn sprout(
        &self,
        name: FunctionName,
        code: FakeCode,
        _packages: PackageSet,
        _parent: Option<FakeZygote>,
    ) -> LocalFuture<Result<FakeZygote, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().install_time;
            sleep(time).await;
            let mut state = world.state();
            if let Some(error) = &state.sprout_error {
                return Err(error.clone());
            }
            state.n_sprouts += 1;
            state.zygotes.insert(name.to_string());
            drop(state);
            let name = name.to_string();
            Ok(FakeZygote(Arc::new(FakeSprout { name, version: code.version, world: world.clone() })))
        })
    }

    fn plant(
        &self,
        _class: Class,
        packages: PackageSet,
        _parents: Vec<FakeZygote>,
    ) -> LocalFuture<Result<Planted<FakeZygote>, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().plant_time;
            sleep(time).await;
            let mut state = world.state();
            state.n_plants += 1;
            if let Some(error) = &state.plant_error {
                return Err(error.clone());
            }
            if packages.iter().any(|package| state.crashing.contains(&package.to_string())) {
                return Err(LaunchError::Load("its interpreter ended".into()));
            }
            if state.quarrel && packages.len() > 1 {
                return Err(LaunchError::Load("one says of the other that it cannot be imported".into()));
            }
            let name = packages.to_string();
            state.zygotes.insert(name.clone());
            drop(state);
            Ok(Planted {
                zygote: FakeZygote(Arc::new(FakeSprout {
                    name,
                    version: String::new(),
                    world: world.clone(),
                })),
                imports: packages
                    .iter()
                    .map(|package| Import { package: package.clone(), took: time, bytes: MB })
                    .collect(),
                bytes: 3 * MB,
            })
        })
    }

    fn spawn(
        &self,
        _name: FunctionName,
        zygote: FakeZygote,
        code: FakeCode,
    ) -> LocalFuture<Result<FakeSandbox, LaunchError>> {
        let world = self.clone();
        Box::pin(async move {
            assert_eq!(zygote.0.version, code.version, "a fork of other code");
            let time = world.state().prepare_time;
            sleep(time).await;
            if let Some(error) = world.state().spawn_error.clone() {
                return Err(error);
            }
            world.state().n_spawns += 1;
            Ok(world.sandbox(&code.version))
        })
    }
}
