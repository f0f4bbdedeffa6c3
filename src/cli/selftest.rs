//! `ol selftest`: whether this machine can hold sandboxes, and whether they hold. Needs no worker: it starts one of
//! its own, in a temporary directory and on a port that nobody has, and takes everything away again.

use std::ffi::OsString;
use std::path::Path;

use structopt::StructOpt;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::{CliError, must_be_root};
use super::launch::Launch;
use super::ol_dir::{OlDir, State};
use super::settings::Settings;
use super::worker::initialize;
use super::{say, stop};
use crate::config::{Config, Document};
use crate::image::{self, Descriptor};
use crate::selftest::{self, Finding, Listed, Outcome, Report, Stage};

/// What the stage's worker is told: what the probes count on, over the defaults.
const OPTIONS: [&str; 4] = ["worker_port=0", "log_max_mb=2", "freeze_after_ms=100", "log_output=false"];

/// Check this machine, and let functions try to get out of their sandboxes; needs no worker
#[derive(StructOpt)]
pub(super) struct SelfTest {
    /// Show what is checked, and check nothing
    #[structopt(long)]
    list: bool,
    /// Make these checks only: a group, or a check as --list shows it (may be repeated)
    #[structopt(long, number_of_values = 1, value_name = "GROUP|CHECK")]
    only: Vec<String>,
    /// Say it as JSON, when all is done
    #[structopt(long)]
    json: bool,
}

impl SelfTest {
    pub(super) fn run(self) -> Result<(), CliError> {
        let all = selftest::all();
        if let Some(word) = self.only.iter().find(|word| !all.iter().any(|listed| listed.is_meant_by(word))) {
            return Err(CliError::NoCheck(word.clone()));
        }
        let is_chosen =
            |listed: &Listed| self.only.is_empty() || self.only.iter().any(|word| listed.is_meant_by(word));
        if self.list {
            all.iter().filter(|listed| is_chosen(listed)).for_each(|listed| {
                say(format!("{:<23}  {}\n", listed.id, listed.tries));
            });
            return Ok(());
        }
        must_be_root("ol selftest")?;
        let mut report = Report::default();
        let ended = self.check(&is_chosen, &mut |outcome: Outcome| {
            if !self.json {
                say(format!("{outcome}\n"));
            }
            report.add(outcome);
        });
        if self.json {
            let value = serde_json::to_value(&report).expect("names and numbers can always be written");
            say(format!("{value:#}\n"));
        } else {
            say(format!("\n{}\n", report.summary()));
        }
        ended?;
        match report.n_failed {
            0 => Ok(()),
            n_failed => Err(CliError::ChecksFailed { n_failed }),
        }
    }

    fn check(
        &self,
        is_chosen: &dyn Fn(&Listed) -> bool,
        tell: &mut dyn FnMut(Outcome),
    ) -> Result<(), CliError> {
        let place = tempfile::Builder::new().prefix("ol-selftest-").tempdir();
        let place = place.map_err(CliError::file("make a directory in", std::env::temp_dir()))?;
        // The last part is the name of the worker's cgroup, and must be nobody else's.
        let name = place.path().file_name().expect("it was given a name").to_owned();
        let path = place.path().join(&name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(CliError::Runtime)?;
        // From here on, whoever tells this program to end does not prevent it from tidying up.
        let mut signals = runtime.block_on(async { Signals::new() }).map_err(CliError::Runtime)?;

        let group = format!("{}-try", name.to_string_lossy());
        let base = find_base(place.path());
        selftest::machine_checks(is_chosen, &base, &group).into_iter().for_each(&mut *tell);
        let mut probes = selftest::all();
        probes.retain(|listed| listed.group() != "machine" && is_chosen(listed));
        if probes.is_empty() {
            return tidy(place);
        }
        let worker = match Worker::start(&path) {
            Ok(worker) => worker,
            Err(error) => {
                let why = || Finding::Untried("no worker could be started".into());
                probes.into_iter().for_each(|listed| tell(Outcome::of(listed, why())));
                tidy(place)?;
                return Err(error);
            }
        };
        let ended = worker.serve_probes(&runtime, &mut signals, is_chosen, tell);
        let stopped = worker.stop();
        tidy(place)?;
        ended.and(stopped)
    }
}

/// What sandboxes would see as their machine, without keeping anything.
fn find_base(place: &Path) -> Result<Descriptor, image::ImageError> {
    let scratch = place.join("base");
    std::fs::create_dir(&scratch).map_err(|source| image::ImageError::Io {
        step: "make",
        path: scratch.clone(),
        source,
    })?;
    image::prepare(&scratch, None, None)
}

fn tidy(place: TempDir) -> Result<(), CliError> {
    let path = place.path().to_owned();
    place.close().map_err(CliError::file("remove", path))
}

/// The worker that the probes are let loose on.
struct Worker {
    ol_dir: OlDir,
}

impl Worker {
    fn start(path: &Path) -> Result<Self, CliError> {
        let ol_dir = OlDir::at(path)?;
        // The plain defaults: a template.json that lies around says nothing about this machine.
        let defaults = Document::made(Config::default_for(path, None), &ol_dir.config());
        let plain = Settings::of(defaults, path)?;
        initialize(&ol_dir, &plain, None, false)?;
        selftest::functions(&plain.config.registry_dir)
            .map_err(CliError::file("write functions to", &plain.config.registry_dir))?;
        let log = ol_dir.log();
        let mut args: Vec<OsString> = ["worker", "up", "--in-background"].map(Into::into).into();
        args.extend([log.clone().into(), "-p".into(), path.into()]);
        args.extend(["--with-parent".into(), std::process::id().to_string().into()]);
        args.extend(OPTIONS.iter().flat_map(|option| ["-o".into(), (*option).into()]));
        let launch = Launch { program: "/proc/self/exe".into(), args, worker_dir: plain.worker_dir(), log };
        launch.start()?.wait_until_ready()?;
        Ok(Self { ol_dir })
    }

    fn serve_probes(
        &self,
        runtime: &Runtime,
        signals: &mut Signals,
        is_chosen: &dyn Fn(&Listed) -> bool,
        tell: &mut dyn FnMut(Outcome),
    ) -> Result<(), CliError> {
        let State::Running(identity) = self.ol_dir.state()? else {
            return Err(CliError::NotRunning {
                path: self.ol_dir.path().to_owned(),
                state: self.ol_dir.state()?,
            });
        };
        let stage = Stage::new(self.ol_dir.path(), self.ol_dir.running()?.port(), identity.pid);
        runtime.block_on(async {
            tokio::select! {
                () = selftest::run(&stage, is_chosen, tell) => Ok(()),
                () = signals.wait() => Err(CliError::Interrupted),
            }
        })
    }

    fn stop(self) -> Result<(), CliError> {
        match self.ol_dir.state()? {
            State::Running(worker) | State::Unknown(worker) => Ok(stop::stop(&worker).map(drop)?),
            // It has ended by itself, which a probe has noticed.
            _ => Ok(()),
        }
    }
}

/// Of whoever wants this to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
