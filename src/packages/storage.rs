//! The directory of installed packages, `<packages>/<name>==<version>/files`, as OpenLambda lays it out. Behind the version
//! there may be `@from-…`, if it is another source's (see `source`), and `@cp312`, if the name is taken for another Python.
//!
//! What is being installed lies in `.staging-…`, and gets its name when it is whole and on the disk; what is removed is
//! called `.evicted-…` first. So nothing that looks installed is not. Both are swept at the next start; who still writes
//! to one holds a lock on it, since workers may share the directory. What any of them needs is not removed ([`Claims`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File, FileTimes, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use actors::packages::{Package, PackageSet};
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};

use super::claims::{BeingRemoved, Claim, Claims, Key, Placing};
use super::removal::remove;
use super::requirement::normalise;
use super::source::FROM;

const STAGING: &str = ".staging-";
const EVICTED: &str = ".evicted-";
/// What is known of an installed package, beside its files.
const RECORD: &str = "installed.json";
/// Largest of these: a package with 1,000 archives has so many hashes.
const RECORD_BYTES_MAX: u64 = 256 << 10;
/// Files of one package at most: the largest known have some 20,000 with their compiled ones.
pub(super) const ENTRIES_MAX: usize = 200_000;

/// See the module's text. A clone is the same directory.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// `cp311`: packages that were installed for another Python are not seen.
    python: String,
    next: AtomicU64,
    /// What is needed: by functions, live sandboxes and zygotes.
    claims: Claims,
    /// What each directory takes, in bytes, once it is known.
    sizes: Mutex<HashMap<String, u64>>,
}

/// What is known of an installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// For which Python.
    pub(super) python: String,
    /// Where it was installed from, without passwords. Empty: by hand, or by a worker that did not write that down, whose hashes count
    /// for nothing.
    pub(super) source: String,
    /// One of these is its archive's hash: the installer has compared them before anything of the archive was run. Empty: it had none to
    /// compare.
    pub(super) hashes: Vec<String>,
    /// What it takes, in bytes.
    pub(super) bytes: u64,
    /// What has installed it.
    pub(super) installer: String,
}

/// Which packages are there, by name.
pub(super) struct Index(pub(super) BTreeMap<String, Vec<Package>>);

/// A package on its way. Dropped, it goes.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    _lock: File,
}

/// Why what was installed is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum StorageError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("it has {what}, which a package must not have: {}", path.display())]
    Strange { what: &'static str, path: PathBuf },
    #[error("it has no files")]
    Empty,
    #[error("{0} is not there any more: it was removed a moment ago; try again")]
    Gone(String),
    #[error("another worker that has the same packages is removing some of them at this moment; try again")]
    BeingRemoved,
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { what, path, source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Held for single calls of a map, or with nothing that panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage {
    /// Makes the directory if it is not there, and removes what was left half done in it.
    pub(super) fn open(path: &Path, python: String) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        for entry in fs::read_dir(path)?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(EVICTED) || (name.starts_with(STAGING) && is_abandoned(&entry.path())) {
                // Somebody else may be at it as well.
                let _ = remove(&entry.path());
            }
        }
        let inner = Inner {
            path: path.to_owned(),
            python,
            next: AtomicU64::new(0),
            claims: Claims::open(path)?,
            sizes: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.inner.path
    }

    pub(super) fn python(&self) -> &str {
        &self.inner.python
    }

    /// What the names of the directories say.
    pub(super) fn index(&self) -> io::Result<Index> {
        let mut by_name = BTreeMap::<String, Vec<Package>>::new();
        for entry in fs::read_dir(self.path())? {
            let Ok(directory) = entry?.file_name().into_string() else { continue };
            let Some(package) = self.package(directory) else { continue };
            by_name.entry(package.name.clone()).or_default().push(package);
        }
        // The same answers whatever order the file system has.
        by_name.values_mut().for_each(|packages| packages.sort());
        Ok(Index(by_name))
    }

    /// See the module's text.
    fn package(&self, directory: String) -> Option<Package> {
        let (name, version) = directory.split_once("==")?;
        let mut parts = version.split('@');
        let version = parts.next()?;
        let mut next = parts.next();
        next = next.filter(|part| !part.starts_with(FROM)).or_else(|| parts.next());
        if next.is_some_and(|python| python != self.python()) || parts.next().is_some() {
            return None;
        }
        Some(Package { name: normalise(name)?, version: version.to_owned(), directory })
    }

    /// Whether it can be imported. What has no `files` yet is being installed, or is something else.
    pub(super) fn is_there(&self, package: &Package) -> bool {
        self.files(package).is_dir()
            && self
                .record(package)
                .is_none_or(|record| record.python.is_empty() || record.python == self.python())
    }

    pub(super) fn files(&self, package: &Package) -> PathBuf {
        self.path().join(&package.directory).join("files")
    }

    /// What is known of it; nothing, if it was put there by hand.
    pub(super) fn record(&self, package: &Package) -> Option<Record> {
        read_record(&self.path().join(&package.directory))
    }

    /// Puts what was staged into this one's place, in one step: whoever looks finds the one or the other.
    pub(super) fn replace(
        &self,
        package: &Package,
        staging: Staging,
        record: &Record,
    ) -> Result<(), StorageError> {
        let whole = Self::make_whole(&staging, record)?;
        let target = self.path().join(&package.directory);
        rustix::fs::renameat_with(CWD, &whole, CWD, &target, RenameFlags::EXCHANGE)
            .map_err(io::Error::from)
            .map_err(at("replace", &target))?;
        lock(&self.inner.sizes).remove(&package.directory);
        self.sync()
        // What was there goes with the staging.
    }

    /// It is needed now; those that were not for the longest time go first.
    pub(super) fn touch(&self, set: &PackageSet) {
        for package in set {
            // A file system that cannot be written to has nothing to remove either.
            if let Ok(directory) = File::open(self.path().join(&package.directory)) {
                let _ = directory.set_times(FileTimes::new().set_modified(SystemTime::now()));
            }
        }
    }

    /// A place to install something in.
    pub(super) fn stage(&self) -> Result<Staging, StorageError> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path().join(format!("{STAGING}{}-{number}", std::process::id()));
        // Nobody but root can reach what is in there, by whatever path.
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(at("make", &path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).and_then(|file| file.lock().map(|()| file));
        let staging = Staging { path, _lock: lock.map_err(at("lock", &lock_path))? };
        let work = staging.work();
        fs::DirBuilder::new().mode(0o755).create(&work).map_err(at("make", &work))?;
        Ok(staging)
    }

    /// What all packages take together, in bytes. Reads the directory, and all of each package that was put there by hand, the first
    /// time that it is seen.
    pub(super) fn bytes(&self) -> u64 {
        let Ok(index) = self.index() else { return 0 };
        let all: Vec<&Package> = index.0.values().flatten().collect();
        let there: BTreeSet<&str> = all.iter().map(|package| package.directory.as_str()).collect();
        // Another worker may have removed it, and what comes in its place may be of another size.
        lock(&self.inner.sizes).retain(|directory, _| there.contains(directory.as_str()));
        all.into_iter().map(|package| self.size(package)).sum()
    }

    fn size(&self, package: &Package) -> u64 {
        if let Some(bytes) = lock(&self.inner.sizes).get(&package.directory) {
            return *bytes;
        }
        let recorded = self.record(package).map(|record| record.bytes).filter(|bytes| *bytes > 0);
        let bytes = recorded.unwrap_or_else(|| measure(&self.files(package), ENTRIES_MAX).bytes);
        lock(&self.inner.sizes).insert(package.directory.clone(), bytes);
        bytes
    }

    /// Gives what was staged its name. `false`: somebody else was quicker.
    pub(super) fn commit(
        &self,
        staging: Staging,
        name: &str,
        version: &str,
        record: &Record,
    ) -> Result<bool, StorageError> {
        let whole = Self::make_whole(&staging, record)?;
        let plain = self.path().join(format!("{name}=={version}"));
        let is_foreign = read_record(&plain)
            .is_some_and(|there| !there.python.is_empty() && there.python != record.python);
        let target =
            if is_foreign { self.path().join(format!("{name}=={version}@{}", record.python)) } else { plain };
        // An empty directory gives way, and one that lacks its files is nobody's.
        if target.is_dir() && !target.join("files").is_dir() {
            let _ = remove(&target);
        }
        match fs::rename(&whole, &target) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {
                return Ok(false);
            }
            Err(error) => return Err(at("move", &whole)(error)),
        }
        self.sync()?;
        Ok(true)
    }

    /// What was staged, with what is known of it, on the disk.
    fn make_whole(staging: &Staging, record: &Record) -> Result<PathBuf, StorageError> {
        let whole = staging.path.join("whole");
        fs::DirBuilder::new().mode(0o755).create(&whole).map_err(at("make", &whole))?;
        let files = staging.files();
        fs::rename(&files, whole.join("files")).map_err(at("move", &files))?;
        write_record(&whole, record)?;
        // All of it at once: one by one takes as long as there are files.
        let directory = File::open(&whole).map_err(at("open", &whole))?;
        rustix::fs::syncfs(&directory).map_err(io::Error::from).map_err(at("write to the disk", &whole))?;
        Ok(whole)
    }

    /// The names of the directories are on the disk.
    fn sync(&self) -> Result<(), StorageError> {
        let parent = File::open(self.path()).map_err(at("open", self.path()))?;
        parent.sync_all().map_err(at("write to the disk", self.path()))
    }

    /// These are not removed for as long as what is given back lives. They are there, unless it fails.
    pub(super) fn hold(&self, set: &PackageSet) -> Result<Claim, StorageError> {
        let claim = self.want(set.iter().map(key))?;
        match set.iter().find(|package| !self.files(package).is_dir()) {
            Some(gone) => Err(StorageError::Gone(gone.to_string())),
            None => Ok(claim),
        }
    }

    /// The same of those that may be there or not.
    pub(super) fn want(&self, keys: impl IntoIterator<Item = Key>) -> Result<Claim, StorageError> {
        self.inner.claims.claim(keys).map_err(|BeingRemoved| StorageError::BeingRemoved)
    }

    /// Waits until no other worker gives a package its place, which it may need room for.
    pub(super) fn placing(&self) -> io::Result<Placing> {
        self.inner.claims.placing()
    }

    /// Removes packages until `bytes` more have room below `bytes_max`, those first that were not needed for the longest time,
    /// and none that is needed now. Gives their directories, and whether there is room now.
    pub(super) fn make_room(&self, bytes: u64, bytes_max: u64) -> io::Result<(Vec<String>, bool)> {
        let index = self.index()?;
        let all: Vec<&Package> = index.0.values().flatten().collect();
        let mut used: u64 = all.iter().map(|package| self.size(package)).sum();
        let age = |package: &Package| {
            fs::metadata(self.path().join(&package.directory)).and_then(|m| m.modified()).ok()
        };
        let mut by_age: Vec<_> = all.into_iter().map(|package| (age(package), package)).collect();
        by_age.sort();
        let mut evicted = Vec::new();
        for (_, package) in by_age {
            if used + bytes <= bytes_max {
                break;
            }
            if self.evict(package)? {
                used -= self.size(package).min(used);
                lock(&self.inner.sizes).remove(&package.directory);
                evicted.push(package.directory.clone());
            }
        }
        Ok((evicted, used + bytes <= bytes_max))
    }

    fn evict(&self, package: &Package) -> io::Result<bool> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let gone = self.path().join(format!("{EVICTED}{}-{number}", std::process::id()));
        let away = || fs::rename(self.path().join(&package.directory), &gone);
        match self.inner.claims.unless_needed(key(package), away) {
            None => return Ok(false),
            Some(moved) => moved?,
        }
        // What stays is swept at the next start.
        let _ = remove(&gone);
        Ok(true)
    }
}

fn key(package: &Package) -> Key {
    Key::new(&package.name, &package.version)
}

impl Staging {
    /// What the installer may write to.
    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Where it puts the package's files.
    pub(super) fn files(&self) -> PathBuf {
        self.work().join("out/files")
    }

    /// A text that it has left in there. Nobody may be in the sandbox any more.
    pub(super) fn read(&self, name: &str, bytes_max: u64) -> io::Result<String> {
        use rustix::fs::{Mode, OFlags, ResolveFlags};
        let work =
            rustix::fs::open(self.work(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = File::from(rustix::fs::openat2(work, name, flags, Mode::empty(), within)?);
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = String::new();
        file.take(bytes_max + 1).read_to_string(&mut text)?;
        if text.len() as u64 > bytes_max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
    }

    /// Looks the files through, gives them to root, and takes away what nobody but their owner may do. Nobody may be in the
    /// sandbox any more. Gives what they take, in bytes.
    pub(super) fn verify(&self) -> Result<u64, StorageError> {
        let files = self.files();
        let metadata = fs::symlink_metadata(&files).map_err(|_| StorageError::Empty)?;
        // Of uv's own, at the top.
        let _ = fs::remove_file(files.join(".lock"));
        if !metadata.is_dir() || fs::read_dir(&files).map_err(at("read", &files))?.next().is_none() {
            return Err(StorageError::Empty);
        }
        let mut bytes = 0;
        let mut n_entries = 0;
        let mut directories = vec![files];
        while let Some(directory) = directories.pop() {
            own(&directory, 0o755)?;
            for entry in fs::read_dir(&directory).map_err(at("read", &directory))? {
                let path = entry.map_err(at("read", &directory))?.path();
                let metadata = fs::symlink_metadata(&path).map_err(at("read", &path))?;
                n_entries += 1;
                let strange = |what| Err(StorageError::Strange { what, path: path.clone() });
                if n_entries > ENTRIES_MAX {
                    return strange("too many files");
                }
                if metadata.is_dir() {
                    directories.push(path);
                } else if metadata.is_file() {
                    own(&path, if metadata.mode() & 0o111 == 0 { 0o644 } else { 0o755 })?;
                    bytes += metadata.blocks() * 512;
                } else {
                    return strange("a link or a device");
                }
            }
        }
        Ok(bytes)
    }

    /// What all of it takes now, as far as it can be seen.
    pub(super) fn measure(&self) -> Usage {
        measure(&self.work(), ENTRIES_MAX)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is swept at the next start.
        let _ = remove(&self.path);
    }
}

/// What a tree takes on the disk.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Each file once, however many names it has. Of all of it, unless there is an excess.
    pub(super) bytes: u64,
    /// Files and directories, by their names.
    pub(super) n_entries: usize,
    /// Why it was not looked through to the end.
    pub(super) excess: Option<Excess>,
}

/// What is too much to be looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// More than [`ENTRIES_MAX`].
    Entries,
    /// Directories so deep in each other that they have no path.
    Depth,
}

fn own(path: &Path, mode: u32) -> Result<(), StorageError> {
    // Root's, that is.
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    lchown(path, Some(uid), Some(gid)).map_err(at("take over", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at("set the mode of", path))
}

/// What goes away meanwhile is nothing.
fn measure(path: &Path, entries_max: usize) -> Usage {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                usage.excess = Some(Excess::Depth);
                return usage;
            }
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            usage.n_entries += 1;
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.nlink() == 1 || seen.insert(metadata.ino()) {
                usage.bytes += metadata.blocks() * 512;
            }
            if usage.n_entries > entries_max {
                usage.excess = Some(Excess::Entries);
                return usage;
            }
        }
    }
    usage
}

/// Whether nobody writes to it any more.
fn is_abandoned(staging: &Path) -> bool {
    match OpenOptions::new().write(true).open(staging.join("lock")).map(|file| file.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => false,
        Ok(_) => true,
        // It was made a moment ago, or is not quite gone.
        Err(_) => {
            let age =
                fs::metadata(staging).and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
            age.is_some_and(|age| age.as_secs() > 1)
        }
    }
}

fn read_record(directory: &Path) -> Option<Record> {
    let mut text = String::new();
    File::open(directory.join(RECORD)).ok()?.take(RECORD_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn write_record(directory: &Path, record: &Record) -> Result<(), StorageError> {
    let path = directory.join(RECORD);
    let text = serde_json::to_string_pretty(record).expect("text and numbers can always be written");
    let half = directory.join(format!(".{RECORD}"));
    // Sandboxes see the directory, and whose index others use is not for them to know.
    fs::write(&half, text + "\n")
        .and_then(|()| fs::set_permissions(&half, Permissions::from_mode(0o600)))
        .and_then(|()| fs::rename(&half, &path))
        .map_err(at("write", &path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::claims;
    use super::*;

    fn storage() -> (tempfile::TempDir, Storage) {
        let place = tempfile::tempdir().unwrap();
        let storage = Storage::open(place.path(), "cp311".into()).unwrap();
        (place, storage)
    }

    fn staged(storage: &Storage) -> Staging {
        let staging = storage.stage().unwrap();
        fs::create_dir_all(staging.files()).unwrap();
        fs::write(staging.files().join("a.py"), "x").unwrap();
        staging
    }

    fn record() -> Record {
        Record { python: "cp311".into(), ..Record::default() }
    }

    #[test]
    fn what_is_half_done_goes_at_the_next_start_unless_somebody_is_at_it() {
        let (place, storage) = storage();
        let busy = storage.stage().unwrap();
        let dead = place.path().join(".staging-1-1");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::create_dir(place.path().join(".evicted-1-1")).unwrap();
        let again = Storage::open(place.path(), "cp311".into()).unwrap();
        let left: Vec<_> = fs::read_dir(place.path()).unwrap().flatten().map(|entry| entry.path()).collect();
        let in_use = place.path().join(claims::FILE);
        assert!(left.len() == 2 && left.contains(&busy.path) && left.contains(&in_use), "{left:?}");
        assert!(again.index().unwrap().0.is_empty());
        drop(busy);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_first_who_has_it_whole_gives_it_its_name() {
        let (_place, storage) = storage();
        assert!(storage.commit(staged(&storage), "a", "1", &record()).unwrap());
        assert!(!storage.commit(staged(&storage), "a", "1", &record()).unwrap());
        let other = Record { python: "cp312".into(), ..Record::default() };
        assert!(storage.commit(staged(&storage), "a", "1", &other).unwrap(), "beside it, for another Python");
        let index = storage.index().unwrap();
        assert_eq!(index.0["a"].len(), 1);
        assert!(storage.is_there(&index.0["a"][0]));
    }

    #[test]
    fn sources_and_pythons_are_told_apart_by_names() {
        let (_place, storage) = storage();
        let read = |directory: &str| {
            let package = storage.package(directory.to_owned())?;
            Some((package.version.clone(), package.source().map(str::to_owned)))
        };
        let is = |version: &str, source: Option<&str>| Some((version.to_owned(), source.map(str::to_owned)));
        assert_eq!(read("a==1"), is("1", None));
        assert_eq!(read("a==1@cp311"), is("1", None));
        assert_eq!(read("a==1@from-ab"), is("1", Some("from-ab")));
        assert_eq!(read("a==1@from-ab@cp311"), is("1", Some("from-ab")));
        for other in
            ["a==1@cp312", "a==1@from-ab@cp312", "a==1@cp311@from-ab", "a==1@from-ab@from-cd", "a==1@else"]
        {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_replaced_is_whole_at_every_moment_and_leaves_nothing() {
        let (place, storage) = storage();
        storage.commit(staged(&storage), "a", "1", &record()).unwrap();
        let package = storage.package("a==1".into()).unwrap();
        let staging = staged(&storage);
        fs::write(staging.files().join("a.py"), "y").unwrap();
        storage.replace(&package, staging, &Record { source: "x".into(), ..record() }).unwrap();
        assert_eq!(fs::read_to_string(storage.files(&package).join("a.py")).unwrap(), "y");
        assert_eq!(storage.record(&package).unwrap().source, "x");
        let names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.filter(|name| name != claims::FILE).collect::<Vec<_>>(), ["a==1"]);
    }

    #[test]
    fn links_devices_and_nothing_at_all_are_no_package() {
        let (_place, storage) = storage();
        let staging = staged(&storage);
        assert!(staging.verify().unwrap() > 0);
        symlink("/etc/passwd", staging.files().join("link.py")).unwrap();
        assert!(matches!(staging.verify(), Err(StorageError::Strange { .. })));
        assert!(matches!(storage.stage().unwrap().verify(), Err(StorageError::Empty)));
        symlink("/etc/passwd", staging.work().join("lock.txt")).unwrap();
        assert!(staging.read("lock.txt", 1000).is_err());
        fs::write(staging.work().join("long.txt"), "12345").unwrap();
        assert!(staging.read("long.txt", 4).is_err() && staging.read("long.txt", 5).is_ok());
    }

    #[test]
    fn the_least_recently_needed_goes_first_and_nothing_that_is_needed_or_in_use() {
        let (place, storage) = storage();
        for (at, name) in ["a", "b", "c", "d"].iter().enumerate() {
            storage.commit(staged(&storage), name, "1", &Record { bytes: 10, ..record() }).unwrap();
            let directory = File::open(place.path().join(format!("{name}==1"))).unwrap();
            let time = UNIX_EPOCH + Duration::from_secs(100 - at as u64);
            directory.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
        let of = |name: &str| PackageSet::new([storage.package(format!("{name}==1")).unwrap()]);
        let (hold, needed) = (storage.hold(&of("d")).unwrap(), storage.want([Key::new("c", "1.0")]).unwrap());
        assert_eq!(storage.bytes(), 40);
        assert_eq!(storage.make_room(10, 50).unwrap(), (vec![], true));
        assert_eq!(storage.make_room(10, 45).unwrap(), (vec!["b==1".into()], true));
        assert_eq!(storage.make_room(10, 20).unwrap(), (vec!["a==1".into()], false));
        drop(hold);
        assert_eq!(storage.make_room(10, 20).unwrap(), (vec!["d==1".into()], true));
        drop(needed);
        assert_eq!(storage.bytes(), 10);
    }
    #[test]
    fn what_another_worker_needs_stays_and_what_it_has_removed_cannot_be_held() {
        let (place, one) = storage();
        let other = Storage::open(place.path(), "cp311".into()).unwrap();
        for name in ["a", "b"] {
            one.commit(staged(&one), name, "1", &Record { bytes: 10, ..record() }).unwrap();
        }
        let [a, b] = ["a==1", "b==1"].map(|name| PackageSet::new([one.package(name.into()).unwrap()]));
        let held = one.hold(&a).unwrap();
        assert_eq!(other.make_room(10, 10).unwrap(), (vec!["b==1".into()], false));
        assert!(matches!(one.hold(&b), Err(StorageError::Gone(_))));
        assert_eq!(one.bytes(), 10);
        drop(held);
        assert_eq!(other.make_room(10, 10).unwrap(), (vec!["a==1".into()], true));
    }

    #[test]
    fn what_is_too_much_to_be_looked_through_is_told_apart_from_what_is_small() {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        let (_place, storage) = storage();
        let staging = staged(&storage);
        let usage = staging.measure();
        assert!(usage.excess.is_none() && usage.n_entries == 3 && usage.bytes > 0, "{usage:?}");
        let mut directory = rustix::fs::open(staging.work(), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..20 {
            let name = "d".repeat(250);
            mkdirat(&directory, &name, Mode::RWXU).unwrap();
            directory = openat(&directory, &name, OFlags::PATH, Mode::empty()).unwrap();
        }
        assert_eq!(staging.measure().excess, Some(Excess::Depth));
        assert_eq!(measure(&staging.files(), 1).excess, None);
        assert_eq!(measure(&staging.files(), 0).excess, Some(Excess::Entries));
    }
}
