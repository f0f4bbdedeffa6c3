//! `ol admin update`: settle anew which packages a function gets.

use std::path::PathBuf;
use std::time::Duration;

use actors::name::FunctionName;
use serde::Deserialize;
use serde_json::Value;
use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, say, talk};
use crate::client::{Client, Method};
use crate::serve::UPLOAD_TIME_MAX;

/// How long an upload, or what has packages installed, may take: more than the worker lets anybody wait, and what it has to look up then.
const INSTALL_WAIT_MAX: Duration = UPLOAD_TIME_MAX.saturating_add(talk::REGISTRY_WAIT_MAX);

/// Have the newest packages that a function's requirements allow installed, and use them from now on
#[derive(StructOpt)]
pub(crate) struct Update {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// The packages, as JSON
    #[structopt(long)]
    json: bool,
    /// The function's name
    name: String,
}

/// What a function asks for, and what that has come to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Packages {
    pub(super) requirements: Vec<String>,
    pub(super) packages: Vec<String>,
    pub(super) settled: Option<String>,
}

impl Update {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name: FunctionName = self.name.parse()?;
        let settings = OlDir::at(&self.path)?.running()?;
        let path = format!("/registry/{name}/packages");
        let before = packages(&settings.client(), &name).unwrap_or_default();
        let client = patient(settings.client());
        let reply =
            functions::accepted("POST", &path, talk::wait(client.request(Method::POST, &path, &[], ""))??)?;
        let not_understood = |error: serde_json::Error| {
            CliError::Answer(format!("the worker's answer to POST {path} is not understood: {error}"))
        };
        if self.json {
            let packages: Value = reply.json().map_err(not_understood)?;
            say(format!("{packages:#}\n"));
            return Ok(());
        }
        let now: Packages = reply.json().map_err(not_understood)?;
        let new: Vec<&String> = now.packages.iter().filter(|one| !before.packages.contains(one)).collect();
        let gone: Vec<&String> = before.packages.iter().filter(|one| !now.packages.contains(one)).collect();
        if now.packages.is_empty() && gone.is_empty() {
            say(format!("{name} asks for no packages\n"));
        } else if new.is_empty() && gone.is_empty() {
            say(format!("{name} has the newest packages already\n"));
        }
        say(gone
            .iter()
            .map(|one| format!("- {one}\n"))
            .chain(new.iter().map(|one| format!("+ {one}\n")))
            .collect::<String>());
        Ok(())
    }
}

/// A client that waits for an install.
pub(super) fn patient(client: Client) -> Client {
    client.with_deadlines(talk::STATUS_WAIT_MAX, INSTALL_WAIT_MAX)
}

/// Those of a function that is served.
pub(super) fn packages(client: &Client, name: &FunctionName) -> Result<Packages, CliError> {
    let path = format!("/registry/{name}/packages");
    let reply = functions::accepted("GET", &path, talk::ask_registry(client, &path)??)?;
    reply.json().map_err(|error| {
        CliError::Answer(format!("the worker's answer to GET {path} is not understood: {error}"))
    })
}
