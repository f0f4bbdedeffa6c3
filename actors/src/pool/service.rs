//! How long calls take, as the pool's decisions need it.

use std::time::Duration;

use tokio::time::Instant;

/// How long the shortest service time is remembered where the number of sandboxes follows from it: one to two of these.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// The same where it says how many requests may stand behind each other. On a busy machine nearly every call waits for a
/// processor, and one in a second may be none that does not; and a call that is long after all is noticed in any case.
const UNDISTURBED_WINDOW: Duration = Duration::from_secs(10);
/// The weight of one invocation in the mean service time: about the last eight count.
const MEAN_WEIGHT: f64 = 1.0 / 8.0;

/// How long invocations hold a sandbox.
#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) mean_ns: Option<f64>,
    shortest: Shortest,
    undisturbed: Shortest,
}

impl Service {
    pub(super) fn record(&mut self, took: Duration, now: Instant) {
        let ns = took.as_nanos() as f64;
        self.mean_ns = Some(self.mean_ns.map_or(ns, |mean| mean + (ns - mean) * MEAN_WEIGHT));
        self.shortest.record(ns, SHORTEST_WINDOW, now);
        self.undisturbed.record(ns, UNDISTURBED_WINDOW, now);
    }

    /// What a call takes when it is not slowed down by the others.
    pub(super) fn typical_ns(&self) -> Option<f64> {
        Some(self.mean_ns?.min(2.0 * self.shortest.ns()))
    }

    /// What a call takes when it is not slowed down by anybody.
    pub(super) fn undisturbed_ns(&self) -> Option<f64> {
        Some(self.mean_ns?.min(2.0 * self.undisturbed.ns()))
    }
}

/// The shortest of the last one to two windows.
#[derive(Debug, Default)]
struct Shortest {
    now_ns: f64,
    before_ns: f64,
    began: Option<Instant>,
}

impl Shortest {
    fn record(&mut self, ns: f64, window: Duration, now: Instant) {
        match self.began {
            Some(began) if now.saturating_duration_since(began) < window => {
                self.now_ns = self.now_ns.min(ns);
                return;
            }
            Some(_) => self.before_ns = self.now_ns,
            None => self.before_ns = ns,
        }
        self.now_ns = ns;
        self.began = Some(now);
    }

    fn ns(&self) -> f64 {
        self.now_ns.min(self.before_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_quiet_some_seconds_ago_is_remembered_for_what_may_stand_behind_each_other() {
        let mut service = Service::default();
        let quiet = Instant::now();
        service.record(Duration::from_micros(20), quiet);
        for s in 1..9 {
            service.record(Duration::from_micros(400), quiet + Duration::from_secs(s));
        }
        assert_eq!(service.undisturbed_ns(), Some(40_000.0));
        assert!(service.typical_ns() > Some(200_000.0));
        for s in 9..30 {
            service.record(Duration::from_micros(400), quiet + Duration::from_secs(s));
        }
        assert!(service.undisturbed_ns() > Some(300_000.0), "calls have become long");
    }
}
