//! What functions print: read from a pipe per sandbox, written to a file per function, and some of it to the worker's log.
//!
//! One thread with an event loop of its own does all of it. Functions take turns at it, and in a turn little is read; each
//! has so many bytes a second, all its sandboxes together. So a function that floods its log slows down itself (its pipes
//! fill up, and its next `print` waits) and nobody else.

mod pace;
mod repeated;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::thread;
use std::time::{Instant, SystemTime};

use actors::name::FunctionName;
use slog::{Logger, warn};
use tokio::io::Interest;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::fd::watched;
use crate::rotated::RotatedFile;
use pace::Pace;
use repeated::{Repeater, Share};

/// Longest line that is kept; the rest of a longer one becomes the next line.
const LINE_BYTES_MAX: usize = 16 << 10;
/// What one function may print in a second, counted as it is written to the file (an empty line is one byte to the function,
/// and forty to us), before its pipes are left to fill up: far more than a person reads, and with all of its cost
/// (reading, cleaning, writing) about 5 % of a core.
const BYTES_PER_SECOND: u32 = 4 << 20;
/// The same for all functions together: a fifth of a core.
const ALL_PER_SECOND: u32 = 16 << 20;
/// What is read in one turn, which is what all others wait for: of empty lines, 160 KB to write.
const TURN_BYTES: usize = 4 << 10;
/// What a turn costs besides, in bytes that could have been written: who prints byte by byte is held back as well.
const TURN_COST: usize = 256;
/// What is read of a pipe after its sandbox is gone: the kernel's default size of one, so all that its processes have written. Who still
/// holds the other end is none of them: a zygote has it in its hands when it forks, and one that lies could keep it, and write.
const REST_BYTES: usize = 64 << 10;

/// Marks a record of the runtime's, see `docs/PROTOCOL.md`.
const RECORD: u8 = 0x1e;

/// Accepts pipes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    // Not bounded: one entry per sandbox that is made, and those are bounded.
    feeds: mpsc::UnboundedSender<Feed>,
}

#[derive(Debug)]
struct Feed {
    pipe: OwnedFd,
    sandbox: u64,
    name: oneshot::Receiver<FunctionName>,
    gone: oneshot::Receiver<()>,
}

/// Kept for as long as a sandbox's processes may print. Dropped, it ends the reading, after a moment.
#[derive(Debug)]
pub(super) struct Following(
    #[expect(dead_code, reason = "its end is all that it has to tell")] oneshot::Sender<()>,
);

/// Says whose output a pipe carries, once that is known. Dropped unused, it ends the reading.
#[derive(Debug)]
pub(super) struct Naming(oneshot::Sender<FunctionName>);

impl Naming {
    pub(super) fn assign(self, name: FunctionName) {
        // The other end is gone only when the whole thread is.
        let _ = self.0.send(name);
    }
}

impl Logs {
    /// Starts the thread. Files are `<directory>/<function>.log`, each with this bound ([`RotatedFile`]). `repeat_in`: the worker's log,
    /// if what is printed is to come up there as well.
    ///
    /// # Errors
    /// When the directory cannot be made, or the thread not started.
    pub fn start(
        directory: PathBuf,
        bytes_max: u64,
        repeat_in: Option<Logger>,
        log: Logger,
    ) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        // Not bounded: an entry for each sandbox, and those are bounded.
        let (feeds, mut queue) = mpsc::unbounded_channel::<Feed>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("logs".into()).spawn(move || {
            let files = Rc::new(Files {
                directory,
                bytes_max,
                open: RefCell::default(),
                buffer: vec![0; TURN_BYTES].into(),
                turn: Mutex::new(Pace::new(ALL_PER_SECOND, Instant::now())),
                repeater: repeat_in.map(|log| RefCell::new(Repeater::new(log, Instant::now()))),
                log,
            });
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                while let Some(feed) = queue.recv().await {
                    tokio::task::spawn_local(follow(feed, Rc::clone(&files)));
                }
            });
        })?;
        Ok(Self { feeds })
    }

    /// Reads this pipe (which must not block) until its last writer is gone, or the sandbox.
    pub(super) fn follow(&self, pipe: OwnedFd, sandbox: u64) -> (Naming, Following) {
        let (sender, name) = oneshot::channel();
        let (following, gone) = oneshot::channel();
        // The thread ends only with the worker.
        let _ = self.feeds.send(Feed { pipe, sandbox, name, gone });
        (Naming(sender), Following(following))
    }
}

async fn follow(mut feed: Feed, files: Rc<Files>) {
    let Ok(name) = feed.name.await else { return };
    let file = files.of(&name);
    let Ok(mut pipe) = watched::register(File::from(feed.pipe), Interest::READABLE) else { return };
    let mut lines = Lines { sandbox: feed.sandbox, invocation: String::from("0"), partial: Vec::new() };
    let turn = Rc::clone(&file.borrow().turn);
    // Once the sandbox is gone: what may still come.
    let mut rest = None;
    loop {
        // Who has nothing to read takes no turn.
        if rest.is_none() {
            tokio::select! {
                // First, or who prints all the time would be read for ever.
                biased;
                _ = &mut feed.gone => rest = Some(REST_BYTES),
                ready = pipe.readable_mut() => if ready.is_err() { break },
            }
        }
        // First among the function's own sandboxes, then among functions: each has one in the queue, and the queue is in order.
        let mut own = turn.lock().await;
        own.wait().await;
        let mut all = files.turn.lock().await;
        all.wait().await;
        let mut out = Vec::new();
        let mut read = |mut pipe: &File| {
            let mut buffer = files.buffer.borrow_mut();
            let n = pipe.read(&mut buffer)?;
            lines.take(&buffer[..n], &mut out);
            Ok::<_, io::Error>(n)
        };
        let n = match &mut rest {
            None => match pipe.try_io_mut(Interest::READABLE, |pipe| read(pipe)) {
                Ok(n) => n,
                // It was not ready after all.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            },
            // Nobody is there who could write more: what cannot be read at once does not come.
            Some(rest) => {
                let Ok(n) = read(pipe.get_ref()) else { break };
                *rest = rest.saturating_sub(n);
                n
            }
        };
        if n == 0 {
            break;
        }
        file.borrow_mut().write(&out, &files);
        let cost = out.len() + TURN_COST;
        own.take(cost);
        all.take(cost);
        drop((own, all));
        if rest == Some(0) {
            break;
        }
        // Whoever is next in the queue comes first, and pipes that got something are seen.
        tokio::task::yield_now().await;
    }
    let mut out = Vec::new();
    lines.end(&mut out);
    file.borrow_mut().write(&out, &files);
}

/// The time in front of lines.
fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Makes log lines of raw bytes.
struct Lines {
    sandbox: u64,
    /// The one whose record came last.
    invocation: String,
    partial: Vec<u8>,
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        // What was read at once came at once, and to tell the time is most of what an empty line costs.
        let now = now();
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.flush(&now, out);
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > LINE_BYTES_MAX {
            self.flush(&now, out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.flush(&now(), out);
        }
    }

    fn flush(&mut self, now: &str, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.partial);
        let (stream, text) = match self.record(&line) {
            Some((invocation, stream, text)) => {
                self.invocation = invocation;
                (stream, text)
            }
            None => ('-', &line[..]),
        };
        for piece in text.chunks(LINE_BYTES_MAX).chain(text.is_empty().then_some(&b""[..])) {
            // Writing to memory does not fail.
            let _ = write!(out, "{now} {}-{} {stream} ", self.sandbox, self.invocation);
            clean(piece, out);
            out.push(b'\n');
        }
    }

    fn record<'a>(&self, line: &'a [u8]) -> Option<(String, char, &'a [u8])> {
        let rest = line.strip_prefix(&[RECORD])?;
        let mut parts = rest.splitn(3, |&byte| byte == b' ');
        let number =
            parts.next().filter(|digits| digits.len() <= 10 && digits.iter().all(u8::is_ascii_digit))?;
        let stream = match parts.next()? {
            b"o" => 'o',
            b"e" => 'e',
            _ => return None,
        };
        Some((String::from_utf8_lossy(number).into_owned(), stream, parts.next()?))
    }
}

/// For the fuzz targets: what comes into the log when this is printed, in two pieces.
#[cfg(any(test, fuzzing))]
pub(super) fn lines_of(bytes: &[u8]) -> String {
    let mut lines = Lines { sandbox: 1, invocation: "0".into(), partial: Vec::new() };
    let mut out = Vec::new();
    let (one, other) = bytes.split_at(bytes.len() / 2);
    lines.take(one, &mut out);
    lines.take(other, &mut out);
    lines.end(&mut out);
    String::from_utf8(out).expect("a log is text")
}

/// As text that a terminal shows and does not obey.
fn clean(bytes: &[u8], out: &mut Vec<u8>) {
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() && character != '\t' {
            let _ = write!(out, "\\x{:02x}", u32::from(character));
        } else {
            let _ = write!(out, "{character}");
        }
    }
}

struct Files {
    directory: PathBuf,
    bytes_max: u64,
    /// Closed when the last sandbox of the function is gone.
    open: RefCell<HashMap<FunctionName, Weak<RefCell<LogFile>>>>,
    /// What was just read, from whichever pipe: one for each of thousands of sandboxes would be most of what they cost here.
    buffer: RefCell<Vec<u8>>,
    /// Who reads, and how much all read.
    turn: Mutex<Pace>,
    repeater: Option<RefCell<Repeater>>,
    log: Logger,
}

impl Files {
    fn of(&self, name: &FunctionName) -> Rc<RefCell<LogFile>> {
        let mut open = self.open.borrow_mut();
        if let Some(file) = open.get(name).and_then(Weak::upgrade) {
            return file;
        }
        open.retain(|_, file| file.strong_count() > 0);
        let path = self.directory.join(format!("{name}.log"));
        let file = Rc::new(RefCell::new(LogFile {
            name: name.clone(),
            file: RotatedFile::new(path, self.bytes_max),
            share: Share::new(Instant::now()),
            turn: Rc::new(Mutex::new(Pace::new(BYTES_PER_SECOND, Instant::now()))),
        }));
        open.insert(name.clone(), Rc::downgrade(&file));
        file
    }
}

struct LogFile {
    name: FunctionName,
    file: RotatedFile,
    share: Share,
    /// Which of its sandboxes is read from, and how much all have printed.
    turn: Rc<Mutex<Pace>>,
}

impl LogFile {
    fn write(&mut self, bytes: &[u8], files: &Files) {
        if let Err(error) = self.file.append(bytes) {
            // Lost, and said; the function goes on. The next write tries to open it anew.
            warn!(files.log, "cannot write a function's log"; "path" => %self.file.path().display(), "error" => %error);
        }
        if let Some(repeater) = &files.repeater {
            repeater.borrow_mut().repeat(&self.name, bytes, &mut self.share, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines { sandbox: 7, invocation: "0".into(), partial: Vec::new() };
        let mut out = Vec::new();
        for chunk in chunks {
            lines.take(chunk, &mut out);
        }
        lines.end(&mut out);
        let text = String::from_utf8(out).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn a_record_names_its_invocation_and_what_follows_without_one_is_counted_to_it() {
        assert_eq!(
            lines(&[b"\x1e3 o hel", b"lo\n\x1e3 e oops\nfrom a child\n"]),
            ["7-3 o hello", "7-3 e oops", "7-3 - from a child"]
        );
    }

    #[test]
    fn a_terminal_cannot_be_steered_through_a_log() {
        assert_eq!(lines(&[b"\x1e1 o \x1b[2Jx\ty\n"]), ["7-1 o \\x1b[2Jx\ty"]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let long = vec![b'x'; LINE_BYTES_MAX * 2 + 10];
        let cut = lines(&[&long]);
        assert!(cut.len() >= 2 && cut.iter().all(|line| line.len() < LINE_BYTES_MAX + 20));
    }

    #[test]
    fn what_only_looks_like_a_record_is_text() {
        assert_eq!(lines(&[b"\x1ex o y\n", b"\x1e1 z y\n"]), ["7-0 - \\x1ex o y", "7-0 - \\x1e1 z y"]);
    }
}
