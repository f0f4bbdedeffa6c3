//! `_ol`: the native half of the Python runtime, loaded by `zygote.py`.
//!
//! The first of its functions is `_ol.serve(control_fd)`. In the zygote it never returns: it takes fork requests from
//! the worker, forks, and reports the pids and later the exits. In a forked child it returns 3, the
//! socket for answers (4 is that of requests), when the child sits in its shell, has given up every privilege and
//! is under the system call filter. No Python code runs between the fork and that moment.
//!
//! A child may itself be meant for a zygote. It lives in a user namespace of its own then, keeps the
//! capabilities there that forking into shells takes, has a filter that allows for it, and has its control
//! socket at descriptor 5. It has no power over anything but what is forked from it.
//!
//! The others, `_ol.gather_arenas(begin)` and `_ol.collapse(start, end)`, put what a zygote holds on large pages, which
//! are cheap to share with a fork (see `huge.py`).
//!
//! The messages on the control socket (`SOCK_SEQPACKET`, one message a packet) are mirrored in
//! `src/sandbox/wire.rs`; [`MAGIC`] changes when they do.
//!
//! This file is compiled alone, without `std`, and against no library (see `build.rs`): what it calls
//! is found in the interpreter and the C library of the base that it is loaded into.

#![no_std]
#![allow(non_camel_case_types, reason = "the names of the C interface")]

use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use core::mem;
use core::ptr;

/// "olz" and the version of the messages.
const MAGIC: u32 = 0x6f6c_7a05;

const SETUP: u32 = 1;
const FORK: u32 = 2;
const SETUP_ZYGOTES: u32 = 3;
const FORK_ZYGOTE: u32 = 4;
const FORK_AT_DOOR: u32 = 5;
const FORK_INTO_CGROUP: u32 = 6;

const FORKED: u32 = 16;
const FAILED: u32 = 17;
const EXITED: u32 = 18;
const READY: u32 = 19;

/// The head of every message to the zygote. After `SETUP` comes the filter of sandboxes, after `SETUP_ZYGOTES` that of
/// zygotes: 8 bytes an instruction.
/// `FORK` carries descriptors: the shell's pid namespace, the socket for answers, the log pipe, the socket of requests;
/// `FORK_ZYGOTE` the new control socket; then both the other namespaces in the order of entering them, and one open
/// `cgroup.procs` for each hierarchy.
/// `FORK_AT_DOOR` is `FORK`, but with a socket in place of the `cgroup.procs`: whoever knocks there is put into the cgroups
/// by the shell's init. `FORK_INTO_CGROUP` is `FORK`, but with the directory of a group of version 2 in their place: the
/// child is born inside.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    magic: u32,
    kind: u32,
    id: u64,
    uid: u32,
    /// Namespaces among the descriptors, besides the pid namespace.
    n_namespaces: u32,
    /// Limit of open files.
    nofile: u32,
    filter_instructions: u32,
}

/// Every message from the zygote.
#[repr(C)]
#[derive(Clone, Copy)]
struct Report {
    magic: u32,
    kind: u32,
    id: u64,
    /// Of the child, as the zygote sees it.
    pid: i32,
    /// `FAILED`: the error number. `EXITED`: the wait status.
    status: i32,
    /// `FAILED`: which step, a `STEP_*`.
    step: u32,
    reserved: u32,
}

const STEP_MESSAGE: u32 = 1;
const STEP_PID_NAMESPACE: u32 = 2;
const STEP_FORK: u32 = 3;
const STEP_CGROUP: u32 = 4;
const STEP_NAMESPACES: u32 = 5;
const STEP_DESCRIPTORS: u32 = 6;
const STEP_LIMITS: u32 = 7;
const STEP_PRIVILEGES: u32 = 8;
const STEP_FILTER: u32 = 9;

/// Most instructions a filter has: the kernel's own bound (`BPF_MAXINSNS`).
const FILTER_INSTRUCTIONS_MAX: usize = 4096;
/// Pid namespace, answers, log, requests, control; user, mount, ipc, uts, cgroup and network namespaces; and the
/// hierarchies.
const FDS_MAX: usize = 5 + 6 + 6;
/// Where received descriptors wait until they get their final numbers: above those.
const FD_PARKING: c_int = 64;

// --- the C library and the interpreter -------------------------------------------------------

#[repr(C)]
struct iovec {
    base: *mut c_void,
    len: usize,
}

#[repr(C)]
struct msghdr {
    name: *mut c_void,
    namelen: c_uint,
    iov: *mut iovec,
    iovlen: usize,
    control: *mut c_void,
    controllen: usize,
    flags: c_int,
}

#[repr(C)]
struct cmsghdr {
    len: usize,
    level: c_int,
    kind: c_int,
}

#[repr(C)]
struct pollfd {
    fd: c_int,
    events: i16,
    revents: i16,
}

#[repr(C)]
struct rlimit {
    soft: u64,
    hard: u64,
}

#[repr(C)]
struct sock_fprog {
    len: u16,
    filter: *const u64,
}

#[repr(C)]
struct cap_header {
    version: u32,
    pid: c_int,
}

/// glibc's and musl's `sigset_t`: 128 bytes.
#[repr(C, align(8))]
struct sigset {
    bits: [u64; 16],
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
    fn fork() -> c_int;
    fn _exit(code: c_int) -> !;
    fn setns(fd: c_int, flags: c_int) -> c_int;
    fn recv(fd: c_int, data: *mut c_void, len: usize, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> isize;
    fn send(fd: c_int, data: *const c_void, len: usize, flags: c_int) -> isize;
    fn write(fd: c_int, data: *const c_void, len: usize) -> isize;
    fn read(fd: c_int, data: *mut c_void, len: usize) -> isize;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn openat(directory: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn dup2(from: c_int, to: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn poll(fds: *mut pollfd, count: c_ulong, timeout: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setsid() -> c_int;
    fn umask(mask: c_uint) -> c_uint;
    fn chdir(path: *const c_char) -> c_int;
    fn setgroups(count: usize, groups: *const c_uint) -> c_int;
    fn setresgid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn setresuid(real: c_uint, effective: c_uint, saved: c_uint) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut rlimit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const rlimit) -> c_int;
    fn sigprocmask(how: c_int, set: *const sigset, old: *mut sigset) -> c_int;
    fn signalfd(fd: c_int, mask: *const sigset, flags: c_int) -> c_int;
    fn sigemptyset(set: *mut sigset) -> c_int;
    fn sigaddset(set: *mut sigset, signal: c_int) -> c_int;

    fn mmap(at: *mut c_void, len: usize, access: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn munmap(at: *mut c_void, len: usize) -> c_int;
    fn madvise(at: *mut c_void, len: usize, advice: c_int) -> c_int;

    fn PyOS_BeforeFork();
    fn PyOS_AfterFork_Parent();
    fn PyOS_AfterFork_Child();
    fn PyLong_AsLong(object: *mut c_void) -> c_long;
    fn PyLong_FromLong(value: c_long) -> *mut c_void;
    fn PyLong_AsUnsignedLong(object: *mut c_void) -> c_ulong;
    fn PyObject_IsTrue(object: *mut c_void) -> c_int;
    fn PyTuple_GetItem(tuple: *mut c_void, at: isize) -> *mut c_void;
    fn PyObject_GetArenaAllocator(allocator: *mut ArenaAllocator);
    fn PyObject_SetArenaAllocator(allocator: *mut ArenaAllocator);
    fn PyErr_Occurred() -> *mut c_void;
    fn PyErr_SetFromErrno(kind: *mut c_void) -> *mut c_void;
    static mut PyExc_OSError: *mut c_void;
    fn PyModule_Create2(definition: *mut PyModuleDef, api: c_int) -> *mut c_void;
}

#[cfg(target_arch = "x86_64")]
const SYS_CAPSET: c_long = 126;
#[cfg(not(target_arch = "x86_64"))]
const SYS_CAPSET: c_long = 91;
#[cfg(target_arch = "x86_64")]
const SYS_GETTID: c_long = 186;
#[cfg(not(target_arch = "x86_64"))]
const SYS_GETTID: c_long = 178;
#[cfg(target_arch = "x86_64")]
const SYS_SET_ROBUST_LIST: c_long = 273;
#[cfg(not(target_arch = "x86_64"))]
const SYS_SET_ROBUST_LIST: c_long = 99;
#[cfg(target_arch = "x86_64")]
const SYS_GET_ROBUST_LIST: c_long = 274;
#[cfg(not(target_arch = "x86_64"))]
const SYS_GET_ROBUST_LIST: c_long = 100;
/// The same numbers on every architecture.
const SYS_CLOSE_RANGE: c_long = 436;
const SYS_CLONE3: c_long = 435;

/// `clone3`'s arguments as of Linux 5.7.
#[repr(C)]
struct clone_args {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl clone_args {
    const NOTHING: Self = Self {
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

const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

const CLONE_NEWPID: c_int = 0x2000_0000;
const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_CMSG_CLOEXEC: c_int = 0x4000_0000;
const MSG_TRUNC: c_int = 0x20;
const MSG_PEEK: c_int = 0x2;
const MSG_CTRUNC: c_int = 0x8;
const F_DUPFD_CLOEXEC: c_int = 1030;
const O_RDWR: c_int = 2;
const O_WRONLY_CLOEXEC: c_int = 1 | 0o2_000_000;
const POLLIN: i16 = 1;
const WNOHANG: c_int = 1;
const SIGCHLD: c_int = 17;
const SIG_BLOCK: c_int = 0;
const SIG_SETMASK: c_int = 2;
const SFD_CLOEXEC_NONBLOCK: c_int = 0o2_000_000 | 0o4000;
const EINTR: c_int = 4;
const EINVAL: c_int = 22;
const EPIPE: c_int = 32;
const RLIMIT_NOFILE: c_int = 7;
const RLIMIT_MEMLOCK: c_int = 8;
const RLIMIT_SIGPENDING: c_int = 11;
const RLIMIT_MSGQUEUE: c_int = 12;
const RLIMIT_NICE: c_int = 13;
const RLIMIT_RTPRIO: c_int = 14;
/// What the kernel gives to users and not to cgroups. It is taken off what all sandboxes of a worker have together,
/// so none may have all of it; and the worker may have been started with more than is good for a function.
const SHARED_LIMITS: [(c_int, u64); 5] = [
    (RLIMIT_MEMLOCK, 64 << 10),
    // A timer of the kernel is a pending signal.
    (RLIMIT_SIGPENDING, 256),
    // One queue of the ordinary size takes 83,360 bytes.
    (RLIMIT_MSGQUEUE, 100_000),
    (RLIMIT_NICE, 0),
    (RLIMIT_RTPRIO, 0),
];
const PR_SET_DUMPABLE: c_int = 4;
const PR_SET_KEEPCAPS: c_int = 8;
const PR_SET_SECCOMP: c_int = 22;
const PR_CAPBSET_DROP: c_int = 24;
const PR_SET_NO_NEW_PRIVS: c_int = 38;
const PR_GET_TID_ADDRESS: c_int = 40;
const PR_CAP_AMBIENT: c_int = 47;
const PR_CAP_AMBIENT_CLEAR_ALL: c_ulong = 4;
const SECCOMP_MODE_FILTER: c_ulong = 2;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;
const CAP_SYS_CHROOT: u32 = 18;
const CAP_SYS_ADMIN: u32 = 21;
/// Highest capability number a kernel may know; `PR_CAPBSET_DROP` says EINVAL above its own last.
const CAPABILITIES_MAX: c_ulong = 63;

fn errno() -> c_int {
    // SAFETY: the C library gives a valid pointer to this thread's error number.
    unsafe { *__errno_location() }
}

// --- the zygote's loop -----------------------------------------------------------------------

struct Filter {
    instructions: [u64; FILTER_INSTRUCTIONS_MAX],
    len: usize,
}

/// Big, and the zygote has one of each: kept out of the stack.
static mut FILTER: Filter = Filter { instructions: [0; FILTER_INSTRUCTIONS_MAX], len: 0 };
static mut ZYGOTE_FILTER: Filter = Filter { instructions: [0; FILTER_INSTRUCTIONS_MAX], len: 0 };

struct Received {
    request: Request,
    fds: [c_int; FDS_MAX],
    n_fds: usize,
}

impl Received {
    fn is_zygote(&self) -> bool {
        self.request.kind == FORK_ZYGOTE
    }

    /// Where the namespaces begin, and where the cgroups do.
    fn parts(&self) -> (usize, usize) {
        let namespaces = 4 + usize::from(self.is_zygote());
        (namespaces, namespaces.saturating_add(self.request.n_namespaces as usize))
    }

    /// The ways into the cgroups.
    fn cgroups(&self) -> &[c_int] {
        &self.fds[self.parts().1..self.n_fds]
    }
}

/// Where a child is when something fails, and with which error number.
struct Failure {
    step: u32,
    errno: c_int,
}

fn check(result: c_int, step: u32) -> Result<(), Failure> {
    if result < 0 { Err(Failure { step, errno: errno() }) } else { Ok(()) }
}

fn report(control: c_int, kind: u32, id: u64, pid: i32, status: i32, step: u32) {
    let message = Report { magic: MAGIC, kind, id, pid, status, step, reserved: 0 };
    loop {
        // SAFETY: the pointer and the length describe `message`, which lives through the call.
        let sent = unsafe { send(control, (&raw const message).cast(), size_of::<Report>(), MSG_NOSIGNAL) };
        // Nobody to tell when the worker is gone: the next receive sees that, and ends the zygote.
        if sent >= 0 || errno() != EINTR {
            return;
        }
    }
}

/// The next message; `None` when the worker has closed its end.
fn receive(control: c_int) -> Result<Option<Received>, c_int> {
    let mut buffer = mem::MaybeUninit::<[u64; 4]>::zeroed();
    let mut ancillary = [0u64; 2 + FDS_MAX.div_ceil(2) + 1];
    let mut peeked = [0u32; 2];
    // Which of the filters it brings says the beginning.
    // SAFETY: the buffer is as long as said, and lives through the call.
    if unsafe { recv(control, peeked.as_mut_ptr().cast(), size_of_val(&peeked), MSG_PEEK) } < 0 {
        return Err(errno());
    }
    // SAFETY: only this thread exists in a zygote, and nothing else refers to the filters during the call.
    let filter = unsafe { if peeked[1] == SETUP_ZYGOTES { &mut *(&raw mut ZYGOTE_FILTER) } else { &mut *(&raw mut FILTER) } };
    let (at, room) = if matches!(peeked[1], SETUP | SETUP_ZYGOTES) {
        (filter.instructions.as_mut_ptr().cast(), size_of_val(&filter.instructions))
    } else {
        (ptr::null_mut(), 0)
    };
    let mut parts =
        [iovec { base: buffer.as_mut_ptr().cast(), len: size_of::<Request>() }, iovec { base: at, len: room }];
    let mut message = msghdr {
        name: ptr::null_mut(),
        namelen: 0,
        iov: parts.as_mut_ptr(),
        iovlen: 2,
        control: ancillary.as_mut_ptr().cast(),
        controllen: size_of_val(&ancillary),
        flags: 0,
    };
    // SAFETY: every pointer in `message` refers to a live buffer of the length beside it.
    let n = unsafe { recvmsg(control, &raw mut message, MSG_CMSG_CLOEXEC) };
    if n < 0 {
        return Err(errno());
    }
    if n == 0 {
        return Ok(None);
    }
    const { assert!(size_of::<Request>() == 32) };
    // SAFETY: the buffer is as large as a Request and was zeroed; every bit pattern is a Request.
    let request = unsafe { mem::transmute::<[u64; 4], Request>(buffer.assume_init()) };
    let mut received = Received { request, fds: [-1; FDS_MAX], n_fds: 0 };
    let header = ancillary.as_ptr().cast::<cmsghdr>();
    if message.controllen >= size_of::<cmsghdr>() {
        // SAFETY: the kernel filled in at least a whole header.
        let (len, level, kind) = unsafe { ((*header).len, (*header).level, (*header).kind) };
        if level == SOL_SOCKET && kind == SCM_RIGHTS {
            received.n_fds = ((len - size_of::<cmsghdr>()) / size_of::<c_int>()).min(FDS_MAX);
            for (index, fd) in received.fds.iter_mut().enumerate().take(received.n_fds) {
                // SAFETY: the kernel put `n_fds` descriptors behind the header.
                *fd = unsafe { *header.add(1).cast::<c_int>().add(index) };
            }
        }
    }
    let short = (n as usize) < size_of::<Request>();
    if short || message.flags & (MSG_TRUNC | MSG_CTRUNC) != 0 || request.magic != MAGIC {
        close_all(&received);
        return Err(EINVAL);
    }
    if matches!(request.kind, SETUP | SETUP_ZYGOTES) {
        let len = request.filter_instructions as usize;
        if n as usize != size_of::<Request>() + len * size_of::<u64>() {
            close_all(&received);
            return Err(EINVAL);
        }
        filter.len = len;
    }
    Ok(Some(received))
}

fn close_all(received: &Received) {
    for &fd in &received.fds[..received.n_fds] {
        // SAFETY: the descriptor came with the message and is used nowhere else.
        unsafe { close(fd) };
    }
}

/// Says which children have ended.
fn reap(control: c_int, signals: c_int) {
    let mut drained = [0u8; 128 * 8];
    // SAFETY: the buffer is as long as said. The descriptor does not block; what it says is known already.
    unsafe { read(signals, drained.as_mut_ptr().cast(), drained.len()) };
    loop {
        let mut status = 0;
        // SAFETY: `status` lives through the call.
        let pid = unsafe { waitpid(-1, &raw mut status, WNOHANG) };
        if pid <= 0 {
            return;
        }
        report(control, EXITED, 0, pid, status, 0);
    }
}

/// Parent: `Ok(false)` when the worker is gone. Child: `Ok(true)`.
fn serve_forks(control: c_int) -> Result<bool, c_int> {
    let mut child_signal = sigset { bits: [0; 16] };
    let mut before = sigset { bits: [0; 16] };
    // SAFETY: all three sets are live and of the C library's size.
    let signals = unsafe {
        sigemptyset(&raw mut child_signal);
        sigaddset(&raw mut child_signal, SIGCHLD);
        sigprocmask(SIG_BLOCK, &raw const child_signal, &raw mut before);
        signalfd(-1, &raw const child_signal, SFD_CLOEXEC_NONBLOCK)
    };
    if signals < 0 {
        return Err(errno());
    }
    report(control, READY, 0, 0, 0, 0);
    loop {
        let mut fds = [pollfd { fd: control, events: POLLIN, revents: 0 }, pollfd { fd: signals, events: POLLIN, revents: 0 }];
        // SAFETY: two live entries.
        let ready = unsafe { poll(fds.as_mut_ptr(), 2, -1) };
        if ready < 0 {
            if errno() == EINTR {
                continue;
            }
            return Err(errno());
        }
        if fds[1].revents != 0 {
            reap(control, signals);
        }
        if fds[0].revents == 0 {
            continue;
        }
        let Some(received) = receive(control)? else { return Ok(false) };
        if !matches!(received.request.kind, FORK | FORK_ZYGOTE | FORK_AT_DOOR | FORK_INTO_CGROUP) {
            close_all(&received);
            continue;
        }
        if fork_into_shell(control, &received, &before) {
            return Ok(true);
        }
    }
}

/// True in the child, when it is confined.
fn fork_into_shell(control: c_int, received: &Received, signal_mask: &sigset) -> bool {
    let id = received.request.id;
    if received.n_fds < received.parts().1 {
        close_all(received);
        report(control, FAILED, id, 0, EINVAL, STEP_MESSAGE);
        return false;
    }
    // Only children are born into it; the zygote itself stays where it is. So no chain of nested pid
    // namespaces ever grows, whatever is forked from what (they nest 32 deep at most).
    // SAFETY: plain system call on a descriptor that we own.
    if unsafe { setns(received.fds[0], CLONE_NEWPID) } < 0 {
        report(control, FAILED, id, 0, errno(), STEP_PID_NAMESPACE);
        close_all(received);
        return false;
    }
    let birthplace = if received.request.kind == FORK_INTO_CGROUP { received.cgroups().first().copied() } else { None };
    // SAFETY: the interpreter's lock is held (we were called from Python), as these functions ask, and
    // the zygote has one thread.
    let (pid, is_inside) = unsafe {
        PyOS_BeforeFork();
        match birthplace.and_then(|cgroup| Some((cgroup, thread_id_address()?))) {
            Some((cgroup, tid)) => (fork_into(cgroup, tid), true),
            None => (fork(), false),
        }
    };
    if pid == 0 {
        let mut control = control;
        if let Err(failure) = confine(received, signal_mask, is_inside, &mut control) {
            report(control, FAILED, id, 0, failure.errno, failure.step);
            // SAFETY: ends this process.
            unsafe { _exit(127) };
        }
        // Nothing failed, so there is nothing more to tell; and nobody else may find it.
        // SAFETY: a descriptor that this function owns.
        unsafe { close(control) };
        // SAFETY: the counterpart of PyOS_BeforeFork in a child. It runs here, confined, because it calls
        // what packages have registered with os.register_at_fork.
        unsafe { PyOS_AfterFork_Child() };
        return true;
    }
    let error = errno();
    // SAFETY: the counterpart of PyOS_BeforeFork in the parent.
    unsafe { PyOS_AfterFork_Parent() };
    close_all(received);
    if pid < 0 {
        report(control, FAILED, id, 0, error, STEP_FORK);
    } else {
        report(control, FORKED, id, pid, 0, 0);
    }
    false
}

/// Where the C library keeps this thread's id, if it is known for sure: it has told the kernel of that place, and there is the
/// id in it. (musl names another place, and looks its id up after a fork.)
fn thread_id_address() -> Option<*mut c_int> {
    let mut address: *mut c_int = ptr::null_mut();
    // SAFETY: the kernel writes a pointer into `address`, which lives through the call; kernels without this say EINVAL.
    if unsafe { prctl(PR_GET_TID_ADDRESS, &raw mut address, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) } < 0
        || address.is_null()
    {
        return None;
    }
    // SAFETY: the C library gave it to the kernel to be written to when this thread ends.
    let (id, own) = unsafe { (*address, syscall(SYS_GETTID) as c_int) };
    (id == own).then_some(address)
}

/// `fork`, but born into a cgroup: to enter it afterwards may take a wait of 8 ms and more, see `cgroup.rs`. What the C
/// library does around a fork is for others' threads and locks, of which a root zygote has none, but for the id and for the
/// list of locks that the kernel opens when their thread ends (which it forgets in a child).
fn fork_into(cgroup: c_int, tid: *mut c_int) -> c_int {
    let arguments = clone_args {
        flags: CLONE_INTO_CGROUP | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
        child_tid: tid.addr() as u64,
        exit_signal: SIGCHLD as u64,
        cgroup: cgroup as u64,
        ..clone_args::NOTHING
    };
    let (mut locks, mut len): (*mut c_void, usize) = (ptr::null_mut(), 0);
    // SAFETY: the structures live through the calls, the addresses are the C library's own; no stack is given, so that the
    // child runs on a copy of ours.
    unsafe {
        let known = syscall(SYS_GET_ROBUST_LIST, 0 as c_long, &raw mut locks, &raw mut len) == 0;
        let pid = syscall(SYS_CLONE3, &raw const arguments, size_of::<clone_args>()) as c_int;
        if pid == 0 && known && !locks.is_null() {
            syscall(SYS_SET_ROBUST_LIST, locks, len);
        }
        pid
    }
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

/// Everything between the fork and the first line of Python. Each step says why it comes now.
/// `control` is where a failure can be told; its number changes on the way.
fn confine(
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
    filter(received.is_zygote())
}

/// 0 is /dev/null, 1 and 2 the log, 3 the socket for answers, 4 that of requests, 5 a zygote's control socket, 6 for a
/// moment more that of the zygote that it was forked from, and there is nothing else: not the descriptors by which the
/// shell was entered.
fn descriptors(received: &Received, control: &mut c_int) -> Result<(), Failure> {
    let step = STEP_DESCRIPTORS;
    // SAFETY (all of this function): plain system calls on numbers; no memory is involved but literals.
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

/// What a zygote keeps, in its own user namespace: to enter shells (for that of mounts the kernel asks for
/// `CAP_SYS_CHROOT` too), and to take from a child what it has itself.
const ZYGOTE_CAPABILITIES: u64 =
    1 << CAP_SETGID | 1 << CAP_SETUID | 1 << CAP_SETPCAP | 1 << CAP_SYS_CHROOT | 1 << CAP_SYS_ADMIN;

fn privileges(uid: u32, is_zygote: bool) -> Result<(), Failure> {
    let kept = if is_zygote { ZYGOTE_CAPABILITIES } else { 0 };
    let step = STEP_PRIVILEGES;
    // SAFETY (all of this function): plain system calls; the structures live through their calls.
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

fn filter(is_zygote: bool) -> Result<(), Failure> {
    // SAFETY: only this thread exists; the filters were filled in by `receive`.
    let filter = unsafe { if is_zygote { &*(&raw const ZYGOTE_FILTER) } else { &*(&raw const FILTER) } };
    if filter.len == 0 {
        // A zygote that never got its filter must not make sandboxes without one.
        return Err(Failure { step: STEP_FILTER, errno: EPIPE });
    }
    let program = sock_fprog { len: filter.len as u16, filter: filter.instructions.as_ptr() };
    // SAFETY: `program` describes a live array; the kernel copies it.
    check(unsafe { prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) }, STEP_FILTER)
}

// --- large pages -----------------------------------------------------------------------------

/// Where the interpreter takes its arenas from: the pieces, of 256 KiB or 1 MiB, that small objects live in.
#[repr(C)]
#[derive(Clone, Copy)]
struct ArenaAllocator {
    context: *mut c_void,
    alloc: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    free: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize)>,
}

/// Memory that arenas are cut from, one after the other, so that they fill large pages. What is left of it is between
/// `at` and `end`.
struct Quarry {
    at: usize,
    end: usize,
    /// The interpreter's own, while ours is in its place.
    ordinary: ArenaAllocator,
}

static mut QUARRY: Quarry =
    Quarry { at: 0, end: 0, ordinary: ArenaAllocator { context: ptr::null_mut(), alloc: None, free: None } };

const HUGE_BYTES: usize = 2 << 20;
/// What is asked of the kernel at once: it is only addresses until it is used.
const QUARRY_BYTES: usize = 16 << 20;
const PROT_READ_WRITE: c_int = 3;
const MAP_PRIVATE_ANONYMOUS_NORESERVE: c_int = 0x2 | 0x20 | 0x4000;
const MAP_FAILED: usize = usize::MAX;
/// Linux 6.1.
const MADV_COLLAPSE: c_int = 25;

fn round_up(address: usize) -> usize {
    address.next_multiple_of(HUGE_BYTES)
}

/// A piece that begins where a large page does, of the length of a quarry.
fn map_aligned() -> Option<usize> {
    let len = QUARRY_BYTES + HUGE_BYTES;
    // SAFETY: new memory; nothing of ours lies there.
    let start =
        unsafe { mmap(ptr::null_mut(), len, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0) } as usize;
    if start == MAP_FAILED {
        return None;
    }
    let aligned = round_up(start);
    unmap(start, aligned);
    unmap(aligned + QUARRY_BYTES, start + len);
    Some(aligned)
}

fn unmap(start: usize, end: usize) {
    if start < end {
        // SAFETY: only called for memory of a quarry in which nothing lies.
        unsafe { munmap(start as *mut c_void, end - start) };
    }
}

unsafe extern "C" fn cut_arena(_context: *mut c_void, len: usize) -> *mut c_void {
    // SAFETY: the interpreter's lock is held, and a zygote has one thread.
    let quarry = unsafe { &mut *(&raw mut QUARRY) };
    if len > quarry.end - quarry.at {
        let Some(start) = map_aligned().filter(|_| len <= QUARRY_BYTES) else { return ptr::null_mut() };
        unmap(round_up(quarry.at), quarry.end);
        (quarry.at, quarry.end) = (start, start + QUARRY_BYTES);
    }
    let arena = quarry.at;
    quarry.at += len;
    arena as *mut c_void
}

/// True: from here on arenas lie side by side. False: they come from where they used to, and what was not used goes back,
/// but for the rest of the large page that the last one lies on.
unsafe extern "C" fn gather_arenas(_module: *mut c_void, argument: *mut c_void) -> *mut c_void {
    // SAFETY: the interpreter passes a live object, and its lock is held; a zygote has one thread.
    let (begin, quarry) = unsafe { (PyObject_IsTrue(argument) == 1, &mut *(&raw mut QUARRY)) };
    if begin != quarry.ordinary.alloc.is_none() {
        // It is so already.
        // SAFETY: as above.
        return unsafe { PyLong_FromLong(0) };
    }
    if begin {
        // SAFETY: the structure lives through the calls. An arena of ours is given back as any other is: it was mapped.
        unsafe {
            PyObject_GetArenaAllocator(&raw mut quarry.ordinary);
            let mut ours = ArenaAllocator { alloc: Some(cut_arena), ..quarry.ordinary };
            PyObject_SetArenaAllocator(&raw mut ours);
        }
    } else {
        // SAFETY: as above.
        unsafe { PyObject_SetArenaAllocator(&raw mut quarry.ordinary) };
        quarry.ordinary.alloc = None;
        unmap(round_up(quarry.at), quarry.end);
        (quarry.at, quarry.end) = (0, 0);
    }
    // SAFETY: as above.
    unsafe { PyLong_FromLong(0) }
}

/// Puts what lies between two addresses, multiples of 2 MiB, on large pages; gives how many that are now. Where the kernel
/// is too old or has none left, it stays as it is.
unsafe extern "C" fn collapse(_module: *mut c_void, arguments: *mut c_void) -> *mut c_void {
    // SAFETY: the interpreter passes a live tuple, and its lock is held.
    let (start, end) = unsafe {
        let item = |at| PyLong_AsUnsignedLong(PyTuple_GetItem(arguments, at)) as usize;
        (item(0), item(1))
    };
    // SAFETY: as above.
    if !unsafe { PyErr_Occurred() }.is_null() {
        return ptr::null_mut();
    }
    let mut n = 0;
    for at in (start..end).step_by(HUGE_BYTES) {
        // SAFETY: changes what the memory consists of, and not what is in it.
        n += c_long::from(unsafe { madvise(at as *mut c_void, HUGE_BYTES, MADV_COLLAPSE) } == 0);
    }
    // SAFETY: as above.
    unsafe { PyLong_FromLong(n) }
}

// --- the Python module -----------------------------------------------------------------------

#[repr(C)]
struct PyObjectHead {
    refcount: isize,
    kind: *mut c_void,
}

#[repr(C)]
struct PyModuleDef {
    head: PyObjectHead,
    init: *mut c_void,
    index: isize,
    copy: *mut c_void,
    name: *const c_char,
    doc: *const c_char,
    size: isize,
    methods: *mut PyMethodDef,
    slots: *mut c_void,
    traverse: *mut c_void,
    clear: *mut c_void,
    free: *mut c_void,
}

#[repr(C)]
struct PyMethodDef {
    name: *const c_char,
    function: Option<unsafe extern "C" fn(*mut c_void, *mut c_void) -> *mut c_void>,
    flags: c_int,
    doc: *const c_char,
}

/// The function takes one argument.
const METH_O: c_int = 8;
/// The function takes a tuple of them.
const METH_VARARGS: c_int = 1;
/// The stable interface, the same from Python 3.2 on.
const PYTHON_ABI_VERSION: c_int = 3;

static mut METHODS: [PyMethodDef; 4] = [
    PyMethodDef {
        name: c"serve".as_ptr(),
        function: Some(serve),
        flags: METH_O,
        doc: c"serve(control_fd): fork on request; returns 3, the socket for answers, in a confined child (4 is that of requests), 0 in the zygote when the worker is gone".as_ptr(),
    },
    PyMethodDef {
        name: c"gather_arenas".as_ptr(),
        function: Some(gather_arenas),
        flags: METH_O,
        doc: c"gather_arenas(begin): whether new arenas lie side by side, so that they fill large pages".as_ptr(),
    },
    PyMethodDef {
        name: c"collapse".as_ptr(),
        function: Some(collapse),
        flags: METH_VARARGS,
        doc: c"collapse(start, end): puts what lies there on large pages; gives how many".as_ptr(),
    },
    PyMethodDef { name: ptr::null(), function: None, flags: 0, doc: ptr::null() },
];

static mut MODULE: PyModuleDef = PyModuleDef {
    head: PyObjectHead { refcount: 1, kind: ptr::null_mut() },
    init: ptr::null_mut(),
    index: 0,
    copy: ptr::null_mut(),
    name: c"_ol".as_ptr(),
    doc: c"Forks confined Python interpreters.".as_ptr(),
    size: -1,
    methods: (&raw mut METHODS).cast(),
    slots: ptr::null_mut(),
    traverse: ptr::null_mut(),
    clear: ptr::null_mut(),
    free: ptr::null_mut(),
};

unsafe extern "C" fn serve(_module: *mut c_void, argument: *mut c_void) -> *mut c_void {
    // SAFETY: the interpreter passes a live object, and its lock is held.
    let control = unsafe { PyLong_AsLong(argument) };
    // SAFETY: as above.
    if control == -1 && !unsafe { PyErr_Occurred() }.is_null() {
        return ptr::null_mut();
    }
    match serve_forks(control as c_int) {
        // SAFETY: the interpreter's lock is held.
        Ok(in_child) => unsafe { PyLong_FromLong(if in_child { 3 } else { 0 }) },
        Err(error) => {
            // SAFETY: the error number is this thread's; the exception object is the interpreter's own.
            unsafe {
                *__errno_location() = error;
                PyErr_SetFromErrno(PyExc_OSError)
            }
        }
    }
}

/// Called by the interpreter when the module is imported.
///
/// # Safety
/// The interpreter calls it once, with its lock held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn PyInit__ol() -> *mut c_void {
    // SAFETY: the definition is static, as the interpreter asks.
    unsafe { PyModule_Create2(&raw mut MODULE, PYTHON_ABI_VERSION) }
}

/// `core` comes compiled with unwinding and refers to this; nothing here ever unwinds.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends this process; 134 is what an abort would look like to a shell.
    unsafe { _exit(134) }
}
