//! `ol worker init`: a directory for a worker, with the configuration and the base image.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use structopt::StructOpt;

use crate::cli::error::{CliError, must_be_root};
use crate::cli::lock::WorkerLock;
use crate::cli::ol_dir::{OlDir, State};
use crate::cli::settings::Settings;
use crate::cli::{files, foreground, say};

/// Make the directory of a worker, or make it anew: the functions in its registry stay
#[derive(StructOpt)]
pub(crate) struct Init {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// What functions see as their machine: a directory, a docker archive or an OCI layout [default: this machine's own /usr]
    #[structopt(short, long)]
    image: Option<String>,
    /// Prepare the base image anew, even if there is one
    #[structopt(short = "b", long)]
    newbase: bool,
}

impl Init {
    pub(super) fn run(self) -> Result<(), CliError> {
        must_be_root("ol worker init")?;
        let ol_dir = OlDir::at(&self.path)?;
        if let State::Running(worker) | State::Unknown(worker) = ol_dir.state()? {
            let hint = format!("ol worker down -p {}", self.path.display());
            return Err(CliError::AlreadyRunning { pid: worker.pid, hint });
        }
        let is_new = !ol_dir.is_initialized()?;
        let settings = Settings::defaults(ol_dir.path())?;
        initialize(&ol_dir, &settings, self.image.as_deref(), self.newbase)?;
        let done = if is_new { "Initialized" } else { "Reinitialized" };
        say(format!("{done} {}\n", ol_dir.path().display()));
        Ok(())
    }
}

/// Make the directory, or everything in it but the functions anew. The stamp comes last: what has
/// none is not finished.
pub(in crate::cli) fn initialize(
    ol_dir: &OlDir,
    settings: &Settings,
    image: Option<&str>,
    new_base: bool,
) -> Result<(), CliError> {
    let path = ol_dir.path();
    if !ol_dir.is_initialized()? && has_entries(path)? {
        return Err(CliError::NotOurs(path.to_owned()));
    }
    if !path.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(CliError::file("make", path))?;
    }
    let worker_dir = settings.worker_dir();
    for dir in [&ol_dir.worker(), &worker_dir, &settings.config.registry_dir, &ol_dir.base()] {
        files::make_dir(dir)?;
    }
    let _lock = WorkerLock::take(&worker_dir)?;
    foreground::sweep(ol_dir)?;
    files::remove(&ol_dir.stamp())?;
    empty(&ol_dir.worker())?;
    files::remove(&ol_dir.overrides())?;
    files::replace_json(&ol_dir.config(), &settings.value)?;
    prepare_base(ol_dir, image, new_base)?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    files::replace(&ol_dir.stamp(), format!("{now_s}\n").as_bytes(), 0o400)
}

fn prepare_base(_ol_dir: &OlDir, image: Option<&str>, _new_base: bool) -> Result<(), CliError> {
    match image {
        None => Ok(()),
        Some(image) => Err(CliError::Image(format!("{image}: not in this version"))),
    }
}

fn has_entries(path: &Path) -> Result<bool, CliError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CliError::file("read", path)(error)),
    }
}

/// Remove what an earlier worker worked with; not the lock, which is ours at this moment.
fn empty(dir: &Path) -> Result<(), CliError> {
    for entry in fs::read_dir(dir).map_err(CliError::file("read", dir))? {
        let entry = entry.map_err(CliError::file("read", dir))?;
        if entry.file_name() == "worker.lock" {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(CliError::file("remove", path))?;
    }
    Ok(())
}
