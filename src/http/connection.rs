//! A connection of a client, between its socket and actix-http.
//!
//! actix-http reads requests and writes answers. Three things it does not do, and a client would miss them; they are done here, on
//! the bytes that pass:
//!
//! | part | what |
//! |---|---|
//! | [`gate`] | a request that is sent ahead waits until the one before it has been answered: actix-http would read it at once, and write the answer before it with what it knows of the last one |
//! | [`refusal`] | what cannot be read as a request is told why: actix-http has a status for it, and no text. And a client has to be done with each request's head in time, not only with the first one's |
//! | [`progress`] | the parts of an answer learn what of it was written: actix-http throws away what was not yet, when an answer breaks off |

mod gate;
mod progress;
mod refusal;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _};
use actix_service::{apply_fn_factory, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Extensions};
use actix_web::rt::net::{TcpStream, UnixStream};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

pub(super) use progress::Progress;
pub(super) use refusal::{HEAD_KIB_MAX, HEADERS_MAX};

use super::client;
use super::error::HttpError;
use progress::Tracked;

/// How long a client may take for a request's headers.
const HEADERS_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection stays open without a request.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client is read on for that has got an answer to a request of which it sends more: as long as actix-web's own.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection comes in on.
pub(crate) trait Socket: AsyncRead + AsyncWrite + AsFd + Unpin + 'static {
    /// Who the client is, where that has an address.
    fn peer(&self) -> Option<SocketAddr>;
}

impl Socket for TcpStream {
    fn peer(&self) -> Option<SocketAddr> {
        self.peer_addr().ok()
    }
}

impl Socket for UnixStream {
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

/// Serves connections with an application. `remember` adds to what is kept for as long as a connection is; `ending` is when those are to
/// end that have no request.
pub(crate) fn serving<C, I, S, B, F>(
    app: I,
    remember: impl Fn(&mut Extensions) + 'static,
    ending: impl Fn() -> F + 'static,
) -> impl ServiceFactory<C, Config = (), Response = (), Error = DispatchError, InitError = ()>
where
    C: Socket,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig, Error = actix_web::Error> + 'static,
    S::InitError: std::fmt::Debug,
    S::Response: Into<Response<B>>,
    S::Service: 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + Unpin + 'static,
    F: Future<Output = ()> + 'static,
{
    let app = map_config(app, |()| AppConfig::default());
    let app = apply_fn_factory(app, |request: Request, app: &S::Service| {
        let progress = Progress::of(&request);
        if let Some(progress) = &progress {
            progress.begin(&request);
        }
        let answer = app.call(request);
        async move {
            // Dropped with the answer's body, or here when there is none.
            let tracked = Tracked::new(progress);
            let answer: Response<B> = answer.await?.into();
            tracked.answer(answer.head());
            Ok::<_, actix_web::Error>(answer.map_body(|_, body| tracked.with(body)))
        }
    });
    let http = HttpService::build()
        .keep_alive(KEEP_ALIVE)
        // This module's.
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(LINGER)
        .graceful_shutdown_signal(ending)
        .on_connect_ext(move |line: &Line<C>, extensions: &mut Extensions| {
            client::remember(&line.ends.borrow().socket, extensions);
            extensions.insert(Rc::clone(&line.progress));
            remember(extensions);
        })
        .finish(app.map_err(|error: actix_web::Error| error.error_response()));
    apply_fn_factory(http, |socket: C, http: &_| {
        let peer = socket.peer();
        let line = Line::new(socket);
        let (ends, progress) = (Rc::clone(&line.ends), Rc::clone(&line.progress));
        let served = http.call((line, Protocol::Http1, peer));
        serve(served, ends, progress)
    })
}

/// How the service of a connection ended.
enum End {
    /// As actix-http has it.
    Http(Result<(), DispatchError>),
    /// A head did not come in time.
    Slow,
}

async fn serve<C: Socket>(
    served: impl Future<Output = Result<(), DispatchError>>,
    ends: Rc<RefCell<Ends<C>>>,
    progress: Rc<Progress>,
) -> Result<(), DispatchError> {
    let end = {
        let mut served = pin!(served);
        let mut patience = None;
        poll_fn(|context| {
            progress.start_look();
            if let Poll::Ready(end) = served.as_mut().poll(context) {
                return Poll::Ready(End::Http(end));
            }
            if progress.may_read_on() {
                context.waker().wake_by_ref();
            }
            // An error shows itself to actix-http as well.
            let _ = ends.borrow_mut().poll_release(context);
            if !progress.awaits_head() {
                patience = None;
                return Poll::Pending;
            }
            let patience = patience.get_or_insert_with(|| Box::pin(sleep(HEADERS_PATIENCE)));
            patience.as_mut().poll(context).map(|()| End::Slow)
        })
        .await
    };
    let Ok(ends) = Rc::try_unwrap(ends) else {
        unreachable!("actix-http, which had the other one, has been dropped");
    };
    let Ends { mut socket, held, .. } = ends.into_inner();
    match end {
        End::Slow if progress.was_last() => {}
        End::Slow => refusal::tell(&mut socket, &HttpError::HeadSlow(HEADERS_PATIENCE.as_secs())).await,
        End::Http(Err(DispatchError::Parse(error))) if !held.is_empty() => {
            // After the last answer the client waits for none.
            if !progress.was_last() {
                refusal::tell(&mut socket, &refusal::of(&error)).await;
            }
            return Err(DispatchError::Parse(error));
        }
        End::Http(end) => {
            refusal::write(&mut socket, &held).await;
            return end;
        }
    }
    Ok(())
}

/// What actix-http has for a socket.
struct Line<C> {
    ends: Rc<RefCell<Ends<C>>>,
    progress: Rc<Progress>,
}

struct Ends<C> {
    socket: C,
    /// Was read, and waits.
    ahead: BytesMut,
    /// Was written, looks like a refusal of actix-http's, and waits until it is known whether it is one.
    held: Vec<u8>,
}

impl<C: Socket> Line<C> {
    fn new(socket: C) -> Self {
        let ends = Ends { socket, ahead: BytesMut::new(), held: Vec::new() };
        Self { ends: Rc::new(RefCell::new(ends)), progress: Rc::default() }
    }
}

impl<C: Socket> Ends<C> {
    /// Writes what was held, for it is no refusal.
    fn poll_release(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let n = ready!(Pin::new(&mut self.socket).poll_write(context, &self.held))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..n);
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: Socket> AsyncRead for Line<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Ends { socket, ahead, .. } = &mut *self.ends.borrow_mut();
        if ahead.is_empty() {
            let n_before = buffer.filled().len();
            ready!(Pin::new(socket).poll_read(context, buffer))?;
            let read = &buffer.filled()[n_before..];
            let n = self.progress.let_through(read);
            if n == read.len() {
                return Poll::Ready(Ok(()));
            }
            ahead.extend_from_slice(&read[n..]);
            buffer.set_filled(n_before + n);
            return if n > 0 { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let n = self.progress.let_through(&ahead[..ahead.len().min(buffer.remaining())]);
        if n == 0 {
            // Looked at again when there has been an answer.
            return Poll::Pending;
        }
        buffer.put_slice(&ahead.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<C: Socket> AsyncWrite for Line<C> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let ends = &mut *self.ends.borrow_mut();
        ready!(ends.poll_release(context))?;
        match refusal::begins_at(bytes) {
            Some(0) => {
                ends.held.extend_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            at => Pin::new(&mut ends.socket).poll_write(context, &bytes[..at.unwrap_or(bytes.len())]),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.ends.borrow_mut().socket).poll_flush(context))?;
        // actix-http flushes when it has written all that it has.
        if self.progress.flushed() {
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ends = &mut *self.ends.borrow_mut();
        ready!(ends.poll_release(context))?;
        Pin::new(&mut ends.socket).poll_shutdown(context)
    }
}
