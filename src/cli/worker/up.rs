//! `ol worker up`: the worker, here or in the background.

use std::ffi::OsString;
use std::path::PathBuf;

use structopt::StructOpt;

use super::init::initialize;
use crate::cli::error::{CliError, must_be_root};
use crate::cli::launch::Launch;
use crate::cli::ol_dir::{OlDir, State};
use crate::cli::settings::Settings;
use crate::cli::{files, foreground, ports, say};

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
    /// What --detach starts: the worker itself, in a session of its own
    #[structopt(long, hidden = true)]
    in_background: bool,
}

impl Up {
    pub(super) fn run(self) -> Result<(), CliError> {
        must_be_root("ol worker up")?;
        if self.in_background {
            foreground::leave_session();
        }
        let ol_dir = OlDir::at(&self.path)?;
        if let State::Running(worker) | State::Unknown(worker) = ol_dir.state()? {
            let hint = format!("ol worker down -p {}", self.path.display());
            return Err(CliError::AlreadyRunning { pid: worker.pid, hint });
        }
        let is_new = !ol_dir.is_initialized()?;
        let plain = if is_new {
            Settings::defaults(ol_dir.path())?
        } else {
            Settings::read(&ol_dir.config(), ol_dir.path())?
        };
        let settings = plain.with_options(&self.options, &ol_dir.overrides(), ol_dir.path())?;
        ports::check_free(settings.host(), settings.port(), "-o worker_port=N")?;
        if is_new {
            initialize(&ol_dir, &plain, self.image.as_deref(), false)?;
        } else if !self.in_background
            && let Some(why) = crate::serve::no_installer(ol_dir.path(), &settings.config)
        {
            eprintln!("ol: packages cannot be installed, only those that are there can be used: {why}");
        }
        if self.detach {
            return self.start_in_background(&ol_dir, &settings);
        }
        // The last run's options must not be taken for this one's.
        if self.options.is_empty() {
            files::remove(&ol_dir.overrides())?;
        } else {
            files::replace_json(&ol_dir.overrides(), &settings.value)?;
        }
        foreground::run(&ol_dir, settings)
    }

    fn start_in_background(&self, ol_dir: &OlDir, settings: &Settings) -> Result<(), CliError> {
        let mut args: Vec<OsString> =
            vec!["worker".into(), "up".into(), "--in-background".into(), "-p".into(), ol_dir.path().into()];
        for option in &self.options {
            args.extend(["-o".into(), option.into()]);
        }
        let log = ol_dir.log();
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
