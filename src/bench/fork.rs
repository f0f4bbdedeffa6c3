//! The floor of the cold path: a bare fork of an interpreter that has the zygote's imports, until its first
//! answer. No namespaces, no cgroup, no filter, no other user, and no HTTP.

use std::io::{self, Read, Write};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use super::bare::{Files, Interpreter, floor, frame, install, read_frame};
use super::sample::{Sample, merged};
use super::{BenchError, workload};
use crate::fd::packets;
use crate::frame::Kind;

/// One that forks for each core: what they make at once is what the machine can, and more only by doing less.
pub(super) struct Forkers(Vec<Forker>);

impl Forkers {
    pub(super) fn start(python: &Path) -> Result<Self, BenchError> {
        let n_cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self((0..n_cores).map(|_| Forker::start(python)).collect::<Result<_, _>>()?))
    }

    /// One after the other, as [`Forker::measure`].
    pub(super) fn measure(&self, n: usize) -> Sample {
        self.0[0].measure(n)
    }

    /// One after the other, as [`Forker::measure_standbys`].
    pub(super) fn measure_standbys(&self, n: usize, pause: Duration) -> Sample {
        self.0[0].measure_standbys(n, pause)
    }

    /// `n` times each, all at once.
    pub(super) fn measure_together(&self, n: usize) -> Sample {
        let began = Instant::now();
        let samples: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = self.0.iter().map(|forker| scope.spawn(|| forker.measure(n))).collect();
            threads.into_iter().flat_map(ScopedJoinHandle::join).collect()
        });
        let mut together = merged(&samples);
        together.elapsed = began.elapsed();
        together
    }

    /// How many there are.
    pub(super) fn n(&self) -> usize {
        self.0.len()
    }
}

/// An interpreter that forks.
pub(super) struct Forker {
    files: Files,
    interpreter: Interpreter,
}

impl Forker {
    pub(super) fn start(python: &Path) -> Result<Self, BenchError> {
        let files = Files::write()?;
        let interpreter = files.start(python, &["fork"])?;
        let mut said = [0];
        interpreter.socket().read_exact(&mut said).map_err(floor("wait for the interpreter's imports"))?;
        Ok(Self { files, interpreter })
    }

    /// Fork `n` times, one after the other; each is asked once and ends.
    pub(super) fn measure(&self, n: usize) -> Sample {
        let load = self.files.load();
        let mut sample = Sample::new();
        let begin = Instant::now();
        for _ in 0..n {
            let sent = Instant::now();
            match self.one(&load) {
                Ok(socket) => {
                    sample.add(sent.elapsed());
                    drop(socket);
                }
                Err(error) => sample.add_error(error.to_string()),
            }
        }
        sample.elapsed = begin.elapsed();
        sample
    }

    /// Forks that are there and have been warmed before anything is asked of them, `n` times, each after a pause: what is timed
    /// is a first call alone.
    pub(super) fn measure_standbys(&self, n: usize, pause: Duration) -> Sample {
        let load = frame(Kind::Load, 0, &self.files.load());
        let request = frame(Kind::Request, 1, workload::body().as_bytes());
        let mut sample = Sample::new();
        let begin = Instant::now();
        for _ in 0..n {
            let called = self.warmed().and_then(|socket| {
                std::thread::sleep(pause);
                let sent = Instant::now();
                // In one piece, as the worker does it.
                (&socket).write_all(&[&load[..], &request].concat())?;
                read_frame(&socket)?;
                answered(&socket)?;
                Ok(sent.elapsed())
            });
            match called {
                Ok(took) => sample.add(took),
                Err(error) => sample.add_error(error.to_string()),
            }
        }
        sample.elapsed = begin.elapsed();
        sample
    }

    fn warmed(&self) -> io::Result<UnixStream> {
        let socket = self.fork()?;
        (&socket).write_all(&frame(Kind::Warm, 0, b""))?;
        match read_frame(&socket)? {
            (Kind::Ready, _) => Ok(socket),
            (_, body) => Err(io::Error::other(format!("not ready: {}", String::from_utf8_lossy(&body)))),
        }
    }

    /// The interpreter, whose children the forks are.
    pub(super) fn pid(&self) -> i32 {
        self.interpreter.pid()
    }

    /// Fork `n` times; each is asked once, and lives as long as its socket.
    pub(super) fn keep(&self, n: usize) -> Result<Vec<UnixStream>, BenchError> {
        let load = self.files.load();
        (0..n).map(|_| self.one(&load)).collect::<io::Result<_>>().map_err(floor("fork an interpreter"))
    }

    fn one(&self, load: &[u8]) -> io::Result<UnixStream> {
        let socket = self.fork()?;
        ask(&socket, load)?;
        Ok(socket)
    }

    fn fork(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        packets::send_bytes(self.interpreter.socket().as_fd(), b"!", &[theirs.as_fd()])?;
        Ok(ours)
    }
}

/// Has it load the function, and calls that.
fn ask(socket: &UnixStream, load: &[u8]) -> io::Result<()> {
    install(socket, load)?;
    (&*socket).write_all(&frame(Kind::Request, 1, workload::body().as_bytes()))?;
    answered(socket)
}

fn answered(socket: &UnixStream) -> io::Result<()> {
    match read_frame(socket)? {
        (Kind::Response, body) if body == workload::answer().as_bytes() => Ok(()),
        (_, body) => Err(io::Error::other(format!("a wrong answer: {}", String::from_utf8_lossy(&body)))),
    }
}
