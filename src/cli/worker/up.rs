//! `ol worker up`: the worker, here or in the background.

use std::ffi::OsString;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use structopt::StructOpt;

use super::init::initialize;
use crate::cli::error::{CliError, must_be_root};
use crate::cli::foreground::{Manner, Source};
use crate::cli::launch::Launch;
use crate::cli::ol_dir::{OlDir, State};
use crate::cli::settings::Settings;
use crate::cli::{complain, foreground, ports, say};

/// Start the worker; its directory is made if there is none
#[derive(StructOpt)]
pub(crate) struct Up {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    pub(crate) path: PathBuf,
    /// If the directory is made now: what functions see as their machine, as in 'ol worker init'
    #[structopt(short, long, parse(from_os_str))]
    image: Option<PathBuf>,
    /// Change the configuration for this run: k=v,a.b=v (may be repeated)
    #[structopt(short, long, number_of_values = 1, value_name = "k=v,…")]
    pub(crate) options: Vec<String>,
    /// Run in the background: return as soon as the worker answers
    #[structopt(short, long)]
    pub(crate) detach: bool,
    /// If a worker runs in the directory, take its place: it finishes what it has begun, and no call fails
    #[structopt(long)]
    takeover: bool,
    /// What --detach starts: the worker itself, in a session of its own, with its log in this file
    #[structopt(long, hidden = true, parse(from_os_str), value_name = "FILE")]
    in_background: Option<PathBuf>,
    /// For who needs a worker for a while: it ends when the one that started it does, in whatever way
    #[structopt(long, hidden = true, value_name = "PID")]
    with_parent: Option<i32>,
}

/// How long a worker may take to be gone when it does not answer any more.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether the worker that did not hand over is no more. One that was killed lets go of its sockets a moment before it lets go of
/// its lock.
fn has_ended(ol_dir: &OlDir) -> Result<bool, CliError> {
    let deadline = Instant::now() + END_PATIENCE;
    loop {
        match ol_dir.state()? {
            State::Running(_) | State::Unknown(_) if Instant::now() >= deadline => return Ok(false),
            State::Running(_) | State::Unknown(_) => thread::sleep(LOOK_EVERY),
            _ => return Ok(true),
        }
    }
}

impl Up {
    pub(super) fn run(mut self) -> Result<(), CliError> {
        must_be_root("ol worker up")?;
        // As in OpenLambda: `-o "$OPTIONS"` of a script that has none changes nothing.
        self.options.retain(|options| !options.is_empty());
        if self.in_background.is_some() {
            foreground::leave_session();
        }
        if let Some(parent) = self.with_parent {
            foreground::end_with_parent(parent)?;
        }
        let ol_dir = OlDir::at(&self.path)?;
        let before = match ol_dir.state()? {
            State::Running(worker) | State::Unknown(worker) if !self.takeover => {
                let hint = format!("ol worker down -p {}", self.path.display());
                return Err(CliError::AlreadyRunning { pid: worker.pid, hint });
            }
            // Which asks for more time than this: it is starting, ending, or has just been taken over itself.
            State::Running(_) | State::Unknown(_) => ol_dir.settings()?,
            _ => None,
        };
        let is_new = !ol_dir.is_initialized()?;
        let plain = if is_new {
            Settings::defaults(ol_dir.path())?
        } else {
            Settings::read(&ol_dir.config(), ol_dir.path())?
        };
        let settings = plain.with_options(&self.options, ol_dir.path())?;
        if let Some(before) = &before {
            if before.worker_dir() != settings.worker_dir() {
                let from = before.worker_dir().display().to_string();
                return Err(CliError::Takeover(format!(
                    "the worker that runs works in {from}: no other worker_dir can be taken over to; end it, and start anew"
                )));
            }
        } else {
            ports::check_free(settings.host(), settings.port(), "-o worker_port=N")?;
        }
        if is_new {
            initialize(&ol_dir, &plain, self.image.as_deref(), false)?;
        } else if self.in_background.is_none()
            && let Some(why) = crate::serve::no_installer(ol_dir.path(), &settings.config)
        {
            complain(format_args!(
                "ol: packages cannot be installed, only those that are there can be used: {why}"
            ));
        }
        if self.detach {
            return self.start_in_background(&ol_dir, &settings);
        }
        let manner = Manner {
            source: if self.options.is_empty() { Source::File } else { Source::Options },
            log_file: self.in_background,
        };
        if before.is_some() {
            match foreground::hand_over(&settings) {
                Ok(taken) => return foreground::take_over(&ol_dir, settings, manner, taken),
                // Then there is nothing to take over any more, and a place that is free.
                Err(error) if error.may_be_its_end() && has_ended(&ol_dir)? => {
                    complain(format_args!("ol: the worker that ran has ended: {error}"));
                }
                Err(error) => return Err(CliError::Takeover(error.to_string())),
            }
        }
        foreground::run(&ol_dir, settings, manner)
    }

    fn start_in_background(&self, ol_dir: &OlDir, settings: &Settings) -> Result<(), CliError> {
        let log = ol_dir.log();
        let mut args: Vec<OsString> = ["worker", "up", "--in-background"].map(Into::into).into();
        args.extend([log.clone().into(), "-p".into(), ol_dir.path().into()]);
        if self.takeover {
            args.push("--takeover".into());
        }
        for option in &self.options {
            args.extend(["-o".into(), option.into()]);
        }
        let launch = Launch {
            // Not the path: the file may have been replaced since this program started.
            program: "/proc/self/exe".into(),
            args,
            worker_dir: settings.worker_dir(),
            log: log.clone(),
        };
        let started = launch.start()?;
        let pid = started.pid();
        let tell = |port| say(format!("\tPID: {pid}\n\tPort: {port}\n\tLog File: {}\n", log.display()));
        if settings.port() == 0 {
            // Which it is, the worker knows when it listens.
            started.wait_until_ready()?;
            tell(ol_dir.running()?.port());
        } else {
            tell(settings.port());
            started.wait_until_ready()?;
        }
        say("Ready!\n");
        Ok(())
    }
}
