//! What the worker says to the shim and to a zygote, and hears from them.
//!
//! Both control sockets are `SOCK_SEQPACKET`: a message is a packet, with descriptors beside it. The
//! shim is ours and speaks JSON; the zygote's half is native code without an allocator
//! (`native/messages.rs`) and speaks fixed structures.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The first message to a new shim, before it gives up being root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    /// Where the root file system comes from.
    pub(crate) base: BaseSpec,
    /// An empty directory to build the new root on; used for a moment, in a mount namespace of its own.
    pub(crate) mount_point: PathBuf,
    /// Whether the sandboxes have network namespaces of their own.
    pub(crate) own_network: bool,
    /// First host uid of the range that uid 0 and up inside map to.
    pub(crate) uid_base: u32,
    /// Lines of `resolv.conf`.
    pub(crate) dns: Vec<String>,
    /// Python inside the base.
    pub(crate) python: String,
    /// A directory of the host with installed packages, mounted read-only at `/packages`.
    pub(crate) packages: PathBuf,
    /// Open `cgroup.procs` files that came with this message.
    pub(crate) n_cgroups: usize,
}

/// What sandboxes see as their root.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub enum BaseSpec {
    /// The machine's own `/usr`, and an `/etc` of our making.
    Host,
    /// A directory with a root file system in it.
    Directory(PathBuf),
}

/// The uids and gids of a user namespace, in numbers of the one that it is made in; 0 and up inside.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct IdRange {
    /// Outside.
    pub(crate) first: u32,
    /// How many.
    pub(crate) len: u32,
}

impl IdRange {
    /// As the kernel reads it (user_namespaces(7)).
    pub(crate) fn map(self) -> String {
        format!("0 {} {}\n", self.first, self.len)
    }
}

/// Why a shell could not be made.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct ShellError {
    /// For people.
    pub(crate) text: String,
    /// What the kernel said, where a process could not be born.
    pub(crate) errno: Option<i32>,
}

impl ShellError {
    /// No process could be born for this.
    pub(crate) fn unborn(what: &str, error: &io::Error) -> Self {
        Self { text: format!("cannot {what}: {error}"), errno: error.raw_os_error() }
    }
}

impl From<String> for ShellError {
    fn from(text: String) -> Self {
        Self { text, errno: None }
    }
}

/// An error that says more than the kernel did, and is still known for what it was: whether something was short, above all.
pub(crate) fn explained(text: String, errno: Option<i32>) -> io::Error {
    match errno {
        Some(errno) => io::Error::new(io::Error::from_raw_os_error(errno).kind(), text),
        None => io::Error::other(text),
    }
}

/// From the worker to the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToShim {
    /// The id map of the user namespace has been written.
    IdMapWritten,
    /// Start the interpreter that is forked. One descriptor: its control socket.
    StartZygote,
    /// Prepare an empty sandbox. Descriptors: the `cgroup.procs` files of its group, or if its init is to be `born_inside`,
    /// the group's directory; then, if it is `nested`, the
    /// pidfd of the init in whose user and pid namespaces it is made, and the inner side of its door; then, if it has
    /// `spare_network`, the network namespace that it gets instead of a new one.
    MakeShell {
        id: u64,
        tmp_mb: u32,
        n_cgroups: usize,
        born_inside: bool,
        nested: bool,
        users: Option<IdRange>,
        spare_network: bool,
    },
}

/// From the shim to the worker. A step that failed is told in words, with the system's error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromShim {
    /// In a new user namespace: somebody with the right must write its id map.
    IdMapWanted { pid: i32 },
    /// The shim proper runs. One descriptor: its pidfd.
    Started,
    /// The zygote process runs. One descriptor: its pidfd.
    ZygoteStarted,
    /// A shell is ready. One descriptor: the pidfd of its init.
    ShellReady { id: u64 },
    /// A shell could not be made.
    ShellFailed { id: u64, error: ShellError },
    /// The zygote has ended.
    ZygoteExited { pid: i32, status: i32 },
    /// Nothing works any more; the shim ends after this.
    Failed { error: String },
}

/// See `MAGIC` in `native/messages.rs`.
const MAGIC: u32 = 0x6f6c_7a05;
const SETUP: u32 = 1;
const FORK: u32 = 2;
const SETUP_ZYGOTES: u32 = 3;
const FORK_ZYGOTE: u32 = 4;
const FORK_AT_DOOR: u32 = 5;
const FORK_INTO_CGROUP: u32 = 6;

/// What to do to a fork, beside the descriptors that go with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForkRequest {
    pub(crate) id: u64,
    pub(crate) uid: u32,
    /// Namespaces that come as descriptors, besides the pid namespace.
    pub(crate) n_namespaces: u32,
    /// Most open files.
    pub(crate) nofile: u32,
    pub(crate) kind: ForkKind,
}

/// What is forked, and how it gets into its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForkKind {
    /// By writing to `cgroup.procs`.
    Plain,
    /// The same; it is a zygote, and keeps what it takes to fork into shells of its own user namespace.
    Zygote,
    /// It is let in by the shell's init, at a door.
    AtDoor,
    /// It is born inside.
    IntoCgroup,
}

/// Which forks a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilterFor {
    Sandboxes,
    Zygotes,
}

/// The first messages to a root zygote: the filters of what is forked from it, directly or not.
pub(crate) fn zygote_setup(who: FilterFor, filter: &[super::seccomp::Instruction]) -> Vec<u8> {
    let kind = match who {
        FilterFor::Sandboxes => SETUP,
        FilterFor::Zygotes => SETUP_ZYGOTES,
    };
    let nobody = ForkRequest { id: 0, uid: 0, n_namespaces: 0, nofile: 0, kind: ForkKind::Plain };
    let mut message = zygote_head(kind, &nobody, filter.len() as u32);
    for instruction in filter {
        message.extend(instruction.to_bytes());
    }
    message
}

/// Fork into a shell. Descriptors: its pid namespace, socket for answers, log pipe, socket of requests; the new one's control
/// socket if it is a zygote; the other namespaces in the order of entering them; `cgroup.procs` of each hierarchy, or
/// the outer side of the door, or the directory of the group.
pub(crate) fn zygote_fork(request: &ForkRequest) -> Vec<u8> {
    let kind = match request.kind {
        ForkKind::Plain => FORK,
        ForkKind::Zygote => FORK_ZYGOTE,
        ForkKind::AtDoor => FORK_AT_DOOR,
        ForkKind::IntoCgroup => FORK_INTO_CGROUP,
    };
    zygote_head(kind, request, 0)
}

fn zygote_head(kind: u32, request: &ForkRequest, n_instructions: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend(MAGIC.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(request.id.to_ne_bytes());
    message.extend(request.uid.to_ne_bytes());
    message.extend(request.n_namespaces.to_ne_bytes());
    message.extend(request.nofile.to_ne_bytes());
    message.extend(n_instructions.to_ne_bytes());
    message
}

/// What a zygote says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromZygote {
    /// It waits for requests.
    Ready,
    /// The child is born; it says `READY` on its socket when it is confined and asked.
    Forked { id: u64, pid: i32 },
    /// There is no such child, or it has given up at a step.
    Failed { id: u64, step: &'static str, errno: i32 },
    /// A child has ended, with this wait status.
    Exited { pid: i32, status: i32 },
}

impl FromZygote {
    /// `None` for bytes that no zygote of ours sends.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if u32_at(0)? != MAGIC || bytes.len() != 32 {
            return None;
        }
        let id = u64::from_ne_bytes(bytes[8..16].try_into().ok()?);
        let (pid, status) = (u32_at(16)? as i32, u32_at(20)? as i32);
        Some(match u32_at(4)? {
            16 => Self::Forked { id, pid },
            17 => Self::Failed { id, step: step_name(u32_at(24)?), errno: status },
            18 => Self::Exited { pid, status },
            19 => Self::Ready,
            _ => return None,
        })
    }
}

/// The `STEP_*` of `native/messages.rs` in words.
fn step_name(step: u32) -> &'static str {
    match step {
        1 => "read the request",
        2 => "enter the pid namespace",
        3 => "fork",
        4 => "enter the cgroups",
        5 => "enter the namespaces",
        6 => "set up the descriptors",
        7 => "set the limits",
        8 => "give up privileges",
        9 => "load the system call filter",
        _ => "do something unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_request_is_laid_out_as_the_native_module_reads_it() {
        let bytes = zygote_fork(&ForkRequest {
            id: 0x0102_0304_0506_0708,
            uid: 9,
            n_namespaces: 10,
            nofile: 11,
            kind: ForkKind::Zygote,
        });
        assert_eq!(&bytes[4..8], &FORK_ZYGOTE.to_ne_bytes());
        assert_eq!(bytes.len(), 32);
        assert_eq!(&bytes[8..16], &0x0102_0304_0506_0708u64.to_ne_bytes());
        assert_eq!(&bytes[16..20], &9u32.to_ne_bytes());
        assert_eq!(&bytes[20..24], &10u32.to_ne_bytes());
        assert_eq!(&bytes[24..28], &11u32.to_ne_bytes());
    }

    #[test]
    fn what_is_no_report_is_refused() {
        assert_eq!(FromZygote::parse(b""), None);
        assert_eq!(FromZygote::parse(&[0; 32]), None);
    }
}
