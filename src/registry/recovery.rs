//! The names of changes that are under way in the registry, and what becomes of those that a killed worker has left.
//!
//! ```text
//! .upload-<id>             an upload on its way; its file is locked for as long as somebody is at it
//! .replaced-<id>-<name>    the folder that it is about to take the place of
//! .replaced-py-<id>-<name> the same of a <name>.py
//! .deleted-<id>-<name>     a folder that is being deleted
//! ```
//!
//! The code before moves away, then the upload gets its name, then what was moved away is removed. So as long as there is the upload's
//! file, what was moved away is to come back, or somebody is still at it, which its lock tells; and when the file is there no more, it is
//! rubbish. Workers may share a registry, and one may start while another is in the middle of that.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use actors::name::FunctionName;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};

use super::content::open_beneath;
use super::form::Form;
use super::sync_directory;

const UPLOAD_PREFIX: &str = ".upload-";
const REPLACED_PREFIX: &str = ".replaced-";
const REPLACED_FILE_PREFIX: &str = ".replaced-py-";
const DELETED_PREFIX: &str = ".deleted-";

/// An upload's file.
pub(super) fn upload_name(id: &str) -> String {
    format!("{UPLOAD_PREFIX}{id}")
}

/// What an upload takes the place of, while it does. `None`: an archive, which it just replaces.
pub(super) fn replaced_name(form: Form, id: &str, name: &FunctionName) -> Option<String> {
    let prefix = match form {
        Form::Folder => REPLACED_PREFIX,
        Form::File => REPLACED_FILE_PREFIX,
        Form::Archive => return None,
    };
    Some(format!("{prefix}{id}-{name}"))
}

/// A folder that is being deleted.
pub(super) fn deleted_name(id: &str, name: &FunctionName) -> String {
    format!("{DELETED_PREFIX}{id}-{name}")
}

/// Undo or finish what was under way when a worker was killed: uploads that nobody writes any more go,
/// a folder or a file that was to be replaced but was not comes back, and what was replaced or deleted goes.
pub(super) fn recover(root: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = fs::open(root, flags, Mode::empty())?;
    let names = std::fs::read_dir(root)?.map(|entry| entry.map(|entry| entry.file_name()));
    let names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    let names: Vec<&str> = names.iter().filter_map(|name| name.to_str()).collect();
    // Whether there is still an upload is asked when it is known what was moved away for one: not the other way round.
    for aside in &names {
        let Some((form, id, name)) = replaced(aside) else { continue };
        match State::of(&directory, &upload_name(id))? {
            State::UnderWay => {}
            State::Ended => remove_any(&root.join(aside))?,
            State::Abandoned(_lock) => bring_back(root, &directory, aside, form, &name)?,
        }
    }
    for name in &names {
        if name.starts_with(UPLOAD_PREFIX)
            && let State::Abandoned(_lock) = State::of(&directory, name)?
        {
            remove_any(&root.join(name))?;
        } else if name.starts_with(DELETED_PREFIX) {
            remove_any(&root.join(name))?;
        }
    }
    sync_directory(&directory)
}

/// How it is with an upload.
enum State {
    /// Somebody is at it.
    UnderWay,
    /// Who was at it is dead. Nobody else finds that as long as this is locked.
    Abandoned(File),
    /// It has got its name, or was given up.
    Ended,
}

impl State {
    fn of(directory: &OwnedFd, upload: &str) -> io::Result<Self> {
        let file = match open_beneath(directory, Path::new(upload), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(Self::Ended),
            // A link, or whatever else somebody has put there: none of ours.
            Err(_) => return Ok(Self::UnderWay),
        };
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // It may have got its name, and been unlocked, since it was opened.
            Ok(()) if is_named(directory, upload, &file)? => Ok(Self::Abandoned(file.into())),
            Ok(()) => Ok(Self::Ended),
            Err(_) => Ok(Self::UnderWay),
        }
    }
}

/// Unless there is something else by now.
fn bring_back(
    root: &Path,
    directory: &OwnedFd,
    aside: &str,
    form: Form,
    name: &FunctionName,
) -> io::Result<()> {
    let is_there = |name: &str| fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if is_there(&form.file_name(name)) || is_there(&Form::Archive.file_name(name)) {
        return remove_any(&root.join(aside));
    }
    match fs::renameat(directory, aside, directory, form.file_name(name)) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        renamed => Ok(renamed?),
    }
}

/// What an entry was before an upload moved it away, which upload that was, and of which function it is.
fn replaced(entry: &str) -> Option<(Form, &str, FunctionName)> {
    let (form, rest) = match entry.strip_prefix(REPLACED_FILE_PREFIX) {
        Some(rest) => (Form::File, rest),
        None => (Form::Folder, entry.strip_prefix(REPLACED_PREFIX)?),
    };
    let (at, _) = rest.match_indices('-').nth(1)?;
    let name = rest[at + 1..].parse().ok()?;
    Some((form, &rest[..at], name))
}

/// Whether this name is that of this file.
pub(super) fn is_named(directory: &OwnedFd, name: &str, file: impl AsFd) -> io::Result<bool> {
    let of_file = fs::fstat(file)?;
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => Ok((there.st_dev, there.st_ino) == (of_file.st_dev, of_file.st_ino)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// With all that is in it. `remove_dir_all` follows no links; a link in the place of a folder is removed itself. Another worker may be at
/// it as well.
pub(super) fn remove_any(path: &Path) -> io::Result<()> {
    let removed = path.symlink_metadata().and_then(|found| {
        if found.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
