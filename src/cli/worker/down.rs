//! `ol worker down`: end the worker, and say how that went.

use std::path::PathBuf;

use structopt::StructOpt;

use crate::cli::error::{CliError, must_be_root};
use crate::cli::ol_dir::{OlDir, State};
use crate::cli::{say, stop};

/// Stop the worker; calls that run are let finish
#[derive(StructOpt)]
pub(crate) struct Down {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
}

impl Down {
    pub(super) fn run(self) -> Result<(), CliError> {
        let ol_dir = OlDir::at(&self.path)?;
        let (State::Running(worker) | State::Unknown(worker)) = ol_dir.state()? else {
            return Err(CliError::NotRunning { path: ol_dir.path().to_owned(), state: ol_dir.state()? });
        };
        must_be_root("ol worker down")?;
        say(format!("Stopping the worker (pid {})\n", worker.pid));
        let took = stop::stop(&worker)?;
        say(match ol_dir.state()? {
            State::StoppedClean => format!("Stopped after {:.1} s\n", took.as_secs_f64()),
            state => format!("Ended after {:.1} s: {state}\n", took.as_secs_f64()),
        });
        Ok(())
    }
}
