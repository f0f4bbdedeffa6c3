//! `ol bench`: how fast a running worker is, beside what the machine could do without it.
//!
//! ```text
//!   ol bench run ──HTTP──▶ the worker ──▶ sandboxes                    slices, in turn, with one
//!       │                                                              load generator
//!       ├───────HTTP──▶ ol bench floor ──▶ one bare interpreter        floor: the warm path
//!       └──────────────────────────────▶ forks of a bare interpreter   floor: the cold path
//! ```
//!
//! Absolute numbers say more about the machine and its neighbours than about the worker. So each scenario is
//! measured beside its floor in the same run, slice by slice in turn, and what is compared is the median of
//! the slices' ratios.

mod bare;
mod call;
mod cold;
mod density;
pub(crate) mod floor;
mod fork;
mod fresh;
mod growth;
mod kafka;
mod load;
mod machine;
mod memory;
mod overload;
mod packages;
mod play;
mod plot;
mod pressure;
mod report;
mod reqbench;
mod sample;
mod site;
mod start;
pub mod trace;
mod warm;
mod web;
pub(crate) mod workload;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::client::ClientError;
pub use play::Score;
pub use report::{Report, Style};

/// More wrong answers than this, 0 to 1, and the run has failed: the other numbers mean nothing then.
const ERROR_SHARE_MAX: f64 = 0.01;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// `up -d` and `init`, in a directory of their own.
    Start,
    /// The worker's own memory, and that of idle sandboxes.
    Memory,
    /// First calls beside few and beside many live sandboxes.
    Growth,
    /// Functions that were called before.
    Warm,
    /// First calls of functions that were never called.
    Cold,
    /// A new sandbox for each call.
    Fresh,
    /// First calls of functions that import numpy and pandas.
    Packages,
    /// WSGI and ASGI apps beside gunicorn and uvicorn, and pieces of streams.
    Web,
    /// Calls with records from Kafka.
    Kafka,
    /// First calls of functions that need many packages, made up; on workers of its own.
    Reqbench,
    /// The same with packages that people use.
    Wheels,
    /// First calls beside a pool of memory that is nearly full; on a worker of its own.
    Pressure,
    /// More calls than can be served; on a worker of its own.
    Overload,
    /// As many idle sandboxes as may be; on a worker of its own.
    Density,
}

impl Scenario {
    /// In the order in which they run: a worker that has served much is no longer an idle one, and keeps many
    /// standbys for a while.
    pub const ALL: [Self; 14] = [
        Self::Start,
        Self::Memory,
        Self::Growth,
        Self::Warm,
        Self::Cold,
        Self::Fresh,
        Self::Packages,
        Self::Web,
        Self::Kafka,
        Self::Reqbench,
        Self::Wheels,
        Self::Pressure,
        Self::Overload,
        Self::Density,
    ];

    /// Those that run when none is named. The others take minutes and start workers of their own, or, with Kafka, have the worker
    /// connect to somewhere else.
    #[must_use]
    pub fn ordinary() -> Vec<Self> {
        Self::ALL.into_iter().filter(|one| *one < Self::Kafka).collect()
    }

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Memory => "memory",
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Fresh => "fresh",
            Self::Growth => "growth",
            Self::Packages => "packages",
            Self::Web => "web",
            Self::Kafka => "kafka",
            Self::Reqbench => "reqbench",
            Self::Wheels => "wheels",
            Self::Pressure => "pressure",
            Self::Overload => "overload",
            Self::Density => "density",
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|scenario| scenario.name() == text);
        found.ok_or_else(|| format!("there is no scenario '{text}'; there are {}", names()))
    }
}

/// The worker that is measured.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Its process.
    pub pid: i32,
    /// The name of the cgroup of its sandboxes.
    pub cgroup_root: String,
    /// Threads that serve HTTP; the floor gets as many.
    pub n_http_threads: usize,
    /// Where its packages are.
    pub packages_dir: PathBuf,
    /// The interpreter that its functions run with, as it is found from here.
    pub python: PathBuf,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whom.
    pub target: Target,
    /// What.
    pub scenarios: Vec<Scenario>,
    /// For each variant of a scenario that runs for a time, all of its slices together.
    pub length: Duration,
    /// Before the first slice of each variant.
    pub warmup: Duration,
    /// Connections of the variants with many.
    pub n_connections: usize,
    /// Functions of each variant of `cold`.
    pub n_cold: usize,
    /// Live sandboxes of `growth`.
    pub n_live: usize,
    /// Idle sandboxes of `density`.
    pub n_dense: usize,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Nobody listens.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// Host and port.
        target: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The functions are not there.
    #[error("the worker has no function '{0}': run 'ol bench init' with the same -p first")]
    NoWorkload(String),
    /// The worker refused what a scenario needs.
    #[error("{0}")]
    Refused(String),
    /// A request to the worker failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The floor did not start or broke.
    #[error("cannot measure the floor: {what}: {source}")]
    Floor {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// A command of ours did not do what it should.
    #[error("'ol {command}' failed: {said}")]
    Command {
        /// Its arguments.
        command: String,
        /// What it wrote.
        said: String,
    },
    /// A file.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A trace has a line that cannot be understood.
    #[error("the trace is wrong in line {line}: {said}")]
    Trace {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        said: String,
    },
    /// The trace calls functions that the worker does not have.
    #[error(
        "the worker does not have {n} of the trace's functions, '{first}' among them: install them, or give --fill-in to have plain ones in their place"
    )]
    Missing {
        /// How many.
        n: usize,
        /// One of them.
        first: String,
    },
    /// The event loop of this process.
    #[error("cannot start the load generator: {0}")]
    Runtime(io::Error),
    /// Measured, but worth nothing.
    #[error("{scenario}: {n_errors} of {n_all} answers were wrong; the first: {first}")]
    Wrong {
        /// Which row of the table.
        scenario: String,
        /// How many.
        n_errors: u64,
        /// Of how many.
        n_all: u64,
        /// What came instead.
        first: String,
    },
}

/// What the scenarios share.
struct Run {
    plan: Plan,
    address: SocketAddr,
    progress: ProgressBar,
    report: Report,
}

/// Measures, and tells as it goes on when a person watches.
///
/// # Errors
/// When it could not be measured. Wrong answers are in the report: see [`Report::verdict`].
pub fn run(plan: Plan) -> Result<Report, BenchError> {
    let scenarios = plan.scenarios.clone();
    with_run(plan, |runtime, run| {
        for scenario in scenarios {
            run.progress.set_message(scenario.name());
            match scenario {
                Scenario::Start => start::measure(run)?,
                Scenario::Memory => runtime.block_on(memory::measure(run))?,
                Scenario::Warm => runtime.block_on(warm::measure(run))?,
                Scenario::Cold => runtime.block_on(cold::measure(run))?,
                Scenario::Fresh => runtime.block_on(fresh::measure(run))?,
                Scenario::Growth => runtime.block_on(growth::measure(run))?,
                Scenario::Packages => runtime.block_on(packages::measure(run))?,
                Scenario::Web => runtime.block_on(web::measure(run))?,
                Scenario::Kafka => runtime.block_on(kafka::measure(run))?,
                Scenario::Reqbench => runtime.block_on(reqbench::measure(run))?,
                Scenario::Wheels => runtime.block_on(reqbench::measure_wheels(run))?,
                Scenario::Pressure => runtime.block_on(pressure::measure(run))?,
                Scenario::Overload => runtime.block_on(overload::measure(run))?,
                Scenario::Density => runtime.block_on(density::measure(run))?,
            }
            run.progress.inc(1);
        }
        Ok(())
    })
}

/// Plays a trace, and tells as it goes on when a person watches.
///
/// # Errors
/// When it could not be played. Wrong answers are in the report: see [`Report::verdict`].
pub fn play(plan: Plan, score: &Score) -> Result<Report, BenchError> {
    with_run(plan, |runtime, run| runtime.block_on(play::measure(run, score)))
}

fn with_run(
    plan: Plan,
    measure: impl FnOnce(&tokio::runtime::Runtime, &mut Run) -> Result<(), BenchError>,
) -> Result<Report, BenchError> {
    let address = call::reach(&plan.target.host, plan.target.port)?;
    let progress = ProgressBar::new(plan.scenarios.len() as u64);
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg}");
    progress.set_style(style.expect("the template is a constant that is right"));
    let report = Report::new(machine::describe(), &plan);
    let mut run = Run { plan, address, progress, report };
    // One thread, as wrk -t1: there must be room left for what is measured.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::Runtime)?;
    measure(&runtime, &mut run)?;
    run.progress.finish_and_clear();
    run.report.finish();
    Ok(run.report)
}

impl Run {
    /// What happens now, on a terminal.
    fn tell(&self, text: impl Into<std::borrow::Cow<'static, str>>) {
        self.progress.set_message(text);
        self.progress.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_by_their_names() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        let error = "hot".parse::<Scenario>().unwrap_err();
        assert_eq!(
            error,
            "there is no scenario 'hot'; there are start, memory, growth, warm, cold, fresh, packages, web, kafka, reqbench, wheels, pressure, overload, density"
        );
    }
}
