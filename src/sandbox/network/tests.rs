//! The whole thing, in a world of its own: a network namespace that plays the machine, with services that a sandbox must
//! not reach, another that plays the world, and sandboxes. No packet leaves them.
//!
//! ```text
//! sandboxes ── ol0-*  machine  up0 203.0.113.1 ──── eth0  world 203.0.113.2
//!                              lan0 10.9.0.1/24           198.51.100.7, 10.0.0.53, 169.254.169.254, 169.254.169.253
//! ```

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use nix::sched::unshare;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;

/// For what is to be answered: far above what it takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// For what is to be refused: a refusal comes at once, a silence is as good.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// A process in namespaces of its own; killed when dropped.
struct Place {
    child: Child,
    pidfd: OwnedFd,
}

impl Place {
    fn new(flags: &[&str]) -> Self {
        // It says so when it is where it should be.
        let mut child = Command::new("unshare")
            .args(flags)
            .args(["sh", "-c", "echo; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        Self { child, pidfd }
    }

    fn sandbox() -> Self {
        let place = Self::new(&["--user", "--net"]);
        place.visit(|| ip("link set lo up"));
        place
    }

    /// Runs something in the place's network.
    fn visit<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.pidfd.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            inside.join().unwrap()
        })
    }

    /// For what should fail.
    fn connect(&self, to: &str) -> io::Result<String> {
        self.visit(|| ask_tcp(to, IMPATIENCE))
    }

    /// For what should not.
    fn asks(&self, to: &str) -> String {
        self.visit(|| ask_tcp(to, PATIENCE)).unwrap()
    }

    fn reaches(&self, to: &str) -> bool {
        self.visit(|| ask_tcp(to, PATIENCE)).inspect_err(|error| eprintln!("{to}: {error}")).is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the server says: who has connected.
fn ask_tcp(to: &str, patience: Duration) -> io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask_udp(to: &str) -> io::Result<String> {
    let socket = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(IMPATIENCE))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// Serves on a port in this thread's network until the process ends.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap();
            let _ = write!(stream, "{}", peer.ip());
        }
    });
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn nft(text: &str) {
    rules::apply(text).unwrap();
}

fn read_switch(path: &str) -> String {
    std::fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(path)).unwrap().trim().into()
}

fn log() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

/// The world, seen from the thread that plays the machine.
struct World {
    place: Place,
}

/// Runs a test on a machine of its own, or says why not.
fn on_a_machine(test: impl FnOnce(&World) + Send + 'static) {
    if let Some(missing) = missing() {
        assert!(
            std::env::var_os("REQUIRE_ALL").is_none_or(|value| value != "1"),
            "cannot be left out: {missing}"
        );
        eprintln!("skipped: {missing}");
        return;
    }
    // A thread of its own, which ends: no other test shall find itself in its network.
    let machine = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        // Inherited from the real machine.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let place = Place::new(&["--net"]);
        ip("link set lo up");
        ip(&format!("link add up0 type veth peer name eth0 netns {}", place.child.id()));
        ip("addr add 203.0.113.1/24 dev up0");
        ip("link set up0 up");
        ip("link add lan0 type veth peer name lan1");
        ip("addr add 10.9.0.1/24 dev lan0");
        ip("link set lan0 up");
        ip("link set lan1 up");
        ip("route add default via 203.0.113.2");
        serve("0.0.0.0:8080");
        serve("127.0.0.1:9000");
        place.visit(|| {
            ip("link set lo up");
            ip("addr add 203.0.113.2/24 dev eth0");
            ip("link set eth0 up");
            // One by one: an answer by UDP from the wildcard address would come from the first of them.
            for address in ["203.0.113.2", "198.51.100.7", "10.0.0.53", "169.254.169.254", "169.254.169.253"]
            {
                if address != "203.0.113.2" {
                    ip(&format!("addr add {address}/32 dev eth0"));
                }
                serve(&format!("{address}:80"));
                serve(&format!("{address}:53"));
            }
        });
        // Links that have just come up may lose a packet.
        eventually("the world is there", || ask_tcp("198.51.100.7:80", IMPATIENCE).is_ok());
        test(&World { place });
    });
    if let Err(panic) = machine.join() {
        std::panic::resume_unwind(panic);
    }
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    ["nft", "ip", "unshare"]
        .into_iter()
        .find(|program| rules::find(program).is_none())
        .map(|program| format!("no program {program}"))
}

fn start(slot: u32, resolvers: &[&str]) -> Outbound {
    let resolvers: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
    Outbound::start_in(Range::new(slot), &resolvers, &log()).unwrap()
}

fn has_interface(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_sandbox_reaches_the_world_under_the_machines_address() {
    on_a_machine(|_| {
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        assert!(sandbox.connect("198.51.100.7:80").is_err(), "not connected yet");
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        assert_eq!(sandbox.asks("198.51.100.7:80"), "203.0.113.1");
        assert_eq!(sandbox.asks("203.0.113.2:80"), "203.0.113.1");
        assert_eq!(sandbox.visit(|| ask_udp("198.51.100.7:53")).unwrap(), "203.0.113.1");
        // A name server in a private range is a place like others.
        assert_eq!(sandbox.visit(|| ask_udp("10.0.0.53:53")).unwrap(), "203.0.113.1");
    });
}

#[test]
fn a_sandbox_reaches_nothing_of_the_machine() {
    on_a_machine(|_| {
        // A port published as Docker does it.
        nft("table ip publish {\nchain p {\ntype nat hook prerouting priority dstnat\n\
            tcp dport 8888 dnat to 198.51.100.7:80\ntcp dport 8889 redirect to :8080\n}\n}\n");
        // And what Kubernetes does to reach such ports by the loopback address.
        std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
        let outbound = start(0, &["203.0.113.1", "127.0.0.1"]);
        let sandbox = Place::sandbox();
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        assert!(sandbox.reaches("198.51.100.7:80"));
        assert!(ask_tcp("203.0.113.1:8080", PATIENCE).is_ok(), "the service is there");
        let forbidden = [
            "203.0.113.1:8080",
            "10.9.0.1:8080",
            "100.64.0.1:8080",
            "203.0.113.1:8888",
            "203.0.113.1:8889",
            "198.51.100.7:8889",
            "203.0.113.1:53",
            "127.0.0.1:9000",
            "0.0.0.0:8080",
        ];
        for to in forbidden {
            assert!(sandbox.connect(to).is_err(), "reached {to}");
            assert!(sandbox.visit(|| ask_udp(to)).is_err(), "reached {to} by UDP");
        }
        // Only what others have translated to an allowed place is allowed.
        assert!(sandbox.reaches("198.51.100.7:8888"));
        // Loopback by the wire, which its own loopback interface does not see.
        sandbox.visit(|| {
            ip("addr flush dev lo");
            ip("route flush table local dev lo");
            ip("route add 127.0.0.0/8 via 100.64.0.1 dev eth0 onlink");
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
        });
        assert!(sandbox.connect("127.0.0.1:9000").is_err());
        // And by ICMP.
        for to in ["203.0.113.1", "100.64.0.1", "169.254.169.254"] {
            assert!(!pings(&sandbox, to), "{to} answers");
        }
    });
}

/// By a datagram socket, which needs no privilege.
fn pings(place: &Place, to: &str) -> bool {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};
    let to = SocketAddr::new(to.parse::<IpAddr>().unwrap(), 0);
    place.visit(move || {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").ok();
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))
            .or_else(|_| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)));
        let Ok(socket) = socket else { return false };
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(IMPATIENCE),
        )
        .unwrap();
        let echo = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
        if sendto(&socket, &echo, SendFlags::empty(), &to).is_err() {
            return false;
        }
        let mut bytes = [0; 128];
        match recv(&socket, &mut bytes, RecvFlags::empty()) {
            // A raw socket shows the IP header, and refusals as well.
            Ok((_, length)) => bytes[..length].first() == Some(&0) || bytes.get(20) == Some(&0),
            Err(_) => false,
        }
    })
}

#[test]
fn the_world_answers_pings() {
    on_a_machine(|_| {
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        assert!(
            pings(&sandbox, "198.51.100.7"),
            "or the test that nothing of the machine does shows nothing"
        );
    });
}

#[test]
fn a_sandbox_reaches_no_metadata_and_no_other_sandbox() {
    on_a_machine(|_| {
        let (first, second) = (start(0, &["169.254.169.253"]), start(1, &[]));
        let sandboxes = [Place::sandbox(), Place::sandbox(), Place::sandbox()];
        let _links = [
            first.attach(sandboxes[0].pidfd.as_fd()).unwrap(),
            first.attach(sandboxes[1].pidfd.as_fd()).unwrap(),
            second.attach(sandboxes[2].pidfd.as_fd()).unwrap(),
        ];
        for sandbox in &sandboxes {
            sandbox.visit(|| serve("0.0.0.0:7000"));
        }
        assert_eq!(sandboxes[0].asks("100.64.0.2:7000"), "100.64.0.2", "it reaches itself");
        let forbidden = [
            "169.254.169.254:80",
            "169.254.169.254:53",
            "169.254.169.253:80",
            "100.64.0.3:7000",
            "100.64.64.2:7000",
            "255.255.255.255:53",
            "224.0.0.1:53",
        ];
        for to in forbidden {
            assert!(sandboxes[0].connect(to).is_err(), "reached {to}");
            assert!(sandboxes[0].visit(|| ask_udp(to)).is_err(), "reached {to} by UDP");
        }
        assert!(sandboxes[2].connect("100.64.0.2:7000").is_err(), "reached a sandbox of another worker");
        // A name server among the forbidden is let through, by its port, for the slot that has it.
        assert!(sandboxes[0].visit(|| ask_udp("169.254.169.253:53")).is_ok());
        assert!(sandboxes[2].visit(|| ask_udp("169.254.169.253:53")).is_err());
    });
}

#[test]
fn refusals_come_at_once() {
    on_a_machine(|_| {
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        let since = Instant::now();
        let error = sandbox.connect("169.254.169.254:80").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
        assert!(since.elapsed() < IMPATIENCE);
    });
}

#[test]
fn nobody_opens_a_connection_to_a_sandbox() {
    on_a_machine(|world| {
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        sandbox.visit(|| serve("0.0.0.0:7000"));
        world.place.visit(|| ip("route add 100.64.0.0/10 via 203.0.113.1"));
        assert!(world.place.connect("100.64.0.2:7000").is_err());
        assert!(world.place.visit(|| ask_udp("100.64.0.2:7000")).is_err());
        assert!(sandbox.reaches("198.51.100.7:80"));
    });
}

#[test]
fn a_false_sender_and_ipv6_are_dropped() {
    on_a_machine(|world| {
        let outbound = start(0, &[]);
        let (liar, neighbour) = (Place::sandbox(), Place::sandbox());
        let _links =
            [outbound.attach(liar.pidfd.as_fd()).unwrap(), outbound.attach(neighbour.pidfd.as_fd()).unwrap()];
        // The world would send answers here.
        world.place.visit(|| ip("route add default via 203.0.113.1"));
        let (sender, heard) = mpsc::channel();
        world.place.visit(|| {
            let socket = UdpSocket::bind("0.0.0.0:5000").unwrap();
            thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok((length, _)) = socket.recv_from(&mut bytes) {
                    let _ = sender.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
                }
            });
        });
        liar.visit(|| {
            for from in ["8.8.8.8", "100.64.0.3", "203.0.113.1", "203.0.113.9"] {
                ip(&format!("addr add {from}/32 dev eth0"));
                let socket = UdpSocket::bind((from, 0)).unwrap();
                let _ = socket.send_to(from.as_bytes(), "198.51.100.7:5000");
            }
            let socket = UdpSocket::bind("100.64.0.2:0").unwrap();
            socket.send_to(b"true", "198.51.100.7:5000").unwrap();
        });
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), "true");
        assert!(heard.recv_timeout(IMPATIENCE).is_err(), "a false sender got through");
        // Even with an address on both ends.
        ip("-6 addr add fd00::1/64 dev ol0-2 nodad");
        serve_v6();
        liar.visit(|| ip("-6 addr add fd00::2/64 dev eth0 nodad"));
        assert!(liar.visit(|| ask_udp("[fd00::1]:6000")).is_err());
        let text = |place: &Place| {
            place.visit(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap())
        };
        assert!(!text(&neighbour).contains("eth0"), "an IPv6 address that nobody gave");
    });
}

fn serve_v6() {
    let socket = UdpSocket::bind("[::]:6000").unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(b"!", peer);
        }
    });
}

#[test]
fn one_sandbox_cannot_fill_the_machines_connection_table() {
    on_a_machine(|_| {
        let outbound = start(0, &["10.0.0.53"]);
        let (greedy, curious, modest) = (Place::sandbox(), Place::sandbox(), Place::sandbox());
        let _links = [&greedy, &curious, &modest].map(|place| outbound.attach(place.pidfd.as_fd()).unwrap());
        greedy.visit(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for port in 10_000..14_200 {
                // What is refused shows as an error on the next.
                let _ = socket.send_to(b"?", ("198.51.100.7", port));
            }
        });
        assert!(greedy.connect("198.51.100.7:80").is_err(), "beyond the limit");
        // Questions to a name server count as well.
        curious.visit(|| {
            for port in 10_000..14_200 {
                let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
                let _ = socket.send_to(b"?", "10.0.0.53:53");
            }
        });
        assert!(curious.connect("198.51.100.7:80").is_err(), "beyond the limit");
        assert!(curious.connect("10.0.0.53:53").is_err(), "beyond the limit");
        assert!(modest.reaches("10.0.0.53:53"));
        assert!(modest.reaches("198.51.100.7:80"));
    });
}

#[test]
fn the_machine_does_not_become_a_router_for_others() {
    on_a_machine(|world| {
        // Somebody in the other network of the machine.
        let other = Place::new(&["--net"]);
        ip(&format!("link set lan1 netns {}", other.child.id()));
        other.visit(|| {
            ip("link set lo up");
            ip("addr add 10.9.0.2/24 dev lan1");
            ip("link set lan1 up");
            ip("route add default via 10.9.0.1");
        });
        world.place.visit(|| ip("route add 10.9.0.0/24 via 203.0.113.1"));
        assert_eq!(read_switch("ip_forward"), "0");
        assert!(other.connect("198.51.100.7:80").is_err());
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        assert!(sandbox.reaches("198.51.100.7:80"));
        assert!(other.connect("198.51.100.7:80").is_err(), "the machine forwards for others");
        assert_eq!(read_switch("ip_forward"), "0");
        assert_eq!(read_switch("conf/up0/forwarding"), "1");
        assert_eq!(read_switch("conf/default/forwarding"), "0");
        // Also when a worker comes that finds forwarding switched on by the first.
        let second = start(1, &[]);
        drop((outbound, second));
        assert!(other.connect("198.51.100.7:80").is_err(), "the machine forwards for others");
        // The test shows nothing unless this is how it would.
        Netlink::netfilter().unwrap().delete_table(rules::GUARD).unwrap();
        assert!(other.reaches("198.51.100.7:80"));
    });
}

#[test]
fn a_machine_that_forwards_already_is_left_as_it_is() {
    on_a_machine(|_| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        assert!(sandbox.reaches("198.51.100.7:80"));
        assert!(!Netlink::netfilter().unwrap().has_table(rules::GUARD).unwrap());
    });
}

#[test]
fn interface_and_address_go_with_the_sandbox() {
    on_a_machine(|_| {
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        assert!(has_interface("ol0-2"));
        // It dies first, as the reaper has it.
        drop(sandbox);
        drop(link);
        eventually("the interface is gone", || !has_interface("ol0-2"));
        // One that outlives its link loses it all the same.
        let survivor = Place::sandbox();
        let link = outbound.attach(survivor.pidfd.as_fd()).unwrap();
        assert!(has_interface("ol0-3"));
        drop(link);
        eventually("the interface is removed", || !has_interface("ol0-3"));
        assert!(survivor.connect("198.51.100.7:80").is_err());
    });
}

#[test]
fn the_end_leaves_no_table_and_no_interface() {
    on_a_machine(|_| {
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        let netfilter = Netlink::netfilter().unwrap();
        drop(outbound);
        assert!(netfilter.has_table("ol_slot_0").unwrap(), "rules hold as long as there is a link");
        drop(link);
        assert!(!netfilter.has_table("ol_slot_0").unwrap());
        assert!(!has_interface("ol0-2"));
    });
}

#[test]
fn what_a_killed_worker_leaves_is_swept() {
    on_a_machine(|_| {
        let (outbound, other) = (start(1, &[]), start(10, &[]));
        let sandboxes = [Place::sandbox(), Place::sandbox()];
        let lost = outbound.attach(sandboxes[0].pidfd.as_fd()).unwrap();
        let _kept = other.attach(sandboxes[1].pidfd.as_fd()).unwrap();
        // No destructor runs when a worker is killed.
        std::mem::forget((lost, outbound));
        sweep_range(Range::new(1)).unwrap();
        assert!(!has_interface("ol1-2") && has_interface("ol10-2"));
        let netfilter = Netlink::netfilter().unwrap();
        assert!(!netfilter.has_table("ol_slot_1").unwrap() && netfilter.has_table("ol_slot_10").unwrap());
        sweep_range(Range::new(1)).unwrap();
        assert!(sandboxes[1].reaches("198.51.100.7:80"));
    });
}

#[test]
fn a_start_replaces_what_a_killed_worker_has_left() {
    on_a_machine(|_| {
        let outbound = start(0, &["10.0.0.53"]);
        let sandbox = Place::sandbox();
        let link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        std::mem::forget((link, outbound));
        let outbound = start(0, &[]);
        assert!(!has_interface("ol0-2"));
        let sandbox = Place::sandbox();
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        assert!(sandbox.reaches("198.51.100.7:80"));
    });
}

#[test]
fn rules_that_somebody_flushes_come_back() {
    on_a_machine(|_| {
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let _link = outbound.attach(sandbox.pidfd.as_fd()).unwrap();
        nft("flush ruleset");
        let netfilter = Netlink::netfilter().unwrap();
        eventually("the rules are back", || netfilter.has_table("ol_slot_0").unwrap());
        // Both in one transaction, but they are not seen at the same moment.
        eventually("the guard is back", || netfilter.has_table(rules::GUARD).unwrap());
        assert!(sandbox.connect("203.0.113.1:8080").is_err());
        assert!(sandbox.reaches("198.51.100.7:80"));
        // And at once when another sandbox is connected.
        nft("flush ruleset");
        let second = Place::sandbox();
        let _second = outbound.attach(second.pidfd.as_fd()).unwrap();
        assert!(second.connect("203.0.113.1:8080").is_err());
    });
}

#[test]
fn a_firewall_that_drops_is_named() {
    on_a_machine(|_| {
        nft(
            "table ip filter {\nchain FORWARD {\ntype filter hook forward priority filter; policy drop\n}\n}\n",
        );
        assert_eq!(rules::obstacles(), ["ip filter FORWARD"]);
    });
}

#[test]
fn a_machine_with_a_network_in_the_range_is_refused() {
    on_a_machine(|_| {
        ip("addr add 100.64.1.5/24 dev lan0");
        let error = Outbound::start_in(Range::new(0), &[], &log()).unwrap_err();
        assert!(matches!(error, NetworkError::RangeInUse { .. }), "{error}");
        start(1, &[]);
    });
}

#[test]
fn many_are_connected_at_once() {
    on_a_machine(|_| {
        let outbound = start(0, &[]);
        let sandboxes: Vec<Place> = (0..24).map(|_| Place::sandbox()).collect();
        let since = Instant::now();
        let links: Vec<Link> =
            sandboxes.iter().map(|sandbox| outbound.attach(sandbox.pidfd.as_fd()).unwrap()).collect();
        eprintln!("one after the other: {:?} each", since.elapsed() / 24);
        for sandbox in &sandboxes {
            assert!(sandbox.reaches("198.51.100.7:80"));
        }
        let more: Vec<Place> = (0..24).map(|_| Place::sandbox()).collect();
        let since = Instant::now();
        let also: Vec<Link> = thread::scope(|scope| {
            let halves: Vec<_> = more
                .chunks(6)
                .map(|part| {
                    scope.spawn(|| {
                        part.iter()
                            .map(|sandbox| outbound.attach(sandbox.pidfd.as_fd()).unwrap())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
        });
        eprintln!("four at a time: {:?} each", since.elapsed() / 24);
        for sandbox in &more {
            assert!(sandbox.reaches("198.51.100.7:80"));
        }
        let since = Instant::now();
        drop((links, also));
        eprintln!("dropped: {:?} each", since.elapsed() / 48);
    });
}

#[test]
fn a_dead_sandbox_is_an_error_and_not_a_leak() {
    on_a_machine(|_| {
        let outbound = start(0, &[]);
        let sandbox = Place::sandbox();
        let pidfd = sandbox.pidfd.try_clone().unwrap();
        drop(sandbox);
        assert!(matches!(outbound.attach(pidfd.as_fd()), Err(NetworkError::Step { .. })));
        assert!(!has_interface("ol0-2"));
    });
}
