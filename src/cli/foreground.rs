//! Being the worker: what `ol worker up` and `admin worker-exec` do in the end.

use std::path::PathBuf;

use super::error::CliError;
use super::lock::WorkerLock;
use super::ol_dir::OlDir;
use super::settings::Settings;
use super::{complain, files};
use crate::config::Wrong;
use crate::sandbox;
use crate::serve::{self, ServeError, Standing};
use crate::takeover::{self, Estate, Predecessor, TakeoverError};

/// Where the configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// `config.json`, as it is.
    File,
    /// With options laid over it.
    Options,
    /// Another file, which somebody else looks after.
    Elsewhere,
}

/// How a worker is run.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) source: Source,
    /// Where its log goes, and all that it writes besides. `None`: to whoever started it.
    pub(super) log_file: Option<PathBuf>,
}

/// Run the worker until it is told to end. The lock goes with the process.
pub(super) fn run(ol_dir: &OlDir, settings: Settings, manner: Manner) -> Result<(), CliError> {
    let worker_dir = settings.worker_dir();
    files::make_dir(&worker_dir)?;
    let lock = WorkerLock::take(&worker_dir)?;
    sweep(&settings)?;
    serve(ol_dir, settings, manner, &lock, None)
}

/// Have the worker that runs in the directory hand over.
pub(super) fn hand_over(settings: &Settings) -> Result<(Predecessor, Estate), TakeoverError> {
    Predecessor::ask(&settings.worker_dir())
}

/// Run the worker in the place of the one that has handed over.
pub(super) fn take_over(
    ol_dir: &OlDir,
    settings: Settings,
    manner: Manner,
    (predecessor, estate): (Predecessor, Estate),
) -> Result<(), CliError> {
    let lock = estate.lock.try_clone();
    let lock = lock.map_err(CliError::file("share the lock of", settings.worker_dir()))?;
    let lock = WorkerLock::handed_over(lock);
    serve(ol_dir, settings, manner, &lock, Some((predecessor, estate)))
}

fn serve(
    ol_dir: &OlDir,
    settings: Settings,
    Manner { source, log_file }: Manner,
    lock: &WorkerLock,
    before: Option<(Predecessor, Estate)>,
) -> Result<(), CliError> {
    if !settings.ignored.is_empty() {
        complain(format_args!(
            "ol: these fields of the configuration have no effect here: {}",
            settings.ignored.join(", ")
        ));
    }
    let failed = || CliError::file("share the lock of", settings.worker_dir());
    let shared = lock.share().map_err(failed())?;
    let for_stand = lock.again().map_err(failed())?;
    let document = settings.document.clone();
    let (overrides, value) = (ol_dir.overrides(), settings.document.value.clone());
    let standing = Standing {
        lock: shared,
        before,
        log_file,
        // The last run's options must not be taken for this one's.
        stand: Box::new(move || {
            let written = match source {
                Source::File => files::remove(&overrides),
                Source::Options => files::replace_json(&overrides, &value),
                Source::Elsewhere => Ok(()),
            };
            written.map_err(|error| std::io::Error::other(error.to_string()))?;
            for_stand.sign()
        }),
    };
    serve::run(ol_dir.path(), settings.config, standing).map_err(|error| match error.setting() {
        Some((field, problem)) => document.error(Wrong::new(field, problem)).into(),
        // A file of the worker's, which somebody has changed.
        None if matches!(error, ServeError::KeptTree(_)) => CliError::Setting(error.to_string()),
        None => CliError::Serve(error.to_string()),
    })
}

/// Remove what a killed worker left outside of its directory, and the files that say it runs.
/// Only for who holds the lock. Gives the number of things found.
pub(super) fn sweep(settings: &Settings) -> Result<usize, CliError> {
    let names = takeover::names(&settings.config.cgroup_root);
    names.iter().try_fold(0, |n_found, name| {
        let found = sandbox::cleanup::sweep(name).map_err(|error| CliError::Sweep(error.to_string()))?;
        Ok(n_found + found)
    })
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
