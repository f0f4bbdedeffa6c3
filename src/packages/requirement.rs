//! One line of a list of requirements, and what it says to this machine (PEP 508, PEP 440).

use std::str::FromStr;

use pep440_rs::{Operator, Version, VersionSpecifiers};
use pep508_rs::{ExtraName, MarkerEnvironment, MarkerEnvironmentBuilder, VersionOrUrl};

/// What a line is.
#[derive(Debug, Clone)]
pub(super) enum Line {
    /// A package that is asked for.
    Requirement(Box<Requirement>),
    /// A package that is not asked for, but if it is there, it is one of these versions.
    Constraint(String),
    /// An option for whoever installs, and its value.
    Option(&'static str, String),
}

/// A package that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Requirement {
    /// Normalised.
    pub(super) name: String,
    /// The line without its hashes.
    pub(super) text: String,
    /// `sha256:…` and the like, of which one must be that of the archive; empty: any may be.
    pub(super) hashes: Vec<String>,
    /// Where it comes from, as the list that it was settled from has it: [`Line::Option`]s.
    pub(super) options: Vec<(&'static str, String)>,
    /// The source of the very package that is meant: `from-…` behind the version, as [`actors::packages::Package`] writes it.
    pub(super) mark: Option<String>,
    parsed: pep508_rs::Requirement,
}

/// Options that are understood, and by which name.
const OPTIONS: [(&str, &str, bool); 15] = [
    ("-i", "index-url", true),
    ("--index-url", "index-url", true),
    ("--extra-index-url", "extra-index-url", true),
    ("-f", "find-links", true),
    ("--find-links", "find-links", true),
    ("--no-index", "no-index", false),
    ("--no-binary", "no-binary", true),
    ("--only-binary", "only-binary", true),
    ("--pre", "pre", false),
    // What these ask for is so, or is not for a function to say.
    ("--prefer-binary", "", false),
    ("--require-hashes", "", false),
    ("--use-pep517", "", false),
    ("--trusted-host", "", true),
    ("--use-feature", "", true),
    ("--no-use-pep517", "", false),
];

/// The line's meaning, or what is wrong with it.
pub(super) fn parse(line: &str) -> Result<Line, String> {
    let line = line.trim();
    if let Some(constraint) = line.strip_prefix("-c ") {
        // An option in such a file is one of the list all the same: tools take it from there, too.
        let constraint = constraint.trim();
        return if constraint.starts_with('-') {
            option(constraint)
        } else {
            Ok(Line::Constraint(constraint.to_owned()))
        };
    }
    if line.starts_with('-') {
        return option(line);
    }
    let mut words = line.split(" --");
    let text = words.next().unwrap_or(line).trim().to_owned();
    let (mut hashes, mut options) = (Vec::new(), Vec::new());
    for word in words {
        match word.trim().strip_prefix("hash") {
            Some(hash) => hashes.push(hash.trim_start_matches(['=', ' ']).trim().to_owned()),
            // Of the list, not of the package; in a lock they stand with each.
            None => match option(&format!("--{}", word.trim()))? {
                Line::Option(name, value) => options.push((name, value)),
                Line::Requirement(_) | Line::Constraint(_) => {
                    return Err(format!("--{word} is not supported"));
                }
            },
        }
    }
    let (text, mark) = match text.split_once("@from-") {
        Some((package, digest))
            if !digest.is_empty() && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            (package.trim().to_owned(), Some(format!("from-{digest}")))
        }
        _ => (text, None),
    };
    if text.contains("://") {
        return Err("an address is not supported; write a package of the index, as name==version".into());
    }
    let is_path = text.starts_with(['.', '/'])
        || text.split(['[', ';', ' ']).next().is_some_and(|word| word.contains('/'));
    if is_path && !text.contains('@') {
        return Err("a file or a folder is no package of the index; write name==version".into());
    }
    check_names(&text)?;
    // Names, versions and markers have none; and the crate counts letters where it should count bytes, and panics.
    if let Some(letter) = text.chars().find(|letter| !letter.is_ascii()) {
        return Err(format!("'{letter}' cannot be in the name, the version or the marker of a package"));
    }
    // Not the error itself, which underlines the place, and panics over a letter of more than one byte there.
    let parsed =
        pep508_rs::Requirement::from_str(&text).map_err(|error| first_line(&error.message.to_string()))?;
    let name = normalise(parsed.name.as_ref()).ok_or("this is not the name of a package")?;
    Ok(Line::Requirement(Box::new(Requirement { name, text, hashes, options, mark, parsed })))
}

/// The parser of the crate panics over a name or an extra that ends in a dash, a dot or an underscore.
fn check_names(text: &str) -> Result<(), String> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    normalise(name).ok_or("this is not the name of a package")?;
    let extras = rest.trim_start().strip_prefix('[').and_then(|extras| extras.split(']').next());
    let mut extras = extras.unwrap_or_default().split(',').map(str::trim).filter(|extra| !extra.is_empty());
    if extras.any(|extra| normalise(extra).is_none()) {
        return Err("this is not the name of an extra".into());
    }
    Ok(())
}

fn option(line: &str) -> Result<Line, String> {
    let (word, value) = line.split_once([' ', '=', '\t']).unwrap_or((line, ""));
    let value = value.trim_start_matches(['=', ' ']).trim();
    match OPTIONS.iter().find(|(spelling, _, _)| *spelling == word) {
        Some((_, "index-url" | "extra-index-url" | "find-links", true)) if !is_plain(value) => {
            Err(format!("what {word} names is no address; write one to a line, without spaces and quotes"))
        }
        Some((_, name, true)) if !value.is_empty() => Ok(Line::Option(name, value.to_owned())),
        Some((_, name, false)) => Ok(Line::Option(name, String::new())),
        Some(_) => Err(format!("{word} lacks its value")),
        None => Err(format!("{word} is not supported; write packages of the index, as name==version")),
    }
}

/// Whether an address means the same to all who read it: which of its parts is the host, there are tools and tools.
fn is_plain(address: &str) -> bool {
    address.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"'<>^`{|}".contains(&byte))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Requirement {
    /// As it was written, without options of the list.
    pub(super) fn written(&self) -> String {
        let mark = self.mark.as_ref().map(|mark| format!("@{mark}")).unwrap_or_default();
        let hashes: String = self.hashes.iter().map(|hash| format!(" --hash={hash}")).collect();
        format!("{}{mark}{hashes}", self.text)
    }

    /// The one version that it names, if it does: `==2.1`, not `==2.*`.
    pub(super) fn pin(&self) -> Option<&Version> {
        let Some(VersionOrUrl::VersionSpecifier(specifiers)) = &self.parsed.version_or_url else {
            return None;
        };
        let [one] = &specifiers[..] else { return None };
        matches!(one.operator(), Operator::Equal | Operator::ExactEqual).then(|| one.version())
    }

    /// Whether any version will do.
    pub(super) fn is_open(&self) -> bool {
        match &self.parsed.version_or_url {
            None => true,
            Some(VersionOrUrl::VersionSpecifier(specifiers)) => specifiers.is_empty(),
            Some(VersionOrUrl::Url(_)) => false,
        }
    }

    /// Whether this version is one of those that it names.
    pub(super) fn allows(&self, version: &str) -> bool {
        let Ok(version) = Version::from_str(version) else { return false };
        match &self.parsed.version_or_url {
            None => true,
            Some(VersionOrUrl::VersionSpecifier(specifiers)) => allows(specifiers, &version),
            Some(VersionOrUrl::Url(_)) => false,
        }
    }

    pub(super) fn extras(&self) -> &[ExtraName] {
        &self.parsed.extras
    }
}

/// A version with a local part (`2.1+cpu`) is meant by whoever writes it without.
fn allows(specifiers: &VersionSpecifiers, version: &Version) -> bool {
    specifiers.contains(version)
}

/// What markers are about: the machine, and the sandboxes' Python.
#[derive(Debug, Clone)]
pub(super) struct Environment([MarkerEnvironment; 2]);

impl Environment {
    /// With Python 3.`minor`. The rest of its version is not known; nearly nobody asks for it.
    pub(super) fn of_python(minor: u32) -> Self {
        let version = format!("3.{minor}");
        let of = |patch: u32| {
            let full = format!("{version}.{patch}");
            MarkerEnvironment::try_from(MarkerEnvironmentBuilder {
                implementation_name: "cpython",
                implementation_version: &full,
                os_name: "posix",
                platform_machine: std::env::consts::ARCH,
                platform_python_implementation: "CPython",
                platform_release: "",
                platform_system: "Linux",
                platform_version: "",
                python_full_version: &full,
                python_version: &version,
                sys_platform: "linux",
            })
            .expect("numbers with dots are versions")
        };
        Self([of(0), of(999)])
    }

    /// Whether a requirement is one here, with these extras; `None`: it depends on what is not known.
    pub(super) fn applies(&self, requirement: &Requirement, extras: &[ExtraName]) -> Option<bool> {
        let [one, other] =
            self.0.each_ref().map(|environment| requirement.parsed.evaluate_markers(environment, extras));
        (one == other).then_some(one)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(line: &str) -> Requirement {
        match parse(line).unwrap() {
            Line::Requirement(requirement) => *requirement,
            other => panic!("'{line}' is {other:?}"),
        }
    }

    #[test]
    fn names_extras_versions_hashes_and_markers_are_told_apart() {
        let one = requirement(
            "Requests[socks, use_chardet] == 2.32.3 ; python_version > '3.7' --hash=sha256:ab --hash sha256:cd",
        );
        assert_eq!((one.name.as_str(), one.pin().unwrap().to_string()), ("requests", "2.32.3".into()));
        assert_eq!(one.hashes, ["sha256:ab", "sha256:cd"]);
        assert_eq!(one.extras().len(), 2);
        let one = requirement("torch==2.1 --hash=sha256:ab --index-url=https://x.example/cpu --pre");
        assert_eq!(one.options, [("index-url", "https://x.example/cpu".to_owned()), ("pre", String::new())]);
        assert_eq!((one.text.as_str(), one.hashes.len()), ("torch==2.1", 1));
        let one = requirement("torch==2.1@from-0a1b");
        assert_eq!((one.text.as_str(), one.mark.as_deref()), ("torch==2.1", Some("from-0a1b")));
        assert!(parse("torch==2.1@from-xyz").is_err() && parse("torch==2.1@from-").is_err());
        for open in ["numpy>=2", "numpy==2.*", "numpy~=2.1", "numpy", "numpy==2,!=2.1"] {
            assert!(requirement(open).pin().is_none(), "{open}");
        }
        assert!(requirement("numpy").is_open() && !requirement("numpy<2").is_open());
        assert!(requirement("numpy>=2,<3").allows("2.2.6") && !requirement("numpy>=2,<3").allows("3.0"));
        assert!(requirement("a==2.0").allows("2") && requirement("a==1.0RC1").allows("1.0rc1"));
        assert!(requirement("torch==2.1").allows("2.1+cpu"));
    }

    #[test]
    fn markers_are_those_of_the_sandboxes_python_and_what_is_not_known_is_said() {
        let environment = Environment::of_python(11);
        let applies = |line: &str| environment.applies(&requirement(line), &[]);
        assert_eq!(applies("a ; python_version < '3.9'"), Some(false));
        assert_eq!(applies("a ; sys_platform == 'linux' and python_version >= '3.9'"), Some(true));
        assert_eq!(applies("a ; python_full_version < '3.11.3'"), None);
        assert_eq!(applies("a ; extra == 'socks'"), Some(false));
        let extras: Vec<_> = requirement("a[socks]").extras().to_vec();
        assert_eq!(environment.applies(&requirement("a ; extra == 'socks'"), &extras), Some(true));
    }

    #[test]
    fn options_are_known_or_refused() {
        let option = |line| match parse(line).unwrap() {
            Line::Option(name, value) => (name, value),
            other => panic!("{other:?}"),
        };
        assert_eq!(option("--index-url=https://x/simple"), ("index-url", "https://x/simple".to_owned()));
        assert_eq!(option("-i https://x/simple"), ("index-url", "https://x/simple".to_owned()));
        assert_eq!(option("--pre"), ("pre", String::new()));
        assert_eq!(option("-c -i https://x/simple"), ("index-url", "https://x/simple".to_owned()));
        for other in [
            "-i http://evil.example\\@good.example/simple",
            "-i http://a.example/ http://b.example/",
            "-f http://a.example/\u{e4}",
        ] {
            assert!(parse(other).unwrap_err().contains("is no address"), "{other}");
        }
        for wrong in [
            "-e .",
            "--index-url",
            "./a.whl",
            "libs/a",
            "a @ https://x/a.whl",
            "git+https://x/a",
            "a ! b",
            "a==1 --weird=2",
            "a-\u{a1}",
            "a-",
            "a[b-\u{a1}]",
            "a[b-]",
            "a==1 ; sys_platform == \"wi1a(\u{2a1}.2atform == \"wi1a(\u{2a1} hes",
            "a==1 ; sys_platform == \"win32\".4.6 ; s~~~~~~~~~~~~n~~~~~~~~~[b-\u{a1}]",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_strange(line in ".{0,60}") {
            if let Ok(Line::Requirement(requirement)) = parse(&line) {
                proptest::prop_assert_eq!(normalise(&requirement.name), Some(requirement.name.clone()));
                proptest::prop_assert!(requirement.pin().is_none_or(|version| !version.to_string().contains('/')));
            }
        }
    }
}
