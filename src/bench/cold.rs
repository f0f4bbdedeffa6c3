//! First calls of functions that nobody has called: uploaded a moment ago, no sandbox, no import.

use std::time::Duration;

use super::fork::Forker;
use super::load::each_once;
use super::report::{Goal, Row};
use super::sample::{Sample, merged};
use super::{BenchError, Run, workload};

/// Goal: p50, in microseconds.
const P50_US_MAX: f64 = 5_000.0;
/// Between two first calls of the variant that leaves the worker time to prepare.
const PAUSE: Duration = Duration::from_millis(20);
/// After the uploads: the worker prepares what it wants to have ready.
const SETTLE: Duration = Duration::from_millis(700);

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let n = run.plan.n_cold;
    let forker = Forker::start(&run.plan.target.python)?;
    let mut floors = vec![forker.measure(n)];
    let variants: [(&str, &str, usize, Duration); 3] = [
        ("paced", "one at a time, 20 ms apart", 1, PAUSE),
        ("row", "one at a time, back to back", 1, Duration::ZERO),
        ("many", "8 at once", 8, Duration::ZERO),
    ];
    let mut rows = Vec::new();
    for (key, what, n_at_once, pause) in variants {
        run.tell(format!("cold: {what}"));
        let names = workload::new_names(key, n);
        let uploaded = run.upload(&names).await;
        if uploaded.is_ok() {
            tokio::time::sleep(SETTLE).await;
            let calls: Vec<_> = names.iter().map(|name| workload::call(name)).collect();
            let sample = each_once(run.address, &calls, n_at_once, pause).await;
            let mut row = Row::of("cold", &format!("{n} lambdas, {what}"), &sample);
            if !pause.is_zero() {
                row.per_s = None;
            }
            if n_at_once == 1 {
                row.goals.push(Goal::at_most("p50 ms", P50_US_MAX / 1e3, sample.percentile_us(50.0) / 1e3));
            }
            rows.push((row, n_at_once));
        }
        run.remove(&names).await;
        uploaded?;
        floors.push(forker.measure(n));
    }
    let floor = merged(&floors);
    tell(run, rows, &floor, "cold");
    Ok(())
}

/// The rows, each with how many calls were under way at once, and the floor in front. Its forks come one at a
/// time, so that only such calls can be compared with it.
pub(super) fn tell(run: &mut Run, rows: Vec<(Row, usize)>, floor: &Sample, scenario: &str) {
    run.report.add(Row::of(scenario, "floor: bare fork, no HTTP", floor));
    for (mut row, n_at_once) in rows {
        let p50_us = row.p50_us.filter(|_| n_at_once == 1);
        row.p50_of_floor =
            p50_us.map(|p50_us| p50_us / floor.percentile_us(50.0)).filter(|ratio| ratio.is_finite());
        run.report.add(row);
    }
}
