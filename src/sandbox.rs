//! Sandboxes: where the kernel is.
//!
//! What is done to the host, and in which order, is listed in `docs/SANDBOX.md`; each step stands with
//! its reason in the file that takes it.
//!
//! ```text
//! launcher ─┬─ zygote     forks
//!           ├─ family ── forker ·····(process)····· shim ─┬─ base       the root file system, once
//!           │                                             ├─ init       the first process of a shell
//!           │                                             └─ (python)   the zygote: native/, runtime/
//!           ├─ mounter    puts code into a standby
//!           ├─ channel    talks to what runs inside
//!           ├─ logs       reads what it prints
//!           ├─ network    connects it, if it may
//!           ├─ cgroup     limits, accounts, freezing
//!           ├─ reclaim    takes memory back that it does not use
//!           ├─ watchdog   replaces what hangs
//!           └─ reaper     takes it down
//! ```

mod base;
pub mod cgroup;
pub mod channel;
pub mod cleanup;
mod family;
mod forkable;
mod forker;
mod init;
mod last_resort;
pub mod launcher;
pub mod logs;
mod mounter;
mod network;
mod networks;
pub mod oom;
mod orders;
mod pidfd;
pub mod pressure;
mod process;
mod reaper;
mod reclaim;
pub(crate) mod runtime_files;
pub mod seccomp;
mod shells;
pub mod shim;
mod sys;
pub mod tally;
mod uids;
mod watchdog;
pub mod wire;
mod zygote;

pub use network::resolvers;

/// For the fuzz targets: what a zygote says on its control socket.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_control_message(bytes: &[u8]) {
    let _ = wire::FromZygote::parse(bytes);
}

/// For the fuzz targets: what a function prints, as it comes into its log.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_log_lines(bytes: &[u8]) -> String {
    logs::lines_of(bytes)
}
