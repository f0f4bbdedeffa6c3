//! `ol bench play`: a trace, call by call when it says, whether the worker keeps up or not.
//!
//! A call's time begins when the trace says that it is due, not when it could be sent: a worker that stalls is then seen
//! to make everybody wait who came meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::call::Call;
use super::load::{CallError, Connection};
use super::report::Row;
use super::sample::Sample;
use super::trace::Event;
use super::{BenchError, Run};
use crate::client::Method;

/// How a trace is played.
#[derive(Debug, Clone)]
pub struct Score {
    /// The calls, in the order of time.
    pub events: Vec<Event>,
    /// So many times as fast as it says.
    pub speed: f64,
    /// Functions that the worker does not have get plain ones in their place, for as long as this takes.
    pub fill_in: bool,
    /// Calls under way at most. One that is due beyond it is an error: each takes a connection.
    pub in_flight_max: usize,
}

/// How long after the last call's time the last answer may come.
const STRAGGLE_MAX: Duration = Duration::from_secs(60);

/// What came of the calls.
struct Outcome {
    /// The first of each function, and all others.
    first: Sample,
    again: Sample,
}

pub(super) async fn measure(run: &mut Run, score: &Score) -> Result<(), BenchError> {
    let names: BTreeSet<&str> = score.events.iter().map(|event| event.function.as_str()).collect();
    let mut missing = Vec::new();
    for name in names {
        let reply = run.client().request(Method::GET, &format!("/registry/{name}/config"), &[], "").await?;
        if !reply.status.is_success() {
            missing.push(name.to_owned());
        }
    }
    if !missing.is_empty() && !score.fill_in {
        return Err(BenchError::Missing { n: missing.len(), first: missing.swap_remove(0) });
    }
    run.tell(format!("play: uploading {} functions", missing.len()));
    let uploaded = run.upload(&missing).await;
    let played = if uploaded.is_ok() { Some(play(run, score).await) } else { None };
    run.remove(&missing).await;
    uploaded?;
    let Some(Outcome { first, again }) = played else { return Ok(()) };
    let n_functions = first.n() + first.n_errors;
    run.report.add(Row::of("play", &format!("first calls of {n_functions} functions"), &first));
    if again.n() + again.n_errors > 0 {
        run.report.add(Row::of("play", "calls after the first", &again));
    }
    Ok(())
}

async fn play(run: &Run, score: &Score) -> Outcome {
    let calls = calls_of(&score.events);
    let due = |event: &Event| event.at.div_f64(score.speed);
    let stage = Rc::new(Stage {
        address: run.address,
        idle: RefCell::new(Vec::new()),
        n_in_flight: Cell::new(0),
        first: RefCell::new(Sample::new()),
        again: RefCell::new(Sample::new()),
    });
    let tasks = LocalSet::new();
    let begin = Instant::now() + Duration::from_millis(100);
    let mut called = HashSet::new();
    let all = async {
        for (n, event) in score.events.iter().enumerate() {
            let at = begin + due(event);
            sleep_until(at).await;
            if n % 100 == 0 {
                run.tell(format!("play: {n} of {} calls", score.events.len()));
            }
            let is_first = called.insert(event.function.as_str());
            if stage.n_in_flight.get() >= score.in_flight_max {
                stage.sample(is_first).borrow_mut().add_error("too many calls were under way".into());
                continue;
            }
            stage.n_in_flight.set(stage.n_in_flight.get() + 1);
            let call = Rc::clone(&calls[&(event.function.as_str(), event.body.as_str())]);
            tokio::task::spawn_local(Rc::clone(&stage).one(call, at, is_first));
        }
    };
    tasks.run_until(all).await;
    if timeout(STRAGGLE_MAX, tasks).await.is_err() {
        let n = stage.n_in_flight.get();
        stage.again.borrow_mut().add_error(format!("{n} answers were missing long after the end"));
    }
    let elapsed = begin.elapsed();
    let taken = |sample: &RefCell<Sample>| {
        let mut sample = sample.replace(Sample::new());
        sample.elapsed = elapsed;
        sample
    };
    Outcome { first: taken(&stage.first), again: taken(&stage.again) }
}

/// What the calls share.
struct Stage {
    address: SocketAddr,
    /// Connections on which nothing is under way.
    idle: RefCell<Vec<Connection>>,
    n_in_flight: Cell<usize>,
    first: RefCell<Sample>,
    again: RefCell<Sample>,
}

impl Stage {
    fn sample(&self, is_first: bool) -> &RefCell<Sample> {
        if is_first { &self.first } else { &self.again }
    }

    async fn one(self: Rc<Self>, call: Rc<Call>, due: Instant, is_first: bool) {
        let idle = self.idle.borrow_mut().pop();
        let result = match idle {
            Some(connection) => self.on(connection, &call).await,
            None => match Connection::open(self.address).await {
                Ok(connection) => self.on(connection, &call).await,
                Err(error) => Err(error.into()),
            },
        };
        let mut sample = self.sample(is_first).borrow_mut();
        match result {
            Ok(()) => sample.add(due.elapsed()),
            Err(error) => sample.add_error(error.to_string()),
        }
        self.n_in_flight.set(self.n_in_flight.get() - 1);
    }

    async fn on(&self, mut connection: Connection, call: &Call) -> Result<(), CallError> {
        let result = connection.call(call).await;
        if !matches!(result, Err(CallError::Broken(_))) {
            self.idle.borrow_mut().push(connection);
        }
        result
    }
}

/// The requests' bytes: one for each that differs.
fn calls_of(events: &[Event]) -> BTreeMap<(&str, &str), Rc<Call>> {
    let mut calls = BTreeMap::new();
    for Event { function, body, .. } in events {
        calls
            .entry((function.as_str(), body.as_str()))
            .or_insert_with(|| Rc::new(Call::post_any(&format!("/run/{function}"), body)));
    }
    calls
}
