//! A function's log as one text, though it is two files: `<name>.log.1`, then `<name>.log`. When the second has grown
//! too long the worker makes it the first, and begins anew; whoever reads along must not miss anything then.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Piece in which a file is read backwards: some hundred lines.
const BLOCK_BYTES: usize = 64 << 10;

/// What is still to be read of a function's log.
#[derive(Debug)]
pub(super) struct FunctionLog {
    path: PathBuf,
    /// The oldest first, each from where it was read to. The last is read on for as long as it has its name.
    files: VecDeque<File>,
}

impl FunctionLog {
    /// From its beginning. It need not be there yet.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self { path: path.to_owned(), files: VecDeque::new() };
        log.take_successors()?;
        Ok(log)
    }

    pub(super) fn is_there(&self) -> bool {
        !self.files.is_empty()
    }

    /// Passes over all but the last `n` lines.
    pub(super) fn skip_to_last(&mut self, n: usize) -> io::Result<()> {
        let mut n_missing = n;
        let mut kept = VecDeque::new();
        while let Some(mut file) = self.files.pop_back() {
            n_missing -= seek_to_last_lines(&mut file, n_missing)?;
            kept.push_front(file);
            if n_missing == 0 {
                // Those before it are not wanted.
                self.files.clear();
            }
        }
        self.files = kept;
        Ok(())
    }

    /// Writes what has come since the last time.
    pub(super) fn write_news(&mut self, out: &mut impl Write) -> io::Result<()> {
        loop {
            while let Some(file) = self.files.front_mut() {
                // Somebody has emptied it.
                if file.metadata()?.len() < file.stream_position()? {
                    file.rewind()?;
                }
                io::copy(file, out)?;
                if self.files.len() == 1 {
                    break;
                }
                self.files.pop_front();
            }
            let is_followed = self.take_successors()?;
            if !is_followed {
                return out.flush();
            }
            // The file that was the last had its name taken before the next one got it, and nothing is written to it
            // any more: what it has got since it was read above is its rest, and comes first.
        }
    }

    /// Finds out whether another file has got the name.
    fn take_successors(&mut self) -> io::Result<bool> {
        let Some(current) = open(&self.path)? else { return Ok(false) };
        let before = open(&self.path.with_extension("log.1"))?;
        let last = self.files.back().map(identity).transpose()?;
        let mut known = vec![identity(&current)?];
        if last.as_ref() == known.first() {
            return Ok(false);
        }
        known.extend(last);
        // One that came and went in between; or, at the beginning, the older one of the two.
        if let Some(before) = before
            && !known.contains(&identity(&before)?)
        {
            self.files.push_back(before);
        }
        self.files.push_back(current);
        Ok(true)
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Places the file before its last `n` lines; gives how many there are, at most `n`.
fn seek_to_last_lines(file: &mut File, n: usize) -> io::Result<usize> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut n_ends = 0;
    let mut block = vec![0; BLOCK_BYTES];
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES as u64);
        let block = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            if n_ends == n {
                file.seek(SeekFrom::Start(start + at as u64 + 1))?;
                return Ok(n);
            }
            n_ends += 1;
        }
        end = start;
    }
    file.rewind()?;
    Ok(n_ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    /// A log that is written as the worker does it.
    struct Written {
        dir: TempDir,
    }

    impl Written {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("f.log")
        }

        fn say(&self, text: &str) {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn rotate(&self) {
            fs::rename(self.path(), self.path().with_extension("log.1")).unwrap();
        }
    }

    fn news(log: &mut FunctionLog) -> String {
        let mut out = Vec::new();
        log.write_news(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_read_when_it_comes() {
        let written = Written::new();
        let mut log = FunctionLog::open(&written.path()).unwrap();
        assert!(!log.is_there());
        assert_eq!(news(&mut log), "");
        written.say("a\n");
        assert_eq!(news(&mut log), "a\n");
        assert_eq!(news(&mut log), "");
    }

    #[test]
    fn nothing_is_missed_or_said_twice_when_a_log_is_rotated() {
        let written = Written::new();
        written.say("a\n");
        written.rotate();
        written.say("b\n");
        let mut log = FunctionLog::open(&written.path()).unwrap();
        assert_eq!(news(&mut log), "a\nb\n");
        written.say("c\n");
        written.rotate();
        // The name is nobody's for a moment.
        assert_eq!(news(&mut log), "c\n");
        written.say("d\n");
        assert_eq!(news(&mut log), "d\n");
        // Twice between two looks.
        written.say("e\n");
        written.rotate();
        written.say("f\n");
        written.rotate();
        written.say("g\n");
        assert_eq!(news(&mut log), "e\nf\ng\n");
        assert_eq!(news(&mut log), "");
    }

    #[test]
    fn a_log_that_was_emptied_is_read_from_its_beginning() {
        let written = Written::new();
        written.say("a\nb\n");
        let mut log = FunctionLog::open(&written.path()).unwrap();
        news(&mut log);
        fs::write(written.path(), "c\n").unwrap();
        assert_eq!(news(&mut log), "c\n");
    }

    #[test]
    fn the_last_lines_may_be_in_both_files() {
        let written = Written::new();
        let long = "x".repeat(BLOCK_BYTES);
        written.say(&format!("a\n{long}\nb\n"));
        written.rotate();
        written.say("c\nd\n");
        let last = |n| {
            let mut log = FunctionLog::open(&written.path()).unwrap();
            log.skip_to_last(n).unwrap();
            news(&mut log)
        };
        assert_eq!(last(0), "");
        assert_eq!(last(1), "d\n");
        assert_eq!(last(2), "c\nd\n");
        assert_eq!(last(3), "b\nc\nd\n");
        assert_eq!(last(4), format!("{long}\nb\nc\nd\n"));
        for n in [5, 6, usize::MAX] {
            assert_eq!(last(n), format!("a\n{long}\nb\nc\nd\n"));
        }
    }
}
