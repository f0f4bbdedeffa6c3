//! Reading a `.tar.gz` that a stranger made.
//!
//! Entries are read raw, one header at a time, and the few kinds of extension headers that ordinary
//! archives have are interpreted here: so there is one reading of every entry, with a bound on all that
//! is kept in memory. What is out of the ordinary is refused, not repaired.

use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::content::{ContentError, Target, relative, shown};
use super::extension::{ExtensionError, Extensions};

/// Headers, padding and extension headers of one entry, in bytes; what one entry may add to the stream
/// besides its content.
const BYTES_PER_ENTRY: u64 = 4096;

/// Unpacked to packed size beyond which an archive is not code. Text has 10, logs have 50.
const RATIO_MAX: u64 = 100;

/// Below this many unpacked bytes the ratio does not matter.
const RATIO_FREE_BYTES: u64 = 16 * 1024 * 1024;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("is empty; send a file that `tar -czf` has made (with curl: --data-binary @FILE)")]
    Empty,
    #[error("is not a gzip file; make it with `tar -czf`")]
    NotGzip,
    #[error("is a gzip file, but what is packed in it is no tar archive; make it with `tar -czf`")]
    NotTar,
    #[error("is cut off; it was not uploaded completely. Send it again")]
    Truncated,
    #[error("is a whole gzip file, but the tar archive in it is cut off; pack it again with `tar -czf`")]
    TruncatedTar,
    #[error(
        "is damaged: {0}; pack it again with `tar -czf`, and send it as it is (with curl: --data-binary @FILE)"
    )]
    Damaged(String),
    #[error("has something after its end; pack the files again with `tar -czf`, into a new file")]
    Trailing,
    #[error("has no files in it; pack those of the function, with `tar -czf FILE -C FOLDER .`")]
    NoFiles,
    #[error("is packed more than {RATIO_MAX} times; that is no code")]
    Ratio,
    #[error("entry '{path}' {problem}")]
    Entry { path: String, problem: &'static str },
    #[error(transparent)]
    Content(ContentError),
    #[error("cannot be read: {0}")]
    Read(io::Error),
}

impl ArchiveError {
    /// Whether the archive might be whole a moment later.
    pub(crate) fn is_of_unfinished(&self) -> bool {
        matches!(self, Self::Empty | Self::Truncated | Self::NotGzip)
    }
}

/// Put all entries of the archive into `target`. `packed_bytes` is the archive's own size.
pub(crate) fn unpack(
    from: impl Read,
    packed_bytes: u64,
    bytes_max: u64,
    n_entries_max: usize,
    target: &mut Target,
) -> Result<(), ArchiveError> {
    if packed_bytes == 0 {
        return Err(ArchiveError::Empty);
    }
    let stream = Stream {
        inner: MultiGzDecoder::new(BufReader::with_capacity(64 * 1024, from)),
        bytes: 0,
        bytes_max: bytes_max.saturating_add(n_entries_max as u64 * BYTES_PER_ENTRY),
        packed_bytes,
        n_zeros_last: 0,
        magic: [0; MAGIC.len()],
        is_broken: false,
        refused: None,
    };
    let mut archive = Archive::new(stream);
    let mut found = Found::default();
    let read = read_entries(&mut archive, target, &mut found);
    let mut stream = archive.into_inner();
    let end = read.and_then(|()| finish(&mut stream));
    let is_tar = found.n_headers > 0 || stream.magic == *MAGIC;
    match (end, stream.refused) {
        // The stream had to be stopped; what the readers above made of it is of no interest.
        (Err(_), Some(Refusal::Ratio)) => Err(ArchiveError::Ratio),
        (Err(_), Some(Refusal::Bytes)) => {
            Err(ArchiveError::Content(ContentError::Bytes { bytes: bytes_max }))
        }
        // What was unpacked is what was packed, so that was wrong.
        (Err(ArchiveError::Truncated | ArchiveError::Damaged(_)), _) if !stream.is_broken && !is_tar => {
            Err(ArchiveError::NotTar)
        }
        (Err(ArchiveError::Truncated), _) if !stream.is_broken => Err(ArchiveError::TruncatedTar),
        (Ok(()), _) if found.n_files == 0 => Err(ArchiveError::NoFiles),
        (end, _) => end,
    }
}

#[derive(Default)]
struct Found {
    n_headers: usize,
    n_files: usize,
}

fn read_entries<R: Read>(
    archive: &mut Archive<Stream<R>>,
    target: &mut Target,
    found: &mut Found,
) -> Result<(), ArchiveError> {
    let mut extensions = Extensions::default();
    for entry in archive.entries().map_err(failed)?.raw(true) {
        let mut entry = entry.map_err(failed)?;
        found.n_headers += 1;
        let name = extensions.name.clone().unwrap_or_else(|| entry.path_bytes().into_owned());
        let refuse = |problem| ArchiveError::Entry { path: shown(&name), problem };
        let kind = entry.header().entry_type();
        let is_extension = extensions.take_in(kind, &mut entry).map_err(|error| match error {
            ExtensionError::Read(error) => failed(error),
            ExtensionError::Refused(problem) => refuse(problem),
        })?;
        if !is_extension {
            put(&mut entry, kind, &name, std::mem::take(&mut extensions).link.is_some(), target)?;
            found.n_files += usize::from(kind != EntryType::Directory);
        }
    }
    if extensions.is_empty() { Ok(()) } else { Err(ArchiveError::Truncated) }
}

fn put<R: Read>(
    entry: &mut Entry<'_, R>,
    kind: EntryType,
    name: &[u8],
    is_link: bool,
    target: &mut Target,
) -> Result<(), ArchiveError> {
    let refuse = |problem| Err(ArchiveError::Entry { path: shown(name), problem });
    let kind = match kind {
        EntryType::Regular if is_link => EntryType::Symlink,
        EntryType::Regular if name.ends_with(b"/") => EntryType::Directory,
        kind => kind,
    };
    let Ok(mode) = entry.header().mode() else {
        return refuse("has a mode that is no number");
    };
    if mode & 0o7000 != 0 {
        return refuse("has a setuid, setgid or sticky bit; remove it with chmod");
    }
    let path = match relative(name) {
        Ok(path) => path,
        Err(problem) => return refuse(problem),
    };
    match kind {
        EntryType::Directory if entry.size() != 0 => refuse("is a directory with content"),
        EntryType::Directory => target.directory(&path).map_err(ArchiveError::Content),
        EntryType::Regular if path == PathBuf::new() => refuse("is a file without a name"),
        EntryType::Regular => {
            let size = entry.size();
            let mtime_s = entry.header().mtime().ok().and_then(|s| s.try_into().ok()).unwrap_or(0);
            let bytes = target.file(&path, mode & 0o111 != 0, mtime_s, entry).map_err(content_failed)?;
            if bytes != size { Err(ArchiveError::Truncated) } else { Ok(()) }
        }
        other => refuse(refusal_of(other)),
    }
}

fn refusal_of(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink => {
            "is a symbolic link; a function has only files and directories (pack with `tar -h`)"
        }
        EntryType::Link => {
            "is a hard link; a function has only files and directories (pack with `tar --hard-dereference`)"
        }
        EntryType::Char | EntryType::Block => "is a device",
        EntryType::Fifo => "is a named pipe",
        EntryType::GNUSparse => "is a sparse file; pack without --sparse",
        _ => "is of an unknown kind; a function has only files and directories",
    }
}

/// After the last entry: two blocks of zeros or more, and then the end of the gzip file.
fn finish<R: Read>(stream: &mut Stream<R>) -> Result<(), ArchiveError> {
    let mut buffer = [0; 8192];
    loop {
        let read = stream.read(&mut buffer).map_err(|error| match failed(error) {
            ArchiveError::NotGzip => ArchiveError::Trailing,
            other => other,
        });
        match read? {
            0 => break,
            n if buffer[..n].iter().all(|byte| *byte == 0) => {}
            _ => return Err(ArchiveError::Trailing),
        }
    }
    if stream.n_zeros_last < 1024 { Err(ArchiveError::Truncated) } else { Ok(()) }
}

fn content_failed(error: ContentError) -> ArchiveError {
    match error {
        ContentError::Read { source, .. } => failed(source),
        other => ArchiveError::Content(other),
    }
}

fn failed(error: io::Error) -> ArchiveError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated,
        io::ErrorKind::InvalidInput if error.to_string().contains("gzip header") => ArchiveError::NotGzip,
        // The tar crate has no kind of its own for an end in the middle of a block.
        io::ErrorKind::Other
            if ["unexpected EOF", "entire block"].iter().any(|words| error.to_string().contains(words)) =>
        {
            ArchiveError::Truncated
        }
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            ArchiveError::Damaged(error.to_string())
        }
        _ => ArchiveError::Read(error),
    }
}

/// What every tar of the last decades has in its first header, and where.
const MAGIC: &[u8; 5] = b"ustar";
const MAGIC_AT: u64 = 257;

/// The unpacked stream: bounded, and remembering how many zeros it ended with.
struct Stream<R> {
    inner: R,
    bytes: u64,
    bytes_max: u64,
    packed_bytes: u64,
    n_zeros_last: u64,
    /// What stands where the magic would.
    magic: [u8; MAGIC.len()],
    /// It could not be unpacked.
    is_broken: bool,
    refused: Option<Refusal>,
}

enum Refusal {
    Bytes,
    Ratio,
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer).inspect_err(|_| self.is_broken = true)?;
        for (at, place) in (MAGIC_AT..).zip(&mut self.magic) {
            let here = at.checked_sub(self.bytes).and_then(|at| buffer[..n].get(usize::try_from(at).ok()?));
            *place = here.copied().unwrap_or(*place);
        }
        self.bytes += n as u64;
        if self.bytes > self.bytes_max {
            self.refused = Some(Refusal::Bytes);
        } else if self.bytes > RATIO_FREE_BYTES && self.bytes / RATIO_MAX > self.packed_bytes {
            self.refused = Some(Refusal::Ratio);
        }
        if self.refused.is_some() {
            return Err(io::Error::other("refused"));
        }
        match buffer[..n].iter().rposition(|byte| *byte != 0) {
            Some(last) => self.n_zeros_last = (n - 1 - last) as u64,
            None => self.n_zeros_last += n as u64,
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
