//! A function that is a folder: list it, copy it, and notice when somebody writes to it meanwhile.
//!
//! The folder belongs to a user and may be changed at any moment, on purpose or not. Everything is
//! opened relative to its own descriptor, never through a symbolic link, and a file is taken only if it
//! is the same one before and after it was read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, Dir, FileType, OFlags, Stat};
use sha2::{Digest, Sha256};

use super::content::{self, Bounds, ContentError, Target, open_beneath};

/// A change this recent may be followed by another with the same times: the clock that file systems
/// stamp with moves in steps of up to 10 ms (`CONFIG_HZ=100`), and network file systems are worse.
const RACY: Duration = Duration::from_millis(100);

/// Why a folder was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("'{}' is {kind}; a function has only files and directories", path.display())]
    Kind { path: PathBuf, kind: &'static str },
    #[error("'{}' is still being written", path.display())]
    Changed { path: PathBuf },
    #[error("cannot read '{}': {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// All that is in a folder, sorted, as it looked at one moment.
#[derive(Debug)]
pub(crate) struct Listing {
    entries: Vec<Listed>,
    /// When it was begun.
    taken: SystemTime,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    path: PathBuf,
    look: Look,
}

/// What tells whether a file was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Look {
    dev: u64,
    ino: u64,
    mode: u32,
    pub(crate) bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Look {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            mode: stat.st_mode,
            bytes: stat.st_size.try_into().unwrap_or(0),
            mtime: (stat.st_mtime, stat.st_mtime_nsec.try_into().unwrap_or(0)),
            ctime: (stat.st_ctime, stat.st_ctime_nsec.try_into().unwrap_or(0)),
        }
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// How long before `now` it was last changed; zero if after.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.changed()).unwrap_or_default()
    }

    /// Whether it was changed less than `age` before `now`. What was changed after it is not: a clock was set back, and would be
    /// waited for.
    pub(crate) fn is_younger(&self, now: SystemTime, age: Duration) -> bool {
        now.duration_since(self.changed()).is_ok_and(|since| since < age)
    }

    fn changed(&self) -> SystemTime {
        UNIX_EPOCH + Duration::new(self.ctime.0.try_into().unwrap_or(0), self.ctime.1.try_into().unwrap_or(0))
    }

    /// Whether the content is the same; a link that was added or removed changes nothing.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        (self.dev, self.ino, self.bytes, self.mtime) == (other.dev, other.ino, other.bytes, other.mtime)
    }

    fn digest(&self, hash: &mut Sha256) {
        for number in [self.dev, self.ino, u64::from(self.mode), self.bytes] {
            hash.update(number.to_le_bytes());
        }
        for number in [self.mtime.0, self.mtime.1, self.ctime.0, self.ctime.1] {
            hash.update(number.to_le_bytes());
        }
    }
}

/// A fingerprint of looks that were taken at `now` or later: equal means nothing was touched. `None`
/// when a change was so recent that another could hide behind it.
pub(crate) fn fingerprint<'a>(
    looks: impl Iterator<Item = (&'a Path, &'a Look)>,
    now: SystemTime,
) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    for (path, look) in looks {
        if look.age(now) < RACY {
            return None;
        }
        hash.update(path.as_os_str().as_bytes());
        hash.update([0]);
        look.digest(&mut hash);
    }
    Some(hash.finalize().into())
}

impl Listing {
    pub(crate) fn fingerprint(&self) -> Option<[u8; 32]> {
        fingerprint(self.entries.iter().map(|entry| (entry.path.as_path(), &entry.look)), self.taken)
    }

    /// How long before something in it was last changed.
    pub(crate) fn age(&self) -> Duration {
        self.entries.iter().map(|entry| entry.look.age(self.taken)).min().unwrap_or(Duration::MAX)
    }

    /// Whether nothing was touched between the two.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.entries == other.entries
    }

    /// List everything in `folder`.
    pub(crate) fn of(folder: impl AsFd, bounds: Bounds) -> Result<Self, FolderError> {
        let mut listing = Self { entries: Vec::new(), taken: SystemTime::now() };
        let top = Path::new("");
        let look = fs::fstat(&folder).map_err(|error| read_error(top, error))?;
        listing.entries.push(Listed { path: top.to_owned(), look: Look::of(&look) });
        listing.walk(folder.as_fd(), top, 0, bounds)?;
        listing.entries.sort();
        Ok(listing)
    }

    fn walk(
        &mut self,
        folder: BorrowedFd<'_>,
        at: &Path,
        depth: usize,
        bounds: Bounds,
    ) -> Result<(), FolderError> {
        if depth > bounds.depth {
            return Err(ContentError::Depth { path: at.to_owned(), depth: bounds.depth }.into());
        }
        let entries = Dir::read_from(folder).map_err(|error| read_error(at, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| read_error(at, error))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = at.join(content::path_of(name.to_bytes()));
            if self.entries.len() > bounds.n_entries {
                return Err(ContentError::Entries { n_entries: bounds.n_entries }.into());
            }
            let stat = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| read_error(&path, error))?;
            let look = Look::of(&stat);
            match look.kind() {
                FileType::RegularFile => {}
                FileType::Directory => {
                    let inner = open_beneath(
                        folder,
                        Path::new(path.file_name().unwrap_or_default()),
                        OFlags::RDONLY | OFlags::DIRECTORY,
                    )
                    .map_err(|error| read_error(&path, error))?;
                    self.walk(inner.as_fd(), &path, depth + 1, bounds)?;
                }
                other => return Err(FolderError::Kind { path, kind: kind_name(other) }),
            }
            self.entries.push(Listed { path, look });
        }
        Ok(())
    }

    /// Put everything that was listed into `target`.
    pub(crate) fn copy(&self, folder: impl AsFd, target: &mut Target) -> Result<(), FolderError> {
        for Listed { path, look } in &self.entries {
            match look.kind() {
                FileType::Directory => target.directory(path)?,
                _ => copy_file(folder.as_fd(), path, look, target)?,
            }
        }
        Ok(())
    }
}

fn copy_file(
    folder: BorrowedFd<'_>,
    path: &Path,
    look: &Look,
    target: &mut Target,
) -> Result<(), FolderError> {
    // Not to be held up by a fifo that took the file's place.
    let file = open_beneath(folder, path, OFlags::RDONLY | OFlags::NONBLOCK)
        .map_err(|error| read_error(path, error))?;
    copy_open(file, path, path, look, target)
}

/// Put a file that is open, and looked so before, into `target` as `entry`. `path` is what it is called in errors.
pub(crate) fn copy_open(
    file: OwnedFd,
    path: &Path,
    entry: &Path,
    look: &Look,
    target: &mut Target,
) -> Result<(), FolderError> {
    let changed = || FolderError::Changed { path: path.to_owned() };
    if look_at(&file, path)? != *look {
        return Err(changed());
    }
    let mut file = File::from(file);
    let executable = look.mode & 0o111 != 0;
    let bytes = target.file(entry, executable, look.mtime.0, &mut (&mut file).take(look.bytes + 1))?;
    if bytes != look.bytes || look_at(&OwnedFd::from(file), path)? != *look {
        return Err(changed());
    }
    Ok(())
}

fn look_at(file: &OwnedFd, path: &Path) -> Result<Look, FolderError> {
    fs::fstat(file).map(|stat| Look::of(&stat)).map_err(|error| read_error(path, error))
}

fn read_error(path: &Path, error: rustix::io::Errno) -> FolderError {
    use rustix::io::Errno;
    let path = path.to_owned();
    match error {
        // It went, or became something else, after it was listed.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::AGAIN | Errno::NXIO => {
            FolderError::Changed { path }
        }
        other => FolderError::Read { path, source: other.into() },
    }
}

pub(crate) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        FileType::Directory => "a directory",
        FileType::RegularFile => "a file",
        _ => "of an unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recent_change_has_no_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f.py"), "1").unwrap();
        let folder = File::open(dir.path()).unwrap();
        let bounds = Bounds { bytes: 100, n_entries: 10, depth: 2 };
        let mut listing = Listing::of(&folder, bounds).unwrap();
        assert_eq!(listing.fingerprint(), None, "another change may hide behind it");
        listing.taken += Duration::from_secs(60);
        let settled = listing.fingerprint();
        assert!(settled.is_some());
        std::fs::rename(dir.path().join("f.py"), dir.path().join("g.py")).unwrap();
        let mut other = Listing::of(&folder, bounds).unwrap();
        other.taken += Duration::from_secs(60);
        assert_ne!(other.fingerprint(), settled);
        assert!(!other.is_same(&listing));
    }
}
