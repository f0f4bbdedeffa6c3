//! The worker's end of a shim: asks for shells, and starts the root zygote.
//!
//! One family serves all sandboxes with network namespaces of their own; another, made when first
//! asked for, those on the machine's network, because a process can be forked only into what its zygote's
//! user namespace owns.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use slog::{Logger, debug, info, warn};

use super::cgroup::{Cgroup, Ways};
use super::forker::Forker;
use super::orders::{Look, Orders};
use super::pidfd::{self, Foundling};
use super::reaper::{Reaper, Remains};
use super::seccomp::Instruction;
use super::uids::{ROOT_SANDBOX_UIDS, SLOT_UIDS, Uids};
use super::watchdog::{Watchdog, Watched};
use super::wire::{self, FilterFor, FromShim, FromZygote, IdRange, ShimSpec, ToShim, explained};
use super::zygote::{Home, Namespaces, Zygote, control_pair, describe_status};
use crate::fd::packets::{receive, receive_bytes, send, send_bytes, try_send_bytes};

/// How long the shim and the zygote may take to start: 0.1 s, mostly imports; fifty times that under
/// emulation.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// A running shim. It ends, and everything that it has started, when this is dropped.
///
/// One that hangs is replaced as if it had ended, but what runs in its sandboxes goes on: it is stopped, and ends with the last of
/// them. Until then nobody buries them: each leaves a dead process behind.
#[derive(Debug)]
pub(super) struct Family {
    shim: OwnedFd,
    own_network: bool,
    shared: Arc<Shared>,
    grave: Grave,
    log: Logger,
}

/// What system calls are allowed to what is forked.
#[derive(Debug, Clone)]
pub(super) struct Filters {
    pub(super) sandbox: Vec<Instruction>,
    pub(super) zygote: Vec<Instruction>,
}

/// An empty sandbox.
#[derive(Debug)]
pub(super) struct Shell {
    /// A pidfd of its init.
    pub(super) init: OwnedFd,
    pub(super) namespaces: Namespaces,
}

/// What a shell is to be like.
pub(super) struct ShellOrder<'a> {
    pub(super) id: u64,
    pub(super) tmp_mb: u32,
    /// Into its cgroups.
    pub(super) ways: &'a Ways,
    /// The init in whose user and pid namespaces it is made. `None`: in the family's.
    pub(super) outer: Option<Outer<'a>>,
    /// It gets a user namespace of its own, with these uids.
    pub(super) users: Option<IdRange>,
    /// A network namespace in the place of a new one.
    pub(super) network: Option<BorrowedFd<'a>>,
}

/// What a shell is made inside of.
#[derive(Clone, Copy)]
pub(super) struct Outer<'a> {
    /// A pidfd.
    pub(super) init: BorrowedFd<'a>,
    /// The inner side of the shell's door: see [`Entrance`](super::zygote::Entrance).
    pub(super) door: BorrowedFd<'a>,
}

/// What is there of a shim from the moment on at which it is started, and goes when this is dropped.
#[derive(Debug)]
struct Grave {
    /// A pidfd.
    shim: Option<OwnedFd>,
    /// Its own.
    cgroup: Option<Cgroup>,
    reaper: Reaper,
}

impl Drop for Grave {
    fn drop(&mut self) {
        // It would end because its socket is closed, if it does not hang.
        self.reaper.bury(Remains::of_helper(self.shim.take(), self.cgroup.take()));
    }
}

#[derive(Debug)]
struct Shared {
    orders: Orders<Foundling>,
    root_zygote: Mutex<Weak<Zygote>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The critical sections here insert and remove; a panic in one leaves the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Family {
    /// Starts a shim and a root zygote, and waits until forks can be asked for. Blocks for about 0.2 s.
    pub(super) fn start(
        forker: &Forker,
        spec: &ShimSpec,
        filters: &Filters,
        cgroup: Cgroup,
        (reaper, watchdog): (&Reaper, &Watchdog),
        log: &Logger,
    ) -> io::Result<Arc<Zygote>> {
        let (shim, theirs) = control_pair()?;
        forker.spawn(theirs)?;
        set_patience(&shim, Some(START_PATIENCE))?;
        let procs = cgroup.procs().map_err(io::Error::other)?;
        let mut grave = Grave { shim: None, cgroup: Some(cgroup), reaper: reaper.clone() };
        let fds: Vec<_> = procs.iter().map(AsFd::as_fd).collect();
        send(shim.as_fd(), &ShimSpec { n_cgroups: fds.len(), ..spec.clone() }, &fds)?;
        let (zygote, zygote_theirs) = control_pair()?;
        let users = IdRange { first: spec.uid_base, len: SLOT_UIDS };
        let interpreter = loop {
            match receive::<FromShim>(shim.as_fd())? {
                Some((FromShim::IdMapWanted { pid }, _)) => {
                    write_id_maps(pid, users)?;
                    send(shim.as_fd(), &ToShim::IdMapWritten, &[])?;
                }
                Some((FromShim::Started, mut fds)) => {
                    let child = fds.pop().ok_or_else(no_pidfd)?;
                    bury_when_ended(child.try_clone()?)?;
                    grave.shim = Some(child);
                    send(shim.as_fd(), &ToShim::StartZygote, &[zygote_theirs.as_fd()])?;
                }
                Some((FromShim::ZygoteStarted, mut fds)) => break fds.pop().ok_or_else(no_pidfd)?,
                Some((FromShim::Failed { error }, _)) => return Err(io::Error::other(error)),
                Some((other, _)) => {
                    return Err(io::Error::other(format!("the shim said {other:?} out of turn")));
                }
                None => return Err(io::Error::other("the shim ended while it was started")),
            }
        };
        drop(zygote_theirs);
        set_patience(&zygote, Some(START_PATIENCE))?;
        send_bytes(zygote.as_fd(), &wire::zygote_setup(FilterFor::Sandboxes, &filters.sandbox), &[])?;
        send_bytes(zygote.as_fd(), &wire::zygote_setup(FilterFor::Zygotes, &filters.zygote), &[])?;
        let mut buffer = [0; 64];
        match receive_bytes(zygote.as_fd(), &mut buffer)? {
            Some((len, _)) if FromZygote::parse(&buffer[..len]) == Some(FromZygote::Ready) => {}
            _ => {
                return Err(io::Error::other(format!(
                    "{} in the base does not start; the lines above, from its standard error, say why",
                    spec.python
                )));
            }
        }
        set_patience(&shim, None)?;
        set_patience(&zygote, None)?;
        let shared = Arc::new(Shared { orders: Orders::new(), root_zygote: Mutex::new(Weak::new()) });
        listen_to_shim(shim.try_clone()?, Arc::clone(&shared), log.clone())?;
        let pid = grave.shim.as_ref().and_then(|shim| pidfd::pid(shim.as_fd()).ok());
        info!(log, "started a zygote"; "own_network" => spec.own_network, "shim_pid" => pid);
        let family = Arc::new(Self {
            shim,
            own_network: spec.own_network,
            shared: Arc::clone(&shared),
            grave,
            log: log.clone(),
        });
        let helper: Weak<Self> = Arc::downgrade(&family);
        watchdog.watch(helper);
        let uids = Uids::new(SLOT_UIDS, ROOT_SANDBOX_UIDS);
        let zygote = Zygote::adopt(zygote, family, Home::Family { interpreter }, uids, watchdog, log)?;
        *lock(&shared.root_zygote) = Arc::downgrade(&zygote);
        Ok(zygote)
    }

    /// Whether its shim runs, and answers.
    pub(super) fn is_alive(&self) -> bool {
        !self.shared.orders.is_over()
    }

    /// Everything in it ends now, if it can make nothing new any more.
    pub(super) fn kill_if_over(&self) {
        if !self.is_alive() {
            self.signal(Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(shim) = &self.grave.shim {
            // It may have ended.
            let _ = pidfd_send_signal(shim, signal);
        }
    }

    /// An empty sandbox.
    pub(super) async fn make_shell(&self, order: &ShellOrder<'_>) -> io::Result<Shell> {
        let mut fds: Vec<_> = order.ways.fds().collect();
        let n_ways = fds.len();
        fds.extend(order.outer.iter().flat_map(|outer| [outer.init, outer.door]));
        fds.extend(order.network);
        let message = ToShim::MakeShell {
            id: order.id,
            tmp_mb: order.tmp_mb,
            n_cgroups: n_ways,
            born_inside: matches!(order.ways, Ways::Birth(_)),
            nested: order.outer.is_some(),
            users: order.users,
            spare_network: order.network.is_some(),
        };
        let message = serde_json::to_vec(&message)?;
        let send = || try_send_bytes(self.shim.as_fd(), &message, &fds);
        let init = self.shared.orders.give(order.id, send).await?;
        let pid = pidfd::pid(init.pidfd())?;
        let namespaces = Namespaces::open(init.pidfd(), pid, order.users.is_some(), self.own_network)?;
        Ok(Shell { init: init.take_over(), namespaces })
    }
}

impl Watched for Family {
    fn look(&self) -> bool {
        match self.shared.orders.look() {
            Look::Works => true,
            Look::Hangs => {
                warn!(self.log, "a shim does not answer; another one takes its place"; "own_network" => self.own_network);
                self.shared.orders.end();
                // If it runs in circles.
                self.signal(Signal::STOP);
                false
            }
            Look::IsOver => false,
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // The listening thread holds a copy of the descriptor: closing ours would not reach the other end.
        let _ = rustix::net::shutdown(&self.shim, rustix::net::Shutdown::Both);
    }
}

fn set_patience(socket: &OwnedFd, patience: Option<Duration>) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, patience)?)
}

/// uid and gid 0 and up inside are these on the machine.
fn write_id_maps(pid: i32, users: IdRange) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        let path = PathBuf::from(format!("/proc/{pid}/{file}"));
        fs::write(&path, users.map())
            .map_err(|error| io::Error::other(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

fn no_pidfd() -> io::Error {
    io::Error::other("the shim sent no pidfd")
}

/// It is our child. On a thread of its own: nobody knows when that will be.
fn bury_when_ended(shim: OwnedFd) -> io::Result<()> {
    let bury = move || {
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::PidFd(shim.as_fd()), WaitIdOptions::EXITED) {}
    };
    thread::Builder::new().name("shim-burial".into()).spawn(bury).map(drop)
}

fn listen_to_shim(socket: OwnedFd, shared: Arc<Shared>, log: Logger) -> io::Result<()> {
    thread::Builder::new().name("shim-listener".into()).spawn(move || {
        loop {
            match receive::<FromShim>(socket.as_fd()) {
                Ok(Some((FromShim::ShellReady { id }, mut fds))) => {
                    let result = fds.pop().ok_or_else(no_pidfd);
                    answer_shell(&shared, id, result);
                }
                Ok(Some((FromShim::ShellFailed { id, error }, _))) => {
                    answer_shell(&shared, id, Err(explained(error.text, error.errno)))
                }
                Ok(Some((FromShim::ZygoteExited { status, .. }, _))) => {
                    warn!(log, "a zygote has ended"; "status" => describe_status(status));
                    if let Some(zygote) = lock(&shared.root_zygote).upgrade() {
                        zygote.has_ended();
                    }
                }
                Ok(Some((FromShim::Failed { error }, _))) => {
                    warn!(log, "a shim has failed"; "error" => error)
                }
                Ok(Some((other, _))) => debug!(log, "a shim said something out of turn"; "message" => ?other),
                Ok(None) | Err(_) => break,
            }
        }
        shared.orders.end();
    })?;
    Ok(())
}

fn answer_shell(shared: &Shared, id: u64, result: io::Result<OwnedFd>) {
    let result = result.map(Foundling::new);
    // Who gave up waiting gets no shell, and it is killed.
    if let Some(reply) = shared.orders.answered(id) {
        let _ = reply.send(result);
    }
}
