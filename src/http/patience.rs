//! A client that takes nothing more of its answer. The server asks an answer for its next piece only when the client has room for it, so
//! one that reads no more would keep what the answer holds (a sandbox, a place among downloads) for as long as it likes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// An answer whose client has to take each piece in time.
pub(super) struct Patient<E> {
    answer: Rc<RefCell<Answer<E>>>,
    watch: JoinHandle<()>,
}

type Pieces<E> = Pin<Box<dyn Stream<Item = Result<Bytes, E>>>>;

struct Answer<E> {
    /// `None`: it has ended, or was given up.
    pieces: Option<Pieces<E>>,
    /// When the last piece was given, if none was asked for since.
    given: Option<Instant>,
    was_given_up: bool,
}

/// `patience`: how long a client may take for a piece. Then what the answer holds is let go, and the answer is cut off.
pub(super) fn patient<E: From<io::Error> + 'static>(
    pieces: impl Stream<Item = Result<Bytes, E>> + 'static,
    patience: Duration,
) -> Patient<E> {
    let pieces: Pieces<E> = Box::pin(pieces);
    let answer = Answer { pieces: Some(pieces), given: None, was_given_up: false };
    let answer = Rc::new(RefCell::new(answer));
    let watch = actix_web::rt::spawn(watch(Rc::downgrade(&answer), patience));
    Patient { answer, watch }
}

async fn watch<E>(answer: Weak<RefCell<Answer<E>>>, patience: Duration) {
    let mut look_at = Instant::now() + patience;
    loop {
        sleep_until(look_at).await;
        let Some(answer) = answer.upgrade() else { return };
        let now = Instant::now();
        // The sooner of when its time is over and when that of a piece that is given now would be.
        look_at = answer.borrow().given.map_or(now, |given| given) + patience;
        if look_at <= now {
            let given_up = {
                let mut answer = answer.borrow_mut();
                answer.was_given_up = true;
                answer.pieces.take()
            };
            // Not while it is borrowed: it may do anything.
            drop(given_up);
            return;
        }
    }
}

impl<E: From<io::Error>> Stream for Patient<E> {
    type Item = Result<Bytes, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut answer = self.answer.borrow_mut();
        answer.given = None;
        if std::mem::take(&mut answer.was_given_up) {
            let late = io::Error::new(io::ErrorKind::TimedOut, "the client has not taken its answer in time");
            return Poll::Ready(Some(Err(late.into())));
        }
        let Some(pieces) = &mut answer.pieces else { return Poll::Ready(None) };
        let piece = pieces.as_mut().poll_next(context);
        match &piece {
            Poll::Ready(Some(Ok(_))) => answer.given = Some(Instant::now()),
            Poll::Ready(Some(Err(_)) | None) => answer.pieces = None,
            Poll::Pending => {}
        }
        piece
    }
}

impl<E> Drop for Patient<E> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::{StreamExt, stream};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Pieces that tell when they are let go.
    struct Held(Rc<Cell<bool>>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    fn answer(n: usize) -> (Patient<io::Error>, Rc<Cell<bool>>) {
        let was_let_go = Rc::new(Cell::new(false));
        let held = Held(Rc::clone(&was_let_go));
        let pieces = stream::unfold((0, held), move |(at, held)| async move {
            // Silent for longer than a client may be.
            tokio::time::sleep(2 * PATIENCE).await;
            (at < n).then(|| (Ok(Bytes::from_static(b"piece")), (at + 1, held)))
        });
        (patient(pieces, PATIENCE), was_let_go)
    }

    #[actix_web::test]
    async fn who_takes_each_piece_in_time_gets_them_all_however_long_they_take_to_come() {
        tokio::time::pause();
        let (mut answer, was_let_go) = answer(3);
        for _ in 0..3 {
            assert_eq!(answer.next().await.unwrap().unwrap(), "piece");
            tokio::time::sleep(PATIENCE - Duration::from_millis(10)).await;
        }
        assert!(answer.next().await.is_none());
        assert!(was_let_go.get());
    }

    #[actix_web::test]
    async fn what_is_not_taken_in_time_is_let_go_and_the_answer_is_cut_off() {
        tokio::time::pause();
        let (mut answer, was_let_go) = answer(3);
        answer.next().await.unwrap().unwrap();
        tokio::time::sleep(2 * PATIENCE + Duration::from_millis(10)).await;
        assert!(was_let_go.get());
        assert_eq!(answer.next().await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(answer.next().await.is_none());
    }
}
