//! The root of the log: where records go, and how those of the libraries get there.

use slog::{Drain, Level, LevelFilter, Logger, o};

/// Records that may wait to be written. When the reader of the log is stuck, the worker waits rather than loses any.
const QUEUE_LENGTH: usize = 8192;

/// Held by `main` until the end: dropping it writes what is left.
#[must_use = "dropped at once, it ends the log"]
pub struct LogGuard(#[expect(dead_code, reason = "its destructor is what it is for")] slog_async::AsyncGuard);

/// Logs to standard error, one record a line. `level` is what is written at least.
pub fn start(level: Level) -> (Logger, LogGuard) {
    let decorator = slog_term::PlainSyncDecorator::new(std::io::stderr());
    let sink = slog_term::FullFormat::new(decorator).use_utc_timestamp().build().ignore_res();
    let (drain, guard) = slog_async::Async::new(sink)
        .chan_size(QUEUE_LENGTH)
        .overflow_strategy(slog_async::OverflowStrategy::Block)
        .thread_name("log".into())
        .build_with_guard();
    // Not `fuse`: threads that log after the guard is gone would panic.
    let root = Logger::root(LevelFilter::new(drain, level).ignore_res(), o!());
    // Libraries log through the crate `log`; theirs is the same stream. The global logger stays for ever, for threads
    // that outlive `main`'s end.
    slog_scope::set_global_logger(root.new(o!("part" => "library"))).cancel_reset();
    // Only the first worker of a process can set it; a test may start a second one.
    let _ = slog_stdlog::init_with_level(log::Level::Warn);
    (root, LogGuard(guard))
}
