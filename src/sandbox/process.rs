//! The processes of one sandbox, as the worker holds them: dropping this ends them, and never blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use super::cgroup::Nest;
use super::channel::ChannelError;
use super::forkable::Suspect;
use super::last_resort::LastResort;
use super::pidfd;
use super::reaper::{Reaper, Remains};
use super::reclaim;
use super::zygote::{Exit, Zygote, describe_status};

/// How long the death of an interpreter and the report of it lie apart at most: the report goes through the zygote.
const EXIT_PATIENCE: Duration = Duration::from_millis(200);
/// An interpreter's pid in the pid namespace of its shell: it is the first to come after the init.
const INTERPRETER_NUMBER: i32 = 2;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: u64,
    pub(super) exit: Option<Arc<Exit>>,
    remains: Option<Remains>,
    reaper: Reaper,
    last_resort: LastResort,
    /// A zygote that has ended is replaced, but what holds it up holds up its sandboxes.
    zygote: Arc<Zygote>,
}

impl Process {
    /// Nothing has been made yet but what `remains` says.
    pub(super) fn new(
        remains: Remains,
        reaper: Reaper,
        last_resort: LastResort,
        zygote: Arc<Zygote>,
    ) -> Self {
        Self { id: remains.id, exit: None, remains: Some(remains), reaper, last_resort, zygote }
    }

    /// A pidfd of the first process in it.
    pub(super) fn init(&self) -> Option<BorrowedFd<'_>> {
        self.remains.as_ref()?.init.as_ref().map(AsFd::as_fd)
    }

    /// Memory charged to it now, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        let group = self.remains.as_ref().and_then(|remains| remains.cgroup.as_ref());
        group.map_or(0, super::cgroup::Cgroup::memory_bytes)
    }

    /// Have the kernel take back what it can of its memory, soon.
    pub(super) fn reclaim(&self) {
        if let Some(group) = self.remains.as_ref().and_then(|remains| remains.cgroup.as_ref()) {
            reclaim::soon(group);
        }
    }

    /// How many of its processes the kernel has ended for want of memory.
    pub(super) fn n_oom_kills(&self) -> u64 {
        let group = self.remains.as_ref().and_then(|remains| remains.cgroup.as_ref());
        group.map_or(0, super::cgroup::Cgroup::n_oom_kills)
    }

    /// Where its cgroup lies.
    pub(super) fn nest(&self) -> Option<Arc<Nest>> {
        self.remains.as_ref()?.cgroup.as_ref()?.nest().cloned()
    }

    /// What is to be known of it to judge whether it can be forked.
    pub(super) fn suspect(&self) -> io::Result<Suspect> {
        let gone = || io::Error::other("it has no process");
        let remains = self.remains.as_ref().ok_or_else(gone)?;
        let group = remains.cgroup.as_ref().ok_or_else(gone)?;
        let init = remains.init.as_ref().ok_or_else(gone)?;
        Ok(Suspect::new(group.members_file(), pidfd::pid(init.as_fd())?))
    }

    /// Ends the interpreter that was forked into it, and nothing else.
    pub(super) fn end_interpreter(&self) {
        let Some(group) = self.remains.as_ref().and_then(|remains| remains.cgroup.as_ref()) else { return };
        for pid in group.pids() {
            let Ok(process) = pidfd::open(pid) else { continue };
            // A pid may have come to mean another process since it was read. What is said of it now is about the one that is
            // open, if that is there at the end.
            let is_meant =
                group.pids().contains(&pid) && pidfd::number_inside(pid) == Some(INTERPRETER_NUMBER);
            if is_meant && !pidfd::has_ended(process.as_fd()).unwrap_or(true) {
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        }
    }

    /// It may come to its end by itself before it is taken down: it has been told, or will be by its channel's end.
    pub(super) fn retire(&mut self) {
        if let (Some(remains), Some(exit)) = (&mut self.remains, &self.exit) {
            remains.retiring = self.reaper.let_retire(Arc::clone(exit), Arc::clone(&self.zygote));
        }
    }

    pub(super) fn remains_mut(&mut self) -> &mut Remains {
        self.remains.as_mut().expect("only the destructor takes them")
    }

    /// Why the sandbox is gone, for people.
    pub(super) async fn obituary(&self, error: &ChannelError) -> String {
        if !matches!(error, ChannelError::Closed) {
            return error.to_string();
        }
        if let Some(why) = self.last_resort.why(self.id) {
            return why.into();
        }
        let status = match &self.exit {
            Some(exit) => exit.wait(EXIT_PATIENCE).await,
            None => None,
        };
        let group = self.remains.as_ref().and_then(|remains| remains.cgroup.as_ref());
        if let Some(group) = group
            && group.n_oom_kills() > 0
        {
            return format!(
                "out of memory: it used more than its limit of {} MB",
                group.limits().memory_bytes >> 20
            );
        }
        match status {
            Some(status) => format!("its interpreter ended: {}", describe_status(status)),
            None => "its interpreter has ended".into(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.last_resort.forget(self.id);
        if let Some(remains) = self.remains.take() {
            self.reaper.bury(remains);
        }
    }
}
