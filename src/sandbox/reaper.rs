//! Takes down what is left of a sandbox: kills, waits, removes its cgroup, frees its uid.
//!
//! Dropping a sandbox must not block, and a cgroup can be removed only when the last process in it is
//! gone: so the remains are handed to this thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, Sender, unbounded};
use crossbeam::sync::WaitGroup;
use rustix::process::{Signal, pidfd_send_signal};
use slog::{Logger, warn};

use super::cgroup::Cgroup;
use super::logs::Following;
use super::network::Link;
use super::networks::Home;
use super::uids::{RangeLease, UidLease};
use super::zygote::{Exit, Zygote};
use super::{pidfd, tally};

/// How often a group that still has processes is looked at.
const RETRY_EVERY: Duration = Duration::from_millis(2);
/// When a group that cannot be removed is reported, and given up until the next start of the worker. Killed
/// processes go in well under a millisecond, unless the kernel waits for a disk.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// How long a function that wants to be told of its sandbox's end may take over it. A worker that ends waits for that, and
/// memory that others want is not free before.
const RETIREMENT: Duration = Duration::from_secs(3);
/// How many take their time at once. They have their memory and their processors for that time, and belong to no pool any more:
/// what is more than this is ended at once, so that no function has more sandboxes than it may by ending slowly.
const RETIRING_MAX: usize = 16;
/// How long an init may take to end after it was killed. The kernel lets it go when everybody in its pid namespace has been
/// buried, which is done by the zygote that they were forked from, as soon as it is not busy with a fork.
const BURIAL_PATIENCE: Duration = Duration::from_secs(5);

/// One of those that take their time, and its interpreter's end.
#[derive(Debug)]
pub(super) struct Retiring {
    n_retiring: Arc<AtomicUsize>,
    exit: Arc<Exit>,
    /// What it was forked from may go at the same time, with its code: the kernel would end all that lives in that one's pid
    /// namespace with it.
    zygote: Arc<Zygote>,
}

impl Retiring {
    /// Whether its interpreter has ended. A zygote that forks no more reports nobody's end; then only the init is left of it.
    fn is_over(&self, group: Option<&Cgroup>) -> bool {
        self.exit.is_over() || !self.zygote.is_alive() && group.is_none_or(|group| group.n_tasks() <= 1)
    }
}

impl Drop for Retiring {
    fn drop(&mut self) {
        self.n_retiring.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What there is to take down. Any part may be missing when a launch failed half way.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) id: u64,
    pub(super) init: Option<OwnedFd>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) link: Option<Link>,
    /// Its network namespace, if it may be another's after it.
    pub(super) network: Option<OwnedFd>,
    /// Freed last: a uid is given out again only when no process can have it any more.
    pub(super) uid: Option<UidLease>,
    /// The uids of its own user namespace; as above.
    pub(super) users: Option<RangeLease>,
    /// Its interpreter's end, if that is to come by itself.
    pub(super) retiring: Option<Retiring>,
    /// What it prints is read until it is gone.
    pub(super) following: Option<Following>,
    /// Who has to bury what was forked into it.
    pub(super) zygote: Weak<Zygote>,
}

impl Remains {
    /// A process that is no sandbox's, and a group.
    pub(super) fn of_helper(init: Option<OwnedFd>, cgroup: Option<Cgroup>) -> Self {
        Self {
            id: 0,
            init,
            cgroup,
            link: None,
            network: None,
            uid: None,
            users: None,
            retiring: None,
            following: None,
            zygote: Weak::new(),
        }
    }
}

/// Hands remains over; see the module's text.
#[derive(Debug, Clone)]
pub(super) struct Reaper {
    // Not bounded: there are at most as many remains as there were sandboxes, and those are bounded. A bound
    // here could only block a drop, or lose one.
    queue: Sender<Job>,
    n_retiring: Arc<AtomicUsize>,
}

enum Job {
    Remains(Box<Remains>),
    Flush(WaitGroup),
}

impl Reaper {
    pub(super) fn start(log: Logger) -> io::Result<Self> {
        let (queue, jobs) = unbounded();
        thread::Builder::new().name("reaper".into()).spawn(move || {
            // A machine without /proc has no sandboxes either.
            let home = Home::here().ok();
            let mut pending: VecDeque<(Box<Remains>, Instant)> = VecDeque::new();
            let mut flushes = Vec::new();
            loop {
                let next = if pending.is_empty() {
                    jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
                } else {
                    jobs.recv_timeout(RETRY_EVERY)
                };
                match next {
                    Ok(Job::Remains(remains)) => {
                        kill_or_let_end(&remains);
                        pending.push_back((remains, Instant::now()));
                        // The rest of a burst is killed before anything is waited for.
                        while let Ok(job) = jobs.try_recv() {
                            match job {
                                Job::Remains(remains) => {
                                    kill_or_let_end(&remains);
                                    pending.push_back((remains, Instant::now()));
                                }
                                Job::Flush(done) => flushes.push(done),
                            }
                        }
                    }
                    Ok(Job::Flush(done)) => flushes.push(done),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) if pending.is_empty() => return,
                    Err(RecvTimeoutError::Disconnected) => thread::sleep(RETRY_EVERY),
                }
                pending.retain_mut(|(remains, since)| {
                    if let Some(retiring) = &remains.retiring {
                        if retiring.is_over(remains.cgroup.as_ref()) || since.elapsed() > RETIREMENT {
                            kill(remains);
                            // Its zygote may go with this, and come here.
                            remains.retiring = None;
                            *since = Instant::now();
                        }
                        return true;
                    }
                    let is_done = remove(remains, *since, &log);
                    if is_done && let Some(home) = &home {
                        give_back(remains, home);
                    }
                    !is_done
                });
                if pending.is_empty() {
                    flushes.clear();
                }
            }
        })?;
        Ok(Self { queue, n_retiring: Arc::default() })
    }

    pub(super) fn bury(&self, remains: Remains) {
        // The thread ends only when the last sender is gone, and we are one.
        let _ = self.queue.send(Job::Remains(Box::new(remains)));
    }

    /// For a sandbox that may take its time, as this interpreter does. `None`: there are enough of them.
    pub(super) fn let_retire(&self, exit: Arc<Exit>, zygote: Arc<Zygote>) -> Option<Retiring> {
        let more = |n: usize| (n < RETIRING_MAX).then_some(n + 1);
        self.n_retiring.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Retiring { n_retiring: Arc::clone(&self.n_retiring), exit, zygote })
    }

    /// Waits until all that was handed over before is gone. Blocks: for shutdown.
    pub(super) fn flush(&self) {
        let group = WaitGroup::new();
        if self.queue.send(Job::Flush(group.clone())).is_ok() {
            group.wait();
        }
    }
}

fn kill_or_let_end(remains: &Remains) {
    if remains.retiring.is_none() {
        kill(remains);
    } else if let Some(group) = &remains.cgroup {
        // Those who serve come first; and an idle one may be frozen.
        group.set_idle(true);
        group.set_frozen(false);
    }
}

fn kill(remains: &Remains) {
    // A frozen process dies of SIGKILL under version 2 all the same.
    if let Some(init) = &remains.init {
        let _ = pidfd_send_signal(init, Signal::KILL);
    }
}

/// Nobody is in it any more.
fn give_back(remains: &mut Remains, home: &Home) {
    if let Some(network) = remains.network.take()
        && let Some(zygote) = remains.zygote.upgrade()
        && zygote.is_alive()
    {
        zygote.networks.put_back(network, home);
    }
}

/// True when there is nothing left to do.
fn remove(remains: &mut Remains, since: Instant, log: &Logger) -> bool {
    let removed = remains.cgroup.as_ref().is_none_or(|group| group.try_remove().unwrap_or(false))
        && remains.init.as_ref().is_none_or(|init| pidfd::has_ended(init.as_fd()).unwrap_or(true));
    // A zygote that has run a function's code may leave its dead lying about: processes that no limit counts any more.
    if !removed
        && since.elapsed() > BURIAL_PATIENCE
        && let Some(zygote) = std::mem::take(&mut remains.zygote).upgrade()
    {
        warn!(log, "a zygote does not bury what was forked from it; it is ended"; "sandbox" => remains.id);
        zygote.kill();
    }
    if !removed && since.elapsed() > GIVE_UP_AFTER {
        warn!(log, "gave up removing a sandbox; the next start of the worker removes it"; "sandbox" => remains.id);
        // Somebody may still have this uid.
        std::mem::forget((remains.uid.take(), remains.users.take()));
        remains.network = None;
        return true;
    }
    if removed && remains.init.is_some() && remains.uid.is_some() {
        tally::DESTROY.add(since);
    }
    removed
}
