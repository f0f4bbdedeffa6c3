//! What an installed package says that it needs: the `Requires-Dist` lines of its `METADATA`.
//!
//! Only names are of interest here: which version is meant was settled when a function's requirements were. What is needed for an
//! extra only is passed over; what a function has asked for with an extra it names itself.

use std::fs;
use std::path::Path;

use super::requirement::normalise;

/// The longest `METADATA` that is read: descriptions are in it, and some are long.
const METADATA_BYTES_MAX: u64 = 4 << 20;

/// The names of what the package in this directory needs, in order; nothing if it does not say.
pub(super) fn read(files: &Path) -> Vec<String> {
    let entries = fs::read_dir(files).into_iter().flatten().flatten();
    let metadata = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.ends_with(".dist-info")))
        .map(|entry| entry.path().join("METADATA"))
        .find(|path| fs::metadata(path).is_ok_and(|found| found.len() <= METADATA_BYTES_MAX));
    let text = metadata.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let mut names = parse(&String::from_utf8_lossy(&text));
    names.sort();
    names.dedup();
    names
}

fn parse(text: &str) -> Vec<String> {
    // The head ends with the first empty line; what follows is prose.
    let head = text.lines().take_while(|line| !line.is_empty());
    let needed = head.filter_map(|line| line.strip_prefix("Requires-Dist:"));
    needed
        .filter_map(|line| {
            let (line, marker) = line.split_once(';').unwrap_or((line, ""));
            if marker.contains("extra") {
                return None;
            }
            let line = line.trim();
            let end =
                line.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(line.len());
            normalise(&line[..end])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_without_versions_and_extras() {
        let text = "Metadata-Version: 2.1\nName: pandas\nRequires-Dist: numpy>=1.26.0; python_version < \"3.12\"\n\
            Requires-Dist: python_dateutil (>=2.8.2)\nRequires-Dist: hypothesis>=6.46.1; extra == \"test\"\n\
            Requires-Dist: Jinja2[x]\n\nRequires-Dist: prose\n";
        assert_eq!(parse(text), ["numpy", "python-dateutil", "jinja2"]);
        assert!(parse("").is_empty());
    }

    #[test]
    fn a_package_that_does_not_say_needs_nothing() {
        let place = tempfile::tempdir().unwrap();
        assert!(read(place.path()).is_empty() && read(&place.path().join("nonesuch")).is_empty());
        fs::create_dir(place.path().join("a-1.dist-info")).unwrap();
        fs::write(
            place.path().join("a-1.dist-info/METADATA"),
            "Name: a\nRequires-Dist: b\nRequires-Dist: B\n",
        )
        .unwrap();
        assert_eq!(read(place.path()), ["b"]);
    }
}
