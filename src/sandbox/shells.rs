//! Shells that wait for an interpreter.
//!
//! Where somebody waits for a fork, because no standby lay ready, its shell should be there: it is a third of the wait. So a zygote
//! whose forks were waited for lately keeps a shell or two. One takes 0.25 MB, and nothing of a function has ever been in it.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::cgroup::{Limits, Ways};
use super::family::lock;
use super::pidfd;
use super::process::Process;
use super::uids::Uids;
use super::zygote::Namespaces;

/// How many wait for the forks of one zygote: one for a request, and one for the next, which comes while another one is made.
const EACH_MAX: usize = 2;
/// How many wait for those of all zygotes: 4 MB, so that nobody need ask for them when memory is tight.
const ALL_MAX: usize = 16;
/// How long they wait for another fork that is waited for.
pub(super) const SPARE_TIME: Duration = Duration::from_secs(60);

/// What a shell is made for: limits, and the size of its `/tmp` in MiB.
pub(super) type Uses = (Limits, u32);

/// A shell with everything that belongs to it, and nobody in it. Dropping it takes it down.
#[derive(Debug)]
pub(super) struct Made {
    /// There is no interpreter yet.
    pub(super) process: Process,
    pub(super) namespaces: Namespaces,
    /// Into its cgroups.
    pub(super) ways: Ways,
    /// The outer side of its door: see [`Entrance`](super::zygote::Entrance).
    pub(super) door: UnixStream,
    /// Whom the interpreter is to become.
    pub(super) uid: u32,
    /// Of a user namespace of its own.
    pub(super) users: Option<Uids>,
    /// What it was made for.
    pub(super) uses: Uses,
    /// How long that took.
    pub(super) took: Duration,
}

/// How many shells wait at all. A clone counts the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Those for the forks of one zygote.
#[derive(Debug, Default)]
pub(super) struct Shells {
    spare: Mutex<Spare>,
    asked: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Spare {
    shells: Vec<Counted>,
    /// Somebody sees to them.
    is_kept: bool,
    closed: bool,
}

#[derive(Debug)]
struct Counted {
    shell: Option<Made>,
    count: Count,
}

impl Counted {
    /// Its init may have been killed: by the kernel for want of memory, or by root.
    fn is_alive(&self) -> bool {
        let init = self.shell.as_ref().and_then(|shell| shell.process.init());
        init.is_some_and(|init| !pidfd::has_ended(init).unwrap_or(true))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shells {
    /// One that was made for the same, and is still there.
    pub(super) fn take(&self, uses: Uses) -> Option<Made> {
        let (taken, dead) = {
            let mut spare = lock(&self.spare);
            let (alive, dead): (Vec<_>, Vec<_>) =
                std::mem::take(&mut spare.shells).into_iter().partition(Counted::is_alive);
            spare.shells = alive;
            let fits = |counted: &Counted| counted.shell.as_ref().is_some_and(|shell| shell.uses == uses);
            let at = spare.shells.iter().position(fits);
            (at.and_then(|at| spare.shells.swap_remove(at).shell.take()), dead)
        };
        drop(dead);
        self.asked.notify_one();
        taken
    }

    /// Whether somebody is to keep shells here from now on. Says so to one, until [`forsake`](Self::forsake).
    pub(super) fn want_keeper(&self) -> bool {
        let mut spare = lock(&self.spare);
        !spare.closed && !std::mem::replace(&mut spare.is_kept, true)
    }

    /// Ends when one was asked for since the last time, or when there will be none any more.
    pub(super) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Whether one more is wanted here.
    pub(super) fn has_room(&self, all: &Count) -> bool {
        let spare = lock(&self.spare);
        !spare.closed && spare.shells.len() < EACH_MAX && all.get() < ALL_MAX
    }

    pub(super) fn put(&self, shell: Made, all: &Count) {
        let mut spare = lock(&self.spare);
        if !spare.closed {
            all.0.fetch_add(1, Ordering::Relaxed);
            spare.shells.push(Counted { shell: Some(shell), count: all.clone() });
        }
    }

    /// Nobody keeps any here any more.
    pub(super) fn forsake(&self) {
        let shells = {
            let mut spare = lock(&self.spare);
            spare.is_kept = false;
            std::mem::take(&mut spare.shells)
        };
        drop(shells);
    }

    /// There will never be one again. Each holds the zygote that it is for, so this must be said.
    pub(super) fn close(&self) {
        lock(&self.spare).closed = true;
        self.forsake();
        self.asked.notify_one();
    }
}
