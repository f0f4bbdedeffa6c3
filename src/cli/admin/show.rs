//! `ol admin show`: how a function is configured.

use std::path::PathBuf;

use actors::name::FunctionName;
use serde_json::Value;
use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, say, talk};

/// Show a function's configuration, as the worker understands it
#[derive(StructOpt)]
pub(crate) struct Show {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// The function's name
    name: String,
}

impl Show {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name: FunctionName = self.name.parse()?;
        let settings = OlDir::at(&self.path)?.running()?;
        let path = format!("/registry/{name}/config");
        let reply = functions::accepted("GET", &path, talk::ask(&settings.client(), &path)??)?;
        let config: Value = reply.json().map_err(|error| {
            CliError::Answer(format!("the worker's answer to GET {path} is not JSON: {error}"))
        })?;
        say(format!("{config:#}\n"));
        Ok(())
    }
}
