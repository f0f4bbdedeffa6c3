//! The classic `admin`: a cluster of workers on this machine, all of it in one directory. And what `ol` was told before its verbs
//! were in groups.

pub(super) mod argv;
mod cluster;
pub(super) mod flat;
mod kill;
mod new;
mod setconf;
mod status;
mod upload;
mod worker_exec;
mod workers;

use structopt::StructOpt;
use structopt::clap::AppSettings;

use super::error::CliError;

/// Manage a cluster of workers on this machine, all of it in one directory.
///
///     admin new -cluster my-cluster
///     admin workers -cluster=my-cluster
///     cp -r quickstart/handlers/hello my-cluster/registry/hello
///     curl -X POST localhost:8080/runLambda/hello -d '{"name": "Alice"}'
#[derive(StructOpt)]
#[structopt(
    name = "admin",
    global_setting = AppSettings::VersionlessSubcommands,
    max_term_width = 100,
    verbatim_doc_comment
)]
pub(super) enum Classic {
    New(new::New),
    Workers(workers::Workers),
    Status(status::Status),
    Kill(kill::Kill),
    Setconf(setconf::Setconf),
    Upload(upload::Upload),
    WorkerExec(worker_exec::WorkerExec),
}

impl Classic {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::New(command) => command.run(),
            Self::Workers(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::Kill(command) => command.run(),
            Self::Setconf(command) => command.run(),
            Self::Upload(command) => command.run(),
            Self::WorkerExec(command) => command.run(),
        }
    }
}
