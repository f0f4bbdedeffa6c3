//! `ol pprof`: profiles of a running worker.

use std::path::{Path, PathBuf};

use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::{functions, say, talk};
use crate::client::{Method, Reply};

/// Find out where a worker's processor time and memory go
#[derive(StructOpt)]
pub(super) enum Pprof {
    /// Begin to take samples; they end by themselves after ten minutes
    #[structopt(name = "cpu-start")]
    Start {
        /// The worker's directory
        #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
        path: PathBuf,
    },
    /// End it, and write the profile for `go tool pprof` and the like
    #[structopt(name = "cpu-stop")]
    Stop {
        /// The worker's directory
        #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
        path: PathBuf,
        /// The file to write
        #[structopt(short, long, parse(from_os_str), default_value = "cpu.prof")]
        output: PathBuf,
    },
    /// Write a profile of what the worker's memory is in use for, in the same form
    #[structopt(name = "mem")]
    Memory {
        /// The worker's directory
        #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
        path: PathBuf,
        /// The file to write
        #[structopt(short, long, parse(from_os_str), default_value = "mem.prof")]
        output: PathBuf,
    },
}

impl Pprof {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Start { path } => {
                posted(&path, "/pprof/cpu-start")?;
                say("Profiling; `ol pprof cpu-stop` ends it and writes the profile\n");
            }
            Self::Stop { path, output } => written(&posted(&path, "/pprof/cpu-stop")?, &output)?,
            Self::Memory { path, output } => written(&posted(&path, "/pprof/mem")?, &output)?,
        }
        Ok(())
    }
}

fn written(reply: &Reply, output: &Path) -> Result<(), CliError> {
    std::fs::write(output, &reply.body).map_err(CliError::file("write", output))?;
    say(format!("{} bytes written to {}\n", reply.body.len(), output.display()));
    Ok(())
}

fn posted(ol_dir: &Path, path: &str) -> Result<Reply, CliError> {
    let settings = OlDir::at(ol_dir)?.running()?;
    let reply = talk::wait(settings.client().request(Method::POST, path, &[], ""))??;
    functions::accepted("POST", path, reply)
}
