//! Which of several packages is why there is no zygote of them.
//!
//! The zygote cannot be asked: the code of all that it has imported so far has run in it, and may say of another package what
//! it likes. So each is tried in a zygote of its own that holds nothing but it and what it needs, and is given up at once. A
//! package can then do harm to nobody but itself and those that say that they need it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::fitting::Requires;
use crate::fit::in_order;
use crate::packages::{Package, PackageSet};
use crate::world::{Class, LaunchError, Launcher, World};

/// How long one package may take with all that it needs; the largest take some seconds.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(10);
/// When no further one is tried: other zygotes are not made meanwhile. What was found counts.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(60);

/// Those of `packages` (in an order in which they can be imported) that cannot be imported by themselves, each with the
/// reason. Of those that are `held` by a zygote it is known that they can.
pub(super) async fn culprits<W: World>(
    launcher: &W::Launcher,
    class: Class,
    packages: &[Package],
    held: &PackageSet,
    requires: &Requires,
) -> Vec<(Package, String)> {
    let deadline = Instant::now() + SEARCH_TIME_MAX;
    let mut found: Vec<(Package, String)> = Vec::new();
    for package in packages {
        if held.iter().any(|one| one == package) {
            continue;
        }
        if Instant::now() >= deadline {
            break;
        }
        let others: Vec<Package> =
            packages.iter().filter(|one| found.iter().all(|(culprit, _)| culprit != *one)).cloned().collect();
        let trial = launcher.plant(class, with_what_it_needs(package, &others, requires), Vec::new());
        match timeout(TRIAL_TIME_MAX, trial).await {
            Ok(Ok(_)) => {}
            Ok(Err(LaunchError::Load(why) | LaunchError::Unsupported(why))) => {
                found.push((package.clone(), why));
            }
            // The machine's fault says nothing about packages.
            Ok(Err(LaunchError::Resources(_) | LaunchError::Failed(_))) => break,
            Err(_) => {
                let why = format!("importing it took more than {} s", TRIAL_TIME_MAX.as_secs());
                found.push((package.clone(), why));
            }
        }
    }
    found
}

/// In an order in which they can be imported.
fn with_what_it_needs(package: &Package, others: &[Package], requires: &Requires) -> PackageSet {
    let mut wanted = vec![package.clone()];
    let mut at = 0;
    while let Some(one) = wanted.get(at) {
        let names = requires.get(one).cloned();
        for name in names.iter().flat_map(|names| names.iter()) {
            wanted
                .extend(others.iter().find(|other| other.name == *name && !wanted.contains(other)).cloned());
        }
        at += 1;
    }
    PackageSet::new(in_order(&wanted, requires))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::package;

    #[test]
    fn a_package_is_tried_with_all_that_it_needs_and_nothing_else() {
        let [a, b, c, d] = ["a==1", "b==1", "c==1", "d==1"].map(package);
        let needs = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>().into();
        let requires = Requires::from([
            (a.clone(), needs(&["b", "gone"])),
            (b.clone(), needs(&["c"])),
            (c.clone(), needs(&["a"])),
        ]);
        let all = [d.clone(), c.clone(), b.clone(), a.clone()];
        let with = |package: &Package| with_what_it_needs(package, &all, &requires).to_string();
        assert_eq!(with(&a), "c==1, b==1, a==1");
        assert_eq!(with(&d), "d==1");
    }
}
