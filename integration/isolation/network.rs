//! Network: without being allowed more, a function reaches itself and nobody else.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::probes::{NETWORK, Stage, all_end_in};
use crate::support::{Expect, Worker, requires};

#[test]
fn a_function_reaches_neither_the_worker_nor_the_machine_nor_the_world() {
    requires!(Root);
    let stage = Stage::of(NETWORK);
    let worker = stage.worker();
    let name = worker.place().token();
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = everywhere.local_addr().unwrap().port();
    let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listening = UnixListener::bind_addr(&abstract_address).unwrap();
    let path = worker.place().join("socket");
    let _listening_too = UnixListener::bind(&path).unwrap();

    let mut tcp = vec![("127.0.0.1".to_owned(), worker.port()), ("::1".to_owned(), worker.port())];
    tcp.push(("127.0.0.1".to_owned(), port));
    // The machine's address in its network, if it has one.
    let address = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    tcp.extend(address.ok().map(|address| (address.ip().to_string(), port)));
    // Everybody else on this machine reaches those.
    for (host, port) in &tcp[2..] {
        TcpStream::connect((host.as_str(), *port)).unwrap();
    }
    UnixStream::connect_addr(&abstract_address).unwrap();
    UnixStream::connect(&path).unwrap();
    UnixStream::connect(worker.worker_dir().join("ol.sock")).unwrap();
    for host in ["169.254.169.254", "fd00:ec2::254", "8.8.8.8", "192.0.2.1", "224.0.0.1", "255.255.255.255"] {
        tcp.push((host.to_owned(), 80));
    }

    let unix = json!([
        format!("@{name}"),
        path,
        worker.worker_dir().join("ol.sock"),
        "/run/docker.sock",
        "/dev/log"
    ]);
    let said = stage.ask(json!({"tcp": tcp, "unix": unix}));
    all_end_in(&said["tcp"], &["ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EACCES"]);
    all_end_in(&said["unix"], &["ECONNREFUSED", "ENOENT"]);
    assert_eq!(said["interfaces"], json!(["all", "default", "lo"]));
    assert_eq!(said["listening"], json!([]), "nothing waits for connections where it could reach it");
    assert_eq!(said["inside"], "ok");
    stage.finish();
}

/// Connections that nobody accepts, as many as come to wait, and how much each may hold.
const WAITING: &str = "
import socket
KEPT = []
def f(event):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2 << 20)
        low_mark = 'ok'
    except OSError as refused:
        low_mark = refused.errno
    listener.bind(('127.0.0.1', 0))
    listener.listen(4096)
    KEPT.append(listener)
    for _ in range(300):
        KEPT.append(socket.socket())
        KEPT[-1].setblocking(False)
        KEPT[-1].connect_ex(listener.getsockname())
    port = '%04X' % listener.getsockname()[1]
    with open('/proc/net/tcp') as connections:
        lines = [line.split() for line in connections]
    # 0A: listens. Of such a socket the length of the queue stands where others have the bytes to be read.
    waiting = [int(line[4].split(':')[1], 16) for line in lines if line[1].endswith(':' + port) and line[3] == '0A']
    return [waiting, listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), low_mark]
";

#[test]
fn few_connections_wait_to_be_accepted_and_hold_little() {
    requires!(Root, Program("unshare"));
    let worker = Worker::start();
    worker.install_f("waiting", WAITING);
    let said = worker.call("waiting", "null").ok();
    // Older kernels show the length of queues to the machine's own user namespace only (docs/SANDBOX.md).
    let is_shown = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "test", "-e", "/proc/sys/net/core/somaxconn"])
        .status()
        .expect("unshare is there");
    let n_waiting = if is_shown.success() { 129 } else { 300 };
    assert_eq!(said, json!([[n_waiting], 32_768, nix::libc::ENOPROTOOPT]));
    worker.finish();
}

/// What the loopback device has seen before this call, and whose network it is; then a packet, if one is asked for.
const SENDER: &str = "
import os, socket
def f(event):
    with open('/proc/net/dev') as devices:
        seen = [line.split(':')[1].split() for line in devices.readlines()[2:]]
    if event['send']:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(('127.0.0.1', 0))
            one.sendto(b'x', other.getsockname())
            other.recv(1)
    return [seen, os.readlink('/proc/self/ns/net')]
";

#[test]
fn a_network_that_nobody_used_is_used_again_and_one_that_saw_a_packet_never() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("sender", &[("f.py", SENDER), ("ol.yaml", "reuse-sandbox: false")]);
    let n = 40;
    for send in [false, true] {
        let mut networks = BTreeSet::new();
        for _ in 0..n {
            let said = worker.call("sender", json!({"send": send}).to_string()).ok();
            let [devices, network] = [&said[0], &said[1]];
            assert_eq!(devices.as_array().map(Vec::len), Some(1), "{said}");
            let is_zero = |number: &Value| number == "0";
            assert!(
                devices[0].as_array().unwrap().iter().all(is_zero),
                "a packet of somebody else's: {said}"
            );
            networks.insert(network.to_string());
        }
        // (The kernel gives the numbers of those that are gone to new ones, so the others cannot be counted.)
        if !send {
            assert!(networks.len() < n, "each of {n} sandboxes got a new network");
        }
    }
    worker.finish();
}

/// What the network of this call had counted before it, in all that a function can read of that; then one more of something that is
/// no packet.
const COUNTED: &str = "
import os, socket
def f(event):
    counted = []
    for name in ('snmp', 'netstat'):
        with open(f'/proc/net/{name}') as file:
            lines = [line.split() for line in file]
        for names, values in zip(lines[::2], lines[1::2]):
            counted += [f'{name} {value}' for name, value in zip(names, values) if name in ('OutNoRoutes', 'InNoRoutes')]
    if event['connect']:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            try:
                one.connect(('8.8.8.8', 53))
            except OSError:
                pass
    return [counted, os.readlink('/proc/self/ns/net')]
";

#[test]
fn a_network_that_has_counted_anything_is_nobody_elses() {
    requires!(Root);
    let worker = Worker::start();
    worker.install("counter", &[("f.py", COUNTED), ("ol.yaml", "reuse-sandbox: false")]);
    for connect in [false, true] {
        let mut networks = BTreeSet::new();
        let n = 40;
        for _ in 0..n {
            let said = worker.call("counter", json!({"connect": connect}).to_string()).ok();
            let counted = said[0].as_array().unwrap();
            assert!(!counted.is_empty(), "the kernel counts it");
            assert!(
                counted.iter().all(|one| one.as_str().unwrap().ends_with(" 0")),
                "somebody else's: {said}"
            );
            networks.insert(said[1].to_string());
        }
        if !connect {
            assert!(networks.len() < n, "each of {n} sandboxes got a new network");
        }
    }
    worker.finish();
}
