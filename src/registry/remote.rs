//! A registry that lies in a store: a bucket, or a web server.
//!
//! ```text
//!   watcher ── load ──▶ fresh? ── yes ──▶ mirror (a local registry) ──▶ code
//!                         └─ no ──▶ fetch ──▶ store: If-None-Match ──▶ download, check, rename ─▶ mirror
//!   poller ── every registry_cache_ms, what is in use ──▶ fetch ──▶ tells the watcher what has changed
//! ```
//!
//! What is served is always a copy, so the worker serves on while the store is away, and after a restart as well. Which copies are
//! fresh, when to ask, and how long to leave a store alone is decided by [`Freshness`]. Everything that waits for the store runs on a
//! thread of its own; see `docs/decisions/0015-functions-in-a-store.md`.

mod changes;
mod mirror;
mod poll;
mod store;
mod turns;

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actors::freshness::{Freshness, Need};
use actors::name::FunctionName;
use actors::world::RegistryError;
use futures_util::future::{FutureExt, Shared};
use futures_util::stream::StreamExt;
use slog::{Logger, info, warn};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

pub(super) use poll::Poll;
pub use turns::Turn;

use super::requirements::FILE_BYTES_MAX;
use super::upload::{Download, Replaced, Upload, UploadError, pack_file};
use super::{FunctionCode, LocalRegistry, OpenError};
use crate::config::{Config, StoreAddress};
use crate::registry::watch::WatchEvent;
use changes::Changes;
use mirror::{CopyId, Exchange, Mirror};
use store::{Got, Object, ObjectKind, Store, StoreError, Tag};
use turns::Turns;

/// Objects that are asked for at once: enough for 300 functions a second over 50 ms, too few to be taken for an attack.
const FETCHES_MAX: usize = 16;
/// How long who wants to read a function waits for the store; the fetch goes on. Less than the router waits for a lookup.
const FETCH_WAIT_MAX: Duration = Duration::from_millis(5500);
/// The longest that a client waits for a listing, or for why there is none: its turn, and the store.
pub const LISTED_WITHIN: Duration = turns::WAIT_MAX.saturating_add(store::LISTING_TIME_MAX);
/// The longest that an upload waits for the store: its turn, and one object.
pub const STORED_WITHIN: Duration = turns::WAIT_MAX.saturating_add(store::OBJECT_TIME_MAX);
/// Copies are asked about no more often than this, whatever `registry_cache_ms` says.
const AGE_LEAST: Duration = Duration::from_millis(100);
/// What is written to the disk at once while an object is downloaded.
const WRITE_BYTES: usize = 1 << 20;
/// How often a fetch begins anew because the function was uploaded or removed meanwhile; then who asked asks again.
const FETCH_AGAIN_MAX: usize = 4;

/// A registry that lies in a store. Cheap to clone.
#[derive(Clone)]
pub struct RemoteRegistry(Arc<Remote>);

struct Remote {
    address: StoreAddress,
    store: Store,
    mirror: Mirror,
    bytes_max: u64,
    freshness: Mutex<Freshness>,
    in_flight: Mutex<HashMap<FunctionName, Fetching>>,
    /// What the store has and is no function: what it calls it, and what to mend.
    rejected: Mutex<HashMap<FunctionName, (Tag, String)>>,
    n_fetches: Semaphore,
    turns: Turns,
    /// What was changed through this worker while it was fetched.
    changes: Changes,
    /// Something happened that the poller should know.
    wake: Notify,
    tell: OnceLock<Tell>,
    runtime: Handle,
    /// Dropped, it ends the runtime's thread.
    _end: oneshot::Sender<()>,
    log: Logger,
}

type Tell = Box<dyn Fn(WatchEvent) + Send + Sync>;
type Fetching = Shared<Pin<Box<dyn Future<Output = Result<Outcome, FetchError>> + Send>>>;

/// What the store said about a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The copy is what it has.
    Same,
    /// There is another copy now, or it has something that is no function.
    Changed,
    /// There is no such function; there was one before, or not.
    Gone { is_news: bool },
}

/// What there was when the store was asked: what it has said is outdated when there is something else.
#[derive(Debug, Clone, Copy)]
struct Seen {
    n_changes: u64,
    copy: Option<CopyId>,
}

/// Why that is not known.
#[derive(Debug, Clone)]
enum FetchError {
    /// The store does not answer as it should.
    Store(String),
    /// The copy cannot be written.
    Local(String),
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.0)
    }
}

impl RemoteRegistry {
    /// Opens it; the store need not be there.
    /// `generations`: as with [`LocalRegistry::open_in`]. `is_beside`: another worker has the same directory, and still serves.
    pub(super) fn open(
        worker: &Config,
        address: &StoreAddress,
        (generations, is_beside): (&str, bool),
        log: Logger,
    ) -> Result<Self, OpenError> {
        let prepare = |source| OpenError::Prepare { path: worker.registry_dir.clone(), source };
        let store = Store::open(address)
            .map_err(|StoreError(problem)| OpenError::Store { store: address.text.clone(), problem })?;
        let log = log.new(slog::o!("store" => address.text.clone()));
        let local = LocalRegistry::open_in(worker, generations, log.clone())?;
        let mirror = Mirror::new(local, worker.registry_cache_bytes_max, log.clone());
        // The one beside us may have another store, and serve from its copies.
        if !is_beside {
            mirror.sweep_others().map_err(prepare)?;
        }
        let copies = mirror.in_use();
        info!(log, "functions come from a store"; "n_copies" => copies.len());
        let (runtime, end) = start_runtime().map_err(prepare)?;
        Ok(Self(Arc::new(Remote {
            address: address.clone(),
            store,
            mirror,
            bytes_max: worker.code_bytes_max,
            freshness: Mutex::new(Freshness::new(
                worker.registry_poll.max(AGE_LEAST),
                copies,
                Instant::now(),
            )),
            in_flight: Mutex::default(),
            rejected: Mutex::default(),
            n_fetches: Semaphore::new(FETCHES_MAX),
            turns: Turns::new(),
            changes: Changes::default(),
            wake: Notify::new(),
            tell: OnceLock::new(),
            runtime,
            _end: end,
            log,
        })))
    }

    /// The copies.
    pub(super) fn mirror(&self) -> &LocalRegistry {
        self.0.mirror.registry()
    }

    /// Where the functions lie.
    pub(super) fn address(&self) -> &StoreAddress {
        &self.0.address
    }

    /// A turn with the store, for who puts something there, fetches, removes or lists.
    pub(super) async fn turn(&self) -> Result<Turn, UploadError> {
        self.0.turns.exchange().await
    }

    /// A place for one download, until the client has it.
    pub(super) async fn place(&self) -> Result<Turn, UploadError> {
        self.0.turns.fetched().await
    }

    /// The functions that are in use here. Asks nobody.
    pub(super) fn in_use(&self) -> Vec<FunctionName> {
        self.0.freshness().names()
    }

    /// Whether there is a copy of this function here, in use or not.
    pub(super) fn has_copy(&self, name: &FunctionName) -> bool {
        self.0.mirror.has(name)
    }

    /// Reads a function: the copy of it, after the store was asked if it is not fresh. Blocks.
    pub(super) fn load_blocking(
        &self,
        name: &FunctionName,
        last: Option<FunctionCode>,
    ) -> Result<Option<FunctionCode>, RegistryError> {
        let need = self.0.freshness().need(name, Instant::now());
        match need {
            Need::Fresh => {}
            Need::Absent => return Ok(None),
            Need::Away(reason) => self.make_do(name, reason)?,
            Need::Ask => match self.fetch_blocking(name) {
                Some(Ok(Outcome::Gone { .. })) => return Ok(None),
                Some(Ok(Outcome::Same | Outcome::Changed)) => {}
                Some(Err(FetchError::Local(text))) => return Err(RegistryError::Unavailable(text)),
                Some(Err(FetchError::Store(reason))) => self.make_do(name, reason)?,
                None => self.make_do(name, "it is still being downloaded; try again".into())?,
            },
        }
        if let Some((_, reason)) = lock(&self.0.rejected).get(name) {
            return Err(RegistryError::Invalid(reason.clone()));
        }
        self.mirror().load_blocking(name, last)
    }

    /// Serves the copy, if there is one.
    fn make_do(&self, name: &FunctionName, reason: String) -> Result<(), RegistryError> {
        if !self.0.mirror.has(name) {
            return Err(RegistryError::Away(reason));
        }
        self.0.freshness().copied(name, Instant::now());
        Ok(())
    }

    /// `None`: it takes longer than anybody waits.
    fn fetch_blocking(&self, name: &FunctionName) -> Option<Result<Outcome, FetchError>> {
        let fetching = self.0.fetch(name);
        self.0.runtime.block_on(async { tokio::time::timeout(FETCH_WAIT_MAX, fetching).await.ok() })
    }

    /// What the store has, sorted. Of a web server, what is in use here. Blocks.
    pub(super) fn list(&self) -> Result<Vec<FunctionName>, RegistryError> {
        let listed = self.0.runtime.block_on(self.0.store.list());
        match listed {
            Ok(Some(names)) => Ok(names),
            Ok(None) => {
                let mut names = self.in_use();
                names.sort();
                Ok(names)
            }
            Err(StoreError(reason)) => {
                self.0.is_away(&reason);
                Err(RegistryError::Away(reason))
            }
        }
    }

    /// Whether it can be changed.
    pub(super) fn check_writable(&self) -> Result<(), UploadError> {
        if self.0.store.is_read_only() {
            return Err(UploadError::ReadOnly(self.0.address.text.clone()));
        }
        Ok(())
    }

    /// Puts an upload into the store, and a copy of it beside the others. Blocks.
    pub(super) fn put(&self, mut upload: Upload) -> Result<Replaced, UploadError> {
        let remote = &self.0;
        upload.check_once()?;
        let name = upload.name().clone();
        let (file, bytes) = upload.reopen()?;
        remote.changes.changed(&name);
        let put = remote.runtime.block_on(remote.store.put(&name, file, bytes));
        let tag = put.map_err(|error| remote.away(error))?;
        upload.sync()?;
        let _exchange = remote.exchange()?;
        remote.changes.changed(&name);
        let replaced = upload.commit()?;
        remote.note(&name, tag);
        lock(&remote.rejected).remove(&name);
        remote.freshness().found(&name, Instant::now());
        Ok(replaced)
    }

    /// Deletes a function in the store, and the copy. Tells whether there was one. Blocks.
    pub(super) fn delete(&self, name: &FunctionName) -> Result<bool, UploadError> {
        let remote = &self.0;
        remote.changes.changed(name);
        let deleted = remote.runtime.block_on(remote.store.delete(name));
        let was_there = deleted.map_err(|error| remote.away(error))?;
        let _exchange = remote.exchange()?;
        remote.changes.changed(name);
        remote.forget(name);
        Ok(was_there)
    }

    /// What the store has, or else the copy. Blocks.
    pub(super) fn download(&self, name: &FunctionName) -> Result<Option<Download>, UploadError> {
        let remote = &self.0;
        let got = remote.runtime.block_on(remote.store.get(name, None));
        let object = match got {
            Ok(Got::Object(object)) => object,
            Ok(Got::Absent | Got::Same) => return Ok(None),
            Err(_) if remote.mirror.has(name) => return self.mirror().download(name),
            Err(error) => return Err(remote.away(error)),
        };
        let io = |step| move |source| UploadError::Io { step, source };
        let mut file = tempfile::tempfile_in(remote.mirror.root()).map_err(io("make a file"))?;
        if object.tag.kind() == ObjectKind::File {
            let code = remote.runtime.block_on(read_whole(object)).map_err(|error| remote.away(error))?;
            let code = code.ok_or(UploadError::TooLarge { bytes_max: FILE_BYTES_MAX })?;
            let packed = pack_file(&code).map_err(io("pack the code"))?;
            io::Write::write_all(&mut file, &packed).map_err(io("write a file"))?;
            io::Seek::rewind(&mut file).map_err(io("read a file"))?;
            return Ok(Some(Download { file, bytes: packed.len() as u64 }));
        }
        let written = remote.runtime.block_on(async {
            let (mut n_bytes, mut pieces) = (0, object.pieces);
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                n_bytes += piece.len() as u64;
                if n_bytes > remote.bytes_max {
                    return Ok(Err(UploadError::TooLarge { bytes_max: remote.bytes_max }));
                }
                if let Err(source) = io::Write::write_all(&mut file, &piece) {
                    return Ok(Err(UploadError::Io { step: "write a file", source }));
                }
            }
            Ok(Ok(n_bytes))
        });
        let bytes = written.map_err(|error: StoreError| remote.away(error))??;
        io::Seek::rewind(&mut file).map_err(io("read a file"))?;
        Ok(Some(Download { file, bytes }))
    }

    /// Watches the store until what is given back is dropped.
    pub(super) fn watch(
        &self,
        use_of: impl Fn(&FunctionName) -> Option<actors::freshness::Use> + Send + 'static,
        tell: impl Fn(WatchEvent) + Send + Sync + 'static,
    ) -> Poll {
        // There is one watcher.
        let _ = self.0.tell.set(Box::new(tell));
        Poll::start(&self.0, use_of)
    }
}

impl Remote {
    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        lock(&self.freshness)
    }

    fn say(&self, event: WatchEvent) {
        if let Some(tell) = self.tell.get() {
            tell(event);
        }
    }

    /// Asks the store about a function; once, however many want to know.
    fn fetch(self: &Arc<Self>, name: &FunctionName) -> Fetching {
        let mut in_flight = lock(&self.in_flight);
        if let Some(fetching) = in_flight.get(name) {
            return fetching.clone();
        }
        let (remote, for_task) = (Arc::clone(self), name.clone());
        // On the store's own thread: it goes on when nobody waits any more.
        let task = self.runtime.spawn(async move {
            let fetched = std::panic::AssertUnwindSafe(remote.fetch_now(&for_task)).catch_unwind().await;
            lock(&remote.in_flight).remove(&for_task);
            fetched.unwrap_or_else(|_| Err(FetchError::Local("the fetch has panicked".into())))
        });
        let ended = async { task.await.unwrap_or_else(|_| Err(FetchError::Local("the worker ends".into()))) };
        let fetching = ended.boxed().shared();
        in_flight.insert(name.clone(), fetching.clone());
        fetching
    }

    async fn fetch_now(self: &Arc<Self>, name: &FunctionName) -> Result<Outcome, FetchError> {
        let _permit = self.n_fetches.acquire().await.expect("it is never closed");
        let _watch = self.changes.watch(name);
        for _ in 0..FETCH_AGAIN_MAX {
            let n_changes = self.changes.count(name);
            match self.fetch_once(name, n_changes).await {
                Ok(Some(outcome)) => {
                    self.is_there();
                    return Ok(outcome);
                }
                Ok(None) => {}
                Err(error) => {
                    match &error {
                        FetchError::Store(reason) => self.is_away(reason),
                        FetchError::Local(_) => self.freshness().put_off(name, Instant::now()),
                    }
                    return Err(error);
                }
            }
        }
        Err(FetchError::Local(
            "it is uploaded or removed again and again while it is downloaded; try again".into(),
        ))
    }

    /// `None`: the function was changed meanwhile, through this worker or by one that has the same copies.
    async fn fetch_once(
        self: &Arc<Self>,
        name: &FunctionName,
        n_changes: u64,
    ) -> Result<Option<Outcome>, FetchError> {
        let (remote, of) = (Arc::clone(self), name.clone());
        // The copy first: a note of one that came later is of no harm, since then it is not as it was.
        let (copy, note) = on_disk(move || Ok((remote.mirror.copy(&of), remote.mirror.note(&of)))).await?;
        let rejected = lock(&self.rejected).get(name).map(|(tag, _)| tag.clone());
        let was_known = copy.is_some() || rejected.is_some();
        let seen = Seen { n_changes, copy };
        let tag = rejected.or_else(|| note.as_ref().map(|note| note.tag.clone()));
        let got = self.store.get(name, tag.as_ref()).await?;
        if matches!(got, Got::Absent) && was_known {
            // A bucket that somebody has removed looks the same, and is no reason to give up all functions.
            self.store.probe().await?;
        }
        let (remote, of) = (Arc::clone(self), name.clone());
        match got {
            Got::Object(object) => {
                let upload = self.download(name, &object.tag.clone(), object).await?;
                on_disk(move || Ok(remote.take_in(&of, upload, seen))).await?
            }
            Got::Same | Got::Absent => {
                let is_absent = matches!(got, Got::Absent);
                on_disk(move || {
                    let _exchange = remote.exchange().map_err(|error| local(&error))?;
                    if !remote.is_as(&of, seen) {
                        return Ok(Ok(None));
                    }
                    if is_absent {
                        remote.forget(&of);
                        return Ok(Ok(Some(Outcome::Gone { is_news: was_known })));
                    }
                    if let Some(note) = note.filter(|note| note.is_at_rest) {
                        remote.note(&of, note.tag);
                    }
                    remote.freshness().found(&of, Instant::now());
                    Ok(Ok(Some(Outcome::Same)))
                })
                .await?
            }
        }
    }

    /// Downloads an object to a name that nobody serves. `Err` of it: it is no function.
    async fn download(
        self: &Arc<Self>,
        name: &FunctionName,
        tag: &Tag,
        object: Object,
    ) -> Result<(Tag, Result<Upload, String>), FetchError> {
        let tag = tag.clone().certain(now_s());
        let too_large =
            || format!("'{name}' has more than {} MiB, the worker's max_code_mb", self.bytes_max >> 20);
        if object.bytes > self.bytes_max {
            return Ok((tag, Err(too_large())));
        }
        let (registry, of) = (self.mirror.registry().clone(), name.clone());
        let mut upload =
            on_disk(move || Ok(Upload::begin(&registry, of))).await?.map_err(|error| local(&error))?;
        if tag.kind() == ObjectKind::File {
            let Some(code) = read_whole(object).await? else {
                return Ok((tag, Err(format!("'{name}.py' is longer than {FILE_BYTES_MAX} bytes"))));
            };
            // Copies are archives, whatever the store has.
            let packed = move || {
                let written = pack_file(&code)
                    .map_err(|source| UploadError::Io { step: "pack the code", source })
                    .and_then(|archive| upload.write(&archive));
                Ok(written.and_then(|()| upload.check_once()).map(|()| upload))
            };
            return match on_disk(packed).await? {
                Ok(upload) => Ok((tag, Ok(upload))),
                Err(UploadError::Invalid(reason)) => Ok((tag, Err(reason))),
                Err(error) => Err(local(&error)),
            };
        }
        let mut pieces = object.pieces;
        let mut gathered = Vec::with_capacity(WRITE_BYTES.min(usize::try_from(object.bytes).unwrap_or(0)));
        loop {
            let piece = pieces.next().await.transpose()?;
            let is_end = piece.is_none();
            gathered.extend_from_slice(piece.as_deref().unwrap_or_default());
            if gathered.len() < WRITE_BYTES && !is_end {
                continue;
            }
            let chunk = std::mem::take(&mut gathered);
            let written = on_disk(move || Ok(upload.write(&chunk).map(|()| upload))).await?;
            upload = match written {
                Ok(upload) => upload,
                Err(UploadError::TooLarge { .. }) => return Ok((tag, Err(too_large()))),
                Err(error) => return Err(local(&error)),
            };
            if is_end {
                break;
            }
        }
        let checked = on_disk(move || Ok(upload.check_once().map(|()| upload))).await?;
        match checked {
            Ok(upload) => Ok((tag, Ok(upload))),
            Err(UploadError::Invalid(reason)) => Ok((tag, Err(reason))),
            Err(error) => Err(local(&error)),
        }
    }

    /// Puts what was downloaded in the place of the copy. What is no function replaces nothing.
    fn take_in(
        &self,
        name: &FunctionName,
        (tag, upload): (Tag, Result<Upload, String>),
        seen: Seen,
    ) -> Result<Option<Outcome>, FetchError> {
        if let Ok(upload) = &upload {
            upload.sync().map_err(|error| local(&error))?;
        }
        let _exchange = self.exchange().map_err(|error| local(&error))?;
        if !self.is_as(name, seen) {
            return Ok(None);
        }
        match upload {
            Ok(upload) => {
                upload.commit().map_err(|error| local(&error))?;
                self.note(name, tag);
                lock(&self.rejected).remove(name);
            }
            Err(reason) => drop(lock(&self.rejected).insert(name.clone(), (tag, reason))),
        }
        self.freshness().found(name, Instant::now());
        Ok(Some(Outcome::Changed))
    }

    fn exchange(&self) -> Result<Exchange<'_>, UploadError> {
        self.mirror.exchange().map_err(|source| UploadError::Io { step: "exchange a copy", source })
    }

    /// Whether it still is as it was when the store was asked.
    fn is_as(&self, name: &FunctionName, seen: Seen) -> bool {
        self.changes.count(name) == seen.n_changes && self.mirror.copy(name) == seen.copy
    }

    fn note(&self, name: &FunctionName, tag: Tag) {
        if let Err(error) = self.mirror.write_note(name, tag, false) {
            warn!(self.log, "cannot write down what a copy is of: it is downloaded again"; "name" => %name, "error" => %error);
        }
    }

    fn forget(&self, name: &FunctionName) {
        self.mirror.forget(name);
        lock(&self.rejected).remove(name);
        self.freshness().gone(name, Instant::now());
    }

    /// Nobody asks for these any more, so nobody needs to know what is wrong with them.
    fn forget_rejections(&self, names: &[FunctionName]) {
        let mut rejected = lock(&self.rejected);
        for name in names {
            rejected.remove(name);
        }
    }

    /// It has answered.
    fn is_there(&self) {
        let was_away = {
            let mut freshness = self.freshness();
            let was_away = freshness.away().is_some();
            freshness.answered();
            was_away
        };
        if was_away {
            info!(self.log, "the store answers again");
            self.say(WatchEvent::Reach(None));
            // Everything may have changed meanwhile.
            self.wake.notify_one();
        }
    }

    /// It has not. Said anew each time: whoever listens may have been restarted.
    fn is_away(&self, reason: &str) {
        let is_news = self.freshness().failed(reason.to_owned(), chance(), Instant::now());
        if is_news {
            warn!(self.log, "the store does not answer: copies are served"; "error" => reason);
        }
        self.say(WatchEvent::Reach(Some(format!("{}: {reason}", self.address.text))));
        self.wake.notify_one();
    }

    fn away(&self, StoreError(reason): StoreError) -> UploadError {
        self.is_away(&reason);
        UploadError::Away(reason)
    }
}

/// All of an object that is one file of Python. `None`: it is longer than any that is taken.
async fn read_whole(object: Object) -> Result<Option<Vec<u8>>, StoreError> {
    let (mut code, mut pieces) = (Vec::new(), object.pieces);
    while let Some(piece) = pieces.next().await {
        code.extend_from_slice(&piece?);
        if code.len() as u64 > FILE_BYTES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(code))
}

/// A runtime of its own, on one thread: it only waits. It ends when what is given back is dropped.
fn start_runtime() -> io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("store".to_owned()).spawn(move || {
        // Nothing is ever sent.
        let _ = runtime.block_on(ended);
        runtime.shutdown_background();
    })?;
    Ok((handle, end))
}

/// Files are slow, and the store's thread waits for others meanwhile.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(FetchError::Local(error.to_string())))
}

fn local(error: &UploadError) -> FetchError {
    FetchError::Local(format!("the copy cannot be written: {error}"))
}

/// A number from 0 to 1, another each time.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0) >> 32;
    bits as f64 / f64::from(u32::MAX)
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is whole at every moment.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
