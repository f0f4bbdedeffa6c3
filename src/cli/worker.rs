//! `ol worker`: one worker, in one directory.

mod down;
mod force_cleanup;
mod init;
mod status;
mod up;

use structopt::StructOpt;

use super::error::CliError;

pub(super) use init::initialize;

/// Make, start, watch and stop a worker
#[derive(StructOpt)]
pub(super) enum Worker {
    Init(init::Init),
    Up(up::Up),
    Down(down::Down),
    Status(status::Status),
    ForceCleanup(force_cleanup::ForceCleanup),
}

impl Worker {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Init(command) => command.run(),
            Self::Up(command) => command.run(),
            Self::Down(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::ForceCleanup(command) => command.run(),
        }
    }
}
