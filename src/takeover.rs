//! One worker takes the place of another, of the same directory, and no connection is refused meanwhile.
//!
//! ```text
//!   the old one                                     the new one
//!        ◀──────────── connects to takeover.sock ──────────
//!        ── Offer, with the lock and both listening sockets ──▶   starts all that it needs
//!        ◀──────────────────── Serving ────────────────────       accepts connections, as the old one still does
//!   accepts none any more, finishes what it has
//!        ◀────────────────────── End ──────────────────────       only if it ends itself before the old one has:
//!   finishes within its grace                                     then nothing of the old one must be left
//!        ────────────── the connection closes ────────────▶       sweeps what is left of it
//! ```
//!
//! The lock and the sockets are not opened again but handed over, so each is held by one of the two at any moment, whichever of
//! them is killed. Until `Serving` the new one has changed nothing that the old one needs. If it goes before that, the old one
//! has noticed nothing; if it goes after that while the old one still finishes, the old one accepts connections again.
//!
//! Who connects must be this user or root: the socket lies in a directory that nobody else may enter, has mode 0600, and the
//! kernel says who is at the other end.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    shutdown, socket_with,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::address::Address;
use crate::fd::packets;

/// In the worker's directory.
pub const SOCKET: &str = "takeover.sock";
/// How long the old one may take for its offer: it may first have to see off the one before it, for its grace.
const OFFER_PATIENCE: Duration = Duration::from_secs(90);
/// News of visitors that wait for the worker: all that one has to say. Who says more waits.
const VISITS_MAX: usize = 4;
/// What a worker's names on the machine end with when the one before it has the plain ones.
const SUFFIX: &str = "-next";

/// What the old worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its process.
    pub pid: i32,
    /// Where it was configured to listen.
    pub host: String,
    /// Where it was configured to listen; 0: where the kernel wanted.
    pub port: u16,
    /// Its group.
    pub cgroup_root: String,
    /// The directory of its copies of code, in the worker's directory.
    pub generations: String,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Offer(Offer),
    Refused(String),
    /// It ends in any case.
    Ends,
}

/// What the new one says then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    Serving,
    End,
}

/// A name that is not the old worker's: `name`, or the same with an end.
#[must_use]
pub fn other_name(name: &str, old: &str) -> String {
    if name == old { format!("{name}{SUFFIX}") } else { name.to_owned() }
}

/// All names that a worker may go by whose configuration says `name`.
#[must_use]
pub fn names(name: &str) -> [String; 2] {
    [name.to_owned(), format!("{name}{SUFFIX}")]
}

/// What is handed over.
#[derive(Debug)]
pub struct Estate {
    /// The right to run in the directory.
    pub lock: OwnedFd,
    /// Where everybody's connections come in.
    pub public: TcpListener,
    /// Where the owner's do.
    pub private: UnixListener,
}

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// No worker listens there.
    #[error("the worker does not answer on {}: {source}", path.display())]
    Absent {
        /// Its socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It does not want to.
    #[error("the worker that runs does not hand over: {0}")]
    Refused(String),
    /// It was told to end before it was asked.
    #[error("the worker that runs is ending")]
    Ends,
    /// It went away, or said nonsense.
    #[error("the worker that runs has not handed over: {0}")]
    Broken(io::Error),
}

impl TakeoverError {
    /// Whether it may have nothing to hand over in a moment, because it ends. Who refuses does not.
    #[must_use]
    pub fn may_be_its_end(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// The worker whose place is taken, as the new one has it.
#[derive(Debug)]
pub struct Predecessor {
    /// What it said of itself.
    pub offer: Offer,
    line: Arc<OwnedFd>,
}

impl Predecessor {
    /// Asks the worker of this directory to hand over. Blocks.
    ///
    /// # Errors
    /// When it does not; then nothing has changed.
    pub fn ask(worker_dir: &Path) -> Result<(Self, Estate), TakeoverError> {
        let path = worker_dir.join(SOCKET);
        let reach = || {
            let line = seqpacket()?;
            set_socket_timeout(&line, Timeout::Recv, Some(OFFER_PATIENCE))?;
            let address = Address::of(&path)?;
            connect(&line, &SocketAddrUnix::new(address.path())?)?;
            Ok(line)
        };
        let line = reach().map_err(|source| TakeoverError::Absent { path: path.clone(), source })?;
        let broken = |what: &str| TakeoverError::Broken(io::Error::other(what.to_owned()));
        let received = packets::receive(line.as_fd()).map_err(TakeoverError::Broken)?;
        let (offer, fds) = match received.ok_or_else(|| broken("it has ended"))? {
            (Answer::Offer(offer), fds) => (offer, fds),
            (Answer::Refused(why), _) => return Err(TakeoverError::Refused(why)),
            (Answer::Ends, _) => return Err(TakeoverError::Ends),
        };
        let [lock, public, private]: [OwnedFd; 3] =
            fds.try_into().map_err(|_| broken("it sent something else"))?;
        let estate = Estate { lock, public: public.into(), private: private.into() };
        set_socket_timeout(&line, Timeout::Recv, None)
            .map_err(|errno| TakeoverError::Broken(errno.into()))?;
        Ok((Self { offer, line: Arc::new(line) }, estate))
    }

    /// From now on the new one serves. Whether the old one hears it does not matter: if not, it is gone.
    pub fn tell_serving(&self) {
        let _ = packets::send(self.line.as_fd(), &Word::Serving, &[]);
    }

    /// Have it end within its grace.
    pub fn tell_end(&self) {
        let _ = packets::send(self.line.as_fd(), &Word::End, &[]);
    }

    /// Ends when it has gone, in whatever way. Blocks; on a thread of its own it may be asked any number of times.
    pub fn wait(&self) -> impl FnOnce() + Send + use<> {
        let line = Arc::clone(&self.line);
        move || while let Ok(Some(_)) = packets::receive::<Word>(line.as_fd()) {}
    }
}

/// Somebody wants this worker's place.
#[derive(Debug)]
pub enum Visit {
    /// May it? It is told what is said here; not to answer is to end.
    Asks(Reply),
    /// It serves.
    Serves,
    /// It ends, and so must this one.
    Ends,
    /// It is gone.
    Gone,
}

/// See [`Visit::Asks`].
#[derive(Debug)]
pub struct Reply(blocking::SyncSender<Result<(), String>>);

impl Reply {
    /// Hand over.
    pub fn accept(self) {
        // A visitor that has gone needs no answer.
        let _ = self.0.send(Ok(()));
    }

    /// Do not, and why.
    pub fn refuse(self, why: impl Into<String>) {
        let _ = self.0.send(Err(why.into()));
    }
}

/// Where one comes in who wants this worker's place. One at a time; others wait.
#[derive(Debug)]
pub struct Door {
    visits: mpsc::Receiver<Visit>,
    socket: Arc<OwnedFd>,
    path: PathBuf,
}

impl Door {
    /// Opens it, on a thread of its own.
    ///
    /// # Errors
    /// When the socket or the thread cannot be made.
    pub fn open(worker_dir: &Path, offer: Offer, estate: Estate) -> io::Result<Self> {
        let path = worker_dir.join(SOCKET);
        // Under another name first: whoever asks in this moment finds the predecessor's, or this one.
        let new = worker_dir.join(format!("{SOCKET}.new"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Arc::new(seqpacket()?);
        bind(&socket, &SocketAddrUnix::new(Address::of(&new)?.path())?)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        listen(&socket, 8)?;
        fs::rename(&new, &path)?;
        let listening = Arc::clone(&socket);
        let (sender, visits) = mpsc::channel(VISITS_MAX);
        thread::Builder::new().name("takeover".into()).spawn(move || {
            while let Ok(line) = accept_with(&listening, SocketFlags::CLOEXEC) {
                if is_ours(&line) && receive_visitor(&line, &offer, &estate, &sender).is_none() {
                    return;
                }
            }
        })?;
        Ok(Self { visits, socket, path })
    }

    /// The next news.
    pub async fn next(&mut self) -> Option<Visit> {
        self.visits.recv().await
    }

    /// Nobody else may come in. Not for who was replaced: the path is the successor's then.
    pub fn close(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Its thread waits for somebody to come in. It does not when somebody is there, and then it ends with the process.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// `None`: the worker ends.
fn receive_visitor(
    line: &OwnedFd,
    offer: &Offer,
    estate: &Estate,
    visits: &mpsc::Sender<Visit>,
) -> Option<()> {
    let (reply, answer) = blocking::sync_channel(1);
    visits.blocking_send(Visit::Asks(Reply(reply))).ok()?;
    let refusal = match answer.recv() {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(Answer::Refused(why)),
        Err(_) => Some(Answer::Ends),
    };
    if let Some(refusal) = refusal {
        // Who has gone has asked for nothing.
        let _ = packets::send(line.as_fd(), &refusal, &[]);
        return Some(());
    }
    let fds = [estate.lock.as_fd(), estate.public.as_fd(), estate.private.as_fd()];
    if packets::send(line.as_fd(), &Answer::Offer(offer.clone()), &fds).is_ok() {
        while let Ok(Some((word, _))) = packets::receive(line.as_fd()) {
            let visit = match word {
                Word::Serving => Visit::Serves,
                Word::End => Visit::Ends,
            };
            visits.blocking_send(visit).ok()?;
        }
    }
    visits.blocking_send(Visit::Gone).ok()
}

fn is_ours(line: &OwnedFd) -> bool {
    let me = rustix::process::geteuid();
    socket_peercred(line).is_ok_and(|peer| peer.uid == me || peer.uid.is_root())
}

fn seqpacket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estate(dir: &Path) -> Estate {
        Estate {
            lock: fs::File::create(dir.join("lock")).unwrap().into(),
            public: TcpListener::bind("127.0.0.1:0").unwrap(),
            private: UnixListener::bind(dir.join("ol.sock")).unwrap(),
        }
    }

    fn offer() -> Offer {
        Offer {
            pid: 7,
            host: "localhost".into(),
            port: 5000,
            cgroup_root: "ol-x".into(),
            generations: "generations".into(),
        }
    }

    /// Asks on another thread, since asking blocks.
    fn ask(dir: &Path) -> thread::JoinHandle<Result<(Predecessor, Estate), TakeoverError>> {
        let dir = dir.to_owned();
        thread::spawn(move || Predecessor::ask(&dir))
    }

    #[tokio::test]
    async fn who_asks_gets_the_sockets_themselves_and_is_heard_until_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mine = estate(dir.path());
        let port = mine.public.local_addr().unwrap().port();
        let mut door = Door::open(dir.path(), offer(), mine).unwrap();
        let asking = ask(dir.path());
        let Some(Visit::Asks(reply)) = door.next().await else { panic!("somebody asks") };
        reply.accept();
        let (predecessor, theirs) = asking.join().unwrap().unwrap();
        assert_eq!(predecessor.offer, offer());
        assert_eq!(theirs.public.local_addr().unwrap().port(), port);
        let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        predecessor.tell_serving();
        assert!(matches!(door.next().await, Some(Visit::Serves)));
        predecessor.tell_end();
        assert!(matches!(door.next().await, Some(Visit::Ends)));
        drop(predecessor);
        assert!(matches!(door.next().await, Some(Visit::Gone)));
        // And the next one is received like the first.
        let asking = ask(dir.path());
        let Some(Visit::Asks(reply)) = door.next().await else { panic!("somebody asks") };
        reply.refuse("not now");
        let error = asking.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the worker that runs does not hand over: not now");
        assert!(!error.may_be_its_end());
        // Who is asked and says nothing is on its way out.
        let asking = ask(dir.path());
        drop(door.next().await);
        let error = asking.join().unwrap().unwrap_err();
        assert!(matches!(error, TakeoverError::Ends) && error.may_be_its_end(), "{error}");
    }

    #[tokio::test]
    async fn where_nobody_is_there_is_nothing_to_take_over() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Predecessor::ask(dir.path()), Err(TakeoverError::Absent { .. })));
        let door = Door::open(dir.path(), offer(), estate(dir.path())).unwrap();
        let asking = ask(dir.path());
        drop(door);
        // Asked before or after: nobody answers for it.
        assert!(asking.join().unwrap().unwrap_err().may_be_its_end());
    }

    #[test]
    fn names_are_the_plain_ones_unless_these_are_taken() {
        assert_eq!(other_name("ol-a", "ol-a"), "ol-a-next");
        assert_eq!(other_name("ol-a", "ol-a-next"), "ol-a");
        assert_eq!(other_name("ol-b", "ol-a"), "ol-b");
        assert_eq!(names("x"), ["x", "x-next"]);
    }
}
