//! Who is kept from everything but calls: pages in a browser.
//!
//! A browser on this machine reaches `localhost` for every page that it shows. It marks what a page sends with an `Origin`,
//! which programs do not; what it merely embeds, an image for example, has none, but says in `Sec-Fetch-Site` that another
//! site asks. What a page reads from where it came from itself has neither: and a page's name can be made to lead here, when it has
//! been loaded (DNS rebinding), so that it reads code and secrets. But then the browser says that name as the `Host`, and it is none of
//! this machine's.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HOST, HeaderMap, ORIGIN};

use super::error::HttpError;

/// Longest part of a `Host` that is repeated in an answer: as long as names of hosts are.
const SAID_MAX: usize = 253;

/// The names under which the worker is asked.
#[derive(Debug)]
pub struct Hosts {
    /// What the configuration names, and what `/etc/hosts` calls this machine.
    names: HashSet<String>,
    /// Behind the machine's name, with a dot between, they give its other names.
    domains: Vec<String>,
}

impl Hosts {
    /// `worker_url` and `allowed_hosts`, and what this machine calls itself. No name server is asked.
    #[must_use]
    pub fn new(worker_url: &str, allowed: &[String]) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::of(worker_url, allowed, &read("/etc/hosts"), &read("/etc/resolv.conf"), &machine())
    }

    fn of(worker_url: &str, allowed: &[String], hosts: &str, resolver: &str, machine: &str) -> Self {
        let words = |line: &str| -> Vec<String> {
            let line = line.split('#').next().unwrap_or_default();
            line.split_whitespace().map(plain).collect()
        };
        // hosts(5): an address, and its names.
        let aliases =
            hosts.lines().map(words).filter(|words| words.iter().skip(1).any(|name| name == machine));
        let aliases = aliases.flat_map(|words| words.into_iter().skip(1));
        let names =
            allowed.iter().map(|name| plain(name)).chain([plain(worker_url)]).chain(aliases).collect();
        // resolv.conf(5). `local` is that of multicast DNS (RFC 6762), under which machines say their names themselves.
        let is_domain =
            |words: &Vec<String>| words.first().is_some_and(|word| word == "search" || word == "domain");
        let domains =
            resolver.lines().map(words).filter(is_domain).flat_map(|words| words.into_iter().skip(1));
        Self { names, domains: domains.chain(["local".to_owned()]).collect() }
    }

    /// Whether this, as it stands in a `Host`, leads to this machine whoever says so: an address, or one of its names.
    fn has(&self, host: &str, machine: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        // Of a link-local address (RFC 6874), a part says on which link.
        if name.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok()) {
            return true;
        }
        let name = plain(name);
        let is_machine =
            || name == machine || self.domains.iter().any(|domain| name == format!("{machine}.{domain}"));
        // RFC 6761: these lead to the machine itself, and browsers ask nobody about them.
        let is_local = name == "localhost" || name.ends_with(".localhost");
        is_local || self.names.contains(&name) || (!machine.is_empty() && is_machine())
    }

    fn check(&self, request: &ServiceRequest) -> Result<(), HttpError> {
        let in_path = request.uri().authority().map(|authority| authority.as_str());
        let headers = request.headers().get_all(HOST).map(|host| host.to_str().unwrap_or_default());
        // It may be set while the worker runs.
        let machine = machine();
        match headers.chain(in_path).find(|host| !self.has(host, &machine)) {
            None => Ok(()),
            Some(host) => Err(HttpError::ForeignHost(host.chars().take(SAID_MAX).collect())),
        }
    }
}

/// The machine's name, as it is now.
fn machine() -> String {
    plain(&rustix::system::uname().nodename().to_string_lossy())
}

/// As names are compared.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The name or address of a `Host` (RFC 3986, 3.2.2).
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(name)
}

/// Whether this is a path of a function: what may call one, it says itself.
fn is_call(path: &str) -> bool {
    ["/run", "/runLambda"]
        .iter()
        .any(|prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn from_no_page(headers: &HeaderMap) -> Result<(), HttpError> {
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    let is_embedded = site.is_some_and(|site| !matches!(site, "none" | "same-origin"));
    if is_embedded || headers.contains_key(ORIGIN) { Err(HttpError::FromPage) } else { Ok(()) }
}

/// Whether this request may be served. `hosts`: the names under which the worker is asked; `None` where no browser gets.
pub(crate) fn admit(request: &ServiceRequest, hosts: Option<&Hosts>) -> Result<(), HttpError> {
    if is_call(request.path()) {
        return Ok(());
    }
    from_no_page(request.headers())?;
    hosts.map_or(Ok(()), |hosts| hosts.check(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        let hosts = "127.0.0.1 localhost\n# 1.2.3.4 evil.example ol1\n127.0.1.1\tol1.Example.org ol1 # evil2.example\n::1 ip6-loopback\n";
        let resolver = "nameserver 1.1.1.1\nsearch lan.example corp.example\n";
        Hosts::of("worker.example", &["proxy.example".to_owned()], hosts, resolver, "ol1")
    }

    #[test]
    fn names_of_this_machine_are_known_and_no_others() {
        let hosts = hosts();
        for host in [
            "127.0.0.1",
            "127.0.0.1:5000",
            "10.1.2.3:80",
            "[::1]:5000",
            "[::1]",
            "[fe80::1%25eth0]:1",
            "localhost",
            "LOCALHOST:5000",
            "localhost.",
            "a.b.localhost:1",
            "ol1",
            "OL1:5000",
            "ol1.local",
            "ol1.lan.example",
            "ol1.corp.example.:80",
            "ol1.example.org",
            "worker.example:5000",
            "proxy.example",
            "localhost:",
        ] {
            assert!(hosts.has(host, "ol1"), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil2.example",
            "example.org",
            "ip6-loopback",
            "lan.example",
            "localhost.evil.example",
            "xlocalhost",
            "ol1.evil.example",
            "127.0.0.1.evil.example",
            "[::1",
            "[::1]evil",
            "[evil.example]",
            "evil.example:localhost",
            "localhost:5000@evil.example",
            "localhost evil",
            "proxy.example.evil.example",
            "127.1",
            "0x7f000001",
            "1.2.3.4, localhost",
        ] {
            assert!(!hosts.has(host, "ol1"), "{host}");
        }
        // A name that is not set yet is nobody's.
        assert!(!hosts.has(".local", "") && !hosts.has("", ""));
    }

    #[test]
    fn only_what_is_surely_a_call_is_one() {
        for path in ["/run", "/run/", "/run/f", "/run/f/x?y", "/runLambda", "/runLambda/f"] {
            assert!(is_call(path), "{path}");
        }
        for path in
            ["/", "/runs", "/runLambdas/f", "/registry/run/", "//run/f", "/x/run/f", "/r%75n/f", "/status"]
        {
            assert!(!is_call(path), "{path}");
        }
    }
}
