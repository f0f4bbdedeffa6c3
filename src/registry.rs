//! The registry: a directory with a folder, a `.tar.gz` or a `.py` per function; or a store elsewhere, of which there is such a
//! directory with copies ([`remote`]).
//!
//! ```text
//! <registry>/hello/f.py              what users edit
//! <registry>/world.tar.gz            what users upload
//! <registry>/short.py                what needs no more than one file
//! <worker>/generations/hello@3f2a…-1/   what sandboxes see: a checked copy that never changes
//! ```
//!
//! Whoever writes to the registry is not trusted, neither to be done writing nor to write ordinary
//! files. So nothing is served from it: a function is copied to a directory of the worker's own, and
//! invocations that run keep the copy that they started with.

mod any;
mod archive;
mod code;
mod content;
mod env_file;
mod extension;
mod folder;
mod form;
pub mod function_yaml;
mod lock;
mod recovery;
mod remote;
mod requirements;
mod schedule;
mod upload;
pub mod watch;

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use actors::name::FunctionName;
use actors::world;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use slog::{Logger, warn};

pub use any::{Change, Registry, RegistryWatch};
pub use code::FunctionCode;
pub use function_yaml::{FunctionConfig, FunctionYaml};
pub use lock::Lock;
pub use remote::{LISTED_WITHIN, STORED_WITHIN, Turn};
pub use requirements::Wishes;
pub use upload::{Download, Replaced, Upload, UploadError};

use crate::config::Config;
use archive::ArchiveError;
use code::{CodeError, Directory};
pub(crate) use content::shown;
use content::{Bounds, ContentError, Contents, Target, open_beneath};
pub(crate) use extension::{ExtensionError, Extensions};
use folder::{FolderError, Listing, Look, copy_open, fingerprint, kind_name};
use form::{ARCHIVE_SUFFIX, Form, Found, Seen, function_of};
use lock::Locks;

/// What the one file of a function that is a `.py` is in the copy: as in OpenLambda, so a traceback reads the same in each form.
const FILE_ENTRY: &str = "f.py";

/// Files and directories of one function at most: twice what the largest of Python's usual packages has.
const N_ENTRIES_MAX: usize = 20_000;

/// Where copies of code are, in the worker's directory.
pub const GENERATIONS: &str = "generations";

/// Directories inside of each other at most. Node projects, the deepest known, have about 20.
const DEPTH_MAX: usize = 32;

/// An archive that is cut off and younger than this is taken to be still on its way.
const UPLOAD_SETTLES: Duration = Duration::from_secs(2);

/// A folder without an entry file that is younger than this is taken to be still on its way.
const FOLDER_SETTLES: Duration = Duration::from_millis(500);

/// A `.py` that is younger than this is taken to be still on its way: half of a Python file is Python, so only its age tells. As long
/// as files are left alone that events tell of.
const FILE_SETTLES: Duration = actors::watcher::SETTLE;

/// For the fuzz targets: takes an archive in without writing it.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_archive(bytes: &[u8]) {
    let bounds = Bounds { bytes: 1 << 20, n_entries: 100, depth: DEPTH_MAX };
    let mut target = Target::hashing(bounds);
    let unpacked = archive::unpack(bytes, bytes.len() as u64, bounds.bytes, bounds.n_entries, &mut target);
    let contents = target.finish();
    assert!(contents.n_entries() <= bounds.n_entries, "{} entries", contents.n_entries());
    if unpacked.is_ok() {
        assert_ne!(contents.hash(), [0; 32]);
    }
}

/// For the fuzz targets: the variables of a `.env`, if it is one.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_env_file(text: &str) -> std::collections::BTreeMap<String, String> {
    env_file::parse(text).unwrap_or_default()
}

/// For the fuzz targets: what both files of packages say.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_requirements(text: &str) -> Vec<String> {
    let mut all = requirements::parse(text);
    all.extend(requirements::parse_old(text).unwrap_or_default());
    all
}

/// A registry in a local directory. Cheap to clone.
#[derive(Clone)]
pub struct LocalRegistry(Arc<Inner>);

struct Inner {
    root: PathBuf,
    generations_dir: PathBuf,
    locks: Locks,
    worker: Config,
    log: Logger,
    /// Tells this worker from others that make something in the same directory.
    who: String,
    /// Numbers generations and temporary files.
    next: AtomicU64,
    /// Held for writing while a folder is exchanged for an archive, so that nobody sees neither or both.
    exchange: RwLock<()>,
    /// Names that were passed over and have been reported.
    reported: Mutex<BTreeSet<String>>,
}

/// What is in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// Functions, valid or not, sorted.
    pub names: Vec<FunctionName>,
    /// Visible folders and archives whose names are not function names, sorted.
    pub passed_over: Vec<String>,
}

/// Why the registry cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory could not be made or emptied.
    #[error("cannot prepare {}: {source}", path.display())]
    Prepare {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is something else in its place.
    #[error("registry: {}", self.setting().unwrap_or_default().1)]
    NoDirectory {
        /// What is named.
        path: PathBuf,
    },
    /// The store that is named cannot be meant.
    #[error("registry: {}", self.setting().unwrap_or_default().1)]
    Store {
        /// Its address.
        store: String,
        /// What is wrong, with it or with the environment.
        problem: String,
    },
}

impl OpenError {
    /// Which field of the configuration it is about, and what is wrong with that; nothing if it is about something else.
    #[must_use]
    pub fn setting(&self) -> Option<(&'static str, String)> {
        let problem = match self {
            Self::Prepare { .. } => return None,
            Self::NoDirectory { path } => format!(
                "is {}, which is not a directory; write the path of the directory that functions lie in",
                path.display()
            ),
            Self::Store { store, problem } => format!("is {store}: {problem}"),
        };
        Some(("registry", problem))
    }
}

impl LocalRegistry {
    /// Open the registry of a worker: make its directory if there is none, and sweep what an earlier
    /// run of the worker left behind.
    pub fn open(worker: &Config, log: Logger) -> Result<Self, OpenError> {
        Self::open_in(worker, GENERATIONS, log)
    }

    /// The same with copies in a directory of that name, as beside a worker that still serves.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(worker: &Config, generations: &str, log: Logger) -> Result<Self, OpenError> {
        let root = worker.registry_dir.clone();
        let generations_dir = worker.worker_dir.join(generations);
        let prepared = |path: &PathBuf, result: io::Result<()>| {
            result.map_err(|source| OpenError::Prepare { path: path.clone(), source })
        };
        if root.metadata().is_ok_and(|found| !found.is_dir()) {
            return Err(OpenError::NoDirectory { path: root });
        }
        prepared(&root, make_directory(&root, 0o755))?;
        if generations_dir.symlink_metadata().is_ok() {
            prepared(&generations_dir, std::fs::remove_dir_all(&generations_dir))?;
        }
        prepared(&generations_dir, make_directory(&generations_dir, 0o711))?;
        prepared(&root, recovery::recover(&root))?;
        let locks_dir = worker.worker_dir.join("locks");
        let locks = Locks::open(locks_dir.clone());
        let locks = locks.map_err(|source| OpenError::Prepare { path: locks_dir, source })?;
        Ok(Self(Arc::new(Inner {
            root,
            generations_dir,
            locks,
            worker: worker.clone(),
            log,
            who: format!("{:016x}", RandomState::new().hash_one(std::process::id())),
            next: AtomicU64::new(0),
            exchange: RwLock::new(()),
            reported: Mutex::new(BTreeSet::new()),
        })))
    }

    /// The directory that users put functions into.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Look at what there is. Blocks on the file system.
    pub fn scan_blocking(&self) -> Result<Scan, world::RegistryError> {
        let _no_exchange = self.0.exchange.read().expect("nothing panics with this lock");
        let mut names = BTreeSet::new();
        let mut passed_over = BTreeSet::new();
        for entry in std::fs::read_dir(&self.0.root).map_err(|error| self.unavailable(&error))? {
            let entry = entry.map_err(|error| self.unavailable(&error))?;
            let file_name = entry.file_name();
            let Some(text) = file_name.to_str() else {
                passed_over.insert(file_name.to_string_lossy().into_owned());
                continue;
            };
            // A link is listed, so that loading it can say why it is refused.
            let seen = entry.file_type().map_or(Seen::Other, Seen::of);
            match function_of(text, seen) {
                Found::Function(name) => drop(names.insert(name)),
                Found::Nothing => {}
                Found::BadName => drop(passed_over.insert(text.to_owned())),
            }
        }
        Ok(Scan { names: names.into_iter().collect(), passed_over: passed_over.into_iter().collect() })
    }

    /// Names of all functions, sorted, for `GET /registry/`. Blocks on the file system.
    pub fn list(&self) -> Result<Vec<FunctionName>, world::RegistryError> {
        self.scan_blocking().map(|scan| scan.names)
    }

    /// [`Registry::load`](world::Registry::load) for a thread that may block: as it is now, for who does not serve it.
    pub fn load_blocking(
        &self,
        name: &FunctionName,
        last: Option<FunctionCode>,
    ) -> Result<Option<FunctionCode>, world::RegistryError> {
        self.load_of_age(name, last, Duration::ZERO)
    }

    /// The same to be served: what may be half of a file is not taken for one.
    fn load_settled_blocking(
        &self,
        name: &FunctionName,
        last: Option<FunctionCode>,
    ) -> Result<Option<FunctionCode>, world::RegistryError> {
        self.load_of_age(name, last, FILE_SETTLES)
    }

    fn load_of_age(
        &self,
        name: &FunctionName,
        last: Option<FunctionCode>,
        file_age_least: Duration,
    ) -> Result<Option<FunctionCode>, world::RegistryError> {
        // Not locked while it is read: what is open stays readable, and what changes is noticed.
        let source = {
            let _no_exchange = self.0.exchange.read().expect("nothing panics with this lock");
            self.source(name)?
        };
        let last = last.filter(|last| self.has_todays_lock(last));
        let loaded = match source {
            None => return Ok(None),
            Some(Source::Folder(folder)) => self.load_folder(name, &folder, last),
            Some(Source::Archive(file)) => self.load_archive(name, file, last),
            Some(Source::File(file)) => self.load_file(name, file, last, file_age_least),
        };
        loaded.map(Some).map_err(|error| error.for_actors(name))
    }

    /// Whether it has the packages that are written down for it now.
    fn has_todays_lock(&self, code: &FunctionCode) -> bool {
        let today = self.0.locks.read(code.name(), code.wishes());
        today.map(|lock| lock.digest) == code.lock().map(|lock| lock.digest)
    }

    /// Write down which packages these wishes of a function come to from now on, each pinned. Blocks.
    ///
    /// # Errors
    /// The system's, in words.
    pub fn write_lock(
        &self,
        name: &FunctionName,
        wishes: &Wishes,
        pins: &[String],
    ) -> Result<(), world::RegistryError> {
        self.0.locks.write(name, wishes, pins).map_err(|error| {
            world::RegistryError::Unavailable(format!(
                "the packages of '{name}' cannot be written down: {error}"
            ))
        })
    }

    /// What these wishes of a function have come to. Blocks.
    #[must_use]
    pub fn lock(&self, name: &FunctionName, wishes: &Wishes) -> Option<Lock> {
        self.0.locks.read(name, wishes)
    }

    /// A function's `ol.yaml` and `.env`, for `GET /registry/{name}/config`. `None`: there is no such
    /// function. Reads the whole function; blocks on the file system.
    pub fn function_config(
        &self,
        name: &FunctionName,
    ) -> Result<Option<FunctionConfig>, world::RegistryError> {
        Ok(self.load_blocking(name, None)?.map(|code| code.config().clone()))
    }

    fn load_folder(
        &self,
        name: &FunctionName,
        folder: &OwnedFd,
        last: Option<FunctionCode>,
    ) -> Result<FunctionCode, LoadError> {
        let bounds = self.bounds();
        let listing = Listing::of(folder, bounds)?;
        let fingerprint = listing.fingerprint();
        if let Some(last) = &last {
            if last.looks_like(fingerprint) {
                return Ok(last.clone());
            }
            let mut hashing = Target::hashing(bounds);
            listing.copy(folder, &mut hashing)?;
            if hashing.finish().hash() == *last.hash() && Listing::of(folder, bounds)?.is_same(&listing) {
                last.set_fingerprint(fingerprint);
                return Ok(last.clone());
            }
        }
        let (directory, mut target) = self.new_directory(name)?;
        listing.copy(folder, &mut target)?;
        if !Listing::of(folder, bounds)?.is_same(&listing) {
            return Err(FolderError::Changed { path: PathBuf::from(name.as_str()) }.into());
        }
        self.generation(name, directory, &target.finish(), fingerprint, listing.age() < FOLDER_SETTLES)
    }

    fn load_archive(
        &self,
        name: &FunctionName,
        file: OwnedFd,
        last: Option<FunctionCode>,
    ) -> Result<FunctionCode, LoadError> {
        let path = PathBuf::from(format!("{name}{ARCHIVE_SUFFIX}"));
        let read_error =
            |error: rustix::io::Errno| LoadError::Archive(ArchiveError::Read(error.into()), false);
        let now = SystemTime::now();
        let look = Look::of(&fs::fstat(&file).map_err(read_error)?);
        let fingerprint = fingerprint([(path.as_path(), &look)].into_iter(), now);
        if let Some(last) = last.as_ref().filter(|last| last.looks_like(fingerprint)) {
            return Ok(last.clone());
        }
        let (directory, mut target) = self.new_directory(name)?;
        let file = File::from(file);
        let unpacked =
            archive::unpack(&file, look.bytes, self.0.worker.code_bytes_max, N_ENTRIES_MAX, &mut target);
        let after = Look::of(&fs::fstat(&file).map_err(read_error)?);
        if !after.same_content(&look) {
            return Err(FolderError::Changed { path }.into());
        }
        unpacked.map_err(|error| LoadError::Archive(error, look.age(now) < UPLOAD_SETTLES))?;
        let contents = target.finish();
        if let Some(last) = last.filter(|last| *last.hash() == contents.hash()) {
            last.set_fingerprint(fingerprint);
            return Ok(last);
        }
        self.generation(name, directory, &contents, fingerprint, false)
    }

    fn load_file(
        &self,
        name: &FunctionName,
        file: OwnedFd,
        last: Option<FunctionCode>,
        age_least: Duration,
    ) -> Result<FunctionCode, LoadError> {
        let path = PathBuf::from(Form::File.file_name(name));
        let now = SystemTime::now();
        let stat = fs::fstat(&file)
            .map_err(|error| FolderError::Read { path: path.clone(), source: error.into() })?;
        let look = Look::of(&stat);
        let fingerprint = fingerprint([(path.as_path(), &look)].into_iter(), now);
        if let Some(last) = last.as_ref().filter(|last| last.looks_like(fingerprint)) {
            return Ok(last.clone());
        }
        if look.is_younger(now, age_least) {
            return Err(FolderError::Changed { path }.into());
        }
        let (directory, mut target) = self.new_directory(name)?;
        copy_open(file, &path, Path::new(FILE_ENTRY), &look, &mut target)?;
        let contents = target.finish();
        if let Some(last) = last.filter(|last| *last.hash() == contents.hash()) {
            last.set_fingerprint(fingerprint);
            return Ok(last);
        }
        self.generation(name, directory, &contents, fingerprint, false)
    }

    fn generation(
        &self,
        name: &FunctionName,
        directory: Directory,
        contents: &Contents,
        fingerprint: Option<[u8; 32]>,
        is_young: bool,
    ) -> Result<FunctionCode, LoadError> {
        let (number, inner) = (self.number(), &self.0);
        code::generation(name.clone(), directory, contents, fingerprint, number, &inner.worker, &inner.locks)
            .map_err(|error| LoadError::Code(error, is_young))
    }

    /// Find a function's folder, archive or file.
    fn source(&self, name: &FunctionName) -> Result<Option<Source>, world::RegistryError> {
        let root = self.root_fd().map_err(|error| self.unavailable(&error))?;
        let found = self.forms(&root, name)?;
        let invalid = |text: String| Err(world::RegistryError::Invalid(text));
        let &[(form, look)] = found.as_slice() else {
            if found.is_empty() {
                return Ok(None);
            }
            let each: Vec<_> = found.iter().map(|(form, _)| form.described(name)).collect();
            return invalid(format!("there are {} in the registry; keep one of them", each.join(" and ")));
        };
        let file_name = form.file_name(name);
        if look.kind() != form.kind() {
            return invalid(format!(
                "'{file_name}' is {}; a function is a folder, a .tar.gz or a .py",
                kind_name(look.kind())
            ));
        }
        let flags = match form {
            Form::Folder => OFlags::RDONLY | OFlags::DIRECTORY,
            // Not to be held up by a fifo that took the file's place.
            Form::Archive | Form::File => OFlags::RDONLY | OFlags::NONBLOCK,
        };
        let opened = open_beneath(&root, Path::new(&file_name), flags).map_err(|error| went(name, error))?;
        Ok(Some(match form {
            Form::Folder => Source::Folder(opened),
            Form::Archive => Source::Archive(opened),
            Form::File => Source::File(opened),
        }))
    }

    /// The forms in which a function of this name is there; more than one is the user's mistake.
    fn forms(&self, root: &OwnedFd, name: &FunctionName) -> Result<Vec<(Form, Look)>, world::RegistryError> {
        let mut found = Vec::new();
        if name.as_str().contains(ARCHIVE_SUFFIX) {
            return Ok(found);
        }
        for form in Form::ALL {
            if let Some(look) = self.stat(root, &form.file_name(name))?
                && form.may_be(name, look.kind())
            {
                found.push((form, look));
            }
        }
        Ok(found)
    }

    fn stat(&self, root: &OwnedFd, file_name: &str) -> Result<Option<Look>, world::RegistryError> {
        match fs::statat(root, file_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Look::of(&stat))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(self.unavailable(&error.into())),
        }
    }

    fn root_fd(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::open(&self.0.root, flags, Mode::empty())?)
    }

    /// A new, empty directory of the worker's own, and what writes to it.
    fn new_directory(&self, name: &FunctionName) -> Result<(Directory, Target), LoadError> {
        let path = self.0.generations_dir.join(format!(".tmp-{name}-{}", self.number()));
        let made = std::fs::create_dir(&path).and_then(|()| {
            let directory = Directory { path: path.clone(), n_entries: 0 };
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, permissions)?;
            Ok((directory, Target::writing(&path, self.bounds())?))
        });
        made.map_err(|source| LoadError::Folder(ContentError::Write { path, source }.into()))
    }

    fn bounds(&self) -> Bounds {
        Bounds { bytes: self.0.worker.code_bytes_max, n_entries: N_ENTRIES_MAX, depth: DEPTH_MAX }
    }

    fn number(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    /// In a name, tells what is under way here from all else that is, in any worker.
    fn id(&self) -> String {
        format!("{}-{}", self.0.who, self.number())
    }

    fn unavailable(&self, error: &io::Error) -> world::RegistryError {
        world::RegistryError::Unavailable(format!("{}: {error}", self.0.root.display()))
    }

    async fn scan_and_report(self) -> Result<Vec<FunctionName>, world::RegistryError> {
        let registry = self.clone();
        let scan = blocking(move || registry.scan_blocking()).await?;
        self.report(&scan.passed_over);
        Ok(scan.names)
    }

    /// Say once about each name that it is passed over.
    fn report(&self, passed_over: &[String]) {
        let mut reported = self.0.reported.lock().expect("nothing panics with this lock");
        for name in passed_over {
            if reported.insert(name.clone()) {
                warn!(self.0.log, "passed over in the registry: not a function's name"; "name" => name);
            }
        }
        reported.retain(|name| passed_over.contains(name));
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, world::RegistryError> + Send + 'static,
) -> Result<T, world::RegistryError> {
    let failed = |error: tokio::task::JoinError| world::RegistryError::Unavailable(error.to_string());
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

enum Source {
    Folder(OwnedFd),
    Archive(OwnedFd),
    File(OwnedFd),
}

fn went(name: &FunctionName, error: rustix::io::Errno) -> world::RegistryError {
    world::RegistryError::Unsettled(format!("'{name}' cannot be opened: {}", io::Error::from(error)))
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Why one function was not loaded. The flag tells whether what was read is so young that it may be
/// whole a moment later.
#[derive(Debug)]
enum LoadError {
    Folder(FolderError),
    Archive(ArchiveError, bool),
    Code(CodeError, bool),
}

impl From<FolderError> for LoadError {
    fn from(error: FolderError) -> Self {
        Self::Folder(error)
    }
}

impl LoadError {
    fn for_actors(self, name: &FunctionName) -> world::RegistryError {
        use world::RegistryError::{Invalid, Unavailable, Unsettled};
        let content = |error: &ContentError, text: String| match error {
            ContentError::Read { .. } | ContentError::Write { .. } => Unavailable(text),
            _ => Invalid(text),
        };
        match self {
            Self::Folder(FolderError::Content(error)) => content(&error, format!("'{name}' {error}")),
            Self::Folder(error @ FolderError::Changed { .. }) => {
                Unsettled(format!("function '{name}': {error}"))
            }
            Self::Folder(error @ FolderError::Kind { .. }) => Invalid(format!("function '{name}': {error}")),
            Self::Folder(error @ FolderError::Read { .. }) => {
                Unavailable(format!("function '{name}': {error}"))
            }
            Self::Archive(ArchiveError::Content(error), _) => {
                content(&error, format!("'{name}{ARCHIVE_SUFFIX}' {error}"))
            }
            Self::Archive(error, true) if error.is_of_unfinished() => {
                Unsettled(format!("'{name}{ARCHIVE_SUFFIX}' {error}"))
            }
            Self::Archive(error @ ArchiveError::Read(_), _) => {
                Unavailable(format!("'{name}{ARCHIVE_SUFFIX}' {error}"))
            }
            Self::Archive(error, _) => Invalid(format!("'{name}{ARCHIVE_SUFFIX}' {error}")),
            Self::Code(CodeError::NoEntry(text), true) => Unsettled(format!("function '{name}': {text}")),
            Self::Code(CodeError::NoEntry(text) | CodeError::Invalid(text), _) => {
                Invalid(format!("function '{name}': {text}"))
            }
            Self::Code(CodeError::Read(path, error), _) => {
                Unavailable(format!("{}: {error}", path.display()))
            }
        }
    }
}

/// Wait until the names in a directory are on disk.
fn sync_directory(directory: impl AsFd) -> io::Result<()> {
    // A descriptor opened with O_PATH cannot be synced.
    let opened =
        fs::openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fs::fsync(opened)?)
}

#[cfg(test)]
mod tests;
