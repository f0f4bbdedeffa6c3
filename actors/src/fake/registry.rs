//! A registry that is a map.

use tokio::time::sleep;

use super::code::FakeCode;
use super::{Fake, FakeWorld, Working, name};
use crate::name::FunctionName;
use crate::world::{LocalFuture, Registry, RegistryError};

impl Registry<FakeWorld> for Fake {
    fn scan(&self) -> LocalFuture<Result<Vec<FunctionName>, RegistryError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = world.state().load_time;
            sleep(time).await;
            let state = world.state();
            match &state.registry_error {
                Some(error) => Err(error.clone()),
                None => Ok(state.registry.keys().map(|text| name(text)).collect()),
            }
        })
    }

    fn is_at_hand(&self, name: &FunctionName) -> bool {
        self.state().copies.as_ref().is_none_or(|copies| copies.contains(name.as_str()))
    }

    fn load(
        &self,
        name: FunctionName,
        last: Option<FakeCode>,
    ) -> LocalFuture<Result<Option<FakeCode>, RegistryError>> {
        let world = self.clone();
        Box::pin(async move {
            let time = {
                let mut state = world.state();
                state.n_loads += 1;
                state.n_loading += 1;
                state.n_loading_max = state.n_loading_max.max(state.n_loading);
                state.load_time
            };
            let _working = Working(world.clone(), |state| state.n_loading -= 1);
            sleep(time).await;
            let state = world.state();
            if let Some(error) = &state.registry_error {
                return Err(error.clone());
            }
            match state.registry.get(name.as_str()) {
                None => Ok(None),
                Some(Err(error)) => Err(error.clone()),
                Some(Ok(code)) => {
                    Ok(Some(last.filter(|last| last.version == code.version).unwrap_or(code.clone())))
                }
            }
        })
    }

    fn settle(&self, mut code: FakeCode, pins: Vec<String>) -> LocalFuture<Result<FakeCode, RegistryError>> {
        code.packages = pins;
        Box::pin(async { Ok(code) })
    }
}
