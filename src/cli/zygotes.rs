//! `ol zygotes`: the tree of interpreters that have packages imported.

mod drawing;
mod export;
mod import;
mod show;
mod train;

use structopt::StructOpt;

use super::error::CliError;

/// Show the tree of zygotes, ask what another would bring, and read and write it
#[derive(StructOpt)]
pub(super) enum Zygotes {
    Show(show::Show),
    Train(train::Train),
    Export(export::Export),
    Import(import::Import),
}

impl Zygotes {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Show(command) => command.run(),
            Self::Train(command) => command.run(),
            Self::Export(command) => command.run(),
            Self::Import(command) => command.run(),
        }
    }
}
