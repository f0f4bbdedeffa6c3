//! What a command says when it cannot do what was asked, and the exit code that goes with it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::launch::LaunchError;
use super::lock::LockError;
use super::ol_dir::State;
use super::package::PackageError;
use super::ports::PortError;
use super::stop::StopError;
use crate::bench::BenchError;
use crate::client::ClientError;
use crate::config::ConfigError;
use crate::image::ImageError;

/// The command line was not understood (`EX_USAGE` of sysexits.h).
pub(super) const USAGE: u8 = 64;
/// A configuration was not understood (`EX_CONFIG` of sysexits.h).
const CONFIG: u8 = 78;
/// Everything else.
const FAILURE: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error("'{0}' must be run with sudo")]
    NotRoot(&'static str),
    #[error("already running (pid {pid}); to stop it: {hint}")]
    AlreadyRunning { pid: i32, hint: String },
    #[error("{0}")]
    Takeover(String),
    #[error("{} is not empty and was not made by 'ol worker init': choose another directory", .0.display())]
    NotOurs(PathBuf),
    #[error("the worker in {} is not running: {state}", path.display())]
    NotRunning { path: PathBuf, state: State },
    #[error("the worker is ill: {0}")]
    Unhealthy(String),
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Setting(String),
    #[error("{0}")]
    Usage(String),
    #[error("cannot prepare the base image: {0}")]
    Image(#[from] ImageError),
    #[error("cannot remove what the last worker left: {0}")]
    Sweep(String),
    #[error("the worker failed: {0}")]
    Serve(String),
    #[error("cannot start the I/O of this command: {0}")]
    Runtime(io::Error),
    #[error("the worker answered {method} {path} with {said}")]
    Refused { method: &'static str, path: String, said: String },
    #[error("{0}")]
    Answer(String),
    #[error("{0}")]
    Name(#[from] actors::name::NameError),
    #[error("git clone of {url} failed: {reason}")]
    Git { url: String, reason: String },
    #[error(
        "the program git is not here, and {0} is a git repository: install git, or clone it elsewhere and give the folder"
    )]
    NoGit(String),
    #[error("{0} has printed nothing yet: there is no {path}", path = .1.display())]
    NoLog(actors::name::FunctionName, PathBuf),
    #[error("cluster directory {} does not exist: make it with 'admin new -cluster {}'", .0.display(), .0.display())]
    NoCluster(PathBuf),
    #[error("no worker of {} was started: do that with 'admin workers -cluster {}'", .0.display(), .0.display())]
    NoWorkers(PathBuf),
    #[error("{n_ill} of {n_members} workers do not answer")]
    Silent { n_ill: usize, n_members: usize },
    #[error("{} exists already: choose another place for the cluster, or remove it", .0.display())]
    ClusterExists(PathBuf),
    #[error("there is no check '{0}': 'ol selftest --list' shows them and their groups")]
    NoCheck(String),
    #[error("{n_failed} of the checks failed")]
    ChecksFailed { n_failed: usize },
    #[error("told to end before all was checked")]
    Interrupted,
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Stop(#[from] StopError),
}

impl CliError {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) | Self::Setting(_) => CONFIG,
            // What it has ended with: whoever started it waits for it no more than for this program.
            Self::Launch(LaunchError::Ended { status, .. }) => status
                .code()
                .and_then(|code| code.try_into().ok())
                .filter(|code| *code != 0)
                .unwrap_or(FAILURE),
            Self::Name(_) | Self::NoCheck(_) | Self::Usage(_) => USAGE,
            _ => FAILURE,
        })
    }

    /// For `map_err`: what was being done to which file.
    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CliError {
        let path = path.into();
        move |source| CliError::File { doing, path, source }
    }
}

/// Sandboxes need the rights of root to be made (and give them up before they run anything).
pub(super) fn must_be_root(command: &'static str) -> Result<(), CliError> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(CliError::NotRoot(command)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_root_is_told_as_always() {
        assert_eq!(CliError::NotRoot("ol worker init").to_string(), "'ol worker init' must be run with sudo");
    }
}
