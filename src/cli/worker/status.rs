//! `ol worker status`: whether the worker answers, and what its lambdas do.

use std::path::PathBuf;

use structopt::StructOpt;

use crate::cli::error::CliError;
use crate::cli::ol_dir::OlDir;
use crate::cli::table::{self, Style};
use crate::cli::{functions, say, talk};

/// Show whether the worker answers, and its lambdas
#[derive(StructOpt)]
pub(crate) struct Status {
    /// The worker's directory
    #[structopt(short, long, parse(from_os_str), default_value = "default-ol")]
    path: PathBuf,
    /// What the worker says of itself and its lambdas, as JSON
    #[structopt(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> Result<(), CliError> {
        let settings = OlDir::at(&self.path)?.running()?;
        if self.json {
            say(functions::described(&settings)?.text().trim_end().to_owned() + "\n");
            return Ok(());
        }
        let (line, is_well) = talk::ping(&settings.client(), &settings.address())?;
        if !is_well {
            return Err(CliError::Unhealthy(line));
        }
        say(format!("{line}\n\n"));
        let overview = functions::overview(&settings)?;
        let (packages, registry) = (overview.worker.packages(), overview.worker.registry());
        let triggers = table::triggers(&overview.lambdas);
        say(table::render(&[(String::new(), overview.lambdas)], Style::of_stdout()));
        say(triggers + &packages);
        say(registry);
        Ok(())
    }
}
