//! Changing the registry over HTTP: upload, download, delete.
//!
//! Each is safe to be killed at any moment: what is half done has a name with a dot in front, which
//! nobody serves, and is undone or removed when a worker starts ([`recovery`](super::recovery)).

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use actors::name::FunctionName;
use actors::world;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};

use super::code;
use super::form::{ARCHIVE_SUFFIX, Form};
use super::recovery::{deleted_name, is_named, remove_any, replaced_name, upload_name};
use super::requirements::Wishes;
use super::{FILE_ENTRY, LoadError, LocalRegistry, N_ENTRIES_MAX, Source, archive, sync_directory};

/// How often an upload's file is made anew because a worker that was just starting took it for a dead one's, in the moment before it was
/// locked. Twice in a row takes two of them.
const MADE_MAX: usize = 3;

/// A `.tar.gz` on its way into the registry. All methods block on the file system. Dropped before
/// [`commit`](Self::commit), it leaves nothing.
pub struct Upload {
    registry: LocalRegistry,
    name: FunctionName,
    root: OwnedFd,
    /// Locked for as long as the upload is under way.
    file: File,
    pub(super) id: String,
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
    /// A `.py`.
    File,
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
        for _ in 0..MADE_MAX {
            let id = registry.id();
            let Some(file) = make(&root, &upload_name(&id))? else { continue };
            let registry = registry.clone();
            return Ok(Self {
                registry,
                name,
                root,
                file,
                id,
                bytes: 0,
                is_checked: false,
                is_committed: false,
            });
        }
        Err(step("make a file")(io::Error::from(io::ErrorKind::ResourceBusy)))
    }

    /// So many bytes are to come: whoever sends too many need not send any.
    pub fn announce(&self, bytes: u64) -> Result<(), UploadError> {
        let bytes_max = self.registry.0.worker.code_bytes_max;
        if bytes > bytes_max { Err(UploadError::TooLarge { bytes_max }) } else { Ok(()) }
    }

    /// Take in the next bytes.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), UploadError> {
        self.bytes += chunk.len() as u64;
        self.announce(self.bytes)?;
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

    /// Check the archive and, if it is a function, put it in the place of what had its name: an archive,
    /// a folder or a file. Nobody sees a moment without the function.
    pub fn commit(mut self) -> Result<Replaced, UploadError> {
        self.check_once()?;
        self.sync()?;
        let registry = self.registry.clone();
        let exchange = registry.0.exchange.write().expect("nothing panics with this lock");
        let found: Vec<Form> =
            registry.forms(&self.root, &self.name)?.into_iter().map(|(form, _)| form).collect();
        let others: Vec<_> = found
            .iter()
            .filter_map(|form| {
                // The new one takes the place of an archive.
                let aside = replaced_name(*form, &self.id, &self.name)?;
                Some((form.file_name(&self.name), aside))
            })
            .collect();
        let rename = |from: &str, to: &str| fs::renameat(&self.root, from, &self.root, to);
        let exchanged = || -> Result<(), UploadError> {
            for (name, aside) in &others {
                rename(name, aside).map_err(step("move the old code away"))?;
            }
            let archive_name = Form::Archive.file_name(&self.name);
            rename(&upload_name(&self.id), &archive_name).map_err(step("put the upload in its place"))
        };
        if let Err(error) = exchanged() {
            for (name, aside) in &others {
                match rename(aside, name) {
                    // It was not moved away yet.
                    Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                    Err(error) => return Err(step("move the old code back")(error)),
                }
            }
            return Err(error);
        }
        self.is_committed = true;
        sync_directory(&self.root).map_err(step("sync the directory"))?;
        drop(exchange);
        for (_, aside) in &others {
            // The function is replaced, whether its old code can be removed or not; if not, it is
            // swept at the next start.
            let _ = remove_any(&self.registry.root().join(aside));
        }
        Ok(match found.as_slice() {
            [] => Replaced::Nothing,
            [Form::Folder, ..] => Replaced::Folder,
            [Form::Archive] => Replaced::Archive,
            [Form::Archive | Form::File, ..] => Replaced::File,
        })
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
            let _ = fs::unlinkat(&self.root, upload_name(&self.id), AtFlags::empty());
        }
    }
}

impl LocalRegistry {
    /// A function's code as a `.tar.gz`: the archive as it was uploaded, or the folder or the file, packed. `None`:
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
            Some(Source::Folder(_) | Source::File(_)) => match self.load_blocking(name, None)? {
                None => Ok(None),
                Some(copy) => {
                    pack(copy.dir(), &self.0.generations_dir).map(Some).map_err(step("pack the code"))
                }
            },
        }
    }

    /// Delete a function in whatever form it is there. Gives whether there was one. Blocks on the file
    /// system.
    pub fn delete(&self, name: &FunctionName) -> Result<bool, UploadError> {
        let root = self.root_fd().map_err(step("open the directory"))?;
        let deleted_name = deleted_name(&self.id(), name);
        let exchange = self.0.exchange.write().expect("nothing panics with this lock");
        let mut was_there = false;
        let mut had_folder = false;
        for (form, _) in self.forms(&root, name)? {
            let file_name = form.file_name(name);
            let (gone, tried) = match form {
                Form::Folder => {
                    had_folder = true;
                    (fs::renameat(&root, &file_name, &root, &deleted_name), "move the folder away")
                }
                Form::Archive => (fs::unlinkat(&root, &file_name, AtFlags::empty()), "remove the archive"),
                Form::File => (fs::unlinkat(&root, &file_name, AtFlags::empty()), "remove the file"),
            };
            match gone {
                Ok(()) => was_there = true,
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(step(tried)(error)),
            }
        }
        sync_directory(&root).map_err(step("sync the directory"))?;
        drop(exchange);
        if had_folder {
            // As in `commit`: it is gone for everybody, and the rest is swept at the next start.
            let _ = remove_any(&self.root().join(deleted_name));
        }
        Ok(was_there)
    }
}

/// A new file of this name, locked. `None`: somebody has removed it already.
fn make(root: &OwnedFd, name: &str) -> Result<Option<File>, UploadError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = fs::openat(root, name, flags, Mode::from_raw_mode(0o644)).map_err(step("make a file"))?;
    match fs::flock(&made, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) if is_named(root, name, &made).map_err(step("make a file"))? => Ok(Some(made.into())),
        Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(step("lock a file")(error)),
    }
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

/// The archive that a function of this one file would be.
pub(super) fn pack_file(code: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_size(code.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    archive.append_data(&mut header, FILE_ENTRY, code)?;
    archive.into_inner()?.finish()
}
