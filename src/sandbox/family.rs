//! The worker's end of a shim and its zygote: asks for shells and forks, and hears of ends.
//!
//! One family serves all sandboxes with network namespaces of their own; another, made when first
//! asked for, those on the machine's network, because a process can be forked only into what its zygote's
//! user namespace owns.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use slog::{Logger, debug, info, warn};
use tokio::sync::{Notify, oneshot};

use super::cgroup::Cgroup;
use super::forker::Forker;
use super::packets::{receive, receive_bytes, send, send_bytes};
use super::reaper::{Reaper, Remains};
use super::seccomp::Instruction;
use super::uids::SLOT_UIDS;
use super::wire::{self, ForkRequest, FromShim, FromZygote, MESSAGE_BYTES_MAX, ShimSpec, ToShim};

/// How long a shell or a fork may take. Ordinary are 0.6 ms and 2 ms; a machine under emulation takes fifty
/// times that.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long the shim and the zygote may take to start: 0.1 s, mostly imports; see above.
const START_PATIENCE: Duration = Duration::from_secs(30);

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

    fn tell(&self, status: i32) {
        // A second status for the same process cannot come.
        let _ = self.status.set(status);
        self.told.notify_waiters();
    }
}

/// What goes with a fork into a shell.
pub(super) struct Birth<'a> {
    pub(super) id: u64,
    pub(super) uid: u32,
    pub(super) init: BorrowedFd<'a>,
    pub(super) data: BorrowedFd<'a>,
    pub(super) log: BorrowedFd<'a>,
    pub(super) procs: &'a [OwnedFd],
}

/// A running shim with a running zygote. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Family {
    shim: OwnedFd,
    zygote: OwnedFd,
    own_network: bool,
    nofile: u32,
    shared: Arc<Shared>,
    /// Its own group goes when it goes.
    _grave: Grave,
}

#[derive(Debug)]
struct Grave {
    cgroup: Option<Cgroup>,
    reaper: Reaper,
}

impl Drop for Grave {
    fn drop(&mut self) {
        // The processes end because their sockets are closed.
        self.reaper.bury(Remains { id: 0, init: None, cgroup: self.cgroup.take(), link: None, uid: None });
    }
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    shells: Mutex<HashMap<u64, oneshot::Sender<io::Result<OwnedFd>>>>,
    forks: Mutex<HashMap<u64, Fork>>,
    /// By pid as the zygote sees it.
    exits: Mutex<HashMap<i32, Arc<Exit>>>,
}

#[derive(Debug)]
struct Fork {
    reply: oneshot::Sender<io::Result<i32>>,
    exit: Arc<Exit>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The critical sections here insert and remove; a panic in one leaves the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Family {
    /// Starts both processes and waits until forks can be asked for. Blocks for about 0.2 s.
    pub(super) fn start(
        forker: &Forker,
        spec: &ShimSpec,
        nofile: u32,
        filter: &[Instruction],
        cgroup: Cgroup,
        reaper: &Reaper,
        log: &Logger,
    ) -> io::Result<Self> {
        let (shim, theirs) = pair()?;
        forker.spawn(theirs)?;
        set_patience(&shim, Some(START_PATIENCE))?;
        let procs = cgroup.procs().map_err(io::Error::other)?;
        let grave = Grave { cgroup: Some(cgroup), reaper: reaper.clone() };
        let fds: Vec<_> = procs.iter().map(AsFd::as_fd).collect();
        send(shim.as_fd(), &ShimSpec { n_cgroups: fds.len(), ..spec.clone() }, &fds)?;
        let (zygote, zygote_theirs) = pair()?;
        let mut shim_pid = None;
        loop {
            match receive::<FromShim>(shim.as_fd())? {
                Some((FromShim::IdMapWanted { pid }, _)) => {
                    write_id_maps(pid, spec.uid_base)?;
                    send(shim.as_fd(), &ToShim::IdMapWritten, &[])?;
                }
                Some((FromShim::Started { pid }, _)) => {
                    shim_pid = Some(pid);
                    send(shim.as_fd(), &ToShim::StartZygote, &[zygote_theirs.as_fd()])?;
                }
                Some((FromShim::ZygoteStarted { .. }, _)) => break,
                Some((FromShim::Failed { error }, _)) => return Err(io::Error::other(error)),
                Some((other, _)) => {
                    return Err(io::Error::other(format!("the shim said {other:?} out of turn")));
                }
                None => return Err(io::Error::other("the shim ended while it was started")),
            }
        }
        drop(zygote_theirs);
        set_patience(&zygote, Some(START_PATIENCE))?;
        send_bytes(zygote.as_fd(), &wire::zygote_setup(filter), &[])?;
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
        let shared = Arc::new(Shared::default());
        let forker = forker.clone();
        listen_to_shim(shim.try_clone()?, Arc::clone(&shared), forker, shim_pid, log.clone())?;
        listen_to_zygote(zygote.try_clone()?, Arc::clone(&shared), log.clone())?;
        info!(log, "started a zygote"; "own_network" => spec.own_network, "shim_pid" => shim_pid);
        Ok(Self { shim, zygote, own_network: spec.own_network, nofile, shared, _grave: grave })
    }

    /// Whether it can still be asked for anything.
    pub(super) fn is_alive(&self) -> bool {
        !self.shared.ended.load(Ordering::Acquire)
    }

    /// An empty sandbox: gives the pidfd of its init.
    pub(super) async fn make_shell(&self, id: u64, tmp_mb: u32, procs: &[OwnedFd]) -> io::Result<OwnedFd> {
        let (reply, answer) = oneshot::channel();
        lock(&self.shared.shells).insert(id, reply);
        let fds: Vec<_> = procs.iter().map(AsFd::as_fd).collect();
        let message = ToShim::MakeShell { id, tmp_mb, n_cgroups: fds.len() };
        if let Err(error) = send(self.shim.as_fd(), &message, &fds) {
            lock(&self.shared.shells).remove(&id);
            return Err(error);
        }
        self.answer(answer, || {
            lock(&self.shared.shells).remove(&id);
        })
        .await
    }

    /// An interpreter in that sandbox. It says `READY` on its data socket when it is asked to and can.
    pub(super) async fn fork(&self, birth: &Birth<'_>) -> io::Result<Arc<Exit>> {
        let (reply, answer) = oneshot::channel();
        let exit = Arc::new(Exit::default());
        let id = birth.id;
        lock(&self.shared.forks).insert(id, Fork { reply, exit: Arc::clone(&exit) });
        let mut namespaces =
            libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
        if self.own_network {
            namespaces |= libc::CLONE_NEWNET;
        }
        let request = ForkRequest { id, uid: birth.uid, namespaces: namespaces as u32, nofile: self.nofile };
        let mut fds = vec![birth.init, birth.data, birth.log];
        fds.extend(birth.procs.iter().map(AsFd::as_fd));
        if let Err(error) = send_bytes(self.zygote.as_fd(), &wire::zygote_fork(&request), &fds) {
            lock(&self.shared.forks).remove(&id);
            return Err(error);
        }
        self.answer(answer, || {
            lock(&self.shared.forks).remove(&id);
        })
        .await?;
        Ok(exit)
    }

    async fn answer<T>(
        &self,
        answer: oneshot::Receiver<io::Result<T>>,
        forget: impl FnOnce(),
    ) -> io::Result<T> {
        match tokio::time::timeout(ANSWER_PATIENCE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(io::Error::other("the zygote has ended")),
            Err(_) => {
                forget();
                Err(io::Error::other(format!("no answer from the zygote in {} s", ANSWER_PATIENCE.as_secs())))
            }
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // The listening threads hold copies of the descriptors: closing ours would not reach the other end.
        let _ = rustix::net::shutdown(&self.shim, rustix::net::Shutdown::Both);
        let _ = rustix::net::shutdown(&self.zygote, rustix::net::Shutdown::Both);
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn set_patience(socket: &OwnedFd, patience: Option<Duration>) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, patience)?)
}

/// uid and gid 0 and up inside are the slot's on the machine.
fn write_id_maps(pid: i32, uid_base: u32) -> io::Result<()> {
    let map = format!("0 {uid_base} {SLOT_UIDS}\n");
    for file in ["uid_map", "gid_map"] {
        let path = PathBuf::from(format!("/proc/{pid}/{file}"));
        fs::write(&path, &map)
            .map_err(|error| io::Error::other(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

fn listen_to_shim(
    socket: OwnedFd,
    shared: Arc<Shared>,
    forker: Forker,
    pid: Option<i32>,
    log: Logger,
) -> io::Result<()> {
    thread::Builder::new().name("shim-listener".into()).spawn(move || {
        loop {
            match receive::<FromShim>(socket.as_fd()) {
                Ok(Some((FromShim::ShellReady { id }, mut fds))) => {
                    let result = fds.pop().ok_or_else(|| io::Error::other("the shim sent no pidfd"));
                    answer_shell(&shared, id, result);
                }
                Ok(Some((FromShim::ShellFailed { id, error }, _))) => {
                    answer_shell(&shared, id, Err(io::Error::other(error)))
                }
                Ok(Some((FromShim::ZygoteExited { status, .. }, _))) => {
                    warn!(log, "a zygote has ended"; "status" => describe_status(status));
                    shared.ended.store(true, Ordering::Release);
                    lock(&shared.forks).clear();
                }
                Ok(Some((FromShim::Failed { error }, _))) => {
                    warn!(log, "a shim has failed"; "error" => error)
                }
                Ok(Some((other, _))) => debug!(log, "a shim said something out of turn"; "message" => ?other),
                Ok(None) | Err(_) => break,
            }
        }
        shared.ended.store(true, Ordering::Release);
        // Dropping the senders tells everyone who waits.
        lock(&shared.shells).clear();
        lock(&shared.forks).clear();
        if let Some(pid) = pid {
            forker.reap(pid);
        }
    })?;
    Ok(())
}

fn answer_shell(shared: &Shared, id: u64, result: io::Result<OwnedFd>) {
    // Who gave up waiting gets no shell: the pidfd is dropped, and its group's removal kills it.
    if let Some(reply) = lock(&shared.shells).remove(&id)
        && let Err(Ok(init)) = reply.send(result)
    {
        let _ = rustix::process::pidfd_send_signal(&init, rustix::process::Signal::KILL);
    }
}

fn listen_to_zygote(socket: OwnedFd, shared: Arc<Shared>, log: Logger) -> io::Result<()> {
    thread::Builder::new().name("zygote-listener".into()).spawn(move || {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while let Ok(Some((len, _))) = receive_bytes(socket.as_fd(), &mut buffer) {
            match FromZygote::parse(&buffer[..len]) {
                Some(FromZygote::Forked { id, pid }) => {
                    if let Some(fork) = lock(&shared.forks).remove(&id) {
                        lock(&shared.exits).insert(pid, fork.exit);
                        let _ = fork.reply.send(Ok(pid));
                    }
                }
                Some(FromZygote::Failed { id, step, errno }) => {
                    let error = io::Error::from_raw_os_error(errno);
                    // A child that fails after its birth was told: its data socket closes.
                    match lock(&shared.forks).remove(&id) {
                        Some(fork) => {
                            let _ = fork.reply.send(Err(io::Error::other(format!("cannot {step}: {error}"))));
                        }
                        None => warn!(log, "a new sandbox gave up"; "sandbox" => id, "step" => step, "error" => %error),
                    }
                }
                Some(FromZygote::Exited { pid, status }) => {
                    if let Some(exit) = lock(&shared.exits).remove(&pid) {
                        exit.tell(status);
                    }
                }
                Some(FromZygote::Ready) => {}
                None => {
                    warn!(log, "a zygote sent nonsense; it is ended");
                    break;
                }
            }
        }
        shared.ended.store(true, Ordering::Release);
        lock(&shared.forks).clear();
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
