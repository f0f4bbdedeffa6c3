//! What the threads around one reader share: its own, librdkafka's that call back, and the one that calls the function.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actors::kafka::inflow::Inflow;
use actors::stats::{FeedFigures, FeedState};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::record::Record;
use super::telling::Telling;

/// A partition of a topic.
pub(super) type Key = (Arc<str>, i32);

/// Calls of one trigger that are made at once: as many as a function has sandboxes, if nothing else is said. Partitions
/// beyond it take turns.
const CALLS_MAX: usize = 64;
/// How often it is looked whether a call has ended that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a reader is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Of these there is little left.
    Resume(Vec<Key>),
    /// Read this one next.
    Seek { key: Key, offset: i64, done: oneshot::Sender<Result<(), String>> },
    /// Commit, and end.
    Stop,
}

/// Why a reader cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It passes when a broker answers.
    Brokers(String),
    /// It passes when there is such a topic.
    Topic(String),
    /// It passes when a dead letter can be sent.
    Letters(String),
    /// It passes when a record comes.
    Other(String),
}

impl Trouble {
    fn text(&self) -> &str {
        match self {
            Self::Brokers(text) | Self::Topic(text) | Self::Letters(text) | Self::Other(text) => text,
        }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    commands: mpsc::UnboundedSender<Command>,
    figures: Mutex<FeedFigures>,
    trouble: Mutex<Option<Trouble>>,
    positions: Mutex<HashMap<Key, Position>>,
    pub(super) inflow: Mutex<Inflow<Key>>,
    partitions: Mutex<HashMap<Arc<str>, HashMap<i32, Partition>>>,
    /// For calls.
    pub(super) permits: Semaphore,
    has_ended: AtomicBool,
    /// Of commits that fail: without a broker, two a second.
    pub(super) uncommitted: Telling,
}

/// Up to where a partition is done.
#[derive(Debug, Clone, Copy)]
struct Position {
    next: i64,
    is_committed: bool,
}

/// A partition as its reader sees it.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) key: Key,
    pub(super) records: mpsc::UnboundedSender<Item>,
    pub(super) run: Arc<Run>,
    stop: watch::Sender<()>,
}

/// A record on its way.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) record: Record,
    /// Which seek it comes after.
    pub(super) epoch: u64,
}

/// What both ends of a partition's queue look at.
#[derive(Debug, Default)]
pub(super) struct Run {
    epoch: AtomicU64,
    phase: AtomicU8,
    is_busy: AtomicBool,
}

const RUNNING: u8 = 0;
/// It ends with the call under way, whose record counts.
const STOPPING: u8 = 1;
/// Nothing that it does counts any more.
const ABANDONED: u8 = 2;

impl Run {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase.load(Ordering::SeqCst) != RUNNING
    }

    /// Begins with a record, unless it is over: whoever stops it sees either that it is busy, or that it will not be.
    pub(super) fn begin(&self) -> bool {
        self.is_busy.store(true, Ordering::SeqCst);
        if self.is_over() {
            self.end();
            return false;
        }
        true
    }

    pub(super) fn end(&self) {
        self.is_busy.store(false, Ordering::SeqCst);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(commands: mpsc::UnboundedSender<Command>) -> Self {
        Self {
            commands,
            figures: Mutex::default(),
            trouble: Mutex::default(),
            positions: Mutex::default(),
            inflow: Mutex::default(),
            partitions: Mutex::default(),
            permits: Semaphore::new(CALLS_MAX),
            has_ended: AtomicBool::new(false),
            uncommitted: Telling::default(),
        }
    }

    pub(super) fn command(&self, command: Command) {
        // A reader that has ended does nothing any more.
        let _ = self.commands.send(command);
    }

    // How it fares.

    pub(super) fn figures(&self) -> FeedFigures {
        let mut figures = lock(&self.figures).clone();
        if let Some(trouble) = &*lock(&self.trouble) {
            figures.state = FeedState::Trouble;
            figures.trouble = trouble.text().to_owned();
        }
        figures.waiting_bytes = lock(&self.inflow).bytes();
        figures
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut FeedFigures)) {
        change(&mut lock(&self.figures));
    }

    /// Notes a trouble. `true`: it is another one than before.
    pub(super) fn troubled(&self, trouble: Trouble) -> bool {
        let mut now = lock(&self.trouble);
        let is_new = now.as_ref() != Some(&trouble);
        *now = Some(trouble);
        is_new
    }

    /// The trouble is over if it is such a one. `true`: it was.
    pub(super) fn relieved(&self, is_such: impl FnOnce(&Trouble) -> bool) -> bool {
        let mut now = lock(&self.trouble);
        if !now.as_ref().is_some_and(is_such) {
            return false;
        }
        *now = None;
        true
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    pub(super) fn ended(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
    }

    // Up to where it is.

    /// The partition goes on at `next`, if what was done counts still.
    pub(super) fn reached(&self, key: &Key, run: &Run, next: i64) {
        let mut positions = lock(&self.positions);
        if run.phase.load(Ordering::SeqCst) != ABANDONED {
            positions.insert(key.clone(), Position { next, is_committed: false });
        }
    }

    /// What is to be committed.
    pub(super) fn uncommitted(&self) -> Vec<(Key, i64)> {
        let mut found = Vec::new();
        for (key, position) in lock(&self.positions).iter_mut() {
            if !position.is_committed {
                position.is_committed = true;
                found.push((key.clone(), position.next));
            }
        }
        found
    }

    /// The last commit has failed: all of it again.
    pub(super) fn commit_again(&self) {
        for position in lock(&self.positions).values_mut() {
            position.is_committed = false;
        }
    }

    // Its partitions.

    /// Does something with a partition; `None`: there is no such queue yet, or no more.
    pub(super) fn with<T>(
        &self,
        topic: &str,
        partition: i32,
        act: impl FnOnce(&Partition) -> T,
    ) -> Option<T> {
        lock(&self.partitions).get(topic)?.get(&partition).map(act)
    }

    /// Makes a queue for a partition; gives the other end of it, and what tells of its end.
    pub(super) fn open(
        &self,
        topic: &str,
        partition: i32,
    ) -> (Key, Arc<Run>, mpsc::UnboundedReceiver<Item>, watch::Receiver<()>) {
        let mut partitions = lock(&self.partitions);
        let topic = match partitions.get_key_value(topic) {
            Some((topic, _)) => Arc::clone(topic),
            None => Arc::from(topic),
        };
        let key = (Arc::clone(&topic), partition);
        // Bounded by [`Inflow`]: beyond it the partition is paused.
        let (records, queue) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(());
        let run = Arc::new(Run::default());
        let opened = Partition { key: key.clone(), records, run: Arc::clone(&run), stop };
        partitions.entry(topic).or_default().insert(partition, opened);
        (key, run, queue, stopped)
    }

    /// From now on what was read before does not count.
    pub(super) fn next_epoch(&self, key: &Key) -> bool {
        let bumped = self.with(&key.0, key.1, |partition| partition.run.epoch.fetch_add(1, Ordering::SeqCst));
        bumped.is_some()
    }

    /// Ends partitions (`None`: all), each with the call that is under way, if that does not take longer than `patience`.
    /// Gives what is to be committed of them. Blocks.
    pub(super) fn stop(&self, keys: Option<Vec<(String, i32)>>, patience: Duration) -> Vec<(Key, i64)> {
        let stopped: Vec<Partition> = {
            let mut partitions = lock(&self.partitions);
            match keys {
                None => partitions.drain().flat_map(|(_, topic)| topic.into_values()).collect(),
                Some(keys) => {
                    let mut take = |(topic, n): (String, i32)| partitions.get_mut(topic.as_str())?.remove(&n);
                    keys.into_iter().filter_map(&mut take).collect()
                }
            }
        };
        for partition in &stopped {
            partition.run.phase.store(STOPPING, Ordering::SeqCst);
            // Who waits between two calls need not.
            let _ = partition.stop.send(());
        }
        let deadline = Instant::now() + patience;
        for partition in &stopped {
            while partition.run.is_busy.load(Ordering::SeqCst) && Instant::now() < deadline {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        let mut found = Vec::new();
        let mut positions = lock(&self.positions);
        for partition in &stopped {
            partition.run.phase.store(ABANDONED, Ordering::SeqCst);
            if let Some(position) = positions.remove(&partition.key)
                && !position.is_committed
            {
                found.push((partition.key.clone(), position.next));
            }
        }
        drop(positions);
        let mut inflow = lock(&self.inflow);
        let mut resumed = Vec::new();
        for partition in &stopped {
            resumed.extend(inflow.forget(&partition.key));
        }
        drop(inflow);
        if !resumed.is_empty() {
            self.command(Command::Resume(resumed));
        }
        found
    }
}
