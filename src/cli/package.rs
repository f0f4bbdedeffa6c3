//! A folder of code, or an archive, as the archive that a worker takes: a gzipped tar, built in memory.
//!
//! Only directories and plain files go in. What else there is would not mean the same on the other
//! side (links), or nothing at all (devices, sockets), and is refused by its path.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// What a function may weigh, unpacked: as much as a worker takes by default.
const BYTES_MAX: u64 = 250 << 20;
/// How many files and directories it may have.
const ENTRIES_MAX: usize = 20_000;
/// Left out wherever they lie: history, and what Python makes by itself.
const LEFT_OUT: [&str; 2] = [".git", "__pycache__"];
/// What every gzip file begins with (RFC 1952, 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

#[derive(Debug, thiserror::Error)]
pub(super) enum PackageError {
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    #[error("{} is neither a file nor a directory: copy what it points to, or leave it out", .0.display())]
    NotRegular(PathBuf),
    #[error("{} is more than a function may weigh ({} MB)", .0.display(), BYTES_MAX >> 20)]
    TooLarge(PathBuf),
    #[error("{} has more than {ENTRIES_MAX} files", .0.display())]
    TooMany(PathBuf),
    #[error("{} is not a .tar.gz: {source}", path.display())]
    NotArchive { path: PathBuf, source: io::Error },
    #[error("'{inside}' in {} is neither a file nor a directory", path.display())]
    NotRegularInside { path: PathBuf, inside: String },
    #[error("there is no f.py, lambda_func.py or f.bin in {}: name the entry file in ol.yaml (environment: OL_ENTRY_FILE)", .0.display())]
    NoEntry(PathBuf),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot pack {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Files that take the place of the folder's own, by their names in the archive.
#[derive(Debug, Default)]
pub(super) struct Extra<'a> {
    pub(super) config: Option<&'a Path>,
    pub(super) requirements: Option<&'a Path>,
}

impl<'a> Extra<'a> {
    fn files(&self) -> Vec<(&'static str, &'a Path)> {
        [("ol.yaml", self.config), ("requirements.txt", self.requirements)]
            .into_iter()
            .filter_map(|(name, path)| Some((name, path?)))
            .collect()
    }
}

/// An archive as it is, or, when files take the place of some of its own, one with those in it.
pub(super) fn repack(archive: &Path, extra: &Extra<'_>) -> Result<Vec<u8>, PackageError> {
    let unreadable = |source| PackageError::Read { path: archive.to_owned(), source };
    let mut packed = Vec::new();
    let file = File::open(archive).map_err(unreadable)?;
    file.take(BYTES_MAX + 1).read_to_end(&mut packed).map_err(unreadable)?;
    if packed.len() as u64 > BYTES_MAX {
        return Err(PackageError::TooLarge(archive.to_owned()));
    }
    // Said here and not by the worker, which knows no path.
    if !packed.starts_with(&GZIP_MAGIC) {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it is not compressed with gzip");
        return Err(PackageError::NotArchive { path: archive.to_owned(), source });
    }
    let replaced = extra.files();
    if replaced.is_empty() {
        return Ok(packed);
    }
    let broken = |source| PackageError::NotArchive { path: archive.to_owned(), source };
    let mut new = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut left = BYTES_MAX;
    let mut old = tar::Archive::new(MultiGzDecoder::new(packed.as_slice()));
    for (n, entry) in old.entries().map_err(broken)?.enumerate() {
        if n == ENTRIES_MAX {
            return Err(PackageError::TooMany(archive.to_owned()));
        }
        let entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        let plain = name.strip_prefix(".").unwrap_or(&name);
        if replaced.iter().any(|(given, _)| Path::new(given) == plain) {
            continue;
        }
        let kind = entry.header().entry_type();
        if !kind.is_file() && !kind.is_dir() {
            let inside = name.display().to_string();
            return Err(PackageError::NotRegularInside { path: archive.to_owned(), inside });
        }
        left = left.checked_sub(entry.size()).ok_or_else(|| PackageError::TooLarge(archive.to_owned()))?;
        let mut header = entry.header().clone();
        new.append_data(&mut header, &name, entry).map_err(broken)?;
    }
    for (name, path) in replaced {
        let found = Found { name: name.into(), path: path.to_path_buf(), is_dir: false };
        found.append(&mut new, &mut left, archive)?;
    }
    new.into_inner()
        .and_then(GzEncoder::finish)
        .map_err(|source| PackageError::Write { path: archive.to_owned(), source })
}

/// Pack a folder.
pub(super) fn pack(folder: &Path, extra: &Extra<'_>) -> Result<Vec<u8>, PackageError> {
    if !folder.is_dir() {
        return Err(PackageError::NotDirectory(folder.to_owned()));
    }
    let replaced = extra.files();
    let mut files = Vec::new();
    list(folder, Path::new(""), &mut files)?;
    files.retain(|file| !replaced.iter().any(|(name, _)| Path::new(name) == file.name));
    for (name, path) in &replaced {
        files.push(Found { name: name.into(), path: path.to_path_buf(), is_dir: false });
    }
    let has = |name: &str| files.iter().any(|file| file.name == Path::new(name));
    // With an ol.yaml or .env the entry may have any name, and the worker will look for it.
    if !["f.py", "lambda_func.py", "f.bin", "ol.yaml", ".env"].into_iter().any(has) {
        return Err(PackageError::NoEntry(folder.to_owned()));
    }
    let failed = |source| PackageError::Write { path: folder.to_owned(), source };
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut left = BYTES_MAX;
    for file in &files {
        file.append(&mut archive, &mut left, folder)?;
    }
    archive.into_inner().and_then(GzEncoder::finish).map_err(failed)
}

struct Found {
    name: PathBuf,
    path: PathBuf,
    is_dir: bool,
}

impl Found {
    fn append(
        &self,
        archive: &mut tar::Builder<impl Write>,
        left: &mut u64,
        folder: &Path,
    ) -> Result<(), PackageError> {
        let unreadable = |source| PackageError::Read { path: self.path.clone(), source };
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if self.is_dir {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            return archive
                .append_data(&mut header, &self.name, io::empty())
                .map_err(|source| PackageError::Write { path: self.path.clone(), source });
        }
        // Not through a link that took the file's place since it was listed, nor waiting for a pipe's other end.
        let open = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.path);
        let file: File = open.map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(PackageError::NotRegular(self.path.clone()));
        }
        *left = left.checked_sub(metadata.len()).ok_or_else(|| PackageError::TooLarge(folder.to_owned()))?;
        // Read first: a file that changes its length meanwhile must not shift everything after it.
        let mut content = Vec::new();
        file.take(metadata.len()).read_to_end(&mut content).map_err(unreadable)?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, &self.name, content.as_slice())
            .map_err(|source| PackageError::Write { path: self.path.clone(), source })
    }
}

/// Everything below, parents before their children, in the order of names: the same folder always
/// gives the same archive.
fn list(root: &Path, below: &Path, found: &mut Vec<Found>) -> Result<(), PackageError> {
    let dir = root.join(below);
    let unreadable = |source| PackageError::Read { path: dir.clone(), source };
    let mut entries: Vec<_> = fs::read_dir(&dir).and_then(Iterator::collect).map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file_name = entry.file_name();
        if LEFT_OUT.iter().any(|name| file_name == *name) {
            continue;
        }
        let kind = entry.file_type().map_err(unreadable)?;
        if !kind.is_dir() && !kind.is_file() {
            return Err(PackageError::NotRegular(entry.path()));
        }
        if found.len() == ENTRIES_MAX {
            return Err(PackageError::TooMany(root.to_owned()));
        }
        let name = below.join(file_name);
        found.push(Found { name: name.clone(), path: entry.path(), is_dir: kind.is_dir() });
        if kind.is_dir() {
            list(root, &name, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    fn unpacked(bytes: &[u8]) -> BTreeMap<String, (u32, String)> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
        let mut all = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            all.insert(entry.path().unwrap().display().to_string(), (entry.header().mode().unwrap(), text));
        }
        all
    }

    #[test]
    fn a_folder_goes_in_with_its_modes_and_without_history() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["lib", ".git", "lib/__pycache__"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        for (name, text) in
            [("f.py", "x"), ("lib/a.py", "y"), (".git/HEAD", "z"), ("lib/__pycache__/a.pyc", "p")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::set_permissions(dir.path().join("f.py"), fs::Permissions::from_mode(0o700)).unwrap();
        let bytes = pack(dir.path(), &Extra::default()).unwrap();
        let all = unpacked(&bytes);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["f.py", "lib", "lib/a.py"]);
        assert_eq!((&all["f.py"], &all["lib/a.py"]), (&(0o755, "x".into()), &(0o644, "y".into())));
        assert_eq!(bytes, pack(dir.path(), &Extra::default()).unwrap());
    }

    #[test]
    fn given_files_take_the_place_of_the_folders_own() {
        let dir = tempfile::tempdir().unwrap();
        let given = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f.py"), "x").unwrap();
        fs::write(dir.path().join("ol.yaml"), "old").unwrap();
        fs::write(given.path().join("other.yaml"), "new").unwrap();
        let config = given.path().join("other.yaml");
        let all = unpacked(&pack(dir.path(), &Extra { config: Some(&config), requirements: None }).unwrap());
        assert_eq!((all.len(), all["ol.yaml"].1.as_str()), (2, "new"));
    }

    #[test]
    fn an_archive_goes_as_it_is_unless_files_take_the_place_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let folder = dir.path().join("hello");
        fs::create_dir_all(folder.join("lib")).unwrap();
        for (name, text) in [("f.py", "x"), ("ol.yaml", "old"), ("lib/a.py", "y")] {
            fs::write(folder.join(name), text).unwrap();
        }
        let packed = pack(&folder, &Extra::default()).unwrap();
        let archive = file("hello.tar.gz", &packed);
        assert_eq!(repack(&archive, &Extra::default()).unwrap(), packed);
        let (config, requirements) = (file("c", b"new"), file("r", b"none"));
        let extra = Extra { config: Some(&config), requirements: Some(&requirements) };
        let all = unpacked(&repack(&archive, &extra).unwrap());
        assert_eq!(
            all.keys().collect::<Vec<_>>(),
            ["f.py", "lib", "lib/a.py", "ol.yaml", "requirements.txt"]
        );
        assert_eq!((all["ol.yaml"].1.as_str(), all["lib/a.py"].1.as_str()), ("new", "y"));
        let error = repack(&file("plain.tar.gz", b"text"), &Extra::default()).unwrap_err();
        assert!(
            matches!(&error, PackageError::NotArchive { path, .. } if path.ends_with("plain.tar.gz")),
            "{error}"
        );
        let cut = file("cut.tar.gz", &packed[..packed.len() / 2]);
        assert!(matches!(repack(&cut, &extra), Err(PackageError::NotArchive { .. })));
    }

    #[test]
    fn a_link_is_refused_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lib")).unwrap();
        fs::write(dir.path().join("f.py"), "x").unwrap();
        symlink("/etc/passwd", dir.path().join("lib/secret")).unwrap();
        let error = pack(dir.path(), &Extra::default()).unwrap_err();
        assert!(matches!(&error, PackageError::NotRegular(path) if path.ends_with("lib/secret")), "{error}");
    }

    #[test]
    fn what_is_no_function_is_not_packed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(pack(dir.path(), &Extra::default()), Err(PackageError::NoEntry(_))));
        assert!(matches!(
            pack(&dir.path().join("none"), &Extra::default()),
            Err(PackageError::NotDirectory(_))
        ));
        let large = File::create(dir.path().join("f.py")).unwrap();
        large.set_len(BYTES_MAX + 1).unwrap();
        assert!(matches!(pack(dir.path(), &Extra::default()), Err(PackageError::TooLarge(_))));
    }
}
