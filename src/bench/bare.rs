//! Bare interpreters: the runtime's own Python, with its imports and its loop, and nothing around it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::workload::{HELLO_CODE, HELLO_FILE};
use super::{BenchError, workload};
use crate::frame::{FAILED, HEADER_BYTES, Header, Kind, MORE, PROTOCOL};
use crate::sandbox::runtime_files;

const SCRIPT: &str = include_str!("python/bare.py");

/// A directory with the runtime and the function; it lives as long as this.
pub(super) struct Files {
    dir: TempDir,
}

/// For `map_err`.
pub(super) fn floor(what: &'static str) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::Floor { what, source }
}

impl Files {
    pub(super) fn write() -> Result<Self, BenchError> {
        let written = tempfile::Builder::new().prefix("ol-bench-").tempdir().and_then(|dir| {
            runtime_files::write_to(dir.path())?;
            fs::write(dir.path().join("bare.py"), SCRIPT)?;
            let code = dir.path().join("code");
            fs::create_dir(&code)?;
            fs::write(code.join(HELLO_FILE), HELLO_CODE)?;
            Ok(dir)
        });
        Ok(Self { dir: written.map_err(floor("write the runtime's files"))? })
    }

    /// Start an interpreter with a socket as its standard input. It ends when the other end is closed.
    pub(super) fn start(&self, python: &Path, args: &[&str]) -> Result<Interpreter, BenchError> {
        let (ours, theirs) = UnixStream::pair().map_err(floor("make a socket"))?;
        let child = Command::new(python)
            // As in a zygote.
            .args(["-S", "-E", "-s", "-B", "-X", "utf8"])
            .arg(self.dir.path().join("bare.py"))
            .arg("0")
            .args(args)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(floor("start the interpreter"))?;
        Ok(Interpreter { child, socket: Some(ours) })
    }

    /// What an interpreter is told to become.
    pub(super) fn load(&self) -> Vec<u8> {
        let order = json!({
            "protocol": PROTOCOL, "name": workload::hello(), "directory": self.dir.path().join("code"),
            "entry": HELLO_FILE, "environment": {}, "packages": [], "random": "5a".repeat(32),
        });
        order.to_string().into_bytes()
    }
}

/// A process of ours; it is gone when this is.
pub(super) struct Interpreter {
    child: Child,
    socket: Option<UnixStream>,
}

impl Interpreter {
    /// The process.
    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Our end.
    pub(super) fn socket(&self) -> &UnixStream {
        self.socket.as_ref().expect("only dropping takes it away")
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        drop(self.socket.take());
        // It may be a clone of our end that is still open elsewhere; and it holds nothing worth a farewell.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A frame as bytes.
pub(super) fn frame(kind: Kind, invocation: u32, body: &[u8]) -> Vec<u8> {
    let header = Header { n_payload: body.len() as u32, kind, flags: 0, n_head: 0, invocation };
    [&header.encode()[..], body].concat()
}

/// Read a frame, waiting for it; gives its kind and its body.
pub(super) fn read_frame(mut socket: &UnixStream) -> io::Result<(Kind, Vec<u8>)> {
    let mut bytes = [0; HEADER_BYTES];
    socket.read_exact(&mut bytes)?;
    let header = Header::decode(&bytes).map_err(io::Error::other)?;
    let mut payload = vec![0; header.n_payload as usize];
    socket.read_exact(&mut payload)?;
    if header.flags & (MORE | FAILED) != 0 {
        return Err(io::Error::other(format!("the function failed: {}", String::from_utf8_lossy(&payload))));
    }
    Ok((header.kind, payload.split_off(header.n_head.into())))
}

/// Give a function to an interpreter and wait until it has it.
pub(super) fn install(mut socket: &UnixStream, load: &[u8]) -> io::Result<()> {
    socket.write_all(&frame(Kind::Load, 0, load))?;
    match read_frame(socket)? {
        (Kind::Ready, _) => Ok(()),
        (_, text) => Err(io::Error::other(String::from_utf8_lossy(&text).into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_written() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // What a sandbox writes.
        (&theirs).write_all(&[5, 0, 0, 0, 17, 0, 4, 0, 1, 0, 0, 0]).unwrap();
        (&theirs).write_all(b"200\n7").unwrap();
        assert_eq!(read_frame(&ours).unwrap(), (Kind::Response, b"7".to_vec()));
        (&theirs).write_all(&[1, 0, 0, 0, 17, FAILED, 0, 0, 1, 0, 0, 0, b'x']).unwrap();
        assert!(read_frame(&ours).unwrap_err().to_string().ends_with(": x"));
        assert_eq!(frame(Kind::Request, 3, b"ab"), [2, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, b'a', b'b']);
    }
}
