//! A confined interpreter that waits for a function.

use std::pin::pin;
use std::time::Duration;

use actors::haste::Haste;

use super::orders::{Answer, receive_ready};
use crate::frame::BrokenFrame;
use crate::sandbox::cgroup::Cgroup;
use crate::sandbox::channel::{Channel, ChannelError};
use crate::sandbox::logs::Naming;
use crate::sandbox::process::Process;

/// How long a standby that nobody waits for makes way for others. On a machine that has no time to spare for longer, those to
/// come will want one.
const ASIDE_MAX: Duration = Duration::from_millis(500);

/// A confined interpreter that waits for a function.
#[derive(Debug)]
pub struct Standby {
    pub(super) channel: Channel,
    pub(super) process: Process,
    pub(super) naming: Naming,
    /// How long its shell and its fork took.
    pub(super) made: (Duration, Duration),
}

impl Standby {
    /// Unique while the worker runs; the sandbox keeps it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.process.id
    }

    /// Whether it still waits.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.channel.is_open()
    }

    /// What is needed in any case, and then, if nobody waits, what a first request would have to do.
    pub(super) async fn warm(&mut self, haste: &Haste) -> Result<(), ChannelError> {
        let Self { channel, process, .. } = self;
        channel.send_warm(true).await?;
        warmed(receive_ready(channel).await?)?;
        if haste.is_waited_for() {
            return Ok(());
        }
        // Not before: who is confining itself holds locks that all of the machine waits for.
        let aside = process.remains_mut().cgroup.as_ref().map(Aside::step);
        channel.send_warm(false).await?;
        let answer = {
            let mut answer = pin!(receive_ready(channel));
            tokio::select! {
                answer = &mut answer => answer?,
                () = haste.hurried() => {
                    drop(aside);
                    answer.await?
                }
                () = tokio::time::sleep(ASIDE_MAX) => {
                    drop(aside);
                    answer.await?
                }
            }
        };
        warmed(answer)
    }
}

fn warmed(answer: Answer) -> Result<(), ChannelError> {
    match answer {
        Answer::Ready(_) => Ok(()),
        Answer::LoadFailed(_) => Err(BrokenFrame("it cannot load what it was not given").into()),
    }
}

/// A sandbox that lets others have the processors. Until this is dropped.
struct Aside<'a>(&'a Cgroup);

impl<'a> Aside<'a> {
    fn step(group: &'a Cgroup) -> Self {
        group.set_idle(true);
        Self(group)
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.0.set_idle(false);
    }
}
