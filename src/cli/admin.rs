//! `ol admin`: the functions of a running worker.

mod install;
mod invoke;
mod list;
mod logs;
mod remove;
mod show;
mod update;

use structopt::StructOpt;

use super::error::CliError;

pub(super) use install::upload;

/// Install, list, show, call, update and remove functions, and read what they print
#[derive(StructOpt)]
pub(super) enum Admin {
    Install(install::Install),
    List(list::List),
    Show(show::Show),
    Invoke(invoke::Invoke),
    Logs(logs::Logs),
    Remove(remove::Remove),
    Update(update::Update),
}

impl Admin {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Install(command) => command.run(),
            Self::List(command) => command.run(),
            Self::Show(command) => command.run(),
            Self::Invoke(command) => command.run(),
            Self::Logs(command) => command.run(),
            Self::Remove(command) => command.run(),
            Self::Update(command) => command.run(),
        }
    }
}
