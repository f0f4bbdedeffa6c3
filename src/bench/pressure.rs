//! First calls when nine tenths of the pool of memory are in use by calls that run, beside those when it is empty.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::call::Call;
use super::load::each_once;
use super::report::{Goal, Row};
use super::site::{Site, place};
use super::{BenchError, Run, workload};

/// The pool, and how much of it is taken.
const POOL_MB: u64 = 1_000;
const USED_SHARE: f64 = 0.9;
/// Functions that take it, a part each: no sandbox may have more than half of the pool.
const N_EATERS: u64 = 3;
const EATER_FILE: &str = "f.py";
/// Holds so many MB, and stays for so long.
const EATER_CODE: &str = "
import time
HELD = []
def f(event):
    HELD.append(b'x' * (event['mb'] << 20))
    time.sleep(event['seconds'])
";
/// First calls in each part, and the pause between two of them.
const N_CALLS: usize = 100;
const PAUSE: Duration = Duration::from_millis(30);
/// Standbys are given up when memory becomes tight, and made again two seconds later.
const SETTLE: Duration = Duration::from_secs(4);
/// How long the eaters may take.
const FILL_MAX: Duration = Duration::from_secs(30);
/// Goal: p50 beside the full pool, of that beside the empty one.
const RATIO_MAX: f64 = 2.0;

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    run.tell("pressure: a worker of its own");
    let directory = place()?;
    let names = workload::new_names("first", 2 * N_CALLS);
    let plain = |name: &String| (name.clone(), vec![(workload::HELLO_FILE, workload::HELLO_CODE.to_owned())]);
    let eaters: Vec<String> = (0..N_EATERS).map(|number| format!("eater-{number}")).collect();
    let eater = |name: &String| (name.clone(), vec![(EATER_FILE, EATER_CODE.to_owned())]);
    let functions: Vec<_> = names.iter().map(plain).chain(eaters.iter().map(eater)).collect();
    let options = [
        format!("mem_pool_mb={POOL_MB}"),
        "limits.mem_mb=400".into(),
        "limits.runtime_sec=600".into(),
        "features.import_cache=".into(),
    ];
    let site = Site::start(&directory.path().join("ol"), None, &options, &functions)?;
    tokio::time::sleep(SETTLE).await;
    let calls: Vec<Call> = names.iter().map(|name| workload::call(name)).collect();
    let (first, second) = calls.split_at(N_CALLS);
    let empty = each_once(site.address, first, 1, PAUSE).await;

    run.tell("pressure: filling the pool");
    let used = used_mb(&site).await?;
    let each = ((POOL_MB as f64 * USED_SHARE - used) / N_EATERS as f64).max(1.0) as u64;
    let eating = eaters.iter().map(|name| {
        let body = format!("{{\"mb\": {each}, \"seconds\": 500}}");
        let call = Call::post_any(&format!("/run/{name}"), &body);
        let address = site.address;
        async move { each_once(address, &[call], 1, Duration::ZERO).await }
    });
    let measured = async {
        let began = Instant::now();
        // What lies idle from before is given up meanwhile.
        while used_mb(&site).await? < POOL_MB as f64 * (USED_SHARE - 0.05) && began.elapsed() < FILL_MAX {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(SETTLE).await;
        let used_before = used_mb(&site).await?;
        run.tell("pressure: first calls beside a full pool");
        let full = each_once(site.address, second, 1, PAUSE).await;
        Ok::<_, BenchError>((used_before, full, used_mb(&site).await?))
    };
    let (used_before, full, used_after) = tokio::select! {
        measured = measured => measured?,
        ended = join_all(eating) => {
            let error = ended.into_iter().find_map(|sample| sample.first_error).unwrap_or_default();
            return Err(BenchError::Refused(format!("pressure: the pool could not be filled: {error}")));
        }
    };
    site.stop()?;
    let percent = |mb: f64| (100.0 * mb / POOL_MB as f64).round();
    run.report.add(Row::of(
        "pressure",
        &format!("{N_CALLS} first calls, {}% of the pool in use", percent(used)),
        &empty,
    ));
    let what = format!(
        "{N_CALLS} first calls, {} to {}% of the pool in use by calls that run",
        percent(used_before.min(used_after)),
        percent(used_before.max(used_after))
    );
    let mut row = Row::of("pressure", &what, &full);
    let ratio = full.percentile_us(50.0) / empty.percentile_us(50.0);
    row.goals.push(Goal::at_most("p50, of that of the empty pool", RATIO_MAX, ratio));
    run.report.add(row);
    Ok(())
}

async fn used_mb(site: &Site) -> Result<f64, BenchError> {
    let status: serde_json::Value = site
        .client()
        .get("/lambdas")
        .await?
        .json()
        .map_err(|error| BenchError::Refused(error.to_string()))?;
    Ok(status["worker"]["memory"]["used_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20))
}
