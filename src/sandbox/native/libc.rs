//! What is called of the C library, as it is in glibc and in musl.

use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

#[repr(C)]
pub(crate) struct iovec {
    pub(crate) base: *mut c_void,
    pub(crate) len: usize,
}

#[repr(C)]
pub(crate) struct msghdr {
    pub(crate) name: *mut c_void,
    pub(crate) namelen: c_uint,
    pub(crate) iov: *mut iovec,
    pub(crate) iovlen: usize,
    pub(crate) control: *mut c_void,
    pub(crate) controllen: usize,
    pub(crate) flags: c_int,
}

#[repr(C)]
pub(crate) struct cmsghdr {
    pub(crate) len: usize,
    pub(crate) level: c_int,
    pub(crate) kind: c_int,
}

#[repr(C)]
pub(crate) struct pollfd {
    pub(crate) fd: c_int,
    pub(crate) events: i16,
    pub(crate) revents: i16,
}

#[repr(C)]
pub(crate) struct rlimit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

#[repr(C)]
pub(crate) struct sock_fprog {
    pub(crate) len: u16,
    pub(crate) filter: *const u64,
}

#[repr(C)]
pub(crate) struct cap_header {
    pub(crate) version: u32,
    pub(crate) pid: c_int,
}

/// glibc's and musl's `sigset_t`: 128 bytes.
#[repr(C, align(8))]
pub(crate) struct sigset {
    pub(crate) bits: [u64; 16],
}

unsafe extern "C" {
    pub(crate) fn syscall(number: c_long, ...) -> c_long;
    pub(crate) fn __errno_location() -> *mut c_int;
    pub(crate) fn fork() -> c_int;
    pub(crate) fn _exit(code: c_int) -> !;
    pub(crate) fn setns(fd: c_int, flags: c_int) -> c_int;
    pub(crate) fn recv(fd: c_int, data: *mut c_void, len: usize, flags: c_int) -> isize;
    pub(crate) fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> isize;
    pub(crate) fn send(fd: c_int, data: *const c_void, len: usize, flags: c_int) -> isize;
    pub(crate) fn write(fd: c_int, data: *const c_void, len: usize) -> isize;
    pub(crate) fn read(fd: c_int, data: *mut c_void, len: usize) -> isize;
    pub(crate) fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    pub(crate) fn openat(directory: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
    pub(crate) fn close(fd: c_int) -> c_int;
    pub(crate) fn dup2(from: c_int, to: c_int) -> c_int;
    pub(crate) fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    pub(crate) fn poll(fds: *mut pollfd, count: c_ulong, timeout: c_int) -> c_int;
    pub(crate) fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    pub(crate) fn prctl(option: c_int, ...) -> c_int;
    pub(crate) fn setsid() -> c_int;
    pub(crate) fn umask(mask: c_uint) -> c_uint;
    pub(crate) fn chdir(path: *const c_char) -> c_int;
    pub(crate) fn setgroups(count: usize, groups: *const c_uint) -> c_int;
    pub(crate) fn setresgid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    pub(crate) fn setresuid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    pub(crate) fn getrlimit(resource: c_int, limit: *mut rlimit) -> c_int;
    pub(crate) fn setrlimit(resource: c_int, limit: *const rlimit) -> c_int;
    pub(crate) fn sigprocmask(how: c_int, set: *const sigset, old: *mut sigset) -> c_int;
    pub(crate) fn signalfd(fd: c_int, mask: *const sigset, flags: c_int) -> c_int;
    pub(crate) fn sigemptyset(set: *mut sigset) -> c_int;
    pub(crate) fn sigaddset(set: *mut sigset, signal: c_int) -> c_int;

    pub(crate) fn mmap(
        at: *mut c_void,
        len: usize,
        access: c_int,
        flags: c_int,
        fd: c_int,
        offset: c_long,
    ) -> *mut c_void;
    pub(crate) fn munmap(at: *mut c_void, len: usize) -> c_int;
    pub(crate) fn madvise(at: *mut c_void, len: usize, advice: c_int) -> c_int;
}

#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_CAPSET: c_long = 126;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_CAPSET: c_long = 91;
#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_GETTID: c_long = 186;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_GETTID: c_long = 178;
#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_SET_ROBUST_LIST: c_long = 273;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_SET_ROBUST_LIST: c_long = 99;
#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_GET_ROBUST_LIST: c_long = 274;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_GET_ROBUST_LIST: c_long = 100;
/// The same numbers on every architecture.
pub(crate) const SYS_CLOSE_RANGE: c_long = 436;
pub(crate) const SYS_CLONE3: c_long = 435;

/// `clone3`'s arguments as of Linux 5.7.
#[repr(C)]
pub(crate) struct clone_args {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

impl clone_args {
    pub(crate) const NOTHING: Self = Self {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
}

pub(crate) const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
pub(crate) const CLONE_CHILD_SETTID: u64 = 0x100_0000;
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub(crate) const CLONE_NEWPID: c_int = 0x2000_0000;
pub(crate) const SOL_SOCKET: c_int = 1;
pub(crate) const SCM_RIGHTS: c_int = 1;
pub(crate) const MSG_NOSIGNAL: c_int = 0x4000;
pub(crate) const MSG_CMSG_CLOEXEC: c_int = 0x4000_0000;
pub(crate) const MSG_TRUNC: c_int = 0x20;
pub(crate) const MSG_PEEK: c_int = 0x2;
pub(crate) const MSG_CTRUNC: c_int = 0x8;
pub(crate) const F_DUPFD_CLOEXEC: c_int = 1030;
pub(crate) const O_RDWR: c_int = 2;
pub(crate) const O_WRONLY_CLOEXEC: c_int = 1 | 0o2_000_000;
pub(crate) const POLLIN: i16 = 1;
pub(crate) const WNOHANG: c_int = 1;
pub(crate) const SIGCHLD: c_int = 17;
pub(crate) const SIG_BLOCK: c_int = 0;
pub(crate) const SIG_SETMASK: c_int = 2;
pub(crate) const SFD_CLOEXEC_NONBLOCK: c_int = 0o2_000_000 | 0o4000;
pub(crate) const EINTR: c_int = 4;
pub(crate) const EINVAL: c_int = 22;
pub(crate) const EPIPE: c_int = 32;
pub(crate) const RLIMIT_NOFILE: c_int = 7;
pub(crate) const RLIMIT_MEMLOCK: c_int = 8;
pub(crate) const RLIMIT_SIGPENDING: c_int = 11;
pub(crate) const RLIMIT_MSGQUEUE: c_int = 12;
pub(crate) const RLIMIT_NICE: c_int = 13;
pub(crate) const RLIMIT_RTPRIO: c_int = 14;
pub(crate) const PR_SET_DUMPABLE: c_int = 4;
pub(crate) const PR_SET_KEEPCAPS: c_int = 8;
pub(crate) const PR_SET_SECCOMP: c_int = 22;
pub(crate) const PR_CAPBSET_DROP: c_int = 24;
pub(crate) const PR_SET_NO_NEW_PRIVS: c_int = 38;
pub(crate) const PR_GET_TID_ADDRESS: c_int = 40;
pub(crate) const PR_CAP_AMBIENT: c_int = 47;
pub(crate) const PR_CAP_AMBIENT_CLEAR_ALL: c_ulong = 4;
pub(crate) const SECCOMP_MODE_FILTER: c_ulong = 2;
pub(crate) const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
pub(crate) const CAP_SETGID: u32 = 6;
pub(crate) const CAP_SETUID: u32 = 7;
pub(crate) const CAP_SETPCAP: u32 = 8;
pub(crate) const CAP_SYS_CHROOT: u32 = 18;
pub(crate) const CAP_SYS_ADMIN: u32 = 21;
/// Highest capability number a kernel may know; `PR_CAPBSET_DROP` says EINVAL above its own last.
pub(crate) const CAPABILITIES_MAX: c_ulong = 63;

pub(crate) fn errno() -> c_int {
    // SAFETY: the C library gives a valid pointer to this thread's error number.
    unsafe { *__errno_location() }
}
