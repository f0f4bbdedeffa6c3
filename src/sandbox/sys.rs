//! The door to the kernel: what sandboxes need of it and no crate offers as a safe function.
//!
//! Other `unsafe` blocks of the program are in `src/fd/watched.rs` (one, to watch a descriptor), and in the allocator,
//! `src/profile/sampling.rs`; the native module that runs inside Python, `native/`, is a program of its own.
//!
//! What the crates `nix` and `rustix` offer as safe functions is called where it is needed. Here is what
//! they do not: `clone3`, `mount_setattr`, interface flags, and descriptors across `exec`.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `clone3`: the parent gets a descriptor of the child.
const CLONE_PIDFD: u64 = 0x1000;
/// `clone3`: the child is born into a cgroup of version 2. (The constant of the crate `libc` is 0.)
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `clone3`: the child's parent is ours.
pub(crate) const CLONE_PARENT: u64 = 0x8000;
/// Proof that this process has one thread, without which a fork may copy a lock that nobody will open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads. Nothing that is called afterwards may start one.
    pub(crate) fn prove() -> io::Result<Self> {
        let n_threads = fs::read_dir("/proc/self/task")?.count();
        if n_threads == 1 {
            Ok(Self(()))
        } else {
            Err(io::Error::other(format!("{n_threads} threads where one is allowed")))
        }
    }
}

/// Who we are after a fork.
#[derive(Debug)]
pub(crate) enum Fork {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// `clone3` of this process, as `fork` but with namespaces (`CLONE_NEW*`).
pub(crate) fn clone_process(proof: SingleThreaded, flags: u64) -> io::Result<Fork> {
    clone_into(proof, flags, None)
}

/// The same; the child is born into this cgroup, the directory of one.
pub(crate) fn clone_into(
    _proof: SingleThreaded,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Fork> {
    let mut pidfd: RawFd = -1;
    // SAFETY: the structure is plain numbers, for all of which 0 is valid.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = flags | CLONE_PIDFD;
    arguments.pidfd = (&raw mut pidfd).addr() as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // With CLONE_PARENT the kernel refuses an exit signal of our choice and takes the parent's.
    arguments.exit_signal = if flags & CLONE_PARENT == 0 { libc::SIGCHLD as u64 } else { 0 };
    // SAFETY: the arguments live through the call; no stack is given, so the child runs on a copy of ours,
    // as after `fork`; and the proof says that no other thread held a lock.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Fork::Child),
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made the descriptor, and nobody else knows it.
        _ => Ok(Fork::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Memory for the stack of [`as_another`]: what it runs calls a dozen functions deep, and formats some text.
const BORROWER_STACK_BYTES: usize = 256 << 10;

/// Runs `work` in a process of its own that has our memory, and waits until it has ended. What `work` does to itself by system
/// calls (namespaces, users, descriptors) is done to that process; what it writes to memory is there afterwards. To make
/// it is a tenth of the cost of a fork, which copies page tables and then pages.
///
/// `flags`: [`CLONE_PARENT`] or 0. When the process is killed, `work` has got as far as it got.
pub(crate) fn as_another<F: FnMut()>(_proof: SingleThreaded, flags: u64, mut work: F) -> io::Result<()> {
    extern "C" fn run<F: FnMut()>(work: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the closure that was passed below, by a caller that the kernel lets go on when this process has ended.
        let work = unsafe { &mut *work.cast::<F>() };
        // Nothing may unwind past here: there is no frame above.
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
        exit_now(i32::from(panicked))
    }
    // As vfork: our memory, and we stand still meanwhile, so that nobody uses it at the same time.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | flags as libc::c_int;
    let signal = if flags & CLONE_PARENT as libc::c_int == 0 { libc::SIGCHLD } else { 0 };
    // As it comes from the allocator: pages that nobody touches need not be there, and there are two of these for each shell
    // that is made inside another.
    let mut stack = Vec::<u128>::with_capacity(BORROWER_STACK_BYTES / size_of::<u128>());
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    // SAFETY: the stack is aligned and lives through the call, at the end of which nobody uses it any more; so does `work`;
    // and one thread, as the proof says, means that no lock is held by somebody who would not go on.
    let pid = unsafe { libc::clone(run::<F>, top.cast(), flags | signal, (&raw mut work).cast()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the signals that a terminal or `nohup` deals in their ordinary meaning again.
pub(crate) fn reset_signals() -> io::Result<()> {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTERM] {
        // SAFETY: no handler of ours is installed, only the default.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The layout of the kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Makes a detached mount read-only, without set-uid programs and devices.
pub(crate) fn make_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    restrict(tree, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)
}

/// Leaves a detached mount writable, but without set-uid programs and devices.
pub(crate) fn make_harmless(tree: BorrowedFd<'_>) -> io::Result<()> {
    restrict(tree, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)
}

fn restrict(tree: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    let attributes = MountAttributes { set, clear: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: a live descriptor, a literal that ends with NUL, and a live structure of the length beside it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings up the loopback interface of the network namespace that we are in.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the structure is plain numbers and a union of such, for which 0 is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the command's process have `fd` as its descriptor `number`, and no other of ours (they are all
/// close-on-exec). Ours is closed when the command is dropped.
pub(crate) fn pass_fd(command: &mut Command, fd: OwnedFd, number: RawFd) {
    let give = move || {
        let fd = fd.as_raw_fd();
        // SAFETY: a system call on numbers; a wrong one is an error, not a fault.
        if unsafe { libc::dup2(fd, number) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if fd == number {
            // dup2 did nothing, so the mark is still there.
            // SAFETY: as above.
            if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes system calls only, which is allowed there; and it owns what it
    // gives.
    unsafe { command.pre_exec(give) };
}

/// Takes over a descriptor that this process was started with, other than the standard ones. Fails when there is none of that
/// number, or when it has been taken.
pub(crate) fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a system call on a number; a wrong one is an error.
    match unsafe { libc::fcntl(number, libc::F_GETFD) } {
        -1 => return Err(io::Error::last_os_error()),
        // What was closed on exec cannot have come through it: somebody here has opened or taken this.
        mark if mark & libc::FD_CLOEXEC != 0 => return Err(io::ErrorKind::NotFound.into()),
        _ => {}
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open. Whatever this process opens is marked close-on-exec, as the standard library does it, and so is
    // what was taken here: this was not marked, so nobody in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor, and goes on with something that has no end and none of them.
pub(crate) fn close_all_and(_proof: SingleThreaded, then: fn() -> !) -> ! {
    // SAFETY: numbers only. What is closed here belongs to values that nobody uses any more: there is no other thread, we do not
    // return to those who own some, and `then` has been given none.
    unsafe { libc::syscall(libc::SYS_close_range, 0 as libc::c_uint, libc::c_uint::MAX, 0) };
    then()
}

/// Ends the process at once, running nothing.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_this_process_has_opened_is_nothing_that_it_was_started_with() {
        let ours = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        assert!(inherited_fd(ours.as_raw_fd()).is_err());
        // As it would be if it had come through an exec.
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
        let taken = inherited_fd(std::os::fd::IntoRawFd::into_raw_fd(ours)).unwrap();
        assert!(inherited_fd(taken.as_raw_fd()).is_err(), "it is taken once");
        assert!((0..3).all(|standard| inherited_fd(standard).is_err()));
    }
}
