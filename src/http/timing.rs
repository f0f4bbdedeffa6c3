//! What the time of a call went into, for the `Server-Timing` header and the statistics.

use std::io::Write as _;
use std::time::Duration;

use actix_web::http::header::HeaderValue;
use actors::world::Start;

use crate::sandbox::launcher::Origin;
use crate::stats::Stats;

/// The part that each call has.
const HANDLER: &str = "handler";

/// The parts of a call, of those that it had.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// Looking the function up in the registry; of a name that was not known.
    pub(super) pull: Duration,
    /// Waiting for a sandbox, all in all.
    pub(super) waited: Duration,
    /// The sandbox that it waited for was made for it. `None`: it was there.
    pub(super) origin: Option<Origin>,
}

impl Timing {
    /// The header, when the function has answered after `handler`; and the figures.
    pub(super) fn tell(&self, handler: Duration, stats: &Stats) -> HeaderValue {
        let mut text = Vec::with_capacity(128);
        let start = match self.origin.map(|origin| origin.start) {
            None => ("warm", &stats.warm),
            Some(Start::Standby) => ("standby", &stats.standby),
            Some(Start::Forked) => ("forked", &stats.forked),
        };
        start.1.add(self.waited + handler);
        text.extend_from_slice(b"start;desc=");
        text.extend_from_slice(start.0.as_bytes());
        let mut part = |name: &str, took: Duration, timer: &crate::stats::Timer| {
            let us = took.as_micros() as u64;
            // What took no time was not done; but for the function, which always is.
            if us == 0 && name != HANDLER {
                return;
            }
            timer.add(took);
            // Writing to memory does not fail.
            let _ = write!(text, ", {name};dur={}.{:03}", us / 1000, us % 1000);
        };
        part("pull", self.pull, &stats.lookup);
        let mut queue = self.waited;
        if let Some(origin) = self.origin {
            queue = queue.saturating_sub(origin.install + origin.shell + origin.fork + origin.import);
            part("install", origin.install, &stats.install);
            part("shell", origin.shell, &stats.shell);
            part("fork", origin.fork, &stats.birth);
            part("import", origin.import, &stats.import);
        }
        part("queue", queue, &stats.queue);
        part(HANDLER, handler, &stats.handler);
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
            .expect("letters and digits are a header's value")
    }
}
