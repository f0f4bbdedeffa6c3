//! Ending a worker: only the process that holds the worker directory's lock, and only by a handle
//! that cannot come to mean another process.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::lock::Identity;

/// How long a worker may take to end: it lets running invocations finish first.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub(super) enum StopError {
    #[error("the worker (pid {pid}) did not end within {} s: it may still be finishing calls; if it is stuck, end it with 'kill -9 {pid}' and then run 'ol worker force-cleanup'", WAIT_MAX.as_secs())]
    StillThere { pid: i32 },
    #[error("cannot signal the worker (pid {pid}): {source}")]
    Signal { pid: i32, source: io::Error },
}

/// Ask a worker to end, and wait until it has. One that is gone already is as good.
pub(super) fn stop(worker: &Identity) -> Result<Duration, StopError> {
    let begun = Instant::now();
    let failed = |errno: rustix::io::Errno| StopError::Signal { pid: worker.pid, source: errno.into() };
    let Some(pid) = Pid::from_raw(worker.pid) else { return Ok(Duration::ZERO) };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(Duration::ZERO),
        opened => opened.map_err(failed)?,
    };
    // Now the handle means one process for good; and if that is still the worker, it is the right one.
    if !worker.is_alive() {
        return Ok(Duration::ZERO);
    }
    match pidfd_send_signal(&handle, Signal::TERM) {
        Err(rustix::io::Errno::SRCH) => return Ok(begun.elapsed()),
        sent => sent.map_err(failed)?,
    }
    loop {
        let left = WAIT_MAX.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(StopError::StillThere { pid: worker.pid });
        }
        let timeout = Timespec::try_from(left).expect("a minute fits into a timespec");
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(begun.elapsed()),
            Err(errno) => return Err(failed(errno)),
        }
    }
}
