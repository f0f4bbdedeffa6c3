//! Watching the registry: which functions were touched.
//!
//! One inotify watch per directory, set by the thread here and not by the library, in this order: set
//! the watch, then look what is already inside, then tell. So nothing that is written between the
//! appearance of a directory and its watch is lost, and no time has to be guessed. Where the kernel gives
//! no more watches, the whole registry is looked at every `registry_cache_ms` instead.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actors::name::FunctionName;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use slog::{Logger, info, warn};

use super::form::{FILE_SUFFIX, Found, Seen, function_of};

/// Events that may wait; one more, and the whole registry is looked at. Unpacking a large package makes
/// about this many before the thread gets a turn.
const N_SIGNALS_MAX: usize = 8192;

/// Events that follow each other within this time are told together.
const QUIET: Duration = Duration::from_millis(10);

/// What is touched without a pause is told at least this often.
const BATCH_MAX: Duration = Duration::from_millis(100);

/// How often to look whether a registry that went away is back.
const MISSING_POLL: Duration = Duration::from_millis(100);

/// Something happened in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// These functions may have changed, appeared or gone; sorted.
    Touched(Vec<FunctionName>),
    /// Any function may have.
    Rescan,
    /// The place where functions lie does not answer, for this reason, or with `None`, answers again.
    Reach(Option<String>),
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watch {
    signals: SyncSender<Signal>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Signal {
    Event(notify::Result<Event>),
    Stop,
}

impl Watch {
    /// Watch the registry in `root`, and call `tell` from a thread of its own. What happens after this
    /// returns is told. `poll` is how often to look where there are no events.
    pub fn start(
        root: &Path,
        poll: Duration,
        log: Logger,
        tell: impl Fn(WatchEvent) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, signals) = sync_channel(N_SIGNALS_MAX);
        let stopped = Arc::new(AtomicBool::new(false));
        let mut eyes = Eyes {
            root: root.to_owned(),
            poll,
            log,
            sender: sender.clone(),
            overflowed: Arc::new(AtomicBool::new(false)),
            view: View::Missing,
        };
        eyes.look();
        let until = Arc::clone(&stopped);
        let thread = std::thread::Builder::new()
            .name("registry-watch".to_owned())
            .spawn(move || eyes.run(&signals, &until, &tell))?;
        Ok(Self { signals: sender, stopped, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // If the channel is full, the thread is awake and sees the flag.
        let _ = self.signals.try_send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How the registry is seen at the moment.
enum View {
    Events {
        watcher: RecommendedWatcher,
        /// Device and inode of the root that is watched.
        root: (u64, u64),
    },
    /// There is no such directory.
    Missing,
    /// The kernel gives no (more) watches.
    Polling,
}

struct Eyes {
    root: PathBuf,
    poll: Duration,
    log: Logger,
    sender: SyncSender<Signal>,
    overflowed: Arc<AtomicBool>,
    view: View,
}

/// What a batch of events amounts to.
#[derive(Default)]
struct Batch {
    touched: BTreeSet<FunctionName>,
    rescan: bool,
    root_went: bool,
}

impl Eyes {
    fn run(mut self, signals: &Receiver<Signal>, stopped: &AtomicBool, tell: &impl Fn(WatchEvent)) {
        loop {
            let wait = match self.view {
                View::Missing => MISSING_POLL.min(self.poll),
                View::Events { .. } | View::Polling => self.poll,
            };
            let mut batch = Batch::default();
            match signals.recv_timeout(wait) {
                Ok(Signal::Event(event)) => self.take_in(event, &mut batch),
                Err(RecvTimeoutError::Timeout) => self.look_again(&mut batch),
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            let started = Instant::now();
            while started.elapsed() < BATCH_MAX && !stopped.load(Ordering::Acquire) {
                match signals.recv_timeout(QUIET) {
                    Ok(Signal::Event(event)) => self.take_in(event, &mut batch),
                    Ok(Signal::Stop) => return,
                    Err(_) => break,
                }
            }
            if stopped.load(Ordering::Acquire) {
                return;
            }
            if self.overflowed.swap(false, Ordering::AcqRel) {
                batch.rescan = true;
            }
            // Whatever was lost may have been the appearance of a directory: set all watches anew.
            if batch.root_went || (batch.rescan && !matches!(self.view, View::Polling)) {
                self.look();
                batch.rescan = true;
            }
            if batch.rescan {
                tell(WatchEvent::Rescan);
            } else if !batch.touched.is_empty() {
                tell(WatchEvent::Touched(batch.touched.into_iter().collect()));
            }
        }
    }

    /// Nothing happened for a while. Is it still the same directory?
    fn look_again(&mut self, batch: &mut Batch) {
        match &self.view {
            View::Polling => batch.rescan = true,
            View::Events { root, .. } => batch.root_went = identity(&self.root) != Some(*root),
            View::Missing => batch.root_went = identity(&self.root).is_some(),
        }
    }

    /// Set all watches anew.
    fn look(&mut self) {
        let was_missing = matches!(self.view, View::Missing);
        let Some(root) = identity(&self.root) else {
            if !was_missing {
                warn!(self.log, "the registry is gone"; "path" => %self.root.display());
            }
            self.view = View::Missing;
            return;
        };
        // The old watches first: there may be no room for both.
        self.view = View::Polling;
        let watched = self.watcher().and_then(|mut watcher| {
            watch_tree(&mut watcher, &self.root, fs::metadata)?;
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => self.view = View::Events { watcher, root },
            Err(error) => self.give_up_events(&error),
        }
    }

    fn watcher(&self) -> notify::Result<RecommendedWatcher> {
        let (sender, overflowed) = (self.sender.clone(), Arc::clone(&self.overflowed));
        let handler = move |event: notify::Result<Event>| {
            // Reading the registry makes events as well.
            if event.as_ref().is_ok_and(|event| is_reading(event.kind)) {
                return;
            }
            if let Err(TrySendError::Full(_)) = sender.try_send(Signal::Event(event)) {
                overflowed.store(true, Ordering::Release);
            }
        };
        RecommendedWatcher::new(handler, Config::default().with_follow_symlinks(false))
    }

    fn give_up_events(&mut self, error: &notify::Error) {
        warn!(self.log, "cannot watch the registry, so it is looked at from time to time";
            "path" => %self.root.display(), "interval_ms" => self.poll.as_millis() as u64, "error" => %error,
            "hint" => "raise fs.inotify.max_user_watches or fs.inotify.max_user_instances");
        self.view = View::Polling;
    }

    fn take_in(&mut self, event: notify::Result<Event>, batch: &mut Batch) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                info!(self.log, "an event of the registry was lost"; "error" => %error);
                batch.rescan = true;
                return;
            }
        };
        if event.need_rescan() {
            batch.rescan = true;
        }
        for path in &event.paths {
            if *path == self.root {
                let went =
                    matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
                batch.root_went |= went;
                continue;
            }
            batch.touched.extend(self.functions_at(path));
            let appeared = matches!(
                event.kind,
                EventKind::Create(CreateKind::Folder) | EventKind::Modify(ModifyKind::Name(RenameMode::To))
            );
            if appeared
                && let View::Events { watcher, .. } = &mut self.view
                && let Err(error) = watch_tree(watcher, path, fs::symlink_metadata)
            {
                self.give_up_events(&error);
                batch.rescan = true;
            }
        }
    }

    /// The function that a path in the registry belongs to; two, where it depends on what lay there. One that does not exist is read
    /// in a moment, and is no news.
    fn functions_at(&self, path: &Path) -> impl Iterator<Item = FunctionName> + use<> {
        let inside = path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let mut parts = inside.components();
        let first = match parts.next() {
            Some(Component::Normal(first)) => first.to_str().unwrap_or(""),
            _ => "",
        };
        let of = |seen| match function_of(first, seen) {
            Found::Function(name) => Some(name),
            Found::Nothing | Found::BadName => None,
        };
        let folder = of(Seen::Directory);
        let file =
            if first.ends_with(FILE_SUFFIX) && parts.next().is_none() { of(Seen::Other) } else { None };
        [folder, file].into_iter().flatten()
    }
}

fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

/// Watch `path`, if `look` says that it is a directory, and all directories in it. What goes away
/// meanwhile is passed over: that is told by the watch of the directory it was in.
fn watch_tree(
    watcher: &mut RecommendedWatcher,
    path: &Path,
    look: impl Fn(PathBuf) -> std::io::Result<fs::Metadata>,
) -> notify::Result<()> {
    let mut pending = Vec::new();
    if look(path.to_owned()).is_ok_and(|metadata| metadata.is_dir()) {
        pending.push(path.to_owned());
    }
    while let Some(path) = pending.pop() {
        match watcher.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => {}
            Err(error) if has_gone(&error) => continue,
            Err(error) => return Err(error),
        }
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
    }
    Ok(())
}

fn has_gone(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        }
        _ => false,
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use slog::{Discard, o};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    struct Scene {
        dir: tempfile::TempDir,
        events: Receiver<WatchEvent>,
        _watch: Watch,
    }

    impl Scene {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("registry");
            fs::create_dir(&root).unwrap();
            let (sender, events) = channel();
            let watch =
                Watch::start(&root, Duration::from_secs(3600), Logger::root(Discard, o!()), move |event| {
                    let _ = sender.send(event);
                });
            Self { dir, events, _watch: watch.unwrap() }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("registry")
        }

        /// Wait until `name` is told, alone or in a rescan.
        fn expect(&self, name: &str) {
            let start = Instant::now();
            loop {
                let left = DEADLINE.checked_sub(start.elapsed()).expect("it is told in time");
                match self.events.recv_timeout(left).expect("it is told in time") {
                    WatchEvent::Touched(names) if names.iter().any(|told| told.as_str() == name) => return,
                    _ => {}
                }
            }
        }

        fn expect_rescan(&self) {
            while self.events.recv_timeout(DEADLINE).expect("it is told in time") != WatchEvent::Rescan {}
        }

        /// Everything told up to now is forgotten: a marker goes through the same queue.
        fn settle(&self, marker: &str) {
            fs::create_dir(self.root().join(marker)).unwrap();
            self.expect(marker);
        }
    }

    #[test]
    fn a_folder_and_what_is_written_into_it_later_are_told() {
        let scene = Scene::start();
        let folder = scene.root().join("hello");
        fs::create_dir_all(folder.join("a/b/c")).unwrap();
        scene.expect("hello");
        scene.settle("marker");
        fs::write(folder.join("a/b/c/x.py"), "1").unwrap();
        scene.expect("hello");
        scene.settle("marker2");
        fs::remove_dir_all(&folder).unwrap();
        scene.expect("hello");
    }

    #[test]
    fn an_archive_that_is_renamed_into_place_is_told() {
        let scene = Scene::start();
        fs::write(scene.root().join(".upload-1"), "x").unwrap();
        fs::rename(scene.root().join(".upload-1"), scene.root().join("up.tar.gz")).unwrap();
        scene.expect("up");
    }

    #[test]
    fn a_python_file_that_is_written_renamed_or_removed_is_told() {
        let scene = Scene::start();
        fs::write(scene.root().join("one.py"), "1").unwrap();
        scene.expect("one");
        scene.settle("marker");
        fs::rename(scene.root().join("one.py"), scene.root().join("two.py")).unwrap();
        scene.expect("two");
        scene.settle("marker2");
        fs::remove_file(scene.root().join("two.py")).unwrap();
        scene.expect("two");
        // A folder may be called like one.
        fs::create_dir(scene.root().join("three.py")).unwrap();
        scene.expect("three.py");
        scene.settle("marker3");
        fs::write(scene.root().join("three.py/f.py"), "1").unwrap();
        scene.expect("three.py");
    }

    #[test]
    fn a_folder_that_is_renamed_is_watched_under_its_new_name() {
        let scene = Scene::start();
        fs::create_dir_all(scene.root().join("old/sub")).unwrap();
        scene.expect("old");
        fs::rename(scene.root().join("old"), scene.root().join("new")).unwrap();
        scene.expect("new");
        scene.settle("marker");
        fs::write(scene.root().join("new/sub/x"), "1").unwrap();
        scene.expect("new");
    }

    #[test]
    fn hidden_names_are_not_told() {
        let scene = Scene::start();
        fs::create_dir(scene.root().join(".hidden")).unwrap();
        fs::write(scene.root().join("bad name"), "1").unwrap();
        fs::create_dir(scene.root().join("seen")).unwrap();
        let WatchEvent::Touched(names) = scene.events.recv_timeout(DEADLINE).unwrap() else {
            panic!("no rescan is due")
        };
        assert_eq!(names, ["seen".parse().unwrap()]);
    }

    #[test]
    fn a_registry_that_is_deleted_and_made_again_is_watched_again() {
        let scene = Scene::start();
        fs::create_dir(scene.root().join("one")).unwrap();
        scene.expect("one");
        fs::remove_dir_all(scene.root()).unwrap();
        scene.expect_rescan();
        fs::create_dir(scene.root()).unwrap();
        scene.expect_rescan();
        fs::create_dir(scene.root().join("two")).unwrap();
        scene.expect("two");
    }

    #[test]
    fn events_that_the_kernel_lost_lead_to_a_rescan() {
        let (mut eyes, _signals) = eyes();
        let mut batch = Batch::default();
        eyes.take_in(Ok(Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan)), &mut batch);
        assert!(batch.rescan);
        let mut batch = Batch::default();
        eyes.take_in(Err(notify::Error::generic("lost")), &mut batch);
        assert!(batch.rescan);
    }

    #[test]
    fn without_watches_the_registry_is_looked_at_every_time() {
        let (mut eyes, _signals) = eyes();
        eyes.give_up_events(&notify::Error::new(ErrorKind::MaxFilesWatch));
        for _ in 0..2 {
            let mut batch = Batch::default();
            eyes.look_again(&mut batch);
            assert!(batch.rescan);
        }
    }

    #[test]
    fn a_registry_that_was_exchanged_is_noticed_without_an_event() {
        let (mut eyes, _signals) = eyes();
        let mut batch = Batch::default();
        eyes.look_again(&mut batch);
        assert!(!batch.root_went && !batch.rescan, "it is the same still");
        if let View::Events { root, .. } = &mut eyes.view {
            root.1 += 1;
        }
        eyes.look_again(&mut batch);
        assert!(batch.root_went);
    }

    fn eyes() -> (Eyes, Receiver<Signal>) {
        let (sender, signals) = sync_channel(N_SIGNALS_MAX);
        let mut eyes = Eyes {
            root: std::env::temp_dir(),
            poll: Duration::from_secs(1),
            log: Logger::root(Discard, o!()),
            sender,
            overflowed: Arc::new(AtomicBool::new(false)),
            view: View::Missing,
        };
        let watcher = eyes.watcher().unwrap();
        eyes.view = View::Events { watcher, root: identity(&eyes.root).unwrap() };
        (eyes, signals)
    }

    #[test]
    fn dropping_it_ends_its_thread() {
        let Scene { dir, events, _watch: watch } = Scene::start();
        drop(watch);
        fs::create_dir(dir.path().join("registry/late")).unwrap();
        assert!(events.recv().is_err(), "the sender went with the thread");
    }
}
