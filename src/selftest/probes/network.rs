//! Into a network: to the worker, the machine and the world.

use serde_json::{Value, json};

use super::{Probe, Scene, ask};
use crate::selftest::judge::{Finding, holds, refused};

pub(super) static PROBES: &[Probe] = &[
    ask(
        "network.reach",
        "reach the worker, the machine, the cloud's metadata, the world, by TCP",
        "network",
        |scene| json!({"tcp": hosts(scene), "unix": []}),
        |answer| match answer.said() {
            Ok(said) => Finding::all([
                refused(&said["tcp"], &["ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EACCES"]),
                holds(
                    said["listening"] == json!([]),
                    "nobody listens inside",
                    format!("there listens {}", said["listening"]),
                ),
                holds(said["inside"] == "ok", "itself it reaches", "not even itself does it reach"),
            ]),
            Err(untried) => untried,
        },
        Some(|scene| json!({"tcp": [["127.0.0.1", scene.port]], "unix": []})),
    ),
    ask(
        "network.sockets",
        "connect to local sockets: the worker's own, abstract ones, Docker's",
        "network",
        |scene| json!({"tcp": [], "unix": [scene.ol_dir.join("worker/ol.sock"), "@/tmp/.X11-unix/X0", "/run/docker.sock", "/var/run/docker.sock", "/dev/log", "/run/systemd/private", "/run/dbus/system_bus_socket"]}),
        |answer| {
            answer
                .said()
                .map_or_else(|untried| untried, |said| refused(&said["unix"], &["ECONNREFUSED", "ENOENT"]))
        },
        None,
    ),
    ask(
        "network.families",
        "open raw, packet, netlink, vsock, crypto and other sockets",
        "syscalls",
        |_| json!({"parts": ["sockets"]}),
        |answer| match answer.said() {
            Ok(said) => {
                let mut families = said["sockets"].as_object().cloned().unwrap_or_default();
                families.retain(|name, _| !matches!(name.as_str(), "stream" | "datagram" | "local"));
                refused(
                    &families.into(),
                    &["EPERM", "EACCES", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT"],
                )
            }
            Err(untried) => untried,
        },
        Some(|_| json!({"parts": ["sockets"]})),
    ),
    ask(
        "network.names",
        "send something out in a question to a name server, or as a datagram",
        "network",
        // Addresses that belong to nobody (RFC 5737, RFC 3849), and a name that nobody has (RFC 6761).
        |_| json!({"tcp": [], "unix": [], "names": ["a-secret.selftest.invalid"], "datagrams": [["192.0.2.53", 53], ["2001:db8::53", 53], ["169.254.169.254", 53], ["224.0.0.251", 5353]]}),
        |answer| match answer.said() {
            Ok(said) => Finding::all([
                refused(&said["names"], &["EAI_AGAIN"]),
                refused(&said["datagrams"], &["ENETUNREACH", "EADDRNOTAVAIL", "EACCES"]),
            ]),
            Err(untried) => untried,
        },
        None,
    ),
];

fn hosts(scene: &Scene) -> Value {
    let mut hosts = vec![json!(["127.0.0.1", scene.port]), json!(["::1", scene.port])];
    // The machine's address in its network, if it has one. Nothing is sent by that.
    let address = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    hosts.extend(address.ok().map(|address| json!([address.ip().to_string(), scene.port])));
    hosts.extend(
        ["169.254.169.254", "fd00:ec2::254", "192.0.2.1", "224.0.0.1", "255.255.255.255"]
            .map(|host| json!([host, 80])),
    );
    hosts.into()
}
