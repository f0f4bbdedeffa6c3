//! Calls as `curl` would make them, and connections that no decent client would.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use bytes::Bytes;
use openlambda::client::Reply;
use serde_json::Value;

use super::wait::patience;

/// What may be sent as a body.
pub(crate) trait Payload {
    fn bytes(self) -> Bytes;
}

impl Payload for &'static str {
    fn bytes(self) -> Bytes {
        Bytes::from_static(self.as_bytes())
    }
}

impl Payload for String {
    fn bytes(self) -> Bytes {
        self.into()
    }
}

impl Payload for Vec<u8> {
    fn bytes(self) -> Bytes {
        self.into()
    }
}

impl Payload for Value {
    fn bytes(self) -> Bytes {
        self.to_string().into()
    }
}

/// What is expected of an answer.
pub(crate) trait Expect {
    /// A success, with JSON.
    fn ok(self) -> Value;
    /// This status; gives the text.
    fn expect(self, status: u16) -> String;
    /// Which sandbox answered.
    fn sandbox(&self) -> u64;
}

impl Expect for Reply {
    #[track_caller]
    fn ok(self) -> Value {
        assert_eq!(self.status.as_u16(), 200, "{}", self.text());
        self.json().unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    #[track_caller]
    fn expect(self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self.text()
    }

    #[track_caller]
    fn sandbox(&self) -> u64 {
        let id = self.header("x-ol-invocation").expect("the answer of a function says whose it is");
        id.split('-').next().and_then(|number| number.parse().ok()).expect("a sandbox has a number")
    }
}

/// A TCP connection for bytes of the test's choice.
#[derive(Debug)]
pub(crate) struct RawConnection {
    stream: TcpStream,
    /// What has come and was not asked for yet.
    pending: Vec<u8>,
}

impl RawConnection {
    pub(crate) fn open(port: u16) -> Self {
        let stream = ["127.0.0.1", "::1"].iter().find_map(|host| TcpStream::connect((*host, port)).ok());
        let stream = stream.expect("the worker can be connected to");
        stream.set_read_timeout(Some(patience(60))).expect("a timeout can be set");
        stream.set_write_timeout(Some(patience(60))).expect("a timeout can be set");
        Self { stream, pending: Vec::new() }
    }

    /// A request with a body of this length, of which nothing is sent yet.
    pub(crate) fn announce(&mut self, method: &str, path: &str, n_bytes: usize) {
        self.send(
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {n_bytes}\r\n\r\n")
                .as_bytes(),
        );
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the worker takes it");
    }

    /// From now on a write that takes half a second fails.
    pub(crate) fn limit_writes(&mut self) {
        self.stream.set_write_timeout(Some(patience(1) / 2)).expect("a timeout can be set");
    }

    /// Sends as much as the worker takes before it ends the connection, at most `bytes`.
    pub(crate) fn send_what_is_taken(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Everything until the worker ends the connection.
    pub(crate) fn read_to_end(&mut self) -> String {
        // A reset after the answer is an end as well: the worker has not read all that was sent.
        while self.read_more() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    /// Everything until the worker ends the connection, in small pieces.
    pub(crate) fn read_slowly(&mut self, mut take: impl FnMut(&[u8])) {
        let mut piece = [0; 512];
        while let Ok(n @ 1..) = self.stream.read(&mut piece) {
            take(&piece[..n]);
        }
    }

    /// What comes up to these words, them included. What comes after them is for the next time.
    #[track_caller]
    pub(crate) fn read_until(&mut self, words: &str) -> String {
        loop {
            let found = self.pending.windows(words.len()).position(|window| window == words.as_bytes());
            if let Some(at) = found {
                let rest = self.pending.split_off(at + words.len());
                let text = std::mem::replace(&mut self.pending, rest);
                return String::from_utf8_lossy(&text).into_owned();
            }
            let is_open = self.read_more();
            assert!(is_open, "the end before {words:?} in {:?}", String::from_utf8_lossy(&self.pending));
        }
    }

    /// So many bytes, as text.
    #[track_caller]
    pub(crate) fn read_exactly(&mut self, n_bytes: usize) -> String {
        String::from_utf8_lossy(&self.read_bytes(n_bytes)).into_owned()
    }

    /// So many bytes.
    #[track_caller]
    pub(crate) fn read_bytes(&mut self, n_bytes: usize) -> Vec<u8> {
        while self.pending.len() < n_bytes {
            assert!(self.read_more(), "the end before {n_bytes} bytes");
        }
        let rest = self.pending.split_off(n_bytes);
        std::mem::replace(&mut self.pending, rest)
    }

    /// Whether there is something to read, or the end. Does not wait.
    pub(crate) fn has_come(&self) -> bool {
        self.stream.set_nonblocking(true).expect("it can be asked not to wait");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("it can be asked to wait");
        !self.pending.is_empty() || !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        let n = self.stream.read(&mut buffer).unwrap_or(0);
        self.pending.extend_from_slice(&buffer[..n]);
        n > 0
    }

    /// Goes away, as a client that was killed does.
    pub(crate) fn abandon(self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }
}
