//! Removes a directory with all that is in it, whatever a stranger's program has made of it.
//!
//! The standard library goes down into it with a frame of the stack and an open file for each level, and a program can nest directories
//! by the hundred thousand. Here each is moved to the top before it is emptied: so no path becomes long, and no level is above another.

use std::fs;
use std::io;
use std::path::Path;

/// Removes it. What goes away meanwhile, since somebody else removes it as well, is no error.
pub(super) fn remove(top: &Path) -> io::Result<()> {
    let mut n_moved = 0_u64;
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        let is_top = directory == top;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let gone = if !entry.file_type()?.is_dir() {
                fs::remove_file(&path)
            } else if is_top {
                directories.push(path);
                Ok(())
            } else {
                // No name of a stranger's: at the top nobody but root can make any.
                let above = top.join(format!(".gone-{}-{n_moved}", std::process::id()));
                n_moved += 1;
                fs::rename(&path, &above).map(|()| directories.push(above))
            };
            ignore_gone(gone)?;
        }
        if !is_top {
            ignore_gone(fs::remove_dir(&directory))?;
        }
    }
    ignore_gone(fs::remove_dir(top))
}

fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{Mode, OFlags, mkdirat, openat};

    use super::*;

    #[test]
    fn all_of_it_goes_and_nothing_that_links_lead_to() {
        let place = tempfile::tempdir().unwrap();
        let (top, kept) = (place.path().join("top"), place.path().join("kept"));
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        fs::create_dir_all(top.join("a/d")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(top.join("a/b/file"), "").unwrap();
        fs::write(kept.join("file"), "").unwrap();
        symlink(&kept, top.join("a/link")).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists() && kept.join("file").exists());
        remove(&top).unwrap();
    }

    #[test]
    fn what_is_nested_deeper_than_any_stack_goes_as_well() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut directory = rustix::fs::open(&top, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..30_000 {
            mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = openat(&directory, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        drop(directory);
        remove(&top).unwrap();
        assert!(!top.exists());
    }
}
