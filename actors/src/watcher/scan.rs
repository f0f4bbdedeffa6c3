//! Looks at the whole registry, and again as long as something in it cannot be read.

use std::collections::HashSet;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use slog::{debug, info, warn};
use tokio::time::Instant;

use super::reading::LOAD_TIME_MAX;
use super::verdict::TELL_TIME_MAX;
use super::{Noticed, RegistryWatcher};
use crate::world::{Registry, RegistryError, World};

/// The pause before an unreadable registry is read again; doubles up to [`RETRY_PAUSE_MAX`].
pub const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// See [`RETRY_PAUSE`].
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    Resting,
    Running,
    /// Another was asked for while one was running.
    RunningAndAgain,
}

impl<W: World> RegistryWatcher<W> {
    pub(super) fn rescan(&mut self, ctx: &mut Context<Self>) {
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

    /// When all is read: was all of it readable?
    pub(super) fn take_stock(&mut self, ctx: &mut Context<Self>) {
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

    pub(super) fn tell_of_trouble(&self, reason: Option<String>, ctx: &mut Context<Self>) {
        let told = tokio::time::timeout(TELL_TIME_MAX, self.supervisor.send(Noticed::Trouble { reason }));
        ctx.spawn(told.into_actor(self).map(|told, watcher, _ctx| {
            if !matches!(told, Ok(Ok(()))) {
                warn!(watcher.log, "the supervisor was not told about the state of the registry");
            }
        }));
    }
}
