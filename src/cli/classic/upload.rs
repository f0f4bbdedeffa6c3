//! `admin upload`: give a worker a function.

use std::fs;
use std::path::PathBuf;

use actors::name::FunctionName;
use structopt::StructOpt;

use super::cluster::Cluster;
use crate::cli::admin::upload;
use crate::cli::error::CliError;
use crate::cli::package::{self, Extra};
use crate::cli::say;
use crate::client::Client;

/// Upload a folder or a .tar.gz as a function
#[derive(StructOpt)]
pub(crate) struct Upload {
    /// The cluster's directory: its first worker takes the upload, and all share the registry
    #[structopt(long, parse(from_os_str), required_unless = "server")]
    cluster: Option<PathBuf>,
    /// The worker to upload to, instead: HOST:PORT
    #[structopt(long)]
    server: Option<String>,
    /// The function's name
    #[structopt(long, value_name = "NAME")]
    handler: String,
    /// A folder with the code, or a .tar.gz of one
    #[structopt(long, parse(from_os_str))]
    file: PathBuf,
}

impl Upload {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name: FunctionName = self.handler.parse()?;
        let archive = if self.file.is_dir() {
            package::pack(&self.file, &Extra::default())?
        } else {
            fs::read(&self.file).map_err(CliError::file("read", &self.file))?
        };
        upload(&self.client()?, &name, archive)?;
        say(format!("Uploaded {name}\n"));
        Ok(())
    }

    fn client(&self) -> Result<Client, CliError> {
        match (&self.server, &self.cluster) {
            (Some(server), _) => {
                let (host, port) = address(server)
                    .ok_or_else(|| CliError::Usage(format!("--server {server}: write HOST:PORT")))?;
                Ok(Client::tcp(host, port))
            }
            (None, Some(path)) => {
                let members = Cluster::open(path)?.members()?;
                let first = members.first().ok_or_else(|| CliError::NoWorkers(path.clone()))?;
                Ok(first.settings.client())
            }
            (None, None) => unreachable!("the command line asks for one of the two"),
        }
    }
}

fn address(text: &str) -> Option<(&str, u16)> {
    let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let (host, port) = text.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_written_in_several_ways() {
        for text in ["localhost:80", "http://localhost:80", "http://localhost:80/"] {
            assert_eq!(address(text), Some(("localhost", 80)), "{text}");
        }
        assert_eq!(address("[::1]:80"), Some(("::1", 80)));
        assert_eq!(address("localhost"), None);
    }
}
