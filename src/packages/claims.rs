//! Which packages somebody needs, in this worker and in others that share the directory.
//!
//! One file, `.in-use`, has a byte for each package. Whoever needs a package has its byte locked for reading, whoever removes one locks it
//! for writing first. The locks are the kernel's (of the open file, `F_OFD_SETLK`), so those of a worker that is killed go with it. They
//! are on a file that only root may open, and not on the packages' own directories: those are shown to every sandbox, and whoever can
//! open a directory can lock it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use pep440_rs::Version;
use sha2::{Digest, Sha256};

/// The file; its name is that of no package.
pub(super) const FILE: &str = ".in-use";
/// The byte of whoever gives a package its place, so that all of them together have room. Packages come after it.
const PLACING: i64 = 0;
/// How long one waits for another worker that places a package: what it writes to the disk by then is everybody's, and a busy disk takes
/// seconds for it.
const PLACING_PATIENCE: Duration = Duration::from_secs(60);
/// How often one looks whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A package in one version, however that is written, and for whatever Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(i64);

impl Key {
    /// `name` is a normalised one.
    pub(super) fn new(name: &str, version: &str) -> Self {
        // 1.0 is 1.0.0, and 1.0+abc is good for who asks for 1.0.
        let version = Version::from_str(version).map_or_else(
            |_| version.to_owned(),
            |version| {
                let release = version.release();
                let n_zeros = release.iter().rev().take_while(|number| **number == 0).count();
                let release = release[..(release.len() - n_zeros).max(1)].to_vec();
                version.with_release(release).without_local().to_string()
            },
        );
        let digest = Sha256::digest(format!("{name}=={version}"));
        let number = u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
        // Two that meet keep one another, which takes billions of them.
        Self(PLACING + 1 + (number >> 2).cast_signed())
    }
}

/// See the module's text. A clone is the same.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    /// `None`: nothing can be written to the directory, nor removed from it.
    file: Option<Arc<File>>,
    /// What this worker needs, and how often: one lock in the file for all of it.
    own: Arc<Mutex<HashMap<Key, usize>>>,
}

/// Some packages are needed for as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    keys: Vec<Key>,
}

/// Another worker is removing it at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BeingRemoved;

/// Nobody else gives a package its place for as long as this lives.
#[derive(Debug)]
pub(super) struct Placing(Option<Arc<File>>);

impl Claims {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let opened = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(FILE));
        let file = match opened {
            Ok(file) => Some(Arc::new(file)),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file, own: Arc::default() })
    }

    fn own(&self) -> MutexGuard<'_, HashMap<Key, usize>> {
        // Held for calls of a map and of the kernel, which do not panic.
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are needed. Whether they are there is another question, which is to be asked afterwards.
    pub(super) fn claim(&self, keys: impl IntoIterator<Item = Key>) -> Result<Claim, BeingRemoved> {
        // Dropped on the way, it gives back what it has.
        let mut claim = Claim { claims: self.clone(), keys: Vec::new() };
        let mut own = self.own();
        for key in keys {
            let n = own.get(&key).copied().unwrap_or(0);
            if n == 0 && !try_lock(self.file.as_deref(), libc::F_RDLCK, key.0) {
                drop(own);
                return Err(BeingRemoved);
            }
            own.insert(key, n + 1);
            claim.keys.push(key);
        }
        Ok(claim)
    }

    /// Does this, which removes a package, unless somebody needs that. Who comes to need it meanwhile finds it gone.
    pub(super) fn unless_needed<T>(&self, key: Key, remove: impl FnOnce() -> T) -> Option<T> {
        let own = self.own();
        if own.contains_key(&key) || !try_lock(self.file.as_deref(), libc::F_WRLCK, key.0) {
            return None;
        }
        let removed = remove();
        unlock(self.file.as_deref(), key.0);
        drop(own);
        Some(removed)
    }

    /// Waits until no other worker gives a package its place. In this one, that is the caller's to see to. Blocks.
    ///
    /// # Errors
    /// When another one does for longer than it can take.
    pub(super) fn placing(&self) -> io::Result<Placing> {
        let deadline = Instant::now() + PLACING_PATIENCE;
        while !try_lock(self.file.as_deref(), libc::F_WRLCK, PLACING) {
            if Instant::now() >= deadline {
                let problem = "another worker that shares the packages has been writing one for too long";
                return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(Placing(self.file.clone()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut own = self.claims.own();
        for key in &self.keys {
            if let Some(n) = own.get_mut(key) {
                *n -= 1;
                if *n == 0 {
                    own.remove(key);
                    unlock(self.claims.file.as_deref(), key.0);
                }
            }
        }
    }
}

impl Drop for Placing {
    fn drop(&mut self) {
        unlock(self.0.as_deref(), PLACING);
    }
}

/// `false`: another worker has it. A file system that knows no such locks has nobody to share with.
fn try_lock(file: Option<&File>, kind: i32, at: i64) -> bool {
    let Some(file) = file else { return true };
    !matches!(set(file, kind, at), Err(Errno::EAGAIN | Errno::EACCES))
}

fn unlock(file: Option<&File>, at: i64) {
    if let Some(file) = file {
        // What was locked can be let go.
        let _ = set(file, libc::F_UNLCK, at);
    }
}

/// fcntl(2), "Open file description locks". Never waits.
fn set(file: &File, kind: i32, at: i64) -> nix::Result<i32> {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers that share a directory: each has opened the file by itself.
    fn two() -> (tempfile::TempDir, Claims, Claims) {
        let place = tempfile::tempdir().unwrap();
        let open = || Claims::open(place.path()).unwrap();
        let (one, other) = (open(), open());
        (place, one, other)
    }

    #[test]
    fn what_one_worker_needs_no_other_removes() {
        let (_place, one, other) = two();
        let key = Key::new("a", "1");
        let (first, second) = (one.claim([key]).unwrap(), one.claim([key]).unwrap());
        let also = other.claim([key]).unwrap();
        for claims in [&one, &other] {
            assert_eq!(claims.unless_needed(key, || ()), None);
        }
        drop((first, also));
        assert_eq!(other.unless_needed(key, || ()), None, "the other still needs it");
        assert_eq!(other.unless_needed(Key::new("b", "1"), || ()), Some(()), "that is another package");
        drop(second);
        assert_eq!(other.unless_needed(key, || ()), Some(()));
        assert!(one.claim([key]).is_ok(), "and it may come back");
    }

    #[test]
    fn what_is_being_removed_is_claimed_by_nobody_and_nothing_of_the_claim_stays() {
        let (_place, one, other) = two();
        let (key, before) = (Key::new("a", "1"), Key::new("b", "1"));
        let claimed = other.unless_needed(key, || one.claim([before, key]).err());
        assert_eq!(claimed, Some(Some(BeingRemoved)));
        assert_eq!(other.unless_needed(before, || ()), Some(()));
    }

    #[test]
    fn a_version_is_the_same_however_it_is_written() {
        let key = |version| Key::new("a", version);
        assert_eq!(key("1.0"), key("1.0.0"));
        assert_eq!(key("1.0"), key("1.0+cpu"));
        assert_eq!(key("0"), key("0.0"));
        assert_eq!(key("no version"), key("no version"));
        assert_ne!(key("1.0"), key("1.0.1"));
        assert_ne!(key("1.0"), key("10"));
        assert_ne!(key("1.0"), key("1.0rc1"));
        assert_ne!(key("1.0"), Key::new("b", "1.0"));
    }

    #[test]
    fn one_places_a_package_at_a_time() {
        let (_place, one, other) = two();
        let placing = one.placing().unwrap();
        assert!(!try_lock(other.file.as_deref(), libc::F_WRLCK, PLACING));
        drop(placing);
        assert!(other.placing().is_ok());
    }

    #[test]
    fn only_root_may_open_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let (place, ..) = two();
        let mode = place.path().join(FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
