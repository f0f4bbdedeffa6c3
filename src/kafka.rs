//! Readers of Kafka, one for each trigger: what [`actors::kafka`] opens and drops.
//!
//! ```text
//!   librdkafka's threads ─▶ feed (a thread) ─▶ one queue per partition ─▶ the thread of triggers: calls the function,
//!        fetch, heartbeats    pause, resume,                              one record after the other
//!                             seek, commit ◀──────── done up to here ◀───────────┘
//! ```
//!
//! A record is committed after its call has succeeded, or it was given up; never before. So a worker that is killed calls
//! some records again, and loses none. What the bytes go through, and why: `docs/decisions/0014-triggers.md`.

mod feed;
mod partition;
mod record;
mod shared;
mod telling;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use actors::kafka::{FEEDS_MAX, group};
use actors::name::FunctionName;
use actors::stats::FeedFigures;
use actors::world::{Feed, Feeds, KafkaSource};
use slog::{Logger, o};
use tokio::sync::mpsc;

use crate::stats::Stats;
use crate::triggers::Desk;
use feed::Plan;
use shared::{Command, Shared};

/// What the configuration says of all readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KafkaSettings {
    /// After how long without a sign of life the group gives a reader's partitions to others.
    pub session_timeout: Duration,
    /// How often a reader gives one.
    pub heartbeat_interval: Duration,
}

/// Opens readers. A clone opens the same.
#[derive(Debug, Clone)]
pub struct KafkaFeeds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    desk: Desk,
    settings: KafkaSettings,
    /// How long a reader that is dropped waits for the calls under way.
    grace: Duration,
    running: Arc<Running>,
    stats: &'static Stats,
    log: Logger,
}

/// How many readers there are, those included that are about to end.
#[derive(Debug, Default)]
struct Running {
    n: Mutex<usize>,
    changed: Condvar,
}

/// Readers that may be on their way out besides those that read: each has several threads until its last call is over, so that
/// changing a function again and again must not make ever more of them.
const ENDING_MAX: usize = 32;

/// Counts a reader for as long as it lives.
struct Counted(Arc<Running>);

impl Counted {
    /// `None`: there are too many already.
    fn new(running: &Arc<Running>) -> Option<Self> {
        let mut n = running.n.lock().unwrap_or_else(PoisonError::into_inner);
        if *n >= FEEDS_MAX + ENDING_MAX {
            return None;
        }
        *n += 1;
        Some(Self(Arc::clone(running)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.n.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}

impl KafkaFeeds {
    /// Calls are made at this desk.
    #[must_use]
    pub fn new(
        desk: Desk,
        settings: KafkaSettings,
        grace: Duration,
        stats: &'static Stats,
        log: Logger,
    ) -> Self {
        Self(Arc::new(Inner { desk, settings, grace, running: Arc::default(), stats, log }))
    }

    /// Waits until all readers that were dropped have committed and left their groups, or until the patience is over; gives
    /// how many have not. Blocks.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> usize {
        let running = &self.0.running;
        let deadline = Instant::now() + patience;
        let mut n = running.n.lock().unwrap_or_else(PoisonError::into_inner);
        while *n > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            n = running.changed.wait_timeout(n, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *n
    }
}

impl Feeds for KafkaFeeds {
    type Feed = KafkaFeed;

    fn open(&self, name: &FunctionName, source: &KafkaSource) -> Result<KafkaFeed, String> {
        let inner = &self.0;
        // Bounded by what there is to say of a partition: that it is paused no more, which the reader itself must have paused
        // before; one seek, which is waited for; and once the end.
        let (commands, heard) = mpsc::unbounded_channel();
        let plan = Plan {
            name: name.clone(),
            group: group(name),
            source: source.clone(),
            settings: inner.settings,
            grace: inner.grace,
            desk: inner.desk.clone(),
            stats: inner.stats,
            log: inner.log.new(o!("lambda" => name.to_string(), "topics" => source.topics.join(" "))),
        };
        let shared = Arc::new(Shared::new(commands));
        let counted = Counted::new(&inner.running)
            .ok_or_else(|| "too many readers of Kafka have not ended yet; tried again".to_owned())?;
        let for_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("kafka-feed".to_owned())
            .spawn(move || {
                feed::run(plan, &for_thread, heard);
                drop(counted);
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(KafkaFeed { shared })
    }
}

/// A reader, which reads until this is dropped.
#[derive(Debug)]
pub struct KafkaFeed {
    shared: Arc<Shared>,
}

impl Feed for KafkaFeed {
    fn is_alive(&self) -> bool {
        !self.shared.has_ended()
    }

    fn figures(&self) -> FeedFigures {
        self.shared.figures()
    }
}

impl Drop for KafkaFeed {
    fn drop(&mut self) {
        self.shared.command(Command::Stop);
    }
}
