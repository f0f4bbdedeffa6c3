//! The system call filter: an allow-list, compiled once to a binary search tree of BPF.
//!
//! Why our own compiler: the kernel runs a new filter once for every system call number when it is
//! loaded, so a linear list of 300 comparisons costs 0.33 ms a load and a tree 0.09 ms (measured);
//! the well-kept compilers make lists.
//!
//! What is not listed fails with `EPERM`; a number newer than any that we know fails with `ENOSYS`, so
//! that a C library falls back as on an older kernel. A call by the rules of another architecture (32
//! bit) kills.

use libc::{c_long, *};

/// Flags of `clone` that make a namespace.
const CLONE_NAMESPACES: u32 = 0x7e02_0000 | 0x80;
/// A child of one's own parent: which is the zygote, and would have to bury it.
const CLONE_SIBLING: u32 = CLONE_PARENT as u32;

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Allow,
    Errno(i32),
    /// Allowed when no bit of `mask` is set in the low half of the argument; else `EPERM`.
    NoBits {
        argument: u8,
        mask: u32,
    },
    /// Allowed when the low half of the argument, masked, is one of the values; else the error.
    OneOf {
        argument: u8,
        mask: u32,
        values: &'static [u32],
        errno: i32,
    },
    /// `socket`: one of [`SOCKETS`].
    Socket,
    /// Allowed when the low halves of so many first arguments are not 0; else `EPERM`.
    NoZero {
        n_arguments: u8,
    },
    /// `setsockopt`: none of [`OPTIONS`].
    Option,
    /// Allowed unless the low half of the argument is one of the values; those fail with `EPERM`.
    NoneOf {
        argument: u8,
        values: &'static [u32],
    },
}

/// Highest number in the tables that this file was written against (Linux 6.12, `mseal`).
const KNOWN_MAX: c_long = 462;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Allowed without a look at the arguments: what Python, its standard library, numpy and a compiled
/// program use. Everything that reaches beyond the sandbox's own memory, files, processes and sockets
/// is missing on purpose: mounts, namespaces, tracing, keys, modules, clocks, eBPF, io_uring, quotas. Huge pages,
/// which the machine has set aside for somebody and which no limit of memory counts, are refused below. So is
/// inotify: the files of the base are everybody's, and who may watch them sees what all others read and run; and the
/// kernel takes its instances off those of the machine's root. So are POSIX message queues: their bytes are counted to the
/// user namespace that all sandboxes share, which a few could have all of.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // files
    SYS_read, SYS_write, SYS_close, SYS_fstat, SYS_lseek, SYS_pread64, SYS_pwrite64, SYS_readv, SYS_writev,
    SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_openat, SYS_openat2, SYS_faccessat, SYS_faccessat2,
    SYS_flock, SYS_fsync, SYS_fdatasync, SYS_truncate, SYS_ftruncate, SYS_fallocate, SYS_getdents64,
    SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_renameat, SYS_renameat2, SYS_mkdirat, SYS_unlinkat, SYS_linkat,
    SYS_symlinkat, SYS_readlinkat, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_umask, SYS_utimensat,
    SYS_statfs, SYS_fstatfs, SYS_statx, SYS_newfstatat, SYS_sync_file_range, SYS_readahead, SYS_fadvise64,
    SYS_copy_file_range, SYS_sendfile, SYS_splice, SYS_tee, SYS_dup, SYS_dup3, SYS_pipe2, SYS_close_range,
    SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr,
    SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr,
    SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self,
    // memory
    SYS_mprotect, SYS_munmap, SYS_brk, SYS_mremap, SYS_msync, SYS_mincore, SYS_madvise, SYS_mlock,
    SYS_mlock2, SYS_munlock, SYS_mlockall, SYS_munlockall, SYS_membarrier, SYS_get_mempolicy, SYS_set_mempolicy, SYS_mbind,
    SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect,
    SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_semget, SYS_semop, SYS_semctl, SYS_semtimedop,
    SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl,
    // processes and threads
    SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_getpid, SYS_getppid, SYS_gettid,
    SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
    SYS_getresuid, SYS_getresgid, SYS_getgroups, SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid,
    SYS_setresgid, SYS_setfsuid, SYS_setfsgid, SYS_setgroups, SYS_capget, SYS_set_tid_address, SYS_set_robust_list,
    SYS_get_robust_list, SYS_rseq, SYS_futex, SYS_futex_waitv, SYS_getrlimit, SYS_getrusage, SYS_times, SYS_getpriority, SYS_setpriority, SYS_ioprio_get, SYS_ioprio_set,
    SYS_sched_yield, SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_setparam,
    SYS_sched_getscheduler, SYS_sched_setscheduler, SYS_sched_get_priority_max, SYS_sched_get_priority_min,
    SYS_sched_rr_get_interval, SYS_sched_getattr, SYS_sched_setattr, SYS_getcpu, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_restart_syscall,
    // signals
    SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending,
    SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_rt_sigsuspend, SYS_sigaltstack, SYS_signalfd4,
    // time
    SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_getitimer,
    SYS_setitimer, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete,
    SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime,
    // waiting
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2,
    // sockets; which families, the rule of `socket` says
    SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_getsockname, SYS_getpeername,
    SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_getsockopt, SYS_shutdown,
    // the machine, as far as anybody may ask
    SYS_uname, SYS_sysinfo, SYS_getrandom,
];

/// The old spellings, which only this architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[c_long] = &[
    SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_poll, SYS_select, SYS_pipe, SYS_dup2, SYS_alarm, SYS_pause,
    SYS_fork, SYS_vfork, SYS_rename, SYS_mkdir, SYS_rmdir, SYS_link, SYS_unlink, SYS_symlink, SYS_readlink, SYS_chmod,
    SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_getdents, SYS_getpgrp, SYS_time, SYS_arch_prctl,
    SYS_epoll_create, SYS_epoll_wait, SYS_signalfd, SYS_eventfd,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// A socket's family, and for each of its types which protocols.
type Sockets = (u32, &'static [(u32, &'static [u32])]);
/// Sockets that are given out: local ones, TCP, UDP, and ICMP (which has its own permission). Not: raw packets, netlink,
/// vsock, the kernel's crypto, bluetooth and the rest. By family, type and protocol, because to ask for any that the kernel
/// does not know at once (the type of DCCP, UDP as a stream) is enough to have it look for a module and load it, as root
/// and for the whole machine.
const SOCKETS: &[Sockets] = &[
    (
        AF_UNIX as u32,
        &[
            (SOCK_STREAM as u32, &[0, AF_UNIX as u32]),
            (SOCK_DGRAM as u32, &[0, AF_UNIX as u32]),
            (SOCK_SEQPACKET as u32, &[0, AF_UNIX as u32]),
        ],
    ),
    (
        AF_INET as u32,
        &[
            (SOCK_STREAM as u32, &[0, IPPROTO_TCP as u32]),
            (SOCK_DGRAM as u32, &[0, IPPROTO_UDP as u32, IPPROTO_ICMP as u32]),
        ],
    ),
    (
        AF_INET6 as u32,
        &[
            (SOCK_STREAM as u32, &[0, IPPROTO_TCP as u32]),
            (SOCK_DGRAM as u32, &[0, IPPROTO_UDP as u32, IPPROTO_ICMPV6 as u32]),
        ],
    ),
];
/// What may be said along with a socket's type.
const SOCKET_FLAGS: u32 = (SOCK_NONBLOCK | SOCK_CLOEXEC) as u32;
/// udp(7). The `libc` crate has it for other systems only.
const UDP_CORK: u32 = 1;
/// Options of sockets that are not set, by level and name, with the error; 0 pretends that it was done.
const OPTIONS: &[(u32, u32, i32)] = &[
    // A socket that lingers holds up whoever closes it last. That must not be the worker, which closes what a sandbox
    // sends along with its answers. Who asks for it is told that it is so: `close` is then only quicker.
    (SOL_SOCKET as u32, SO_LINGER as u32, 0),
    // A connection that nobody has accepted is counted to nobody, and holds as much as its listener was told here. What
    // it holds without that is set where a network is made. Who asks has to live with another size than asked for in any case.
    (SOL_SOCKET as u32, SO_RCVBUF as u32, 0),
    // It makes that buffer larger, too; and here it would be noticed if it did nothing.
    (SOL_SOCKET as u32, SO_RCVLOWAT as u32, ENOPROTOOPT),
    // A program for the kernel: it is translated into memory that is limited for the whole machine and counted to nobody,
    // and where there is no more of it, no sandbox gets its filter of system calls.
    (SOL_SOCKET as u32, SO_ATTACH_FILTER as u32, EPERM),
    (SOL_SOCKET as u32, SO_ATTACH_BPF as u32, EPERM),
    (SOL_SOCKET as u32, SO_ATTACH_REUSEPORT_CBPF as u32, EPERM),
    (SOL_SOCKET as u32, SO_ATTACH_REUSEPORT_EBPF as u32, EPERM),
    // A datagram that is not sent yet is counted to nobody, 64 KB for each socket. See [`MSG_MORE`] below.
    (IPPROTO_UDP as u32, UDP_CORK, EPERM),
    (IPPROTO_UDPLITE as u32, UDP_CORK, EPERM),
];
/// What `mknod` may make: files, pipes and sockets, never a device.
const FILE_KINDS: &[u32] = &[0, S_IFREG, S_IFIFO, S_IFSOCK];
/// Pushing characters into a terminal (CVE-2017-5226), pasting into a console.
const TERMINAL_INJECTION: &[u32] = &[0x5412, 0x541c];

/// `F_NOTIFY`: what inotify does, in an older way.
const WATCHING: &[u32] = &[1026];

/// What a zygote does besides: enter shells of its own user namespace, and set what its children may.
const ALLOWED_TO_ZYGOTES: &[c_long] = &[SYS_setns, SYS_capset];
/// By which a zygote, which may change its user, could become user 0 of its user namespace, and how many users each
/// takes. User 0 are the inits of its shells; who is the same user may write to their memory, and they have no filter.
const CHANGES_OF_USER: &[(c_long, u8)] =
    &[(SYS_setuid, 1), (SYS_setreuid, 2), (SYS_setresuid, 3), (SYS_setfsuid, 1)];

/// Whom a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Sandboxes.
    Sandbox,
    /// Zygotes that have run the code of packages or functions. (A root zygote has run none, and no filter.)
    Zygote,
}

fn rules(who: Who) -> Vec<(u32, Rule)> {
    let (more, guarded) = match who {
        Who::Sandbox => (&[][..], &[][..]),
        Who::Zygote => (ALLOWED_TO_ZYGOTES, CHANGES_OF_USER),
    };
    let plain = ALLOWED.iter().chain(ALLOWED_HERE).chain(more);
    let mut rules: Vec<(u32, Rule)> = plain
        .filter(|number| !guarded.iter().any(|(guarded, _)| guarded == *number))
        .map(|&number| (number as u32, Rule::Allow))
        .collect();
    rules.extend(guarded.iter().map(|&(number, n_arguments)| (number as u32, Rule::NoZero { n_arguments })));
    let mut add = |number: c_long, rule| rules.push((number as u32, rule));
    add(SYS_clone, Rule::NoBits { argument: 0, mask: CLONE_NAMESPACES | CLONE_SIBLING });
    // Its flags are in memory, where a filter cannot look; C libraries then use `clone`.
    add(SYS_clone3, Rule::Errno(ENOSYS));
    add(SYS_socket, Rule::Socket);
    add(
        SYS_socketpair,
        Rule::OneOf { argument: 0, mask: u32::MAX, values: &[AF_UNIX as u32], errno: EAFNOSUPPORT },
    );
    // Nothing here outlives the sandbox, and it would be the machine's other files that are written to the disk.
    add(SYS_sync, Rule::Errno(0));
    add(SYS_syncfs, Rule::Errno(0));
    add(SYS_mmap, Rule::NoBits { argument: 3, mask: MAP_HUGETLB as u32 });
    add(SYS_memfd_create, Rule::NoBits { argument: 1, mask: MFD_HUGETLB });
    add(SYS_shmget, Rule::NoBits { argument: 2, mask: SHM_HUGETLB as u32 });
    add(SYS_fcntl, Rule::NoneOf { argument: 1, values: WATCHING });
    add(SYS_setrlimit, Rule::NoneOf { argument: 0, values: &[RLIMIT_CORE] });
    add(SYS_prlimit64, Rule::NoneOf { argument: 1, values: &[RLIMIT_CORE] });
    add(SYS_ioctl, Rule::NoneOf { argument: 1, values: TERMINAL_INJECTION });
    add(SYS_setsockopt, Rule::Option);
    // As `UDP_CORK`, for one call.
    for (number, argument) in [(SYS_sendto, 3), (SYS_sendmsg, 2), (SYS_sendmmsg, 3)] {
        add(number, Rule::NoBits { argument, mask: MSG_MORE as u32 });
    }
    // A filter is a program for the kernel, as those of sockets. Zygotes give their forks one.
    match who {
        Who::Sandbox => add(SYS_prctl, Rule::NoneOf { argument: 0, values: &[PR_SET_SECCOMP as u32] }),
        Who::Zygote => add(SYS_prctl, Rule::Allow),
    }
    // What a program that starts up asks (which personality?) and what sets none of the odd ones.
    add(
        SYS_personality,
        Rule::OneOf { argument: 0, mask: u32::MAX, values: &[0, 8, 0xffff_ffff], errno: EPERM },
    );
    add(SYS_mknodat, Rule::OneOf { argument: 2, mask: S_IFMT, values: FILE_KINDS, errno: EPERM });
    #[cfg(target_arch = "x86_64")]
    add(SYS_mknod, Rule::OneOf { argument: 1, mask: S_IFMT, values: FILE_KINDS, errno: EPERM });
    rules.sort_by_key(|&(number, _)| number);
    for pair in rules.windows(2) {
        assert!(pair[0].0 != pair[1].0, "system call {} stands twice in the filter", pair[0].0);
    }
    rules
}

/// One instruction of BPF, laid out as the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    k: u32,
}

impl Instruction {
    /// The eight bytes that the kernel reads.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&self.code.to_ne_bytes());
        bytes[2] = self.jump_true;
        bytes[3] = self.jump_false;
        bytes[4..].copy_from_slice(&self.k.to_ne_bytes());
        bytes
    }
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, k }
}

fn branch(code: u16, k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, k }
}

fn errno(number: i32) -> u32 {
    RETURN_ERRNO | number as u32
}

/// The filter as the kernel takes it. The number of instructions is checked by a test to fit the
/// kernel's bound of 4,096.
#[must_use]
pub fn compile(who: Who) -> Vec<Instruction> {
    // Ranges of numbers with the same rule, from 0 to the end: what lies between rules is refused.
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let mut next = 0;
    let mut push = |start, rule| {
        if ranges.last().is_none_or(|&(_, last)| last != rule) {
            ranges.push((start, rule));
        }
    };
    for (number, rule) in rules(who) {
        if number > next {
            push(next, Rule::Errno(EPERM));
        }
        push(number, rule);
        next = number + 1;
    }
    push(next, Rule::Errno(EPERM));
    push(KNOWN_MAX as u32 + 1, Rule::Errno(ENOSYS));

    let mut program = vec![
        plain(LOAD, ARCH_AT),
        branch(IF_EQUAL, AUDIT_ARCH, 1, 0),
        plain(RETURN, RETURN_KILL_PROCESS),
        plain(LOAD, NUMBER_AT),
    ];
    program.extend(tree(&ranges));
    program
}

/// A filter that lets everything through, for `features.enable_seccomp: false`.
#[must_use]
pub fn allow_all() -> Vec<Instruction> {
    vec![plain(RETURN, RETURN_ALLOW)]
}

fn tree(ranges: &[(u32, Rule)]) -> Vec<Instruction> {
    let [(_, rule)] = ranges else {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let low = tree(left);
        // A conditional jump reaches 255 instructions, this one all of them.
        let mut code = vec![branch(IF_AT_LEAST, right[0].0, 0, 1), plain(JUMP, low.len() as u32)];
        code.extend(low);
        code.extend(tree(right));
        return code;
    };
    leaf(*rule)
}

fn leaf(rule: Rule) -> Vec<Instruction> {
    let low_half = |argument: u8| plain(LOAD, ARGUMENTS_AT + 8 * u32::from(argument));
    match rule {
        Rule::Allow => vec![plain(RETURN, RETURN_ALLOW)],
        Rule::Errno(number) => vec![plain(RETURN, errno(number))],
        Rule::NoBits { argument, mask } => vec![
            low_half(argument),
            branch(IF_ANY_BIT, mask, 1, 0),
            plain(RETURN, RETURN_ALLOW),
            plain(RETURN, errno(EPERM)),
        ],
        Rule::Socket => {
            let types = |types: &[(u32, &[u32])]| {
                let protocols = |protocols: &[u32]| {
                    let mut code = vec![low_half(2)];
                    code.extend(any_of(protocols, EPROTONOSUPPORT));
                    code
                };
                let mut code = vec![low_half(1), plain(AND, !SOCKET_FLAGS)];
                code.extend(choice(types.iter().map(|&(kind, list)| (kind, protocols(list)))));
                code.push(plain(RETURN, errno(ESOCKTNOSUPPORT)));
                code
            };
            let mut code = vec![low_half(0)];
            code.extend(choice(SOCKETS.iter().map(|&(family, list)| (family, types(list)))));
            code.push(plain(RETURN, errno(EAFNOSUPPORT)));
            code
        }
        Rule::Option => {
            let mut code = Vec::new();
            for &(level, name, number) in OPTIONS {
                code.extend([
                    low_half(1),
                    branch(IF_EQUAL, level, 0, 3),
                    low_half(2),
                    branch(IF_EQUAL, name, 0, 1),
                    plain(RETURN, errno(number)),
                ]);
            }
            code.push(plain(RETURN, RETURN_ALLOW));
            code
        }
        Rule::OneOf { argument, mask, values, errno: number } => {
            let mut code = vec![low_half(argument), plain(AND, mask)];
            code.extend(any_of(values, number));
            code
        }
        Rule::NoZero { n_arguments } => {
            let mut code = Vec::new();
            for argument in 0..n_arguments {
                code.extend([low_half(argument), branch(IF_EQUAL, 0, 0, 1), plain(RETURN, errno(EPERM))]);
            }
            code.push(plain(RETURN, RETURN_ALLOW));
            code
        }
        Rule::NoneOf { argument, values } => {
            let mut code = vec![low_half(argument)];
            for (index, &value) in values.iter().enumerate() {
                code.push(branch(IF_EQUAL, value, (values.len() - index) as u8, 0));
            }
            code.extend([plain(RETURN, RETURN_ALLOW), plain(RETURN, errno(EPERM))]);
            code
        }
    }
}

/// Allows what was loaded if it is one of the values.
fn any_of(values: &[u32], number: i32) -> Vec<Instruction> {
    let jumps = values.iter().enumerate();
    let mut code: Vec<_> =
        jumps.map(|(index, &value)| branch(IF_EQUAL, value, (values.len() - index) as u8, 0)).collect();
    code.extend([plain(RETURN, errno(number)), plain(RETURN, RETURN_ALLOW)]);
    code
}

/// Goes on by what was loaded, and behind all of it if it is none of the values. What belongs to a value must come to an end.
fn choice(cases: impl Iterator<Item = (u32, Vec<Instruction>)>) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (value, case) in cases {
        code.push(branch(IF_EQUAL, value, 0, case.len() as u8));
        code.extend(case);
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do, and in how many steps.
    fn run(program: &[Instruction], arch: u32, number: u32, arguments: &[u32]) -> (u32, usize) {
        let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0);
        loop {
            let Instruction { code, jump_true, jump_false, k } = program[at];
            at += 1;
            steps += 1;
            let jump = |taken: bool| usize::from(if taken { jump_true } else { jump_false });
            match code {
                LOAD => {
                    accumulator = match k {
                        NUMBER_AT => number,
                        ARCH_AT => arch,
                        _ => arguments[((k - ARGUMENTS_AT) / 8) as usize],
                    }
                }
                AND => accumulator &= k,
                JUMP => at += k as usize,
                IF_EQUAL => at += jump(accumulator == k),
                IF_AT_LEAST => at += jump(accumulator >= k),
                IF_ANY_BIT => at += jump(accumulator & k != 0),
                RETURN => return (k, steps),
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn verdict<const N: usize>(number: c_long, arguments: [u32; N]) -> u32 {
        run(&compile(Who::Sandbox), AUDIT_ARCH, number as u32, &arguments).0
    }

    #[test]
    fn the_tree_says_what_the_list_says_for_every_number() {
        let program = compile(Who::Sandbox);
        let rules = rules(Who::Sandbox);
        for number in 0..1000 {
            let expected = match rules.iter().find(|&&(known, _)| known == number) {
                Some((_, Rule::Allow)) => RETURN_ALLOW,
                Some((_, Rule::Errno(error))) => errno(*error),
                Some(_) => continue,
                None if i64::from(number) > KNOWN_MAX => errno(ENOSYS),
                None => errno(EPERM),
            };
            let (got, steps) = run(&program, AUDIT_ARCH, number, &[0; 6]);
            assert_eq!(got, expected, "system call {number}");
            assert!(steps <= 40, "a tree, not a list: {steps} steps for {number}");
        }
    }

    #[test]
    fn the_kernel_takes_a_program_of_this_length() {
        let len = compile(Who::Sandbox).len();
        assert!(len < 4096, "{len}");
    }

    #[test]
    fn another_architecture_kills() {
        assert_eq!(run(&compile(Who::Sandbox), 0x4000_0003, 1, &[0; 6]).0, RETURN_KILL_PROCESS);
    }

    #[test]
    fn calls_of_the_x32_table_do_not_exist() {
        assert_eq!(verdict(0x4000_0000 + SYS_read, [0; 3]), errno(ENOSYS));
    }

    #[test]
    fn what_reaches_out_of_a_sandbox_is_refused() {
        #[rustfmt::skip]
        let refused = [
            SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_setns, SYS_unshare, SYS_ptrace, SYS_process_vm_readv,
            SYS_process_vm_writev, SYS_kcmp, SYS_pidfd_getfd, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_bpf,
            SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter, SYS_kexec_load, SYS_init_module,
            SYS_finit_module, SYS_delete_module, SYS_swapon, SYS_quotactl, SYS_acct, SYS_settimeofday, SYS_clock_settime,
            SYS_adjtimex, SYS_sethostname, SYS_setdomainname, SYS_syslog, SYS_fanotify_init, SYS_open_by_handle_at,
            SYS_name_to_handle_at, SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsmount, SYS_fsconfig, SYS_fspick,
            SYS_mount_setattr, SYS_inotify_init1, SYS_inotify_add_watch, SYS_capset, SYS_reboot, SYS_vmsplice, SYS_lookup_dcookie, SYS_move_pages, SYS_migrate_pages,
            SYS_mq_open, SYS_seccomp,
        ];
        for number in refused {
            assert_eq!(verdict(number, [0; 3]), errno(EPERM), "system call {number}");
        }
    }

    #[test]
    fn a_zygote_may_enter_shells_and_change_its_user_but_never_to_that_of_an_init() {
        let program = compile(Who::Zygote);
        let verdict =
            |number: c_long, arguments: [u32; 3]| run(&program, AUDIT_ARCH, number as u32, &arguments).0;
        assert_eq!(verdict(SYS_setns, [3, 0, 0]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_capset, [0; 3]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_setresuid, [7, 7, 7]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_prctl, [PR_SET_SECCOMP as u32, 2, 0]), RETURN_ALLOW);
        for arguments in [[0, 7, 7], [7, 0, 7], [7, 7, 0], [0, 0, 0]] {
            assert_eq!(verdict(SYS_setresuid, arguments), errno(EPERM), "{arguments:?}");
        }
        for (number, ..) in CHANGES_OF_USER {
            assert_eq!(verdict(*number, [0; 3]), errno(EPERM));
            assert_eq!(verdict(*number, [9; 3]), RETURN_ALLOW);
        }
        for number in [SYS_unshare, SYS_mount, SYS_chroot, SYS_pivot_root, SYS_ptrace, SYS_process_vm_writev]
        {
            assert_eq!(verdict(number, [0; 3]), errno(EPERM), "system call {number}");
        }
        assert_eq!(verdict(SYS_clone, [CLONE_NEWUSER as u32 | SIGCHLD as u32, 0, 0]), errno(EPERM));
    }

    #[test]
    fn arguments_decide_where_they_must() {
        assert_eq!(verdict(SYS_clone, [SIGCHLD as u32, 0, 0]), RETURN_ALLOW);
        for flag in [
            CLONE_NEWUSER,
            CLONE_NEWNS,
            CLONE_NEWPID,
            CLONE_NEWNET,
            CLONE_NEWIPC,
            CLONE_NEWUTS,
            CLONE_NEWCGROUP,
        ] {
            assert_eq!(verdict(SYS_clone, [flag as u32 | SIGCHLD as u32, 0, 0]), errno(EPERM), "{flag:#x}");
        }
        assert_eq!(verdict(SYS_clone, [CLONE_PARENT as u32 | SIGCHLD as u32, 0, 0]), errno(EPERM));
        assert_eq!(verdict(SYS_fcntl, [3, F_SETFD as u32, 1]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_memfd_create, [0, MFD_CLOEXEC, 0]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_memfd_create, [0, MFD_HUGETLB, 0]), errno(EPERM));
        assert_eq!(verdict(SYS_shmget, [0, 0, SHM_HUGETLB as u32]), errno(EPERM));
        assert_eq!(verdict(SYS_fcntl, [3, 1026, 0x8000_0001]), errno(EPERM));
        assert_eq!(verdict(SYS_prlimit64, [0, RLIMIT_NOFILE, 0]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_prlimit64, [0, RLIMIT_CORE, 0]), errno(EPERM));
        assert_eq!(verdict(SYS_setsockopt, [3, SOL_SOCKET as u32, SO_LINGER as u32]), errno(0));
        assert_eq!(verdict(SYS_setsockopt, [3, SOL_SOCKET as u32, SO_REUSEADDR as u32]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_setsockopt, [3, IPPROTO_TCP as u32, SO_LINGER as u32]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_clone3, [0; 3]), errno(ENOSYS));
        assert_eq!(verdict(SYS_setsockopt, [3, SOL_SOCKET as u32, SO_RCVBUF as u32]), errno(0));
        let low_mark = [3, SOL_SOCKET as u32, SO_RCVLOWAT as u32];
        assert_eq!(verdict(SYS_setsockopt, low_mark), errno(ENOPROTOOPT));
        for name in [SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF] {
            assert_eq!(verdict(SYS_setsockopt, [3, SOL_SOCKET as u32, name as u32]), errno(EPERM), "{name}");
        }
        for level in [IPPROTO_UDP, IPPROTO_UDPLITE] {
            assert_eq!(verdict(SYS_setsockopt, [3, level as u32, UDP_CORK]), errno(EPERM), "{level}");
        }
        assert_eq!(verdict(SYS_setsockopt, [3, IPPROTO_TCP as u32, TCP_NODELAY as u32]), RETURN_ALLOW);
        let more = MSG_MORE as u32 | MSG_NOSIGNAL as u32;
        assert_eq!(verdict(SYS_sendto, [3, 0, 9, more]), errno(EPERM));
        assert_eq!(verdict(SYS_sendto, [3, 0, 9, MSG_NOSIGNAL as u32]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_sendmsg, [3, 0, more, 0]), errno(EPERM));
        assert_eq!(verdict(SYS_sendmsg, [3, 0, 0, 0]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_sendmmsg, [3, 0, 9, more]), errno(EPERM));
        assert_eq!(verdict(SYS_prctl, [PR_SET_SECCOMP as u32, 2, 0]), errno(EPERM));
        assert_eq!(verdict(SYS_prctl, [PR_SET_NAME as u32, 0, 0]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_ioctl, [1, TCGETS as u32, 0]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_ioctl, [1, TIOCSTI as u32, 0]), errno(EPERM));
        assert_eq!(verdict(SYS_mknodat, [0, 0, S_IFCHR | 0o600]), errno(EPERM));
        assert_eq!(verdict(SYS_mknodat, [0, 0, S_IFBLK | 0o600]), errno(EPERM));
        assert_eq!(verdict(SYS_mknodat, [0, 0, S_IFIFO | 0o600]), RETURN_ALLOW);
        assert_eq!(verdict(SYS_personality, [0x0040_0000, 0, 0]), errno(EPERM));
    }

    #[test]
    fn a_socket_is_of_a_family_and_type_and_protocol_that_belong_together() {
        let verdict = |family: i32, kind: i32, protocol: i32| {
            verdict(SYS_socket, [family as u32, kind as u32, protocol as u32])
        };
        for flags in [0, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC] {
            for family in [AF_INET, AF_INET6] {
                assert_eq!(verdict(family, SOCK_STREAM | flags, 0), RETURN_ALLOW);
                assert_eq!(verdict(family, SOCK_STREAM | flags, IPPROTO_TCP), RETURN_ALLOW);
                assert_eq!(verdict(family, SOCK_DGRAM | flags, 0), RETURN_ALLOW);
                assert_eq!(verdict(family, SOCK_DGRAM | flags, IPPROTO_UDP), RETURN_ALLOW);
                // What the kernel would look for a module for.
                assert_eq!(verdict(family, SOCK_STREAM | flags, IPPROTO_UDP), errno(EPROTONOSUPPORT));
                // Raw packets, reliable ones, DCCP, and packets of the device in an old spelling.
                for kind in [SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, 6, 10, 0, 0x11] {
                    assert_eq!(verdict(family, kind | flags, 0), errno(ESOCKTNOSUPPORT), "{kind}");
                }
            }
            for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
                assert_eq!(verdict(AF_UNIX, kind | flags, 0), RETURN_ALLOW);
            }
        }
        assert_eq!(verdict(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), RETURN_ALLOW);
        assert_eq!(verdict(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6), RETURN_ALLOW);
        for protocol in [IPPROTO_SCTP, IPPROTO_DCCP, IPPROTO_MPTCP, IPPROTO_RAW] {
            assert_eq!(verdict(AF_INET, SOCK_STREAM, protocol), errno(EPROTONOSUPPORT), "{protocol}");
        }
        for family in [AF_PACKET, AF_NETLINK, AF_VSOCK, AF_ALG, AF_BLUETOOTH] {
            assert_eq!(verdict(family, SOCK_DGRAM, 0), errno(EAFNOSUPPORT));
        }
    }
}
