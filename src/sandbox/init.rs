//! The first process of a sandbox: a fork of the shim that puts the last mounts in place and then does
//! nothing but bury orphans. While it lives the sandbox's namespaces live; when it is killed the
//! kernel kills everything inside.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, read, sethostname, setresgid, setresuid, write};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::mounter::tmp_limits;
use super::sys::{self, SingleThreaded};
use super::wire::IdRange;

/// What the shim was asked to make.
pub(super) struct ShellSpec {
    pub(super) tmp_mb: u32,
    pub(super) network: Network,
    /// Open `cgroup.procs` files to enter; none if it is born inside.
    pub(super) cgroups: Vec<OwnedFd>,
    /// The directory of the group that it is born into.
    pub(super) birthplace: Option<OwnedFd>,
    /// It gets a user namespace of its own, so that a zygote can live in it.
    pub(super) users: Option<IdRange>,
    /// Where the one that is forked into it knocks, if it may not enter the cgroups by itself.
    pub(super) door: Option<OwnedFd>,
}

/// Which network namespace it is in.
pub(super) enum Network {
    /// The one that it was born into, which is new.
    New,
    /// One that was another's, and that it has to enter.
    Spare(OwnedFd),
    /// The shim's.
    Shims,
}

/// Runs in the new process, never returns to the shim's code. `ready` gets one byte, or the text of what failed. With a
/// user namespace of its own, there comes a byte from `mapped` when the id map has been written.
pub(super) fn run(proof: SingleThreaded, spec: &ShellSpec, ready: &OwnedFd, mapped: &OwnedFd) -> ! {
    match prepare(spec, mapped) {
        Ok(()) => {
            let _ = write(ready.as_fd(), b"+");
            if let Some(door) = &spec.door {
                // Who is not let in finds the door closed.
                let _ = let_in(door, &spec.cgroups);
            }
            // Nothing of the shim's is kept: not its control socket, not the shells that it is making.
            sys::close_all_and(proof, || {
                let Err(_) = bury_orphans();
                sys::exit_now(1)
            })
        }
        Err(text) => {
            let _ = write(ready.as_fd(), text.as_bytes());
        }
    }
    sys::exit_now(1)
}

fn prepare(spec: &ShellSpec, mapped: &OwnedFd) -> Result<(), String> {
    let step = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    // The groups first: the cgroup namespace has for its root what we are in when it is made.
    for procs in &spec.cgroups {
        write(procs.as_fd(), b"0").map_err(io::Error::from).map_err(step("enter the cgroup"))?;
    }
    if spec.users.is_some() {
        become_root_inside(mapped)?;
    }
    if let Network::Spare(network) = &spec.network {
        setns(network, CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .map_err(step("enter the network"))?;
    }
    if let Network::New = spec.network {
        // Before the /proc comes that cannot be written to.
        bound_waiting_connections().map_err(step("bound what waits in the network"))?;
    }
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(io::Error::from).map_err(step("make a cgroup namespace"))?;
    sethostname("sandbox").map_err(io::Error::from).map_err(step("set the host name"))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // Over the shim's: this pid namespace's own view. Read-only, so that no switch of the kernel can be reached
    // through it whatever its file mode says.
    let flags = quiet | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
        .map_err(io::Error::from)
        .map_err(step("mount /proc"))?;
    // Programs may be run from here (compilers, wheels with helpers).
    let [(size, bytes), (inodes, n)] = tmp_limits(spec.tmp_mb);
    let options = format!("{size}={bytes},{inodes}={n},mode=1777");
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), quiet, Some(options.as_str()))
        .map_err(io::Error::from)
        .map_err(step("mount /tmp"))?;
    if let Network::New = spec.network {
        let kind = rustix::net::SocketType::DGRAM;
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::INET,
            kind,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(io::Error::from)
        .map_err(step("open a socket"))?;
        sys::loopback_up(socket.as_fd()).map_err(step("bring up the loopback interface"))?;
    }
    std::env::set_current_dir(Path::new("/")).map_err(step("enter /"))?;
    let _ = rustix::thread::set_name(c"ol-init");
    // Nobody talks to this process, and it needs nothing any more.
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)
        .map_err(io::Error::from)
        .map_err(step("drop capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(io::Error::from).map_err(step("set no_new_privs"))
}

/// A connection that nobody has accepted, and what it has received, is counted to no cgroup. So there are few of them for
/// each that listens, and each holds little: the settings of a network namespace, which nobody in it can change. After it was
/// accepted a connection is counted, and its buffer grows as it needs.
fn bound_waiting_connections() -> io::Result<()> {
    for (name, value) in [("core/somaxconn", BACKLOG_MAX), ("ipv4/tcp_rmem", RECEIVE_BUFFER)] {
        match std::fs::write(Path::new("/proc/sys/net").join(name), value) {
            // Older kernels do not show the first to who is not root of the machine; then it stays 4,096.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// What the kernel itself had for a default until 5.4; a server in a sandbox is for the sandbox itself.
const BACKLOG_MAX: &str = "128";
/// Least, first and most bytes. The first size, of which half is window, has room for the ten packets that a server
/// sends at once (RFC 6928), and is a quarter of the kernel's default; the others are the kernel's own.
const RECEIVE_BUFFER: &str = "4096 32768 6291456";

/// Waits for a knock, and puts the first process that was born here after this one into the cgroups, and no other. A zygote
/// that has run the code of a function is never given what this takes: it could leave its own limits with it.
fn let_in(door: &OwnedFd, cgroups: &[OwnedFd]) -> nix::Result<()> {
    let mut knock = [0; 1];
    if read(door, &mut knock)? == 0 {
        return Ok(());
    }
    for procs in cgroups {
        write(procs, FIRST_BORN)?;
    }
    write(door, b"+").map(drop)
}

/// The pid of the first process after an init that forks none itself.
const FIRST_BORN: &[u8] = b"2";

/// Nobody it was, until the id map came; user 0 of the new user namespace it becomes.
fn become_root_inside(mapped: &OwnedFd) -> Result<(), String> {
    let step = |what: &'static str| move |error: nix::errno::Errno| format!("{what}: {error}");
    let mut byte = [0; 1];
    if read(mapped, &mut byte).map_err(step("wait for the id map"))? == 0 {
        return Err("wait for the id map: there is none".into());
    }
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(gid, gid, gid).map_err(step("become group 0 of the user namespace"))?;
    setresuid(uid, uid, uid).map_err(step("become user 0 of the user namespace"))?;
    // The change of user has made us undumpable, and so nobody could enter what we hold.
    nix::sys::prctl::set_dumpable(true).map_err(step("become dumpable"))
}

/// Waits for ever. SIGCHLD is blocked (the shim has it so), which makes the wait free of races.
fn bury_orphans() -> io::Result<Infallible> {
    let mut child_signal = SigSet::empty();
    child_signal.add(Signal::SIGCHLD);
    child_signal.thread_block()?;
    loop {
        while !matches!(
            waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive) | Err(_)
        ) {}
        child_signal.wait()?;
    }
}
