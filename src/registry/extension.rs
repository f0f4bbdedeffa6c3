//! Extension headers of a tar: entries that say something about the entry that follows, of which only
//! its name and the target of its link are taken.
//!
//! What would change where an entry ends (a size, a sparse file) is refused, since two readers could
//! understand it differently and see different entries; and so is what is said twice.

use std::io::{self, Read};

use tar::{EntryType, PaxExtensions};

/// Longest extension header, in bytes. A path has at most 4096, and a few attributes come with it.
const BYTES_MAX: u64 = 64 * 1024;

/// What extension headers have said so far about the entry that follows.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
}

/// Why an extension header is refused.
#[derive(Debug)]
pub(crate) enum ExtensionError {
    Read(io::Error),
    Refused(&'static str),
}

impl Extensions {
    /// Take in an entry, if it is an extension header. Gives whether it was one.
    pub(crate) fn take_in(&mut self, kind: EntryType, content: impl Read) -> Result<bool, ExtensionError> {
        match kind {
            EntryType::GNULongName => {
                self.set_name(without_nul(read(content)?))?;
            }
            EntryType::GNULongLink => {
                self.set_link(without_nul(read(content)?))?;
            }
            EntryType::XHeader => self.take_in_records(&read(content)?)?,
            EntryType::XGlobalHeader => {
                let mut of_all = Self::default();
                of_all.take_in_records(&read(content)?)?;
                if !of_all.is_empty() {
                    return refuse("gives every entry the same name");
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.name.is_none() && self.link.is_none()
    }

    fn take_in_records(&mut self, bytes: &[u8]) -> Result<(), ExtensionError> {
        for record in PaxExtensions::new(bytes) {
            let Ok(record) = record else {
                return refuse("has an extension header that cannot be read");
            };
            match record.key_bytes() {
                b"path" => self.set_name(record.value_bytes().to_owned())?,
                b"linkpath" => self.set_link(record.value_bytes().to_owned())?,
                b"size" => return refuse("has its size in an extension header"),
                b"hdrcharset" => return refuse("has a character set of its own"),
                key if key.starts_with(b"GNU.sparse.") => {
                    return refuse("is a sparse file; pack without --sparse");
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set_name(&mut self, name: Vec<u8>) -> Result<(), ExtensionError> {
        if self.name.replace(name).is_some() { refuse("has two names") } else { Ok(()) }
    }

    fn set_link(&mut self, link: Vec<u8>) -> Result<(), ExtensionError> {
        if self.link.replace(link).is_some() { refuse("is a link to two targets") } else { Ok(()) }
    }
}

fn read(content: impl Read) -> Result<Vec<u8>, ExtensionError> {
    let mut bytes = Vec::new();
    content.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ExtensionError::Read)?;
    if bytes.len() as u64 > BYTES_MAX {
        refuse("has an extension header longer than any path")
    } else {
        Ok(bytes)
    }
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

fn refuse<T>(problem: &'static str) -> Result<T, ExtensionError> {
    Err(ExtensionError::Refused(problem))
}
