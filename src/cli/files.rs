//! Files that other programs read while we write them: written aside, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use super::error::CliError;

/// Put `content` in the place of `path` at once: a reader sees the old or the new, never a part.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), CliError> {
    write_aside(path, content, mode).map_err(CliError::file("write", path))
}

/// The same for JSON, indented for people.
pub(super) fn replace_json(path: &Path, value: &Value) -> Result<(), CliError> {
    replace(path, format!("{value:#}\n").as_bytes(), 0o644)
}

pub(super) fn make_dir(path: &Path) -> Result<(), CliError> {
    // create_dir_all would say that it exists.
    let made = if path.metadata().is_ok_and(|found| !found.is_dir()) {
        Err(io::Error::other("something is there that is not a directory"))
    } else {
        fs::create_dir_all(path)
    };
    made.map_err(CliError::file("make", path))
}

/// Remove a file; one that is not there is as good.
pub(super) fn remove(path: &Path) -> Result<(), CliError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CliError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn write_aside(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = directory_of(path).ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let aside = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    // Left by a process of the same pid that was killed in between.
    drop(fs::remove_file(&aside));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    let written =
        file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        drop(fs::remove_file(&aside));
    }
    written?;
    File::open(directory)?.sync_all()
}

/// Where a file lies; that of a bare name is the working directory.
fn directory_of(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_bare_name_is_one_of_the_working_directory() {
        for (path, directory) in
            [("tree.json", Some(".")), ("a/b", Some("a")), ("/b", Some("/")), ("/", None)]
        {
            assert_eq!(directory_of(Path::new(path)), directory.map(Path::new));
        }
    }

    #[test]
    fn a_replaced_file_has_content_and_mode_and_nothing_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ol.init");
        replace(&path, b"one", 0o400).unwrap();
        replace(&path, b"two", 0o400).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
