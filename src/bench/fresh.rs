//! `reuse-sandbox: false`: each call gets a sandbox that nobody has used.

use super::cold::Floor;
use super::fork::Forkers;
use super::load::drive;
use super::report::{Goal, Row};
use super::{BenchError, Run, cold, workload};

/// Connections of the second variant: the worker is to have several sandboxes in the making at once.
const N_AT_ONCE: usize = 8;
/// Forks of the floor, before and after.
const N_FORKS: usize = 100;
/// Goals: p50 of one call after the other, in milliseconds; and calls per second, however many at once.
const P50_MS_MAX: f64 = 0.6;
const PER_S_MIN: f64 = 900.0;

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    run.check(&[workload::fresh()]).await?;
    let forkers = Forkers::start(&run.plan.target.python)?;
    let mut floor = Floor::new(&forkers, N_FORKS);
    let calls = [workload::call(&workload::fresh())];
    let mut rows = Vec::new();
    for (what, n_connections) in [("1 connection", 1), ("8 connections", N_AT_ONCE)] {
        run.tell(format!("fresh: {what}"));
        drive(run.address, &calls, n_connections, run.plan.warmup).await;
        let sample = drive(run.address, &calls, n_connections, run.plan.length).await;
        let mut row = Row::of("fresh", what, &sample);
        row.goals.push(if n_connections == 1 {
            Goal::at_most("p50 ms", P50_MS_MAX, sample.percentile_us(50.0) / 1e3)
        } else {
            Goal::at_least("calls/s", PER_S_MIN, sample.per_s())
        });
        rows.push((row, n_connections));
        floor.go_on();
    }
    cold::tell(run, rows, &floor, "fresh");
    Ok(())
}
