//! The content of a function, wherever it comes from: checked paths, counted bytes, one hash.
//!
//! A folder and an archive with the same files have the same hash: it is taken over the sorted
//! relative paths, whether a file is executable, and what is in it. Owners and times do not count.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use sha2::{Digest, Sha256};

use super::code::PROGRAM;

/// Longest path inside of a function, in bytes: `PATH_MAX` of Linux, path_resolution(7).
const PATH_BYTES_MAX: usize = 4096;

/// Longest name of one file, in bytes: `NAME_MAX` of Linux.
const NAME_BYTES_MAX: usize = 255;

/// How paths inside of a function are opened: never out of it, never through a link.
pub(crate) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// How much a function may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// All files together, in bytes.
    pub(crate) bytes: u64,
    /// Files and directories.
    pub(crate) n_entries: usize,
    /// Directories inside of each other.
    pub(crate) depth: usize,
}

/// Why content is refused, or could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("is larger than {} MiB when unpacked; leave out what the function does not need", bytes / (1024 * 1024))]
    Bytes { bytes: u64 },
    #[error("has more than {n_entries} files and directories; leave out what the function does not need")]
    Entries { n_entries: usize },
    #[error("'{}' is more than {depth} directories deep", path.display())]
    Depth { path: PathBuf, depth: usize },
    #[error("'{}' is there twice", path.display())]
    Twice { path: PathBuf },
    #[error("'{}' lies below a file", path.display())]
    BelowFile { path: PathBuf },
    #[error("cannot read '{}': {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write '{}': {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// What is in a function.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    nodes: BTreeMap<PathBuf, Node>,
    bytes: u64,
}

#[derive(Debug)]
enum Node {
    /// `named`: the source listed it, as opposed to: something inside of it was listed.
    Directory {
        named: bool,
    },
    File {
        executable: bool,
        bytes: u64,
        sha256: [u8; 32],
    },
}

impl Contents {
    pub(crate) fn n_entries(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (path, node) in &self.nodes {
            let path = path.as_os_str().as_bytes();
            hash.update((path.len() as u64).to_le_bytes());
            hash.update(path);
            match node {
                Node::Directory { .. } => hash.update([0]),
                Node::File { executable, bytes, sha256 } => {
                    hash.update([1 + u8::from(*executable)]);
                    hash.update(bytes.to_le_bytes());
                    hash.update(sha256);
                }
            }
        }
        hash.finalize().into()
    }
}

/// Takes content in: counts it, hashes it and, if there is a directory to write to, writes it.
pub(crate) struct Target {
    directory: Option<OwnedFd>,
    bounds: Bounds,
    contents: Contents,
}

impl Target {
    /// Write into an empty directory that nobody else can reach.
    pub(crate) fn writing(directory: &Path, bounds: Bounds) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = fs::open(directory, flags, Mode::empty())?;
        Ok(Self { directory: Some(directory), bounds, contents: Contents::default() })
    }

    /// Only count and hash.
    pub(crate) fn hashing(bounds: Bounds) -> Self {
        Self { directory: None, bounds, contents: Contents::default() }
    }

    pub(crate) fn finish(self) -> Contents {
        self.contents
    }

    /// Take in a directory that the source lists. `path` comes from [`relative`].
    pub(crate) fn directory(&mut self, path: &Path) -> Result<(), ContentError> {
        self.make_directories(path)?;
        match self.contents.nodes.get_mut(path) {
            Some(Node::Directory { named: named @ false }) => *named = true,
            Some(_) => return Err(ContentError::Twice { path: path.to_owned() }),
            None => {} // the top
        }
        Ok(())
    }

    /// Take in a file. `path` comes from [`relative`].
    pub(crate) fn file(
        &mut self,
        path: &Path,
        executable: bool,
        mtime_s: i64,
        from: &mut impl Read,
    ) -> Result<u64, ContentError> {
        // A program is one also where its mode was lost on the way, as by tools that make archives of what is not on a disk.
        let executable = executable || path == Path::new(PROGRAM);
        if let Some(parent) = path.parent() {
            self.make_directories(parent)?;
        }
        if self.contents.nodes.contains_key(path) {
            return Err(ContentError::Twice { path: path.to_owned() });
        }
        self.make_room(path)?;
        let write_error = |source: io::Error| ContentError::Write { path: path.to_owned(), source };
        let mut file = match &self.directory {
            Some(directory) => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat2(directory, path, flags, Mode::from_raw_mode(0o600), BENEATH);
                Some(File::from(file.map_err(|error| write_error(error.into()))?))
            }
            None => None,
        };
        let mut hash = Sha256::new();
        let mut bytes = 0_u64;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(ContentError::Read { path: path.to_owned(), source }),
            };
            bytes += n as u64;
            self.contents.bytes += n as u64;
            if self.contents.bytes > self.bounds.bytes {
                return Err(ContentError::Bytes { bytes: self.bounds.bytes });
            }
            hash.update(&buffer[..n]);
            if let Some(file) = &mut file {
                file.write_all(&buffer[..n]).map_err(write_error)?;
            }
        }
        if let Some(file) = &file {
            let mode = if executable { 0o755 } else { 0o644 };
            fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(|error| write_error(error.into()))?;
            // Compiled Python that came along is only used if the time of its source is kept. A time
            // that the file system cannot hold is no reason to refuse the file.
            let time = Timespec { tv_sec: mtime_s, tv_nsec: 0 };
            let _ = fs::futimens(file, &Timestamps { last_access: time, last_modification: time });
        }
        let node = Node::File { executable, bytes, sha256: hash.finalize().into() };
        self.contents.nodes.insert(path.to_owned(), node);
        Ok(bytes)
    }

    fn make_directories(&mut self, path: &Path) -> Result<(), ContentError> {
        if path.components().count() > self.bounds.depth {
            return Err(ContentError::Depth { path: path.to_owned(), depth: self.bounds.depth });
        }
        let mut so_far = PathBuf::new();
        for part in path.components() {
            so_far.push(part);
            match self.contents.nodes.get(&so_far) {
                Some(Node::Directory { .. }) => continue,
                Some(Node::File { .. }) => return Err(ContentError::BelowFile { path: path.to_owned() }),
                None => self.make_room(&so_far)?,
            }
            if let Some(directory) = &self.directory {
                let mode = Mode::from_raw_mode(0o755);
                fs::mkdirat(directory, &so_far, mode)
                    .and_then(|()| fs::chmodat(directory, &so_far, mode, AtFlags::empty()))
                    .map_err(|error| ContentError::Write { path: so_far.clone(), source: error.into() })?;
            }
            if let Entry::Vacant(place) = self.contents.nodes.entry(so_far.clone()) {
                place.insert(Node::Directory { named: false });
            }
        }
        Ok(())
    }

    fn make_room(&self, _for: &Path) -> Result<(), ContentError> {
        if self.contents.nodes.len() >= self.bounds.n_entries {
            return Err(ContentError::Entries { n_entries: self.bounds.n_entries });
        }
        Ok(())
    }
}

/// The path that `raw` means inside of a function, without `.` and doubled slashes; empty for the top.
/// `Err` says what is wrong with it.
pub(crate) fn relative(raw: &[u8]) -> Result<PathBuf, &'static str> {
    if raw.is_empty() {
        return Err("has an empty name");
    }
    if raw.starts_with(b"/") {
        return Err("has an absolute path");
    }
    if raw.contains(&0) {
        return Err("has a NUL character in its name");
    }
    if raw.len() > PATH_BYTES_MAX {
        return Err("has a path that is too long");
    }
    let mut path = PathBuf::new();
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("has '..' in its path"),
            part if part.len() > NAME_BYTES_MAX => return Err("has a name that is too long"),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

/// A name from outside for an error text: printable and short.
pub(crate) fn shown(raw: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(raw).chars().take(120).flat_map(char::escape_debug).collect();
    text
}

/// Open a file or a directory below `root`, never through a link.
pub(crate) fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fs::openat2(root, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), BENEATH)
}

/// The bytes of a directory entry's name as a path.
pub(crate) fn path_of(name: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_spellings_mean_the_same() {
        for raw in ["f.py", "./f.py", ".//f.py", "f.py/"] {
            assert_eq!(relative(raw.as_bytes()).unwrap(), Path::new("f.py"));
        }
        assert_eq!(relative(b"./").unwrap(), Path::new(""));
    }

    proptest! {
        #[test]
        fn a_path_that_is_taken_stays_inside(raw in prop::collection::vec(prop::sample::select(b"a./\\\0".to_vec()), 0..24)) {
            if let Ok(path) = relative(&raw) {
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert!(!raw.split(|byte| *byte == b'/').any(|part| part == b".."));
                prop_assert!(!raw.starts_with(b"/"));
            }
        }

        #[test]
        fn any_bytes_are_taken_or_refused(raw in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(path) = relative(&raw) {
                prop_assert!(path.is_relative());
                prop_assert_eq!(relative(path.as_os_str().as_bytes()).unwrap_or_default(), path);
            }
        }
    }
}
