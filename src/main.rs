//! `ol`: a serverless worker and the commands around it.

use std::process::ExitCode;

use openlambda::sandbox::shim;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    // A sandbox is born by running this program again. That must come before threads, logging and
    // parsing: everything that is set up before it would be part of every sandbox.
    if args.get(1).is_some_and(|word| word == shim::COMMAND) {
        shim::main();
    }
    openlambda::cli::ol(args)
}
