//! `admin status`: whether the workers answer, and what their lambdas do.

use std::path::PathBuf;

use structopt::StructOpt;

use super::cluster::Cluster;
use crate::cli::error::CliError;
use crate::cli::table::{self, Style};
use crate::cli::{functions, say, talk};

/// Show whether the workers answer, and their lambdas
#[derive(StructOpt)]
pub(crate) struct Status {
    /// The cluster's directory
    #[structopt(long, parse(from_os_str))]
    cluster: PathBuf,
}

impl Status {
    pub(super) fn run(self) -> Result<(), CliError> {
        let members = Cluster::open(&self.cluster)?.members()?;
        let mut tables = Vec::new();
        say("Worker Pings:\n");
        for member in &members {
            let (line, is_well) = talk::ping(&member.settings.client(), &member.settings.address())?;
            say(format!("  {line}\n"));
            if is_well {
                tables.push((member.name.clone(), functions::lambdas(&member.settings)?));
            }
        }
        say("\nCluster containers:\n\n");
        say(table::render(&tables, Style::of_stdout()));
        let n_ill = members.len() - tables.len();
        if n_ill == 0 {
            return Ok(());
        }
        Err(CliError::Silent { n_ill, n_members: members.len() })
    }
}
