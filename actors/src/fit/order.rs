//! The order in which packages are imported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::packages::Package;

/// Packages in the order in which they can be imported one after the other: what one needs comes before it. Then the
/// time that each takes is its own.
#[must_use]
pub fn in_order(packages: &[Package], requires: &HashMap<Package, Arc<[String]>>) -> Vec<Package> {
    fn visit<'a>(
        package: &'a Package,
        by_name: &BTreeMap<&str, &'a Package>,
        requires: &HashMap<Package, Arc<[String]>>,
        seen: &mut BTreeSet<&'a str>,
        out: &mut Vec<Package>,
    ) {
        if !seen.insert(&package.name) {
            return;
        }
        for name in requires.get(package).into_iter().flat_map(|names| names.iter()) {
            if let Some(needed) = by_name.get(name.as_str()) {
                visit(needed, by_name, requires, seen, out);
            }
        }
        out.push(package.clone());
    }
    let by_name: BTreeMap<&str, &Package> =
        packages.iter().map(|package| (package.name.as_str(), package)).collect();
    let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
    for package in packages {
        visit(package, &by_name, requires, &mut seen, &mut out);
    }
    out
}
