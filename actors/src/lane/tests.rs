//! Lanes of two threads over one pool, with sandboxes that read and answer when they are told to, and whatever may happen
//! to requests: each has one end, nothing runs twice, nothing leaks.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::fake::{Fake, FakeSandbox, limits};
use crate::flight::DEPTH_MAX;
use crate::pool::{Asker, Closed, Discard, Leasing, Refusal, Ticket};
use crate::world::PoolLimits;

const N_THREADS: usize = 2;

#[derive(Debug, Clone)]
enum Op {
    Arrive {
        thread: usize,
        n: usize,
    },
    Poll(usize),
    Grow,
    Read(usize),
    Answer(usize),
    AnswerGoesOn(usize),
    Die(usize),
    Late(usize),
    Leave(usize),
    Look(usize),
    Tire(usize),
    /// A short call of somebody else, if a sandbox is idle: so calls are known to be short.
    Short,
    Reload,
    Advance(u64),
    Tend,
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..8usize;
    prop_oneof![
        8 => (0..N_THREADS, 1..6usize).prop_map(|(thread, n)| Op::Arrive { thread, n }),
        4 => at().prop_map(Op::Poll),
        4 => Just(Op::Grow),
        12 => at().prop_map(Op::Read),
        12 => at().prop_map(Op::Answer),
        1 => at().prop_map(Op::AnswerGoesOn),
        1 => at().prop_map(Op::Die),
        1 => at().prop_map(Op::Late),
        4 => (0..40usize).prop_map(Op::Leave),
        4 => (0..N_THREADS).prop_map(Op::Look),
        1 => at().prop_map(Op::Tire),
        2 => Just(Op::Short),
        1 => Just(Op::Reload),
        4 => (0..400u64).prop_map(Op::Advance),
        1 => (4_000..20_000u64).prop_map(Op::Advance),
        1 => Just(Op::Tend),
    ]
}

/// What has become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    Lost,
    Late,
    Gone,
    Refused,
}

struct Request {
    thread: usize,
    end: Option<End>,
    n_read: usize,
    /// The queue, while it waits there.
    ticket: Option<Ticket<FakeSandbox>>,
}

/// A lane of the model: what its sandbox does, and who is in it, by number.
struct Seated {
    lane: Lane<FakeSandbox, usize>,
    sandbox: u64,
    callers: BTreeMap<u32, usize>,
    last_number: u32,
    running: Option<u32>,
    /// The front at the last look, if it ran then.
    seen_running: Option<u32>,
    /// Its answers are read for nobody.
    is_cleared: bool,
}

struct Sim {
    world: Fake,
    pool: SharedPool<FakeSandbox>,
    bounds: PoolLimits,
    threads: Vec<ThreadId>,
    desks: Vec<Vec<Seated>>,
    requests: Vec<Request>,
    /// Answers that go on: a sandbox with one request, outside of any lane.
    alone: Vec<(Lease<FakeSandbox>, usize)>,
}

impl Sim {
    fn new() -> Self {
        let bounds = PoolLimits { max_instances: 3, queue_length_max: 6, ..limits() };
        let threads =
            (0..N_THREADS).map(|_| std::thread::spawn(|| std::thread::current().id()).join().unwrap());
        Self {
            world: Fake::new(),
            pool: SharedPool::new(1, bounds, true),
            bounds,
            threads: threads.collect(),
            desks: (0..N_THREADS).map(|_| Vec::new()).collect(),
            requests: Vec::new(),
            alone: Vec::new(),
        }
    }

    fn arrive(&mut self, thread: usize) {
        self.requests.push(Request { thread, end: None, n_read: 0, ticket: None });
        self.place(self.requests.len() - 1);
    }

    fn n_waiting_here(&self, thread: usize) -> usize {
        self.requests.iter().filter(|request| request.thread == thread && request.ticket.is_some()).count()
    }

    /// As `run.rs` does: beside others, or in a sandbox of its own, or in the queue.
    fn place(&mut self, request: usize) {
        let thread = self.requests[request].thread;
        let n_waiting_here = self.n_waiting_here(thread);
        let now = Instant::now();
        for seated in &mut self.desks[thread] {
            if seated.lane.has_room(&self.pool, n_waiting_here, now) {
                assert!(seated.lane.flight().len() < self.pool.depth(), "no more than fit");
                let lease = seated.lane.lease().expect("it has room");
                assert_eq!(lease.generation(), self.pool.generation(), "nobody gets the old code");
                let number = seated.last_number + 1;
                self.world.state().unread.entry(seated.sandbox).or_default().push_back(number);
                seated.last_number = number;
                seated.callers.insert(number, request);
                seated.lane.join(number, request, now);
                return;
            }
        }
        let asker = Asker { thread: self.threads[thread], has_one: !self.desks[thread].is_empty() };
        loop {
            match self.pool.lease_unseen(asker) {
                Leasing::Ready(lease) if lease.is_alive() => return self.begin(request, lease),
                Leasing::Ready(lease) => lease.bury(),
                Leasing::Queued(ticket) => {
                    self.requests[request].ticket = Some(ticket);
                    return;
                }
                Leasing::Refused(refusal) => {
                    assert_eq!(refusal, Refusal::QueueFull);
                    return self.end(request, End::Refused);
                }
            }
        }
    }

    fn begin(&mut self, request: usize, lease: Lease<FakeSandbox>) {
        if !lease.is_alive() {
            lease.bury();
            return self.place(request);
        }
        let sandbox = lease.id();
        self.world.state().unread.entry(sandbox).or_default().push_back(1);
        self.desks[self.requests[request].thread].push(Seated {
            lane: Lane::first(lease, 1, request, Instant::now()),
            sandbox,
            callers: BTreeMap::from([(1, request)]),
            last_number: 1,
            running: None,
            seen_running: None,
            is_cleared: false,
        });
    }

    fn end(&mut self, request: usize, end: End) {
        let request = &mut self.requests[request];
        assert_eq!(request.end, None, "each has one end");
        request.end = Some(end);
    }

    /// The lane of this number, whichever thread's it is.
    fn find(&self, at: usize) -> Option<(usize, usize)> {
        let all = self
            .desks
            .iter()
            .enumerate()
            .flat_map(|(thread, desk)| (0..desk.len()).map(move |i| (thread, i)));
        let all: Vec<_> = all.collect();
        (!all.is_empty()).then(|| all[at % all.len()])
    }

    fn taken_back(&mut self, requests: Vec<usize>) {
        for request in requests {
            assert_eq!(self.requests[request].n_read, 0, "what was read is not run again");
            self.place(request);
        }
    }

    /// Who reads next, after somebody has left or was answered.
    fn go_on(&mut self, thread: usize, i: usize) {
        let seated = &mut self.desks[thread][i];
        match seated.lane.go_on() {
            Next::Reader(_) | Next::Over => {}
            Next::Nobody => {
                assert_eq!(seated.lane.flight().len(), 1, "what has not begun need not begin for nobody");
                seated.is_cleared = true;
            }
            Next::Home(lease) => {
                lease.give_back();
                self.desks[thread].remove(i);
            }
        }
    }

    fn break_up(&mut self, thread: usize, i: usize, why: Discard, end: End) {
        let mut seated = self.desks[thread].remove(i);
        let Some(BrokenUp { lease, taken_back, lost }) = seated.lane.break_up() else {
            panic!("a lane at its end stands in no desk");
        };
        let ran: Vec<_> =
            seated.running.and_then(|number| seated.callers.get(&number).copied()).into_iter().collect();
        let ran: Vec<_> = ran.into_iter().filter(|request| self.requests[*request].end.is_none()).collect();
        assert_eq!(lost, ran, "only the one that ran is lost");
        lease.discard(why);
        for request in lost {
            self.end(request, end);
        }
        self.taken_back(taken_back);
    }

    fn read(&mut self, thread: usize, i: usize) {
        let seated = &mut self.desks[thread][i];
        if seated.running.is_none()
            && let Some(number) =
                self.world.state().unread.get_mut(&seated.sandbox).and_then(|unread| unread.pop_front())
        {
            seated.running = Some(number);
            assert_eq!(seated.lane.flight().front(), Some(number), "in order");
            let request = seated.callers[&number];
            self.requests[request].n_read += 1;
            assert_eq!(self.requests[request].n_read, 1, "nothing runs twice");
        }
    }

    fn answer(&mut self, thread: usize, i: usize) {
        let now = Instant::now();
        let seated = &mut self.desks[thread][i];
        let Some(number) = seated.running.take() else { return };
        let request = seated.callers[&number];
        if self.requests[request].end == Some(End::Gone) {
            seated.lane.passed_over(now);
            if seated.is_cleared && seated.lane.flight().is_empty() {
                seated.lane.end().expect("nobody else has it").give_back();
                self.desks[thread].remove(i);
            }
            return;
        }
        assert!(!seated.is_cleared, "somebody waits");
        let finished = seated.lane.finish(now);
        self.end(request, End::Answered);
        match finished {
            Finished::Last(lease, answered) => {
                lease.finish_last(answered);
                self.desks[thread].remove(i);
            }
            Finished::More => self.go_on(thread, i),
        }
    }

    fn answer_goes_on(&mut self, thread: usize, i: usize) {
        let seated = &mut self.desks[thread][i];
        let Some(number) = seated.running else { return };
        let request = seated.callers[&number];
        if self.requests[request].end.is_some() {
            return;
        }
        let (taken_back, alone) = seated.lane.alone();
        let (lease, _) = alone.expect("it has read no other");
        self.desks[thread].remove(i);
        self.alone.push((lease, request));
        self.taken_back(taken_back);
    }

    fn leave(&mut self, request: usize) {
        let Some(asked) = self.requests.get_mut(request) else { return };
        if asked.end.is_some() || self.alone.iter().any(|(_, other)| *other == request) {
            return;
        }
        let (thread, waited) = (asked.thread, asked.ticket.take().is_some());
        self.end(request, End::Gone);
        if waited {
            return;
        }
        let is_in = |seated: &Seated| {
            let number = seated.callers.iter().find(|(_, other)| **other == request)?.0;
            // It may have been there before, and been taken back.
            seated.lane.flight().numbers().any(|other| other == *number).then_some(*number)
        };
        let found = self.desks[thread].iter().enumerate().find_map(|(i, seated)| Some((i, is_in(seated)?)));
        let (i, number) = found.expect("it waits somewhere");
        if self.desks[thread][i].lane.flight().front() == Some(number) {
            // What runs for nobody is ended; and so is a sandbox that has not begun.
            let mut seated = self.desks[thread].remove(i);
            let BrokenUp { lease, mut taken_back, lost } = seated.lane.break_up().expect("it was there");
            assert!(lost.len() <= 1 && lost.iter().all(|other| *other == request), "nobody else");
            taken_back.retain(|other| *other != request);
            lease.discard(Discard::ClientGone);
            self.taken_back(taken_back);
        } else {
            self.desks[thread][i].lane.leave(number);
            self.go_on(thread, i);
        }
    }

    fn look(&mut self, thread: usize) {
        let mut taken_back = Vec::new();
        for seated in &mut self.desks[thread] {
            taken_back.extend(seated.lane.look());
            let runs = seated.running.filter(|number| seated.lane.flight().front() == Some(*number));
            if runs.is_some() && runs == seated.seen_running {
                assert_eq!(seated.lane.flight().len(), 1, "nobody stands behind a long one");
            }
            seated.seen_running = runs;
        }
        // Those who were taken back may have been the only ones to read the answer of what runs.
        for i in (0..self.desks[thread].len()).rev() {
            self.go_on(thread, i);
        }
        self.taken_back(taken_back);
    }

    fn grow(&mut self) {
        for place in self.pool.reserve_growth(self.pool.generation()).places {
            place.fill(self.world.sandbox("v"), Duration::ZERO);
        }
    }

    fn short(&mut self) {
        if self.pool.figures().warm == 0 {
            return;
        }
        if let Leasing::Ready(lease) = self.pool.lease() {
            lease.finish(Duration::from_micros(20));
        }
    }

    fn poll(&mut self, request: usize) {
        let Some(ticket) = &mut self.requests[request].ticket else { return };
        let Poll::Ready(got) = Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) else { return };
        self.requests[request].ticket = None;
        match got {
            Ok(lease) => self.begin(request, lease),
            Err(_) => self.end(request, End::Refused),
        }
    }

    fn step(&mut self, op: Op) {
        let found = |sim: &Self, at| sim.find(at);
        match op {
            Op::Arrive { thread, n } => (0..n).for_each(|_| self.arrive(thread)),
            Op::Poll(at) => {
                let waits = |(_, request): &(usize, &Request)| request.ticket.is_some();
                let waiting: Vec<usize> =
                    self.requests.iter().enumerate().filter(waits).map(|(i, _)| i).collect();
                if let Some(request) = waiting.get(at) {
                    self.poll(*request);
                }
            }
            Op::Grow => self.grow(),
            Op::Read(at) => found(self, at).map_or((), |(thread, i)| self.read(thread, i)),
            Op::Answer(at) => found(self, at).map_or((), |(thread, i)| self.answer(thread, i)),
            Op::AnswerGoesOn(at) => found(self, at).map_or((), |(thread, i)| self.answer_goes_on(thread, i)),
            Op::Die(at) => {
                if let Some((thread, i)) = found(self, at) {
                    self.world.state().dead.insert(self.desks[thread][i].sandbox);
                    self.break_up(thread, i, Discard::Died, End::Lost);
                }
            }
            // The time of the one in front is over, or of one behind it while it runs for nobody.
            Op::Late(at) => {
                if let Some((thread, i)) = found(self, at)
                    && let Some(number) = self.desks[thread][i].running
                {
                    let front = self.desks[thread][i].callers[&number];
                    let is_late = self.requests[front].end.is_none();
                    let why = if is_late { Discard::Timeout } else { Discard::ClientGone };
                    self.break_up(thread, i, why, End::Late);
                }
            }
            Op::Leave(request) => self.leave(request),
            Op::Look(thread) => self.look(thread),
            // An answer that nobody waits for does not come.
            Op::Tire(at) => {
                if let Some((thread, i)) = found(self, at)
                    && self.desks[thread][i].is_cleared
                {
                    let mut seated = self.desks[thread].remove(i);
                    seated.lane.end().expect("nobody else has it").discard(Discard::ClientGone);
                }
            }
            Op::Short => self.short(),
            Op::Reload => self.pool.set_code(self.pool.generation() + 1, self.bounds, true),
            Op::Advance(_) => {}
            Op::Tend => drop(self.pool.tend()),
        }
    }

    fn check(&self) {
        for seated in self.desks.iter().flatten() {
            assert!(seated.lane.flight().len() <= DEPTH_MAX);
            assert!(!seated.lane.flight().is_empty(), "what is empty has gone home");
        }
        let n_on_loan = self.desks.iter().map(Vec::len).sum::<usize>() + self.alone.len();
        let n_handed_over = self.pool.n_busy() - n_on_loan;
        let n_tickets = self.requests.iter().filter(|request| request.ticket.is_some()).count();
        assert!(n_handed_over <= n_tickets, "each lease is somebody's");
        assert_eq!(self.pool.figures().live(), self.world.state().live.len());
    }

    /// Until everybody has his answer.
    async fn settle(&mut self) {
        for (lease, request) in std::mem::take(&mut self.alone) {
            lease.finish(Duration::from_micros(20));
            self.end(request, End::Answered);
        }
        for _ in 0..1_000 {
            if self.requests.iter().all(|request| request.end.is_some())
                && self.desks.iter().all(Vec::is_empty)
            {
                return;
            }
            self.grow();
            for request in 0..self.requests.len() {
                self.poll(request);
            }
            while let Some((thread, i)) = self.find(0) {
                self.read(thread, i);
                self.answer(thread, i);
                self.check();
            }
            advance(Duration::from_millis(6)).await;
        }
        panic!("somebody waits for ever");
    }
}

async fn run(ops: Vec<Op>) {
    let mut sim = Sim::new();
    sim.arrive(0);
    sim.settle().await;
    sim.short();
    for op in ops {
        if let Op::Advance(us) = op {
            advance(Duration::from_micros(us)).await;
        }
        sim.step(op);
        sim.check();
    }
    sim.settle().await;
    let n = |end: End| sim.requests.iter().filter(|request| request.end == Some(end)).count() as u64;
    let figures = sim.pool.figures();
    assert_eq!((figures.busy, figures.starting, figures.queue), (0, 0, 0), "all is back");
    assert_eq!(figures.timeouts, n(End::Late));
    for request in &sim.requests {
        let may_have_run = !matches!(request.end, Some(End::Refused));
        assert!(request.n_read <= usize::from(may_have_run));
        assert!(request.n_read == 1 || !matches!(request.end, Some(End::Answered | End::Lost | End::Late)));
    }
    sim.pool.close(Closed::ShuttingDown);
    assert!(sim.world.state().live.is_empty(), "nothing is kept");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_in_lanes_each_request_has_one_end_and_no_lease_is_lost(ops in proptest::collection::vec(op(), 1..150)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(ops));
    }
}
