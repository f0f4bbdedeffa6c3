//! What can be learnt from a descriptor of a process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The pid of the process, in the pid namespace of our `/proc` (proc_pid_fdinfo(5)).
pub(super) fn pid(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|&pid: &i32| pid > 0).ok_or_else(|| io::Error::other("the process has ended"))
}

/// A descriptor of the process with this pid in our pid namespace.
pub(super) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The number that this process has in the innermost pid namespace that it is in (proc_pid_status(5)).
pub(super) fn number_inside(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().next_back()?.parse().ok()
}

/// Whether it is gone.
pub(super) fn has_ended(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(n_ready) => return Ok(n_ready > 0),
            // A signal for us, the one that ends the worker for instance.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A process on its way to whoever wants it: dropped on the way, it is killed, since nobody else would do it.
#[derive(Debug)]
pub(super) struct Foundling(Option<OwnedFd>);

impl Foundling {
    pub(super) fn new(pidfd: OwnedFd) -> Self {
        Self(Some(pidfd))
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("it is taken over once").as_fd()
    }

    /// From now on somebody else sees to it.
    pub(super) fn take_over(mut self) -> OwnedFd {
        self.0.take().expect("it is taken over once")
    }
}

impl Drop for Foundling {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_process_that_nobody_takes_over_is_killed() {
        let start = || {
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            (child, Foundling::new(pidfd))
        };
        let (mut child, foundling) = start();
        assert_eq!(pid(foundling.pidfd()).unwrap(), child.id().cast_signed());
        let pidfd = foundling.take_over();
        assert!(!has_ended(pidfd.as_fd()).unwrap());
        drop(pidfd);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();

        let (mut child, foundling) = start();
        drop(foundling);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
