//! New code goes into service when its packages are there.

use std::time::Duration;

use actix::{AsyncContext, Context};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::RegistryWatcher;
use super::verdict::is_served;
use crate::name::FunctionName;
use crate::packages::{Provide, Unprovided};
use crate::world::{Code, LocalFuture, PackageError, Registry, RegistryError, World};

/// After how long a function that was rejected for want of its packages is looked at again when somebody asks for it; and no sooner
/// than after four times as long as it took to find out, so that asking keeps nothing busy.
pub const PACKAGES_AGAIN: Duration = Duration::from_secs(2);

/// Code, and what came of its packages.
pub(super) struct Provided<W: World> {
    /// `None`: it is outdated, and to be read again.
    pub(super) loaded: Option<Result<Option<W::Code>, RegistryError>>,
    /// When it is worth reading it again.
    pub(super) retry_after: Option<Duration>,
}

impl<W: World> RegistryWatcher<W> {
    /// Ask for its packages again by and by; once, however often that was said.
    pub(super) fn provide_later(&mut self, name: FunctionName, pause: Duration, ctx: &mut Context<Self>) {
        if self.providing_later.insert(name.clone()) {
            ctx.run_later(pause, move |watcher, ctx| {
                watcher.providing_later.remove(&name);
                watcher.want(name, ctx);
            });
        }
    }

    /// When it is worth asking for these packages again, if they are why this reading has come to nothing.
    pub(super) fn again_from(&mut self, name: &FunctionName) -> Option<Instant> {
        let began = self.jobs.get_mut(name)?.providing_since.take()?;
        let now = Instant::now();
        Some(now + PACKAGES_AGAIN.max(4 * (now - began)))
    }

    /// Sees to it that the packages of new code are there before it goes into service. What is served meanwhile is what was
    /// served before.
    pub(super) fn provide(
        &mut self,
        name: &FunctionName,
        loaded: Result<Option<W::Code>, RegistryError>,
    ) -> LocalFuture<Provided<W>> {
        let now = |loaded| Provided { loaded: Some(loaded), retry_after: None };
        let known = self.known.get(name);
        let code = match loaded {
            Ok(Some(code)) if !code.packages().is_empty() && !is_served(known, &code) => code,
            other => return Box::pin(async move { now(other) }),
        };
        let last = known.and_then(|known| known.code.as_ref()).map(|code| code.packages().to_vec());
        let (end, mut ended) = oneshot::channel();
        let job = self.jobs.get_mut(name).expect("a job lasts until it is concluded");
        if job.again {
            return Box::pin(async { Provided { loaded: None, retry_after: None } });
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
                _ = &mut ended => return Provided { loaded: None, retry_after: None },
            };
            match provided {
                Ok(Ok(provided)) if code.is_settled() => {
                    code.keep(provided.hold);
                    now(Ok(Some(code)))
                }
                Ok(Ok(provided)) => {
                    let settled = registry.settle(code, provided.pins).await;
                    now(settled.map(|code| {
                        code.keep(provided.hold);
                        Some(code)
                    }))
                }
                Ok(Err(Unprovided { error: PackageError::Refused(text), .. })) => {
                    now(Err(RegistryError::Invalid(text)))
                }
                Ok(Err(Unprovided { error, retry_after })) => {
                    let loaded = Err(RegistryError::Invalid(error.to_string()));
                    Provided { loaded: Some(loaded), retry_after }
                }
                Err(_) => now(Err(RegistryError::Unavailable(
                    "the worker's package manager is being restarted".into(),
                ))),
            }
        })
    }
}
