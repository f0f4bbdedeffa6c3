//! Orders that a helper, which is a shim or a zygote, has been given and has not answered.
//!
//! A helper does one after the other, and answers each. One that has an order and answers none for a while hangs: it was
//! stopped, or what runs in it does not come to an end. How long it takes for one of them says nothing, because others may be
//! before it.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::family::lock;

/// How long an order may take, with the wait for room. Ordinary are 0.6 ms for a shell and 2 ms for a fork; a machine under
/// emulation takes fifty times that.
const PATIENCE: Duration = Duration::from_secs(10);
/// Orders under way at one helper. It does one at a time, so that more would only lie in its socket, which takes some 280 and
/// then makes senders wait; this many are a tenth of a second of work.
const UNDER_WAY_MAX: usize = 64;
/// Looks in a row ([`LOOK_EVERY`](super::watchdog::LOOK_EVERY)) at which a helper had something to do and had answered nothing
/// since the look before. Whoever waited has gone by the last of them. Looks and not time: a worker that stood still itself,
/// because the machine did, has not looked either.
const HANGS_AFTER: u32 = 11;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Orders<T> {
    room: Semaphore,
    open: Mutex<Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    is_over: bool,
    /// Also those that nobody waits for any more: they are done all the same, and answered.
    waiting: HashMap<u64, oneshot::Sender<io::Result<T>>>,
    n_answered: u64,
    /// As it was at the last look.
    n_seen: u64,
    n_looks: u32,
}

/// What a look at a helper has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It has nothing to do, or gets on with it.
    Works,
    /// It does not answer.
    Hangs,
    /// It takes no orders any more.
    IsOver,
}

impl<T> Orders<T> {
    pub(super) fn new() -> Self {
        let waiting = HashMap::new();
        let open = Open { is_over: false, waiting, n_answered: 0, n_seen: 0, n_looks: 0 };
        Self { room: Semaphore::new(UNDER_WAY_MAX), open: Mutex::new(open) }
    }

    /// Has `send` give this order as soon as there is room, without waiting, and waits for the answer.
    ///
    /// # Errors
    /// Of the kind `ResourceBusy` if too many others are before it.
    pub(super) async fn give(&self, id: u64, send: impl FnOnce() -> io::Result<()>) -> io::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        let room = match self.room.try_acquire() {
            Ok(room) => room,
            Err(_) => match timeout_at(deadline, self.room.acquire()).await {
                Ok(room) => room.map_err(|_| ended())?,
                Err(_) => return Err(crowded()),
            },
        };
        let (reply, answer) = oneshot::channel();
        {
            let mut open = lock(&self.open);
            if open.is_over {
                return Err(ended());
            }
            // Before it is sent: the answer may be there before we are back.
            open.waiting.insert(id, reply);
        }
        if let Err(error) = send() {
            lock(&self.open).waiting.remove(&id);
            // Of the socket; `EAGAIN` of a fork is another thing, and told as one.
            let is_full = error.kind() == io::ErrorKind::WouldBlock;
            return Err(if is_full { busy("the zygote's socket is full".into()) } else { error });
        }
        // It comes back with the answer, whoever has gone by then: until then the order lies there.
        room.forget();
        match timeout_at(deadline, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(ended())),
            Err(_) => Err(io::Error::other(format!("no answer from the zygote in {} s", PATIENCE.as_secs()))),
        }
    }

    /// It is answered: who waits, if this order was given. Nobody need be there any more.
    pub(super) fn answered(&self, id: u64) -> Option<oneshot::Sender<io::Result<T>>> {
        let mut open = lock(&self.open);
        let reply = open.waiting.remove(&id)?;
        open.n_answered += 1;
        self.room.add_permits(1);
        Some(reply)
    }

    /// No more orders; whoever waits is told.
    pub(super) fn end(&self) {
        let waiting = {
            let mut open = lock(&self.open);
            open.is_over = true;
            std::mem::take(&mut open.waiting)
        };
        self.room.close();
        // Dropping the senders tells everyone.
        drop(waiting);
    }

    pub(super) fn is_over(&self) -> bool {
        self.room.is_closed()
    }

    /// For the watchdog, which looks again and again.
    pub(super) fn look(&self) -> Look {
        let mut open = lock(&self.open);
        if open.is_over {
            return Look::IsOver;
        }
        if open.waiting.is_empty() || open.n_answered != open.n_seen {
            open.n_seen = open.n_answered;
            open.n_looks = 0;
            return Look::Works;
        }
        open.n_looks += 1;
        if open.n_looks < HANGS_AFTER { Look::Works } else { Look::Hangs }
    }
}

fn ended() -> io::Error {
    io::Error::other("the zygote has ended")
}

fn crowded() -> io::Error {
    busy(format!("{UNDER_WAY_MAX} orders to the zygote were under way for {} s", PATIENCE.as_secs()))
}

fn busy(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, what)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_orders_are_under_way_and_the_next_one_is_given_when_one_is_answered() {
        let orders = Orders::<u8>::new();
        let mut given: Vec<_> =
            (0..UNDER_WAY_MAX as u64).map(|id| Box::pin(orders.give(id, || Ok(())))).collect();
        given.iter_mut().for_each(|given| assert!(poll(given.as_mut()).is_pending()));
        let sent = Cell::new(false);
        let mut next = pin!(orders.give(1_000, || {
            sent.set(true);
            Ok(())
        }));
        assert!(poll(next.as_mut()).is_pending() && !sent.get());
        // Who gives up waiting does not take the order back.
        given.truncate(1);
        assert!(poll(next.as_mut()).is_pending() && !sent.get());
        let _ = orders.answered(5).expect("it was given").send(Ok(5));
        assert!(poll(next.as_mut()).is_pending() && sent.get());
        let _ = orders.answered(1_000).expect("it was given").send(Ok(7));
        assert!(matches!(next.await, Ok(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_is_told_that_the_machine_is_short_of_something() {
        let orders = Orders::<u8>::new();
        let mut given: Vec<_> =
            (0..UNDER_WAY_MAX as u64).map(|id| Box::pin(orders.give(id, || Ok(())))).collect();
        given.iter_mut().for_each(|given| assert!(poll(given.as_mut()).is_pending()));
        let error = orders.give(1_000, || panic!("it is sent")).await.expect_err("there is no room");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        orders.end();
        assert!(orders.give(1_001, || panic!("it is sent")).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_told_has_no_order_under_way() {
        let orders = Orders::<u8>::new();
        for id in 0..2 * UNDER_WAY_MAX as u64 {
            let full = || Err(io::ErrorKind::WouldBlock.into());
            let error = orders.give(id, full).await.expect_err("it is full");
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        }
        (0..2 * HANGS_AFTER).for_each(|_| assert_eq!(orders.look(), Look::Works));
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_works_however_long_an_order_waits_and_who_answers_nothing_hangs() {
        let orders = Orders::<u8>::new();
        let mut first = Box::pin(orders.give(0, || Ok(())));
        assert!(poll(first.as_mut()).is_pending());
        for id in 1..100 {
            let mut given = Box::pin(orders.give(id, || Ok(())));
            assert!(poll(given.as_mut()).is_pending());
            // All but one of the looks that it takes.
            (1..HANGS_AFTER).for_each(|_| assert_eq!(orders.look(), Look::Works));
            assert!(orders.answered(id).is_some());
            assert_eq!(orders.look(), Look::Works);
        }
        (1..HANGS_AFTER).for_each(|_| assert_eq!(orders.look(), Look::Works));
        assert!(orders.answered(12_345).is_none(), "what nobody asked for is no answer");
        assert_eq!(orders.look(), Look::Hangs);
        orders.end();
        assert_eq!(orders.look(), Look::IsOver);
        assert!(first.await.is_err());
    }
}
