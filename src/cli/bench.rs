//! `ol bench`: how fast a running worker is.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use structopt::StructOpt;

use super::error::{CliError, must_be_root};
use super::ol_dir::{OlDir, State};
use super::{complain, files, foreground, say};
use crate::bench::floor::{self, FloorSpec};
use crate::bench::trace::{self, Recipe};
use crate::bench::{self, Plan, Report, Scenario, Score, Style, Target, workload};
use crate::image::Descriptor;

/// Measure a running worker beside what this machine could do without it
#[derive(StructOpt)]
pub(super) enum Bench {
    Init(Init),
    Run(Run),
    Trace(Trace),
    Play(Play),
    Floor(Floor),
}

/// Put the functions that 'ol bench run' calls into the worker's registry
#[derive(StructOpt)]
pub(super) struct Init {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
}

/// Call a running worker's functions as fast as it answers, and print how fast that was
#[derive(StructOpt)]
pub(super) struct Run {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// Seconds that each variant of a scenario runs, all of its slices together
    #[structopt(long, default_value = "10")]
    seconds: u32,
    /// Seconds before the first slice of each variant
    #[structopt(long, default_value = "1")]
    warmup: u32,
    /// Keep-alive connections, for the variants with many
    #[structopt(long, default_value = "32")]
    connections: usize,
    /// Never-called functions, for each variant of 'cold'
    #[structopt(long, default_value = "100")]
    lambdas: usize,
    /// Live sandboxes beside which 'growth' makes first calls
    #[structopt(long, default_value = "200")]
    live: usize,
    /// Idle sandboxes of 'density'
    #[structopt(long, default_value = "2000")]
    idle: usize,
    #[structopt(flatten)]
    output: Output,
    /// start, memory, growth, warm, cold, fresh, packages, web, kafka, reqbench, wheels, pressure, overload, density [default: all up to 'web']
    scenario: Vec<Scenario>,
}

/// Make a trace for 'ol bench play': independent calls of functions some of which are called more than others
#[derive(StructOpt)]
pub(super) struct Trace {
    /// Functions
    #[structopt(long, default_value = "100")]
    functions: usize,
    /// Seconds from its begin to its end
    #[structopt(long, default_value = "60")]
    seconds: u32,
    /// Calls per second, on average
    #[structopt(long, default_value = "100")]
    rate: f64,
    /// The n-th function is called as often as n to the power of minus this; 0: all alike
    #[structopt(long, default_value = "1")]
    zipf: f64,
    /// The same number gives the same trace
    #[structopt(long, default_value = "1")]
    seed: u64,
    /// The file to write: CSV with the columns at_ms, function, body
    #[structopt(parse(from_os_str))]
    file: PathBuf,
}

/// Call a running worker's functions when a trace says, and print how long they took
#[derive(StructOpt)]
pub(super) struct Play {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// So many times as fast as the trace says
    #[structopt(long, default_value = "1")]
    speed: f64,
    /// Upload plain functions in the place of those that the worker does not have, and remove them afterwards
    #[structopt(long)]
    fill_in: bool,
    /// Calls under way at most; one that is due beyond it counts as an error
    #[structopt(long, default_value = "1000")]
    in_flight_max: usize,
    #[structopt(flatten)]
    output: Output,
    /// The trace: CSV with the columns at_ms, function and body
    #[structopt(parse(from_os_str))]
    trace: PathBuf,
}

/// What becomes of the figures.
#[derive(StructOpt)]
struct Output {
    /// Write everything that was measured to this file
    #[structopt(long, parse(from_os_str))]
    json: Option<PathBuf>,
    /// Draw how long calls took, percentile by percentile, to this SVG file
    #[structopt(long, parse(from_os_str))]
    plot: Option<PathBuf>,
    /// Print the tables as Markdown
    #[structopt(long)]
    markdown: bool,
}

/// What 'ol bench run' starts to compare with
#[derive(StructOpt)]
#[structopt(setting = structopt::clap::AppSettings::Hidden)]
pub(super) struct Floor {
    /// The interpreter
    #[structopt(long, parse(from_os_str))]
    python: PathBuf,
    /// Threads that serve HTTP
    #[structopt(long)]
    threads: usize,
    /// Interpreters
    #[structopt(long)]
    interpreters: usize,
    /// Write requests to an interpreter that is at work
    #[structopt(long)]
    in_flight: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Init(command) => command.run(),
            Self::Run(command) => command.run(),
            Self::Trace(command) => command.run(),
            Self::Play(command) => command.run(),
            Self::Floor(command) => command.run(),
        }
    }
}

impl Init {
    fn run(self) -> Result<(), CliError> {
        must_be_root("ol bench init")?;
        let ol_dir = OlDir::at(&self.path)?;
        let Some(settings) = ol_dir.settings()? else {
            return Err(CliError::NotRunning { path: ol_dir.path().to_owned(), state: State::Uninitialized });
        };
        if let Some(store) = &settings.config.registry_store {
            let text =
                format!("functions lie in {}: bench a worker whose registry is a directory", store.text);
            return Err(CliError::Setting(text));
        }
        let registry = &settings.config.registry_dir;
        let n = workload::install(registry)?;
        say(format!("Wrote {n} functions to {}\n", registry.display()));
        Ok(())
    }
}

impl Run {
    fn run(self) -> Result<(), CliError> {
        must_be_root("ol bench run")?;
        let mut scenarios = if self.scenario.is_empty() { Scenario::ordinary() } else { self.scenario };
        scenarios.sort_unstable();
        scenarios.dedup();
        let report = bench::run(Plan {
            target: target(&self.path)?,
            scenarios,
            length: Duration::from_secs(self.seconds.max(1).into()),
            warmup: Duration::from_secs(self.warmup.into()),
            n_connections: self.connections.max(1),
            n_cold: self.lambdas.max(1),
            n_live: self.live,
            n_dense: self.idle.max(1),
        })?;
        self.output.tell(&report)
    }
}

impl Trace {
    fn run(self) -> Result<(), CliError> {
        let recipe = Recipe {
            n_functions: self.functions,
            length: Duration::from_secs(self.seconds.into()),
            per_s: self.rate,
            zipf: self.zipf,
            seed: self.seed,
        };
        let n = trace::write(&self.file, &recipe)?;
        say(format!("Wrote {n} calls to {}\n", self.file.display()));
        Ok(())
    }
}

impl Play {
    fn run(self) -> Result<(), CliError> {
        must_be_root("ol bench play")?;
        let events = trace::read(&self.trace)?;
        let speed = Some(self.speed).filter(|speed| speed.is_finite() && *speed > 0.0);
        let speed = speed.ok_or_else(|| CliError::Usage("--speed must be more than 0".into()))?;
        let length = events.last().map_or(Duration::ZERO, |event| event.at.div_f64(speed));
        let plan = Plan {
            target: target(&self.path)?,
            scenarios: Vec::new(),
            length,
            warmup: Duration::ZERO,
            n_connections: self.in_flight_max,
            n_cold: 0,
            n_live: 0,
            n_dense: 0,
        };
        let score = Score { events, speed, fill_in: self.fill_in, in_flight_max: self.in_flight_max.max(1) };
        self.output.tell(&bench::play(plan, &score)?)
    }
}

impl Output {
    fn tell(&self, report: &Report) -> Result<(), CliError> {
        say(report.render(if self.markdown { Style::Markdown } else { Style::Lines }));
        if let Some(path) = &self.json {
            let value = serde_json::to_value(report).expect("names and numbers can always be written");
            files::replace_json(path, &value)?;
        }
        if let Some(path) = &self.plot {
            report.plot(path)?;
        }
        if std::io::stderr().is_terminal() && self.json.is_none() {
            complain("(with --json FILE, everything that was measured is kept)");
        }
        Ok(report.verdict()?)
    }
}

/// The worker that runs in this directory.
fn target(path: &Path) -> Result<Target, CliError> {
    let ol_dir = OlDir::at(path)?;
    let settings = ol_dir.running()?;
    let State::Running(worker) = ol_dir.state()? else {
        return Err(CliError::NotRunning { path: ol_dir.path().to_owned(), state: ol_dir.state()? });
    };
    // The one that the worker has: who changes the configuration changes what is compared with as well.
    let descriptor = Descriptor::load(ol_dir.path(), settings.config.python.as_deref())?;
    Ok(Target {
        host: settings.reachable_host().to_owned(),
        port: settings.port(),
        pid: worker.pid,
        cgroup_root: settings.config.cgroup_root.clone(),
        n_http_threads: settings.config.n_http_threads,
        packages_dir: settings.config.packages_dir.clone(),
        python: descriptor.map_or_else(|| "/usr/bin/python3".into(), |found| found.interpreter()),
    })
}

impl Floor {
    fn run(self) -> Result<(), CliError> {
        // As a worker does: the processes of a session share what the scheduler gives to it, and the floor
        // must not share with the load generator.
        foreground::leave_session();
        let spec = FloorSpec {
            python: self.python,
            n_threads: self.threads,
            n_interpreters: self.interpreters,
            in_flight: self.in_flight,
        };
        Ok(floor::serve(&spec)?)
    }
}
