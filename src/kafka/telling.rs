//! How much of what goes wrong with single records, and is tried again and again, is written into the worker's log.
//!
//! Records come by the ten thousand in a second, and a function that will have none of them would fill the log with a line
//! for each: what everybody else needs to read there would be rotated away.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::shared::lock;

/// Lines in one [`SPAN`]: enough to see what is wrong with a few bad records, each by its offset.
const LINES_MAX: u32 = 10;
/// After so long the next lines are written: a person who looks into the log sees what goes on now.
const SPAN: Duration = Duration::from_secs(60);

/// Says of which occurrences a line is written. What is passed over is counted, and told with the next line.
#[derive(Debug, Default)]
pub(super) struct Telling(Mutex<Span>);

#[derive(Debug, Default)]
struct Span {
    began: Option<Instant>,
    n_told: u32,
    n_untold: u64,
}

impl Telling {
    /// One more. `Some`: a line is to be written, and so many were not since the last one.
    pub(super) fn tell(&self, now: Instant) -> Option<u64> {
        let mut span = lock(&self.0);
        if span.began.is_none_or(|began| now.saturating_duration_since(began) >= SPAN) {
            (span.began, span.n_told) = (Some(now), 0);
        }
        if span.n_told == LINES_MAX {
            span.n_untold += 1;
            return None;
        }
        span.n_told += 1;
        Some(std::mem::take(&mut span.n_untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_records_ten_a_minute_are_told_and_the_others_counted() {
        let (telling, began) = (Telling::default(), Instant::now());
        let mut told = Vec::new();
        // A million records within three minutes.
        for n in 0..1_000_000_u32 {
            told.extend(telling.tell(began + Duration::from_micros(180) * n));
        }
        let mut expected = vec![0; 10];
        for _ in 0..2 {
            expected.push(1_000_000 / 3 - 10 + 1);
            expected.extend([0; 9]);
        }
        assert_eq!(told.len(), expected.len());
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.abs_diff(expected) <= 1, "{told} and not {expected}");
        }
    }

    #[test]
    fn a_bad_record_now_and_then_is_always_told() {
        let (telling, began) = (Telling::default(), Instant::now());
        assert!((0..100).all(|n| telling.tell(began + SPAN / 10 * n) == Some(0)));
    }
}
