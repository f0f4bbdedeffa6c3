//! How long invocations took lately: a small log-linear histogram over the last half minute to minute.
//!
//! One per lambda, so it is kept small (3.6 KB, and only once the first invocation has ended) and cheap
//! (an index and an addition). Each power of two of microseconds is cut into eight, so a percentile is
//! off by at most 1/16.

use std::time::Duration;

use tokio::time::Instant;

/// Slices per power of two.
const SLICES: usize = 8;
/// The longest time told apart is 2^35 µs, about nine hours; longer ones count as that.
const OCTAVES: usize = 33;
const N_BUCKETS: usize = SLICES * OCTAVES;

/// How long one half of the window lasts: long enough for a p99 at one call a second, short enough that a
/// person who mends a function sees it in the figures.
const HALF_WINDOW: Duration = Duration::from_secs(30);

type Counts = Box<[u32; N_BUCKETS]>;

/// Times of the last 30 to 60 seconds.
#[derive(Debug, Default)]
pub struct Latency {
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    current: Counts,
    previous: Counts,
}

impl Latency {
    /// Add one time.
    pub fn record(&mut self, took: Duration, now: Instant) {
        let window = self.window.get_or_insert_with(|| Window {
            began: now,
            current: Box::new([0; N_BUCKETS]),
            previous: Box::new([0; N_BUCKETS]),
        });
        window.rotate(now);
        let count = &mut window.current[bucket_of(took)];
        *count = count.saturating_add(1);
    }

    /// The time that this share (0 to 1) of the invocations did not exceed. `None`: there were none lately.
    #[must_use]
    pub fn quantile(&self, share: f64, now: Instant) -> Option<Duration> {
        let window = self.window.as_ref()?;
        let (current, previous) = match now.saturating_duration_since(window.began) {
            age if age < HALF_WINDOW => (true, true),
            age if age < HALF_WINDOW * 2 => (true, false),
            _ => return None,
        };
        let count_of = |i: usize| {
            u64::from(if current { window.current[i] } else { 0 })
                + u64::from(if previous { window.previous[i] } else { 0 })
        };
        let total: u64 = (0..N_BUCKETS).map(count_of).sum();
        if total == 0 {
            return None;
        }
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        for i in 0..N_BUCKETS {
            seen += count_of(i);
            if seen >= rank {
                return Some(middle_of(i));
            }
        }
        unreachable!("the ranks of a histogram end at its total")
    }
}

impl Window {
    fn rotate(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age < HALF_WINDOW {
            return;
        }
        std::mem::swap(&mut self.current, &mut self.previous);
        self.current.fill(0);
        if age >= HALF_WINDOW * 2 {
            self.previous.fill(0);
        }
        self.began = now;
    }
}

fn bucket_of(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros < SLICES as u64 {
        return micros as usize;
    }
    let octave = micros.ilog2() as usize;
    let slice = (micros >> (octave - 3)) as usize & (SLICES - 1);
    ((octave - 2) * SLICES + slice).min(N_BUCKETS - 1)
}

fn middle_of(bucket: usize) -> Duration {
    if bucket < SLICES {
        return Duration::from_micros(bucket as u64);
    }
    let octave = bucket / SLICES + 2;
    let width = 1u64 << (octave - 3);
    let low = (SLICES + bucket % SLICES) as u64 * width;
    Duration::from_nanos(low * 1000 + width * 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_off_by_at_most_a_sixteenth() {
        let now = Instant::now();
        for micros in [8u64, 20, 63, 64, 1_000, 12_345, 999_999, 60_000_000, 3_600_000_000] {
            let mut latency = Latency::default();
            latency.record(Duration::from_micros(micros), now);
            let found = latency.quantile(0.5, now).unwrap().as_secs_f64() * 1e6;
            let error = (found - micros as f64).abs() / micros as f64;
            assert!(error <= 1.0 / 16.0, "{micros} µs is told as {found}");
        }
    }

    #[test]
    fn every_bucket_holds_its_own_middle() {
        for bucket in 0..N_BUCKETS {
            assert_eq!(bucket_of(middle_of(bucket)), bucket);
        }
        assert_eq!(bucket_of(Duration::MAX), N_BUCKETS - 1);
    }

    #[test]
    fn the_median_and_the_tail_are_told_apart() {
        let now = Instant::now();
        let mut latency = Latency::default();
        for i in 0..1000 {
            latency.record(Duration::from_millis(if i < 980 { 1 } else { 500 }), now);
        }
        assert!(latency.quantile(0.5, now).unwrap() < Duration::from_millis(2));
        assert!(latency.quantile(0.99, now).unwrap() > Duration::from_millis(450));
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let start = Instant::now();
        let mut latency = Latency::default();
        latency.record(Duration::from_secs(9), start);
        assert!(latency.quantile(0.5, start + Duration::from_secs(29)).is_some());
        assert!(latency.quantile(0.5, start + Duration::from_secs(61)).is_none());
        let later = start + Duration::from_secs(45);
        latency.record(Duration::from_millis(1), later);
        assert!(
            latency.quantile(0.99, later).unwrap() > Duration::from_secs(8),
            "the half before still counts"
        );
        let last = start + Duration::from_secs(300);
        latency.record(Duration::from_millis(1), last);
        assert!(latency.quantile(0.99, last).unwrap() < Duration::from_millis(2));
    }
}
