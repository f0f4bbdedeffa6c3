//! The process between the worker and the sandboxes: `ol sandbox-shim`, started by the worker.
//!
//! It begins as root, puts the root file system together ([`base`](super::base)), and then moves for
//! good into namespaces of its own, the user namespace among them: from there on it is an ordinary
//! user of the machine, who is root over nothing but its own sandboxes. It starts the zygote, makes the
//! shells that the worker asks for, and buries them. It reads nothing that a function has written.
//!
//! ```text
//! worker (root) ── stage 0 (root, builds the tree, makes the namespaces, ends)
//!        └──────── shim = pid 1 of the sandboxes' pid namespace
//!                   ├── zygote (python)
//!                   │     └── interpreters, each born into a shell's pid namespace
//!                   └── init of a shell, one per sandbox
//! ```
//!
//! When the worker dies, however, the shim is killed (parent-death signal, and the end of its control
//! socket); with it, as it is pid 1, the kernel kills everything inside.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, seteuid, setgroups, setresgid, setresuid, setsid, write};
use rustix::process::set_parent_process_death_signal;
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

use super::init::{self, Network, ShellSpec};
use super::sys::{self, Fork, SingleThreaded};
use super::wire::{FromShim, IdRange, ShellError, ShimSpec, ToShim};
use super::{base, pidfd, runtime_files};
use crate::fd::packets::{receive, send};

/// The hidden command by which the worker starts it.
pub const COMMAND: &str = "sandbox-shim";
/// The descriptor of the control socket.
pub(crate) const CONTROL_FD: i32 = 3;

/// How willing the kernel is to kill what runs in sandboxes, of -1000 to 1000, when the whole machine is
/// out of memory: before the worker (0) and what else the machine runs.
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// The descriptor of the control socket in a zygote.
const ZYGOTE_CONTROL_FD: i32 = 3;

type Step = std::result::Result<(), String>;

/// Runs the shim. For `main`, before anything else: no thread has been started, nothing was logged.
pub fn main() -> ! {
    let control = match sys::inherited_fd(CONTROL_FD) {
        Ok(control) => control,
        Err(_) => {
            eprintln!("ol: '{COMMAND}' is started by the worker, not by hand");
            sys::exit_now(64)
        }
    };
    let Err(error) = run(&control);
    // The worker logs it; when it is gone there is nobody to tell.
    let _ = send(control.as_fd(), &FromShim::Failed { error }, &[]);
    sys::exit_now(1)
}

fn run(control: &OwnedFd) -> Result<Infallible, String> {
    let proof = SingleThreaded::prove().map_err(|error| format!("start: {error}"))?;
    let (spec, fds): (ShimSpec, Vec<OwnedFd>) =
        receive(control.as_fd()).map_err(said("read the specification"))?.ok_or("the worker has gone")?;
    setsid().map_err(said("start a session"))?;
    limit_cores().map_err(said("limit core files"))?;
    lift_limits_of_all().map_err(said("lift the limits of all sandboxes together"))?;
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT).map_err(said("set oom_score_adj"))?;
    // Into the worker's group for its helpers, so that a sweep finds this process and those to come.
    for procs in fds.iter().take(spec.n_cgroups) {
        write(procs, b"0").map_err(said("enter the cgroup"))?;
    }
    drop(fds);
    unshare(CloneFlags::CLONE_NEWNS).map_err(said("make a mount namespace"))?;
    base::enter(&spec).map_err(|error| error.to_string())?;
    become_user(control, spec.uid_base)?;
    // The pid namespace is for children only; what is forked next is its pid 1. Its parent is the worker, so
    // that the parent-death signal is about the worker.
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if spec.own_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(said("make namespaces"))?;
    match sys::clone_process(proof, libc::CLONE_NEWPID as u64 | sys::CLONE_PARENT)
        .map_err(said("make a pid namespace"))?
    {
        Fork::Parent { pidfd, .. } => {
            send(control.as_fd(), &FromShim::Started, &[pidfd.as_fd()]).map_err(said("report"))?;
            sys::exit_now(0)
        }
        Fork::Child => Shim::start(control, &spec, proof)?.serve(),
    }
}

/// For all that comes from this process: no core files. A limit of 1 and not 0: where `core_pattern` is a program, the
/// kernel starts it for 0 all the same, as root of the machine, and feeds it with what a function has prepared; 1
/// is how such programs themselves are kept from it (core(5)). Set here, since a limit of 0 that we were started
/// with (as by `sudo`) takes a right of the machine's root to raise; where even root has it not, 0 stays.
fn limit_cores() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 1, 1).or_else(|_| setrlimit(Resource::RLIMIT_CORE, 0, 0))
}

/// What a user namespace has of these in all is what its maker may have when it makes it. Each sandbox is given little of them
/// (`native/confine.rs`), but there may be more sandboxes than an ordinary limit has room for, and the last would get none.
/// Where even root may not raise them, what root has must do.
fn lift_limits_of_all() -> nix::Result<()> {
    for resource in [Resource::RLIMIT_SIGPENDING, Resource::RLIMIT_MEMLOCK] {
        setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY).or_else(|_| {
            let (_, hard) = getrlimit(resource)?;
            setrlimit(resource, hard, hard)
        })?;
    }
    Ok(())
}

/// From root of the machine to root of a user namespace.
fn become_user(control: &OwnedFd, uid_base: u32) -> Step {
    // The kernel counts some of what goes on in a user namespace (pending signals, message queues, locked memory)
    // to who has made it as well: that must not be the machine's root, who would run out of it. Capabilities stay
    // over the change of user, because some machines let nobody else make a user namespace.
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .map_err(said("keep the capabilities"))?;
    seteuid(Uid::from_raw(uid_base)).map_err(said("become the owner of the user namespace"))?;
    unshare(CloneFlags::CLONE_NEWUSER).map_err(said("make a user namespace"))?;
    let pid = std::process::id() as i32;
    send(control.as_fd(), &FromShim::IdMapWanted { pid }, &[]).map_err(said("report"))?;
    match receive(control.as_fd()).map_err(said("wait for the id map"))? {
        Some((ToShim::IdMapWritten, _)) => {}
        other => return Err(format!("wait for the id map: got {other:?}")),
    }
    setgroups(&[]).map_err(said("drop groups"))?;
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(gid, gid, gid).map_err(said("become group 0 of the user namespace"))?;
    setresuid(uid, uid, uid).map_err(said("become user 0 of the user namespace"))
}

struct Shim<'a> {
    control: &'a OwnedFd,
    own_network: bool,
    python: &'a str,
    signals: SignalFd,
    zygotes: Vec<i32>,
    proof: SingleThreaded,
}

impl<'a> Shim<'a> {
    /// As pid 1.
    fn start(control: &'a OwnedFd, spec: &'a ShimSpec, proof: SingleThreaded) -> Result<Self, String> {
        // Changing the user has cleared it, so it is set now; and who died before that is seen on the socket.
        set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(said("ask for the parent-death signal"))?;
        let _ = rustix::thread::set_name(c"ol-shim");
        // The change of user has made us undumpable, and so the zygote could not enter what we make.
        nix::sys::prctl::set_dumpable(true).map_err(said("become dumpable"))?;
        let flags =
            nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
            .map_err(said("mount /proc"))?;
        let mut child_signal = SigSet::empty();
        child_signal.add(Signal::SIGCHLD);
        child_signal.thread_block().map_err(said("block SIGCHLD"))?;
        let signals = SignalFd::with_flags(&child_signal, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(said("open a signal descriptor"))?;
        Ok(Self {
            control,
            own_network: spec.own_network,
            python: &spec.python,
            signals,
            zygotes: Vec::new(),
            proof,
        })
    }

    fn serve(mut self) -> Result<Infallible, String> {
        loop {
            let mut fds = [
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(format!("wait for work: {error}")),
            }
            let told = fds[0].revents().is_some_and(|events| !events.is_empty());
            if fds[1].revents().is_some_and(|events| !events.is_empty()) {
                self.bury()?;
            }
            if !told {
                continue;
            }
            match receive(self.control.as_fd()).map_err(said("read a request"))? {
                // The worker has gone: so does everything here.
                None => sys::exit_now(0),
                Some((ToShim::StartZygote, fds)) => self.start_zygote(fds)?,
                Some((
                    ToShim::MakeShell { id, tmp_mb, n_cgroups, born_inside, nested, users, spare_network },
                    mut fds,
                )) => {
                    if fds.len() != n_cgroups + 2 * usize::from(nested) + usize::from(spare_network) {
                        let error = "descriptors are missing".to_owned().into();
                        self.tell(&FromShim::ShellFailed { id, error }, &[])?;
                        continue;
                    }
                    let network = match (self.own_network, spare_network) {
                        (true, true) => fds.pop().map_or(Network::New, Network::Spare),
                        (true, false) => Network::New,
                        (false, _) => Network::Shims,
                    };
                    let (door, outer) = if nested { (fds.pop(), fds.pop()) } else { (None, None) };
                    let birthplace = if born_inside { fds.pop() } else { None };
                    let spec = ShellSpec { tmp_mb, network, cgroups: fds, birthplace, users, door };
                    match outer {
                        None => self.make_and_tell(id, &spec, 0)?,
                        Some(outer) => self.make_inside(id, &spec, &outer)?,
                    }
                }
                Some((ToShim::IdMapWritten, _)) => {}
            }
        }
    }

    fn tell(&self, message: &FromShim, fds: &[BorrowedFd<'_>]) -> Step {
        send(self.control.as_fd(), message, fds).map_err(said("report"))
    }

    fn bury(&mut self) -> Step {
        // Emptied first: what ends during the loop below raises it again.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let (pid, status) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code << 8),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return Ok(()),
                Ok(_) => continue,
            };
            if let Some(index) = self.zygotes.iter().position(|&zygote| zygote == pid) {
                self.zygotes.swap_remove(index);
                self.tell(&FromShim::ZygoteExited { pid, status }, &[])?;
            }
        }
    }

    fn start_zygote(&mut self, mut fds: Vec<OwnedFd>) -> Step {
        let control = fds.pop().ok_or("start the zygote: its control socket is missing")?;
        match sys::clone_process(self.proof, libc::CLONE_NEWNS as u64).map_err(said("fork the zygote"))? {
            Fork::Parent { pid, pidfd } => {
                self.zygotes.push(pid);
                self.tell(&FromShim::ZygoteStarted, &[pidfd.as_fd()])
            }
            Fork::Child => {
                let error = self.exec_python(&control);
                eprintln!("ol: cannot run {} in the base: {error}", self.python);
                sys::exit_now(127)
            }
        }
    }

    fn exec_python(&self, control: &OwnedFd) -> io::Error {
        // Blocked and ignored signals survive exec; Python starts with none. (A shell ignores some for what it starts
        // in the background, and Python then never raises KeyboardInterrupt.)
        if let Err(error) = SigSet::empty().thread_set_mask() {
            return error.into();
        }
        if let Err(error) = sys::reset_signals() {
            return error;
        }
        // When the shim goes so does the kernel's whole pid namespace: no parent-death signal is needed here.
        let control = match control.try_clone() {
            Ok(control) => control,
            Err(error) => return error,
        };
        let mut command = Command::new(self.python);
        command
            .args(["-S", "-E", "-s", "-B", "-X", "utf8", runtime_files::ZYGOTE_SCRIPT])
            .arg(ZYGOTE_CONTROL_FD.to_string())
            .current_dir("/")
            .env_clear()
            .envs(ENVIRONMENT);
        sys::pass_fd(&mut command, control, ZYGOTE_CONTROL_FD);
        command.exec()
    }

    /// A shell in the user and pid namespaces of another shell, where a zygote lives. Only a process that is in there
    /// itself can make it, and only one that is born into a pid namespace is in it: so one process enters, and a second one,
    /// which is its child but for the name, makes it. They end when that is done; the shell's init is our child all the same,
    /// and we bury it.
    fn make_inside(&self, id: u64, spec: &ShellSpec, outer: &OwnedFd) -> Step {
        // Somebody who is killed says nothing.
        let mut told = Err(ShellError::from("the zygote's shell has ended".to_owned()));
        let entered = sys::as_another(self.proof, 0, || {
            told =
                enter_users(outer).map_err(ShellError::from).and_then(|()| self.make_from_inside(id, spec));
        });
        match entered.map_err(|error| ShellError::unborn("fork", &error)).and(told) {
            Ok(()) => Ok(()),
            Err(error) => self.tell(&FromShim::ShellFailed { id, error }, &[]),
        }
    }

    /// In the process that has entered. The descriptors that it opens are its own, so that it has to tell of the shell
    /// itself; an error is still to be told.
    fn make_from_inside(&self, id: u64, spec: &ShellSpec) -> Result<(), ShellError> {
        let mut told = Err("the zygote's shell has ended".to_owned());
        sys::as_another(self.proof, sys::CLONE_PARENT, || {
            told = self.make_and_tell(id, spec, sys::CLONE_PARENT);
        })
        .map_err(|error| ShellError::unborn("fork in the zygote's namespaces", &error))?;
        Ok(told?)
    }

    fn make_and_tell(&self, id: u64, spec: &ShellSpec, flags: u64) -> Step {
        match self.make_shell(spec, flags) {
            Ok(pidfd) => self.tell(&FromShim::ShellReady { id }, &[pidfd.as_fd()]),
            Err(error) => self.tell(&FromShim::ShellFailed { id, error }, &[]),
        }
    }

    fn make_shell(&self, spec: &ShellSpec, flags: u64) -> Result<OwnedFd, ShellError> {
        let (reader, writer) = io::pipe().map_err(said("make a pipe"))?;
        let mut namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if matches!(spec.network, Network::New) {
            namespaces |= libc::CLONE_NEWNET;
        }
        if spec.users.is_some() {
            namespaces |= libc::CLONE_NEWUSER;
        }
        let writer = OwnedFd::from(writer);
        let (mapped, map_written) = io::pipe().map_err(said("make a pipe"))?;
        let mapped = OwnedFd::from(mapped);
        let birthplace = spec.birthplace.as_ref().map(AsFd::as_fd);
        let child = sys::clone_into(self.proof, flags | namespaces as u64, birthplace)
            .map_err(|error| ShellError::unborn("clone", &error))?;
        match child {
            Fork::Child => {
                drop(map_written);
                init::run(self.proof, spec, &writer, &mapped)
            }
            Fork::Parent { pidfd, .. } => {
                drop((writer, mapped));
                if let Some(users) = spec.users {
                    write_id_maps(pidfd.as_fd(), users)?;
                    write(&map_written, b"+").map_err(said("tell of the id map"))?;
                }
                drop(map_written);
                let mut answer = String::new();
                let mut first = [0; 1];
                let mut reader = reader;
                match reader.read(&mut first) {
                    Ok(1) if first == *b"+" => return Ok(pidfd),
                    Ok(1) => answer.push(char::from(first[0])),
                    Ok(_) => answer.push_str("it died while it was made"),
                    Err(error) => return Err(format!("read from the shell: {error}").into()),
                }
                let _ = reader.read_to_string(&mut answer);
                Err(answer.into())
            }
        }
    }
}

/// Of a child in a new user namespace. The kernel takes it from somebody in the one that it was made in.
fn write_id_maps(child: BorrowedFd<'_>, users: IdRange) -> Step {
    let pid = pidfd::pid(child).map_err(said("find the shell in /proc"))?;
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{file}"), users.map())
            .map_err(|error| format!("cannot write the {file} of the shell: {error}"))?;
    }
    Ok(())
}

/// Into the user and pid namespaces of this init, and to user 0 there. (Into the pid namespace go children only.)
fn enter_users(init: &OwnedFd) -> Step {
    setns(init, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)
        .map_err(said("enter the zygote's namespaces"))?;
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(gid, gid, gid).map_err(said("become group 0 of the zygote's user namespace"))?;
    setresuid(uid, uid, uid).map_err(said("become user 0 of the zygote's user namespace"))?;
    nix::sys::prctl::set_dumpable(true).map_err(said("become dumpable"))
}

/// All that a function's process starts with; what `ol.yaml` adds comes with the code. One thread for BLAS,
/// because a zygote must have no threads when it forks.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("HOME", "/tmp"),
    ("TMPDIR", "/tmp"),
    ("USER", "sandbox"),
    ("LANG", "C.UTF-8"),
    ("TZ", ":/etc/localtime"),
    ("OPENBLAS_NUM_THREADS", "1"),
];

fn said<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("cannot {what}: {error}")
}
