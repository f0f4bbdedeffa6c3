//! The root of the log: where records go, which are written, and how those of the libraries get there.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use slog::{Drain, Level, LevelFilter, Logger, o};

use crate::rotated::RotatedFile;

/// Records that may wait to be written. Where whoever reads them has stopped, those beyond are lost, and how many they were is said
/// when it goes on: a worker whose log is not read serves on.
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
        .overflow_strategy(slog_async::OverflowStrategy::DropAndReport)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A reader that has stopped, until it is told to go on.
    struct Stuck {
        go_on: mpsc::Receiver<()>,
        goes_on: bool,
        read: mpsc::Sender<String>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.goes_on {
                self.goes_on = self.go_on.recv().is_ok();
            }
            // The test may have heard enough.
            let _ = self.read.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_who_logs_waits_for_a_reader_that_has_stopped_and_what_is_lost_is_counted() {
        let (tell, go_on) = mpsc::channel();
        let (read, said) = mpsc::channel();
        let (drain, guard) = in_background(Stuck { go_on, goes_on: false, read });
        let log = Logger::root(drain.ignore_res(), o!());
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            (0..2 * QUEUE_LENGTH).for_each(|n| slog::info!(log, "one of many"; "n" => n));
            done.send(log)
        });
        let log = is_done.recv_timeout(Duration::from_secs(60)).expect("nobody who logs waits");
        tell.send(()).unwrap();
        // Once some are written there is room again.
        let mut before = said.recv().expect("it reads on");
        while before.matches("one of many").count() < QUEUE_LENGTH {
            before += &said.recv().expect("it reads on");
        }
        slog::info!(log, "the last one");
        drop((log, guard));
        let said: String = std::iter::once(before).chain(said.iter()).collect();
        assert!(said.contains("dropped messages"), "{}", said.len());
        assert!(said.matches("one of many").count() >= QUEUE_LENGTH);
    }
}
