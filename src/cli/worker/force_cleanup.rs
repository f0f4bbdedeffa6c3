//! `ol worker force-cleanup`: remove what a killed worker left. `ol worker up` does the same.

use std::path::PathBuf;

use structopt::StructOpt;

use crate::cli::error::{CliError, must_be_root};
use crate::cli::lock::WorkerLock;
use crate::cli::ol_dir::{OlDir, State};
use crate::cli::{files, foreground, say};

/// Remove what a killed worker left ('ol worker up' does this by itself)
#[derive(StructOpt)]
pub(crate) struct ForceCleanup {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
}

impl ForceCleanup {
    pub(super) fn run(self) -> Result<(), CliError> {
        must_be_root("ol worker force-cleanup")?;
        let ol_dir = OlDir::at(&self.path)?;
        if let State::Running(worker) | State::Unknown(worker) = ol_dir.state()? {
            let hint = format!("ol worker down -p {}", self.path.display());
            return Err(CliError::AlreadyRunning { pid: worker.pid, hint });
        }
        let Some(settings) = ol_dir.settings()? else {
            return Err(CliError::NotRunning { path: ol_dir.path().to_owned(), state: State::Uninitialized });
        };
        let worker_dir = settings.worker_dir();
        files::make_dir(&worker_dir)?;
        let _lock = WorkerLock::take(&worker_dir)?;
        let mut n_removed = foreground::sweep(&settings)?;
        for name in ["worker.pid", "worker.port", "ol.sock", "takeover.sock"] {
            let path = worker_dir.join(name);
            if path.symlink_metadata().is_ok() {
                files::remove(&path)?;
                n_removed += 1;
            }
        }
        say(match n_removed {
            0 => "Nothing was left behind\n".to_owned(),
            n => format!("Removed {n} things that were left behind\n"),
        });
        Ok(())
    }
}
