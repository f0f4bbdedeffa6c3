//! One worker takes the place of another.

use std::process::Child;

use super::Worker;
use super::setup::spawn_with;
use crate::support::Process;
use crate::support::footprint::Footprint;
use crate::support::wait::{block_on, eventually, patience, until};

/// A worker whose place was taken.
#[derive(Debug)]
pub(crate) struct Old {
    process: Process,
    child: Option<Child>,
    footprint: Footprint,
}

impl Old {
    pub(crate) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Waits until it has ended well, and nothing of it is left beside its successor's.
    #[track_caller]
    pub(crate) fn ends(mut self, successor: &Worker) {
        if let Some(mut child) = self.child.take() {
            let status = eventually("the old worker ends", || child.try_wait().expect("it is our child"));
            assert!(status.success(), "{status}");
        }
        until("the old worker's things are gone", || {
            self.footprint.remains_beside(successor.process()).is_empty()
        });
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        // One that is not waited for here was told to end by its successor.
        if let Some(mut child) = self.child.take() {
            drop(child.wait());
        }
    }
}

impl Worker {
    /// Starts another one in its place, with these options, and does not wait for it. Gives the old one and the new one.
    #[track_caller]
    pub(crate) fn begin_takeover(&mut self, options: &[&str]) -> (Process, Process) {
        self.footprint();
        let mut args = vec!["--takeover"];
        args.extend(options.iter().flat_map(|option| ["-o", option]));
        let child = spawn_with(&self.place, &self.ol_dir, None, &self.environment, &args);
        let new = Process::of(child.id().cast_signed()).expect("it was just started");
        self.others.push(child);
        (self.process, new)
    }

    /// Another one takes its place, with these options: this is that one from now on. Gives the old one.
    #[track_caller]
    pub(crate) fn take_over(&mut self, options: &[&str]) -> Old {
        let (process, new) = self.begin_takeover(options);
        let child = self.child.take();
        let footprint = self.footprint();
        self.is_now(new);
        self.wait_until_ready();
        Old { process, child, footprint }
    }

    /// This one of those that were begun is the worker from now on.
    pub(crate) fn is_now(&mut self, process: Process) {
        if self.process == process {
            return;
        }
        let at = self.others.iter().position(|child| child.id().cast_signed() == process.pid);
        let child = self.others.remove(at.expect("it was begun here"));
        if let Some(old) = self.child.replace(child) {
            self.others.push(old);
        }
        self.process = process;
        self.footprint();
    }

    /// The one that a command has started in its place.
    #[track_caller]
    pub(crate) fn is_now_in_background(&mut self) {
        assert!(self.child.is_none(), "it has not ended");
        let pid = eventually("the worker says who it is", || self.says_pid());
        self.process = Process::of(pid).expect("it runs");
        self.port = self.process.listening_ports().first().copied().expect("it listens");
        self.footprint();
    }

    /// The pid that answers on its socket.
    pub(crate) fn says_pid(&self) -> Option<i32> {
        let client = self.private_client().with_deadlines(patience(2), patience(2));
        block_on(client.get("/pid")).ok()?.text().parse().ok()
    }

    /// What there is on the machine of workers that were here before this one.
    pub(crate) fn footprint_of_others(&mut self) -> Vec<String> {
        self.others.retain_mut(|child| child.try_wait().is_ok_and(|status| status.is_none()));
        let mut mine = self.process.descendants();
        mine.push(self.process);
        let mut left = self.footprint().processes_besides(&mine);
        left.extend(self.others.iter().map(|child| format!("worker {}", child.id())));
        left
    }
}
