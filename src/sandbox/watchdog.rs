//! Looks after helpers that hang: shims and zygotes that are there, and do not answer.
//!
//! The end of one is seen on its socket. That it was stopped, or does not come to an end of something, is not; and then nothing
//! new could be made until the worker is started again. What is done about it is in `family.rs` and `zygote.rs`.

use std::io;
use std::sync::Weak;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, Sender, unbounded};

/// How often it looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A helper.
pub(super) trait Watched: Send + Sync {
    /// See to it. `false`: it need not be looked at any more.
    fn look(&self) -> bool;
}

/// See the module's text. Its thread ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Watchdog {
    // Not bounded: there is one entry for each helper, and those are bounded.
    helpers: Sender<Weak<dyn Watched>>,
}

impl Watchdog {
    pub(super) fn start() -> io::Result<Self> {
        let (helpers, new) = unbounded::<Weak<dyn Watched>>();
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            let mut watched: Vec<Weak<dyn Watched>> = Vec::new();
            let mut next = Instant::now() + LOOK_EVERY;
            loop {
                match new.recv_deadline(next) {
                    Ok(helper) => watched.push(helper),
                    Err(RecvTimeoutError::Timeout) => {
                        watched.retain(|helper| helper.upgrade().is_some_and(|helper| helper.look()));
                        next = Instant::now() + LOOK_EVERY;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { helpers })
    }

    /// Looks after this one as long as it is there.
    pub(super) fn watch(&self, helper: Weak<dyn Watched>) {
        // The thread ends only when the last sender is gone, and we are one.
        let _ = self.helpers.send(helper);
    }
}
