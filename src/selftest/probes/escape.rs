//! Out of the sandbox: to the machine, its kernel, its files and the worker.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{NO_CHANGE, Probe, ask, play};
use crate::selftest::attempts::FIXED_FILES;
use crate::selftest::judge::{Answer, Finding, holds, refused, tried_and_control};
use crate::selftest::plays::Play;

const NO_WRITE: &[&str] = &["EROFS", "EACCES", "EPERM", "ENOENT", "ETXTBSY"];

/// What to ask of `syscalls.py`: these plain calls.
macro_rules! calls {
    ($($name:literal),+) => { |_| json!({"parts": ["calls", "allowed"], "calls": [$($name),+]}) };
}

pub(super) static PROBES: &[Probe] = &[
    ask(
        "escape.proc",
        "look into and signal the machine's processes by /proc",
        "processes",
        |scene| json!({"pids": scene.pids}),
        |answer| match answer.said() {
            Ok(said) => Finding::all([
                refused(&said["inside_init"], &["EACCES", "EPERM"]),
                refused(&said["look_into"], &["ENOENT"]),
                refused(&said["signal"], &["ESRCH"]),
                refused(&said["init"], &["EPERM"]),
                holds(
                    said["seen"] == said["mine"],
                    "no other process is seen",
                    format!("it sees {}", said["seen"]),
                ),
                holds(
                    said["child"] == "ok",
                    "its own child it can signal",
                    "not even its own child can be signalled",
                ),
            ]),
            Err(untried) => untried,
        },
        // It would send signals to the machine's init.
        None,
    ),
    ask(
        "escape.chroot",
        "leave by a second root inside of the root",
        "escape",
        |_| json!({"by": "second_root"}),
        |answer| tried_and_control(answer, &["EPERM"]),
        Some(|_| json!({"by": "second_root"})),
    ),
    ask(
        "escape.descriptors",
        "find a descriptor that somebody forgot to close, and leave by it",
        "escape",
        |_| json!({"by": "held_directories"}),
        |answer| tried_and_control(answer, &["ENOTDIR", "EACCES", "ENOENT"]),
        None,
    ),
    ask(
        "escape.inherited",
        "use descriptors, variables, a terminal or memory of the worker's",
        "identity",
        |_| json!({}),
        |answer| match answer.said() {
            Ok(said) => inherited(&said),
            Err(untried) => untried,
        },
        Some(|_| json!({})),
    ),
    ask(
        "escape.mount",
        "mount, unmount, move and remount, by old calls and new",
        "syscalls",
        calls!(
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "open_tree",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr"
        ),
        judge_calls,
        Some(calls!("mount", "umount2", "open_tree", "move_mount", "fsconfig", "fsmount", "mount_setattr")),
    ),
    ask(
        "escape.namespaces",
        "make a namespace of each kind, enter each that can be named",
        "syscalls",
        |_| json!({"parts": ["unshare", "clone", "clone3", "clone_parent", "setns", "plain_clone"]}),
        |answer| match answer.said() {
            Ok(said) => Finding::all([
                refused(&said["unshare"], &["EPERM"]),
                refused(&said["clone"], &["refused"]),
                refused(&said["setns"], &["EPERM"]),
                refused(
                    &json!({"clone3": said["clone3"], "a sibling": said["clone_parent"]}),
                    &["ENOSYS", "refused"],
                ),
                holds(said["plain_clone"] == "ok", "a plain fork works", "not even a plain fork works"),
            ]),
            Err(untried) => untried,
        },
        Some(|_| json!({"parts": ["unshare", "clone", "clone3", "clone_parent", "setns", "plain_clone"]})),
    ),
    ask(
        "escape.devices",
        "make a device, and open it",
        "syscalls",
        |_| json!({"parts": ["devices"]}),
        |answer| match answer.said() {
            Ok(said) => {
                let nodes =
                    json!({"character": said["devices"]["character"], "block": said["devices"]["block"]});
                refused(&nodes, &["EPERM"])
            }
            Err(untried) => untried,
        },
        None,
    ),
    ask(
        "escape.handles",
        "open files of the machine by their inode numbers",
        "syscalls",
        calls!("open_by_handle_at", "name_to_handle_at"),
        judge_calls,
        Some(calls!("open_by_handle_at", "name_to_handle_at")),
    ),
    ask(
        "escape.trace",
        "trace, read and write other processes",
        "syscalls",
        calls!("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
        judge_calls,
        // As root, PTRACE_ATTACH of process 1 would be taken at its word.
        Some(calls!("process_vm_readv", "process_madvise", "pidfd_getfd", "kcmp")),
    ),
    ask(
        "escape.keys",
        "use the kernel's key rings",
        "syscalls",
        calls!("keyctl", "add_key", "request_key"),
        judge_calls,
        Some(calls!("keyctl", "request_key")),
    ),
    ask(
        "escape.kernel",
        "load code into the kernel, or use its sharpest tools: bpf, io_uring, userfaultfd, perf, modules, kexec",
        "syscalls",
        calls!(
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "iopl",
            "ioperm",
            "modify_ldt",
            "vmsplice",
            "fanotify_init",
            "inotify_init1",
            "move_pages",
            "migrate_pages",
            "remap_file_pages",
            "memfd_secret",
            "seccomp",
            "uselib",
            "lookup_dcookie",
            "nfsservctl",
            "personality",
            "statmount",
            "listmount"
        ),
        judge_calls,
        Some(calls!("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "inotify_init1", "seccomp")),
    ),
    ask(
        "escape.machine",
        "set the clock, the host's name, swap, quotas, accounting; restart it",
        "syscalls",
        calls!(
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "adjtimex",
            "sethostname",
            "setdomainname",
            "syslog",
            "swapon",
            "swapoff",
            "quotactl",
            "acct",
            "reboot",
            "vhangup",
            "capset",
            "ustat",
            "sysfs"
        ),
        judge_calls,
        Some(calls!("swapon", "swapoff", "quotactl", "clock_settime", "ustat")),
    ),
    ask(
        "escape.tables",
        "call the kernel by the numbers of other architectures",
        "syscalls",
        |_| json!({"parts": ["other_tables"]}),
        |answer| match answer.said() {
            Ok(said) if said["other_tables"] == json!({}) => {
                Finding::Untried("this processor has no other numbers".into())
            }
            Ok(said) => refused(
                &json!({"x32": said["other_tables"]["x32"], "i386": said["other_tables"]["i386"].as_str().map(|end| end.replace(' ', "-"))}),
                &["ENOSYS", "signal-31"],
            ),
            Err(untried) => untried,
        },
        None,
    ),
    ask(
        "escape.terminal",
        "push characters into a terminal",
        "syscalls",
        |_| json!({"parts": ["terminal"]}),
        |answer| answer.said().map_or_else(|untried| untried, |said| refused(&said["terminal"], &["EPERM"])),
        Some(|_| json!({"parts": ["terminal"]})),
    ),
    ask(
        "escape.set-uid",
        "gain rights by a set-uid program, or by asking for another user",
        "escape",
        |_| json!({"by": "set_uid"}),
        |answer| tried_and_control(answer, &["EPERM"]),
        None,
    ),
    ask(
        "escape.capabilities",
        "have or raise a capability; give one to a file; take no_new_privs back",
        "escape",
        |_| json!({"by": "capabilities"}),
        |answer| tried_and_control(answer, &["EPERM", "EINVAL", "EACCES"]),
        Some(|_| json!({"by": "capabilities"})),
    ),
    ask(
        "escape.settings",
        "open the kernel's settings for writing: core_pattern, sysrq, modprobe, …",
        "escape",
        |_| json!({"by": "kernel_settings"}),
        |answer| tried_and_control(answer, NO_WRITE),
        Some(|_| json!({"by": "kernel_settings"})),
    ),
    ask(
        "escape.cgroups",
        "lift one's limits by the files of cgroups",
        "escape",
        |_| json!({"by": "control_groups"}),
        |answer| tried_and_control(answer, &["EROFS", "EACCES", "EPERM"]),
        None,
    ),
    ask(
        "escape.program",
        "write to the program that the sandbox was started from",
        "escape",
        |_| json!({"by": "own_program"}),
        |answer| tried_and_control(answer, NO_WRITE),
        None,
    ),
    ask(
        "escape.dev-links",
        "put links in the place of /dev/null and the like",
        "escape",
        |_| json!({"by": "devices_replaced"}),
        |answer| tried_and_control(answer, &["EROFS", "EACCES", "EPERM", "EXDEV", "EISDIR"]),
        None,
    ),
    ask(
        "escape.read",
        "read files of the machine and of the worker",
        "files",
        |scene| json!({"do": "read", "paths": secret_files(&scene.ol_dir)}),
        |answer| answer.said().map_or_else(|untried| untried, |said| refused(&said, &["ENOENT", "EACCES"])),
        Some(|scene| json!({"do": "read", "paths": secret_files(&scene.ol_dir)})),
    ),
    ask(
        "escape.change",
        "change, remove, rename, link over what is outside of /tmp",
        "files",
        |_| json!({"do": "tamper", "paths": FIXED_FILES}),
        |answer| answer.said().map_or_else(|untried| untried, |said| refused(&said, NO_CHANGE)),
        None,
    ),
    play(
        "escape.channel",
        "talk nonsense to the worker on the sandbox's own sockets",
        "abuse",
        Play::Channel,
    ),
];

fn judge_calls(answer: &Answer) -> Finding {
    match answer.said() {
        Ok(said) if said["allowed"]["getpid"] != "ok" => {
            Finding::Untried("calls by number do not work".into())
        }
        // Only the filter says EPERM to arguments that mean nothing; the kernel would find fault with those.
        Ok(said) => refused(&said["calls"], &["EPERM"]),
        Err(untried) => untried,
    }
}

/// What `identity.py` says of who it is.
fn inherited(said: &Value) -> Finding {
    let none = "0000000000000000";
    let has_capability =
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().any(|set| said["status"][*set] != none);
    let descriptors: Vec<_> =
        said["descriptors"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let known = ["HOME", "LANG", "OPENBLAS_NUM_THREADS", "PATH", "TMPDIR", "TZ", "USER"];
    let foreign: Vec<_> = said["environment"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .filter(|name| !known.contains(name))
        .collect();
    let shared = said["shared_memory"].as_array().into_iter().flatten();
    let writable = shared.filter(|line| line.as_str().is_some_and(|line| !line.contains(" r--s "))).count();
    let filtered = said["status"]["NoNewPrivs"] == "1" && said["status"]["Seccomp"] == "2";
    Finding::all([
        holds(!has_capability, "no capability", format!("capabilities: {}", said["status"]["CapEff"])),
        holds(filtered, "no_new_privs and a filter", "no_new_privs or the filter is missing"),
        holds(
            descriptors == ["0", "1", "2", "3", "4"],
            "its five descriptors",
            format!("descriptors {descriptors:?}"),
        ),
        holds(foreign.is_empty(), "no variable of others", format!("variables {foreign:?}")),
        holds(
            said["terminal"] == false && said["session"] == true,
            "no terminal",
            "a terminal, or another's session",
        ),
        holds(
            said["groups"] == json!([]) && said["uid"] != 0,
            "no group",
            format!("user {}, groups {}", said["uid"], said["groups"]),
        ),
        holds(writable == 0, "no memory that is shared for writing", format!("{writable} shared areas")),
    ])
}

/// Files that nobody may read, as far as they are here: of what is not, the lack would prove nothing.
fn secret_files(ol_dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = ["config.json", "worker", "worker/worker.pid", "worker/logs", "registry"]
        .map(|name| ol_dir.join(name))
        .into();
    paths.extend(
        [
            "/etc/shadow",
            "/etc/ssh",
            "/etc/fstab",
            "/var/log",
            "/var/lib",
            "/boot",
            "/proc/kcore",
            "/proc/1/environ",
            "/dev/kmsg",
            "/dev/mem",
            "/sys/kernel",
            "/sys/fs/cgroup",
            "/run/openlambda",
        ]
        .map(PathBuf::from),
    );
    paths.retain(|path| path.exists());
    paths
}
