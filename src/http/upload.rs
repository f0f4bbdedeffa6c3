//! A request's body: short ones are read before a sandbox is leased, long ones stream through it.

use std::time::Duration;

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

/// A body of which the beginning has been read.
pub(super) struct Body {
    pub(super) first: Bytes,
    /// What is still to come; `None` when `first` is all of it.
    pub(super) rest: Option<Rest>,
}

/// The part of a long body that is read while the function already has the beginning.
pub(super) struct Rest {
    payload: Payload,
    n_read: usize,
    bytes_max: usize,
}

impl Body {
    /// Reads until the end or until the buffer is full. `n_announced` is the `Content-Length`.
    pub(super) async fn begin(
        mut payload: Payload,
        n_announced: Option<u64>,
        bytes_max: usize,
    ) -> Result<Self, HttpError> {
        let too_long = || HttpError::BodyTooLong { mb_max: bytes_max >> 20 };
        if n_announced.is_some_and(|n| n > bytes_max as u64) {
            return Err(too_long());
        }
        if n_announced == Some(0) {
            return Ok(Self { first: Bytes::new(), rest: None });
        }
        let deadline = Instant::now() + BUFFERED_PATIENCE;
        let mut first = Chunks::None;
        loop {
            let Ok(chunk) = timeout_at(deadline, payload.next()).await else {
                return Err(HttpError::BodySlow(BUFFERED_PATIENCE.as_secs()));
            };
            match chunk {
                None => return Ok(Self { first: first.into_bytes(), rest: None }),
                Some(Err(error)) => return Err(HttpError::Body(error.to_string())),
                Some(Ok(chunk)) => first.push(chunk),
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

impl Rest {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        match timeout_at(Instant::now() + BUFFERED_PATIENCE, self.payload.next()).await {
            Err(_) => Err(HttpError::BodySlow(BUFFERED_PATIENCE.as_secs())),
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(HttpError::Body(error.to_string())),
            Ok(Some(Ok(piece))) => {
                self.n_read += piece.len();
                if self.n_read > self.bytes_max {
                    return Err(HttpError::BodyTooLong { mb_max: self.bytes_max >> 20 });
                }
                Ok(Some(piece))
            }
        }
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
