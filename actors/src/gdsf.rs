//! Which idle sandboxes are worth the memory that they take: Greedy-Dual-Size-Frequency.
//!
//! ```text
//! priority = clock when it was used last + frequency × cost ÷ size
//! ```
//!
//! *Cost* is how long a cold start of its function takes, *size* the memory of one of its sandboxes, both as measured;
//! *frequency* how often the function was called ([`Uses`]). The one of the lowest priority goes first, and the clock moves on
//! to that priority: so whatever is not used any more is overtaken one day, however much it was worth.
//!
//! Of one function the sandbox that was used last is used next. One that is needed only when others are busy is worth less: the
//! frequency counts for the first, half of it for the second, a third for the next, and so on.
//!
//! Where this differs from the textbook: nobody writes down a clock with each call, since calls send no message to whoever
//! evicts. The clock's own steps are written down instead, and the time of a sandbox's last use tells which one it was.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Calls within this count once: had the sandbox been given up before them, they would have paid one cold start together.
const USE_LASTS: Duration = Duration::from_secs(1);
/// After so long a use counts half: what was called all day and is not any more is soon like any other.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Steps of the clock that are remembered: with one look in 200 ms that takes something, some minutes. Whoever was used before is
/// taken to have been used at the last one that was forgotten.
const STEPS_MAX: usize = 1_024;

/// How often a function is called; see [the module](self).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Uses {
    n: f64,
    last: Option<Instant>,
}

impl Uses {
    /// It was called.
    pub(crate) fn bump(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < USE_LASTS) {
            return;
        }
        self.n = self.at(now) + 1.0;
        self.last = Some(now);
    }

    /// So often, those of a while ago in part.
    pub(crate) fn at(&self, now: Instant) -> f64 {
        let Some(last) = self.last else { return 0.0 };
        let ago = now.saturating_duration_since(last).as_secs_f64();
        self.n * (-ago / HALF_LIFE.as_secs_f64()).exp2()
    }
}

/// A function's idle sandboxes.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// How often it is called.
    pub(crate) frequency: f64,
    /// A cold start.
    pub(crate) cost: Duration,
    /// One sandbox, in bytes. At least 1.
    pub(crate) bytes: u64,
    /// Sandboxes that are at work: they will be idle before these, so these come after them.
    pub(crate) n_busy: usize,
    /// When each was used last. Oldest first.
    pub(crate) idle_since: Vec<Instant>,
}

/// The clock.
#[derive(Debug, Default)]
pub(crate) struct Gdsf {
    /// When it moved, and to what.
    steps: VecDeque<(Instant, f64)>,
    /// What it was before the first of these.
    base: f64,
}

/// In the order in which they go.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Standing {
    priority: f64,
    since: Instant,
    candidate: usize,
    /// Which of the candidate's.
    at: usize,
}

impl Eq for Standing {}

impl PartialOrd for Standing {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Standing {
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority
            .total_cmp(&other.priority)
            .then_with(|| self.since.cmp(&other.since))
            .then_with(|| self.candidate.cmp(&other.candidate))
            .then_with(|| self.at.cmp(&other.at))
    }
}

impl Gdsf {
    /// Says how many of each candidate's sandboxes are to go, its oldest first, so that `bytes` come free; fewer if all of them
    /// are not enough.
    pub(crate) fn choose(&mut self, candidates: &[Candidate], bytes: u64, now: Instant) -> Vec<usize> {
        let mut taken = vec![0; candidates.len()];
        let standing = |candidate: usize, at: usize| self.standing(candidates, candidate, at);
        let mut next: BinaryHeap<_> =
            (0..candidates.len()).filter_map(|candidate| standing(candidate, 0)).map(Reverse).collect();
        let (mut clock, mut freed) = (self.now(), 0u64);
        while freed < bytes
            && let Some(Reverse(lowest)) = next.pop()
        {
            clock = clock.max(lowest.priority);
            freed = freed.saturating_add(candidates[lowest.candidate].bytes.max(1));
            taken[lowest.candidate] += 1;
            next.extend(standing(lowest.candidate, lowest.at + 1).map(Reverse));
        }
        self.step(clock, now);
        taken
    }

    fn standing(&self, candidates: &[Candidate], candidate: usize, at: usize) -> Option<Standing> {
        let Candidate { frequency, cost, bytes, n_busy, idle_since } = candidates.get(candidate)?;
        let since = *idle_since.get(at)?;
        let place = n_busy + idle_since.len() - at;
        let worth = frequency / place as f64 * cost.as_nanos() as f64 / (*bytes).max(1) as f64;
        Some(Standing { priority: self.at(since) + worth, since, candidate, at })
    }

    fn now(&self) -> f64 {
        self.steps.back().map_or(self.base, |(_, clock)| *clock)
    }

    /// What it was then.
    fn at(&self, when: Instant) -> f64 {
        let n_before = self.steps.partition_point(|(stepped, _)| *stepped <= when);
        n_before.checked_sub(1).map_or(self.base, |last| self.steps[last].1)
    }

    fn step(&mut self, clock: f64, now: Instant) {
        if clock <= self.now() {
            return;
        }
        self.steps.push_back((now, clock));
        if self.steps.len() > STEPS_MAX
            && let Some((_, clock)) = self.steps.pop_front()
        {
            self.base = clock;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn one(frequency: f64, cost_ms: u64, mb: u64, idle_since: &[Instant]) -> Candidate {
        let cost = Duration::from_millis(cost_ms);
        Candidate { frequency, cost, bytes: mb << 20, n_busy: 0, idle_since: idle_since.to_vec() }
    }

    #[test]
    fn what_is_used_often_costs_much_and_is_small_stays() {
        let now = Instant::now();
        let rare = one(1.0, 10, 2, &[now]);
        for better in [one(5.0, 10, 2, &[now]), one(1.0, 50, 2, &[now]), one(1.0, 10, 1, &[now])] {
            assert_eq!(Gdsf::default().choose(&[better.clone(), rare.clone()], 1, now), [0, 1]);
            assert_eq!(Gdsf::default().choose(&[rare.clone(), better], 1, now), [1, 0]);
        }
    }

    #[test]
    fn of_one_function_the_oldest_goes_and_the_second_is_worth_less_than_the_first() {
        let now = Instant::now();
        let many = one(3.0, 10, 2, &[now, now, now]);
        let single = one(1.6, 10, 2, &[now]);
        // Worth 3, 1.5 and 1 there, and 1.6 here.
        for (mb, taken) in [(2, [1, 0]), (4, [2, 0]), (6, [2, 1]), (100, [3, 1])] {
            assert_eq!(Gdsf::default().choose(&[many.clone(), single.clone()], mb << 20, now), taken);
        }
        let busy = Candidate { n_busy: 2, ..one(3.0, 10, 2, &[now]) };
        assert_eq!(Gdsf::default().choose(&[busy, single], 1, now), [1, 0]);
    }

    #[test]
    fn however_much_it_was_worth_it_goes_one_day() {
        let start = Instant::now();
        let mut gdsf = Gdsf::default();
        let dear = one(20.0, 100, 2, &[start]);
        let mut rounds = 0;
        for round in 1.. {
            let now = start + SECOND * round;
            let cheap = one(1.0, 10, 2, &[now]);
            if gdsf.choose(&[dear.clone(), cheap], 1, now) == [1, 0] {
                rounds = round;
                break;
            }
        }
        assert!((150..=201).contains(&rounds), "200 times as much worth: {rounds}");
    }

    #[test]
    fn calls_at_once_count_as_one_and_old_ones_in_part() {
        let start = Instant::now();
        let mut uses = Uses::default();
        assert_eq!(uses.at(start), 0.0);
        (0..1_000).for_each(|n| uses.bump(start + Duration::from_micros(n)));
        assert_eq!(uses.at(start), 1.0);
        uses.bump(start + SECOND);
        assert!((uses.at(start + SECOND) - 2.0).abs() < 0.01);
        assert!((uses.at(start + SECOND + HALF_LIFE) - 1.0).abs() < 0.01);
    }

    #[test]
    fn the_steps_are_bounded_and_who_is_older_than_all_is_the_oldest() {
        let start = Instant::now();
        let mut gdsf = Gdsf::default();
        for round in 0..2 * STEPS_MAX as u32 {
            let now = start + SECOND * round;
            gdsf.choose(&[one(1.0, 1_000, 1, &[now])], 1, now);
        }
        assert_eq!(gdsf.steps.len(), STEPS_MAX);
        assert_eq!(gdsf.at(start), gdsf.base);
        assert!(gdsf.base > 0.0 && gdsf.now() > gdsf.base);
    }

    /// The textbook, word for word: every sandbox has a priority that was worked out when it was used; each time the lowest of
    /// all goes, and the clock is that.
    fn naive(
        clock: &mut f64,
        mut all: Vec<(f64, Instant, usize, usize, u64)>,
        bytes: u64,
    ) -> Vec<(usize, usize)> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        while freed < bytes && !all.is_empty() {
            let lowest = (0..all.len())
                .min_by(|a, b| {
                    let key = |at: &usize| (all[*at].1, all[*at].2, all[*at].3);
                    all[*a].0.total_cmp(&all[*b].0).then_with(|| key(a).cmp(&key(b)))
                })
                .unwrap();
            let (priority, _, candidate, at, size) = all.remove(lowest);
            *clock = clock.max(priority);
            freed += size;
            gone.push((candidate, at));
        }
        gone
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Rounds of uses and evictions, as a worker has them, against the textbook.
        #[test]
        fn whatever_is_used_and_taken_it_is_what_the_textbook_takes(
            functions in vec((1u64..200, 1u64..64), 1..6),
            rounds in vec((vec((0usize..6, 1usize..4), 0..4), 0u64..256), 1..30),
        ) {
            let start = Instant::now();
            let mut gdsf = Gdsf::default();
            let mut clock = 0.0;
            // Of each idle sandbox, oldest first: when it was used, and what the clock said.
            let mut idle: Vec<Vec<(Instant, f64)>> = vec![Vec::new(); functions.len()];
            let mut uses = vec![Uses::default(); functions.len()];
            for (round, (used, mb)) in rounds.into_iter().enumerate() {
                let now = start + SECOND * (1 + round as u32);
                for (which, n) in used {
                    let which = which % functions.len();
                    uses[which].bump(now);
                    // The last ones are used again, others are made.
                    let kept = idle[which].len().saturating_sub(n);
                    idle[which].truncate(kept);
                    idle[which].extend(std::iter::repeat_n((now, clock), n));
                }
                let candidates: Vec<Candidate> = functions.iter().enumerate().map(|(which, (cost, mb))| {
                    let since: Vec<Instant> = idle[which].iter().map(|(since, _)| *since).collect();
                    one(uses[which].at(now), *cost, *mb, &since)
                }).collect();
                let all = candidates.iter().enumerate().flat_map(|(which, candidate)| {
                    let n = candidate.idle_since.len();
                    idle[which].iter().enumerate().map(move |(at, (since, clock))| {
                        let place = (n - at) as f64;
                        let value = candidate.frequency / place * candidate.cost.as_nanos() as f64 / candidate.bytes as f64;
                        (clock + value, *since, which, at, candidate.bytes)
                    }).collect::<Vec<_>>()
                }).collect();
                // Evictions come after the uses of a round.
                let later = now + SECOND / 2;
                let expected = naive(&mut clock, all, mb << 20);
                let taken = gdsf.choose(&candidates, mb << 20, later);
                for (which, n) in taken.iter().enumerate() {
                    let of_it: Vec<usize> = expected.iter().filter(|(one, _)| *one == which).map(|(_, at)| *at).collect();
                    prop_assert_eq!(&of_it, &(0..*n).collect::<Vec<_>>(), "the oldest of each");
                    idle[which].drain(..n);
                }
                prop_assert_eq!(gdsf.now(), clock);
                let freed: u64 = taken.iter().zip(&candidates).map(|(n, one)| *n as u64 * one.bytes).sum();
                let left: usize = idle.iter().map(Vec::len).sum();
                prop_assert!(freed >= mb << 20 || left == 0);
            }
        }
    }
}
