//! Requests in flight in one sandbox: how many may be, who is next, and when they must not stand behind each other.
//!
//! ```text
//!            sent                                     answered, in this order
//!   join ─────────▶ │ 9 │ 8 │ 7 │ in the socket │ 6 │ ───────────────▶
//!                     └─── taken back ───┘         └ runs
//! ```
//!
//! A wake-up on another core costs 25 to 35 µs, a short call 10. So requests of one HTTP thread for one
//! function are put into the socket of a sandbox that is at work already, as long as its calls are short: it
//! finds the next one waiting, and nobody is woken. What lies in the socket has not begun. It is taken back
//! when the one in front turns out to be long, when the sandbox dies, and when it is ended at a deadline.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Most requests in flight in one sandbox: with sixteen there is hardly a wake-up left to save (each read brings several
/// answers), and no more than that are run anew when the first one fails.
pub const DEPTH_MAX: usize = 16;
/// What a request may be expected to wait in a sandbox's socket: about what waking some others costs on a busy machine.
pub const SOCKET_WAIT: Duration = Duration::from_micros(500);
/// How often the requests in front are looked at. One that is still the same at the next look is long, and nobody stays
/// behind it. On a busy machine a sandbox loses its processor for some milliseconds, which is no reason to begin anew
/// elsewhere; and a new sandbox costs as much.
pub const LOOK_PAUSE: Duration = Duration::from_millis(4);
/// How long one thread may go on using a sandbox while requests of other threads wait for one: some hundred short calls.
pub const TURN: Duration = Duration::from_millis(2);
/// How many looks later somebody may still be put behind one that the sandbox has not begun: it gets no processor, and a
/// second sandbox would take its part from this one. Longer than that, it is held back by a limit of its own.
const STARVED_LOOKS_MAX: u32 = 5;
/// Sandboxes that one thread has at work from which on they are a crowd: more than that wake each other up in turns on two
/// cores.
const CROWD_MIN: usize = 4;
/// How long after the last time it was a crowd it counts as one, so that sandboxes need not change with every call.
const CROWD_STAYS: Duration = Duration::from_millis(100);
/// A pace is told after so many calls, or when the sandbox has nothing to do: the answers of several calls may be read at
/// once, and then their single times say nothing.
const PACE_CALLS: u32 = 16;

/// How many requests may be in flight in a sandbox whose calls take this long. 1: the next one waits for its answer.
#[must_use]
pub fn depth(typical_call: Option<Duration>) -> usize {
    let Some(call) = typical_call else { return 1 };
    let n = SOCKET_WAIT.as_nanos() / call.as_nanos().max(1);
    usize::try_from(n).unwrap_or(DEPTH_MAX).clamp(1, DEPTH_MAX)
}

/// The requests in flight in one sandbox, in order. `T` is how the one who waits for the answer is reached.
#[derive(Debug)]
pub struct Flight<T> {
    calls: VecDeque<Call<T>>,
    began: Instant,
    front_since: Instant,
    /// The one in front at the last look.
    looked_at: Option<u32>,
    /// Calls since then were answered without a pause.
    pace_since: Instant,
    n_paced: u32,
}

#[derive(Debug)]
struct Call<T> {
    number: u32,
    sent: Instant,
    /// `None`: nobody waits for the answer any more.
    reach: Option<T>,
}

/// A call that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// How long it ran.
    pub service: Duration,
    /// How long it lay in the socket before.
    pub waited: Duration,
    /// What calls take now, on the average of some.
    pub pace: Option<Duration>,
}

/// Whether many sandboxes are at work for one thread at the same time. Each that is woken pushes aside whoever runs on its
/// core, most often the thread that has the next request for another one: a switch of processes for each call. Those of a
/// crowd are asked to wait instead until whoever runs has nothing to do.
#[derive(Debug, Default)]
pub struct Crowd {
    n_at_work: usize,
    until: Option<Instant>,
}

impl Crowd {
    /// One more is at work.
    pub fn enter(&mut self, now: Instant) {
        self.n_at_work += 1;
        self.look(now);
    }

    /// One is done.
    pub fn leave(&mut self) {
        self.n_at_work -= 1;
    }

    /// Whether it is a crowd, or was one a moment ago.
    pub fn look(&mut self, now: Instant) -> bool {
        if self.n_at_work >= CROWD_MIN {
            self.until = Some(now + CROWD_STAYS);
        }
        self.until.is_some_and(|until| now < until)
    }
}

impl<T> Flight<T> {
    /// One with a first request, which runs at once.
    #[must_use]
    pub fn new(number: u32, reach: T, now: Instant) -> Self {
        Self {
            calls: VecDeque::from([Call { number, sent: now, reach: Some(reach) }]),
            began: now,
            front_since: now,
            looked_at: None,
            pace_since: now,
            n_paced: 0,
        }
    }

    /// Requests that are not answered yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether all are answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether one more may be sent. `depth`: how many may be in flight; `others_wait`: requests of other threads
    /// wait for a sandbox; `has_begun`: whether the sandbox has read the one in front.
    #[must_use]
    pub fn may_join(
        &self,
        depth: usize,
        others_wait: bool,
        has_begun: impl FnOnce() -> bool,
        now: Instant,
    ) -> bool {
        let may_go_on = !others_wait || now.saturating_duration_since(self.began) < TURN;
        if self.calls.is_empty() || self.calls.len() >= depth || !may_go_on {
            return false;
        }
        let front = now.saturating_duration_since(self.front_since);
        front < LOOK_PAUSE || (front < LOOK_PAUSE * STARVED_LOOKS_MAX && !has_begun())
    }

    /// One more was sent.
    pub fn join(&mut self, number: u32, reach: T, now: Instant) {
        self.calls.push_back(Call { number, sent: now, reach: Some(reach) });
    }

    /// Since when the one in front has been running, as far as can be known from outside.
    #[must_use]
    pub fn front_since(&self) -> Instant {
        self.front_since
    }

    /// The number of the one that runs.
    #[must_use]
    pub fn front(&self) -> Option<u32> {
        self.calls.front().map(|call| call.number)
    }

    /// The numbers of all, in order.
    #[cfg(test)]
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.calls.iter().map(|call| call.number)
    }

    /// The first for whose answer somebody waits: he reads for all before him.
    #[must_use]
    pub fn reader(&self) -> Option<&T> {
        self.calls.iter().find_map(|call| call.reach.as_ref())
    }

    /// The one in front was answered. `None`: there was none.
    pub fn answered(&mut self, now: Instant) -> Option<Answered> {
        let call = self.calls.pop_front()?;
        let service = now.saturating_duration_since(self.front_since);
        let waited = self.front_since.saturating_duration_since(call.sent);
        self.n_paced += 1;
        let pace = (self.calls.is_empty() || self.n_paced >= PACE_CALLS).then(|| {
            let pace = now.saturating_duration_since(self.pace_since) / self.n_paced;
            self.pace_since = now;
            self.n_paced = 0;
            pace
        });
        self.front_since = now;
        Some(Answered { service, waited, pace })
    }

    /// Nobody waits for this answer any more.
    pub fn leave(&mut self, number: u32) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.number == number) {
            call.reach = None;
        }
    }

    /// Whether the one in front has been there since the last look, and others stand behind it.
    pub fn look(&mut self) -> bool {
        let front = self.front();
        let is_long = front.is_some() && front == self.looked_at;
        self.looked_at = front;
        is_long && self.calls.len() > 1
    }

    /// The sandbox will not see these: gives back who waits for them. Others stay in their order.
    pub fn taken_back(&mut self, numbers: &VecDeque<u32>) -> Vec<T> {
        let mut gone = Vec::with_capacity(numbers.len());
        self.calls.retain_mut(|call| {
            let is_gone = numbers.contains(&call.number);
            if is_gone {
                gone.extend(call.reach.take());
            }
            !is_gone
        });
        gone
    }

    /// The sandbox is gone: gives up all that is left, and gives back who waits for it.
    pub fn end(&mut self) -> Vec<T> {
        self.calls.drain(..).filter_map(|call| call.reach).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn short_calls_share_a_sandbox_and_long_ones_do_not() {
        assert_eq!(depth(None), 1);
        assert_eq!(depth(Some(Duration::ZERO)), DEPTH_MAX);
        assert_eq!(depth(Some(us(20))), DEPTH_MAX);
        assert_eq!(depth(Some(us(100))), 5);
        assert_eq!(depth(Some(us(251))), 1);
        assert_eq!(depth(Some(Duration::MAX)), 1);
    }

    #[test]
    fn who_uses_a_sandbox_for_long_lets_others_have_it() {
        let now = Instant::now();
        let mut flight = Flight::new(1, (), now);
        assert!(flight.may_join(2, true, || true, now));
        assert!(!flight.may_join(2, true, || true, now + TURN));
        flight.join(2, (), now + TURN);
        flight.answered(now + TURN);
        assert!(!flight.may_join(2, true, || true, now + TURN));
        assert!(flight.may_join(2, false, || true, now + TURN));
        assert!(!flight.may_join(1, false, || true, now + TURN));
    }

    #[test]
    fn nobody_is_put_behind_a_call_that_is_long_already() {
        let now = Instant::now();
        let flight = Flight::new(1, (), now);
        assert!(flight.may_join(2, false, || panic!("nobody needs to know"), now));
        assert!(!flight.may_join(2, false, || true, now + LOOK_PAUSE));
        assert!(flight.may_join(2, false, || false, now + LOOK_PAUSE), "it is not long, it has not begun");
        let starved = now + LOOK_PAUSE * STARVED_LOOKS_MAX;
        assert!(!flight.may_join(2, false, || false, starved), "something holds it back");
    }

    #[test]
    fn a_call_is_long_when_it_is_still_there_at_the_next_look() {
        let now = Instant::now();
        let mut flight = Flight::new(1, (), now);
        flight.join(2, (), now);
        assert!(!flight.look());
        assert!(flight.look());
        flight.answered(now);
        flight.join(3, (), now);
        assert!(!flight.look(), "it is another one");
        assert!(flight.look());
        assert_eq!(flight.taken_back(&VecDeque::from([3])).len(), 1);
        assert!(!flight.look(), "nobody stands behind it");
    }

    #[test]
    fn many_sandboxes_at_once_are_a_crowd_for_a_while() {
        let now = Instant::now();
        let mut crowd = Crowd::default();
        for _ in 1..CROWD_MIN {
            crowd.enter(now);
        }
        assert!(!crowd.look(now));
        crowd.enter(now);
        crowd.leave();
        assert!(crowd.look(now + CROWD_STAYS / 2), "one of them had a pause");
        assert!(!crowd.look(now + CROWD_STAYS));
    }

    #[test]
    fn answers_that_come_together_give_the_pace_of_all() {
        let now = Instant::now();
        let mut flight = Flight::new(1, (), now);
        flight.join(2, (), now);
        flight.join(3, (), now);
        let later = now + us(90);
        assert_eq!(flight.answered(later), Some(Answered { service: us(90), waited: us(0), pace: None }));
        assert_eq!(flight.answered(later), Some(Answered { service: us(0), waited: us(90), pace: None }));
        let last = Answered { service: us(0), waited: us(90), pace: Some(us(30)) };
        assert_eq!(flight.answered(later), Some(last));
        assert_eq!(flight.answered(later), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join,
        Answer,
        Leave(u32),
        TakeBack(usize),
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Join),
            4 => Just(Step::Answer),
            1 => (0..40u32).prop_map(Step::Leave),
            1 => (0..6usize).prop_map(Step::TakeBack),
            1 => Just(Step::Look),
        ]
    }

    proptest! {
        /// Beside a plain list.
        #[test]
        fn whatever_happens_each_request_has_one_end(steps in prop::collection::vec((step(), 0..500u64), 0..80)) {
            let mut now = Instant::now();
            let mut flight = Flight::new(1, 1u32, now);
            // Number, when it was sent, whether somebody waits.
            let mut model: Vec<(u32, Instant, bool)> = vec![(1, now, true)];
            let mut next = 2;
            let mut last_look = None;
            let mut front_since = now;
            for (step, pause) in steps {
                now += us(pause);
                match step {
                    // Nobody joins a sandbox that has gone home.
                    Step::Join => {
                        if !model.is_empty() {
                            flight.join(next, next, now);
                            model.push((next, now, true));
                            next += 1;
                        }
                    }
                    Step::Answer => {
                        let answered = flight.answered(now);
                        prop_assert_eq!(answered.is_some(), !model.is_empty());
                        if let Some(answered) = answered {
                            let (_, sent, _) = model.remove(0);
                            front_since = now;
                            prop_assert_eq!(answered.service + answered.waited, now - sent);
                        }
                    }
                    Step::Leave(number) => {
                        flight.leave(number);
                        if let Some(call) = model.iter_mut().find(|call| call.0 == number) {
                            call.2 = false;
                        }
                    }
                    Step::TakeBack(n) => {
                        // What lies in the socket is always the end of the line.
                        let unread = model.split_off(model.len().saturating_sub(n));
                        let numbers = unread.iter().map(|call| call.0).collect();
                        let back = flight.taken_back(&numbers);
                        let waiting: Vec<u32> = unread.iter().filter(|call| call.2).map(|call| call.0).collect();
                        prop_assert_eq!(back, waiting);
                    }
                    Step::Look => {
                        let front = model.first().map(|call| call.0);
                        let is_long = front.is_some() && front == last_look && model.len() > 1;
                        prop_assert_eq!(flight.look(), is_long);
                        last_look = front;
                    }
                }
                prop_assert_eq!(flight.len(), model.len());
                prop_assert_eq!(flight.front(), model.first().map(|call| call.0));
                let reader = model.iter().find(|call| call.2).map(|call| call.0);
                prop_assert_eq!(flight.reader().copied(), reader);
                let is_short = now - front_since < LOOK_PAUSE;
                let may_join = !model.is_empty() && model.len() < 4 && is_short;
                prop_assert_eq!(flight.may_join(4, false, || true, now), may_join);
            }
            let left: Vec<u32> = model.iter().filter(|call| call.2).map(|call| call.0).collect();
            prop_assert_eq!(flight.end(), left);
            prop_assert!(flight.is_empty());
        }
    }
}
