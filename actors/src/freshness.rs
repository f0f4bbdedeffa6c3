//! What is known of functions that lie in a store elsewhere: which are fresh, which are to be asked for again, which nobody
//! calls any more, and whether the store answers at all.
//!
//! ```text
//!   first call ──▶ Ask ──▶ found ──▶ Fresh ──(max_age)──▶ due ──▶ Ask …
//!                   │                                      └─(nobody called it for RESTS_AFTER)──▶ at rest
//!                   └────▶ absent, remembered for a moment, so that asking again costs nothing
//! ```
//!
//! Plain decisions: who asks the store, and has copies of what it said, is the registry.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::name::FunctionName;

/// A function that nobody called for so long is no longer asked for; its next call looks it up as its first did. As long as a sandbox
/// is kept by default, so that none is lost to it.
pub const RESTS_AFTER: Duration = Duration::from_secs(600);
/// Names that are remembered as absent, together. A scan of names must not fill the memory: at 200 bytes each this is 200 KB.
pub const ABSENT_MAX: usize = 1024;
/// How long they are remembered at most, however old the rest may be.
pub const ABSENT_FOR_MAX: Duration = Duration::from_secs(5);
/// The pause before a store that does not answer is asked again; doubles up to [`AWAY_PAUSE_MAX`].
pub const AWAY_PAUSE: Duration = Duration::from_millis(500);
/// See [`AWAY_PAUSE`]. What has changed meanwhile is seen so much later at most.
pub const AWAY_PAUSE_MAX: Duration = Duration::from_secs(15);
/// While it is away, first calls of functions may try it so often.
pub const AWAY_TRY_EVERY: Duration = Duration::from_secs(1);
/// Part of a pause that chance takes off, so that workers that have lost a store together do not come back together.
const JITTER: f64 = 0.25;

/// What is known of functions in a store.
#[derive(Debug)]
pub struct Freshness {
    max_age: Duration,
    entries: HashMap<FunctionName, Entry>,
    /// Told to rest, and not yet taken out of service.
    resting: HashSet<FunctionName>,
    absent: HashMap<FunctionName, Instant>,
    absent_order: VecDeque<(FunctionName, Instant)>,
    backoff: Backoff,
    away: Option<Away>,
}

#[derive(Debug)]
struct Entry {
    /// When the store last said what it has.
    checked: Option<Instant>,
    /// When it was last asked, whatever came of it.
    asked: Option<Instant>,
    /// When it was last seen to have been called.
    used: Instant,
    n_calls: u64,
}

#[derive(Debug)]
struct Away {
    reason: String,
    tried: Instant,
    again: Instant,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { checked: None, asked: None, used: now, n_calls: 0 }
    }
}

/// What to do with a function that is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// What is here is what the store has.
    Fresh,
    /// There is none, or none that anybody called of late.
    Absent,
    /// Ask the store.
    Ask,
    /// The store does not answer; the text says why. Make do with what is here.
    Away(String),
}

/// How a function that is served is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Calls so far.
    pub n_calls: u64,
    /// It stays in service although nobody calls it: something else may, or its sandboxes are kept.
    pub stays: bool,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Ask the store for these.
    pub ask: Vec<FunctionName>,
    /// Nobody calls these: they go out of service.
    pub rest: Vec<FunctionName>,
    /// Ask the store for anything, to see whether it is there.
    pub probe: bool,
}

impl Freshness {
    /// Nothing is known but that there are copies of these. `max_age`: how old may be what is served.
    #[must_use]
    pub fn new(max_age: Duration, copies: impl IntoIterator<Item = FunctionName>, now: Instant) -> Self {
        Self {
            max_age,
            entries: copies.into_iter().map(|name| (name, Entry::new(now))).collect(),
            resting: HashSet::new(),
            absent: HashMap::new(),
            absent_order: VecDeque::new(),
            backoff: Backoff::new(AWAY_PAUSE, AWAY_PAUSE_MAX),
            away: None,
        }
    }

    /// The functions that are in use, in no order.
    #[must_use]
    pub fn names(&self) -> Vec<FunctionName> {
        self.entries.keys().cloned().collect()
    }

    /// Whether it is one of those.
    #[must_use]
    pub fn is_in_use(&self, name: &FunctionName) -> bool {
        self.entries.contains_key(name)
    }

    /// Somebody wants to read this function.
    pub fn need(&mut self, name: &FunctionName, now: Instant) -> Need {
        if self.resting.remove(name) {
            return Need::Absent;
        }
        let checked = self.entries.get(name).and_then(|entry| entry.checked);
        if checked.is_some_and(|checked| now < checked + self.max_age) {
            return Need::Fresh;
        }
        if self.absent.get(name).is_some_and(|until| now < *until) {
            return Need::Absent;
        }
        match &mut self.away {
            // Those of which there are copies are asked for when it is back; who has none may try.
            Some(away) if self.entries.contains_key(name) || now < away.tried + AWAY_TRY_EVERY => {
                Need::Away(away.reason.clone())
            }
            Some(away) => {
                away.tried = now;
                Need::Ask
            }
            None => Need::Ask,
        }
    }

    /// The store has said that what is here is what it has.
    pub fn found(&mut self, name: &FunctionName, now: Instant) {
        self.answered();
        self.absent.remove(name);
        self.resting.remove(name);
        let entry = self.entries.entry(name.clone()).or_insert(Entry::new(now));
        entry.checked = Some(now);
        entry.asked = Some(now);
    }

    /// The store has said that there is none.
    pub fn gone(&mut self, name: &FunctionName, now: Instant) {
        self.answered();
        self.entries.remove(name);
        let until = now + self.max_age.min(ABSENT_FOR_MAX);
        // All are remembered equally long, so the first in order is the first to go.
        while let Some((first, its_end)) = self.absent_order.front() {
            if *its_end > now && self.absent_order.len() < ABSENT_MAX {
                break;
            }
            if self.absent.get(first) == Some(its_end) {
                self.absent.remove(first);
            }
            self.absent_order.pop_front();
        }
        self.absent.insert(name.clone(), until);
        self.absent_order.push_back((name.clone(), until));
    }

    /// There is a copy, and the store could not be asked: it is served.
    pub fn copied(&mut self, name: &FunctionName, now: Instant) {
        self.entries.entry(name.clone()).or_insert(Entry::new(now));
    }

    /// It was asked for in vain, and the store was not to blame: not at once again.
    pub fn put_off(&mut self, name: &FunctionName, now: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.asked = Some(now);
        }
    }

    /// It did not answer. `chance` is from 0 to 1. Tells whether that is news.
    pub fn failed(&mut self, reason: String, chance: f64, now: Instant) -> bool {
        let is_news = self.away.is_none();
        // Those that were under way when it went away have no say in how long it is left alone.
        if self.away.as_ref().is_none_or(|away| now >= away.again) {
            let pause = self.backoff.failed(now) - now;
            let again = now + pause.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0));
            self.away = Some(Away { reason, tried: now, again });
        }
        is_news
    }

    /// It did.
    pub fn answered(&mut self) {
        self.away = None;
        self.backoff.succeeded();
    }

    /// Why it does not answer, if that is so.
    #[must_use]
    pub fn away(&self) -> Option<&str> {
        self.away.as_ref().map(|away| away.reason.as_str())
    }

    /// What is to be done now; `use_of` tells how a function is used, if it is in service.
    pub fn due(&mut self, use_of: impl Fn(&FunctionName) -> Option<Use>, now: Instant) -> Due {
        let mut due = Due::default();
        if let Some(away) = &mut self.away {
            if now >= away.again {
                due.probe = true;
            }
            return due;
        }
        // Those that are almost due as well: each look goes through all.
        let ask_after = self.max_age.mul_f64(0.8);
        for (name, entry) in &mut self.entries {
            match use_of(name) {
                Some(used) if used.stays || used.n_calls != entry.n_calls => {
                    entry.n_calls = used.n_calls;
                    entry.used = now;
                }
                _ => {}
            }
            if now >= entry.used + RESTS_AFTER {
                due.rest.push(name.clone());
            } else if entry.asked.is_none_or(|asked| now >= asked + ask_after) {
                due.ask.push(name.clone());
            }
        }
        for name in &due.rest {
            self.entries.remove(name);
            self.resting.insert(name.clone());
        }
        due.ask.sort();
        due.rest.sort();
        due
    }

    /// When to look what is due again, at the latest.
    #[must_use]
    pub fn next(&self, now: Instant) -> Instant {
        let idle = now + self.max_age;
        if let Some(away) = &self.away {
            return away.again;
        }
        let asked = self.entries.values().map(|entry| entry.asked.map_or(now, |at| at + self.ask_after()));
        asked.min().unwrap_or(idle).min(idle)
    }

    /// A little sooner than what is served may be old, for the asking takes time.
    fn ask_after(&self) -> Duration {
        self.max_age.mul_f64(0.9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(5);

    fn name(text: &str) -> FunctionName {
        text.parse().unwrap()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn calls(n_calls: u64) -> impl Fn(&FunctionName) -> Option<Use> {
        move |_| Some(Use { n_calls, stays: false })
    }

    #[test]
    fn what_is_fresh_is_not_asked_for_and_what_is_old_is() {
        let now = Instant::now();
        let mut known = Freshness::new(AGE, [], now);
        assert_eq!(known.need(&name("f"), now), Need::Ask);
        known.found(&name("f"), now);
        assert_eq!(known.need(&name("f"), now + seconds(4)), Need::Fresh);
        assert_eq!(known.due(calls(1), now + seconds(3)), Due::default());
        assert_eq!(known.due(calls(1), now + seconds(4)).ask, [name("f")], "a little early, with others");
        assert_eq!(known.due(calls(2), now + seconds(5)).ask, [name("f")]);
        assert_eq!(known.need(&name("f"), now + seconds(5)), Need::Ask);
        assert!(known.next(now + seconds(1)) <= now + seconds(5));
    }

    #[test]
    fn a_copy_of_an_earlier_life_is_asked_for_before_it_is_fresh() {
        let now = Instant::now();
        let mut known = Freshness::new(AGE, [name("old")], now);
        assert_eq!(known.need(&name("old"), now), Need::Ask);
        assert_eq!(known.next(now), now);
        assert_eq!(known.due(|_| None, now).ask, [name("old")]);
        known.put_off(&name("old"), now);
        assert_eq!(known.due(|_| None, now), Due::default());
        assert!(known.next(now) > now);
        assert_eq!(known.need(&name("old"), now), Need::Ask, "who calls it does not wait for that");
    }

    #[test]
    fn an_absent_name_is_remembered_for_a_moment_and_only_so_many_are() {
        let now = Instant::now();
        let mut known = Freshness::new(seconds(60), [], now);
        known.gone(&name("no"), now);
        assert_eq!(known.need(&name("no"), now + seconds(4)), Need::Absent);
        assert_eq!(known.need(&name("no"), now + seconds(5)), Need::Ask);
        for n in 0..3 * ABSENT_MAX {
            known.gone(&name(&format!("n{n}")), now);
        }
        assert_eq!((known.absent.len(), known.absent_order.len()), (ABSENT_MAX, ABSENT_MAX));
        assert_eq!(known.need(&name("n0"), now), Need::Ask);
        known.gone(&name("later"), now + seconds(6));
        assert_eq!((known.absent.len(), known.absent_order.len()), (1, 1));
        known.found(&name("later"), now + seconds(6));
        assert_eq!(known.need(&name("later"), now + seconds(6)), Need::Fresh);
    }

    #[test]
    fn who_is_not_called_rests_and_comes_back_with_the_next_call() {
        let now = Instant::now();
        let mut known = Freshness::new(AGE, [], now);
        for each in ["called", "forgotten", "kept"] {
            known.found(&name(each), now);
        }
        let use_of = |name: &FunctionName| {
            Some(Use { n_calls: u64::from(name.as_str() == "called"), stays: name.as_str() == "kept" })
        };
        known.due(use_of, now + RESTS_AFTER - seconds(1));
        let due = known.due(use_of, now + RESTS_AFTER);
        assert_eq!(due.rest, [name("forgotten")]);
        assert_eq!(due.ask, [name("called"), name("kept")]);
        assert!(!known.is_in_use(&name("forgotten")));
        assert_eq!(known.need(&name("forgotten"), now + RESTS_AFTER), Need::Absent);
        assert_eq!(known.need(&name("forgotten"), now + RESTS_AFTER), Need::Ask);
    }

    #[test]
    fn a_store_that_is_away_is_left_alone_for_longer_and_longer() {
        let now = Instant::now();
        let mut known = Freshness::new(AGE, [name("here")], now);
        assert!(known.failed("refused".into(), 0.0, now));
        assert_eq!(known.due(calls(1), now), Due::default());
        assert_eq!(known.need(&name("here"), now), Need::Away("refused".into()));
        assert_eq!(known.need(&name("elsewhere"), now), Need::Away("refused".into()));
        // Those that were under way do not count.
        assert!(!known.failed("refused".into(), 0.0, now));
        assert_eq!(known.next(now), now + AWAY_PAUSE);
        let mut at = now;
        for n in 0..10u32 {
            at = known.next(at);
            assert!(known.due(calls(1), at).probe);
            assert!(!known.failed("refused".into(), 0.0, at));
            let pause = known.next(at) - at;
            assert_eq!(pause, (AWAY_PAUSE * (2u32 << n.min(10))).min(AWAY_PAUSE_MAX));
        }
        assert_eq!(known.need(&name("elsewhere"), at + AWAY_TRY_EVERY), Need::Ask);
        assert!(matches!(known.need(&name("another"), at + AWAY_TRY_EVERY), Need::Away(_)), "one at a time");
        known.answered();
        assert_eq!(known.away(), None);
        assert_eq!(known.need(&name("here"), at), Need::Ask);
    }

    #[test]
    fn chance_makes_a_pause_shorter_and_never_nothing() {
        let now = Instant::now();
        for chance in [0.0, 0.5, 1.0, 7.0] {
            let mut known = Freshness::new(AGE, [], now);
            known.failed("x".into(), chance, now);
            let pause = known.next(now) - now;
            assert!(pause <= AWAY_PAUSE && pause >= AWAY_PAUSE.mul_f64(0.7), "{pause:?}");
        }
    }
}
