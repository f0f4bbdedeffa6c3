//! A worker that a test has to itself. When it is dropped it is stopped, and nothing of it may be left.

mod calls;
mod end;
mod look;
mod setup;
mod succession;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::Signal;

use super::footprint::Footprint;
use super::{Place, Process, Program};
pub(crate) use setup::Setup;

/// A worker that runs, or did.
#[derive(Debug)]
pub(crate) struct Worker {
    place: Place,
    ol_dir: PathBuf,
    environment: Environment,
    /// Gone once it was waited for; never there for one that runs in the background.
    child: Option<Child>,
    /// Those that were to take its place, or had it before.
    others: Vec<Child>,
    process: Process,
    port: u16,
    footprint: Mutex<Footprint>,
    mounts: std::collections::BTreeSet<String>,
}

type Environment = Vec<(String, String)>;

impl Worker {
    pub(crate) fn ol_dir(&self) -> &Path {
        &self.ol_dir
    }

    pub(crate) fn worker_dir(&self) -> PathBuf {
        self.ol_dir.join("worker")
    }

    pub(crate) fn registry(&self) -> PathBuf {
        self.ol_dir.join("registry")
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn process(&self) -> Process {
        self.process
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it has, or has had, on the machine.
    pub(crate) fn footprint(&self) -> Footprint {
        // A test that panics elsewhere still wants to know.
        let mut footprint = self.footprint.lock().unwrap_or_else(PoisonError::into_inner);
        footprint.look(self.process);
        footprint.clone()
    }

    /// A command of `ol` about this worker: `worker.ol("worker status")`.
    pub(crate) fn ol(&self, words: &str) -> Program {
        Program::ol().words(words).arg("-p").arg(&self.ol_dir).env("TMPDIR", self.place.tmp())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Lets the worker have so many descriptors at most; gives how many it might have had.
    pub(crate) fn limit_descriptors(&self, n: u64) -> u64 {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        // The hard limit is what the worker has raised its own to.
        let limit = Rlimit { current: Some(n), maximum: Some(20_000.max(n)) };
        let pid = Pid::from_raw(self.process.pid);
        let before = prlimit(pid, Resource::Nofile, limit).expect("root may do that");
        before.current.unwrap_or(n)
    }
}
