//! Who runs in a worker directory: a file that the worker holds locked, with its identity inside.
//!
//! The kernel's lock settles who may run; the text tells others whom to ask. The text alone proves
//! nothing until the process is found to be the very one that wrote it: a pid is given again, the
//! time of its start is not, nor is the boot's id.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock that nobody known holds is tried again: processes of a worker that was just
/// killed may need a moment to die.
const TRIES_MAX: u32 = 50;
const TRY_EVERY: Duration = Duration::from_millis(20);

/// How long every identity is, with blanks at its end: a pid, a number of 64 bits and the 36 characters of a boot's id fit into it.
const SIGNATURE_BYTES: usize = 80;

/// The right to run in a worker directory, for as long as this lives.
#[derive(Debug)]
pub(super) struct WorkerLock {
    file: File,
}

/// One process, told apart from all others since and before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) pid: i32,
    started_ticks: u64,
    boot: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("already running (pid {0})")]
    Held(i32),
    #[error("{} is locked by a process that cannot be seen from here", .0.display())]
    HeldByUnknown(PathBuf),
    #[error("cannot lock {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl WorkerLock {
    pub(super) fn take(worker_dir: &Path) -> Result<Self, LockError> {
        let path = lock_path(worker_dir);
        let failed = |source| LockError::File { path: path.clone(), source };
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(failed)?;
        let mut tries = 0;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(holder) = holder(worker_dir) {
                return Err(LockError::Held(holder.pid));
            }
            tries += 1;
            if tries == TRIES_MAX {
                return Err(LockError::HeldByUnknown(path));
            }
            std::thread::sleep(TRY_EVERY);
        }
        let lock = Self { file };
        lock.sign().map_err(failed)?;
        Ok(lock)
    }

    /// The lock of a worker that hands it over. It still names that one.
    pub(super) fn handed_over(lock: OwnedFd) -> Self {
        Self { file: lock.into() }
    }

    /// Name this process as the one that holds it.
    pub(super) fn sign(&self) -> io::Result<()> {
        Identity::of(nix::unistd::getpid().as_raw())?.write_to(&self.file)
    }

    /// The same lock once more: it is held until both are dropped.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// The same, to sign with.
    pub(super) fn again(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    fn signed_by(&self) -> Option<Identity> {
        // At a place of its own: where an open file stands belongs to all who have it, in two processes.
        let mut bytes = [0; SIGNATURE_BYTES];
        let n = self.file.read_at(&mut bytes, 0).ok()?;
        Identity::parse(std::str::from_utf8(&bytes[..n]).ok()?)
    }
}

impl Drop for WorkerLock {
    /// This process may live on, as after `ol worker init`: the lock must not name it then. Nor may it be taken from who has
    /// got it from us.
    fn drop(&mut self) {
        if Identity::of(nix::unistd::getpid().as_raw()).ok() == self.signed_by() {
            drop(self.file.set_len(0));
        }
    }
}

/// The worker that runs in a directory, if one does. Takes no lock, so that asking disturbs nobody.
pub(super) fn holder(worker_dir: &Path) -> Option<Identity> {
    let text = fs::read_to_string(lock_path(worker_dir)).ok()?;
    let written = Identity::parse(&text)?;
    written.is_alive().then_some(written)
}

impl Identity {
    pub(super) fn is_alive(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }

    fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the program's name in brackets, and may hold anything: proc_pid_stat(5).
        // After it come the state (field 3) and, as field 22, the time of the start.
        let mut fields = stat.rsplit_once(") ").ok_or(io::ErrorKind::InvalidData)?.1.split(' ');
        // A zombie has ended: it waits for nothing but its parent.
        if fields.next() == Some("Z") {
            return Err(io::ErrorKind::NotFound.into());
        }
        let started_ticks =
            fields.nth(18).and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { pid, started_ticks, boot })
    }

    /// At once, and over what was there before: whoever reads the file meanwhile finds one or the other, and never nobody.
    fn write_to(&self, file: &File) -> io::Result<()> {
        let text = format!("{} {} {}", self.pid, self.started_ticks, self.boot);
        file.write_all_at(format!("{text:<0$}\n", SIGNATURE_BYTES - 1).as_bytes(), 0)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let started_ticks = words.next()?.parse().ok()?;
        Some(Self { pid, started_ticks, boot: words.next()?.to_owned() })
    }
}

fn lock_path(worker_dir: &Path) -> PathBuf {
    worker_dir.join("worker.lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_worker_is_told_who_runs() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id().cast_signed();
        assert_eq!(holder(dir.path()), None);
        let lock = WorkerLock::take(dir.path()).unwrap();
        assert_eq!(holder(dir.path()).unwrap().pid, me);
        assert!(matches!(WorkerLock::take(dir.path()), Err(LockError::Held(pid)) if pid == me));
        drop(lock);
        assert_eq!(holder(dir.path()), None);
        WorkerLock::take(dir.path()).unwrap();
    }

    #[test]
    fn while_a_worker_signs_anew_there_is_no_moment_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let lock = WorkerLock::take(dir.path()).unwrap();
        let again = lock.again().unwrap();
        let signing = std::thread::spawn(move || {
            (0..500).for_each(|_| again.sign().unwrap());
            again
        });
        while !signing.is_finished() {
            assert!(holder(dir.path()).is_some());
        }
        let _again = signing.join().unwrap();
        assert_eq!(fs::metadata(lock_path(dir.path())).unwrap().len(), SIGNATURE_BYTES as u64);
    }

    #[test]
    fn a_pid_that_was_given_again_is_not_the_worker() {
        let dir = tempfile::tempdir().unwrap();
        let me = Identity::of(std::process::id().cast_signed()).unwrap();
        let write = |ticks, boot: &str| {
            fs::write(lock_path(dir.path()), format!("{} {ticks} {boot}\n", me.pid)).unwrap();
            holder(dir.path())
        };
        assert_eq!(write(me.started_ticks + 1, &me.boot), None);
        assert_eq!(write(me.started_ticks, "another-boot"), None);
        assert_eq!(write(me.started_ticks, &me.boot), Some(me.clone()));
    }

    #[test]
    fn what_a_killed_worker_wrote_is_no_worker() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "x", "1", "999999999 1 b\n", "-1 0 b\n"] {
            fs::write(lock_path(dir.path()), text).unwrap();
            assert_eq!(holder(dir.path()), None, "{text:?}");
        }
        WorkerLock::take(dir.path()).unwrap();
    }
}
