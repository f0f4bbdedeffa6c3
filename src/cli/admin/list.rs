//! `ol admin list`: the names of all functions.

use std::path::PathBuf;

use serde_json::json;
use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{complain, functions, say, talk};

/// List the functions in the registry
#[derive(StructOpt)]
pub(crate) struct List {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// The names as a JSON array
    #[structopt(long)]
    json: bool,
}

impl List {
    pub(super) fn run(self) -> Result<(), CliError> {
        let settings = OlDir::at(&self.path)?.running()?;
        let reply =
            functions::accepted("GET", "/registry/", talk::ask_registry(&settings.client(), "/registry/")??)?;
        let mut names: Vec<String> = reply.json().map_err(|error| {
            CliError::Answer(format!("the worker's list of functions is not understood: {error}"))
        })?;
        names.sort_unstable();
        if self.json {
            say(format!("{}\n", json!(names)));
            return Ok(());
        }
        if names.is_empty() {
            // Not on standard output, where every line is a name.
            complain("there is no function yet; 'ol admin install' makes one of a folder");
        }
        say(names.into_iter().map(|name| name + "\n").collect::<String>());
        Ok(())
    }
}
