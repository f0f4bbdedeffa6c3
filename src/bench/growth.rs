//! First calls beside few live sandboxes and beside many: what a worker does for one must not grow with the
//! number of the others.

use std::time::Duration;

use super::fork::Forker;
use super::load::each_once;
use super::memory::n_sandboxes;
use super::report::{Goal, Row};
use super::sample::Sample;
use super::{BenchError, Run, workload};

/// Live sandboxes that it begins with.
const N_FEW: usize = 10;
/// First calls beside the few, and beside the many.
const N_CALLS: usize = 100;
/// Between two of them: standbys are there again.
const PAUSE: Duration = Duration::from_millis(20);
/// After uploads and removals.
const SETTLE: Duration = Duration::from_millis(700);
/// Calls at once that make the live sandboxes.
const N_AT_ONCE: usize = 4;
/// Goal: p50 beside the many, of that beside the few; each of the bare forks' at that time, so that drift cancels.
const GROWTH_MAX: f64 = 1.3;

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let n_many = run.plan.n_live.max(N_FEW);
    let live = workload::new_names("live", n_many);
    let forker = Forker::start(&run.plan.target.python)?;
    let measured = measured(run, &live, &forker).await;
    run.tell("growth: removing the live ones");
    run.remove(&live).await;
    let [(n_few, few, few_floor), (n_many, many, many_floor)] = measured?;
    let of_floor = |sample: &Sample, floor: &Sample| sample.percentile_us(50.0) / floor.percentile_us(50.0);
    let ratio = of_floor(&many, &many_floor) / of_floor(&few, &few_floor);
    for (n, sample, floor) in [(n_few, &few, &few_floor), (n_many, &many, &many_floor)] {
        run.report.add(Row::of("growth", &format!("floor: bare fork beside {n} live sandboxes"), floor));
        let mut row = Row::of("growth", &format!("{N_CALLS} first calls beside {n} live sandboxes"), sample);
        row.per_s = None;
        row.p50_of_floor = Some(of_floor(sample, floor)).filter(|ratio| ratio.is_finite());
        if n == n_many {
            row.goals.push(Goal::at_most("p50 of floor, of that beside few", GROWTH_MAX, ratio));
        }
        run.report.add(row);
    }
    Ok(())
}

/// Beside how many sandboxes, standbys included; the first calls there; and the bare forks there.
type Stage = (usize, Sample, Sample);

async fn measured(run: &Run, live: &[String], forker: &Forker) -> Result<[Stage; 2], BenchError> {
    run.upload(live).await?;
    let (few, more) = live.split_at(N_FEW);
    Ok([stage(run, few, "few", forker).await?, stage(run, more, "many", forker).await?])
}

/// Has sandboxes made for `live` as well, and then makes the first calls.
async fn stage(run: &Run, live: &[String], key: &str, forker: &Forker) -> Result<Stage, BenchError> {
    run.tell(format!("growth: {key} live sandboxes"));
    let calls: Vec<_> = live.iter().map(|name| workload::call(name)).collect();
    let made = each_once(run.address, &calls, N_AT_ONCE, Duration::ZERO).await;
    if let Some(error) = made.first_error {
        return Err(BenchError::Refused(format!(
            "growth: {} sandboxes were not made: {error}",
            made.n_errors
        )));
    }
    let names = workload::new_names(key, N_CALLS);
    let uploaded = run.upload(&names).await;
    tokio::time::sleep(SETTLE).await;
    let n_live = n_sandboxes(run);
    let calls: Vec<_> = names.iter().map(|name| workload::call(name)).collect();
    let sample = each_once(run.address, &calls, 1, PAUSE).await;
    let floor = forker.measure(N_CALLS);
    run.remove(&names).await;
    uploaded?;
    Ok((n_live, sample, floor))
}
