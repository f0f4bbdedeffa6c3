//! `ol zygotes export`: the tree in OpenLambda's form.

use std::path::PathBuf;

use serde_json::Value;
use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{files, functions, say, talk};

const PATH: &str = "/zygotes/tree";

/// Write the tree of zygotes in the form of import_cache_tree
#[derive(StructOpt)]
pub(crate) struct Export {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// The file to write [default: standard output]
    #[structopt(parse(from_os_str))]
    file: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(self) -> Result<(), CliError> {
        let settings = OlDir::at(&self.path)?.running()?;
        let reply = functions::accepted("GET", PATH, talk::ask(&settings.client(), PATH)??)?;
        let tree: Value = reply.json().map_err(|error| {
            CliError::Answer(format!("the worker's answer to GET {PATH} is not understood: {error}"))
        })?;
        match &self.file {
            Some(file) => files::replace_json(file, &tree),
            None => {
                say(format!("{tree:#}\n"));
                Ok(())
            }
        }
    }
}
