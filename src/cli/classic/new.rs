//! `admin new`: an empty cluster.

use std::fs;
use std::io;
use std::path::PathBuf;

use structopt::StructOpt;

use super::cluster::Cluster;
use crate::cli::error::CliError;
use crate::cli::{files, say};

/// Create a cluster: a directory with everything a worker needs
#[derive(StructOpt)]
pub(crate) struct New {
    /// The cluster's directory; it must not exist yet
    #[structopt(long, parse(from_os_str))]
    cluster: PathBuf,
}

impl New {
    pub(super) fn run(self) -> Result<(), CliError> {
        let cluster = Cluster::at(&self.cluster)?;
        // Made, not looked for: of two that do this at once, one is refused.
        fs::create_dir(cluster.path()).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CliError::ClusterExists(self.cluster.clone()),
            _ => CliError::file("make", cluster.path())(source),
        })?;
        for dir in cluster.directories() {
            files::make_dir(&dir)?;
        }
        let template = cluster.template_value();
        files::replace_json(&cluster.template(), &template)?;
        say(format!(
            "Cluster Directory: {}\n\nWorker Defaults:\n{template:#}\n\nYou may now start a cluster using the \"workers\" command\n",
            cluster.path().display()
        ));
        Ok(())
    }
}
