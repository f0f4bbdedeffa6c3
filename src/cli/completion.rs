//! `ol completion`: what a shell needs to complete the command line.

use structopt::StructOpt;
use structopt::clap::Shell;

use crate::cli::error::CliError;
use crate::cli::say;

/// Print the completion of a shell: `ol completion bash > /etc/bash_completion.d/ol`
#[derive(StructOpt)]
pub(super) struct Completion {
    /// Of which shell
    #[structopt(possible_values = &Shell::variants(), case_insensitive = true)]
    shell: Shell,
}

impl Completion {
    /// `clap` is the command line that is completed.
    pub(super) fn run(self, mut clap: structopt::clap::App<'_, '_>) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap.gen_completions_to("ol", self.shell, &mut script);
        say(String::from_utf8_lossy(&script));
        Ok(())
    }
}
