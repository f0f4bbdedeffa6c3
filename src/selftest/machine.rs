//! What the kernel and the machine have, and what to do where something is missing. Changes nothing that stays.

use std::fs;
use std::path::Path;

use slog::{Discard, Logger, o};

use super::judge::{Finding, holds};
use super::{Listed, Outcome};
use crate::image::{Descriptor, ImageError};
use crate::sandbox::cgroup::{CgroupRoot, Limits};

pub(super) const LISTED: &[Listed] = &[
    Listed { id: "machine.kernel", tries: "the kernel's version" },
    Listed { id: "machine.namespaces", tries: "namespaces of every kind" },
    Listed { id: "machine.user-namespaces", tries: "the number of user namespaces that are allowed" },
    Listed { id: "machine.seccomp", tries: "system call filters" },
    Listed {
        id: "machine.cgroups",
        tries: "cgroups: version, controllers, and whether a group with limits can be made",
    },
    Listed { id: "machine.freezer", tries: "freezing of idle sandboxes" },
    Listed { id: "machine.swap-limit", tries: "limits of swap" },
    Listed { id: "machine.pressure", tries: "the kernel's measure of memory pressure" },
    Listed { id: "machine.tmpfs", tries: "file systems in memory" },
    Listed { id: "machine.python", tries: "a Python for functions" },
    Listed { id: "machine.outbound", tries: "what 'network: outbound' takes" },
    Listed { id: "machine.open-files", tries: "the limit of open files" },
    Listed { id: "machine.memory", tries: "the machine's memory" },
];

/// As the README says: older kernels judge who may put a process into a cgroup by other rules.
const KERNEL_MIN: (u32, u32) = (5, 16);
/// A worker has a user namespace per family and per zygote.
const USER_NAMESPACES_MIN: u64 = 100;
/// A sandbox takes some ten, and the worker raises its own limit to the hard one.
const OPEN_FILES_GOOD: u64 = 10_000;
/// A worker, and some ten sandboxes.
const MEMORY_MB_MIN: u64 = 256;

/// Makes the chosen checks. `base`: what was found as the functions' machine; `group`: the name of a cgroup that is
/// made and removed again.
#[must_use]
pub fn checks(
    is_chosen: &dyn Fn(&Listed) -> bool,
    base: &Result<Descriptor, ImageError>,
    group: &str,
) -> Vec<Outcome> {
    LISTED
        .iter()
        .filter(|listed| is_chosen(listed))
        .map(|listed| {
            let finding = match listed.id {
                "machine.kernel" => kernel(&read("/proc/sys/kernel/osrelease")),
                "machine.namespaces" => namespaces(),
                "machine.user-namespaces" => user_namespaces(&read("/proc/sys/user/max_user_namespaces")),
                "machine.seccomp" => seccomp(&read("/proc/sys/kernel/seccomp/actions_avail")),
                "machine.cgroups" => cgroups(group),
                "machine.freezer" => freezer(),
                "machine.swap-limit" => swap_limit(),
                "machine.pressure" => exists_or(
                    "/proc/pressure/memory",
                    "it is there",
                    "none: boot with psi=1 to have it; the worker reads the free memory instead",
                ),
                "machine.tmpfs" => holds(
                    read("/proc/filesystems").lines().any(|line| line.ends_with("\ttmpfs")),
                    "tmpfs",
                    "the kernel has no tmpfs (CONFIG_TMPFS)",
                ),
                "machine.python" => python(base),
                "machine.outbound" => outbound(),
                "machine.open-files" => open_files(),
                _ => memory(&read("/proc/meminfo")),
            };
            Outcome::of(*listed, finding)
        })
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn exists_or(path: &str, there: &str, missing: &str) -> Finding {
    if Path::new(path).exists() { Finding::Contained(there.into()) } else { Finding::Untried(missing.into()) }
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Finding::Untried(format!("'{release}' is no version"));
    };
    let (least_major, least_minor) = KERNEL_MIN;
    holds(
        (major, minor) >= KERNEL_MIN,
        format!("Linux {release}"),
        format!("Linux {release} is older than {least_major}.{least_minor}: update the kernel"),
    )
}

fn namespaces() -> Finding {
    let kinds = ["mnt", "pid", "ipc", "uts", "net", "user", "cgroup"];
    let missing: Vec<_> =
        kinds.into_iter().filter(|kind| !Path::new(&format!("/proc/self/ns/{kind}")).exists()).collect();
    holds(
        missing.is_empty(),
        kinds.join(", "),
        format!(
            "the kernel lacks {}: it must be built with CONFIG_NAMESPACES and all below it",
            missing.join(", ")
        ),
    )
}

fn user_namespaces(limit: &str) -> Finding {
    match limit.parse::<u64>() {
        Ok(n) => holds(
            n >= USER_NAMESPACES_MIN,
            format!("{n}"),
            format!(
                "{n}: sysctl -w user.max_user_namespaces=10000, and the same in /etc/sysctl.d for the next boot"
            ),
        ),
        Err(_) => Finding::Escaped("the kernel has none: it must be built with CONFIG_USER_NS".into()),
    }
}

fn seccomp(actions: &str) -> Finding {
    let has = |action| actions.split(' ').any(|word| word == action);
    holds(
        has("errno") && has("kill_process"),
        actions.to_owned(),
        format!(
            "'{actions}': the kernel must be built with CONFIG_SECCOMP_FILTER; 'features.enable_seccomp: false' does without, for studies only"
        ),
    )
}

/// Makes a group with limits, as a worker does for a sandbox.
fn cgroups(name: &str) -> Finding {
    let limits = Limits { memory_bytes: 50 << 20, swap_bytes: 0, cpu_percent: 100, n_processes: 10 };
    let made = CgroupRoot::open(name, None, Logger::root(Discard, o!())).and_then(|root| {
        let layout = root.describe();
        root.create("selftest", limits, None).map(|_| layout)
    });
    let swept = CgroupRoot::sweep(name);
    match (made, swept) {
        (Ok(layout), Ok(_)) => Finding::Contained(format!("{layout}; controllers: {}", controllers())),
        (Err(error), _) | (_, Err(error)) => {
            Finding::Escaped(format!("{error}; controllers: {}", controllers()))
        }
    }
}

/// What can be given to groups here, by hierarchy.
fn controllers() -> String {
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    if !unified.is_empty() {
        return unified;
    }
    let mounts = read("/proc/self/mounts");
    let of = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup")).then(|| words[1].rsplit('/').next().unwrap_or_default().to_owned())
    };
    let found: Vec<String> = mounts.lines().filter_map(of).collect();
    if found.is_empty() { "none: mount cgroup2 on /sys/fs/cgroup".into() } else { found.join(" ") }
}

/// The hierarchy of version 2, wherever it is mounted.
fn unified() -> Option<String> {
    let mounts = read("/proc/self/mounts");
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup2")).then(|| words[1].to_owned())
    })
}

fn freezer() -> Finding {
    match unified() {
        Some(path) => Finding::Contained(format!("by version 2, at {path}")),
        None => Finding::Untried("no hierarchy of version 2 is mounted: idle sandboxes are not frozen; mount cgroup2 somewhere to have it".into()),
    }
}

fn swap_limit() -> Finding {
    let v1 = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    let v2 = unified().is_some_and(|root| {
        fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .any(|group| group.path().join("memory.swap.max").exists())
    });
    match (v1 || v2, read("/proc/swaps").lines().count() > 1) {
        (true, _) => Finding::Contained("they are there".into()),
        (false, false) => Finding::Untried("none, and no swap that would want them".into()),
        (false, true) => Finding::Untried(
            "none, and there is swap: boot with swapaccount=1, or sandboxes may use more than their memory"
                .into(),
        ),
    }
}

fn python(base: &Result<Descriptor, ImageError>) -> Finding {
    match base {
        Ok(found) => {
            Finding::Contained(format!("{}, Python 3.{}", found.interpreter().display(), found.python.minor))
        }
        Err(error) => Finding::Escaped(format!("{error}; install python3, or see 'ol worker init --image'")),
    }
}

fn outbound() -> Finding {
    let places = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
    match places.iter().find(|place| Path::new(place).exists()) {
        Some(place) => Finding::Contained((*place).into()),
        None => Finding::Untried(
            "the program nft is missing: install nftables if functions are to have it".into(),
        ),
    }
}

fn open_files() -> Finding {
    use nix::sys::resource::{Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= OPEN_FILES_GOOD => Finding::Contained(format!("{hard}")),
        Ok((_, hard)) => Finding::Untried(format!(
            "{hard}, enough for {} sandboxes: raise the hard limit (LimitNOFILE= in systemd) for more",
            hard / 10
        )),
        Err(error) => Finding::Untried(error.to_string()),
    }
}

fn memory(meminfo: &str) -> Finding {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kb: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    match kb.map(|kb| kb >> 10) {
        Some(mb) => holds(
            mb >= MEMORY_MB_MIN,
            format!("{mb} MB are available"),
            format!("{mb} MB are available, {MEMORY_MB_MIN} are needed"),
        ),
        None => Finding::Untried("/proc/meminfo does not say".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let Finding::Escaped(text) = kernel("5.10.0-28-amd64") else { panic!("taken") };
        assert_eq!(text, "Linux 5.10.0-28-amd64 is older than 5.16: update the kernel");
        let Finding::Escaped(text) = user_namespaces("0") else { panic!("taken") };
        assert!(text.contains("sysctl -w user.max_user_namespaces"), "{text}");
        let Finding::Escaped(text) = seccomp("") else { panic!("taken") };
        assert!(text.contains("CONFIG_SECCOMP_FILTER"), "{text}");
        let Finding::Escaped(text) = memory("MemTotal: 1 kB\nMemAvailable: 102400 kB\n") else {
            panic!("taken")
        };
        assert!(text.starts_with("100 MB are available"), "{text}");
    }

    #[test]
    fn a_kernel_that_is_new_enough_is_taken_however_it_is_called() {
        for release in ["5.16", "6.1.0-18-cloud-amd64", "6.18.44-fc-v657", "10.0-rc1"] {
            assert!(matches!(kernel(release), Finding::Contained(_)), "{release}");
        }
        assert!(matches!(kernel("new"), Finding::Untried(_)));
    }
}
