//! The uids of sandboxes, and the part of the machine's uids that one worker takes them from.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Uids in a slot: the size of a user namespace's customary map.
pub(crate) const SLOT_UIDS: u32 = 65_536;
/// Workers on one machine at once.
const SLOTS: u32 = 256;
/// Where running workers hold their slots, on every distribution a tmpfs.
const DIRECTORY: &str = "/run/openlambda";

/// A range of the machine's uids (and of its private addresses) that no other worker on it uses. Held by a
/// lock on a file, which the kernel lets go when the worker ends, however it ends.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u32,
    uid_base: u32,
    _lock: File,
}

impl Slot {
    /// `uid_base` is the first uid of slot 0, as configured.
    pub(crate) fn take(uid_base: u32) -> io::Result<Self> {
        Self::take_in(Path::new(DIRECTORY), uid_base)
    }

    fn take_in(directory: &Path, uid_base: u32) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for number in 0..SLOTS {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(directory.join(format!("slot-{number}")))?;
            match file.try_lock() {
                Ok(()) => return Ok(Self { number, uid_base: uid_base + number * SLOT_UIDS, _lock: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{SLOTS} workers run on this machine already")))
    }

    /// From 0.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// The machine's uid that uid 0 of the sandboxes' user namespace is.
    pub(crate) fn uid_base(&self) -> u32 {
        self.uid_base
    }
}

/// The free uids of a slot. 0 is the shim's and the zygotes'.
#[derive(Debug, Clone)]
pub(super) struct Uids {
    free: Arc<Mutex<VecDeque<u32>>>,
}

/// A uid that one sandbox has for itself.
#[derive(Debug)]
pub(super) struct UidLease {
    uid: u32,
    owner: Uids,
}

impl Uids {
    pub(super) fn new() -> Self {
        Self { free: Arc::new(Mutex::new((1..SLOT_UIDS - 1).collect())) }
    }

    /// The uid that has been free the longest; `None` when 65,534 sandboxes live.
    pub(super) fn take(&self) -> Option<UidLease> {
        let uid = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        Some(UidLease { uid, owner: self.clone() })
    }
}

impl UidLease {
    /// Inside the user namespace.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        self.owner.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_never_share_a_slot() {
        let directory = tempfile::tempdir().unwrap();
        let first = Slot::take_in(directory.path(), 1000).unwrap();
        let second = Slot::take_in(directory.path(), 1000).unwrap();
        assert_eq!((first.number(), second.number()), (0, 1));
        drop(first);
        assert_eq!(Slot::take_in(directory.path(), 1000).unwrap().number(), 0);
        assert_eq!(second.uid_base(), 1000 + SLOT_UIDS);
    }

    #[test]
    fn a_uid_comes_back_last() {
        let uids = Uids::new();
        let first = uids.take().unwrap().uid();
        assert_ne!(uids.take().unwrap().uid(), first);
    }
}
