//! `admin worker-exec`: one worker in the foreground, with a configuration file.

use std::path::{Path, PathBuf};

use structopt::StructOpt;

use crate::cli::error::{CliError, must_be_root};
use crate::cli::foreground::{Manner, Source};
use crate::cli::ol_dir::OlDir;
use crate::cli::settings::Settings;
use crate::cli::{foreground, ports};
use crate::config::{Document, Wrong};

/// Run a worker in the foreground with a configuration file
#[derive(StructOpt)]
pub(crate) struct WorkerExec {
    /// The configuration; it must name a worker_dir
    #[structopt(short, long, parse(from_os_str))]
    config: PathBuf,
}

impl WorkerExec {
    pub(super) fn run(self) -> Result<(), CliError> {
        must_be_root("admin worker-exec")?;
        let document = Document::read(&self.config)?;
        let Some(worker_dir) = document.value["worker_dir"].as_str() else {
            let missing = Wrong::new("worker_dir", "is missing: write the path of a directory".to_owned());
            return Err(document.error(missing).into());
        };
        let ol_dir = OlDir::at(ol_dir_of(Path::new(worker_dir)))?;
        let settings = Settings::of(document, ol_dir.path())?;
        ports::check_free(settings.host(), settings.port(), "worker_port in the configuration")?;
        foreground::run(&ol_dir, settings, Manner { source: Source::Elsewhere, log_file: None })
    }
}

/// `workers/worker-0/worker` is in the directory of a worker; any other is one of its own.
fn ol_dir_of(worker_dir: &Path) -> &Path {
    match worker_dir.parent() {
        Some(parent) if worker_dir.ends_with("worker") => parent,
        _ => worker_dir,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_worker_follows_from_where_it_works() {
        assert_eq!(ol_dir_of(Path::new("/c/workers/worker-0/worker")), Path::new("/c/workers/worker-0"));
        assert_eq!(ol_dir_of(Path::new("/c/workers/worker-0")), Path::new("/c/workers/worker-0"));
    }
}
