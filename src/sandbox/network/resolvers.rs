//! Which name servers sandboxes ask.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

/// In this order; the second is where systemd-resolved says what its stub at 127.0.0.53 asks.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// As many as a C library reads.
const SERVERS_MAX: usize = 3;

/// The name servers configured, or else the machine's.
///
/// Of the machine's only those that a sandbox can reach: IPv4, and not on the machine itself.
#[must_use]
pub fn resolvers(configured: &[IpAddr]) -> Vec<String> {
    if !configured.is_empty() {
        return configured.iter().map(ToString::to_string).collect();
    }
    let of_file = |path| fs::read_to_string(path).map(|text| reachable(&text)).unwrap_or_default();
    FILES.into_iter().map(of_file).find(|servers| !servers.is_empty()).unwrap_or_default()
}

fn reachable(resolv_conf: &str) -> Vec<String> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address: Ipv4Addr = (words.next()? == "nameserver").then(|| words.next())??.parse().ok()?;
        let is_elsewhere = !address.is_loopback() && !address.is_unspecified();
        is_elsewhere.then(|| address.to_string())
    };
    resolv_conf.lines().filter_map(server).take(SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_that_a_sandbox_can_reach_are_taken_from_the_machine() {
        let text = "# comment\nnameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\n\
                    search example.org\nnameserver\t10.0.0.2 # corporate\nnameserver 8.8.8.8\nnameserver nonsense\n";
        assert_eq!(reachable(text), ["10.0.0.2", "8.8.8.8"]);
        assert!(reachable("nameserver 127.0.0.1\n").is_empty());
    }

    #[test]
    fn what_is_configured_is_taken_as_it_is() {
        assert_eq!(resolvers(&[IpAddr::from([127, 0, 0, 1])]), ["127.0.0.1"]);
    }
}
