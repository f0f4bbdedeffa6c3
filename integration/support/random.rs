//! Numbers that look like chance and are the same for the same seed.

/// Marsaglia's xorshift.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// From `OL_TEST_SEED`, or from what no other run has; says which, so that a failure can be had again.
    pub(crate) fn of_the_day() -> Self {
        let seed = match std::env::var("OL_TEST_SEED") {
            Ok(text) => text.parse().expect("OL_TEST_SEED is a number"),
            Err(_) => u64::from(std::process::id()) ^ (super::now_ms() << 16),
        };
        eprintln!("OL_TEST_SEED={seed}");
        Self::new(seed)
    }

    pub(crate) fn new(seed: u64) -> Self {
        // Spread, so that seeds that differ little give different numbers; and never 0, which stays 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper bits are the better ones.
        (self.0 >> 16) % end
    }

    /// One of them, if there are any.
    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        (!all.is_empty()).then(|| &all[self.below(all.len() as u64) as usize])
    }

    /// Another one, that goes its own way.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.below(u64::MAX))
    }
}
