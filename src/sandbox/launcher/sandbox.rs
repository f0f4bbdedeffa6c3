//! A sandbox that serves one function.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use super::loading::Origin;
use crate::sandbox::channel::{Channel, ChannelError};
use crate::sandbox::process::Process;
use crate::sandbox::tally;

/// A sandbox that serves one function.
#[derive(Debug)]
pub struct Sandbox {
    /// Where requests go in and answers come out.
    pub channel: Channel,
    /// Until somebody takes it: whoever waited for the sandbox wants to know.
    pub origin: Option<Origin>,
    pub(super) process: Process,
    pub(super) wants_head: bool,
    pub(super) is_asgi: bool,
    /// Whether the function is to be told of the end, and given time for it.
    pub(super) wants_end: bool,
    pub(super) is_frozen: bool,
    /// Goes when it goes.
    pub(super) _holds: Arc<dyn Any + Send + Sync>,
}

impl Sandbox {
    /// Unique while the worker runs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.process.id
    }

    /// Whether its interpreter lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.channel.is_open()
    }

    /// Whether the function wants to see method, path and headers.
    #[must_use]
    pub fn wants_head(&self) -> bool {
        self.wants_head
    }

    /// Whether the function is an ASGI app: it can be told that a client has gone, and speaks WebSocket.
    #[must_use]
    pub fn is_asgi(&self) -> bool {
        self.is_asgi
    }

    /// What runs in it is not known: when it is dropped, it ends at once.
    pub fn condemn(&mut self) {
        self.wants_end = false;
    }

    /// Stops its processes from running.
    pub fn freeze(&mut self) {
        self.channel.rest_idle();
        self.set_frozen(true);
    }

    /// Lets them run again.
    pub fn thaw(&mut self) {
        self.set_frozen(false);
    }

    fn set_frozen(&mut self, frozen: bool) {
        if self.is_frozen != frozen {
            self.is_frozen = frozen;
            if let Some(group) = &self.process.remains_mut().cgroup {
                let began = Instant::now();
                group.set_frozen(frozen);
                if frozen { &tally::PAUSE } else { &tally::UNPAUSE }.add(began);
            }
        }
    }

    /// Memory charged to it now, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.process.memory_bytes()
    }

    /// Has the kernel take back what it can of its memory, soon.
    pub fn reclaim(&self) {
        self.process.reclaim();
    }

    /// Why it is gone, for people, after its channel has failed.
    pub async fn obituary(&self, error: &ChannelError) -> String {
        self.process.obituary(error).await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.wants_end {
            // It is told by the end of its channel, which goes now.
            self.process.retire();
        }
    }
}
