//! Unpacking the layers of an image on top of each other.
//!
//! A layer may hold links that lead anywhere. Every path is resolved by the kernel with the new tree
//! as its root, so that even an absolute link stays inside, and the last part of a path is never
//! followed.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::{Archive, EntryType};

use super::ImageError;
use super::source::read_up_to;
use crate::registry::{ExtensionError, Extensions, shown};

/// All files of an image together, in bytes.
const BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// Entries of all layers together. Python images have 20,000; the largest known ones half a million.
const N_ENTRIES_MAX: u64 = 1_000_000;

/// A file that deletes its namesake of the layers below.
const WHITEOUT: &[u8] = b".wh.";

/// A file that deletes everything the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Every directory: sandboxes run as users of their own, and must be able to enter.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// Directories to go down when a tree is removed.
const DEPTH_MAX: usize = 256;

/// A tree to which layers are applied, from the bottom.
pub(super) struct Layers {
    image: PathBuf,
    root: OwnedFd,
    n_layers: usize,
    n_entries: u64,
    bytes: u64,
    /// What the layer that is being applied has brought, and the directories above: a whiteout deletes
    /// only what the layers below brought, wherever in the layer it stands.
    brought: HashSet<PathBuf>,
}

/// What an entry is refused for.
enum Problem {
    Refused(&'static str),
    Io(io::Error),
}

impl From<Errno> for Problem {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Layers {
    pub(super) fn into(image: &Path, root: &Path) -> Result<Self, ImageError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = fs::open(root, flags, Mode::empty());
        let root = opened.map_err(|error| ImageError::Io {
            step: "open",
            path: root.to_owned(),
            source: error.into(),
        })?;
        Ok(Self {
            image: image.to_owned(),
            root,
            n_layers: 0,
            n_entries: 0,
            bytes: 0,
            brought: HashSet::new(),
        })
    }

    /// Put a layer on top: a tar, plain or compressed.
    pub(super) fn apply<'a>(&mut self, layer: Box<dyn Read + 'a>) -> Result<(), ImageError> {
        self.n_layers += 1;
        self.brought.clear();
        let image = self.image.clone();
        let n_layer = self.n_layers;
        let damaged = |error: io::Error| ImageError::Format {
            path: image.clone(),
            problem: format!("layer {n_layer} is damaged: {error}"),
        };
        let room = BYTES_MAX - self.bytes + N_ENTRIES_MAX * 1024;
        let mut archive = Archive::new(decompressed(layer).map_err(damaged)?.take(room));
        let mut extensions = Extensions::default();
        for entry in archive.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            self.n_entries += 1;
            self.bytes = self.bytes.saturating_add(entry.size());
            if self.n_entries > N_ENTRIES_MAX {
                return Err(self.too_large(format!("{N_ENTRIES_MAX} entries")));
            }
            if self.bytes > BYTES_MAX {
                return Err(self.too_large(format!("{} GiB", BYTES_MAX >> 30)));
            }
            let name = extensions.name.clone().unwrap_or_else(|| entry.path_bytes().into_owned());
            let kind = entry.header().entry_type();
            let put = match extensions.take_in(kind, &mut entry) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    let link = std::mem::take(&mut extensions).link;
                    let link = link.or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
                    self.put(&mut entry, kind, &name, link)
                }
                Err(ExtensionError::Refused(problem)) => Err(Problem::Refused(problem)),
                Err(ExtensionError::Read(error)) => Err(Problem::Io(error)),
            };
            put.map_err(|problem| ImageError::Entry {
                layer: n_layer,
                entry: shown(&name),
                problem: match problem {
                    Problem::Refused(problem) => problem.to_owned(),
                    Problem::Io(error) => format!("cannot be written: {error}"),
                },
            })?;
        }
        Ok(())
    }

    /// Wait until the tree is on disk.
    pub(super) fn finish(self) -> Result<(), ImageError> {
        let synced =
            fs::openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .and_then(fs::syncfs);
        synced.map_err(|error| ImageError::Io {
            step: "sync",
            path: self.image.clone(),
            source: error.into(),
        })
    }

    fn put<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        name: &[u8],
        link: Option<Vec<u8>>,
    ) -> Result<(), Problem> {
        let path = path_in_root(name)?;
        let Some(last) = path.file_name() else {
            // The root itself is there already.
            return if kind == EntryType::Directory { Ok(()) } else { Err(Problem::Refused("has no name")) };
        };
        let parent = self.directory(path.parent().unwrap_or(Path::new("")), Missing::Make)?;
        if last.as_bytes() == OPAQUE {
            return self.clear_below(&parent, path.parent().unwrap_or(Path::new("")), 0);
        }
        if let Some(victim) = last.as_bytes().strip_prefix(WHITEOUT) {
            if victim.is_empty() || matches!(victim, b"." | b"..") {
                return Err(Problem::Refused("deletes nothing that has a name"));
            }
            let victim = OsStr::from_bytes(victim);
            return self.remove_below(&parent, victim, &path.with_file_name(victim), 0);
        }
        self.brought.extend(path.ancestors().map(Path::to_owned));
        // setuid and setgid bits would be of no use in a sandbox, and of use to an attacker outside; and
        // nobody but the worker has anything to write here.
        let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o755);
        match kind {
            EntryType::Directory => put_directory(&parent, last),
            EntryType::Regular | EntryType::Continuous => {
                remove(&parent, last, 0)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(fs::openat(&parent, last, flags, Mode::from_raw_mode(0o600))?);
                let bytes = io::copy(entry, &mut file)?;
                if bytes != entry.size() {
                    return Err(Problem::Refused("is cut off"));
                }
                fs::fchmod(&file, mode)?;
                set_time(&file, entry.header().mtime().unwrap_or(0));
                Ok(())
            }
            EntryType::Symlink => {
                let target =
                    link.filter(|link| !link.is_empty()).ok_or(Problem::Refused("is a link to nothing"))?;
                remove(&parent, last, 0)?;
                Ok(fs::symlinkat(OsStr::from_bytes(&target), &parent, last)?)
            }
            EntryType::Link => {
                let target =
                    link.filter(|link| !link.is_empty()).ok_or(Problem::Refused("is a link to nothing"))?;
                self.put_hard_link(&parent, last, &target)
            }
            // Sandboxes have a /dev of their own.
            EntryType::Char | EntryType::Block | EntryType::Fifo => Ok(()),
            _ => Err(Problem::Refused("is of an unknown kind")),
        }
    }

    /// Delete what the layers below brought under this name.
    fn remove_below(&self, parent: &OwnedFd, name: &OsStr, path: &Path, depth: usize) -> Result<(), Problem> {
        if !self.brought.contains(path) {
            return remove(parent, name, depth);
        }
        match kind_of(parent, name)? {
            Some(FileType::Directory) => self.clear_below(&open_directory(parent, name)?, path, depth + 1),
            _ => Ok(()),
        }
    }

    fn clear_below(&self, directory: &OwnedFd, path: &Path, depth: usize) -> Result<(), Problem> {
        check_depth(depth)?;
        names_in(directory)?
            .iter()
            .try_for_each(|name| self.remove_below(directory, name, &path.join(name), depth))
    }

    fn put_hard_link(&self, parent: &OwnedFd, last: &OsStr, target: &[u8]) -> Result<(), Problem> {
        let target = path_in_root(target)?;
        let target_name = target.file_name().ok_or(Problem::Refused("is a hard link to the root"))?;
        let target_parent = self.directory(target.parent().unwrap_or(Path::new("")), Missing::Refuse)?;
        match kind_of(&target_parent, target_name)? {
            Some(FileType::RegularFile | FileType::Symlink) => {}
            _ => return Err(Problem::Refused("is a hard link to what is no file of this image")),
        }
        // A link to itself would be removed before it is made.
        let (from, to) = (
            fs::statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW)?,
            fs::statat(parent, last, AtFlags::SYMLINK_NOFOLLOW),
        );
        if to.is_ok_and(|to| (to.st_dev, to.st_ino) == (from.st_dev, from.st_ino)) {
            return Ok(());
        }
        remove(parent, last, 0)?;
        Ok(fs::linkat(&target_parent, target_name, parent, last, AtFlags::empty())?)
    }

    /// Open a directory of the tree; links on the way are followed inside of it.
    fn directory(&self, path: &Path, missing: Missing) -> Result<OwnedFd, Problem> {
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
        };
        match (open(path), missing) {
            (Ok(directory), _) => Ok(directory),
            (Err(Errno::NOENT), Missing::Make) if !path.as_os_str().is_empty() => {
                let parent = self.directory(path.parent().unwrap_or(Path::new("")), Missing::Make)?;
                let last = path.file_name().unwrap_or_default();
                match fs::mkdirat(&parent, last, DIRECTORY_MODE) {
                    Ok(()) => fs::chmodat(&parent, last, DIRECTORY_MODE, AtFlags::empty())?,
                    // A link that leads to nothing has this name.
                    Err(Errno::EXIST) => {
                        return Err(Problem::Refused("lies below a link that leads nowhere"));
                    }
                    Err(error) => return Err(error.into()),
                }
                Ok(open(path)?)
            }
            (Err(Errno::NOTDIR), _) => Err(Problem::Refused("lies below a file")),
            (Err(Errno::LOOP | Errno::XDEV), _) => {
                Err(Problem::Refused("lies below a link that leads in circles"))
            }
            (Err(Errno::NOENT), _) => Err(Problem::Refused("is a hard link to what is not there")),
            (Err(error), _) => Err(error.into()),
        }
    }

    fn too_large(&self, limit: String) -> ImageError {
        ImageError::TooLarge { path: self.image.clone(), limit }
    }
}

#[derive(Clone, Copy)]
enum Missing {
    Make,
    Refuse,
}

/// A path of a layer, relative to the root of the tree. Layers may be written with a slash in front.
fn path_in_root(name: &[u8]) -> Result<PathBuf, Problem> {
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Problem::Refused("has '..' in its path")),
            part if part.contains(&0) => return Err(Problem::Refused("has a NUL character in its name")),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

fn kind_of(parent: &OwnedFd, name: &OsStr) -> Result<Option<FileType>, Problem> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn put_directory(parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
    if !matches!(kind_of(parent, name)?, Some(FileType::Directory)) {
        remove(parent, name, 0)?;
        fs::mkdirat(parent, name, DIRECTORY_MODE)?;
    }
    // Nobody else writes here, so it is a directory still: the mode is set past the umask.
    Ok(fs::chmodat(parent, name, DIRECTORY_MODE, AtFlags::empty())?)
}

/// Remove what has this name, with all that is in it; links are removed, not followed.
fn remove(parent: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), Problem> {
    check_depth(depth)?;
    match kind_of(parent, name)? {
        None => Ok(()),
        Some(FileType::Directory) => {
            let directory = open_directory(parent, name)?;
            names_in(&directory)?.iter().try_for_each(|name| remove(&directory, name, depth + 1))?;
            Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
        }
        Some(_) => Ok(fs::unlinkat(parent, name, AtFlags::empty())?),
    }
}

fn check_depth(depth: usize) -> Result<(), Problem> {
    if depth > DEPTH_MAX {
        Err(Problem::Refused("has too many directories inside of each other"))
    } else {
        Ok(())
    }
}

fn open_directory(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Problem> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

fn names_in(directory: &OwnedFd) -> Result<Vec<OsString>, Problem> {
    // The descriptor may be one that only names the directory.
    let readable = open_directory(directory, OsStr::new("."))?;
    let names = Dir::read_from(&readable)?.filter_map(|entry| match entry {
        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
        Ok(entry) => Some(Ok(OsString::from_vec(entry.file_name().to_bytes().to_vec()))),
        Err(error) => Some(Err(error.into())),
    });
    names.collect()
}

/// Compiled Python is only used if the time of its source is kept; what cannot be set does no harm.
fn set_time(file: &File, mtime_s: u64) {
    let time = fs::Timespec { tv_sec: mtime_s.try_into().unwrap_or(0), tv_nsec: 0 };
    let _ = fs::futimens(file, &fs::Timestamps { last_access: time, last_modification: time });
}

/// `from` as it was before gzip or zstd; which it is, its first bytes tell.
pub(super) fn decompressed<'a>(mut from: Box<dyn Read + 'a>) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let n = read_up_to(&mut from, &mut magic)?;
    let whole = BufReader::with_capacity(64 * 1024, io::Cursor::new(magic).take(n as u64).chain(from));
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}

/// Bytes of a tar as a path.
pub(super) fn path_from(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_owned()))
}
