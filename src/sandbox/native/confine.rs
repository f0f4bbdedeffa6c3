//! What a child does to itself before the first line of Python runs in it: it enters its cgroups and namespaces, and gives up what it
//! must not have.

use core::ffi::{c_int, c_uint, c_ulong};
use core::ptr;

use super::filter;
use super::libc::{
    CAP_SETGID, CAP_SETPCAP, CAP_SETUID, CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAPABILITIES_MAX,
    CAPABILITY_VERSION_3, EINVAL, EPIPE, F_DUPFD_CLOEXEC, O_RDWR, O_WRONLY_CLOEXEC, PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_DROP, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS,
    RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_NOFILE, RLIMIT_RTPRIO, RLIMIT_SIGPENDING,
    SIG_SETMASK, SYS_CAPSET, SYS_CLOSE_RANGE, cap_header, chdir, close, dup2, errno, fcntl, getrlimit, open,
    openat, prctl, read, rlimit, setgroups, setns, setresgid, setresuid, setrlimit, setsid, sigprocmask,
    sigset, syscall, umask, write,
};
use super::messages::{
    FORK_AT_DOOR, FORK_INTO_CGROUP, Failure, Received, Request, STEP_CGROUP, STEP_DESCRIPTORS, STEP_LIMITS,
    STEP_NAMESPACES, STEP_PRIVILEGES, check,
};

/// Where received descriptors wait until they get their final numbers: above those.
const FD_PARKING: c_int = 64;
/// What the kernel gives to users and not to cgroups. Each sandbox has a user of its own, and so a limit of its own: the
/// shim sees to it that what all have together has none, or as high a one as can be had. The worker may have been started with more than is good for a function.
const SHARED_LIMITS: [(c_int, u64); 5] = [
    (RLIMIT_MEMLOCK, 64 << 10),
    // A timer of the kernel is a pending signal.
    (RLIMIT_SIGPENDING, 256),
    // The filter refuses POSIX message queues; without it (`features.enable_seccomp`) there are none to be had, either.
    (RLIMIT_MSGQUEUE, 0),
    (RLIMIT_NICE, 0),
    (RLIMIT_RTPRIO, 0),
];
/// What a zygote keeps, in its own user namespace: to enter shells (for that of mounts the kernel asks for
/// `CAP_SYS_CHROOT` too), and to take from a child what it has itself.
const ZYGOTE_CAPABILITIES: u64 =
    1 << CAP_SETGID | 1 << CAP_SETUID | 1 << CAP_SETPCAP | 1 << CAP_SYS_CHROOT | 1 << CAP_SYS_ADMIN;

/// Everything between the fork and the first line of Python. Each step says why it comes now.
/// `control` is where a failure can be told; its number changes on the way.
pub(crate) fn confine(
    received: &Received,
    signal_mask: &sigset,
    is_inside: bool,
    control: &mut c_int,
) -> Result<(), Failure> {
    let request = &received.request;
    // First the cgroups: every page touched from here on is charged to the sandbox, not to the zygote.
    let (namespaces, cgroups) = received.parts();
    for &procs in received.cgroups() {
        if request.kind == FORK_INTO_CGROUP {
            if !is_inside {
                enter(procs)?;
            }
            continue;
        }
        // SAFETY: one byte of a live literal.
        check(unsafe { write(procs, b"0".as_ptr().cast(), 1) } as c_int, STEP_CGROUP)?;
        if request.kind == FORK_AT_DOOR {
            let mut answer = 0u8;
            // SAFETY: one byte that lives through the call.
            let n = unsafe { read(procs, (&raw mut answer).cast(), 1) };
            check(n as c_int, STEP_CGROUP)?;
            if n == 0 {
                return Err(Failure { step: STEP_CGROUP, errno: EPIPE });
            }
        }
    }
    // A zygote's user namespace comes first, which gives the right to the others; that of mounts also moves root and
    // working directory into the shell. By descriptors of each, and not all by that of the shell's init: that would
    // take the right to look into the init, with which a zygote could change it.
    for &namespace in &received.fds[namespaces..cgroups] {
        // SAFETY: plain system call on a descriptor that we own.
        check(unsafe { setns(namespace, 0) }, STEP_NAMESPACES)?;
    }
    // Out of any directory of the zygote's, also where the mount namespace did not change.
    // SAFETY: a literal that ends with NUL.
    check(unsafe { chdir(c"/".as_ptr()) }, STEP_NAMESPACES)?;
    descriptors(received, control)?;
    limits(request)?;
    privileges(request.uid, received.is_zygote())?;
    // A signal that came for the zygote means nothing here; and SIGCHLD is the function's again.
    // SAFETY: the set was filled by the same function.
    check(unsafe { sigprocmask(SIG_SETMASK, signal_mask, ptr::null_mut()) }, STEP_PRIVILEGES)?;
    // Last, because it forbids most of what stands above.
    filter::load(received.is_zygote())
}

/// Into a group that the child should have been born in, through its directory.
fn enter(cgroup: c_int) -> Result<(), Failure> {
    // SAFETY: a literal that ends with NUL, and one byte of another.
    unsafe {
        let procs = openat(cgroup, c"cgroup.procs".as_ptr(), O_WRONLY_CLOEXEC);
        check(procs, STEP_CGROUP)?;
        check(write(procs, b"0".as_ptr().cast(), 1) as c_int, STEP_CGROUP)?;
        check(close(procs), STEP_CGROUP)
    }
}

/// 0 is /dev/null, 1 and 2 the log, 3 the socket for answers, 4 that of requests, 5 a zygote's control socket, 6 for a
/// moment more that of the zygote that it was forked from, and there is nothing else: not the descriptors by which the
/// shell was entered.
fn descriptors(received: &Received, control: &mut c_int) -> Result<(), Failure> {
    let step = STEP_DESCRIPTORS;
    // SAFETY: in all of this function plain system calls on numbers; no memory is involved but literals. One block for one
    // condition.
    unsafe {
        let parked = fcntl(*control, F_DUPFD_CLOEXEC, FD_PARKING);
        check(parked, step)?;
        *control = parked;
        let answers = fcntl(received.fds[1], F_DUPFD_CLOEXEC, FD_PARKING);
        check(answers, step)?;
        let requests = fcntl(received.fds[3], F_DUPFD_CLOEXEC, FD_PARKING);
        check(requests, step)?;
        let log = fcntl(received.fds[2], F_DUPFD_CLOEXEC, FD_PARKING);
        check(log, step)?;
        let own_control =
            if received.is_zygote() { fcntl(received.fds[4], F_DUPFD_CLOEXEC, FD_PARKING) } else { -1 };
        // Opened here and not inherited: this one is the shell's.
        let null = open(c"/dev/null".as_ptr(), O_RDWR);
        check(null, step)?;
        let null = fcntl(null, F_DUPFD_CLOEXEC, FD_PARKING);
        check(null, step)?;
        check(dup2(null, 0), step)?;
        check(dup2(log, 1), step)?;
        check(dup2(log, 2), step)?;
        check(dup2(answers, 3), step)?;
        check(dup2(requests, 4), step)?;
        // They are the runtime's, not for a program that the function starts.
        check(fcntl(3, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */), step)?;
        check(fcntl(4, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */), step)?;
        check(dup2(parked, 6), step)?;
        *control = 6;
        check(fcntl(6, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */), step)?;
        if received.is_zygote() {
            check(own_control, step)?;
            check(dup2(own_control, 5), step)?;
            check(fcntl(5, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */), step)?;
        } else {
            close(5);
        }
        check(syscall(SYS_CLOSE_RANGE, 7 as c_uint, c_uint::MAX, 0 as c_uint) as c_int, step)
    }
}

fn limits(request: &Request) -> Result<(), Failure> {
    let files = rlimit { soft: request.nofile.into(), hard: request.nofile.into() };
    // SAFETY: live structures of the right layout.
    unsafe {
        check(setrlimit(RLIMIT_NOFILE, &raw const files), STEP_LIMITS)?;
        for (resource, most) in SHARED_LIMITS {
            let mut limit = rlimit { soft: 0, hard: 0 };
            check(getrlimit(resource, &raw mut limit), STEP_LIMITS)?;
            limit.hard = limit.hard.min(most);
            limit.soft = limit.soft.min(most);
            check(setrlimit(resource, &raw const limit), STEP_LIMITS)?;
        }
        // A session of its own: no terminal to push characters into (CVE-2017-5226).
        check(setsid(), STEP_LIMITS)?;
        umask(0o022);
    }
    Ok(())
}

fn privileges(uid: u32, is_zygote: bool) -> Result<(), Failure> {
    let kept = if is_zygote { ZYGOTE_CAPABILITIES } else { 0 };
    let step = STEP_PRIVILEGES;
    // SAFETY: in all of this function plain system calls; the structures live through their calls. One block for one condition.
    unsafe {
        // The bounding set first: dropping from it needs a capability that goes with the uid.
        for capability in 0..=CAPABILITIES_MAX {
            if kept >> capability & 1 == 1 {
                continue;
            }
            if prctl(PR_CAPBSET_DROP, capability, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) < 0 {
                if errno() == EINVAL {
                    break;
                }
                return Err(Failure { step, errno: errno() });
            }
        }
        if is_zygote {
            check(prctl(PR_SET_KEEPCAPS, 1 as c_ulong, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong), step)?;
        }
        check(setgroups(0, ptr::null()), step)?;
        check(setresgid(uid, uid, uid), step)?;
        check(setresuid(uid, uid, uid), step)?;
        // Leaving uid 0 has emptied the effective and permitted sets, unless they were to be kept, or unless the zygote
        // was another user already; this sets all three.
        let header = cap_header { version: CAPABILITY_VERSION_3, pid: 0 };
        let (low, high) = (kept as u32, (kept >> 32) as u32);
        // Effective, permitted, inheritable; first of the low numbers, then of the high ones.
        let sets = [low, low, 0, high, high, 0];
        check(syscall(SYS_CAPSET, &raw const header, sets.as_ptr()) as c_int, step)?;
        // Kernels before 4.3 have no ambient set: nothing to clear there.
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong);
        check(prctl(PR_SET_NO_NEW_PRIVS, 1 as c_ulong, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong), step)?;
        // The change of uid has made the process undumpable, which gives its /proc/self files to root.
        // No other sandbox shares the uid, so this opens nothing to anybody else.
        check(prctl(PR_SET_DUMPABLE, 1 as c_ulong, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong), step)
    }
}
