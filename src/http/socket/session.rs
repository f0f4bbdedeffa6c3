//! A WebSocket that is open: messages between a client and a function, until one of them closes it, or the worker ends.
//!
//! It has a task of its own, on the thread of its connection. Nothing is read of the one side while the other takes
//! nothing, so that what is kept is a message of the client's, and some pieces for the client.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use actix_http::ws::{CloseCode, CloseReason};
use actix_web::error::PayloadError;
use actix_web::web::Payload;
use actors::pool::{Discard, Lease};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Ear, Fault, Heard, Mouth, reason};
use super::{ABNORMAL, closed};
use crate::frame::{BrokenFrame, HEADER_BYTES, Kind, MORE, PACKET_BYTES_MAX, TEXT};
use crate::http::farewell::{self, Answer};
use crate::sandbox::channel::{ChannelError, Incoming};
use crate::sandbox::launcher::Sandbox;

/// Of a reason that the sandbox is told: as long as one may be in WebSocket's own frame (RFC 6455, 5.5).
const REASON_BYTES_MAX: usize = 123;
/// Pieces for a client that the connection has not taken yet: one is under way, and one ready.
const PIECES_MAX: usize = 2;
/// How long a client may be silent until it is asked whether it is there, and again until it is taken for gone. Proxies and
/// address translation forget connections after a minute or more.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long a client may take to answer a close: a slow phone's round trips.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// A code for "there was none" (RFC 6455, 7.4.1).
const NO_STATUS: u16 = 1005;

/// See the module's text.
pub(super) struct Session {
    lease: Lease<Sandbox>,
    number: u32,
    began: Instant,
    /// For how long nothing may be said.
    runtime: Duration,
    room: AsyncFd<UnixStream>,
    payload: Payload,
    ear: Ear,
    mouth: Mouth,
    to_client: mpsc::Sender<Result<Bytes, io::Error>>,
    /// Packets of a message that the sandbox has not taken yet.
    to_sandbox: VecDeque<(u8, Bytes)>,
    /// Bytes that the client is to get next.
    next: Option<Bytes>,
    /// The answer to its last ping.
    pong: Option<Bytes>,
    /// The message for the client that is under way: whether it is text, and how much of it is missing.
    amid: (bool, usize),
    ending: CancellationToken,
}

/// What happens to a socket.
#[derive(Debug)]
enum Event {
    WorkerEnds,
    /// There is room for what the client is to get; or there is no client.
    ClientTakes(bool),
    Frame(Result<Incoming, ChannelError>),
    Piece(Result<Bytes, ChannelError>),
    SandboxTakes,
    Client(Option<Result<Bytes, PayloadError>>),
    Alarm,
}

/// Why a socket is at its end.
#[derive(Debug)]
enum End {
    /// The client has closed it.
    Client(Option<CloseReason>),
    /// The client is gone, or does not answer.
    Gone,
    /// It does not keep to the protocol.
    Fault(Fault),
    /// The function has closed it.
    Function { code: u16, reason: String },
    /// The function has come to its end, or failed.
    Returned { failed: bool },
    /// The sandbox is gone, or talks nonsense.
    Sandbox(ChannelError),
    /// Nobody has said anything for too long.
    Idle,
    /// The worker ends.
    Worker,
}

impl Session {
    /// Begins, and gives what the client gets.
    pub(super) fn begin(
        lease: Lease<Sandbox>,
        number: u32,
        payload: Payload,
        runtime: Duration,
        ending: CancellationToken,
    ) -> impl futures_util::Stream<Item = Result<Bytes, io::Error>> + 'static {
        let (to_client, mut pieces) = mpsc::channel(PIECES_MAX);
        match lease.channel.room() {
            Ok(room) => {
                let session = Self {
                    lease,
                    number,
                    began: Instant::now(),
                    runtime,
                    room,
                    payload,
                    ear: Ear::new(),
                    mouth: Mouth::new(),
                    to_client,
                    to_sandbox: VecDeque::new(),
                    next: None,
                    pong: None,
                    amid: (false, 0),
                    ending,
                };
                actix_web::rt::spawn(session.run());
            }
            // No descriptor is free: the connection ends, and the lease with it.
            Err(_) => lease.discard(Discard::Abandoned),
        }
        futures_util::stream::poll_fn(move |cx| pieces.poll_recv(cx))
    }

    async fn run(mut self) {
        let end = match self.talk().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let (for_client, for_sandbox) = self.last_words(&end).await;
        let has_closed = matches!(end, End::Client(_) | End::Gone);
        if !matches!(end, End::Gone) {
            self.close(for_client, has_closed).await;
        }
        self.leave(end, for_sandbox).await;
    }

    /// Moves messages until there is a reason not to.
    async fn talk(&mut self) -> Result<Infallible, End> {
        let mut last_message = Instant::now();
        let mut last_heard = Instant::now();
        let mut is_asked = false;
        loop {
            let idle = last_message + self.runtime;
            let ping = last_heard + if is_asked { 2 * PING_EVERY } else { PING_EVERY };
            // Who is not read cannot be heard.
            let alarm = if self.to_sandbox.is_empty() { idle.min(ping) } else { idle };
            match self.event(alarm).await {
                Event::WorkerEnds => return Err(End::Worker),
                Event::ClientTakes(is_there) => {
                    if !is_there {
                        return Err(End::Gone);
                    }
                    let bytes = match self.next.take() {
                        Some(bytes) => {
                            last_message = Instant::now();
                            Some(bytes)
                        }
                        None => self.pong.take().and_then(|body| self.mouth.pong(body)),
                    };
                    // There is room: nobody else sends.
                    if let Some(bytes) = bytes {
                        let _ = self.to_client.try_send(Ok(bytes));
                    }
                }
                Event::Frame(incoming) => {
                    last_message = Instant::now();
                    self.hear_sandbox(incoming.map_err(End::Sandbox)?)?;
                }
                Event::Piece(piece) => {
                    let piece = piece.map_err(End::Sandbox)?;
                    let (is_text, n_missing) = self.amid;
                    let n_missing = n_missing - piece.len();
                    self.say(is_text, piece, n_missing)?;
                }
                Event::SandboxTakes => {
                    if self.push_on()? && self.hear_client()? {
                        last_message = Instant::now();
                    }
                }
                Event::Client(None | Some(Err(_))) => return Err(End::Gone),
                Event::Client(Some(Ok(chunk))) => {
                    last_heard = Instant::now();
                    is_asked = false;
                    self.ear.push(&chunk);
                    if self.hear_client()? {
                        last_message = Instant::now();
                    }
                }
                Event::Alarm if Instant::now() >= idle => return Err(End::Idle),
                Event::Alarm if is_asked => return Err(End::Gone),
                Event::Alarm => {
                    is_asked = true;
                    // Where there is no room, the client is asked by what it does not take.
                    if let Some(ping) = self.mouth.ping() {
                        let _ = self.to_client.try_send(Ok(ping));
                    }
                }
            }
        }
    }

    /// What happens next, of what there is room for.
    async fn event(&mut self, alarm: Instant) -> Event {
        let Self { lease, room, payload, to_client, to_sandbox, next, pong, amid, ending, .. } = self;
        let has_next = next.is_some() || pong.is_some();
        let n_missing = amid.1;
        tokio::select! {
            biased;
            () = ending.cancelled() => Event::WorkerEnds,
            permit = to_client.reserve(), if has_next => Event::ClientTakes(permit.is_ok()),
            () = to_client.closed(), if !has_next => Event::ClientTakes(false),
            said = poll_fn(|cx| match n_missing {
                0 => lease.channel.poll_receive(cx).map(Event::Frame),
                n => lease.channel.poll_rest(n, cx).map(Event::Piece),
            }), if next.is_none() => said,
            // Whether it is, is seen when it is tried.
            _ = room.writable(), if !to_sandbox.is_empty() => Event::SandboxTakes,
            chunk = payload.next(), if to_sandbox.is_empty() => Event::Client(chunk),
            () = sleep_until(alarm) => Event::Alarm,
        }
    }

    /// Goes on with a message for the sandbox. Whether that was all of it.
    fn push_on(&mut self) -> Result<bool, End> {
        let Self { lease, room, to_sandbox, .. } = self;
        // What would block has the next wait wait.
        let pushed = room.try_io(Interest::WRITABLE, |_| match push(lease, to_sandbox) {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
            Err(end) => Ok(Err(end)),
        });
        match pushed {
            Ok(result) => result.map(|()| true),
            Err(_would_block) => Ok(false),
        }
    }

    /// Takes what the client has sent, until the sandbox takes no more. Whether there was a message.
    fn hear_client(&mut self) -> Result<bool, End> {
        let mut was_message = false;
        while self.to_sandbox.is_empty() {
            match self.ear.next().map_err(End::Fault)? {
                None => break,
                Some(Heard::Close(reason)) => return Err(End::Client(reason)),
                Some(Heard::Ping(body)) => self.pong = Some(body),
                Some(Heard::Pong) => {}
                Some(Heard::Message { is_text, body }) => {
                    was_message = true;
                    self.to_sandbox = packets(is_text, body);
                    push(&mut self.lease, &mut self.to_sandbox)?;
                }
            }
        }
        Ok(was_message)
    }

    fn hear_sandbox(&mut self, incoming: Incoming) -> Result<(), End> {
        let Incoming { header, body, n_rest, .. } = incoming;
        if header.invocation != self.number {
            return Err(nonsense("a message of another socket"));
        }
        match header.kind {
            Kind::SocketMessage => self.say(header.is_text(), body, n_rest),
            Kind::SocketClose if n_rest == 0 && body.len() >= 2 => {
                let code = u16::from_le_bytes([body[0], body[1]]);
                Err(End::Function { code, reason: String::from_utf8_lossy(&body[2..]).into_owned() })
            }
            Kind::ResponseBody if !header.more() && header.n_body() == 0 => {
                Err(End::Returned { failed: header.failed() })
            }
            _ => Err(nonsense("no message where one was due")),
        }
    }

    /// A piece of a message for the client, of which so much is missing.
    fn say(&mut self, is_text: bool, piece: Bytes, n_missing: usize) -> Result<(), End> {
        self.amid = (is_text, n_missing);
        let bytes = self.mouth.message(is_text, piece, n_missing > 0);
        self.next = Some(bytes.ok_or_else(|| nonsense("a text that is not UTF-8"))?);
        Ok(())
    }

    /// What client and function are told of the end.
    async fn last_words(&self, end: &End) -> (Option<CloseReason>, (u16, String)) {
        let of = |code: CloseCode, text: &str| {
            let code = u16::from(code);
            (reason(code, text), (code, text.to_owned()))
        };
        match end {
            End::Client(None) => (None, (NO_STATUS, String::new())),
            End::Client(Some(said)) => {
                let text = said.description.clone().unwrap_or_default();
                // Its own code goes back to it.
                (reason(said.code.into(), ""), (said.code.into(), text))
            }
            End::Gone => (None, (ABNORMAL, String::new())),
            End::Fault(Fault(code, text)) => of(*code, text),
            // A code that must not be sent becomes none.
            End::Function { code, reason: text } => (reason(*code, text), (*code, text.clone())),
            End::Returned { failed: false } => of(CloseCode::Normal, ""),
            End::Returned { failed: true } => of(CloseCode::Error, "the function failed"),
            End::Sandbox(error @ ChannelError::Broken(_)) => of(CloseCode::Error, &error.to_string()),
            End::Sandbox(error) => {
                let cause = self.lease.obituary(error).await;
                of(CloseCode::Error, &format!("the function's sandbox died: {cause}"))
            }
            End::Idle => {
                let text =
                    format!("nothing was said for {} s (the function's runtime_sec)", self.runtime.as_secs());
                of(CloseCode::Away, &text)
            }
            End::Worker => of(CloseCode::Restart, "the worker ends"),
        }
    }

    /// Closes the client's side, and waits for its close, unless it `has_closed`.
    async fn close(&mut self, reason: Option<CloseReason>, has_closed: bool) {
        let handshake = async {
            // What was said before comes before.
            if let Some(bytes) = self.next.take() {
                self.to_client.send(Ok(bytes)).await.ok()?;
            }
            // Amid a message nothing but its end may follow, so the connection is cut.
            if self.amid.1 == 0 {
                self.to_client.send(Ok(self.mouth.close(reason)?)).await.ok()?;
            }
            if has_closed {
                return Some(());
            }
            loop {
                match self.ear.next() {
                    Ok(Some(Heard::Close(_))) | Err(_) => return Some(()),
                    Ok(Some(_)) => {}
                    Ok(None) => {
                        let chunk = self.payload.next().await?.ok()?;
                        self.ear.push(&chunk);
                    }
                }
            }
        };
        // Who does not answer has been told all the same.
        let _ = timeout(CLOSE_PATIENCE, handshake).await;
    }

    /// Tells the sandbox, sees the invocation to its end, and gives the lease back. The connection ends meanwhile.
    async fn leave(self, end: End, (code, text): (u16, String)) {
        let Self { mut lease, number, began, room, to_client, payload, amid, .. } = self;
        drop((to_client, payload));
        if let End::Sandbox(error) = end {
            let why = match error {
                ChannelError::Broken(_) => Discard::Abandoned,
                _ => Discard::Died,
            };
            lease.discard(why);
            return;
        }
        let answer = match end {
            End::Returned { .. } => Answer::after(0, false),
            _ => Answer::after(amid.1, true),
        };
        if matches!(end, End::Returned { failed: true }) {
            lease.count_error();
        }
        // It is to be one packet.
        let words = closed(code, &text[..text.floor_char_boundary(REASON_BYTES_MAX)]);
        let left = timeout(farewell::PATIENCE, async {
            loop {
                // Tried first: an app that reads has made room.
                let mut ready = tokio::select! {
                    biased;
                    ready = room.writable() => ready?,
                };
                if lease.channel.try_send(Kind::Closed, 0, &words)? {
                    break;
                }
                ready.clear_ready();
            }
            farewell::see_to_the_end(&mut lease, number, answer).await
        });
        match left.await {
            Ok(Ok(())) => lease.finish(began.elapsed()),
            Ok(Err(_)) => lease.discard(Discard::Died),
            Err(_) => lease.discard(Discard::ClientGone),
        }
    }
}

fn nonsense(what: &'static str) -> End {
    End::Sandbox(BrokenFrame(what).into())
}

/// Gives the sandbox what it takes. `false`: there is a rest.
fn push(lease: &mut Lease<Sandbox>, packets: &mut VecDeque<(u8, Bytes)>) -> Result<bool, End> {
    while let Some((flags, body)) = packets.front() {
        if !lease.channel.try_send(Kind::Message, *flags, body).map_err(End::Sandbox)? {
            return Ok(false);
        }
        packets.pop_front();
    }
    Ok(true)
}

/// A message as frames, each of which is one packet.
fn packets(is_text: bool, mut body: Bytes) -> VecDeque<(u8, Bytes)> {
    const BODY_BYTES_MAX: usize = PACKET_BYTES_MAX - HEADER_BYTES;
    let text = if is_text { TEXT } else { 0 };
    let mut packets = VecDeque::new();
    while body.len() > BODY_BYTES_MAX {
        packets.push_back((text | MORE, body.split_to(BODY_BYTES_MAX)));
    }
    packets.push_back((text, body));
    packets
}
