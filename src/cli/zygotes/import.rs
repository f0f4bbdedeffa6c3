//! `ol zygotes import`: a tree that the worker is to use from now on.

use std::fs;
use std::path::PathBuf;

use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, say, talk};
use crate::client::Method;
use crate::json;

const PATH: &str = "/zygotes/tree";

/// Have the worker use a tree in the form of import_cache_tree, from now on and after a restart
#[derive(StructOpt)]
pub(crate) struct Import {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// Forget the tree that was imported: it fits itself again
    #[structopt(long, conflicts_with = "file")]
    forget: bool,
    /// The file with the tree
    #[structopt(parse(from_os_str), required_unless = "forget")]
    file: Option<PathBuf>,
}

impl Import {
    pub(super) fn run(self) -> Result<(), CliError> {
        let file = self.file.filter(|_| !self.forget);
        let (method, word, body) = match &file {
            Some(file) => {
                let text = fs::read_to_string(file).map_err(CliError::file("read", file))?;
                // Said here, with the file's name; what is in it the worker judges.
                let tree = json::read(&text)
                    .map_err(|error| CliError::Setting(format!("{}: {error}", file.display())))?;
                (Method::PUT, "PUT", tree.to_string())
            }
            None => (Method::DELETE, "DELETE", String::new()),
        };
        let client = OlDir::at(&self.path)?.running()?.client();
        let headers = [("content-type", "application/json")];
        let reply = talk::wait(async move { client.request(method, PATH, &headers, body).await })??;
        say(functions::accepted(word, PATH, reply)?.text());
        Ok(())
    }
}
