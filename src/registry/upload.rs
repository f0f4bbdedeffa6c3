//! Changing the registry over HTTP: upload, download, delete.
//!
//! Each is safe to be killed at any moment: what is half done has a name with a dot in front, which
//! nobody serves, and [`recover`] undoes or removes it when the worker starts again.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use actors::name::FunctionName;
use actors::world;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};

use super::code;
use super::content::open_beneath;
use super::requirements::Wishes;
use super::{ARCHIVE_SUFFIX, LoadError, LocalRegistry, N_ENTRIES_MAX, Source, archive, sync_directory};

/// An upload on its way; locked by whoever writes it.
const UPLOAD_PREFIX: &str = ".upload-";

/// A folder that an upload has replaced: `.replaced-<number>-<name>`.
const REPLACED_PREFIX: &str = ".replaced-";

/// A folder that is being deleted.
const DELETED_PREFIX: &str = ".deleted-";

/// A `.tar.gz` on its way into the registry. All methods block on the file system. Dropped before
/// [`commit`](Self::commit), it leaves nothing.
pub struct Upload {
    registry: LocalRegistry,
    name: FunctionName,
    root: OwnedFd,
    file: File,
    temp_name: String,
    bytes: u64,
    is_checked: bool,
    is_committed: bool,
}

/// What an upload took the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// There was no function of this name.
    Nothing,
    /// An archive that was uploaded before.
    Archive,
    /// A folder.
    Folder,
}

/// A function's code as a `.tar.gz`.
#[derive(Debug)]
pub struct Download {
    /// Positioned at the start.
    pub file: File,
    /// Its size, in bytes.
    pub bytes: u64,
}

/// Why the registry was not changed, or not read.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// What was sent is not a function; the text says what to mend.
    #[error("{0}")]
    Invalid(String),
    /// More was sent than a function may have.
    #[error("a function has at most {} MiB", bytes_max / (1024 * 1024))]
    TooLarge {
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// The name is taken by what is no function, or is reserved.
    #[error("'{0}' cannot be the name of an upload: names with '.tar.gz' in them are reserved")]
    Name(FunctionName),
    /// The registry could not be written or read.
    #[error("cannot {step} in the registry: {source}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The functions lie where they cannot be changed.
    #[error("the registry is {0}, which is only read: change it there")]
    ReadOnly(String),
    /// The functions lie elsewhere, and that place does not answer.
    #[error("the registry does not answer: {0}")]
    Away(String),
    /// The functions lie elsewhere, and too many ask for something there.
    #[error("{0}")]
    Busy(String),
    /// The function that was asked for cannot be read.
    #[error(transparent)]
    Registry(#[from] world::RegistryError),
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> UploadError {
    move |error| UploadError::Io { step, source: error.into() }
}

impl Upload {
    /// Start an upload of the function `name`.
    pub fn begin(registry: &LocalRegistry, name: FunctionName) -> Result<Self, UploadError> {
        if name.as_str().contains(ARCHIVE_SUFFIX) {
            return Err(UploadError::Name(name));
        }
        let root = registry.root_fd().map_err(step("open the directory"))?;
        let temp_name = format!("{UPLOAD_PREFIX}{}-{}", std::process::id(), registry.number());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&root, temp_name.as_str(), flags, Mode::from_raw_mode(0o644))
            .map_err(step("make a file"))?;
        let upload = Self {
            registry: registry.clone(),
            name,
            root,
            file: file.into(),
            temp_name,
            bytes: 0,
            is_checked: false,
            is_committed: false,
        };
        fs::flock(&upload.file, FlockOperation::NonBlockingLockExclusive).map_err(step("lock a file"))?;
        Ok(upload)
    }

    /// Take in the next bytes.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), UploadError> {
        let bytes_max = self.registry.0.worker.code_bytes_max;
        self.bytes += chunk.len() as u64;
        if self.bytes > bytes_max {
            return Err(UploadError::TooLarge { bytes_max });
        }
        self.file.write_all(chunk).map_err(step("write the upload"))
    }

    /// Of which function.
    pub(super) fn name(&self) -> &FunctionName {
        &self.name
    }

    /// All of what was taken in, from its beginning, and how much it is.
    pub(super) fn reopen(&self) -> Result<(File, u64), UploadError> {
        let mut file = self.file.try_clone().map_err(step("read the upload"))?;
        file.rewind().map_err(step("read the upload"))?;
        Ok((file, self.bytes))
    }

    /// As [`check`](Self::check), if that was not done before.
    pub(super) fn check_once(&mut self) -> Result<(), UploadError> {
        if self.is_checked { Ok(()) } else { self.check().map(drop) }
    }

    /// Have all of it on the disk, so that [`commit`](Self::commit) takes only a moment.
    pub(super) fn sync(&self) -> Result<(), UploadError> {
        self.file.sync_all().map_err(step("sync the upload"))
    }

    /// Check the archive and, if it is a function, put it in the place of what had its name: an archive
    /// or a folder. Nobody sees a moment without the function.
    pub fn commit(mut self) -> Result<Replaced, UploadError> {
        self.check_once()?;
        self.sync()?;
        let registry = self.registry.clone();
        let exchange = registry.0.exchange.write().expect("nothing panics with this lock");
        let archive_name = format!("{}{ARCHIVE_SUFFIX}", self.name);
        let had_archive = registry.stat(&self.root, &archive_name)?.is_some();
        let folder = registry.stat(&self.root, self.name.as_str())?;
        let had_folder = folder.is_some_and(|look| look.kind() != fs::FileType::RegularFile);
        let replaced_name = format!("{REPLACED_PREFIX}{}-{}", registry.number(), self.name);
        if had_folder {
            fs::renameat(&self.root, self.name.as_str(), &self.root, replaced_name.as_str())
                .map_err(step("move the old folder away"))?;
        }
        let renamed = fs::renameat(&self.root, self.temp_name.as_str(), &self.root, archive_name.as_str());
        if let Err(error) = renamed {
            if had_folder {
                fs::renameat(&self.root, replaced_name.as_str(), &self.root, self.name.as_str())
                    .map_err(step("move the old folder back"))?;
            }
            return Err(step("put the upload in its place")(error));
        }
        self.is_committed = true;
        sync_directory(&self.root).map_err(step("sync the directory"))?;
        drop(exchange);
        if had_folder {
            // The function is replaced, whether its old folder can be removed or not; if not, it is
            // swept at the next start.
            let _ = remove_tree(&self.registry, &replaced_name);
            return Ok(Replaced::Folder);
        }
        Ok(if had_archive { Replaced::Archive } else { Replaced::Nothing })
    }

    /// Check the archive: whether it is a function, and what that wants installed.
    pub fn check(&mut self) -> Result<Wishes, UploadError> {
        self.file.rewind().map_err(step("read the upload"))?;
        let for_author = |error: LoadError| match error.for_actors(&self.name) {
            world::RegistryError::Invalid(text) | world::RegistryError::Unsettled(text) => {
                UploadError::Invalid(text)
            }
            other => UploadError::Registry(other),
        };
        let (directory, mut target) = self.registry.new_directory(&self.name).map_err(for_author)?;
        let bytes_max = self.registry.0.worker.code_bytes_max;
        archive::unpack(&self.file, self.bytes, bytes_max, N_ENTRIES_MAX, &mut target)
            .map_err(|error| for_author(LoadError::Archive(error, false)))?;
        let wishes = code::check(&directory.path, &self.registry.0.worker)
            .map_err(|error| for_author(LoadError::Code(error, false)))?;
        self.is_checked = true;
        Ok(wishes)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.is_committed {
            // What stays is swept at the next start.
            let _ = fs::unlinkat(&self.root, self.temp_name.as_str(), AtFlags::empty());
        }
    }
}

impl LocalRegistry {
    /// A function's code as a `.tar.gz`: the archive as it was uploaded, or the folder, packed. `None`:
    /// there is no function of this name. Blocks on the file system.
    pub fn download(&self, name: &FunctionName) -> Result<Option<Download>, UploadError> {
        let source = {
            let _no_exchange = self.0.exchange.read().expect("nothing panics with this lock");
            self.source(name)?
        };
        match source {
            None => Ok(None),
            Some(Source::Archive(file)) => {
                let file = File::from(file);
                let bytes = file.metadata().map_err(step("read the archive"))?.len();
                Ok(Some(Download { file, bytes }))
            }
            // Through a checked copy: so that what is packed is of one moment, and has only files.
            Some(Source::Folder(_)) => match self.load_blocking(name, None)? {
                None => Ok(None),
                Some(copy) => {
                    pack(copy.dir(), &self.0.generations_dir).map(Some).map_err(step("pack the folder"))
                }
            },
        }
    }

    /// Delete a function in whatever form it is there. Gives whether there was one. Blocks on the file
    /// system.
    pub fn delete(&self, name: &FunctionName) -> Result<bool, UploadError> {
        let root = self.root_fd().map_err(step("open the directory"))?;
        if name.as_str().contains(ARCHIVE_SUFFIX) {
            return Ok(false);
        }
        let archive_name = format!("{name}{ARCHIVE_SUFFIX}");
        let deleted_name = format!("{DELETED_PREFIX}{}-{name}", self.number());
        let exchange = self.0.exchange.write().expect("nothing panics with this lock");
        let had_folder =
            self.stat(&root, name.as_str())?.is_some_and(|look| look.kind() != fs::FileType::RegularFile);
        if had_folder {
            fs::renameat(&root, name.as_str(), &root, deleted_name.as_str())
                .map_err(step("move the folder away"))?;
        }
        let had_archive = match fs::unlinkat(&root, archive_name.as_str(), AtFlags::empty()) {
            Ok(()) => true,
            Err(rustix::io::Errno::NOENT) => false,
            Err(error) => return Err(step("remove the archive")(error)),
        };
        sync_directory(&root).map_err(step("sync the directory"))?;
        drop(exchange);
        if had_folder {
            // As in `commit`: it is gone for everybody, and the rest is swept at the next start.
            let _ = remove_tree(self, &deleted_name);
        }
        Ok(had_folder || had_archive)
    }
}

fn remove_tree(registry: &LocalRegistry, name: &str) -> io::Result<()> {
    let path = registry.root().join(name);
    // `remove_dir_all` follows no links; a link in the place of a folder is removed itself.
    if path.symlink_metadata()?.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}

fn pack(folder: &Path, temp_dir: &Path) -> io::Result<Download> {
    let file = tempfile::tempfile_in(temp_dir)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    archive.mode(tar::HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    archive.append_dir_all(".", folder)?;
    let mut file = archive.into_inner()?.finish()?;
    let bytes = file.stream_position()?;
    file.rewind()?;
    Ok(Download { file, bytes })
}

/// Undo or finish what was under way when a worker was killed: uploads that nobody writes any more go,
/// a folder that was to be replaced but was not comes back, and what was replaced or deleted goes.
pub(super) fn recover(root: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = fs::open(root, flags, Mode::empty())?;
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(text) = file_name.to_str() else { continue };
        if text.starts_with(UPLOAD_PREFIX) {
            remove_abandoned_upload(&directory, text)?;
        } else if let Some(rest) = text.strip_prefix(REPLACED_PREFIX) {
            let name = rest.split_once('-').map_or(rest, |(_, name)| name);
            let archive_name = format!("{name}{ARCHIVE_SUFFIX}");
            let is_there = |name: &str| fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            if name.parse::<FunctionName>().is_ok() && !is_there(name) && !is_there(&archive_name) {
                fs::renameat(&directory, text, &directory, name)?;
            } else {
                remove_any(&entry.path())?;
            }
        } else if text.starts_with(DELETED_PREFIX) {
            remove_any(&entry.path())?;
        }
    }
    sync_directory(&directory)
}

fn remove_abandoned_upload(directory: impl AsFd, name: &str) -> io::Result<()> {
    let file = match open_beneath(&directory, Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => file,
        Err(_) => return Ok(()),
    };
    // Another worker may share the registry and be writing just now.
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fs::unlinkat(directory, name, AtFlags::empty())?),
        Err(_) => Ok(()),
    }
}

fn remove_any(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}
