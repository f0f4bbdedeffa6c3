//! `dep-trace.json`: which functions were called, in what order, and which packages they and their packages need. What zygotes
//! should hold can be worked out from it, by the tools that read OpenLambda's file of this name.
//!
//! A line of JSON for each event. A function is described before its first call, and anew when its code has changed; a package
//! before the first function that needs it:
//!
//! ```text
//! {"type":"package","name":"requests==2.32.4","deps":["certifi","idna",…],"top":["requests"]}
//! {"type":"function","name":"hello","deps":["requests==2.32.4",…]}
//! {"type":"invocation","name":"hello"}
//! ```

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use actors::name::FunctionName;
use actors::world::Code;
use crossbeam::channel::{Receiver, Sender, bounded};
use serde::Serialize;
use slog::{Logger, warn};

use crate::packages::PackagesDir;
use crate::registry::FunctionCode;
use crate::rotated::RotatedFile;

/// Calls that may wait to be written: what a worker on two cores does in half a second, which is longer than a disk takes.
/// A call waits for nobody: when this is full, it is counted as lost instead.
const QUEUE_LENGTH: usize = 16_384;
/// Calls that are written at once.
const BATCH_MAX: usize = 1_024;
/// How long the worker's end waits for what is in the queue.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// Functions that are remembered as described. A worker that has more describes one again when it comes back.
const DESCRIBED_MAX: usize = 100_000;

/// Takes note of calls. A clone writes to the same file.
#[derive(Debug, Clone)]
pub struct DepTrace {
    queue: Sender<Event>,
    n_lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Event {
    Call(FunctionName, FunctionCode),
    End(Sender<()>),
}

/// As it stands in the file.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Package {
        name: &'a str,
        deps: Vec<String>,
        top: Vec<String>,
    },
    Function {
        name: &'a str,
        deps: &'a [String],
    },
    Invocation {
        name: &'a str,
    },
    /// Calls that are missing here.
    Lost {
        n: u64,
    },
}

impl DepTrace {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(path: PathBuf, bytes_max: u64, packages: PackagesDir, log: Logger) -> io::Result<Self> {
        let (queue, events) = bounded(QUEUE_LENGTH);
        let n_lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            file: RotatedFile::new(path, bytes_max),
            packages,
            n_lost: Arc::clone(&n_lost),
            functions: HashMap::new(),
            described: HashSet::new(),
            was_told: false,
            log,
        };
        thread::Builder::new().name("dep-trace".into()).spawn(move || writer.run(&events))?;
        Ok(Self { queue, n_lost })
    }

    /// A function is called.
    pub fn call(&self, name: &FunctionName, code: &FunctionCode) {
        if self.queue.try_send(Event::Call(name.clone(), code.clone())).is_err() {
            self.n_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, for a second at most, until all that was noted before is written. Blocks.
    pub fn finish(&self) {
        let (done, written) = bounded(1);
        if self.queue.send_timeout(Event::End(done), END_PATIENCE).is_ok() {
            let _ = written.recv_timeout(END_PATIENCE);
        }
    }
}

struct Writer {
    file: RotatedFile,
    packages: PackagesDir,
    n_lost: Arc<AtomicU64>,
    /// Which version of each was described.
    functions: HashMap<FunctionName, String>,
    /// The packages that were.
    described: HashSet<String>,
    /// That the file cannot be written: once, until it can.
    was_told: bool,
    log: Logger,
}

impl Writer {
    fn run(mut self, events: &Receiver<Event>) {
        while let Ok(first) = events.recv() {
            let mut text = Vec::new();
            let mut ended = None;
            for event in std::iter::once(first).chain(events.try_iter()).take(BATCH_MAX) {
                match event {
                    Event::Call(name, code) => self.note(&name, &code, &mut text),
                    Event::End(done) => ended = Some(done),
                }
            }
            match self.n_lost.swap(0, Ordering::Relaxed) {
                0 => {}
                n => push(&mut text, &Line::Lost { n }),
            }
            self.write(&text);
            drop(ended);
        }
    }

    fn note(&mut self, name: &FunctionName, code: &FunctionCode, text: &mut Vec<u8>) {
        if self.functions.get(name).is_none_or(|version| version != code.version()) {
            self.describe(name, code, text);
        }
        push(text, &Line::Invocation { name: name.as_str() });
    }

    fn describe(&mut self, name: &FunctionName, code: &FunctionCode, text: &mut Vec<u8>) {
        if self.functions.len() >= DESCRIBED_MAX {
            self.functions.clear();
            self.described.clear();
        }
        for pin in code.packages() {
            // One that is not there yet is looked for again with the next version.
            if !self.described.contains(pin)
                && let Some(portrait) = self.packages.portrait(pin)
            {
                push(text, &Line::Package { name: pin, deps: portrait.needs, top: portrait.modules });
                self.described.insert(pin.clone());
            }
        }
        push(text, &Line::Function { name: name.as_str(), deps: code.packages() });
        self.functions.insert(name.clone(), code.version().to_owned());
    }

    fn write(&mut self, text: &[u8]) {
        match self.file.append(text) {
            Ok(_) => self.was_told = false,
            Err(_) if self.was_told => {}
            Err(error) => {
                self.was_told = true;
                warn!(self.log, "cannot write the trace of dependencies"; "path" => %self.file.path().display(), "error" => %error);
            }
        }
    }
}

fn push(text: &mut Vec<u8>, line: &Line<'_>) {
    serde_json::to_writer(&mut *text, line).expect("names and numbers can be written to memory");
    text.push(b'\n');
}
