//! When one schedule calls its function, and when it does not.
//!
//! ```text
//!   the clock:   …… next ─────────── now          what is due between the two:
//!                    │   missed   │ LATE_MAX │    the latest runs, if it is not too late; the others are missed
//! ```
//!
//! All by the wall clock, which people set and which sets itself. A clock that goes forward does not start a flood: of
//! what was passed over one call is made at most. One that goes back runs nothing twice: what has been is not due again
//! until the clock is past it. Only when it goes back by more than [`BACK_MAX`] was it plainly wrong before, and counts
//! anew.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::outcome::Outcome;
use crate::stats::{CronStatus, LastRun, unix_ms};
use crate::world::Schedule;

/// How late a call may be made: longer than a machine under load is late, shorter than the finest schedule of a crontab.
pub const LATE_MAX: Duration = Duration::from_secs(60);
/// How far a clock may be set back before it is held to have been wrong before: that is how far summer time and people
/// move it, and what cron has used since Vixie's.
pub const BACK_MAX: Duration = Duration::from_secs(3 * 60 * 60);
/// Missed calls that are counted one by one at a time; of a schedule of seconds there may be millions.
pub const COUNT_MAX: u64 = 1000;

/// A schedule as a function's author wrote it, and what it means.
#[derive(Debug, Clone)]
pub struct CronEntry {
    /// As it was written.
    pub text: String,
    /// The time zone that it is meant in, by its name.
    pub zone: String,
    /// What it means.
    pub schedule: Arc<dyn Schedule>,
}

impl PartialEq for CronEntry {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl fmt::Display for CronEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One schedule of one function.
#[derive(Debug)]
pub struct Timer {
    entry: CronEntry,
    /// When it is due next. `None`: never again.
    next: Option<SystemTime>,
    /// The latest that the clock has said.
    latest: SystemTime,
    /// Up to when its times are over, called or not.
    over: SystemTime,
    /// A call is being made: that of this time.
    running: Option<SystemTime>,
    figures: Figures,
}

#[derive(Debug, Default)]
struct Figures {
    n_runs: u64,
    n_failed: u64,
    n_overlapping: u64,
    n_missed: u64,
    last_missed: Option<SystemTime>,
    last: Option<LastRun>,
}

impl Timer {
    /// Due from now on.
    #[must_use]
    pub fn new(entry: CronEntry, now: SystemTime) -> Self {
        let next = entry.schedule.next_after(now);
        Self { entry, next, latest: now, over: now, running: None, figures: Figures::default() }
    }

    /// Due from now on; what was due since an earlier worker has last looked is missed.
    #[must_use]
    pub fn after_a_pause(entry: CronEntry, since: SystemTime, now: SystemTime) -> Self {
        let mut timer = Self::new(entry, now);
        if let Some(first) = timer.entry.schedule.next_after(since).filter(|first| *first <= now)
            && let Some(last) = timer.last_due(first, now)
        {
            // It may have been called, and the worker killed before it could write that down.
            timer.missed(last);
        }
        timer
    }

    /// Up to when its times are over, called or not.
    #[must_use]
    pub fn over(&self) -> SystemTime {
        self.over
    }

    /// What it goes by.
    #[must_use]
    pub fn entry(&self) -> &CronEntry {
        &self.entry
    }

    /// When it is due next.
    #[must_use]
    pub fn next(&self) -> Option<SystemTime> {
        self.next
    }

    /// The clock says this. If it gives back a time, the call of that time is to be made now, and counts as running until
    /// [`ended`](Self::ended).
    pub fn look(&mut self, now: SystemTime) -> Option<SystemTime> {
        let is_back_by = self.latest.duration_since(now).unwrap_or_default();
        self.latest = self.latest.max(now);
        if is_back_by > BACK_MAX {
            self.latest = now;
            self.next = self.entry.schedule.next_after(now);
            return None;
        }
        let next = self.next.filter(|next| *next <= now)?;
        let due = self.last_due(next, now);
        self.over = now;
        self.next = self.entry.schedule.next_after(now);
        let due = due?;
        if self.running.is_some() {
            self.figures.n_overlapping += 1;
            return None;
        }
        self.running = Some(due);
        Some(due)
    }

    /// The last of those that were due from `next` on, if it is not too late for it. Counts the others as missed.
    fn last_due(&mut self, next: SystemTime, now: SystemTime) -> Option<SystemTime> {
        let schedule = Arc::clone(&self.entry.schedule);
        let is_late = |time: SystemTime| now.duration_since(time).unwrap_or_default() > LATE_MAX;
        let mut time = next;
        let mut n_counted = 0;
        loop {
            let after = schedule.next_after(time).filter(|after| *after <= now);
            let Some(after) = after else { break };
            self.missed(time);
            time = after;
            n_counted += 1;
            if n_counted == COUNT_MAX {
                // Those in between are not counted; what may still run is found from its own end.
                let floor = now.checked_sub(LATE_MAX).unwrap_or(now);
                let Some(near) = schedule.next_after(floor.max(time)).filter(|near| *near <= now) else {
                    // None of them is near enough to be run.
                    self.missed(time);
                    return None;
                };
                time = near;
            }
        }
        if is_late(time) {
            self.missed(time);
            return None;
        }
        Some(time)
    }

    fn missed(&mut self, time: SystemTime) {
        self.figures.n_missed += 1;
        self.figures.last_missed = Some(time);
    }

    /// The call that was running has ended.
    pub fn ended(&mut self, outcome: &Outcome, took: Duration) {
        let Some(scheduled) = self.running.take() else { return };
        self.figures.n_runs += 1;
        self.figures.n_failed += u64::from(!outcome.is_done());
        self.figures.last = Some(LastRun {
            scheduled_unix_ms: unix_ms(scheduled),
            took_ms: took.as_secs_f64() * 1e3,
            ok: outcome.is_done(),
            text: outcome.line(),
        });
    }

    /// For people.
    #[must_use]
    pub fn status(&self) -> CronStatus {
        let figures = &self.figures;
        CronStatus {
            schedule: self.entry.text.clone(),
            timezone: self.entry.zone.clone(),
            next_unix_ms: self.next.map(unix_ms),
            running: self.running.is_some(),
            runs: figures.n_runs,
            failed: figures.n_failed,
            overlapping: figures.n_overlapping,
            missed: figures.n_missed,
            last_missed_unix_ms: figures.last_missed.map(unix_ms),
            last: figures.last.clone(),
        }
    }
}

/// The schedules of a function's new code. Those that it had already go on as they are. `since`: up to when the times of one are
/// over that an earlier worker had.
#[must_use]
pub fn renewed(
    old: Vec<(u64, Timer)>,
    entries: Vec<CronEntry>,
    now: SystemTime,
    next_id: &mut u64,
    mut since: impl FnMut(&CronEntry) -> Option<SystemTime>,
) -> Vec<(u64, Timer)> {
    let mut old = old;
    entries
        .into_iter()
        .map(|entry| match old.iter().position(|(_, timer)| timer.entry == entry) {
            Some(at) => old.swap_remove(at),
            None => {
                *next_id += 1;
                let timer = match since(&entry) {
                    Some(since) => Timer::after_a_pause(entry, since, now),
                    None => Timer::new(entry, now),
                };
                (*next_id, timer)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Due each so many seconds.
    #[derive(Debug)]
    pub(crate) struct Each(pub(crate) u64);

    impl Schedule for Each {
        fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
            let s = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs((s / self.0 + 1) * self.0))
        }
    }

    fn entry(each: u64) -> CronEntry {
        CronEntry { text: format!("each {each}"), zone: "UTC".into(), schedule: Arc::new(Each(each)) }
    }

    fn at(s: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1_000_000_800.0 + s)
    }

    fn done() -> Outcome {
        Outcome::Done { status: 200 }
    }

    #[test]
    fn it_is_due_at_its_time_and_once() {
        let mut timer = Timer::new(entry(600), at(1.0));
        assert_eq!(timer.next(), Some(at(600.0)));
        assert_eq!(timer.look(at(599.999)), None);
        assert_eq!(timer.look(at(600.001)), Some(at(600.0)));
        timer.ended(&done(), Duration::from_millis(5));
        assert_eq!(timer.look(at(600.002)), None);
        assert_eq!(timer.next(), Some(at(1200.0)));
        let status = timer.status();
        assert_eq!((status.runs, status.failed, status.missed, status.overlapping), (1, 0, 0, 0));
    }

    #[test]
    fn while_the_last_one_runs_the_next_one_is_skipped_and_counted() {
        let mut timer = Timer::new(entry(10), at(0.0));
        assert_eq!(timer.look(at(10.0)), Some(at(10.0)));
        assert_eq!(timer.look(at(20.0)), None);
        assert_eq!(timer.look(at(30.0)), None);
        timer.ended(&Outcome::Failed { status: 504, text: String::new() }, Duration::from_secs(21));
        assert_eq!(timer.look(at(40.0)), Some(at(40.0)));
        let status = timer.status();
        assert_eq!((status.runs, status.failed, status.overlapping), (1, 1, 2));
    }

    #[test]
    fn a_clock_that_jumps_forward_starts_one_call_at_most() {
        let mut timer = Timer::new(entry(600), at(0.0));
        // An hour is skipped: the last of it is long over.
        assert_eq!(timer.look(at(3900.0)), None);
        let status = timer.status();
        assert_eq!(status.missed, 6);
        assert_eq!(status.last_missed_unix_ms, Some(unix_ms(at(3600.0))));
        // A time that was due just now is still made.
        assert_eq!(timer.look(at(7200.0 + 59.0)), Some(at(7200.0)));
        assert_eq!(timer.status().missed, 6 + 5);
    }

    #[test]
    fn a_year_of_seconds_is_passed_over_in_a_moment() {
        let mut timer = Timer::new(entry(1), at(0.0));
        let year = 365.0 * 86_400.0;
        assert_eq!(timer.look(at(year)), Some(at(year)));
        assert!(timer.status().missed >= COUNT_MAX && timer.status().missed < COUNT_MAX + 100);
    }

    /// Due each second of the first half of each day.
    #[derive(Debug)]
    struct Mornings;

    impl Schedule for Mornings {
        fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
            let s = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() + 1;
            let s = if s % 86_400 < 43_200 { s } else { s.div_ceil(86_400) * 86_400 };
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(s))
        }
    }

    #[test]
    fn what_was_due_in_the_morning_is_passed_over_in_the_evening_in_a_moment() {
        let schedule = Arc::new(Mornings);
        let mut timer = Timer::new(CronEntry { schedule, ..entry(1) }, at(0.0));
        let evening = 31.0 * 86_400.0 + 64_800.0;
        assert_eq!(timer.look(at(evening)), None);
        let n_missed = timer.status().missed;
        assert!((COUNT_MAX..COUNT_MAX + 100).contains(&n_missed), "{n_missed}");
        // Days begin two hours before the beginning of the test.
        assert_eq!(timer.next(), Some(at(32.0 * 86_400.0 - 7_200.0)));
    }

    #[test]
    fn a_clock_that_is_set_back_runs_nothing_twice() {
        let mut timer = Timer::new(entry(600), at(0.0));
        assert_eq!(timer.look(at(600.0)), Some(at(600.0)));
        timer.ended(&done(), Duration::ZERO);
        // Half an hour back: what was is not due again.
        for s in [-1200.0, 0.0, 600.0, 1199.0] {
            assert_eq!(timer.look(at(s)), None, "{s}");
        }
        assert_eq!(timer.look(at(1200.0)), Some(at(1200.0)));
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_not_stop_a_schedule_for_years() {
        let mut timer = Timer::new(entry(600), at(1e9));
        assert_eq!(timer.look(at(0.0)), None);
        assert_eq!(timer.look(at(600.0)), Some(at(600.0)));
    }

    #[test]
    fn what_was_due_while_there_was_no_worker_is_missed_and_not_made_up_for() {
        let mut timer = Timer::after_a_pause(entry(600), at(0.0), at(3001.0));
        let status = timer.status();
        assert_eq!((status.missed, status.last_missed_unix_ms), (5, Some(unix_ms(at(3000.0)))));
        assert_eq!(timer.look(at(3002.0)), None);
        assert_eq!(timer.look(at(3600.0)), Some(at(3600.0)));
        assert_eq!(timer.over(), at(3600.0));
        // Nothing was due; or the clock was ahead.
        assert_eq!(Timer::after_a_pause(entry(600), at(1.0), at(599.0)).status().missed, 0);
        assert_eq!(Timer::after_a_pause(entry(600), at(9000.0), at(599.0)).status().missed, 0);
    }

    #[test]
    fn new_code_with_the_same_schedule_does_not_begin_anew() {
        let mut id = 0;
        let mut timers = renewed(Vec::new(), vec![entry(600), entry(60)], at(0.0), &mut id, |_| None);
        assert_eq!(timers[0].1.look(at(600.0)), Some(at(600.0)));
        let timers = renewed(timers, vec![entry(10), entry(600)], at(700.0), &mut id, |_| None);
        assert_eq!(timers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [3, 1]);
        assert!(timers[1].1.status().running);
        assert_eq!(timers[0].1.next(), Some(at(710.0)));
    }

    proptest! {
        /// However the clock goes, no time is called twice, and each look makes one call at most.
        #[test]
        fn whatever_the_clock_does_no_time_is_called_twice(steps in proptest::collection::vec(-9000i64..9000, 1..200), each in 1u64..4000) {
            let (mut now, mut latest) = (100_000i64, 100_000i64);
            let mut timer = Timer::new(entry(each), at(now as f64));
            let mut called: Vec<SystemTime> = Vec::new();
            for step in steps {
                now = (now + step).max(latest - BACK_MAX.as_secs() as i64);
                latest = latest.max(now);
                if let Some(time) = timer.look(at(now as f64)) {
                    prop_assert!(!called.contains(&time));
                    prop_assert!(time <= at(now as f64));
                    prop_assert!(at(now as f64).duration_since(time).unwrap() <= LATE_MAX);
                    called.push(time);
                    timer.ended(&done(), Duration::ZERO);
                }
                prop_assert!(timer.next().unwrap() > at(now as f64));
            }
        }
    }
}
