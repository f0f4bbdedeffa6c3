//! Being the worker: what `ol worker up` and `admin worker-exec` do in the end.

use super::error::CliError;
use super::files;
use super::lock::WorkerLock;
use super::ol_dir::OlDir;
use super::settings::Settings;
use crate::{sandbox, serve};

/// Run the worker until it is told to end. The lock goes with the process.
pub(super) fn run(ol_dir: &OlDir, settings: Settings) -> Result<(), CliError> {
    let worker_dir = settings.worker_dir();
    files::make_dir(&worker_dir)?;
    let _lock = WorkerLock::take(&worker_dir)?;
    sweep(&settings)?;
    if !settings.ignored.is_empty() {
        eprintln!(
            "ol: these fields of the configuration have no effect here: {}",
            settings.ignored.join(", ")
        );
    }
    serve::run(ol_dir.path(), settings.config).map_err(|error| CliError::Serve(error.to_string()))
}

/// Remove what a killed worker left outside of its directory, and the files that say it runs.
/// Only for who holds the lock. Gives the number of things found.
pub(super) fn sweep(settings: &Settings) -> Result<usize, CliError> {
    sandbox::cleanup::sweep(&settings.config.cgroup_root).map_err(|error| CliError::Sweep(error.to_string()))
}

/// Leave the terminal and session of whoever started us. Harmless when that was done already.
pub(super) fn leave_session() {
    let _leader_already = nix::unistd::setsid();
}

/// Be told to end (SIGTERM) when the process that started us ends, however it does.
pub(super) fn end_with_parent(parent: i32) -> Result<(), CliError> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|errno| CliError::Serve(format!("cannot ask to be told of the parent's end: {errno}")))?;
    // It may have ended before we asked: then somebody else is our parent by now.
    if nix::unistd::getppid().as_raw() == parent { Ok(()) } else { Err(CliError::Interrupted) }
}
