//! What memory is used and promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{READY_SHARE, SPARE_SHARE, TIGHT_SHARE, part_of};
use crate::world::{Gauge, MemoryReading};

/// What memory is used and promised. A clone is the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Entries>);

#[derive(Debug, Default)]
struct Entries {
    used: AtomicU64,
    pool: AtomicU64,
    available: AtomicU64,
    /// Promised to sandboxes that are being made.
    reserved: AtomicU64,
    /// Promised to sandboxes that have been made, or not, since the last reading, which may not show them yet.
    settling: AtomicU64,
}

/// Memory promised to a sandbox that is being made. Drop it when that has succeeded or failed.
#[derive(Debug)]
pub struct Reservation {
    ledger: Ledger,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // First counted twice for a moment, rather than not at all.
        self.ledger.0.settling.fetch_add(self.bytes, Ordering::AcqRel);
        self.ledger.0.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Ledger {
    /// Reserve memory if there is plenty. Costs no message.
    #[must_use]
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        self.reserve_within(TIGHT_SHARE, bytes)
    }

    /// The same for a sandbox that is made of a standby: that is there, and its memory is used already. So it may come
    /// nearer to the brim ([`READY_SHARE`]) than what is made from nothing.
    #[must_use]
    pub fn try_reserve_ready(&self, bytes: u64) -> Option<Reservation> {
        self.reserve_within(READY_SHARE, bytes)
    }

    pub(super) fn reserve_within(&self, share: f64, bytes: u64) -> Option<Reservation> {
        let entries = &self.0;
        let pool = entries.pool.load(Ordering::Acquire);
        let spare = entries.available.load(Ordering::Acquire);
        if pool > 0 && spare < part_of(pool, SPARE_SHARE).saturating_add(bytes) {
            return None;
        }
        let bound = if pool == 0 { u64::MAX } else { part_of(pool, share) };
        let others =
            entries.used.load(Ordering::Acquire).saturating_add(entries.settling.load(Ordering::Acquire));
        entries
            .reserved
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |reserved| {
                let reserved = reserved.checked_add(bytes)?;
                (others.saturating_add(reserved) <= bound).then_some(reserved)
            })
            .ok()?;
        Some(Reservation { ledger: self.clone(), bytes })
    }

    pub(super) fn read(&self, gauge: &impl Gauge) -> MemoryReading {
        // What was made before the reading began is in the reading.
        let settled = self.0.settling.load(Ordering::Acquire);
        let reading = gauge.read();
        self.0.used.store(reading.used_bytes, Ordering::Release);
        self.0.pool.store(reading.pool_bytes, Ordering::Release);
        self.0.available.store(reading.available_bytes, Ordering::Release);
        self.0.settling.fetch_sub(settled, Ordering::AcqRel);
        reading
    }

    pub(super) fn promised(&self) -> u64 {
        self.0.reserved.load(Ordering::Acquire).saturating_add(self.0.settling.load(Ordering::Acquire))
    }
}
