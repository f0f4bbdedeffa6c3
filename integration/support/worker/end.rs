//! The end of a worker, in peace or not, and what may be left of it: nothing.

use std::fs;
use std::process::ExitStatus;
use std::thread;

use nix::sys::signal::Signal;

use super::Worker;
use super::setup::spawn;
use crate::support::Process;
use crate::support::footprint::{Footprint, mounts};
use crate::support::wait::{eventually, until};

impl Worker {
    /// Kills it as no program can prevent, and gives what it had.
    pub(crate) fn kill(&mut self) -> Footprint {
        let footprint = self.footprint();
        self.signal(Signal::SIGKILL);
        self.wait_for_end();
        footprint
    }

    /// Starts it again, and kills it as soon as it is so far; gives what it had.
    #[track_caller]
    pub(crate) fn start_and_kill_when(
        &mut self,
        what: &str,
        has_come: impl Fn(Process) -> bool,
    ) -> Footprint {
        let child = spawn(&self.place, &self.ol_dir, None, &self.environment);
        self.process = Process::of(child.id().cast_signed()).expect("it was just started");
        self.child = Some(child);
        until(what, || has_come(self.process));
        self.kill()
    }

    /// How it ended, once it has.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it was not waited for");
        eventually("the worker ends", || child.try_wait().expect("it is our child"))
    }

    /// Stops it as a person would, and checks that nothing is left.
    pub(crate) fn finish(mut self) {
        self.stop();
    }

    #[track_caller]
    fn stop(&mut self) {
        if self.child.is_some() {
            self.footprint();
            self.ol("worker down").succeed();
            let status = self.wait_for_end();
            assert!(status.success(), "the worker ended with {status}:\n{}", self.log());
            self.check_directory();
        } else if self.process.is_alive() {
            self.footprint();
            self.ol("worker down").succeed();
            self.check_directory();
        }
        self.check_machine();
    }

    /// Nothing outside of the worker's directory. The kernel may be a moment behind.
    #[track_caller]
    pub(crate) fn check_machine(&self) {
        let footprint = self.footprint();
        let mut remains = Vec::new();
        let is_clean = || {
            remains = footprint.remains();
            let now = mounts(&self.place.token());
            remains.extend(now.difference(&self.mounts).map(|line| format!("mount {line}")));
            remains.is_empty().then_some(())
        };
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("a clean machine", is_clean)
        }));
        assert!(caught.is_ok(), "the worker has left behind: {remains:#?}");
    }

    /// Nothing inside of it that says it runs or that sandboxes have used.
    #[track_caller]
    fn check_directory(&self) {
        for name in [
            "ol.sock",
            "worker.pid",
            "worker.port",
            "takeover.sock",
            "generations-next",
            "profile",
            "profile-next",
        ] {
            assert!(!self.worker_dir().join(name).exists(), "worker/{name} is still there");
        }
        for dir in [self.worker_dir().join("root"), self.worker_dir().join("generations"), self.place.tmp()] {
            let left: Vec<_> =
                fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            assert!(left.is_empty(), "still there: {left:?}");
        }
    }

    /// After a failed test: no questions, and no assertions on top of the one that failed.
    fn abandon(&mut self) {
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(40).collect();
        eprintln!("the end of the worker's log:");
        tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        if self.process.is_alive() {
            self.footprint();
            self.signal(Signal::SIGKILL);
        }
        for mut child in self.others.drain(..) {
            drop(child.kill());
            drop(child.wait());
        }
        if let Some(mut child) = self.child.take() {
            drop(child.wait());
        }
        let output = self.ol("worker force-cleanup").run();
        eprintln!("force-cleanup: {}{}", output.stdout, output.stderr);
        self.footprint().remove_cgroups();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            self.abandon();
        } else {
            let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.stop()));
            if let Err(panic) = stopped {
                self.abandon();
                std::panic::resume_unwind(panic);
            }
        }
    }
}
