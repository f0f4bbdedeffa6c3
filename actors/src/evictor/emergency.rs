//! The last resort: when a busy sandbox is ended so that the machine does not die, and which.
//!
//! The kernel would end one as well, but late: it first throws out the code of all that runs, this worker's and everybody's
//! who wants to mend something, and for minutes nothing answers.

use std::time::Duration;

use tokio::time::Instant;

use super::part_of;
use crate::world::Weight;

/// Memory that the machine must have left, as a share of the pool; within the two that follow. With less, the kernel is busy
/// finding pages instead of running programs.
const FLOOR_SHARE: f64 = 0.01;
const FLOOR_MIN: u64 = 16 << 20;
const FLOOR_MAX: u64 = 256 << 20;
/// How long, and in how many looks, it must have been below that although nothing idle is left: what was given up comes back
/// within some ms, and a busy sandbox may be about to end by itself.
pub const OUT_FOR: Duration = Duration::from_secs(1);
const OUT_LOOKS: u32 = 5;

/// Since when the machine is out of memory.
#[derive(Debug, Default)]
pub(super) struct Emergency {
    since: Option<Instant>,
    n_looks: u32,
}

/// With less left than this the machine is out of memory.
pub(super) fn floor(pool_bytes: u64) -> u64 {
    part_of(pool_bytes, FLOOR_SHARE).clamp(FLOOR_MIN, FLOOR_MAX)
}

impl Emergency {
    /// `is_out`: the machine is out of memory, and nothing is left to be given up. `true`: end a busy one now.
    pub(super) fn look(&mut self, is_out: bool, now: Instant) -> bool {
        if !is_out {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert(now);
        self.n_looks += 1;
        let is_due = self.n_looks >= OUT_LOOKS && now.saturating_duration_since(since) >= OUT_FOR;
        if is_due {
            // The next one is due only when this one's memory has not been enough.
            *self = Self::default();
        }
        is_due
    }

    /// It is so, though none is ended yet.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }
}

/// The one that has grown most over its share. All that is used is shared out as the limits are, but nobody's share is more than an
/// equal part: limits are what functions ask for, and who asks for much must not be spared at the cost of who asks for little.
pub(super) fn greediest(weights: &[Weight]) -> Option<Weight> {
    let used: u64 = weights.iter().map(|weight| weight.used_bytes).sum();
    let limits: u64 = weights.iter().map(|weight| weight.limit_bytes).sum();
    let equal = used as f64 / weights.len().max(1) as f64;
    let over = |weight: &Weight| {
        let share = (used as f64 * weight.limit_bytes as f64 / limits.max(1) as f64).min(equal);
        weight.used_bytes as f64 - share
    };
    weights.iter().copied().filter(|weight| weight.used_bytes > 0).max_by(|one, other| {
        over(one).total_cmp(&over(other)).then_with(|| one.used_bytes.cmp(&other.used_bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(id: u64, used: u64, limit: u64) -> Weight {
        Weight { id, used_bytes: used << 20, limit_bytes: limit << 20 }
    }

    #[test]
    fn the_one_that_has_grown_most_over_its_share_is_ended() {
        let id = |weights: &[Weight]| greediest(weights).map(|weight| weight.id);
        assert_eq!(id(&[]), None);
        assert_eq!(id(&[weight(1, 0, 50)]), None, "nothing would come back");
        assert_eq!(id(&[weight(1, 40, 50), weight(2, 20, 50)]), Some(1));
        // 180 used, limits of 650: by its limit the large one might have 138, but not more than the equal part of 60.
        assert_eq!(id(&[weight(1, 100, 500), weight(2, 40, 50), weight(3, 40, 100)]), Some(1));
        // Of those with the same limit the one that has more; and a large limit that is hardly used is nobody's fault.
        assert_eq!(id(&[weight(1, 10, 500), weight(2, 40, 50), weight(3, 45, 50)]), Some(3));
    }

    #[test]
    fn it_takes_a_while_and_several_looks_and_begins_anew_after_each() {
        let start = Instant::now();
        let mut emergency = Emergency::default();
        let mut at = |ms: u64, is_out| emergency.look(is_out, start + Duration::from_millis(ms));
        assert!((0..100).all(|ms| !at(ms, true)), "not yet a second");
        assert!(!at(900, false), "it was better for a moment");
        assert!(!at(1_000, true) && !at(2_500, true), "two looks are too few");
        assert!(!at(2_600, true) && !at(2_700, true) && at(2_800, true));
        assert!(!at(2_900, true));
    }

    #[test]
    fn the_floor_is_sensible_on_small_machines_and_large_ones() {
        assert_eq!(floor(0), FLOOR_MIN);
        assert_eq!(floor(10 << 30), part_of(10 << 30, FLOOR_SHARE));
        assert_eq!(floor(1 << 40), FLOOR_MAX);
    }
}
