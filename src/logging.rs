//! The root of the log: where records go, which are written, and how those of the libraries get there.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use slog::{Drain, Level, LevelFilter, Logger, o};

use crate::rotated::RotatedFile;

/// Records that may wait to be written. When the reader of the log is stuck, the worker waits rather than loses any.
const QUEUE_LENGTH: usize = 8192;

/// Held by `main` until the end: dropping it writes what is left.
#[must_use = "dropped at once, it ends the log"]
pub struct LogGuard(#[expect(dead_code, reason = "its destructor is what it is for")] slog_async::AsyncGuard);

/// Where records go.
#[derive(Debug)]
pub enum Sink {
    /// To whoever started the worker.
    StandardError,
    /// To a file with a bound in bytes. What else is written to standard output and error goes there as well.
    File(PathBuf, u64),
}

/// The log, for parts of the worker that say more or less.
#[derive(Debug, Clone)]
pub struct Log {
    plain: Logger,
    detailed: Logger,
}

impl Log {
    /// For a part of the worker: with its details (level debug), or without (level info).
    pub fn part(&self, in_detail: bool) -> Logger {
        if in_detail { self.detailed.clone() } else { self.plain.clone() }
    }
}

/// Starts the log, one record a line.
pub fn start(sink: Sink) -> (Log, LogGuard) {
    let (drain, guard) = match sink {
        Sink::StandardError => in_background(io::stderr()),
        Sink::File(path, bytes_max) => in_background(OwnFile(RotatedFile::new(path, bytes_max))),
    };
    let drain = Arc::new(drain);
    // Not `fuse`: threads that log after the guard is gone would panic.
    let root = |level| Logger::root(LevelFilter::new(Arc::clone(&drain), level).ignore_res(), o!());
    let log = Log { plain: root(Level::Info), detailed: root(Level::Debug) };
    // Libraries log through the crate `log`; theirs is the same stream. The global logger stays for ever, for threads
    // that outlive `main`'s end.
    slog_scope::set_global_logger(log.plain.new(o!("part" => "library"))).cancel_reset();
    // Only the first worker of a process can set it; a test may start a second one.
    let _ = slog_stdlog::init_with_level(log::Level::Warn);
    (log, LogGuard(guard))
}

/// A thread writes, so that nobody who logs waits for a disk.
fn in_background(to: impl Write + Send + 'static) -> (slog_async::Async, slog_async::AsyncGuard) {
    let sink = slog_term::FullFormat::new(slog_term::PlainSyncDecorator::new(to))
        .use_utc_timestamp()
        .build()
        .ignore_res();
    slog_async::Async::new(sink)
        .chan_size(QUEUE_LENGTH)
        .overflow_strategy(slog_async::OverflowStrategy::Block)
        .thread_name("log".into())
        .build_with_guard()
}

/// The file of a worker in the background, which is its standard output and error as well.
struct OwnFile(RotatedFile);

impl Write for OwnFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = self.0.append(bytes)? {
            // A panic's message belongs to the log, and not to a file that was put aside.
            nix::unistd::dup2_stdout(file)?;
            nix::unistd::dup2_stderr(file)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
