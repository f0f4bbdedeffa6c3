//! Ten times as many calls as can be served: what is served of them, how long that takes, and what the others are told.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::call::Call;
use super::load::{CallError, Connection, drive};
use super::memory::pss_bytes;
use super::report::{Goal, Quantity, Row};
use super::sample::Sample;
use super::site::{Site, place};
use super::{BenchError, Run};

/// Sandboxes, and how long a call has one: so many calls a second can be served.
const N_SANDBOXES: usize = 8;
const CALL_MS: usize = 20;
const FILE: &str = "f.py";
const CODE: &str = "
import time
def f(event):
    time.sleep(0.02)
    return 'done'
";
/// Requests that may wait, and for how long.
const QUEUE_LENGTH: usize = 64;
const QUEUE_MS: u64 = 500;
/// How many times as many calls as can be served.
const TIMES: usize = 10;
/// Each of so many clients sends its next call when it is due, or, if the last one took longer, when that was answered.
const N_CLIENTS: usize = 400;
/// Goals: served calls of those at the peak; p99 of those that were served, in milliseconds (the wait, the call, and as much again
/// for a machine that is busy with refusing); connections that were lost; MB that the worker grew by.
const OF_PEAK_MIN: f64 = 0.9;
const P99_MS_MAX: f64 = (2 * QUEUE_MS) as f64;
const GROWTH_MB_MAX: f64 = 20.0;

/// What came of the calls.
#[derive(Default)]
struct Outcome {
    n_refused: u64,
    n_lost: u64,
    /// Answers that are neither; one of them.
    n_wrong: u64,
    wrong: Option<String>,
}

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    run.tell("overload: a worker of its own");
    let directory = place()?;
    let functions = [("busy".to_owned(), vec![(FILE, CODE.to_owned())])];
    let options = [
        format!("limits.max_instances={N_SANDBOXES}"),
        format!("queue.length={QUEUE_LENGTH}"),
        format!("queue.wait_ms={QUEUE_MS}"),
    ];
    let site = Site::start(&directory.path().join("ol"), None, &options, &functions)?;
    let call = Call::post("/run/busy", "1", "\"done\"");
    let length = run.plan.length;
    run.tell("overload: the peak");
    drive(
        site.address,
        std::slice::from_ref(&call),
        N_SANDBOXES,
        run.plan.warmup.max(Duration::from_secs(2)),
    )
    .await;
    let peak = drive(site.address, std::slice::from_ref(&call), N_SANDBOXES, length).await;
    // Once before it is weighed: buffers of as many connections are there from then on.
    offer(site.address, &call, Duration::from_secs(2)).await;
    let weight = || site.pid().and_then(pss_bytes).unwrap_or(0.0) / 1e6;
    let before = weight();
    run.tell(format!("overload: {TIMES} times the capacity"));
    let (served, outcome) = offer(site.address, &call, length).await;
    let after = weight();
    let calm = drive(site.address, std::slice::from_ref(&call), N_SANDBOXES, Duration::from_secs(2)).await;
    site.stop()?;

    run.report.add(Row::of(
        "overload",
        &format!("peak: {N_SANDBOXES} sandboxes, calls of {CALL_MS} ms"),
        &peak,
    ));
    let n_all = served.n() + outcome.n_refused + outcome.n_lost + outcome.n_wrong;
    let what = format!("served of {:.0} calls/s offered", n_all as f64 / length.as_secs_f64());
    let mut row = Row::of("overload", &what, &served);
    row.goals.push(Goal::at_least("calls/s, of the peak", OF_PEAK_MIN, served.per_s() / peak.per_s()));
    row.goals.push(Goal::at_most("p99 ms", P99_MS_MAX, served.percentile_us(99.0) / 1e3));
    run.report.add(row);
    run.report.add(Row::of("overload", "two seconds afterwards", &calm));
    let add = |what: &str, value: f64, unit| Quantity::new("overload", what, value, unit);
    let quantities = [
        add("told 429 at once, each second", outcome.n_refused as f64 / length.as_secs_f64(), "calls"),
        add("connections lost", outcome.n_lost as f64, "").at_most(0.0),
        add("other answers", outcome.n_wrong as f64, "").at_most(0.0),
        add("what the worker grew by, PSS", after - before, "MB").at_most(GROWTH_MB_MAX),
    ];
    quantities.into_iter().for_each(|quantity| run.report.add_quantity(quantity));
    if let Some(said) = outcome.wrong {
        run.progress.println(format!("ol bench: overload: {said}"));
    }
    Ok(())
}

/// Sends so many times as many calls as can be served. The sample has those that were.
async fn offer(address: SocketAddr, call: &Call, length: Duration) -> (Sample, Outcome) {
    let capacity = N_SANDBOXES as f64 * 1e3 / CALL_MS as f64;
    let every = Duration::from_secs_f64(N_CLIENTS as f64 / (TIMES as f64 * capacity));
    let (sample, outcome) = (RefCell::new(Sample::new()), RefCell::new(Outcome::default()));
    let begin = Instant::now();
    let client = |number: usize| {
        let (sample, outcome) = (&sample, &outcome);
        async move {
            // Not all at the same moment.
            let mut due = begin + every.mul_f64(number as f64 / N_CLIENTS as f64);
            let mut connection = None;
            while due < begin + length {
                tokio::time::sleep_until(due.into()).await;
                if connection.is_none() {
                    match Connection::open(address).await {
                        Ok(open) => connection = Some(open),
                        Err(_) => outcome.borrow_mut().n_lost += 1,
                    }
                }
                if let Some(open) = connection.as_mut() {
                    let sent = Instant::now();
                    match open.call(call).await {
                        Ok(()) => sample.borrow_mut().add(sent.elapsed()),
                        Err(CallError::Wrong(said)) if said.starts_with("429 ") => {
                            outcome.borrow_mut().n_refused += 1
                        }
                        Err(CallError::Wrong(said)) => {
                            let mut outcome = outcome.borrow_mut();
                            outcome.n_wrong += 1;
                            outcome.wrong.get_or_insert(said);
                        }
                        Err(CallError::Broken(_)) => {
                            outcome.borrow_mut().n_lost += 1;
                            connection = None;
                        }
                    }
                }
                due = (due + every).max(Instant::now());
            }
        }
    };
    join_all((0..N_CLIENTS).map(client)).await;
    let mut sample = sample.into_inner();
    sample.elapsed = length;
    (sample, outcome.into_inner())
}
