//! What functions print, once more in the worker's log (`log_output`): as much of it as a person reads while they write a function,
//! and no more, so that no function takes the worker's own words out of it.

use std::time::{Duration, Instant};

use actors::name::FunctionName;
use slog::{Logger, info};

/// Lines of one function at once: what a call with a traceback or two prints.
const LINES_AT_ONCE: u32 = 50;
/// And then in a second. With lines of a hundred bytes a worker's log of the default size holds the last nine hours of one function.
const LINES_PER_SECOND: u32 = 5;
/// The same for all functions together.
const ALL_AT_ONCE: u32 = 200;
const ALL_PER_SECOND: u32 = 20;
/// What is repeated of a line. All of it is in the function's own log.
const TEXT_BYTES_MAX: usize = 1 << 10;

/// How much of something may go on: some at once, and then some in a second.
#[derive(Debug)]
pub(super) struct Allowance {
    at_once: u32,
    per_second: u32,
    n_left: f64,
    counted: Instant,
}

impl Allowance {
    fn new(at_once: u32, per_second: u32, now: Instant) -> Self {
        Self { at_once, per_second, n_left: f64::from(at_once), counted: now }
    }

    /// Of a function.
    pub(super) fn of_one(now: Instant) -> Self {
        Self::new(LINES_AT_ONCE, LINES_PER_SECOND, now)
    }

    /// Of all functions.
    fn of_all(now: Instant) -> Self {
        Self::new(ALL_AT_ONCE, ALL_PER_SECOND, now)
    }

    fn has_one(&mut self, now: Instant) -> bool {
        let passed: Duration = now.saturating_duration_since(self.counted);
        self.counted = now;
        self.n_left =
            (self.n_left + passed.as_secs_f64() * f64::from(self.per_second)).min(f64::from(self.at_once));
        self.n_left >= 1.0
    }

    fn take_one(&mut self) {
        self.n_left -= 1.0;
    }
}

/// What one function has left.
#[derive(Debug)]
pub(super) struct Share {
    allowance: Allowance,
    n_left_out: u64,
}

impl Share {
    pub(super) fn new(now: Instant) -> Self {
        Self { allowance: Allowance::of_one(now), n_left_out: 0 }
    }
}

/// Writes lines of functions' logs to the worker's.
#[derive(Debug)]
pub(super) struct Repeater {
    log: Logger,
    all: Allowance,
}

impl Repeater {
    pub(super) fn new(log: Logger, now: Instant) -> Self {
        Self { log, all: Allowance::of_all(now) }
    }

    /// `lines`: as they stand in the function's log.
    pub(super) fn repeat(&mut self, name: &FunctionName, lines: &[u8], share: &mut Share, now: Instant) {
        for line in String::from_utf8_lossy(lines).lines() {
            if !share.allowance.has_one(now) || !self.all.has_one(now) {
                share.n_left_out += 1;
                continue;
            }
            share.allowance.take_one();
            self.all.take_one();
            // The time is that of the record.
            let mut parts = line.splitn(4, ' ').skip(1);
            let (invocation, stream, text) = (
                parts.next().unwrap_or_default(),
                parts.next().unwrap_or_default(),
                parts.next().unwrap_or_default(),
            );
            let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
            let log = &self.log;
            match std::mem::take(&mut share.n_left_out) {
                0 => info!(log, "a function printed"; "text" => text, "stream" => stream,
                    "invocation" => invocation, "lambda" => name.as_str()),
                n => info!(log, "a function printed"; "text" => text, "stream" => stream,
                    "invocation" => invocation, "lambda" => name.as_str(), "n_left_out_before" => n),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use slog::{Drain, KV, Never, OwnedKVList, Record};

    use super::*;

    /// Keeps the pairs of all records, as text.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Drain for Kept {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            struct Pairs(Vec<String>);
            impl slog::Serializer for Pairs {
                fn emit_arguments(
                    &mut self,
                    key: slog::Key,
                    value: &std::fmt::Arguments<'_>,
                ) -> slog::Result {
                    self.0.push(format!("{key}={value}"));
                    Ok(())
                }
            }
            let mut pairs = Pairs(Vec::new());
            record.kv().serialize(record, &mut pairs).expect("texts and numbers can be written");
            pairs.0.sort();
            self.0.lock().unwrap().push(pairs.0.join(" "));
            Ok(())
        }
    }

    fn repeater(now: Instant) -> (Repeater, Kept) {
        let kept = Kept::default();
        (Repeater::new(Logger::root(kept.clone(), slog::o!()), now), kept)
    }

    fn lines(n: usize) -> Vec<u8> {
        (0..n).flat_map(|n| format!("2026-01-01T00:00:00.000Z 7-3 o line {n}\n").into_bytes()).collect()
    }

    #[test]
    fn a_line_comes_with_what_it_says_and_who_said_it() {
        let now = Instant::now();
        let (mut repeater, kept) = repeater(now);
        let long = format!("2026-01-01T00:00:00.000Z 7-3 e {}", "é".repeat(TEXT_BYTES_MAX));
        let text = [lines(1), long.into_bytes()].concat();
        repeater.repeat(&"f".parse().unwrap(), &text, &mut Share::new(now), now);
        let kept = kept.0.lock().unwrap();
        assert_eq!(kept[0], "invocation=7-3 lambda=f stream=o text=line 0");
        assert_eq!(
            kept[1],
            format!("invocation=7-3 lambda=f stream=e text={}", "é".repeat(TEXT_BYTES_MAX / 2))
        );
    }

    #[test]
    fn what_is_too_much_is_left_out_and_counted_and_a_second_later_there_is_room_again() {
        let now = Instant::now();
        let (mut repeater, kept) = repeater(now);
        let (name, mut share) = ("f".parse().unwrap(), Share::new(now));
        repeater.repeat(&name, &lines(1000), &mut share, now);
        assert_eq!(kept.0.lock().unwrap().len(), LINES_AT_ONCE as usize);
        repeater.repeat(&name, &lines(1000), &mut share, now + Duration::from_secs(1));
        let kept = kept.0.lock().unwrap();
        assert_eq!(kept.len(), (LINES_AT_ONCE + LINES_PER_SECOND) as usize);
        let n_left_out = 1000 - LINES_AT_ONCE;
        assert!(kept[LINES_AT_ONCE as usize].contains(&format!("n_left_out_before={n_left_out}")));
    }

    #[test]
    fn many_functions_together_have_a_bound_too() {
        let now = Instant::now();
        let (mut repeater, kept) = repeater(now);
        for n in 0..100 {
            repeater.repeat(&format!("f{n}").parse().unwrap(), &lines(10), &mut Share::new(now), now);
        }
        assert_eq!(kept.0.lock().unwrap().len(), ALL_AT_ONCE as usize);
    }
}
