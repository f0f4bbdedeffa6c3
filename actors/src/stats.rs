//! What people are told: plain structs, ready to be serialized.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::name::FunctionName;

/// What a lambda is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No sandbox serves yet, and one is being made.
    Starting,
    /// Requests are served, or would be: with no sandbox at all, the first request makes one.
    Ready,
    /// Requests get the new code, and invocations of the old one still run.
    Reloading,
    /// The last upload is broken. The code before it, if any, is served.
    Rejected,
    /// The lambda's actor failed too often, and is left alone for a while.
    Broken,
    /// The function is gone, or the worker ends.
    Retiring,
    /// The lambda's actor does not answer.
    Unresponsive,
}

/// One row of the status table.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LambdaStatus {
    /// The function.
    pub name: FunctionName,
    /// What it is up to.
    pub state: State,
    /// Counts the versions of the code since the worker started; 0: none could be served yet.
    pub generation: u64,
    /// The version of the code, as the registry names it.
    pub version: String,
    /// Sandboxes on loan to requests.
    pub busy: usize,
    /// Idle sandboxes that can answer at once.
    pub warm: usize,
    /// Idle sandboxes that are frozen.
    pub frozen: usize,
    /// Sandboxes that are being made.
    pub starting: usize,
    /// Requests that wait for a sandbox.
    pub queue: usize,
    /// Invocations that have ended, well or not.
    pub invocations: u64,
    /// Invocations that failed.
    pub errors: u64,
    /// Invocations that took too long, which are errors too.
    pub timeouts: u64,
    /// Requests that got no sandbox.
    pub refused: u64,
    /// Sandboxes made.
    pub cold_starts: u64,
    /// Median of the last half minute to minute, waiting included.
    pub p50_ms: Option<f64>,
    /// 99th percentile of the same.
    pub p99_ms: Option<f64>,
    /// Estimate: the mean of what was measured, times the number of sandboxes.
    pub memory_bytes: u64,
    /// What a person should know; empty when all is well.
    pub message: String,
}

/// A schedule of a function, and how its calls went since the worker started.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct CronStatus {
    /// As it stands in `ol.yaml`.
    pub schedule: String,
    /// The time zone that it is meant in.
    pub timezone: String,
    /// When it is due next; `None`: never again.
    pub next_unix_ms: Option<u64>,
    /// A call is being made.
    pub running: bool,
    /// Calls that have ended.
    pub runs: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Calls that were not made because the one before still ran.
    pub overlapping: u64,
    /// Calls that were not made because their time was passed over; at least so many.
    pub missed: u64,
    /// When the last of these was due.
    pub last_missed_unix_ms: Option<u64>,
    /// The last call that has ended.
    pub last: Option<LastRun>,
}

/// A call by the clock that has ended.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LastRun {
    /// When it was due.
    pub scheduled_unix_ms: u64,
    /// How long it took, waiting included.
    pub took_ms: f64,
    /// Whether the function answered with a status below 400.
    pub ok: bool,
    /// The status, and the end of what a failure said.
    pub text: String,
}

/// A Kafka trigger of a function.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct KafkaStatus {
    /// Brokers that are asked first.
    pub bootstrap_servers: Vec<String>,
    /// What is read.
    pub topics: Vec<String>,
    /// As which consumer group.
    pub group: String,
    /// What the reader is up to.
    pub state: FeedState,
    /// What a person should know; empty when all is well.
    pub message: String,
    /// How its records fared.
    #[serde(flatten)]
    pub figures: FeedFigures,
}

/// What a reader of Kafka is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedState {
    /// It looks for the brokers, or waits for its part of the topics.
    #[default]
    Joining,
    /// It has its part.
    Reading,
    /// It cannot; it goes on trying.
    Trouble,
    /// It was told to.
    Stopped,
}

/// How the records of a trigger fared, since its reader was started.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct FeedFigures {
    /// What the reader is up to.
    #[serde(skip)]
    pub state: FeedState,
    /// Why it cannot read.
    #[serde(skip)]
    pub trouble: String,
    /// Partitions that it reads.
    pub partitions: usize,
    /// Records that the function has taken.
    pub done: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Records that were given up.
    pub given_up: u64,
    /// Those of them that were sent to the dead-letter topic.
    pub dead_letters: u64,
    /// Times the function asked for another record.
    pub seeks: u64,
    /// Bytes that were read and wait for the function.
    pub waiting_bytes: usize,
    /// Records that are in the topics and not read yet, as far as is known.
    pub lag: Option<i64>,
    /// Why the last call failed.
    pub last_error: Option<String>,
}

/// Milliseconds since 1970; 0 for what was before.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Counters of the whole worker, since it started. Shared by all; adding is one relaxed atomic operation.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Sandboxes made.
    pub sandboxes_started: Counter,
    /// Sandboxes that could not be made.
    pub launches_failed: Counter,
    /// Standbys made.
    pub standbys_prepared: Counter,
    /// Standbys that could not be made.
    pub prepares_failed: Counter,
    /// Zygotes of lambdas made.
    pub lambda_zygotes_started: Counter,
    /// Sandboxes forked from such.
    pub lambda_zygote_forks: Counter,
    /// Zygotes of packages made.
    pub package_zygotes_started: Counter,
    /// Standbys forked from such.
    pub package_zygote_forks: Counter,
    /// Packages installed.
    pub packages_installed: Counter,
    /// Packages that were wanted and were there.
    pub package_hits: Counter,
    /// Packages that a sandbox was made with, each counted with the first.
    pub packages_used: Counter,
    /// Times packages were wanted and could not be had.
    pub package_failures: Counter,
    /// Lists of requirements that a resolver has settled.
    pub packages_settled: Counter,
    /// Packages removed to make room for others.
    pub packages_evicted: Counter,
    /// Times a sandbox was wanted and memory was too tight for it.
    pub room_refused: Counter,
    /// Idle sandboxes given up because memory was tight.
    pub released_under_pressure: Counter,
    /// Times the kernel said that programs wait for memory.
    pub memory_pressure: Counter,
    /// Busy sandboxes ended because the machine ran out of memory.
    pub ended_under_pressure: Counter,
    /// Actors started again after a panic.
    pub actors_restarted: Counter,
    /// Versions of functions' code that were taken into service.
    pub reloads: Counter,
    /// Uploads that could not be served.
    pub uploads_rejected: Counter,
}

/// [`WorkerStats`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[expect(missing_docs, reason = "the fields are those of WorkerStats")]
pub struct WorkerFigures {
    pub sandboxes_started: u64,
    pub launches_failed: u64,
    pub standbys_prepared: u64,
    pub prepares_failed: u64,
    pub lambda_zygotes_started: u64,
    pub lambda_zygote_forks: u64,
    pub package_zygotes_started: u64,
    pub package_zygote_forks: u64,
    pub packages_installed: u64,
    pub package_hits: u64,
    pub packages_used: u64,
    pub package_failures: u64,
    pub packages_settled: u64,
    pub packages_evicted: u64,
    pub room_refused: u64,
    pub released_under_pressure: u64,
    pub memory_pressure: u64,
    pub ended_under_pressure: u64,
    pub actors_restarted: u64,
    pub reloads: u64,
    pub uploads_rejected: u64,
}

impl WorkerStats {
    /// The counters now.
    #[must_use]
    pub fn read(&self) -> WorkerFigures {
        WorkerFigures {
            sandboxes_started: self.sandboxes_started.get(),
            launches_failed: self.launches_failed.get(),
            standbys_prepared: self.standbys_prepared.get(),
            prepares_failed: self.prepares_failed.get(),
            lambda_zygotes_started: self.lambda_zygotes_started.get(),
            lambda_zygote_forks: self.lambda_zygote_forks.get(),
            package_zygotes_started: self.package_zygotes_started.get(),
            package_zygote_forks: self.package_zygote_forks.get(),
            packages_installed: self.packages_installed.get(),
            package_hits: self.package_hits.get(),
            packages_used: self.packages_used.get(),
            package_failures: self.package_failures.get(),
            packages_settled: self.packages_settled.get(),
            packages_evicted: self.packages_evicted.get(),
            room_refused: self.room_refused.get(),
            released_under_pressure: self.released_under_pressure.get(),
            memory_pressure: self.memory_pressure.get(),
            ended_under_pressure: self.ended_under_pressure.get(),
            actors_restarted: self.actors_restarted.get(),
            reloads: self.reloads.get(),
            uploads_rejected: self.uploads_rejected.get(),
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn bump(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
