//! Puts a function's code into a sandbox that waits for it.
//!
//! A thread can enter a mount namespace, but only if it shares its root and working directory with no other
//! thread. So whichever thread has the code to put in stops sharing these, goes in, attaches a mount that was
//! prepared outside, and comes back: about 10 µs, less than it would take to wake a thread of its own for it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chroot, fchdir};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::sys;

/// Where a sandbox finds its code.
pub(super) const HANDLER: &str = "/handler";

/// What a sandbox may do with what is mounted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// As its user: whose the files are decides.
    Write,
}

/// Where the threads of the worker belong.
#[derive(Debug)]
pub(super) struct Mounter {
    namespace: File,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Mounter {
    /// From a thread that is where all are.
    pub(super) fn new() -> io::Result<Self> {
        let place = |path| open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            namespace: File::open("/proc/thread-self/ns/mnt")?,
            root: place("/")?,
            directory: place(".")?,
        })
    }

    /// Mounts a directory read-only at `/handler` in the sandbox of this init. Does not wait for anything but the
    /// kernel.
    pub(super) fn attach_code(&self, init: BorrowedFd<'_>, directory: &Path) -> io::Result<()> {
        self.attach(init, directory, HANDLER, Access::Read)
    }

    /// Mounts a directory of the machine on one that the sandbox has. As above.
    pub(super) fn attach(
        &self,
        init: BorrowedFd<'_>,
        directory: &Path,
        place: &str,
        access: Access,
    ) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, directory, flags)?;
        match access {
            Access::Read => sys::make_read_only(tree.as_fd())?,
            Access::Write => sys::make_harmless(tree.as_fd())?,
        }
        // Each time: threads that this one has started since share with it again.
        unshare(CloneFlags::CLONE_FS)?;
        setns(init, CloneFlags::CLONE_NEWNS)?;
        let result = move_mount(&tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        if self.come_back().is_err() {
            // It has done so a thousand times. A thread that stays where a function decides what a path means must
            // not go on, and unwinding it would leave it to the next task.
            process::abort();
        }
        Ok(result?)
    }

    fn come_back(&self) -> nix::Result<()> {
        // This makes the root of the namespace the thread's root and working directory.
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        fchdir(&self.root)?;
        chroot(".")?;
        fchdir(&self.directory)
    }
}
