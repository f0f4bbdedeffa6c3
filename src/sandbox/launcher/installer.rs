//! The installer sandbox: where the programs run that fetch and build packages.
//!
//! It is a function's sandbox, with the same walls: a standby that is given code of the worker's own, which starts a
//! program and says what came of it. Two things are added. A directory that it may write to, whose files the worker
//! looks at when nobody is in there any more; and a socket of the worker's that listens *inside* its network
//! namespace, so that whoever is in there reaches the worker's proxy, and by it what that allows, and nothing else.

use std::any::Any;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actors::name::FunctionName;
use actors::world::{Class, LaunchError, Making, Network, Start};
use nix::sched::{CloneFlags, setns};
use rustix::fd::AsFd;

use super::{Launcher, Output, Program, Sandbox, failed};
use crate::sandbox::cgroup::Limits;
use crate::sandbox::channel::ChannelError;
use crate::sandbox::mounter::Access;
use crate::sandbox::pidfd;
use actors::haste::Haste;

/// Where it finds the directory that it may write to.
pub const WORK: &str = "/mnt";
/// How long its code, which imports little, may take to be loaded.
const LOAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long the kernel may take to end what runs in it: killed processes end in well under a millisecond, unless they
/// wait for a disk.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What an installer sandbox is to be.
#[derive(Debug)]
pub struct InstallerOrder<'a> {
    /// A directory of the worker's with the code, and with what it runs; read-only.
    pub tools: &'a Path,
    /// The file to load.
    pub entry: &'a str,
    /// An empty directory of the worker's, which this sandbox's user is given.
    pub work: &'a Path,
    /// Directories of the machine to be seen read-only, at these directories of `work`.
    pub shown: &'a [(&'a Path, &'a str)],
    /// What it may use.
    pub limits: Limits,
    /// Size of its `/tmp`, in MiB.
    pub tmp_mb: u32,
}

/// See the module's text. Dropped, it is ended, and nobody waits for that.
#[derive(Debug)]
pub struct InstallerSandbox {
    sandbox: Sandbox,
}

impl Launcher {
    /// A sandbox for one run of an installer.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub async fn open_installer(&self, order: &InstallerOrder<'_>) -> Result<InstallerSandbox, LaunchError> {
        let class = Class { network: Network::None };
        let mut standby = self.prepare(class, None, &Haste::waited_for()).await?;
        let uid = standby.process.remains_mut().uid.as_ref().map(super::super::uids::UidLease::uid);
        let uid = self.inner.slot.uid_base() + uid.expect("a standby has a uid until it is buried");
        chown(order.work, Some(uid), Some(uid)).map_err(failed("give the installer its directory"))?;
        // The worker itself is going to listen in there: it is nobody's afterwards.
        standby.process.remains_mut().network = None;
        let init =
            standby.process.init().ok_or_else(|| LaunchError::Failed("the standby has no init".into()))?;
        let mount = |directory: &Path, place: &str, access| {
            self.inner
                .mounter
                .attach(init, directory, place, access)
                .map_err(failed("mount the installer's directory"))
        };
        mount(order.work, WORK, Access::Write)?;
        for (directory, place) in order.shown {
            mount(directory, &format!("{WORK}/{place}"), Access::Read)?;
        }
        let name: FunctionName = "installer".parse().expect("it is a name");
        let program = Program {
            name,
            directory: order.tools.to_owned(),
            entry: order.entry.to_owned(),
            environment: [].into(),
            packages: Vec::new(),
            limits: order.limits,
            tmp_mb: order.tmp_mb,
            n_sandboxes_max: 1,
            load_patience: LOAD_PATIENCE,
            holds: Arc::new(()) as Arc<dyn Any + Send + Sync>,
        };
        let making = Making { start: Start::Forked, packages: Duration::ZERO };
        // What it prints is told in its answer; there is no function whose log it could be.
        let sandbox = self.adopt(standby, program, making)?.load(None, |output: Output| drop(output)).await?;
        Ok(InstallerSandbox { sandbox })
    }
}

impl InstallerSandbox {
    /// A socket that listens on a port of its loopback. Who takes connections from it is outside. Blocks for a moment.
    ///
    /// # Errors
    /// When its network namespace cannot be entered.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let init = self.init()?;
        // The thread ends in there; it would have nothing to come back for.
        let visit = std::thread::Builder::new().name("visitor".into()).spawn(move || {
            setns(init, CloneFlags::CLONE_NEWNET)?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        })?;
        visit.join().map_err(|_| io::Error::other("the visitor of the installer's network has panicked"))?
    }

    /// Has it do what the request says, and gives its answer.
    ///
    /// # Errors
    /// When it dies over it; the text says of what.
    pub async fn run(&mut self, request: &[u8]) -> Result<Vec<u8>, String> {
        let exchange = async {
            self.sandbox.channel.send_request(&[], request, false).await?;
            self.sandbox.channel.receive().await
        };
        let error = match exchange.await {
            Ok(answer) if answer.is_whole() && !answer.header.failed() => return Ok(answer.body.to_vec()),
            Ok(answer) => return Err(String::from_utf8_lossy(&answer.body).into_owned()),
            Err(error) => error,
        };
        Err(self.obituary(&error).await)
    }

    /// Whether the kernel has ended something in it for want of memory.
    #[must_use]
    pub fn was_out_of_memory(&self) -> bool {
        self.sandbox.process.n_oom_kills() > 0
    }

    async fn obituary(&self, error: &ChannelError) -> String {
        self.sandbox.obituary(error).await
    }

    fn init(&self) -> io::Result<OwnedFd> {
        let init = self.sandbox.process.init();
        init.ok_or_else(|| io::Error::other("the installer has no init"))?.try_clone_to_owned()
    }

    /// Ends it, and comes back when nobody is in it any more who could still write.
    ///
    /// # Errors
    /// When the kernel does not let go of it in time: then what it wrote must not be used.
    pub async fn end(self) -> io::Result<()> {
        let init = self.init()?;
        drop(self);
        let deadline = tokio::time::Instant::now() + END_PATIENCE;
        while !pidfd::has_ended(init.as_fd())? {
            if tokio::time::Instant::now() > deadline {
                return Err(io::Error::other("the installer does not end although it was killed"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
