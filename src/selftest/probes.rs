//! The probes: what is tried, by which program, and what of its answer means that it came to nothing.
//!
//! The order is that in which they are made: what reads first, what takes all it gets last.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Listed;
use super::judge::{Answer, Finding, holds, refused, tried_and_control};
use super::plays::Play;
use super::stage::{Stage, program_of};

/// One attempt, or several of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// What `--list` shows.
    pub listed: Listed,
    /// The function of the stage that tries.
    function: &'static str,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    /// One call, and its answer says it all. `open`: what to ask where there is no sandbox around the program, to see
    /// that the probe can fail; `None` where that would do harm.
    Ask { event: fn(&Scene) -> Value, judge: fn(&Answer) -> Finding, open: Option<fn(&Scene) -> Value> },
    /// What takes a look from outside as well.
    Play(Play),
}

/// What of the machine a probe is told, so that it knows whom to try.
#[derive(Debug)]
pub struct Scene {
    /// Processes of others.
    pub pids: Vec<i32>,
    /// Where somebody listens.
    pub port: u16,
    /// The worker's directory.
    pub ol_dir: PathBuf,
}

/// A probe for a process that no sandbox is around.
#[derive(Debug)]
pub struct InTheOpen {
    /// Whose.
    pub id: &'static str,
    /// The program, of which `f` is called.
    pub program: &'static str,
    /// The module `raw` that it imports.
    pub raw: &'static str,
    /// With this.
    pub event: Value,
    judge: fn(&Answer) -> Finding,
}

impl InTheOpen {
    /// What an answer means.
    #[must_use]
    pub fn judge(&self, answer: &Answer) -> Finding {
        (self.judge)(answer)
    }
}

/// The probes that do no harm where nothing holds them, and so can show that they tell a wall from none.
#[must_use]
pub fn in_the_open(scene: &Scene) -> Vec<InTheOpen> {
    all()
        .filter_map(|probe| {
            let Way::Ask { judge, open: Some(event), .. } = probe.way else { return None };
            let (program, raw) = program_of(probe.function);
            Some(InTheOpen { id: probe.listed.id, program, raw, event: event(scene), judge })
        })
        .collect()
}

pub(super) fn all() -> impl Iterator<Item = &'static Probe> {
    PROBES.iter()
}

const fn ask(
    id: &'static str,
    tries: &'static str,
    function: &'static str,
    event: fn(&Scene) -> Value,
    judge: fn(&Answer) -> Finding,
    open: Option<fn(&Scene) -> Value>,
) -> Probe {
    Probe { listed: Listed { id, tries }, function, way: Way::Ask { event, judge, open } }
}

const fn play(id: &'static str, tries: &'static str, function: &'static str, play: Play) -> Probe {
    Probe { listed: Listed { id, tries }, function, way: Way::Play(play) }
}

/// Errors by which the file system refuses, whatever was tried first.
const NO_CHANGE: &[&str] = &[
    "EROFS",
    "EACCES",
    "EPERM",
    "EISDIR",
    "ENOENT",
    "EBUSY",
    "EXDEV",
    "EINVAL",
    "EOPNOTSUPP",
    "ELOOP",
    "ENOTDIR",
];
const NO_WRITE: &[&str] = &["EROFS", "EACCES", "EPERM", "ENOENT", "ETXTBSY"];

/// What to ask of `syscalls.py`: these plain calls.
macro_rules! calls {
    ($($name:literal),+) => { |_| json!({"parts": ["calls", "allowed"], "calls": [$($name),+]}) };
}

static PROBES: &[Probe] = &[
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
    ask(
        "network.reach",
        "reach the worker, the machine, the cloud's metadata, the world, by TCP",
        "network",
        |scene| json!({"tcp": hosts(scene), "unix": []}),
        |answer| match answer.said() {
            Ok(said) => Finding::all([
                refused(&said["tcp"], &["ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EACCES"]),
                holds(
                    said["listening"] == json!([]),
                    "nobody listens inside",
                    format!("there listens {}", said["listening"]),
                ),
                holds(said["inside"] == "ok", "itself it reaches", "not even itself does it reach"),
            ]),
            Err(untried) => untried,
        },
        Some(|scene| json!({"tcp": [["127.0.0.1", scene.port]], "unix": []})),
    ),
    ask(
        "network.sockets",
        "connect to local sockets: the worker's own, abstract ones, Docker's",
        "network",
        |scene| json!({"tcp": [], "unix": [scene.ol_dir.join("worker/ol.sock"), "@/tmp/.X11-unix/X0", "/run/docker.sock", "/var/run/docker.sock", "/dev/log", "/run/systemd/private", "/run/dbus/system_bus_socket"]}),
        |answer| {
            answer
                .said()
                .map_or_else(|untried| untried, |said| refused(&said["unix"], &["ECONNREFUSED", "ENOENT"]))
        },
        None,
    ),
    ask(
        "network.families",
        "open raw, packet, netlink, vsock, crypto and other sockets",
        "syscalls",
        |_| json!({"parts": ["sockets"]}),
        |answer| match answer.said() {
            Ok(said) => {
                let mut families = said["sockets"].as_object().cloned().unwrap_or_default();
                families.retain(|name, _| !matches!(name.as_str(), "stream" | "datagram" | "local"));
                refused(&families.into(), &["EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT"])
            }
            Err(untried) => untried,
        },
        Some(|_| json!({"parts": ["sockets"]})),
    ),
    ask(
        "network.names",
        "send something out in a question to a name server, or as a datagram",
        "network",
        // Addresses that belong to nobody (RFC 5737, RFC 3849), and a name that nobody has (RFC 6761).
        |_| json!({"tcp": [], "unix": [], "names": ["a-secret.selftest.invalid"], "datagrams": [["192.0.2.53", 53], ["2001:db8::53", 53], ["169.254.169.254", 53], ["224.0.0.251", 5353]]}),
        |answer| match answer.said() {
            Ok(said) => Finding::all([
                refused(&said["names"], &["EAI_AGAIN"]),
                refused(&said["datagrams"], &["ENETUNREACH", "EADDRNOTAVAIL", "EACCES"]),
            ]),
            Err(untried) => untried,
        },
        None,
    ),
    play(
        "tenants.leftovers",
        "find what another function left: files, queues, shared memory, sockets, processes",
        "tenant",
        Play::Leftovers,
    ),
    play("tenants.secret", "find the environment of another function", "tenant", Play::ForeignSecret),
    play(
        "tenants.memory",
        "find another function's bytes in memory and files that nobody has written",
        "tenant",
        Play::Memory,
    ),
    play(
        "tenants.random",
        "draw the same numbers as a sandbox that was forked from the same zygote",
        "draw-1",
        Play::Draws,
    ),
    ask(
        "tenants.shared-code",
        "change code that is shared: packages, the runtime, another's compiled modules",
        "files",
        |_| json!({"do": "tamper", "paths": ["/packages", "/handler", "/handler/f.py", "/runtime", "/runtime/zygote.py", "/runtime/_ol.so", "/usr/lib/python3", "/usr/lib/python3/dist-packages"]}),
        |answer| answer.said().map_or_else(|untried| untried, |said| refused(&said, NO_CHANGE)),
        None,
    ),
    play(
        "tenants.zygote",
        "use what a module may do while it is imported in its zygote against others",
        "imported",
        Play::Zygote,
    ),
    ask(
        "resources.processes",
        "start more processes than are allowed",
        "appetite",
        |_| json!({"of": "processes", "n": 40}),
        |answer| bounded(answer, "n", 10),
        Some(|_| json!({"of": "processes", "n": 40})),
    ),
    ask(
        "resources.threads",
        "start more threads than are allowed",
        "appetite",
        |_| json!({"of": "threads", "n": 40}),
        |answer| bounded(answer, "n", 10),
        Some(|_| json!({"of": "threads", "n": 40})),
    ),
    play("resources.fork-bomb", "fork without end", "endless", Play::ForkBomb),
    play("resources.memory", "take more memory than is allowed", "hungry", Play::MemoryBomb("memory", "")),
    play(
        "resources.shared-memory",
        "take it as shared memory",
        "hungry",
        Play::MemoryBomb("shared_memory", ""),
    ),
    play("resources.memfd", "take it as files in memory", "hungry", Play::MemoryBomb("file_in_memory", "")),
    play("resources.tmp-memory", "take it as files in /tmp", "hungry", Play::MemoryBomb("disk", "")),
    play("resources.pipes", "take it as full pipes", "hungry", Play::MemoryBomb("pipes", "")),
    play("resources.sockets", "take it as full local sockets", "hungry", Play::MemoryBomb("sockets", "unix")),
    play("resources.tcp", "take it as full TCP connections", "hungry", Play::MemoryBomb("sockets", "tcp")),
    ask(
        "resources.page-cache",
        "have the machine's files cached at others' cost",
        "hungry",
        |_| json!({"of": "page_cache", "mb": 80}),
        |answer| match answer.said() {
            Ok(said) => holds(
                said.as_u64() >= Some(40),
                format!("{said} MB were read, within 50 MB of memory"),
                format!("only {said} MB could be read"),
            ),
            Err(_) if answer.status == 502 => {
                Finding::Contained("the reader ran out of its own memory".into())
            }
            Err(untried) => untried,
        },
        None,
    ),
    ask(
        "resources.disk",
        "fill /tmp",
        "filler",
        |_| json!({"of": "disk", "mb": 64}),
        |answer| bounded(answer, "mb", 16),
        Some(|_| json!({"of": "disk", "mb": 20})),
    ),
    ask(
        "resources.holes",
        "promise oneself a file that there is no room for",
        "filler",
        |_| json!({"of": "hole", "mb": 64}),
        |answer| match answer.said() {
            Ok(said) => refused(&json!({"fallocate": said["allocate"]}), &["ENOSPC"]),
            Err(untried) => untried,
        },
        Some(|_| json!({"of": "hole", "mb": 20})),
    ),
    ask(
        "resources.inodes",
        "make files without end",
        "filler",
        |_| json!({"of": "inodes", "n": 100_000}),
        |answer| bounded(answer, "n", 10_000),
        None,
    ),
    ask(
        "resources.descriptors",
        "open files without end",
        "hungry",
        |_| json!({"of": "descriptors", "n": 100_000}),
        |answer| bounded(answer, "n", 1024),
        None,
    ),
    ask(
        "resources.timers",
        "use up the pending signals of the user",
        "hungry",
        |_| json!({"of": "timers", "n": 1_000_000}),
        |answer| bounded(answer, "n", 1024),
        None,
    ),
    ask(
        "resources.queues",
        "use up the message queues of the user",
        "hungry",
        |_| json!({"of": "queues", "n": 1000}),
        |answer| bounded(answer, "n", 4),
        None,
    ),
    ask(
        "resources.locked",
        "lock memory",
        "hungry",
        |_| json!({"of": "locked", "mb": 16}),
        |answer| match answer.said() {
            Ok(said) => holds(
                said.as_u64().is_some_and(|n| (1..=128 << 10).contains(&n)),
                format!("{said} bytes, and no more"),
                format!("{said} bytes"),
            ),
            Err(untried) => untried,
        },
        Some(|_| json!({"of": "locked", "mb": 1})),
    ),
    ask(
        "resources.priority",
        "push in front of others by priority",
        "hungry",
        |_| json!({"of": "priority"}),
        |answer| match answer.said() {
            Ok(said) => refused(
                &json!({"nice": said["nice"], "fifo": said["fifo"], "round robin": said["round robin"]}),
                &["EACCES", "EPERM"],
            ),
            Err(untried) => untried,
        },
        Some(|_| json!({"of": "priority"})),
    ),
    play("resources.spin", "spin past the deadline", "endless", Play::Deadline("processor")),
    play("resources.deaf", "spin with every signal ignored", "endless", Play::Deadline("deaf_processor")),
    play("resources.stop", "stop oneself", "endless", Play::Deadline("standstill")),
    ask(
        "resources.zombies",
        "leave dead children to be buried by others",
        "appetite",
        |_| json!({"of": "zombies", "n": 50}),
        |answer| match answer.said() {
            Ok(said) => holds(said == "ok", "50 orphans were buried", format!("{said}")),
            // A fork is refused when the dead still count.
            Err(_) => Finding::Escaped(answer.line()),
        },
        None,
    ),
    play("resources.daemon", "leave a process behind that outlives its sandbox", "parent", Play::Daemon),
    play(
        "resources.log",
        "flood the log, with lines and with one that does not end",
        "printer",
        Play::LogFlood,
    ),
    play(
        "resources.log-control",
        "steer a terminal, or forge lines, through the log",
        "printer",
        Play::LogControl,
    ),
    play(
        "resources.frozen-growth",
        "take memory behind a frozen sandbox's back",
        "sleeper",
        Play::Frozen("grow"),
    ),
    play("resources.frozen-end", "end while frozen or idle", "ender", Play::Frozen("end")),
];

/// What nothing but `/tmp` may be changed of.
const FIXED_FILES: &[&str] = &[
    "/dev",
    "/dev/null",
    "/etc",
    "/etc/passwd",
    "/usr/bin/python3",
    "/usr/lib",
    "/proc",
    "/proc/self/exe",
    "/proc/self/oom_score_adj",
    "/proc/self/uid_map",
    "/proc/self/comm",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/proc/1/oom_score_adj",
    "/root",
    "/",
];

impl Probe {
    /// Lets it try.
    pub(super) async fn act(&self, stage: &Stage) -> Finding {
        match self.way {
            Way::Ask { event, judge, .. } => {
                let scene =
                    Scene { pids: foreign_pids(stage), port: stage.port, ol_dir: stage.ol_dir.clone() };
                stage
                    .ask(self.function, &event(&scene))
                    .await
                    .map_or_else(|finding| finding, |answer| judge(&answer))
            }
            Way::Play(play) => play.act(stage, self.function).await.unwrap_or_else(|finding| finding),
        }
    }
}

/// Small numbers mean somebody of the sandbox's own there.
fn foreign_pids(stage: &Stage) -> Vec<i32> {
    let mut pids = stage.processes();
    pids.push(std::process::id().cast_signed());
    pids.retain(|&pid| pid > 100);
    pids
}

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

/// It got something, and not more than it may, and was told so.
fn bounded(answer: &Answer, field: &str, most: u64) -> Finding {
    let said = match answer.said() {
        Ok(said) => said,
        Err(untried) => return untried,
    };
    let n = said[field].as_f64().unwrap_or(-1.0);
    let text = format!("{n} of at most {most}: {}", said["error"].as_str().unwrap_or("no error"));
    match (n > 0.0, n <= most as f64 && !said["error"].is_null()) {
        (true, true) => Finding::Contained(text),
        (true, false) => Finding::Escaped(text),
        (false, _) => Finding::Untried(format!("it got nothing at all: {}", answer.line())),
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

fn hosts(scene: &Scene) -> Value {
    let mut hosts = vec![json!(["127.0.0.1", scene.port]), json!(["::1", scene.port])];
    // The machine's address in its network, if it has one. Nothing is sent by that.
    let address = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    hosts.extend(address.ok().map(|address| json!([address.ip().to_string(), scene.port])));
    hosts.extend(
        ["169.254.169.254", "fd00:ec2::254", "192.0.2.1", "224.0.0.1", "255.255.255.255"]
            .map(|host| json!([host, 80])),
    );
    hosts.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_probes_have_one_name() {
        let ids: BTreeSet<_> = all().map(|probe| probe.listed.id).collect();
        assert_eq!(ids.len(), PROBES.len());
        assert!(ids.iter().all(|id| id.split_once('.').is_some()));
    }

    #[test]
    fn what_is_bounded_was_tried_and_told_so() {
        let of = |text: &str| bounded(&Answer { status: 200, text: text.into() }, "n", 10);
        assert!(matches!(of(r#"{"n": 7, "error": "EAGAIN"}"#), Finding::Contained(_)));
        assert!(matches!(of(r#"{"n": 40, "error": null}"#), Finding::Escaped(_)));
        assert!(matches!(of(r#"{"n": 7, "error": null}"#), Finding::Escaped(_)));
        assert!(matches!(of(r#"{"n": 0, "error": "EAGAIN"}"#), Finding::Untried(_)));
    }
}
