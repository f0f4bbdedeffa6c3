//! What was learnt of imports, in a file of the worker's directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actors::import_stats::{ImportStats, VERSION};
use actors::world::{ImportStatsStore, LocalFuture};
use slog::{Logger, warn};

/// Its name.
pub(super) const FILE: &str = "import-stats.json";
/// What is longer was not written by a worker: as many sets as are remembered, of a hundred packages each, take less.
const BYTES_MAX: u64 = 16 << 20;

/// See the module's text. A clone is the same file.
#[derive(Debug, Clone)]
pub struct OlImportStats {
    path: PathBuf,
    /// One writes after the other.
    writing: Arc<tokio::sync::Mutex<()>>,
    log: Logger,
}

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("it is longer than {} MB", BYTES_MAX >> 20)]
    TooLong,
    #[error("it is not of the form that a worker writes: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("it was written by another version of ol: its form is {0}, and this one reads {VERSION}")]
    Version(u32),
}

/// All that is read of a form that is not known.
#[derive(serde::Deserialize)]
struct Form {
    version: u32,
}

impl OlImportStats {
    /// In this directory, which only the worker writes to.
    #[must_use]
    pub fn new(worker_dir: &Path, log: Logger) -> Self {
        Self { path: worker_dir.join(FILE), writing: Arc::default(), log }
    }
}

impl ImportStatsStore for OlImportStats {
    fn read(&self) -> LocalFuture<Option<ImportStats>> {
        let Self { path, log, .. } = self.clone();
        Box::pin(async move {
            let for_read = path.clone();
            let read = tokio::task::spawn_blocking(move || read(&for_read)).await;
            match read.unwrap_or_else(|error| Err(ReadError::File(io::Error::other(error)))) {
                Ok(stats) => stats,
                Err(error) => {
                    warn!(log, "cannot read what was learnt of imports: it is learnt anew";
                        "path" => %path.display(), "error" => %error);
                    None
                }
            }
        })
    }

    fn write(&self, stats: ImportStats) -> LocalFuture<()> {
        let Self { path, writing, log } = self.clone();
        Box::pin(async move {
            let turn = writing.lock_owned().await;
            let for_write = path.clone();
            let written = tokio::task::spawn_blocking(move || {
                let written = write(&for_write, &stats);
                drop(turn);
                written
            });
            if let Err(error) = written.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                warn!(log, "cannot write down what was learnt of imports: it is lost if the worker ends";
                    "path" => %path.display(), "error" => %error);
            }
        })
    }
}

/// `None`: nobody has written it.
fn read(path: &Path) -> Result<Option<ImportStats>, ReadError> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if length > BYTES_MAX {
        return Err(ReadError::TooLong);
    }
    let bytes = fs::read(path)?;
    let Form { version } = serde_json::from_slice(&bytes)?;
    if version != VERSION {
        return Err(ReadError::Version(version));
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// All of it or nothing, whenever the worker is killed. The power may go in between: what is found then may be nothing, which is
/// not read, and costs less than waiting for the disk each time.
fn write(path: &Path, stats: &ImportStats) -> io::Result<()> {
    // Of this process: while one worker takes another's place, both may write.
    let new = path.with_extension(format!("json.{}", std::process::id()));
    fs::write(&new, serde_json::to_vec(stats)?)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use actors::import_stats::{Failures, ImportCost, LoadStats, PackageStats, StartStats};

    use super::*;

    fn stats() -> ImportStats {
        let package = |name: &str, import, failed| PackageStats {
            name: name.into(),
            version: "1".into(),
            directory: format!("{name}==1"),
            import,
            failed,
        };
        ImportStats {
            version: VERSION,
            written_ms: 1_800_000_000_000,
            packages: vec![
                package("a", Some(ImportCost { us: 1_500, bytes: 4_096 }), None),
                package("b", None, Some(Failures { n: 2, retry_in_ms: 60_000 })),
                package("c", None, None),
            ],
            loads: vec![LoadStats { packages: vec![0, 2], us: 7, held: vec![0] }],
            starts: vec![StartStats { packages: vec![2], on_host: true, weight: 0.25 }],
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_is_left_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(FILE);
        assert!(read(&path).unwrap().is_none());
        write(&path, &stats()).unwrap();
        write(&path, &stats()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(stats()));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_the_reason() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(FILE);
        for (text, said) in [
            ("", "it is not of the form that a worker writes: EOF"),
            ("[]", "it is not of the form"),
            (r#"{"version": 1}"#, "it is not of the form that a worker writes: missing field"),
            (r#"{"version": 2, "imports": {}}"#, "it was written by another version of ol: its form is 2"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
        fs::File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "it is longer than 16 MB");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read(&path).is_err());
    }
}
