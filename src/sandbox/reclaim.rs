//! Has the kernel take back memory of sandboxes that are frozen.
//!
//! What it can get at once are pages of files: what a function has read or imported, which is read again when it is needed.
//! What the function has computed, and what it has written to `/tmp`, goes only where there is swap and the sandbox may use it
//! (`limits.swappiness`). So without swap this gives back little of a small sandbox, and much of one that has read large files.
//!
//! On a thread of its own: the kernel may take some milliseconds for each.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;

use crossbeam::channel::{Sender, bounded};

use super::cgroup::Cgroup;

/// Sandboxes that may wait for it. More than one worker has; those beyond it stay as they are.
const QUEUE_MAX: usize = 16_384;

/// How a version of cgroups is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Means {
    /// `memory.reclaim` of version 2, which is told how much: all that there is.
    Reclaim {
        /// The group.
        group: PathBuf,
    },
    /// `memory.force_empty` of version 1, which tries to get all.
    ForceEmpty {
        /// The group, in the hierarchy of the memory controller.
        group: PathBuf,
    },
}

/// The process has one thread for it, made when it is first needed. `None`: it could not be made. For all launchers of a process
/// there may be one, since what is to be done is in the order; and one thread asks no more of the kernel than one.
static QUEUE: OnceLock<Option<Sender<Means>>> = OnceLock::new();

/// Does not wait for it.
pub(super) fn soon(group: &Cgroup) {
    let queue = QUEUE.get_or_init(|| {
        let (queue, orders) = bounded::<Means>(QUEUE_MAX);
        let thread = thread::Builder::new().name("reclaim".into());
        thread.spawn(move || orders.iter().for_each(|means| take_back(&means))).ok().map(|_| queue)
    });
    if let Some(queue) = queue {
        // When the queue is full there is enough to take back.
        let _ = queue.try_send(group.means_of_reclaim());
    }
}

/// A group that has gone meanwhile needs nothing; and that less came back than there was is no error.
fn take_back(means: &Means) {
    let _ = match means {
        Means::Reclaim { group } => fs::read_to_string(group.join("memory.current"))
            .and_then(|bytes| fs::write(group.join("memory.reclaim"), bytes.trim())),
        Means::ForceEmpty { group } => fs::write(group.join("memory.force_empty"), "0"),
    };
}
