//! So many bytes in a second.

use std::time::{Duration, Instant};

/// Those of one second may come at once. What was taken beyond that has to be waited for afterwards.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: u32,
    n_left: f64,
    counted: Instant,
}

impl Pace {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, n_left: per_second.into(), counted: now }
    }

    /// Until there is something left.
    pub(super) async fn wait(&mut self) {
        let due = self.due(Instant::now());
        if !due.is_zero() {
            tokio::time::sleep(due).await;
        }
    }

    pub(super) fn take(&mut self, n_bytes: usize) {
        self.n_left -= n_bytes as f64;
    }

    fn due(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.counted);
        self.counted = now;
        let per_second = f64::from(self.per_second);
        self.n_left = (self.n_left + passed.as_secs_f64() * per_second).min(per_second);
        Duration::from_secs_f64((-self.n_left / per_second).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_beyond_a_seconds_worth_is_waited_for() {
        let mut now = Instant::now();
        let mut pace = Pace::new(1000, now);
        pace.take(900);
        assert_eq!(pace.due(now), Duration::ZERO);
        pace.take(600);
        assert_eq!(pace.due(now), Duration::from_millis(500));
        now += Duration::from_millis(300);
        assert_eq!(pace.due(now).as_millis(), 200);
        now += Duration::from_millis(300);
        assert_eq!(pace.due(now), Duration::ZERO);
    }

    #[test]
    fn nothing_is_saved_up_beyond_a_second() {
        let mut now = Instant::now();
        let mut pace = Pace::new(1000, now);
        now += Duration::from_secs(3600);
        assert_eq!(pace.due(now), Duration::ZERO);
        pace.take(2000);
        assert_eq!(pace.due(now), Duration::from_secs(1));
    }
}
