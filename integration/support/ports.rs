//! Ports for workers whose port must be known before they start.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the kernel gives to outgoing connections, so that none takes it in between.
const FIRST: u16 = 15_000;
const N_PORTS: u16 = 15_000;

/// A port on which nobody listens, and that no other test of this process is given.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin in different places.
    let begin = (std::process::id() % 250) as u16 * 60;
    for _ in 0..N_PORTS {
        let port = FIRST + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % N_PORTS;
        if ["127.0.0.1", "0.0.0.0"].iter().all(|host| TcpListener::bind((*host, port)).is_ok()) {
            return port;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + N_PORTS);
}
