//! First calls of functions that nobody has called: uploaded a moment ago, no sandbox, no import.

use std::time::Duration;

use super::fork::Forkers;
use super::load::{drive, each_once, one_by_one};
use super::report::{Goal, Quantity, Row};
use super::sample::Sample;
use super::site::{self, Site};
use super::{BenchError, Run, workload};

/// Goals: p50 in milliseconds, with standbys, back to back, and without, and of a warm call that comes as seldom.
const P50_MS_MAX: f64 = 0.5;
const BACK_TO_BACK_P50_MS_MAX: f64 = 5.0;
const ON_DEMAND_P50_MS_MAX: f64 = 2.5;
const OF_WARM_MAX: f64 = 3.0;
/// Goal: functions per second.
const PER_S_MIN: f64 = 800.0;
/// Between two first calls of the variant that leaves the worker time to prepare. Long enough that processor and caches go to
/// sleep in between, which a warm call that comes as seldom pays for as well.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two first calls where there is a standby for each: the machine stays awake, and what follows a first call is done.
const SHORT_PAUSE: Duration = Duration::from_millis(2);
/// After the uploads: the worker prepares what it wants to have ready.
const SETTLE: Duration = Duration::from_millis(700);
/// Calls at once of the variants with many.
const N_AT_ONCE: usize = 8;

/// How the functions of a line are called.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// One at a time, with this pause in between.
    Paced(Duration),
    /// Some at once.
    AtOnce,
    /// Some at once, again and again; none keeps its sandbox.
    Endless,
}

pub(super) async fn measure(run: &mut Run) -> Result<(), BenchError> {
    let n = run.plan.n_cold;
    let forkers = Forkers::start(&run.plan.target.python)?;
    let mut floor = Floor::new(&forkers, n);
    let variants = [
        ("paced", "lambdas, one at a time, 20 ms apart", n, Way::Paced(PAUSE)),
        ("row", "lambdas, one at a time, back to back", n, Way::Paced(Duration::ZERO)),
        ("many", "lambdas, 8 at once", n, Way::AtOnce),
        ("endless", "lambdas in turn without end, 8 at once", n.max(N_AT_ONCE), Way::Endless),
    ];
    let mut rows = Vec::new();
    let mut paced = f64::NAN;
    for (key, what, n, way) in variants {
        run.tell(format!("cold: {n} {what}"));
        let names = workload::new_names(key, n);
        let config = |_: usize| match way {
            Way::Endless => Some(workload::FRESH_CONFIG.to_owned()),
            Way::Paced(_) | Way::AtOnce => None,
        };
        let uploaded = run.upload_with(&names, config).await;
        if uploaded.is_ok() {
            tokio::time::sleep(SETTLE).await;
            let sample = call(run, &names, way).await;
            let mut row = Row::of("cold", &format!("{n} {what}"), &sample);
            let p50_ms = sample.percentile_us(50.0) / 1e3;
            match way {
                Way::Paced(pause) => {
                    row.per_s = row.per_s.filter(|_| pause.is_zero());
                    if pause.is_zero() {
                        row.goals.push(Goal::at_most("p50 ms", BACK_TO_BACK_P50_MS_MAX, p50_ms));
                    } else {
                        row.goals.push(Goal::at_most("p50 ms", P50_MS_MAX, p50_ms));
                        paced = sample.percentile_us(50.0);
                    }
                }
                Way::AtOnce | Way::Endless => {
                    row.goals.push(Goal::at_least("calls/s", PER_S_MIN, sample.per_s()));
                }
            }
            let is_alone = matches!(way, Way::Paced(_));
            rows.push((row, if is_alone { 1 } else { N_AT_ONCE }));
        }
        run.remove(&names).await;
        uploaded?;
        floor.go_on();
    }
    let ready = ready(run, n).await?;
    rows.push((
        ready.row(&format!("{n} lambdas, one at a time, 2 ms apart, a standby for each"), P50_MS_MAX),
        1,
    ));
    let on_demand = on_demand(run, n).await?;
    rows.push((
        on_demand.row(&format!("{n} lambdas without a standby, 20 ms apart"), ON_DEMAND_P50_MS_MAX),
        1,
    ));
    floor.go_on();
    for (pause, first, name) in [(PAUSE, paced, "20 ms"), (SHORT_PAUSE, ready.p50_us(), "2 ms")] {
        run.tell(format!("cold: warm calls and bare standbys, {name} apart"));
        let warm = vec![workload::call(&workload::hello()); n];
        let warm = one_by_one(run.address, &warm, pause).await;
        rows.push((
            Row::of("cold", &format!("{n} warm calls of hello, {name} apart"), &warm).without_rate(),
            1,
        ));
        let standbys = forkers.measure_standbys(n, pause);
        let what = format!("floor: bare standby, {name} apart, no HTTP");
        run.report.add(Row::of("cold", &what, &standbys).without_rate());
        let of = |what: &str, floor: &Sample| {
            let text = format!("first call with a standby there, {name} apart, p50 of {what}");
            Quantity::new("cold", text, first / floor.percentile_us(50.0), "x")
        };
        run.report.add_quantity(of("a warm call's", &warm).at_most(OF_WARM_MAX));
        run.report.add_quantity(of("a bare standby's", &standbys));
    }
    tell(run, rows, &floor, "cold");
    Ok(())
}

/// First calls on a worker of the benchmark's own.
struct OnSite(Sample);

impl OnSite {
    async fn measure(n: usize, standbys: usize, key: &str, pause: Duration) -> Result<Self, BenchError> {
        let place = site::place()?;
        let names = workload::new_names(key, n);
        let function =
            |name: &String| (name.clone(), vec![(workload::HELLO_FILE, workload::HELLO_CODE.to_owned())]);
        let functions: Vec<_> = names.iter().map(function).collect();
        let options = [format!("standbys={standbys}")];
        let site = Site::start(&place.path().join("ol"), None, &options, &functions)?;
        site.has_standbys(standbys).await?;
        let calls: Vec<_> = names.iter().map(|name| workload::call(name)).collect();
        let sample = one_by_one(site.address, &calls, pause).await;
        site.stop()?;
        Ok(Self(sample))
    }

    fn p50_us(&self) -> f64 {
        self.0.percentile_us(50.0)
    }

    fn row(&self, what: &str, p50_ms_max: f64) -> Row {
        let mut row = Row::of("cold", what, &self.0).without_rate();
        row.goals.push(Goal::at_most("p50 ms", p50_ms_max, self.p50_us() / 1e3));
        row
    }
}

/// With as many standbys as there are first calls.
async fn ready(run: &Run, n: usize) -> Result<OnSite, BenchError> {
    run.tell("cold: with a standby for each");
    OnSite::measure(n, n, "ready", SHORT_PAUSE).await
}

/// With none.
async fn on_demand(run: &Run, n: usize) -> Result<OnSite, BenchError> {
    run.tell("cold: without standbys");
    OnSite::measure(n, 0, "demand", PAUSE).await
}

async fn call(run: &Run, names: &[String], way: Way) -> Sample {
    let calls: Vec<_> = names.iter().map(|name| workload::call(name)).collect();
    match way {
        Way::Paced(pause) => one_by_one(run.address, &calls, pause).await,
        Way::AtOnce => each_once(run.address, &calls, N_AT_ONCE, Duration::ZERO).await,
        Way::Endless => drive(run.address, &calls, N_AT_ONCE, run.plan.length).await,
    }
}

/// Bare forks before, between and after what is measured.
pub(super) struct Floor<'a> {
    forkers: &'a Forkers,
    n: usize,
    /// One at a time, and as many as there are cores.
    alone: Sample,
    together: Sample,
}

impl<'a> Floor<'a> {
    /// `n` forks each time.
    pub(super) fn new(forkers: &'a Forkers, n: usize) -> Self {
        let (alone, together) = (forkers.measure(n), forkers.measure_together(n));
        Self { forkers, n, alone, together }
    }

    pub(super) fn go_on(&mut self) {
        self.alone.merge(&self.forkers.measure(self.n));
        self.together.merge(&self.forkers.measure_together(self.n));
    }
}

/// The rows, each with how many calls were under way at once, and the floors in front. Calls that come one at a time are
/// compared with forks that do, by their p50; others with forks on all cores, by how many there are in a second.
pub(super) fn tell(run: &mut Run, rows: Vec<(Row, usize)>, floor: &Floor<'_>, scenario: &str) {
    let n = floor.forkers.n();
    run.report.add(Row::of(scenario, "floor: bare fork, no HTTP", &floor.alone));
    run.report.add(Row::of(scenario, &format!("floor: bare forks, {n} at once, no HTTP"), &floor.together));
    let of = |ours: f64, floor: f64| Some(ours / floor).filter(|ratio| ratio.is_finite());
    for (mut row, n_at_once) in rows {
        if n_at_once == 1 {
            row.p50_of_floor = row.p50_us.and_then(|p50_us| of(p50_us, floor.alone.percentile_us(50.0)));
        } else {
            row.throughput_of_floor = row.per_s.and_then(|per_s| of(per_s, floor.together.per_s()));
        }
        run.report.add(row);
    }
}
