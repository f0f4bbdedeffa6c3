//! A directory of a test's own, with a name that occurs nowhere else on the machine.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What all names begin with, so that one test's mounts are not taken for another's.
pub(crate) const PREFIX: &str = "ol-test-";

/// Removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix(PREFIX).expect("a temporary directory can be made");
        std::fs::create_dir(dir.path().join("tmp")).expect("a directory can be made in it");
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The part of the path that occurs nowhere else.
    pub(crate) fn token(&self) -> String {
        self.dir.path().file_name().expect("it has a name").to_string_lossy().into_owned()
    }

    /// What programs get as `TMPDIR`.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.join("tmp")
    }
}
