//! The outbound network: what connects a sandbox to the world, and keeps it from everything nearer.
//!
//! ```text
//!   sandbox's namespace            machine's namespace
//!   eth0 100.64.0.2/32 ─── veth ─── ol0-2 ── route 100.64.0.2/32 ── forward ── masquerade ── world
//!   default via 100.64.0.1          (no address)                    └ table inet ol_slot_0
//! ```
//!
//! * IPv4 only. A sandbox has no IPv6 address, and what it sends is dropped.
//! * Nobody has the gateway's address: both ends know each other's Ethernet address from the start, and the machine has
//!   none of its own on these interfaces. There is no ARP, and nothing to talk to.
//! * What may go where: [`rules`]. Which addresses: [`addresses`]. What remains on the machine: [`forwarding`].
//! * The kernel removes both interfaces with the sandbox's namespace; one thread waits for that, and gives the address
//!   back then. The same thread puts the rules back when somebody flushes the packet filter, as a reload of
//!   the machine's firewall does; until then (a quarter of a second) sandboxes are held by nothing.
//!
//! Needed: the program `nft`, and `fib`, `reject`, `connlimit`, `masq` of the kernel's nftables (Linux 5.9).

mod addresses;
mod forwarding;
mod netlink;
mod resolvers;
mod rules;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nix::net::if_::{if_nameindex, if_nametoindex};
use nix::sched::{CloneFlags, setns};
use slog::{Logger, error, warn};

use self::addresses::{Lease, Pool, Range, ethernet};
use self::netlink::{CREATE, Netlink, REPLACE, Request};
pub use self::resolvers::resolvers;
use super::uids::Slot;

/// How often the thread looks: whether the rules are there, and which of the dead have gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// When an interface that has not gone with its namespace is removed by us. The kernel takes namespaces down in
/// batches, 256 in 1.8 s; somebody who looks into a dead one (`nsenter`) keeps it for as long as he does.
const REMOVE_AFTER: Duration = Duration::from_secs(3);
/// How long until a new interface passes packets: well below a millisecond, on a busy machine some.
const OPERATIONAL_WITHIN: Duration = Duration::from_millis(100);
const OPERATIONAL_LOOK_EVERY: Duration = Duration::from_micros(200);
/// Number of `eth0` in the sandbox's namespace. One that no interface of the machine will ever have: where both ends have the
/// same number the kernel takes them for one interface, and lets up to a second pass until it passes packets.
const INDEX_INSIDE: u32 = 1_000_000_000;
/// First bytes of Ethernet addresses: of the sandbox's end, and of ours.
const ETHERNET_INSIDE: u8 = 0x02;
const ETHERNET_OUTSIDE: u8 = 0x06;

/// Why a sandbox has no network.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    #[error("cannot {what}: {source}")]
    Step { what: &'static str, source: io::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("all of its {n_addresses} addresses are taken")]
    NoAddress { n_addresses: u32 },
    #[error("the program nft is missing (package nftables)")]
    NoNft,
    #[error("{} ended with {status}: {text}", program.display())]
    Refused { program: PathBuf, status: ExitStatus, text: String },
    #[error("sandboxes would have addresses from {range}, which this machine has a route to by {interface}")]
    RangeInUse { range: String, interface: String },
}

type Result<T> = std::result::Result<T, NetworkError>;

fn step<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> NetworkError {
    move |error| NetworkError::Step { what, source: error.into() }
}

/// Connects sandboxes. While it or one of its links lives, the rules are in force.
#[derive(Debug)]
pub(super) struct Outbound {
    shared: Arc<Shared>,
}

/// A sandbox's connection. When it is dropped, which does not block, the interfaces go and the address
/// comes back; to be dropped when the sandbox is dead.
#[derive(Debug)]
pub(super) struct Link {
    /// There until it is dropped.
    lease: Option<Lease>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rules: Arc<Rules>,
    pool: Pool,
    /// The machine's network namespace.
    outside: File,
    /// There until it is dropped.
    keeper: Option<(Sender<Job>, JoinHandle<()>)>,
}

/// What is to be in force.
#[derive(Debug)]
struct Rules {
    range: Range,
    text: String,
}

/// For the thread.
enum Job {
    Born,
    Died(Lease),
}

/// Removes what a worker with this slot has left behind.
pub(super) fn sweep(slot: &Slot) -> Result<()> {
    sweep_range(Range::new(slot.number()))
}

fn sweep_range(range: Range) -> Result<()> {
    remove_interfaces(range)?;
    delete_table(range)
}

/// Before the rules, which hold only while there are no interfaces to be held.
fn remove_interfaces(range: Range) -> Result<()> {
    let prefix = range.prefix();
    let netlink = Netlink::route().map_err(step("open a socket to the kernel"))?;
    let interfaces = if_nameindex().map_err(step("list interfaces"))?;
    for name in interfaces.iter().filter_map(|interface| interface.name().to_str().ok()) {
        if name.starts_with(&prefix) {
            netlink.delete_link(name).map_err(step("remove an interface"))?;
        }
    }
    Ok(())
}

fn delete_table(range: Range) -> Result<()> {
    let netlink = Netlink::netfilter().map_err(step("open a socket to the packet filter"))?;
    netlink.delete_table(&range.table()).map_err(step("delete the packet filter's table"))
}

impl Outbound {
    /// Puts the rules in force. `resolvers` are the sandboxes' name servers. Blocks, for some 20 ms.
    pub(super) fn start(slot: &Slot, resolvers: &[String], log: &Logger) -> Result<Self> {
        Self::start_in(Range::new(slot.number()), resolvers, log)
    }

    fn start_in(range: Range, resolvers: &[String], log: &Logger) -> Result<Self> {
        remove_interfaces(range)?;
        let resolvers: Vec<Ipv4Addr> = resolvers.iter().filter_map(|server| server.parse().ok()).collect();
        let guard = forwarding::enable(range)?;
        let rules = Arc::new(Rules { range, text: rules::slot_table(range, &resolvers) + &guard });
        rules::apply(&rules.text)?;
        for chain in rules::obstacles() {
            warn!(log, "the machine's firewall drops what it forwards unless a rule of its own allows it; sandboxes with \
                network 'outbound' may reach nothing until it lets their interfaces through (see docs/SANDBOX.md)";
                "chain" => chain, "interfaces" => format!("{}*", range.prefix()));
        }
        let outside =
            File::open("/proc/thread-self/ns/net").map_err(step("open the machine's network namespace"))?;
        // Not bounded: an entry for each interface that is made, another when it is dropped, and these are as many as sandboxes. A
        // bound could only block a drop, or lose one.
        let (sender, jobs) = unbounded();
        let keeper = Keeper { rules: Arc::clone(&rules), n_alive: 0, dead: Vec::new(), log: log.clone() };
        // Should the thread not start, the table stays until the next start; it says nothing about anybody else.
        let thread = thread::Builder::new()
            .name("network".into())
            .spawn(move || keeper.run(&jobs))
            .map_err(step("start a thread"))?;
        let shared = Shared { rules, pool: Pool::new(), outside, keeper: Some((sender, thread)) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Connects the network namespace of a process, which has none but its loopback interface. Blocks, for
    /// less than a millisecond as a rule, as the kernel changes one thing about networks at a time.
    pub(super) fn attach(&self, init: BorrowedFd<'_>) -> Result<Link> {
        let shared = &self.shared;
        // Never an interface without rules.
        shared.rules.ensure()?;
        let link = shared.link()?;
        let (range, number) = (shared.rules.range, link.number());
        let (name, address) = (range.interface(number), range.address(number));
        let (mac_inside, mac_outside) =
            (ethernet(ETHERNET_INSIDE, address), ethernet(ETHERNET_OUTSIDE, address));
        let inside = socket_inside(init)?;
        let outside = Netlink::route().map_err(step("open a socket to the kernel"))?;

        inside
            .ask(pair(&name, mac_inside, mac_outside, &shared.outside))
            .map_err(step("make a pair of interfaces"))?;
        let index = if_nametoindex(name.as_str()).map_err(step("find the new interface"))?;
        // While they are down: as they come up they would take IPv6 addresses.
        forgo_ipv6(&outside, index).map_err(step("switch IPv6 off outside"))?;
        forgo_ipv6(&inside, INDEX_INSIDE).map_err(step("switch IPv6 off inside"))?;
        outside
            .ask_all(vec![
                forwarding_without_arp(index),
                up(index),
                known_neighbour(index, address, mac_inside),
                route_to(index, address),
            ])
            .map_err(step("set up the interface outside"))?;
        inside
            .ask_all(vec![
                own_address(INDEX_INSIDE, address),
                up(INDEX_INSIDE),
                known_neighbour(INDEX_INSIDE, range.gateway(), mac_outside),
                default_route(INDEX_INSIDE, range.gateway()),
            ])
            .map_err(step("set up the interface inside"))?;
        wait_until_operational(&outside, index)?;
        wait_until_operational(&inside, INDEX_INSIDE)?;
        Ok(link)
    }
}

impl Shared {
    fn link(self: &Arc<Self>) -> Result<Link> {
        let link = Link { lease: Some(self.pool.take()?), shared: Arc::clone(self) };
        self.tell(Job::Born);
        Ok(link)
    }

    fn tell(&self, job: Job) {
        if let Some((keeper, _)) = &self.keeper {
            // It ends only after this has been taken away.
            let _ = keeper.send(job);
        }
    }
}

impl Link {
    fn number(&self) -> u32 {
        self.lease.as_ref().expect("only the destructor takes it").number()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.shared.tell(Job::Died(lease));
        }
    }
}

impl Drop for Shared {
    /// Blocks until interfaces and rules are gone: at the end of the worker.
    fn drop(&mut self) {
        if let Some((jobs, thread)) = self.keeper.take() {
            drop(jobs);
            let _ = thread.join();
        }
    }
}

impl Rules {
    /// Puts the rules back if they are gone; true when they were.
    fn ensure(&self) -> Result<bool> {
        let netlink = Netlink::netfilter().map_err(step("open a socket to the packet filter"))?;
        if netlink.has_table(&self.range.table()).map_err(step("look for the packet filter's table"))? {
            return Ok(false);
        }
        rules::apply(&self.text).map(|()| true)
    }
}

/// The thread.
struct Keeper {
    rules: Arc<Rules>,
    n_alive: usize,
    dead: Vec<(Lease, Instant)>,
    log: Logger,
}

impl Keeper {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut next_look = Instant::now();
        loop {
            let is_idle = self.n_alive == 0 && self.dead.is_empty();
            let next = if is_idle {
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_deadline(next_look)
            };
            match next {
                Ok(Job::Born) => self.n_alive += 1,
                Ok(Job::Died(lease)) => {
                    self.n_alive -= 1;
                    self.dead.push((lease, Instant::now()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.look();
                    next_look = Instant::now() + LOOK_EVERY;
                }
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            }
        }
    }

    fn look(&mut self) {
        match self.rules.ensure() {
            Ok(false) => {}
            Ok(true) => warn!(self.log, "put the packet filter's rules back: somebody had removed them"),
            Err(error) => {
                // Rather no network than one that leads everywhere.
                error!(self.log, "disconnected all sandboxes: the packet filter's rules are gone and cannot be put back";
                    "error" => error.to_string());
                if let Err(error) = remove_interfaces(self.rules.range) {
                    error!(self.log, "could not disconnect sandboxes"; "error" => error.to_string());
                }
            }
        }
        let Self { dead, rules, log, .. } = self;
        dead.retain_mut(|(lease, since)| {
            let name = rules.range.interface(lease.number());
            if if_nametoindex(name.as_str()).is_err() {
                return false;
            }
            if since.elapsed() > REMOVE_AFTER
                && let Err(error) = Netlink::route().and_then(|netlink| netlink.delete_link(&name))
            {
                warn!(log, "could not remove an interface"; "interface" => name, "error" => error.to_string());
            }
            // Looked at once more: the address is free when the interface is seen to be gone.
            true
        });
    }

    fn end(self) {
        if let Err(error) = sweep_range(self.rules.range) {
            warn!(self.log, "could not take the outbound network down; the next start does"; "error" => error.to_string());
        }
    }
}

/// A socket to the kernel that is about the namespace of another process. It takes a thread of its own to open one, as a
/// thread has to be in the namespace for that; descriptors stay with the namespace afterwards.
fn socket_inside(init: BorrowedFd<'_>) -> Result<Netlink> {
    thread::scope(|scope| {
        let open = || {
            setns(init, CloneFlags::CLONE_NEWNET).map_err(step("enter the sandbox's network namespace"))?;
            Netlink::route().map_err(step("open a socket to the kernel"))
        };
        let thread = thread::Builder::new()
            .name("visitor".into())
            .spawn_scoped(scope, open)
            .map_err(step("start a thread"))?;
        thread.join().expect("it calls the kernel twice and does not panic")
    })
}

/// The end that came up first passes packets only when a worker of the kernel's has noticed that the other is there,
/// and what is sent before is lost: a connection would take a second longer.
fn wait_until_operational(netlink: &Netlink, index: u32) -> Result<()> {
    let deadline = Instant::now() + OPERATIONAL_WITHIN;
    while !netlink.is_operational(index).map_err(step("look at the new interface"))? {
        if Instant::now() > deadline {
            // It will be, and connections are tried again.
            return Ok(());
        }
        thread::sleep(OPERATIONAL_LOOK_EVERY);
    }
    Ok(())
}

/// Made from inside, where the number of the new interface can be chosen; its peer is born outside.
fn pair(name: &str, mac_inside: [u8; 6], mac_outside: [u8; 6], outside: &File) -> Request {
    const VETH_INFO_PEER: u16 = 1;
    Request::new(libc::RTM_NEWLINK, CREATE, &netlink::link(INDEX_INSIDE, false))
        .text(libc::IFLA_IFNAME, "eth0")
        .attribute(libc::IFLA_ADDRESS, &mac_inside)
        .nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |data| {
                data.nest_after(VETH_INFO_PEER, &netlink::link(0, false), |peer| {
                    peer.text(libc::IFLA_IFNAME, name)
                        .attribute(libc::IFLA_ADDRESS, &mac_outside)
                        .number(libc::IFLA_NET_NS_FD, outside.as_raw_fd() as u32)
                })
            })
        })
}

/// `IN6_ADDR_GEN_MODE_NONE`: no link-local address, and so nothing that speaks IPv6.
fn forgo_ipv6(netlink: &Netlink, index: u32) -> io::Result<()> {
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    const NONE: u8 = 1;
    let request = Request::new(libc::RTM_SETLINK, 0, &netlink::link(index, false)).nest(
        libc::IFLA_AF_SPEC,
        |families| {
            families.nest(libc::AF_INET6 as u16, |inet6| inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[NONE]))
        },
    );
    match netlink.ask(request) {
        // The kernel has no IPv6: as good.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        result => result,
    }
}

/// The sysctls `forwarding` (of what comes in here) and `arp_ignore` of one interface; numbers from `linux/ip.h`.
fn forwarding_without_arp(index: u32) -> Request {
    const IFLA_INET_CONF: u16 = 1;
    const FORWARDING: u16 = 1;
    const ARP_IGNORE: u16 = 19;
    /// Answer for no address.
    const ALL: u32 = 8;
    Request::new(libc::RTM_SETLINK, 0, &netlink::link(index, false)).nest(libc::IFLA_AF_SPEC, |families| {
        families.nest(libc::AF_INET as u16, |inet| {
            inet.nest(IFLA_INET_CONF, |switches| switches.number(FORWARDING, 1).number(ARP_IGNORE, ALL))
        })
    })
}

fn up(index: u32) -> Request {
    Request::new(libc::RTM_SETLINK, 0, &netlink::link(index, true))
}

fn own_address(index: u32, address: Ipv4Addr) -> Request {
    let octets = address.octets();
    Request::new(libc::RTM_NEWADDR, CREATE, &netlink::address(index))
        .attribute(libc::IFA_LOCAL, &octets)
        .attribute(libc::IFA_ADDRESS, &octets)
}

fn known_neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Request {
    Request::new(libc::RTM_NEWNEIGH, REPLACE, &netlink::neighbour(index))
        .attribute(libc::NDA_DST, &address.octets())
        .attribute(libc::NDA_LLADDR, &mac)
}

fn route_to(index: u32, address: Ipv4Addr) -> Request {
    Request::new(libc::RTM_NEWROUTE, CREATE, &netlink::route(32, libc::RT_SCOPE_LINK, false))
        .attribute(libc::RTA_DST, &address.octets())
        .number(libc::RTA_OIF, index)
}

fn default_route(index: u32, gateway: Ipv4Addr) -> Request {
    Request::new(libc::RTM_NEWROUTE, CREATE, &netlink::route(0, libc::RT_SCOPE_UNIVERSE, true))
        .attribute(libc::RTA_GATEWAY, &gateway.octets())
        .number(libc::RTA_OIF, index)
}
