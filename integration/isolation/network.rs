//! Network: without being allowed more, a function reaches itself and nobody else.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use serde_json::json;

use crate::probes::{NETWORK, Stage, all_end_in};
use crate::support::requires;

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
