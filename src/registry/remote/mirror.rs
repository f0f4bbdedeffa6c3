//! Copies of the functions that lie in a store: a local registry of the worker's own, and beside each archive a note of what the store
//! called that content. They outlive the worker, so that it can serve them before the store answers.
//!
//! ```text
//! <worker>/mirror/<digits of the address>/hello.tar.gz   what was downloaded or uploaded last, and is a function
//!                                         .tag-hello     what the store calls that, and whether it is in use
//! ```
//!
//! Two workers have the same copies while one takes the other's place. A note of one's about the archive of the other's would have what is old
//! taken for what the store has, for good: so both files are exchanged with the directory locked, and only if the copy is still the one that was there
//! when the store was asked.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use actors::name::FunctionName;
use serde::{Deserialize, Serialize};
use slog::{Logger, debug, warn};

use super::store::Tag;
use crate::registry::{ARCHIVE_SUFFIX, LocalRegistry};

/// What the name of a note begins with; nothing that begins with a dot is a function.
const NOTE_PREFIX: &str = ".tag-";
/// The longest note; more is no note of ours.
const NOTE_BYTES_MAX: u64 = 16 << 10;
/// How long one waits for another worker's exchange. It is two renames and a small file, on a disk that may be busy; what takes
/// longer has been stopped.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(5);
/// How often one looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The copies.
pub(super) struct Mirror {
    registry: LocalRegistry,
    resting_bytes_max: u64,
    /// Those of this worker; the lock of the directory keeps others out.
    exchange: Mutex<()>,
    log: Logger,
}

/// Nobody else exchanges a copy as long as this lives, in no worker.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    // In the order in which they are let go.
    _directory: File,
    _ours: MutexGuard<'a, ()>,
}

/// Tells one copy from another that had or has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyId {
    inode: u64,
    bytes: u64,
    written_ns: i64,
}

/// What is known of a copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    /// What the store calls it.
    pub(super) tag: Tag,
    /// Nobody calls it.
    pub(super) is_at_rest: bool,
    /// Of which file that was said: its size, and when it was written, in ns since 1970.
    bytes: u64,
    written_ns: i64,
}

impl Mirror {
    /// `registry` is one that no one writes to but workers by way of this.
    pub(super) fn new(registry: LocalRegistry, resting_bytes_max: u64, log: Logger) -> Self {
        Self { registry, resting_bytes_max, exchange: Mutex::default(), log }
    }

    /// Waits until nobody exchanges a copy. Blocks.
    ///
    /// # Errors
    /// When another worker does for longer than it can take.
    pub(super) fn exchange(&self) -> io::Result<Exchange<'_>> {
        self.exchange_within(EXCHANGE_PATIENCE)
    }

    fn exchange_within(&self, patience: Duration) -> io::Result<Exchange<'_>> {
        // What is behind it is on the disk.
        let ours = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = File::open(self.root())?;
        let deadline = Instant::now() + patience;
        loop {
            match directory.try_lock() {
                Ok(()) => return Ok(Exchange { _directory: directory, _ours: ours }),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    let problem = "another worker has been changing its copies for too long";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Copies of other stores, that were named in the configuration before, go.
    pub(super) fn sweep_others(&self) -> io::Result<()> {
        let Some(home) = self.root().parent() else { return Ok(()) };
        for entry in fs::read_dir(home)? {
            let path = entry?.path();
            if path != self.root() {
                if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
            }
        }
        Ok(())
    }

    /// The local registry that the copies are.
    pub(super) fn registry(&self) -> &LocalRegistry {
        &self.registry
    }

    pub(super) fn root(&self) -> &Path {
        self.registry.root()
    }

    fn archive(&self, name: &FunctionName) -> PathBuf {
        self.root().join(format!("{name}{ARCHIVE_SUFFIX}"))
    }

    fn note_file(&self, name: &FunctionName) -> PathBuf {
        self.root().join(format!("{NOTE_PREFIX}{name}"))
    }

    /// Whether there is a copy.
    pub(super) fn has(&self, name: &FunctionName) -> bool {
        self.archive(name).is_file()
    }

    /// Which copy there is.
    pub(super) fn copy(&self, name: &FunctionName) -> Option<CopyId> {
        let archive = fs::metadata(self.archive(name)).ok().filter(Metadata::is_file)?;
        Some(CopyId { inode: archive.ino(), bytes: archive.len(), written_ns: written_ns(&archive) })
    }

    /// The functions of which there are copies that are in use.
    pub(super) fn in_use(&self) -> Vec<FunctionName> {
        let names = self.registry.list().unwrap_or_default();
        names.into_iter().filter(|name| !self.note(name).is_some_and(|note| note.is_at_rest)).collect()
    }

    /// What is known of a copy; nothing, if there is none or it is not the one that the note is about.
    pub(super) fn note(&self, name: &FunctionName) -> Option<Note> {
        let file = self.note_file(name);
        if fs::metadata(&file).ok()?.len() > NOTE_BYTES_MAX {
            return None;
        }
        let note: Note = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        let archive = fs::metadata(self.archive(name)).ok()?;
        (note.bytes == archive.len() && note.written_ns == written_ns(&archive)).then_some(note)
    }

    /// Writes down what the store calls the copy that is there. To be called when that is on the disk: a note without its content
    /// would keep the content away for good.
    pub(super) fn write_note(&self, name: &FunctionName, tag: Tag, is_at_rest: bool) -> io::Result<()> {
        let archive = fs::metadata(self.archive(name))?;
        let note = Note { tag, is_at_rest, bytes: archive.len(), written_ns: written_ns(&archive) };
        // What is half written is no JSON, and so no note: the copy is asked for again.
        let mut file = File::create(self.note_file(name))?;
        file.write_all(&serde_json::to_vec(&note)?)
    }

    /// There is no such function any more.
    pub(super) fn forget(&self, name: &FunctionName) {
        let _ = fs::remove_file(self.note_file(name));
        if let Err(error) = self.registry.delete(name) {
            warn!(self.log, "cannot remove the copy of a function"; "name" => %name, "error" => %error);
        }
    }

    /// Nobody calls it. It stays for as long as there is room.
    pub(super) fn rest(&self, name: &FunctionName) {
        let _exchange = match self.exchange() {
            Ok(exchange) => exchange,
            Err(error) => {
                debug!(self.log, "cannot write that a copy is at rest"; "name" => %name, "error" => %error);
                return;
            }
        };
        if let Some(note) = self.note(name)
            && let Err(error) = self.write_note(name, note.tag, true)
        {
            debug!(self.log, "cannot write that a copy is at rest"; "name" => %name, "error" => %error);
        }
        self.make_room();
    }

    /// Removes the copies that rest longest, until the others take no more than they may.
    fn make_room(&self) {
        let mut resting: Vec<(SystemTime, u64, FunctionName)> = Vec::new();
        for name in self.registry.list().unwrap_or_default() {
            let since = fs::metadata(self.note_file(&name)).and_then(|metadata| metadata.modified());
            if let (Some(note), Ok(since)) = (self.note(&name).filter(|note| note.is_at_rest), since) {
                resting.push((since, note.bytes, name));
            }
        }
        resting.sort();
        let mut bytes: u64 = resting.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, freed, name) in resting {
            if bytes <= self.resting_bytes_max {
                return;
            }
            self.forget(&name);
            bytes -= freed;
        }
    }
}

fn written_ns(file: &Metadata) -> i64 {
    file.mtime().saturating_mul(1_000_000_000).saturating_add(file.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use slog::{Discard, o};

    use super::*;
    use crate::config::Config;

    fn mirror(dir: &Path, mb: u64) -> Mirror {
        let json = json!({ "registry": "s3://bucket" });
        let worker = Config::from_json(&json, Path::new("config.json"), dir).unwrap().config;
        let log = Logger::root(Discard, o!());
        Mirror::new(LocalRegistry::open(&worker, log.clone()).unwrap(), mb << 20, log)
    }

    fn copy(mirror: &Mirror, name: &str, bytes: usize, is_at_rest: bool) -> FunctionName {
        let name: FunctionName = name.parse().unwrap();
        fs::write(mirror.archive(&name), vec![0; bytes]).unwrap();
        mirror.write_note(&name, Tag::default(), is_at_rest).unwrap();
        name
    }

    #[test]
    fn a_note_is_about_one_content_only() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = mirror(dir.path(), 1);
        let name = copy(&mirror, "f", 10, false);
        assert!(mirror.note(&name).is_some());
        fs::write(mirror.archive(&name), "another content").unwrap();
        assert!(mirror.note(&name).is_none());
        fs::write(mirror.note_file(&name), "{").unwrap();
        assert!(mirror.note(&name).is_none());
        mirror.forget(&name);
        assert!(!mirror.has(&name) && !mirror.note_file(&name).exists());
    }

    #[test]
    fn who_rests_longest_goes_first_and_who_is_in_use_never() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = mirror(dir.path(), 1);
        let used = copy(&mirror, "used", 2 << 20, false);
        let first = copy(&mirror, "first", 600 << 10, true);
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::open(mirror.note_file(&first)).unwrap().set_modified(long_ago).unwrap();
        let second = copy(&mirror, "second", 600 << 10, false);
        mirror.rest(&second);
        assert_eq!([&used, &first, &second].map(|name| mirror.has(name)), [true, false, true]);
        assert_eq!(mirror.in_use(), [used]);
    }

    #[test]
    fn of_two_workers_one_at_a_time_exchanges_a_copy_and_sees_when_the_other_has() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (mirror(dir.path(), 1), mirror(dir.path(), 1));
        let name = copy(&one, "f", 10, false);
        let seen = one.copy(&name);
        assert!(seen.is_some() && other.copy(&name) == seen);
        let exchange = other.exchange().unwrap();
        let refused = one.exchange_within(Duration::ZERO).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        // Of the same length, and maybe in the same tick of the file system's clock.
        let new = other.root().join("new");
        fs::write(&new, vec![1; 10]).unwrap();
        fs::rename(&new, other.archive(&name)).unwrap();
        drop(exchange);
        let _exchange = one.exchange_within(Duration::ZERO).unwrap();
        assert_ne!(one.copy(&name), seen);
        other.forget(&name);
        assert_eq!(one.copy(&name), None);
    }

    #[test]
    fn copies_of_another_store_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = mirror(dir.path(), 1);
        let other = mirror.root().parent().unwrap().join("other");
        fs::create_dir(&other).unwrap();
        mirror.sweep_others().unwrap();
        assert!(!other.exists() && mirror.root().exists());
    }
}
