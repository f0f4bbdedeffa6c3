//! What an installed package says of itself: the `METADATA` beside its modules (PEP 566).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::requirement::normalise;

/// Largest of these files that is read: the longest known have some 100 KiB, nearly all of it for people.
const BYTES_MAX: u64 = 16 << 20;

/// What it needs, a requirement each, with markers for its extras. Nothing, if there is no word of it.
pub(super) fn requires(files: &Path, name: &str) -> Vec<String> {
    let Some(text) = read(files, name) else { return Vec::new() };
    // The head ends with an empty line; below it is what people read.
    let head = text.lines().take_while(|line| !line.is_empty());
    head.filter_map(|line| line.strip_prefix("Requires-Dist:")).map(|value| value.trim().to_owned()).collect()
}

/// Modules that lie in its directory, in a fixed order. No namespace packages: those are nobody's own.
pub(super) fn modules(files: &Path) -> Vec<String> {
    let entries = fs::read_dir(files).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let file_name = entry.file_name().into_string().ok()?;
        let name = file_name.split('.').next().filter(|name| is_module_name(name))?;
        let is_module = file_name.ends_with(".py") || file_name.ends_with(".so");
        (is_module || entry.path().join("__init__.py").is_file()).then(|| name.to_owned())
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// One that people import: those that begin with a `_` are for the package itself.
fn is_module_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(char::is_alphabetic)
        && letters.all(|letter| letter == '_' || letter.is_alphanumeric())
}

fn read(files: &Path, name: &str) -> Option<String> {
    let path = dist_info(files, name)?.join("METADATA");
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn dist_info(files: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(files).ok()?.flatten().map(|entry| entry.path()).find(|path| {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = file_name.strip_suffix(".dist-info").and_then(|stem| stem.split('-').next());
        stem.and_then(normalise).as_deref() == Some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_imported_is_seen_in_the_directory() {
        let files = tempfile::tempdir().unwrap();
        let at = |name: &str| files.path().join(name);
        for name in [
            "six.py",
            "_cffi.cpython-311-x86_64-linux-gnu.so",
            "fast.cpython-311-x86_64-linux-gnu.so",
            "LICENSE",
        ] {
            fs::write(at(name), "").unwrap();
        }
        for name in ["requests", "requests-2.32.4.dist-info", "bin", "google", "__pycache__"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("requests").join("__init__.py"), "").unwrap();
        assert_eq!(modules(files.path()), ["fast", "requests", "six"]);
        assert_eq!(modules(&at("nowhere")), [""; 0]);
    }
}
