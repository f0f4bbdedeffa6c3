//! Files that were touched, and are left alone for a moment before they are read.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::name::FunctionName;

/// How long files are left alone before they are read.
pub const SETTLE: Duration = Duration::from_millis(50);
/// How long files that are touched all the time, or half written, are waited for.
pub const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Whose files were touched, and when.
#[derive(Debug, Default)]
pub(super) struct Touches(HashMap<FunctionName, Touch>);

#[derive(Debug, Clone, Copy)]
struct Touch {
    first: Instant,
    last: Instant,
}

impl Touch {
    fn due(self) -> Instant {
        (self.last + SETTLE).min(self.first + SETTLE_MAX)
    }
}

impl Touches {
    pub(super) fn add(&mut self, name: FunctionName, now: Instant) {
        self.0.entry(name).and_modify(|touch| touch.last = now).or_insert(Touch { first: now, last: now });
    }

    /// It is read for another reason.
    pub(super) fn forget(&mut self, name: &FunctionName) {
        self.0.remove(name);
    }

    /// Those that have been left alone for long enough.
    pub(super) fn take_settled(&mut self, now: Instant) -> Vec<FunctionName> {
        self.0.extract_if(|_, touch| touch.due() <= now).map(|(name, _)| name).collect()
    }

    /// When the next may have been.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|touch| touch.due()).min()
    }
}
