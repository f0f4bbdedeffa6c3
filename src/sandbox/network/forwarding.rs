//! Lets the machine pass packets on, without making it a router for others.
//!
//! Where `net.ipv4.ip_forward` is 1 nothing is to be done. Where it is 0, it stays so: it would hold for every
//! interface, those to come included, and Docker, started later, would take it for a router whose packet filter is not
//! its business. Instead, `net.ipv4.conf.<interface>.forwarding` is switched on for the sandboxes' interfaces and for
//! those that have a route now (answers come in there); and between the latter the table `inet ol_guard` drops
//! what would be forwarded, which nothing was before.
//!
//! The switches and the guard stay when the worker ends, because another may need them: until the machine is restarted, or
//! `sysctl net.ipv4.conf.eth0.forwarding=0` and `nft delete table inet ol_guard`.

use std::fs;
use std::net::Ipv4Addr;

use super::addresses::Range;
use super::{NetworkError, rules};

const SWITCHES: &str = "/proc/sys/net/ipv4";

/// An entry of the machine's main table of routes.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    interface: String,
    network: Ipv4Addr,
    gateway: Ipv4Addr,
    mask: Ipv4Addr,
}

/// Switches forwarding on where it has to be, and returns the text of the guard, if one was needed. An error when
/// the machine itself uses addresses of this range.
pub(super) fn enable(range: Range) -> Result<String, NetworkError> {
    let path = "/proc/thread-self/net/route";
    let text = fs::read_to_string(path).map_err(|source| NetworkError::File { path: path.into(), source })?;
    let routes = routes_of_others(&text);
    if let Some(route) = routes.iter().find(|route| collides(range, route)) {
        return Err(NetworkError::RangeInUse { range: range.text(), interface: route.interface.clone() });
    }
    if is_on(&format!("{SWITCHES}/ip_forward"))? {
        return Ok(String::new());
    }
    let mut closed: Vec<String> = Vec::new();
    for Route { interface, .. } in routes {
        if !closed.contains(&interface) && !is_on(&switch(&interface))? {
            closed.push(interface);
        }
    }
    if closed.is_empty() {
        return Ok(String::new());
    }
    // The guard first, so that there is no moment without.
    let guard = rules::guard_table(&closed);
    rules::apply(&guard)?;
    for interface in &closed {
        let path = switch(interface);
        fs::write(&path, "1").map_err(|source| NetworkError::File { path: path.into(), source })?;
    }
    Ok(guard)
}

fn switch(interface: &str) -> String {
    format!("{SWITCHES}/conf/{interface}/forwarding")
}

fn is_on(path: &str) -> Result<bool, NetworkError> {
    let text = fs::read_to_string(path).map_err(|source| NetworkError::File { path: path.into(), source })?;
    Ok(text.trim() != "0")
}

fn collides(range: Range, route: &Route) -> bool {
    let host = Ipv4Addr::BROADCAST;
    let is_default = route.mask.is_unspecified();
    (!is_default && range.meets(route.network, route.mask)) || range.meets(route.gateway, host)
}

/// Without those to sandboxes, of whichever slot. Words of a line: interface, destination, gateway,
/// flags, references, use, metric, mask; addresses in hexadecimal as they lie in memory.
fn routes_of_others(text: &str) -> Vec<Route> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = |at: usize| {
            u32::from_str_radix(words.get(at)?, 16).ok().map(|bits| Ipv4Addr::from(bits.to_ne_bytes()))
        };
        let route = Route {
            interface: words.first()?.to_string(),
            network: address(1)?,
            gateway: address(2)?,
            mask: address(7)?,
        };
        // "*": a route that leads nowhere.
        (route.interface != "*" && !is_sandboxes(&route.interface)).then_some(route)
    };
    text.lines().skip(1).filter_map(parse).collect()
}

/// `ol<slot>-<number>`
fn is_sandboxes(interface: &str) -> bool {
    let numbers = interface.strip_prefix("ol").and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(slot, number)| slot.parse::<u8>().is_ok() && number.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        ol0-2\t02004064\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_are_read_as_the_kernel_writes_them() {
        let routes = routes_of_others(TEXT);
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].gateway, Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(
            (routes[1].network, routes[1].mask),
            (Ipv4Addr::new(192, 0, 2, 0), Ipv4Addr::new(255, 255, 255, 0))
        );
        assert!(routes.iter().all(|route| !collides(Range::new(0), route)));
    }

    #[test]
    fn a_machine_that_lives_in_the_range_is_noticed() {
        let route = |network: [u8; 4], gateway: [u8; 4], mask: [u8; 4]| Route {
            interface: "eth0".into(),
            network: network.into(),
            gateway: gateway.into(),
            mask: mask.into(),
        };
        let on_link = route([100, 64, 0, 0], [0; 4], [255, 255, 0, 0]);
        assert!(collides(Range::new(0), &on_link) && !collides(Range::new(4), &on_link));
        assert!(collides(Range::new(0), &route([0; 4], [100, 64, 0, 1], [0; 4])));
    }

    #[test]
    fn interfaces_of_sandboxes_are_told_from_others() {
        assert!(is_sandboxes("ol0-2") && is_sandboxes("ol255-16382"));
        assert!(
            !is_sandboxes("eth0")
                && !is_sandboxes("olga-1")
                && !is_sandboxes("ol0")
                && !is_sandboxes("ol256-1")
        );
    }
}
