//! Lanes: sandboxes that this HTTP thread has on loan, with requests in flight in them.
//!
//! A request takes a *seat*: it is written to the sandbox's socket, behind others if the calls are short enough, and waits
//! for its turn to read the answer. Who may join, who is next, and who is told what, is decided by [`actors::lane`]; here
//! the bytes are moved and the tasks are woken. All of it belongs to one thread, so nothing here is locked or sent.
//!
//! The one whose turn it is reads from the sandbox; no task stands between. When the last one has its answer, the lease
//! is checked in. When the sandbox must go, what it has not read is taken back first, and runs elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actors::flight::{Crowd, LOOK_PAUSE};
use actors::lane::{BrokenUp, Finished, Next};
use actors::pool::{Discard, Lease, PoolKey, SharedPool};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::farewell::{self, Answer};
use crate::frame::{BrokenFrame, HEADER_BYTES, Kind};
use crate::sandbox::channel::{ChannelError, Incoming};
use crate::sandbox::launcher::Sandbox;

/// How much of a long answer is kept for a slow client so that others in the same sandbox need not wait for him. All of it
/// lay in the socket already when this is needed, and a socket holds some 200 KiB.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// How long an answer that nobody waits for may take before its sandbox is ended instead.
const UNWANTED_PATIENCE: Duration = Duration::from_millis(20);

/// The lanes of this thread.
#[derive(Default)]
struct Lanes {
    desks: HashMap<PoolKey, Desk>,
    /// The task that looks for long calls.
    is_looked_at: bool,
}

/// Those of one function, and who waits for a seat.
#[derive(Default)]
struct Desk {
    lanes: Vec<Rc<Lane>>,
    waiting: VecDeque<Rc<Caller>>,
}

thread_local! {
    static LANES: RefCell<Lanes> = RefCell::default();
    static CROWD: RefCell<Crowd> = RefCell::default();
}

/// One sandbox on loan.
struct Lane {
    key: PoolKey,
    state: RefCell<State>,
}

type State = actors::lane::Lane<Sandbox, Rc<Caller>>;

/// Somebody who waits.
#[derive(Default)]
struct Caller {
    fate: Cell<Fate>,
    waker: Cell<Option<Waker>>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Fate {
    #[default]
    Waits,
    /// The sandbox has not seen the request, and will not.
    TakenBack,
    /// The sandbox is gone, and may have seen it.
    Lost,
    /// There is a seat.
    Called,
}

impl Caller {
    fn tell(&self, fate: Fate) {
        self.fate.set(fate);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn tell_all(callers: Vec<Rc<Caller>>, fate: Fate) {
    for caller in callers {
        caller.tell(fate);
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It has not begun. It may run elsewhere.
    TakenBack,
    /// It took longer than it may; the sandbox was ended.
    Late,
    /// The sandbox died of it; why.
    Died(String),
    /// The sandbox broke the protocol.
    Nonsense(BrokenFrame),
}

/// What came of sending a request to a sandbox, as one packet and at once.
pub(super) enum Sent {
    /// It has this number.
    As(u32),
    /// It is no packet.
    TooLong,
    /// The sandbox's socket is full, or closed.
    NoRoom,
}

/// Sends the request to a sandbox.
pub(super) type Send<'a, E> = &'a dyn Fn(&mut Sandbox) -> Result<Sent, E>;

/// Whether requests of this thread are in flight in a sandbox of this pool.
pub(super) fn has_one(pool: &SharedPool<Sandbox>) -> bool {
    LANES.with_borrow(|lanes| lanes.desks.get(&pool.key()).is_some_and(|desk| !desk.lanes.is_empty()))
}

/// Whether so many sandboxes are at work for this thread that they should not push each other aside.
pub(super) fn is_crowded() -> bool {
    CROWD.with_borrow_mut(|crowd| crowd.look(Instant::now()))
}

/// A seat beside others, if there is one and nobody waits for it. `Err`: there is no way to send this request.
pub(super) fn join<E>(pool: &SharedPool<Sandbox>, send: Send<'_, E>) -> Option<Result<Seat, E>> {
    LANES.with_borrow_mut(|lanes| {
        let desk = lanes.desks.get(&pool.key())?;
        if !desk.waiting.is_empty() {
            return None;
        }
        lanes.join(pool, send)
    })
}

/// A seat beside others, when there is one.
pub(super) fn wait_for_seat<'a, E>(pool: &'a SharedPool<Sandbox>, send: Send<'a, E>) -> Waiting<'a, E> {
    let caller = Rc::new(Caller::default());
    LANES.with_borrow_mut(|lanes| {
        lanes.desks.entry(pool.key()).or_default().waiting.push_back(Rc::clone(&caller));
    });
    Waiting { pool, send, caller }
}

/// See [`wait_for_seat`].
pub(super) struct Waiting<'a, E> {
    pool: &'a SharedPool<Sandbox>,
    send: Send<'a, E>,
    caller: Rc<Caller>,
}

impl<E> Future for Waiting<'_, E> {
    type Output = Result<Seat, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.caller.fate.replace(Fate::Waits) == Fate::Called
            && let Some(seat) = LANES.with_borrow_mut(|lanes| lanes.join(self.pool, self.send))
        {
            return Poll::Ready(seat);
        }
        self.caller.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<E> Drop for Waiting<'_, E> {
    fn drop(&mut self) {
        LANES.with_borrow_mut(|lanes| {
            let Entry::Occupied(mut entry) = lanes.desks.entry(self.pool.key()) else { return };
            let desk = entry.get_mut();
            desk.waiting.retain(|caller| !Rc::ptr_eq(caller, &self.caller));
            if desk.lanes.is_empty() && desk.waiting.is_empty() {
                entry.remove();
                return;
            }
            // There may be room for more than one; and who was called and goes calls the next.
            desk.call_next(self.pool);
        });
    }
}

impl Desk {
    fn call_next(&self, pool: &SharedPool<Sandbox>) {
        if let Some(caller) = self.waiting.front()
            && self.lanes.iter().any(|lane| lane.has_room(pool, self.waiting.len()))
        {
            caller.tell(Fate::Called);
        }
    }
}

impl Lanes {
    fn join<E>(&mut self, pool: &SharedPool<Sandbox>, send: Send<'_, E>) -> Option<Result<Seat, E>> {
        let desk = self.desks.get(&pool.key())?;
        let n_waiting_here = desk.waiting.len();
        for lane in desk.lanes.iter().filter(|lane| lane.has_room(pool, n_waiting_here)) {
            let mut state = lane.state.borrow_mut();
            let Some(lease) = state.lease() else { continue };
            let number = match send(lease) {
                Ok(Sent::As(number)) => number,
                Ok(Sent::TooLong | Sent::NoRoom) => continue,
                Err(error) => return Some(Err(error)),
            };
            let caller = Rc::new(Caller::default());
            state.join(number, Rc::clone(&caller), Instant::now());
            let seat = Seat { lane: Rc::clone(lane), number, caller, is_over: false };
            drop(state);
            if !self.is_looked_at {
                self.is_looked_at = true;
                actix_web::rt::spawn(look_for_long_calls());
            }
            return Some(Ok(seat));
        }
        None
    }
}

/// Takes back what stands behind calls that turn out to be long, until nothing stands behind anything.
async fn look_for_long_calls() {
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        let mut left_alone = Vec::new();
        let more = LANES.with_borrow_mut(|lanes| {
            let mut more = false;
            for lane in lanes.desks.values().flat_map(|desk| &desk.lanes) {
                let mut state = lane.state.borrow_mut();
                let taken_back = state.look();
                if !taken_back.is_empty() {
                    left_alone.push(Rc::clone(lane));
                }
                tell_all(taken_back, Fate::TakenBack);
                more |= state.flight().len() > 1;
            }
            lanes.is_looked_at = more;
            more
        });
        // What runs may run for nobody, and then those who were taken back would have read its answer.
        for lane in left_alone {
            lane.go_on();
        }
        if !more {
            return;
        }
    }
}

impl Lane {
    fn has_room(&self, pool: &SharedPool<Sandbox>, n_waiting_here: usize) -> bool {
        self.state.borrow().has_room(pool, n_waiting_here, Instant::now())
    }

    /// The lane is at its end.
    fn leave_desk(&self) {
        LANES.with_borrow_mut(|lanes| {
            let Entry::Occupied(mut entry) = lanes.desks.entry(self.key) else { return };
            let desk = entry.get_mut();
            let n_before = desk.lanes.len();
            desk.lanes.retain(|lane| !std::ptr::eq(&raw const **lane, self));
            if desk.lanes.len() < n_before {
                CROWD.with_borrow_mut(Crowd::leave);
            }
            if desk.lanes.is_empty() && desk.waiting.is_empty() {
                entry.remove();
            }
        });
    }
}

/// A request in flight. Dropped before its answer is there, it leaves the answer to nobody.
pub(super) struct Seat {
    lane: Rc<Lane>,
    number: u32,
    caller: Rc<Caller>,
    is_over: bool,
}

impl Seat {
    /// The first one in a sandbox, to which its request has just been sent as `number`.
    pub(super) fn first(pool: &SharedPool<Sandbox>, lease: Lease<Sandbox>, number: u32) -> Self {
        let caller = Rc::new(Caller::default());
        let state = RefCell::new(State::first(lease, number, Rc::clone(&caller), Instant::now()));
        let lane = Rc::new(Lane { key: pool.key(), state });
        LANES.with_borrow_mut(|lanes| {
            CROWD.with_borrow_mut(|crowd| crowd.enter(Instant::now()));
            let desk = lanes.desks.entry(lane.key).or_default();
            desk.lanes.push(Rc::clone(&lane));
            desk.call_next(pool);
        });
        Self { lane, number, caller, is_over: false }
    }

    /// Waits for the answer to begin; `runtime` is how long it may run.
    pub(super) async fn answer(&mut self, runtime: Duration) -> Result<Incoming, Unanswered> {
        let seat = &*self;
        poll_fn(|cx| seat.poll_turn(cx)).await?;
        match timeout_at(Instant::now() + runtime, poll_fn(|cx| seat.poll_receive(cx))).await {
            Ok(Ok(incoming)) => Ok(incoming),
            Ok(Err(error)) => Err(self.failed(&error).await),
            Err(_) => Err(self.give_up(Discard::Timeout).unwrap_or(Unanswered::Late)),
        }
    }

    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<Result<(), Unanswered>> {
        match self.caller.fate.get() {
            Fate::TakenBack => return Poll::Ready(Err(Unanswered::TakenBack)),
            Fate::Lost => {
                let cause = "it was ended for a request before this one, which may have begun";
                return Poll::Ready(Err(Unanswered::Died(cause.into())));
            }
            Fate::Waits | Fate::Called => {}
        }
        let state = self.lane.state.borrow();
        if state.flight().reader().is_some_and(|reader| Rc::ptr_eq(reader, &self.caller)) {
            return Poll::Ready(Ok(()));
        }
        self.caller.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// The answer, after those before it that nobody waits for.
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Result<Incoming, ChannelError>> {
        loop {
            let mut state = self.lane.state.borrow_mut();
            let front = state.flight().front();
            let lease = state.lease().ok_or(ChannelError::Closed)?;
            let incoming = ready!(lease.channel.poll_receive(cx))?;
            if !incoming.is_answer_to(front) {
                return Poll::Ready(Err(BrokenFrame("an answer to another request").into()));
            }
            if incoming.header.invocation == self.number {
                return Poll::Ready(Ok(incoming));
            }
            if !incoming.is_whole() {
                return Poll::Ready(Err(BrokenFrame("a long answer that nobody waits for").into()));
            }
            state.passed_over(Instant::now());
        }
    }

    async fn failed(&mut self, error: &ChannelError) -> Unanswered {
        let Some((lease, has_begun)) = self.break_up() else {
            return Unanswered::Died("it was ended by another request".into());
        };
        if !has_begun {
            lease.bury();
            return Unanswered::TakenBack;
        }
        let cause = lease.obituary(error).await;
        lease.discard(Discard::Died);
        match error {
            ChannelError::Broken(broken) => Unanswered::Nonsense(broken.clone()),
            _ => Unanswered::Died(cause),
        }
    }

    /// Ends the sandbox. `Some`: it was busy for one who has left, and this request had not begun.
    pub(super) fn give_up(&mut self, why: Discard) -> Option<Unanswered> {
        let is_front = self.is_front();
        let (lease, has_begun) = self.break_up()?;
        if has_begun || is_front {
            lease.discard(why);
            return None;
        }
        lease.discard(Discard::ClientGone);
        Some(Unanswered::TakenBack)
    }

    fn is_front(&self) -> bool {
        self.lane.state.borrow().flight().front() == Some(self.number)
    }

    /// The client has gone. What runs for nobody is ended, or if it can be told of it, told.
    pub(super) fn client_gone(&mut self) {
        if !self.is_front() {
            return;
        }
        let is_unread = !self.lane.state.borrow().front_has_begun();
        let is_asgi = self.lane.state.borrow_mut().lease().is_some_and(|lease| lease.is_asgi());
        if is_unread {
            // The sandbox gets no processor. What it has not seen it need not see, and is no reason to end it.
            match self.break_up() {
                Some((lease, false)) => lease.give_back(),
                // It has begun this moment.
                Some((lease, true)) => farewell::begin(lease, self.number, Answer::default()),
                None => {}
            }
        } else if !is_asgi {
            self.give_up(Discard::ClientGone);
        } else if let Some((lease, _)) = self.alone() {
            farewell::begin(lease, self.number, Answer::default());
        }
    }

    /// The end of the lane: gives the lease, and whether this request has begun. All others are told.
    fn break_up(&mut self) -> Option<(Lease<Sandbox>, bool)> {
        self.is_over = true;
        let BrokenUp { lease, taken_back, lost } = self.lane.state.borrow_mut().break_up()?;
        let has_begun = !taken_back.iter().any(|caller| Rc::ptr_eq(caller, &self.caller));
        tell_all(taken_back, Fate::TakenBack);
        tell_all(lost, Fate::Lost);
        self.lane.leave_desk();
        Some((lease, has_begun))
    }

    /// Sandbox and invocation, as they stand in the function's log.
    pub(super) fn invocation(&self) -> (u64, u32) {
        (self.lane.state.borrow_mut().lease().map_or(0, |lease| lease.id()), self.number)
    }

    /// Since when the one in front has been running.
    pub(super) fn front_since(&self) -> Instant {
        self.lane.state.borrow().flight().front_since()
    }

    /// The function failed, though the sandbox is well.
    pub(super) fn count_error(&self) {
        if let Some(lease) = self.lane.state.borrow_mut().lease() {
            lease.count_error();
        }
    }

    /// The answer is there, and whole.
    pub(super) fn finish(mut self, pool: &SharedPool<Sandbox>) {
        self.is_over = true;
        let finished = self.lane.state.borrow_mut().finish(Instant::now());
        if let Finished::Last(lease, answered) = finished {
            self.lane.leave_desk();
            lease.finish_last(answered);
            return;
        }
        self.lane.go_on();
        LANES.with_borrow(|lanes| {
            if let Some(desk) = lanes.desks.get(&self.lane.key) {
                desk.call_next(pool);
            }
        });
    }

    /// For an answer that goes on: takes back what stands behind it, and the lease out of the lane, with the time since
    /// when it has been running. `None`: the sandbox has begun with the next one, so all of the answer is there.
    pub(super) fn alone(&mut self) -> Option<(Lease<Sandbox>, Instant)> {
        let (taken_back, alone) = self.lane.state.borrow_mut().alone();
        tell_all(taken_back, Fate::TakenBack);
        if alone.is_some() {
            self.is_over = true;
            self.lane.leave_desk();
        }
        alone
    }

    /// The rest of an answer that is all there. Its last frame may say that it broke off.
    pub(super) async fn rest(&mut self, first: Incoming, runtime: Duration) -> Result<Kept, Unanswered> {
        let seat = &*self;
        match timeout_at(Instant::now() + runtime, seat.keep(first)).await {
            Ok(Ok(kept)) => Ok(kept),
            Ok(Err(error)) => Err(self.failed(&error).await),
            Err(_) => Err(self.give_up(Discard::Timeout).unwrap_or(Unanswered::Late)),
        }
    }

    async fn keep(&self, first: Incoming) -> Result<Kept, ChannelError> {
        let mut kept = Kept { pieces: Vec::new(), broke_off: false };
        let (mut n_kept, mut incoming) = (0, first);
        loop {
            let (mut n_rest, header) = (incoming.n_rest, incoming.header);
            let mut piece = incoming.body;
            // Frames with nothing in them are kept as well, and could come without end.
            n_kept += HEADER_BYTES;
            loop {
                n_kept += piece.len();
                if n_kept + n_rest > KEPT_BYTES_MAX {
                    return Err(BrokenFrame("an answer after which it went on before it was read").into());
                }
                kept.pieces.push(piece);
                if n_rest == 0 {
                    break;
                }
                piece = poll_fn(|cx| self.with_lease(|lease| lease.channel.poll_rest(n_rest, cx))).await?;
                n_rest -= piece.len();
            }
            kept.broke_off = header.failed() && header.kind == Kind::ResponseBody;
            if !header.more() {
                return Ok(kept);
            }
            incoming = poll_fn(|cx| self.with_lease(|lease| lease.channel.poll_receive(cx))).await?;
            if incoming.header.kind != Kind::ResponseBody || incoming.header.invocation != self.number {
                return Err(BrokenFrame("no body where one was due").into());
            }
        }
    }

    fn with_lease<T>(
        &self,
        poll: impl FnOnce(&mut Lease<Sandbox>) -> Poll<Result<T, ChannelError>>,
    ) -> Poll<Result<T, ChannelError>> {
        match self.lane.state.borrow_mut().lease() {
            Some(lease) => poll(lease),
            None => Poll::Ready(Err(ChannelError::Closed)),
        }
    }
}

/// An answer that was long and is in memory now.
pub(super) struct Kept {
    pub(super) pieces: Vec<Bytes>,
    /// The function failed amid it.
    pub(super) broke_off: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.is_over || matches!(self.caller.fate.get(), Fate::TakenBack | Fate::Lost) {
            return;
        }
        self.lane.state.borrow_mut().leave(self.number);
        self.lane.go_on();
    }
}

impl Lane {
    /// Whoever is next reads. If nobody is, what has not begun need not begin, and the answer of what has is read for nobody.
    fn go_on(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        match state.go_on() {
            Next::Reader(reader) => reader.wake(),
            Next::Over => {}
            Next::Nobody => drop(actix_web::rt::spawn(Rc::clone(self).clear())),
            Next::Home(lease) => {
                drop(state);
                self.leave_desk();
                lease.give_back();
            }
        }
    }

    /// Reads answers that nobody waits for, or ends the sandbox if they do not come.
    async fn clear(self: Rc<Self>) {
        let answers = poll_fn(|cx| self.poll_clear(cx));
        let cleared = timeout_at(Instant::now() + UNWANTED_PATIENCE, answers).await;
        let lease = self.state.borrow_mut().end();
        self.leave_desk();
        let Some(lease) = lease else { return };
        match cleared {
            Ok(true) => lease.give_back(),
            Ok(false) => lease.discard(Discard::Died),
            Err(_) => lease.discard(Discard::ClientGone),
        }
    }

    /// `false`: there will be no more.
    fn poll_clear(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state.borrow_mut();
        while let Some(front) = state.flight().front() {
            let Some(lease) = state.lease() else { return Poll::Ready(false) };
            match ready!(lease.channel.poll_receive(cx)) {
                Ok(incoming) if incoming.is_answer_to(Some(front)) && incoming.is_whole() => {
                    state.passed_over(Instant::now());
                }
                _ => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    }
}
