//! Which source a list of requirements means, so that what came from one never passes for what comes from another.
//!
//! All that the operator has configured is one source: packages from there lie in `<name>==<version>`, and so do those that
//! were put there by hand. An address that an author has written into a list is another source, even if it is on the same host:
//! packages from there lie in `<name>==<version>@from-<digest of the addresses>`.

use actors::packages::without_credentials;
use sha2::{Digest, Sha256};

use super::requirement::{self, Line, Requirement};
use super::sources::Sources;

/// What begins the mark in a directory's name.
pub(super) const FROM: &str = "from-";
/// Bytes of the digest: nobody finds another list of addresses with the same.
const DIGEST_BYTES: usize = 16;

/// Options of a list, each once, in their order.
pub(super) type Options = Vec<(&'static str, String)>;

/// Where the packages of a list come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Source {
    /// From what the operator has configured.
    #[default]
    Own,
    /// From these addresses, and what the operator has configured.
    Foreign {
        /// As it stands in names of directories.
        mark: String,
        /// For people, and without passwords.
        text: String,
    },
}

/// What a list says to the installer, wherever in it that stands.
pub(super) fn options(list: &[String]) -> Options {
    let mut all = Options::new();
    for line in list {
        let own = match requirement::parse(line) {
            Ok(Line::Option(name, value)) => vec![(name, value)],
            Ok(Line::Requirement(requirement)) => requirement.options,
            Ok(Line::Constraint(_)) | Err(_) => continue,
        };
        for option in own {
            // What is passed over has no name.
            if !option.0.is_empty() && !all.contains(&option) {
                all.push(option);
            }
        }
    }
    all
}

/// As they stand behind a pin.
pub(super) fn written(options: &Options) -> String {
    options
        .iter()
        .map(
            |(name, value)| {
                if value.is_empty() { format!(" --{name}") } else { format!(" --{name}={value}") }
            },
        )
        .collect()
}

impl Source {
    /// The one that these options choose on a machine with these sources.
    pub(super) fn of(options: &Options, own: &Sources) -> Self {
        let is_foreign = |name: &str, url: &str| match name {
            "index-url" | "extra-index-url" => !own.has_index(url),
            "find-links" => !own.has_links(url),
            _ => false,
        };
        let mut said: Vec<String> = options
            .iter()
            .filter(|(name, value)| is_foreign(name, value))
            .map(|(name, value)| format!("--{name}={}", plain(name, value)))
            .collect();
        if said.is_empty() {
            return Self::Own;
        }
        if options.iter().any(|(name, _)| *name == "no-index") {
            said.push("--no-index".to_owned());
        }
        said.sort();
        said.dedup();
        let text = said.join(" ");
        let digest = Sha256::digest(&text);
        let hex: String = digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Self::Foreign { mark: format!("{FROM}{hex}"), text }
    }

    /// `None`: the operator's.
    pub(super) fn mark(&self) -> Option<&str> {
        match self {
            Self::Own => None,
            Self::Foreign { mark, .. } => Some(mark),
        }
    }

    /// The one that a requirement means, in a list of this source: that which its own mark names, if it has one.
    pub(super) fn mark_for<'a>(&'a self, requirement: &'a Requirement) -> Option<&'a str> {
        requirement.mark.as_deref().or(self.mark())
    }

    /// The version as a directory's name has it.
    pub(super) fn marked(&self, version: &str) -> String {
        self.mark().map_or_else(|| version.to_owned(), |mark| format!("{version}@{mark}"))
    }
}

/// An address, as those are compared: who asks with another password asks the same index.
fn plain(name: &str, url: &str) -> String {
    let bare = without_credentials(url);
    // A page of links is not always the same with a slash and without.
    if name == "find-links" { bare } else { bare.trim_end_matches('/').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[&str]) -> Source {
        let list: Vec<String> = list.iter().map(|line| (*line).to_owned()).collect();
        let own = Sources::of_machine(Some("https://me:pw@own.example/simple"), &[]);
        Source::of(&options(&list), &own)
    }

    #[test]
    fn what_the_operator_has_configured_is_one_source_however_it_is_named() {
        for list in [
            &["a==1"][..],
            &["a==1", "--pre", "--no-index", "--only-binary :all:"],
            &["--index-url https://own.example/simple/", "a"],
            &["--extra-index-url=https://me:pw@own.example/simple", "a"],
            &["--find-links ./wheels", "--find-links file:///wheels"],
        ] {
            assert_eq!(of(list), Source::Own, "{list:?}");
        }
    }

    #[test]
    fn an_authors_address_is_a_source_of_its_own_on_whatever_host_it_is() {
        let lists = [
            &["-i https://own.example/other/simple"][..],
            &["--extra-index-url https://own.example/other/simple"],
            &["--find-links https://own.example/simple"],
            &["--find-links https://own.example/simple", "--no-index"],
            &["-i http://own.example/simple"],
            &["-i https://own.example/simple/../simple"],
            // Whose password it is, is not for an author to say.
            &["-i https://mallory:pw@own.example/simple"],
            &["-i https://pypi.org/simple"],
        ];
        let marks: Vec<String> = lists.iter().map(|list| of(list).mark().unwrap().to_owned()).collect();
        for (at, mark) in marks.iter().enumerate() {
            assert_eq!(mark.len(), FROM.len() + 2 * DIGEST_BYTES);
            assert!(!marks[..at].contains(mark), "{:?}", lists[at]);
        }
    }

    #[test]
    fn the_same_addresses_are_the_same_source_in_whatever_order_and_with_whatever_password() {
        let one = of(&["-i https://x.example/a", "--extra-index-url https://u:pw@y.example/b/"]);
        assert_eq!(
            one,
            of(&["--extra-index-url=https://y.example/b", "--index-url https://t@x.example/a/", "a"])
        );
        assert_eq!(one, of(&["a==1 --index-url=https://x.example/a --extra-index-url=https://y.example/b"]));
        assert!(matches!(&one, Source::Foreign { text, .. } if !text.contains("pw")), "{one:?}");
    }
}
