//! How long calls take, as the pool's decisions need it.

use std::time::Duration;

use tokio::time::Instant;

/// How long the shortest service time is remembered: one to two of these.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// The weight of one invocation in the mean service time: about the last eight count.
const MEAN_WEIGHT: f64 = 1.0 / 8.0;

/// How long invocations hold a sandbox.
#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) mean_ns: Option<f64>,
    shortest_ns: f64,
    shortest_before_ns: f64,
    window_began: Option<Instant>,
}

impl Service {
    pub(super) fn record(&mut self, took: Duration, now: Instant) {
        let ns = took.as_nanos() as f64;
        self.mean_ns = Some(self.mean_ns.map_or(ns, |mean| mean + (ns - mean) * MEAN_WEIGHT));
        match self.window_began {
            Some(began) if now.saturating_duration_since(began) < SHORTEST_WINDOW => {
                self.shortest_ns = self.shortest_ns.min(ns);
            }
            Some(_) => {
                self.shortest_before_ns = self.shortest_ns;
                self.shortest_ns = ns;
                self.window_began = Some(now);
            }
            None => {
                self.shortest_before_ns = ns;
                self.shortest_ns = ns;
                self.window_began = Some(now);
            }
        }
    }

    /// What a call takes when it is not slowed down by the others.
    pub(super) fn typical_ns(&self) -> Option<f64> {
        Some(self.mean_ns?.min(2.0 * self.shortest_ns.min(self.shortest_before_ns)))
    }
}
