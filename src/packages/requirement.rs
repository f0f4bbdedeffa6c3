//! One line of a `requirements.txt`, as far as it says which package in which version is meant.
//!
//! Extras, hashes and markers are passed over: extras name packages that a compiled file lists anyway, hashes are
//! the installer's to check, and a marker is looked at by whoever does not find the package.

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Requirement(Requirement),
    /// An option for whoever installs.
    Option,
}

/// A package that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Requirement {
    /// Normalised.
    pub(super) name: String,
    /// `None`: any.
    pub(super) version: Option<String>,
    /// It may not apply on this machine.
    pub(super) has_marker: bool,
}

/// Options that say where packages come from, which matters to none that is installed already.
const INSTALLERS_OPTIONS: [&str; 10] = [
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
    "--find-links",
    "--no-index",
    "--no-binary",
    "--only-binary",
    "--prefer-binary",
    "--trusted-host",
];

/// The line's meaning, or what is wrong with it.
pub(super) fn parse(line: &str) -> Result<Line, String> {
    let line = line.trim();
    if line.starts_with('-') {
        let option = line.split([' ', '=', '\t']).next().unwrap_or(line);
        return if INSTALLERS_OPTIONS.contains(&option) {
            Ok(Line::Option)
        } else {
            Err(format!("{option} is not supported; write the packages themselves, as name==version"))
        };
    }
    let line = line.split(" --").next().unwrap_or(line);
    let (line, marker) = match line.split_once(';') {
        Some((line, marker)) => (line.trim(), !marker.trim().is_empty()),
        None => (line.trim(), false),
    };
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let name = normalise(name).ok_or("this is not the name of a package")?;
    let mut rest = rest.trim();
    if let Some(extras) = rest.strip_prefix('[') {
        rest = extras.split_once(']').ok_or("the extras lack a ']'")?.1.trim();
    }
    let version = if rest.is_empty() {
        None
    } else {
        let version = rest.strip_prefix("===").or_else(|| rest.strip_prefix("==")).map(str::trim);
        let plain = |c: char| c.is_ascii_alphanumeric() || ".+!-_".contains(c);
        match version {
            Some(version) if !version.is_empty() && version.chars().all(plain) => Some(version.to_owned()),
            _ => return Err(format!("write one version, as {name}==VERSION (pip-compile does that)")),
        }
    };
    Ok(Line::Requirement(Requirement { name, version, has_marker: marker }))
}

/// A name as all spellings of it are compared (PEP 503); `None` if it is none.
#[must_use]
pub fn normalise(name: &str) -> Option<String> {
    let bytes = name.as_bytes();
    let ends = [bytes.first()?, bytes.last()?];
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if !ends.iter().all(|byte| byte.is_ascii_alphanumeric()) || !bytes.iter().all(plain) {
        return None;
    }
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    Some(parts.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-"))
}

/// Whether two spellings mean one version: `2.0` and `2.0.0`, `1.0RC1` and `1.0rc1`, `v1` and `1`.
pub(super) fn same_version(one: &str, other: &str) -> bool {
    fn key(version: &str) -> String {
        let lower = version.trim().to_ascii_lowercase();
        let lower = lower.strip_prefix('v').unwrap_or(&lower);
        let end = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
        let (mut release, suffix) = lower.split_at(end);
        let dot = if release.ends_with('.') && !suffix.is_empty() { "." } else { "" };
        release = release.trim_end_matches('.');
        while let Some(shorter) = release.strip_suffix(".0") {
            release = shorter;
        }
        format!("{release}{dot}{suffix}")
    }
    key(one) == key(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> (String, Option<String>, bool) {
        match parse(line).unwrap() {
            Line::Requirement(Requirement { name, version, has_marker }) => (name, version, has_marker),
            Line::Option => panic!("'{line}' is no option"),
        }
    }

    #[test]
    fn names_extras_versions_hashes_and_markers_are_told_apart() {
        let of = |name: &str, version: &str, marker| (name.to_owned(), Some(version.to_owned()), marker);
        assert_eq!(parsed("NumPy==2.2.1"), of("numpy", "2.2.1", false));
        assert_eq!(parsed("requests[socks, use-chardet] == 2.32.3"), of("requests", "2.32.3", false));
        assert_eq!(parsed("a==1 --hash=sha256:ab --hash=sha256:cd"), of("a", "1", false));
        assert_eq!(parsed("a==1;python_version<'3.8'"), of("a", "1", true));
        assert_eq!(parsed("a===1.0+local"), of("a", "1.0+local", false));
        assert_eq!(parsed("ruamel.yaml_Clib"), ("ruamel-yaml-clib".to_owned(), None, false));
        assert_eq!(parse("--index-url https://pypi.org/simple").unwrap(), Line::Option);
    }

    #[test]
    fn what_names_no_one_version_is_refused_with_what_to_write() {
        for line in ["a>=1", "a==1.*", "a==1,<2", "a @ https://x/a.whl", "a~=1.0", "a==../../etc", "a=="] {
            assert!(parse(line).unwrap_err().contains("write one version, as a==VERSION"), "{line}");
        }
        for line in ["-r other.txt", "-e .", "./a.whl", "https://x/a.whl", "[x]", "a[x==1"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_version_is_the_same_with_and_without_zeros() {
        for (one, other) in
            [("2.0", "2.0.0"), ("2", "2.0"), ("1.0RC1", "1.0rc1"), ("v1.2", "1.2"), ("1.0.post1", "1.post1")]
        {
            assert!(same_version(one, other), "{one} {other}");
        }
        for (one, other) in [("2.0", "2.0.1"), ("1.10", "1.1"), ("1.0rc1", "1.0"), ("10", "1")] {
            assert!(!same_version(one, other), "{one} {other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_strange(line in ".{0,60}") {
            if let Ok(Line::Requirement(Requirement { name, version, .. })) = parse(&line) {
                proptest::prop_assert_eq!(normalise(&name), Some(name));
                proptest::prop_assert!(version.is_none_or(|version| !version.contains('/')));
            }
        }
    }
}
