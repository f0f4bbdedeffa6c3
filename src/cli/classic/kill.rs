//! `admin kill`: end all workers of the cluster.

use std::path::PathBuf;

use structopt::StructOpt;

use super::cluster::Cluster;
use crate::cli::error::{CliError, must_be_root};
use crate::cli::{files, lock, say, stop};

/// Stop all workers of the cluster; calls that run are let finish
#[derive(StructOpt)]
pub(crate) struct Kill {
    /// The cluster's directory
    #[structopt(long, parse(from_os_str))]
    cluster: PathBuf,
}

impl Kill {
    pub(super) fn run(self) -> Result<(), CliError> {
        must_be_root("admin kill")?;
        let cluster = Cluster::open(&self.cluster)?;
        let mut failure = None;
        for member in cluster.members()? {
            if let Some(worker) = lock::holder(&member.settings.worker_dir()) {
                say(format!("Kill worker process with PID {}\n", worker.pid));
                // One that does not end must not keep the others alive.
                if let Err(error) = stop::stop(&worker) {
                    failure = Some(error);
                    continue;
                }
            }
            files::remove(&cluster.pid_file(&member.name))?;
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }
}
