//! Whether somebody waits for what is being made.
//!
//! What is made ahead of time is made out of the way of requests, at low priority. When somebody comes to wait for it, it is
//! [hurried](Haste::hurry).

use std::sync::Arc;

use tokio::sync::watch;

/// See the module's text. A clone is about the same thing.
#[derive(Debug, Clone)]
pub struct Haste(Arc<watch::Sender<bool>>);

impl Haste {
    /// Nobody waits yet.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Somebody waits.
    #[must_use]
    pub fn waited_for() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }

    /// From now on somebody waits.
    pub fn hurry(&self) {
        self.0.send_if_modified(|is_waited_for| !std::mem::replace(is_waited_for, true));
    }

    /// Whether somebody waits.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        *self.0.borrow()
    }

    /// Until somebody waits.
    pub async fn hurried(&self) {
        // It cannot fail: the sender is in `self`.
        let _ = self.0.subscribe().wait_for(|is_waited_for| *is_waited_for).await;
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
