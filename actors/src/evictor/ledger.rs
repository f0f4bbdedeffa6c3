//! What memory is used and promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use slog::{Discard, Logger, debug, o};

use super::{READY_SHARE, SPARE_SHARE, TIGHT_SHARE, WARM_SHARE, WARM_SPARE_SHARE, part_of};
use crate::world::{Gauge, MemoryReading};

/// A change of what is used that is worth a line in the log: less is what a running function does all the time.
const NOTED_BYTES_MIN: u64 = 1 << 20;

/// What memory is used and promised. A clone is the same ledger.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Entries>);

impl Default for Ledger {
    /// One that says nothing of what it does.
    fn default() -> Self {
        Self::new(Logger::root(Discard, o!()))
    }
}

#[derive(Debug)]
struct Entries {
    log: Logger,
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
        debug!(self.ledger.0.log, "a promise of memory is over"; "bytes" => self.bytes,
            "promised" => self.ledger.promised());
    }
}

impl Ledger {
    /// Nothing is known yet. `log` hears of each promise at level debug.
    #[must_use]
    pub fn new(log: Logger) -> Self {
        Self(Arc::new(Entries {
            log,
            used: AtomicU64::default(),
            pool: AtomicU64::default(),
            available: AtomicU64::default(),
            reserved: AtomicU64::default(),
            settling: AtomicU64::default(),
        }))
    }

    pub(super) fn log(&self) -> &Logger {
        &self.0.log
    }

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

    /// The same for a sandbox that nobody has asked for: there is to be room for calls of others, and memory left on the machine, without
    /// anything having to be given up ([`WARM_SHARE`]).
    #[must_use]
    pub fn try_reserve_warm(&self, bytes: u64) -> Option<Reservation> {
        let pool = self.0.pool.load(Ordering::Acquire);
        let left = self.0.available.load(Ordering::Acquire);
        if pool > 0 && left < part_of(pool, WARM_SPARE_SHARE).saturating_add(bytes) {
            return None;
        }
        self.reserve_within(WARM_SHARE, bytes)
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
        debug!(entries.log, "memory was promised"; "bytes" => bytes, "promised" => self.promised(),
            "used" => entries.used.load(Ordering::Acquire), "pool" => pool);
        Some(Reservation { ledger: self.clone(), bytes })
    }

    pub(super) fn read(&self, gauge: &impl Gauge) -> MemoryReading {
        // What was made before the reading began is in the reading.
        let settled = self.0.settling.load(Ordering::Acquire);
        let reading = gauge.read();
        let before = self.0.used.swap(reading.used_bytes, Ordering::AcqRel);
        self.0.pool.store(reading.pool_bytes, Ordering::Release);
        self.0.available.store(reading.available_bytes, Ordering::Release);
        self.0.settling.fetch_sub(settled, Ordering::AcqRel);
        if before.abs_diff(reading.used_bytes) >= NOTED_BYTES_MIN {
            debug!(self.0.log, "memory was read"; "used" => reading.used_bytes, "before" => before,
                "pool" => reading.pool_bytes, "available" => reading.available_bytes);
        }
        reading
    }

    pub(super) fn promised(&self) -> u64 {
        self.0.reserved.load(Ordering::Acquire).saturating_add(self.0.settling.load(Ordering::Acquire))
    }
}
