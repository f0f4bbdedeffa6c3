//! Processes by their pid and the time of their start: a pid alone may come to mean another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::until;

/// One process, told apart from all others since and before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    started: u64,
}

struct Stat {
    parent: i32,
    started: u64,
    is_zombie: bool,
    is_stopped: bool,
}

impl Process {
    /// The process that has this pid now. One that has ended and only waits for its parent is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (!stat.is_zombie).then_some(Self { pid, started: stat.started })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still is this process.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Stops it, and waits until it stands still: until then it may take what comes next.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(Signal::SIGSTOP);
        until("it stands still", || stat(self.pid).is_none_or(|stat| stat.is_stopped));
    }

    /// Its children, theirs, and so on.
    pub(crate) fn descendants(self) -> Vec<Self> {
        let mut children: BTreeMap<i32, Vec<Self>> = BTreeMap::new();
        for pid in pids() {
            if let Some(Stat { parent, started, is_zombie: false, .. }) = stat(pid) {
                children.entry(parent).or_default().push(Self { pid, started });
            }
        }
        let mut found = Vec::new();
        let mut next = vec![self.pid];
        while let Some(pid) = next.pop() {
            for child in children.get(&pid).into_iter().flatten() {
                found.push(*child);
                next.push(child.pid);
            }
        }
        found
    }

    /// Its cgroup in each hierarchy: the first word of the line tells the hierarchies apart.
    pub(crate) fn cgroups(self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .filter_map(|(id, rest)| Some((id.to_owned(), rest.split_once(':')?.1.to_owned())))
            .collect()
    }

    /// What its namespaces are called by the kernel: `net:[4026531840]`.
    pub(crate) fn namespaces(self) -> BTreeSet<String> {
        let entries = fs::read_dir(format!("/proc/{}/ns", self.pid)).into_iter().flatten().flatten();
        entries
            .filter(|entry| !entry.file_name().to_string_lossy().ends_with("_for_children"))
            .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
            .collect()
    }

    /// For people: the command line, or the name.
    pub(crate) fn describe(self) -> String {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        format!("process {} ({}: {})", self.pid, name.trim(), words.join(" ").trim())
    }

    /// The TCP ports it listens on.
    pub(crate) fn listening_ports(self) -> Vec<u16> {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        let sockets: BTreeSet<String> = links.filter_map(|link| inode_of_socket(&link)).collect();
        let tables = ["tcp", "tcp6"].map(|name| PathBuf::from(format!("/proc/{}/net/{name}", self.pid)));
        let lines: Vec<String> = tables
            .iter()
            .flat_map(|table| {
                fs::read_to_string(table).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        lines
            .iter()
            .filter_map(|line| listener(line))
            .filter(|(_, inode)| sockets.contains(inode))
            .map(|(port, _)| port)
            .collect()
    }
}

/// All processes that can be seen from here.
pub(crate) fn all() -> Vec<Process> {
    pids().into_iter().filter_map(Process::of).collect()
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc can be read").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// proc_pid_stat(5): after the name in brackets, which may hold anything, come the state (field 3),
/// the parent (4) and, as field 22, the time of the start.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some(Stat {
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        is_stopped: *fields.first()? == "T",
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn inode_of_socket(link: &std::path::Path) -> Option<String> {
    let text = link.to_str()?.strip_prefix("socket:[")?;
    Some(text.strip_suffix(']')?.to_owned())
}

/// A line of /proc/net/tcp: port and inode, if it is of a listener (state 0A).
fn listener(line: &str) -> Option<(u16, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words.get(3)? != &"0A" {
        return None;
    }
    let port = words.get(1)?.rsplit_once(':')?.1;
    Some((u16::from_str_radix(port, 16).ok()?, (*words.get(9)?).to_owned()))
}
