//! `admin`: the classic commands, for a cluster of workers that lives in one directory.

use std::process::ExitCode;

use openlambda::sandbox::shim;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    // `admin worker-exec` is a worker too, and makes its sandboxes from this very program: see `ol`.
    if args.get(1).is_some_and(|word| word == shim::COMMAND) {
        shim::main();
    }
    openlambda::cli::classic_admin(args)
}
