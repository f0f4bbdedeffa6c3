//! The one thread that starts processes.
//!
//! A child's parent-death signal is about the *thread* that started it: one that a pool started would
//! be killed when the pool lets an idle thread go. This thread lives as long as the worker.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use crossbeam::channel::{Sender, bounded};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::os::fd::AsFd;

use super::{shim, sys};

/// Shims that may wait to be started: there are two kinds, and one restart of each.
const QUEUE_LENGTH: usize = 4;

/// Starts shims.
#[derive(Debug, Clone)]
pub(super) struct Forker {
    jobs: Sender<Job>,
}

enum Job {
    Spawn { control: OwnedFd, reply: Sender<io::Result<()>> },
    Reap { pid: i32 },
}

impl Forker {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(QUEUE_LENGTH);
        thread::Builder::new().name("forker".into()).spawn(move || {
            for job in queue {
                match job {
                    Job::Spawn { control, reply } => {
                        // Whoever asked may have given up; its end of the socket is closed then, and the shim ends.
                        let _ = reply.send(spawn(control));
                    }
                    Job::Reap { pid } => {
                        let _ = waitpid(Pid::from_raw(pid), None);
                    }
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts a shim that listens on this socket.
    pub(super) fn spawn(&self, control: OwnedFd) -> io::Result<()> {
        let (reply, answer) = bounded(1);
        self.jobs.send(Job::Spawn { control, reply }).map_err(io::Error::other)?;
        answer.recv().map_err(io::Error::other)?
    }

    /// Buries a shim that has ended.
    pub(super) fn reap(&self, pid: i32) {
        let _ = self.jobs.try_send(Job::Reap { pid });
    }
}

fn spawn(control: OwnedFd) -> io::Result<()> {
    // Not a path: the file may have been replaced since we were started.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ol").arg(shim::COMMAND).env_clear().stdin(Stdio::null());
    sys::pass_fd(&mut command, control.as_fd(), shim::CONTROL_FD);
    let mut stage_0 = command.spawn()?;
    // It ends as soon as the shim proper, our own child too, runs; or fails, and says so on the socket.
    drop(command);
    drop(control);
    thread::Builder::new().name("stage-0".into()).spawn(move || stage_0.wait()).map(drop)
}
