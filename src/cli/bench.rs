//! `ol bench`: how fast a running worker is.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use structopt::StructOpt;

use super::error::{CliError, must_be_root};
use super::ol_dir::{OlDir, State};
use super::{files, foreground, say};
use crate::bench::floor::{self, FloorSpec};
use crate::bench::{self, Plan, Scenario, Style, Target, workload};
use crate::image::Descriptor;

/// Measure a running worker beside what this machine could do without it
#[derive(StructOpt)]
pub(super) enum Bench {
    Init(Init),
    Run(Run),
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
    /// Write everything that was measured to this file
    #[structopt(long, parse(from_os_str))]
    json: Option<PathBuf>,
    /// Print the tables as Markdown
    #[structopt(long)]
    markdown: bool,
    /// start, memory, warm, cold, fresh [default: all]
    scenario: Vec<Scenario>,
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
}

impl Bench {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Init(command) => command.run(),
            Self::Run(command) => command.run(),
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
        let registry = &settings.config.registry_dir;
        let n = workload::install(registry)?;
        say(format!("Wrote {n} functions to {}\n", registry.display()));
        Ok(())
    }
}

impl Run {
    fn run(self) -> Result<(), CliError> {
        must_be_root("ol bench run")?;
        let ol_dir = OlDir::at(&self.path)?;
        let settings = ol_dir.running()?;
        let State::Running(worker) = ol_dir.state()? else {
            return Err(CliError::NotRunning { path: ol_dir.path().to_owned(), state: ol_dir.state()? });
        };
        let descriptor = Descriptor::load(ol_dir.path())?;
        let python = descriptor.map(|found| found.root().join(&found.python.path));
        let mut scenarios = if self.scenario.is_empty() { Scenario::ALL.to_vec() } else { self.scenario };
        scenarios.sort_unstable();
        scenarios.dedup();
        let report = bench::run(Plan {
            target: Target {
                host: settings.reachable_host().to_owned(),
                port: settings.port(),
                pid: worker.pid,
                cgroup_root: settings.config.cgroup_root.clone(),
                n_http_threads: settings.config.n_http_threads,
                python: python.unwrap_or_else(|| "/usr/bin/python3".into()),
            },
            scenarios,
            length: Duration::from_secs(self.seconds.max(1).into()),
            warmup: Duration::from_secs(self.warmup.into()),
            n_connections: self.connections.max(1),
            n_cold: self.lambdas.max(1),
        })?;
        let style = if self.markdown { Style::Markdown } else { Style::Lines };
        say(report.render(style));
        if let Some(path) = &self.json {
            let value = serde_json::to_value(&report).expect("names and numbers can always be written");
            files::replace_json(path, &value)?;
        }
        if std::io::stderr().is_terminal() && self.json.is_none() {
            eprintln!("(with --json FILE, everything that was measured is kept)");
        }
        Ok(report.verdict()?)
    }
}

impl Floor {
    fn run(self) -> Result<(), CliError> {
        // As a worker does: the processes of a session share what the scheduler gives to it, and the floor
        // must not share with the load generator.
        foreground::leave_session();
        let spec =
            FloorSpec { python: self.python, n_threads: self.threads, n_interpreters: self.interpreters };
        Ok(floor::serve(&spec)?)
    }
}
