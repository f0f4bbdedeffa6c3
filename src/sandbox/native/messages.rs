//! The messages on the control socket: `SOCK_SEQPACKET`, one message a packet.
//!
//! They are mirrored in `src/sandbox/wire.rs`; [`MAGIC`] changes when they do.

use core::ffi::c_int;
use core::{mem, ptr};

use super::filter::{FILTER, ZYGOTE_FILTER};
use super::libc::{
    EINTR, EINVAL, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, SCM_RIGHTS, SOL_SOCKET,
    close, cmsghdr, errno, iovec, msghdr, recv, recvmsg, send,
};

/// "olz" and the version of the messages.
const MAGIC: u32 = 0x6f6c_7a05;

const SETUP: u32 = 1;
pub(crate) const FORK: u32 = 2;
const SETUP_ZYGOTES: u32 = 3;
pub(crate) const FORK_ZYGOTE: u32 = 4;
pub(crate) const FORK_AT_DOOR: u32 = 5;
pub(crate) const FORK_INTO_CGROUP: u32 = 6;

pub(crate) const FORKED: u32 = 16;
pub(crate) const FAILED: u32 = 17;
pub(crate) const EXITED: u32 = 18;
pub(crate) const READY: u32 = 19;

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
pub(crate) struct Request {
    magic: u32,
    pub(crate) kind: u32,
    pub(crate) id: u64,
    pub(crate) uid: u32,
    /// Namespaces among the descriptors, besides the pid namespace.
    n_namespaces: u32,
    /// Limit of open files.
    pub(crate) nofile: u32,
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

pub(crate) const STEP_MESSAGE: u32 = 1;
pub(crate) const STEP_PID_NAMESPACE: u32 = 2;
pub(crate) const STEP_FORK: u32 = 3;
pub(crate) const STEP_CGROUP: u32 = 4;
pub(crate) const STEP_NAMESPACES: u32 = 5;
pub(crate) const STEP_DESCRIPTORS: u32 = 6;
pub(crate) const STEP_LIMITS: u32 = 7;
pub(crate) const STEP_PRIVILEGES: u32 = 8;
pub(crate) const STEP_FILTER: u32 = 9;

/// Pid namespace, answers, log, requests, control; user, mount, ipc, uts, cgroup and network namespaces; and the
/// hierarchies.
const FDS_MAX: usize = 5 + 6 + 6;

pub(crate) struct Received {
    pub(crate) request: Request,
    pub(crate) fds: [c_int; FDS_MAX],
    pub(crate) n_fds: usize,
}

impl Received {
    pub(crate) fn is_zygote(&self) -> bool {
        self.request.kind == FORK_ZYGOTE
    }

    /// Where the namespaces begin, and where the cgroups do.
    pub(crate) fn parts(&self) -> (usize, usize) {
        let namespaces = 4 + usize::from(self.is_zygote());
        (namespaces, namespaces.saturating_add(self.request.n_namespaces as usize))
    }

    /// The ways into the cgroups.
    pub(crate) fn cgroups(&self) -> &[c_int] {
        &self.fds[self.parts().1..self.n_fds]
    }
}

/// Where a child is when something fails, and with which error number.
pub(crate) struct Failure {
    pub(crate) step: u32,
    pub(crate) errno: c_int,
}

pub(crate) fn check(result: c_int, step: u32) -> Result<(), Failure> {
    if result < 0 { Err(Failure { step, errno: errno() }) } else { Ok(()) }
}

pub(crate) fn report(control: c_int, kind: u32, id: u64, pid: i32, status: i32, step: u32) {
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
pub(crate) fn receive(control: c_int) -> Result<Option<Received>, c_int> {
    let mut buffer = mem::MaybeUninit::<[u64; 4]>::zeroed();
    let mut ancillary = [0u64; 2 + FDS_MAX.div_ceil(2) + 1];
    let mut peeked = [0u32; 2];
    // Which of the filters it brings says the beginning.
    // SAFETY: the buffer is as long as said, and lives through the call.
    if unsafe { recv(control, peeked.as_mut_ptr().cast(), size_of_val(&peeked), MSG_PEEK) } < 0 {
        return Err(errno());
    }
    // SAFETY: only this thread exists in a zygote, and nothing else refers to the filters during the call.
    let filter = unsafe {
        if peeked[1] == SETUP_ZYGOTES { &mut *(&raw mut ZYGOTE_FILTER) } else { &mut *(&raw mut FILTER) }
    };
    let (at, room) = if matches!(peeked[1], SETUP | SETUP_ZYGOTES) {
        (filter.instructions.as_mut_ptr().cast(), size_of_val(&filter.instructions))
    } else {
        (ptr::null_mut(), 0)
    };
    let mut parts = [
        iovec { base: buffer.as_mut_ptr().cast(), len: size_of::<Request>() },
        iovec { base: at, len: room },
    ];
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

pub(crate) fn close_all(received: &Received) {
    for &fd in &received.fds[..received.n_fds] {
        // SAFETY: the descriptor came with the message and is used nowhere else.
        unsafe { close(fd) };
    }
}
