//! `reuse-sandbox: false`: each call gets a sandbox that nobody has used.

use super::fork::Forker;
use super::load::drive;
use super::report::Row;
use super::{BenchError, Run, cold, workload};

/// Connections of the second variant: the worker is to have several sandboxes in the making at once.
const N_AT_ONCE: usize = 8;
/// Forks of the floor, before and after.
const N_FORKS: usize = 100;

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    run.check(&[workload::fresh()]).await?;
    let forker = Forker::start(&run.plan.target.python)?;
    let mut floor = forker.measure(N_FORKS);
    let calls = [workload::call(&workload::fresh())];
    let mut rows = Vec::new();
    for (what, n_connections) in [("1 connection", 1), ("8 connections", N_AT_ONCE)] {
        run.tell(format!("fresh: {what}"));
        drive(run.address, &calls, n_connections, run.plan.warmup).await;
        let sample = drive(run.address, &calls, n_connections, run.plan.length).await;
        rows.push((Row::of("fresh", what, &sample), n_connections));
        floor.merge(&forker.measure(N_FORKS));
    }
    cold::tell(run, rows, &floor, "fresh");
    Ok(())
}
