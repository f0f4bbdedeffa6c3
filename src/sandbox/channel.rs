//! The worker's end of a sandbox's two sockets: requests go out on one, answers come in on the other.
//!
//! It belongs to whoever holds the lease, and waits on the event loop of that thread: a socket that
//! stays registered with another thread's loop would cost a wake-up across cores (25 to 35 µs) on every
//! answer, registering it anew costs 2.
//!
//! Requests are packets, and the worker keeps a copy of the end that they are read from. So it can take
//! back what the sandbox has not read: the kernel gives each packet to one of the two, and the sandbox
//! has no say in it (`docs/decisions/0006-requests-in-flight.md`).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::iter;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, ready};
use std::thread::{self, ThreadId};

use bytes::{Bytes, BytesMut};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::fd::watched;
use crate::frame::{BATCH, BRIEF, BrokenFrame, HEADER_BYTES, Header, Kind, MORE, PACKET_BYTES_MAX, SOCKET};

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

    /// Whether this begins the answer to that invocation.
    #[must_use]
    pub fn is_answer_to(&self, invocation: Option<u32>) -> bool {
        self.header.kind == Kind::Response && Some(self.header.invocation) == invocation
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Channel {
    requests: UnixStream,
    /// A copy of the end that the sandbox reads from.
    unread: Option<OwnedFd>,
    answers: Socket,
    buffer: BytesMut,
    invocation: u32,
}

/// What the sandbox gets of a channel.
#[derive(Debug)]
pub struct Theirs {
    /// Where it reads requests.
    pub requests: OwnedFd,
    /// Where it writes answers. When nobody holds this any more, the channel is closed.
    pub answers: OwnedFd,
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
            *self = Self::Registered(me, watched::register(stream, Interest::READABLE)?);
        }
        match self {
            Self::Registered(_, socket) => Ok(socket),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn stream(&self) -> BorrowedFd<'_> {
        match self {
            Self::Parked(stream) => stream.as_fd(),
            Self::Registered(_, socket) => socket.as_fd(),
            Self::Moving => unreachable!("a channel is moved in one step"),
        }
    }
}

impl Channel {
    /// A new one, and the sandbox's ends of it.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn pair() -> io::Result<(Self, Theirs)> {
        let (requests, read_from) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let requests = UnixStream::from(requests);
        requests.set_nonblocking(true)?;
        // Requests go one way; nobody would read what came the other.
        requests.shutdown(Shutdown::Read)?;
        let (answers, written_to) = UnixStream::pair()?;
        answers.set_nonblocking(true)?;
        let unread = Some(read_from.try_clone()?);
        let channel = Self { unread, ..Self::over(requests, answers) };
        Ok((channel, Theirs { requests: read_from, answers: written_to.into() }))
    }

    /// One over sockets of another kind; what was sent cannot be taken back. They must not block.
    #[must_use]
    pub fn over(requests: UnixStream, answers: UnixStream) -> Self {
        Self {
            requests,
            unread: None,
            answers: Socket::Parked(answers),
            buffer: BytesMut::new(),
            invocation: 0,
        }
    }

    /// Whether the other end is open. One system call, no waiting.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let mut byte = [0u8; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // Unasked bytes are as bad as none: between invocations a sandbox is silent.
        matches!(
            rustix::net::recv(self.answers.stream(), &mut byte[..], flags),
            Err(rustix::io::Errno::AGAIN)
        ) && self.buffer.is_empty()
    }

    /// The number of the invocation that was sent last.
    #[must_use]
    pub fn invocation(&self) -> u32 {
        self.invocation
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

    /// Nothing is expected for a while: gives back what it keeps to read into, if nothing lies in it.
    pub fn rest_idle(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Asks a new interpreter to get ready. `brief`: see [`BRIEF`].
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn send_warm(&mut self, brief: bool) -> Result<(), ChannelError> {
        self.send_frame(Kind::Warm, if brief { BRIEF } else { 0 }, 0, &[], &[]).await
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

    /// Says that nobody waits for the answer, and that the rest of the request's body does not come.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn cancel(&mut self, invocation: u32) -> Result<(), ChannelError> {
        self.send_frame(Kind::Cancel, 0, invocation, &[], &[]).await
    }

    /// Begins an invocation that is a WebSocket, and gives its number. Until [`Kind::Closed`] has been sent, it goes on.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn send_socket(&mut self, head: &[u8]) -> Result<u32, ChannelError> {
        self.invocation = self.next_invocation();
        self.send_frame(Kind::Request, SOCKET, self.invocation, head, &[]).await?;
        Ok(self.invocation)
    }

    /// Sends a frame of the invocation that was sent last, if it is one packet, at once or not at all. `false`: the socket
    /// is full; nothing was sent. [`room`](Self::room) tells when to try again.
    ///
    /// # Errors
    /// When the sandbox takes none any more.
    pub fn try_send(&mut self, kind: Kind, flags: u8, body: &[u8]) -> Result<bool, ChannelError> {
        self.try_send_packet(&header(kind, flags, self.invocation, &[], body), &[], body)
    }

    /// For waiting until the sandbox has read something, while the channel is used.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn room(&self) -> io::Result<AsyncFd<UnixStream>> {
        watched::register(self.requests.try_clone()?, Interest::WRITABLE)
    }

    /// Sends what the sandbox is to be, and in the same piece its first invocation, so that it wakes up once.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn send_load(&mut self, load: &[u8], head: &[u8], body: &[u8]) -> Result<(), ChannelError> {
        self.invocation = self.next_invocation();
        let order = header(Kind::Load, 0, 0, &[], load);
        let request = header(Kind::Request, 0, self.invocation, head, body);
        if 2 * HEADER_BYTES + load.len() + head.len() + body.len() > PACKET_BYTES_MAX {
            // Whoever reads the rest of a long frame expects no more in its packet.
            self.send_all([&order, load]).await?;
            return self.send_all([&request, head, body]).await;
        }
        self.send_all([&order, load, &request, head, body]).await
    }

    /// Sends a request that is one packet, at once or not at all. `false`: the socket is full; nothing was sent.
    /// `batch`: see [`BATCH`].
    ///
    /// # Errors
    /// When the sandbox takes none any more.
    pub fn try_send_request(&mut self, head: &[u8], body: &[u8], batch: bool) -> Result<bool, ChannelError> {
        let invocation = self.next_invocation();
        let flags = if batch { BATCH } else { 0 };
        let is_sent =
            self.try_send_packet(&header(Kind::Request, flags, invocation, head, body), head, body)?;
        if is_sent {
            self.invocation = invocation;
        }
        Ok(is_sent)
    }

    fn try_send_packet(&mut self, header: &[u8], head: &[u8], body: &[u8]) -> Result<bool, ChannelError> {
        loop {
            let parts = [IoSlice::new(header), IoSlice::new(head), IoSlice::new(body)];
            match self.requests.write_vectored(&parts) {
                Ok(_whole) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes back the requests that the sandbox has not read, and gives their numbers. It will not see them. Not what ends an
    /// earlier one (`CANCEL`, `CLOSED`), nor what stands behind that: the sandbox waits for it.
    pub fn take_back(&mut self) -> VecDeque<u32> {
        let is_request = || self.unread(RecvFlags::PEEK).is_some_and(|(kind, _)| kind == Kind::Request as u8);
        let next = || if is_request() { self.unread(RecvFlags::empty()) } else { None };
        iter::from_fn(next).map(|(_, number)| number).collect()
    }

    /// The number of the request that the sandbox reads next.
    #[must_use]
    pub fn first_unread(&self) -> Option<u32> {
        self.unread(RecvFlags::PEEK).map(|(_, number)| number)
    }

    /// Kind and number of what the sandbox reads next.
    fn unread(&self, flags: RecvFlags) -> Option<(u8, u32)> {
        let mut header = [0u8; HEADER_BYTES];
        loop {
            // The rest of a packet goes with what is read of it. Whether the socket blocks is for the sandbox to say as
            // well: it is the same one.
            match rustix::net::recv(self.unread.as_ref()?, &mut header[..], flags | RecvFlags::DONTWAIT) {
                Ok((HEADER_BYTES, _)) => {
                    let [_, _, _, _, kind, .., a, b, c, d] = header;
                    return Some((kind, u32::from_le_bytes([a, b, c, d])));
                }
                Err(rustix::io::Errno::INTR) => {}
                _ => return None,
            }
        }
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
        let mut n_sent = 0;
        let n_all: usize = parts.iter().map(|part| part.len()).sum();
        while n_sent < n_all {
            // Tried before it is waited for: an idle sandbox's socket has room.
            match self.requests.write_vectored(&packet(parts, n_sent)) {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(n) => n_sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the sandbox has read something. Whether it is still there is seen at the other socket only.
    async fn writable(&mut self) -> Result<(), ChannelError> {
        let requests = watched::register(self.requests.try_clone()?, Interest::WRITABLE)?;
        if self.buffer.len() >= PIECE_BYTES_MAX {
            requests.writable().await?.retain_ready();
            return Ok(());
        }
        // What it says meanwhile is read, as far as there is room: it does not read while it writes.
        tokio::select! {
            result = self.fill() => result,
            ready = requests.writable() => {
                ready?.retain_ready();
                Ok(())
            }
        }
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
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// [`receive`](Self::receive), for who cannot hold the channel while he waits.
    ///
    /// # Errors
    /// When the sandbox is gone or sends nonsense.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, ChannelError>> {
        let header = loop {
            match self.buffer.first_chunk() {
                Some(bytes) => break Header::decode(bytes)?,
                None => ready!(self.poll_fill(cx))?,
            }
        };
        let n_wanted = (HEADER_BYTES + header.n_payload as usize)
            .min(HEADER_BYTES + usize::from(header.n_head) + PIECE_BYTES_MAX);
        while self.buffer.len() < n_wanted {
            self.buffer.reserve(n_wanted - self.buffer.len());
            ready!(self.poll_fill(cx))?;
        }
        let _ = self.buffer.split_to(HEADER_BYTES);
        let head = self.buffer.split_to(header.n_head.into()).freeze();
        let body = self.buffer.split_to(header.n_body().min(PIECE_BYTES_MAX)).freeze();
        let n_rest = header.n_body() - body.len();
        Poll::Ready(Ok(Incoming { header, head, body, n_rest }))
    }

    /// The next piece of a long body, of which `n_rest` bytes are missing.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub async fn rest(&mut self, n_rest: usize) -> Result<Bytes, ChannelError> {
        poll_fn(|cx| self.poll_rest(n_rest, cx)).await
    }

    /// [`rest`](Self::rest), for who cannot hold the channel while he waits.
    ///
    /// # Errors
    /// When the sandbox is gone.
    pub fn poll_rest(&mut self, n_rest: usize, cx: &mut Context<'_>) -> Poll<Result<Bytes, ChannelError>> {
        if self.buffer.is_empty() {
            self.buffer.reserve(n_rest.min(PIECE_BYTES_MAX));
            ready!(self.poll_fill(cx))?;
        }
        let n = self.buffer.len().min(n_rest).min(PIECE_BYTES_MAX);
        Poll::Ready(Ok(self.buffer.split_to(n).freeze()))
    }

    async fn fill(&mut self) -> Result<(), ChannelError> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        if self.buffer.capacity() == self.buffer.len() {
            self.buffer.reserve(BUFFER_BYTES);
        }
        match ready!(poll_read_some(self.answers.here()?, &mut self.buffer, cx))? {
            0 => Poll::Ready(Err(ChannelError::Closed)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

fn header(kind: Kind, flags: u8, invocation: u32, head: &[u8], body: &[u8]) -> [u8; HEADER_BYTES] {
    let n_payload = (head.len() + body.len()) as u32;
    Header { n_payload, kind, flags, n_head: head.len() as u16, invocation }.encode()
}

/// What the next packet takes of parts of which `n_sent` bytes are gone.
fn packet<const N: usize>(parts: [&[u8]; N], n_sent: usize) -> [IoSlice<'_>; N] {
    let (mut skip, mut room) = (n_sent, PACKET_BYTES_MAX);
    parts.map(|part| {
        let from = skip.min(part.len());
        let n = (part.len() - from).min(room);
        skip -= from;
        room -= n;
        IoSlice::new(&part[from..from + n])
    })
}

/// Reads once, into the room that the buffer has. Given up while it waits, it has changed nothing.
fn poll_read_some(
    socket: &mut AsyncFd<UnixStream>,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let len = buffer.len();
    let room = buffer.capacity() - len;
    loop {
        let mut ready = ready!(socket.poll_read_ready_mut(cx))?;
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
                return Poll::Ready(Ok(n));
            }
            Ok(Err(error)) => return Poll::Ready(Err(error)),
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_cut_into_packets_that_give_it_again() {
        let (head, body) = (vec![1; 65_535], vec![2; 3 * PACKET_BYTES_MAX]);
        let parts = [&[0; HEADER_BYTES][..], &head, &body];
        let mut sent = Vec::new();
        while sent.len() < parts.concat().len() {
            let before = sent.len();
            for part in packet(parts, before) {
                sent.extend_from_slice(&part);
            }
            assert!((1..=PACKET_BYTES_MAX).contains(&(sent.len() - before)));
        }
        assert!(sent == parts.concat());
    }

    #[test]
    fn what_was_not_read_is_taken_back_and_what_was_read_is_not() {
        let (mut channel, theirs) = Channel::pair().unwrap();
        for body in [&b"a"[..], b"b", b"c"] {
            assert!(channel.try_send_request(b"", body, false).unwrap());
        }
        let mut first = [0; 100];
        assert_eq!(rustix::io::read(&theirs.requests, &mut first).unwrap(), HEADER_BYTES + 1);
        assert_eq!((first[8], first[HEADER_BYTES]), (1, b'a'));
        assert_eq!(channel.take_back(), [2, 3]);
        assert!(channel.take_back().is_empty());
        assert!(channel.try_send_request(b"", b"d", false).unwrap());
        assert_eq!(rustix::io::read(&theirs.requests, &mut first).unwrap(), HEADER_BYTES + 1);
        assert_eq!((first[8], first[HEADER_BYTES]), (4, b'd'));
    }

    #[test]
    fn the_end_of_an_earlier_call_is_not_taken_back_nor_what_stands_behind_it() {
        let (mut channel, theirs) = Channel::pair().unwrap();
        assert!(channel.try_send_request(b"", b"a", false).unwrap());
        let mut first = [0; 64];
        let _ = rustix::io::read(&theirs.requests, &mut first).unwrap();
        assert!(channel.try_send(Kind::Closed, 0, b"").unwrap());
        assert!(channel.try_send_request(b"", b"b", false).unwrap());
        assert!(channel.take_back().is_empty());
        let n = rustix::io::read(&theirs.requests, &mut first).unwrap();
        assert_eq!((n, first[4]), (HEADER_BYTES, Kind::Closed as u8));
        assert_eq!(channel.take_back(), [2]);
    }

    #[test]
    fn a_socket_takes_no_more_than_it_has_room_for() {
        let (mut channel, theirs) = Channel::pair().unwrap();
        let body = vec![0; 60_000];
        let mut n_sent = 0;
        while channel.try_send_request(b"", &body, false).unwrap() {
            n_sent += 1;
        }
        assert!(n_sent < 100, "{n_sent}");
        assert_eq!(channel.take_back().len(), n_sent);
        drop(theirs);
    }

    #[test]
    fn nothing_comes_back_on_the_way_of_requests() {
        let (_channel, theirs) = Channel::pair().unwrap();
        assert_eq!(rustix::io::write(&theirs.requests, b"x"), Err(rustix::io::Errno::PIPE));
    }
}
