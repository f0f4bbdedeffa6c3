//! Whose turn it is with the store, of the clients that ask for something of it by themselves: uploads, downloads, removals and
//! listings. What the worker fetches to serve it has bounds of its own, so that neither keeps the other waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::upload::UploadError;

/// Exchanges with the store at once. An upload holds a part of 8 MiB in memory, so all of them at most 128 MiB.
const TURNS_MAX: usize = 16;
/// Downloads that were fetched, and that a client has not read to the end: each is a file of at most `max_code_mb`.
const FETCHED_MAX: usize = 64;
/// How long a client waits for either; then it is told to come back. One that waits costs next to nothing.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    exchanges: Arc<Semaphore>,
    fetched: Arc<Semaphore>,
}

/// Somebody's turn, or his place for a download, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// A directory has room for all.
    pub(in crate::registry) const FREE: Self = Self { _permit: None };
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            exchanges: Arc::new(Semaphore::new(TURNS_MAX)),
            fetched: Arc::new(Semaphore::new(FETCHED_MAX)),
        }
    }

    pub(super) async fn exchange(&self) -> Result<Turn, UploadError> {
        wait(&self.exchanges, "too many uploads, downloads and listings are under way with the store").await
    }

    pub(super) async fn fetched(&self) -> Result<Turn, UploadError> {
        wait(&self.fetched, "too many downloads are under way").await
    }
}

async fn wait(places: &Arc<Semaphore>, full: &str) -> Result<Turn, UploadError> {
    match tokio::time::timeout(WAIT_MAX, Arc::clone(places).acquire_owned()).await {
        Ok(permit) => Ok(Turn { _permit: Some(permit.expect("it is never closed")) }),
        Err(_) => Err(UploadError::Busy(format!("{full}; try again"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_all_turns_are_taken_waits_and_is_told_to_come_back() {
        let turns = Turns::new();
        let mut taken = Vec::new();
        for _ in 0..TURNS_MAX {
            taken.push(turns.exchange().await.unwrap());
        }
        let refused = turns.exchange().await.unwrap_err();
        assert!(matches!(refused, UploadError::Busy(_)), "{refused}");
        // Downloads that are being read keep nobody from the store.
        let _place = turns.fetched().await.unwrap();
        let (waiting, ()) = tokio::join!(turns.exchange(), async { drop(taken.pop()) });
        assert!(waiting.is_ok());
    }
}
