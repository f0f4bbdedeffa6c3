//! How much of what was read from Kafka waits for its function: no more than fits.
//!
//! A partition that has much waiting is paused at the broker's, and resumed when half of it is done. So is any partition
//! that brings more while all of them together have too much. A function may then take as long as it likes: the group
//! does not take the reader for dead, and memory has a bound.

use std::collections::HashMap;
use std::hash::Hash;

/// Records of one partition that wait: each pause costs a round trip to the broker, and at ten thousand a second this is
/// a tenth of one.
pub const RECORDS_MAX: usize = 1024;
/// Bytes of one partition that wait: four of the largest records that brokers take by default, so that a pause is not made
/// for each.
pub const PARTITION_BYTES_MAX: usize = 4 << 20;
/// Bytes of all partitions of one trigger that wait.
pub const BYTES_MAX: usize = 16 << 20;

/// What waits, by partition.
#[derive(Debug)]
pub struct Inflow<P> {
    partitions: HashMap<P, Waiting>,
    bytes: usize,
    n_paused: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    n: usize,
    bytes: usize,
    is_paused: bool,
}

impl<P: Hash + Eq + Clone> Default for Inflow<P> {
    fn default() -> Self {
        Self { partitions: HashMap::new(), bytes: 0, n_paused: 0 }
    }
}

impl<P: Hash + Eq + Clone> Inflow<P> {
    /// A record has come. `true`: pause this partition.
    pub fn took(&mut self, partition: &P, bytes: usize) -> bool {
        let waiting = self.partitions.entry(partition.clone()).or_default();
        waiting.n += 1;
        waiting.bytes += bytes;
        self.bytes += bytes;
        let is_much =
            waiting.n >= RECORDS_MAX || waiting.bytes >= PARTITION_BYTES_MAX || self.bytes >= BYTES_MAX;
        let pause = is_much && !waiting.is_paused;
        waiting.is_paused |= is_much;
        self.n_paused += usize::from(pause);
        pause
    }

    /// A record is done with. Gives the partitions to resume.
    pub fn done(&mut self, partition: &P, bytes: usize) -> Vec<P> {
        if let Some(waiting) = self.partitions.get_mut(partition) {
            waiting.n = waiting.n.saturating_sub(1);
            waiting.bytes = waiting.bytes.saturating_sub(bytes);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        self.resumed()
    }

    /// The partition is somebody else's now. Gives the partitions to resume.
    pub fn forget(&mut self, partition: &P) -> Vec<P> {
        if let Some(waiting) = self.partitions.remove(partition) {
            self.bytes -= waiting.bytes.min(self.bytes);
            self.n_paused -= usize::from(waiting.is_paused);
        }
        self.resumed()
    }

    fn resumed(&mut self) -> Vec<P> {
        if self.n_paused == 0 || self.bytes > BYTES_MAX / 2 {
            return Vec::new();
        }
        let mut resumed = Vec::new();
        for (partition, waiting) in &mut self.partitions {
            let is_little = waiting.n <= RECORDS_MAX / 2 && waiting.bytes <= PARTITION_BYTES_MAX / 2;
            if waiting.is_paused && is_little {
                waiting.is_paused = false;
                resumed.push(partition.clone());
            }
        }
        self.n_paused -= resumed.len();
        resumed
    }

    /// What waits, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_partition_with_much_waiting_is_paused_until_half_of_it_is_done() {
        let mut inflow = Inflow::default();
        for n in 1..RECORDS_MAX {
            assert!(!inflow.took(&0, 1), "{n}");
        }
        assert!(inflow.took(&0, 1));
        // What was under way already comes still.
        assert!(!inflow.took(&0, 1));
        assert!(!inflow.took(&1, 1));
        for _ in 0..RECORDS_MAX / 2 {
            assert!(inflow.done(&0, 1).is_empty());
        }
        assert_eq!(inflow.done(&0, 1), [0]);
    }

    #[test]
    fn large_records_of_many_partitions_do_not_add_up() {
        let mut inflow = Inflow::default();
        let large = PARTITION_BYTES_MAX / 2 - 1;
        let paused: Vec<_> = (0..64).filter(|partition| inflow.took(partition, large)).collect();
        assert_eq!(paused.first(), Some(&8), "{paused:?}");
        let mut resumed: Vec<_> = (0..64).flat_map(|partition| inflow.done(&partition, large)).collect();
        resumed.sort_unstable();
        assert_eq!(resumed, paused);
    }

    proptest! {
        /// Nothing stays paused once all is done, and pauses and resumes take turns.
        #[test]
        fn whatever_comes_and_goes_nothing_stays_paused(steps in proptest::collection::vec((0usize..6, 0usize..9, 1usize..1_600_000), 1..300)) {
            let mut inflow: Inflow<usize> = Inflow::default();
            let mut waiting: Vec<(usize, usize)> = Vec::new();
            let mut paused = std::collections::HashSet::new();
            for (kind, partition, bytes) in steps {
                match kind {
                    0..=3 => {
                        if inflow.took(&partition, bytes) {
                            prop_assert!(paused.insert(partition));
                        }
                        waiting.push((partition, bytes));
                    }
                    4 if !waiting.is_empty() => {
                        let (partition, bytes) = waiting.swap_remove(bytes % waiting.len());
                        for resumed in inflow.done(&partition, bytes) {
                            prop_assert!(paused.remove(&resumed));
                        }
                    }
                    _ => {
                        waiting.retain(|(other, _)| *other != partition);
                        paused.remove(&partition);
                        for resumed in inflow.forget(&partition) {
                            prop_assert!(paused.remove(&resumed));
                        }
                    }
                }
                prop_assert_eq!(inflow.bytes(), waiting.iter().map(|(_, bytes)| bytes).sum::<usize>());
            }
            for (partition, bytes) in waiting {
                for resumed in inflow.done(&partition, bytes) {
                    prop_assert!(paused.remove(&resumed));
                }
            }
            prop_assert!(paused.is_empty());
        }
    }
}
