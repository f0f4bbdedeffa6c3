//! A request's body: short ones are read before a sandbox is leased, long ones stream through it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::error::HttpError;

/// Bodies up to this are whole before a sandbox is asked for, so that a slow client does not hold one.
/// Longer ones are rare, and would fill the memory.
pub(super) const BUFFERED_BYTES_MAX: usize = 256 << 10;
/// How long a client may take for the buffered part; a slow phone sends 256 KiB in 10 s.
const BUFFERED_PATIENCE: Duration = Duration::from_secs(30);
/// Longest pause of an upload. It may take hours on a slow line, but a line that is silent for so long is dead.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The least that an upload brings on average, after a first pause: a third of what a slow phone sends. Otherwise who sends a byte now
/// and then would hold a connection and a file for ever.
const KIB_PER_SECOND_MIN: u32 = 8;

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

/// A body of which each piece is put away as it comes, however many there are.
pub(super) struct Pieces<'a> {
    unread: &'a mut Unread,
    began: Instant,
    n_read: u64,
}

impl<'a> Pieces<'a> {
    pub(super) fn of(unread: &'a mut Unread) -> Self {
        Self { unread, began: Instant::now(), n_read: 0 }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        let for_all = Duration::from_secs(self.n_read / (u64::from(KIB_PER_SECOND_MIN) << 10));
        let deadline = (Instant::now() + PAUSE_MAX).min(self.began + PAUSE_MAX + for_all);
        let piece = next(self.unread, deadline).await.map_err(|error| match error {
            HttpError::BodySlow(_) => {
                HttpError::UploadSlow { seconds: PAUSE_MAX.as_secs(), kib_per_second: KIB_PER_SECOND_MIN }
            }
            other => other,
        })?;
        self.n_read += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }
}

/// All of a body that is an order to the worker itself.
pub(super) async fn order(
    request: &HttpRequest,
    unread: &mut Unread,
    bytes_max: usize,
) -> Result<Bytes, HttpError> {
    assert!(bytes_max <= BUFFERED_BYTES_MAX, "no order streams");
    match Body::begin(unread, announced(request), bytes_max).await {
        Ok(body) => Ok(body.first),
        Err(HttpError::BodyTooLong { .. }) => Err(HttpError::OrderTooLong { kib_max: bytes_max >> 10 }),
        Err(error) => Err(error),
    }
}

/// How long the body is to be, if the client says so.
pub(super) fn announced(request: &HttpRequest) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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

#[cfg(test)]
mod tests {
    use actix_web::FromRequest;
    use actix_web::error::PayloadError;
    use actix_web::test::TestRequest;
    use futures_util::{Stream, stream};

    use super::*;

    async fn unread(pieces: impl Stream<Item = Bytes> + 'static) -> Unread {
        let pieces: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(pieces.map(Ok));
        let mut payload = actix_web::dev::Payload::Stream { payload: pieces };
        let request = TestRequest::default().to_http_request();
        Some(Payload::from_request(&request, &mut payload).await.unwrap())
    }

    /// A piece of this size at once, and one after each pause.
    fn every(pause: Duration, n_bytes: usize) -> impl Stream<Item = Bytes> {
        stream::unfold(Duration::ZERO, move |wait| async move {
            tokio::time::sleep(wait).await;
            Some((Bytes::from(vec![0; n_bytes]), pause))
        })
    }

    #[actix_web::test]
    async fn an_upload_that_is_silent_for_too_long_is_ended() {
        tokio::time::pause();
        let mut unread = unread(stream::iter([Bytes::from_static(b"ab")]).chain(stream::pending())).await;
        let mut pieces = Pieces::of(&mut unread);
        assert_eq!(pieces.next().await.unwrap().unwrap(), "ab");
        let began = Instant::now();
        let error = pieces.next().await.unwrap_err();
        assert_eq!(error.status(), 408);
        assert!(began.elapsed() <= PAUSE_MAX + Duration::from_millis(10), "{:?}", began.elapsed());
        assert!(unread.is_some(), "the connection is ended because of what is not read");
    }

    #[actix_web::test]
    async fn an_upload_that_trickles_is_ended() {
        tokio::time::pause();
        let mut unread = unread(every(Duration::from_secs(1), 1)).await;
        let mut pieces = Pieces::of(&mut unread);
        let began = Instant::now();
        let error = loop {
            match pieces.next().await {
                Ok(piece) => assert_eq!(piece.unwrap().len(), 1),
                Err(error) => break error,
            }
            assert!(began.elapsed() < 2 * PAUSE_MAX, "it goes on");
        };
        assert_eq!(error.status(), 408);
    }

    #[actix_web::test]
    async fn an_upload_over_a_slow_line_may_take_as_long_as_it_needs() {
        tokio::time::pause();
        let pause = PAUSE_MAX - Duration::from_secs(1);
        let n_bytes = usize::try_from((pause.as_secs() * u64::from(KIB_PER_SECOND_MIN)) << 10).unwrap();
        let mut unread = unread(every(pause, n_bytes)).await;
        let mut pieces = Pieces::of(&mut unread);
        for _ in 0..100 {
            assert_eq!(pieces.next().await.unwrap().unwrap().len(), n_bytes);
        }
    }

    #[actix_web::test]
    async fn an_order_has_to_come_in_time_and_is_told_its_own_limit() {
        tokio::time::pause();
        let request = TestRequest::default().to_http_request();
        let mut stalled = unread(stream::iter([Bytes::from_static(b"{}")]).chain(stream::pending())).await;
        assert_eq!(order(&request, &mut stalled, 64 << 10).await.unwrap_err().status(), 408);
        let mut long = unread(every(Duration::ZERO, 1 << 10)).await;
        let error = order(&request, &mut long, 64 << 10).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.to_string().contains("64 KiB")), (413, true), "{error}");
        let announced = TestRequest::default().insert_header((CONTENT_LENGTH, 999_999_999_999_u64));
        let mut silent = unread(stream::pending()).await;
        let error = order(&announced.to_http_request(), &mut silent, 64 << 10).await.unwrap_err();
        assert_eq!(error.status(), 413);
    }
}
