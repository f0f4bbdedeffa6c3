//! Whether two trees of files are the same package: by what is in the files, not by what is said of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What an installer has added beside the archive's files, which depends on who it is and what it was asked.
const ADDED: [&str; 6] =
    ["INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json", "uv_build.json"];

/// One file: a digest of what is in it, or nothing if it is no plain file.
type Files = BTreeMap<PathBuf, Option<[u8; 32]>>;

/// A file that is not the same in both, or only in one of them. `None`: they are the same, but for what the installer
/// writes: notes, compiled modules, and commands.
pub(super) fn difference(one: &Path, other: &Path) -> io::Result<Option<PathBuf>> {
    let (one, other) = (read(one)?, read(other)?);
    let in_one = one.iter().find(|(path, content)| content.is_none() || other.get(*path) != Some(content));
    let missing = || other.keys().find(|path| !one.contains_key(*path));
    Ok(in_one.map(|(path, _)| path).or_else(missing).cloned())
}

fn read(root: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(inside) = directories.pop() {
        for entry in fs::read_dir(root.join(&inside))? {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            let kind = entry.file_type()?;
            if is_installers(&path) {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let mut digest = Sha256::new();
                io::copy(&mut File::open(entry.path())?, &mut digest)?;
                files.insert(path, Some(digest.finalize().into()));
            } else {
                files.insert(path, None);
            }
        }
    }
    Ok(files)
}

fn is_installers(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let of_info = path.parent().is_some_and(|above| above.extension().is_some_and(|one| one == "dist-info"));
    name == "__pycache__"
        || path.extension().is_some_and(|extension| extension == "pyc")
        || path == Path::new("bin")
        || path == Path::new(".lock")
        || (of_info && ADDED.iter().any(|added| name == *added))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    fn differ(one: &tempfile::TempDir, other: &tempfile::TempDir) -> Option<String> {
        let one = difference(one.path(), other.path()).unwrap();
        one.map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_in_the_files_counts_and_not_what_a_record_says_of_them() {
        let record = ("a-1.dist-info/RECORD", "a/b.py,sha256=x,1\n");
        let one = tree(&[("a/b.py", "1"), record]);
        assert_eq!(differ(&one, &tree(&[("a/b.py", "2"), record])).as_deref(), Some("a/b.py"));
        assert_eq!(differ(&one, &tree(&[record])).as_deref(), Some("a/b.py"));
        assert_eq!(differ(&tree(&[record]), &one).as_deref(), Some("a/b.py"));
        let by_another = [
            ("a/b.py", "1"),
            ("a/__pycache__/b.cpython-311.pyc", "x"),
            ("a-1.dist-info/RECORD", "other"),
            ("a-1.dist-info/INSTALLER", "uv"),
            ("bin/a", "#!/x"),
        ];
        assert_eq!(differ(&one, &tree(&by_another)), None);
        let linked = tree(&[record]);
        fs::create_dir(linked.path().join("a")).unwrap();
        std::os::unix::fs::symlink(one.path().join("a/b.py"), linked.path().join("a/b.py")).unwrap();
        assert_eq!(differ(&linked, &one).as_deref(), Some("a/b.py"), "a link is not what it points to");
    }
}
