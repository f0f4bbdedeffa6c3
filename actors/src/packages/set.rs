//! Packages, and sets of them in an order.

use std::fmt;
use std::sync::Arc;

/// One package in one version and from one source, as it lies on the disk. What differs in its directory is another package, though name
/// and version be the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Package {
    /// Normalised: lower case, with `-` where others write `_` or `.`.
    pub name: String,
    /// As its directory has it.
    pub version: String,
    /// Its directory's name.
    pub directory: String,
}

impl Package {
    /// The mark of where it came from, which its directory's name has behind the version, as `from-…`. `None`: from what the operator has
    /// configured, or by hand.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        self.directory.split('@').skip(1).find(|part| part.starts_with("from-"))
    }
}

/// As a requirement of this very package is written.
impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=={}", self.name, self.version)?;
        self.source().map_or(Ok(()), |source| write!(f, "@{source}"))
    }
}

/// Packages in the order in which they are looked through for a module, each once. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PackageSet(Arc<[Package]>);

impl PackageSet {
    /// In this order; what comes twice counts where it comes first.
    #[must_use]
    pub fn new(packages: impl IntoIterator<Item = Package>) -> Self {
        let mut unique: Vec<Package> = Vec::new();
        for package in packages {
            if !unique.contains(&package) {
                unique.push(package);
            }
        }
        Self(unique.into())
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Package> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for PackageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, package) in self.iter().enumerate() {
            write!(f, "{}{package}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl<'a> IntoIterator for &'a PackageSet {
    type Item = &'a Package;
    type IntoIter = std::slice::Iter<'a, Package>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
