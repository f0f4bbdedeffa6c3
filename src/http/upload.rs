//! A request's body: short ones are read before a sandbox is leased, long ones stream through it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::error::HttpError;

/// Bodies up to this are whole before a sandbox is asked for, so that a slow client does not hold one.
/// Longer ones are rare, and would fill the memory.
pub(super) const BUFFERED_BYTES_MAX: usize = 256 << 10;
/// How long a client may take for the buffered part; a slow phone sends 256 KiB in 10 s.
const BUFFERED_PATIENCE: Duration = Duration::from_secs(30);

/// A request's body as it comes; nothing any more when it has been read to its end.
pub(super) type Unread = Option<Payload>;

/// A body of which the beginning has been read.
pub(super) struct Body<'a> {
    pub(super) first: Bytes,
    /// What is still to come; `None` when `first` is all of it.
    pub(super) rest: Option<Rest<'a>>,
}

/// The part of a long body that is read while the function already has the beginning.
pub(super) struct Rest<'a> {
    payload: &'a mut Unread,
    n_read: usize,
    bytes_max: usize,
}

impl<'a> Body<'a> {
    /// Reads until the end or until the buffer is full. `n_announced` is the `Content-Length`.
    pub(super) async fn begin(
        payload: &'a mut Unread,
        n_announced: Option<u64>,
        bytes_max: usize,
    ) -> Result<Self, HttpError> {
        let too_long = || HttpError::BodyTooLong { mb_max: bytes_max >> 20 };
        if n_announced.is_some_and(|n| n > bytes_max as u64) {
            return Err(too_long());
        }
        if n_announced == Some(0) {
            *payload = None;
        }
        let deadline = Instant::now() + BUFFERED_PATIENCE;
        let mut first = Chunks::None;
        loop {
            match next(payload, deadline).await? {
                None => return Ok(Self { first: first.into_bytes(), rest: None }),
                Some(chunk) => first.push(chunk),
            }
            if first.len() > bytes_max {
                return Err(too_long());
            }
            if first.len() > BUFFERED_BYTES_MAX {
                let n_read = first.len();
                return Ok(Self {
                    first: first.into_bytes(),
                    rest: Some(Rest { payload, n_read, bytes_max }),
                });
            }
        }
    }
}

impl Rest<'_> {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        let Some(piece) = next(self.payload, Instant::now() + BUFFERED_PATIENCE).await? else {
            return Ok(None);
        };
        self.n_read += piece.len();
        if self.n_read > self.bytes_max {
            return Err(HttpError::BodyTooLong { mb_max: self.bytes_max >> 20 });
        }
        Ok(Some(piece))
    }
}

async fn next(unread: &mut Unread, deadline: Instant) -> Result<Option<Bytes>, HttpError> {
    let Some(payload) = unread else { return Ok(None) };
    match timeout_at(deadline, payload.next()).await {
        Err(_) => Err(HttpError::BodySlow(BUFFERED_PATIENCE.as_secs())),
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(end) => {
            *unread = None;
            end.transpose().map_err(|error| HttpError::Body(error.to_string()))
        }
    }
}

/// A response to a request of which not everything was read. Left alone, the server would read the rest of a chunked
/// body for as long as the client sends, to keep the connection. As long as somebody could still read it, the server
/// does not, and ends the connection after the response.
pub(super) fn answered(response: HttpResponse, unread: Unread) -> HttpResponse {
    match unread {
        None => response,
        Some(payload) => response.map_body(|_, body| Held { body, _unread: payload }).map_into_boxed_body(),
    }
}

/// A response's body that keeps the request's body until it has been sent.
struct Held {
    body: BoxBody,
    _unread: Payload,
}

impl MessageBody for Held {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// One chunk is what an ordinary request has: that one is passed on without a copy.
enum Chunks {
    None,
    One(Bytes),
    Many(BytesMut),
}

impl Chunks {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    fn push(&mut self, chunk: Bytes) {
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(chunk),
            Self::One(first) => {
                let mut all = BytesMut::with_capacity(2 * (first.len() + chunk.len()));
                all.extend_from_slice(&first);
                all.extend_from_slice(&chunk);
                Self::Many(all)
            }
            Self::Many(mut all) => {
                all.extend_from_slice(&chunk);
                Self::Many(all)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}
