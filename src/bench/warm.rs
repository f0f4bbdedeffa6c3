//! Functions that were called before: one connection, many, and many functions; each beside the floor.

use std::net::SocketAddr;
use std::time::Duration;

use super::floor::Floor;
use super::load::drive;
use super::report::{Goal, Row};
use super::sample::{Sample, merged, ratio};
use super::workload::{self, N_PLAIN};
use super::{BenchError, Run, machine};
use crate::bench::call::Call;

/// Slices that a variant's time is cut into: enough for a median.
const N_SLICES: u32 = 5;
/// Goal: calls per second, of the floor's that sends one request at a time.
const THROUGHPUT_MIN: f64 = 1.5;
/// Goal: calls per second, of the floor's that keeps requests in flight.
const IN_FLIGHT_MIN: f64 = 0.7;
/// Goal: p50 at one connection, of the floor's.
const P50_MAX: f64 = 1.2;

/// One line of a comparison.
struct Side {
    what: String,
    address: SocketAddr,
    calls: Vec<Call>,
    slices: Vec<Sample>,
    /// Share of the processors' time that was idle, per slice.
    idle: Vec<f64>,
}

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let plain: Vec<String> = (0..N_PLAIN).map(workload::plain).collect();
    run.check(&[workload::hello()]).await?;
    run.check(&plain).await?;
    let n_threads = run.plan.target.n_http_threads;
    let shared = Floor::start(&run.plan.target, 1, false)?;
    let own = if n_threads > 1 { Some(Floor::start(&run.plan.target, n_threads, false)?) } else { None };
    let in_flight = Floor::start(&run.plan.target, n_threads, true)?;
    let hello = vec![workload::call(&workload::hello())];
    let plain: Vec<Call> = plain.iter().map(|name| workload::call(name)).collect();
    let n_many = run.plan.n_connections;

    for (n_connections, with_plain) in [(1, false), (n_many, true)] {
        let side = |what: &str, address, calls: &[Call]| Side {
            what: what.to_owned(),
            address,
            calls: calls.to_vec(),
            slices: vec![],
            idle: vec![],
        };
        let mut sides =
            vec![side("floor: 1 bare Python", shared.address, &hello), side("hello", run.address, &hello)];
        if let Some(own) = &own {
            sides.push(side(&format!("floor: {n_threads} bare Pythons"), own.address, &hello));
        }
        let what = format!("floor: {n_threads} bare Pythons, requests in flight");
        sides.push(side(&what, in_flight.address, &hello));
        if with_plain {
            sides.push(side(&format!("{N_PLAIN} lambdas"), run.address, &plain));
        }
        compare(run, &mut sides, n_connections).await;
        let word = if n_connections == 1 { "connection" } else { "connections" };
        let scenario = format!("warm, {n_connections} {word}");
        tell(run, &sides, in_flight.address, n_connections, &scenario);
    }
    Ok(())
}

async fn compare(run: &Run, sides: &mut [Side], n_connections: usize) {
    let length = run.plan.length / N_SLICES;
    for side in sides.iter() {
        run.tell(format!("warm: {} at {n_connections}: warming up", side.what));
        drive(side.address, &side.calls, n_connections, run.plan.warmup).await;
    }
    for i in 0..N_SLICES as usize {
        // There and back, so that no side is always the one after another.
        let order: Vec<usize> =
            if i % 2 == 0 { (0..sides.len()).collect() } else { (0..sides.len()).rev().collect() };
        for at in order {
            let side = &mut sides[at];
            run.tell(format!("warm: {} at {n_connections}: slice {} of {N_SLICES}", side.what, i + 1));
            let before = machine::CpuTimes::now();
            side.slices.push(drive(side.address, &side.calls, n_connections, length).await);
            side.idle.extend(machine::idle_share(before, machine::CpuTimes::now()));
        }
    }
    // Whatever ran last may still be winding down.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// The first side is what the others are compared with; what is said of requests in flight, with the one at `in_flight`.
fn tell(run: &mut Run, sides: &[Side], in_flight: SocketAddr, n_connections: usize, scenario: &str) {
    let floor = &sides[0];
    let in_flight = sides.iter().find(|side| side.address == in_flight);
    for side in sides {
        let all = merged(&side.slices);
        let throughput = ratio(&side.slices, &floor.slices, Sample::per_s);
        let p50 = ratio(&side.slices, &floor.slices, |slice| slice.percentile_us(50.0));
        let mut row = Row::of(scenario, &side.what, &all);
        row.per_s = super::sample::median(side.slices.iter().map(Sample::per_s));
        row.idle = super::sample::median(side.idle.iter().copied());
        row.throughput_of_floor = throughput;
        row.p50_of_floor = p50;
        let is_ours = side.address == run.address;
        if is_ours && n_connections == 1 {
            row.goals.extend(p50.map(|p50| Goal::at_most("p50 of floor", P50_MAX, p50)));
        } else if is_ours {
            row.goals.extend(throughput.map(|x| Goal::at_least("calls/s of floor", THROUGHPUT_MIN, x)));
            let of_in_flight = in_flight.and_then(|floor| ratio(&side.slices, &floor.slices, Sample::per_s));
            row.goals
                .extend(of_in_flight.map(|x| Goal::at_least("calls/s of those in flight", IN_FLIGHT_MIN, x)));
        }
        run.report.add(row);
    }
}
