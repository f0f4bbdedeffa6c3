//! Hears from the kernel that programs wait for memory, as soon as they do.
//!
//! * *Pressure stall information*: of the worker's group on version 2, of the whole machine otherwise. It says when programs
//!   have waited for memory for [`STALL_US`] of [`WINDOW_US`].
//! * With version 1 the memory controller has a word of its own: the eventfd of `memory.pressure_level`, here with `medium`,
//!   which is when reclaim has become hard, and before anything is killed.
//!
//! Kernels may have neither (`psi=0`, built without it). Then there are the looks of the evictor, five a second, as before.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use futures_util::future::{pending, select_all};
use rustix::event::{EventfdFlags, eventfd};
use slog::{Logger, debug};
use tokio::io::Interest;

use super::cgroup::CgroupRoot;
use crate::fd::watched;

/// Programs have waited so long, all in all, in microseconds: some waiting there is on any machine that reads files.
const STALL_US: u32 = 150_000;
/// Within so long, in microseconds. The kernel looks ten times in it, and says so once at most.
const WINDOW_US: u32 = 1_000_000;

/// See the module's text.
#[derive(Debug)]
pub struct Pressure {
    triggers: Vec<Trigger>,
}

#[derive(Debug)]
enum Trigger {
    Stall(OwnedFd),
    Level(OwnedFd),
}

impl Pressure {
    /// Asks the kernel for all that it has to say.
    #[must_use]
    pub fn open(cgroups: &CgroupRoot, log: &Logger) -> Self {
        let mut triggers = Vec::new();
        let stall = cgroups.pressure_file().unwrap_or_else(|| "/proc/pressure/memory".into());
        match stall_trigger(&stall) {
            Ok(trigger) => triggers.push(trigger),
            Err(error) => debug!(log, "the kernel does not say when programs wait for memory";
                "path" => %stall.display(), "error" => %error),
        }
        if let Some(group) = cgroups.pressure_level_group() {
            match level_trigger(&group) {
                Ok(trigger) => triggers.push(trigger),
                Err(error) => debug!(log, "the memory controller does not say when memory is short";
                    "path" => %group.display(), "error" => %error),
            }
        }
        Self { triggers }
    }

    /// Ends when the kernel says so, or has said so since the last time.
    pub async fn wait(&self) {
        let waits: Vec<_> = self.triggers.iter().map(|trigger| Box::pin(trigger.wait())).collect();
        if waits.is_empty() {
            pending().await
        }
        select_all(waits).await;
    }
}

impl Trigger {
    async fn wait(&self) {
        let (fd, interest) = match self {
            Self::Stall(fd) => (fd, Interest::PRIORITY),
            Self::Level(fd) => (fd, Interest::READABLE),
        };
        // Registered anew each time: what was said meanwhile is still there.
        let Ok(watched) = fd.try_clone().and_then(|fd| watched::register(fd, interest)) else {
            return pending().await;
        };
        if watched.ready(interest).await.is_err() {
            return pending().await;
        }
        if let Self::Level(fd) = self {
            // Eight bytes, that count how often: it is empty then.
            let _ = rustix::io::read(fd, &mut [0u8; 8]);
        }
    }
}

fn stall_trigger(path: &Path) -> io::Result<Trigger> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    // In one write, with the zero at its end: psi(5) of the kernel's Documentation/accounting.
    file.write_all(format!("some {STALL_US} {WINDOW_US}\0").as_bytes())?;
    Ok(Trigger::Stall(file.into()))
}

fn level_trigger(group: &Path) -> io::Result<Trigger> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let level = fs::File::open(group.join("memory.pressure_level"))?;
    let order = format!("{} {} medium", event.as_fd().as_raw_fd(), level.as_raw_fd());
    fs::write(group.join("cgroup.event_control"), order)?;
    Ok(Trigger::Level(event))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_eventfd_that_was_written_to_ends_one_wait() {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        let pressure = Pressure { triggers: vec![Trigger::Level(event)] };
        pressure.wait().await;
        let again = tokio::time::timeout(Duration::from_millis(20), pressure.wait()).await;
        assert!(again.is_err(), "it was said once");
    }

    #[tokio::test]
    async fn a_kernel_that_says_nothing_is_waited_for_without_end() {
        let pressure = Pressure { triggers: Vec::new() };
        assert!(tokio::time::timeout(Duration::from_millis(20), pressure.wait()).await.is_err());
    }
}
