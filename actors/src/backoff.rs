//! How long to leave something alone after it failed.

use std::time::Duration;

use tokio::time::Instant;

/// A pause that doubles with each failure in a row, and is over with the first success.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    n_failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Pauses from `first`, doubling, up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, n_failures: 0, until: None }
    }

    /// It has failed so often before, and is left alone for the rest of its pause.
    #[must_use]
    pub fn resumed(
        first: Duration,
        longest: Duration,
        n_failures: u32,
        now: Instant,
        rest: Duration,
    ) -> Self {
        Self { first, longest, n_failures, until: Some(now + rest.min(longest)) }
    }

    /// Failures in a row.
    #[must_use]
    pub fn n_failures(&self) -> u32 {
        self.n_failures
    }

    /// It failed: leave it alone until the time that is given back.
    pub fn failed(&mut self, now: Instant) -> Instant {
        let pause = self.first.saturating_mul(1 << self.n_failures.min(20)).min(self.longest);
        self.n_failures = self.n_failures.saturating_add(1);
        let until = now + pause;
        self.until = Some(until);
        until
    }

    /// It failed, after a while: what is longer ago than `memory` is forgotten.
    pub fn failed_again_within(&mut self, memory: Duration, now: Instant) -> Instant {
        if self.until.is_some_and(|until| now.saturating_duration_since(until) > memory) {
            self.succeeded();
        }
        self.failed(now)
    }

    /// It worked.
    pub fn succeeded(&mut self) {
        self.n_failures = 0;
        self.until = None;
    }

    /// When it may be tried again, if that is not now.
    #[must_use]
    pub fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_its_bound_and_ends_with_a_success() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        assert_eq!(backoff.waits_until(now), None);
        let pauses: Vec<_> = (0..4).map(|_| backoff.failed(now) - now).collect();
        assert_eq!(pauses, [ms(100), ms(200), ms(350), ms(350)]);
        assert_eq!(backoff.waits_until(now), Some(now + ms(350)));
        assert_eq!(backoff.waits_until(now + ms(350)), None);
        backoff.succeeded();
        assert_eq!(backoff.waits_until(now), None);
        assert_eq!(backoff.failed(now) - now, ms(100));
    }

    #[test]
    fn what_is_long_ago_makes_no_pause_longer() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1_000));
        assert_eq!(backoff.failed_again_within(ms(500), now), now + ms(100));
        assert_eq!(backoff.failed_again_within(ms(500), now + ms(600)), now + ms(800));
        assert_eq!(backoff.failed_again_within(ms(500), now + ms(1_301)), now + ms(1_401));
    }
}
