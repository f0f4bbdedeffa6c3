//! An answer that breaks off: the client gets what came before. The server throws away what it has not written yet, head and all, when
//! it is given an error; so it is given that when all has been written, however long the client takes to make room for it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use super::connection::Progress;

type Pieces<E> = Pin<Box<dyn Stream<Item = Result<Bytes, E>>>>;

/// Pieces of an answer, of which the error comes late.
pub(super) struct BreakingOff<E> {
    pieces: Pieces<E>,
    /// That of the connection; `None`: nobody's, and the error comes at once.
    progress: Option<Rc<Progress>>,
    /// Why it breaks off, and how often all had been written before.
    broken: Option<(E, u64)>,
}

pub(super) fn breaking_off<E>(
    pieces: impl Stream<Item = Result<Bytes, E>> + 'static,
    progress: Option<Rc<Progress>>,
) -> BreakingOff<E> {
    BreakingOff { pieces: Box::pin(pieces), progress, broken: None }
}

impl<E: Unpin> Stream for BreakingOff<E> {
    type Item = Result<Bytes, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { pieces, progress, broken } = self.get_mut();
        let Some(progress) = progress else { return pieces.as_mut().poll_next(context) };
        if let Some((error, n_flushes)) = broken.take() {
            if progress.await_flush() > n_flushes {
                return Poll::Ready(Some(Err(error)));
            }
            *broken = Some((error, n_flushes));
            return Poll::Pending;
        }
        match pieces.as_mut().poll_next(context) {
            Poll::Ready(Some(Err(error))) => {
                *broken = Some((error, progress.await_flush()));
                Poll::Pending
            }
            piece => piece,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::{StreamExt, poll, stream};

    use super::*;

    fn broken() -> impl Stream<Item = io::Result<Bytes>> {
        stream::iter([Ok(Bytes::from_static(b"piece")), Err(io::ErrorKind::BrokenPipe.into())])
    }

    #[actix_web::test]
    async fn the_error_comes_when_all_before_it_has_been_written() {
        let progress = Rc::<Progress>::default();
        let mut answer = breaking_off(broken(), Some(Rc::clone(&progress)));
        assert_eq!(answer.next().await.unwrap().unwrap(), "piece");
        assert!(!progress.flushed(), "nobody waits for it");
        for _ in 0..3 {
            assert!(poll!(answer.next()).is_pending());
        }
        assert!(progress.flushed());
        assert_eq!(answer.next().await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(answer.next().await.is_none());
    }

    #[actix_web::test]
    async fn who_has_no_connection_gets_it_at_once() {
        let mut answer = breaking_off(broken(), None);
        assert_eq!(answer.next().await.unwrap().unwrap(), "piece");
        assert!(answer.next().await.unwrap().is_err());
    }
}
