//! What becomes of a record after a call: the next one, the same again, another one, or a dead letter.
//!
//! One for each partition, whose records are called in their order: as long as one is not done with, those behind it wait.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use crate::outcome::Outcome;

/// The pause before a record is called again that has failed; it doubles each time, up to [`AGAIN_MAX`].
pub const AGAIN: Duration = Duration::from_millis(200);
/// Long enough for what a function depends on to be started again, short enough to be noticed.
pub const AGAIN_MAX: Duration = Duration::from_secs(30);
/// The same where the worker had no room: that passes sooner, and nobody has failed.
pub const ROOM_AGAIN: Duration = Duration::from_millis(20);
/// See [`ROOM_AGAIN`].
pub const ROOM_AGAIN_MAX: Duration = Duration::from_secs(2);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is done with: the one after it.
    Commit,
    /// The same again.
    Again {
        /// After this.
        pause: Duration,
    },
    /// The function wants this one next.
    Seek {
        /// Which.
        offset: i64,
        /// After this.
        pause: Duration,
    },
    /// It is given up, after so many calls.
    Letter {
        /// How many.
        n_calls: u32,
    },
    /// There is nobody to call any more.
    Stop,
}

/// The calls of a partition's records that came to nothing.
#[derive(Debug)]
pub struct Attempts {
    calls_max: u32,
    seed: u64,
    /// The record that fails, and how often it has.
    failing: Option<(i64, u32)>,
    /// The record that sends the function elsewhere, and how often it has in a row.
    seeking: Option<(i64, u32)>,
    n_without_room: u32,
}

impl Attempts {
    /// `calls_max`: of one record, at least 1. `seed` makes pauses of different partitions differ.
    #[must_use]
    pub fn new(calls_max: u32, seed: u64) -> Self {
        Self { calls_max: calls_max.max(1), seed, failing: None, seeking: None, n_without_room: 0 }
    }

    /// A call of the record at `offset` has ended so; `seek`: the offset that the function asks for.
    pub fn judge(&mut self, offset: i64, outcome: &Outcome, seek: Option<i64>) -> Next {
        if let Outcome::NoRoom { .. } = outcome {
            self.n_without_room += 1;
            let n = self.n_without_room;
            return Next::Again { pause: self.pause(offset, n, ROOM_AGAIN, ROOM_AGAIN_MAX) };
        }
        self.n_without_room = 0;
        let n_calls = match self.failing {
            Some((failing, n)) if failing == offset => n + 1,
            _ => 1,
        };
        match outcome {
            Outcome::Gone | Outcome::NoRoom { .. } => Next::Stop,
            Outcome::Done { .. } => {
                if self.failing.is_some_and(|(failing, _)| failing == offset) {
                    self.failing = None;
                }
                match seek {
                    Some(to) => self.seek(offset, to),
                    None => {
                        self.seeking = self.seeking.filter(|(seeking, _)| *seeking > offset);
                        Next::Commit
                    }
                }
            }
            Outcome::Rejected { .. } if seek.is_none() => self.letter(n_calls),
            Outcome::Rejected { .. } | Outcome::Failed { .. } => {
                if n_calls >= self.calls_max {
                    return self.letter(n_calls);
                }
                self.failing = Some((offset, n_calls));
                let pause = self.pause(offset, n_calls, AGAIN, AGAIN_MAX);
                match seek {
                    Some(offset) => Next::Seek { offset, pause },
                    None => Next::Again { pause },
                }
            }
        }
    }

    fn letter(&mut self, n_calls: u32) -> Next {
        self.failing = None;
        Next::Letter { n_calls }
    }

    /// A function may send itself back for ever, but not as fast as it can.
    fn seek(&mut self, from: i64, to: i64) -> Next {
        // Also from a record before the one that it was sent back from: it may be two that send each other back.
        let (furthest, n) = match self.seeking {
            Some((seeking, n)) if from <= seeking => (seeking, n + 1),
            _ => (from, 0),
        };
        self.seeking = Some((furthest, n));
        let pause = if n == 0 { Duration::ZERO } else { self.pause(from, n, AGAIN, AGAIN_MAX) };
        Next::Seek { offset: to, pause }
    }

    /// Between half and all of the doubled pause, so that partitions that failed together do not come back together.
    fn pause(&self, offset: i64, n: u32, first: Duration, longest: Duration) -> Duration {
        let whole = first.saturating_mul(1 << n.saturating_sub(1).min(20)).min(longest);
        let chance = BuildHasherDefault::<DefaultHasher>::default().hash_one((self.seed, offset, n));
        whole / 2 + whole.mul_f64(f64::from(chance as u32) / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Outcome::Failed { status: 500, text: String::new() }
    }

    fn rejected() -> Outcome {
        Outcome::Rejected { status: 400, text: String::new() }
    }

    const DONE: Outcome = Outcome::Done { status: 200 };

    fn no_room() -> Outcome {
        Outcome::NoRoom { text: String::new() }
    }

    #[test]
    fn two_records_that_send_each_other_back_do_so_slower_and_slower() {
        let mut attempts = Attempts::new(3, 1);
        let mut pauses = Vec::new();
        for round in 0..6 {
            let (from, to) = if round % 2 == 0 { (5, 3) } else { (3, 5) };
            let Next::Seek { pause, .. } = attempts.judge(from, &DONE, Some(to)) else { panic!("no seek") };
            pauses.push(pause);
        }
        assert!(pauses[1..].iter().all(|pause| !pause.is_zero()), "{pauses:?}");
        assert!(pauses[5] > pauses[1], "{pauses:?}");
    }

    #[test]
    fn a_record_that_fails_is_called_so_often_and_then_given_up() {
        let mut attempts = Attempts::new(3, 1);
        let mut pauses = Vec::new();
        for _ in 0..2 {
            let Next::Again { pause } = attempts.judge(7, &failed(), None) else { panic!("not again") };
            pauses.push(pause);
        }
        assert!(pauses[0] >= AGAIN / 2 && pauses[0] <= AGAIN, "{pauses:?}");
        assert!(pauses[1] >= AGAIN && pauses[1] <= 2 * AGAIN, "{pauses:?}");
        assert_eq!(attempts.judge(7, &failed(), None), Next::Letter { n_calls: 3 });
        // The next one has all of its calls.
        assert!(matches!(attempts.judge(8, &failed(), None), Next::Again { .. }));
        assert_eq!(attempts.judge(8, &DONE, None), Next::Commit);
    }

    #[test]
    fn pauses_have_a_bound_and_differ() {
        let mut attempts = Attempts::new(100, 1);
        let mut other = Attempts::new(100, 2);
        let mut last = Duration::ZERO;
        let mut differ = false;
        for _ in 0..50 {
            let (Next::Again { pause }, Next::Again { pause: elsewhere }) =
                (attempts.judge(7, &failed(), None), other.judge(7, &failed(), None))
            else {
                panic!("not again")
            };
            differ |= pause != elsewhere;
            last = pause;
        }
        assert!(differ && last >= AGAIN_MAX / 2 && last <= AGAIN_MAX, "{last:?}");
    }

    #[test]
    fn a_worker_without_room_never_costs_a_record_a_call() {
        let mut attempts = Attempts::new(2, 1);
        for _ in 0..1000 {
            let next = attempts.judge(7, &no_room(), None);
            assert!(matches!(next, Next::Again { pause } if pause <= ROOM_AGAIN_MAX));
        }
        assert!(matches!(attempts.judge(7, &failed(), None), Next::Again { .. }));
        attempts.judge(7, &no_room(), None);
        assert_eq!(attempts.judge(7, &failed(), None), Next::Letter { n_calls: 2 });
    }

    #[test]
    fn what_a_function_will_not_have_is_not_offered_again() {
        assert_eq!(Attempts::new(5, 1).judge(7, &rejected(), None), Next::Letter { n_calls: 1 });
        assert_eq!(Attempts::new(5, 1).judge(7, &Outcome::Gone, None), Next::Stop);
    }

    #[test]
    fn a_function_may_ask_for_another_record_and_for_its_own() {
        let mut attempts = Attempts::new(3, 1);
        assert_eq!(attempts.judge(7, &DONE, Some(4)), Next::Seek { offset: 4, pause: Duration::ZERO });
        for offset in 4..7 {
            assert_eq!(attempts.judge(offset, &DONE, None), Next::Commit);
        }
        // It does so each time: slower and slower.
        let Next::Seek { offset: 4, pause } = attempts.judge(7, &DONE, Some(4)) else { panic!("no seek") };
        assert!(pause > Duration::ZERO);
        assert_eq!(attempts.judge(7, &DONE, None), Next::Commit);
        // With a failure it counts as one, whatever lies between.
        assert!(matches!(attempts.judge(9, &failed(), Some(8)), Next::Seek { offset: 8, .. }));
        assert_eq!(attempts.judge(8, &DONE, None), Next::Commit);
        assert!(matches!(attempts.judge(9, &failed(), Some(8)), Next::Seek { offset: 8, .. }));
        assert_eq!(attempts.judge(8, &DONE, None), Next::Commit);
        assert_eq!(attempts.judge(9, &failed(), Some(8)), Next::Letter { n_calls: 3 });
    }
}
