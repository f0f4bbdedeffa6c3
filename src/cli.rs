//! The command line: `ol`, and the classic `admin`. One file per verb; nothing outside of this
//! module knows structopt.
//!
//! ```text
//! ol worker init|up|down|status|force-cleanup     worker/    a worker in a directory
//! ol admin install|update|list|show|invoke|logs|remove
//!                                                 admin/     the functions of a running worker
//! ol bench init|run                               bench      how fast a worker is
//! ol selftest                                     selftest   whether this machine holds what it should
//! ol zygotes show|train|export|import             zygotes/   the tree of zygotes of a running worker
//! ol pprof cpu-start|cpu-stop|mem                 pprof      where a worker's processor time and memory go
//! ol completion bash                              completion what a shell needs to complete all this
//! admin new|workers|status|kill|setconf|…         classic/   a cluster of workers in a directory
//! ol new|worker|status|kill                       classic/   the first line, as it was written from 2019 to 2022
//! ```

mod admin;
mod bench;
mod classic;
mod completion;
mod error;
mod files;
mod foreground;
mod function_log;
mod functions;
mod launch;
mod lock;
mod ol_dir;
mod package;
mod ports;
mod pprof;
mod selftest;
mod settings;
mod stop;
mod table;
mod talk;
mod triggers;
mod worker;
mod zygotes;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use structopt::StructOpt;
use structopt::clap::{self, AppSettings, ErrorKind};

use error::{CliError, USAGE};

/// Run functions on this machine, each in a sandbox of its own.
///
/// Put a folder with Python code into a worker's registry, and call it with curl:
///
///     ol worker up -p my-ol -d
///     mkdir my-ol/registry/hi && echo 'def f(event): return "hi"' > my-ol/registry/hi/f.py
///     curl -X POST localhost:5000/run/hi -d '{}'
#[derive(StructOpt)]
#[structopt(
    name = "ol",
    global_setting = AppSettings::VersionlessSubcommands,
    max_term_width = 100,
    verbatim_doc_comment
)]
enum Ol {
    Worker(worker::Worker),
    Admin(admin::Admin),
    Bench(bench::Bench),
    #[structopt(name = "selftest")]
    SelfTest(selftest::SelfTest),
    Zygotes(zygotes::Zygotes),
    Pprof(pprof::Pprof),
    Completion(completion::Completion),
}

/// `ol` itself. `args` begin with the program's name.
#[must_use]
pub fn ol(args: Vec<OsString>) -> ExitCode {
    let args = classic::flat::todays(args);
    answer("ol", Ol::from_iter_safe(args), |command| match command {
        Ol::Worker(command) => command.run(),
        Ol::Admin(command) => command.run(),
        Ol::Bench(command) => command.run(),
        Ol::SelfTest(command) => command.run(),
        Ol::Zygotes(command) => command.run(),
        Ol::Pprof(command) => command.run(),
        Ol::Completion(command) => command.run(Ol::clap()),
    })
}

/// The classic `admin`. `args` begin with the program's name.
#[must_use]
pub fn classic_admin(args: Vec<OsString>) -> ExitCode {
    let args = classic::argv::with_double_dashes(args);
    answer("admin", classic::Classic::from_iter_safe(args), classic::Classic::run)
}

/// Write to standard output. A reader that went away (`ol … | head`) is no failure of the command.
fn say(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_ref().as_bytes()).and_then(|()| out.flush()));
}

/// A line for whoever reads the errors. `ol 2>&1 | head -1` reads no further, and `eprintln` would panic.
fn complain(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

fn answer<T>(
    program: &str,
    parsed: Result<T, clap::Error>,
    run: impl FnOnce(T) -> Result<(), CliError>,
) -> ExitCode {
    let failure = match parsed {
        Ok(command) => run(command).err(),
        Err(error) if matches!(error.kind, ErrorKind::HelpDisplayed | ErrorKind::VersionDisplayed) => {
            say(error.message + "\n");
            None
        }
        Err(error) => {
            complain(error.message);
            return ExitCode::from(USAGE);
        }
    };
    let Some(error) = failure else { return ExitCode::SUCCESS };
    complain(format_args!("{program}: {error}"));
    error.exit_code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_both_programs_are_consistent() {
        for help in
            [vec!["ol", "--help"], vec!["ol", "worker", "up", "--help"], vec!["ol", "admin", "--help"]]
        {
            assert_eq!(Ol::from_iter_safe(&help).err().unwrap().kind, ErrorKind::HelpDisplayed, "{help:?}");
        }
        let error = classic::Classic::from_iter_safe(["admin", "workers", "--help"]).err().unwrap();
        assert_eq!(error.kind, ErrorKind::HelpDisplayed);
    }

    #[test]
    fn options_of_up_may_be_given_together_and_apart() {
        let parsed =
            Ol::from_iter_safe(["ol", "worker", "up", "-d", "-o", "a=1,b.c=2", "-o", "d=x", "-p", "here"]);
        let Ok(Ol::Worker(worker::Worker::Up(up))) = parsed else { panic!("not understood") };
        assert_eq!((up.options.len(), up.detach, up.path.to_str()), (2, true, Some("here")));
    }
}
