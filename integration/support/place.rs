//! A directory of a test's own, with a name that occurs nowhere else on the machine.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// What all names begin with.
const PREFIX: &str = "ol-test-";

/// Removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    is_disk: bool,
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::in_dir(TempDir::with_prefix(PREFIX).expect("a temporary directory can be made"), false)
    }

    /// One with room for so many MiB.
    pub(crate) fn on_small_disk(mb: u32) -> Self {
        let dir = TempDir::with_prefix(PREFIX).expect("a temporary directory can be made");
        let options = format!("size={mb}m,mode=700");
        mount(Some("ol-test"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("a tmpfs can be mounted");
        Self::in_dir(dir, true)
    }

    fn in_dir(dir: TempDir, is_disk: bool) -> Self {
        std::fs::create_dir(dir.path().join("tmp")).expect("a directory can be made in it");
        Self { is_disk, dir }
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

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_disk {
            return;
        }
        // Not by force, unless the test has failed already: who still uses it is a leak, and it shows.
        let is_failed = std::thread::panicking();
        let flags = if is_failed { MntFlags::MNT_DETACH } else { MntFlags::empty() };
        let unmounted = umount2(self.dir.path(), flags);
        assert!(is_failed || unmounted.is_ok(), "the disk is still used: {unmounted:?}");
    }
}
