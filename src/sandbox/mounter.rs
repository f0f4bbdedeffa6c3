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
use rustix::mount::{
    FsPickFlags, MoveMountFlags, OpenTreeFlags, fsconfig_reconfigure, fsconfig_set_string, fspick,
    move_mount, open_tree,
};

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

    /// Mounts a directory read-only at `/handler` in the sandbox of this init, and has its `/tmp` be of another size, in
    /// MiB. No code of a function may have run in there. Does not wait for anything but the kernel.
    pub(super) fn furnish(
        &self,
        init: BorrowedFd<'_>,
        directory: &Path,
        tmp_mb: Option<u32>,
    ) -> io::Result<()> {
        let tree = taken(directory, Access::Read)?;
        self.visit(init, || {
            put(&tree, HANDLER)?;
            tmp_mb.map_or(Ok(()), resize_tmp)
        })
    }

    /// Mounts a directory of the machine on one that the sandbox has. As above.
    pub(super) fn attach(
        &self,
        init: BorrowedFd<'_>,
        directory: &Path,
        place: &str,
        access: Access,
    ) -> io::Result<()> {
        let tree = taken(directory, access)?;
        self.visit(init, || put(&tree, place))
    }

    fn visit(&self, init: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        // Each time: threads that this one has started since share with it again.
        unshare(CloneFlags::CLONE_FS)?;
        setns(init, CloneFlags::CLONE_NEWNS)?;
        let result = work();
        if self.come_back().is_err() {
            // It has done so a thousand times. A thread that stays where a function decides what a path means must
            // not go on, and unwinding it would leave it to the next task.
            process::abort();
        }
        result
    }

    fn come_back(&self) -> nix::Result<()> {
        // This makes the root of the namespace the thread's root and working directory.
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        fchdir(&self.root)?;
        chroot(".")?;
        fchdir(&self.directory)
    }
}

/// A directory of the machine, as a mount that is nowhere yet.
fn taken(directory: &Path, access: Access) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, directory, flags)?;
    match access {
        Access::Read => sys::make_read_only(tree.as_fd())?,
        Access::Write => sys::make_harmless(tree.as_fd())?,
    }
    Ok(tree)
}

fn put(tree: &OwnedFd, place: &str) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn resize_tmp(tmp_mb: u32) -> io::Result<()> {
    let tmp = fspick(CWD, "/tmp", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_SYMLINK_NOFOLLOW)?;
    for (key, value) in tmp_limits(tmp_mb) {
        fsconfig_set_string(tmp.as_fd(), key, value)?;
    }
    Ok(fsconfig_reconfigure(tmp.as_fd())?)
}

/// Options of a `/tmp` of this size, in MiB. One inode for every 4 KiB, and enough for a small one to be of use: a million empty
/// files are memory of the kernel's.
pub(super) fn tmp_limits(tmp_mb: u32) -> [(&'static str, String); 2] {
    let n_inodes = (u64::from(tmp_mb) * 256).max(1024);
    [("size", format!("{tmp_mb}m")), ("nr_inodes", n_inodes.to_string())]
}
