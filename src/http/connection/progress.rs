//! How far the requests and answers of a connection have come: told by those who see it, for those who do not.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_http::{ConnectionType, HttpMessage as _, Method, Request, ResponseHead};
use actix_web::HttpRequest;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::CONTENT_LENGTH;
use bytes::Bytes;

use super::gate::{Gate, UNKNOWN};

/// Of one connection.
#[derive(Debug, Default)]
pub(in crate::http) struct Progress {
    gate: RefCell<Gate>,
    /// How often all that there was had been written.
    n_flushes: Cell<u64>,
    /// Somebody waits for the next time.
    is_waited_for: Cell<bool>,
}

impl Progress {
    /// That of the connection on which this has come.
    pub(super) fn of(request: &Request) -> Option<Rc<Self>> {
        request.conn_data::<Rc<Self>>().cloned()
    }

    /// The same for a handler.
    pub(in crate::http) fn of_client(request: &HttpRequest) -> Option<Rc<Self>> {
        request.conn_data::<Rc<Self>>().cloned()
    }

    pub(super) fn begin(&self, request: &Request) {
        let head = request.head();
        let is_unknown = head.upgrade()
            || head.method == Method::CONNECT
            // What cannot be read as chunks was refused before.
            || request.chunked().unwrap_or(true);
        let announced = || request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok();
        let n_body = if is_unknown { UNKNOWN } else { announced().unwrap_or(0) };
        self.gate.borrow_mut().begin(n_body, head.connection_type() != ConnectionType::KeepAlive);
    }

    pub(super) fn let_through(&self, bytes: &[u8]) -> usize {
        self.gate.borrow_mut().let_through(bytes)
    }

    pub(super) fn start_look(&self) {
        self.gate.borrow_mut().start_look();
    }

    pub(super) fn may_read_on(&self) -> bool {
        self.gate.borrow().may_read_on()
    }

    pub(super) fn awaits_head(&self) -> bool {
        self.gate.borrow().awaits_head()
    }

    pub(super) fn was_last(&self) -> bool {
        self.gate.borrow().was_last()
    }

    /// All that there was has been written. Says whether somebody has waited for it.
    pub(in crate::http) fn flushed(&self) -> bool {
        self.n_flushes.set(self.n_flushes.get() + 1);
        self.is_waited_for.take()
    }

    /// How often all that there was had been written. After the next time the connection is looked at again.
    pub(in crate::http) fn await_flush(&self) -> u64 {
        self.is_waited_for.set(true);
        self.n_flushes.get()
    }
}

/// An answer, or its body, until it has been given to actix-http whole.
pub(super) struct Tracked<B> {
    body: B,
    progress: Option<Answering>,
}

/// Tells that an answer has come to its end, on every way out.
struct Answering(Rc<Progress>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.gate.borrow_mut().end();
    }
}

impl Tracked<()> {
    pub(super) fn new(progress: Option<Rc<Progress>>) -> Self {
        Self { body: (), progress: progress.map(Answering) }
    }

    pub(super) fn answer(&self, head: &ResponseHead) {
        if let Some(Answering(progress)) = &self.progress
            && head.connection_type() == ConnectionType::Close
        {
            progress.gate.borrow_mut().end_after_this();
        }
    }

    pub(super) fn with<B>(self, body: B) -> Tracked<B> {
        Tracked { body, progress: self.progress }
    }
}

impl<B: MessageBody + Unpin> MessageBody for Tracked<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
