//! `ol admin invoke`: call a function once.

use std::io::{self, Write};
use std::path::PathBuf;

use actors::name::FunctionName;
use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, talk};

/// Call a function once and print what it answers
#[derive(StructOpt)]
pub(crate) struct Invoke {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// The function's name
    name: String,
    /// What to call it with: JSON
    #[structopt(default_value = "{}")]
    event: String,
}

impl Invoke {
    pub(super) fn run(self) -> Result<(), CliError> {
        let name: FunctionName = self.name.parse()?;
        let settings = OlDir::at(&self.path)?.running()?;
        let path = format!("/run/{name}");
        let reply = talk::wait(settings.client().post(&path, self.event))??;
        let reply = functions::accepted("POST", &path, reply)?;
        // Bytes, as they are: a function may answer with something else than text.
        let mut out = io::stdout().lock();
        let line_end: &[u8] = if reply.body.ends_with(b"\n") { b"" } else { b"\n" };
        drop(out.write_all(&reply.body).and_then(|()| out.write_all(line_end)));
        Ok(())
    }
}
