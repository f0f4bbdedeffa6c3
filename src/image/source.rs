//! An image's files by name, whether they lie in a directory or in a tar.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::ImageError;
use super::layers::{decompressed, path_from};

/// Files of an image at most: a layer or two blobs for each of 127 layers, and a few more.
const N_FILES_MAX: usize = 4096;

/// Largest JSON document of an image, in bytes; the OCI specification asks for 4 MiB.
const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Largest tar that is decompressed to be looked into, in bytes.
const TAR_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// An image as a set of named files.
pub(super) struct Source {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Directory(OwnedFd),
    Tar { file: File, index: HashMap<PathBuf, Place> },
}

/// Where in the tar a name leads.
enum Place {
    Bytes { start: u64, length: u64 },
    Link(PathBuf),
}

impl Source {
    /// Open the image at `path`; `temp_dir` is for a tar that is compressed as a whole.
    pub(super) fn open(path: &Path, temp_dir: &Path) -> Result<Self, ImageError> {
        let error = |source| ImageError::Io { step: "read", path: path.to_owned(), source };
        if path.is_dir() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory =
                rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| error(errno.into()))?;
            return Ok(Self { path: path.to_owned(), kind: Kind::Directory(directory) });
        }
        let file = plain_tar(File::open(path).map_err(error)?, temp_dir).map_err(error)?;
        let index = index_of(&file).map_err(|source| ImageError::Format {
            path: path.to_owned(),
            problem: format!("it cannot be read as a tar: {source}"),
        })?;
        Ok(Self { path: path.to_owned(), kind: Kind::Tar { file, index } })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of this name. `None`: there is none.
    pub(super) fn file(&self, name: &str) -> Result<Option<Box<dyn Read + '_>>, ImageError> {
        let error = |source| ImageError::Io { step: "read", path: self.path.join(name), source };
        match &self.kind {
            Kind::Directory(directory) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
                    Ok(file) => Ok(Some(Box::new(File::from(file)))),
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
                    Err(errno) => Err(error(errno.into())),
                }
            }
            Kind::Tar { file, index } => {
                let Some((start, length)) = find(index, Path::new(name)) else { return Ok(None) };
                let mut file = file.try_clone().map_err(error)?;
                file.seek(SeekFrom::Start(start)).map_err(error)?;
                Ok(Some(Box::new(BufReader::with_capacity(64 * 1024, file).take(length))))
            }
        }
    }

    /// The whole of a JSON document. `None`: there is none of this name.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|source| ImageError::Io {
            step: "read",
            path: self.path.join(name),
            source,
        })?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(self.format(format!("{name} is larger than {DOCUMENT_BYTES_MAX} bytes")));
        }
        Ok(Some(bytes))
    }

    pub(super) fn format(&self, problem: String) -> ImageError {
        ImageError::Format { path: self.path.clone(), problem }
    }
}

/// `docker save | gzip` makes an archive that has to be decompressed before one can seek in it.
fn plain_tar(mut file: File, temp_dir: &Path) -> io::Result<File> {
    let mut magic = [0; 4];
    let n = read_up_to(&mut file, &mut magic)?;
    file.rewind()?;
    if !(magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]) || n < 4 {
        return Ok(file);
    }
    let mut plain = tempfile::tempfile_in(temp_dir)?;
    let copied = io::copy(&mut decompressed(Box::new(file))?.take(TAR_BYTES_MAX + 1), &mut plain)?;
    if copied > TAR_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 GiB when unpacked"));
    }
    plain.rewind()?;
    Ok(plain)
}

fn index_of(file: &File) -> io::Result<HashMap<PathBuf, Place>> {
    let mut index = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let Some(path) = inside(&entry.path()?) else { continue };
        let place = match entry.header().entry_type() {
            tar::EntryType::Regular => {
                Place::Bytes { start: entry.raw_file_position(), length: entry.size() }
            }
            // Old versions of docker linked equal layers.
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().map(|name| path_from(&name)).unwrap_or_default();
                match inside(&path.parent().unwrap_or(Path::new("")).join(target)) {
                    Some(target) => Place::Link(target),
                    None => continue,
                }
            }
            _ => continue,
        };
        index.insert(path, place);
        if index.len() > N_FILES_MAX {
            return Err(io::Error::other("it has too many files for an image"));
        }
    }
    Ok(index)
}

fn find(index: &HashMap<PathBuf, Place>, name: &Path) -> Option<(u64, u64)> {
    let mut name = inside(name)?;
    for _ in 0..8 {
        match index.get(&name)? {
            Place::Bytes { start, length } => return Some((*start, *length)),
            Place::Link(target) => name.clone_from(target),
        }
    }
    None
}

/// `path` without `.` and `..`; `None` if it leads outside.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

pub(super) fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match from.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}
