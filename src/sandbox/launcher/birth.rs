//! A fork in a shell of its own: the steps from a zygote to a confined interpreter that has said nothing yet.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use actors::world::{Class, LaunchError, Network};
use slog::debug;

use super::{Inner, failed};
use crate::sandbox::cgroup::{Cgroup, CgroupError, CgroupRoot, Limits, Nest, Ways};
use crate::sandbox::channel::Channel;
use crate::sandbox::family::{Outer, Shell, ShellOrder};
use crate::sandbox::logs::Naming;
use crate::sandbox::network::{self, NetworkError, Outbound};
use crate::sandbox::process::Process;
use crate::sandbox::reaper::Remains;
use crate::sandbox::shells::{Made, SPARE_TIME, Uses};
use crate::sandbox::tally;
use crate::sandbox::uids::{self, RangeLease, Uids};
use crate::sandbox::zygote::{Birth, Entrance, Zygote, control_pair};

/// What an interpreter is wanted for.
pub(super) struct Wanted {
    pub(super) class: Class,
    /// What its shell is made for.
    pub(super) uses: Uses,
    pub(super) room: Room,
    /// For the user namespace of a zygote.
    pub(super) range: Option<RangeLease>,
    /// Somebody waits for it, so it may have a spare shell.
    pub(super) is_waited_for: bool,
}

/// From a fork that is waited for to the making of the next one's shell: the time of such a fork.
const KEEP_SHELLS_PAUSE: Duration = Duration::from_millis(5);

/// Open files of one sandbox: the customary soft limit, which programs with `select` rely on.
const SANDBOX_FILES_MAX: u32 = 1024;

/// A confined interpreter that has said nothing yet.
pub(super) struct Newborn {
    pub(super) channel: Channel,
    pub(super) process: Process,
    pub(super) naming: Naming,
    /// How long its shell took.
    pub(super) shell: Duration,
    /// Of a zygote: its control socket, and the uids of its user namespace.
    pub(super) sprout: Option<(OwnedFd, Uids)>,
}

/// Where the cgroup of a new interpreter lies.
pub(super) enum Room {
    /// Below the worker's.
    Root,
    /// In a new nest, beside those of its forks.
    Nest { n_forks_max: usize },
    /// In that of the zygote that it is forked from, if it has one.
    BesideZygote,
}

/// The cgroup of a shell that is to be made.
struct GroupOrder {
    name: String,
    /// Of the nest, if it gets a new one.
    nest: String,
    beside: Option<Arc<Nest>>,
    limits: Limits,
    room: Room,
    may_be_born_inside: bool,
}

impl GroupOrder {
    /// Blocks.
    fn make(self, cgroups: &CgroupRoot) -> Result<(Cgroup, Ways), CgroupError> {
        let Limits { memory_bytes, swap_bytes, .. } = self.limits;
        let nest = match self.room {
            Room::Root => None,
            Room::BesideZygote => self.beside,
            Room::Nest { n_forks_max } => {
                // As much as zygote and sandboxes may use each by itself.
                let n = n_forks_max as u64 + 1;
                Some(cgroups.nest(
                    &self.nest,
                    memory_bytes.saturating_mul(n),
                    swap_bytes.saturating_mul(n),
                )?)
            }
        };
        let began = Instant::now();
        let group = cgroups.create(&self.name, self.limits, nest)?;
        tally::CGROUP.add(began);
        let birthplace = if self.may_be_born_inside { group.birthplace()? } else { None };
        let ways = match birthplace {
            Some(birthplace) => Ways::Birth(birthplace),
            None => Ways::Procs(group.procs()?),
        };
        Ok((group, ways))
    }
}

impl Inner {
    /// A confined interpreter in a shell of its own, forked from this zygote: for a sandbox, or, with uids for a user
    /// namespace, for a zygote. In one of the zygote's spare shells if somebody waits.
    pub(super) async fn bear(
        self: &Arc<Self>,
        zygote: &Arc<Zygote>,
        wanted: Wanted,
    ) -> Result<Newborn, LaunchError> {
        let Wanted { class, uses, .. } = wanted;
        if wanted.is_waited_for && wanted.range.is_none() && class.network != Network::Outbound {
            let began = Instant::now();
            let spare = zygote.shells.take(uses);
            self.keep_shells(zygote, class, uses);
            if let Some(shell) = spare {
                let waited = began.elapsed();
                match self.bear_in(shell, zygote, waited).await {
                    Ok(newborn) => return Ok(newborn),
                    // It may have been ended a moment ago; a new one will tell.
                    Err(error) => debug!(self.log, "a spare shell was of no use"; "error" => %error),
                }
            }
        }
        let shell = self.shell(zygote, wanted).await?;
        let took = shell.took;
        self.bear_in(shell, zygote, took).await
    }

    /// An interpreter in this shell, for which one has waited so long.
    async fn bear_in(
        &self,
        shell: Made,
        zygote: &Arc<Zygote>,
        waited: Duration,
    ) -> Result<Newborn, LaunchError> {
        let Made { mut process, namespaces, ways, door, uid, users, .. } = shell;
        let (channel, theirs) = Channel::pair().map_err(failed("make a socket pair"))?;
        let (reader, writer) = log_pipe().map_err(failed("make a pipe"))?;
        let (sprout, control) = match users {
            Some(users) => {
                let (ours, theirs) = control_pair().map_err(failed("make a socket pair"))?;
                (Some((ours, users)), Some(theirs))
            }
            None => (None, None),
        };
        let birth = Birth {
            id: process.id,
            uid,
            nofile: SANDBOX_FILES_MAX,
            namespaces: &namespaces,
            answers: theirs.answers.as_fd(),
            log: writer.as_fd(),
            requests: theirs.requests.as_fd(),
            control: control.as_ref().map(AsFd::as_fd),
            entrance: match &ways {
                Ways::Birth(group) => Entrance::Birthplace(group.as_fd()),
                Ways::Procs(_) if zygote.outer().is_some() => Entrance::Door(door.as_fd()),
                Ways::Procs(procs) => Entrance::Procs(procs),
            },
        };
        let began = Instant::now();
        process.exit = Some(zygote.fork(&birth).await.map_err(failed("fork an interpreter"))?);
        tally::FORK.add(began);
        // While we held its end of the answers the death of the sandbox would not close it.
        drop((theirs, writer, control));
        let (naming, following) = self.logs.follow(reader, process.id);
        process.remains_mut().following = Some(following);
        Ok(Newborn { channel, process, naming, shell: waited, sprout })
    }

    /// A shell for a fork of this zygote.
    async fn shell(self: &Arc<Self>, zygote: &Arc<Zygote>, wanted: Wanted) -> Result<Made, LaunchError> {
        let Wanted { class, uses, room, range, .. } = wanted;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let ids = range.as_ref().map(RangeLease::range);
        let users = ids.map(|ids| Uids::new(ids.len, uids::n_single(ids.len)));
        let uid = users.as_ref().unwrap_or(&zygote.uids).take();
        let uid = uid.ok_or_else(|| LaunchError::Resources("no uid is free".into()))?;
        let uid_number = uid.uid();
        // From here on, whatever has been made is taken down when this future ends early.
        let remains = Remains {
            id,
            init: None,
            cgroup: None,
            link: None,
            network: None,
            uid: Some(uid),
            users: range,
            retiring: None,
            following: None,
            zygote: Arc::downgrade(zygote),
        };
        let mut process =
            Process::new(remains, self.reaper.clone(), self.last_resort.clone(), Arc::clone(zygote));
        let may_be_born_inside = zygote.outer().is_none() && users.is_none();
        let group = GroupOrder {
            name: format!("{}-{id}", if users.is_some() { "zygote" } else { "sandbox" }),
            nest: format!("lambda-{id}"),
            beside: zygote.nest(),
            limits: with_init(uses.0),
            room,
            may_be_born_inside,
        };
        let cgroups = self.cgroups.clone();
        let (group, ways) = tokio::task::spawn_blocking(move || group.make(&cgroups))
            .await
            .map_err(|error| LaunchError::Failed(error.to_string()))?
            .map_err(|error| LaunchError::Resources(error.to_string()))?;
        process.remains_mut().cgroup = Some(group);
        let began = Instant::now();
        let (inside, door) = UnixStream::pair().map_err(failed("make a socket pair"))?;
        let outer = zygote.outer().map(|init| Outer { init, door: inside.as_fd() });
        // Not one that is connected to the outside, nor that of a zygote, which may do in it what it likes.
        let is_plain = class.network == Network::None && ids.is_none();
        let spare = if is_plain { zygote.networks.take() } else { None };
        let network = spare.as_ref().map(AsFd::as_fd);
        let order = ShellOrder { id, tmp_mb: uses.1, ways: &ways, outer, users: ids, network };
        let Shell { init, namespaces } =
            zygote.family.make_shell(&order).await.map_err(failed("prepare a shell"))?;
        let took = began.elapsed();
        tally::SHELL.add(began);
        if is_plain {
            process.remains_mut().network = namespaces.network().map_err(failed("copy a descriptor"))?;
        }
        // Its end closes the door.
        drop(inside);
        if class.network == Network::Outbound {
            let for_link = init.try_clone().map_err(failed("copy a descriptor"))?;
            process.remains_mut().init = Some(init);
            process.remains_mut().link = Some(self.connect(for_link).await?);
        } else {
            process.remains_mut().init = Some(init);
        }
        Ok(Made { process, namespaces, ways, door, uid: uid_number, users, uses, took })
    }

    /// Has shells made for the forks of this zygote that will be waited for, for as long as such forks come.
    fn keep_shells(self: &Arc<Self>, zygote: &Arc<Zygote>, class: Class, uses: Uses) {
        if !zygote.shells.want_keeper() {
            return;
        }
        let (inner, asked) = (Arc::clone(self), zygote.shells.asked());
        let zygote = Arc::downgrade(zygote);
        tokio::spawn(async move {
            loop {
                // The fork that is waited for now comes first.
                tokio::time::sleep(KEEP_SHELLS_PAUSE).await;
                match zygote.upgrade() {
                    Some(zygote) if zygote.is_alive() => inner.stock_shells(&zygote, class, uses).await,
                    _ => return,
                }
                if tokio::time::timeout(SPARE_TIME, asked.notified()).await.is_err() {
                    return zygote.upgrade().map_or((), |zygote| zygote.shells.forsake());
                }
            }
        });
    }

    async fn stock_shells(self: &Arc<Self>, zygote: &Arc<Zygote>, class: Class, uses: Uses) {
        while zygote.shells.has_room(&self.n_spare) {
            let wanted = Wanted { class, uses, room: Room::BesideZygote, range: None, is_waited_for: false };
            match self.shell(zygote, wanted).await {
                Ok(shell) => zygote.shells.put(shell, &self.n_spare),
                // Who waits for a fork makes one, and hears why not.
                Err(error) => return debug!(self.log, "no shell could be made ahead"; "error" => %error),
            }
        }
    }

    async fn connect(self: &Arc<Self>, init: OwnedFd) -> Result<network::Link, LaunchError> {
        let outbound = self.outbound().await?;
        tokio::task::spawn_blocking(move || outbound.attach(init.as_fd()))
            .await
            .map_err(|error| LaunchError::Failed(error.to_string()))?
            .map_err(|error| match error {
                NetworkError::NoAddress { .. } => {
                    LaunchError::Resources(format!("connect the sandbox's network: {error}"))
                }
                _ => LaunchError::Failed(format!("connect the sandbox's network: {error}")),
            })
    }

    async fn outbound(self: &Arc<Self>) -> Result<Arc<Outbound>, LaunchError> {
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut outbound = inner.outbound.lock().unwrap_or_else(PoisonError::into_inner);
            match &*outbound {
                Some(outbound) => Ok(Arc::clone(outbound)),
                None => Ok(Arc::clone(outbound.insert(Arc::new(Outbound::start(
                    &inner.slot,
                    &inner.spec.dns,
                    &inner.log,
                )?)))),
            }
        })
        .await
        .map_err(|error| LaunchError::Failed(error.to_string()))?
        .map_err(|error: NetworkError| LaunchError::Unsupported(format!("network 'outbound': {error}")))
    }
}

/// What a function may use, and its sandbox's init on top. The same for a standby as for what becomes of it: limits
/// that do not differ are not written again when a request waits.
pub(super) fn with_init(limits: Limits) -> Limits {
    Limits { n_processes: limits.n_processes + 1, ..limits }
}

/// Reading must not block the log thread; writing blocks the function that floods it.
fn log_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader.into(), writer.into()))
}
