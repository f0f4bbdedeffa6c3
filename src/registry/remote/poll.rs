//! Looking at the store from time to time: what inotify is for a directory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use actors::freshness::Use;
use actors::name::FunctionName;
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{FETCHES_MAX, Outcome, Remote};
use crate::registry::watch::WatchEvent;

/// Between two looks, whatever happens.
const PAUSE_LEAST: Duration = Duration::from_millis(20);

/// Looks until it is dropped.
#[derive(Debug)]
pub(in crate::registry) struct Poll(JoinHandle<()>);

impl Drop for Poll {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Poll {
    pub(super) fn start(
        remote: &Arc<Remote>,
        use_of: impl Fn(&FunctionName) -> Option<Use> + Send + 'static,
    ) -> Self {
        let weak = Arc::downgrade(remote);
        Self(remote.runtime.spawn(run(weak, use_of)))
    }
}

async fn run(remote: Weak<Remote>, use_of: impl Fn(&FunctionName) -> Option<Use>) {
    if let Some(remote) = remote.upgrade() {
        // So that a store that is not there is known before somebody asks for a function.
        probe(&remote).await;
    }
    while let Some(remote) = remote.upgrade() {
        let due = remote.freshness().due(&use_of, Instant::now());
        if due.probe {
            probe(&remote).await;
        }
        if !due.rest.is_empty() {
            remote.forget_rejections(&due.rest);
            let (for_disk, names) = (Arc::clone(&remote), due.rest.clone());
            let rested =
                tokio::task::spawn_blocking(move || names.iter().for_each(|name| for_disk.mirror.rest(name)));
            // A copy that is not marked is asked for after a restart; no harm is done.
            let _ = rested.await;
            remote.say(WatchEvent::Touched(due.rest));
        }
        let mut asked = futures_util::stream::iter(due.ask)
            .map(|name| {
                let fetching = remote.fetch(&name);
                async move { (name, fetching.await) }
            })
            .buffer_unordered(FETCHES_MAX);
        while let Some((name, outcome)) = asked.next().await {
            if let Ok(Outcome::Changed | Outcome::Gone { is_news: true }) = outcome {
                remote.say(WatchEvent::Touched(vec![name]));
            }
        }
        drop(asked);
        let now = Instant::now();
        let next = remote.freshness().next(now).max(now + PAUSE_LEAST);
        tokio::select! {
            () = sleep_until(next) => {}
            () = remote.wake.notified() => {}
        }
    }
}

async fn probe(remote: &Remote) {
    match remote.store.probe().await {
        Ok(()) => remote.is_there(),
        Err(error) => remote.is_away(&error.0),
    }
}
