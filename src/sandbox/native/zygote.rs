//! The zygote's loop: it forks when the worker asks for it, and says which children have ended.

use core::ffi::c_int;

use super::fork::fork_into_shell;
use super::libc::{
    EINTR, POLLIN, SFD_CLOEXEC_NONBLOCK, SIG_BLOCK, SIGCHLD, WNOHANG, errno, poll, pollfd, read, sigaddset,
    sigemptyset, signalfd, sigprocmask, sigset, waitpid,
};
use super::messages::{
    EXITED, FORK, FORK_AT_DOOR, FORK_INTO_CGROUP, FORK_ZYGOTE, READY, close_all, receive, report,
};

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
pub(crate) fn serve_forks(control: c_int) -> Result<bool, c_int> {
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
        let mut fds = [
            pollfd { fd: control, events: POLLIN, revents: 0 },
            pollfd { fd: signals, events: POLLIN, revents: 0 },
        ];
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
