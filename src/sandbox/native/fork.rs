//! A fork into a shell, and where possible into its cgroup.

use core::ffi::{c_int, c_long, c_ulong, c_void};
use core::ptr;

use super::confine::confine;
use super::libc::{
    _exit, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_INTO_CGROUP, CLONE_NEWPID, EINVAL,
    PR_GET_TID_ADDRESS, SIGCHLD, SYS_CLONE3, SYS_GET_ROBUST_LIST, SYS_GETTID, SYS_SET_ROBUST_LIST,
    clone_args, close, errno, fork, prctl, setns, sigset, syscall,
};
use super::messages::{
    FAILED, FORK_INTO_CGROUP, FORKED, Received, STEP_FORK, STEP_MESSAGE, STEP_PID_NAMESPACE, close_all,
    report,
};
use super::python::{PyOS_AfterFork_Child, PyOS_AfterFork_Parent, PyOS_BeforeFork};

/// True in the child, when it is confined.
pub(crate) fn fork_into_shell(control: c_int, received: &Received, signal_mask: &sigset) -> bool {
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
    let birthplace =
        if received.request.kind == FORK_INTO_CGROUP { received.cgroups().first().copied() } else { None };
    // SAFETY: the interpreter's lock is held (we were called from Python), as these functions ask, and
    // the zygote has one thread. One block, because nothing may come between the preparation and the fork.
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
    // child runs on a copy of ours. One block, because nothing may come between asking for the list and having the child's set.
    unsafe {
        let known = syscall(SYS_GET_ROBUST_LIST, 0 as c_long, &raw mut locks, &raw mut len) == 0;
        let pid = syscall(SYS_CLONE3, &raw const arguments, size_of::<clone_args>()) as c_int;
        if pid == 0 && known && !locks.is_null() {
            syscall(SYS_SET_ROBUST_LIST, locks, len);
        }
        pid
    }
}
