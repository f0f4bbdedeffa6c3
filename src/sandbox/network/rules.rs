//! What sandboxes may reach: the packet filter's rules, as text for `nft`.
//!
//! A table for each slot, replaced as a whole in one transaction. A packet from a sandbox meets:
//!
//! ```text
//! prerouting  before any address translation of the machine's own, so that a published port (Docker) is still an
//!             address of the machine: its source must be the sandbox's, its destination not the machine, not
//!             link-local (cloud metadata), not another sandbox, not many at once
//! input       nothing, whichever way it got here
//! forward     the same again for what translation has made of the destination; no more connections at a time than allowed
//! postrouting masquerade
//! ```
//!
//! To a sandbox comes only what belongs to a connection that it has opened. IPv6 is dropped.
//!
//! An `accept` here does not overrule a `drop` in another table: see [`obstacles`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::NetworkError;
use super::addresses::{ALL, Range};

/// Connections of one sandbox in the machine's table, which is one for all (nf_conntrack_max, 65,536 on a small
/// machine, entries of closed connections for two minutes among them). Four times what it may have open at once.
const CONNECTIONS_MAX: u32 = 4096;
/// `nft` takes 5 ms; on a machine with a hundred thousand rules a second.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Where programs of administrators are; not the worker's own `PATH`, which somebody else may have set.
const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// The table of a slot. Name servers that are where sandboxes may not go (Google's cloud has its at the
/// metadata server's address) are let through by their port, and by nothing else: what follows in the chains holds for
/// them as well, the limit of connections among it.
pub(super) fn slot_table(range: Range, resolvers: &[Ipv4Addr]) -> String {
    let (table, prefix, network) = (range.table(), range.prefix(), range.text());
    let to_resolvers = if resolvers.is_empty() {
        String::new()
    } else {
        let list: Vec<String> = resolvers.iter().map(Ipv4Addr::to_string).collect();
        format!("ip daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 return", list.join(", "))
    };
    // To declare a table before deleting it is how one deletes what may not be there.
    format!(
        r#"table inet {table}
delete table inet {table}
table inet {table} {{
    set connections {{
        type ipv4_addr; size 16384; flags dynamic
    }}
    chain checked {{
        meta nfproto != ipv4 drop
        fib saddr . iif oif missing drop
        fib daddr type {{ local, broadcast, anycast, multicast }} reject with icmpx type admin-prohibited
        {to_resolvers}
        ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, {ALL}, 224.0.0.0/3 }} reject with icmpx type admin-prohibited
    }}
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept
        iifname "{prefix}*" jump checked
    }}
    chain input {{
        type filter hook input priority filter; policy accept
        iifname "{prefix}*" drop
    }}
    chain leaving {{
        ct state invalid drop
        tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        ct state established,related accept
        jump checked
        ct state new add @connections {{ ip saddr ct count over {CONNECTIONS_MAX} }} reject with icmpx type admin-prohibited
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept
        oifname "{prefix}*" ct state established,related accept
        oifname "{prefix}*" drop
        iifname "{prefix}*" jump leaving
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept
        ip saddr {network} masquerade
    }}
}}
"#
    )
}

/// Name of the table of [`guard_table`].
pub(super) const GUARD: &str = "ol_guard";

/// Keeps a machine that did not forward packets from forwarding any between these interfaces, though forwarding is
/// on for them now. What the table holds already stays in it.
pub(super) fn guard_table(interfaces: &[String]) -> String {
    let list: Vec<String> = interfaces.iter().map(|name| format!("\"{name}\"")).collect();
    format!(
        r#"table inet {GUARD} {{
    set closed {{
        type ifname
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept
    }}
}}
flush chain inet {GUARD} forward
add rule inet {GUARD} forward iifname @closed oifname @closed drop
add element inet {GUARD} closed {{ {} }}
"#,
        list.join(", ")
    )
}

/// Carries out a text, all of it or nothing.
pub(super) fn apply(text: &str) -> Result<(), NetworkError> {
    let nft = find("nft").ok_or(NetworkError::NoNft)?;
    run(&nft, ["-f", "-"], text).map(drop)
}

/// Which chains of others drop what sandboxes send, unless a rule in the same table lets it through. Best effort:
/// what cannot be found out is no obstacle.
pub(super) fn obstacles() -> Vec<String> {
    let mut found = Vec::new();
    if let Some(nft) = find("nft")
        && let Ok(chains) = run(&nft, ["list", "chains"], "")
    {
        found.extend(dropping_chains(&chains));
    }
    // Old iptables has tables of its own. To ask for them would load its modules: only where they are in use.
    let in_use = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    if in_use.lines().any(|table| table == "filter")
        && let Some(iptables) = find("iptables-legacy").or_else(|| find("iptables"))
        && let Ok(rules) = run(&iptables, ["-S", "FORWARD"], "")
        && rules.lines().any(|line| line == "-P FORWARD DROP")
    {
        found.push("iptables FORWARD".into());
    }
    found
}

/// From the output of `nft list chains`.
fn dropping_chains(text: &str) -> Vec<String> {
    let (mut table, mut chain) = (String::new(), String::new());
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches([' ', '{']).to_owned();
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches([' ', '{']).to_owned();
        } else if line.contains(" hook forward ")
            && line.contains("policy drop")
            && !table.starts_with("ip6 ")
        {
            found.push(format!("{table} {chain}"));
        }
    }
    found
}

pub(super) fn find(program: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}

/// Runs a program of few words to its end, and returns what it printed.
fn run<S: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = S>,
    input: &str,
) -> Result<String, NetworkError> {
    let failed = |what| move |source| NetworkError::Step { what, source };
    // Files, not pipes: nobody has to read while it runs.
    let file = |text: &str| -> io::Result<File> {
        let mut file = tempfile::tempfile()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file)
    };
    let input = file(input).map_err(failed("make a temporary file"))?;
    let mut output = file("").map_err(failed("make a temporary file"))?;
    let both = || output.try_clone().map(Stdio::from).map_err(failed("make a temporary file"));
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").stdin(input).stdout(both()?).stderr(both()?);
    let mut child = command.spawn().map_err(failed("start a program of the packet filter"))?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(failed("wait for a program"))? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                break child.wait().map_err(failed("wait for a program"))?;
            }
            None => thread::sleep(LOOK_EVERY),
        }
    };
    let mut text = String::new();
    output
        .rewind()
        .and_then(|()| output.read_to_string(&mut text))
        .map_err(failed("read what a program has printed"))?;
    if status.success() {
        Ok(text)
    } else {
        Err(NetworkError::Refused { program: program.into(), status, text: text.trim().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_speaks_of_its_own_slot_only() {
        let text = slot_table(Range::new(7), &[]);
        assert!(text.starts_with("table inet ol_slot_7\ndelete table inet ol_slot_7\n"));
        assert!(text.contains("ip saddr 100.65.192.0/18 masquerade"));
        assert_eq!(text.matches("\"ol7-*\"").count(), 5);
        assert!(!text.contains("dport 53"));
    }

    #[test]
    fn name_servers_come_after_the_machine_and_before_the_forbidden_ranges() {
        let text =
            slot_table(Range::new(0), &[Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(10, 0, 0, 2)]);
        let at = |what| text.find(what).unwrap();
        let servers =
            at("ip daddr { 169.254.169.254, 10.0.0.2 } meta l4proto { tcp, udp } th dport 53 return");
        assert!(at("fib daddr type { local") < servers && servers < at("169.254.0.0/16"));
    }

    #[test]
    fn chains_that_drop_by_default_are_found() {
        let text = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
                    \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                    table ip6 filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                    table inet ol_slot_0 {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t}\n}\n";
        assert_eq!(dropping_chains(text), ["ip filter FORWARD"]);
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let error = run(Path::new("/bin/sh"), ["-c", "echo out; echo wrong >&2; exit 3"], "")
            .unwrap_err()
            .to_string();
        assert!(error.contains("wrong") && error.contains('3'), "{error}");
    }
}
