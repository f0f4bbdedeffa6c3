//! Network namespaces that are used again.
//!
//! To make one and to take it down is a sixth of what a new sandbox costs. Most functions never use theirs: it has nothing
//! but a loopback device, and no packet ever goes through it. What could remain in a network namespace of those who were
//! in it (connections that linger, what the kernel has learnt of a route or a peer) comes from packets; sockets end with their
//! processes; and its settings are nobody's in a sandbox to change. But the kernel counts more than packets: what had no route,
//! for one, and never came to be a packet. So one whose processes have ended, whose loopback device has not seen a packet, and
//! whose counters are those of a new one, is as good as new.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::sync::Mutex;

use nix::sched::{CloneFlags, setns, unshare};

use super::family::lock;

/// Network namespaces that wait, for each zygote. One is some 80 KB of the kernel's; a burst ends as fast as it came, and
/// gives the next one this many.
const SPARE_MAX: usize = 16;

/// Those that belong to one user namespace, which is that of a zygote: only who has power over it can put a shell into one.
#[derive(Debug, Default)]
pub(super) struct Networks(Mutex<Vec<OwnedFd>>);

impl Networks {
    /// One that is as good as new.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        lock(&self.0).pop()
    }

    fn put(&self, network: OwnedFd) {
        let mut spare = lock(&self.0);
        if spare.len() < SPARE_MAX {
            spare.push(network);
        }
    }

    /// One whose processes have all ended, if nothing went through it.
    pub(super) fn put_back(&self, network: OwnedFd, home: &Home) {
        if home.is_untouched(&network).unwrap_or(false) {
            self.put(network);
        }
    }
}

/// What a network namespace counts that those in it can read, beside what went through its devices.
const COUNTERS: [&str; 5] = ["snmp", "snmp6", "netstat", "tls_stat", "xfrm_stat"];

/// The network namespace of a thread that looks into others.
#[derive(Debug)]
pub(super) struct Home {
    network: File,
    /// What is counted in a new one.
    fresh: Counters,
}

/// The text of each of [`COUNTERS`]; empty where the kernel has none.
type Counters = [String; COUNTERS.len()];

impl Home {
    /// Of the calling thread.
    pub(super) fn here() -> io::Result<Self> {
        let network = File::open("/proc/thread-self/ns/net")?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let fresh = counters();
        go_home(&network);
        Ok(Self { network, fresh: fresh? })
    }

    /// Whether there is a loopback device and nothing else, no packet went through it, and nothing else was counted.
    fn is_untouched(&self, network: &OwnedFd) -> io::Result<bool> {
        setns(network, CloneFlags::CLONE_NEWNET)?;
        let seen = fs::read_to_string("/proc/thread-self/net/dev").and_then(|devices| {
            // The rest is longer, and most have been used in either way or not at all.
            Ok(is_quiet_loopback(&devices) && counters()? == self.fresh)
        });
        go_home(&self.network);
        seen
    }
}

/// The calling thread, which has just come from there.
fn go_home(network: &File) {
    if setns(network.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
        // It was there a moment ago. A thread that stays in a sandbox's network must not go on.
        process::abort();
    }
}

/// Of the calling thread's network namespace.
fn counters() -> io::Result<Counters> {
    let mut texts = Counters::default();
    for (text, name) in texts.iter_mut().zip(COUNTERS) {
        match fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
            Ok(read) => *text = read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(texts)
}

/// Reads `/proc/net/dev`: two lines of heading, then one for each device, with 8 numbers of what came and 8 of what went.
fn is_quiet_loopback(devices: &str) -> bool {
    let mut lines = devices.lines().skip(2);
    let Some((name, numbers)) = lines.next().and_then(|line| line.split_once(':')) else { return false };
    lines.next().is_none()
        && name.trim() == "lo"
        && numbers.split_whitespace().count() == 16
        && numbers.split_whitespace().all(|number| number == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";
    const QUIET: &str = "    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n";

    #[test]
    fn a_loopback_device_that_saw_no_packet_is_quiet() {
        assert!(is_quiet_loopback(&format!("{HEADING}{QUIET}")));
    }

    #[test]
    fn one_packet_is_not_quiet_nor_another_device_nor_anything_that_is_not_understood() {
        let one_packet = QUIET.replacen("0       0    0", "84       1    0", 1);
        assert_ne!(one_packet, QUIET);
        for devices in [
            one_packet,
            format!("{QUIET}{}", QUIET.replace("lo", "e0")),
            QUIET.replace("lo", "e0"),
            "lo: 0\n".into(),
        ] {
            assert!(!is_quiet_loopback(&format!("{HEADING}{devices}")), "{devices}");
        }
        assert!(!is_quiet_loopback(HEADING));
        assert!(!is_quiet_loopback(""));
    }
}
