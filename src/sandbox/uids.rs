//! The uids of sandboxes, and the part of the machine's uids that one worker takes them from.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::wire::IdRange;

/// Uids in a slot: 65,536, as a user namespace's map customarily has, for the root zygotes' sandboxes, and three times
/// as many for the user namespaces of other zygotes.
pub(crate) const SLOT_UIDS: u32 = 1 << 18;
/// Of these, for sandboxes that are forked from a root zygote.
pub(super) const ROOT_SANDBOX_UIDS: u32 = 65_535;
/// Uids of the user namespaces of zygotes of packages: of one below a root zygote, of one below such a one, and so on.
/// One of the last has no room for another. 40 of the first take 5/6 of what a slot has for zygotes; each has room for
/// six of the second and more, or for a lambda's zygote in the place of each 64.
pub(super) const PACKAGE_ZYGOTE_UIDS: [u32; 3] = [4_096, 512, 128];
/// Uids of the user namespace of a lambda's zygote: itself, and so many sandboxes at once.
pub(super) const LAMBDA_ZYGOTE_UIDS: u32 = 64;

/// Of the uids of a zygote's user namespace, those that are given out one by one.
pub(super) fn n_single(len: u32) -> u32 {
    match len {
        4_096 => 1_023,
        512 => 255,
        _ => len - 1,
    }
}

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

/// The free uids of one user namespace: for sandboxes one by one, and for the user namespaces inside it in ranges.
/// 0 is the one that its shells are made by.
#[derive(Debug, Clone)]
pub(super) struct Uids {
    free: Arc<Mutex<Free>>,
}

#[derive(Debug)]
struct Free {
    single: VecDeque<u32>,
    /// Begin and length, in the order of the beginnings, never two that touch.
    ranges: Vec<(u32, u32)>,
}

/// A uid that one sandbox has for itself.
#[derive(Debug)]
pub(super) struct UidLease {
    uid: u32,
    owner: Uids,
}

/// A range that one user namespace has for itself.
#[derive(Debug)]
pub(super) struct RangeLease {
    begin: u32,
    len: u32,
    owner: Uids,
}

impl Uids {
    /// `len` uids from 0 up, of which `n_single` are given out one by one.
    pub(super) fn new(len: u32, n_single: u32) -> Self {
        assert!(n_single < len, "0 is nobody's");
        let begin = n_single + 1;
        let ranges = if begin < len { vec![(begin, len - begin)] } else { Vec::new() };
        let free = Free { single: (1..begin).collect(), ranges };
        Self { free: Arc::new(Mutex::new(free)) }
    }

    /// The uid that has been free the longest; `None` when all are taken.
    pub(super) fn take(&self) -> Option<UidLease> {
        let uid = self.lock().single.pop_front()?;
        Some(UidLease { uid, owner: self.clone() })
    }

    /// The first free range of this length; `None` when there is none.
    pub(super) fn take_range(&self, len: u32) -> Option<RangeLease> {
        let mut free = self.lock();
        let at = free.ranges.iter().position(|&(_, free)| free >= len)?;
        let (begin, rest) = free.ranges[at];
        if rest == len {
            free.ranges.remove(at);
        } else {
            free.ranges[at] = (begin + len, rest - len);
        }
        Some(RangeLease { begin, len, owner: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UidLease {
    /// Inside the user namespace.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }
}

impl RangeLease {
    /// In the user namespace that it is a part of.
    pub(super) fn range(&self) -> IdRange {
        IdRange { first: self.begin, len: self.len }
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        self.owner.lock().single.push_back(self.uid);
    }
}

impl Drop for RangeLease {
    fn drop(&mut self) {
        let mut free = self.owner.lock();
        let at = free.ranges.partition_point(|&(begin, _)| begin < self.begin);
        free.ranges.insert(at, (self.begin, self.len));
        for left in [at, at.saturating_sub(1)] {
            if let Some(&(begin, len)) = free.ranges.get(left + 1)
                && free.ranges[left].0 + free.ranges[left].1 == begin
            {
                free.ranges[left].1 += len;
                free.ranges.remove(left + 1);
            }
        }
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
        let uids = Uids::new(8, 7);
        let first = uids.take().unwrap().uid();
        assert_ne!(uids.take().unwrap().uid(), first);
    }

    #[test]
    fn ranges_are_disjoint_and_come_together_again() {
        let uids = Uids::new(64, 15);
        let ranges: Vec<_> = (0..3).map(|_| uids.take_range(16).unwrap()).collect();
        let firsts: Vec<u32> = ranges.iter().map(|lease| lease.range().first).collect();
        assert_eq!(firsts, [16, 32, 48]);
        assert!(uids.take_range(1).is_none(), "48 of 48 are taken");
        drop(ranges);
        for order in [[0, 2, 1], [2, 1, 0], [1, 0, 2]] {
            let mut ranges: Vec<_> = (0..3).map(|_| uids.take_range(16)).collect();
            for at in order {
                ranges[at] = None;
            }
            assert_eq!(uids.take_range(48).unwrap().range(), IdRange { first: 16, len: 48 });
        }
    }

    #[test]
    fn zygotes_of_packages_have_room_for_sandboxes_and_but_for_the_last_for_zygotes_below() {
        for (at, len) in PACKAGE_ZYGOTE_UIDS.into_iter().enumerate() {
            let uids = Uids::new(len, n_single(len));
            assert!(uids.take().is_some());
            let below = PACKAGE_ZYGOTE_UIDS.get(at + 1);
            assert_eq!(below.is_some_and(|len| uids.take_range(*len).is_some()), below.is_some());
            assert_eq!(uids.take_range(LAMBDA_ZYGOTE_UIDS).is_some(), below.is_some());
        }
        let slot = Uids::new(SLOT_UIDS, ROOT_SANDBOX_UIDS);
        let ranges: Vec<_> = std::iter::from_fn(|| slot.take_range(PACKAGE_ZYGOTE_UIDS[0])).collect();
        assert!(ranges.len() > 40);
    }
}
