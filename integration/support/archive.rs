//! `.tar.gz` files, decent and other ones.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

/// An archive that is being put together.
pub(crate) struct Archive {
    tar: tar::Builder<Vec<u8>>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// One with these files only.
    pub(crate) fn of(files: super::Files<'_>) -> Vec<u8> {
        files.iter().fold(Self::new(), |archive, (name, content)| archive.file(name, 0o644, content)).packed()
    }

    pub(crate) fn file(self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(name, EntryType::Regular, mode, "", content.as_ref())
    }

    pub(crate) fn link(self, name: &str, kind: EntryType, to: &str) -> Self {
        self.entry(name, kind, 0o777, to, b"")
    }

    pub(crate) fn node(self, name: &str, kind: EntryType) -> Self {
        self.entry(name, kind, 0o666, "", b"")
    }

    /// Written byte by byte: the crate would refuse to write most of what a stranger may send.
    fn entry(mut self, name: &str, kind: EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        let ustar = header.as_ustar_mut().expect("it is one");
        ustar.name[..name.len()].copy_from_slice(name.as_bytes());
        ustar.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        self.tar.append(&header, content).expect("memory can be written to");
        self
    }

    pub(crate) fn packed(self) -> Vec<u8> {
        gzipped(&self.tar.into_inner().expect("memory can be written to"))
    }
}

/// These bytes, packed, whatever they are.
pub(crate) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::default());
    gz.write_all(bytes).expect("memory can be written to");
    gz.finish().expect("and so")
}
