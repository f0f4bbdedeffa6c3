//! The floor of the cold path: a bare fork of an interpreter that has the zygote's imports, until its first
//! answer. No namespaces, no cgroup, no filter, no other user, and no HTTP.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::bare::{Files, Interpreter, floor, frame, install, read_frame};
use super::sample::Sample;
use super::{BenchError, workload};
use crate::frame::Kind;
use crate::sandbox::packets;

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
        let (ours, theirs) = UnixStream::pair()?;
        packets::send_bytes(self.interpreter.socket().as_fd(), b"!", &[theirs.as_fd()])?;
        drop(theirs);
        install(&ours, load)?;
        (&ours).write_all(&frame(Kind::Request, 1, workload::body().as_bytes()))?;
        match read_frame(&ours)? {
            (Kind::Response, body) if body == workload::answer().as_bytes() => Ok(ours),
            (_, body) => Err(io::Error::other(format!("a wrong answer: {}", String::from_utf8_lossy(&body)))),
        }
    }
}
