//! `ol admin remove`: take a function out of the registry.

use std::path::PathBuf;

use actors::name::FunctionName;
use serde_json::json;
use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, say, talk};
use crate::client::Method;

/// Remove a function from the registry
#[derive(StructOpt)]
pub(crate) struct Remove {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// What was removed, as JSON
    #[structopt(long)]
    json: bool,
    /// The function's name
    name: String,
}

impl Remove {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name: FunctionName = self.name.parse()?;
        let settings = OlDir::at(&self.path)?.running()?;
        let path = format!("/registry/{name}");
        let reply = talk::wait(settings.client().request(Method::DELETE, &path, &[], ""))??;
        functions::accepted("DELETE", &path, reply)?;
        if self.json {
            say(format!("{}\n", json!({"name": name.as_str()})));
        } else {
            say(format!("Removed {name}\n"));
        }
        Ok(())
    }
}
