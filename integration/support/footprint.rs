//! What a worker has on the machine while it runs, and what of it is still there afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::process::{self, Process};

/// Processes, cgroups and namespaces of one worker: all that were ever seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Footprint {
    processes: BTreeSet<Process>,
    /// Directories below the mount points of the hierarchies.
    cgroups: BTreeSet<PathBuf>,
    namespaces: BTreeSet<String>,
}

impl Footprint {
    /// Adds what the worker has now.
    pub(crate) fn look(&mut self, worker: Process) {
        let me = Process::of(std::process::id().cast_signed()).expect("this process lives");
        let (my_cgroups, my_namespaces) = (me.cgroups(), me.namespaces());
        let mounts = cgroup_mounts();
        self.processes.insert(worker);
        let mut namespaces = BTreeSet::new();
        for process in worker.descendants() {
            self.processes.insert(process);
            let foreign = process.namespaces().into_iter().filter(|name| !my_namespaces.contains(name));
            namespaces.extend(foreign);
            for (id, path) in process.cgroups() {
                if my_cgroups.get(&id) == Some(&path) {
                    continue;
                }
                // The worker's own group, in which those of its sandboxes are.
                let top = path.trim_start_matches('/').split('/').next().unwrap_or_default();
                let there =
                    mounts.iter().map(|mount| mount.join(top)).filter(|dir| !top.is_empty() && dir.is_dir());
                self.cgroups.extend(there);
            }
        }
        // Whoever is in one of its namespaces is its own, whoever its parent is. Looked up now, for the kernel gives
        // the number of a namespace that is gone to the next one.
        let is_inside = |process: &Process| !process.namespaces().is_disjoint(&namespaces);
        self.processes.extend(process::all().into_iter().filter(is_inside));
        self.namespaces.extend(namespaces);
    }

    /// The groups that hold all of the worker's, one per hierarchy.
    pub(crate) fn cgroups(&self) -> impl Iterator<Item = &Path> {
        self.cgroups.iter().map(PathBuf::as_path)
    }

    /// How many processes, cgroups and namespaces were seen: that a look finds nothing afterwards means something
    /// only if there was something.
    pub(crate) fn n_seen(&self) -> (usize, usize, usize) {
        (self.processes.len(), self.cgroups.len(), self.namespaces.len())
    }

    /// What was seen and is still there, for people. Empty is as it should be.
    pub(crate) fn remains(&self) -> Vec<String> {
        let mut found = self.processes_left();
        for cgroup in self.cgroups.iter().filter(|dir| dir.is_dir()) {
            found.push(format!("cgroup {} with {:?}", cgroup.display(), pids_below(cgroup)));
        }
        found
    }

    /// The same when another worker runs in the directory, and its groups have the same names: those that are empty,
    /// or have processes that are not the successor's, are left from before.
    pub(crate) fn remains_beside(&self, successor: Process) -> Vec<String> {
        let mut found = self.processes_left();
        let own: BTreeSet<i32> = successor.descendants().into_iter().map(|process| process.pid).collect();
        for group in self.cgroups.iter().flat_map(|dir| leaves(dir)) {
            let pids = pids_below(&group);
            if pids.is_empty() || pids.iter().any(|pid| !own.contains(pid)) {
                found.push(format!("cgroup {} with {pids:?}", group.display()));
            }
        }
        found
    }

    /// Processes that were seen and still are there, but for these.
    pub(crate) fn processes_besides(&self, others: &[Process]) -> Vec<String> {
        let left = self.processes.iter().filter(|process| process.is_alive() && !others.contains(process));
        left.map(|process| process.describe()).collect()
    }

    /// Removes its groups, after a failed test: its processes are dead.
    pub(crate) fn remove_cgroups(&self) {
        for root in self.cgroups() {
            // Its leaves first, until there is nothing but the root, or one does not go.
            while leaves(root).iter().all(|group| fs::remove_dir(group).is_ok()) && root.is_dir() {}
        }
    }

    fn processes_left(&self) -> Vec<String> {
        self.processes.iter().filter(|process| process.is_alive()).map(|process| process.describe()).collect()
    }
}

/// All groups in a group, and in these.
pub(crate) fn groups_below(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    inside
        .flat_map(|entry| {
            let group = entry.path();
            let below = groups_below(&group);
            [group].into_iter().chain(below)
        })
        .collect()
}

/// The groups without groups in them.
fn leaves(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let inside: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    match (inside.is_empty(), cgroup.is_dir()) {
        (true, true) => vec![cgroup.to_owned()],
        _ => inside.iter().flat_map(|group| leaves(group)).collect(),
    }
}

/// The mounts that a worker in this place could have made: those that name the place, or what all workers share.
/// Others mount and unmount on the machine as they please.
pub(crate) fn mounts(token: &str) -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mounts").expect("/proc/self/mounts can be read");
    let is_suspect = |line: &&str| [token, "openlambda", "nsfs"].iter().any(|word| line.contains(word));
    text.lines().filter(is_suspect).map(str::to_owned).collect()
}

/// Where hierarchies of cgroups are mounted, of both versions.
fn cgroup_mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").expect("/proc/self/mounts can be read");
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words
        .filter(|words| matches!(words.get(2), Some(&"cgroup" | &"cgroup2")))
        .map(|words| words[1].into())
        .collect()
}

/// The pids in a group and in the groups below it.
pub(crate) fn pids_below(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(pids_below(&entry.path()));
        }
    }
    pids
}
