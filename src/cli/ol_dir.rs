//! The directory of one worker: what lies where, and what state it is in.
//!
//! ```text
//! ol.init                  made by `ol worker init`, with the time
//! config.json              the configuration; people edit it
//! config.json.overrides    the same with the `-o` options of the last `up`, if it had any
//! registry/                the functions
//! lambda/                  the base image, if not the machine itself
//! worker/                  while it runs: worker.pid, worker.port, ol.sock, takeover.sock, worker.lock; and what it works with
//! worker.out               the log of a detached worker
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::CliError;
use super::lock::{self, Identity};
use super::settings::Settings;
use super::talk;
use crate::client::Client;

/// How long a worker may take to say its pid: it does nothing for it but answer.
const PID_WAIT_MAX: Duration = Duration::from_secs(2);

pub(super) struct OlDir {
    path: PathBuf,
}

/// Whether a worker runs there, and how the last one ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Uninitialized,
    Running(Identity),
    StoppedClean,
    StoppedDirty,
    Unknown(Identity),
}

impl OlDir {
    pub(super) fn at(path: &Path) -> Result<Self, CliError> {
        let path = std::path::absolute(path).map_err(CliError::file("find", path))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn stamp(&self) -> PathBuf {
        self.path.join("ol.init")
    }

    /// There while `init` works: tells a directory that is half made from somebody else's.
    pub(super) fn begun(&self) -> PathBuf {
        self.path.join(".ol.init.begun")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    pub(super) fn overrides(&self) -> PathBuf {
        self.path.join("config.json.overrides")
    }

    pub(super) fn base(&self) -> PathBuf {
        self.path.join("lambda")
    }

    pub(super) fn worker(&self) -> PathBuf {
        self.path.join("worker")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("worker.out")
    }

    pub(super) fn is_initialized(&self) -> Result<bool, CliError> {
        let stamp = self.stamp();
        stamp.try_exists().map_err(CliError::file("look at", stamp))
    }

    /// What the worker that runs, or ran last, goes by. `None` before `init`.
    pub(super) fn settings(&self) -> Result<Option<Settings>, CliError> {
        if !self.is_initialized()? {
            return Ok(None);
        }
        let overrides = self.overrides();
        let path = if overrides.exists() { overrides } else { self.config() };
        Settings::read(&path, &self.path).map(Some)
    }

    pub(super) fn state(&self) -> Result<State, CliError> {
        Ok(match self.settings()? {
            Some(settings) => worker_state(&settings.worker_dir())?,
            None => State::Uninitialized,
        })
    }

    /// The configuration of the worker that runs, or the reason why none does.
    pub(super) fn running(&self) -> Result<Settings, CliError> {
        let not_running = |state| CliError::NotRunning { path: self.path.clone(), state };
        let settings = self.settings()?.ok_or_else(|| not_running(State::Uninitialized))?;
        match worker_state(&settings.worker_dir())? {
            State::Running(_) => Ok(settings.listening()),
            state => Err(not_running(state)),
        }
    }
}

/// The state of an initialized worker directory.
pub(super) fn worker_state(worker_dir: &Path) -> Result<State, CliError> {
    if let Some(worker) = lock::holder(worker_dir) {
        let answered = talk::wait(pid_by_socket(worker_dir))? == Some(worker.pid);
        return Ok(if answered { State::Running(worker) } else { State::Unknown(worker) });
    }
    let is_dirty = ["worker.pid", "ol.sock"].iter().any(|name| worker_dir.join(name).exists());
    Ok(if is_dirty { State::StoppedDirty } else { State::StoppedClean })
}

/// The pid that a worker itself says, on its own socket.
pub(super) async fn pid_by_socket(worker_dir: &Path) -> Option<i32> {
    let client = Client::unix(worker_dir.join("ol.sock")).with_deadlines(PID_WAIT_MAX, PID_WAIT_MAX);
    let reply = client.get("/pid").await.ok().filter(|reply| reply.status.is_success())?;
    reply.text().trim().parse().ok()
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uninitialized => {
                f.write_str("Uninitialized (no worker was made here; 'ol worker up' makes one)")
            }
            Self::Running(worker) => write!(f, "Running (pid {})", worker.pid),
            Self::StoppedClean => f.write_str("StoppedClean"),
            Self::StoppedDirty => {
                f.write_str("StoppedDirty (the last worker was killed; 'ol worker up' cleans up and starts)")
            }
            Self::Unknown(worker) => write!(
                f,
                "Unknown (pid {} runs but does not answer on its socket: it is starting, ending or stuck)",
                worker.pid
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lock::WorkerLock;
    use super::*;
    use std::fs;

    #[test]
    fn every_state_without_a_worker_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let ol_dir = OlDir::at(dir.path()).unwrap();
        assert_eq!(ol_dir.state().unwrap(), State::Uninitialized);
        assert_eq!(worker_state(dir.path()).unwrap(), State::StoppedClean);
        fs::write(dir.path().join("worker.pid"), "4").unwrap();
        assert_eq!(worker_state(dir.path()).unwrap(), State::StoppedDirty);
        let _lock = WorkerLock::take(dir.path()).unwrap();
        assert!(matches!(worker_state(dir.path()).unwrap(), State::Unknown(_)));
    }
}
