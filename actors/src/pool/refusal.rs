//! Why a request gets no sandbox.

use std::time::Duration;

use tokio::time::Instant;

use crate::world::LaunchError;

/// Why a request got no sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many requests wait as may.
    #[error("too many requests wait for this function already")]
    QueueFull,
    /// It waited as long as a request may.
    #[error("no sandbox became free in time: all are busy, or still load the code of the function")]
    QueueTimeout,
    /// The function was removed.
    #[error("the function has been removed")]
    Retiring,
    /// The function's lambda has failed and is being started again; nothing was run.
    #[error("the function is being restarted; try again")]
    Restarting,
    /// The function's lambda has failed too often.
    #[error("the function is out of order: {reason}")]
    Broken {
        /// What failed.
        reason: String,
        /// When it is tried again.
        retry_after: Duration,
    },
    /// No sandbox could be made.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The worker ends.
    #[error("the worker is shutting down")]
    ShuttingDown,
}

/// Why no more sandboxes are handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The function was removed.
    Retiring,
    /// The lambda died, and another pool will take this one's place.
    Restarting,
    /// The lambda dies too often.
    Broken {
        /// What failed.
        reason: String,
        /// When it is tried again.
        until: Instant,
    },
    /// The worker ends.
    ShuttingDown,
}

impl Closed {
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::Retiring => Refusal::Retiring,
            Self::Restarting => Refusal::Restarting,
            Self::Broken { reason, until } => Refusal::Broken {
                reason: reason.clone(),
                retry_after: until.saturating_duration_since(Instant::now()),
            },
            Self::ShuttingDown => Refusal::ShuttingDown,
        }
    }
}
