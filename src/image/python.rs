//! Finding the Python of a base, without running anything of it.

use std::fs;
use std::io::{self};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::ImageError;

/// Oldest Python 3 that the runtime works with.
const MINOR_MIN: u32 = 8;

/// Links that are followed at most: that of Linux, path_resolution(7).
const N_LINKS_MAX: usize = 40;

/// An interpreter in a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// Where it is, relative to the base: `usr/bin/python3.11`. Not a link.
    pub path: PathBuf,
    /// The second number of its version: 11 for Python 3.11.
    pub minor: u32,
}

/// Find the interpreter in `root`: `wanted`, or the first of the usual places. `is_host`: sandboxes get
/// nothing of `root` but its `usr`.
pub(super) fn find(root: &Path, wanted: Option<&Path>, is_host: bool) -> Result<Python, ImageError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root_fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| ImageError::Io {
        step: "open",
        path: root.to_owned(),
        source: error.into(),
    })?;
    let mut places: Vec<PathBuf> = wanted.map(|path| vec![path.to_owned()]).unwrap_or_default();
    if wanted.is_none() {
        // `python:3.x` images have theirs in /usr/local, and a Debian one, if any, only beside it. On a
        // machine it is the other way round: what its distribution brought is complete.
        let dirs = if is_host { ["usr/bin", "usr/local/bin"] } else { ["usr/local/bin", "usr/bin"] };
        places.extend(dirs.map(|dir| Path::new(dir).join("python3")));
        for dir in dirs {
            places
                .extend((MINOR_MIN..=30).rev().map(|minor| Path::new(dir).join(format!("python3.{minor}"))));
        }
    }
    let mut found = String::new();
    for place in places {
        let Ok(Some(path)) = resolve(&root_fd, &place) else { continue };
        if is_host && !path.starts_with("usr") {
            found = format!(", only {}, which is not below /usr", Path::new("/").join(path).display());
            continue;
        }
        match minor_of(root, &path) {
            Some(minor) if minor >= MINOR_MIN => return Ok(Python { path, minor }),
            Some(minor) => found = format!(", only {} (Python 3.{minor})", path.display()),
            None => found = format!(", only {}, of which the version is unknown", path.display()),
        }
    }
    let root = root.to_owned();
    Err(match wanted {
        Some(wanted) => ImageError::NotPython { wanted: wanted.to_owned(), root, found },
        None => ImageError::NoPython { root, found },
    })
}

/// Follow `path` inside of `root` to a file that can be executed. `None`: there is none.
fn resolve(root: &OwnedFd, path: &Path) -> io::Result<Option<PathBuf>> {
    let mut path = path.to_owned();
    for _ in 0..N_LINKS_MAX {
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent.to_owned(), name.to_owned()),
            _ => return Ok(None),
        };
        let Some(directory) = real_directory(root, &parent)? else { return Ok(None) };
        let stat = match rustix::fs::statat(&directory, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&directory, name.as_os_str(), Vec::new())?;
                let target = super::layers::path_from(target.as_bytes());
                path = match target.strip_prefix("/") {
                    Ok(absolute) => absolute.to_owned(),
                    Err(_) => lexical(&parent.join(&target)),
                };
            }
            FileType::RegularFile if stat.st_mode & 0o111 != 0 => return Ok(Some(path)),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn real_directory(root: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
        Ok(directory) => Ok(Some(directory)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `a/../b` as `b`; what would leave the root stays in it.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => clean.push(part),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// The minor version: from the interpreter's name, or from the library beside it.
fn minor_of(root: &Path, python: &Path) -> Option<u32> {
    let name = python.file_name()?.to_str()?;
    if let Some(minor) = name.strip_prefix("python3.") {
        return minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    }
    // Every program of /usr/bin has the library beside it.
    if !name.starts_with("python") {
        return None;
    }
    let prefix = python.parent()?.parent()?;
    let libraries = fs::read_dir(root.join(prefix).join("lib")).ok()?;
    let minors = libraries.flatten().filter_map(|entry| {
        let minor = entry.file_name().to_str()?.strip_prefix("python3.")?.parse::<u32>().ok()?;
        entry.path().join("os.py").is_file().then_some(minor)
    });
    minors.max()
}
