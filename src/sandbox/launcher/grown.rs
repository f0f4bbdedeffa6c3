//! Zygotes that were forked from others.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::sandbox::channel::Channel;
use crate::sandbox::zygote::Zygote;

/// A zygote that was forked from another: one that has a function loaded, and that only this function's sandboxes are
/// forked from, or one that has packages imported. Dropping it ends it; what was forked from it goes on.
#[derive(Debug, Clone)]
pub struct GrownZygote(pub(super) Arc<Sprout>);

#[derive(Debug)]
pub(super) struct Sprout {
    pub(super) zygote: Arc<Zygote>,
    /// Zygotes of packages from it up to the root.
    pub(super) depth: usize,
    /// What must stay for as long as it, and what was forked from it, does.
    pub(super) holds: Arc<dyn Any + Send + Sync>,
    /// Held open: its end is how the zygote would notice that the worker is gone.
    pub(super) _channel: Channel,
}

impl GrownZygote {
    /// Whether it can still be forked.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.zygote.is_alive()
    }

    /// Memory charged to it now, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.zygote.memory_bytes()
    }
}

impl Drop for Sprout {
    fn drop(&mut self) {
        self.zygote.shells.close();
        self.zygote.retire();
    }
}

/// A zygote of packages, and what it says of their imports. Packages are named by their directories.
#[derive(Debug)]
pub struct Plantation {
    /// The zygote. It was told to import all of them, and said that it has.
    pub zygote: GrownZygote,
    /// How many milliseconds each took.
    pub held: BTreeMap<String, f64>,
    /// By how many bytes the interpreter grew.
    pub grown: BTreeMap<String, u64>,
    /// How long all of it took, by the worker's own clock.
    pub took: Duration,
}
