//! Puts a function's code into a sandbox that waits for it.
//!
//! A mount namespace can be entered by a thread, but only by one that shares its root and working
//! directory with no other. So there is one thread for it, which goes in, attaches a mount that was
//! prepared outside, and comes back: about 8 µs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use crossbeam::channel::{Sender, bounded};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use tokio::sync::oneshot;

use super::sys;

/// More than can be waiting: launches are bounded, and each has one job here.
const QUEUE_LENGTH: usize = 1024;
/// Where a sandbox finds its code.
pub(super) const HANDLER: &str = "/handler";

#[derive(Debug, Clone)]
pub(super) struct Mounter {
    jobs: Sender<Job>,
}

struct Job {
    /// A process in the mount namespace.
    init: OwnedFd,
    tree: OwnedFd,
    reply: oneshot::Sender<io::Result<()>>,
}

impl Mounter {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(QUEUE_LENGTH);
        let (started, outcome) = bounded(1);
        thread::Builder::new().name("mounter".into()).spawn(move || {
            let home = match unshare(CloneFlags::CLONE_FS)
                .map_err(io::Error::from)
                .and_then(|()| File::open("/proc/thread-self/ns/mnt"))
            {
                Ok(home) => {
                    let _ = started.send(Ok(()));
                    home
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            for Job { init, tree, reply } in queue {
                let result = attach(&init, &tree);
                // Never left where a function could have changed what a path means.
                setns(&home, CloneFlags::CLONE_NEWNS)
                    .expect("the worker's own mount namespace can be entered");
                // Whoever asked may have given up; the sandbox goes then, and the mount with it.
                let _ = reply.send(result);
            }
        })?;
        outcome.recv().map_err(io::Error::other)??;
        Ok(Self { jobs })
    }

    /// Mounts a directory read-only at `/handler` in the sandbox of this init.
    pub(super) async fn attach_code(&self, init: OwnedFd, directory: &Path) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, directory, flags)?;
        sys::make_read_only(tree.as_fd())?;
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job { init, tree, reply }).map_err(io::Error::other)?;
        answer.await.map_err(io::Error::other)?
    }
}

fn attach(init: &OwnedFd, tree: &OwnedFd) -> io::Result<()> {
    setns(init, CloneFlags::CLONE_NEWNS)?;
    move_mount(tree, "", CWD, HANDLER, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}
