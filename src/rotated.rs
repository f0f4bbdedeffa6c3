//! A file that is appended to, and has a bound: one that would grow past it is put aside, as `<name>.1`, and begun anew. The `.1`
//! before goes, so that both together take at most twice the bound.
//!
//! Two workers write to the same files while one takes the other's place. Whoever finds that the other has put a file aside
//! already goes on with the new one, so they may then be longer by what both have written meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// See the module's text.
#[derive(Debug)]
pub struct RotatedFile {
    path: PathBuf,
    bytes_max: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    n_bytes: u64,
}

impl RotatedFile {
    /// Opened, and made if it is not there, with the first write.
    #[must_use]
    pub fn new(path: PathBuf, bytes_max: u64) -> Self {
        Self { path, bytes_max, open: None }
    }

    /// Which file it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends this as one piece, which is never parted between two files. Gives the file if it was opened for this, be it for the first time
    /// or anew.
    ///
    /// # Errors
    /// The system's. The piece is lost then; the next write opens the file again.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<Option<&File>> {
        let result = self.try_append(bytes);
        if result.is_err() {
            self.open = None;
        }
        let is_new = result?;
        Ok(self.open.as_ref().filter(|_| is_new).map(|open| &open.file))
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if bytes.is_empty() {
            return Ok(false);
        }
        if self.open.as_ref().is_some_and(|open| open.n_bytes + bytes.len() as u64 > self.bytes_max)
            && let Some(full) = self.open.take()
            && is_at(&full.file, &self.path)?
        {
            fs::rename(&self.path, aside(&self.path))?;
        }
        let is_new = self.open.is_none();
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
                let n_bytes = file.metadata()?.len();
                none.insert(Open { file, n_bytes })
            }
        };
        open.file.write_all(bytes)?;
        open.n_bytes += bytes.len() as u64;
        Ok(is_new)
    }
}

/// Where a full one goes.
#[must_use]
pub fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    aside.into()
}

/// Whether this is still the file of that name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = match fs::metadata(path) {
        Ok(here) => here,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let ours = file.metadata()?;
    Ok((ours.dev(), ours.ino()) == (here.dev(), here.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_together_take_at_most_twice_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = RotatedFile::new(directory.path().join("f.log"), 100);
        for _ in 0..10 {
            file.append(&[b'x'; 40]).unwrap();
        }
        let sizes: Vec<u64> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|&size| size <= 100), "{sizes:?}");
    }

    #[test]
    fn it_is_told_when_a_file_was_opened_and_what_was_there_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.log");
        fs::write(&path, [b'x'; 90]).unwrap();
        let mut file = RotatedFile::new(path.clone(), 100);
        assert!(file.append(b"12345").unwrap().is_some());
        assert!(file.append(b"67890").unwrap().is_none());
        assert!(file.append(b"a new one").unwrap().is_some());
        assert_eq!(fs::read(&path).unwrap(), b"a new one");
        assert_eq!(fs::metadata(aside(&path)).unwrap().len(), 100);
    }

    #[test]
    fn of_two_that_write_only_one_puts_a_full_file_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.log");
        let [mut one, mut other] = [(); 2].map(|()| RotatedFile::new(path.clone(), 100));
        one.append(&[b'1'; 60]).unwrap();
        other.append(&[b'2'; 30]).unwrap();
        one.append(&[b'1'; 60]).unwrap();
        // Its own is in the way now, and the first one's new file is not to go for it.
        other.append(&[b'2'; 30]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1".repeat(60) + &"2".repeat(30));
        assert_eq!(fs::read_to_string(aside(&path)).unwrap(), "1".repeat(60) + &"2".repeat(30));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later/f.log");
        let mut file = RotatedFile::new(path.clone(), 100);
        file.append(b"lost").unwrap_err();
        fs::create_dir(directory.path().join("later")).unwrap();
        file.append(b"kept").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"kept");
    }
}
