//! Memory that is as many bytes as a test says.

use std::sync::Arc;

use super::Fake;
use crate::world::{Gauge, LocalFuture, MemoryReading, Weight};

impl Gauge for Fake {
    fn read(&self) -> MemoryReading {
        let state = self.state();
        let used = state.base.used_bytes + state.live.len() as u64 * state.sandbox_bytes;
        MemoryReading { used_bytes: used, ..state.base }
    }

    fn pressed(&self) -> LocalFuture<()> {
        let pressed = Arc::clone(&self.state().pressed);
        Box::pin(async move { pressed.notified().await })
    }

    fn weights(&self) -> Vec<Weight> {
        let state = self.state();
        let used_bytes = state.sandbox_bytes;
        state.live.keys().map(|id| Weight { id: *id, used_bytes, limit_bytes: 4 * used_bytes }).collect()
    }

    fn end(&self, id: u64) {
        let mut state = self.state();
        state.ended.push(id);
        state.dead.insert(id);
    }
}
