//! How many idle sandboxes a machine holds, and what each costs the worker.

use std::time::Duration;

use super::load::each_once;
use super::memory::settled_of;
use super::report::{Quantity, Row};
use super::site::{Site, place};
use super::{BenchError, Run, workload};

/// Goals: sandboxes on one GiB, by their proportional set size (bare forks: about 730); live at once; and MB of the worker.
const PER_GIB_MIN: f64 = 600.0;
const LIVE_MIN: f64 = 2_000.0;
const WORKER_MB_MAX: f64 = 40.0;
const WORKER_KB_EACH_MAX: f64 = 20.0;
/// Calls at once that make them.
const N_AT_ONCE: usize = 2;
const GIB: f64 = (1u64 << 30) as f64;

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let n = run.plan.n_dense;
    run.tell(format!("density: {n} functions"));
    let directory = place()?;
    let names = workload::new_names("dense", n);
    let files = || vec![(workload::HELLO_FILE, workload::HELLO_CODE.to_owned())];
    let functions: Vec<_> = names.iter().map(|name| (name.clone(), files())).collect();
    let options = ["release_after_s=0".to_owned(), "features.import_cache=".to_owned()];
    let site = Site::start(&directory.path().join("ol"), None, &options, &functions)?;
    let pid = site.pid().ok_or_else(|| BenchError::Refused("density: the worker has no pid".into()))?;
    // It has read all functions, and has its standbys.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = settled_of(pid, &site.cgroup_root).await;
    let calls: Vec<_> = names.iter().map(|name| workload::call(name)).collect();
    let made = each_once(site.address, &calls, N_AT_ONCE, Duration::ZERO).await;
    run.tell("density: weighing them");
    let after = settled_of(pid, &site.cgroup_root).await;
    // Each of them still serves.
    let again = each_once(site.address, &calls, N_AT_ONCE, Duration::ZERO).await;
    site.stop()?;
    run.report.add(Row::of("density", &format!("{n} first calls, {N_AT_ONCE} at a time"), &made));
    run.report.add(Row::of("density", "the same again, of sandboxes that were frozen", &again));
    let n_new = after.n_sandboxes.saturating_sub(before.n_sandboxes);
    let mut add = |quantity| run.report.add_quantity(quantity);
    add(Quantity::new("density", "idle sandboxes at once", n_new as f64, "sandboxes")
        .at_least(LIVE_MIN.min(n as f64)));
    if n_new > 0 {
        let each = |after: f64, before: f64| (after - before) / n_new as f64;
        let pss = each(after.sandboxes, before.sandboxes);
        let charged = each(after.charged, before.charged);
        add(Quantity::new("density", "idle sandboxes on one GiB, by PSS", GIB / pss, "sandboxes")
            .at_least(PER_GIB_MIN));
        add(Quantity::new(
            "density",
            "the same by what is charged, kernel memory included",
            GIB / charged,
            "sandboxes",
        ));
        add(Quantity::new("density", "worker with none of them, PSS", before.worker / 1e6, "MB")
            .at_most(WORKER_MB_MAX));
        add(Quantity::new(
            "density",
            "worker, for each of them, PSS",
            each(after.worker, before.worker) / 1e3,
            "KB",
        )
        .at_most(WORKER_KB_EACH_MAX));
    }
    Ok(())
}
