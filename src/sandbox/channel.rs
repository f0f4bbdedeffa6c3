//! The worker's end of a sandbox's data socket.
//!
//! It belongs to whoever holds the lease, and waits on the event loop of that thread: a socket that
//! stays registered with another thread's loop would cost a wake-up across cores (25 to 35 µs) on every
//! answer, registering it anew costs 2.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, ThreadId};

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sys;
use crate::frame::{BrokenFrame, HEADER_BYTES, Header, Kind, MORE};

/// Payloads up to this are read whole into the channel's buffer; the body of a longer one is handed on in
/// pieces of at most this.
pub const PIECE_BYTES_MAX: usize = 256 << 10;
/// First size of the buffer: an ordinary answer.
const BUFFER_BYTES: usize = 8 << 10;

/// What ends a channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The sandbox has closed its end: its interpreter is gone.
    #[error("the sandbox has died")]
    Closed,
    /// It sent nonsense.
    #[error(transparent)]
    Broken(#[from] BrokenFrame),
    /// The socket failed.
    #[error("cannot talk to the sandbox: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

/// A frame, as far as it has been read.
#[derive(Debug)]
pub struct Incoming {
    /// Its header.
    pub header: Header,
    /// Its head, whole.
    pub head: Bytes,
    /// Its body, whole if the payload was short, else the beginning; the rest comes from [`Channel::rest`].
    pub body: Bytes,
    /// Bytes of the body that are still to be read.
    pub n_rest: usize,
}

impl Incoming {
    /// Whether nothing of the answer is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.n_rest == 0 && !self.header.more()
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Channel {
    socket: Socket,
    buffer: BytesMut,
    invocation: u32,
}

#[derive(Debug)]
enum Socket {
    Parked(UnixStream),
    Registered(ThreadId, AsyncFd<UnixStream>),
    /// Only while it moves from one thread to another.
    Moving,
}

impl Socket {
    /// The socket on this thread's event loop.
    fn here(&mut self) -> io::Result<&mut AsyncFd<UnixStream>> {
        let me = thread::current().id();
        if !matches!(self, Self::Registered(thread, _) if *thread == me) {
            let stream = match std::mem::replace(self, Self::Moving) {
                Self::Parked(stream) => stream,
                Self::Registered(_, socket) => socket.into_inner(),
                Self::Moving => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            *self = Self::Registered(me, sys::register(stream, Interest::READABLE | Interest::WRITABLE)?);
        }
        match self {
            Self::Registered(_, socket) => Ok(socket),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Channel {
    /// `socket` must not block.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket: Socket::Parked(socket), buffer: BytesMut::new(), invocation: 0 }
    }

    /// Whether the other end is open. One system call, no waiting.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let mut byte = [0u8; 1];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        // Unasked bytes are as bad as none: between invocations a sandbox is silent.
        matches!(rustix::net::recv(self.stream(), &mut byte[..], flags), Err(rustix::io::Errno::AGAIN))
            && self.buffer.is_empty()
    }

    /// The number of the invocation that was sent last.
    #[must_use]
    pub fn invocation(&self) -> u32 {
        self.invocation
    }

    fn stream(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Parked(stream) => stream.as_fd(),
            Socket::Registered(_, socket) => socket.as_fd(),
            Socket::Moving => unreachable!("a channel is moved in one step"),
        }
    }

    /// The number that the next invocation will have: from 1, and 0 never.
    #[must_use]
    pub fn next_invocation(&self) -> u32 {
        self.invocation.wrapping_add(1).max(1)
    }

    /// Sends a frame that belongs to no invocation.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), ChannelError> {
        self.send_frame(kind, 0, 0, &[], body).await
    }

    /// Begins an invocation, and gives its number. `more`: the body goes on with [`send_body`](Self::send_body).
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn send_request(&mut self, head: &[u8], body: &[u8], more: bool) -> Result<u32, ChannelError> {
        self.invocation = self.next_invocation();
        let flags = if more { MORE } else { 0 };
        self.send_frame(Kind::Request, flags, self.invocation, head, body).await?;
        Ok(self.invocation)
    }

    /// The next piece of the request's body.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn send_body(&mut self, piece: &[u8], more: bool) -> Result<(), ChannelError> {
        let flags = if more { MORE } else { 0 };
        self.send_frame(Kind::RequestBody, flags, self.invocation, &[], piece).await
    }

    /// Says that the rest of the request's body does not come: the function has answered without it.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn cancel(&mut self) -> Result<(), ChannelError> {
        self.send_frame(Kind::Cancel, 0, self.invocation, &[], &[]).await
    }

    /// Sends what the sandbox is to be, and in the same piece its first invocation, so that it wakes up once.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn send_load(&mut self, load: &[u8], head: &[u8], body: &[u8]) -> Result<(), ChannelError> {
        self.invocation = self.next_invocation();
        let order = header(Kind::Load, 0, 0, &[], load);
        let request = header(Kind::Request, 0, self.invocation, head, body);
        self.send_all([&order, load, &request, head, body]).await
    }

    async fn send_frame(
        &mut self,
        kind: Kind,
        flags: u8,
        invocation: u32,
        head: &[u8],
        body: &[u8],
    ) -> Result<(), ChannelError> {
        self.send_all([&header(kind, flags, invocation, head, body), head, body]).await
    }

    async fn send_all<const N: usize>(&mut self, parts: [&[u8]; N]) -> Result<(), ChannelError> {
        let socket = self.socket.here()?;
        let mut n_sent = 0;
        let n_all: usize = parts.iter().map(|part| part.len()).sum();
        while n_sent < n_all {
            let mut slices = parts.map(IoSlice::new);
            let mut rest = &mut slices[..];
            IoSlice::advance_slices(&mut rest, n_sent);
            // Tried before it is waited for: an idle sandbox's socket has room.
            match socket.get_mut().write_vectored(rest) {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(n) => n_sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut ready = socket.writable_mut().await?;
                    match ready.try_io(|socket| socket.get_mut().write_vectored(rest)) {
                        Ok(result) => n_sent += result?,
                        Err(_still_full) => {}
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the sandbox has something to say, or has gone.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn readable(&mut self) -> Result<(), ChannelError> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(())
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the sandbox is gone or sends nonsense.
    pub async fn receive(&mut self) -> Result<Incoming, ChannelError> {
        while self.buffer.len() < HEADER_BYTES {
            self.fill().await?;
        }
        let bytes = self.buffer.first_chunk().expect("the loop above has read that many");
        let header = Header::decode(bytes)?;
        let n_wanted = (HEADER_BYTES + header.n_payload as usize)
            .min(HEADER_BYTES + usize::from(header.n_head) + PIECE_BYTES_MAX);
        while self.buffer.len() < n_wanted {
            self.buffer.reserve(n_wanted - self.buffer.len());
            self.fill().await?;
        }
        let _ = self.buffer.split_to(HEADER_BYTES);
        let head = self.buffer.split_to(header.n_head.into()).freeze();
        let body = self.buffer.split_to(header.n_body().min(PIECE_BYTES_MAX)).freeze();
        let n_rest = header.n_body() - body.len();
        Ok(Incoming { header, head, body, n_rest })
    }

    /// The next piece of a long body, of which `n_rest` bytes are missing.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn rest(&mut self, n_rest: usize) -> Result<Bytes, ChannelError> {
        if self.buffer.is_empty() {
            self.buffer.reserve(n_rest.min(PIECE_BYTES_MAX));
            self.fill().await?;
        }
        let n = self.buffer.len().min(n_rest).min(PIECE_BYTES_MAX);
        Ok(self.buffer.split_to(n).freeze())
    }

    async fn fill(&mut self) -> Result<(), ChannelError> {
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(BUFFER_BYTES);
        }
        match read_some(self.socket.here()?, &mut self.buffer).await? {
            0 => Err(ChannelError::Closed),
            _ => Ok(()),
        }
    }
}

fn header(kind: Kind, flags: u8, invocation: u32, head: &[u8], body: &[u8]) -> [u8; HEADER_BYTES] {
    let n_payload = (head.len() + body.len()) as u32;
    Header { n_payload, kind, flags, n_head: head.len() as u16, invocation }.encode()
}

/// Reads once, into the room that the buffer has; waits until that gives something. Given up while it
/// waits, it has changed nothing.
async fn read_some(socket: &mut AsyncFd<UnixStream>, buffer: &mut BytesMut) -> io::Result<usize> {
    let len = buffer.len();
    let room = buffer.capacity() - len;
    loop {
        let mut ready = socket.readable_mut().await?;
        let result = ready.try_io(|socket| {
            buffer.resize(len + room, 0);
            let result = socket.get_mut().read(&mut buffer[len..]);
            buffer.truncate(len + result.as_ref().copied().unwrap_or(0));
            result
        });
        match result {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Ok(n)) => {
                // A short read has emptied the socket: without this, the next wait would find it "ready" and
                // spend a system call to learn that it is not. What comes later raises a new event.
                if n < room && n > 0 {
                    ready.clear_ready();
                }
                return Ok(n);
            }
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
