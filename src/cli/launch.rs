//! Starting a worker in the background and waiting until it answers.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::error::CliError;
use super::ol_dir::pid_by_socket;
use super::talk;

/// 300 tries, 100 ms apart: half a minute, which a worker that unpacks nothing never needs.
const TRIES_MAX: u32 = 300;
const TRY_EVERY: Duration = Duration::from_millis(100);
/// So much of the log is shown when a worker does not come up.
const TAIL_BYTES: u64 = 4 << 10;

/// A worker to be started.
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) worker_dir: PathBuf,
    pub(super) log: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error("cannot start {}: {source}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("cannot open the log {}: {source}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("cannot ask whether the worker still runs: {0}")]
    Wait(io::Error),
    #[error("the worker ended while starting ({status}); the end of its log {}:\n{tail}", log.display())]
    Ended { status: ExitStatus, log: PathBuf, tail: String },
    #[error("the worker did not answer within {} s and was ended; the end of its log {}:\n{tail}", (TRY_EVERY * TRIES_MAX).as_secs(), log.display())]
    Silent { log: PathBuf, tail: String },
}

/// A worker that was started and may not answer yet.
pub(super) struct Started {
    launch: Launch,
    child: Child,
    log_begins: u64,
}

impl Launch {
    pub(super) fn start(self) -> Result<Started, LaunchError> {
        let failed = |source| LaunchError::Log { path: self.log.clone(), source };
        let (log, log_begins) = open_log(&self.log).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let child = Command::new(&self.program)
            .arg0("ol")
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|source| LaunchError::Spawn { program: self.program.clone(), source })?;
        Ok(Started { launch: self, child, log_begins })
    }
}

impl Started {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Wait until the worker answers with its own pid: another one's answer on that socket is none.
    pub(super) fn wait_until_ready(mut self) -> Result<(), CliError> {
        let pid = self.child.id().cast_signed();
        for _ in 0..TRIES_MAX {
            if let Some(status) = self.child.try_wait().map_err(LaunchError::Wait)? {
                let (log, tail) = self.log_and_tail();
                return Err(LaunchError::Ended { status, log, tail }.into());
            }
            let worker_dir = &self.launch.worker_dir;
            let answered = talk::wait(async {
                let pid = pid_by_socket(worker_dir).await;
                if pid.is_none() {
                    tokio::time::sleep(TRY_EVERY).await;
                }
                pid
            })?;
            match answered {
                Some(answered) if answered == pid => return Ok(()),
                Some(_) => std::thread::sleep(TRY_EVERY),
                None => {}
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
        let (log, tail) = self.log_and_tail();
        Err(LaunchError::Silent { log, tail }.into())
    }

    fn log_and_tail(&self) -> (PathBuf, String) {
        let tail = tail(&self.launch.log, self.log_begins)
            .unwrap_or_else(|error| format!("(cannot read it: {error})"));
        (self.launch.log.clone(), tail)
    }
}

/// Open for appending; gives where the new worker's part will begin. One that is too long is put aside by the worker itself.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let begins = file.metadata()?.len();
    Ok((file, begins))
}

/// The last whole lines of a log, from `begins` at the earliest, indented.
fn tail(path: &Path, begins: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let n_bytes = file.metadata()?.len();
    // If it is shorter than it was, it was begun anew.
    let begins = if n_bytes < begins { 0 } else { begins };
    let from = begins.max(n_bytes.saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = if from > begins { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
    if text.trim().is_empty() {
        return Ok("  (nothing)".to_owned());
    }
    Ok(text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn launch(dir: &Path, script: &str) -> Launch {
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            worker_dir: dir.to_owned(),
            log: dir.join("worker.out"),
        }
    }

    #[test]
    fn a_worker_that_ends_at_once_is_reported_with_its_own_words_only() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("worker.out"), "of yesterday\n").unwrap();
        let started = launch(dir.path(), "echo out; echo err >&2; exit 3").start().unwrap();
        let text = started.wait_until_ready().unwrap_err().to_string();
        assert!(text.contains("(exit status: 3)") && text.ends_with(":\n  out\n  err"), "{text}");
    }

    #[test]
    fn a_long_log_shows_its_last_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lines: Vec<_> = (0..2000).map(|n| format!("line {n}")).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        let text = tail(&path, 0).unwrap();
        assert!(text.ends_with("  line 1999") && text.len() < 8192);
        assert!(text.lines().all(|line| line.starts_with("  line ")), "{text}");
    }

    #[test]
    fn the_words_of_a_worker_that_has_begun_its_log_anew_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "old\n".repeat(100)).unwrap();
        let (_, begins) = open_log(&path).unwrap();
        fs::write(&path, "why it ended\n").unwrap();
        assert_eq!(tail(&path, begins).unwrap(), "  why it ended");
    }
}
