//! The worker's end of a zygote: asks it to fork, and hears of births and ends.
//!
//! A root zygote is started by the shim, runs no code but ours, and is root in its family's user namespace. Every other
//! zygote was forked from one, into a shell with a user namespace of its own: it may run the code of packages or
//! of a function, and has power over nothing but what is forked from it in turn.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use slog::{Logger, warn};
use tokio::sync::Notify;

use super::cgroup::Nest;
use super::family::{Family, lock};
use super::networks::Networks;
use super::orders::{Look, Orders};
use super::pidfd;
use super::process::Process;
use super::shells::Shells;
use super::uids::Uids;
use super::watchdog::{Watchdog, Watched};
use super::wire::{self, ForkKind, ForkRequest, FromZygote, explained};
use crate::fd::packets::{MESSAGE_BYTES_MAX, receive_bytes, try_send_bytes};

/// How one interpreter ended, told by its zygote.
#[derive(Debug, Default)]
pub(super) struct Exit {
    status: OnceLock<i32>,
    told: Notify,
}

impl Exit {
    /// The wait status, if it comes within `patience`.
    pub(super) async fn wait(&self, patience: Duration) -> Option<i32> {
        let told = self.told.notified();
        if let Some(status) = self.status.get() {
            return Some(*status);
        }
        let _ = tokio::time::timeout(patience, told).await;
        self.status.get().copied()
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.status.get().is_some()
    }

    fn tell(&self, status: i32) {
        // A second status for the same process cannot come.
        let _ = self.status.set(status);
        self.told.notify_waiters();
    }
}

/// What goes with a fork into a shell.
pub(super) struct Birth<'a> {
    pub(super) id: u64,
    /// In the user namespace that the shell belongs to.
    pub(super) uid: u32,
    pub(super) nofile: u32,
    pub(super) namespaces: &'a Namespaces,
    pub(super) answers: BorrowedFd<'a>,
    pub(super) log: BorrowedFd<'a>,
    pub(super) requests: BorrowedFd<'a>,
    /// The control socket of what is to be a zygote itself.
    pub(super) control: Option<BorrowedFd<'a>>,
    pub(super) entrance: Entrance<'a>,
}

/// How a fork gets into the cgroups of its shell.
#[derive(Clone, Copy)]
pub(super) enum Entrance<'a> {
    /// By itself: open `cgroup.procs` files, one for each hierarchy. Opened by the machine's root, they let whoever has
    /// them move every process that he sees: for a root zygote only.
    Procs(&'a [OwnedFd]),
    /// The shell's init lets it in, when it knocks here.
    Door(BorrowedFd<'a>),
    /// It is born inside: the directory of the group. For a root zygote only, which owns it.
    Birthplace(BorrowedFd<'a>),
}

/// The namespaces of a shell, open.
#[derive(Debug)]
pub(super) struct Namespaces {
    pid: OwnedFd,
    /// In the order of entering them.
    others: Vec<OwnedFd>,
    has_network: bool,
}

impl Namespaces {
    /// Of the process with this pid; `init` is a pidfd of the same, which must live.
    pub(super) fn open(
        init: BorrowedFd<'_>,
        pid: i32,
        own_users: bool,
        own_network: bool,
    ) -> io::Result<Self> {
        let open =
            |name: &str| Ok::<_, io::Error>(OwnedFd::from(File::open(format!("/proc/{pid}/ns/{name}"))?));
        let names = [
            ("user", own_users),
            ("mnt", true),
            ("ipc", true),
            ("uts", true),
            ("cgroup", true),
            ("net", own_network),
        ];
        let wanted = names.iter().filter(|(_, wanted)| *wanted);
        let namespaces = Self {
            pid: open("pid")?,
            others: wanted.map(|(name, _)| open(name)).collect::<io::Result<_>>()?,
            has_network: own_network,
        };
        // If it lives now, the pid was its own all the time.
        if pidfd::has_ended(init)? {
            return Err(io::Error::other("the shell has ended"));
        }
        Ok(namespaces)
    }

    /// A descriptor of that of the network, if it has one of its own.
    pub(super) fn network(&self) -> io::Result<Option<OwnedFd>> {
        // It is entered last.
        let network = self.others.last().filter(|_| self.has_network);
        network.map(OwnedFd::try_clone).transpose()
    }
}

/// A zygote as the worker knows it. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Zygote {
    control: OwnedFd,
    shared: Arc<Shared>,
    /// Whose shells it forks into.
    pub(super) family: Arc<Family>,
    /// Of its user namespace.
    pub(super) uids: Uids,
    /// For its shells.
    pub(super) networks: Networks,
    /// That wait for its forks.
    pub(super) shells: Shells,
    home: Home,
    log: Logger,
}

/// Where a zygote lives.
#[derive(Debug)]
pub(super) enum Home {
    /// In its family, as a child of the shim: a root zygote.
    Family {
        /// A pidfd of it.
        interpreter: OwnedFd,
    },
    /// In a shell. That is there for as long as anything that was forked from the zygote: the kernel ends what is inside a pid
    /// namespace with its init.
    Shell(Box<Process>),
}

impl Home {
    fn shell(&self) -> Option<&Process> {
        match self {
            Self::Family { .. } => None,
            Self::Shell(process) => Some(process),
        }
    }
}

#[derive(Debug)]
struct Shared {
    /// To fork.
    orders: Orders<Arc<Exit>>,
    /// By pid as the zygote sees it.
    born: Mutex<HashMap<i32, Born>>,
}

#[derive(Debug)]
struct Born {
    id: u64,
    exit: Arc<Exit>,
    has_failed: bool,
}

impl Zygote {
    /// Listens to one that runs, or will in a moment, at the other end of `control`.
    pub(super) fn adopt(
        control: OwnedFd,
        family: Arc<Family>,
        home: Home,
        uids: Uids,
        watchdog: &Watchdog,
        log: &Logger,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared { orders: Orders::new(), born: Mutex::default() });
        listen(control.try_clone()?, Arc::clone(&shared), log.clone())?;
        let zygote = Arc::new(Self {
            control,
            shared,
            family,
            uids,
            networks: Networks::default(),
            shells: Shells::default(),
            home,
            log: log.clone(),
        });
        let helper: Weak<Self> = Arc::downgrade(&zygote);
        watchdog.watch(helper);
        Ok(zygote)
    }

    /// The init in whose user and pid namespaces its shells are made; `None`: in the family's.
    pub(super) fn outer(&self) -> Option<BorrowedFd<'_>> {
        self.home.shell().and_then(Process::init)
    }

    /// Where its cgroup lies, and those of its forks are to lie.
    pub(super) fn nest(&self) -> Option<Arc<Nest>> {
        self.home.shell()?.nest()
    }

    /// Memory charged to it; nothing for a root zygote, which is charged to its family.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.home.shell().map_or(0, Process::memory_bytes)
    }

    /// It forks no more, and ends. Its sandboxes go on.
    pub(super) fn retire(&self) {
        // The listening thread holds a copy of the descriptor: closing ours would not reach the other end.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
    }

    /// It ends now, with all that was forked from it: for one that does not bury its children. A root zygote only if there is no
    /// shim either that would.
    pub(super) fn kill(&self) {
        match self.outer() {
            Some(init) => {
                self.shared.orders.end();
                let _ = pidfd_send_signal(init, Signal::KILL);
            }
            None => self.family.kill_if_over(),
        }
    }

    /// Ends its interpreter, and nothing else: what was forked from it goes on.
    fn end_interpreter(&self) {
        match &self.home {
            Home::Family { interpreter } => {
                // It may have ended.
                let _ = pidfd_send_signal(interpreter, Signal::KILL);
            }
            Home::Shell(process) => process.end_interpreter(),
        }
    }

    /// Whether it can still be asked for anything.
    pub(super) fn is_alive(&self) -> bool {
        !self.shared.orders.is_over() && self.family.is_alive()
    }

    /// An interpreter in that shell. It says `READY` on its socket when it is asked to and can.
    pub(super) async fn fork(&self, birth: &Birth<'_>) -> io::Result<Arc<Exit>> {
        let request = ForkRequest {
            id: birth.id,
            uid: birth.uid,
            n_namespaces: birth.namespaces.others.len() as u32,
            nofile: birth.nofile,
            kind: match birth.entrance {
                _ if birth.control.is_some() => ForkKind::Zygote,
                Entrance::Procs(_) => ForkKind::Plain,
                Entrance::Door(_) => ForkKind::AtDoor,
                Entrance::Birthplace(_) => ForkKind::IntoCgroup,
            },
        };
        let mut fds = vec![birth.namespaces.pid.as_fd(), birth.answers, birth.log, birth.requests];
        fds.extend(birth.control);
        fds.extend(birth.namespaces.others.iter().map(AsFd::as_fd));
        match birth.entrance {
            Entrance::Procs(procs) => fds.extend(procs.iter().map(AsFd::as_fd)),
            Entrance::Door(fd) | Entrance::Birthplace(fd) => fds.push(fd),
        }
        let send = || try_send_bytes(self.control.as_fd(), &wire::zygote_fork(&request), &fds);
        self.shared.orders.give(birth.id, send).await
    }

    /// It can be asked for nothing any more. (What the family hears from the shim.)
    pub(super) fn has_ended(&self) {
        self.shared.orders.end();
    }
}

impl Watched for Zygote {
    fn look(&self) -> bool {
        match self.shared.orders.look() {
            Look::Works => return true,
            Look::Hangs => {
                let home = self.home.shell().map_or(0, |home| home.id);
                warn!(self.log, "a zygote does not answer; it is ended, and another one takes its place"; "home" => home);
                self.shared.orders.end();
            }
            // One that was told to end may hang as well.
            Look::IsOver => {}
        }
        self.end_interpreter();
        false
    }
}

impl Shared {
    /// Whether this one was born, and is now said to have failed for the first time.
    fn fails_first(&self, id: u64) -> bool {
        let mut born = lock(&self.born);
        let failed = born.values_mut().find(|born| born.id == id);
        failed.is_some_and(|born| !std::mem::replace(&mut born.has_failed, true))
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.retire();
        // In a shell that goes with it.
        if let Home::Family { .. } = self.home {
            self.end_interpreter();
        }
    }
}

/// Both ends of a control socket: a packet a message.
pub(super) fn control_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn listen(socket: OwnedFd, shared: Arc<Shared>, log: Logger) -> io::Result<()> {
    thread::Builder::new().name("zygote-listener".into()).spawn(move || {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while let Ok(Some((len, _))) = receive_bytes(socket.as_fd(), &mut buffer) {
            match FromZygote::parse(&buffer[..len]) {
                Some(FromZygote::Forked { id, pid }) => {
                    if let Some(reply) = shared.orders.answered(id) {
                        let exit = Arc::new(Exit::default());
                        let born = Born { id, exit: Arc::clone(&exit), has_failed: false };
                        lock(&shared.born).insert(pid, born);
                        let _ = reply.send(Ok(exit));
                    }
                }
                Some(FromZygote::Failed { id, step, errno }) => {
                    let error = io::Error::from_raw_os_error(errno);
                    // A child that fails after its birth was told: its sockets close.
                    match shared.orders.answered(id) {
                        Some(reply) => {
                            let error = explained(format!("cannot {step}: {error}"), Some(errno));
                            let _ = reply.send(Err(error));
                        }
                        // Once: a zygote of a function's could say so as fast as it can, and fill the disk.
                        None if shared.fails_first(id) => {
                            warn!(log, "a new sandbox gave up"; "sandbox" => id, "step" => step, "error" => %error);
                        }
                        // Nobody waits for it any more, or it never was.
                        None => {}
                    }
                }
                Some(FromZygote::Exited { pid, status }) => {
                    if let Some(born) = lock(&shared.born).remove(&pid) {
                        born.exit.tell(status);
                    }
                }
                Some(FromZygote::Ready) => {}
                None => {
                    warn!(log, "a zygote sent nonsense; it is ended");
                    break;
                }
            }
        }
        shared.orders.end();
    })?;
    Ok(())
}

/// A wait status in words.
pub(super) fn describe_status(status: i32) -> String {
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("exit code {}", (status >> 8) & 0xff);
    }
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(name) => format!("killed by signal {signal} ({name})"),
        Err(_) => format!("killed by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_told_in_words() {
        assert_eq!(describe_status(3 << 8), "exit code 3");
        assert_eq!(describe_status(9), "killed by signal 9 (SIGKILL)");
        assert_eq!(describe_status(11 | 0x80), "killed by signal 11 (SIGSEGV)");
    }
}
