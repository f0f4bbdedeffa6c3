//! The one thread that starts processes.
//!
//! A child's parent-death signal is about the *thread* that started it: one that a pool started would
//! be killed when the pool lets an idle thread go. This thread lives as long as the worker. It waits for nothing but the start
//! itself: the next shim may be there to replace one that does not come to its end. Who listens to a shim buries it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use crossbeam::channel::{Sender, bounded};

use super::{shim, sys};

/// Shims that may wait to be started: there are two kinds, and one restart of each.
const QUEUE_LENGTH: usize = 4;

/// Starts shims.
#[derive(Debug, Clone)]
pub(super) struct Forker {
    jobs: Sender<Job>,
}

struct Job {
    control: OwnedFd,
    reply: Sender<io::Result<()>>,
}

impl Forker {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(QUEUE_LENGTH);
        thread::Builder::new().name("forker".into()).spawn(move || {
            for Job { control, reply } in queue {
                // Whoever asked may have given up; its end of the socket is closed then, and the shim ends.
                let _ = reply.send(spawn(control));
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts a shim that listens on this socket.
    pub(super) fn spawn(&self, control: OwnedFd) -> io::Result<()> {
        let (reply, answer) = bounded(1);
        self.jobs.send(Job { control, reply }).map_err(io::Error::other)?;
        answer.recv().map_err(io::Error::other)?
    }
}

fn spawn(control: OwnedFd) -> io::Result<()> {
    // Not a path: the file may have been replaced since we were started.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ol").arg(shim::COMMAND).env_clear().stdin(Stdio::null());
    sys::pass_fd(&mut command, control, shim::CONTROL_FD);
    let mut stage_0 = command.spawn()?;
    // With it goes our copy of the socket.
    drop(command);
    // It ends as soon as the shim proper, our own child too, runs; or fails, and says so on the socket.
    thread::Builder::new().name("stage-0".into()).spawn(move || stage_0.wait()).map(drop)
}
